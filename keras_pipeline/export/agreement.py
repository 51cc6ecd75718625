"""How well the page's answers agree with Python's, stage by stage: tolerances and tallies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_pipeline.data.first_bytes import Refusal
from keras_pipeline.export.saved_model import TOP, Classifier

# Measured: 2e-7 with logits of ordinary size, up to 1.0e-5 over 1,000 photos with an unregularised head's logits
# of 24, where Python itself is 7e-6 from the same sums in float64. A temperature below 1 multiplies the logits and
# their rounding: flowers17's student differs by 3.9e-6, 7.2e-6, 1.4e-5, 2.2e-5, 4.4e-5 at T = 1, 0.5, 0.25, 0.1, 0.05.
# So the largest difference may then be 1 / T times as large. Graphics cards add in an order of their own.
ARITHMETIC = {"wasm": 1e-5, "wasm-threads": 1e-5, "cpu": 1e-5, "webgl": 1e-4, "webgpu": 1e-4}

# Browsers may convert colours in their own way. Of total variation: measured up to 1e-6 where page and Python see the
# same pixels. A mean over classes would not do: it can't exceed 2 / C, and no page of thousands of classes could fail.
PHOTO = {"top1_agreement": 0.995, "top5_agreement": 0.99, "total_variation": 0.005}

LOSSLESS = {"tensor": 1, "png": 10}  # times ARITHMETIC: the resize adds in float32 too

DISPLAYED = {"name_agreement": 0.995, "conclusive_agreement": 0.995, "off_list_agreement": 0.995}

TOLERANCES = {
    "tensor": {"top1_agreement": 1.0, "top5_agreement": 0.999, "correlation": 0.9999},
    "png": {**PHOTO, **DISPLAYED},
    "record": {**PHOTO, **DISPLAYED},
    "original": {
        **PHOTO,
        **DISPLAYED,
        "top1_agreement": 0.99,
        "name_agreement": 0.99,
        "conclusive_agreement": 0.99,
        "off_list_agreement": 0.99,
    },  # fmt: skip
}

LOWER_IS_BETTER = {"max_abs_diff", "total_variation"}

LOGIT_SPREAD = 0.5  # standard deviation over classes below which a model counts as untrained

TIE = 1e-6  # species whose probabilities are closer than this may replace each other as the fifth

WORST = 6  # photos of a stage that are shown


@dataclasses.dataclass(frozen=True)
class Sample:
    """A photo for both the page and Python."""

    name: str  # its sample_id, or the original's path
    photo: bytes
    label: int | None = None  # 0..C-1, where known
    record: str | None = None  # of an original: the sample_id of the record made from it


@dataclasses.dataclass(frozen=True)
class Question:
    """Photos for the page, with Python's answers."""

    stage: str
    files: list[bytes]
    expected: np.ndarray  # float32 [n, C], probabilities
    samples: list[Sample]
    megapixels: float = 0.0  # of the largest
    refusal: Refusal | None = None  # by Python, of its one photo, which then has no answer
    off_list: np.ndarray | None = None  # bool [n], photos like none of the plants; None where the model can't tell


class PythonAnswers:
    """The distribution of Python's answers over all photos."""

    def __init__(self, classes: int):
        self.spread, self.right = 0.0, 0
        self.answers, self.labels = np.zeros(classes, np.int64), np.zeros(classes, np.int64)

    def add(self, logits: np.ndarray, samples: Iterable[Sample]) -> None:
        """Count the answers to one question; logits [n, C]."""
        labels = np.array([sample.label for sample in samples])
        self.spread += float(logits.std(1, dtype=np.float64).sum())
        self.right += int((logits.argmax(1) == labels).sum())
        self.answers += np.bincount(logits.argmax(1), minlength=len(self.answers))
        self.labels += np.bincount(labels, minlength=len(self.labels))

    def summary(self) -> dict:
        """Return {n, top1_accuracy, logit_spread}, or {n} where there is no photo."""
        n = int(self.answers.sum())
        return {"n": n} | ({"top1_accuracy": self.right / n, "logit_spread": self.spread / n} if n else {})

    def degenerate(self) -> str | None:
        """Say why these answers could prove nothing; None if they can."""
        n = int(self.answers.sum())
        if not n:
            return None  # No backend got as far as a photo; that is reported elsewhere.
        spread = self.spread / n
        if not np.isfinite(spread) or spread < LOGIT_SPREAD:
            return (
                f"the logits' standard deviation over classes is {spread:.3g}, expected {LOGIT_SPREAD} or more: an "
                "untrained model"
            )
        commonest = int(self.answers.argmax())
        share, expected = self.answers[commonest] / n, self.labels[commonest] / n
        # Compared with its share of the labels: with two or three classes a good model may give one of them to half.
        if share > 0.5 and share > 1.5 * expected:
            return (
                f"class {commonest} is {share:.0%} of the answers and {expected:.0%} of the labels, "
                "expected at most half of the answers: a collapsed model"
            )
        return None


