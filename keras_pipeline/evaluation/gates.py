"""What the run must reach: the plan's criteria, judged from the artefacts.

A gate is `met`, `missed` with advice, or `not measurable here` with the reason: also where its metric could only come
out perfect. Limits come from the config's section `gates`.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import read_json
from keras_pipeline.core.schema import MIN_PHOTOS
from keras_pipeline.core.sidecars import sidecar
from keras_pipeline.evaluation import answers

FIVE = "Of {} species the right one is always among the first five."
NO_RULES = "phase0.split.group_by is empty: nothing holds photos together"
RULES = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class Unmeasurable(Exception):
    """Why a gate's metric says nothing here: it is missing, or could only come out perfect."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric that is missed only where the whole of its 95 % interval is beyond the limit."""

    value: float
    interval: list[float]  # [low, high]
    words: str  # what it was made from


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
SLOW_ADVICE = "lower phase4.data.image_size or phase3.model.alpha"


def _url_failure_rate(run: Run) -> float:
    check, limit = run.read("url_check"), run.config.gates.url_failure_rate
    if check["failure_rate"] is None:
        raise Unmeasurable("no URL to check")
    low, high = check["interval"]
    if not check["complete"] and (low < limit) != (high < limit):
        raise Unmeasurable(
            f"the sample's interval, {low:.3g} to {high:.3g}, holds the limit: raise phase0.validate_urls.sample"
        )
    return check["failure_rate"]


def _largest_group(run: Run) -> float:
    audit, limit = run.read("leak_audit"), run.config.gates.largest_group
    if not audit["links"]:
        raise Unmeasurable(NO_RULES)
    largest = audit["largest_group"]
    # The limit is one of 850,000 photos. Of a few hundred, the photos of one plant are more than that.
    if largest["share"] > limit and largest["n"] < MIN_PHOTOS:
        raise Unmeasurable(
            f"the largest group has {largest['n']} of {audit['photos']:,} photos: with fewer than {MIN_PHOTOS} it may "
            "well be one plant, whatever its share"
        )
    return largest["share"]


def _leaks(run: Run) -> int:
    audit = run.read("leak_audit")
    if not audit["leaks"] and not audit["links"]:
        raise Unmeasurable(NO_RULES)
    return len(audit["leaks"])


def _counted_species(run: Run) -> int:
    species = len(run.read("audit")["per_class"])
    if species == 1:
        raise Unmeasurable("one species: nothing to balance; is source.fields.latin_name the right field?")
    return species


def _refuse_one_species(species: int, photos: str) -> None:
    """Whoever always gives the one answer that is right there is perfect."""
    if species < 2:
        raise Unmeasurable(f"{photos} are of one species")


def metric(artefact: str, key: str = "top1_accuracy") -> Callable[[Run], Any]:
    """Of a `metrics_<split>.json`."""

    def value(run: Run) -> Any:
        metrics = run.read(artefact)
        _refuse_one_species(metrics["species"], f"all {metrics['n']} {metrics['split']} photos")
        return metrics[key]

    return value


def trivial(run: Run) -> str:
    """Which metrics of the test photos could not have come out otherwise, in sentences; '' where all could."""
    probe = run.read("baseline")["linear_probe"]  # every model's test photos and class list
    lone = [name for name, entry in probe["per_region"].items() if entry["species"] < 2]
    said, species = [], len(probe["per_class_recall"])
    if probe["species"] < 2:
        said.append("All test photos are of one species: shares of them, ECE and precision say nothing.")
    elif lone:
        said.append(f"All test photos of {', '.join(lone)} are of one species: shares of them say nothing.")
    if species <= 5:
        said.append(FIVE.format(species))
    return " ".join(said)


def _probe(run: Run) -> float:
    probe = run.read("baseline")["linear_probe"]
    _refuse_one_species(probe["species"], f"all {probe['n']} test photos")
    return probe["top1_accuracy"]


def _teacher_top5(run: Run) -> float:
    species = len(run.read("teacher_metrics")["per_class_recall"])
    if species <= 5:
        raise Unmeasurable(FIVE.format(species))
    return metric("teacher_metrics", "top5_accuracy")(run)


def _smallest_recall(run: Run) -> float:
    smallest = metric("teacher_metrics", "min_recall")(run)
    if smallest is None:
        raise Unmeasurable("no species has 20 test photos")
    return smallest["recall"]


