"""Phase 6: the shipped weights, the SavedModel, the page, and the proof that they agree."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import write_json
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.phases import build, calibrating, preflight, proving, rounding
from keras_pipeline.phases.steps import Step


def export(run: Run) -> None:
    """SavedModel, TF.js graph model and page, all with the calibration of the shipped weights."""
    from keras_pipeline.data import records
    from keras_pipeline.export import saved_model, tfjs
    from keras_pipeline.models import heads

    calibration = run.read("shipped_calibration")
    if calibration["weights_hash"] != content_hash(run.path("shipped")):
        raise BrokenArtefact(
            f"{run.path('shipped_calibration')}: fitted on other weights than "
            f"{run.path('shipped')}; run `phase6 quantize --force`"
        )
    info = records.load_info(run.path("dataset"))
    saved_model.write_saved_model(
        heads.load_classifier(run.path("shipped")),
        run.path("saved_model"),
        labels=info.classes,
        preprocessing=build.student_preprocessing(run),
        calibration=calibration,
        priors=_shipped_priors(run, calibration),
        attribution=_attribution(run),
    )
    report = tfjs.write_bundle(run.path("saved_model"), run.path("web"))
    write_json(run.path("export"), report)
    print(f"page: {run.path('web')} (model {report['bytes'] / 1e6:.2f} MB in {report['shards']} shards)")


def _attribution(run: Run) -> str:
    """Whose photos the model has learnt from, by licence; photos that only judged it are not among them."""
    table = calibrating.places(run)
    train = table[table.split == "train"].fillna("")
    lines = [f"The model has learnt from {len(train)} photos. By licence, with each author's number of them:"]
    for license, photos in train.groupby("license"):
        lines += ["", license or "no licence said"]
        authors = photos.attribution.value_counts().sort_index()
        lines += [f"  {author or 'no author said'}: {n}" for author, n in authors.items()]
    return "\n".join(lines) + "\n"


def _shipped_priors(run: Run, calibration: dict) -> dict | None:
    return run.read("priors") if calibration["region_priors"]["ship"] else None


STEPS = [
    Step(
        "phase6", "quantize", rounding.quantize, ("dataset", "assignment", "student", "logits", "temperature"),
        ("shipped", "tflite", "quantization", "shipped_calibration"),
        ("seed", "dataset.short_side", "dataset.min_short_side", "phase4", "phase5", "phase6.quantization",
         "phase6.compare", "phase6.qat",
         "phase6.max_top1_loss"), 4,
    ),
    Step(
        "phase6", "export", export, ("dataset", "assignment", "shipped", "shipped_calibration", "priors"),
        ("saved_model", "web", "export"), ("dataset.short_side", "dataset.min_short_side", "phase4.data"), 5,
        check=preflight.check_page,
    ),
    Step(
        "phase6", "validate", proving.validate, ("dataset", "saved_model", "web"), ("equivalence", "equivalence_worst"),
        ("seed", "phase6.validation_photos", "phase6.photos"), 4, check=proving.check,
    ),
]  # fmt: skip
