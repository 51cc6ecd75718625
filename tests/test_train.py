"""What the config says of a teacher's training reaches its loss and its batches."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_dict
from keras_pipeline.core.config.teachers import Model
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import write_json
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.data import records
from keras_pipeline.evaluation import baseline
from keras_pipeline.evaluation.answers import load_own_probe
from keras_pipeline.models import heads
from keras_pipeline.phases.phase1_teacher import evaluate
from keras_pipeline.phases.phase1_teacher.train import TeacherSpec, fit_teacher
from keras_pipeline.training import fit

CLASSES = ["Bellis perennis", "Viola odorata"]
SMALL = {"name": "mobilenetv2", "alpha": 0.35, "pretrained": False}


class Caught(Exception):  # noqa: N818
    """Instead of training."""


@pytest.fixture
def dataset(tmp_path, photo):
    """(train labels, names of the classes in the shards, changes of the config) -> a run with shards and subset.json;
    the first photo of each split is of region NA, the others of EU.
    """

    def write(labels, names=CLASSES, **sections):
        run = Run(from_dict({"experiment": "x", "root": str(tmp_path), **sections}), None)
        folder = run.path("dataset").parent
        folder.mkdir(parents=True)
        splits = {}
        for split, wanted in (("train", labels), ("val", [0, 1, 1])):
            shots = [photo(i, label=y, latin_name=names[y], region="EU" if i else "NA") for i, y in enumerate(wanted)]
            entry = records.write_shard(folder / f"{split}.tfrecord", map(records.encode, shots))
            per_class = {name: wanted.count(y) for y, name in enumerate(CLASSES) if y in wanted}
            per_region = {"NA": 1, "EU": len(wanted) - 1}
            splits[split] = {"n": len(wanted), "shards": [entry], "per_class": per_class, "per_region": per_region}
        info = {"name": "x", "classes": CLASSES, "class_hash": class_hash(CLASSES), "splits": splits}
        write_json(run.path("dataset"), info)
        for phase in ("teacher", "regional"):
            run.path(phase).parent.mkdir(parents=True)
        write_json(
            run.path("regional_subset"), {"region": run.config.phase2.region, "per_class": splits["train"]["per_class"]}
        )
        return run

    return write


@pytest.fixture
def started(dataset, monkeypatch):
    """(train labels, region, values of the teacher's section) -> what `fit` was given: model, labels of epoch 0
    [N, C], labels of the val photos, and the labels' first choices.
    """

    def caught(model, batches, validation, stage, callbacks, *, start):
        shown, val = (
            np.concatenate([y for _, y in photos.as_numpy_iterator()]) for photos in (batches(range(1), 0), validation)
        )
        raise Caught(
            SimpleNamespace(model=model, shown=shown, labels=shown.argmax(1), val=val, stage=stage, start=start)
        )

    def start(labels, region=None, *, names=CLASSES, temperature=3.0, before=lambda run: None, **values):
        small = {"model": {**SMALL, **values.get("model", {})}}
        small |= {"training": {"batch_size": 4, "warmup_epochs": 0, "epochs": 1, **values.get("training", {})}}
        small |= {"data": {"image_size": 32, "augmentation": "none", **values.get("data", {})}}
        small |= {"regularization": {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, **values.get("regularization", {})}}
        phase, prefix = ("phase2", "regional") if region else ("phase1", "teacher")
        sections = {"phase1": {"model": {**small["model"], "pretrained": False}}, phase: small}
        if region:
            sections["phase2"]["region"] = region
        sections["phase3"] = {"distillation": {"temperature": temperature}}
        run = dataset(labels, names, **sections)
        before(run)
        monkeypatch.setattr(fit, "fit", caught)
        with pytest.raises(Caught) as found:
            fit_teacher(run, TeacherSpec(prefix, getattr(run.config, phase), region))
        return found.value.args[0]

    return start


def test_sampling_reaches_the_batches(started):
    natural = started([0] * 18 + [1] * 2).labels
    assert (natural == 1).sum() == 2


def test_balanced_sampling_reaches_the_batches(started):
    balanced = started([0] * 18 + [1] * 2, data={"sampling": "balanced"}).labels
    assert 8 <= (balanced == 1).sum() <= 12


@pytest.mark.parametrize("tau, sampling, shift", [(1.0, "natural", [0.9, 0.1]), (1.0, "balanced", [0.5, 0.5])])
def test_logit_adjustment_is_of_what_is_shown(started, tau, sampling, shift):
    regularization = {"logit_adjustment": tau}
    found = started([0] * 18 + [1] * 2, data={"sampling": sampling}, regularization=regularization)
    np.testing.assert_allclose(found.model.loss.shift, np.log(shift), rtol=1e-5)


def test_a_regional_teacher_is_validated_on_its_region(started):
    assert len(started([0, 0, 1, 1, 0]).val) == 3


def test_a_subset_of_another_region_is_refused(started):
    def changed(run):
        write_json(run.path("regional_subset"), {**run.read("regional_subset"), "region": "NA"})

    with pytest.raises(
        ValueError, match="subset.json: received region NA, expected phase2.region, EU; run `phase2 subset`"
    ):
        started([0, 0, 1, 1, 0], region="EU", before=changed)


def test_more_accumulated_batches_than_there_are_is_refused(started):
    training = {"gradient_accumulation": 3, "epochs": 1}
    with pytest.raises(ValueError, match="received 3, expected at most the 2 steps of the stage full"):
        started([0] * 8 + [1], training=training)


def test_and_only_there(started):
    assert len(started([0, 0, 1, 1, 0], region="EU").val) == 2


def test_a_species_without_a_train_photo_is_an_error_before_training(started):
    with pytest.raises(ValueError, match="1 of 2 species with no train photo .Viola odorata"):
        started([0] * 8)


@pytest.fixture
def tiny(monkeypatch):
    """A model that is built at once, where it does not matter which."""

    def build(model, *, num_classes, image_size, dropout, rematerialisation):
        layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(num_classes, name="logits")]
        return keras.Sequential([keras.Input((image_size, image_size, 3)), *layers])

    monkeypatch.setattr(heads, "build_classifier", build)


def test_label_smoothing_reaches_the_batches_and_not_the_validation(started, tiny):
    # Of two classes a tenth is shared evenly: 0.9 + 0.05 and 0.05.
    found = started([0, 1, 1, 1], regularization={"label_smoothing": 0.1})
    assert sorted(found.labels) == [0, 1, 1, 1]
    expected = np.where(found.labels[:, None] == [0, 1], 0.95, 0.05)
    np.testing.assert_allclose(found.shown, expected, rtol=1e-6)
    assert found.val.tolist() == [[1, 0], [0, 1], [0, 1]]


def test_smoothed_labels_of_mixed_photos_still_add_up(started, tiny):
    found = started([0, 1] * 8, regularization={"label_smoothing": 0.1, "mixup_alpha": 1.0})
    np.testing.assert_allclose(found.shown.sum(axis=1), 1, rtol=1e-6)
    assert found.shown.min() >= 0.05 - 1e-6 and len(np.unique(found.shown.round(4))) > 4


@pytest.mark.parametrize(
    "smoothing, temperature, warned", [(0.1, 3.0, True), (0.1, 1.5, True), (0.1, 1.0, False), (0.0, 3.0, False)]
)
def test_smoothed_labels_of_a_teacher_that_is_softened_are_warned_of(
    started, tiny, capsys, smoothing, temperature, warned
):
    started([0, 1, 1, 1], temperature=temperature, regularization={"label_smoothing": smoothing})
    message = f"warning: label_smoothing 0.1 with phase3.distillation.temperature {temperature:g}: "
    assert (message in capsys.readouterr().out) == warned


@pytest.mark.parametrize("policy, inner", [("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float16")])
def test_mixed_precision_is_the_teachers_alone(started, policy, inner):
    found = started([0, 1, 1, 1], training={"precision": policy})
    conv, logits = (found.model.get_layer(name) for name in ("Conv1", "logits"))
    assert (conv.compute_dtype, conv.kernel.dtype, logits.compute_dtype) == (inner, "float32", "float32")
    assert found.model(np.zeros((1, 32, 32, 3))).dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"  # restored, though training raised
    # Half precision needs its loss scaled; bfloat16 has the exponents of float32.
    scaled = isinstance(found.model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")


@pytest.mark.parametrize("wanted, expected", [(True, True), (False, False), (None, False)])  # on a CPU
def test_jit_compile_reaches_the_model(started, tiny, monkeypatch, wanted, expected):
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind=None: [])
    assert started([0, 1, 1, 1], training={"jit_compile": wanted}).model.jit_compile is expected


def never(*_, **__):
    raise AssertionError("a model was built")


@pytest.mark.parametrize("region, where, n", [(None, "", 3), ("NA", " of region NA", 1)])
def test_a_batch_larger_than_the_train_split_is_an_error_before_anything_is_built(
    started, monkeypatch, region, where, n
):
    monkeypatch.setattr(heads, "build_classifier", never)
    with pytest.raises(ValueError, match=f"train split{where} has {n} photos, batch_size is 4: lower .* to {n}"):
        started([0, 1, 1], region=region)


def test_shards_of_another_class_list_are_an_error_before_anything_is_built(started, monkeypatch):
    monkeypatch.setattr(heads, "build_classifier", never)
    told = "train.tfrecord: shard of another class list: Viola odorata has label 0 there, .* is Bellis perennis"
    with pytest.raises(BrokenArtefact, match=told):
        started([0, 1, 1, 1], names=CLASSES[::-1])


def test_the_regional_teacher_starts_from_the_global_one(started):
    theirs = []

    def save_teacher(run):
        keras.utils.set_random_seed(7)
        teacher = heads.build_classifier(run.config.phase1.model, num_classes=2, image_size=32, dropout=0.0)
        rng = np.random.default_rng(1)
        # No weight is what a fresh model has, BatchNorm's moving statistics and the head's bias neither.
        teacher.set_weights([rng.uniform(0.1, 1, w.shape) for w in teacher.get_weights()])
        teacher.save(run.path("teacher"))
        theirs.extend(teacher.get_weights())

    found = started([0, 1, 1, 1, 0], region="EU", before=save_teacher, model={"pretrained": "global_teacher"})
    for mine, expected in zip(found.model.get_weights(), theirs, strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_the_head_starts_from_the_probe_of_its_own_features(started, monkeypatch):
    """Of its very own, although its weights are random here: a second network would have others."""
    counted, black = [], np.zeros((1, 32, 32, 3), np.float32)

    def extract(extract, photos, path, *, n):
        counted.append((n, extract(black)))
        return found(extract, photos, path, n=n)

    found = baseline.extract_features
    monkeypatch.setattr(baseline, "extract_features", extract)
    caught = started([0, 0, 1, 1, 0, 1], model={"head_init": "probe"})
    model, start = caught.model, caught.start
    random = model.get_layer("logits").get_weights()[0]
    start()
    ((n, features),) = counted
    assert n == 6 and not np.allclose(random, model.get_layer("logits").get_weights()[0])
    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(features @ kernel + bias, model(black, training=False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("settings", "wanted"), [({"pretrained": False}, False), ({"head_init": "random"}, False)])
def test_a_random_head_has_no_start(started, settings, wanted):
    assert (started([0, 0, 1, 1, 0], model=settings).start is not None) == wanted


@pytest.mark.parametrize(
    ("model", "frozen"),
    [
        ({}, False), ({"head_init": "probe"}, True), ({"head_init": "probe", "freeze_batch_norm": False}, False),
        ({"freeze_batch_norm": True}, True),
    ],
)  # fmt: skip
def test_batch_norms_are_frozen_where_the_head_starts_from_the_probe(started, tmp_path, model, frozen):
    """And in no model that is loaded again."""
    trained = started([0, 0, 1, 1, 0], model=model).model
    norms = [layer for layer in trained.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 52 and {layer.trainable for layer in norms} == {not frozen}
    trained.save(tmp_path / "x.keras")
    assert all(layer.trainable for layer in heads.load_classifier(tmp_path / "x.keras").layers)


def test_of_many_photos_batch_norms_are_trained():
    assert Model(name="mobilenetv2").freezes_batch_norm(9_999)
    assert not Model(name="mobilenetv2").freezes_batch_norm(10_000)
    assert Model(name="mobilenetv2", freeze_batch_norm=True).freezes_batch_norm(850_000)


@pytest.mark.parametrize("rank", [None, 1, 2, 6])
def test_a_head_is_set_to_a_classifier_of_standardised_features(rank):
    """A rank of C or more loses nothing; a lower one gives the nearest kernel."""
    model = heads.build_classifier(
        Model(name="mobilenetv2", pretrained=False, alpha=0.35, head_rank=rank), num_classes=3, image_size=32,
        dropout=0.0,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    width = model.get_layer("dropout").output.shape[-1]
    mean, scale, kernel, bias = (
        rng.normal(size=width),
        rng.uniform(0.5, 2, width),
        rng.normal(size=(width, 3)),
        [1, 2, 3],
    )
    heads.set_head(model, mean=mean, scale=scale, kernel=kernel, bias=np.array(bias))
    if rank == 2 or rank == 1:
        left, values, right = np.linalg.svd(kernel, full_matrices=False)
        kernel = (left[:, :rank] * values[:rank]) @ right[:rank]
    features = rng.normal(size=(5, width)).astype("float32")
    x = features
    for name in ("low_rank", "logits") if rank else ("logits",):
        x = model.get_layer(name)(x)
    np.testing.assert_allclose(x, (features - mean) / scale @ kernel + bias, atol=2e-3)


def test_a_copied_head_has_no_initialisation():
    with pytest.raises(ValueError, match="head_init: received probe with pretrained: global_teacher, expected null"):
        Model(name="mobilenetv2", pretrained="global_teacher", head_init="probe")
    assert not Model(name="mobilenetv2", pretrained="global_teacher").starts_from_probe
    assert Model(name="mobilenetv2").starts_from_probe
    assert not Model(name="mobilenetv2", pretrained=False).starts_from_probe


def test_the_probe_is_measured_on_the_test_photos_beside_the_teacher(dataset, photo, monkeypatch):
    """Killed or not, `evaluate` finds the probe that the teacher started from; a random head leaves none."""
    small = {"model": {**SMALL, "head_init": "probe"}, "data": {"image_size": 32, "augmentation": "none"}}
    small |= {"training": {"batch_size": 4, "warmup_epochs": 0, "epochs": 1}}
    run = dataset([0, 0, 1, 1, 0, 1], phase1=small)
    info = run.read("dataset")
    info["splits"]["test"] = info["splits"]["val"]
    write_json(run.path("dataset"), info)
    fit_teacher(run, TeacherSpec("teacher", run.config.phase1))
    assert run.read("teacher_history")["starts"]["full"].keys() >= {"val_loss", "val_top1"}
    monkeypatch.setattr(evaluate, "_draw", lambda *_: None)
    monkeypatch.setattr(evaluate, "_draw_confusions", lambda *_: None)
    evaluate.evaluate_model(run, "teacher", image_size=32)
    own = run.read("teacher_metrics")["own_probe"]
    answers = load_own_probe(run.path("teacher_predictions"))
    right = (answers["answer"] == answers["label"]).mean()
    assert (own["n"], own["image_size"], own["top1_accuracy"]) == (3, 32, pytest.approx(right))
    run = Run(from_dict({**run.config.model_dump(), "phase1": small | {"model": SMALL}}), None)
    fit_teacher(run, TeacherSpec("teacher", run.config.phase1))
    evaluate.evaluate_model(run, "teacher", image_size=32)
    assert "own_probe" not in run.read("teacher_metrics")
    assert load_own_probe(run.path("teacher_predictions")) is None
