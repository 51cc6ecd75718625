"""Phase 0: from the collection to split, leak-free TFRecords, and a baseline."""

from __future__ import annotations

import tempfile
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.teachers import Model
from keras_pipeline.core.files import write_json
from keras_pipeline.core.redaction import redact
from keras_pipeline.models.pretrained import check_available
from keras_pipeline.phases import evaluating
from keras_pipeline.phases.downloads import estimate_export, export, forget_urls, remove_raw, validate_urls
from keras_pipeline.phases.splitting import split
from keras_pipeline.phases.steps import Step

SOURCE = (
    "source.database", "source.collection", "source.query", "source.fields", "source.demo", "source.synonyms",
    "source.exclude",
)  # fmt: skip
CAPS = ("source.max_per_species", "source.max_per_observation")


def audit(run: Run) -> None:
    from keras_pipeline.ingest import mongo
    from keras_pipeline.ingest.curation import Curation

    source = run.config.source
    curation = Curation.load(source)
    with run.open_source(run.config) as (uri, _), mongo.open_collection(source, uri) as collection:
        # Imported when a server has answered: who mistyped its address should not wait for pandas first.
        from keras_pipeline.core.progress import progress
        from keras_pipeline.ingest import audit as auditing
        from keras_pipeline.phases import audit_report

        count = mongo.count(collection, source)
        result = auditing.audit(
            progress(mongo.documents(collection, source), total=count, description="audit", unit="documents"),
            curation=curation,
            min_per_species=run.config.phase0.audit.min_per_species,
            collection_count=count,
        )
    result["source"] = f"{redact(source.uri)} {source.database}.{source.collection}"
    audit_report.write(run, result)
    print(
        f"{result['documents']} documents, {result['usable']} usable, {result['species']} species; "
        f"skipped: {result['unusable'] or 'none'}; see {run.path('audit').with_suffix('.html')}"
    )
    for remark in audit_report.remarks(result):
        print(remark)


def _feature_model(run: Run) -> Model:
    return Model(name="mobilenetv2", pretrained=run.config.phase0.baseline.weights or True)


def check_features(run: Run, _: object) -> None:
    if run.config.phase0.baseline.features != "colour-histogram":
        check_available(_feature_model(run), "phase0.baseline.weights (with features: file)")


def baseline(run: Run) -> None:
    from keras_pipeline.data import pipeline, records
    from keras_pipeline.data.preprocess import Preprocessing
    from keras_pipeline.evaluation import baseline as baselines
    from keras_pipeline.evaluation.predict import inference
    from keras_pipeline.models import heads

    settings, path = run.config.phase0.baseline, run.path("baseline")
    info = records.load_info(run.path("dataset"))
    if settings.features == "colour-histogram":
        extract = baselines.colour_histogram
    else:
        extract = inference(heads.build_backbone(_feature_model(run), settings.image_size))
    preprocessing = Preprocessing(settings.image_size, run.config.dataset.short_side)
    # What a kill leaves of it, the runner removes by this name.
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        train, test = (
            baselines.extract_features(
                extract,
                pipeline.evaluation_batches(info, name, preprocessing).as_numpy_iterator(),
                Path(folder) / name,
                n=info.splits[name]["n"],
            )
            for name in ("train", "test")
        )
        tables, predictions = baselines.compare(
            train, test, info.classes, epochs=settings.probe_epochs, seed=run.config.seed, folder=Path(folder)
        )
        evaluating.write_answers(run.path("baseline_predictions"), predictions)
    probe, majority = tables["linear_probe"], tables["majority"]["top1_accuracy"]
    headline = {key: probe[key] for key in ("n", "top1_accuracy", "top5_accuracy")}
    result = {"features": settings.features, "method": "linear probe", **headline, "majority_top1": majority}
    write_json(path, result | tables)
    print(f"baseline ({settings.features}), top-1 and top-5 on {probe['n']} test photos:")
    for name, table in tables.items():
        print(f"  {name.replace('_', ' ')}: {table['top1_accuracy']:.3f}, {table['top5_accuracy']:.3f}")


STEPS = [
    Step("phase0", "audit", audit, (), ("audit",), (*SOURCE, "phase0.audit"), 4),
    Step(
        "phase0", "validate-urls", validate_urls, ("audit",), ("url_check",),
        (*SOURCE, "source.base_url", "seed", "phase0.export", "phase0.validate_urls"), 3, clean=forget_urls,
    ),
    Step(
        "phase0", "export", export, ("audit",), ("url_ledger",),
        (*SOURCE, *CAPS, "source.base_url", "seed", "dataset", "phase0.export"), 3, estimate=estimate_export,
    ),
    Step(
        "phase0", "split", split, ("url_ledger",), ("leak_audit", "assignment", "dataset"),
        ("seed", "dataset", "phase0.split"), 5, clean=remove_raw,
    ),
    Step(
        "phase0", "baseline", baseline, ("dataset",), ("baseline", "baseline_predictions"),
        ("seed", "phase0.baseline"), 4, check=check_features,
    ),
]  # fmt: skip
