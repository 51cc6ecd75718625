"""Keras callbacks of a training stage: backup, rates in the logs, and early stops."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_pipeline.core.files import aside, write_json
from keras_pipeline.training import distribute
from keras_pipeline.training.schedule import mean_gradient_norm


class DivergedError(ValueError):
    """The loss became NaN or infinite."""


class Backup(keras.callbacks.Callback):
    """Back up weights, optimizer, metrics, random states and their (epoch, step) for an exact restart.

    Backs up at the end of each epoch and every few minutes within. Keras's BackupAndRestore writes weights and position
    separately (a kill in between repeats or skips an epoch), restarts an epoch from its first batch, and omits metrics
    and random states.
    """

    def __init__(self, folder: Path, *, made_from: str, minutes: float, skipped: int = 0) -> None:
        """
        Args:
            folder: where the backup is kept.
            made_from: identifies config and inputs; a backup of others is ignored.
            minutes: between two backups inside an epoch; 0: after every step.
            skipped: steps of the first epoch that an earlier process has done.
        """
        super().__init__()
        self._folder = folder
        self._made_from = made_from
        self._seconds = 60 * minutes
        self._skipped = skipped
        self._written = time.monotonic()
        self._metrics: list | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        state = read_backup(self._folder, self._made_from)
        if state is None:
            for generator in self._generators():
                generator.assign([keras.ops.convert_to_numpy(generator)[0], 0])
            return
        self.model.load_weights(self._folder / state["weights"])
        for generator, value in zip(self._generators(), state["random"], strict=True):
            generator.assign(value)
        self._metrics = state["metrics"] if state["step"] else None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        # Only now, because Keras resets its metrics just before.
        if self._metrics is not None:
            for variable, value in zip(self.model.metrics_variables, self._metrics, strict=True):
                variable.assign(np.array(value, variable.dtype).reshape(variable.shape))
            self._metrics = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if distribute.agreed(self.model.distribute_strategy, time.monotonic() - self._written >= self._seconds):
            self._write(self._epoch, self._skipped + batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._skipped = 0
        self._write(epoch + 1, 0)

    def _generators(self) -> list:
        return [variable for variable in self.model.variables if variable.name == "seed_generator_state"]

    def _write(self, epoch: int, step: int) -> None:
        # On all machines, because reading sums the metrics over them. An epoch starts with empty metrics.
        variables = self.model.metrics_variables if step else []
        values = [keras.ops.convert_to_numpy(variable).tolist() for variable in variables]
        self._written = time.monotonic()
        if not distribute.is_chief(self.model.distribute_strategy):
            return
        self._folder.mkdir(exist_ok=True)
        weights = self._folder / f"epoch-{epoch:03d}-step-{step:06d}.weights.h5"
        with aside(weights) as temporary:
            self.model.save_weights(temporary)
        states = [keras.ops.convert_to_numpy(generator).tolist() for generator in self._generators()]
        state = {"epoch": epoch, "step": step, "weights": weights.name, "made_from": self._made_from}
        # Once this file is renamed, the steps count as done.
        write_json(self._folder / "position.json", {**state, "metrics": values, "random": states})
        for old in self._folder.glob("*.weights.h5"):
            if old != weights:
                old.unlink()


def read_backup(folder: Path, made_from: str) -> dict | None:
    """Read a backup of the same config and inputs: {epoch, step, weights, made_from, metrics, random}, or None."""
    state = any_backup(folder)
    return state if state and state["made_from"] == made_from else None


def any_backup(folder: Path) -> dict | None:
    """Read a backup of any config and inputs, see `read_backup`."""
    file = folder / "position.json"
    return json.loads(file.read_text()) if file.exists() else None


class StopOnNaN(keras.callbacks.Callback):
    """Raise DivergedError naming the step at which the loss became NaN or infinite."""

    def __init__(self, skipped: int = 0) -> None:
        super().__init__()
        self._skipped = skipped

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise DivergedError(f"loss {loss} in epoch {self._epoch + 1} at step {self._skipped + batch + 1}")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._skipped = 0
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise DivergedError(f"val loss {loss} after epoch {epoch + 1}")


class Rates(keras.callbacks.Callback):
    """Add learning rate, mean gradient norm (before clipping) and images per second to each epoch's logs."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self._batch_size = batch_size

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._times: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # The ends of the first and the last batch: the first may include tracing the graph.
        self._times = [*self._times[:1], time.perf_counter()]
        self._steps = batch

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = {} if logs is None else logs
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["gradient_norm"] = mean_gradient_norm(self.model.optimizer)
        seconds = self._times[-1] - self._times[0]
        logs["images_per_second"] = self._steps * self._batch_size / seconds if seconds else 0.0


class EarlyStopping(keras.callbacks.EarlyStopping):
    """EarlyStopping that remembers the epochs before a restart."""

    def __init__(self, history: list[dict], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._past = [row[self.monitor] for row in history]

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        if self._past:
            self.best = min(self._past)
            self.wait = len(self._past) - 1 - self._past.index(self.best)
