"""What a trained model is worth on a split: figures, pictures, and each photo's answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.phases import build

if TYPE_CHECKING:
    import numpy as np

    from keras_pipeline.evaluation.predict import Predictions

TITLES = {"teacher": "global teacher", "regional": "regional teacher", "student": "student"}
ANSWERS = ("sample_id", "region", "group_id", "label", "answer", "confidence")
EXAMPLE_PAIRS = 6  # of the most confused, shown with photos
EXAMPLE_PHOTOS = 4  # of each
EXAMPLE_SIDE = 160  # pixels


def evaluate(
    run: Run,
    model_name: str,
    *,
    image_size: int,
    gate: float | None = None,
    split: str | None = None,
    beside: dict[str, dict] | None = None,
    pictures: bool = True,
) -> None:
    """Beside the artefact `<model_name>_metrics`: metrics_<split>.json, predictions_<split>.npz, pictures_<split>/.

    The train split is judged on its first shard, a random sample, and on clean views.

    Args:
        gate: the recall every class shall exceed, drawn as a line.
        split: instead of the command's.
        beside: {title: metrics} of other models over the same split, to draw the regions of.
        pictures: whether to draw any.
    """
    from keras_pipeline.evaluation import metrics

    split = split or run.split
    predictions, info = build.predict_split(run, model_name, split, image_size)
    result = metrics.classification_metrics(
        predictions.logits, predictions.labels, predictions.regions, info.classes, predictions.group_ids
    )
    folder = run.path(f"{model_name}_metrics").parent
    answers = write_answers(folder / f"predictions_{split}.npz", predictions)
    if pictures:
        with aside(folder / f"pictures_{split}") as temporary:
            temporary.mkdir()
            _draw(temporary, info, split, answers, {**(beside or {}), TITLES[model_name]: result}, gate)
    write_json(folder / f"metrics_{split}.json", {"split": split, **result})
    print(describe(split, result))


def describe(split: str, result: dict) -> str:
    low, high = result["top1_interval"]
    regions = ", ".join(f"{name} {entry['top1']:.3f} (n {entry['n']})" for name, entry in result["per_region"].items())
    worst = result["min_recall"]
    return (
        f"{split}{' (its first shard)' * (split == 'train')}: n {result['n']} in {result['groups']} groups, "
        f"top-1 {result['top1_accuracy']:.3f} "
        f"[{low:.3f}, {high:.3f}], top-5 {result['top5_accuracy']:.3f}, loss {result['loss']:.3f}, macro recall "
        f"{result['macro_recall']:.3f}; {regions}"
        + (f"; lowest recall {worst['recall']:.3f}, {worst['latin_name']}" if worst else "")
    )


def same_photos(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Whether two models were asked about the same photos, with the same labels (`load_answers`)."""
    import numpy as np

    return all(np.array_equal(first[name], second[name]) for name in ("sample_id", "label"))


def compare(first: dict[str, np.ndarray], second: dict[str, np.ndarray], *, by_region: bool = True) -> dict:
    """`intervals.compare` of what two models answered (`load_answers`).

    Raises ValueError unless both answered the same photos.
    """
    import numpy as np

    from keras_pipeline.evaluation import intervals

    if not same_photos(first, second):
        raise ValueError(
            f"received answers to {len(first['sample_id'])} and to {len(second['sample_id'])} photos that are not the "
            "same, expected the same test split; run `phase1 evaluate --force`, then `phase2 evaluate --force`"
        )
    right = [each["label"] == each["answer"] for each in (first, second)]
    regions = first["region"] if by_region else np.zeros_like(first["region"])
    return intervals.compare(*right, regions, first["group_id"])


