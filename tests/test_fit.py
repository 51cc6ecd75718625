"""Training that was killed and started again ends where the uninterrupted one ends."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_pipeline.core.config.teachers import Callbacks
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.training import fit
from keras_pipeline.training.distiller import Distiller
from keras_pipeline.training.losses import EMPTY_TAIL
from keras_pipeline.training.schedule import build_optimizer

STEPS, SIZE = 3, 8
PLAIN = Callbacks(early_stopping=False)


def model_of(learning_rate=0.05):
    """Dropout, BatchNorm and AdamW: everything that keeps state between steps."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, activation="relu")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.Dropout(0.5)(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    optimizer = build_optimizer("adamw", learning_rate=learning_rate, weight_decay=0.01, steps=5 * STEPS, warmup=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=[keras.metrics.SparseCategoricalAccuracy(name="top1")])
    return model


def cheap_model(learning_rate=0.01, **options):
    """Runs eagerly: tracing costs more than these few steps."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(
        build_optimizer("sgd", learning_rate=learning_rate, weight_decay=0, steps=99, warmup=0, **options),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    return model


def batches(epochs, done=0, die_in=None, scale=1.0):
    """Batches as functions of the epoch; raises in the middle of epoch `die_in`, as a kill would."""

    def generate():
        for epoch in epochs:
            for step in range(done if epoch == epochs.start else 0, STEPS):
                if epoch == die_in and step == 1:
                    raise RuntimeError("killed")
                rng = np.random.default_rng([epoch, step])
                y = rng.integers(0, 3, SIZE)
                yield (scale * (rng.normal(size=(SIZE, 4)) + y[:, None])).astype("float32"), y

    signature = (tf.TensorSpec((SIZE, 4), tf.float32), tf.TensorSpec((SIZE,), tf.int64))
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


VALIDATION = batches(range(100, 102)).apply(tf.data.experimental.assert_cardinality(2 * STEPS))


def stage_of(folder, epochs=5, callbacks=PLAIN, made_from=""):
    return fit.Stage(folder, epochs, STEPS, SIZE, 3, 0, callbacks, made_from=made_from)


def same_rows(a, b):
    """All but the speed."""
    return [{**x, "images_per_second": 0} for x in a] == [{**x, "images_per_second": 0} for x in b]


def weights_of(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


def test_a_killed_run_started_again_equals_the_uninterrupted_one(tmp_path):
    whole = model_of()
    expected = fit.fit(whole, batches, VALIDATION, stage_of(tmp_path / "whole"))

    with pytest.raises(Exception, match="killed"):
        fit.fit(
            model_of(), lambda epochs, done: batches(epochs, done, die_in=3), VALIDATION, stage_of(tmp_path / "killed")
        )
    again, asked = model_of(), []
    rows = fit.fit(
        again, lambda e, done: asked.append((e, done)) or batches(e, done), VALIDATION, stage_of(tmp_path / "killed")
    )

    assert asked == [(range(3, 5), 0)]
    np.testing.assert_array_equal(weights_of(again), weights_of(whole))
    assert same_rows(rows, expected)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    for name in ("best.keras", "checkpoints/epoch-005.keras"):
        models = [keras.saving.load_model(tmp_path / run / name) for run in ("whole", "killed")]
        np.testing.assert_array_equal(weights_of(models[0]), weights_of(models[1]))


def test_killed_inside_an_epoch_it_goes_on_at_that_step(tmp_path):
    often = Callbacks(early_stopping=False, backup_minutes=0)
    whole, again = model_of(), model_of()
    expected = fit.fit(whole, batches, VALIDATION, stage_of(tmp_path / "whole"))
    with pytest.raises(Exception, match="killed"):
        fit.fit(model_of(), lambda e, d: batches(e, d, die_in=2), VALIDATION, stage_of(tmp_path / "a", 5, often))
    asked = []
    rows = fit.fit(again, lambda *of: asked.append(of) or batches(*of), VALIDATION, stage_of(tmp_path / "a", 5, often))
    assert asked == [(range(2, 3), 1), (range(3, 5), 0)]
    np.testing.assert_array_equal(weights_of(again), weights_of(whole))
    assert same_rows(rows, expected)  # the metrics of the broken epoch too


@pytest.mark.parametrize("die_in", [1, 2])  # with one gradient of two, and with none, still to come
def test_accumulated_gradients_outlive_a_kill(tmp_path, die_in):
    often = Callbacks(early_stopping=False, backup_minutes=0)
    whole, again = (cheap_model(0.1, gradient_accumulation=2, clip_norm=0.5) for _ in range(2))
    fit.fit(whole, batches, VALIDATION, stage_of(tmp_path / "whole", 3))
    with pytest.raises(Exception, match="killed"):
        doomed = cheap_model(0.1, gradient_accumulation=2, clip_norm=0.5)
        fit.fit(doomed, lambda e, d: batches(e, d, die_in=die_in), VALIDATION, stage_of(tmp_path / "a", 3, often))
    fit.fit(again, batches, VALIDATION, stage_of(tmp_path / "a", 3, often))
    np.testing.assert_array_equal(weights_of(again), weights_of(whole))


def test_a_flat_loss_is_said_once_also_with_epochs_of_before_a_restart(tmp_path, capsys):
    # Of photos that are all zeros nothing can be learnt but the classes' shares, and that at a rate of 1e-9.
    def run(folder, epochs):
        zeros = lambda *of: batches(*of, scale=0.0)  # noqa: E731
        fit.fit(cheap_model(1e-9), zeros, VALIDATION, stage_of(tmp_path / folder, epochs))
        return [line for line in capsys.readouterr().out.splitlines() if "the loss does not fall" in line]

    said = run("whole", 4)
    assert len(said) == 1 and said[0].startswith("epoch 3: the loss does not fall: lower training.learning_rate")
    assert run("killed", 2) == [] and run("killed", 3) == said


def test_a_loss_that_falls_is_not_remarked_on(tmp_path, capsys):
    fit.fit(cheap_model(0.1), batches, VALIDATION, stage_of(tmp_path, 3))
    assert "does not fall" not in capsys.readouterr().out


SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import keras
import test_fit as t

class Die(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            os._exit(9)  # no finally, no atexit: as SIGKILL

whole = t.fit._callbacks
# After the CSV log and the checkpoints, before the backup: the worst moment.
t.fit._callbacks = lambda *of, **how: [*whole(*of, **how)[:-1], Die(), whole(*of, **how)[-1]]
t.fit.fit(t.model_of(), t.batches, t.VALIDATION, t.stage_of(Path(sys.argv[1])))
"""


