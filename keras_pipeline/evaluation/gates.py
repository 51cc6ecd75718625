"""What the run must reach: the plan's criteria, judged from the artefacts.

A gate is `met`, `missed` with advice, or `not measurable here` with the reason: also where its metric could only come
out perfect. Limits come from the config's section `gates`.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.evaluation.gate_metrics import (
    Estimate,
    Unmeasurable,
    compared,
    completed_phases,
    counted_species,
    ece,
    equivalent,
    gpu_seconds,
    largest_group,
    leaks,
    look_alikes,
    metric,
    precision,
    probe,
    region,
    regional_gain,
    reproduced,
    shipped,
    split_shares,
    teacher_top5,
    two_names_by_picture,
    two_names_by_url,
    url_failure_rate,
    val_loss_ratio,
    value_of,
    wasm,
    worst_tenth,
)
from keras_pipeline.evaluation.probe_gate import teacher_over_probe

RULES = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclasses.dataclass(frozen=True)
class Gate:
    """One criterion of the run."""

    name: str  # of the config's limit
    words: str  # what is judged, for readers
    step: str  # the step after which it can be judged
    rule: str
    value: Callable[[Run], float | Estimate]  # raises Unmeasurable
    advice: str | Callable[[Run], str]  # what to try where it is missed
    limit: float | None = None  # fixed limits, which no config may loosen


TEACHER_ADVICE = (
    "raise phase1.training.epochs, give phase1.model.pretrained weights; phase1/curves.png: lower "
    "phase1.training.learning_rate where the loss does not fall, raise phase1.regularization.dropout or "
    "phase1.training.weight_decay where val loss rises"
)

PAGE_ADVICE = (
    "phase6/equivalence.json gives reasons, phase6/worst.png shows the photos: run `phase6 export --force` and "
    "`phase6 validate`; `doctor` says which browser is asked"
)

TWO_NAMES_ADVICE = (
    "{} lists them: join names that mean one species by source.synonyms, and leave wrongly named photos out by "
    "source.exclude"
)

SLOW_ADVICE = "lower phase4.data.image_size or phase3.model.alpha"


def _over_probe_advice(run: Run) -> str:
    """Only what this config leaves to try."""
    baseline, teacher = run.config.phase0.baseline, run.config.phase1
    metrics = run.path("teacher_metrics")
    if metrics.exists() and "own_probe" in run.read("teacher_metrics"):
        return (
            "the linear probe that it started from does better, so that fine-tuning does harm: lower "
            "phase1.training.learning_rate, or raise phase0.split.val, which chooses the best epoch"
        )
    histogram, weights = baseline.features == "colour-histogram", teacher.model.pretrained
    found = ["colours alone do better:" if histogram else "frozen features do better:"]
    if not weights:
        these = "weights" if histogram else "the weights that phase0.baseline.features come from"
        found.append(f"it starts from random weights: give phase1.model.pretrained {these};")
    elif not teacher.training.head_epochs:
        found.append("set phase1.training.head_epochs;")
    if not histogram and teacher.data.image_size < baseline.image_size:
        found.append("raise phase1.data.image_size towards phase0.baseline.image_size;")
    return " ".join([*found, "raise phase1.training.epochs"])


def _photos_advice(run: Run) -> str:
    """Name what has left photos out here, by the audit and the config."""
    audit, source = run.read("audit") if run.path("audit").exists() else {}, run.config.source
    left_out = ", ".join(f"{n:,} by {key}" for key, n in audit.get("left_out_by", {}).items())
    found = [f"photos left out: {left_out}"] if left_out else []
    found += [
        f"{key} is {limit}"
        for key, limit in (
            ("source.max_per_species", source.max_per_species),
            ("source.max_per_observation", source.max_per_observation),
        )
        if limit is not None
    ]
    loosen = f"{'; '.join(found)}: loosen or correct these, " if found else ""
    widen = "widen source.query, " if source.query else ""
    return (
        f"{loosen}{widen}see phase0/audit.html and phase0/url_ledger.parquet for the photos lost, or set "
        "gates.valid_photos_min to what the collection has"
    )


def _everywhere_advice(run: Run) -> str:
    """Where the region is the species', no training lets it name species that it never sees."""
    comparison = run.read("regional_comparison") if run.path("regional_comparison").exists() else {}
    if among := comparison.get("among_its_species"):
        return (
            f"the region is the species' here, and it learns {among['species']} species only, so that it can't name "
            "the others: set gates.regional_global_top1: null, or widen phase2.region"
        )
    return (
        "it has seen its region alone: set phase2.model.pretrained: global_teacher and lower "
        "phase2.training.learning_rate, so that it keeps what the global teacher knows"
    )


