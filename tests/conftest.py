"""Small photos and shards that many tests share. TensorFlow is imported where it is needed only."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Two workers on two cores: with more threads each, they mostly wait for one another. Child processes inherit it.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import io
import sys

import numpy as np
import pytest

REGIONS = ("EU_SW", "EU")
SPECIES = ("Bellis perennis", "Crocus vernus", "Iris germanica")
COUNTS = {"train": 23, "val": 7, "calibration": 5, "test": 11}  # odd ones, so that no batch size divides them


def jpeg_of(seed, size=(40, 36), **options):
    """A smooth random JPEG; `size` is (width, height)."""
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "JPEG", "quality": 90, **options})
    return buffer.getvalue()


def photo_of(number, **changes):
    """Photo `number` of the small dataset: regions and species take turns."""
    from keras_pipeline.core.record import Photo

    values = {
        "sample_id": f"sample-{number:03d}",
        "image": jpeg_of(number),
        "height": 36,
        "width": 40,
        "latin_name": SPECIES[number % 3],
        "region": REGIONS[number % 2],
        "group_id": "",
        "source_url": f"{number}.jpg",
        "sha256": f"{number:064d}",
        "license": "CC0",
        "attribution": "Zoë Núñez",
    }
    return Photo(**values | changes)


@pytest.fixture(autouse=True)
def no_determinism_left_on():
    """A run with `deterministic: true` switches it on for the process, where it would hold for other tests too."""
    yield
    if "keras_pipeline.phases.runner" in sys.modules and "tensorflow" in sys.modules:
        from tensorflow.python.framework import config  # TensorFlow's public API can only switch it on

        config.disable_op_determinism()
        sys.modules["keras_pipeline.phases.runner"]._make_deterministic.cache_clear()


@pytest.fixture
def jpeg():
    return jpeg_of


@pytest.fixture
def photo():
    return photo_of


@pytest.fixture(scope="session")
def dataset_json(tmp_path_factory):
    """dataset.json of 46 photos in shards of 6, made as phase 0 makes it."""
    from keras_pipeline.core.files import write_json
    from keras_pipeline.core.taxonomy import class_hash
    from keras_pipeline.data import records

    folder = tmp_path_factory.mktemp("tiny")
    total = sum(COUNTS.values())
    raw = folder / "raw" / "photos-00000.tfrecord"
    records.write_shard(raw, (records.encode(photo_of(i)) for i in range(total)))
    table = records.index_shard(raw, lambda photo: {name: getattr(photo, name) for name in records.DECIDED})
    table = table.assign(group_id=[f"group-{i:03d}" for i in range(total)], label=[i % 3 for i in range(total)])
    splits, start = {}, 0
    for name, n in COUNTS.items():
        rows = table.iloc[start : start + n]
        splits[name] = records.write_split(folder, name, rows, shard_bytes=6.01 * rows["length"].mean())
        start += n
    value = {"classes": list(SPECIES), "class_hash": class_hash(list(SPECIES)), "splits": splits}
    write_json(folder / "dataset.json", value)
    return folder / "dataset.json"


@pytest.fixture
def info(dataset_json):
    from keras_pipeline.data import records

    return records.load_info(dataset_json)


@pytest.fixture
def make_config(tmp_path):
    """Sections -> a Config whose outputs lie in the test's own folder."""
    from keras_pipeline.core.config.load import from_dict

    return lambda **sections: from_dict({"experiment": "tiny", "root": str(tmp_path), **sections})
