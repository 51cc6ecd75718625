"""From the teachers' files to what the student is shown: stored or live, it is their word on that very picture."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_dict
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.data import augment, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.phases.phase1_teacher import logits, train
from keras_pipeline.phases.phase3_soft_labels import check, combine, export_npz, inspect
from keras_pipeline.phases.phase4_student import batches
from keras_pipeline.training.distiller import Distiller
from keras_pipeline.training.soft_labels import Layout
from keras_pipeline.training.store import Store, write_store

SIZES = {"teacher": 32, "regional": 36}  # the student's is 32
SMALL = {"name": "mobilenetv2", "alpha": 0.35, "pretrained": False}
T = 2.0


def linear(size, seed):
    """Some teacher: logits = a random matrix times the pixels."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(scaled)))


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def config_of(root, **sections):
    given = {
        "dataset": {"short_side": 36},
        "phase1": {"data": {"image_size": SIZES["teacher"]}, "model": SMALL},
        "phase2": {"data": {"image_size": SIZES["regional"]}, "model": SMALL},
        "phase4": {"data": {"image_size": 32}, "training": {"batch_size": 8}},
        "phase3": {"distillation": {"temperature": T}, "soft_labels": {"views": 2}, "model": SMALL},
    }
    for key, value in sections.items():
        given[key] = {**given[key], **value}
    return from_dict({"experiment": "tiny", "root": str(root), **given})


def store(run):
    for name, settings in (("teacher", run.config.phase1), ("regional", run.config.phase2)):
        logits.store_logits(run, train.TeacherSpec(name, settings))


@pytest.fixture(scope="module")
def answered(tmp_path_factory, dataset_json):
    """Root of a run over the small dataset: two teachers, what they say of it, combined and checked."""
    run = Run(config_of(tmp_path_factory.mktemp("answered")), None)
    shutil.copytree(dataset_json.parent, run.path("dataset").parent)
    for seed, (name, size) in enumerate(SIZES.items()):
        run.path(name).parent.mkdir(parents=True)
        linear(size, seed).save(run.path(name))
    store(run)
    run.path("soft_labels").parent.mkdir(parents=True)
    combine.run(run)
    check.run(run)
    return run.config.root


@pytest.fixture
def taught(answered, tmp_path):
    """(sections) -> a run of these settings in a copy of it, and its info."""

    def make(**sections):
        shutil.copytree(answered, tmp_path / "root")
        run = Run(config_of(tmp_path / "root", **sections), None)
        return run, records.load_info(run.path("dataset"))

    return make


def models_of(run):
    return [keras.saving.load_model(run.path(name)) for name in SIZES]


def weights_of(regions):
    """The config's: 0.5 for all, and 0.5 in EU_SW."""
    here = np.isin(regions, ["EU_SW", b"EU_SW"])
    return np.stack([np.where(here, 0.5, 1.0), np.where(here, 0.5, 0.0)], axis=1)


def stored_teaching(run, info):
    store = Store.open(run.path("soft_labels"), Layout.of(run.config.phase3, info))
    return batches.stored(run.config, info, store, run.path("ensemble_val"))


def live_teaching(run, info):
    return batches.live(run.config, info, models_of(run)[: len(run.config.phase3.teachers)])


def one_epoch(made, epochs=range(1)):
    return list(made.batches(epochs, 0).as_numpy_iterator())


@pytest.mark.parametrize(
    "arguments",
    [(), ("--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_threading")],
    ids=["alone", "two-threads"],
)
def test_beams_workers_write_the_same_shards(taught, arguments):
    pytest.importorskip("apache_beam")
    run, info = taught()
    folder = run.path("teacher_logits")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    shutil.rmtree(folder)
    job = train.TeacherSpec("teacher", run.config.phase1)
    logits.store_logits(dataclasses.replace(run, beam=arguments), job)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert len(before) > 3  # shards, and the index


