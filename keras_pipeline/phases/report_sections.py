"""The report's sections, from the artefacts that are there."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.progress import duration
from keras_pipeline.core.sidecars import sidecar
from keras_pipeline.data import records
from keras_pipeline.evaluation import gate_metrics
from keras_pipeline.evaluation.report.html import (
    Block,
    Figure,
    KeyValues,
    Paragraph,
    Table,
    interval,
    write_markdown,
    write_report,
)
from keras_pipeline.evaluation.report.pictures import photo_grid, worst_classes
from keras_pipeline.phases import model_card
from keras_pipeline.phases.report_delivery import calibration_blocks, export_blocks, manifest_blocks

WORST = 10  # species, and pairs of them, named in a table

EXAMPLES = 24  # photos

ADVICE = 3  # missed gates whose advice stands on the first screen

NAMED, LETTERS = 3, 80  # steps that are out of date, and of the reason


def write_sections(run: Run, made: set[str], rows: list[dict], verdicts: list[dict], made_from: str) -> None:
    """Write report.html and model_card.md from what is made."""
    sections = []
    for title, phases, needed, blocks in (
        ("Phase 0: data", ("phase0",), "phase0 baseline", _data),
        ("Phases 1 and 2: teachers", ("phase1", "phase2"), "phase1 evaluate", _teachers),
        ("Phases 3 and 4: student", ("phase3", "phase4"), "phase4 plot", _student),
        ("Phase 5: calibration", ("phase5",), "phase5 threshold", calibration_blocks),
        ("Phase 6: the page against Python", ("phase6",), "phase6 validate", export_blocks),
    ):
        if needed in made:
            sections.append((title, [*_warnings(rows, phases), *blocks(run)]))
    if "phase6 validate" in made:
        # A card of today's config would describe another model than the one that is there.
        outdated = _warnings(rows, ("phase",))
        card = [("Out of date", outdated)] if outdated else model_card.sections(run)
        sections.append(("Model card", [block for _, own in card for block in own]))
        write_markdown(run.folder / "model_card.md", f"Model card: {run.config.experiment}", card)
    sections.append(("Time taken", [_timings(rows)]))
    if "phase7 manifest" in made:
        sections.append(("Phase 7: how to make it again", manifest_blocks(run)))
    page = run.folder / "page.png"
    write_report(
        run.path("report"),
        experiment=run.config.experiment,
        summary=_headline(run) if "phase6 validate" in made else {},
        gates=verdicts,
        sections=sections,
        made_from=made_from,
        picture=Figure(page, "The page on a test photo") if page.exists() else None,
        advice=_advice(run, verdicts),
        folded=True,
    )


def _advice(run: Run, verdicts: list[dict]) -> list[str]:
    """What to try for the first missed gates; where none is missed, where the page is."""
    missed = [verdict for verdict in verdicts if verdict["status"] == "missed"]
    told = [f"{verdict['words']}: {verdict['reason']}" for verdict in missed[:ADVICE]]
    if len(missed) > ADVICE:
        told.append(f"{len(missed) - ADVICE} more gates are missed: see Gates.")
    if not missed and run.path("web").exists():
        told = [f"Publish the folder {run.path('web')}, or look at it with the command serve."]
    return told


def _headline(run: Run) -> dict:
    photos = sum(entry["n"] for entry in run.read("dataset")["splits"].values())
    species = len(run.read("dataset")["classes"])
    return {
        "teacher, top-1": _measured(run, gate_metrics.metric("teacher_metrics"), "{:.1%}"),
        "student, top-1": _measured(run, gate_metrics.metric("student_metrics"), "{:.1%}"),
        **_over_probe(run),
        "ECE as shipped": _measured(run, gate_metrics.ece, "{:.3f}"),
        "page says what Python says": _measured(run, gate_metrics.compared("top1_agreement"), "{:.1%}"),
        f"model, of {photos:,} photos of {species:,} species": f"{run.read('export')['bytes'] / 1e6:.1f} MB",
    }


def _measured(run: Run, value: Callable[[Run], float], form: str) -> str:
    try:
        return form.format(value(run))
    except gate_metrics.Unmeasurable:
        return "not measurable"


_OVER_PROBE = {
    "better": "student over the linear probe, which needs no training",
    "worse": "student BELOW the linear probe, which needs no training",
    "no difference shown": "student and linear probe: no difference shown",
}


def _over_probe(run: Run) -> dict[str, str]:
    """A tile: what the student's top-1 has over the linear probe's."""
    try:
        found = gate_metrics.over_probe(run, "student")
    except gate_metrics.Unmeasurable as why:
        return {f"student over the linear probe: {why}": "not measurable"}
    low, high = found["interval"]
    return {f"{_OVER_PROBE[found['verdict']]} [{low:+.3f}, {high:+.3f}]": f"{found['difference']:+.3f}"}


def _data(run: Run) -> list[Block]:
    dataset, baseline = run.read("dataset"), run.read("baseline")
    urls, leaks = run.read("url_check"), run.read("leak_audit")
    regions = sorted({name for entry in dataset["splits"].values() for name in entry["per_region"]})
    rows = [
        [split, entry["n"], len(entry["per_class"]), *(entry["per_region"].get(name, 0) for name in regions)]
        for split, entry in dataset["splits"].items()
    ]
    trivial = gate_metrics.trivial(run)
    return [
        *([Paragraph(trivial)] if trivial else []),
        KeyValues(
            {
                "URLs that failed, of those checked": f"{urls['failed']} of {urls['checked']}",
                "groups that stay together": leaks["groups"],
                "photos in the largest group": leaks["largest_group"]["n"],
                "near-duplicate pairs": leaks["links"].get("near-duplicate"),
                "photos whose picture has two names (only trained on)": leaks["label_conflicts"],
                "leaks between splits": len(leaks["leaks"]),
            }
        ),
        Table(["photos", ""], _losses(run), "From documents to photos: what was lost on the way, and why"),
        Table(
            ["classifier", "top-1", "top-5"],
            [
                [name.replace("_", " "), baseline[name]["top1_accuracy"], baseline[name]["top5_accuracy"]]
                for name in ("majority", "nearest_class_mean", "linear_probe")
            ],
            f"Baselines on the test split; frozen features: {baseline['features']}",
        ),
        Table(["split", "photos", "species", *regions], rows, "Photos by split and region"),
        *_examples(run),
        Figure(run.path("audit").with_name("class_histogram.png"), "Photos per species in the collection, log scale"),
    ]


def _losses(run: Run) -> list[list]:
    """[photos, what became of them]"""
    audit, leaks = run.read("audit"), run.read("leak_audit")
    ledger = pd.read_parquet(run.path("url_ledger"), columns=["state", "reason"])
    lost = ledger[ledger.state != "ok"].groupby("reason").size().sort_values(ascending=False)
    since = len(ledger) - audit["documents"]
    return [
        [audit["documents"], "documents"],
        *([[since, "documents of one photo more than once, or that came or went after the audit"]] if since else []),
        *([-int(n), f"not stored: {reason}"] for reason, n in lost.items()),
        *([-n, f"left out by the split: {reason}"] for reason, n in leaks["left_out"].items()),
        [leaks["photos"], "photos in the four splits"],
    ]


def _examples(run: Run) -> list[Block]:
    """One train photo each of as many species as there is room for: the first that come, which is a seeded order."""
    info = records.load_info(run.path("dataset"))
    first: dict[str, np.ndarray] = {}
    for photo in map(records.decode, records.read_shard(info.shards("train")[0])):
        if photo.latin_name not in first:
            picture = Image.open(io.BytesIO(photo.image)).convert("RGB")
            first[photo.latin_name] = np.asarray(ImageOps.fit(picture, (192, 192)))
        if len(first) == min(EXAMPLES, len(info.classes)):
            break
    names = sorted(first)
    file = run.path("audit").with_name("examples.png")
    photo_grid(np.stack([first[name] for name in names]), names, file)
    return [Figure(file, "A train photo each of some of the species")]


def _teachers(run: Run) -> list[Block]:
    settings = run.config.phase1
    return [
        Paragraph(f"Global teacher: {settings.model.name} at {settings.data.image_size} px."),
        *_figures_of(run, "teacher", "Global teacher"),
        *_regional(run),
    ]


def _regional(run: Run) -> list[Block]:
    if absent := run.why_not_applicable("phase2"):
        return [Paragraph(f"No regional teacher: {absent}.")]
    if sidecar(run.path("regional_comparison")) is None:
        return []
    comparison, settings = run.read("regional_comparison"), run.config.regional
    rows = [
        [area, entry["n"], entry["groups"], entry["first"], entry["second"], entry["difference"],
         interval(entry["interval"]), entry["verdict"]]
        for area, entry in comparison["by_region"].items()
    ]  # fmt: skip
    return [
        Paragraph(
            f"Regional teacher: {settings.model.name} at {settings.data.image_size} px on {settings.region}. "
            f"{comparison['verdict']}."
        ),
        Table(
            ["region", "photos", "groups", "global", "regional", "difference", "95 % interval", "regional is"],
            rows,
            "The two teachers on the test split, top-1 by region; intervals by paired bootstrap over groups",
        ),
        Figure(run.path("regional_pictures") / "regions.png", "Test top-1 by region, both teachers"),
        *_figures_of(run, "regional", "Regional teacher"),
    ]


def _figures_of(run: Run, prefix: str, title: str) -> list[Block]:
    """What one network learnt and where it errs."""
    metrics, pictures = run.read(f"{prefix}_metrics"), run.path(f"{prefix}_pictures")
    shown = run.path(prefix).parent / "full/augmented_batch.png"
    worst = [
        [name, entry["n"], entry["groups"], entry["recall"], interval(entry["interval"])]
        for name, entry in worst_classes(metrics["per_class_recall"])[:WORST]
    ]
    pairs = [[pair["truth"], pair["answer"], pair["n"], pair["share"]] for pair in metrics["confused_pairs"][:WORST]]
    blocks: list[Block] = [
        Table(
            ["figure", "value", "95 % interval"],
            [
                ["top-1", metrics["top1_accuracy"], interval(metrics["top1_interval"])],
                ["top-5", metrics["top5_accuracy"], interval(metrics["top5_interval"])],
                ["macro recall", metrics["macro_recall"], interval(metrics["macro_recall_interval"])],
                ["loss", metrics["loss"], ""],
            ],
            f"{title} on {metrics['n']} test photos in {metrics['groups']} groups",
        ),
        *([Figure(shown, f"{title}: a batch as it is trained on")] if shown.exists() else []),
        *([Figure(run.path(f"{prefix}_curves"), f"{title}: training")] if prefix != "student" else []),
        Table(
            ["species", "photos", "groups", "recall", "95 % interval"],
            worst,
            f"{title}: the lowest recalls; species with 20 test photos or more come first",
        ),
        Figure(pictures / "recall.png", f"{title}: recall by species"),
        Figure(pictures / "confusion.png", f"{title}: what was taken for what, test split"),
    ]
    if pairs:
        blocks += [
            Table(["truth", "answer", "photos", "share of the truth"], pairs, f"{title}: most confused"),
            Figure(pictures / "confused.png", f"{title}: most confused, the photos it was surest of"),
        ]
    return blocks


def _student(run: Run) -> list[Block]:
    check = run.read("soft_label_check")
    rows = []
    for split in ("train", "val", "test"):
        metrics = run.read("student_metrics" if split == "test" else f"student_metrics_{split}")
        rows.append([split, metrics["n"], metrics["top1_accuracy"], metrics["top5_accuracy"], metrics["loss"]])
    return [
        KeyValues(
            {
                "student": f"mobilenetv2, alpha {run.config.phase3.model.alpha:g}, "
                f"{run.config.phase4.data.image_size} px",
                "parameters": check["student"]["parameters"],
                "soft labels": f"{check['shape'][0]} x {check['shape'][1]}, {check['bytes_per_photo']} bytes a photo",
                "ensemble top-1 on train": check["ensemble"]["train_top1"],
            }
        ),
        _distillation(run, check),
        Table(["split", "photos", "top-1", "top-5", "loss"], rows, "Student (train: first shard, clean views)"),
        Figure(run.path("curves"), "Training of the student: distillation, then fine-tuning"),
        *_figures_of(run, "student", "Student"),
        Figure(run.path("student_pictures") / "regions.png", "Student: test top-1 by region"),
    ]


def _distillation(run: Run, check: dict) -> Table:
    """What the student has kept of its teachers, and what it has over what needs no training."""
    probe, student = run.read("baseline")["linear_probe"]["top1_accuracy"], run.read("student_metrics")
    teachers = [*check["teachers"], check["ensemble"]]
    rows = [["linear probe of frozen features", probe, None]]
    rows += [[each["name"], each["test_top1"], None] for each in teachers]
    agreement = run.read("distill_history")["epochs"][-1].get("val_agreement")
    rows.append(["student", student["top1_accuracy"], agreement])
    best = max(each["test_top1"] for each in teachers)
    return Table(
        ["classifier", "test top-1", "agrees with the ensemble (val)"],
        rows,
        f"What distillation brings: student {student['top1_accuracy'] - probe:+.3f} to the probe, "
        f"{student['top1_accuracy'] - best:+.3f} to the best teacher or ensemble",
    )


def _warnings(rows: list[dict], phases: tuple[str, ...]) -> list[Block]:
    """Name the phases' steps that are out of date."""
    stale = [row for row in rows if row["state"] == "stale" and row["step"].startswith(phases)]
    if not stale:
        return []
    named = "; ".join(f"{row['step']} ({row['reason'][:LETTERS]})" for row in stale[:NAMED])
    more = f"; and {len(stale) - NAMED} more" if len(stale) > NAMED else ""
    return [Paragraph(f"Out of date: {named}{more}. These metrics may come from different runs; `run` renews them.")]


def _timings(rows: list[dict]) -> Table:
    taken = [[row["step"], row["state"], duration(row["seconds"])] for row in rows if row["seconds"] is not None]
    total = sum(row["seconds"] for row in rows if row["seconds"] is not None)
    return Table(["step", "state", "took"], [*taken, ["together", "", duration(total)]], "Steps, when they last ran")
