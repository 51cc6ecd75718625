"""The model card (arXiv 1810.03993): what the shipped model is for, how good it is, and where it errs.

Its facts on the model come from today's config: they are true only while the steps that made the model are up to date.
"""

from __future__ import annotations

from collections import Counter

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.student import REGIONAL_TEACHER, TRAINED_HERE
from keras_pipeline.core.dataset import MIN_PHOTOS, SPLITS, UNKNOWN_REGION
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.region_names import title_of
from keras_pipeline.core.sidecars import required
from keras_pipeline.data import assignment
from keras_pipeline.evaluation import gate_metrics, probe_gate
from keras_pipeline.evaluation.answers import TITLES
from keras_pipeline.evaluation.confusion import MANY_SPECIES
from keras_pipeline.evaluation.report.calibration import promise
from keras_pipeline.evaluation.report.html import Block, KeyValues, Paragraph, Table, interval
from keras_pipeline.evaluation.report.recalls import train_range, worst_classes
from keras_pipeline.export.verdict import tested_in

NAMED = 10


def sections(run: Run) -> list[tuple[str, list[Block]]]:
    """Return (heading, blocks) from the artefacts of `phase6 validate` and all steps before it."""
    return [
        ("What it is", _model(run)),
        ("What it is for", _use(run)),
        ("What it was trained on", _data(run)),
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
    """Name what the student has learnt from, in order."""
    weights, sources = run.config.phase3.distillation.loss_weights, []
    for member in run.config.phase3.teachers:
        made_here = TRAINED_HERE.get(member.path)
        title = TITLES[made_here] if made_here else f"teacher {member.path}"
        if member.weight:
            sources.append(f"{title} (for {title_of(member.region_filter)})" if member.region_filter else title)
    sources = sources * bool(weights.kl_divergence) + ["labels"] * bool(weights.cross_entropy)
    return f"{', '.join(sources)} (distillation), then labels (fine-tuning)"


def _use(run: Run) -> list[Block]:
    dataset = run.read("dataset")
    counts = Counter(dataset["splits"]["train"]["per_region"])
    unknown = counts.pop(UNKNOWN_REGION, 0) / dataset["splits"]["train"]["n"]
    regions = [name for name, _ in counts.most_common(NAMED)]
    where = f" (of {unknown:.1%} of the train photos the region is not known)" if unknown else ""
    return [
        Paragraph(
            "Suggesting to a person which plant a photo shows, for plants of these species as they are photographed in "
            f"{', '.join(regions) or 'this collection'}{where}."
        ),
        Paragraph(
            "Not for deciding whether a plant may be eaten or touched. It knows only these species. For anything else "
            "it names the most similar of them, and marks that answer as not conclusive often, but not always. It was "
            "measured on photos of the same collection; on other photos it may do worse."
        ),
    ]


def _data(run: Run) -> list[Block]:
    dataset, leaks = run.read("dataset"), run.read("leak_audit")
    per_class = dataset["splits"]["train"]["per_class"]
    photos = assignment.read_columns(run.path("assignment"), ["split", "license"])
    licences = photos.license[photos.split == "train"].replace("", "unknown licence").value_counts()
    server, _, collection = run.read("audit").get("source", "unknown").partition(" ")
    embedded = "a folder of photos" if run.config.source.demo.images else "drawn photos of invented plants"
    where = {"embedded": embedded, "unknown": "unknown"}.get(server, f"MongoDB, {collection}")
    return [
        KeyValues(
            {
                "source": where,
                "photos": ", ".join(f"{dataset['splits'][split]['n']:,} {split}" for split in SPLITS),
                "groups": f"{leaks['groups']:,} (same plant, same file, near-duplicates), none in two splits",
                "train photos a species": f"{min(per_class.values()):,} to {max(per_class.values()):,}",
                "licences of the train photos": ", ".join(f"{n:,} {name}" for name, n in licences.head(NAMED).items()),
                "authors": "attribution.txt beside the page",
            }
        )
    ]


def _quality(run: Run) -> list[Block]:
    metrics, calibration = run.read("student_metrics"), run.read("shipped_calibration")
    precision, regions = calibration["precision"], metrics["per_region"]
    correct = "" if precision is None else f", {precision:.1%} of them correct"
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
            f"Test photos, by region, before quantization; {metrics['groups']} groups, judged on "
            f"{gate_metrics.judged(metrics)}",
        ),
        Paragraph(
            f"{promise(calibration)} On the test split {calibration['coverage']:.1%} of the answers are "
            f"conclusive{correct}. ECE {calibration['ece_after']:.3f}; a perfectly calibrated model would show "
            f"{calibration['ece_null']:.3f} by chance at {calibration['n']} photos.{_quantization(run)}"
        ),
        *_over_probe(run),
        *_regional(run),
        Paragraph(_proof(run.read("equivalence"))),
    ]


