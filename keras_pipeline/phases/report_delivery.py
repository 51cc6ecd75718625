"""The report's sections on calibration, export and manifest."""

from __future__ import annotations

import yaml

from keras_pipeline.core import manifest
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.schema import MIN_PHOTOS
from keras_pipeline.core.sidecars import sidecar
from keras_pipeline.evaluation.report import calibration
from keras_pipeline.evaluation.report.html import (
    Block,
    Details,
    Figure,
    KeyValues,
    Paragraph,
    Table,
)


def calibration_blocks(run: Run) -> list[Block]:
    """Temperature, threshold and promise, of the float student and as shipped."""
    floating, rows = run.read("calibration"), []
    if sidecar(run.path("shipped_calibration")):
        columns = {"float student": floating, "as shipped": run.read("shipped_calibration")}
    else:
        columns = {"float student": floating}
    rows.append(["temperature", *(column["temperature"] for column in columns.values())])
    for moment in ("before", "after"):
        for name in ("ece", "ece_equal_mass", "mce", "nll", "brier"):
            cells = [_with_interval(column[moment][name]) for column in columns.values()]
            rows.append([f"{_FIGURES[name]}, {moment}", *cells])
    rows.append(["ECE of perfect calibration at this n", *(column["ece_null"] for column in columns.values())])
    for key in ("threshold", "precision", "coverage", "best_threshold", "precision_lower_bound", "aurc"):
        rows.append([_FIGURES.get(key, key), *(column[key] for column in columns.values())])
    title, last = list(columns.items())[-1]
    scan = [[row["threshold"], row["accuracy"], row["coverage"]] for row in last["threshold_scan"]]
    return [
        Paragraph(
            f"Fitted on {last['n_fit']} calibration photos, measured on {last['n']} test photos. "
            f"{calibration.promise(last)} The target is {last['target_precision']:g}, at a confidence of "
            f"{run.config.phase5.confidence_level:.0%}, the search for the threshold included."
        ),
        Table(["figure", *columns], rows, "Calibration, test split; 95 % intervals over groups"),
        Table(
            [
                "region",
                "test photos",
                "ECE before",
                "ECE after",
                "by chance",
                "threshold",
                "best promise",
                "precision",
                "coverage",
            ],
            [_region(name, last) for name in last["per_region"]],
            f"By region, {title}: calibrated together, each with a threshold of its own where photos allow",
        ),
        *map(Paragraph, calibration.describe_additions(last)),
        Figure(run.path("reliability"), "Reliability before and after temperature scaling, test split"),
        Figure(run.path("reliability_regions"), "The same by region"),
        Figure(run.path("risk_coverage"), "Share of wrong answers against share of photos answered, test split"),
        Table(["threshold", "accuracy", "coverage"], scan, "Threshold scan, test split"),
    ]


_FIGURES = {
    "ece": "ECE", "ece_equal_mass": "ECE, bins of equal mass", "mce": "MCE", "nll": "NLL", "brier": "Brier",
    "threshold": "threshold in force", "best_threshold": "best threshold",
    "precision_lower_bound": "precision promised there", "aurc": "AURC",
}  # fmt: skip


def _region(name: str, calibration: dict) -> list:
    """A row; what a region has too few photos for is a dash."""
    entry, chosen = calibration["per_region"][name], calibration["threshold_per_region"][name]
    figures: list[str | float | None] = [None] * 3
    if "why" not in entry:
        figures = [_with_interval(entry[moment]["ece"]) for moment in ("before", "after")]
        figures.append(entry["after"]["ece"]["null"])
    keys = ("threshold", "precision_lower_bound", "precision", "coverage")
    n = entry["n"] if "why" in entry else entry["after"]["n"]
    return [name, n, *figures, *(chosen.get(key) for key in keys)]


def _with_interval(figure: dict) -> str:
    low, high = figure["interval"]
    return f"{figure['value']:.3f} [{low:.3f}, {high:.3f}]"


_VERDICTS = {
    "passed": "The page says what Python says.",
    "failed": "The page does not say what Python says.",
    "not judged": "Not judged.",
}


