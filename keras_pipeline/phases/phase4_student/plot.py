"""`phase4 plot`: draw the training curves of both stages."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.evaluation.report import plots


def run(run: Run) -> None:
    stages = {"distillation": "distill_history", "fine-tuning": "finetune_history"}
    plots.draw_curves({title: run.read(name)["epochs"] for title, name in stages.items()}, run.path("curves"))
    print(run.path("curves"))
