"""`phase1 evaluate`: measure a trained model on a split; write metrics, predictions and pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.data import assignment, pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation import confusion, gate_metrics, metrics
from keras_pipeline.evaluation.answers import TITLES
from keras_pipeline.evaluation.predict import predict
from keras_pipeline.evaluation.predictions import Predictions, write_answers
from keras_pipeline.evaluation.report import confusions, pictures, recalls
from keras_pipeline.models import trained
from keras_pipeline.phases.phase1_teacher import own_probe

OWN_PROBE_METRICS = ("n", "top1_accuracy", "top1_interval", "top5_accuracy", "loss")
EXAMPLE_PAIRS = 6  # of the most confused, shown with photos
EXAMPLE_PHOTOS = 3  # of each, beside one of what it was taken for
EXAMPLE_SIDE = 160  # pixels


def run(run: Run) -> None:
    evaluate_model(
        run, "teacher", image_size=run.config.phase1.data.image_size, gate=run.config.gates.teacher_min_recall
    )


def evaluate_model(
    run: Run,
    model_name: str,
    *,
    image_size: int,
    gate: float | None = None,
    train_photos: dict[str, int] | None = None,
    split: str | None = None,
    beside: dict[str, dict] | None = None,
    draw: bool = True,
) -> None:
    """Write metrics_<split>.json, predictions_<split>.npz and pictures_<split>/ beside `<model_name>_metrics`.

    The train split is measured on its first shard, a random sample, without augmentation.

    Args:
        model_name: name of the model's artefact.
        image_size: pixels of the model's input.
        gate: recall that every class should exceed, drawn as a line.
        train_photos: {latin_name: photos} that it was trained on; None: the whole train split.
        split: replaces the command's.
        beside: {title: metrics} of other models on the same split, drawn beside this one by region.
        draw: whether to draw pictures.

    Raises:
        BrokenArtefact: if the model is missing, or belongs to another dataset or image size.
    """
    split = split or run.split
    info = records.load_info(run.path("dataset"))
    model = trained.load(run.path(model_name), info, image_size=image_size)
    preprocessing = Preprocessing.of(run.config.dataset, image_size)
    predictions = predict_split(model, info, split, preprocessing, f"{model_name} on {split}")
    result = metrics.classification_metrics(
        predictions.logits, predictions.labels, predictions.regions, info.classes, predictions.group_ids
    )
    learnt = info.splits["train"]["per_class"] if train_photos is None else train_photos
    result["recall_by_train_photos"] = metrics.recall_by_train_photos(
        metrics.first_guesses(predictions.logits) == predictions.labels, predictions.labels, predictions.group_ids,
        [learnt.get(name, 0) for name in info.classes],
    )  # fmt: skip
    folder = run.path(f"{model_name}_metrics").parent
    own_answers = None
    if split == "test" and (probe := _own_probe(run, model_name, info, preprocessing)):
        own_answers = metrics.first_guesses(probe.logits)
        found = metrics.classification_metrics(probe.logits, probe.labels, probe.regions, info.classes, probe.group_ids)
        result["own_probe"] = {"image_size": image_size} | {key: found[key] for key in OWN_PROBE_METRICS}
    answers = write_answers(folder / f"predictions_{split}.npz", predictions, own_answers)
    if draw:
        with aside(folder / f"pictures_{split}") as temporary:
            temporary.mkdir()
            _draw(temporary, {**(beside or {}), TITLES[model_name]: result}, gate)
            _draw_confusions(temporary, info, split, answers, result, run.path("assignment"))
    write_json(folder / f"metrics_{split}.json", {"split": split, **result})
    print(describe(split, result))


def _own_probe(run: Run, model_name: str, info: DatasetInfo, preprocessing: Preprocessing) -> Predictions | None:
    """Predict the test split by the linear probe of the model's own frozen features; None if there is no such probe."""
    path = run.path("distilled" if model_name == "student" else model_name).with_name(own_probe.FILE)
    if not path.exists():
        return None
    model = trained.load(path, info, image_size=preprocessing.image_size)
    return predict_split(model, info, "test", preprocessing, f"linear probe of the {model_name}'s features")


