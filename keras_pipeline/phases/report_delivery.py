"""The report's sections on calibration, export and manifest."""

from __future__ import annotations

import yaml

from keras_pipeline.core import manifest
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import MIN_PHOTOS
from keras_pipeline.core.files import read_json
from keras_pipeline.core.sidecars import required, sidecar
from keras_pipeline.evaluation.report import calibration
from keras_pipeline.evaluation.report.html import (
    Block,
    Code,
    Details,
    Figure,
    KeyValues,
    Paragraph,
    Table,
)
from keras_pipeline.export.verdict import DEVICES, named_backends, tested_in


def calibration_blocks(run: Run) -> list[Block]:
    """Temperature, threshold and promise, of the float student and as shipped."""
    artefacts = {"float student": "calibration"}
    if sidecar(run.path("shipped_calibration")):
        artefacts["as shipped"] = "shipped_calibration"
    columns = {name: run.read(artefact) for name, artefact in artefacts.items()}
    title, artefact = list(artefacts.items())[-1]
    last, made_with = columns[title], required(run.path(artefact))["config"]
    scan = [[row["threshold"], row["accuracy"], row["coverage"]] for row in last["threshold_scan"]]
    return [
        Paragraph(
            f"Fitted on {last['n_fit']} calibration photos, measured on {last['n']} test photos. "
            f"{calibration.promise(last)} The target is {last['target_precision']:g}, at a confidence of "
            f"{made_with['phase5.confidence_level']:.0%}, the search for the threshold included."
        ),
        Table(["metric", *columns], _metrics(columns), "Calibration on the test split; 95 % intervals over groups"),
        Figure(run.path("reliability"), "Float student: reliability before and after temperature scaling, test split"),
        Details("Genus, region and further photos", [*map(Paragraph, calibration.describe_additions(last))]),
        Details(
            "By region",
            [
                Table(
                    _REGION.split(", "),
                    [_region(name, last) for name in last["per_region"]],
                    f"{title}: calibrated together, each with a threshold of its own where photos allow",
                ),
                Figure(run.path("reliability_regions"), "Float student: reliability by region"),
            ],
        ),
        Details(
            "Other thresholds",
            [
                Figure(
                    run.path("risk_coverage"), "Float student: wrong answers by share of photos answered, test split"
                ),
                Table(["threshold", "accuracy", "coverage"], scan, "Threshold scan, test split"),
            ],
        ),
    ]


def _metrics(columns: dict[str, dict]) -> list[list]:
    """Return a row for each metric, with a cell for each column."""
    rows = [["temperature", *(column["temperature"] for column in columns.values())]]
    for moment in ("before", "after"):
        for name in ("ece", "ece_equal_mass", "mce", "nll", "brier"):
            cells = [_with_interval(column[moment][name]) for column in columns.values()]
            rows.append([f"{_NAMES[name]}, {moment}", *cells])
    rows.append(["ECE of perfect calibration at this n", *(column["ece_null"] for column in columns.values())])
    for key in ("threshold", "precision", "coverage", "best_threshold", "precision_lower_bound", "aurc"):
        rows.append([_NAMES.get(key, key), *(column[key] for column in columns.values())])
    return rows


_NAMES = {
    "ece": "ECE", "ece_equal_mass": "ECE, bins of equal mass", "mce": "MCE", "nll": "NLL", "brier": "Brier",
    "threshold": "threshold in force", "best_threshold": "best threshold",
    "precision_lower_bound": "precision promised there", "aurc": "AURC",
}  # fmt: skip


_REGION = "region, test photos, ECE before, ECE after, by chance, threshold, best promise, precision, coverage"


def _region(name: str, calibration: dict) -> list:
    """Return a row; what a region has too few photos for is a dash."""
    entry, chosen = calibration["per_region"][name], calibration["threshold_per_region"][name]
    errors: list[str | float | None] = [None] * 3
    if "why" not in entry:
        errors = [_with_interval(entry[moment]["ece"]) for moment in ("before", "after")]
        errors.append(entry["after"]["ece"]["null"])
    keys = ("threshold", "precision_lower_bound", "precision", "coverage")
    n = entry["n"] if "why" in entry else entry["after"]["n"]
    return [name, n, *errors, *(chosen.get(key) for key in keys)]


def _with_interval(metric: dict) -> str:
    low, high = metric["interval"]
    return f"{metric['value']:.3f} [{low:.3f},\N{NO-BREAK SPACE}{high:.3f}]"


_VERDICTS = {
    "passed": "The page's answers equal Python's.",
    "failed": "The page's answers differ from Python's.",
    "not judged": "Not judged.",
}


def export_blocks(run: Run) -> list[Block]:
    """The page against Python, its speed, and what quantization costs."""
    verdict = run.read("equivalence")
    backends = named_backends(verdict)
    return [
        Paragraph(" ".join([_VERDICTS[verdict["status"]], *(f"{reason}." for reason in verdict["reasons"])])),
        _speed_table(backends, [each["browser"] for each in tested_in(verdict)]),
        *(
            Paragraph(
                f"Of {found['n']} test photos the page classifies {found['original']:.3f} correctly from the "
                f"originals, {found['record']:.3f} from the records made of them ({backend})."
            )
            for backend, measured in backends.items()
            if (found := measured.get("accuracy")) and found["n"] >= MIN_PHOTOS
        ),
        *map(Paragraph, verdict["notes"]),
        *_device_blocks(run, verdict["files"]["list_sha256"]),
        _quantization_table(run.read("quantization"), run.read("export")["bytes"]),
        Details(
            "The page against Python",
            [
                _agreement_table(backends),
                Figure(
                    run.path("equivalence_worst"),
                    "The photos with the largest differences: stage and difference, species, probability by Python / "
                    "by the page",
                ),
            ],
        ),
    ]


