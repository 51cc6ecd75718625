"""What comes from outside, made hostile: each target takes a seeded random source, builds one input and hands it over.

A target returns quietly, or raises one of ALLOWED with a message; anything else is a defect.
"""

import io
import json
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from keras_pipeline.core import artifacts, files, manifest, sidecars
from keras_pipeline.core.config import base, experiment, load, source
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.core.record import Photo
from keras_pipeline.data import photo, records, tfrecord
from keras_pipeline.data.exif import ORIENTATION
from keras_pipeline.data.first_bytes import Refusal
from keras_pipeline.ingest import curation, duplicates, photo_folder
from keras_pipeline.phases import staleness, steps

ALLOWED = (base.ConfigError, BrokenArtefact, SourceError, ValueError, Refusal)
Target = Callable[[random.Random], None]

WORDS = [
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 400, b"null", b"true",
    b"[" * 2000, b"{" * 2000, b"\r", b"\n", b"\x1b[2J", b"%s%n", b"../../etc/passwd", b"&a [*a]", b"<<: *x",
    b"!!python/object/apply:os.system [echo]", "\u202e\u0000ß\U0001f33c".encode(), b"\xed\xa0\x80", b"'", b'"', b",",
    b":", b"- ", b"${HOME}", b"${NOT_SET}",
]  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few changes: bits, bytes, words, pieces cut, doubled, moved."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(out) + 1)
        kind = chance.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = chance.choice((0, 255, 127, 128, chance.randrange(256)))
        elif kind == 2:
            out[at:at] = chance.choice(WORDS)
        elif kind == 3:
            del out[at : at + chance.choice((1, 2, 8, 64, len(out)))]
        elif kind == 4:
            out[at:at] = out[at : at + chance.randrange(1, 64)]
        elif kind == 5:
            out[at : at + 4] = struct.pack("<i", chance.choice((0, -1, 2**31 - 1, -(2**31), 65536)))
        else:
            out = out[:at]
    return bytes(out)


