"""Train a stage with Keras's `fit`: logs, checkpoints, and an exact restart after a kill."""

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
from keras_pipeline.core.files import aside, read_json, write_json
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
START = "start.json"  # metrics of the model that a stage starts from, on the val split

# (epochs still to do, steps of the first of them already done) -> their batches, epoch after epoch
Batches = Callable[[range, int], tf.data.Dataset]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of training, and the folder of its files.

    Writes best.keras, checkpoints/epoch-*.keras, logs/ (TensorBoard), log.csv and backup/.
    """

    folder: Path
    epochs: int
    steps_per_epoch: int
    batch_size: int
    num_classes: int
    warmup_epochs: float
    callbacks: Callbacks
    monitor: str = "val_loss"
    made_from: str = ""  # identifies config and inputs; training with others is set aside, not continued

    @property
    def best(self) -> Path:
        """Path of the best epoch's checkpoint."""
        return self.folder / "best.keras"

    @property
    def checkpoints(self) -> Path:
        """Folder of the epochs' checkpoints.

        A `checkpoint_dir` may be shared by experiments and settings, so each gets its own folder there: a restart takes
        its best epoch from it.
        """
        own = self.callbacks.checkpoint_dir
        return Path(own, *self.folder.parts[-3:], self.made_from[:8]) if own else self.folder / "checkpoints"

    @property
    def photos(self) -> int:
        """Number of photos that an epoch shows."""
        return self.steps_per_epoch * self.batch_size

    @property
    def start(self) -> Path:
        """Path of the checkpoint of the model that the stage started from, see `fit`."""
        return self.checkpoints / EPOCH_FILE.format(epoch=0)

    @property
    def backup(self) -> Path:
        """Folder of the backup from which a killed training resumes."""
        return self.folder / "backup"


