"""The report's first screen and its card, from stand-ins of what the steps leave."""

import argparse
import json

import pytest

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import write_json
from keras_pipeline.core.sidecars import path_of
from keras_pipeline.evaluation import gate_metrics, probe_gate
from keras_pipeline.phases import model_card, report, report_sections, report_summary

COMMANDS = {"run": "python -m keras_pipeline run", "serve": "python -m keras_pipeline serve"}
MISSED = {
    "status": "missed", "words": "teacher, top-1", "value": 0.61234, "target": ">= 0.65",
    "reason": "raise phase1.training.epochs",
}  # fmt: skip


@pytest.fixture
def run(make_config):
    return Run(make_config(), None)


def row(step="phase4 finetune", state="done", reason=None):
    return {"step": step, "state": state, "reason": reason}


def one_species(*_):
    raise gate_metrics.Unmeasurable("all 16 test photos are of one species")


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("better", "better than the linear probe of phase 0, 69.2%"),
        ("worse", "WORSE than the linear probe of phase 0, 69.2%"),
        ("no difference shown", "not shown to be better than the linear probe of phase 0, 69.2%"),
    ],
)
def test_the_student_is_compared_with_the_probe_in_words(run, monkeypatch, verdict, words):
    monkeypatch.setattr(
        probe_gate, "over_probe", lambda _, model: {"student": {"first": 0.692, "verdict": verdict}}[model]
    )
    monkeypatch.setattr(probe_gate, "over_own_probe", lambda *_: None)
    assert report_summary._over_probe(run) == words
    monkeypatch.setattr(probe_gate, "over_own_probe", lambda *_: {"first": 0.5, "verdict": "better"})
    assert report_summary._over_probe(run) == f"better than the linear probe of its own features, 50.0%; {words}"


def test_no_metric_is_shown_that_could_not_have_been_another(run, monkeypatch):
    monkeypatch.setattr(probe_gate, "over_probe", one_species)
    monkeypatch.setattr(probe_gate, "over_own_probe", one_species)
    assert report_summary._measured(run, one_species, "{:.1%}") == "not measurable"
    assert report_summary._measured(run, lambda _: 0.5, "{:.1%}") == "50.0%"
    assert report_summary._over_probe(run) == "not compared with the linear probe"


def test_the_headline_has_five_metrics(run, monkeypatch):
    dataset = {"splits": {"train": {"n": 1500}, "test": {"n": 46}}, "classes": ["Iris", "Viola"]}
    judged = {"species": 1, "per_class_recall": {"Iris": {}, "Viola": {}}}
    metrics = {"teacher_metrics": judged, "student_metrics": judged | {"species": 2}}
    monkeypatch.setattr(Run, "read", lambda self, name: {"dataset": dataset, **metrics}[name])
    monkeypatch.setattr(report_summary, "_measured", lambda run, value, form: form.format(0.25))
    monkeypatch.setattr(report_summary, "_over_probe", lambda run: "better than the linear probe's 20.0%")
    assert report_summary.headline(run) == {
        "photos of 2 species": "1,546",
        "teacher, test top-1, judged on 1 of 2 species": "25.0%",
        "student, test top-1, judged on 2 of 2 species; better than the linear probe's 20.0%": "25.0%",
        "calibration error (ECE), as shipped": "0.250",
        "page answers equal to Python's": "25.0%",
    }


def test_a_warning_names_three_steps_in_short():
    rows = [row(f"phase{n} x", "stale", "because " * 40) for n in range(6)]
    text = report_summary.warning(rows, ("phase",))
    reason = "because " * 9 + "because…"  # 80 characters
    assert text.startswith(f"Out of date: phase0 x ({reason}); phase1 x ({reason}); phase2 x ({reason}); and 3 more. ")
    assert len(text) < 450
    assert report_summary.warning(rows, ("phase5",)).startswith("Out of date: phase5 x (")
    assert report_summary.warning([row()], ("phase",)) == ""


def test_a_report_of_an_unfinished_chain_says_so():
    rows = [row(), row("phase5 calibrate", "missing"), row("phase5 temperature", "missing")]
    assert report_summary.unfinished(rows) == "Not finished: 2 of 3 steps are not made yet, phase5 calibrate first."
    assert report_summary.unfinished([row()]) == ""


def test_missed_gates_advise_what_to_do_next(run):
    found = report_summary.advice(run, [row()], [MISSED] * 5, COMMANDS)
    gate = "teacher, top-1 (0.6123, target >= 0.65): raise phase1.training.epochs"
    assert found == [gate] * 3 + ["2 more gates are missed: see Gates."]


def test_a_run_that_is_out_of_date_is_renewed_first(run):
    run.path("web").mkdir(parents=True)
    rows = [row(), row(state="stale", reason="its code changed"), row(state="not applicable")]
    found = report_summary.advice(run, rows, [MISSED | {"status": "met"}], COMMANDS)
    assert found == ["Run what is missing or out of date, 1 step: `python -m keras_pipeline run`"]


