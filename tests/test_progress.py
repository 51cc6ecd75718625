"""Progress where nobody watches: whole lines, one a minute, with total, rate and time left."""

import itertools
import re

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