def over_probe(run: Run, model: str) -> dict:
    """`intervals.compare` over all test photos: phase 0's linear probe, then a model. Raises Unmeasurable."""
    metric(f"{model}_metrics")(run)
    path = run.path("baseline_predictions")
    if not path.exists():
        raise Unmeasurable("each test photo's answer by the linear probe is missing: run `phase0 baseline`")
    probe, its = map(answers.load_answers, (path, run.path(f"{model}_predictions")))
    if not answers.same_photos(probe, its):
        raise Unmeasurable(f"linear probe and {model} were asked about other photos: run what `status` calls stale")
    found: dict = answers.compare(probe, its).overall
    if found["interval"][1] < 0 and found["verdict"] != "worse":
        raise Unmeasurable("too few groups of test photos on which it differs from the linear probe")
    return found


def _teacher_over_probe(run: Run) -> Estimate:
    found = over_probe(run, "teacher")
    low, high = found["interval"]
    return Estimate(
        found["difference"],
        found["interval"],
        f"teacher {found['second']:.3f}, linear probe {found['first']:.3f}; judged by the upper end of their "
        f"difference's 95 % interval, {low:+.3f} to {high:+.3f}",
    )


def _over_probe_advice(run: Run) -> str:
    """Only what this config leaves to try."""
    baseline, teacher = run.config.phase0.baseline, run.config.phase1
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


def _region(run: Run, artefact: str) -> float:
    region = run.config.regional.region
    entry = run.read(artefact)["per_region"].get(region)
    if entry is None:
        raise Unmeasurable(f"no test photo of {region}")
    _refuse_one_species(entry["species"], f"all {entry['n']} test photos of {region}")
    return entry["top1"]


def _regional_gain(run: Run) -> float:
    return _region(run, "regional_metrics") - _region(run, "teacher_metrics")


def _val_loss_ratio(run: Run) -> float:
    losses = [row["val_loss"] for row in run.read("finetune_history")["epochs"]]
    if len(losses) == 1:
        raise Unmeasurable("one epoch: the last is the best")
    if min(losses) == 0:
        raise Unmeasurable("the best val loss is 0: nothing is a multiple of it")
    return losses[-1] / min(losses)


def _refuse_one_test_species(run: Run) -> None:
    test = run.read("dataset")["splits"]["test"]
    _refuse_one_species(len(test["per_class"]), f"all {test['n']} test photos")


def shipped(key: str) -> Callable[[Run], float]:
    """Of the shipped weights' `calibration.json`."""

    def value(run: Run) -> float:
        _refuse_one_test_species(run)
        found = run.read("shipped_calibration")[key]
        if found is None:
            raise Unmeasurable("no test photo is conclusive")
        return found

    return value


def _precision(run: Run) -> float:
    value, test = shipped("precision")(run), run.read("dataset")["splits"]["test"]
    conclusive = round(run.read("shipped_calibration")["coverage"] * test["n"])
    if conclusive < MIN_PHOTOS:
        raise Unmeasurable(f"{conclusive} conclusive test photos are too few to judge, {MIN_PHOTOS} are the least")
    return value


def ece(run: Run) -> float:
    """Who knows nothing, and gives each species its share, has none."""
    value, test = shipped("ece_after")(run), run.read("dataset")["splits"]["test"]
    top1, commonest = run.read("shipped_calibration")["after"]["top1"], max(test["per_class"].values()) / test["n"]
    if top1 <= commonest:
        raise Unmeasurable(
            f"top-1 is {top1:.3f}, and {commonest:.3f} for who always names one species: probabilities of such a model "
            "say nothing"
        )
    return value


def _coverage_advice(run: Run) -> str:
    needed = run.read("shipped_calibration")["photos_needed"]
    how_many = "" if needed is None else f"the promise needs about {needed:,} calibration photos of different plants: "
    return f"{how_many}raise phase0.split.calibration, make the student better, or lower phase5.target_precision"


def _judged(run: Run) -> dict:
    """equivalence.json of a model that could be compared with its page."""
    verdict = run.read("equivalence")
    if verdict["status"] == "not judged":
        raise Unmeasurable("; ".join(verdict["reasons"]))
    return verdict


def _wasm(run: Run, key: str) -> float:
    found = _judged(run)["backends"].get("wasm", {}).get(key)
    if found is None:
        raise Unmeasurable("the browser has no WebAssembly, or gave no answer: see phase6/equivalence.json")
    return found


def compared(key: str) -> Callable[[Run], float]:
    """Of the page's answers against Python's, which differ little where all photos are of one species."""

    def value(run: Run) -> float:
        _refuse_one_test_species(run)
        return _wasm(run, key)

    return value


