"""Gates: met, missed, or not measurable here, at exactly the plan's comparison."""

import contextlib

import pytest

from keras_pipeline.core.artifacts import Run, write_json
from keras_pipeline.phases import gates


@pytest.fixture
def judge(make_config):
    """(artefacts as JSON, limits) -> {name: verdict} of the gates of one step."""

    def judge(step, artefacts, **limits):
        run = Run(make_config(gates=limits), lambda: contextlib.nullcontext())
        for name, value in artefacts.items():
            run.path(name).parent.mkdir(parents=True, exist_ok=True)
            write_json(run.path(name), value)
        return {verdict["name"]: verdict for verdict in gates.judge(run, {step})}

    return judge


TEACHER = {
    "top1_accuracy": 0.70, "top5_accuracy": 0.85, "per_region": {"EU_SW": {"n": 9, "top1": 0.5}},
    "min_recall": {"latin_name": "a", "n": 20, "recall": 0.61},
}  # fmt: skip


def urls(rate, low=None, high=None):
    """phase0/url_check.json; with an interval, of a sample."""
    interval = [rate if low is None else low, rate if high is None else high]
    return {"failure_rate": rate, "interval": interval, "complete": low is None}


@pytest.mark.parametrize(
    "check, status",
    [
        (urls(0.04, 0.03, 0.049), "met"),
        (urls(0.04, 0.03, 0.06), "not measurable here"),
        (urls(0.07, 0.06, 0.08), "missed"),
    ],
)
def test_a_sample_of_urls_is_judged_by_its_interval(judge, check, status):
    assert judge("phase0 validate-urls", {"url_check": check})["url_failure_rate"]["status"] == status


@pytest.mark.parametrize(
    "value, status", [(0.0, "met"), (0.0499, "met"), (0.05, "missed"), (1.0, "missed"), (None, "not measurable here")]
)
def test_fewer_than_five_percent_of_the_urls_may_fail(judge, value, status):
    verdict = judge("phase0 validate-urls", {"url_check": urls(value)})["url_failure_rate"]
    assert (verdict["status"], verdict["target"]) == (status, "< 0.05")


def test_at_least_means_at_least(judge):
    verdicts = judge("phase1 evaluate", {"teacher_metrics": TEACHER})
    assert {name: verdict["status"] for name, verdict in verdicts.items()} == {
        "teacher_top1": "met", "teacher_top5": "met", "teacher_min_recall": "met",
    }  # fmt: skip
    below = judge("phase1 evaluate", {"teacher_metrics": {**TEACHER, "top1_accuracy": 0.6999}})
    assert below["teacher_top1"]["status"] == "missed"


def test_recall_over_few_photos_is_not_judged(judge):
    few = {**TEACHER, "min_recall": None}
    verdict = judge("phase1 evaluate", {"teacher_metrics": few})["teacher_min_recall"]
    assert (verdict["status"], verdict["reason"]) == ("not measurable here", "no class has 20 test photos")


def test_the_regional_teacher_must_gain_something(judge):
    def verdicts(top1):
        regional = {**TEACHER, "per_region": {"EU_SW": {"n": 9, "top1": top1}}}
        return judge("phase2 evaluate", {"teacher_metrics": TEACHER, "regional_metrics": regional})

    assert verdicts(0.5)["regional_gain"]["status"] == "missed"  # as good is no gain
    assert verdicts(0.81)["regional_gain"]["status"] == verdicts(0.81)["regional_top1"]["status"] == "met"
    assert verdicts(0.81)["regional_gain"]["value"] == pytest.approx(0.31)


def test_a_region_without_test_photos_is_not_measurable(judge):
    nowhere = {**TEACHER, "per_region": {}}
    verdicts = judge("phase2 evaluate", {"teacher_metrics": nowhere, "regional_metrics": nowhere})
    assert verdicts["regional_top1"]["status"] == verdicts["regional_gain"]["status"] == "not measurable here"
    assert verdicts["regional_global_top1"]["status"] == "met"


def test_a_limit_of_null_is_not_asked_for(judge):
    assert "teacher_top1" not in judge("phase1 evaluate", {"teacher_metrics": TEACHER}, teacher_top1=None)


def test_no_config_can_loosen_a_leak(judge):
    leaks = {"leak_audit": {"leaks": [{"kind": "sha256"}], "photos": 850_000, "largest_group": {"share": 0.0101}}}
    verdicts = judge("phase0 split", leaks)
    assert verdicts["leaks"]["status"] == verdicts["largest_group"]["status"] == "missed"
    assert verdicts["valid_photos_min"]["status"] == verdicts["valid_photos_max"]["status"] == "met"


@pytest.mark.parametrize("losses, status", [([3, 1, 1.05], "met"), ([3, 1, 1.06], "missed"), ([3, 2, 1], "met")])
def test_the_final_val_loss_may_be_five_percent_above_the_best(judge, losses, status):
    artefacts = {
        "student_metrics_val": {"top1_accuracy": 0.7}, "student_metrics_train": {"top1_accuracy": 0.8},
        "finetune_history": {"epochs": [{"val_loss": float(loss)} for loss in losses]},
    }  # fmt: skip
    verdicts = judge("phase4 evaluate", artefacts)
    assert verdicts["val_loss_ratio"]["status"] == status
    assert verdicts["student_val_top1"]["status"] == "met"  # at least 0.70
    assert verdicts["student_train_top1"]["status"] == "missed"  # above 0.80


def test_precision_without_a_conclusive_photo_is_not_measurable(judge):
    calibration = {"ece_after": 0.0999, "precision": None, "coverage": 0.0}
    verdicts = judge("phase6 quantize", {"shipped_calibration": calibration})
    assert [verdicts[name]["status"] for name in ("ece", "precision", "coverage")] == [
        "met", "not measurable here", "missed",
    ]  # fmt: skip


def test_only_gates_of_the_given_steps_are_judged(judge):
    assert judge("phase0 export", {}) == {}


def test_every_limit_of_the_config_has_a_gate_and_every_gate_a_step(make_config):
    from keras_pipeline.phases import runner

    names = {gate.name for gate in gates.GATES}
    assert set(make_config().gates.model_dump()) <= names
    assert all(gate.limit is not None or hasattr(make_config().gates, gate.name) for gate in gates.GATES)
    assert {gate.step for gate in gates.GATES} <= {step.title for step in runner.STEPS}


def test_describe(judge):
    verdict = judge("phase0 validate-urls", {"url_check": urls(0.0512)})["url_failure_rate"]
    assert gates.describe(verdict) == "  missed  url_failure_rate: 0.0512 < 0.05"


@pytest.mark.parametrize(("software", "status"), [(True, "not measurable here"), (False, "met")])
def test_only_a_graphics_card_measures_the_time_on_one(judge, software, status):
    emulated = {"median_ms": 5.0, "software": True}
    backends = {"wasm": emulated, "webgl": {"median_ms": 1900.0, "software": software}}
    verdict = judge("phase6 validate", {"equivalence": {"backends": backends, "passed": True}})[
        "prediction_seconds_gpu"
    ]
    assert verdict["status"] == status and verdict["value"] == (None if software else 1.9)
