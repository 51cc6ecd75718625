"""Phase 1: the global teacher."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.phases import evaluating, preflight, teacher
from keras_pipeline.phases.steps import Step


def job(run: Run) -> teacher.Job:
    return teacher.Job("teacher", run.config.phase1)


def train(run: Run) -> None:
    teacher.train(run, job(run))


def evaluate(run: Run) -> None:
    evaluating.evaluate(
        run, "teacher", image_size=run.config.phase1.data.image_size, gate=run.config.gates.teacher_min_recall
    )


def logits(run: Run) -> None:
    teacher.logits(run, job(run))


STEPS = [
    Step(
        "phase1", "train", train, ("dataset",), ("teacher", "teacher_history", "teacher_curves"),
        ("seed", "deterministic", "phase1"), 4, trains=True,
        clean=lambda run: teacher.clean(run, "teacher"),
        check=lambda run, counts: preflight.check_teacher(run, counts, "phase1"),
    ),
    Step(
        "phase1", "evaluate", evaluate, ("dataset", "teacher"),
        ("teacher_metrics", "teacher_predictions", "teacher_pictures"), ("gates.teacher_min_recall",), 3,
    ),
    Step(
        "phase1", "logits", logits, ("dataset", "teacher"), ("teacher_logits",),
        ("seed", "phase3.distillation.temperature", "phase3.soft_labels"), 3,
    ),
]  # fmt: skip
