"""Read the shipped `calibration.json`: from which probability an answer is conclusive, and with which precision."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import read_json

CALIBRATION = "calibration.json"
PRIORS = "priors.json"  # an asset only where region priors are shipped
NEVER = 2.0  # a threshold that no probability reaches
PARTS = ("genus", "family", "region_priors", "off_list")  # may have a temperature and a threshold of their own


@dataclasses.dataclass(frozen=True)
class Promise:
    """From which probability an answer is conclusive, and with which precision."""

    threshold: float = NEVER  # where none is in force
    accepted: float | None = None  # the guaranteed precision if it is below the target (phase5.accept_unmet)

    @classmethod
    def of(cls, part: dict) -> Promise:
        """Read it from `calibration.json`, or from one of `PARTS`."""
        threshold = part.get("threshold")
        if threshold is None:
            return cls()
        return cls(float(threshold), None if part.get("target_met", True) else float(part["precision_lower_bound"]))

    def kept_by(self, probability: np.ndarray) -> np.ndarray:
        """Tell which probabilities reach the threshold; compared in float32, as the graph and the page do."""
        return np.asarray(probability, np.float32) >= np.float32(self.threshold)


def read_calibration(folder: Path) -> dict:
    """Read and check `calibration.json` among a SavedModel's assets.

    Raises:
        BrokenArtefact: for numbers out of range, see `check_calibration`.
    """
    calibration = read_json(folder / CALIBRATION)
    try:
        check_calibration(calibration)
    except ValueError as error:
        raise BrokenArtefact(f"{folder / CALIBRATION}: {error}; run `phase6 export --force`") from error
    return calibration


def check_calibration(calibration: Any) -> None:
    """Check the numbers of `calibration.json`, and of its `PARTS` where they have any.

    Raises:
        ValueError: for a temperature that is missing or not above 0, a threshold that is missing or neither null nor
            from 0 to 1, or a precision_lower_bound that is not from 0 to 1; only the species must have the first two.
    """
    _check_part("calibration", "", calibration, required=("temperature", "threshold"))
    for name in PARTS:
        _check_part(name, f"{name} ", calibration.get(name, {}))


def _check_part(name: str, prefix: str, part: Any, required: tuple[str, ...] = ()) -> None:
    if not isinstance(part, dict):
        raise ValueError(f"received {part!r:.40} as {name}, expected its numbers by name")
    for key in ("temperature", "threshold", "precision_lower_bound"):
        if key in part or key in required:
            value = part.get(key, "nothing")
            if not _is_valid(key, value):
                expected = "above 0" if key == "temperature" else "from 0 to 1"
                raise ValueError(f"received {prefix}{key} {value!r:.40}, expected a number {expected}")


def _is_valid(key: str, value: Any) -> bool:
    if value is None:
        return key == "threshold"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return value > 0 if key == "temperature" else 0 <= value <= 1


def check_region(region: str, known: list[str] | None) -> None:
    """Check that a model has the prior of a region.

    Args:
        region: as it was asked for.
        known: the regions of the model's priors; None where it has none.

    Raises:
        ValueError: for an unknown region, or a model without region priors.
    """
    if known is None:
        raise ValueError(
            f"received region {region}, but this model was exported without region priors; set "
            "phase5.region_priors.ship: true and run `phase6`"
        )
    if region not in known:
        raise ValueError(f"received region {region}, expected one of {', '.join(known)}, or none")
