"""What the config says of a teacher's training reaches its loss and its batches."""

import numpy as np
import pytest

from keras_pipeline.core.artifacts import Run, write_json
from keras_pipeline.core.config import from_dict
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.data import records
from keras_pipeline.phases.teacher import Job, train
from keras_pipeline.training import fit

CLASSES = ["Bellis perennis", "Viola odorata"]


class Caught(Exception):  # noqa: N818
    """Instead of training."""


@pytest.fixture
def started(tmp_path, photo, monkeypatch):
    """(train labels, regions, values of phase1) -> what `fit` was given: (model, labels of epoch 0, val photos)."""

    def caught(model, batches, validation, stage, callbacks):
        labels = np.concatenate([y.argmax(1) for _, y in batches(range(1), 0).as_numpy_iterator()])
        raise Caught(model, labels, sum(len(y) for _, y in validation.as_numpy_iterator()))

    def start(labels, region=None, **values):
        small = {"model": {"name": "mobilenetv2", "alpha": 0.35, "pretrained": False}}
        small |= {"training": {"batch_size": 4, "head_epochs": 0, "warmup_epochs": 0, "epochs": 1}}
        small |= {"data": {"image_size": 32, "augmentation": "none", **values.get("data", {})}}
        small |= {"regularization": {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, **values.get("regularization", {})}}
        config = from_dict({"experiment": "x", "root": str(tmp_path), "phase1": small})
        run = Run(config, None)
        folder = run.path("dataset").parent
        folder.mkdir(parents=True)
        splits = {}
        for split, wanted in (("train", labels), ("val", [0, 1, 1])):
            shots = [photo(i, label=y, latin_name=CLASSES[y], region="EU" if i else "NA") for i, y in enumerate(wanted)]
            entry = records.write_shard(folder / f"{split}.tfrecord", map(records.encode, shots))
            per_class = {name: wanted.count(y) for y, name in enumerate(CLASSES) if y in wanted}
            per_region = {"NA": 1, "EU": len(wanted) - 1}
            splits[split] = {"n": len(wanted), "shards": [entry], "per_class": per_class, "per_region": per_region}
        info = {"name": "x", "classes": CLASSES, "class_hash": class_hash(CLASSES), "splits": splits}
        write_json(run.path("dataset"), info)
        run.path("regional_subset").parent.mkdir(parents=True)
        write_json(run.path("regional_subset"), {"per_class": splits["train"]["per_class"]})
        monkeypatch.setattr(fit, "fit", caught)
        with pytest.raises(Caught) as found:
            train(run, Job("regional" if region else "teacher", config.phase1, region))
        return found.value.args

    return start


def test_sampling_reaches_the_batches(started):
    _, natural, _ = started([0] * 18 + [1] * 2)
    assert (natural == 1).sum() == 2


def test_balanced_sampling_reaches_the_batches(started):
    _, balanced, _ = started([0] * 18 + [1] * 2, data={"sampling": "balanced"})
    assert 8 <= (balanced == 1).sum() <= 12


@pytest.mark.parametrize("tau, sampling, shift", [(1.0, "natural", [0.9, 0.1]), (1.0, "balanced", [0.5, 0.5])])
def test_logit_adjustment_is_of_what_is_shown(started, tau, sampling, shift):
    regularization = {"logit_adjustment": tau}
    model, *_ = started([0] * 18 + [1] * 2, data={"sampling": sampling}, regularization=regularization)
    np.testing.assert_allclose(model.loss.shift, np.log(shift), rtol=1e-5)


def test_a_regional_teacher_is_validated_on_its_region(started):
    assert started([0, 0, 1, 1, 0])[2] == 3


def test_and_only_there(started):
    assert started([0, 0, 1, 1, 0], region="EU")[2] == 2


def test_a_species_without_a_train_photo_is_an_error_before_training(started):
    with pytest.raises(ValueError, match="1 of 2 species with no train photo .Viola odorata"):
        started([0] * 8)