def _quantization(run: Run) -> str:
    cost = run.read("quantization")
    shipped = cost["variants"].get(cost["type"])
    if not shipped:
        return ""
    flips, change = shipped["flips"]["n"], shipped["top1"]["difference"]
    return f" Quantization changed {flips} of {shipped['n']} first answers ({change:+.3f} top-1)."


def _over_probe(run: Run) -> list[Block]:
    """Compare student and global teacher with the linear probes of their own features and of phase 0's."""
    rows, reasons = [], []
    phase0 = f"phase 0's ({run.read('baseline')['features']})"
    for model in ("student", "teacher"):
        for probe, compared in (("its own", probe_gate.over_own_probe), (phase0, probe_gate.over_probe)):
            try:
                found = compared(run, model)
            except (gate_metrics.Unmeasurable, BrokenArtefact) as why:
                reasons.append(Paragraph(f"{TITLES[model]}, not compared with the linear probe: {why}."))
                continue
            if found:
                low, high = (f"{end:+.3f}" for end in found["interval"])
                numbers = [found["second"], found["first"], f"{found['difference']:+.3f}", f"{low} to {high}"]
                rows.append([TITLES[model], probe, *numbers, found["verdict"]])
    headers = ["network", "features", "top-1", "linear probe", "difference", "95 % interval", "verdict"]
    caption = (
        "Against linear probes on frozen features, which train no network: of the network itself before training, at "
        "its image size, and of phase 0; intervals by paired bootstrap over groups"
    )
    return [*([Table(headers, rows, caption)] if rows else []), *dict.fromkeys(reasons)]


def _regional(run: Run) -> list[Block]:
    """Say it where the regional teacher was worse than the global one in the region that it is there for."""
    if run.why_not_applicable("phase2") or not run.path("regional_comparison").exists():
        return []
    comparison = run.read("regional_comparison")
    region = title_of(comparison["region"])
    found = comparison.get("among_its_species") or comparison["by_region"].get(region)
    if found is None or found["second"] >= found["first"]:
        return []
    learnt = REGIONAL_TEACHER in [member.path for member in run.config.phase3.teachers if member.weight]
    more = "more" if found["verdict"] == "worse" else "not shown to be more"
    return [
        Paragraph(
            f"The regional teacher was worse than the global one in its own region, {region}: top-1 "
            f"{found['second']:.3f} against {found['first']:.3f} on {found['n']} test photos (difference "
            f"{found['difference']:+.3f}, 95 % interval {found['interval'][0]:+.3f} to {found['interval'][1]:+.3f}, "
            f"{more} than chance). The student has learnt from {'both' if learnt else 'the global one alone'}."
        )
    ]


def _proof(verdict: dict) -> str:
    if verdict["status"] != "passed":
        return f"It was not shown that the page's answers equal Python's ({verdict['status']})."
    asked = [each for each in tested_in(verdict) if "wasm" in each["backends"]]
    wasm = [each["backends"]["wasm"] for each in asked]
    browsers = ", ".join("{name} {version}".format(**each["browser"]) for each in asked)
    return (
        f"The page gives Python's answer to {min(each['top1_agreement'] for each in wasm):.1%} of {wasm[0]['n']} "
        f"photos; probabilities differ by {max(each['max_abs_diff'] for each in wasm):.1e} at most (same tensors, "
        f"{browsers} on WebAssembly)."
    )


