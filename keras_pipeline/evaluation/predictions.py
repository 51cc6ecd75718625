"""A model's predictions over a split, in memory and on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside
from keras_pipeline.core.hashing import UNREADABLE
from keras_pipeline.evaluation import metrics
from keras_pipeline.evaluation.answers import ANSWERS, OWN_PROBE
from keras_pipeline.evaluation.scores import Scores, score


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Aligned arrays over n photos."""

    logits: np.ndarray  # float32 [n, C]
    labels: np.ndarray  # int64 [n]
    sample_ids: np.ndarray  # str [n]
    regions: np.ndarray  # str [n]
    group_ids: np.ndarray  # str [n]


def save(predictions: Predictions, folder: Path, name: str) -> None:
    """Write all but the logits to `<name>.npz`, beside the `<name>.npy` into which `predict` wrote the logits."""
    columns = dataclasses.asdict(dataclasses.replace(predictions, logits=np.empty(0)))
    # NumPy stores texts in four bytes a character, most of them 0.
    np.savez_compressed(folder / f"{name}.npz", **{key: values for key, values in columns.items() if key != "logits"})


def load(folder: Path, name: str) -> Predictions:
    """Load what `predict` and `save` wrote; the logits stay on disk, memory-mapped.

    Raises:
        BrokenArtefact: naming files that can't be read.
    """
    try:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            columns = {field.name: file[field.name] for field in dataclasses.fields(Predictions)[1:]}
        return Predictions(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False), **columns)
    except UNREADABLE as error:
        raise BrokenArtefact(
            f"{folder / name}.npz, .npy: no predictions can be read from them ({error}); run `phase5 calibrate --force`"
        ) from error


def save_summary(predictions: Predictions, scores: Scores, path: Path) -> None:
    """Write `predictions.npz`: `true_labels, sample_id`, and `log_sum_exp [n]`, from which probabilities follow.

    Args:
        predictions: of n photos.
        scores: of them, at temperature 1.
        path: the file.
    """
    own = predictions.logits[np.arange(len(predictions.labels)), predictions.labels]
    with aside(path) as temporary:
        np.savez_compressed(
            temporary, true_labels=predictions.labels, sample_id=predictions.sample_ids, log_sum_exp=scores.nll + own
        )


def predicted_probs(logits: np.ndarray, log_sum_exp: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
    """Return the plan's `predicted_probs`, float32 [m, C], of some photos.

    They aren't stored: at 9,000 species they would take as much disk as the logits that they follow from.

    Args:
        logits: [n, C], of `logits/test.npy`; may be memory-mapped.
        log_sum_exp: [n], of `predictions.npz`.
        rows: the photos.
    """
    return np.exp(logits[rows] - log_sum_exp[rows, None]).astype(np.float32)


def write_answers(path: Path, predictions: Predictions, own_probe: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Write and return each photo's first guess and its probability before calibration, see `load_answers`.

    Args:
        path: the file.
        predictions: of n photos.
        own_probe: int [n], the first guess of the probe of the model's own features, see `load_own_probe`.
    """
    confidence = score(predictions.logits, predictions.labels).confidence
    columns = (
        predictions.sample_ids, predictions.regions, predictions.group_ids, predictions.labels,
        metrics.first_guesses(predictions.logits), confidence.astype(np.float32),
    )  # fmt: skip
    answers: dict[str, np.ndarray] = dict(zip(ANSWERS, columns, strict=True))
    more = {} if own_probe is None else {OWN_PROBE: own_probe}
    with aside(path) as temporary:
        np.savez_compressed(temporary, **answers, **more)
    return answers
