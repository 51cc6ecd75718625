"""Proof that the page says what Python says: both answer the same photos, and every stage has its tolerance.

    tensor     the same float32 tensor into the SavedModel and into the page's model: the arithmetic alone
    png        the same pixels without loss: the page's crop and resize too
    record     the same JPEG as the dataset holds it: the browser's decoder too
    original   photos as they were taken, by the page's whole path: orientation, colour, both resizes

A model whose answers hardly depend on the photo would pass anything, so it is not judged; nor is 'conclusive'
where all answers are, or none is.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import itertools
import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
from PIL import Image

from keras_pipeline.core.files import read_json
from keras_pipeline.core.hashing import file_hash
from keras_pipeline.core.progress import progress
from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.data.photo import ORIENTATION, upright_rgb
from keras_pipeline.export.browser import open_browser
from keras_pipeline.export.probe import Probe
from keras_pipeline.export.saved_model import TOP, Classifier, load_classifier
from keras_pipeline.export.tfjs import FILE_LIST

CHUNK = 32  # photos asked at once: 19 MB of tensors at 224 px
FEW = 8  # photos for a backend without hardware behind it, where each takes up to a second
PHOTOS = 20  # records, or it is no proof: not judged
ORIGINALS = 50  # so many, or the proof says that they are few
MEGAPIXELS = 12  # that one of them should have
VERDICT = "equivalence.json"
# Measured: 2e-7 with logits of ordinary size, up to 1.0e-5 over 1,000 photos with an unregularised head's logits
# of 24, where Python itself is 7e-6 from the same sums in float64. A temperature below 1 multiplies the logits and
# their rounding: flowers17's student differs by 3.9e-6, 7.2e-6, 1.4e-5, 2.2e-5, 4.4e-5 at T = 1, 0.5, 0.25, 0.1, 0.05.
# So the largest difference may be 1 / T times as large then. Graphics cards add in an order of their own.
ARITHMETIC = {"wasm": 1e-5, "cpu": 1e-5, "webgl": 1e-4, "webgpu": 1e-4}
# Browsers are free in how they decode a JPEG and convert colours; not so in what they make of a PNG's pixels.
PHOTO = {"top1_agreement": 0.995, "top5_agreement": 0.99, "mean_abs_diff": 2e-3}
LOSSLESS = {"tensor": 1, "png": 10}  # times ARITHMETIC: the resize adds in float32 too
WORDS = {"name_agreement": 0.995, "conclusive_agreement": 0.995}
TOLERANCES = {
    "tensor": {"top1_agreement": 1.0, "top5_agreement": 0.999, "correlation": 0.9999},
    "png": {**PHOTO, **WORDS},
    "record": {**PHOTO, **WORDS},
    "original": {**PHOTO, **WORDS, "top1_agreement": 0.99, "name_agreement": 0.99, "conclusive_agreement": 0.99},
}
LOWER_IS_BETTER = {"max_abs_diff", "mean_abs_diff"}
HEADLINE = ("n", "top1_agreement", "max_abs_diff", "correlation", "median_ms")  # of the tensor stage
LOGIT_SPREAD = 0.5  # standard deviation over classes below which a model is taken for untrained
TIE = 1e-6  # species whose probabilities are nearer than this may take each other's place as the fifth
WORST = 6  # photos of a stage that are shown


@dataclasses.dataclass(frozen=True)
class Sample:
    """A photo that both are asked about."""

    name: str  # its sample_id, or where the original lies
    photo: bytes
    label: int | None = None  # 0..C-1, where known
    record: str | None = None  # of an original: the sample_id that was made of it


def validate_bundle(
    bundle_folder: Path,
    saved_model_folder: Path,
    samples: Iterable[Sample],
    *,
    originals: Iterable[Sample] = (),
    backends: tuple[str, ...] = tuple(ARITHMETIC),
) -> dict:
    """Serves the bundle on loopback, opens it in headless Chromium and compares its answers with the SavedModel's.

    Args:
        bundle_folder: what `write_bundle` wrote.
        saved_model_folder: what it was made from.
        samples: records of the test split; gone through once for each backend.
        originals: photos as they were taken; one of them is enlarged where none has 12 megapixels.
        backends: of TensorFlow.js, each judged by itself where the machine has it; the first is asked about all photos,
            and so is each that has hardware, the others about `FEW`.

    Returns:
        {status: passed | failed | not judged, passed, reasons, notes, browser: {name, version}, backends: {name: {n,
        top1_agreement, max_abs_diff, correlation, median_ms, first_ms, load_ms, timing, renderer, software,
        leaked_tensors, stages: {tensor, png, record, original}, passed}}, missing_backends: {name: why}, files, assets,
        foreign_requests, python: {n, top1_accuracy, logit_spread}}. `reasons` says in words what failed; differences
        are of calibrated probabilities; a model that is not judged has no backends.

    Raises:
        BrowserMissing: without a Chromium.
        ValueError: for a folder that is no bundle or no SavedModel, no samples, an unknown backend, a sample that is no
            photo.
    """
    none = next(iter(samples), None) is None
    if none or not backends or set(backends) - set(ARITHMETIC):
        received = f"{'no' if none else 'some'} samples for {backends}"
        raise ValueError(f"received {received}, expected one or more for some of {sorted(ARITHMETIC)}")
    listed = read_json(bundle_folder / FILE_LIST)
    classifier = load_classifier(saved_model_folder)
    python = _Python(len(classifier.labels))
    requests: list[str] = []
    results: dict[str, dict] = {}
    missing: dict[str, str] = {}
    skipped: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch)
        # A copy beside the samples: the page's policy lets it read from its own server only.
        shutil.copytree(bundle_folder, stage / "page")
        with serve_folder(stage) as base, open_browser(software_gpu=True) as browser:
            files = _check_files(f"{base}page/", stage / "page", listed)
            asked = {"name": browser.browser_type.name.capitalize(), "version": browser.version}
            for backend in backends:
                with Probe.opened(browser, f"{base}page/", stage, requests) as probe:
                    renderer = probe.renderer(backend)
                    if renderer is None:
                        missing[backend] = "this browser has none here"
                        continue
                    first = not results
                    few = None if first or not renderer.software else FEW
                    questions = itertools.chain(
                        _records(classifier, itertools.islice(samples, few), python if first else None),
                        _originals(classifier, itertools.islice(originals, few), skipped),
                    )
                    results[backend] = _judge_backend(probe, classifier, questions, backend)
                    results[backend] |= {"renderer": renderer.name, "software": renderer.software}
        foreign = sorted({url for url in requests if urlsplit(url).netloc not in (urlsplit(base).netloc, "")})
    doubt = python.degenerate()
    verdict = {
        "browser": asked,
        "backends": {} if doubt else results,
        "missing_backends": missing,
        "files": files,
        "assets": _compare_assets(bundle_folder, saved_model_folder),
        "foreign_requests": foreign,
        "python": python.figures(),
    }
    reasons = [doubt] if doubt else _reasons(verdict)
    status = "not judged" if doubt else "failed" if reasons else "passed"
    return {"status": status, "passed": not reasons, "reasons": reasons, "notes": _notes(verdict, skipped), **verdict}


@dataclasses.dataclass(frozen=True)
class _Question:
    """Photos for the page, and what Python says of them."""

    stage: str
    files: list[bytes]
    expected: np.ndarray  # float32 [n, C], probabilities
    samples: list[Sample]
    megapixels: float = 0.0  # of the largest


def _records(classifier: Classifier, samples: Iterable[Sample], python: _Python | None) -> Iterator[_Question]:
    """Three questions on each chunk: what all must agree on is computed once."""
    remaining = iter(progress(samples, description="records", unit="photos"))
    while chunk := list(itertools.islice(remaining, CHUNK)):
        pictures = [_shrunk(classifier, sample) for sample in chunk]
        logits, expected, tensors = _ask_python(classifier, pictures)
        if python:
            python.add(logits, chunk)
        for stage, files in (
            ("tensor", [tensor.astype("<f4").tobytes() for tensor in tensors]),
            ("png", [_encoded(picture, format="PNG", compress_level=1) for picture in pictures]),
            ("record", [sample.photo for sample in chunk]),
        ):
            yield _Question(stage, files, expected, chunk)


def _originals(classifier: Classifier, originals: Iterable[Sample], skipped: list[str]) -> Iterator[_Question]:
    """Appends to `skipped` what is said of files that are no photo, or too small a one."""
    largest, first = 0.0, None
    for sample in progress(originals, description="originals", unit="photos"):
        try:
            question = _original(classifier, sample)
        except ValueError as error:
            skipped.append(str(error))
            continue
        largest, first = max(largest, question.megapixels), first or sample
        yield question
    if first and largest < MEGAPIXELS:
        yield _original(classifier, _enlarged(first))


def _original(classifier: Classifier, sample: Sample) -> _Question:
    _, expected, _ = _ask_python(classifier, [_shrunk(classifier, sample)])
    width, height = Image.open(io.BytesIO(sample.photo)).size
    return _Question("original", [sample.photo], expected, [sample], width * height / 1e6)


def _shrunk(classifier: Classifier, sample: Sample) -> Image.Image:
    try:
        return classifier.preprocessing.shrunk(sample.photo)
    except ValueError as error:
        raise ValueError(f"sample {sample.name}: {error}") from error


def _ask_python(classifier: Classifier, pictures: list[Image.Image]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits, probabilities, tensors)"""
    tensors = np.stack([classifier.preprocessing.from_pixels(np.asarray(picture)).numpy() for picture in pictures])
    return *classifier.scores(tensors), tensors


