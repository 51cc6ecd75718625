"""The 17-flower photos as phase 0 stores them, for benchmarks of what reads them."""

import sys
from pathlib import Path

from benchmarks.support.loopback import TEST_DATA
from keras_pipeline.core.record import Photo
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.data import photo, records

CLASSES = [f"flower {number:02d}" for number in range(17)]


def store(folder: Path) -> records.DatasetInfo:
    """All of them as a train split of four shards, short side 256, and the first 64 once more as val split."""
    files = sorted((TEST_DATA / "flowers17/images").glob("*.jpg"))
    if not files:
        sys.exit(f"no photos in {TEST_DATA}/flowers17/images; let KERAS_PIPELINE_TEST_DATA name the folder above them")

    def example(number: int, file: Path) -> bytes:
        image, height, width = photo.to_record(file.read_bytes(), short_side=256, min_short_side=100, quality=95)
        label = number * len(CLASSES) // len(files)  # the files are in the order of their species
        return records.encode(
            Photo(
                sample_id=file.name, image=image, height=height, width=width, label=label, latin_name=CLASSES[label],
                region="EU", group_id=file.name, source_url="", sha256="", license="", attribution="",
            )
        )  # fmt: skip

    examples = [example(number, file) for number, file in enumerate(files)]
    shards = [records.write_shard(folder / f"train-{i}.tfrecord", examples[i::4]) for i in range(4)]
    few = examples[:: len(examples) // 64][:64]
    counts = dict.fromkeys(CLASSES, len(examples) // len(CLASSES))
    splits = {
        "train": {"n": len(examples), "shards": shards, "per_region": {"EU": len(examples)}, "per_class": counts},
        "val": {"n": 64, "shards": [records.write_shard(folder / "val.tfrecord", few)], "per_region": {"EU": 64}},
    }
    return records.DatasetInfo(folder, CLASSES, class_hash(CLASSES), splits)