def test_a_run_that_met_its_gates_is_looked_at(run):
    assert report_summary.advice(run, [row()], [], COMMANDS) == []  # no page yet
    run.path("web").mkdir(parents=True)
    assert report_summary.advice(run, [row()], [], COMMANDS) == [
        "Look at the page: `python -m keras_pipeline serve`",
        f"Publish its folder: `{run.path('web')}`",
    ]


def test_commands_can_be_pasted_and_hold_no_password():
    changes = ["root=/tmp/a b", "source.uri=mongodb://me:secret@host/db", "seed=7"]
    options = argparse.Namespace(config="my.yaml", set=changes)
    assert report.command("serve", options) == "python -m keras_pipeline serve --config my.yaml --set 'root=/tmp/a b'"
    assert report.command("run", options) == (
        "python -m keras_pipeline run --config my.yaml --set 'root=/tmp/a b' --set source.uri=mongodb://***@host/db "
        "--set seed=7"
    )


@pytest.mark.parametrize("state", ["stale", "failed", "running", "missing"])
def test_a_card_says_nothing_of_a_model_that_todays_config_does_not_describe(run, monkeypatch, state):
    monkeypatch.setattr(model_card, "sections", lambda run: pytest.fail("today's config is another model's"))
    run.folder.mkdir(parents=True)
    (block,) = report_sections._card(run, [row(state=state, reason="its config changed")])
    warning = (
        "Out of date: phase4 finetune (its config changed). These metrics may come from different runs; `run` renews "
        "them."
    )
    assert block.text == warning
    name = run.config.experiment
    card = (run.folder / "model_card.md").read_text()
    assert card == f"# Model card: {name}\n\n## Out of date\n\n{warning}\n"


def test_a_card_needs_no_manifest(run, monkeypatch):
    monkeypatch.setattr(model_card, "sections", lambda run: [("What it is", [])])
    run.folder.mkdir(parents=True)
    (block,) = report_sections._card(run, [row(), row("phase7 manifest", "stale", "its config changed")])
    assert block.title == "What it is"


def test_a_card_compares_student_and_teacher_with_the_probe(run, monkeypatch):
    def over_probe(run, model):
        if model == "teacher":
            one_species()
        return {
            "first": 0.5, "second": 0.625, "difference": 0.125, "interval": [-0.25, 0.5],
            "verdict": "no difference shown",
        }  # fmt: skip

    monkeypatch.setattr(probe_gate, "over_probe", over_probe)
    monkeypatch.setattr(probe_gate, "over_own_probe", lambda run, model: over_probe(run, model) | {"first": 0.375})
    monkeypatch.setattr(Run, "read", lambda self, name: {"baseline": {"features": "imagenet"}}[name])
    table, paragraph = model_card._over_probe(run)
    rest = ["+0.125", "-0.250 to +0.500", "no difference shown"]
    own = ["student", "its own", 0.625, 0.375, *rest]
    assert table.rows == [own, ["student", "phase 0's (imagenet)", 0.625, 0.5, *rest]]
    assert paragraph.text == (
        "global teacher, not compared with the linear probe: all 16 test photos are of one species."
    )


def comparison(global_top1, regional_top1, verdict):
    entry = {
        "n": 40, "first": global_top1, "second": regional_top1, "difference": regional_top1 - global_top1,
        "interval": [-0.3, 0.1], "verdict": verdict,
    }  # fmt: skip
    return {"region": "EU_SW", "by_region": {"all": entry | {"second": 0.0}, "EU_SW": entry}}


@pytest.mark.parametrize(
    ("verdict", "more"), [("worse", "more than chance"), ("no difference shown", "not shown to be more than chance")]
)
def test_a_card_says_where_the_regional_teacher_was_worse_in_its_region(run, verdict, more):
    run.path("regional_comparison").parent.mkdir(parents=True)
    write_json(run.path("regional_comparison"), comparison(0.75, 0.65, verdict))
    (block,) = model_card._regional(run)
    assert block.text == (
        "The regional teacher was worse than the global one in its own region, EU_SW: top-1 0.650 against 0.750 on 40 "
        f"test photos (difference -0.100, 95 % interval -0.300 to +0.100, {more}). The student has learnt from both."
    )
    write_json(run.path("regional_comparison"), comparison(0.65, 0.75, "better"))
    assert model_card._regional(run) == []
    # Where the region is the species' own, the fair comparison counts.
    fair = comparison(0.65, 0.75, "better") | {"among_its_species": comparison(0.8, 0.7, "worse")["by_region"]["EU_SW"]}
    write_json(run.path("regional_comparison"), fair)
    assert "top-1 0.700 against 0.800 on 40" in model_card._regional(run)[0].text


