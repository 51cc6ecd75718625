"""The model card (arXiv 1810.03993): what the shipped model is for, and where it errs, in numbers."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.student import TRAINED_HERE
from keras_pipeline.core.schema import MIN_PHOTOS, SPLITS, UNKNOWN_REGION
from keras_pipeline.core.sidecars import required
from keras_pipeline.evaluation import gate_metrics
from keras_pipeline.evaluation.answers import TITLES
from keras_pipeline.evaluation.report.calibration import promise
from keras_pipeline.evaluation.report.html import Block, KeyValues, Paragraph, Table, interval
from keras_pipeline.evaluation.report.pictures import worst_classes

NAMED = 10


def sections(run: Run) -> list[tuple[str, list[Block]]]:
    """(heading, blocks), from the artefacts that `phase6 validate` and everything before it left."""
    return [
        ("What it is", _model(run)),
        ("What it is for", _use(run)),
        ("What it has learnt from", _data(run)),
        ("How good it is", _quality(run)),
        ("Where it errs", _limits(run)),
    ]


def _model(run: Run) -> list[Block]:
    config, calibration = run.config, run.read("shipped_calibration")
    model = config.phase3.model
    rank = f", head of rank {model.head_rank}" if model.head_rank else ""
    threshold = calibration["threshold"]
    return [
        KeyValues(
            {
                "network": f"MobileNetV2, alpha {model.alpha:g}{rank}, {config.phase4.data.image_size} px",
                "parameters": run.read("soft_label_check")["student"]["parameters"],
                "weights": f"{config.phase6.quantization}, {run.read('export')['bytes'] / 1e6:.2f} MB with the graph",
                "learnt from": _teachers(run),
                **({"regional teacher": f"none: {absent}"} if (absent := run.why_not_applicable("phase2")) else {}),
                "answers": f"one of {len(run.read('dataset')['classes']):,} species, with a calibrated probability",
                "conclusive from a probability of": "none: no answer is conclusive" if threshold is None else threshold,
                "weights hash": calibration["weights_hash"],
                "finished": required(run.path("saved_model"))["finished"],
            }
        )
    ]


def _teachers(run: Run) -> str:
    """What the student has learnt from, first and then."""
    weights, said = run.config.phase3.distillation.loss_weights, []
    for member in run.config.phase3.teachers:
        made_here = TRAINED_HERE.get(member.path)
        title = TITLES[made_here] if made_here else f"teacher {member.path}"
        said += [f"{title} (for {member.region_filter})" if member.region_filter else title] * bool(member.weight)
    said = said * bool(weights.kl_divergence) + ["labels"] * bool(weights.cross_entropy)
    return f"{', '.join(said)} (distillation), then labels (fine-tuning)"


def _use(run: Run) -> list[Block]:
    dataset = run.read("dataset")
    counts = Counter(dataset["splits"]["train"]["per_region"])
    regions = [name for name, _ in counts.most_common(NAMED) if name != UNKNOWN_REGION]
    return [
        Paragraph(
            "Naming a plant on a photo, as a suggestion to a person, for plants of these species as they are "
            f"photographed in {', '.join(regions) or 'this collection'}."
        ),
        Paragraph(
            "Not for deciding whether a plant may be eaten or touched. It knows no species but its own and has no "
            "answer for what is no plant: of something else it names the species that looks most alike, often but not "
            "always as not conclusive. It was measured on photos of the same collection; others may fare worse."
        ),
    ]


def _data(run: Run) -> list[Block]:
    dataset, leaks = run.read("dataset"), run.read("leak_audit")
    per_class = dataset["splits"]["train"]["per_class"]
    photos = pd.read_parquet(run.path("assignment"), columns=["split", "license"])
    licences = photos.license[photos.split == "train"].replace("", "unknown licence").value_counts()
    server, _, collection = run.read("audit").get("source", "unknown").partition(" ")
    embedded = "a folder of photos" if run.config.source.demo.images else "drawn photos of invented plants"
    where = {"embedded": embedded, "unknown": "unknown"}.get(server, f"MongoDB, {collection}")
    return [
        KeyValues(
            {
                "source": where,
                "photos": ", ".join(f"{dataset['splits'][split]['n']:,} {split}" for split in SPLITS),
                "kept apart": f"{leaks['groups']:,} groups (same plant, same file, look-alikes), none in two splits",
                "train photos a species": f"{min(per_class.values()):,} to {max(per_class.values()):,}",
                "licences of the train photos": ", ".join(f"{n:,} {name}" for name, n in licences.head(NAMED).items()),
                "authors": "attribution.txt beside the page",
            }
        )
    ]


def _quality(run: Run) -> list[Block]:
    metrics, calibration = run.read("student_metrics"), run.read("shipped_calibration")
    quantization, regions = run.read("quantization"), metrics["per_region"]
    shipped = quantization["variants"].get(quantization["type"])
    rounding = ""
    if shipped:
        flips, n, change = shipped["flips"]["n"], shipped["n"], shipped["top1"]["difference"]
        rounding = f" Rounding changed {flips} of {n} first answers ({change:+.3f} top-1)."
    precision = calibration["precision"]
    right = "" if precision is None else f", {precision:.1%} of them right"
    rows = [
        ["all", metrics["n"], metrics["top1_accuracy"], interval(metrics["top1_interval"]), metrics["top5_accuracy"]]
    ]
    rows += [[name, r["n"], r["top1"], interval(r["top1_interval"]), r["top5"]] for name, r in regions.items()]
    trivial = gate_metrics.trivial(run)
    return [
        *([Paragraph(trivial)] if trivial else []),
        Table(
            ["region", "photos", "top-1", "95 % interval", "top-5"],
            rows,
            f"Test photos, by region, before rounding; {metrics['groups']} groups",
        ),
        Paragraph(
            f"{promise(calibration)} On the test split {calibration['coverage']:.1%} of the answers are "
            f"conclusive{right}. ECE {calibration['ece_after']:.3f}; a perfectly calibrated model would show "
            f"{calibration['ece_null']:.3f} by chance at {calibration['n']} photos.{rounding}"
        ),
        Paragraph(_over_probe(run)),
        Paragraph(_proof(run.read("equivalence"))),
    ]


def _over_probe(run: Run) -> str:
    try:
        found = gate_metrics.over_probe(run, "student")
    except gate_metrics.Unmeasurable as why:
        return f"Not compared with a linear probe on frozen features: {why}."
    low, high = found["interval"]
    return (
        f"A linear probe on frozen features ({run.read('baseline')['features']}), which trains no network, has a top-1 "
        f"of {found['first']:.3f} on these photos; the student's is {found['difference']:+.3f} to it "
        f"[{low:+.3f}, {high:+.3f}]."
    )


def _proof(verdict: dict) -> str:
    if verdict["status"] != "passed":
        return f"The page was not shown to say what Python says ({verdict['status']})."
    wasm, browser = verdict["backends"]["wasm"], verdict["browser"]
    return (
        f"The page names {wasm['top1_agreement']:.1%} of {wasm['n']} photos as Python does; probabilities differ by "
        f"{wasm['max_abs_diff']:.1e} at most (same tensors, {browser['name']} {browser['version']} on WebAssembly)."
    )


def _limits(run: Run) -> list[Block]:
    metrics = run.read("student_metrics")
    recalls = metrics["per_class_recall"]
    few = sum(entry["n"] < MIN_PHOTOS for entry in recalls.values())
    tested, trained = metrics["per_region"], run.read("dataset")["splits"]["train"]["per_region"]
    small = [name for name in trained if tested.get(name, {"n": 0})["n"] < MIN_PHOTOS]
    blocks: list[Block] = [
        Table(
            ["species", "photos", "recall", "95 % interval"],
            [[name, e["n"], e["recall"], interval(e["interval"])] for name, e in worst_classes(recalls)[:NAMED]],
            f"The lowest recalls on the test split; species of {MIN_PHOTOS} photos and more come first",
        )
    ]
    pairs = [[pair["truth"], pair["answer"], pair["n"], pair["share"]] for pair in metrics["confused_pairs"][:NAMED]]
    if pairs:
        blocks.append(Table(["truth", "answer", "photos", "share of the truth"], pairs, "Most confused"))
    said = [f"Of {few:,} of {len(recalls):,} species there are fewer than {MIN_PHOTOS} test photos"] if few else []
    said += [f"of {', '.join(small)} as well"] if small else []
    return [*blocks, *([Paragraph("; ".join(said) + ": figures of their own say little.")] if said else [])]
