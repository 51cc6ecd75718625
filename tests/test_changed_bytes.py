"""A table with a changed byte or a missing end is named, whichever library stumbles over it."""

import contextlib

import numpy as np
import pandas as pd
import pytest

from keras_pipeline import __main__ as cli
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import write_json
from keras_pipeline.data import assignment
from keras_pipeline.evaluation import answers
from keras_pipeline.phases.staleness import write_sidecars
from keras_pipeline.phases.steps import STEPS

IDS = np.array([f"s{i}" for i in range(60)])
COLUMNS = {"sample_id": IDS, "region": IDS, "group_id": IDS, "label": np.arange(60), "answer": np.arange(60)}


def write_answers(path):
    np.savez_compressed(path, **COLUMNS, confidence=np.linspace(0, 1, 60, dtype=np.float32))


@pytest.mark.parametrize(
    ("name", "write", "read"),
    [
        ("predictions_test.npz", write_answers, answers.load_answers),
        ("assignment.parquet", pd.DataFrame(COLUMNS).to_parquet, lambda path: assignment.read(path, "`phase0 split`")),
        ("assignment.parquet", pd.DataFrame(COLUMNS).to_parquet, lambda path: assignment.read_columns(path, ["label"])),
    ],
)
def test_changed_bytes_are_told_by_the_files_name(tmp_path, name, write, read):
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    read(path)
    told = 0
    for position in range(0, len(whole), len(whole) // 150):
        for data in (whole[:position] + bytes([whole[position] ^ 0x21]) + whole[position + 1 :], whole[:position]):
            path.write_bytes(data)
            with contextlib.suppress(BrokenArtefact):
                read(path)
                told -= 1  # of a byte that says nothing
            told += 1
    assert told > 150


def test_answers_with_a_changed_byte_are_left_out_of_the_report(make_config, tmp_path, capsys):
    run = Run(make_config(), None)
    made = dict.fromkeys(("student_metrics", "student_metrics_val", "student_metrics_train"), {})
    made["url_check"] = {"failure_rate": 0.5, "interval": [0, 1], "complete": True}
    run.path("student_pictures").mkdir(parents=True)
    run.path("url_check").parent.mkdir()
    for name, value in made.items():
        write_json(run.path(name), value)
    write_answers(run.path("student_predictions"))
    for step in STEPS:
        if step.title in ("phase0 validate-urls", "phase4 evaluate"):
            write_sidecars(run, step, 1.0)
    data = bytearray(run.path("student_predictions").read_bytes())
    data[len(data) // 2] ^= 0xFF
    run.path("student_predictions").write_bytes(data)
    (tmp_path / "tiny.yaml").write_text(f"root: {tmp_path}\n")
    assert cli.main(["report", "--config", str(tmp_path / "tiny.yaml")]) == 0
    said = f"warning: phase4 evaluate is broken ({run.path('student_predictions')}: not what `phase4 evaluate` wrote; "
    assert said in capsys.readouterr().out
