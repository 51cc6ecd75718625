"""The shipped weights' off-list score: it is fitted before they predict a split, and noted while they do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.config.experiment import Config
from keras_pipeline.evaluation import off_list
from keras_pipeline.evaluation.calibration_report import Evidence
from keras_pipeline.evaluation.off_list import OffList
from keras_pipeline.evaluation.predict import graph, inference
from keras_pipeline.models import features

TRAIN_PHOTOS = 4096  # at most, whose features span the subspace


class ScoringModel:
    """A model for `evaluation.predict` that notes the off-list score of every photo.

    Args:
        model: image [N, S, S, 3] -> logits [N, C], as it is shipped.
        photos: batches of train photos, float32 [N, S, S, 3].
    """

    def __init__(self, model: keras.Model, photos: Iterable[np.ndarray]):
        self.output_shape = model.output_shape
        both = features.with_features(model)
        seen = inference(keras.Model(both.inputs, both.outputs[1]))
        self.directions = off_list.principal_directions(seen(batch) for batch in photos)
        subspace = tf.constant(self.directions)
        self._predict = graph(both, lambda outputs: (outputs[0], features.share_outside(outputs[1], subspace)))
        self._scores: list[np.ndarray] = []

    def __call__(self, images: tf.Tensor) -> np.ndarray:
        """Return the logits, float32 [N, C]."""
        logits, scores = self._predict(images)
        self._scores.append(scores.numpy())
        return logits.numpy()

    def judge(self, evidence: Evidence) -> Evidence:
        """Return the evidence that this model has predicted, calibration split first, with its `off_list`."""
        fit, test, scores = evidence.fit.group_ids, evidence.test.group_ids, np.concatenate(self._scores)
        found = off_list.judge(scores[: len(fit)], fit, scores[len(fit) :], test, seed=evidence.seed)
        return dataclasses.replace(evidence, off_list=found)


def why_not(config: Config) -> str:
    """Return why no score is fitted; empty where one is."""
    if not config.phase5.off_list:
        return "phase5.off_list is false"
    if config.phase3.model.pretrained is False:  # measured in docs/calibration.md
        return "the features of a student from random weights don't tell other pictures from plants"
    return ""


def without(evidence: Evidence, why: str) -> Evidence:
    """Return the evidence with the reason why there is no score."""
    everything = (np.ones(len(photos.labels), bool) for photos in (evidence.fit, evidence.test))
    return dataclasses.replace(evidence, off_list=OffList({"why": why}, *everything))


def save(model: ScoringModel | keras.Model, path: Path) -> None:
    """Write the subspace, float32 [D, K]; of a model without a score float32 [0, 0]."""
    directions = model.directions if isinstance(model, ScoringModel) else np.empty((0, 0), np.float32)
    with path.open("wb") as out:
        np.save(out, directions)