def test_a_process_killed_between_log_and_backup_repeats_that_epoch_once(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, str(tmp_path / "killed")]
    assert subprocess.run(command, capture_output=True, timeout=120, cwd=Path(__file__).parents[1]).returncode == 9
    assert len(fit.read_log(tmp_path / "killed" / "log.csv")) == 2  # the log already has epoch 1, the backup has not
    again, whole = model_of(), model_of()
    rows = fit.fit(again, batches, VALIDATION, stage_of(tmp_path / "killed"))
    fit.fit(whole, batches, VALIDATION, stage_of(tmp_path / "whole"))
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(weights_of(again), weights_of(whole))


def test_a_killed_distiller_goes_on_and_leaves_the_student(tmp_path):
    def distiller():
        keras.utils.set_random_seed(3)
        student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model = Distiller(student, temperature=3.0, soft=0.7, cross_entropy=0.3, loss="kl")
        model.compile(build_optimizer("adam", learning_rate=0.1, weight_decay=0, steps=6, warmup=1), run_eagerly=True)
        return model

    def taught(epochs, done=0, die_in=None):
        ids, tail = tf.tile([[[0, 1, 2]]], [SIZE, 1, 1]), tf.fill([SIZE, 1], EMPTY_TAIL)
        return batches(epochs, done, die_in).map(
            lambda x, y: ({"image": x, "teacher_ids": ids, "teacher_logits": x[:, None, :3], "teacher_tail": tail}, y)
        )

    validation, killed = VALIDATION.map(lambda x, y: ({"image": x}, y)), stage_of(tmp_path / "killed", 2)
    with pytest.raises(Exception, match="killed"):
        fit.fit(distiller(), lambda epochs, done: taught(epochs, done, die_in=1), validation, killed)
    again, whole = distiller(), distiller()
    rows = fit.fit(again, taught, validation, killed)
    assert same_rows(rows, fit.fit(whole, taught, validation, stage_of(tmp_path / "whole", 2)))
    np.testing.assert_array_equal(weights_of(again), weights_of(whole))
    assert not isinstance(keras.saving.load_model(killed.best), Distiller)


