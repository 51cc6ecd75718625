"""`phase5 calibrate`: predict the calibration and test splits, and measure the raw probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.files import aside
from keras_pipeline.data import assignment, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation import predictions
from keras_pipeline.evaluation.calibration_report import Evidence
from keras_pipeline.evaluation.report import calibration
from keras_pipeline.evaluation.scores import score
from keras_pipeline.models import trained
from keras_pipeline.phases.phase1_teacher.evaluate import predict_split
from keras_pipeline.phases.phase3_soft_labels import student
from keras_pipeline.phases.phase5_calibration.evidence import refuse_learnt


def run(run: Run) -> None:
    """Write the student's logits on both splits, and what makes the test split's into probabilities.

    Raises:
        BrokenArtefact: where a photo of these splits was learnt from.
    """
    info = records.load_info(run.path("dataset"))
    model = trained.load(run.path("student"), info, image_size=run.config.phase4.data.image_size)
    with aside(run.path("logits")) as temporary:
        temporary.mkdir()
        evidence = evidence_of(run, model, info, student.preprocessing(run.config), "student", temporary)
        predictions.save(evidence.fit, temporary, "calibration")
        predictions.save(evidence.test, temporary, "test")
        refuse_learnt(info, assignment.places(run.path("assignment")), evidence)
        scores = score(evidence.test.logits, evidence.test.labels)
        predictions.save_summary(evidence.test, scores, run.path("predictions"))
    print(f"calibration n {len(evidence.fit.labels)}; {calibration.describe_raw(evidence, scores)}")


def evidence_of(
    run: Run,
    model: keras.Model | Callable[..., np.ndarray],
    info: DatasetInfo,
    preprocessing: Preprocessing,
    name: str,
    folder: Path,
) -> Evidence:
    """Predict both splits.

    Args:
        model: a Keras model, or a callable as in `evaluation.predict`.
        preprocessing: of the model.
        name: of the model, for the progress bar.
        folder: the logits are written to `<split>.npy` in it.

    Raises:
        ValueError: as `evaluation.predict`.
    """
    fit, test = (
        predict_split(model, info, split, preprocessing, f"{name} on {split}", file=folder / f"{split}.npy")
        for split in ("calibration", "test")
    )
    return Evidence(fit, test, run.config.phase5, run.config.seed)
