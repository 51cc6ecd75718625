"""`phase5 calibrate`: predict the calibration and test splits, and measure the raw probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside
from keras_pipeline.core.npz import NpzWriter
from keras_pipeline.core.schema import DatasetInfo
from keras_pipeline.data import assignment, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation import metrics, predictions
from keras_pipeline.evaluation.calibration_report import Evidence
from keras_pipeline.evaluation.report import calibration
from keras_pipeline.models import trained
from keras_pipeline.phases.phase1_teacher.evaluate import predict_split
from keras_pipeline.phases.phase3_soft_labels import student


def run(run: Run) -> None:
    info = records.load_info(run.path("dataset"))
    model = trained.load(run.path("student"), info, image_size=run.config.phase4.data.image_size)
    with aside(run.path("logits")) as temporary:
        temporary.mkdir()
        evidence = evidence_of(run, model, info, student.preprocessing(run.config), "student", temporary)
        predictions.save(evidence.fit, temporary, "calibration")
        predictions.save(evidence.test, temporary, "test")
        refuse_learnt(info, assignment.places(run.path("assignment")), evidence)
        logits = evidence.test.logits
        with aside(run.path("predictions")) as file, NpzWriter(file) as npz:
            blocks = (metrics.softmax(logits[rows]) for rows in metrics.row_blocks(logits.shape))
            npz.add_blocks("predicted_probs", logits.shape, blocks)
            npz.add("true_labels", evidence.test.labels)
            npz.add("sample_id", evidence.test.sample_ids)
    print(f"calibration n {len(evidence.fit.labels)}; {calibration.describe_raw(evidence)}")


def stored_evidence(run: Run) -> Evidence:
    """What `phase5 calibrate` has stored of the float student."""
    fit, test = (predictions.load(run.path("logits"), name) for name in ("calibration", "test"))
    return Evidence(fit, test, run.config.phase5, run.config.seed)


def evidence_of(
    run: Run,
    model: keras.Model | Callable[..., np.ndarray],
    info: DatasetInfo,
    preprocessing: Preprocessing,
    name: str,
    folder: Path,
) -> Evidence:
    """Predict both splits; the logits lie in `folder`, see `evaluation.predict`."""
    fit, test = (
        predict_split(model, info, split, preprocessing, f"{name} on {split}", file=folder / f"{split}.npy")
        for split in ("calibration", "test")
    )
    return Evidence(fit, test, run.config.phase5, run.config.seed)


def refuse_learnt(info: DatasetInfo, table: pd.DataFrame, evidence: Evidence) -> None:
    """Refuse photos that a model has learnt from, by sample id and by the shards' hashes.

    Raises:
        BrokenArtefact: where photos that are to judge the model, or to calibrate it, are of another split.
    """
    for name, photos in (("calibration", evidence.fit), ("test", evidence.test)):
        place = table.split.reindex(photos.sample_ids).replace("", "none").fillna("none")
        wrong = place[place != name]
        if len(wrong):
            raise BrokenArtefact(
                f"{name}: {len(wrong)} of {len(place)} photos are of another split, the first, {wrong.index[0]}, of "
                f"{wrong.iloc[0]}: a model is not judged on photos it has learnt from; run `phase0 split "
                "--force` and what follows"
            )
        for other in info.splits.keys() - {name}:
            mine, others = ({shard["sha256"] for shard in info.splits[split]["shards"]} for split in (name, other))
            if shared := mine & others:
                raise BrokenArtefact(
                    f"{info.folder}: {name} and {other} have a shard in common (sha256 {min(shared)[:12]}): a model is "
                    "not judged on photos it has learnt from; run `phase0 split --force` and what follows"
                )
