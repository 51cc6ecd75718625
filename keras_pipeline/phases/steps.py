"""The table of steps: what each command reads, leaves and depends on. Everything that lists steps reads it here.

`python -m keras_pipeline phase4 distill` is `run` in `phases/phase4_student/distill.py`, imported when it runs. This
file imports the standard library alone, so that `--help` and `status` stay fast.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

PHASES = {  # {phase: (folder, help)}
    "phase0": ("phase0_dataset", "audit the collection, export TFRecords, split, baseline"),
    "phase1": ("phase1_teacher", "global teacher"),
    "phase2": ("phase2_regional", "regional teacher"),
    "phase3": ("phase3_soft_labels", "combined soft labels"),
    "phase4": ("phase4_student", "student: distillation, then fine-tuning"),
    "phase5": ("phase5_calibration", "calibration and the 'not conclusive' threshold"),
    "phase6": ("phase6_export", "quantized weights, SavedModel, web page, proof in a browser"),
    "phase7": ("phase7_manifest", "manifest of the run; verify it, reproduce it"),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One command. Artefacts are named as in `core/artifacts.py`, config keys with dots."""

    phase: str
    name: str
    help: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()  # none: not part of the chain, runs only by name
    keys: tuple[str, ...] = ()  # sections or keys of the config that it depends on
    code_version: int = 1  # raised where the same inputs and config give other outputs
    newest_for: Callable[[Any], bool] | None = None  # config -> whether `code_version` is its, or the one before
    more_inputs: Callable[[Any], tuple[str, ...]] | None = None  # config -> inputs that only some configs need
    flags: tuple[str, ...] = ()  # its own options, see `__main__.FLAGS`
    trains: bool = False  # on all devices that the config's `distribute` names
    estimates: bool = False  # its module's `estimate(run)` tells its size in a dry run
    leftovers: tuple[str, ...] = ()  # patterns of files that only a restart needs; removed once the outputs are safe

    @property
    def title(self) -> str:
        """The command: `phase4 distill`."""
        return f"{self.phase} {self.name}"

    @property
    def module(self) -> str:
        """Dotted name of the module whose `run` does the work."""
        file = self.name.replace("-", "_")
        # These two work on the chain as a whole, so that they lie beside the phases.
        folder = "" if self.title in ("phase7 verify", "phase7 reproduce") else f"{PHASES[self.phase][0]}."
        return f"keras_pipeline.phases.{folder}{file}"

    def load(self) -> ModuleType:
        """Import the module; training imports TensorFlow with it."""
        return importlib.import_module(self.module)

    def version(self, config: Any) -> int:
        """Return the code version of what the step makes with this config."""
        return self.code_version - (self.newest_for is not None and not self.newest_for(config))

    def needs(self, config: Any) -> tuple[str, ...]:
        """Names of the artefacts that it reads."""
        return self.inputs + (self.more_inputs(config) if self.more_inputs else ())


SOURCE = (
    "source.database", "source.collection", "source.query", "source.photos", "source.fields", "source.regions",
    "source.licenses", "source.min_per_species", "source.demo", "source.synonyms", "source.exclude",
)  # fmt: skip
STORES = ("seed", "phase3.distillation.temperature", "phase3.soft_labels")
BEAM = ("runner", "beam-args")


def _backups(folder: str) -> tuple[str, ...]:
    return (f"artifacts/{{experiment}}/{folder}/backup",)


def _teachers(config: Any) -> tuple[str, ...]:
    """Live teachers, or what `phase3` has stored of them."""
    return config.teacher_artefacts("{name}") if config.phase4.distill.live else ("soft_labels", "ensemble_val")


def _global_teacher(config: Any) -> tuple[str, ...]:
    return ("teacher",) if config.phase2.model.pretrained == "global_teacher" else ()


def _details(config: Any) -> tuple[str, ...]:
    """The ledger holds the species' details, which change without a change in the dataset."""
    return ("url_ledger",) if config.source.details else ()


def _families(config: Any) -> tuple[str, ...]:
    """As `_details`, where the ledger tells the species' families."""
    return ("url_ledger",) if any(name.casefold() == "family" for name in config.source.details) else ()


def _student_starts_from_probe(config: Any) -> bool:
    return bool(config.phase3.model.starts_from_probe)


