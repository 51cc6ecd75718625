"""The report's sections, from the artefacts that are there."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.progress import duration
from keras_pipeline.core.region_names import title_of
from keras_pipeline.core.sidecars import required, sidecar
from keras_pipeline.data import assignment, records
from keras_pipeline.evaluation import gate_metrics
from keras_pipeline.evaluation.confusion import MANY_SPECIES
from keras_pipeline.evaluation.report.html import (
    BESIDE,
    Block,
    Cell,
    Details,
    Figure,
    KeyValues,
    Paragraph,
    Table,
    interval,
    write_markdown,
    write_report,
)
from keras_pipeline.evaluation.report.pictures import photo_grid
from keras_pipeline.phases import model_card, report_summary
from keras_pipeline.phases.model_card import confused_table, is_by_genus, lowest_recalls, recall_table
from keras_pipeline.phases.report_delivery import calibration_blocks, export_blocks, manifest_blocks

WORST = 10  # species, and pairs of them, named in a table

EXAMPLES = 24  # photos

# What the model card describes; the manifest of phase 7 comes after it.
BEFORE_CARD = tuple(f"phase{number}" for number in range(7))


def write_sections(
    run: Run, made: set[str], rows: list[dict], verdicts: list[dict], made_from: str, commands: dict[str, str]
) -> None:
    """Write report.html and model_card.md from what is made.

    Args:
        made: titles of the steps whose artefacts are there, or never will be.
        rows: `status.rows`.
        verdicts: `gates.judge`.
        made_from: see `write_report`.
        commands: `{name: command line}` of `run` and `serve`.
    """
    sections: list[tuple[str, list[Block]]] = []
    summary: dict[str, Cell] = {}
    with contextlib.suppress(BrokenArtefact):  # the sections say which
        summary = report_summary.headline(run) if "phase6 validate" in made else {}
    for title, needed, blocks in (
        ("Phase 0: data", "phase0 baseline", _data),
        ("Phase 1: global teacher", "phase1 evaluate", _teacher),
        ("Phase 2: regional teacher", "phase2 evaluate", _regional),
        ("Phase 3: soft labels", "phase3 check", _soft_labels),
        ("Phase 4: student", "phase4 plot", _student),
        ("Phase 5: calibration", "phase5 threshold", calibration_blocks),
        ("Phase 6: the page", "phase6 validate", export_blocks),
        ("Phase 7: how to reproduce it", "phase7 manifest", manifest_blocks),
    ):
        if needed in made:
            sections.append((title, [*_out_of_date(rows, (needed.split()[0],)), *_unless_broken(run, blocks)]))
    if "phase6 validate" in made:
        sections.append(("Model card", _card(run, rows)))
    sections.append(("Time taken", [_timings(rows)]))
    page = run.folder / "page.png"
    write_report(
        run.path("report"),
        experiment=run.config.experiment,
        summary=summary,
        gates=verdicts,
        sections=sections,
        made_from=made_from,
        warning=report_summary.warning(rows, ("phase",)) or report_summary.unfinished(rows),
        picture=Figure(page, "The page on a test photo", BESIDE) if page.exists() else None,
        advice=report_summary.advice(run, rows, verdicts, commands),
        folded=True,
    )


def _unless_broken(run: Run, blocks: Callable[[Run], list[Block]]) -> list[Block]:
    try:
        return blocks(run)
    except BrokenArtefact as error:
        return [Paragraph(f"Left out: {error}.")]


def _out_of_date(rows: list[dict], phases: tuple[str, ...]) -> list[Block]:
    warning = report_summary.warning(rows, phases)
    return [Paragraph(warning)] if warning else []


def _card(run: Run, rows: list[dict]) -> list[Block]:
    """Write model_card.md and return its blocks: only a warning where today's config may describe another model."""
    warning = report_summary.warning(rows, BEFORE_CARD, (*report_summary.OUT_OF_DATE, "missing"))
    card: list[tuple[str, list[Block]]] = (
        [("Out of date", [Paragraph(warning)])] if warning else model_card.sections(run)
    )
    write_markdown(run.folder / "model_card.md", f"Model card: {run.config.experiment}", card)
    return [Paragraph(warning)] if warning else [Details(heading, blocks) for heading, blocks in card]


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
                "failed URLs": f"{urls['failed']} of {urls['checked']} checked",
                "groups that stay in one split": leaks["groups"],
                "photos in the largest group": leaks["largest_group"]["n"],
                "near-duplicate pairs": leaks["links"].get("near-duplicate"),
                "photos with two names (used for training only)": leaks["label_conflicts"],
                "leaks between splits": len(leaks["leaks"]),
            }
        ),
        Table(["photos", "what became of them"], _losses(run), "From documents to photos"),
        Table(["split", "photos", "species", *regions], rows, "Photos by split and region"),
        Table(
            ["classifier", "top-1", "top-5"],
            [
                [name.replace("_", " "), baseline[name]["top1_accuracy"], baseline[name]["top5_accuracy"]]
                for name in ("majority", "nearest_class_mean", "linear_probe")
            ],
            f"Baselines on the test split; frozen features: {baseline['features']}",
        ),
        Details("Example photos", [_examples(run)]),
        Details(
            "Photos per species",
            [Figure(run.path("audit").with_name("class_histogram.png"), "The collection, on a log scale")],
        ),
    ]


