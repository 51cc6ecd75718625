"""Advice from the training plan's section 'Troubleshooting', printed when its symptom appears."""

from __future__ import annotations

import math
from typing import Any

import keras

FLAT = "the loss does not fall"
RISING = "val loss rises while the training loss falls"
HIGH = "the loss is far above that of guessing"


def advice(rows: list[dict], *, num_classes: int, warmup_epochs: float) -> dict[str, str]:
    """Return {symptom: remedy} after these epochs.

    - High: after the warm-up the loss is above 3 ln C; a uniform guess has ln C.
    - Flat: two epochs after the warm-up, at half the peak rate or more, lowered the loss by less than 1 %, and it is
      still above half of ln C.
    - Rising: val loss rose twice in a row to more than 5 % above its best, while the training loss fell twice.

    Args:
        rows: one per epoch, with loss, val_loss and learning_rate.
        num_classes: C.
        warmup_epochs: epochs of linear warm-up.

    Example:
        >>> rows = [{"loss": 9.0, "val_loss": 9.0, "learning_rate": 0.1}] * 2
        >>> advice(rows, num_classes=2, warmup_epochs=1)
        {'the loss is far above that of guessing': 'lower training.learning_rate 10 times, set training.clip_norm: 1'}
    """
    remedies = {}
    if len(rows) > max(warmup_epochs, 1) and rows[-1]["loss"] > 3 * math.log(num_classes):
        remedies[HIGH] = "lower training.learning_rate 10 times, set training.clip_norm: 1"
    if len(rows) < 3:
        return remedies
    losses, vals, rates = ([row[key] for row in rows] for key in ("loss", "val_loss", "learning_rate"))
    warm = len(rows) - 3 >= warmup_epochs and rates[-1] >= 0.5 * max(rates)
    if warm and losses[-1] > max(0.99 * losses[-3], 0.5 * math.log(num_classes)):
        remedies[FLAT] = (
            "lower training.learning_rate 10 times, lengthen training.warmup_epochs; for a student, see "
            "`phase3 check` too (soft labels of another dataset or class list)"
        )
    if vals[-3] < vals[-2] < vals[-1] and vals[-1] > 1.05 * min(vals) and losses[-3] > losses[-2] > losses[-1]:
        remedies[RISING] = (
            "raise dropout and training.weight_decay, or use stronger augmentation; check that no photo is in two "
            "splits (phase0/leak_audit.json); for a student, make the teachers' logits again (`logits --force`)"
        )
    return remedies


class Adviser(keras.callbacks.Callback):
    """Print each piece of advice once, when its symptom first appears."""

    def __init__(self, past: list[dict], *, num_classes: int, warmup_epochs: float) -> None:
        super().__init__()
        self._limits: dict[str, Any] = {"num_classes": num_classes, "warmup_epochs": warmup_epochs}
        self._rows = list(past)
        self._printed = {symptom for n in range(len(past)) for symptom in advice(past[: n + 1], **self._limits)}

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._rows.append({key: (logs or {})[key] for key in ("loss", "val_loss", "learning_rate")})
        for symptom, remedy in advice(self._rows, **self._limits).items():
            if symptom not in self._printed:
                print(f"\nepoch {epoch + 1}: {symptom}: {remedy}", flush=True)
            self._printed.add(symptom)
