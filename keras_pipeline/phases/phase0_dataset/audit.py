"""`phase0 audit`: count the collection's contents before anything is downloaded."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.progress import progress
from keras_pipeline.core.redaction import redact
from keras_pipeline.ingest import audit, mongo
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.ingest.entries import Reader
from keras_pipeline.ingest.idle import without_text
from keras_pipeline.ingest.understand import LOOKED_AT, Understanding, understand
from keras_pipeline.phases.phase0_dataset import audit_origins, audit_report


def run(run: Run) -> None:
    source = run.config.source
    curation, reader = Curation.load(source), Reader(source)
    with run.source() as (uri, _), mongo.open_collection(source, uri) as collection:
        count = mongo.count(collection, source)
        seen = understand(mongo.first_documents(collection, source, LOOKED_AT), source)
        rows = mongo.documents(collection, source, reader=reader)
        total, unit = (None, "photos") if source.photos else (count, "documents")
        result = audit.audit(
            progress(rows, total=total, description="audit", unit=unit),
            curation=curation,
            min_per_species=run.config.phase0.audit.min_per_species,
            least=source.min_per_species,
            collection_count=count,
            expected=count and expected_photos(count, seen),
            reader=reader,
        )
    result["source"] = f"{redact(source.uri)} {source.database}.{source.collection}"
    audit_report.write(run, result)
    photos = f"{result['photos']} photos, " if source.photos else ""
    print(
        f"{result['documents']} documents, {photos}{result['usable']} usable, {result['species']} species; "
        f"skipped: {result['unusable'] or 'none'}; see {run.path('audit').with_suffix('.html')}"
    )
    said = [*audit_report.remarks(result), *audit_report.suggestion(run, result), *audit_report.without_effect(result)]
    idle = without_text(source, reader.detailed) if result["usable"] else ()
    for remark in [*said, *idle, *audit_origins.remarks(result, source)]:
        print(remark)
    _refuse_nothing(run, result, seen)


def expected_photos(documents: int, seen: Understanding) -> int:
    """Estimate the photos of a collection from those of the documents looked at."""
    return int(documents * max(1, seen.photos / max(seen.documents, 1)))


def _refuse_nothing(run: Run, result: dict, seen: Understanding) -> None:
    """Refuse a collection without a usable photo, or with too few species under `source.min_per_species`."""
    source = run.config.source
    if not result["usable"] and not seen.photos:
        where = f"{source.database}.{source.collection}"
        raise ValueError(f"{result['documents']} documents in {where}; of {seen.documents} looked at {seen.summary}")
    if result["species"] < 2 <= result["minima"][0]["species"]:
        raise ValueError(
            f"source.min_per_species: received {source.min_per_species}, which leaves {result['species']} of "
            f"{result['minima'][0]['species']} species; expected two or more; lower it"
        )
    if not result["usable"]:
        left_out = audit.left_out_by(result["unusable"])
        key = next(iter(left_out), "source.fields")
        remedy = f"correct {key}"
        if key == "source.licenses":
            there = (f"{name} {entry['photos']:,}" for name, entry in list(result["licenses"].items())[:10])
            remedy = f"add some that the photos have ({', '.join(there)}), or set it to null for all"
        raise ValueError(
            f"{key}: received no usable photo: {result['unusable']}; see "
            f"{run.path('audit').parent / 'tables/unusable.csv'}; {remedy}"
        )
