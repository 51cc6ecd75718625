"""Baselines: majority, nearest class mean and linear probe, against numbers worked out by hand and scikit-learn."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from keras_pipeline.core.artifacts import Run
from keras_pipeline.evaluation import answers, baseline, gates
from keras_pipeline.phases.phase0_dataset import baseline as step


def features_of(values, labels, path, regions=None):
    """Features as `extract_features` leaves them."""
    regions = ["EU"] * len(labels) if regions is None else regions
    ids, groups = ([f"{letter}{i}" for i in range(len(labels))] for letter in "pg")
    return baseline.Features(
        baseline.store([np.asarray(values)], path, np.float16), *map(np.asarray, (labels, ids, regions, groups))
    )


def random_features(path, n, seed, width=12, classes=5):
    """Overlapping Gaussian classes, the features of very different size."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    means = np.random.default_rng(0).normal(size=(classes, width))
    values = (means[labels] + rng.normal(size=(n, width))) * np.logspace(-2, 2, width) + 3
    return features_of(values, labels, path)


def weights(model):
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def gaussian(folder):
    """(train features, test features, the probe fitted to them with seed 1)"""
    train, test = random_features(folder / "train", 600, 1), random_features(folder / "test", 1000, 2)
    return train, test, baseline.linear_probe(train, 5, epochs=5, seed=1)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """(tables, the probe's word) of three classes side by side on a line, around -2, 0 and 4, their mean at -0.75."""
    folder = tmp_path_factory.mktemp("line")
    places = np.array([-2.0, -2.1, -1.9, -2.05, -1.95, 0.1, -0.1, 4.0])
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    train = features_of(np.tile(places, 12)[:, None], np.tile(labels, 12), folder / "train")
    test = features_of([[-2.0], [0.05], [-0.05], [4.1]], [0, 1, 1, 2], folder / "test", ["EU", "EU", "NA", "NA"])
    return baseline.compare(train, test, ["a", "b", "c"], epochs=60, seed=1, folder=folder)


def test_class_means_by_hand(tmp_path):
    # Around their mean (5, 7): class 0 lies at (1, 0) and (0, 3), whose unit vectors add up to (1, 1); class 1 lies
    # opposite; class 2 has no photo. A query at (2, 0) is at 45 degrees to the one and at 135 to the other.
    train = features_of([[6, 7], [5, 10], [4, 7], [5, 4]], [0, 0, 1, 1], tmp_path / "train")
    scores = baseline.nearest_class_mean(train, 3)(np.array([[7.0, 7.0]]))
    np.testing.assert_allclose(scores, [[np.sqrt(0.5), -np.sqrt(0.5), -1.0]])


def test_streamed_means_equal_the_direct_computation(gaussian, monkeypatch):
    train, test, _ = gaussian
    monkeypatch.setattr(baseline, "BLOCK_ROWS", 7)  # 85 blocks and one of 5
    values = train.values.astype(np.float64)
    shifted = values - values.mean(axis=0)
    unit = shifted / np.linalg.norm(shifted, axis=1, keepdims=True)
    means = np.stack([unit[train.labels == label].mean(axis=0) for label in range(5)])
    queries = test.values - values.mean(axis=0)
    expected = queries @ means.T / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(means, axis=1))
    np.testing.assert_allclose(baseline.nearest_class_mean(train, 5)(test.values), expected, atol=1e-12)
    mean, variance = baseline.moments(train.values)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(variance, values.var(axis=0))


def test_the_probe_separates_what_class_means_cannot(line):
    # As directions on a line there are only left and right of the mean: class 2 looks like class 1, which comes first.
    tables, _ = line
    assert tables["nearest_class_mean"]["top1_accuracy"] == 0.75
    assert tables["linear_probe"]["top1_accuracy"] == 1.0
    assert tables["linear_probe"]["loss"] < 0.2 and "loss" not in tables["nearest_class_mean"]


