"""Which photos the page is asked about, and what of the proof is said."""

import hashlib
import os
import re
from types import SimpleNamespace

import pytest

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_dict
from keras_pipeline.phases.phase6_export import export, validate


def test_about_json_holds_the_metrics_of_the_shipped_weights_and_no_secret(tmp_path):
    source = {"uri": "mongodb://reader:secret@nowhere"}
    run = Run(from_dict({"experiment": "x", "root": str(tmp_path), "source": source}), None)
    info = SimpleNamespace(classes=["Bellis perennis", "Iris pumila"], class_hash="f" * 64)
    measured = {"n": 17, "top1": 0.75, "ece": {"value": 0.03, "interval": [0.01, 0.05]}}
    about = export._about(run, info, {"after": measured, "threshold": None, "coverage": 0.0, "temperature": 1.5})
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", about.pop("date"))
    assert set(about.pop("code")) == {"version", "git_commit", "git_dirty"}
    assert about == {
        "experiment": "x", "species": 2, "class_hash": "f" * 64, "test_photos": 17, "top1": 0.75, "ece": 0.03,
        "threshold": None, "coverage": 0.0,
    }  # fmt: skip


@pytest.fixture
def originals(tmp_path):
    """(settings of phase 6, contents of photos that are test records) -> samples"""
    folder = tmp_path / "camera"
    (folder / "2024").mkdir(parents=True)
    for name, content in (("2024/a.JPG", b"a"), ("b.png", b"b"), ("c.jfif", b"c"), ("notes.txt", b"a")):
        (folder / name).write_bytes(content)

    def originals(known, **settings):
        config = from_dict(
            {"experiment": "x", "root": str(tmp_path), "source": {"uri": "mongodb://nowhere"}, "phase6": settings}
        )
        photos = [SimpleNamespace(sha256=hashlib.sha256(c).hexdigest(), label=3, sample_id=c.decode()) for c in known]
        return validate._Originals(Run(config, None), SimpleNamespace(photos=lambda: photos))

    originals.folder = folder
    return originals


def test_originals_of_test_records_are_asked_and_no_others(originals):
    (sample,) = originals([b"a", b"z"], photos=str(originals.folder))
    assert (sample.name, sample.photo, sample.label, sample.record) == ("2024/a.JPG", b"a", 3, "a")


def test_where_none_is_a_record_all_are_asked_up_to_the_number_wanted(originals):
    found = list(originals([b"z"], photos=str(originals.folder)))
    assert [(sample.name, sample.label) for sample in found] == [
        ("2024/a.JPG", None),
        ("b.png", None),
        ("c.jfif", None),
    ]
    for number in range(30):
        (originals.folder / f"more-{number}.jpg").write_bytes(b"more")
    assert len(list(originals([b"z"], photos=str(originals.folder), validation_photos=21))) == 21


def test_what_is_no_file_is_left_alone(originals):
    os.mkfifo(originals.folder / "pipe.jpg")
    (originals.folder / "folder.jpg").mkdir()
    (originals.folder / "dangling.jpg").symlink_to("nowhere")
    assert {sample.name for sample in originals([b"z"], photos=str(originals.folder))} == {
        "2024/a.JPG",
        "b.png",
        "c.jfif",
    }


def test_without_a_folder_there_are_none(originals):
    assert list(originals([b"a"])) == []


@pytest.mark.parametrize(("name", "match"), [("nowhere", "expected a folder of photos"), ("empty", "no photo in")])
def test_a_folder_without_photos_is_refused(originals, tmp_path, name, match):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=match):
        originals([b"a"], photos=str(tmp_path / name))


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ({"conclusive_agreement": 0.9975}, "top-5 100.00%, 'conclusive' 99.75% the same"),
        ({"conclusive_agreement": None}, "top-5 100.00% the same"),  # a note gives the reason
        ({}, "top-5 100.00% the same"),
    ],
)
def test_agreement_on_conclusive_is_told_where_it_was_judged(verdicts, said):
    stage = dict.fromkeys(("top1_agreement", "top5_agreement", "max_abs_diff", "total_variation", "median_ms"), 1.0)
    figures = {"renderer": "x", "load_ms": 1.0, "first_ms": 2.0, "leaked_tensors": 0, "timing": {"peak_memory_mb": 1}}
    stage |= verdicts | {"n": 4, "passed": True}
    told = validate._describe_backend("wasm", {**figures, "stages": {"png": stage}})
    assert told[1].startswith(f"  png, n 4: passed; top-1 100.00%, {said}, largest")


def test_a_backend_without_answers_is_described():
    stage = {"n": 4, "passed": False, "error": "4 of 4 answers are missing or not finite"}
    figures = {"renderer": "x", "load_ms": 1.0, "first_ms": 2.0, "leaked_tensors": 0, "stages": {"tensor": stage}}
    told = validate._describe_backend("wasm", {**figures, "timing": {"peak_memory_mb": None}})
    assert told == [
        "wasm (x): load 1 ms, first answer 2 ms; 0 tensors leaked",
        "  tensor, n 4: FAILED; 4 of 4 answers are missing or not finite",
    ]
