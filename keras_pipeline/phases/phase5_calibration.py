"""Phase 5: what the float student's probabilities are worth, and when it should say 'not conclusive'."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.core.npz import NpzWriter
from keras_pipeline.phases import build, calibrating, preflight
from keras_pipeline.phases.steps import Step


def calibrate(run: Run) -> None:
    """Predictions on the calibration and test splits, and what the raw probabilities are worth."""
    from keras_pipeline.data import records
    from keras_pipeline.evaluation import metrics
    from keras_pipeline.evaluation import predict as predictions

    info = records.load_info(run.path("dataset"))
    student = build.trained(run, "student", info, image_size=run.config.phase4.data.image_size)
    with aside(run.path("logits")) as temporary:
        temporary.mkdir()
        fit, test = calibrating.predict(run, student, "student", temporary)
        predictions.save(fit, temporary, "calibration")
        predictions.save(test, temporary, "test")
        calibrating.refuse_learnt(run, calibrating.places(run), fit, test)
        with aside(run.path("predictions")) as file, NpzWriter(file) as npz:
            blocks = (metrics.softmax(test.logits[rows]) for rows in metrics.row_blocks(test.logits.shape))
            npz.add_blocks("predicted_probs", test.logits.shape, blocks)
            npz.add("true_labels", test.labels)
            npz.add("sample_id", test.sample_ids)
    print(f"calibration n {len(fit.labels)}; {calibrating.describe_raw(run, test)}")


def temperature(run: Run) -> None:
    """Temperature by NLL on the calibration split; figures before and after on the test split."""
    fit, test = _predictions(run)
    result, before, after = calibrating.temperature(run, fit, test)
    write_json(run.path("temperature"), result)
    calibrating.draw_reliability(run, test, before, after)
    print(calibrating.describe_temperature(result))


def threshold(run: Run) -> None:
    """The 'not conclusive' threshold: chosen on the calibration split, judged on the test split."""
    fit, test = _predictions(run)
    result, tested, priors = calibrating.calibration(
        run, "student", content_hash(run.path("student")), fit, test, run.read("temperature")
    )
    write_json(run.path("calibration"), result)
    write_json(run.path("priors"), priors or {"regions": []})
    calibrating.draw_risk(run, result, tested)
    print(calibrating.describe(result))


def _predictions(run: Run):
    from keras_pipeline.evaluation import predict

    return predict.load(run.path("logits"), "calibration"), predict.load(run.path("logits"), "test")


STEPS = [
    Step(
        "phase5", "calibrate", calibrate, ("dataset", "assignment", "student"), ("predictions", "logits"),
        ("seed", "phase4.data", "phase5.bins"), 2,
    ),
    Step(
        "phase5", "temperature", temperature, ("logits",), ("temperature", "reliability", "reliability_regions"),
        ("seed", "phase5.bins"), 2, check=preflight.check_calibration,
    ),
    Step(
        "phase5", "threshold", threshold, ("dataset", "assignment", "logits", "temperature", "student"),
        ("calibration", "priors", "risk_coverage"), ("seed", "phase5"), 3,
    ),
]  # fmt: skip
