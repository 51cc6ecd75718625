"""The report's headline, from stand-ins of what the gates measure."""

import pytest

from keras_pipeline.core.artifacts import Run
from keras_pipeline.evaluation import gate_metrics
from keras_pipeline.phases import report_sections


@pytest.mark.parametrize(
    ("difference", "verdict", "words"),
    [
        (0.03, "better", "student over the linear probe, which needs no training"),
        (-0.03, "worse", "student BELOW the linear probe, which needs no training"),
        (-0.01, "no difference shown", "student and linear probe: no difference shown"),
    ],
)
def test_a_student_below_the_probe_is_said_in_words(make_config, monkeypatch, difference, verdict, words):
    found = {"difference": difference, "interval": [difference - 0.02, difference + 0.02], "verdict": verdict}
    monkeypatch.setattr(gate_metrics, "over_probe", lambda run, model: {"student": found}[model])
    ((label, value),) = report_sections._over_probe(Run(make_config(), None)).items()
    assert (label, value) == (f"{words} [{difference - 0.02:+.3f}, {difference + 0.02:+.3f}]", f"{difference:+.3f}")


def test_a_headline_shows_no_number_that_could_not_have_been_another(make_config, monkeypatch):
    def one_species(*_):
        raise gate_metrics.Unmeasurable("all 16 test photos are of one species")

    monkeypatch.setattr(gate_metrics, "over_probe", one_species)
    run = Run(make_config(), None)
    assert report_sections._measured(run, one_species, "{:.1%}") == "not measurable"
    assert report_sections._measured(run, lambda run: 0.5, "{:.1%}") == "50.0%"
    assert report_sections._over_probe(run) == {
        "student over the linear probe: all 16 test photos are of one species": "not measurable"
    }


def test_what_is_out_of_date_is_named_in_short():
    rows = [{"step": f"phase{n} x", "state": "stale", "reason": "because " * 40} for n in range(6)]
    (told,) = report_sections._warnings(rows, ("phase",))
    assert told.text.startswith("Out of date: phase0 x (because because") and "; and 3 more. " in told.text
    assert len(told.text) < 450
    assert report_sections._warnings([rows[0] | {"state": "done"}], ("phase",)) == []


def test_the_first_missed_gates_are_what_to_do_next(make_config):
    missed = {"status": "missed", "words": "teacher", "reason": "raise phase1.training.epochs"}
    told = report_sections._advice(Run(make_config(), None), [missed] * 5)
    assert told == ["teacher: raise phase1.training.epochs"] * 3 + ["2 more gates are missed: see Gates."]
    assert report_sections._advice(Run(make_config(), None), [missed | {"status": "met"}]) == []