def _losses(run: Run) -> list[list]:
    """Return rows of photos and what became of them."""
    audit, leaks = run.read("audit"), run.read("leak_audit")
    ledger = assignment.read_columns(run.path("url_ledger"), ["state", "reason"], "`phase0 export --force`")
    reason = ledger.reason.str.replace(r"^the same URL as .*", "the same URL as another document", regex=True)
    lost = ledger[ledger.state != "ok"].groupby(reason).size().sort_values(ascending=False)
    without = audit.get("documents_without_photos", 0)
    read = audit.get("photos", audit["documents"]) + without  # an audit of an older program has documents alone
    since = len(ledger) - read
    return [
        [read, "documents" if read == audit["documents"] else "photos, and documents without one"],
        *([[since, "repeated documents, or documents changed since the audit"]] if since else []),
        *([-int(n), f"not stored: {reason}"] for reason, n in lost.items()),
        *([-n, f"left out by the split: {reason}"] for reason, n in leaks["left_out"].items()),
        [leaks["photos"], "photos in the four splits"],
    ]


def _examples(run: Run) -> Figure:
    """Draw one train photo each of the first species in the first shard, whose order is seeded."""
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
    return Figure(file, "One train photo of each species, or of some")


def _teacher(run: Run) -> list[Block]:
    made_with = required(run.path("teacher"))["config"]  # which today's config may not be
    return [
        Paragraph(f"{made_with['phase1.model.name']} at {made_with['phase1.data.image_size']} px."),
        *_network(run, "teacher", "Global teacher"),
    ]


def _regional(run: Run) -> list[Block]:
    if absent := run.why_not_applicable("phase2"):
        return [Paragraph(f"No regional teacher: {absent}.")]
    if sidecar(run.path("regional_comparison")) is None:
        return []
    comparison, made_with = run.read("regional_comparison"), required(run.path("regional"))["config"]
    rows = [
        [area, entry["n"], entry["groups"], entry["first"], entry["second"], entry["difference"],
         interval(entry["interval"]), entry["verdict"]]
        for area, entry in comparison["by_region"].items()
    ]  # fmt: skip
    return [
        Paragraph(
            f"{made_with['phase2.model.name']} at {made_with['phase2.data.image_size']} px, trained on "
            f"{title_of(made_with['phase2.region'])}. {comparison['verdict']}."
        ),
        Table(
            ["region", "photos", "groups", "global", "regional", "difference", "95 % interval", "regional is"],
            rows,
            "The two teachers on the test split, top-1 by region; intervals by paired bootstrap over groups",
        ),
        *_network(run, "regional", "Regional teacher"),
        Details(
            "Top-1 by region",
            [Figure(run.path("regional_pictures") / "regions.png", "Test top-1 by region, both teachers")],
        ),
    ]


def _network(run: Run, prefix: str, title: str) -> list[Block]:
    """Describe what one network has learnt, and fold away where it errs."""
    metrics = run.read(f"{prefix}_metrics")
    batch = run.path(prefix).parent / "full/augmented_batch.png"
    return [
        Table(
            ["metric", "value", "95 % interval"],
            [
                ["top-1", metrics["top1_accuracy"], interval(metrics["top1_interval"])],
                ["top-5", metrics["top5_accuracy"], interval(metrics["top5_interval"])],
                ["macro recall", metrics["macro_recall"], interval(metrics["macro_recall_interval"])],
                *([["right genus", metrics["genus_accuracy"], ""]] if is_by_genus(metrics) else []),
                ["loss", metrics["loss"], ""],
            ],
            f"{title} on {metrics['n']} test photos in {metrics['groups']} groups, judged on "
            f"{gate_metrics.judged(metrics)}",
        ),
        Details(
            "Training",
            [
                Figure(run.path("curves" if prefix == "student" else f"{prefix}_curves"), f"{title}: training curves"),
                *([Figure(batch, f"{title}: a batch as it is trained on")] if batch.exists() else []),
            ],
        ),
        *_mistakes(run, prefix, title, metrics),
    ]


