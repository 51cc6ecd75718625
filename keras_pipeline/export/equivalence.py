"""Check that the page answers as Python does: both classify the same photos, and each stage has its tolerance.

    tensor     the same float32 tensor into the SavedModel and into the page's model: arithmetic alone
    png        the same pixels without loss: also the page's crop and resize
    record     the same JPEG as in the dataset: also the browser's decoder
    original   photos as they were taken, by the page's whole path: orientation, colour, both resizes

A model whose answers hardly depend on the photo would pass any check, so it is not judged. Neither is 'conclusive'
where all answers are, or none is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import shutil
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from PIL import Image

from keras_pipeline.core.files import read_json
from keras_pipeline.core.hashing import ADDED_LATER, file_hash
from keras_pipeline.core.progress import progress
from keras_pipeline.core.static_server import ISOLATED, serve_folder
from keras_pipeline.data import first_bytes
from keras_pipeline.data.exif import ORIENTATION
from keras_pipeline.data.first_bytes import Refusal
from keras_pipeline.data.photo import upright_rgb
from keras_pipeline.export.agreement import (
    ARITHMETIC,
    PythonAnswers,
    Question,
    Sample,
    Tally,
    accuracy_of_both,
    tolerance_of,
)
from keras_pipeline.export.browser import BrowserMissing, Engine, PageError
from keras_pipeline.export.engines import open_engine
from keras_pipeline.export.probe import Probe
from keras_pipeline.export.saved_model import Classifier, load_classifier
from keras_pipeline.export.tfjs import FILE_LIST
from keras_pipeline.export.verdict import notes_of, reasons_of, tested_in

CHUNK = 32  # photos per question: 19 MB of tensors at 224 px

FEW = 8  # photos for an emulated backend, where each takes up to a second

MEGAPIXELS = 12  # at least one original has so many

HEADLINE = ("n", "top1_agreement", "max_abs_diff", "correlation", "median_ms")  # of the tensor stage


def validate_bundle(
    bundle_folder: Path,
    saved_model_folder: Path,
    samples: Iterable[Sample],
    *,
    originals: Iterable[Sample] = (),
    backends: tuple[str, ...] = tuple(ARITHMETIC),
    browsers: Sequence[str] = ("chromium",),
) -> dict:
    """Serve the bundle on loopback, open it in real browsers and compare its answers with the SavedModel's.

    Args:
        bundle_folder: of `write_bundle`.
        saved_model_folder: the SavedModel that the bundle was made from.
        samples: records of the test split; read once for each backend.
        originals: photos as they were taken; one of them is enlarged where none has 12 megapixels.
        backends: of TensorFlow.js, each judged by itself where the machine has it; the first, and each with hardware,
            gets all photos, the others `FEW`.
        browsers: some of `engines.ENGINES`, each asked everything; one that is not there is named.

    Returns:
        {status: passed | failed | not judged, passed, reasons, notes, browser: {name, version}, backends: {name: {n,
        top1_agreement, max_abs_diff, correlation, median_ms, threads, first_ms, load_ms, timing, renderer, software,
        leaked_tensors, stages: {tensor, png, record, original}, passed}}, missing_backends: {name: why}, files, assets,
        foreign_requests, other_browsers: [{browser, backends, missing_backends, foreign_requests}],
        missing_browsers: {name: why}, python: {n, top1_accuracy, logit_spread}}. `reasons` says in words what failed in
        any of the browsers; differences are those of calibrated probabilities; a model that is not judged has no
        backends.

    Raises:
        BrowserMissing: where none of the browsers is there.
        ValueError: for a folder that is no bundle or no SavedModel, no samples, an unknown backend, a sample that is no
            photo.
    """
    none = next(iter(samples), None) is None
    if none or not backends or set(backends) - set(ARITHMETIC):
        received = f"{'no' if none else 'some'} samples for {backends}"
        raise ValueError(f"received {received}, expected one or more for some of {sorted(ARITHMETIC)}")
    classifier = load_classifier(saved_model_folder)
    python = PythonAnswers(len(classifier.labels))
    skipped: list[str] = []
    photos = _Photos(classifier, samples, originals, python, skipped)
    found = _ask_browsers(bundle_folder, photos, backends, browsers)
    doubt = python.degenerate()
    if doubt:
        for each in tested_in(found):
            each["backends"].clear()
    verdict = {
        **found,
        "assets": _compare_assets(bundle_folder, saved_model_folder),
        "python": python.summary(),
    }
    reasons = [doubt] if doubt else reasons_of(verdict)
    status = "passed"
    if reasons:
        status = "not judged" if doubt else "failed"
    return {"status": status, "passed": not reasons, "reasons": reasons, "notes": notes_of(verdict, skipped), **verdict}


@dataclasses.dataclass(frozen=True)
class _Photos:
    """What every backend of every browser is asked."""

    classifier: Classifier
    samples: Iterable[Sample]
    originals: Iterable[Sample]
    python: PythonAnswers  # of the first backend that is asked
    skipped: list[str]  # why originals were left out

    def questions(self, few: int | None) -> Iterator[Question]:
        """Yield the questions about the first `few` photos, or all."""
        python = None if self.python.summary()["n"] else self.python
        yield from _records(self.classifier, itertools.islice(self.samples, few), python)
        yield from _originals(self.classifier, itertools.islice(self.originals, few))


def _ask_browsers(bundle_folder: Path, photos: _Photos, backends: tuple[str, ...], browsers: Sequence[str]) -> dict:
    """Return all of `validate_bundle` that the browsers tell, and `files`."""
    listed = read_json(bundle_folder / FILE_LIST)
    found: list[dict] = []
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch)
        # Copied beside the samples, because the page's policy lets it read only from its own server.
        shutil.copytree(bundle_folder, stage / "page")
        with serve_folder(stage, headers=ISOLATED) as base:
            files = _check_files(f"{base}page/", stage / "page", listed)
            for name in dict.fromkeys(browsers):
                try:
                    with open_engine(name) as engine:
                        found.append(_ask_engine(engine, base, stage, photos, backends))
                except BrowserMissing as error:
                    missing[name] = str(error)
    if not found:
        raise BrowserMissing("; ".join(missing.values()))
    first, *others = found
    return {**first, "files": files, "other_browsers": others, "missing_browsers": missing}


def _ask_engine(engine: Engine, base: str, stage: Path, photos: _Photos, backends: tuple[str, ...]) -> dict:
    """Return {browser, backends, missing_backends, foreign_requests}, each as in `validate_bundle`."""
    tested = {"name": engine.name, "version": ""}  # unknown until a page is open
    requests: list[str] = []
    results: dict[str, dict] = {}
    missing: dict[str, str] = {}
    for backend in backends:
        try:
            with Probe.opened(engine, f"{base}page/", stage, requests) as probe:
                tested = probe.page.browser
                renderer = probe.renderer(backend)
                if renderer is None:
                    missing[backend] = "this browser has none here"
                    continue
                few = None if backend.startswith("wasm") or not results or not renderer.software else FEW
                results[backend] = _judge_backend(probe, photos, few, backend)
                results[backend] |= {"renderer": renderer.name, "software": renderer.software}
        except PageError as error:
            results[backend] = _without_answers(error) | {"renderer": None, "software": True}
    foreign = sorted({url for url in requests if urlsplit(url).netloc not in (urlsplit(base).netloc, "")})
    return {"browser": tested, "backends": results, "missing_backends": missing, "foreign_requests": foreign}


def _records(classifier: Classifier, samples: Iterable[Sample], python: PythonAnswers | None) -> Iterator[Question]:
    """Yield three questions for each chunk of photos; Python's answers to them are computed once."""
    remaining = iter(progress(samples, description="records", unit="photos"))
    while chunk := list(itertools.islice(remaining, CHUNK)):
        pictures = [_shrunk(classifier, sample) for sample in chunk]
        logits, expected, off_list, tensors = _ask_python(classifier, pictures)
        if python:
            python.add(logits, chunk)
        for stage, files in (
            ("tensor", [tensor.astype("<f4").tobytes() for tensor in tensors]),
            ("png", [_encoded(Image.fromarray(picture), format="PNG", compress_level=1) for picture in pictures]),
            ("record", [sample.photo for sample in chunk]),
        ):
            yield Question(stage, files, expected, chunk, off_list=off_list)