def _equivalent(run: Run) -> float:
    passed = _judged(run)["passed"]
    if passed:
        _refuse_one_test_species(run)
    return float(passed)


def _gpu_seconds(run: Run) -> float:
    """Of the faster of the backends that a graphics card has run."""
    backends = _judged(run)["backends"].values()
    found = [each["median_ms"] for each in backends if not each["software"] and each["median_ms"] is not None]
    if not found:
        raise Unmeasurable("no backend ran on a graphics card")
    return min(found) / 1000


def _completed_phases(run: Run) -> int:
    from keras_pipeline.core import manifest  # slow to import, and `status` judges nothing

    phases = manifest.read(run.path("manifest")).phases.values()
    return sum(phase.status in ("completed", "not applicable") for phase in phases)


def _reproduced(run: Run) -> float:
    """Of a repetition of these very weights."""
    file = run.path("manifest").with_name("reproduction.json")
    found = read_json(file) if file.exists() else {"weights": {}}
    mine = {name: (sidecar(run.path(name)) or {}).get("content_hash") for name in found["weights"]}
    if not mine or mine != found["weights"]:
        raise Unmeasurable("needs a second run of these weights: `phase7 reproduce`")
    return float(found["same"])


def _of(artefact: str, *keys: str) -> Callable[[Run], float]:
    """What stands in a JSON artefact."""

    def value(run: Run) -> float:
        found: Any = run.read(artefact)
        for key in keys:
            found = found[key]
        return found

    return value


GATES = [
    Gate(
        "url_failure_rate", "share of the URLs that fail", "phase0 validate-urls", "<", _url_failure_rate,
        "phase0/tables/url_failures.csv lists them by host and reason: correct source.base_url, set "
        "phase0.export.contact or phase0.export.allow_networks where the host or the network is refused",
    ),
    Gate(
        "largest_group", "share of the photos in the largest group", "phase0 split", "<=", _largest_group,
        "phase0/leak_audit.json names some of its photos: leave a placeholder picture out by source.exclude, set "
        "source.max_per_observation, or take the rule that joins them out of phase0.split.group_by",
    ),
    Gate(
        "leaks", "groups, files or look-alikes in two splits", "phase0 split", "<=", _leaks,
        "phase0/leak_audit.json names them: leave them out by source.exclude and run phase 0 with --force", limit=0,
    ),
    Gate(
        "valid_photos_min", "photos", "phase0 split", ">=", _of("leak_audit", "photos"),
        "phase0/audit.html and phase0/url_ledger.parquet say why photos were lost: widen source.query, or set "
        "gates.valid_photos_min to what the collection has",
    ),
    Gate(
        "valid_photos_max", "photos, not more", "phase0 split", "<=", _of("leak_audit", "photos"),
        "narrow source.query, set source.max_per_species, or raise gates.valid_photos_max",
    ),
    Gate(
        "balance_documented", "species counted by the audit", "phase0 audit", ">=", _counted_species,
        "no document is usable: phase0/audit.html says why; compare source.fields with what the documents call theirs",
        limit=1,
    ),
    Gate(
        "baseline_top1_min", "linear probe, top-1", "phase0 baseline", ">=", _probe,
        "look for wrong labels (phase0/audit.html, phase0/tables/label_conflicts.csv); phase0.baseline.features: "
        "imagenet sees more than colour-histogram; raise phase0.baseline.probe_epochs",
    ),
    Gate(
        "teacher_top1", "global teacher, top-1", "phase1 evaluate", ">=", metric("teacher_metrics"), TEACHER_ADVICE,
    ),
    Gate("teacher_top5", "global teacher, top-5", "phase1 evaluate", ">=", _teacher_top5, TEACHER_ADVICE),
    Gate(
        "teacher_min_recall", "global teacher, its worst species' recall", "phase1 evaluate", ">", _smallest_recall,
        "phase1/pictures_test/confused.png shows whether its labels are right; of a rare species set "
        "phase1.data.sampling: sqrt or phase1.regularization.logit_adjustment: 1",
    ),
    Gate(
        "teacher_over_probe", "global teacher over the linear probe, top-1", "phase1 evaluate", ">=",
        _teacher_over_probe, _over_probe_advice,
    ),
    Gate(
        "regional_top1", "regional teacher in its region, top-1", "phase2 evaluate", ">=",
        lambda run: _region(run, "regional_metrics"),
        "set phase2.model.pretrained: global_teacher, raise phase2.training.epochs; phase2/curves.png: lower "
        "phase2.training.learning_rate where the loss does not fall, raise phase2.regularization.dropout where val "
        "loss rises",
    ),
    Gate(
        "regional_global_top1", "regional teacher everywhere, top-1", "phase2 evaluate", ">=",
        metric("regional_metrics"),
        "it has seen its region alone: set phase2.model.pretrained: global_teacher and lower "
        "phase2.training.learning_rate, so that it keeps what the global teacher knows",
    ),
    Gate(
        "regional_gain", "regional over global teacher in the region", "phase2 evaluate", ">", _regional_gain,
        "phase2/comparison.json says whether it is more than chance: leave the regional teacher out of "
        "phase3.teachers, or set phase2.model.pretrained: global_teacher",
    ),
    Gate(
        "soft_label_sum_error", "soft labels, how far from 1 they sum up", "phase3 check", "<=",
        _of("soft_label_check", "sum_max_deviation"), "run `phase3 combine --force`", limit=1e-5,
    ),
    Gate(
        "student_megabytes", "student, MB", "phase3 check", "<",
        _of("soft_label_check", "student", "megabytes", "fp32"),
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
        "val_loss_ratio", "student, last val loss over the best", "phase4 evaluate", "<=", _val_loss_ratio,
        "it learns the photos by heart: lower phase4.finetune.epochs or phase4.finetune.learning_rate, set "
        "phase4.finetune.augmentation: aggressive, raise phase3.model.dropout_rate",
    ),
    Gate(
        "ece", "ECE as shipped", "phase6 quantize", "<", ece,
        "compare ece_null in phase6/calibration.json, which perfect calibration shows at so few photos: raise "
        "phase0.split.test, and phase0.split.calibration for a better temperature",
    ),
    Gate(
        "precision", "precision of conclusive answers", "phase6 quantize", ">=", _precision,
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
        "browser_equivalence", "page against Python, every stage", "phase6 validate", ">=", _equivalent, PAGE_ADVICE,
        limit=1.0,
    ),
    Gate(
        "prediction_seconds", "seconds a photo in the browser", "phase6 validate", "<",
        lambda run: _wasm(run, "median_ms") / 1000, SLOW_ADVICE,
    ),
    Gate(
        "prediction_seconds_gpu", "seconds a photo on a graphics card", "phase6 validate", "<", _gpu_seconds,
        SLOW_ADVICE, limit=2.0,
    ),
    Gate(
        "manifest_complete", "phases complete in the manifest", "phase7 manifest", ">=", _completed_phases,
        "`status` says what is not up to date: `run` makes it", limit=7,
    ),
    Gate(
        "same_seed_same_model", "the same model again from the manifest", "phase7 manifest", ">=", _reproduced,
        "phase7/reproduction.json names the first step that differs and what is other on the machine; set "
        "deterministic: true for the same bytes", limit=1.0,
    ),
]  # fmt: skip


