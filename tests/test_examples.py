"""The examples in docstrings are run."""

import doctest
import importlib

import pytest

MODULES = (
    "training.losses", "training.distiller", "training.soft_labels", "evaluation.threshold", "evaluation.calibration",
    "evaluation.metrics",
    "data.preprocess", "data.pipeline", "core.licenses", "ingest.signing", "training.advice", "training.schedule",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name):
    outcome = doctest.testmod(importlib.import_module(f"keras_pipeline.{name}"))
    assert outcome.attempted and not outcome.failed
