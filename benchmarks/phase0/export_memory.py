"""Memory of `phase0 export` at 2,000 and at 200,000 documents, and the audit's speed against a bare pymongo cursor.

    .venv/bin/python -m benchmarks.phase0.export_memory      (about 15 minutes on 2 cores)

Photos repeat (400 JPEGs of 160 x 120 px, small enough to keep their own bytes): it is documents that must not cost
memory. Everything is on loopback: a MongoDB server (nx-27017), a photo host, the command in a process of its own. The
audit reads 200,000 documents; the bare cursor reads the same fields of the same documents in the same order and does
nothing with them; a cursor over whole documents in any order is shown beside it. Prints MB and documents/s and as the
last line the growth of the peak; exit 1 at 1.10 or above, or where the audit is below 0.6 of the cursor.
"""

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.support import loopback
from keras_pipeline.core.config.source import Source
from keras_pipeline.ingest import mongo
from keras_pipeline.ingest.audit import audit
from keras_pipeline.ingest.curation import Curation

SMALL, LARGE, PHOTOS = 2_000, 200_000, 400
GROWTH, SPEED = 1.10, 0.6


def documents(n: int):
    for i in range(n):
        yield {
            "_id": f"{i:09d}",
            "latin_name": f"Genus{i % 300} species{i % 1900}",
            "image_url": f"{i % PHOTOS:05d}.jpg?{i}",
            "region": ("EU_SW", "EU", "AMERICA")[i % 3],
            "observation_id": f"observation {i // 2}",
            "user_id": f"user {i % 5000}",
            "observed_on": f"202{i % 5}-{i % 12 + 1:02d}-{i % 28 + 1:02d}",
            "license": "CC-BY-NC",
            "attribution": f"(c) user {i % 5000}, some rights reserved",
            "latitude": 36 + i % 700 / 100,
            "longitude": -9 + i % 1200 / 100,
        }


def export(folder: Path, n: int, base_url: str) -> float:
    """Peak MB."""
    with loopback.collection(folder / f"mongo{n}", documents(n)) as (uri, _):
        config = folder / f"memory{n}.yaml"
        loopback.write_config(config, uri, base_url)
        loopback.audit(config)
        command = [sys.executable, "-m", "keras_pipeline", "phase0", "export", "--config", str(config)]
        seconds, megabytes = loopback.run_watched(command, folder / f"export{n}.log")
    print(f"export of {n} documents: {megabytes:.0f} MB, {n / seconds:.0f} photos/s", flush=True)
    return megabytes


def audit_speed(uri: str, collection) -> float:
    """Documents/s of the audit as a share of the bare cursor's, the median of three runs in turn."""
    source = Source(uri=uri)
    fields = dict.fromkeys(source.fields.model_dump().values(), 1)

    def bare() -> None:
        for _ in collection.find({}, fields, batch_size=mongo.BATCH).sort("_id", 1):
            pass

    def whole() -> None:
        for _ in collection.find({}):
            pass

    def ours() -> None:
        read = mongo.documents(collection, source)
        audit(read, curation=Curation(), min_per_species=20, collection_count=LARGE)

    rates = {work: [] for work in (bare, ours, whole)}
    for _ in range(3):
        for work, found in rates.items():
            started = time.perf_counter()
            work()
            found.append(LARGE / (time.perf_counter() - started))
    medians = {work.__name__: sorted(found)[1] for work, found in rates.items()}
    print(", ".join(f"{name} {rate:.0f} documents/s" for name, rate in medians.items()), flush=True)
    return medians["ours"] / medians["bare"]


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        loopback.real_photos(folder / "photos", PHOTOS, (160, 120), quality=85)
        with loopback.photo_host(folder / "photos") as base_url:
            small, large = (export(folder, n, base_url) for n in (SMALL, LARGE))
        with loopback.collection(folder / f"mongo{LARGE}", iter(())) as (uri, collection):
            share = audit_speed(uri, collection)
    print(f"audit at {share:.2f} of the cursor's speed")
    print(f"{large / small:.3f}")
    return int(large / small >= GROWTH or share < SPEED)


if __name__ == "__main__":
    sys.exit(main())
