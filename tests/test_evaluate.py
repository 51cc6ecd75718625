"""What an evaluation leaves behind: each photo's answer, the pictures of the right photos, and fair comparisons."""

import dataclasses
import io
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import write_json
from keras_pipeline.core.record import shuffle_key
from keras_pipeline.data import records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation import answers as stored_answers
from keras_pipeline.evaluation import metrics
from keras_pipeline.evaluation.report import confusions
from keras_pipeline.phases.phase1_teacher import evaluate
from keras_pipeline.phases.phase2_regional import evaluate as phase2_evaluate


@pytest.fixture
def run(make_config, dataset_json):
    """A run over the small dataset: 11 test photos, of which every second is of EU_SW."""
    small = {phase: {"data": {"image_size": 32}} for phase in ("phase1", "phase2", "phase4")}
    run = Run(make_config(dataset={"short_side": 36}, **small), None)
    shutil.copytree(dataset_json.parent, run.path("dataset").parent)
    for name in ("teacher", "regional"):
        run.path(name).parent.mkdir(parents=True)
    sort_train(run)
    return run


def sort_train(run, seed=42):
    """Sort the train photos as `phase0 split` does, and write where they are."""
    info, value = records.load_info(run.path("dataset")), run.read("dataset")
    photos = [records.decode(example) for shard in info.shards("train") for example in records.read_shard(shard)]
    assigned = pd.DataFrame([vars(photo) | {"split": "train"} for photo in photos]).drop(columns="image")
    assigned.attrs["made_with"] = {"seed": seed}
    assigned.to_parquet(run.path("assignment"))
    photos.sort(key=lambda photo: shuffle_key(photo.sample_id, seed))
    for shard in value["splits"]["train"]["shards"]:
        own, photos = photos[: shard["n"]], photos[shard["n"] :]
        shard |= records.write_shard(info.folder / shard["name"], map(records.encode, own))
    write_json(run.path("dataset"), value)


@pytest.fixture
def photos(run):
    """The test photos in the order of their shards."""
    info = records.load_info(run.path("dataset"))
    return [records.decode(example) for shard in info.shards("test") for example in records.read_shard(shard)]


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def write(run, name, photos, answers, confidence=None):
    """predictions_test.npz of a model that gave these answers."""
    confidence = np.full(len(photos), 0.5) if confidence is None else confidence
    columns = {key: [getattr(photo, key) for photo in photos] for key in ("sample_id", "region", "group_id", "label")}
    columns |= {"answer": answers, "confidence": np.float32(confidence)}
    np.savez_compressed(run.path(name), **columns)


def answers_of(run):
    return [stored_answers.load_answers(run.path(name)) for name in ("teacher_predictions", "regional_predictions")]


def test_an_evaluation_leaves_each_photos_answer(run, photos, capsys):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.save(run.path("teacher"))
    evaluate.evaluate_model(run, "teacher", image_size=32, gate=0.6)

    answers = stored_answers.load_answers(run.path("teacher_predictions"))
    kinds = {name: (column.dtype.kind, column.shape) for name, column in answers.items()}
    assert kinds == {
        "sample_id": ("U", (11,)), "region": ("U", (11,)), "group_id": ("U", (11,)), "label": ("i", (11,)),
        "answer": ("i", (11,)), "confidence": ("f", (11,)),
    }  # fmt: skip
    for name in ("sample_id", "region", "group_id", "label"):
        assert answers[name].tolist() == [getattr(photo, name) for photo in photos]
    clean = np.stack([Preprocessing(32, 36).from_jpeg(photo.image) for photo in photos])
    probabilities = metrics.softmax(model(clean, training=False).numpy())
    assert answers["answer"].tolist() == probabilities.argmax(1).tolist()
    np.testing.assert_allclose(answers["confidence"], probabilities.max(1), rtol=1e-4)

    right = np.mean(answers["label"] == answers["answer"])
    assert 0 < right < 1  # otherwise the next lines say little
    assert run.read("teacher_metrics")["top1_accuracy"] == pytest.approx(right)
    assert f"test: n 11 in 11 groups, judged on 3 of 3 species, top-1 {right:.3f} [" in capsys.readouterr().out
    drawn = {path.name for path in run.path("teacher_pictures").iterdir()}
    assert drawn == {"confusion.png", "regions.png", "recall.png", "confused.png"}  # no curve: 8 or 9 train photos each
    (row,) = run.read("teacher_metrics")["recall_by_train_photos"]
    assert (row["train"], row["n"], row["recall"]) == ([5, 9], 11, pytest.approx(right))
    classes = records.load_info(run.path("dataset")).classes
    table = confusions.confusion_picture(answers["label"], answers["answer"], classes)
    np.testing.assert_array_equal(pixels_of((run.path("teacher_pictures") / "confusion.png").read_bytes()), table)


