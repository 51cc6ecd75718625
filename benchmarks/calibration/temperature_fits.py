"""Which way of fitting one temperature leaves the confidences calibrated, whatever shape the model's errors have?

    .venv/bin/python -m benchmarks.calibration.temperature_fits      (CPU only, one core, minutes)

Worlds of 17 and 200 classes, whose logits are raised for one class each by a Gamma variable:

    exact   labels from softmax(logits / 1.5): one temperature is right
    tail    of 8 % of the photos the true class is one that the model knows nothing of; the logits are 10 % too small
    mixed   half the photos need T = 0.7, half T = 2.2: no temperature is right
    noise   of 10 % of the photos the label is any class; the logits are 30 % too large

Fits: none (T = 1); the likelihood of the labels (Guo et al. 2017); the likelihood of 'right' and 'wrong' alone; the
likelihood's T where it lowers the ECE in five-fold cross-validation, else 1; the answers' Brier score, which phase 5
uses. Each cell: mean and largest ECE on other photos over the draws.

Prints the table, and as the last line how much further the likelihood's mean ECE is behind the best fit of a cell, at
most, than the Brier score's; exit 1 below 2.
"""

import sys
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar

from keras_pipeline.evaluation.calibration import equal_width, expected_calibration_error
from keras_pipeline.evaluation.metrics import softmax
from keras_pipeline.evaluation.scores import Scores, score
from keras_pipeline.evaluation.temperature import fit_by_likelihood, fit_temperature

CLASSES = {17: 2.5, 200: 3.5}  # scale of the Gamma variable
WORLDS = ("exact", "tail", "mixed", "noise")
DRAWS = {60: 24, 300: 16, 2000: 4}  # by photos
JUDGED, FOLDS, GOAL = 10_000, 5, 2.0


def draw(world: str, photos: int, classes: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return logits [photos, classes] and labels [photos]."""
    logits = 1.5 * random.normal(size=(photos, classes))
    logits[np.arange(photos), random.integers(0, classes, photos)] += random.gamma(3, CLASSES[classes], photos)
    below = softmax(logits).cumsum(axis=1) < random.random((photos, 1))
    labels = np.minimum(below.sum(axis=1), classes - 1)
    other, spoilt = random.integers(0, classes, photos), random.random(photos)
    if world == "exact":
        return 1.5 * logits, labels
    if world == "mixed":
        return logits * np.where(spoilt < 0.5, 0.7, 2.2)[:, None], labels
    share, scale = {"tail": (0.08, 0.9), "noise": (0.1, 1.3)}[world]
    return scale * logits, np.where(spoilt < share, other, labels)


def ece(scores: Scores) -> float:
    return expected_calibration_error(scores.confidence, scores.correct, equal_width(15))


def by_answers_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    def loss(log_t: float) -> float:
        scores = score(logits, labels, float(np.exp(log_t)))
        stated = np.where(scores.correct, scores.confidence, 1 - scores.confidence)
        return -float(np.log(np.maximum(stated, 1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded", options={"xatol": 1e-4}).x))


def kept_where_it_helps(logits: np.ndarray, labels: np.ndarray) -> float:
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    parts = []
    for number in range(FOLDS):
        fitted = fit_by_likelihood(logits[fold != number], labels[fold != number])
        parts.append(score(logits[fold == number], labels[fold == number], fitted))
    scaled = Scores.concatenated(parts)
    return fit_by_likelihood(logits, labels) if ece(scaled) < ece(score(logits, labels)) else 1.0


FITS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "none": lambda logits, labels: 1.0,
    "likelihood": fit_by_likelihood,
    "answers' likelihood": by_answers_likelihood,
    "kept where it helps": kept_where_it_helps,
    "answers' Brier score": fit_temperature,
}


def main() -> int:
    """Print the table."""
    behind: dict[str, list[float]] = {name: [] for name in FITS}
    print("| world, classes, photos | " + " | ".join(FITS) + " |\n|" + "---|" * (len(FITS) + 1))
    for classes in CLASSES:
        for world in WORLDS:
            random = np.random.default_rng(1)
            judged = draw(world, JUDGED, classes, random)
            for photos, draws in DRAWS.items():
                samples = [draw(world, photos, classes, random) for _ in range(draws)]
                found = {name: [ece(score(*judged, fit(*sample))) for sample in samples] for name, fit in FITS.items()}
                means = {name: float(np.mean(values)) for name, values in found.items()}
                for name, mean in means.items():
                    behind[name].append(mean - min(means.values()))
                cells = (f"{means[name]:.3f} ({max(values):.3f})" for name, values in found.items())
                print(f"| {world}, {classes}, {photos} | " + " | ".join(cells) + " |", flush=True)
    print("| behind the best, mean (most) | ", end="")
    print(" | ".join(f"{np.mean(values):.3f} ({max(values):.3f})" for values in behind.values()) + " |")
    ratio = max(behind["likelihood"]) / max(behind["answers' Brier score"])
    print(f"{ratio:.2f}")
    return int(ratio < GOAL)


if __name__ == "__main__":
    sys.exit(main())
