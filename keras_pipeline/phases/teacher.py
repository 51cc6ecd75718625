"""What the global and the regional teacher share: train, and store logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keras_pipeline.core.artifacts import Run, write_json
from keras_pipeline.core.config import Teacher
from keras_pipeline.phases import build

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class Job:
    """Which teacher: the artefacts' prefix, its config section, and the region it learns from (None: all)."""

    prefix: str  # artefact names: <prefix>, <prefix>_history, <prefix>_metrics, <prefix>_logits
    settings: Teacher
    region: str | None = None


def train(run: Run, job: Job) -> None:
    import keras

    from keras_pipeline.data import pipeline, records
    from keras_pipeline.models import heads
    from keras_pipeline.training import fit

    keras.utils.set_random_seed(run.config.seed)
    info = records.load_info(run.path("dataset"))
    settings, counts = job.settings, _class_counts(run, job, info)
    repeats = pipeline.class_repeats(counts, settings.data.sampling)
    shown = counts if repeats is None else counts * repeats
    model = heads.build_classifier(
        settings.model,
        num_classes=len(info.classes),
        image_size=settings.data.image_size,
        dropout=settings.regularization.dropout,
    )
    rows = []
    for stage, frozen in stages(run, job, info):
        heads.freeze_backbone(model, frozen)
        _compile(model, job, stage, frozen, shown)
        rows += _fit(run, job, info, model, stage, repeats)
        if not frozen:
            continue
        # The full stage starts from the best head, also after a restart between the two.
        model.set_weights(heads.load_classifier(stage.best).get_weights())
    write_json(run.path(f"{job.prefix}_history"), {"epochs": rows})
    fit.publish(stage.best, run.path(job.prefix))


def _class_counts(run: Run, job: Job, info) -> np.ndarray:
    """Train photos of each class: int [C]. Raises ValueError when the global teacher would never see one of them."""
    import numpy as np

    per_class = run.read("regional_subset")["per_class"] if job.region else info.splits["train"]["per_class"]
    counts = np.array([per_class.get(name, 0) for name in info.classes])
    unseen = [name for name, n in zip(info.classes, counts, strict=True) if not n]
    if unseen and not job.region:
        raise ValueError(
            f"received {len(unseen)} of {len(counts)} species with no train photo ({', '.join(unseen[:5])}), "
            "expected one or more of each; add photos, or leave them out with source.exclude, and run phase0 again"
        )
    return counts


def stages(run: Run, job: Job, info) -> Iterator[tuple]:
    """(stage, backbone frozen?): the new head alone first, where the config asks for it, then everything."""
    from keras_pipeline.data import pipeline
    from keras_pipeline.training.fit import Stage

    folder, training = run.path(job.prefix).parent, job.settings.training
    steps = pipeline.steps_per_epoch(info, training.batch_size, job.region)
    if training.head_epochs:
        yield Stage(folder / "head", training.head_epochs, steps, job.settings.callbacks, made_from=run.made_from), True
    yield Stage(folder / "full", training.epochs, steps, job.settings.callbacks, made_from=run.made_from), False


def _compile(model, job: Job, stage, frozen: bool, shown: np.ndarray) -> None:
    """
    Args:
        shown: float [C], how often photos of each class come in an epoch.
    """
    import keras

    from keras_pipeline.training.losses import LogitAdjusted, logit_shift
    from keras_pipeline.training.schedule import build_optimizer, jit_compile

    training, tau = job.settings.training, job.settings.regularization.logit_adjustment
    plain = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(
        optimizer=build_optimizer(
            training.optimizer,
            learning_rate=training.head_learning_rate if frozen else training.learning_rate,
            weight_decay=training.weight_decay,
            steps=stage.epochs * stage.steps_per_epoch,
            warmup=0 if frozen else round(training.warmup_epochs * stage.steps_per_epoch),
        ),
        loss=LogitAdjusted(logit_shift(shown, tau)) if tau else plain,
        metrics=[keras.metrics.CategoricalAccuracy(name="top1"), keras.metrics.TopKCategoricalAccuracy(5, name="top5")],
        jit_compile=jit_compile(),
    )


def _fit(run: Run, job: Job, info, model, stage, repeats: np.ndarray | None) -> list[dict]:
    import tensorflow as tf

    from keras_pipeline.data import augment, pipeline
    from keras_pipeline.data.preprocess import Preprocessing
    from keras_pipeline.training import fit

    settings, classes = job.settings, len(info.classes)
    preprocessing = Preprocessing(settings.data.image_size, run.config.dataset.short_side)

    def mixed(batch):
        images, labels = augment.mix(
            batch["image"],
            tf.one_hot(batch["label"], classes),
            mixup_alpha=settings.regularization.mixup_alpha,
            cutmix_alpha=settings.regularization.cutmix_alpha,
            seed=batch["seed"],
        )
        return images, labels

    def batches(epochs: range):
        return pipeline.training_batches(
            info,
            pipeline.training_view(settings.data.augmentation, preprocessing),
            batch_size=settings.training.batch_size,
            seed=run.config.seed,
            epochs=epochs,
            region=job.region,
            repeats=repeats,
        ).map(mixed, tf.data.AUTOTUNE)

    # A regional teacher is chosen by its own region: of the others it gets more certain and more wrong.
    validation = pipeline.evaluation_batches(info, "val", preprocessing, region=job.region)
    validation = validation.map(lambda batch: (batch["image"], tf.one_hot(batch["label"], classes)))
    return fit.fit(model, batches, validation, stage)


def clean(run: Run, prefix: str) -> None:
    for stage in ("head", "full"):
        build.remove_backup(run.path(prefix).parent / stage)


def logits(run: Run, job: Job) -> None:
    """What the teacher says of every train photo, at every stored view."""
    import numpy as np

    from keras_pipeline.data import pipeline, records
    from keras_pipeline.data.preprocess import Preprocessing
    from keras_pipeline.evaluation.predict import inference
    from keras_pipeline.models import heads
    from keras_pipeline.training import soft_labels

    info = records.load_info(run.path("dataset"))
    layout = build.soft_label_layout(run, info)
    model = heads.load_classifier(run.path(job.prefix))
    infer = inference(model)
    preprocessing = Preprocessing(job.settings.data.image_size, run.config.dataset.short_side)

    def records_of(shard: Path) -> Iterator[np.ndarray]:
        views = [
            pipeline.stored_view_batches(shard, preprocessing, number=number, seed=run.config.seed)
            for number in range(layout.views)
        ]
        for batches in zip(*views, strict=True):
            block = np.zeros(len(batches[0]["sample"]), layout.dtype)
            block["sample"] = batches[0]["sample"].numpy()
            for number, batch in enumerate(batches):
                block["views"][:, number] = soft_labels.encode_view(infer(batch["image"]), layout)
            yield block

    shards = info.splits["train"]["shards"]
    soft_labels.write_store(
        run.path(f"{job.prefix}_logits"),
        layout,
        ((shard["name"], shard["n"], records_of(info.folder / shard["name"])) for shard in shards),
        made_from=run.made_from,
    )
