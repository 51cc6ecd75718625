"""Training that can be watched, killed and started again: Keras's `fit` with its callbacks, and the restart."""

from __future__ import annotations

import csv
import dataclasses
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from keras_pipeline.core.config.teachers import Callbacks
from keras_pipeline.core.files import aside
from keras_pipeline.training import distribute
from keras_pipeline.training.advice import Adviser
from keras_pipeline.training.callbacks import (
    Backup,
    DivergedError,
    EarlyStopping,
    Rates,
    StopOnNaN,
    any_backup,
    read_backup,
)

EPOCH_FILE = "epoch-{epoch:03d}.keras"

# (epochs still to do, steps of the first of them already done) -> their batches, one epoch after the other
Batches = Callable[[range, int], tf.data.Dataset]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training and where it leaves its traces.

    folder/best.keras, folder/checkpoints/epoch-*.keras, folder/logs/ (TensorBoard), folder/log.csv, folder/backup/
    """

    folder: Path
    epochs: int
    steps_per_epoch: int
    batch_size: int
    num_classes: int
    warmup_epochs: float
    callbacks: Callbacks
    monitor: str = "val_loss"
    made_from: str = ""  # names config and inputs: training of others is set aside, not continued

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "best.keras"

    @property
    def checkpoints(self) -> Path:
        """A directory of one's own may serve several experiments and settings, none of which may overwrite another's:
        a restart takes its best epoch from there.
        """
        own = self.callbacks.checkpoint_dir
        return Path(own, *self.folder.parts[-3:], self.made_from[:8]) if own else self.folder / "checkpoints"

    @property
    def backup(self) -> Path:
        """Folder of what a killed training goes on from."""
        return self.folder / "backup"


def fit(
    model: keras.Model,
    batches: Batches,
    validation: tf.data.Dataset,
    stage: Stage,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> list[dict]:
    """Trains one stage to its end, going on at the step where a killed run's last backup stands.

    Args:
        model: compiled and built.
        validation: batches of the val split.
        callbacks: more of them, called before the logs are written.

    Returns:
        One row of metrics an epoch, from the first to the last. stage.best holds the model of lowest val loss (or of
        the last epoch, without save_best).

    Raises ValueError, with what to do, when training diverges, the memory does not suffice, or the model's replicas
    can't share a batch equally.
    """
    strategy = model.distribute_strategy
    if stage.batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            f"training.batch_size: received {stage.batch_size} for {strategy.num_replicas_in_sync} replicas "
            "(distribute), expected a multiple of their number: it is the global batch"
        )
    if distribute.is_chief(strategy):
        _tidy(stage)
    distribute.wait(strategy)
    epoch, step = _position(stage)
    past = read_log(stage.folder / "log.csv")
    distribute.synchronise(model)
    if step and epoch < stage.epochs:
        # Keras's metrics don't exist before: Backup fills them.
        model.evaluate(distribute.dealt(validation.take(1)), verbose=0)
    while epoch < stage.epochs and not _stopped_early(past, stage):
        # The rest of an epoch is a `fit` of its own, because Keras counts the same number of steps for all its epochs.
        stop = epoch + 1 if step else stage.epochs
        _fit(model, batches(range(epoch, stop), step), validation, stage, range(epoch, stop), step, past, callbacks)
        epoch, step = stop, 0
        distribute.wait(strategy)
        past = read_log(stage.folder / "log.csv")
    return past


def _tidy(stage: Stage) -> None:
    """The folder, as the last backup knows it, ready to go on."""
    _change_places(stage)
    stage.folder.mkdir(parents=True, exist_ok=True)
    try:
        stage.checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"callbacks.checkpoint_dir: {error}; give a folder that can be written to") from error
    epoch, step = _position(stage)
    if not (epoch or step):
        for traces in ("backup", "checkpoints", "logs"):  # of another run
            shutil.rmtree(stage.folder / traces, ignore_errors=True)
    _keep_rows(stage.folder / "log.csv", epoch)
    if (epoch or step) and epoch < stage.epochs:
        print(f"{stage.folder}: going on after epoch {epoch} of {stage.epochs}" + (f", step {step}" if step else ""))
        if epoch:
            _publish_best(stage, read_log(stage.folder / "log.csv"))  # the kill may have come while it was written


def _fit(
    model: keras.Model,
    batches: tf.data.Dataset,
    validation: tf.data.Dataset,
    stage: Stage,
    epochs: range,
    step: int,
    past: list[dict],
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    strategy = model.distribute_strategy
    chief = distribute.is_chief(strategy)
    # Left to the first step, Keras traces the whole training graph twice: once to create the optimizer's variables.
    if not model.optimizer.built:
        with strategy.scope():
            model.optimizer.build(model.trainable_variables)
    try:
        model.fit(
            distribute.dealt(batches),
            validation_data=distribute.dealt(validation),
            initial_epoch=epochs.start,
            epochs=epochs.stop,
            steps_per_epoch=stage.steps_per_epoch - step,
            callbacks=_callbacks(stage, step, past, callbacks, writes=chief),
            shuffle=False,
            verbose=(1 if sys.stdout.isatty() else 2) if chief else 0,
        )
    except DivergedError as error:
        good = sorted(stage.checkpoints.glob("epoch-*.keras"))
        kept = f"the last good checkpoint is {good[-1]}" if good else "no epoch was finished"
        raise ValueError(
            f"{stage.folder}: training diverged, {error}; {kept}. Lower the learning rate (10 times), lengthen the "
            "warm-up, set training.clip_norm: 1, or train in float32 where the precision is mixed"
        ) from error
    except tf.errors.ResourceExhaustedError as error:
        raise ValueError(
            f"{stage.folder}: the device's memory does not suffice ({error.message.splitlines()[0]}); set "
            f"training.batch_size below {stage.batch_size} (32 or less) and training.gradient_accumulation so that "
            "their product stays, training.precision: mixed_bfloat16 (mixed_float16 on older GPUs), or "
            "training.rematerialisation: true (ViT)"
        ) from error


def _change_places(stage: Stage) -> None:
    """Set unfinished training with other settings aside; resume ours if there is any: a mistyped
    setting costs no day's work.
    """
    mine = _aside(stage, stage.made_from)
    other = any_backup(stage.backup)
    if other and other["made_from"] != stage.made_from:
        place = _aside(stage, other["made_from"])
        shutil.rmtree(place, ignore_errors=True)
        stage.folder.rename(place)
        print(
            f"{stage.folder}: unfinished training of other settings (after epoch {other['epoch']}, step "
            f"{other['step']}) is set aside in {place}; it goes on under those settings"
        )
    if mine.exists():
        shutil.rmtree(stage.folder, ignore_errors=True)
        mine.rename(stage.folder)


def _aside(stage: Stage, made_from: str) -> Path:
    return stage.folder.with_name(f"{stage.folder.name}.unfinished-{made_from[:8]}")


def _position(stage: Stage) -> tuple[int, int]:
    """(epochs finished, steps of the next one finished)"""
    state = read_backup(stage.backup, stage.made_from)
    return (state["epoch"], state["step"]) if state else (0, 0)


def _publish_best(stage: Stage, past: list[dict]) -> None:
    """stage.best: the checkpoint of the best of the epochs so far."""
    losses = [row[stage.monitor] for row in past]
    best = losses.index(min(losses)) if stage.callbacks.save_best else len(losses) - 1
    publish(stage.checkpoints / EPOCH_FILE.format(epoch=best + 1), stage.best)


def publish(checkpoint: Path, target: Path) -> None:
    """Copies a checkpoint to where the next phase looks for it."""
    with aside(target) as temporary:
        shutil.copyfile(checkpoint, temporary)


def _callbacks(
    stage: Stage, step: int, past: list[dict], more: Sequence[keras.callbacks.Callback], *, writes: bool
) -> list[keras.callbacks.Callback]:
    """Backup comes last: an epoch counts as done when all its traces are on disk."""
    callbacks: list[keras.callbacks.Callback] = [StopOnNaN(step), Rates(stage.batch_size)]
    if writes:
        callbacks += [Adviser(past, num_classes=stage.num_classes, warmup_epochs=stage.warmup_epochs), *more]
        callbacks += _traces(stage)
    if stage.callbacks.early_stopping:
        patience = stage.callbacks.early_stopping_patience
        callbacks.append(EarlyStopping(past, monitor=stage.monitor, mode="min", patience=patience, verbose=1))
    minutes = stage.callbacks.backup_minutes
    return [*callbacks, Backup(stage.backup, made_from=stage.made_from, minutes=minutes, skipped=step)]


def _traces(stage: Stage) -> list[keras.callbacks.Callback]:
    return [
        keras.callbacks.CSVLogger(str(stage.folder / "log.csv"), append=True),
        keras.callbacks.TensorBoard(str(stage.folder / "logs"), write_graph=False),
        keras.callbacks.ModelCheckpoint(str(stage.checkpoints / EPOCH_FILE)),
        # A copy: to write a large model once more takes longer.
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: _publish_best(stage, read_log(stage.folder / "log.csv"))
        ),
    ]


def _stopped_early(past: list[dict], stage: Stage) -> bool:
    if not (past and stage.callbacks.early_stopping):
        return False
    values = [row[stage.monitor] for row in past]
    return len(values) - 1 - values.index(min(values)) >= stage.callbacks.early_stopping_patience


def _keep_rows(path: Path, rows: int) -> None:
    """Cuts the log back to the epochs that the backup knows of."""
    lines = path.read_text().splitlines(keepends=True)[: rows + 1] if path.exists() else []
    with aside(path) as temporary:
        temporary.write_text("".join(lines) if rows else "")


def read_log(path: Path) -> list[dict]:
    """log.csv -> [{epoch: int, loss: float, …}]"""
    with path.open(newline="") as file:
        return [{k: int(v) if k == "epoch" else float(v) for k, v in row.items()} for row in csv.DictReader(file)]