def _coverage_advice(run: Run) -> str:
    needed = run.read("shipped_calibration")["photos_needed"]
    how_many = "" if needed is None else f"the promise needs about {needed:,} calibration photos of different plants: "
    return f"{how_many}raise phase0.split.calibration, make the student better, or lower phase5.target_precision"


def _url_advice(run: Run) -> str:
    if run.config.source.serves_photos:
        return (
            "phase0/tables/url_failures.csv lists the reasons: replace these files, or leave them out by source.exclude"
        )
    return (
        "phase0/tables/url_failures.csv lists them by host and reason: correct source.base_url, set "
        "phase0.export.contact or phase0.export.allow_networks where the host or the network is refused"
    )


GATES = [
    Gate(
        "url_failure_rate", "share of the URLs that fail", "phase0 validate-urls", "<", url_failure_rate,
        _url_advice,
    ),
    Gate(
        "largest_group", "share of the photos in the largest group", "phase0 split", "<=", largest_group,
        "phase0/leak_audit.json names some of its photos: leave a placeholder picture out by source.exclude, set "
        "source.max_per_observation, or take the rule that joins them out of phase0.split.group_by",
    ),
    Gate(
        "split_shares", "share of the photos by which a split differs from what is reachable", "phase0 split", "<=",
        split_shares,
        "phase0/leak_audit.json has the shares asked for, reachable and received: take the rule that makes large "
        "groups out of phase0.split.group_by, or set the shares in phase0.split to those that are reachable",
    ),
    Gate(
        "two_names", "share of the photos whose URL has two names", "phase0 audit", "<=", two_names_by_url,
        TWO_NAMES_ADVICE.format("phase0/audit.html"),
    ),
    Gate(
        "two_names", "share of the photos whose picture has two names", "phase0 split", "<=", two_names_by_picture,
        TWO_NAMES_ADVICE.format("phase0/tables/label_conflicts.csv"),
    ),
    Gate(
        "leaks", "groups, files or look-alikes in two splits", "phase0 split", "<=", leaks,
        "phase0/leak_audit.json names them: leave them out by source.exclude and run phase 0 with --force", limit=0,
    ),
    Gate(
        "valid_photos_min", "photos", "phase0 split", ">=", value_of("leak_audit", "photos"),
        _photos_advice,
    ),
    Gate(
        "valid_photos_max", "photos, not more", "phase0 split", "<=", value_of("leak_audit", "photos"),
        "narrow source.query, set source.max_per_species, or raise gates.valid_photos_max",
    ),
    Gate(
        "balance_documented", "species counted by the audit", "phase0 audit", ">=", counted_species,
        "no document is usable: phase0/audit.html says why; compare source.fields with what the documents call theirs",
        limit=1,
    ),
    Gate(
        "baseline_top1_min", "linear probe, top-1", "phase0 baseline", ">=", probe,
        "look for wrong labels (phase0/audit.html, phase0/tables/label_conflicts.csv); phase0.baseline.features: "
        "imagenet sees more than colour-histogram; raise phase0.baseline.probe_epochs",
    ),
    Gate(
        "look_alikes", "share of the judged photos with a copy in another split", "phase0 baseline", "<=",
        look_alikes,
        "phase0/look_alikes.html shows them: set phase0.split.same_photo to phase0/tables/look_alikes.csv and run "
        "`phase0 split --force`",
    ),
    Gate(
        "teacher_top1", "global teacher, top-1", "phase1 evaluate", ">=", metric("teacher_metrics"), TEACHER_ADVICE,
    ),
    Gate("teacher_top5", "global teacher, top-5", "phase1 evaluate", ">=", teacher_top5, TEACHER_ADVICE),
    Gate(
        "teacher_min_recall", "global teacher, recall of its worst tenth of species", "phase1 evaluate", ">",
        worst_tenth,
        "phase1/pictures_test/confused.png shows whether its labels are right; of a rare species set "
        "phase1.data.sampling: sqrt or phase1.regularization.logit_adjustment: 1",
    ),
    Gate(
        "teacher_over_probe", "global teacher over the linear probe, top-1", "phase1 evaluate", ">=",
        teacher_over_probe, _over_probe_advice,
    ),
    Gate(
        "regional_top1", "regional teacher in its region, top-1", "phase2 evaluate", ">=",
        lambda run: region(run, "regional_metrics"),
        "set phase2.model.pretrained: global_teacher, raise phase2.training.epochs; phase2/curves.png: lower "
        "phase2.training.learning_rate where the loss does not fall, raise phase2.regularization.dropout where val "
        "loss rises",
    ),
    Gate(
        "regional_global_top1", "regional teacher everywhere, top-1", "phase2 evaluate", ">=",
        metric("regional_metrics"),
        _everywhere_advice,
    ),
    Gate(
        "regional_gain", "regional over global teacher in the region", "phase2 evaluate", ">", regional_gain,
        "phase2/comparison.json says whether it is more than chance: leave the regional teacher out of "
        "phase3.teachers, or set phase2.model.pretrained: global_teacher",
    ),
    Gate(
        "soft_label_sum_error", "soft labels, how far from 1 they sum up", "phase3 check", "<=",
        value_of("soft_label_check", "sum_max_deviation"), "run `phase3 combine --force`", limit=1e-5,
    ),
    Gate(
        "student_megabytes", "student, MB", "phase3 check", "<",
        value_of("soft_label_check", "student", "megabytes", "fp32"),
        "lower phase3.model.alpha; where thousands of species make the head large, set phase3.model.head_rank",
    ),
    Gate(
        "student_val_top1", "student on val, top-1", "phase4 evaluate", ">=", metric("student_metrics_val"),
        "phase3/check.json says what its teachers reach; raise phase3.soft_labels.views, phase4.distill.epochs, "
        "phase4.data.image_size or phase3.model.alpha",
    ),
    Gate(
        "student_train_top1", "student on clean train photos, top-1", "phase4 evaluate", ">",
        metric("student_metrics_train"),
        "it has not learnt enough: raise phase4.distill.epochs, phase4.distill.learning_rate or phase3.model.alpha",
    ),
    Gate(
        "val_loss_ratio", "student, last val loss over the best", "phase4 evaluate", "<=", val_loss_ratio,
        "it learns the photos by heart: lower phase4.finetune.epochs or phase4.finetune.learning_rate, set "
        "phase4.finetune.augmentation: aggressive, raise phase3.model.dropout_rate",
    ),
    Gate(
        "ece", "ECE as shipped", "phase6 quantize", "<", ece,
        "compare ece_null in phase6/calibration.json, which perfect calibration shows at so few photos: raise "
        "phase0.split.test, and phase0.split.calibration for a better temperature",
    ),
    Gate(
        "precision", "precision of conclusive answers", "phase6 quantize", ">=", precision,
        "raise phase5.target_precision, or phase0.split.calibration so that more can be promised",
    ),
    Gate(
        "coverage", "share of conclusive answers", "phase6 quantize", ">=", shipped("coverage"),
        _coverage_advice,
    ),
    Gate(
        "bundle_megabytes", "model of the page, MB", "phase6 export", "<=",
        lambda run: run.read("export")["bytes"] / 1e6,
        "set phase6.quantization: int8 or phase3.model.head_rank, or lower phase3.model.alpha",
    ),
    Gate(
        "browser_correlation", "page against Python, correlation", "phase6 validate", ">", compared("correlation"),
        PAGE_ADVICE,
    ),
    Gate(
        "browser_top1_agreement", "page against Python, same species", "phase6 validate", ">=",
        compared("top1_agreement"), PAGE_ADVICE, limit=1.0,
    ),
    Gate(
        "browser_equivalence", "page against Python, every stage", "phase6 validate", ">=", equivalent, PAGE_ADVICE,
        limit=1.0,
    ),
    Gate(
        "prediction_seconds", "seconds a photo in the browser", "phase6 validate", "<",
        lambda run: wasm(run, "median_ms") / 1000, SLOW_ADVICE,
    ),
    Gate(
        "prediction_seconds_gpu", "seconds a photo on a graphics card", "phase6 validate", "<", gpu_seconds,
        SLOW_ADVICE, limit=2.0,
    ),
    Gate(
        "manifest_complete", "phases complete in the manifest", "phase7 manifest", ">=", completed_phases,
        "`status` says what is not up to date: `run` makes it", limit=7,
    ),
    Gate(
        "same_seed_same_model", "the same model again from the manifest", "phase7 manifest", ">=", reproduced,
        "phase7/reproduction.json names the first step that differs and what is other on the machine; set "
        "deterministic: true for the same bytes", limit=1.0,
    ),
]  # fmt: skip


