"""The audit of photos in lists inside species' documents, beside the same photos one a document.

    .venv/bin/python -m benchmarks.phase0.species_documents [--scale 1.0]

8,587 species' documents (at scale 1) refer to about 340,000 photos in two lists, of which the second repeats most of
the first; the other collection has a document for each photo that is left, with the same fields. Both are on a MongoDB
server (nx-27017) on loopback. Judged are: the audit's photos/s against a bare pymongo cursor's over the photos one a
document (same fields, same order, nothing done with them) at 0.6 or more; the audit's time on the lists against its
time on the single documents at 1.10 or less, which is what unwinding adds; and the peak memory of `phase0 audit`, the
command, on the lists at 1.10 of that on the single documents or less. The cursor over the species' documents, which
unwinds nothing, is shown beside them. The last line is the smallest share of what is asked; exit 1 below 1.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from benchmarks.support import loopback
from keras_pipeline.core.config.source import Source
from keras_pipeline.ingest import mongo
from keras_pipeline.ingest.audit import audit
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.ingest.entries import Reader
from keras_pipeline.ingest.understand import LOOKED_AT, understand
from keras_pipeline.phases.phase0_dataset.audit import expected_photos

SPECIES = 8_587
CURSOR, TIME, MEMORY = 0.6, 1.10, 1.10
LICENSES = ("CC-BY-NC", "CC-BY", "CC-BY-SA", "CC0", "CC BY-SA 4.0", "All rights reserved")
COUNTRIES = ("ES", "FR", "IT", "DE", "GB", "US", "CA", "MX")
REGIONS = {"EU_SW": ["ES", "FR", "IT"], "EU_NORTH": ["DE", "GB"], "AMERICAS_NORTH": ["US", "CA", "MX"]}
NESTED = {
    "photos": ["images", "img"],
    "fields": {"latin_name": "latinName", "image_url": "url", "region": "distribution.countries"},
    "regions": REGIONS,
}
SINGLE = {"fields": {"latin_name": "latinName", "image_url": "url", "region": "countries"}, "regions": REGIONS}
ROUNDS = 3


def species(n: int) -> Iterator[dict]:
    """Documents of n species, some 40 references each, of which about half are unique."""
    draw, photo = random.Random(0), 0
    for number in range(n):
        images = []
        for _ in range(min(1 + int(draw.lognormvariate(2.5, 1.1)), 400)):
            photo += 1
            images.append(
                {"url": f"https://static.photos.example/photos/{photo}/original.jpg", "source": "inaturalist",
                 "size": "original", "license": draw.choice(LICENSES),
                 "attribution": f"(c) user {draw.randrange(5000)}, some rights reserved"}
            )  # fmt: skip
        own = [f"https://static.photos.example/photos/own-{photo}-{i}/original.jpg" for i in range(draw.randrange(3))]
        yield {
            "_id": f"{number:08d}", "latinName": f"Genus{number % 300} species{number}",
            "commonName": f"Plant {number}", "images": images, "img": [*(image["url"] for image in images), *own],
            "distribution": {"countries": draw.sample(COUNTRIES, draw.randrange(5)), "continents": ["Europe"]},
            "taxonomy": {"family": f"Family {number % 90}", "genus": f"Genus{number % 300}"},
        }  # fmt: skip


def one_a_document(n: int) -> Iterator[dict]:
    """The same photos, each with the fields of its species."""
    for document in species(n):
        known = {entry["url"]: entry for entry in document["images"]}
        own = {"latinName": document["latinName"], "countries": document["distribution"]["countries"]}
        for number, url in enumerate(dict.fromkeys(document["img"])):
            yield {"_id": f"{document['_id']}/{number:04d}", **own, "url": url, **known.get(url, {})}


def rates(work: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Photos/s of each, the median of rounds in turn."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, do in work.items():
            started = time.perf_counter()
            photos = do()
            found[name].append(photos / (time.perf_counter() - started))
    medians = {name: sorted(each)[ROUNDS // 2] for name, each in found.items()}
    print("; ".join(f"{name} {rate:,.0f} photos/s" for name, rate in medians.items()), flush=True)
    return medians


def audited(collection, settings: dict) -> int:
    source, count = Source(**settings), collection.estimated_document_count()
    expected = expected_photos(count, understand(mongo.first_documents(collection, source, LOOKED_AT), source))
    reader = Reader(source)
    photos = mongo.documents(collection, source, reader=reader)
    return audit(photos, curation=Curation(), min_per_species=20, expected=expected, reader=reader)["photos"]


def read(collection, settings: dict) -> None:
    """Read as `mongo.documents` does, and do nothing."""
    batch = mongo.NESTED_BATCH if "photos" in settings else mongo.BATCH
    for _ in collection.find({}, Reader(Source(**settings)).projection, batch_size=batch).sort("_id", 1):
        pass


def command_memory(folder: Path, name: str, uri: str, settings: dict) -> float:
    """Peak MB of `phase0 audit`."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"root": str(folder / "root"), "source": {"uri": uri, **settings}}))
    command = [sys.executable, "-m", "keras_pipeline", "phase0", "audit", "--config", str(file)]
    return loopback.run_watched(command, folder / f"{name}.log")[1]


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--scale", type=float, default=1.0, help="share of the 8,587 species")
    n = int(SPECIES * options.parse_args().scale)
    with (
        tempfile.TemporaryDirectory() as name,
        loopback.collection(Path(name, "nested"), species(n)) as (nested_uri, nested),
        loopback.collection(Path(name, "single"), one_a_document(n)) as (single_uri, single),
    ):
        photos = single.estimated_document_count()
        references = sum(len(each["images"]) + len(each["img"]) for each in species(n))
        assert audited(nested, NESTED) == audited(single, SINGLE) == photos
        print(f"{n} species, {references} references to {photos} photos", flush=True)
        found = rates(
            {
                "cursor over lists": lambda: read(nested, NESTED) or photos,
                "audit of lists": lambda: audited(nested, NESTED),
                "cursor over single documents": lambda: read(single, SINGLE) or photos,
                "audit of single documents": lambda: audited(single, SINGLE),
            }
        )
        lists, one = (
            command_memory(Path(name), *each)
            for each in (("nested", nested_uri, NESTED), ("single", single_uri, SINGLE))
        )
    share = found["audit of lists"] / found["cursor over single documents"]
    own = found["audit of lists"] / found["cursor over lists"]
    slower = found["audit of single documents"] / found["audit of lists"]
    print(f"audit of lists at {share:.2f} of the cursor over single documents ({own:.2f} of that over lists)")
    print(f"{slower:.2f} times the time of single documents; {lists:.0f} MB, {one:.0f} MB: {lists / one:.3f} times")
    met = min(share / CURSOR, TIME / slower, MEMORY * one / lists)
    print(f"{met:.2f}")
    return int(met < 1)


if __name__ == "__main__":
    sys.exit(main())
