"""Proof that the page says what Python says: both answer the same photos, and every stage has its tolerance.

    tensor   the same float32 tensor into the SavedModel and into the page's model: the arithmetic alone
    record   the same JPEG bytes through Preprocessing and through the page's own decode and resize

A model whose answers hardly depend on the photo would pass anything, so it is not judged.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import shutil
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np

from keras_pipeline.core.artifacts import read_json
from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.web.browser import open_browser
from keras_pipeline.web.saved_model import Classifier, load_classifier
from keras_pipeline.web.tfjs import FILE_LIST

CHUNK = 64  # photos of one file of samples
PROBE = Path(__file__).parent / "probe.js"
VERDICT = "equivalence.json"
# Measured: 2e-7 with logits of ordinary size, up to 1.0e-5 over 1,000 photos with an unregularised head's logits
# of 24, where Python itself is 7e-6 from the same sums in float64. A temperature below 1 multiplies the logits and
# their rounding: flowers17's student differs by 3.9e-6, 7.2e-6, 1.4e-5, 2.2e-5, 4.4e-5 at T = 1, 0.5, 0.25, 0.1, 0.05.
# So the largest difference may be 1 / T times as large then.
TOLERANCES = {
    "tensor": {"wasm": {"top1_agreement": 1.0, "max_abs_diff": 1e-5, "correlation": 0.9999}},
    "record": {
        "wasm": {"top1_agreement": 0.995, "mean_abs_diff": 2e-3, "name_agreement": 0.995, "conclusive_agreement": 0.995}
    },
}
LOWER_IS_BETTER = {"max_abs_diff", "mean_abs_diff"}
HEADLINE = ("n", "top1_agreement", "max_abs_diff", "correlation", "median_ms")  # of the tensor stage
LOGIT_SPREAD = 0.5  # standard deviation over classes below which a model is taken for untrained


@dataclasses.dataclass(frozen=True)
class _Reference:
    """What Python says, and the files that ask the page the same."""

    tensors: list[dict]  # {url, count, length} per file
    records: list[dict]  # {url, lengths} per file
    logits: np.ndarray  # float32 [N, C]
    probabilities: np.ndarray  # float32 [N, C]
    labels: np.ndarray  # int [N]


def validate_bundle(
    bundle_folder: Path,
    saved_model_folder: Path,
    samples: list[tuple[str, bytes, int]],
    *,
    backends: tuple[str, ...] = ("wasm",),
) -> dict:
    """Serves the bundle on loopback, opens it in headless Chromium and compares its answers with the SavedModel's.

    Args:
        bundle_folder: what `write_bundle` wrote.
        saved_model_folder: what it was made from.
        samples: (sample_id, encoded photo, label 0..C-1).
        backends: of TensorFlow.js, each judged by itself.

    Returns:
        {status: passed | failed | not judged, passed, reasons, backends: {name: {n, top1_agreement, max_abs_diff,
        correlation, median_ms, first_ms, load_ms, leaked_tensors, stages: {tensor, record}, passed}}, files, assets,
        foreign_requests, python: {n, top1_accuracy, logit_spread}}. `reasons` says in words what failed; differences
        are of calibrated probabilities; a model that is not judged has no backends.

    Raises:
        BrowserMissing: without a Chromium.
        ValueError: for a folder that is no bundle or no SavedModel, no samples, an unknown backend.
    """
    known = sorted(TOLERANCES["tensor"])
    if not samples or not backends or set(backends) - set(known):
        raise ValueError(f"received {len(samples)} samples for {backends}, expected one or more for some of {known}")
    listed = read_json(bundle_folder / FILE_LIST)
    classifier = load_classifier(saved_model_folder)
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch)
        reference = _ask_python(classifier, samples, stage)
        doubt = _degenerate(reference)
        # A copy beside the samples: the page's policy lets it read from its own server only.
        shutil.copytree(bundle_folder, stage / "page")
        with serve_folder(stage) as base:
            files = _check_files(f"{base}page/", stage / "page", listed)
            requests, results = ([], {}) if doubt else _ask_browser(base, classifier, reference, backends)
        foreign = sorted({url for url in requests if urlsplit(url).netloc not in (urlsplit(base).netloc, "")})
    verdict = {
        "backends": results,
        "files": files,
        "assets": _compare_assets(bundle_folder, saved_model_folder),
        "foreign_requests": foreign,
        "python": _describe(reference),
    }
    reasons = [doubt] if doubt else _reasons(verdict)
    status = "not judged" if doubt else "failed" if reasons else "passed"
    return {"status": status, "passed": not reasons, "reasons": reasons, **verdict}


def _ask_python(classifier: Classifier, samples: list[tuple[str, bytes, int]], stage: Path) -> _Reference:
    """Python's answers; writes the samples as files for the page on the way, never holding all tensors."""
    (stage / "samples").mkdir()
    tensors, records, scores = [], [], []
    for number, start in enumerate(range(0, len(samples), CHUNK)):
        chunk = samples[start : start + CHUNK]
        images = np.stack([_tensor(classifier, sample_id, photo) for sample_id, photo, _ in chunk])
        scores.append(classifier.scores(images))
        names = [f"samples/tensors-{number}.bin", f"samples/records-{number}.bin"]
        (stage / names[0]).write_bytes(images.astype("<f4").tobytes())
        (stage / names[1]).write_bytes(b"".join(photo for _, photo, _ in chunk))
        tensors.append({"url": f"../{names[0]}", "count": len(chunk), "length": images[0].size})
        records.append({"url": f"../{names[1]}", "lengths": [len(photo) for _, photo, _ in chunk]})
    logits, probabilities = (np.concatenate(parts) for parts in zip(*scores, strict=True))
    return _Reference(tensors, records, logits, probabilities, np.array([label for _, _, label in samples]))


