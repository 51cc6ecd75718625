"""`phase5 threshold`: choose the threshold of conclusive answers, and judge it on the test split."""

from __future__ import annotations

import pandas as pd

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.files import write_json
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.core.taxonomy import ranks_above
from keras_pipeline.data import assignment, records
from keras_pipeline.evaluation import calibration_report
from keras_pipeline.evaluation.calibration_report import Evidence
from keras_pipeline.evaluation.report import calibration
from keras_pipeline.evaluation.scores import Scores
from keras_pipeline.phases.phase5_calibration.evidence import refuse_learnt, stored_evidence


def run(run: Run) -> None:
    """Write `calibration.json`, the region priors and the risk-coverage curve.

    Raises:
        BrokenArtefact: where a photo of these splits was learnt from.
    """
    info, table = records.read_info(run.path("dataset")), assignment.places(run.path("assignment"))
    priors = priors_of(run, info, table)
    weights = content_hash(run.path("student"))
    fitted = run.read("temperature")
    result, tested = report_of(run, info, table, priors, stored_evidence(run), "student", weights, fitted)
    write_json(run.path("calibration"), result)
    write_json(run.path("priors"), {"regions": []} if isinstance(priors, str) else priors)
    calibration.draw_risk(result, tested, run.path("risk_coverage"))
    print(calibration.describe(result))


def priors_of(run: Run, info: DatasetInfo, table: pd.DataFrame) -> dict | str:
    """Compute region priors from the train split's counts, or say why there are none."""
    if absent := assignment.why_no_priors(table):
        return absent
    counts = assignment.region_counts(table)
    return calibration_report.priors(counts, info.classes, info.class_hash, run.config.phase5.region_priors)


def report_of(
    run: Run,
    info: DatasetInfo,
    table: pd.DataFrame,
    priors: dict | str,
    evidence: Evidence,
    name: str,
    weights_hash: str,
    fitted: dict | None = None,
) -> tuple[dict, Scores]:
    """Return a model's `calibration.json`, and the test photos' scores.

    Args:
        table: of `assignment.places`.
        priors: of `priors_of`.
        evidence: the model's predictions.
        name: the model's.
        weights_hash: content hash of the file that holds its weights.
        fitted: of `calibration_report.temperature`, if already computed.

    Raises:
        BrokenArtefact: where it was trained on photos that are to judge it.
    """
    refuse_learnt(info, table, evidence)
    ranks = ranks_above(info.classes, records.load_details(run.path("dataset"), info.classes))
    result, tested = calibration_report.report(evidence, table, info.classes, priors, ranks, fitted)
    return {**result, "model": name, "weights_hash": weights_hash}, tested
