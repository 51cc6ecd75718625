"""How far the page's answers and Python's agree, stage by stage: tolerances, tallies and the verdict in words."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable

import numpy as np

from keras_pipeline.export.saved_model import TOP, Classifier

ORIGINALS = 50  # so many, or the proof says that they are few

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


@dataclasses.dataclass(frozen=True)
class Question:
    """Photos for the page, and Python's probabilities."""

    stage: str
    files: list[bytes]
    expected: np.ndarray  # float32 [n, C], probabilities
    samples: list[Sample]
    megapixels: float = 0.0  # of the largest


class PythonAnswers:
    """What Python's answers are like, over all photos asked."""

    def __init__(self, classes: int):
        self.spread, self.right = 0.0, 0
        self.answers, self.labels = np.zeros(classes, np.int64), np.zeros(classes, np.int64)

    def add(self, logits: np.ndarray, samples: Iterable[Sample]) -> None:
        """Count one question's answers."""
        labels = np.array([sample.label for sample in samples])
        self.spread += float(logits.std(1, dtype=np.float64).sum())
        self.right += int((logits.argmax(1) == labels).sum())
        self.answers += np.bincount(logits.argmax(1), minlength=len(self.answers))
        self.labels += np.bincount(labels, minlength=len(self.labels))

    def figures(self) -> dict:
        """How many photos were asked, their accuracy, and the spread of the logits."""
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


class Tally:
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

    def add(self, question: Question, answers: dict) -> None:
        """Count one question's answers."""
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


def tolerance_of(stage: str, backend: str, temperature: float) -> dict[str, float]:
    """Limits of a stage: {metric: limit}."""
    limits = TOLERANCES[stage]
    if stage in LOSSLESS:
        return {**limits, "max_abs_diff": LOSSLESS[stage] * ARITHMETIC[backend] * max(1.0, 1 / temperature)}
    return limits


def accuracy_of_both(tallies: dict[str, Tally]) -> dict:
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


def reasons_of(verdict: dict) -> list[str]:
    """Why a verdict is not passed, a sentence each."""
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


def notes_of(verdict: dict, skipped: list[str]) -> list[str]:
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
