"""`phase2 logits`: store the regional teacher's soft labels."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.phases.phase1_teacher import logits
from keras_pipeline.phases.phase2_regional.train import spec_of


def run(run: Run) -> None:
    logits.store_logits(run, spec_of(run))