def test_tables_by_region_and_class(line):
    tables, _ = line
    majority = tables["majority"]  # says class a: one of four photos, the first of two in EU, none of two in NA
    assert (majority["n"], majority["top1_accuracy"], majority["top5_accuracy"]) == (4, 0.25, 1.0)
    assert {name: entry["top1"] for name, entry in majority["per_region"].items()} == {"EU": 0.5, "NA": 0.0}
    assert {name: entry["recall"] for name, entry in majority["per_class_recall"].items()} == {"a": 1, "b": 0, "c": 0}


def test_the_probes_word_on_each_photo_is_kept(line):
    _, said = line
    assert said.logits.argmax(1).tolist() == said.labels.tolist() == [0, 1, 1, 2]
    assert (said.sample_ids.tolist(), said.group_ids[3]) == (["p0", "p1", "p2", "p3"], "g3")
    assert said.regions.tolist() == ["EU", "EU", "NA", "NA"]


def test_majority_names_the_five_most_frequent_classes_and_the_first_of_a_tie(tmp_path, monkeypatch):
    monkeypatch.setattr(baseline, "linear_probe", lambda *_, **__: lambda values, training: np.zeros((len(values), 7)))
    monkeypatch.setattr(baseline, "inference", lambda model: lambda values: model(values, training=False))
    # Train photos of classes 0 to 6: 1, 3, 3, 1, 2, 1, 0. First guess 1; the five are 1, 2, 4, 0, 3.
    train = features_of(np.ones((11, 1)), [0, 1, 1, 1, 2, 2, 2, 3, 4, 4, 5], tmp_path / "train")
    test = features_of(np.ones((7, 1)), range(7), tmp_path / "test")
    table = baseline.compare(train, test, list("abcdefg"), epochs=1, seed=1, folder=tmp_path)[0]["majority"]
    assert (table["top1_accuracy"], table["top5_accuracy"]) == (1 / 7, 5 / 7)
    assert [name for name, entry in table["per_class_recall"].items() if entry["recall"]] == ["b"]


def test_the_probe_is_as_good_as_scikit_learn(gaussian):
    train, test, model = gaussian
    scale = StandardScaler().fit(train.values)
    logistic = LogisticRegression().fit(scale.transform(train.values), train.labels)
    expected = logistic.score(scale.transform(test.values), test.labels)
    found = (model(test.values[:]).numpy().argmax(axis=1) == test.labels).mean()
    assert 0.6 < expected < 0.95  # not so easy that anything would do
    assert found > expected - 0.01


def test_the_seed_decides_the_weights(gaussian):
    train, _, model = gaussian
    again, other = (baseline.linear_probe(train, 5, epochs=5, seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(weights(again), weights(model))
    assert np.abs(weights(other) - weights(model)).max() > 1e-4


def test_one_feature_far_out_does_not_decide_alone(gaussian):
    train, _, model = gaussian
    mean, variance = baseline.moments(train.values)
    far, clipped = (mean + np.sqrt(variance) * ([deviations] + [0] * 11) for deviations in (1e6, 10))
    np.testing.assert_allclose(model(far[None]), model(clipped[None]), atol=1e-4)


def test_a_feature_without_variance_has_no_say(tmp_path):
    train = features_of([[1, 3], [5, 3]] * 20, [0, 1] * 20, tmp_path / "train")
    model = baseline.linear_probe(train, 2, epochs=1, seed=1)
    np.testing.assert_array_equal(model(np.array([[1.0, 3.0]])), model(np.array([[1.0, 4.0]])))


def test_an_epoch_sees_every_photo_once_and_the_next_in_another_order(tmp_path):
    train = features_of(np.arange(12)[:, None], np.arange(12), tmp_path / "train")
    batches = list(baseline._minibatches(train, 4, epochs=2, seed=1).as_numpy_iterator())
    assert all((values[:, 0] == labels).all() for values, labels in batches)
    first, second = (np.concatenate([labels for _, labels in batches[i : i + 3]]) for i in (0, 3))
    assert sorted(first) == sorted(second) == list(range(12)) and (first != second).any()


def test_features_are_kept_in_a_file_in_their_order(tmp_path):
    images = np.arange(5.0)
    batches = [
        {
            "image": images[rows],
            "label": np.arange(5)[rows],
            "sample_id": np.array([b"1", b"2", b"3", b"4", b"5"])[rows],
            "region": np.array([b"EU", b"EU_SW"] * 3)[:5][rows],
            "group_id": np.array([b"a", b"a", b"b", b"c", b"\xc3\xa9"])[rows],
        }
        for rows in (slice(0, 3), slice(3, 5))
    ]
    kept = baseline.extract_features(lambda image: image[:, None] * [1.0, 10.0], batches, tmp_path / "train", n=5)
    np.testing.assert_array_equal(kept.values, images[:, None] * [1, 10])
    assert (kept.values.dtype, (tmp_path / "train").stat().st_size) == (np.float16, 20)
    assert (kept.labels.tolist(), kept.regions[1], kept.group_ids[4]) == ([0, 1, 2, 3, 4], "EU_SW", "é")
    assert kept.sample_ids.tolist() == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 70_000.0])