def _mistakes(run: Run, prefix: str, title: str, metrics: dict) -> list[Block]:
    """Describe recalls and confusions; of many species the recall by train photos comes before the single ones."""
    pictures, many = run.path(f"{prefix}_pictures"), is_by_genus(metrics)
    by_species = lowest_recalls(metrics, WORST, title)
    if isinstance(by_species[0], Table):
        by_species.append(Figure(pictures / "recall.png", f"{title}: recall by species"))
    by_train = _recall_by_train_photos(pictures / "recall_by_train_photos.png", title, metrics)
    by_genus = f" by genus (above {MANY_SPECIES} species)" if many else ""
    confused: list[Block] = [Figure(pictures / "confusion.png", f"{title}: confusions on the test split{by_genus}")]
    if many:
        confused += confused_table(metrics, "confused_genera", WORST, f"{title}: most confused genera")
    if metrics["confused_pairs"]:
        confused += [
            *confused_table(metrics, "confused_pairs", WORST, f"{title}: most confused species"),
            Figure(
                pictures / "confused.png",
                f"{title}: most confused; blue: the surest mistakes, orange: a train photo of what they were taken for",
            ),
        ]
    return [
        Details("Recall", [*by_train, *by_species] if many else [*by_species, *by_train]),
        Details("Confusions", confused),
    ]


def _recall_by_train_photos(picture: Path, title: str, metrics: dict) -> list[Block]:
    """Return curve and table; nothing of an evaluation of an older program, or where all species are alike."""
    table = recall_table(metrics, f"{title}: recall by number of train photos of a species")
    return [*([Figure(picture, f"{title}: recall by train photos")] if picture.exists() else []), *table]


def _soft_labels(run: Run) -> list[Block]:
    check = run.read("soft_label_check")
    photos, width = check["shape"]
    rows = [
        [each["name"], *(each[f"{split}_top1"] for split in ("train", "val", "test"))]
        for each in (*check["teachers"], check["ensemble"])
    ]
    return [
        KeyValues({"soft labels": f"{photos:,} x {width:,}", "bytes a photo": check["bytes_per_photo"]}),
        Table(["teacher", "train top-1", "val top-1", "test top-1"], rows, "The teachers, and their ensemble"),
    ]


def _student(run: Run) -> list[Block]:
    made_with = required(run.path("distilled"))["config"]
    rows = []
    for split in ("train", "val", "test"):
        metrics = run.read("student_metrics" if split == "test" else f"student_metrics_{split}")
        rows.append([split, metrics["n"], metrics["top1_accuracy"], metrics["top5_accuracy"], metrics["loss"]])
    parameters = run.read("soft_label_check")["student"]["parameters"]
    regions = Figure(run.path("student_pictures") / "regions.png", "Student: test top-1 by region")
    return [
        Paragraph(
            f"mobilenetv2, alpha {made_with['phase3.model.alpha']:g}, {made_with['phase4.data.image_size']} px, "
            f"{parameters:,} parameters."
        ),
        _distillation(run),
        Table(["split", "photos", "top-1", "top-5", "loss"], rows, "Student (train: first shard, clean views)"),
        *_network(run, "student", "Student"),
        Details("Top-1 by region", [regions]),
    ]


def _distillation(run: Run) -> Table:
    """Compare the student with its teachers, and with the linear probe, which trains no network."""
    check = run.read("soft_label_check")
    probe, student = run.read("baseline")["linear_probe"]["top1_accuracy"], run.read("student_metrics")
    teachers = [*check["teachers"], check["ensemble"]]
    rows = [[f"linear probe of phase 0's features ({run.read('baseline')['features']})", probe, None]]
    if own := student.get("own_probe"):
        title = f"linear probe of the student's own features ({own['image_size']} px)"
        rows.append([title, own["top1_accuracy"], None])
    rows += [[each["name"], each["test_top1"], None] for each in teachers]
    agreement = run.read("distill_history")["epochs"][-1].get("val_agreement")
    rows.append(["student", student["top1_accuracy"], agreement])
    best = max(each["test_top1"] for each in teachers)
    return Table(
        ["classifier", "test top-1", "agrees with the ensemble (val)"],
        rows,
        f"What distillation brings: the student's top-1 is {student['top1_accuracy'] - probe:+.3f} against phase "
        f"0's probe, {student['top1_accuracy'] - best:+.3f} against the best teacher or ensemble",
    )


def _timings(rows: list[dict]) -> Table:
    taken = [[row["step"], row["state"], duration(row["seconds"])] for row in rows if row["seconds"] is not None]
    total = sum(row["seconds"] for row in rows if row["seconds"] is not None)
    return Table(["step", "state", "took"], [*taken, ["total", "", duration(total)]], "Steps, when they last ran")