class _Correlation:
    """Pearson's correlation of two series of numbers that arrive in parts."""

    def __init__(self) -> None:
        self.n = self.x = self.y = self.xx = self.yy = self.xy = 0.0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add parts of the same shape, float64."""
        self.n += x.size
        self.x += x.sum()
        self.y += y.sum()
        self.xx += (x * x).sum()
        self.yy += (y * y).sum()
        self.xy += (x * y).sum()

    def value(self) -> float:
        """Return the correlation, in [-1, 1]."""
        n, x, y = self.n, self.x, self.y
        return float((self.xy - x * y / n) / np.sqrt((self.xx - x * x / n) * (self.yy - y * y / n)))


class Tally:
    """The metrics of one stage, summed question by question."""

    def __init__(self, classifier: Classifier):
        self.classifier = classifier
        self.n = self.missing = 0
        self.agreeing = dict.fromkeys(("top1", "top5", "name", "conclusive", "off_list"), 0.0)  # photos
        self.conclusive = self.off_list = 0  # of Python's answers
        self.largest = self.variation = self.megapixels = 0.0
        self.correlation = _Correlation()
        self.ms: list[float] = []
        self.right: dict[str, bool] = {}  # by sample_id
        self.worst: list[dict] = []
        self.refused_alike: list[str] = []  # by both for the same reason; not among the `n`
        self.refused_differently: list[dict] = []  # by one, or for another reason: a disagreement of every kind

    def add(self, question: Question, answers: dict) -> None:
        """Compare the page's answers to one question, see `Probe.answers`, with Python's."""
        answered = self._note_refusals(question, answers.get("refused") or [None] * len(question.samples))
        if not answered:
            return
        question = dataclasses.replace(
            question,
            expected=question.expected[answered],
            off_list=None if question.off_list is None else question.off_list[answered],
            samples=[question.samples[i] for i in answered],
        )
        answers = {
            name: values[answered] if name == "probabilities" else [values[i] for i in answered]
            for name, values in answers.items()
            if name != "refused"
        }
        expected, received = question.expected, answers["probabilities"]
        self.megapixels = max(self.megapixels, question.megapixels)
        self.n += len(expected)
        self.ms += answers["ms"]
        if received.shape != expected.shape or not np.isfinite(received).all():
            self.missing += len(expected)
            return
        x, y = expected.astype(np.float64), received.astype(np.float64)
        difference = np.abs(x - y)
        self.largest = max(self.largest, float(difference.max()))
        self.variation += float(difference.sum(1).sum()) / 2
        self.correlation.add(x, y)
        python, page = self._compare_names(expected, received)
        if answers["names"][0] is not None:  # a bare tensor is displayed nowhere
            page = answers["names"]
            self._compare_displayed(question, python, answers)
        self._note_photos(question, received, difference.max(1), python, page)

    def _note_refusals(self, question: Question, refused: list[str | None]) -> list[int]:
        """Note what either side refuses; return the places of the photos that both answer."""
        python = question.refusal.reason if question.refusal else None
        for sample, page in zip(question.samples, refused, strict=True):
            if python and python == page:
                self.refused_alike.append(str(question.refusal))
            elif python or page:
                self.n += 1
                self.variation += 1
                self.refused_differently.append({"photo": sample.name, "python": python, "page": page})
        return [i for i, page in enumerate(refused) if not python and not page]

    def _compare_names(self, expected: np.ndarray, received: np.ndarray) -> tuple[list[str], list[str]]:
        """Count agreement on the first guess and the first five; return both first guesses, by name."""
        python, page = (np.argsort(-each, axis=1, kind="stable")[:, :TOP] for each in (expected, received))
        self.agreeing["top1"] += float((python[:, 0] == page[:, 0]).sum())
        lowest = np.take_along_axis(expected, python[:, -1:], 1) - TIE
        self.agreeing["top5"] += float((np.take_along_axis(expected, page, 1) >= lowest).mean(1).sum())
        labels = self.classifier.labels
        return [labels[i] for i in python[:, 0]], [labels[i] for i in page[:, 0]]

    def _compare_displayed(self, question: Question, python: list[str], answers: dict) -> None:
        """Count agreement on what a visitor reads: the name, and whether it is conclusive, or off the list."""
        self.agreeing["name"] += sum(a == b for a, b in zip(python, answers["names"], strict=True))
        off_list = np.zeros(len(python), bool) if question.off_list is None else question.off_list
        conclusive = self.classifier.species.kept_by(question.expected.max(1)) & ~off_list
        self.conclusive += int(conclusive.sum())
        self.agreeing["conclusive"] += int((conclusive == np.array(answers["conclusive"], bool)).sum())
        self.off_list += int(off_list.sum())
        self.agreeing["off_list"] += int((off_list == np.array(answers["off_list"], bool)).sum())

    def _note_photos(
        self, question: Question, received: np.ndarray, difference: np.ndarray, python: list[str], page: list[str]
    ) -> None:
        """Note which photos the page names right, and those whose probabilities differ most."""
        for i, sample in enumerate(question.samples):
            if sample.label is not None:
                self.right[sample.record or sample.name] = self.classifier.labels[sample.label] == page[i]
            self.worst.append(
                {
                    "photo": sample.name,
                    "max_abs_diff": float(difference[i]),
                    "python": [python[i], float(question.expected[i].max())],
                    "page": [page[i], float(received[i].max())],
                }
            )
        self.worst = sorted(self.worst, key=lambda photo: -photo["max_abs_diff"])[:WORST]

    def judge(self, tolerance: dict[str, float]) -> dict:
        """Return the metrics, the tolerance, and whether it is kept; a missing or non-finite answer is a failure.

        Args:
            tolerance: of `tolerance_of`.
        """
        if self.missing or not self.ms:
            error = f"{self.missing} of {self.n} answers are missing or not finite"
            if self.n and not self.missing:
                error = f"none of {self.n} photos was answered by both"
            return {"n": self.n, "tolerance": tolerance, "passed": False, "error": error, "refused": self._refused()}
        metrics = self._metrics(displayed="name_agreement" in tolerance)
        judged = {key: limit for key, limit in tolerance.items() if metrics[key] is not None}
        kept = [metrics[k] < limit if k in LOWER_IS_BETTER else metrics[k] >= limit for k, limit in judged.items()]
        return {**metrics, "tolerance": judged, "passed": all(kept)}

    def _metrics(self, *, displayed: bool) -> dict[str, Any]:
        return {
            "n": self.n,
            **{f"{key}_agreement": self.agreeing[key] / self.n for key in ("top1", "top5")},
            **(self._displayed() if displayed else {}),
            "max_abs_diff": self.largest,
            "total_variation": self.variation / self.n,  # half the sum of |Δp|, mean of the photos
            "correlation": self.correlation.value(),
            "median_ms": float(np.median(self.ms)),
            **({"top1_accuracy": sum(self.right.values()) / len(self.right)} if self.right else {}),
            **({"largest_megapixels": self.megapixels} if self.megapixels else {}),
            "worst": self.worst,
            "refused": self._refused(),
        }

    def _refused(self) -> dict:
        """Return how many photos were refused, and the first of those that one side alone refuses, or otherwise."""
        return {
            "alike": len(self.refused_alike),
            "differently": len(self.refused_differently),
            "photos": self.refused_differently[:WORST],
        }

    def _displayed(self) -> dict:
        """Agreement on what a visitor reads; where all answers are conclusive, or none is, it proves nothing."""
        trivial = {
            name: count in (0, self.n) and self.agreeing[name] == self.n
            for name, count in (("conclusive", self.conclusive), ("off_list", self.off_list))
        }
        return {
            "name_agreement": self.agreeing["name"] / self.n,
            "conclusive": self.conclusive,
            "off_list": None if self.classifier.off_list is None else self.off_list,
            **{f"{name}_agreement": None if it else self.agreeing[name] / self.n for name, it in trivial.items()},
        }


def tolerance_of(stage: str, backend: str, temperature: float) -> dict[str, float]:
    """Return the limits of a stage, {metric: limit}."""
    limits = TOLERANCES[stage]
    if stage in LOSSLESS:
        return {**limits, "max_abs_diff": LOSSLESS[stage] * ARITHMETIC[backend] * max(1.0, 1 / temperature)}
    return limits


def accuracy_of_both(tallies: dict[str, Tally]) -> dict:
    """Return {accuracy: {n, original, record}}, the page's on originals and on the records made from them, or {}."""
    if "original" not in tallies:
        return {}
    original, record = tallies["original"].right, tallies["record"].right
    both = sorted(original.keys() & record.keys())
    if not both:
        return {}
    shares = {name: sum(right[key] for key in both) / len(both) for name, right in
              (("original", original), ("record", record))}  # fmt: skip
    return {"accuracy": {"n": len(both), **shares}}
