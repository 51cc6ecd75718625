"""`phase0 audit`: count the collection's contents before anything is downloaded."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.progress import progress
from keras_pipeline.core.redaction import redact
from keras_pipeline.ingest import audit, mongo
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.phases.phase0_dataset import audit_report


def run(run: Run) -> None:
    source = run.config.source
    curation = Curation.load(source)
    with run.source() as (uri, _), mongo.open_collection(source, uri) as collection:
        count = mongo.count(collection, source)
        result = audit.audit(
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
    for remark in [*audit_report.remarks(result), *audit_report.suggestion(run, result)]:
        print(remark)
