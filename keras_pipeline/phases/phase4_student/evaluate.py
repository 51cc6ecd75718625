"""`phase4 evaluate`: measure the student; write metrics, predictions and pictures."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.phases.phase1_teacher import evaluate


def run(run: Run) -> None:
    # The gates need three splits, the report shows pictures of one.
    splits = ("train", "val", "test") if run.split == "test" else (run.split,)
    size = run.config.phase4.data.image_size
    for split in splits:
        evaluate.evaluate_model(run, "student", image_size=size, split=split, draw=split == run.split)