def photos_of(info, split):
    return [records.decode(example) for shard in info.shards(split) for example in records.read_shard(shard)]


@pytest.mark.parametrize("epoch", [0, 1])
def test_what_is_stored_is_the_teachers_word_on_the_picture_that_the_student_sees(taught, epoch):
    run, info = taught(phase3={"teachers": [{"path": "phase1/best.keras", "weight": 1.0}]})
    combine.run(run)
    seen = one_epoch(stored_teaching(run, info), range(epoch, epoch + 1))
    assert len(seen) == 2  # of 8 photos each
    model = models_of(run)[0]
    for x, label in seen:
        said = log_softmax(model(x["image"]).numpy() / T)
        np.testing.assert_array_equal(x["teacher_ids"][:, 0, 0], said.argmax(1))
        stored = log_softmax(x["teacher_logits"][:, 0] / T)
        np.testing.assert_allclose(stored, np.take_along_axis(said, x["teacher_ids"][:, 0], 1), atol=2e-3)
        assert x["labels"].tolist() == label[:, None].tolist() and (x["share"] == 1).all()


def test_live_teachers_see_the_students_view_at_their_own_size(taught):
    run, info = taught(phase4={"distill": {"live": True}})
    made = live_teaching(run, info)
    photos = {photo.label: photo for photo in photos_of(info, "train")}
    assert photos
    for x, _ in one_epoch(made):
        assert x["image"].shape == (8, 32, 32, 3) and x["image_36"].shape == (8, 36, 36, 3)
        # The same crop: the larger picture, made smaller, is the smaller one.
        smaller = keras.ops.image.resize(x["image_36"], (32, 32), antialias=True)
        assert np.abs(smaller - x["image"]).mean() < 4
        global_, regional = models_of(run)
        dense = [log_softmax(m(x[key]).numpy() / T) for m, key in ((global_, "image"), (regional, "image_36"))]
        expected = log_softmax(np.einsum("nt,tnc->nc", x["teacher_weights"], np.stack(dense)))
        np.testing.assert_allclose(made.teacher(x), expected, atol=1e-4)
        assert {tuple(row) for row in x["teacher_weights"].tolist()} == {(1.0, 0.0), (0.5, 0.5)}


def test_live_and_stored_teachers_agree_on_clean_views(taught):
    # With one stored view, the clean one, and live: none, both show the same pictures.
    run, info = taught(phase3={"soft_labels": {"views": 1}}, phase4={"distill": {"live": True, "augmentation": "none"}})
    store(run)
    combine.run(run)
    live, stored = live_teaching(run, info), stored_teaching(run, info)
    for (x, y), (again, same) in zip(one_epoch(live), one_epoch(stored), strict=True):
        np.testing.assert_array_equal(x["image"], again["image"])
        np.testing.assert_array_equal(y, same)
        said, layout = live.teacher(x).numpy(), Store(run.path("soft_labels")).layout
        kept = {name: again[name][:, 0] for name in ("teacher_ids", "teacher_logits", "teacher_tail")}
        assert layout.top_k == 3
        dense = np.empty_like(said)
        np.put_along_axis(dense, kept["teacher_ids"], log_softmax(kept["teacher_logits"] / T), 1)
        np.testing.assert_allclose(dense, said, atol=2e-3)


@pytest.mark.parametrize("live", [False, True])
def test_mixed_photos_bring_both_their_labels_and_teachers(taught, live):
    run, info = taught(phase4={"distill": {"live": live, "mixup_alpha": 0.4, "cutmix_alpha": 0.4}})
    made = live_teaching(run, info) if live else stored_teaching(run, info)
    for x, label in one_epoch(made):
        np.testing.assert_allclose(x["share"].sum(1), 1, atol=1e-6)
        assert x["labels"].shape == (8, 2)
        assert label.tolist() == np.where(x["share"][:, 0] >= 0.5, *x["labels"].T).tolist()
        if live:
            assert "teacher_ids" not in x and x["image_36"].shape[1] == 36
        else:
            assert x["teacher_ids"].shape == (8, 2, 3) and x["teacher_tail"].shape == (8, 2)
            partner = [np.flatnonzero((x["teacher_logits"][:, 0] == row).all(1)) for row in x["teacher_logits"][:, 1]]
            assert sorted(int(found[0]) for found in partner) == list(range(8))  # a permutation of the batch


