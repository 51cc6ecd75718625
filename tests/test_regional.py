"""Phase 2: which photos are the region's, and whether its teacher earns its place."""

import json

import pandas as pd
import pytest

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import write_json
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.phases.phase2_regional import evaluate, subset

REGIONS = ("EU_SW", "EU")


@pytest.fixture
def dataset(make_config, photo):
    """(region, train photos of each shard as (latin name, region)) -> a run over them; one val photo of each region."""

    def write(region, *shards):
        run = Run(make_config(phase2={"region": region}), None)
        folder, number, entries = run.path("dataset").parent, 0, []
        names = sorted({name for shard in shards for name, _ in shard})
        for position, shard in enumerate([*shards, [(names[0], name) for name in REGIONS]]):
            shots = []
            for name, where in shard:
                shots.append(photo(number, latin_name=name, region=where, label=names.index(name)))
                number += 1
            entry = records.write_shard(folder / f"{position}.tfrecord", map(records.encode, shots))
            regions = [shot.region for shot in shots]
            entries.append({"shards": [entry], "per_region": {name: regions.count(name) for name in set(regions)}})
        *train, val = entries
        per_region = {name: sum(entry["per_region"].get(name, 0) for entry in train) for name in REGIONS}
        per_region = {name: n for name, n in per_region.items() if n}
        splits = {
            "train": {"shards": [entry["shards"][0] for entry in train], "per_region": per_region},
            "val": val,
        }
        for split in splits.values():
            split["n"] = sum(shard["n"] for shard in split["shards"])
        write_json(run.path("dataset"), {"classes": names, "class_hash": class_hash(names), "splits": splits})
        run.path("regional_subset").parent.mkdir(parents=True)
        return run

    return write


HERE, THERE = REGIONS
SHARDS = (
    [("Viola", HERE), ("Iris", THERE), ("Crocus", HERE)],
    [("Crocus", THERE), ("Iris", THERE)],  # none of the region
    [("Iris", HERE), ("Viola", HERE), ("Bellis", HERE), ("Iris", HERE), ("Bellis", THERE)],
)


def test_the_index_lists_the_regions_photos_and_where_their_bytes_lie(dataset):
    run = dataset(HERE, *SHARDS)
    subset.run(run)
    index = pd.read_parquet(run.path("regional_index"))
    assert index.sample_id.tolist() == [f"sample-{i:03d}" for i in (0, 2, 5, 6, 7, 8)]
    assert index.file.tolist() == ["0.tfrecord"] * 2 + ["2.tfrecord"] * 4  # names: the folder may be moved
    for row in index.itertuples():
        data = (run.path("dataset").parent / row.file).read_bytes()[row.offset : row.offset + row.length]
        found = records.decode(data)
        assert (found.sample_id, found.latin_name, found.sha256) == (row.sample_id, row.latin_name, row.sha256)
        assert found.region == HERE


def test_regions_of_a_list_count_as_one(dataset):
    run = dataset([HERE, THERE], *SHARDS)
    subset.run(run)
    summary = run.read("regional_subset")
    assert summary["region"] == [HERE, THERE] and (summary["samples"], summary["species"]) == (10, 4)
    info = records.load_info(run.path("dataset"))
    assert info.count("train", [HERE, THERE]) == 10 and info.count("train", [HERE, "nowhere"]) == 6
    batches = pipeline.evaluation_batches(info, "train", Preprocessing(32), region=[THERE, "nowhere"])
    shown = [region.decode() for batch in batches for region in batch["region"].numpy().tolist()]
    assert shown == [THERE] * 4


def test_the_summary_counts_them(dataset):
    run = dataset(HERE, *SHARDS)
    subset.run(run)
    summary = run.read("regional_subset")
    per_class = {"Iris": 2, "Viola": 2, "Bellis": 1, "Crocus": 1}
    assert summary == {"region": HERE, "samples": 6, "species": 4, "per_class": per_class}
    # The commonest first, equals by name, in the file too.
    text = run.path("regional_subset").read_text()
    assert list(json.loads(text)["per_class"]) == list(per_class)


def test_the_twenty_commonest_are_printed(dataset, capsys):
    # 22 species: number k comes 1 + k % 3 times in the region, and often elsewhere, which does not count.
    here = [(f"Species {k:02d}", HERE) for k in range(22) for _ in range(1 + k % 3)]
    run = dataset(HERE, here, [("Species 00", THERE)] * 9)
    subset.run(run)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "EU_SW: 43 train photos of 22 species; the commonest:"  # 8 · 1 + 7 · 2 + 7 · 3
    order = [*range(2, 22, 3), *range(1, 22, 3), *range(0, 22, 3)]  # seven of 3, seven of 2, eight of 1
    assert lines == [f"{1 + k % 3:>8}  Species {k:02d}" for k in order[:20]]


ENTRY = {"n": 120, "groups": 90, "first": 0.7, "second": 0.75, "difference": 0.05, "interval": [0.01, 0.09]}
FIGURES = (
    "EU_SW: regional teacher 0.750, global teacher 0.700 on 120 test photos in 90 groups, a difference of +0.050 "
    "[+0.010, +0.090]; "
)


@pytest.mark.parametrize(
    "entry, sentence",
    [
        ({**ENTRY, "verdict": "better"}, FIGURES + "the regional teacher earns its place"),
        (
            {**ENTRY, "second": 0.6, "difference": -0.1, "interval": [-0.2, -0.01], "verdict": "worse"},
            "EU_SW: regional teacher 0.600, global teacher 0.700 on 120 test photos in 90 groups, a difference of "
            "-0.100 [-0.200, -0.010]; the regional teacher does harm: leave it out of phase3.teachers",
        ),
        (
            {**ENTRY, "verdict": "no difference shown"},
            FIGURES + "not shown that the regional teacher earns its place: leave it out of phase3.teachers, or judge "
            "it on more photos of the region",
        ),
        (None, "EU_SW: no test photo, so that nothing shows whether the regional teacher earns its place"),
    ],
)
def test_the_verdict_in_a_sentence(entry, sentence):
    assert evaluate.verdict("EU_SW", entry) == sentence
