"""Advice comes at exactly the symptoms that it is for, and once."""

import math

import pytest

from keras_pipeline.training.advice import FLAT, HIGH, RISING, Adviser, advice

HALF = 0.5 * math.log(10)  # of what a model that knows nothing of ten classes pays: 1.1513


def rows_of(losses, vals=None, rates=None):
    vals, rates = vals or [1.0] * len(losses), rates or [0.1] * len(losses)
    return [
        {"loss": loss, "val_loss": val, "learning_rate": rate}
        for loss, val, rate in zip(losses, vals, rates, strict=True)
    ]


def symptoms(losses, vals=None, rates=None, warmup_epochs=0.0):
    return set(advice(rows_of(losses, vals, rates), num_classes=10, warmup_epochs=warmup_epochs))


@pytest.mark.parametrize(
    "losses, flat",
    [
        ([2.0, 2.0, 2.0], True),
        ([1.5, 2.0, 1.5], True),  # the third epoch counts against the first
        ([2.0, 1.5, 1.49], False),
        ([2.0, 2.0, 1.981], True),  # 0.95 %
        ([2.0, 2.0, 1.979], False),  # 1.05 %
        ([2.0, 1.9, 1.9, 1.9], True),  # only the last three epochs count
        ([2.0, 2.0, 2.0, 1.9], False),
        ([HALF + 0.01] * 3, True),
        ([HALF - 0.01] * 3, False),  # this one has learnt something
    ],
)
def test_a_loss_that_does_not_fall(losses, flat):
    assert symptoms(losses) == ({FLAT} if flat else set())


@pytest.mark.parametrize("last, flat", [(0.1, True), (0.05, True), (0.049, False)])
def test_a_flat_loss_at_the_schedules_end_is_no_symptom(last, flat):
    assert (FLAT in symptoms([2.0, 2.0, 2.0], rates=[0.08, 0.1, last])) == flat


@pytest.mark.parametrize("warmup_epochs, epochs, flat", [(2, 4, False), (2, 5, True), (0.5, 3, False), (0.5, 4, True)])
def test_two_epochs_after_the_warm_up_and_not_before(warmup_epochs, epochs, flat):
    assert (FLAT in symptoms([2.0] * epochs, warmup_epochs=warmup_epochs)) == flat


FALLING = [0.9, 0.8, 0.7]


@pytest.mark.parametrize(
    "losses, vals, rising",
    [
        (FALLING, [1.0, 1.01, 1.051], True),
        (FALLING, [1.0, 1.01, 1.049], False),  # not 5 % above the best
        (FALLING, [1.0, 1.1, 1.1], False),  # rose once
        (FALLING, [1.0, 1.2, 1.1], False),
        ([0.9, 0.8, 0.8], [1.0, 1.1, 1.2], False),  # the training loss fell once
        ([0.9, 0.95, 0.7], [1.0, 1.1, 1.2], False),
        ([1.0, *FALLING], [1.0, 1.03, 1.04, 1.06], True),  # the best is of an epoch before these three
        ([1.0, *FALLING], [1.03, 1.03, 1.04, 1.06], False),
    ],
)
def test_val_loss_that_rises_while_the_training_loss_falls(losses, vals, rising):
    assert symptoms(losses, vals) == ({RISING} if rising else set())


def test_val_loss_is_looked_at_during_the_warm_up_too():
    assert symptoms(FALLING, [1.0, 1.1, 1.2], warmup_epochs=5) == {RISING}


def test_both_at_once():
    assert symptoms([2.0, 1.999, 1.998], [1.0, 1.1, 1.2]) == {FLAT, RISING}


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_fewer_than_three_epochs_tell_nothing(epochs):
    assert symptoms([2.0] * epochs, [1.0, 2.0][:epochs]) == set()


def test_each_remedy_names_its_knob():
    remedies = advice(rows_of([2.0, 1.999, 1.998], [1.0, 1.1, 1.2]), num_classes=10, warmup_epochs=0)
    assert "training.learning_rate" in remedies[FLAT] and "training.warmup_epochs" in remedies[FLAT]
    assert "training.weight_decay" in remedies[RISING]


def said(rows, capsys, past=()):
    """What an Adviser prints at the end of each epoch."""
    adviser = Adviser(list(past), num_classes=10, warmup_epochs=0)
    lines = []
    for epoch, row in enumerate(rows, start=len(past)):
        adviser.on_epoch_end(epoch, {**row, "top1": 0.5})
        lines.append(capsys.readouterr().out.strip())
    return lines


def test_each_piece_is_said_once_when_its_symptom_first_shows(capsys):
    losses = [2.0, 2.0, 2.0, 1.999, 1.998, 1.997]
    lines = said(rows_of(losses, [1.0, 1.0, 1.0, 1.1, 1.2, 1.3]), capsys)
    assert [line.split(":")[:2] for line in lines] == [
        [""], [""], ["epoch 3", f" {FLAT}"], [""], ["epoch 5", f" {RISING}"], [""],
    ]  # fmt: skip


def test_epochs_before_a_restart_count(capsys):
    rows = rows_of([2.0, 2.0, 2.0])
    assert said(rows[2:], capsys, past=rows[:2])[0].startswith(f"epoch 3: {FLAT}: lower ")
    assert said(rows[2:], capsys) == [""]


def test_what_was_said_before_a_restart_is_not_said_again(capsys):
    rows = rows_of([2.0] * 5)
    assert said(rows[3:], capsys, past=rows[:3]) == ["", ""]


@pytest.mark.parametrize("losses, warmup, expected", [
    ([2.0, 7.0], 0, {HIGH}),  # 3 ln 10 = 6.908
    ([2.0, 6.9], 0, set()),
    ([7.0], 0, set()),  # the first epoch may begin anywhere
    ([7.0, 7.0], 2, set()),
    ([9.0, 8.0, 7.0], 2, {HIGH}),
])  # fmt: skip
def test_a_loss_far_above_guessing_is_named_after_the_warm_up(losses, warmup, expected):
    assert symptoms(losses, warmup_epochs=warmup) == expected
