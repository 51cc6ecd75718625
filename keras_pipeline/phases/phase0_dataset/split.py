"""`phase0 split`: group stored photos, assign groups to splits, write final shards, and search those for leaks."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import SPLITS, by_older_rules
from keras_pipeline.core.errors import BrokenArtefact, LeakError, SourceError
from keras_pipeline.core.files import write_json
from keras_pipeline.core.record import shuffle_key
from keras_pipeline.core.taxonomy import class_hash, class_list
from keras_pipeline.data import assignment, records
from keras_pipeline.ingest import details, split
from keras_pipeline.ingest.duplicates import near_duplicates
from keras_pipeline.ingest.same_photo import same_photo
from keras_pipeline.ingest.shares import Shares
from keras_pipeline.ingest.split import NONE, Ties, ties_of
from keras_pipeline.phases.phase0_dataset import split_report
from keras_pipeline.phases.phase0_dataset.shard_index import hashes_of, index_shards
from keras_pipeline.phases.phase0_dataset.stored import (
    RAW_SHARDS,
    finished_shards,
    is_stored_alike,
    raw_folder,
    remove_raw,
    stored_as,
)

LISTED = 10_000  # pairs in near_duplicates.csv; a single placeholder picture can make as many


def run(run: Run) -> None:
    folder = run.path("dataset").parent
    records.finish_publishing(folder)
    if not is_stored_alike(run):
        raise BrokenArtefact(
            f"{folder}: received photos of another collection, or stored with other settings (dataset.short_side, "
            "min_short_side, jpeg_quality) than in the config; run `phase0 export` with this config first"
        )
    table = _stored_photos(run)
    ties, near = _ties(run, table)
    old = _previous(run)
    decided = split.split_photos(
        table,
        ties,
        shares={name: getattr(run.config.phase0.split, name) for name in SPLITS},
        seed=run.config.seed,
        previous=None if old is None else _places(old),
        placeholder=split.placeholders(table, hashes_of(table)),
    )
    decided = decided if old is None else _repeated(old, table, decided)
    table = table.assign(**decided.rows)
    _refuse_one_species(table.latin_name[table.split != ""])
    _write_tables(run, table, near)
    _refuse_empty_splits(table)
    made, info = _write_shards(run, table, decided.shares)
    finished = _finished_photos(made, info)
    observed = table[
        ["sample_id", "latin_name", "attribution", "observation_id", "user_id", "day", "latitude", "longitude"]
    ]
    final_ties, _ = _ties(run, finished.merge(observed, on="sample_id", how="left"))
    leaks = split.find_leaks(finished, final_ties)
    report = _report(run, table, decided, ties) | {"leaks": leaks}
    write_json(run.path("leak_audit"), report)
    if leaks:
        raise LeakError(f"{len(leaks)} leaks between splits, see {run.path('leak_audit')}; the first: {leaks[0]}")
    if not (made / "details.json").exists():
        (folder / "details.json").unlink(missing_ok=True)  # of an earlier split
    records.publish(folder, made)
    remove_raw(run)
    print(
        f"{len(info['classes'])} species, {report['groups']} groups (largest: {report['largest_group']['n']} photos), "
        f"links {report['links']}, {report['label_conflicts']} photos with label conflicts, "
        f"left out: {report['left_out'] or 'none'}; " + ", ".join(f"{k} {v['n']}" for k, v in info["splits"].items())
    )
    for remark in [*split_report.remarks(report), *by_older_rules(info)]:
        print(remark)


def _stored_photos(run: Run) -> pd.DataFrame:
    """Return one row per stored photo by sample_id: its ledger entry, its place in a shard, and its hashes.

    Photos of an earlier split are in the finished shards, new ones in the raw shards. Raises SourceError if there are
    none.
    """
    folder = run.path("dataset").parent
    shards = [*sorted(raw_folder(run).glob(RAW_SHARDS)), *finished_shards(run)]
    ledger = assignment.read(run.path("url_ledger"), "`phase0 export --force`, which fetches nothing twice", state="ok")
    if ledger.empty:
        raise SourceError(f"no photo is stored; run `phase0 export`; see {run.path('url_ledger')} for each URL")
    places = index_shards(shards).drop(columns="group_id", errors="ignore")
    places = places.sort_values("rule", ascending=False, kind="stable").drop_duplicates(["sample_id", "sha256"])
    table = ledger.drop(columns=["reason"]).merge(places, on=["sample_id", "sha256"], how="left")
    lost = table[table.file.isna()]
    if len(lost):
        raise BrokenArtefact(
            f"{len(lost)} of {len(table)} photos in {run.path('url_ledger')} are in no shard below {folder}, the "
            f"first: {lost.sample_id.iloc[0]}; run `phase0 export --force`, which fetches just these again"
        )
    return table.rename(columns={"url": "source_url"})


def _ties(run: Run, table: pd.DataFrame) -> tuple[dict[str, Ties], np.ndarray]:
    """Return the ties of these photos by rule, and the pairs of near-duplicates among them (int64 [m, 2])."""
    settings, hashes, near = run.config.phase0.split, hashes_of(table), NONE
    if "near-duplicate" in settings.group_by:
        near = near_duplicates(
            hashes, pd.factorize(table.latin_name)[0], max_bits=settings.near_duplicate_bits,
            confirm_bits=settings.confirm_bits, difference_bits=settings.difference_bits,
        )  # fmt: skip
    ties = ties_of(table, settings.group_by, hashes, near)
    if settings.same_photo:
        ties["same_photo"] = same_photo(Path(settings.same_photo), table.sample_id)
    return ties, near


def _report(run: Run, table: pd.DataFrame, decided: split.Split, ties: dict[str, Ties]) -> dict:
    """Return the contents of leak_audit.json, still without the leaks."""
    reasons = table.reason[table.reason != ""].where(~table.reason.str.startswith(split.COPY), split_report.COPIES)
    authors = split.same_author(table)
    return {
        "photos": int((table.split != "").sum()),
        **split.describe_groups(table, decided.group),
        "links": {rule: each.links for rule, each in ties.items()},
        "judged": {rule: int(split.judged_by(rule, table).sum()) for rule in ties},
        "stored": len(table),
        "absent": {name: int((table[name] == "").sum()) for name in ("user_id", "day")},
        "without_day": int(((table.user_id != "") & (table.day == "")).sum()),
        "by_author": {"photos": len(np.unique(authors.members[:, 0])), "links": authors.links},
        "label_conflicts": int(table.conflict.sum()),
        "pictures": decided.pictures,
        "two_names": decided.two_names,
        "photos_compared": decided.photos_compared,
        "photos_with_two_names": decided.photos_with_two_names,
        "left_out": {reason: int(n) for reason, n in reasons.value_counts().items()},
        "shares": dataclasses.asdict(decided.shares),
        "species": table.latin_name[table.split != ""].nunique(),
        "species_missing_from": split.missing_species(table.latin_name, decided.split),
    }


def _made_with(run: Run) -> dict:
    """Return the settings under which a new split keeps the places of the old one's groups."""
    settings = run.config.phase0.split.model_dump(include={*SPLITS, "group_by"})
    return {"seed": run.config.seed, "table": assignment.COLUMNS, **settings}