def fit(
    model: keras.Model,
    batches: Batches,
    validation: tf.data.Dataset,
    stage: Stage,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    *,
    start: Callable[[], None] | None = None,
) -> list[dict]:
    """Train one stage to its end, resuming at the step of a killed run's last backup.

    Args:
        model: compiled and built.
        validation: batches of the val split.
        callbacks: further ones, called before the logs are written.
        start: gives `model` the weights that it starts from; not called when the stage resumes. The model then counts
            as epoch 0: it stays the best one if training only raises the val loss. None: it is random, and does not.

    Returns:
        A row of metrics per epoch, from the first to the last. stage.best holds the model of the lowest val loss (or of
        the last epoch, without save_best).

    Raises:
        ValueError: with advice, if training diverges, the device runs out of memory, or the replicas can't divide a
            batch equally.
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
    if start and not (epoch or step):
        start()
        _keep_start(model, validation, stage)
    if step and epoch < stage.epochs:
        # Creates Keras's metrics, which Backup then fills.
        model.evaluate(distribute.sharded(validation.take(1)), verbose=0)
    while epoch < stage.epochs and not _stopped_early(past, stage):
        # The rest of an epoch needs a separate `fit`, because in Keras all epochs have the same number of steps.
        stop = epoch + 1 if step else stage.epochs
        _fit(model, batches(range(epoch, stop), step), validation, stage, range(epoch, stop), step, past, callbacks)
        epoch, step = stop, 0
        distribute.wait(strategy)
        past = read_log(stage.folder / "log.csv")
    if distribute.is_chief(strategy) and stage.callbacks.save_best and _best_epoch(stage, past) == 0:
        print(f"{stage.folder}: no epoch has a lower val loss than the model it started from, which therefore stays")
    return past


def as_it_is() -> None:
    """Change nothing: `start` of a stage whose model already has the weights that it starts from, see `fit`."""


def read_start(stage: Stage) -> dict | None:
    """Return {val_loss, val_top1, …} of the model that a stage started from; None if it does not count, see `fit`."""
    file = stage.folder / START
    return read_json(file) if file.exists() else None


def _keep_start(model: keras.Model, validation: tf.data.Dataset, stage: Stage) -> None:
    found = model.evaluate(distribute.sharded(validation), verbose=0, return_dict=True)
    if distribute.is_chief(model.distribute_strategy):
        stage.checkpoints.mkdir(parents=True, exist_ok=True)
        model.save(stage.start)
        row = {f"val_{name}": value for name, value in found.items()}
        write_json(stage.folder / START, row)
        print(f"{stage.folder}: starts with " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()))


def _tidy(stage: Stage) -> None:
    """Bring the folder to the state of the last backup."""
    _swap_unfinished(stage)
    stage.folder.mkdir(parents=True, exist_ok=True)
    try:
        stage.checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"callbacks.checkpoint_dir: {error}; give a writable folder") from error
    epoch, step = _position(stage)
    if not (epoch or step):
        for name in ("backup", "checkpoints", "logs"):  # of another run
            shutil.rmtree(stage.folder / name, ignore_errors=True)
        (stage.folder / START).unlink(missing_ok=True)
        stage.start.unlink(missing_ok=True)
    _keep_rows(stage.folder / "log.csv", epoch)
    if (epoch or step) and epoch < stage.epochs:
        print(f"{stage.folder}: resuming after epoch {epoch} of {stage.epochs}" + (f", step {step}" if step else ""))
        if epoch:
            _publish_best(stage, read_log(stage.folder / "log.csv"))  # it may have been killed while writing


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
    # Otherwise the first step traces the whole training graph twice, once to create the optimizer's variables.
    if not model.optimizer.built:
        with strategy.scope():
            model.optimizer.build(model.trainable_variables)
    try:
        model.fit(
            distribute.sharded(batches),
            validation_data=distribute.sharded(validation),
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
            "warm-up, set training.clip_norm: 1, or train in float32 if the precision is mixed"
        ) from error
    except tf.errors.ResourceExhaustedError as error:
        raise ValueError(
            f"{stage.folder}: the device is out of memory ({error.message.splitlines()[0]}); set "
            f"training.batch_size below {stage.batch_size} (32 or less) and training.gradient_accumulation so that "
            "their product stays the same, training.precision: mixed_bfloat16 (mixed_float16 on older GPUs), or "
            "training.rematerialisation: true (ViT)"
        ) from error


def _swap_unfinished(stage: Stage) -> None:
    """Set unfinished training with other settings aside; bring ours back if there is any.

    So a mistyped setting does not cost a day's work.
    """
    mine = _aside(stage, stage.made_from)
    other = any_backup(stage.backup)
    if other and other["made_from"] != stage.made_from:
        place = _aside(stage, other["made_from"])
        shutil.rmtree(place, ignore_errors=True)
        stage.folder.rename(place)
        print(
            f"{stage.folder}: unfinished training with other settings (after epoch {other['epoch']}, step "
            f"{other['step']}) is set aside in {place}; run with those settings to resume it"
        )
    if mine.exists():
        shutil.rmtree(stage.folder, ignore_errors=True)
        mine.rename(stage.folder)


def _aside(stage: Stage, made_from: str) -> Path:
    return stage.folder.with_name(f"{stage.folder.name}.unfinished-{made_from[:8]}")


def _position(stage: Stage) -> tuple[int, int]:
    """Return the number of finished epochs, and of finished steps of the next one."""
    state = read_backup(stage.backup, stage.made_from)
    return (state["epoch"], state["step"]) if state else (0, 0)


def _publish_best(stage: Stage, past: list[dict]) -> None:
    """Copy the checkpoint of the best epoch so far to stage.best."""
    best = _best_epoch(stage, past) if stage.callbacks.save_best else len(past)
    publish(stage.checkpoints / EPOCH_FILE.format(epoch=best), stage.best)


def _best_epoch(stage: Stage, past: list[dict]) -> int:
    """Return the epoch of the lowest val loss, counted from 1; 0 is the model that the stage started from."""
    start = read_start(stage)
    losses = {0: start[stage.monitor]} if start else {}
    losses |= {epoch: row[stage.monitor] for epoch, row in enumerate(past, 1)}
    return min(losses, key=losses.__getitem__)


def publish(checkpoint: Path, target: Path) -> None:
    """Copy a checkpoint to where the next phase looks for it."""
    with aside(target) as temporary:
        shutil.copyfile(checkpoint, temporary)


def _callbacks(
    stage: Stage, step: int, past: list[dict], more: Sequence[keras.callbacks.Callback], *, writes: bool
) -> list[keras.callbacks.Callback]:
    """Return a stage's callbacks; Backup is last, so that an epoch counts as done once all its files are on disk."""
    callbacks: list[keras.callbacks.Callback] = [StopOnNaN(step), Rates(stage.batch_size)]
    if writes:
        callbacks += [Adviser(past, num_classes=stage.num_classes, warmup_epochs=stage.warmup_epochs), *more]
        callbacks += _writers(stage)
    if stage.callbacks.early_stopping:
        patience = stage.callbacks.early_stopping_patience
        callbacks.append(EarlyStopping(past, monitor=stage.monitor, mode="min", patience=patience, verbose=1))
    minutes = stage.callbacks.backup_minutes
    return [*callbacks, Backup(stage.backup, made_from=stage.made_from, minutes=minutes, skipped=step)]


def _writers(stage: Stage) -> list[keras.callbacks.Callback]:
    return [
        keras.callbacks.CSVLogger(str(stage.folder / "log.csv"), append=True),
        keras.callbacks.TensorBoard(str(stage.folder / "logs"), write_graph=False),
        keras.callbacks.ModelCheckpoint(str(stage.checkpoints / EPOCH_FILE)),
        # Copies the checkpoint, which is faster than writing a large model again.
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
    """Cut the log back to its first `rows` epochs, those of the backup."""
    lines = path.read_text().splitlines(keepends=True)[: rows + 1] if path.exists() else []
    with aside(path) as temporary:
        temporary.write_text("".join(lines) if rows else "")


def read_log(path: Path) -> list[dict]:
    """Read log.csv as [{epoch: int, loss: float, …}]."""
    with path.open(newline="") as file:
        return [{k: int(v) if k == "epoch" else float(v) for k, v in row.items()} for row in csv.DictReader(file)]
