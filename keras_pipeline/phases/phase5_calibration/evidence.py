"""The float student's stored predictions, and the check that it learnt from none of these photos. No TensorFlow."""

from __future__ import annotations

import pandas as pd

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.evaluation import predictions
from keras_pipeline.evaluation.calibration_report import Evidence


def stored_evidence(run: Run) -> Evidence:
    """Load the float student's predictions that `phase5 calibrate` stored; raise BrokenArtefact if they are damaged."""
    fit, test = (predictions.load(run.path("logits"), name) for name in ("calibration", "test"))
    return Evidence(fit, test, run.config.phase5, run.config.seed)


def refuse_learnt(info: DatasetInfo, table: pd.DataFrame, evidence: Evidence) -> None:
    """Check, by sample id and by the hashes of shards, that no photo is one that a model has learnt from.

    Args:
        table: of `assignment.places`.

    Raises:
        BrokenArtefact: where a photo that is to judge the model, or to calibrate it, belongs to another split.
    """
    for name, photos in (("calibration", evidence.fit), ("test", evidence.test)):
        place = table.split.reindex(photos.sample_ids).replace("", "none").fillna("none")
        wrong = place[place != name]
        if len(wrong):
            raise BrokenArtefact(
                f"{name}: {len(wrong)} of {len(place)} photos are of another split, the first, {wrong.index[0]}, of "
                f"{wrong.iloc[0]}: a model can't be judged on photos it has learnt from; run `phase0 split --force` "
                "and the steps after it"
            )
        for other in info.splits.keys() - {name}:
            mine, others = ({shard["sha256"] for shard in info.splits[split]["shards"]} for split in (name, other))
            if shared := mine & others:
                raise BrokenArtefact(
                    f"{info.folder}: {name} and {other} have a shard in common (sha256 {min(shared)[:12]}): a model "
                    "can't be judged on photos it has learnt from; run `phase0 split --force` and the steps after it"
                )
