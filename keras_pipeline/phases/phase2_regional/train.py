"""`phase2 train`: train the regional teacher on one region's photos, with the same class list."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.phases.phase1_teacher import train


def spec_of(run: Run) -> train.TeacherSpec:
    """Return the spec of the regional teacher."""
    return train.TeacherSpec("regional", run.config.regional, run.config.regional.region)


def run(run: Run) -> None:
    train.fit_teacher(run, spec_of(run))
