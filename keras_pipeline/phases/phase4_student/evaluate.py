"""`phase4 evaluate`: metrics, pictures and answers of the student."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.phases.phase1_teacher import evaluate


def run(run: Run) -> None:
    # The gates ask for three splits, the report shows pictures of one.
    splits = ("train", "val", "test") if run.split == "test" else (run.split,)
    for split in splits:
        size = run.config.phase4.data.image_size
        evaluate.evaluate_model(run, "student", image_size=size, split=split, draw=split == run.split)
