"""The SavedModel: one folder with the weights, the labels, the calibration and the preprocessing.

    serving_default(image: float32 [N, S, S, 3], RGB 0..255)  -> logits, probabilities [N, C],
                                                                 off_list_score [N] where it was fitted
    classify_jpeg(image_bytes: string [N], upright JPEGs)     -> latin_name, probability, conclusive [N],
                                                                 genus, genus_probability, genus_conclusive [N],
                                                                 the same of the family where it is known,
                                                                 off_list [N] where there is a score

Probabilities are softmax(logits / T). A species is conclusive where its probability reaches the threshold, and never
where that is null. Where it isn't, the genus may be: its probability is the sum over its species, with a threshold of
its own (`calibration.json`, genus). Where that isn't either, the family may be.
A photo whose `off_list_score` exceeds the threshold of `calibration.json`, off_list, looks like none of the plants:
nothing about it is conclusive (`evaluation.off_list`).
The hashes of all assets are stored with the weights, so that a model refuses the assets of another.
`priors.json`, where it is shipped, names the regions, and `priors.bin` holds what each adds to the log-probabilities
(`evaluation.priors`), float16 [R, C], little-endian: at 9,000 species and 200 regions JSON would take 13 MB. The
temperature and threshold to use with them are in `calibration.json`, region_priors.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside, read_json, write_json
from keras_pipeline.core.hashing import file_hash
from keras_pipeline.core.taxonomy import PLURAL, Rank, class_hash, ranks_above
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.export import graph
from keras_pipeline.export.promise import (
    CALIBRATION,
    PRIORS,
    Promise,
    check_calibration,
    check_region,
    read_calibration,
)

LABELS, PREPROCESSING = "labels.json", "preprocessing.json"
ATTRIBUTION = "attribution.txt"
LOG_RATIOS = "priors.bin"  # beside PRIORS
TOP = 5  # species listed beside the verdict, here and in the page


def write_saved_model(
    model: keras.Model,
    folder: Path,
    *,
    labels: list[str],
    preprocessing: Preprocessing,
    calibration: dict,
    priors: dict | None = None,
    directions: np.ndarray | None = None,
    attribution: str = "",
    details: Sequence[dict] = (),
) -> None:
    """Write the SavedModel described above, to a temporary folder that is then renamed.

    Args:
        model: float32 [N, S, S, 3] RGB 0..255 -> logits [N, C]; scaling is inside.
        folder: replaced if it exists.
        labels: C latin names in the order of the logits.
        preprocessing: of the photos, with the model's image size.
        calibration: holds at least `temperature` (> 0) and `threshold` (0..1, or None: no answer is conclusive); all of
            it is shipped as an asset.
        priors: {regions [R], log_ratios [R, C], …} to ship, or None.
        directions: float32 [D, K] of `evaluation.off_list`, whose threshold `calibration` then has; None: no score.
        attribution: authors and licences of the photos that the model has learnt from, as text.
        details: {name: value} of each label, such as its common name; empty if there are none.

    Raises:
        ValueError: when shapes, labels, calibration and priors do not fit together.
    """
    _check(model, labels, preprocessing, calibration)
    if priors is not None:
        _check_priors(priors, labels)
    subspace = None if directions is None else tf.Variable(directions)
    scores = graph.scores(model, preprocessing.image_size, float(calibration["temperature"]), subspace)
    answers = graph.answers(scores, labels, preprocessing, calibration, ranks_above(labels, details))
    servable = tf.Module(name="plant_classifier")
    # Only the weights, not the Keras model: the object graph then holds no training state, whose names (the seeds of
    # dropout) would differ between two runs.
    servable.weights = [weight.value for weight in model.weights]
    servable.off_list_directions = subspace
    servable.serving_default, servable.classify_jpeg = scores, answers
    with tempfile.TemporaryDirectory() as scratch, aside(folder) as temporary:
        for name, value in assets(labels, calibration, preprocessing, details).items():
            write_json(Path(scratch) / name, value)
        if priors is not None:
            write_json(Path(scratch) / PRIORS, {key: value for key, value in priors.items() if key != "log_ratios"})
            (Path(scratch) / LOG_RATIOS).write_bytes(np.array(priors["log_ratios"], "<f2").tobytes())
        (Path(scratch) / ATTRIBUTION).write_text(attribution, encoding="utf-8-sig")  # or browsers guess the encoding
        files = sorted(Path(scratch).iterdir())
        servable.assets = [tf.saved_model.Asset(str(file)) for file in files]
        # Stored with the weights, so that model and assets of two exports can't be mixed.
        servable.assets_sha256 = tf.Variable(json.dumps({file.name: file_hash(file) for file in files}))
        tf.saved_model.save(servable, str(temporary), signatures={"serving_default": scores, "classify_jpeg": answers})


def assets(
    labels: list[str], calibration: dict, preprocessing: Preprocessing, details: Sequence[dict] = ()
) -> dict[str, dict]:
    """Return the JSON files that belong beside a model, by file name; arguments as of `write_saved_model`."""
    known = {"details": list(details)} if any(details) else {}
    taxa = {PLURAL[rank.name]: rank.of_classes() for rank in ranks_above(labels, details)}
    return {
        LABELS: {"sha256": class_hash(labels), "classes": labels, **taxa, **known},
        CALIBRATION: calibration,
        PREPROCESSING: preprocessing.to_json(),
    }


def _check(model: keras.Model, labels: list[str], preprocessing: Preprocessing, calibration: dict) -> None:
    size = preprocessing.image_size
    if tuple(model.input_shape) != (None, size, size, 3) or len(model.output_shape) != 2:
        raise ValueError(
            f"received a model {model.input_shape} -> {model.output_shape}, "
            f"expected (None, {size}, {size}, 3) -> (None, classes), as the preprocessing's image_size says"
        )
    if model.output_shape[1] != len(labels) or len(set(labels)) != len(labels):
        raise ValueError(
            f"received {len(labels)} labels ({len(set(labels))} different) for {model.output_shape[1]} outputs, "
            "expected one distinct name per output; use the class list of dataset.json"
        )
    check_calibration(calibration)


def _check_priors(priors: dict, labels: list[str]) -> None:
    if priors["class_hash"] != class_hash(labels):
        raise ValueError("received region priors of another class list; run `phase5 threshold --force`")
    added = np.array(priors["log_ratios"], np.float64)
    if added.shape != (len(priors["regions"]), len(labels)) or not np.isfinite(added).all():
        raise ValueError(
            f"received region priors {added.shape} for {len(priors['regions'])} regions and {len(labels)} species, "
            "expected finite ones, one per region and species; run `phase5 threshold --force`"
        )


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A loaded SavedModel with its labels, calibration and preprocessing."""

    labels: list[str]  # C latin names
    details: list[dict]  # {name: value} of each label, of `source.details`
    temperature: float  # > 0
    species: Promise
    off_list: float | None  # a photo with a higher score looks like none of the plants; None where there is no score
    ranks: list[tuple[Rank, Promise]]  # those above the species, the lowest first
    preprocessing: Preprocessing
    priors: dict | None  # {regions, log_ratios float16 [R, C], temperature, promise, …}
    restored: Any  # the loaded object; holds the variables that the signatures use

    def scores(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and calibrated probabilities: float32 [N, S, S, 3], RGB 0..255 -> float32 [N, C] each."""
        logits, probabilities, _ = self.answers(images)
        return logits, probabilities

    def answers(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `scores`, and each photo's off-list score: float32 [N], 0 where the model has none."""
        outputs = self.restored.signatures["serving_default"](image=tf.constant(images, tf.float32))
        score = outputs["off_list_score"].numpy() if self.off_list is not None else np.zeros(len(images), np.float32)
        return outputs["logits"].numpy(), outputs["probabilities"].numpy(), score

    def is_off_list(self, score: np.ndarray) -> np.ndarray:
        """Tell which off-list scores are above the threshold; compared in float32, as the graph and the page do."""
        return np.asarray(score, np.float32) > np.float32(np.inf if self.off_list is None else self.off_list)

    def classify(self, photo: bytes, region: str | None = None) -> dict:
        """Classify a photo.

        Args:
            photo: the bytes of an image file.
            region: where the plant grew wild, to use the region's prior; None for no prior, as for a garden plant. With
                a region nothing above the species is conclusive.

        Returns:
            {latin_name, probability, conclusive, off_list, genus, genus_probability, genus_conclusive, promise, top5},
            with the species' details beside each latin_name; family, family_probability and family_conclusive too where
            the model knows families, with an empty family where the likeliest species have none. `off_list` says
            whether the photo looks like none of the plants, so that nothing is conclusive; it is None where the model
            has no score for that. `promise` is the guaranteed precision of a conclusive answer if it is below the
            target (phase5.accept_unmet), else None.

        Raises:
            ValueError: for bytes that are no photo, an unknown region, or a model without region priors.
        """
        outputs = self.answers(self.preprocessing.from_photo(photo)[None].numpy())
        logits, probabilities, score = (output[0] for output in outputs)
        off_list = bool(self.is_off_list(score))
        species = self.species
        if region is not None:
            priors = self.prior(region)
            probabilities = softmax(logits / priors["temperature"] + priors["added"])
            species = priors["promise"]
        best = np.argsort(-probabilities, kind="stable")[:TOP]
        top = [self._entry(i, float(probabilities[i])) for i in best]
        conclusive = not off_list and bool(species.kept_by(probabilities[best[0]]))
        answered, promise = conclusive or off_list, species.accepted if conclusive else None
        above: dict[str, Any] = {}
        for rank, kept in self.ranks:
            sums = np.bincount(rank.members, probabilities)
            taxon = int(sums.argmax())
            named = bool(rank.taxa[taxon]) and region is None
            own = not answered and named and bool(kept.kept_by(sums[taxon]))
            if own:
                answered, promise = True, kept.accepted
            above[rank.name] = rank.taxa[taxon]
            above[f"{rank.name}_probability"], above[f"{rank.name}_conclusive"] = float(sums[taxon]), own
        told = {"conclusive": conclusive, "off_list": None if self.off_list is None else off_list}
        return {**top[0], **told, **above, "promise": promise, "top5": top}

    def _entry(self, i: int, probability: float) -> dict:
        own = {"latin_name": self.labels[i], "probability": probability}
        return own | self.details[i] | own  # in this order, and no detail takes the place of an answer

    def prior(self, region: str) -> dict:
        """Return {added [C], temperature, promise, …} of a region.

        Raises:
            ValueError: for an unknown region, or a model without region priors.
        """
        priors = self.priors or {}
        check_region(region, priors.get("regions"))
        row = priors["log_ratios"][priors["regions"].index(region)]
        return {**priors, "added": row.astype(np.float32)}


def load_classifier(folder: Path) -> Classifier:
    """Load a SavedModel of `write_saved_model`.

    Raises:
        BrokenArtefact: when it is absent or damaged, or an asset was altered.
    """
    if not (folder / "saved_model.pb").is_file():
        raise BrokenArtefact(f"{folder}: no SavedModel here; run `phase6 export` first")
    try:
        return _load(folder)
    except BrokenArtefact:
        raise
    except (OSError, KeyError, TypeError, IndexError, ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BrokenArtefact(f"{folder}: damaged ({reason}); run `phase6 export --force`") from error


def _load(folder: Path) -> Classifier:
    labels, preprocessing = (read_json(folder / "assets" / name) for name in (LABELS, PREPROCESSING))
    calibration = read_calibration(folder / "assets")
    restored = tf.saved_model.load(str(folder))
    width = restored.signatures["serving_default"].structured_outputs["logits"].shape[-1]
    digest = class_hash(labels["classes"])
    if digest != labels["sha256"] or width != len(labels["classes"]):
        raise BrokenArtefact(
            f"{folder / 'assets' / LABELS}: received {len(labels['classes'])} names with hash {digest[:12]}, "
            f"expected {width} with {labels['sha256'][:12]}; export again with the class list it was trained on"
        )
    _check_assets(folder / "assets", json.loads(restored.assets_sha256.numpy()))
    known = {field.name: preprocessing[field.name] for field in dataclasses.fields(Preprocessing)}
    priors = None
    if (folder / "assets" / PRIORS).exists():
        part = calibration["region_priors"]
        own = {"temperature": part["temperature"], "promise": Promise.of(part)}
        ratios = np.fromfile(folder / "assets" / LOG_RATIOS, "<f2").reshape(-1, width)
        priors = read_json(folder / "assets" / PRIORS) | own | {"log_ratios": ratios}
    details = labels.get("details", [{}] * len(labels["classes"]))
    return Classifier(
        labels["classes"],
        details,
        calibration["temperature"],
        Promise.of(calibration),
        calibration.get("off_list", {}).get("threshold"),
        [(rank, Promise.of(calibration.get(rank.name, {}))) for rank in ranks_above(labels["classes"], details)],
        Preprocessing(**known),
        priors,
        restored,
    )


def _check_assets(folder: Path, expected: dict[str, str]) -> None:
    for name, digest in expected.items():
        received = file_hash(folder / name)
        if received != digest:
            raise BrokenArtefact(
                f"{folder / name}: received sha256 {received[:12]}…, expected {digest[:12]}… as in the model's own "
                "export; run `phase6 export --force`"
            )


def classify(folder: Path, photos: list[Path], region: str | None = None) -> list[dict]:
    """Classify photos, originals or records, by the same path as the page.

    Args:
        folder: of the SavedModel.
        photos: image files.
        region: as in `Classifier.classify`.

    Returns:
        For each photo {photo} and the result of `Classifier.classify`, or {photo, error} for a file that can't be read
        or is no photo.

    Raises:
        BrokenArtefact: as `load_classifier`.
        ValueError: for an unknown region, or a model without region priors.
    """
    classifier = load_classifier(folder)
    if region is not None:
        classifier.prior(region)  # fails once for the command instead of for each photo
    return [{"photo": str(photo), **_classify_file(classifier, photo, region)} for photo in photos]


def _classify_file(classifier: Classifier, photo: Path, region: str | None) -> dict:
    try:
        return classifier.classify(photo.read_bytes(), region)
    except (OSError, ValueError) as error:
        return {"error": str(error)}
