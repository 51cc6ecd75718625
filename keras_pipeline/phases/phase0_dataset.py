"""Phase 0: from the collection to split, leak-free TFRecords, and a baseline."""

from __future__ import annotations

import shutil
from pathlib import Path

from keras_pipeline.core.artifacts import Run, Step, config_hash, write_json
from keras_pipeline.core.errors import LeakError, SourceError
from keras_pipeline.core.schema import SPLITS, Photo, shuffle_key
from keras_pipeline.core.taxonomy import class_hash, class_list

SOURCE = ("source.database", "source.collection", "source.query", "source.fields", "source.demo")
EXPORTED = (*SOURCE, "dataset", "phase0.export")


def audit(run: Run) -> None:
    from keras_pipeline.ingest import mongo

    with run.open_source() as (uri, _), mongo.open_collection(run.config.source, uri) as collection:
        # Imported when a server has answered: who mistyped its address should not wait for pandas first.
        import pandas as pd

        from keras_pipeline.evaluation import plots
        from keras_pipeline.ingest import audit as auditing

        result = auditing.audit(mongo.documents(collection, run.config.source))
    folder = run.path("audit").parent
    plots.class_histogram(result["per_class"], folder / "class_histogram.png")
    pd.Series(result["per_class"], name="photos").rename_axis("latin_name").to_csv(folder / "class_counts.csv")
    write_json(run.path("audit"), {**result, "histogram": "class_histogram.png"})
    print(
        f"{result['documents']} documents, {result['usable']} usable, {result['species']} species; "
        f"skipped: {result['unusable'] or 'none'}"
    )


def validate_urls(run: Run) -> None:
    from keras_pipeline.ingest import fetch, mongo

    total = run.read("audit")["documents"]
    with run.open_source() as (uri, base_url), mongo.open_collection(run.config.source, uri) as collection:
        rows = fetch.check_urls(
            mongo.documents(collection, run.config.source),
            total=total,
            base_url=base_url,
            settings=run.config.phase0.export,
        )
    checked = [row for row in rows if row.state != "skipped"]
    failed = [row for row in checked if row.state == "failed"]
    reasons: dict[str, int] = {}
    for row in failed:
        reasons[row.reason] = reasons.get(row.reason, 0) + 1
    rate = len(failed) / len(checked) if checked else None
    result = {"checked": len(checked), "failed": len(failed), "failure_rate": rate, "by_reason": reasons}
    write_json(run.path("url_check"), result)
    print(f"{len(failed)} of {len(checked)} URLs failed: {reasons}")


def export(run: Run) -> None:
    from keras_pipeline.data import preprocess, records
    from keras_pipeline.ingest import fetch, mongo
    from keras_pipeline.ingest.ledger import Ledger

    settings, raw = run.config.dataset, run.path("raw")
    database = run.path("url_ledger").with_name("ledger.sqlite")
    _discard_other_export(run, raw, database)

    def convert(photo: bytes):
        return preprocess.to_record(
            photo, short_side=settings.short_side, min_short_side=settings.min_short_side, quality=settings.jpeg_quality
        )

    def write_shard(index: int, photos: list[Photo]) -> str:
        name = f"photos-{index:05d}.tfrecord"
        return records.write_shard(raw / name, map(records.encode, photos), len(photos))["name"]

    with (
        run.open_source() as (uri, base_url),
        mongo.open_collection(run.config.source, uri) as collection,
        Ledger(database) as ledger,
    ):
        for shard in raw.glob("photos-*.tfrecord"):
            if shard.name not in ledger.shards():  # Renamed into place just before a kill: its photos are not settled.
                shard.unlink()
        fetch.export_photos(
            mongo.documents(collection, run.config.source),
            total=run.read("audit")["documents"],
            base_url=base_url,
            settings=run.config.phase0.export,
            photos_per_shard=settings.photos_per_shard,
            convert=convert,
            write_shard=write_shard,
            ledger=ledger,
        )
        ledger.write_parquet(run.path("url_ledger"))
        table = ledger.table()
    bad = table[table.state != "ok"].groupby("reason").size().to_dict()
    print(f"{int((table.state == 'ok').sum())} photos stored, {int((table.state != 'ok').sum())} not: {bad}")
    if not (table.state == "ok").any():
        raise SourceError(f"no photo could be stored ({bad}); each URL's fate is in {run.path('url_ledger')}")


def _discard_other_export(run: Run, raw: Path, database: Path) -> None:
    """A ledger of another config, or of shards that are gone, must not vouch for photos."""
    from keras_pipeline.ingest.ledger import Ledger

    key = config_hash(run.config, EXPORTED)
    key_file = raw / "config_hash"
    if database.exists():
        with Ledger(database) as ledger:
            complete = all((raw / name).exists() for name in ledger.shards())
        if not complete or not key_file.exists() or key_file.read_text() != key:
            for file in database.parent.glob(database.name + "*"):
                file.unlink()
            shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True, exist_ok=True)
    key_file.write_text(key)