def test_a_finished_stage_is_not_trained_again(tmp_path):
    rows = fit.fit(cheap_model(), batches, VALIDATION, stage_of(tmp_path, epochs=2))
    assert fit.fit(cheap_model(), None, None, stage_of(tmp_path, epochs=2)) == rows


def test_unfinished_training_of_other_settings_is_set_aside_and_comes_back(tmp_path, capsys):
    """A kill in epoch 3 of 3, a run of other settings to its end, then the first settings again."""
    first = stage_of(tmp_path / "full", 3, made_from="first settings")
    other = stage_of(tmp_path / "full", 1, made_from="other")
    with pytest.raises(Exception, match="killed"):
        fit.fit(cheap_model(), lambda epochs, done: batches(epochs, done, die_in=2), VALIDATION, first)
    asked = []
    rows = fit.fit(cheap_model(), lambda e, done: asked.append((e, done)) or batches(e, done), VALIDATION, other)
    assert asked == [(range(1), 0)] and [row["epoch"] for row in rows] == [0]
    assert not (tmp_path / "full/checkpoints/epoch-002.keras").exists()  # of the other run
    assert "after epoch 2, step 0) is set aside in" in capsys.readouterr().out
    fit.shutil.rmtree(other.backup)  # as after a step that has come to its end
    fit.fit(cheap_model(), lambda e, done: asked.append((e, done)) or batches(e, done), VALIDATION, first)
    assert asked[1:] == [(range(2, 3), 0)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full"]


def test_killed_while_the_backup_is_written_the_older_one_serves(tmp_path, monkeypatch):
    def torn(self, *_, **__):
        Path(self._folder, "epoch-002-step-000000.weights.h5").write_bytes(b"half a file")
        raise KeyboardInterrupt

    fit.fit(cheap_model(), batches, VALIDATION, stage_of(tmp_path, 1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit.Backup, "_write", torn)
        fit.fit(cheap_model(), batches, VALIDATION, stage_of(tmp_path, 3))
    again, whole = cheap_model(), cheap_model()
    rows = fit.fit(again, batches, VALIDATION, stage_of(tmp_path, 3))
    assert same_rows(rows, fit.fit(whole, batches, VALIDATION, stage_of(tmp_path / "whole", 3)))
    np.testing.assert_array_equal(weights_of(again), weights_of(whole))


class Scripted(keras.callbacks.Callback):
    """Puts given numbers in the place of val loss."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


@pytest.fixture
def scripted(monkeypatch):
    """(stage, val losses, epoch to die in) -> rows of a run whose val losses are as told."""
    original = fit._callbacks

    def run(stage, values, die_in=None):
        monkeypatch.setattr(fit, "_callbacks", lambda *of, **how: [Scripted(values), *original(*of, **how)])
        return fit.fit(cheap_model(), lambda epochs, done: batches(epochs, done, die_in), VALIDATION, stage)

    return run


def test_best_is_the_epoch_of_lowest_val_loss(tmp_path, scripted):
    scripted(stage_of(tmp_path, 4), [3.0, 1.0, 2.0, 1.5])
    best, second = (keras.saving.load_model(tmp_path / n) for n in ("best.keras", "checkpoints/epoch-002.keras"))
    np.testing.assert_array_equal(weights_of(best), weights_of(second))


def test_without_save_best_the_last_epoch_is_kept(tmp_path, scripted):
    scripted(stage_of(tmp_path, 3, Callbacks(early_stopping=False, save_best=False)), [1.0, 2.0, 3.0])
    best, last = (keras.saving.load_model(tmp_path / n) for n in ("best.keras", "checkpoints/epoch-003.keras"))
    np.testing.assert_array_equal(weights_of(best), weights_of(last))


def test_a_worse_epoch_after_a_restart_does_not_replace_the_best(tmp_path, scripted):
    with pytest.raises(Exception, match="killed"):
        scripted(stage_of(tmp_path, 4), [3.0, 1.0, 2.0, 1.5], die_in=2)
    before = content_hash(tmp_path / "best.keras")  # of the weights: the file holds the second in which it was saved
    scripted(stage_of(tmp_path, 4), [3.0, 1.0, 2.0, 1.5])
    assert content_hash(tmp_path / "best.keras") == before


def test_early_stopping_remembers_the_epochs_before_a_restart(tmp_path, scripted):
    losses, patient = [2.0, 1.0, 1.1, 1.2, 0.5], Callbacks(early_stopping_patience=2)
    with pytest.raises(Exception, match="killed"):
        scripted(stage_of(tmp_path / "a", 5, patient), losses, die_in=3)
    rows = scripted(stage_of(tmp_path / "a", 5, patient), losses)
    assert [row["val_loss"] for row in rows] == [2.0, 1.0, 1.1, 1.2]  # epoch 3 is the second without a better one
    uninterrupted = scripted(stage_of(tmp_path / "b", 5, patient), losses)
    assert [row["val_loss"] for row in uninterrupted] == [2.0, 1.0, 1.1, 1.2]


def test_an_early_stopped_stage_is_not_trained_further_on_restart(tmp_path, scripted):
    patient = Callbacks(early_stopping_patience=2)
    rows = scripted(stage_of(tmp_path, 5, patient), [1.0, 1.1, 1.2, 0.5, 0.4])
    assert len(rows) == 3
    assert fit.fit(cheap_model(), None, None, stage_of(tmp_path, 5, patient)) == rows


def test_divergence_is_reported_with_a_remedy(tmp_path):
    fit.fit(cheap_model(), batches, VALIDATION, stage_of(tmp_path, 1))
    wild = lambda epochs, done: batches(epochs, done, scale=np.inf)  # noqa: E731
    kept = "loss nan in epoch 2 at step 1; the last good checkpoint is .*epoch-001.keras. Lower the learning rate"
    with pytest.raises(ValueError, match=kept):
        fit.fit(cheap_model(), wild, VALIDATION, stage_of(tmp_path, 2))


def test_traces_of_a_run(tmp_path):
    rows = fit.fit(model_of(), batches, VALIDATION, stage_of(tmp_path, 2))
    rates = {"learning_rate", "gradient_norm", "images_per_second"}
    assert set(rows[0]) == {"epoch", "loss", "top1", "val_loss", "val_top1"} | rates
    assert all(row["gradient_norm"] > 0 and row["images_per_second"] > 0 for row in rows)
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["epoch-001.keras", "epoch-002.keras"]
    assert {p.name for p in (tmp_path / "logs").iterdir()} == {"train", "validation"}
    assert json.loads((tmp_path / "backup" / "position.json").read_text())["epoch"] == 2


def test_checkpoint_dir_moves_the_checkpoints(tmp_path):
    """Each experiment's, phase's and stage's apart, because they may share the setting."""
    callbacks = Callbacks(early_stopping=False, checkpoint_dir=str(tmp_path / "elsewhere"))
    stage = stage_of(tmp_path / "demo/phase1/full", 1, callbacks)
    fit.fit(cheap_model(), batches, VALIDATION, stage)
    assert [p.name for p in (tmp_path / "elsewhere/demo/phase1/full").iterdir()] == ["epoch-001.keras"]
    assert not (stage.folder / "checkpoints").exists()


def test_settings_that_share_a_checkpoint_dir_keep_their_best(tmp_path):
    """Killed in epoch 3, another's run in between: the best epoch that comes back is one's own."""
    callbacks = Callbacks(early_stopping=False, checkpoint_dir=str(tmp_path / "elsewhere"))
    first = stage_of(tmp_path / "demo/phase1/full", 3, callbacks, made_from="first settings")
    other = stage_of(tmp_path / "demo/phase1/full", 3, callbacks, made_from="other")
    with pytest.raises(Exception, match="killed"):
        fit.fit(cheap_model(), lambda epochs, done: batches(epochs, done, die_in=2), VALIDATION, first)
    before = {file.name: content_hash(file) for file in first.checkpoints.iterdir()}
    fit.fit(cheap_model(), lambda e, done: batches(e, done, scale=2.0), VALIDATION, other)
    assert {file.name: content_hash(file) for file in first.checkpoints.iterdir()} == before != {}


def test_a_checkpoint_dir_that_cannot_be_is_named_and_costs_nothing(tmp_path):
    fit.fit(cheap_model(), batches, VALIDATION, stage_of(tmp_path / "full", 1))
    before = (tmp_path / "full/backup/position.json").read_text()
    (tmp_path / "file").write_text("")
    wrong = Callbacks(early_stopping=False, checkpoint_dir=str(tmp_path / "file"))
    with pytest.raises(ValueError, match="callbacks.checkpoint_dir: .*Not a directory.*give a writable folder"):
        fit.fit(cheap_model(), batches, VALIDATION, stage_of(tmp_path / "full", 2, wrong))
    assert (tmp_path / "full/backup/position.json").read_text() == before


def test_too_little_memory_is_answered_with_what_needs_less(tmp_path, monkeypatch):
    model = cheap_model()

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "failed to allocate memory\nand much more")

    monkeypatch.setattr(model, "train_step", full)
    told = r"\(failed to allocate memory\); set training.batch_size below 8 .*gradient_accumulation.*mixed_bfloat16"
    with pytest.raises(ValueError, match=told):
        fit.fit(model, batches, VALIDATION, stage_of(tmp_path, 1))


def test_the_model_it_starts_from_counts_as_epoch_0(tmp_path, capsys):
    """A high learning rate only does harm: the start stays the best model, also when the stage is asked for again."""
    model = cheap_model(20.0)
    set_to = [np.full((4, 3), 0.25, "float32"), np.zeros(3, "float32")]
    stage = stage_of(tmp_path, 2)
    rows = fit.fit(model, batches, VALIDATION, stage, start=lambda: model.set_weights(set_to))
    start = fit.read_start(stage)
    assert start["val_loss"] == pytest.approx(np.log(3), rel=1e-5)  # the same logit for each class
    assert min(row["val_loss"] for row in rows) > start["val_loss"]
    np.testing.assert_array_equal(keras.saving.load_model(stage.best, compile=False).get_weights()[0], set_to[0])
    assert "no epoch has a lower val loss than the model it started from" in capsys.readouterr().out
    assert fit.fit(cheap_model(), None, None, stage, start=lambda: pytest.fail("it resumes")) == rows
    assert stage.start.exists()


def test_an_epoch_that_is_better_than_the_start_is_best(tmp_path):
    stage = stage_of(tmp_path, 2)
    rows = fit.fit(cheap_model(0.01), batches, VALIDATION, stage, start=fit.as_it_is)
    losses = [fit.read_start(stage)["val_loss"], *(row["val_loss"] for row in rows)]
    assert losses.index(min(losses)) == 2
    best, last = (keras.saving.load_model(path) for path in (stage.best, stage.checkpoints / "epoch-002.keras"))
    np.testing.assert_array_equal(weights_of(best), weights_of(last))


def test_a_start_changes_nothing_of_what_a_killed_run_repeats(tmp_path):
    often = Callbacks(early_stopping=False, backup_minutes=0)
    expected = fit.fit(model_of(), batches, VALIDATION, stage_of(tmp_path / "whole", 3), start=fit.as_it_is)
    stage = stage_of(tmp_path / "killed", 3, often)
    with pytest.raises(Exception, match="killed"):
        fit.fit(model_of(), lambda e, d: batches(e, d, die_in=1), VALIDATION, stage, start=fit.as_it_is)
    before = fit.read_start(stage)
    rows = fit.fit(model_of(), batches, VALIDATION, stage, start=lambda: pytest.fail("it resumes"))
    assert same_rows(rows, expected) and fit.read_start(stage) == before


def test_a_stage_without_a_start_forgets_an_earlier_ones(tmp_path):
    fit.fit(cheap_model(), batches, VALIDATION, stage_of(tmp_path, 1, made_from="a"), start=fit.as_it_is)
    (tmp_path / "backup/position.json").unlink()
    stage = stage_of(tmp_path, 1, made_from="b")
    fit.fit(cheap_model(), batches, VALIDATION, stage)
    assert fit.read_start(stage) is None and not stage.start.exists()