def _previous(run: Run) -> pd.DataFrame | None:
    """Return the assignment of the present split, if its settings are the same."""
    if not run.path("assignment").exists():
        return None
    old = assignment.read(run.path("assignment"), "`phase0 split --force`: groups then get new places")
    if old.attrs.get("made_with") != _made_with(run):
        print("seed, shares, group_by or this program changed: the new split does not keep the places of the old one")
        return None
    return old


def _places(old: pd.DataFrame) -> dict[str, str]:
    """Return {sample_id: split}, also of photos left out since."""
    return {sample_id: place for sample_id, place in zip(old.sample_id, old.place, strict=True) if place}


def _repeated(old: pd.DataFrame, table: pd.DataFrame, decided: split.Split) -> split.Split:
    """Return a split in which nothing has changed with the shares that were reachable when it was first made.

    Now that all groups keep their places, nothing else is reachable. A run that was killed after its shards were
    published has to report what an undisturbed one does.
    """
    places = dict(zip(table.sample_id, decided.split, strict=True))
    if "shares" not in old.attrs or dict(zip(old.sample_id, old.split, strict=True)) != places:
        return decided
    return dataclasses.replace(decided, shares=Shares(**old.attrs["shares"]))


def _refuse_one_species(names: pd.Series) -> None:
    """Refuse a single species: a classifier with one answer would never be wrong."""
    if names.nunique() == 1:
        raise ValueError(
            f"received one species, {names.iloc[0]} ({len(names)} photos), expected two or more; is "
            "source.fields.latin_name the right field?"
        )


def _refuse_empty_splits(table: pd.DataFrame) -> None:
    empty = [name for name in SPLITS if not (table.split == name).any()]
    if empty:
        groups = table.group[table.group >= 0].nunique()
        raise ValueError(
            f"{', '.join(empty)}: no photo; received {len(table)} photos in {groups} groups, expected one group or "
            f"more for each split; {'; '.join(_cures(table))}"
        )