def _enlarged(sample: Sample) -> Sample:
    """As a telephone would have taken it: 12 megapixels, lying on its side, with an EXIF tag that says so."""
    picture = upright_rgb(sample.photo)
    factor = (MEGAPIXELS * 1e6 / (picture.width * picture.height)) ** 0.5
    size = (int(picture.width * factor) + 1, int(picture.height * factor) + 1)
    lying = picture.resize(size, Image.Resampling.BICUBIC).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    name = f"{sample.name}, enlarged to {MEGAPIXELS} megapixels and turned by EXIF"
    photo = _encoded(lying, format="JPEG", quality=90, exif=exif)
    return dataclasses.replace(sample, name=name, photo=photo, record=None)


def _encoded(picture: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


class _Python:
    """What Python's answers are like, over all photos asked."""

    def __init__(self, classes: int):
        self.spread, self.right = 0.0, 0
        self.answers, self.labels = np.zeros(classes, np.int64), np.zeros(classes, np.int64)

    def add(self, logits: np.ndarray, samples: Iterable[Sample]) -> None:
        labels = np.array([sample.label for sample in samples])
        self.spread += float(logits.std(1, dtype=np.float64).sum())
        self.right += int((logits.argmax(1) == labels).sum())
        self.answers += np.bincount(logits.argmax(1), minlength=len(self.answers))
        self.labels += np.bincount(labels, minlength=len(self.labels))

    def figures(self) -> dict:
        n = int(self.answers.sum())
        return {"n": n} | ({"top1_accuracy": self.right / n, "logit_spread": self.spread / n} if n else {})

    def degenerate(self) -> str | None:
        """Why these answers could prove nothing, or None."""
        n = int(self.answers.sum())
        if not n:
            return None  # No backend got as far as a photo, which is told by itself.
        spread = self.spread / n
        if not np.isfinite(spread) or spread < LOGIT_SPREAD:
            return (
                f"the logits deviate by {spread:.3g} over classes, expected {LOGIT_SPREAD} or more: an untrained model"
            )
        commonest = int(self.answers.argmax())
        share, expected = self.answers[commonest] / n, self.labels[commonest] / n
        # Beside its share of the labels, because with two or three classes a good model gives one of them to half.
        if share > 0.5 and share > 1.5 * expected:
            return (
                f"class {commonest} is {share:.0%} of the answers and {expected:.0%} of the labels, "
                "expected at most half of the answers: a collapsed model"
            )
        return None


class _Tally:
    """The figures of one stage, added up photo by photo."""

    def __init__(self, classifier: Classifier):
        self.classifier = classifier
        self.n = self.missing = 0
        self.same = dict.fromkeys(("top1", "top5", "name", "conclusive"), 0.0)
        self.conclusive = 0  # of Python's answers
        self.largest = self.sum = self.megapixels = 0.0
        self.moments = np.zeros(6)  # n, and the sums of x, y, xx, yy, xy
        self.ms: list[float] = []
        self.right: dict[str, bool] = {}  # by sample_id
        self.worst: list[dict] = []

    def add(self, question: _Question, answers: dict) -> None:
        expected, found = question.expected, answers["probabilities"]
        self.megapixels = max(self.megapixels, question.megapixels)
        self.n += len(expected)
        self.ms += answers["ms"]
        if found.shape != expected.shape or not np.isfinite(found).all():
            self.missing += len(expected)
            return
        x, y = expected.astype(np.float64), found.astype(np.float64)
        difference = np.abs(x - y)
        self.largest = max(self.largest, float(difference.max()))
        self.sum += float(difference.mean(1).sum())
        self.moments += [x.size, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]
        tops = [np.argsort(-values, axis=1, kind="stable")[:, :TOP] for values in (expected, found)]
        self.same["top1"] += float((tops[0][:, 0] == tops[1][:, 0]).sum())
        least = np.take_along_axis(expected, tops[0][:, -1:], 1) - TIE
        self.same["top5"] += float((np.take_along_axis(expected, tops[1], 1) >= least).mean(1).sum())
        labels = self.classifier.labels
        python, page = ([labels[i] for i in top[:, 0]] for top in tops)
        if answers["names"][0] is not None:  # what a visitor reads; a bare tensor has no words
            page = answers["names"]
            self.same["name"] += sum(a == b for a, b in zip(python, page, strict=True))
            conclusive = self.classifier.species.kept_by(expected.max(1))
            self.conclusive += int(conclusive.sum())
            self.same["conclusive"] += int((conclusive == np.array(answers["conclusive"], bool)).sum())
        for i, sample in enumerate(question.samples):
            if sample.label is not None:
                self.right[sample.record or sample.name] = labels[sample.label] == page[i]
            told = {"python": [python[i], float(expected[i].max())], "page": [page[i], float(found[i].max())]}
            self.worst.append({"photo": sample.name, "max_abs_diff": float(difference[i].max()), **told})
        self.worst = sorted(self.worst, key=lambda photo: -photo["max_abs_diff"])[:WORST]

    def judge(self, tolerance: dict[str, float]) -> dict:
        """The figures, the tolerance, and whether it is kept. A missing or non-finite answer is a failure."""
        if self.missing or not self.n:
            told = f"{self.missing} of {self.n} answers are missing or not finite"
            return {"n": self.n, "tolerance": tolerance, "passed": False, "error": told}
        n, x, y, xx, yy, xy = self.moments
        figures = {
            "n": self.n,
            **{f"{key}_agreement": self.same[key] / self.n for key in ("top1", "top5")},
            **(self._words() if "name_agreement" in tolerance else {}),
            "max_abs_diff": self.largest,
            "mean_abs_diff": self.sum / self.n,
            "correlation": float((xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))),
            "median_ms": float(np.median(self.ms)),
            **({"top1_accuracy": sum(self.right.values()) / len(self.right)} if self.right else {}),
            **({"largest_megapixels": self.megapixels} if self.megapixels else {}),
            "worst": self.worst,
        }
        judged = {key: limit for key, limit in tolerance.items() if figures[key] is not None}
        kept = [figures[k] < limit if k in LOWER_IS_BETTER else figures[k] >= limit for k, limit in judged.items()]
        return {**figures, "tolerance": judged, "passed": all(kept)}

    def _words(self) -> dict:
        """What a visitor reads. Where all answers are conclusive, or none is, to agree on that proves nothing."""
        trivial = self.conclusive in (0, self.n) and self.same["conclusive"] == self.n
        return {
            "name_agreement": self.same["name"] / self.n,
            "conclusive": self.conclusive,
            "conclusive_agreement": None if trivial else self.same["conclusive"] / self.n,
        }