STEPS = [
    Step(
        "phase0", "audit", "count what the collection holds; downloads nothing", (), ("audit",),
        (*SOURCE, "phase0.audit"), 7,
    ),
    Step(
        "phase0", "validate-urls", "ask for a sample of the URLs; stores nothing", ("audit",), ("url_check",),
        (*SOURCE, "source.base_url", "source.url_replace", "seed", "dataset.min_short_side", "phase0.export",
         "phase0.validate_urls"), 5,
        leftovers=("artifacts/{experiment}/phase0/urls.sqlite*",),
    ),
    Step(
        "phase0", "export", "download every photo once", ("audit",), ("url_ledger",),
        (*SOURCE, "source.max_per_species", "source.max_per_observation", "source.details", "source.base_url",
         "source.url_replace", "seed", "dataset", "phase0.export"), 6,
        flags=("refetch-older-records", *BEAM), estimates=True,
    ),
    Step(
        "phase0", "split", "group photos, assign groups to splits, write TFRecords, search for leaks", ("url_ledger",),
        ("leak_audit", "assignment", "dataset"), ("seed", "dataset", "phase0.split"), 7,
    ),
    Step(
        "phase0", "baseline", "linear probe on frozen features: the score to beat", ("dataset",),
        ("baseline", "baseline_recall", "baseline_predictions", "look_alikes"), ("seed", "phase0.baseline"), 6,
    ),
    Step(
        "phase1", "train", "train the global teacher", ("dataset",), ("teacher", "teacher_history", "teacher_curves"),
        ("seed", "deterministic", "phase1"), 5, newest_for=lambda config: config.phase1.model.starts_from_probe,
        flags=("profile-input",), trains=True,
        leftovers=_backups("phase1/*"),
    ),
    Step(
        "phase1", "evaluate", "metrics and pictures of it on a split", ("dataset", "assignment", "teacher"),
        ("teacher_metrics", "teacher_predictions", "teacher_pictures"), ("gates.teacher_min_recall",), 5,
        flags=("split",),
    ),
    Step(
        "phase1", "logits", "store its soft labels", ("dataset", "teacher"), ("teacher_logits",), STORES, 3, flags=BEAM,
    ),
    Step(
        "phase2", "subset", "find the region's train photos", ("dataset",), ("regional_subset", "regional_index"),
        ("phase2.region",), 2,
    ),
    Step(
        "phase2", "train", "train the regional teacher", ("dataset", "regional_subset"),
        ("regional", "regional_history", "regional_curves"), ("seed", "deterministic", "phase2"), 6,
        newest_for=lambda config: config.phase2.model.starts_from_probe,
        more_inputs=_global_teacher, flags=("profile-input",), trains=True, leftovers=_backups("phase2/*"),
    ),
    Step(
        "phase2", "evaluate", "metrics and pictures of it, and against the global teacher",
        ("dataset", "assignment", "regional", "regional_subset", "teacher", "teacher_metrics", "teacher_predictions"),
        ("regional_metrics", "regional_predictions", "regional_pictures", "regional_comparison"), ("phase2.region",), 6,
        flags=("split",),
    ),
    Step(
        "phase2", "logits", "store its soft labels", ("dataset", "regional"), ("regional_logits",), STORES, 3,
        flags=BEAM,
    ),
    Step(
        "phase3", "combine", "average the teachers' soft labels", ("dataset",), ("soft_labels",),
        ("phase3.teachers", "phase3.ensemble", "phase3.distillation.temperature", "phase3.soft_labels"), 2,
        more_inputs=lambda config: config.teacher_artefacts("{name}_logits"),
    ),
    Step(
        "phase3", "check", "verify the soft labels, judge teachers and ensemble", ("dataset", "soft_labels"),
        ("soft_label_check", "ensemble_val"),
        ("seed", "phase3.model", "phase3.teachers", "phase3.ensemble", "phase3.distillation.temperature",
         "phase4.data"), 2,
        more_inputs=lambda config: config.teacher_artefacts("{name}", "{name}_logits"),
    ),
    Step(
        "phase4", "distill", "train the student on the soft labels", ("dataset",), ("distilled", "distill_history"),
        ("seed", "deterministic", "phase3.model", "phase3.distillation", "phase3.teachers", "phase3.ensemble",
         "phase4.data", "phase4.training", "phase4.distill", "phase4.callbacks"), 5,
        newest_for=_student_starts_from_probe,
        more_inputs=_teachers, flags=("live",), trains=True, leftovers=_backups("phase4/distill"),
    ),
    Step(
        "phase4", "finetune", "train the student on the hard labels", ("dataset", "distilled"),
        ("student", "finetune_history"),
        ("seed", "deterministic", "phase4.data", "phase4.training", "phase4.finetune", "phase4.callbacks"), 4,
        newest_for=_student_starts_from_probe, trains=True, leftovers=_backups("phase4/finetune"),
    ),
    Step(
        "phase4", "evaluate", "metrics and pictures of the student on its splits", ("dataset", "assignment", "student"),
        ("student_metrics", "student_predictions", "student_pictures", "student_metrics_val", "student_metrics_train"),
        (), 5, flags=("split",),
    ),
    Step(
        "phase4", "plot", "draw the training curves", ("distill_history", "finetune_history"), ("curves",), (), 1,
    ),
    Step(
        "phase5", "calibrate", "predict the calibration and test splits", ("dataset", "assignment", "student"),
        ("predictions", "logits"), ("seed", "phase4.data", "phase5.bins"), 3,
    ),
    Step(
        "phase5", "temperature", "fit the temperature", ("logits",),
        ("temperature", "reliability", "reliability_regions"), ("seed", "phase5.bins"), 3,
    ),
    Step(
        "phase5", "threshold", "choose the 'not conclusive' threshold",
        ("dataset", "assignment", "logits", "temperature", "student"), ("calibration", "priors", "risk_coverage"),
        ("seed", "phase5"), 8, more_inputs=_families,
    ),
    Step(
        "phase6", "quantize", "quantize the weights, and measure what it costs",
        ("dataset", "assignment", "student", "logits", "temperature"),
        ("shipped", "off_list", "tflite", "quantization", "shipped_calibration"),
        ("seed", "dataset.short_side", "dataset.min_short_side", "phase4", "phase5", "phase6.quantization",
         "phase6.compare", "phase6.qat", "phase6.max_top1_loss"), 8, more_inputs=_families, flags=("type",),
    ),
    Step(
        "phase6", "export", "write SavedModel, TF.js model and page",
        ("dataset", "assignment", "shipped", "shipped_calibration", "off_list", "priors"),
        ("saved_model", "web", "export"),
        ("dataset.short_side", "dataset.min_short_side", "phase4.data"), 9, more_inputs=_details,
    ),
    Step(
        "phase6", "validate", "compare the page in a browser with Python", ("dataset", "saved_model", "web"),
        ("equivalence", "equivalence_worst"),
        ("seed", "phase6.validation_photos", "phase6.photos", "phase6.browsers"), 9,
        flags=("photos", "browser", "all", "verdict"),
    ),
    Step(
        "phase7", "manifest", "write the manifest of the run",
        ("audit", "url_check", "dataset", "leak_audit", "baseline", "baseline_predictions", "teacher",
         "teacher_metrics", "teacher_predictions", "soft_label_check", "distilled", "distill_history", "student",
         "finetune_history", "student_metrics", "student_metrics_val", "student_metrics_train", "calibration",
         "shipped", "shipped_calibration", "quantization", "saved_model", "export", "web", "equivalence"),
        ("manifest",), ("gates",), 5,
        more_inputs=lambda config: (
            ("regional", "regional_metrics", "regional_comparison") if config.phase2 else ()
        ),
    ),
]  # fmt: skip