def _originals(classifier: Classifier, originals: Iterable[Sample]) -> Iterator[Question]:
    """Yield a question for each original, also for those that Python refuses: the page should refuse them too."""
    largest, first = 0.0, None
    for sample in progress(originals, description="originals", unit="photos"):
        try:
            question = _original(classifier, sample)
        except Refusal as refusal:
            nothing = np.empty((0, len(classifier.labels)), np.float32)
            yield Question("original", [sample.photo], nothing, [sample], refusal=refusal)
            continue
        largest, first = max(largest, question.megapixels), first or sample
        yield question
    if first and largest < MEGAPIXELS:
        yield _original(classifier, _enlarged(first))


def _original(classifier: Classifier, sample: Sample) -> Question:
    _, expected, off_list, _ = _ask_python(classifier, [_shrunk(classifier, sample)])
    width, height = first_bytes.size(sample.photo) or (0, 0)
    return Question("original", [sample.photo], expected, [sample], width * height / 1e6, off_list=off_list)


def _shrunk(classifier: Classifier, sample: Sample) -> np.ndarray:
    try:
        return classifier.preprocessing.shrunk(sample.photo)
    except Refusal as refusal:
        raise Refusal(f"sample {sample.name}: {refusal}", refusal.reason) from refusal


def _ask_python(classifier: Classifier, pictures: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return (logits [n, C], probabilities [n, C], off_list bool [n], tensors [n, S, S, 3]), the others float32."""
    tensors = np.stack([classifier.preprocessing.from_pixels(picture).numpy() for picture in pictures])
    logits, probabilities, score = classifier.answers(tensors)
    return logits, probabilities, classifier.is_off_list(score), tensors


def _enlarged(sample: Sample) -> Sample:
    """Return the photo as a phone stores it: 12 megapixels, turned on its side, with an EXIF tag that says so."""
    picture = upright_rgb(sample.photo)
    factor = (MEGAPIXELS * 1e6 / (picture.width * picture.height)) ** 0.5
    size = (int(picture.width * factor) + 1, int(picture.height * factor) + 1)
    turned = picture.resize(size, Image.Resampling.BICUBIC).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    name = f"{sample.name}, enlarged to {MEGAPIXELS} megapixels and turned by EXIF"
    photo = _encoded(turned, format="JPEG", quality=90, exif=exif)
    return dataclasses.replace(sample, name=name, photo=photo, record=None)


def _encoded(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def _judge_backend(probe: Probe, photos: _Photos, few: int | None, backend: str) -> dict:
    """Return what `validate_bundle` says of a backend; note in `photos.skipped` what both sides refuse."""
    classifier = photos.classifier
    tallies: dict[str, Tally] = {}
    try:
        loaded = probe.load(backend)
        before = probe.tensors()
        for question in photos.questions(few):
            task = "predict" if question.stage == "tensor" else "classify"
            answers = probe.answers(task, question.files, len(classifier.labels))
            tallies.setdefault(question.stage, Tally(classifier)).add(question, answers)
        leaked = probe.tensors() - before
    except PageError as error:
        return _without_answers(error)
    photos.skipped.extend(sentence for tally in tallies.values() for sentence in tally.refused_alike)
    tallies = {name: tally for name, tally in tallies.items() if tally.n}
    stages = {name: tally.judge(tolerance_of(name, backend, classifier.temperature)) for name, tally in tallies.items()}
    return {
        **{key: stages["tensor"].get(key) for key in HEADLINE},
        "threads": loaded["threads"],
        "first_ms": loaded["first_ms"],
        "load_ms": loaded["load_ms"],
        "timing": {"peak_memory_mb": probe.page.peak_memory_mb()},
        "leaked_tensors": leaked,
        "stages": stages,
        **accuracy_of_both(tallies),
        "passed": leaked == 0 and all(stage["passed"] for stage in stages.values()),
    }


def _without_answers(error: PageError) -> dict:
    return {"n": 0, **dict.fromkeys(HEADLINE[1:]), "stages": {}, "passed": False, "error": str(error)}


def _compare_assets(bundle_folder: Path, saved_model_folder: Path) -> dict:
    """Compare names, threshold and preprocessing with the SavedModel's own, byte for byte."""
    different = [
        file.name
        for file in sorted((saved_model_folder / "assets").iterdir())
        if not (bundle_folder / file.name).is_file() or file_hash(bundle_folder / file.name) != file_hash(file)
    ]
    return {"different": different, "passed": not different}


def _check_files(url: str, folder: Path, listed: dict[str, dict]) -> dict:
    """Fetch every listed file over HTTP; a file that is not listed is an error too."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # A proxy can't reach our loopback.
    wrong = {}
    for name, expected in listed.items():
        try:
            with opener.open(url + quote(name), timeout=60) as response:
                body = response.read()
        except OSError as error:
            wrong[name] = f"not served: {error}"
            continue
        digest = hashlib.sha256(body).hexdigest()
        if len(body) != expected["bytes"]:
            wrong[name] = f"{len(body)} bytes, expected {expected['bytes']}"
        elif digest != expected["sha256"]:
            wrong[name] = f"sha256 {digest[:12]}…, expected {expected['sha256'][:12]}…"
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wrong |= dict.fromkeys(sorted(present - set(listed) - {FILE_LIST, ADDED_LATER}), f"not in {FILE_LIST}")
    # By the list's own hash the page recognizes whether these are the files that were judged.
    return {
        "n": len(listed),
        "bytes": sum(f["bytes"] for f in listed.values()),
        "list_sha256": file_hash(folder / FILE_LIST),
        "wrong": wrong,
        "passed": not wrong,
    }