def verdict(region: str, entry: dict | None) -> str:
    """Whether the regional teacher earns its place, from its region's entry of `intervals.compare`, in a sentence."""
    if entry is None:
        return f"{region}: no test photo, so that nothing shows whether the regional teacher earns its place"
    low, high = entry["interval"]
    figures = (
        f"{region}: regional teacher {entry['second']:.3f}, global teacher {entry['first']:.3f} on {entry['n']} test "
        f"photos in {entry['groups']} groups, a difference of {entry['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
    meaning = {
        "better": "the regional teacher earns its place",
        "worse": "the regional teacher does harm: leave it out of phase3.teachers",
        "no difference shown": "not shown that the regional teacher earns its place: leave it out of phase3.teachers, "
        "or judge it on more photos of the region",
    }
    return f"{figures}; {meaning[entry['verdict']]}"


def load_answers(path: Path) -> dict[str, np.ndarray]:
    """predictions_<split>.npz: sample_id, region, group_id str [n], label, answer int64 [n], confidence float32 [n].

    Raises BrokenArtefact naming a file that is none.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ANSWERS}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BrokenArtefact(
            f"{path}: no answers can be read from it ({error}); run `evaluate --force`, of phase 0 `baseline --force`"
        ) from error


def write_answers(path: Path, predictions: Predictions) -> dict[str, np.ndarray]:
    """What each photo was taken for, and with which probability, before calibration, see `load_answers`."""
    import numpy as np

    from keras_pipeline.evaluation import metrics
    from keras_pipeline.evaluation.scores import score

    confidence = score(predictions.logits, predictions.labels).confidence
    columns = (
        predictions.sample_ids, predictions.regions, predictions.group_ids, predictions.labels,
        metrics.first_guesses(predictions.logits), confidence.astype(np.float32),
    )  # fmt: skip
    answers = dict(zip(ANSWERS, columns, strict=True))
    with aside(path) as temporary:
        np.savez_compressed(temporary, **answers)
    return answers


def _draw(folder: Path, info, split: str, answers: dict, results: dict[str, dict], gate: float | None) -> None:
    """The pictures of the last of the results, and the regions of all of them."""
    from keras_pipeline.evaluation.report import pictures

    result = list(results.values())[-1]
    pictures.confusion_picture(answers["label"], answers["answer"], info.classes, folder / "confusion.png")
    pictures.region_chart({title: _regions(each) for title, each in results.items()}, folder / "regions.png")
    pictures.recall_chart(result["per_class_recall"], folder / "recall.png", gate=gate)
    rows = _confused(info, split, answers, result["confused_pairs"][:EXAMPLE_PAIRS])
    if rows:
        pictures.confusion_examples(rows, folder / "confused.png")


def _regions(result: dict) -> dict[str, dict]:
    """The `per_region` of metrics, and all photos as a region of its own."""
    everywhere = {"n": result["n"], "top1": result["top1_accuracy"], "top1_interval": result["top1_interval"]}
    return {"all": everywhere, **result["per_region"]}


def _confused(info, split: str, answers: dict, pairs: list[dict]) -> list[tuple]:
    """Rows of `pictures.confusion_examples`: the most confused pairs and the photos the model was surest of."""
    from keras_pipeline.data import records
    from keras_pipeline.evaluation import confusion

    found = confusion.examples(
        answers["label"], answers["answer"], answers["confidence"], info.classes,
        [(pair["truth"], pair["answer"]) for pair in pairs], most=EXAMPLE_PHOTOS,
    )  # fmt: skip
    wanted = {sample_id for rows in found for sample_id in answers["sample_id"][rows].tolist()}
    photos = records.find(info, split, wanted)
    return [
        (
            pair["truth"],
            pair["answer"],
            [_thumbnail(photos[sample_id].image) for sample_id in answers["sample_id"][rows].tolist()],
            f"{pair['n']} photo{'s' * (pair['n'] > 1)}, {100 * pair['share']:.0f} % of this species",
        )
        for pair, rows in zip(pairs, found, strict=True)
    ]


def _thumbnail(jpeg: bytes) -> np.ndarray:
    import io

    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
        return np.array(image.convert("RGB"))