BY_NAME = [
    Step(
        "phase3", "export-npz", "write the soft labels as dense arrays, to look at", ("dataset", "soft_labels"),
        more_inputs=lambda config: config.teacher_artefacts("{name}_logits"),
    ),
    Step(
        "phase3", "inspect", "print the soft labels of one photo", ("dataset", "soft_labels"),
        more_inputs=lambda config: config.teacher_artefacts("{name}_logits"), flags=("sample-id",),
    ),
    Step("phase7", "verify", "read every artefact, name what changed"),
    Step("phase7", "reproduce", "run the manifest again elsewhere, and compare", flags=("manifest", "force")),
]  # fmt: skip


def steps_between(first: str | None, last: str | None) -> list[Step]:
    """Steps of the chain from `first` to `last`, each a phase (`phase3`) or a step (`phase3 combine`); None is open."""
    start = 0 if first is None else _positions(first, "--from")[0]
    stop = len(STEPS) if last is None else _positions(last, "--until")[-1] + 1
    if start >= stop:
        raise ValueError(f"--from {first} --until {last}: received an end before the beginning; exchange them")
    return STEPS[start:stop]


def _positions(name: str, option: str) -> list[int]:
    found = [i for i, step in enumerate(STEPS) if name in (step.phase, step.title)]
    if not found:
        names = [*PHASES, *(step.title for step in STEPS)]
        # Of a number that there is not, no other is nearest.
        close = [] if re.fullmatch(r"phase\d+", name) else difflib.get_close_matches(name, names, 1, 0.6)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"{option}: received {name!r}{meant}, expected one of {', '.join(names)}; correct it")
    return found
