"""The page of `serve --probe`: it asks the visitor's device for its answers to made photos, and offers its verdict.

index.html device.js device.css sha256.js   export/device/
probe.js                                    of the check in browsers here
probe.json expected.bin photos/             made photos, and what Python sees and answers: float32 [n, C]
page/                                       a copy of the bundle
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shutil
from pathlib import Path

import numpy as np

from keras_pipeline.core.files import write_json
from keras_pipeline.core.hashing import file_hash
from keras_pipeline.data.first_bytes import Refusal
from keras_pipeline.export.agreement import ARITHMETIC, tolerance_of
from keras_pipeline.export.device_verdict import FORMAT
from keras_pipeline.export.made_photos import MadePhoto, made_photos
from keras_pipeline.export.probe import PROBE
from keras_pipeline.export.saved_model import Classifier
from keras_pipeline.export.tfjs import FILE_LIST

DEVICE = Path(__file__).parent / "device"
DEVICE_FILES = ("index.html", "device.js", "device.css", "sha256.js")
FEW = {"cpu": 3}  # photos for plain JavaScript, where a phone takes seconds for each


@dataclasses.dataclass(frozen=True)
class Expected:
    """What Python says of a made photo: pixels and probabilities, or why it refuses it."""

    photo: MadePhoto
    pixels: str | None = None  # sha256 of what a model sees of it, `seen`
    probabilities: np.ndarray | None = None  # float32 [C]
    refused: str | None = None  # the reason


def expected_answers(classifier: Classifier) -> list[Expected]:
    """Ask Python about each of the made photos."""
    return [_expected(classifier, photo) for photo in made_photos()]


def _expected(classifier: Classifier, photo: MadePhoto) -> Expected:
    try:
        pixels = classifier.preprocessing.shrunk(photo.file)
    except Refusal as refusal:
        return Expected(photo, refused=refusal.reason)
    _, probabilities = classifier.scores(classifier.preprocessing.from_pixels(pixels).numpy()[None])
    return Expected(photo, hashlib.sha256(pixels.tobytes()).hexdigest(), probabilities[0])


def photos_hash(expected: list[Expected]) -> str:
    """Return a hash of all files, by which a verdict says about which photos it is."""
    hashes = (hashlib.sha256(each.photo.file).hexdigest() for each in expected)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def asked_of(backend: str, expected: list[Expected]) -> list[Expected]:
    """Return the photos that a backend has to answer: all that Python answers, or a few."""
    return [each for each in expected if each.refused is None][: FEW.get(backend)]


def limit_of(backend: str, classifier: Classifier) -> float:
    """Return by how much a probability may differ where the pixels are the same."""
    return tolerance_of("png", backend, classifier.temperature)["max_abs_diff"]


def write_device_page(bundle_folder: Path, classifier: Classifier, folder: Path) -> None:
    """Write all files of the page described above.

    Args:
        bundle_folder: of `write_bundle`.
        classifier: the SavedModel that the bundle was made from.
        folder: does not exist yet.
    """
    (folder / "photos").mkdir(parents=True)
    shutil.copytree(bundle_folder, folder / "page")
    for name in DEVICE_FILES:
        shutil.copyfile(DEVICE / name, folder / name)
    shutil.copyfile(PROBE, folder / PROBE.name)
    expected = expected_answers(classifier)
    for number, each in enumerate(expected):
        (folder / f"photos/{number}").write_bytes(each.photo.file)
    answered = [each.probabilities for each in expected if each.probabilities is not None]
    (folder / "expected.bin").write_bytes(np.stack(answered).astype("<f4").tobytes())
    rows = functools.partial(next, iter(range(len(answered))))
    write_json(
        folder / "probe.json",
        {
            "format": FORMAT,
            "files_sha256": file_hash(bundle_folder / FILE_LIST),
            "classes": len(classifier.labels),
            "backends": [{"name": name, "limit": limit_of(name, classifier), "photos": len(asked_of(name, expected))}
                         for name in ARITHMETIC],
            "photos": [
                {"name": each.photo.name, "by_browser": each.photo.by_browser, "pixels": each.pixels,
                 "refused": each.refused, "row": None if each.refused else rows()}
                for each in expected
            ],
        },
    )  # fmt: skip
