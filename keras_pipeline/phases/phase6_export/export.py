"""`phase6 export`: write SavedModel, TF.js model and page, with the calibration of the shipped weights."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

import keras_pipeline
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.environment import git_commit
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import write_json
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.data import assignment, records
from keras_pipeline.export import saved_model, tfjs
from keras_pipeline.models import heads
from keras_pipeline.phases.phase3_soft_labels import student


def run(run: Run) -> None:
    """Write the SavedModel and the page.

    Raises:
        BrokenArtefact: where the shipped calibration was fitted on other weights.
    """
    calibration = run.read("shipped_calibration")
    if calibration["weights_hash"] != content_hash(run.path("shipped")):
        raise BrokenArtefact(
            f"{run.path('shipped_calibration')}: fitted on other weights than those of {run.path('shipped')}; run "
            "`phase6 quantize --force`"
        )
    info = records.load_info(run.path("dataset"))
    saved_model.write_saved_model(
        heads.load_classifier(run.path("shipped")),
        run.path("saved_model"),
        labels=info.classes,
        preprocessing=student.preprocessing(run.config),
        calibration=calibration,
        directions=np.load(run.path("off_list")) if "threshold" in calibration["off_list"] else None,
        priors=run.read("priors") if calibration["region_priors"]["ship"] else None,
        attribution=_attribution(assignment.places(run.path("assignment"))),
        details=records.load_details(run.path("dataset"), info.classes),
    )
    report = tfjs.write_bundle(run.path("saved_model"), run.path("web"), about=_about(run, info, calibration))
    write_json(run.path("export"), report)
    print(f"page: {run.path('web')} (model {report['bytes'] / 1e6:.2f} MB in {report['shards']} shards)")


def _about(run: Run, info: DatasetInfo, calibration: dict) -> dict:
    """Return what the page says of its model: nothing that a visitor may not read."""
    measured = calibration["after"]
    return {
        "experiment": run.config.experiment,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "code": {"version": keras_pipeline.__version__, **git_commit()},
        "species": len(info.classes),
        "class_hash": info.class_hash,
        "test_photos": measured["n"],
        "top1": measured["top1"],
        "ece": measured["ece"]["value"],
        "threshold": calibration["threshold"],
        "coverage": calibration["coverage"],
    }


def _attribution(table: pd.DataFrame) -> str:
    """List the authors of the train photos by licence; the photos of other splits taught the model nothing."""
    train = table[table.split == "train"].fillna("")
    lines = [f"The model has learnt from {len(train)} photos. By licence, with each author's number of them:"]
    for license, photos in train.groupby("license"):
        lines += ["", license or "no licence said"]
        authors = photos.attribution.value_counts().sort_index()
        lines += [f"  {author or 'no author said'}: {n}" for author, n in authors.items()]
    return "\n".join(lines) + "\n"