def _limits(run: Run) -> list[Block]:
    metrics = run.read("student_metrics")
    recalls = metrics["per_class_recall"]
    few = sum(entry["n"] < MIN_PHOTOS for entry in recalls.values())
    tested, trained = metrics["per_region"], run.read("dataset")["splits"]["train"]["per_region"]
    small = [name for name in trained if tested.get(name, {"n": 0})["n"] < MIN_PHOTOS]
    blocks: list[Block] = [
        *recall_table(metrics, "Recall on the test split, by number of train photos of a species"),
        *lowest_recalls(metrics, NAMED, "Test split"),
    ]
    if is_by_genus(metrics):
        blocks += [
            Paragraph(f"The genus of the first answer is right on {metrics['genus_accuracy']:.1%} of the test photos.")
        ]
        blocks += confused_table(metrics, "confused_genera", NAMED, "Most confused genera")
    blocks += confused_table(metrics, "confused_pairs", NAMED, "Most confused species")
    too_few = [f"{few:,} of {len(recalls):,} species"] if few else []
    too_few += [f"region {', '.join(small)}"] if small else []
    if too_few:
        names = " and ".join(too_few)
        blocks.append(Paragraph(f"Fewer than {MIN_PHOTOS} test photos, too few for metrics of their own: {names}."))
    return blocks


def is_by_genus(metrics: dict) -> bool:
    """Tell whether confusions are shown by genus; metrics of older programs have none."""
    return len(metrics["per_class_recall"]) > MANY_SPECIES and "confused_genera" in metrics


def lowest_recalls(metrics: dict, most: int, title: str) -> list[Block]:
    """Return a table of the species that are surely recognised worst.

    Of many species some have one photo, and that one wrong, by chance. Those are listed only whose interval lies below
    the share of all photos that is right.

    Args:
        metrics: of `metrics.classification_metrics`.
        most: rows at most.
        title: what was measured.
    """
    worst, all_right = worst_classes(metrics["per_class_recall"]), metrics["top1_accuracy"]
    if len(metrics["per_class_recall"]) > MANY_SPECIES:
        worst = [(name, entry) for name, entry in worst if entry["interval"][1] < all_right]
    if not worst:
        return [
            Paragraph(
                f"{title}: no species is certainly recognised worse than all photos together ({all_right:.3f}); it "
                "takes several groups of photos to be certain."
            )
        ]
    rows = [[name, e["n"], e["groups"], e["recall"], interval(e["interval"])] for name, e in worst[:most]]
    caption = "the lowest recalls, by the upper end of their interval: what is bad for sure comes first"
    return [Table(["species", "photos", "groups", "recall", "95 % interval"], rows, f"{title}: {caption}")]


def recall_table(metrics: dict, caption: str) -> list[Table]:
    """Return a table of recall by train photos; none where all species had about as many, or nobody has counted."""
    rows = [
        [train_range(row), row["species"], row["n"], row["groups"], row["recall"], interval(row["interval"])]
        for row in metrics.get("recall_by_train_photos", [])  # metrics of older programs have none
    ]
    headers = ["train photos", "species", "photos", "groups", "recall", "95 % interval"]
    return [Table(headers, rows, caption)] if len(rows) > 1 else []


def confused_table(metrics: dict, kind: str, most: int, caption: str) -> list[Table]:
    """Return a table of confused pairs; none where there is no pair.

    Args:
        metrics: of `metrics.classification_metrics`.
        kind: `confused_pairs` or `confused_genera`.
        most: rows at most.
    """
    pairs = metrics.get(kind, [])[:most]  # metrics of older programs have no genera and no groups
    rows = [[pair["truth"], pair["answer"], pair["n"], pair.get("groups"), pair["share"]] for pair in pairs]
    if rows and all(pair.get("groups") == 1 for pair in pairs):
        caption += "; each seen in one group only: examples, not a pattern"
    return [Table(["truth", "answer", "photos", "groups", "share of the truth"], rows, caption)] if rows else []