def _tensor(classifier: Classifier, sample_id: str, photo: bytes) -> np.ndarray:
    try:
        return classifier.preprocessing.from_photo(photo).numpy()
    except ValueError as error:
        raise ValueError(f"sample {sample_id}: {error}") from error


def _describe(reference: _Reference) -> dict:
    return {
        "n": len(reference.labels),
        "top1_accuracy": float(np.mean(reference.logits.argmax(1) == reference.labels)),
        "logit_spread": float(reference.logits.std(1).mean()),
    }


def _degenerate(reference: _Reference) -> str | None:
    """Why these answers could prove nothing, or None."""
    spread = float(reference.logits.std(1).mean())
    if not np.isfinite(spread) or spread < LOGIT_SPREAD:
        return f"the logits deviate by {spread:.3g} over classes, expected {LOGIT_SPREAD} or more: an untrained model"
    answers = np.bincount(reference.logits.argmax(1), minlength=reference.logits.shape[1]) / len(reference.labels)
    commonest = int(answers.argmax())
    expected = float(np.mean(reference.labels == commonest))
    # Beside its share of the labels, because with two or three classes a good model gives one of them to half.
    if answers[commonest] > 0.5 and answers[commonest] > 1.5 * expected:
        return (
            f"class {commonest} is {answers[commonest]:.0%} of the answers and {expected:.0%} of the labels, "
            "expected at most half of the answers: a collapsed model"
        )
    return None


def _compare_assets(bundle_folder: Path, saved_model_folder: Path) -> dict:
    """Whether names, threshold and preprocessing are the SavedModel's own."""
    different = []
    for name in sorted(file.name for file in (saved_model_folder / "assets").iterdir()):
        try:
            same = read_json(bundle_folder / name) == read_json(saved_model_folder / "assets" / name)
        except ValueError:
            same = False
        if not same:
            different.append(name)
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
        if len(body) != expected["bytes"] or hashlib.sha256(body).hexdigest() != expected["sha256"]:
            wrong[name] = f"{len(body)} bytes, expected {expected['bytes']} with sha256 {expected['sha256'][:12]}…"
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wrong |= dict.fromkeys(sorted(present - set(listed) - {FILE_LIST, VERDICT}), f"not in {FILE_LIST}")
    return {"n": len(listed), "bytes": sum(f["bytes"] for f in listed.values()), "wrong": wrong, "passed": not wrong}


def _ask_browser(
    base: str, classifier: Classifier, reference: _Reference, backends: tuple[str, ...]
) -> tuple[list[str], dict[str, dict]]:
    requests: list[str] = []
    results = {}
    with open_browser() as browser:
        for backend in backends:
            context = browser.new_context()
            context.on("request", lambda request: requests.append(request.url))
            page = context.new_page()
            page.set_default_timeout(600_000)
            page.goto(f"{base}page/index.html")
            results[backend] = _judge_backend(_Probe(page, f"{base}page/"), classifier, reference, backend)
            context.close()
    return requests, results


class _Probe:
    """Calls probe.js in the page."""

    def __init__(self, page, url: str):
        self._page, self._url = page, url
        page.evaluate(PROBE.read_text(encoding="utf-8"))

    def load(self, backend: str) -> dict:
        return self.call("load", {"page": self._url, "backend": backend})

    def call(self, name: str, argument: dict | None = None):
        return self._page.evaluate(f"argument => globalThis.probe.{name}(argument)", argument)

    def answers(self, name: str, files: list[dict], classes: int) -> dict:
        """{probabilities [N, C], ms [N], conclusive [N], names [N]} over all files of samples."""
        parts = [self.call(name, {**file, "url": self._url + file["url"]}) for file in files]
        raw = b"".join(base64.b64decode(part["probabilities"]) for part in parts)
        joined = {key: [value for part in parts for value in part[key]] for key in ("ms", "conclusive", "names")}
        return {"probabilities": np.frombuffer(raw, "<f4").reshape(-1, classes), **joined}


