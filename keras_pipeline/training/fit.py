"""Training that can be watched, killed and started again: Keras's `fit` with its callbacks, and the restart."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from keras_pipeline.core.artifacts import aside, write_json
from keras_pipeline.core.config import Callbacks

EPOCH_FILE = "epoch-{epoch:03d}.keras"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training and where it leaves its traces.

    folder/best.keras, folder/checkpoints/epoch-*.keras, folder/logs/ (TensorBoard), folder/log.csv, folder/backup/
    """

    folder: Path
    epochs: int
    steps_per_epoch: int
    callbacks: Callbacks
    monitor: str = "val_loss"
    made_from: str = ""  # names config and inputs: a backup of others is thrown away, not continued

    @property
    def best(self) -> Path:
        return self.folder / "best.keras"

    @property
    def checkpoints(self) -> Path:
        """A directory of one's own may serve several stages."""
        own = self.callbacks.checkpoint_dir
        return Path(own) / self.folder.name if own else self.folder / "checkpoints"


class Backup(keras.callbacks.BackupAndRestore):
    """BackupAndRestore whose weights and epoch number change together, whenever the process is killed."""

    def __init__(self, folder: Path, made_from: str) -> None:
        super().__init__(str(folder), delete_checkpoint=False)
        self._made_from = made_from
        metadata = _metadata(folder)
        if metadata:
            self._weights_path = str(folder / metadata["weights"])

    def _save_model(self) -> None:
        folder = Path(self.backup_dir)
        folder.mkdir(exist_ok=True)
        weights = folder / f"epoch-{self._current_epoch:03d}.weights.h5"
        with aside(weights) as temporary:
            self.model.save_weights(temporary)
        # This rename is the moment at which the epoch counts as done.
        metadata = {"epoch": self._current_epoch, "weights": weights.name, "made_from": self._made_from}
        write_json(folder / "training_metadata.json", metadata)
        for old in folder.glob("*.weights.h5"):
            if old != weights:
                old.unlink()


class RandomStates(keras.callbacks.Callback):
    """Dropout's random numbers become a function of the epoch: weights files don't hold the generators' states."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        for variable in self.model.variables:
            if variable.name == "seed_generator_state":
                seed = keras.ops.convert_to_numpy(variable)[0]
                variable.assign([seed, epoch * 1_000_003])


class EarlyStopping(keras.callbacks.EarlyStopping):
    """EarlyStopping that remembers the epochs before a restart."""

    def __init__(self, history: list[dict], **kwargs) -> None:
        super().__init__(**kwargs)
        self._past = [row[self.monitor] for row in history]

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        if self._past:
            self.best = min(self._past)
            self.wait = len(self._past) - 1 - self._past.index(self.best)


def fit(
    model: keras.Model, batches: Callable[[range], tf.data.Dataset], validation: tf.data.Dataset, stage: Stage
) -> list[dict]:
    """Trains one stage to its end, going on where a killed run stopped.

    Args:
        model: compiled and built.
        batches: epochs still to do -> their batches, one epoch after the other.
        validation: batches of the val split.

    Returns:
        One row of metrics an epoch, from the first to the last. stage.best holds the model of lowest val loss (or of
        the last epoch, without save_best).
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    start = _finished_epochs(stage)
    if not start:
        for traces in ("backup", "checkpoints", "logs"):  # of another run
            shutil.rmtree(stage.folder / traces, ignore_errors=True)
    past = _keep_rows(stage.folder / "log.csv", start)
    if start < stage.epochs and not _stopped_early(past, stage):
        if start:
            print(f"{stage.folder}: going on after epoch {start} of {stage.epochs}")
            _restore_best(stage, past)
        _fit(model, batches(range(start, stage.epochs)), validation, stage, past)
    return read_log(stage.folder / "log.csv")


def _fit(
    model: keras.Model, batches: tf.data.Dataset, validation: tf.data.Dataset, stage: Stage, past: list[dict]
) -> None:
    # Left to the first step, Keras traces the whole training graph twice: once to create the optimizer's variables.
    model.optimizer.build(model.trainable_variables)
    try:
        model.fit(
            batches,
            validation_data=validation,
            epochs=stage.epochs,
            steps_per_epoch=stage.steps_per_epoch,
            callbacks=_callbacks(stage, past),
            shuffle=False,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except RuntimeError as error:
        if "NaN" not in str(error) and "Inf" not in str(error):
            raise
        raise ValueError(
            f"{stage.folder}: training diverged ({error}); lower the learning rate; the last good epoch is in "
            "checkpoints/"
        ) from error


def _restore_best(stage: Stage, past: list[dict]) -> None:
    """The kill may have come while best.keras was being written."""
    losses = [row[stage.monitor] for row in past]
    best = losses.index(min(losses)) if stage.callbacks.save_best else len(losses) - 1
    publish(stage.checkpoints / EPOCH_FILE.format(epoch=best + 1), stage.best)


def publish(checkpoint: Path, target: Path) -> None:
    """Copies a checkpoint to where the next phase looks for it."""
    with aside(target) as temporary:
        shutil.copyfile(checkpoint, temporary)


class LearningRate(keras.callbacks.Callback):
    """Adds the learning rate to each epoch's logs."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


def _callbacks(stage: Stage, past: list[dict]) -> list[keras.callbacks.Callback]:
    """BackupAndRestore comes last: an epoch counts as done when all its traces are on disk."""
    stage.checkpoints.mkdir(parents=True, exist_ok=True)
    callbacks: list[keras.callbacks.Callback] = [
        RandomStates(),
        LearningRate(),
        keras.callbacks.CSVLogger(str(stage.folder / "log.csv"), append=True),
        keras.callbacks.TensorBoard(str(stage.folder / "logs"), write_graph=False),
        keras.callbacks.TerminateOnNaN(raise_error=True),
        keras.callbacks.ModelCheckpoint(str(stage.checkpoints / EPOCH_FILE), monitor=stage.monitor),
        keras.callbacks.ModelCheckpoint(
            str(stage.best),
            monitor=stage.monitor,
            mode="min",
            save_best_only=stage.callbacks.save_best,
            initial_value_threshold=min((row[stage.monitor] for row in past), default=None),
        ),
    ]
    if stage.callbacks.early_stopping:
        patience = stage.callbacks.early_stopping_patience
        callbacks.append(EarlyStopping(past, monitor=stage.monitor, mode="min", patience=patience))
    return [*callbacks, Backup(stage.folder / "backup", stage.made_from)]


def _finished_epochs(stage: Stage) -> int:
    metadata = _metadata(stage.folder / "backup")
    return metadata["epoch"] if metadata and metadata.get("made_from") == stage.made_from else 0


def _metadata(backup: Path) -> dict | None:
    file = backup / "training_metadata.json"
    return json.loads(file.read_text()) if file.exists() else None


def _stopped_early(past: list[dict], stage: Stage) -> bool:
    if not (past and stage.callbacks.early_stopping):
        return False
    values = [row[stage.monitor] for row in past]
    return len(values) - 1 - values.index(min(values)) >= stage.callbacks.early_stopping_patience


def _keep_rows(path: Path, rows: int) -> list[dict]:
    """Cuts the log back to the epochs that the backup knows of."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)[: rows + 1]
    with aside(path) as temporary:
        temporary.write_text("".join(lines) if rows else "")
    return read_log(path)


def read_log(path: Path) -> list[dict]:
    """log.csv -> [{epoch: int, loss: float, …}]"""
    with path.open(newline="") as file:
        return [{k: int(v) if k == "epoch" else float(v) for k, v in row.items()} for row in csv.DictReader(file)]