def test_answers_are_read_without_pickle(tmp_path):
    path = tmp_path / "predictions_test.npz"
    np.savez(path, **dict.fromkeys(stored_answers.ANSWERS, np.array([{}], object)))
    with pytest.raises(BrokenArtefact, match="predictions_test.npz: no answers .*allow_pickle"):
        stored_answers.load_answers(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_file_without_answers_is_named(tmp_path, content):
    (tmp_path / "predictions_test.npz").write_bytes(content)
    with pytest.raises(BrokenArtefact, match="predictions_test.npz: no answers .* run `evaluate --force`"):
        stored_answers.load_answers(tmp_path / "predictions_test.npz")


def test_comparison_is_second_against_first_by_region(run, photos):
    truth = np.array([photo.label for photo in photos])
    regional = np.array([photo.region == "EU_SW" for photo in photos])
    write(run, "teacher_predictions", photos, np.where(regional, (truth + 1) % 3, truth))  # right elsewhere
    write(run, "regional_predictions", photos, np.where(regional, truth, (truth + 1) % 3))  # right at home
    table = stored_answers.compare(*answers_of(run)).table()
    # The test photos are numbers 35 … 45: five even ones of EU_SW.
    assert {name: (e["n"], e["groups"], e["first"], e["second"]) for name, e in table.items()} == {
        "all": (11, 11, pytest.approx(6 / 11), pytest.approx(5 / 11)),
        "EU": (6, 6, 1.0, 0.0),
        "EU_SW": (5, 5, 0.0, 1.0),
    }
    assert (table["EU"]["verdict"], table["EU"]["difference"], table["EU"]["interval"]) == ("worse", -1, [-1, -1])
    assert table["EU_SW"]["verdict"] == "no difference shown"  # five groups are no proof


def save(run, name, weights):
    """A model whose logits are the same for every photo."""
    kernel = keras.initializers.Zeros()
    head = keras.layers.Dense(3, kernel_initializer=kernel, bias_initializer=keras.initializers.Constant(0))
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), head])
    head.bias.assign(weights)
    model.save(run.path(name))


def test_where_the_region_is_the_species_the_global_teacher_is_asked_among_those(run, photos, capsys):
    classes = records.load_info(run.path("dataset")).classes
    save(run, "teacher", [3.0, 2.0, 1.0])
    save(run, "regional", [0.0, 1.0, 0.0])
    evaluate.evaluate_model(run, "teacher", image_size=32, draw=False)
    train = run.read("dataset")["splits"]["train"]["per_class"]
    write_json(
        run.path("regional_subset"), {"region": "EU_SW", "per_class": {name: train[name] for name in classes[1:]}}
    )
    phase2_evaluate.run(run)

    found, here = run.read("regional_comparison"), np.array([p.label for p in photos if p.region == "EU_SW"])
    fair, plain = found["among_its_species"], found["by_region"]["EU_SW"]
    assert (plain["first"], plain["second"]) == (np.mean(here == 0), np.mean(here == 1))
    assert (fair["species"], fair["n"], fair["first"], fair["second"]) == (2, 5, np.mean(here == 1), np.mean(here == 1))
    assert fair["difference"] == 0 and "asked among its 2 species only; among all 3 it has" in found["verdict"]
    assert found["verdict"] in capsys.readouterr().out