def judge(run: Run, steps: set[str]) -> list[dict]:
    """The gates of these steps, those with limit null left out: [{name, words, step, status, value, target, reason}]"""
    verdicts = []
    for gate in GATES:
        limit = gate.limit if gate.limit is not None else getattr(run.config.gates, gate.name)
        if gate.step in steps and limit is not None:
            verdicts.append(_verdict(run, gate, limit))
    return verdicts


def _verdict(run: Run, gate: Gate, limit: float) -> dict:
    verdict = {"name": gate.name, "words": gate.words, "step": gate.step}
    target = f"{gate.rule} {limit:g}"
    try:
        if absent := run.why_not_applicable(gate.step.split()[0]):
            raise Unmeasurable(absent)
        found = gate.value(run)
    except Unmeasurable as why:
        return {**verdict, "status": "not measurable here", "value": None, "target": target, "reason": str(why)}
    if not isinstance(found, Estimate):
        found = Estimate(found, [found], "")
    met = any(RULES[gate.rule](end, limit) for end in found.interval)
    advice = "" if met else gate.advice if isinstance(gate.advice, str) else gate.advice(run)
    reason = "; ".join(filter(None, (found.words, advice)))
    return {**verdict, "status": "met" if met else "missed", "value": found.value, "target": target, "reason": reason}


def describe(verdict: dict) -> str:
    """What the console shows of a verdict: the reason, or what to try, on a line of its own."""
    value = "" if verdict["value"] is None else f"{verdict['value']:.4g} "
    reason = f"\n{'':10}{verdict['reason']}" if verdict["reason"] else ""
    return f"{verdict['status']:>8}  {verdict['name']}: {value}{verdict['target']}{reason}"