def _judge_backend(probe: Probe, classifier: Classifier, questions: Iterator[_Question], backend: str) -> dict:
    from playwright.sync_api import Error

    tallies: dict[str, _Tally] = {}
    try:
        loaded = probe.load(backend)
        before = probe.tensors()
        for question in questions:
            task = "predict" if question.stage == "tensor" else "classify"
            answers = probe.answers(task, question.files, question.expected.shape[1])
            tallies.setdefault(question.stage, _Tally(classifier)).add(question, answers)
        leaked = probe.tensors() - before
    except Error as error:
        unknown = dict.fromkeys(HEADLINE[1:])
        return {"n": 0, **unknown, "stages": {}, "passed": False, "error": str(error).splitlines()[0]}
    stages = {name: tally.judge(_tolerance(name, backend, classifier.temperature)) for name, tally in tallies.items()}
    return {
        **{key: stages["tensor"].get(key) for key in HEADLINE},
        "first_ms": loaded["first_ms"],
        "load_ms": loaded["load_ms"],
        "timing": {"peak_memory_mb": probe.peak_memory_mb()},
        "leaked_tensors": leaked,
        "stages": stages,
        **_accuracy_of_both(tallies),
        "passed": leaked == 0 and all(stage["passed"] for stage in stages.values()),
    }