def changed(value, chance: random.Random):
    """JSON values with one place, or a few, replaced by something of another type or size, or removed."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(sorted(value, key=str))
        rest = {k: v for k, v in value.items() if k != key}
        kind = chance.random()
        return rest if kind < 0.15 else rest | {key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return value[:at] + [changed(value[at], chance)] + value[at + 1 :]
    return chance.choice(
        (
            None,
            True,
            -1,
            0,
            2**70,
            1e308,
            0.5,
            "",
            "x",
            "x" * 5000,
            "../../x",
            [],
            {},
            [None],
            {"a": []},
            [[]],
            ["x", 1],
        )
    )


class Room:
    """Good files in a folder of its own, to be spoilt one at a time."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        self.folder = Path(self._folder.name)
        pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((210, 180))
        exif = image.getexif()
        exif[ORIENTATION] = 6
        self.images = []
        for kind, options in (
            ("JPEG", {"exif": exif}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("GIF", {}),
            ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"}),
        ):  # fmt: skip
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            self.images.append(buffer.getvalue())
        self.configs = [path.read_bytes() for path in sorted(Path(__file__).parents[2].glob("configs/*.yaml"))]
        self._write_dataset()

    def close(self) -> None:
        self._folder.cleanup()

    def _write_dataset(self) -> None:
        from keras_pipeline.core.taxonomy import class_hash

        names, folder = ["Bellis perennis", "Viola odorata"], self.folder / "set"
        splits = {}
        for split in ("train", "val", "calibration", "test"):
            shard = folder / f"{split}-00000-of-00001.tfrecord"
            made = [
                Photo(f"{split}-{i}", self.images[0], 180, 210, names[i % 2], "EU", "g", "u", "0" * 64, label=i % 2)
                for i in range(3)
            ]
            entry = records.write_shard(shard, map(records.encode, made))
            splits[split] = {"n": 3, "shards": [entry | {"name": shard.name}], "per_region": {"EU": 3}, "per_class": {}}
        self.shard = (folder / "train-00000-of-00001.tfrecord").read_bytes()
        self.dataset = {"classes": names, "class_hash": class_hash(names), "splits": splits}
        files.write_json(folder / "dataset.json", self.dataset)

    def _spoilt(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def targets(self) -> Iterator[tuple[str, int, Target]]:
        """(name, its share of the inputs, target)"""
        yield "image bytes", 15, self.image
        yield "image bytes, hashed", 3, self.hashed
        yield "config text", 10, self.config_text
        yield "config values", 10, self.config_values
        yield "TFRecord shards", 20, self.tfrecord
        yield "records", 10, self.record
        yield "dataset.json", 8, self.dataset_json
        yield "sidecars", 6, self.sidecar
        yield "manifests", 4, self.manifest
        yield "label CSV", 6, self.labels_csv
        yield "synonyms and exclude files", 4, self.curation_files
        yield "soft-label shards", 8, self.soft_labels
        yield "calibration.json", 6, self.calibration

    def image(self, chance: random.Random) -> None:
        photo.to_record(mutated(chance.choice(self.images), chance), short_side=64, min_short_side=10, quality=90)

    def hashed(self, chance: random.Random) -> None:
        duplicates.photo_hashes(mutated(self.images[0], chance))

    def config_text(self, chance: random.Random) -> None:
        load.from_file(self._spoilt("c.yaml", mutated(chance.choice(self.configs), chance)), [])

    def config_values(self, chance: random.Random) -> None:
        whole = experiment.Config(experiment="x").model_dump()
        load.from_dict(changed(whole, chance))

    def tfrecord(self, chance: random.Random) -> None:
        path = self._spoilt("s.tfrecord", mutated(self.shard, chance))
        for _ in map(records.decode, records.read_shard(path)):
            pass

    def record(self, chance: random.Random) -> None:
        """What has right CRCs and still is no photo."""
        example = next(data for _, data in tfrecord.read_records(self.folder / "set/train-00000-of-00001.tfrecord"))
        path = self._spoilt("r.tfrecord", tfrecord.frame(mutated(example, chance)))
        for found in map(records.decode, records.read_shard(path)):
            photo.upright_rgb(found.image)

    def dataset_json(self, chance: random.Random) -> None:
        value = changed(self.dataset, chance) if chance.random() < 0.7 else None
        data = json.dumps(value).encode() if value is not None else mutated(json.dumps(self.dataset).encode(), chance)
        info = records.load_info(self._spoilt("set/spoilt.json", data))
        records.check_labels(info)
        records.corrupt_shards(info)

    def sidecar(self, chance: random.Random) -> None:
        """A sidecar is never an error: what can't be understood means that the step runs again."""
        run = artifacts.Run(load.from_dict({"experiment": "x", "root": str(self.folder)}), None)
        step = steps.Step("phase0", "audit", print, (), ("audit",), ("seed",), 1)
        path = run.path("audit")
        if not path.exists():
            path.parent.mkdir(parents=True)
            files.write_json(path, {"a": 1})
            staleness.write_sidecars(run, step, 1.0)
            self.meta = sidecars.sidecar(path)
        text = json.dumps(changed(self.meta, chance)).encode()
        self._spoilt(
            str(path.with_name("audit.json.meta.json")), text if chance.random() < 0.7 else mutated(text, chance)
        )
        staleness.why_stale(run, step)
        sidecars.edited(path)
        meta = sidecars.sidecar(path)
        if meta is not None:
            sidecars.changed_files(path, meta)

    def manifest(self, chance: random.Random) -> None:
        text = json.dumps(
            {"manifest_version": 1, "phases": {}, "data": {"shards": {}}, "config": {}, "gates": []}
        ).encode()
        manifest.read(self._spoilt("m.yaml", mutated(text, chance)))

    def labels_csv(self, chance: random.Random) -> None:
        (self.folder / "a.jpg").write_bytes(self.images[0])
        good = b'image,latin_name,region,observation_id\na.jpg,Bellis perennis,EU,1\na.jpg,"Viola, odorata",,2\n'
        photo_folder.documents(self.folder, self._spoilt("l.csv", mutated(good, chance)))

    def curation_files(self, chance: random.Random) -> None:
        synonyms = self._spoilt("s.csv", mutated(b"synonym,latin_name\nA b,C d\nC d,E f\n", chance))
        exclude = self._spoilt("e.txt", mutated(b"# why\nA b\nhttps://x.org/a.jpg\n", chance))
        curation.Curation.load(source.Source(synonyms=str(synonyms), exclude=str(exclude)))

    def soft_labels(self, chance: random.Random) -> None:
        from keras_pipeline.training import soft_labels
        from keras_pipeline.training.store import Store, write_store

        folder = self.folder / "soft"
        if not folder.exists():
            layout = soft_labels.Layout("d", "c", 3, 2.0, 3, 2)
            blocks = np.zeros(4, layout.dtype)
            for view in range(2):
                blocks["views"][:, view] = soft_labels.encode_view(np.eye(4, 3, dtype=np.float32), layout, 5)
            write_store(folder, layout, [("train-0", 4, iter([blocks]))])
            self.soft = {file.name: file.read_bytes() for file in folder.iterdir()}
        name = chance.choice(sorted(self.soft))
        index = name == "index.json" and chance.random() < 0.7
        data = (
            json.dumps(changed(json.loads(self.soft[name]), chance)).encode()
            if index
            else mutated(self.soft[name], chance)
        )
        try:
            (folder / name).write_bytes(data)
            store = Store(folder)
            for shard in store.shards:
                soft_labels.total(store.read(shard)["views"][:, 0], store.layout)
            store.check_contents()
        finally:
            (folder / name).write_bytes(self.soft[name])

    def calibration(self, chance: random.Random) -> None:
        """As the SavedModel's asset, read by `classify`."""
        from keras_pipeline.export import promise

        good = {
            "temperature": 1.5, "threshold": 0.8, "genus": {"threshold": 0.7}, "weights_hash": "0" * 64,
            "region_priors": {"temperature": 1.0, "threshold": 0.5},
        }  # fmt: skip
        text = (
            json.dumps(changed(good, chance)).encode()
            if chance.random() < 0.7
            else mutated(json.dumps(good).encode(), chance)
        )
        folder = self.folder / "assets"
        folder.mkdir(exist_ok=True)
        self._spoilt("assets/calibration.json", text)
        promise.read_calibration(folder)


def documents():
    """A hypothesis strategy of what `mongo.documents` may yield: any BSON value in any field."""
    import datetime
    import uuid

    from bson import Decimal128, Int64, ObjectId, Regex, Timestamp
    from hypothesis import strategies as st

    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(), st.binary(max_size=40),
        st.datetimes(), st.just(datetime.datetime.max), st.uuids().map(lambda u: uuid.UUID(int=u.int)),
        st.binary(min_size=12, max_size=12).map(ObjectId), st.just(Decimal128("NaN")), st.just(Int64(2**62)),
        st.just(Regex("a+")), st.just(Timestamp(2**32 - 1, 0)),
        st.sampled_from(["http://[::1", "https://user:pw@host:99999/a.jpg", "javascript:alert(1)", "//x",
                         "file:///etc/passwd", "http://xn--/a", "a" * 20_000]),
    )  # fmt: skip
    values = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    )
    names = ("latin_name", "image_url", "region", "observation_id", "user_id", "observed_on", "latitude", "longitude",
             "license", "attribution")  # fmt: skip
    return st.fixed_dictionaries({"sample_id": st.text(min_size=1, max_size=40)} | dict.fromkeys(names, values))