def export_blocks(run: Run) -> list[Block]:
    """The page against Python, its speed, and what quantization costs."""
    verdict, cost = run.read("equivalence"), run.read("quantization")
    backends = verdict["backends"]
    browser = verdict["browser"]
    keys = (
        "n", "top1_agreement", "top5_agreement", "conclusive_agreement", "max_abs_diff", "mean_abs_diff",
        "correlation", "median_ms",
    )  # fmt: skip
    rows = [
        [backend, name, *(stage.get(key) for key in keys), "passed" if stage["passed"] else "FAILED"]
        for backend, figures in backends.items()
        for name, stage in figures["stages"].items()
    ]
    speed = [
        [backend, figures.get("renderer"), figures.get("load_ms"), figures.get("first_ms"), figures["median_ms"],
         figures.get("timing", {}).get("peak_memory_mb"), figures.get("leaked_tensors")]
        for backend, figures in backends.items()
    ]  # fmt: skip
    accuracy = [
        f"Of {found['n']} test photos the page names {found['original']:.3f} right from the originals, "
        f"{found['record']:.3f} from the records made of them ({backend})."
        for backend, figures in backends.items()
        if (found := figures.get("accuracy")) and found["n"] >= MIN_PHOTOS
    ]
    return [
        Paragraph(_VERDICTS[verdict["status"]] + "".join(f" {reason}." for reason in verdict["reasons"])),
        Table(
            [
                "backend",
                "stage",
                "photos",
                "same top-1",
                "same top-5",
                "same 'conclusive'",
                "max |Δp|",
                "mean |Δp|",
                "correlation",
                "ms a photo",
                "verdict",
            ],
            rows,
            "Python against the browser, same weights",
        ),
        Table(
            ["backend", "runs on", "load, ms", "first answer, ms", "then, ms", "peak memory, MB", "tensors leaked"],
            speed,
            f"The page in headless {browser['name']} {browser['version']}; a median is of the same tensors, without "
            "decoding",
        ),
        *map(Paragraph, accuracy),
        *map(Paragraph, verdict["notes"]),
        Figure(
            run.path("equivalence_worst"),
            "The photos on which they differ most: stage and difference, name, probability by Python / by the page",
        ),
        KeyValues({"model and shards, bytes": run.read("export")["bytes"]}),
        _rounding_table(cost),
    ]


def _rounding_table(cost: dict) -> Table:
    before = cost["float32"]
    rows = [["float32", before["megabytes"], before["top1"], "", "", None, before["ece"], None, None]]
    for way, found in cost["variants"].items():
        top1, flips = found["top1"], found["flips"]
        low, high = flips["interval"]
        largest = max((entry["max_abs_error"] for entry in found["tensors"]), default=None)
        rows.append(
            [way + (" (shipped)" if way == cost["type"] else ""), found["megabytes"], top1["second"],
             f"{top1['difference']:+.3f} [{top1['interval'][0]:+.3f}, {top1['interval'][1]:+.3f}]",
             f"{flips['n']}, {flips['share']:.2%} [{low:.2%}, {high:.2%}]", found["delta_nll"], found["ece"],
             found["max_abs_dp"], largest]
        )  # fmt: skip
    return Table(
        ["weights", "MB", "top-1", "paired difference", "answers changed", "ΔNLL", "ECE", "max |Δp|", "max |Δw|"],
        rows,
        f"What rounding costs, {before['n']} test photos; each way with a temperature of its own for the ECE",
    )


def manifest_blocks(run: Run) -> list[Block]:
    """With what the run was made, and how to make it again."""
    found = manifest.read(run.path("manifest"))
    environment = found.environment
    dirty = " with changes that are not committed" if found.git_dirty else ""
    return [
        KeyValues(
            {
                "manifest": str(run.path("manifest").relative_to(run.folder)),
                "code": f"commit {found.git_commit}{dirty}" if found.git_commit else "no repository",
                "dataset hash": found.data.dataset_hash,
                "weights hash": found.phases["phase_6"].checkpoint_hash,
                "seed": str(environment.seed),
                "deterministic": environment.deterministic,
                "python, tensorflow, keras": f"{environment.python_version}, {environment.tensorflow_version}, "
                f"{environment.keras_version} ({len(environment.packages)} packages in the manifest)",
                "processor": environment.cpu,
                "GPUs": ", ".join(environment.gpu) or "none",
            }
        ),
        Paragraph("python -m keras_pipeline phase7 reproduce --manifest manifest.yaml makes it again and compares."),
        Details("The whole config", yaml.safe_dump(found.config, sort_keys=False, allow_unicode=True)),
    ]
