"""`phase5 temperature`: fit the temperature on the calibration split, and measure it on the test split."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import write_json
from keras_pipeline.evaluation import calibration_report
from keras_pipeline.evaluation.report import calibration
from keras_pipeline.phases.phase5_calibration.evidence import stored_evidence


def run(run: Run) -> None:
    """Write `temperature.json` and the reliability diagrams."""
    evidence = stored_evidence(run)
    result, before, after = calibration_report.temperature(evidence)
    write_json(run.path("temperature"), result)
    calibration.draw_reliability(
        evidence.test, before, after, run.config.phase5.bins, run.path("reliability"), run.path("reliability_regions")
    )
    print(calibration.describe_temperature(result))