def test_features_that_half_precision_cannot_hold_are_refused(tmp_path, value):
    batch = {
        "image": np.array([value]),
        "label": np.array([0]),
        "sample_id": np.array([b"1"]),
        "region": np.array([b"EU"]),
        "group_id": np.array([b"a"]),
    }
    with pytest.raises(ValueError, match="features: received NaN, infinity or more than 65504"):
        baseline.extract_features(lambda image: image[:, None], [batch], tmp_path / "train", n=1)


@pytest.fixture
def run(make_config, dataset_json):
    """Epochs of the probe -> the Run of the small dataset, whose features are colour histograms."""

    def run(epochs):
        settings = {"features": "colour-histogram", "image_size": 32, "probe_epochs": epochs}
        run = Run(make_config(phase0={"baseline": settings}), contextlib.nullcontext)
        shutil.copytree(dataset_json.parent, run.path("dataset").parent, dirs_exist_ok=True)
        run.path("baseline").parent.mkdir(parents=True, exist_ok=True)
        return run

    return run


def test_the_step_leaves_three_tables_and_the_probes_headline(run):
    losses = []
    for epochs in (1, 30):
        step.run(run(epochs))
        result = run(epochs).read("baseline")
        losses.append(result["linear_probe"]["loss"])
    assert losses[0] != losses[1]  # probe_epochs acts
    for name in ("majority", "nearest_class_mean", "linear_probe"):
        assert result[name]["n"] == 11 and set(result[name]["per_region"]) == {"EU", "EU_SW"}
        assert result[name]["classes"] == 3 and "per_class_recall" not in result[name]
    assert (result["features"], result["method"]) == ("colour-histogram", "linear probe")
    assert result["majority_top1"] == result["majority"]["top1_accuracy"]
    gate = next(gate for gate in gates.GATES if gate.name == "baseline_top1_min")
    assert gate.value(run(30)) == result["linear_probe"]["top1_accuracy"]
    stored = answers.load_answers(run(30).path("baseline_predictions"))
    assert (stored["label"] == stored["answer"]).mean() == result["top1_accuracy"]
    left = sorted(path.name for path in run(30).path("baseline").parent.iterdir())
    assert left == [
        "baseline.json", "baseline_recall.npz", "look_alikes.html", "look_alikes.json", "predictions_test.npz",
        "tables",
    ]  # fmt: skip
    with np.load(run(30).path("baseline_recall"), allow_pickle=False) as recall:
        for name in ("majority", "nearest_class_mean", "linear_probe"):
            measured, photos = recall[f"{name}_recall"], recall["n"]
            assert len(recall["latin_name"]) == 3 and recall[f"{name}_interval"].shape == (3, 2)
            assert (np.isnan(measured) == (photos == 0)).all()
            assert np.nansum(measured * photos) / photos.sum() == pytest.approx(result[name]["top1_accuracy"])


def test_a_failure_leaves_no_features_behind(run, monkeypatch):
    monkeypatch.setattr(baseline, "compare", lambda *_, **__: json.loads("{"))
    with pytest.raises(ValueError):
        step.run(run(1))
    assert list(run(1).path("baseline").parent.iterdir()) == []