def judge(run: Run, steps: set[str]) -> list[dict]:
    """The gates of these steps, those with limit null left out.

    Returns:
        [{name, words, step, status, value, target, reason}]; with `bound`, the end of the value's interval that met the
        target, where the value itself does not.
    """
    verdicts = []
    for gate in GATES:
        limit = gate.limit if gate.limit is not None else getattr(run.config.gates, gate.name)
        if gate.step in steps and limit is not None:
            verdicts.append(_verdict(run, gate, limit))
    return verdicts


def _verdict(run: Run, gate: Gate, limit: float) -> dict:
    verdict: dict = {"name": gate.name, "words": gate.words, "step": gate.step}
    target = f"{gate.rule} {limit:g}"
    try:
        if absent := run.why_not_applicable(gate.step.split()[0]):
            raise Unmeasurable(absent)
        found = gate.value(run)
    except (Unmeasurable, BrokenArtefact) as why:
        return {**verdict, "status": "not measurable here", "value": None, "target": target, "reason": str(why)}
    if not isinstance(found, Estimate):
        found = Estimate(found, [found], "")
    ends = [end for end in (found.value, *found.interval) if RULES[gate.rule](end, limit)]
    met = bool(ends)
    if met and ends[0] != found.value:
        verdict["bound"] = ends[0]
    advice = "" if met else _advice(run, gate)
    reason = "; ".join(filter(None, (found.words, advice)))
    return {**verdict, "status": "met" if met else "missed", "value": found.value, "target": target, "reason": reason}


def _advice(run: Run, gate: Gate) -> str:
    try:
        return gate.advice if isinstance(gate.advice, str) else gate.advice(run)
    except BrokenArtefact as why:
        return str(why)


def judged_value(verdict: dict) -> str:
    """Return the number that was compared with the target, 4 significant digits; of an interval's end, it says so."""
    value, bound = verdict["value"], verdict.get("bound")
    if bound is None:
        return f"{value:.4g}"
    return f"{bound:.4g} ({'upper' if bound > value else 'lower'} end of the interval around {value:.4g})"


def describe(verdict: dict) -> str:
    """What the console shows of a verdict: the reason, or what to try, on a line of its own."""
    several = sum(gate.name == verdict["name"] for gate in GATES) > 1
    name = f"{verdict['name']} ({verdict['step']})" if several else verdict["name"]
    value = "" if verdict["value"] is None else f"{judged_value(verdict)} "
    reason = f"\n{'':10}{verdict['reason']}" if verdict["reason"] else ""
    return f"{verdict['status']:>8}  {name}: {value}{verdict['target']}{reason}"
