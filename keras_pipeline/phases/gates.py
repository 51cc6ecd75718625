"""What the run must reach: the plan's criteria, judged from the artefacts.

A gate is `met`, `missed` or `not measurable here`, with the reason. Limits come from the config's section `gates`.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable

from keras_pipeline.core.artifacts import Run, read_json, sidecar

RULES = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclasses.dataclass(frozen=True)
class Gate:
    name: str  # of the config's limit
    words: str  # what is judged, for readers
    step: str  # the step after which it can be judged
    rule: str
    value: Callable[[Run], float | None]
    unmeasurable: str = "the figure is missing"
    limit: float | None = None  # fixed limits, which no config may loosen


def _url_failure_rate(run: Run) -> float | None:
    """The rate; None where a sample can't tell on which side of the limit the collection lies."""
    check, limit = run.read("url_check"), run.config.gates.url_failure_rate
    low, high = check["interval"]
    return check["failure_rate"] if check["complete"] or (low < limit) == (high < limit) else None


def _smallest_recall(run: Run) -> float | None:
    smallest = run.read("teacher_metrics")["min_recall"]
    return smallest and smallest["recall"]


def _region(run: Run, metrics: str) -> float | None:
    entry = run.read(metrics)["per_region"].get(run.config.phase2.region)
    return entry["top1"] if entry else None


def _regional_gain(run: Run) -> float | None:
    regional, everywhere = _region(run, "regional_metrics"), _region(run, "teacher_metrics")
    return None if regional is None or everywhere is None else regional - everywhere


def _val_loss_ratio(run: Run) -> float:
    losses = [row["val_loss"] for row in run.read("finetune_history")["epochs"]]
    return losses[-1] / min(losses)


def _wasm(run: Run) -> dict:
    """Figures of the browser's wasm backend; empty where the model was too degenerate to judge."""
    return run.read("equivalence")["backends"].get("wasm", {})


def _equivalent(run: Run) -> float:
    return float(run.read("equivalence")["passed"])


def _prediction_seconds(run: Run) -> float | None:
    milliseconds = _wasm(run).get("median_ms")
    return None if milliseconds is None else milliseconds / 1000


def _gpu_seconds(run: Run) -> float | None:
    """Of the faster of the backends that a graphics card has run."""
    backends = run.read("equivalence")["backends"].values()
    found = [each["median_ms"] for each in backends if not each["software"] and each["median_ms"] is not None]
    return min(found) / 1000 if found else None


def _completed_phases(run: Run) -> int:
    from keras_pipeline.core import manifest  # slow to import, and `status` judges nothing

    phases = manifest.read(run.path("manifest")).phases.values()
    return sum(phase.status in ("completed", "not applicable") for phase in phases)


def _reproduced(run: Run) -> float | None:
    """Of a repetition of these very weights."""
    file = run.path("manifest").with_name("reproduction.json")
    if not file.exists():
        return None
    found = read_json(file)
    mine = {name: (sidecar(run.path(name)) or {}).get("content_hash") for name in found["weights"]}
    return float(found["same"]) if mine == found["weights"] else None


def _of(artefact: str, *keys: str) -> Callable[[Run], float | None]:
    """A figure that stands in a JSON artefact."""

    def value(run: Run) -> float | None:
        found = run.read(artefact)
        for key in keys:
            found = found[key]
        return found

    return value


