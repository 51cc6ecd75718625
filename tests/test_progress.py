"""Progress where nobody watches: whole lines, one a minute, with total, rate and time left."""

import itertools
import re

import pytest

from keras_pipeline.core import progress as module


def test_one_line_a_minute_when_not_on_a_terminal(monkeypatch, capsys):
    clock = itertools.count()
    bar = module.progress(total=200, description="export", unit="photos")
    bar._time = lambda: next(clock)  # a second a photo
    bar.start_t = bar.last_print_t = 0
    for _ in range(200):
        bar.update()
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 5 and "\r" not in "".join(lines)
    assert all(re.search(r"export: +\d+%.*\d+/200 \[.*<.*photos.*\]", line) for line in lines)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (75, "1 min 15 s"), (3599.4, "59 min 59 s"),
        (3599.7, "1 h 0 min"), (7260, "2 h 1 min"), (86_399, "1 d 0 h"), (200_000, "2 d 8 h"),
    ],
)  # fmt: skip
def test_durations_in_two_units(seconds, words):
    assert module.duration(seconds) == words
