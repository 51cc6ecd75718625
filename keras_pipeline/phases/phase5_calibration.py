"""Phase 5: what the float student's probabilities are worth, and when it should say 'not conclusive'."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run, Step, write_json
from keras_pipeline.phases import build


def calibrate(run: Run) -> None:
    """Predictions on the calibration and test splits, and what the raw probabilities are worth."""
    import numpy as np

    from keras_pipeline.core.artifacts import aside
    from keras_pipeline.evaluation import calibration, metrics

    size = run.config.phase4.data.image_size
    fit, _ = build.predict_split(run, "student", "calibration", size)
    test, _ = build.predict_split(run, "student", "test", size)
    with aside(run.path("predictions")) as temporary:
        np.savez(
            temporary,
            predicted_probs=metrics.softmax(test.logits).astype("float32"),
            true_labels=test.labels,
            sample_id=test.sample_ids,
            test_logits=test.logits,
            calibration_logits=fit.logits,
            calibration_labels=fit.labels,
        )
    confidence, correct = metrics.confidence_and_correct(test.logits, test.labels)
    bins = run.config.phase5.bins
    ece = calibration.expected_calibration_error(confidence, correct, bins=bins)
    mce = calibration.maximum_calibration_error(confidence, correct, bins=bins)
    print(f"test, uncalibrated: ECE {ece:.4f}, MCE {mce:.4f}, n {len(correct)}")


def temperature(run: Run) -> None:
    """Temperature by NLL on the calibration split; figures before and after on the test split."""
    from keras_pipeline.evaluation import calibration, metrics, plots

    arrays = _predictions(run)
    bins = run.config.phase5.bins
    report = calibration.calibration_report(
        arrays["calibration_logits"],
        arrays["calibration_labels"],
        arrays["test_logits"],
        arrays["true_labels"],
        bins=bins,
    )
    write_json(run.path("temperature"), report)
    tables = []
    for value in (1.0, report["temperature"]):
        confidence, correct = metrics.confidence_and_correct(
            arrays["test_logits"], arrays["true_labels"], temperature=value
        )
        tables.append(calibration.reliability_bins(confidence, correct, bins=bins))
    plots.reliability_diagram(*tables, run.path("reliability"))
    print(
        f"temperature {report['temperature']:.3f}: ECE {report['ece_before']:.4f} -> {report['ece_after']:.4f} on test"
    )


def threshold(run: Run) -> None:
    """The 'not conclusive' threshold: chosen on the calibration split, judged on the test split."""
    from keras_pipeline.evaluation import metrics, plots
    from keras_pipeline.evaluation import threshold as thresholds

    arrays = _predictions(run)
    result = build.calibration(
        run, "student", arrays["calibration_logits"], arrays["calibration_labels"], arrays["test_logits"],
        arrays["true_labels"],
    )  # fmt: skip
    write_json(run.path("calibration"), result)
    confidence, correct = metrics.confidence_and_correct(
        arrays["test_logits"], arrays["true_labels"], temperature=result["temperature"]
    )
    coverage, risk, _ = thresholds.risk_coverage(confidence, correct)
    chosen = None if result["precision"] is None else (result["coverage"], 1 - result["precision"])
    plots.risk_coverage(
        coverage, risk, run.path("risk_coverage"), chosen=chosen, target=run.config.phase5.target_precision
    )
    print(build.describe_calibration(result))


def _predictions(run: Run) -> dict:
    import numpy as np

    with np.load(run.path("predictions"), allow_pickle=False) as file:
        return dict(file)


STEPS = [
    Step("phase5", "calibrate", calibrate, ("dataset", "student"), ("predictions",), ("phase4.data", "phase5.bins"), 1),
    Step(
        "phase5", "temperature", temperature, ("predictions",), ("temperature", "reliability"), ("phase5.bins",), 1
    ),
    Step(
        "phase5", "threshold", threshold, ("predictions", "temperature", "student"), ("calibration", "risk_coverage"),
        ("phase5",), 1,
    ),
]  # fmt: skip