def _device_blocks(run: Run, page: str) -> list[Block]:
    """Say what devices have reported of this page, if any did; `page` is the sha256 of its files.json."""
    store = run.path("equivalence").with_name(DEVICES)
    kept = read_json(store) if store.exists() else {}
    reported = kept["verdicts"] if kept.get("list_sha256") == page else []
    if not reported:
        return []
    return [
        Paragraph("Reported by a device, on drawn photos; not measured here, and no gate depends on it:"),
        *(Paragraph(f"Device {number}: {_reported(each)}") for number, each in enumerate(reported, 1)),
        Details("What devices reported", [_device_table(reported)]),
    ]


def _reported(each: dict) -> str:
    device, photos = each["device"], each["photos"]
    verdict = "it reports the same answers as Python"
    if not each["agrees"]:
        verdict = f"other answers: {'; '.join(each['reasons'])}"
    return (
        f"{device['user_agent']}, {each['date'][:10]}{'' if device['secure_context'] else ', plain HTTP'}: "
        f"{verdict}. It sees {photos['same']} of {photos['n']} photos as Python does, and of those that the browser "
        f"decodes {photos['by_browser_same']} of {photos['by_browser']}. Not tested: "
        f"{'; '.join(each['untested']) or 'it names nothing'}."
    )


def _device_table(reported: list[dict]) -> Table:
    rows = [
        [f"device {number}", backend["name"], backend["renderer"], backend["n"], backend["same_top1"],
         backend["max_abs_diff"], backend["limit"], backend["load_ms"], backend["first_ms"], backend["median_ms"]]
        for number, each in enumerate(reported, 1)
        for backend in each["backends"]
    ]  # fmt: skip
    return Table(_DEVICE.split(", "), rows, "Reported by devices, with Python's answers computed here")


_DEVICE = (
    "device, backend, runs on, photos, same top-1, max |\N{WORD JOINER}Δp|, limit, load (ms), first answer (ms), "
    "then (ms)"
)

_AGREEMENT = (
    "backend, stage, verdict, photos, same top-1, same top-5, same 'conclusive', max |\N{WORD JOINER}Δp|, "
    "total variation, correlation, ms a photo"
)


def _agreement_table(backends: dict[str, dict]) -> Table:
    keys = (
        "n", "top1_agreement", "top5_agreement", "conclusive_agreement", "max_abs_diff", "total_variation",
        "correlation", "median_ms",
    )  # fmt: skip
    rows = [
        [backend, name, "passed" if stage["passed"] else "FAILED", *(stage.get(key) for key in keys)]
        for backend, measured in backends.items()
        for name, stage in measured["stages"].items()
    ]
    return Table(_AGREEMENT.split(", "), rows, "Python against the browser, same weights")


def _speed_table(backends: dict[str, dict], browsers: list[dict]) -> Table:
    rows = [
        [backend, each.get("renderer"), each.get("load_ms"), each.get("first_ms"), each["median_ms"],
         each.get("timing", {}).get("peak_memory_mb"), each.get("leaked_tensors")]
        for backend, each in backends.items()
    ]  # fmt: skip
    return Table(
        ["backend", "runs on", "load (ms)", "first answer (ms)", "then (ms)", "peak memory (MB)", "tensors leaked"],
        rows,
        f"The page in {', '.join('{name} {version}'.format(**browser) for browser in browsers)}; then: the median of "
        "the same tensors, without decoding",
    )


_COST = (
    "weights, MB, top-1, paired difference, answers changed, ΔNLL, ECE, max |\N{WORD JOINER}Δp|, "
    "max |\N{WORD JOINER}Δw|"
)


def _quantization_table(cost: dict, size: int) -> Table:
    before = cost["float32"]
    rows = [["float32", before["megabytes"], before["top1"], None, None, None, before["ece"], None, None]]
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
    notes = []
    for way, found in cost["variants"].items():
        if not found.get("within_limit", True):
            notes.append(f". {way} loses more than phase6.max_top1_loss")
        if other := found.get("without_xnnpack"):
            notes.append(f". Without XNNPACK, {other['changed']} of {other['n']} answers of {way} differ")
    return Table(
        _COST.split(", "),
        rows,
        f"What quantization costs, on {before['n']} test photos; ECE with a temperature fitted to each. Model and "
        f"shards of the page: {size:,} bytes{''.join(notes)}",
    )


def manifest_blocks(run: Run) -> list[Block]:
    """What the run was made with, and how to reproduce it."""
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
        Paragraph("`python -m keras_pipeline phase7 reproduce --manifest manifest.yaml` repeats and compares it."),
        Details("The whole config", [Code(yaml.safe_dump(found.config, sort_keys=False, allow_unicode=True))]),
    ]