def _tolerance(stage: str, backend: str, temperature: float) -> dict[str, float]:
    limits = TOLERANCES[stage]
    if stage in LOSSLESS:
        return {**limits, "max_abs_diff": LOSSLESS[stage] * ARITHMETIC[backend] * max(1.0, 1 / temperature)}
    return limits


def _accuracy_of_both(tallies: dict[str, _Tally]) -> dict:
    """The page on originals, and on the records that were made of them."""
    if "original" not in tallies:
        return {}
    original, record = tallies["original"].right, tallies["record"].right
    both = sorted(original.keys() & record.keys())
    if not both:
        return {}
    figures = {name: sum(right[key] for key in both) / len(both) for name, right in
               (("original", original), ("record", record))}  # fmt: skip
    return {"accuracy": {"n": len(both), **figures}}


def _compare_assets(bundle_folder: Path, saved_model_folder: Path) -> dict:
    """Whether names, threshold and preprocessing are the SavedModel's own."""
    different = [
        file.name
        for file in sorted((saved_model_folder / "assets").iterdir())
        if not (bundle_folder / file.name).is_file() or file_hash(bundle_folder / file.name) != file_hash(file)
    ]
    return {"different": different, "passed": not different}


def _check_files(url: str, folder: Path, listed: dict[str, dict]) -> dict:
    """Fetches every listed file over HTTP; a file that is not listed is a finding too."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # A proxy would not know our loopback.
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
    wrong |= dict.fromkeys(sorted(present - set(listed) - {FILE_LIST, VERDICT}), f"not in {FILE_LIST}")
    # By the list's own hash the page knows whether it is these files that were judged.
    return {
        "n": len(listed),
        "bytes": sum(f["bytes"] for f in listed.values()),
        "list_sha256": file_hash(folder / FILE_LIST),
        "wrong": wrong,
        "passed": not wrong,
    }


def _reasons(verdict: dict) -> list[str]:
    reasons = [f"{name}: {why}" for name, why in verdict["files"]["wrong"].items()]
    reasons += [f"{name}: differs from the SavedModel's" for name in verdict["assets"]["different"]]
    reasons += [f"the page asked another host: {url}" for url in verdict["foreign_requests"]]
    reasons += [] if verdict["backends"] else ["no backend could be judged"]
    for backend, result in verdict["backends"].items():
        if "error" in result:
            reasons.append(f"{backend}: {result['error']}")
        if result.get("leaked_tensors"):
            reasons.append(f"{backend}: {result['leaked_tensors']} tensors leaked")
        for stage, figures in result["stages"].items():
            if not figures["passed"]:
                limits = figures["tolerance"]
                told = figures.get("error") or json.dumps({key: figures.get(key) for key in limits})
                reasons.append(f"{backend}, {stage}: received {told}, expected {json.dumps(limits)}")
    return reasons


def _notes(verdict: dict, skipped: list[str]) -> list[str]:
    """What this proof leaves open."""
    skipped = sorted(set(skipped))
    notes = [f"{backend}: not judged, {why}" for backend, why in verdict["missing_backends"].items()]
    for number, (backend, result) in enumerate(verdict["backends"].items()):
        originals = result["stages"].get("original", {"n": 0})["n"]
        if "error" not in result and number == 0 and originals < ORIGINALS:
            notes.append(f"{backend}: {originals or 'no'} original photos, {ORIGINALS} or more are wanted")
        if number and result["software"] and result["n"]:
            notes.append(f"{backend}: no hardware behind it here, so asked about {result['n']} photos")
    notes += _unjudged_verdicts(verdict["backends"])
    if skipped:
        notes.append(f"{len(skipped)} files among the originals were left out, the first: {skipped[0]}")
    return notes


def _unjudged_verdicts(backends: dict) -> list[str]:
    """Where the agreement on 'conclusive' proves nothing, by reason."""
    where = collections.defaultdict(list)
    for backend, result in backends.items():
        for stage, figures in result["stages"].items():
            if figures.get("conclusive_agreement", 1) is None:
                why = "all answers are" if figures["conclusive"] else "no answer is"
                where[why].append(f"{backend} {stage}")
    return [f"'conclusive' not judged, {why}: {', '.join(stages)}" for why, stages in where.items()]
