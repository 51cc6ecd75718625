"""One picture in two splits is found though it was cropped or mirrored, and no other picture is taken for it."""

import dataclasses
import io
import itertools
import json

import numpy as np
import pandas as pd
import pytest
from conftest import photo_of
from PIL import Image, ImageOps

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import SPLITS, DatasetInfo
from keras_pipeline.data import records
from keras_pipeline.evaluation import look_alikes
from keras_pipeline.evaluation.baseline import Features
from keras_pipeline.evaluation.look_alikes import candidates, correlation, nearest
from keras_pipeline.phases.phase0_dataset import look_alikes as step


def picture(seed, size=(300, 240)):
    coarse = np.random.default_rng(seed).integers(0, 256, (20, 25, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(image, quality=90):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def features_of(rows, prefix):
    values = np.asarray(rows, np.float16)
    ids = np.array([f"{prefix}{i}" for i in range(len(values))])
    return Features(values, np.zeros(len(values), int), ids, ids, ids)


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda image: image, 0.96),
        (lambda image: image.resize((150, 120)), 0.95),
        (lambda image: image.convert("L"), 0.96),
        (lambda image: image.crop((30, 20, 280, 220)), 0.9),
        (lambda image: image.crop((90, 60, 240, 180)), 0.9),  # a quarter of the area
        (ImageOps.mirror, 0.96),
        (lambda image: ImageOps.mirror(image.crop((0, 0, 210, 200))), 0.9),
    ],
    ids=["same", "reduced", "grey", "cropped", "cropped to a quarter", "mirrored", "cropped and mirrored"],
)
def test_a_copy_correlates(change, least):
    for seed in range(3):
        first, second = jpeg(picture(seed)), jpeg(change(picture(seed)), 70)
        assert least <= correlation(first, second) <= 1.0001
        assert correlation(second, first) == pytest.approx(correlation(first, second), abs=1e-6)


def test_other_photos_do_not_correlate():
    photos = [jpeg(picture(seed)) for seed in range(8)]
    assert max(correlation(*pair) for pair in itertools.combinations(photos, 2)) < look_alikes.PLAUSIBLE


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (17, 16)])
def test_any_size_can_be_compared(size):
    plain, photo = jpeg(Image.new("RGB", size, "green")), jpeg(picture(1))
    assert -1 <= correlation(plain, photo) < look_alikes.CORRELATION
    assert np.isfinite(correlation(plain, plain))  # nothing to compare in it


@pytest.mark.parametrize("most", [2, 10_000])
def test_the_nearest_are_those_of_all_pairs(most, monkeypatch):
    monkeypatch.setattr(look_alikes, "BASE", most)
    monkeypatch.setattr(look_alikes, "QUERIES", most + 1)
    random = np.random.default_rng(0)
    base, mean = random.normal(size=(50, 4)), np.full(4, 0.1)
    queries = random.normal(size=(20, 4))
    units = [(each - mean) / np.linalg.norm(each - mean, axis=1, keepdims=True) for each in (queries, base)]
    cosines = units[0] @ units[1].T
    expected = {(i, j) for i in range(20) for j in np.argsort(-cosines[i])[:3].tolist() if cosines[i, j] >= 0.6}
    found = nearest(queries, base, mean.astype(np.float32))
    assert {(i, j) for i, j, _ in found} == expected and len(found) == len(expected) > 20
    np.testing.assert_allclose([c for *_, c in found], [cosines[i, j] for i, j, _ in found], atol=1e-6)


def test_candidates_lie_in_two_splits():
    features = {
        "train": features_of([[1, 0], [-1, 0.1], [0, 1], [0, -1.1]], "a"),
        "val": features_of([[1, 0.01], [1, 0.02]], "v"),
        "test": features_of([[-1, -0.5], [1, 0.03]], "t"),
    }
    found = {(each.splits, each.sample_ids) for each in candidates(features)}
    assert found == {
        (("val", "train"), ("v0", "a0")), (("val", "train"), ("v1", "a0")), (("test", "train"), ("t0", "a1")),
        (("test", "train"), ("t1", "a0")), (("test", "val"), ("t1", "v0")), (("test", "val"), ("t1", "v1")),
    }  # fmt: skip


@pytest.fixture
def audit(tmp_path, make_config):
    """Settings of the split -> (report, folder) of 12 photos, 3 in each split.

    A test photo is a crop of a train photo, a val photo mirrors another.
    """
    pictures = [picture(number) for number in range(12)]
    pictures[9], pictures[4] = pictures[0].crop((40, 30, 260, 230)), ImageOps.mirror(pictures[1])
    photos = [dataclasses.replace(photo_of(i), image=jpeg(each), label=0) for i, each in enumerate(pictures)]
    thirds = dict(zip(SPLITS, (photos[i : i + 3] for i in range(0, 12, 3)), strict=True))
    splits = {
        split: {"n": 3, "shards": [records.write_shard(tmp_path / f"{split}.tfrecord", map(records.encode, own))]}
        for split, own in thirds.items()
    }
    values = np.eye(12)
    values[9], values[4], values[11] = values[0], values[1], values[2]  # the last pair only looks alike
    features = {
        split: Features(values[3 * i : 3 * i + 3], np.zeros(3), *[np.array([photo.sample_id for photo in own])] * 3)
        for i, (split, own) in enumerate(thirds.items())
    }

    def audit(**settings):
        run = Run(make_config(phase0={"split": settings}), None)
        run.path("look_alikes").parent.mkdir(parents=True, exist_ok=True)
        return step.audit(run, DatasetInfo(tmp_path, ["a"], "", splits), features), run.path("look_alikes").parent

    return audit


def test_the_audit_shows_and_lists_what_is_in_two_splits(audit):
    report, folder = audit()
    assert json.loads((folder / "look_alikes.json").read_text()) == report
    assert (report["photos"], report["candidates"], report["compared"], report["pairs"]) == (9, 3, 3, 2)
    assert (report["photos_with_a_copy"], report["share"]) == (2, 2 / 9)
    table = pd.read_csv(folder / "tables/look_alikes.csv")
    assert set(zip(table.sample_id_1, table.split_1, table.sample_id_2, table.split_2, strict=True)) == {
        ("sample-009", "test", "sample-000", "train"), ("sample-004", "val", "sample-001", "train"),
    }  # fmt: skip
    assert (table.correlation >= 0.8).all() and table.latin_name_1.notna().all()
    page = (folder / "look_alikes.html").read_text()
    assert page.count("data:image/webp") == 2 and "2 of 2 pairs" in page and "1 of 1 pairs" in page
    assert sorted(path.name for path in folder.iterdir()) == ["look_alikes.html", "look_alikes.json", "tables"]


def test_a_config_may_name_the_table_for_good(audit):
    # The split does not part listed pairs, so that they are not found again; without them it would part them anew.
    table = audit()[1] / "tables/look_alikes.csv"
    listed = 'sample_id_1,sample_id_2,note\nsample-000,sample-009,seen\n007,é,"by, hand"\n'
    table.write_text(listed)
    assert audit(same_photo=str(table))[0]["pairs"] == 2
    found = table.read_text()
    ids = pd.read_csv(table, dtype=str)[["sample_id_1", "sample_id_2"]].to_numpy().tolist()
    assert ids == [["sample-000", "sample-009"], ["007", "é"], ["sample-004", "sample-001"]]
    assert pd.read_csv(table).note.tolist()[:2] == ["seen", "by, hand"]
    audit(same_photo=str(table))
    assert table.read_text() == found  # else the split would be out of date