@pytest.mark.parametrize(
    ("per_region", "where"),
    [
        ({"EU": 60, "EU_SW": 40}, "in EU, EU_SW."),
        ({"EU": 60, "unknown": 40}, "in EU (of 40.0% of the train photos the region is not known)."),
        ({"unknown": 100}, "in this collection (of 100.0% of the train photos the region is not known)."),
    ],
)
def test_a_card_says_where_the_photos_are_from_and_of_how_many_it_is_not_known(run, per_region, where):
    run.path("dataset").parent.mkdir(parents=True)
    write_json(run.path("dataset"), {"splits": {"train": {"n": 100, "per_region": per_region}}})
    first, _ = model_card._use(run)
    assert first.text.endswith(f"as they are photographed {where}")


def test_a_teacher_is_described_by_the_config_it_was_made_with(run, monkeypatch):
    monkeypatch.setattr(report_sections, "_network", lambda *_: [])
    teacher = run.path("teacher")
    teacher.parent.mkdir(parents=True)
    made_with = {"phase1.model.name": "vit_small", "phase1.data.image_size": 208}
    meta = {
        "content_hash": "", "size": 1, "mtime_ns": 1, "producer": "phase1 train", "code_version": 1, "config_hash": "",
        "config": made_with, "inputs": {}, "seconds": 1.0, "finished": "",
    }  # fmt: skip
    path_of(teacher).write_text(json.dumps(meta))
    assert (run.config.phase1.model.name, run.config.phase1.data.image_size) != ("vit_small", 208)
    (block,) = report_sections._teacher(run)
    assert block.text == "vit_small at 208 px."


def metrics_of(species, **entry):
    """Metrics of as many species, all with one entry; 40 % of all photos are right."""
    recall = {"n": 1, "groups": 1, "recall": 0.0, "interval": [0.0, 0.975], **entry}
    return {"top1_accuracy": 0.4, "per_class_recall": {f"Genus{i} species": recall for i in range(species)}}


def test_of_many_species_those_are_listed_that_are_surely_worse_than_all_photos():
    (few,) = model_card.lowest_recalls(metrics_of(100), 10, "Student")
    assert len(few.rows) == 10 and few.rows[0][1:4] == [1, 1, 0.0]
    (none,) = model_card.lowest_recalls(metrics_of(101), 10, "Student")
    assert none.text.startswith("Student: no species is certainly recognised worse than all photos together (0.400)")
    many = metrics_of(101)
    bad = {"n": 14, "groups": 9, "recall": 0.0, "interval": [0.0, 0.336]}
    many["per_class_recall"]["Viola alba"] = bad
    (table,) = model_card.lowest_recalls(many, 10, "Student")
    assert [row[:4] for row in table.rows] == [["Viola alba", 14, 9, 0.0]]


def test_confusions_of_one_group_each_are_called_examples():
    pair = {"truth": "Iris", "answer": "Viola", "n": 3, "groups": 1, "share": 0.5, "interval": [0.1, 0.9]}
    metrics = {"confused_pairs": [pair, pair], "confused_genera": [pair, pair | {"groups": 2}]}
    (pairs,) = model_card.confused_table(metrics, "confused_pairs", 1, "Most confused")
    assert pairs.rows == [["Iris", "Viola", 3, 1, 0.5]] and pairs.caption.endswith("examples, not a pattern")
    (genera,) = model_card.confused_table(metrics, "confused_genera", 9, "Most confused")
    assert len(genera.rows) == 2 and genera.caption == "Most confused"


def test_recall_is_listed_by_train_photos_where_species_differ_in_them():
    row = {"train": [2, 4], "species": 3, "n": 9, "groups": 5, "recall": 0.5, "interval": [0.2, 0.8]}
    assert model_card.recall_table({"recall_by_train_photos": [row]}, "Recall") == []
    (table,) = model_card.recall_table({"recall_by_train_photos": [row, row | {"train": [100, None]}]}, "Recall")
    assert [each[:5] for each in table.rows] == [["2–4", 3, 9, 5, 0.5], ["100+", 3, 9, 5, 0.5]]


def test_metrics_of_an_older_program_have_none_of_it():
    old = metrics_of(900) | {"confused_pairs": [{"truth": "Iris", "answer": "Viola", "n": 3, "share": 0.5}]}
    assert not model_card.is_by_genus(old) and model_card.recall_table(old, "Recall") == []
    assert model_card.confused_table(old, "confused_genera", 9, "Most confused") == []
    (pairs,) = model_card.confused_table(old, "confused_pairs", 9, "Most confused")
    assert pairs.rows == [["Iris", "Viola", 3, None, 0.5]] and pairs.caption == "Most confused"
    assert model_card.is_by_genus(old | {"confused_genera": []})
    assert not model_card.is_by_genus(metrics_of(100) | {"confused_genera": []})