def describe(split: str, result: dict) -> str:
    """Describe the metrics of a split in one line."""
    low, high = result["top1_interval"]
    regions = ", ".join(f"{name} {entry['top1']:.3f} (n {entry['n']})" for name, entry in result["per_region"].items())
    worst, own = result["min_recall"], result.get("own_probe")
    sample = " (its first shard)" if split == "train" else ""
    return (
        f"{split}{sample}: n {result['n']} in {result['groups']} groups, judged on {gate_metrics.judged(result)}, "
        f"top-1 {result['top1_accuracy']:.3f} "
        f"[{low:.3f}, {high:.3f}], top-5 {result['top5_accuracy']:.3f}, loss {result['loss']:.3f}, macro recall "
        f"{result['macro_recall']:.3f}; {regions}"
        + (f"; lowest recall {worst['recall']:.3f}, {worst['latin_name']}" if worst else "")
        + (f"; linear probe of its own features {own['top1_accuracy']:.3f}" if own else "")
    )


def _draw(folder: Path, results: dict[str, dict], gate: float | None) -> None:
    """Draw the recalls of the last result, and the regions of all of them."""
    *_, result = results.values()
    pictures.region_chart({title: _regions(each) for title, each in results.items()}, folder / "regions.png")
    recalls.recall_chart(result["per_class_recall"], folder / "recall.png", gate=gate)
    if len(result["recall_by_train_photos"]) > 1:  # one point is no curve
        recalls.recall_curve(result["recall_by_train_photos"], folder / "recall_by_train_photos.png")


def _draw_confusions(folder: Path, info: DatasetInfo, split: str, answers: dict, result: dict, assigned: Path) -> None:
    confusions.confusion_picture(answers["label"], answers["answer"], info.classes, folder / "confusion.png")
    rows = _confused(info, split, answers, result["confused_pairs"][:EXAMPLE_PAIRS], assigned)
    if rows:
        confusions.confusion_examples(rows, folder / "confused.png")


def _regions(result: dict) -> dict[str, dict]:
    """Return the `per_region` of metrics, with all photos as a first region."""
    everywhere = {"n": result["n"], "top1": result["top1_accuracy"], "top1_interval": result["top1_interval"]}
    named = {"region all" if name == "all" else name: entry for name, entry in result["per_region"].items()}
    return {"all": everywhere, **named}


def _confused(
    info: DatasetInfo, split: str, answers: dict, pairs: list[dict], assigned: Path
) -> list[confusions.Example]:
    """Return each pair, with the photos the model was most confident about, and a train photo of the answer."""
    if not pairs:
        return []
    examples = confusion.examples(
        answers["label"], answers["answer"], answers["confidence"], answers["group_id"], info.classes,
        [(pair["truth"], pair["answer"]) for pair in pairs], most=EXAMPLE_PHOTOS,
    )  # fmt: skip
    photos = records.at(info, split, np.concatenate(examples).tolist())  # the answers are in the shards' order
    first = assignment.first_train_rows(assigned, {pair["answer"] for pair in pairs})
    train = records.at(info, "train", first.values())
    return [
        confusions.Example(
            truth=pair["truth"],
            answer=pair["answer"],
            mistaken=[_thumbnail(photos[row].image) for row in rows.tolist()],
            taken_for=[_thumbnail(train[first[name]].image) for name in (pair["answer"],) if name in first],
            caption=_caption(pair),
        )
        for pair, rows in zip(pairs, examples, strict=True)
    ]


def _caption(pair: dict) -> str:
    photos = round(pair["n"] / pair["share"])
    if photos == 1:
        return "its only photo here"
    return f"{pair['n']:,} of its {photos:,} photos, in {pair['groups']:,} group{'s' * (pair['groups'] > 1)}"


def _thumbnail(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
        return np.array(image.convert("RGB"))


def predict_split(
    model: keras.Model | Callable[..., np.ndarray],
    info: DatasetInfo,
    split: str,
    preprocessing: Preprocessing,
    description: str,
    *,
    file: Path | None = None,
) -> Predictions:
    """Predict a split; for train only its first shard, a random sample.

    Args:
        model, file: see `evaluation.predict`.
    """
    max_shards = 1 if split == "train" else None
    n = sum(shard["n"] for shard in info.splits[split]["shards"][:max_shards])
    batches = pipeline.evaluation_batches(info, split, preprocessing, max_shards=max_shards)
    return predict(model, batches, n, description, file=file)