@pytest.mark.parametrize("live", [False, True])
def test_validation_knows_what_the_teachers_answer(taught, live):
    run, info = taught(phase4={"distill": {"live": live}})
    made = live_teaching(run, info) if live else stored_teaching(run, info)
    student = linear(32, seed=9)
    model = Distiller(student, temperature=T, soft=0.7, cross_entropy=0.3, loss="kl", teacher=made.teacher)
    model.compile("sgd", metrics=[keras.metrics.SparseCategoricalAccuracy(name="top1")], jit_compile=False)
    result = model.evaluate(made.validation, verbose=0, return_dict=True)
    photos = photos_of(info, "val")
    clean = {s: np.stack([Preprocessing(s, 36).from_jpeg(p.image) for p in photos]) for s in (32, 36)}
    dense = [log_softmax(m(clean[s]).numpy() / T) for m, s in zip(models_of(run), (32, 36), strict=True)]
    ensemble = np.einsum("nt,tnc->nc", weights_of([p.region for p in photos]), np.stack(dense)).argmax(1)
    expected = (student(clean[32]).numpy().argmax(1) == ensemble).mean()
    assert result["agreement"] == pytest.approx(expected)
    labels = np.array([p.label for p in photos])
    log_q = log_softmax(student(clean[32]).numpy())
    assert result["loss"] == pytest.approx(-log_q[np.arange(len(labels)), labels].mean(), rel=1e-4)


def test_the_check_measures_teachers_and_ensemble_on_every_split(taught, capsys):
    run, info = taught()
    check.run(run)
    found = run.read("soft_label_check")
    assert found["shape"] == [23, 3] and found["sum_max_deviation"] < 1e-6 and found["tail_mass"] < 1e-12
    for split in ("val", "test"):
        photos = photos_of(info, split)
        labels = np.array([p.label for p in photos])
        clean = {s: np.stack([Preprocessing(s, 36).from_jpeg(p.image) for p in photos]) for s in (32, 36)}
        dense = [log_softmax(m(clean[s]).numpy() / T) for m, s in zip(models_of(run), (32, 36), strict=True)]
        together = np.einsum("nt,tnc->nc", weights_of([p.region for p in photos]), np.stack(dense))
        for entry, answers in zip([found["ensemble"], *found["teachers"]], [together, *dense], strict=True):
            assert entry[f"{split}_top1"] == pytest.approx((answers.argmax(1) == labels).mean())
    assert [entry["agreement"] for entry in found["teachers"]] == [1.0, 1.0]
    assert found["teachers"][0]["asked"] == 23
    assert "100.0% of 23 stored answers are the teacher's" in capsys.readouterr().out


@pytest.mark.parametrize("live", [False, True])
def test_one_teacher_alone_is_an_ensemble_too(taught, live):
    run, info = taught(phase3={"teachers": [{"path": "phase1/best.keras", "weight": 1.0}]})
    combine.run(run)
    check.run(run)
    found = run.read("soft_label_check")
    assert found["ensemble"]["val_top1"] == found["teachers"][0]["val_top1"] and len(found["teachers"]) == 1
    made = (live_teaching if live else stored_teaching)(run, info)
    x, labels = next(iter(made.validation.as_numpy_iterator()))
    assert x["image"].shape == (7, 32, 32, 3) and labels.shape == (7,)
    x, _ = one_epoch(made)[0]
    if live:
        np.testing.assert_array_equal(x["teacher_weights"], np.ones((8, 1)))
        assert made.teacher(x).shape == (8, 3)
    else:
        assert x["teacher_ids"].shape == (8, 1, 3)