def _judge_backend(probe: _Probe, classifier: Classifier, reference: _Reference, backend: str) -> dict:
    from playwright.sync_api import Error

    try:
        loaded = probe.load(backend)
        classes = reference.probabilities.shape[1]
        before = probe.call("tensors")
        tensor = probe.answers("predict", reference.tensors, classes)
        record = probe.answers("classify", reference.records, classes)
        leaked = probe.call("tensors") - before
    except Error as error:
        unknown = dict.fromkeys(HEADLINE[1:])
        return {"n": 0, **unknown, "stages": {}, "passed": False, "error": str(error).splitlines()[0]}
    stages = {
        "tensor": _judge(_tensor_tolerance(backend, classifier.temperature), reference.probabilities, tensor),
        "record": _judge(
            TOLERANCES["record"][backend],
            reference.probabilities,
            record,
            _page_words(classifier, reference, record),
        ),
    }
    return {
        **{key: stages["tensor"].get(key) for key in HEADLINE},
        "first_ms": loaded["first_ms"],
        "load_ms": loaded["load_ms"],
        "leaked_tensors": leaked,
        "stages": stages,
        "passed": leaked == 0 and all(stage["passed"] for stage in stages.values()),
    }


def _tensor_tolerance(backend: str, temperature: float) -> dict[str, float]:
    limits = TOLERANCES["tensor"][backend]
    return {**limits, "max_abs_diff": limits["max_abs_diff"] * max(1.0, 1 / temperature)}


def _judge(tolerance: dict[str, float], expected: np.ndarray, answers: dict, words: dict | None = None) -> dict:
    """A stage's figures, its tolerance and whether they keep it. A missing or non-finite answer is a failure."""
    found = answers["probabilities"]
    if found.shape != expected.shape or not np.isfinite(found).all():
        return {"n": len(found), "tolerance": tolerance, "passed": False, "error": "missing or non-finite answers"}
    difference = np.abs(found.astype(np.float64) - expected)
    figures = {
        "n": len(found),
        "top1_agreement": float(np.mean(found.argmax(1) == expected.argmax(1))),
        "max_abs_diff": float(difference.max()),
        "mean_abs_diff": float(difference.mean()),
        "correlation": float(np.corrcoef(found.ravel(), expected.ravel())[0, 1]),
        "median_ms": float(np.median(answers["ms"])),
        **(words or {}),
    }
    kept = [figures[k] < limit if k in LOWER_IS_BETTER else figures[k] >= limit for k, limit in tolerance.items()]
    return {**figures, "tolerance": tolerance, "passed": all(kept)}


def _page_words(classifier: Classifier, reference: _Reference, record: dict) -> dict:
    """The page's names and verdicts, beside Python's; these are what a visitor reads."""
    names = [classifier.labels[i] for i in reference.probabilities.argmax(1)]
    conclusive = classifier.is_conclusive(reference.probabilities.max(1))
    truth = [classifier.labels[i] for i in reference.labels]
    return {
        "name_agreement": float(np.mean([a == b for a, b in zip(names, record["names"], strict=True)])),
        "conclusive_agreement": float(np.mean(conclusive == np.array(record["conclusive"], bool))),
        "top1_accuracy": float(np.mean([a == b for a, b in zip(truth, record["names"], strict=True)])),
    }


def _reasons(verdict: dict) -> list[str]:
    reasons = [f"{name}: {why}" for name, why in verdict["files"]["wrong"].items()]
    reasons += [f"{name}: differs from the SavedModel's" for name in verdict["assets"]["different"]]
    reasons += [f"the page asked another host: {url}" for url in verdict["foreign_requests"]]
    for backend, result in verdict["backends"].items():
        if "error" in result:
            reasons.append(f"{backend}: {result['error']}")
        if result.get("leaked_tensors"):
            reasons.append(f"{backend}: {result['leaked_tensors']} tensors leaked")
        for stage, figures in result["stages"].items():
            if not figures["passed"]:
                limits = figures["tolerance"]
                told = json.dumps({key: figures.get(key) for key in limits})
                reasons.append(f"{backend}, {stage}: received {told}, expected {json.dumps(limits)}")
    return reasons