def split(run: Run) -> None:
    from keras_pipeline.data import records
    from keras_pipeline.ingest import split as splitting

    raw = sorted(run.path("raw").glob("photos-*.tfrecord"))
    index = records.index_shards(raw)
    groups = splitting.group_samples((p.sample_id, p.group_id or None, p.sha256) for p in index)
    classes = class_list(p.latin_name for p in index)
    label_of = {name: label for label, name in enumerate(classes)}
    members: dict[str, list[int]] = {}
    for place in index:
        members.setdefault(groups[place.sample_id], []).append(label_of[place.latin_name])
    shares = {name: getattr(run.config.phase0.split, name) for name in SPLITS}
    assignment = splitting.assign_splits(members, shares=shares, seed=run.config.seed)

    by_split: dict[str, list] = {name: [] for name in SPLITS}
    for place in sorted(index, key=lambda place: shuffle_key(place.sample_id, run.config.seed)):
        by_split[assignment[groups[place.sample_id]]].append(place)
    empty = [name for name, places in by_split.items() if not places]
    if empty:
        raise ValueError(
            f"{', '.join(empty)}: no photo; received {len(index)} photos in {len(members)} groups, expected one group "
            "or more for each split; add photos (about 20 groups a species give every split some of it)"
        )
    folder = run.path("dataset").parent
    for old in [*folder.glob("*.tfrecord"), folder / "dataset.json"]:
        old.unlink(missing_ok=True)
    entries = {
        name: records.write_split(
            folder, name, places, groups=groups, label_of=label_of, per_shard=run.config.dataset.photos_per_shard
        )
        for name, places in by_split.items()
    }
    leaks = splitting.find_leaks(records.identities(folder, entries))
    write_json(run.path("leak_audit"), {"leaks": leaks, "photos": len(index), "groups": len(members)})
    if leaks:
        raise LeakError(f"{len(leaks)} leaks between splits, see {run.path('leak_audit')}; the first: {leaks[0]}")
    value = {"name": run.config.dataset_name, "classes": classes, "class_hash": class_hash(classes), "splits": entries}
    write_json(run.path("dataset"), value)
    print(f"{len(classes)} species, {len(members)} groups; " + ", ".join(f"{k} {v['n']}" for k, v in entries.items()))


def _remove_raw(run: Run) -> None:
    if not run.config.phase0.split.keep_raw:
        shutil.rmtree(run.path("raw"), ignore_errors=True)


def baseline(run: Run) -> None:
    import numpy as np

    from keras_pipeline.core.config import Model
    from keras_pipeline.data import pipeline, records
    from keras_pipeline.data.preprocess import Preprocessing
    from keras_pipeline.evaluation import baseline as baselines
    from keras_pipeline.evaluation import metrics
    from keras_pipeline.evaluation.predict import inference
    from keras_pipeline.models import heads

    settings = run.config.phase0.baseline
    info = records.load_info(run.path("dataset"))
    if settings.features == "colour-histogram":
        extract = baselines.colour_histogram
    else:
        model = heads.build_backbone(
            Model(name="mobilenetv2", pretrained=settings.weights or True), settings.image_size
        )
        extract = inference(model)
    preprocessing = Preprocessing(settings.image_size, run.config.dataset.short_side)
    columns = {}
    for name in ("train", "test"):
        rows = [
            (extract(batch["image"]), batch["label"], batch["region"].astype("U"))
            for batch in pipeline.evaluation_batches(info, name, preprocessing).as_numpy_iterator()
        ]
        columns[name] = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    train_x, train_y, _ = columns["train"]
    test_x, test_y, regions = columns["test"]
    scores = baselines.nearest_class_mean(train_x, train_y, test_x, len(info.classes))
    result = metrics.classification_metrics(scores, test_y, regions, info.classes)
    result.pop("loss")  # similarities are no log-probabilities
    majority = float(np.mean(test_y == np.bincount(train_y).argmax()))
    result |= {"features": settings.features, "method": "nearest class mean", "majority_top1": majority}
    write_json(run.path("baseline"), result)
    print(
        f"baseline ({settings.features}, nearest class mean): top-1 {result['top1_accuracy']:.3f}, "
        f"majority class {majority:.3f}"
    )


STEPS = [
    Step("phase0", "audit", audit, (), ("audit",), SOURCE, 1),
    Step("phase0", "validate-urls", validate_urls, ("audit",), ("url_check",), (*SOURCE, "phase0.export"), 1),
    Step("phase0", "export", export, ("audit",), ("url_ledger", "raw"), EXPORTED, 1, transient=("raw",)),
    Step(
        "phase0", "split", split, ("raw",), ("leak_audit", "dataset"), ("seed", "dataset", "phase0.split"), 1,
        clean=_remove_raw,
    ),
    Step("phase0", "baseline", baseline, ("dataset",), ("baseline",), ("phase0.baseline",), 1),
]  # fmt: skip
