"""Phase 1: the global teacher."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run, Step
from keras_pipeline.core.pretrained import check_available
from keras_pipeline.phases import build, teacher


def _job(run: Run) -> teacher.Job:
    return teacher.Job("teacher", run.config.phase1)


def train(run: Run) -> None:
    teacher.train(run, _job(run))


def evaluate(run: Run) -> None:
    build.evaluate(run, "teacher", image_size=run.config.phase1.data.image_size)


def logits(run: Run) -> None:
    teacher.logits(run, _job(run))


STEPS = [
    Step(
        "phase1", "train", train, ("dataset",), ("teacher", "teacher_history"), ("seed", "deterministic", "phase1"), 3,
        clean=lambda run: teacher.clean(run, "teacher"),
        check=lambda run: check_available(run.config.phase1.model, "phase1.model.pretrained"),
    ),
    Step("phase1", "evaluate", evaluate, ("dataset", "teacher"), ("teacher_metrics",), (), 1),
    Step(
        "phase1", "logits", logits, ("dataset", "teacher"), ("teacher_logits",),
        ("seed", "phase3.distillation.temperature", "phase3.soft_labels"), 2,
    ),
]  # fmt: skip