def test_where_photos_of_a_species_lie_in_several_regions_it_is_not(run):
    save(run, "teacher", [3.0, 2.0, 1.0])
    save(run, "regional", [0.0, 1.0, 0.0])
    evaluate.evaluate_model(run, "teacher", image_size=32, draw=False)
    train = run.read("dataset")["splits"]["train"]["per_class"]
    write_json(
        run.path("regional_subset"), {"region": "EU_SW", "per_class": {name: n - 1 for name, n in train.items()}}
    )
    phase2_evaluate.run(run)
    assert "among_its_species" not in run.read("regional_comparison")


def test_regions_of_a_list_are_compared_as_one(run, photos):
    save(run, "teacher", [3.0, 2.0, 1.0])
    save(run, "regional", [0.0, 1.0, 0.0])
    evaluate.evaluate_model(run, "teacher", image_size=32, draw=False)
    write_json(run.path("regional_subset"), {"per_class": {records.load_info(run.path("dataset")).classes[0]: 1}})
    config = run.config.model_copy(update={"phase2": run.config.phase2.model_copy(update={"region": ["EU", "EU_SW"]})})
    phase2_evaluate.run(Run(config, None))
    found = run.read("regional_comparison")
    assert found["region"] == ["EU", "EU_SW"] and list(found["by_region"]) == ["all", "EU + EU_SW"]
    assert found["by_region"]["EU + EU_SW"]["n"] == 11 and found["verdict"].startswith("EU + EU_SW: regional teacher")


@pytest.mark.parametrize("change", ["another", "order", "fewer"])
def test_predictions_of_other_photos_are_not_compared(run, photos, change):
    other = [dataclasses.replace(photos[0], sample_id="sample-900"), *photos[1:]]
    other = {"another": other, "order": photos[::-1], "fewer": photos[:-1]}[change]
    for name, shots in (("teacher_predictions", photos), ("regional_predictions", other)):
        write(run, name, shots, [photo.label for photo in shots])
    with pytest.raises(ValueError, match="photos that are not the same, expected the same test split; run `phase1 ev"):
        stored_answers.compare(*answers_of(run))


def test_photos_with_other_labels_are_other_photos(run, photos):
    first = [photo.label for photo in photos]
    write(run, "teacher_predictions", photos, first)
    renamed = [dataclasses.replace(photos[0], label=photos[0].label + 1), *photos[1:]]
    write(run, "regional_predictions", renamed, first)
    assert stored_answers.same_photos(answers_of(run)[0], answers_of(run)[0])
    assert not stored_answers.same_photos(*answers_of(run))


def test_a_comparison_over_all_photos_bears_a_region_called_all(run, photos):
    placed = [dataclasses.replace(photo, region="all") for photo in photos]
    for name, answers in (("teacher_predictions", 0), ("regional_predictions", 1)):
        write(run, name, placed, np.full(len(photos), answers))
    found = stored_answers.compare(*answers_of(run)).overall
    share = [sum(photo.label == label for photo in photos) / len(photos) for label in (0, 1)]
    assert (found["first"], found["second"]) == tuple(map(pytest.approx, share))


def test_a_chart_of_regions_bears_a_region_called_all():
    region = {"n": 2, "top1": 0.5, "top1_interval": [0.1, 0.9]}
    drawn = evaluate._regions(
        {"n": 5, "top1_accuracy": 0.8, "top1_interval": [0.4, 1.0], "per_region": {"all": region}}
    )
    assert drawn == {"all": {"n": 5, "top1": 0.8, "top1_interval": [0.4, 1.0]}, "region all": region}