GATES = [
    Gate(
        "url_failure_rate", "share of the URLs that fail", "phase0 validate-urls", "<", _url_failure_rate,
        unmeasurable="no URL to check, or the sample's interval holds the limit: raise phase0.validate_urls.sample",
    ),
    Gate(
        "largest_group", "share of the photos in the largest group", "phase0 split", "<=",
        _of("leak_audit", "largest_group", "share"),
    ),
    Gate(
        "leaks", "groups, files or look-alikes in two splits", "phase0 split", "<=",
        lambda run: len(run.read("leak_audit")["leaks"]), limit=0,
    ),
    Gate("valid_photos_min", "photos", "phase0 split", ">=", _of("leak_audit", "photos")),
    Gate("valid_photos_max", "photos, not more", "phase0 split", "<=", _of("leak_audit", "photos")),
    Gate(
        "balance_documented", "species counted by the audit", "phase0 audit", ">=",
        lambda run: len(run.read("audit")["per_class"]), limit=1,
    ),
    Gate("baseline_top1_min", "linear probe, top-1", "phase0 baseline", ">=", _of("baseline", "top1_accuracy")),
    Gate("teacher_top1", "global teacher, top-1", "phase1 evaluate", ">=", _of("teacher_metrics", "top1_accuracy")),
    Gate("teacher_top5", "global teacher, top-5", "phase1 evaluate", ">=", _of("teacher_metrics", "top5_accuracy")),
    Gate(
        "teacher_min_recall", "global teacher, its worst species' recall", "phase1 evaluate", ">", _smallest_recall,
        unmeasurable="no class has 20 test photos",
    ),
    Gate(
        "regional_top1", "regional teacher in its region, top-1", "phase2 evaluate", ">=",
        lambda run: _region(run, "regional_metrics"), unmeasurable="no test photo of the region",
    ),
    Gate(
        "regional_global_top1", "regional teacher everywhere, top-1", "phase2 evaluate", ">=",
        _of("regional_metrics", "top1_accuracy"),
    ),
    Gate(
        "regional_gain", "regional over global teacher in the region", "phase2 evaluate", ">", _regional_gain,
        unmeasurable="no test photo of the region",
    ),
    Gate(
        "soft_label_sum_error", "soft labels, how far from 1 they sum up", "phase3 check", "<=",
        _of("soft_label_check", "sum_max_deviation"), limit=1e-5,
    ),
    Gate(
        "student_megabytes", "student, MB", "phase3 check", "<",
        _of("soft_label_check", "student", "megabytes", "fp32"),
    ),
    Gate(
        "student_val_top1", "student on val, top-1", "phase4 evaluate", ">=",
        _of("student_metrics_val", "top1_accuracy"),
    ),
    Gate(
        "student_train_top1", "student on clean train photos, top-1", "phase4 evaluate", ">",
        _of("student_metrics_train", "top1_accuracy"),
    ),
    Gate("val_loss_ratio", "student, last val loss over the best", "phase4 evaluate", "<=", _val_loss_ratio),
    Gate("ece", "ECE as shipped", "phase6 quantize", "<", _of("shipped_calibration", "ece_after")),
    Gate(
        "precision", "precision of conclusive answers", "phase6 quantize", ">=",
        _of("shipped_calibration", "precision"), unmeasurable="no test photo is conclusive",
    ),
    Gate("coverage", "share of conclusive answers", "phase6 quantize", ">=", _of("shipped_calibration", "coverage")),
    Gate(
        "bundle_megabytes", "model of the page, MB", "phase6 export", "<=",
        lambda run: run.read("export")["bytes"] / 1e6,
    ),
    Gate(
        "browser_correlation", "page against Python, correlation", "phase6 validate", ">",
        lambda run: _wasm(run).get("correlation"),
    ),
    Gate(
        "browser_top1_agreement", "page against Python, same species", "phase6 validate", ">=",
        lambda run: _wasm(run).get("top1_agreement"), limit=1.0,
    ),
    Gate("browser_equivalence", "page against Python, every stage", "phase6 validate", ">=", _equivalent, limit=1.0),
    Gate("prediction_seconds", "seconds a photo in the browser", "phase6 validate", "<", _prediction_seconds),
    Gate(
        "prediction_seconds_gpu", "seconds a photo on a graphics card", "phase6 validate", "<", _gpu_seconds,
        limit=2.0, unmeasurable="no backend ran on a graphics card",
    ),
    Gate("manifest_complete", "phases complete in the manifest", "phase7 manifest", ">=", _completed_phases, limit=7),
    Gate(
        "same_seed_same_model", "the same model again from the manifest", "phase7 manifest", ">=", _reproduced,
        limit=1.0, unmeasurable="needs a second run of these weights: `phase7 reproduce`",
    ),
]  # fmt: skip


def judge(run: Run, steps: set[str]) -> list[dict]:
    """The gates of these steps, those with limit null left out: [{name, words, step, status, value, target, reason}]"""
    verdicts = []
    for gate in GATES:
        limit = gate.limit if gate.limit is not None else getattr(run.config.gates, gate.name)
        if gate.step not in steps or limit is None:
            continue
        absent = run.why_not_applicable(gate.step.split()[0])
        value = None if absent else gate.value(run)
        status = "not measurable here" if value is None else "met" if RULES[gate.rule](value, limit) else "missed"
        reason = absent or (gate.unmeasurable if value is None else "")
        verdicts.append(
            {"name": gate.name, "words": gate.words, "step": gate.step, "status": status, "value": value,
             "target": f"{gate.rule} {limit:g}", "reason": reason}
        )  # fmt: skip
    return verdicts


def describe(verdict: dict) -> str:
    value = "" if verdict["value"] is None else f"{verdict['value']:.4g} "
    reason = f" ({verdict['reason']})" if verdict["reason"] else ""
    return f"{verdict['status']:>8}  {verdict['name']}: {value}{verdict['target']}{reason}"