def _cures(table: pd.DataFrame) -> list[str]:
    """Return what to do where a split is empty: more photos help only where those that are there are not to blame."""
    placeholders, two_names, cures = table.reason == split.PLACEHOLDER, int(table.conflict.sum()), []
    if placeholders.any():
        cures.append(
            f"{int(placeholders.sum())} show a placeholder, which a host sends instead of a photo, such as "
            f"{table.sample_id[placeholders].iloc[0]} (all: phase0/tables/left_out.csv): open their URLs, and correct "
            "source.fields.image_url or leave them out by source.exclude"
        )
    if two_names:
        cures.append(
            f"{two_names} have a picture with two names (phase0/tables/label_conflicts.csv), which is not evaluated: "
            "join names that mean one species by source.synonyms, and leave wrongly named photos out by source.exclude"
        )
    if int(placeholders.sum()) + two_names < len(table) / 2:
        cures.append("add photos (about 20 groups per species give every split some of each)")
    return cures


def _write_shards(run: Run, table: pd.DataFrame, shares: Shares) -> tuple[Path, dict]:
    """Write the new dataset into its own folder, reusing the finished shards of a killed run if they are the same."""
    classes = class_list(table.latin_name[table.split != ""])
    label_of = {name: label for label, name in enumerate(classes)}
    # A group is named after its smallest sample id, which does not depend on the order of work.
    table = table.assign(
        group_id=table.groupby("group").sample_id.transform("min").where(table.group >= 0, ""),
        # A species whose photos are all left out has no label.
        label=table.latin_name.map(label_of).where(table.split != "", -1).astype("int64"),
    )
    seed = run.config.seed
    table = table.iloc[sorted(range(len(table)), key=[shuffle_key(s, seed) for s in table.sample_id].__getitem__)]
    key = hashlib.sha256(run.made_from.encode())
    key.update(
        pd.util.hash_pandas_object(table[["sample_id", "sha256", "rule", "split", *records.DECIDED]]).values.tobytes()
    )
    folder = run.path("dataset").parent
    made = folder / f"next-{key.hexdigest()[:16]}"
    for other in folder.glob("next-*"):
        if other != made:
            shutil.rmtree(other)
    made.mkdir(exist_ok=True)
    shard_bytes = run.config.dataset.shard_megabytes * 1e6
    entries = {
        name: records.write_split(made, name or "left_out", table[table.split == name], shard_bytes=shard_bytes)
        for name in (*SPLITS, "")
    }
    left_out = entries.pop("")
    info = {
        "name": run.config.dataset_name, "classes": classes, "class_hash": class_hash(classes), "splits": entries,
        "left_out": left_out,
        "photos_by_rule": {str(rule): int(n) for rule, n in table.rule[table.split != ""].value_counts().items()},
    }  # fmt: skip
    places = table.sort_values("sample_id")[assignment.COLUMNS]
    places.attrs |= {"made_with": _made_with(run), "stored_as": stored_as(run), "shares": dataclasses.asdict(shares)}
    places.to_parquet(made / run.path("assignment").name, index=False)
    if found := details.read(run.path("url_ledger")):
        write_json(made / "details.json", {name: found[name] for name in classes if name in found})
    write_json(made / "dataset.json", info)
    return made, info


def _finished_photos(folder: Path, info: dict) -> pd.DataFrame:
    """Read the finished shards from scratch: one row per record with its split and fresh hashes.

    Raises BrokenArtefact if a split does not hold as many photos as it should.
    """
    tables = []
    for name, entry in (*info["splits"].items(), ("", info["left_out"])):
        found = index_shards([folder / shard["name"] for shard in entry["shards"]])
        if len(found) != entry["n"]:
            raise BrokenArtefact(
                f"{folder}: split {name} holds {len(found)} photos, expected {entry['n']}; "
                "remove that folder and run `phase0 split` again"
            )
        if name:
            tables.append(found.assign(split=name))
    return pd.concat(tables, ignore_index=True)


def _write_tables(run: Run, table: pd.DataFrame, near: np.ndarray) -> None:
    tables = run.path("leak_audit").parent / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    columns = ["sample_id", "latin_name", "split", "source_url"]
    table[table.conflict].sort_values(["group", "sample_id"])[["group", *columns]].to_csv(
        tables / "label_conflicts.csv", index=False
    )
    table[table.split == ""][["sample_id", "latin_name", "reason", "source_url"]].to_csv(
        tables / "left_out.csv", index=False
    )
    sides = [
        table[columns].iloc[near[:LISTED, side]].reset_index(drop=True).add_suffix(f"_{side + 1}") for side in (0, 1)
    ]
    pd.concat(sides, axis=1).to_csv(tables / "near_duplicates.csv", index=False)