def test_confused_pairs_are_shown_by_their_own_photos_surest_first(run, photos, monkeypatch):
    # Bellis 0, Crocus 1, Iris 2. All four Iris were taken for Bellis, one Crocus of three for Iris; the model is the
    # surer the later a photo comes.
    monkeypatch.setattr(evaluate, "EXAMPLE_PHOTOS", 3)
    truth = [photo.label for photo in photos]
    answers = [0 if label == 2 else label for label in truth]
    answers[truth.index(1)] = 2
    write(run, "teacher_predictions", photos, answers, np.linspace(0.1, 0.9, 11))
    columns = stored_answers.load_answers(run.path("teacher_predictions"))
    iris = [photo for photo in photos if photo.label == 2][::-1]
    pairs = [
        {"truth": "Iris germanica", "answer": "Bellis perennis", "n": 4, "groups": 4, "share": 1.0},
        {"truth": "Crocus vernus", "answer": "Iris germanica", "n": 1, "groups": 1, "share": 1 / 3},
    ]
    info = records.load_info(run.path("dataset"))
    rows = evaluate._confused(info, "test", columns, pairs, run.path("assignment"))
    assert [(row.truth, row.answer) for row in rows] == [(pair["truth"], pair["answer"]) for pair in pairs]
    expected = [iris[:3], [photo for photo in photos if photo.label == 1][:1]]
    train = [records.decode(example) for shard in info.shards("train") for example in records.read_shard(shard)]
    for row, wanted in zip(rows, expected, strict=True):
        beside = next(photo for photo in train if photo.latin_name == row.answer)
        assert (len(row.mistaken), len(row.taken_for)) == (len(wanted), 1)
        for pixels, photo in zip([*row.mistaken, *row.taken_for], [*wanted, beside], strict=True):
            np.testing.assert_array_equal(pixels, pixels_of(photo.image))
    assert [row.caption for row in rows] == ["4 of its 4 photos, in 4 groups", "1 of its 3 photos, in 1 group"]
    assert evaluate._caption({"n": 1, "groups": 1, "share": 1.0}) == "its only photo here"


def test_a_regional_teacher_is_judged_by_the_photos_that_it_was_trained_on(run):
    classes = records.load_info(run.path("dataset")).classes
    save(run, "teacher", [3.0, 2.0, 1.0])
    save(run, "regional", [0.0, 1.0, 0.0])
    evaluate.evaluate_model(run, "teacher", image_size=32, draw=False)
    write_json(run.path("regional_subset"), {"region": "EU_SW", "per_class": {classes[1]: 3, classes[2]: 20}})
    phase2_evaluate.run(run)
    rows = run.read("regional_metrics")["recall_by_train_photos"]
    assert [(row["train"], row["species"], row["recall"]) for row in rows] == [
        ([0, 0], 1, 0.0), ([2, 4], 1, 1.0), ([20, 49], 1, 0.0),
    ]  # fmt: skip
    assert (run.path("regional_pictures") / "recall_by_train_photos.png").exists()


def test_no_more_shards_are_read_than_needed(run, monkeypatch):
    info, read = records.load_info(run.path("dataset")), []
    whole = [records.decode(example) for shard in info.shards("train") for example in records.read_shard(shard)]
    monkeypatch.setattr(
        records, "read_shard", lambda path, read_shard=records.read_shard: read.append(path) or read_shard(path)
    )
    found = records.at(info, "train", [8, 13])
    assert {row: photo.sample_id for row, photo in found.items()} == {row: whole[row].sample_id for row in (8, 13)}
    assert read == info.shards("train")[1:3]
    assert records.at(info, "train", []) == {}


def test_photos_are_shown_small(jpeg):
    assert evaluate._thumbnail(jpeg(1, size=(320, 200))).shape == (100, 160, 3)
    assert evaluate._thumbnail(jpeg(1, size=(40, 36))).shape == (36, 40, 3)


def test_a_description_without_a_worst_class():
    result = {
        "n": 3, "groups": 2, "top1_accuracy": 2 / 3, "top1_interval": [0.1, 0.9], "top5_accuracy": 1.0, "loss": 0.5,
        "macro_recall": 0.25, "per_region": {"EU": {"top1": 1.0, "n": 1}, "NA": {"top1": 0.5, "n": 2}},
        "min_recall": None, "species": 2, "per_class_recall": dict.fromkeys(("Iris", "Viola", "Bellis"), {}),
    }  # fmt: skip
    text = (
        "val: n 3 in 2 groups, judged on 2 of 3 species, top-1 0.667 [0.100, 0.900], top-5 1.000, loss 0.500, "
        "macro recall 0.250; EU 1.000 (n 1), NA 0.500 (n 2)"
    )
    assert evaluate.describe("val", result) == text
    worst = {"min_recall": {"latin_name": "Iris", "recall": 0.125}}
    assert evaluate.describe("val", result | worst) == text + "; lowest recall 0.125, Iris"