def test_stored_answers_of_another_model_are_named(taught):
    run, _ = taught()
    linear(SIZES["regional"], seed=77).save(run.path("regional"))
    with pytest.raises(BrokenArtefact, match=r"phase2/best.keras: of 23 stored answers .* the teacher's, expected 98"):
        check.run(run)


def test_a_record_with_a_class_twice_is_named(taught):
    run, _ = taught()
    store = Store(run.path("soft_labels"))
    shards = []
    for position, shard in enumerate(store.shards):
        block = store.read(shard).copy()
        if position == 1:
            block["views"]["ids"][2, 0, 1] = block["views"]["ids"][2, 0, 0]
        shards.append((shard["name"], len(block), iter([block])))
    write_store(run.path("soft_labels"), store.layout, shards)
    with pytest.raises(BrokenArtefact, match=rf"{store.shards[1]['name']}: probabilities of a record sum to 1 ± 0"):
        check.run(run)


def test_a_temperature_that_leaves_most_in_the_tail_is_warned_of(taught, capsys):
    run, _ = taught()
    combine.run(run)
    assert "warning" not in capsys.readouterr().out
    softest = {"distillation": {"temperature": 50.0}, "soft_labels": {"top_k": 1, "views": 1}}
    hot = config_of(run.config.root, phase3=softest)
    run = Run(hot, None)
    store(run)
    combine.run(run)
    assert "at T 50, 66% of the teachers' probability lies outside the 1 classes stored" in capsys.readouterr().out


def test_the_plans_arrays(taught):
    run, info = taught()
    export_npz.main(run, None)
    ids = [photo.sample_id for photo in photos_of(info, "train")]
    folder = run.path("soft_labels").with_name("npz")
    with np.load(folder / "teacher_global_logits_train.npz", allow_pickle=False) as made:
        assert sorted(made) == ["confidences", "indices", "logits"]
        assert made["indices"].tolist() == ids and made["logits"].shape == (23, 3)
        assert made["logits"].dtype == np.float32
        clean = np.stack([Preprocessing(32, 36).from_jpeg(photo.image) for photo in photos_of(info, "train")])
        said = log_softmax(models_of(run)[0](clean).numpy() / T)
        np.testing.assert_allclose(made["logits"] / T, said, atol=2e-3)
        np.testing.assert_allclose(made["confidences"], np.exp(said).max(1), atol=2e-3)
    assert (folder / "teacher_regional_logits_train.npz").exists()
    with np.load(folder / "soft_labels_combined_train.npz", allow_pickle=False) as made:
        assert sorted(made) == ["indices", "soft_probs"]
        np.testing.assert_allclose(made["soft_probs"].sum(1), 1, atol=1e-6)


def test_one_photos_record_can_be_looked_at(taught, capsys):
    run, info = taught()
    photo = photos_of(info, "train")[7]
    found = inspect.inspect(run, photo.sample_id)
    assert (found["latin_name"], found["region"]) == (photo.latin_name, photo.region)
    assert list(found["said"]) == ["phase1/best.keras", "phase2/best.keras", "ensemble"]
    views = found["said"]["phase1/best.keras"]
    assert len(views) == 2
    for number, view in enumerate(views):
        assert view["seed"] == int(augment.view_seed(1, number, run.config.seed)[1])
        assert sum(p for _, p in view["top"]) == pytest.approx(1, abs=1e-3)
    assert f"{photo.sample_id}: {photo.latin_name}" in capsys.readouterr().out
    json.dumps(found)
    train = [photo.sample_id for photo in photos_of(info, "train")]
    for wrong, shown in (("nobody", "'nobody'"), (None, "nothing")):
        with pytest.raises(
            ValueError, match=f"^--sample-id: received {shown}, expected the id of a train photo"
        ) as said:
            inspect.inspect(run, wrong)
        assert str(said.value).rpartition("such as ")[2] == train[0]
