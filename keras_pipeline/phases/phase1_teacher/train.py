"""`phase1 train`: train a teacher; phase 2 trains the regional one by the same functions."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.teachers import GLOBAL_TEACHER, Teacher
from keras_pipeline.core.files import write_json
from keras_pipeline.data import augment, pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation.report import plots
from keras_pipeline.evaluation.report.training import Pictures
from keras_pipeline.models import heads, layerwise, trained
from keras_pipeline.models.weights import copy_weights
from keras_pipeline.training import distribute, fit
from keras_pipeline.training.fit import Batches, Stage
from keras_pipeline.training.losses import LogitAdjusted, logit_shift
from keras_pipeline.training.recall import MacroRecall
from keras_pipeline.training.schedule import build_optimizer, jit_compile


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """Which teacher: the artefacts' prefix, its config section, and the region it learns from (None: all)."""

    prefix: str  # artefact names: <prefix>, <prefix>_history, <prefix>_metrics, <prefix>_logits
    settings: Teacher
    region: str | None = None


def spec_of(run: Run) -> TeacherSpec:
    """The global teacher."""
    return TeacherSpec("teacher", run.config.phase1)


def run(run: Run) -> None:
    fit_teacher(run, spec_of(run))


def fit_teacher(run: Run, spec: TeacherSpec) -> None:
    """Train a teacher in one or two stages; write its weights, history and curves.

    Raises:
        ValueError: before anything is built, where photos or batches are too few.
    """
    devices = distribute.strategy(run.config.distribute)
    keras.utils.set_random_seed(run.config.seed)
    info = records.load_info(run.path("dataset"))
    records.check_labels(info)
    repeats, shown = sampling(run, spec, info)
    plan = list(stages(run, spec, info))  # raises before anything is built
    _warn(run, spec)
    rows: dict[str, list[dict]] = {}
    with precision(spec.settings.training.precision):
        with devices.scope():
            model = classifier(run, spec, info)
        for stage, frozen in plan:
            with devices.scope():
                ready(model, spec, stage, frozen, shown)
            photos, judged = batches(run, spec, info, repeats), validation(run, spec, info)
            pictures = Pictures(stage.folder, photos, judged, info.classes)
            rows[stage.folder.name] = fit.fit(model, photos, judged, stage, [pictures])
            if frozen:
                # The full stage starts from the best head, also after a restart between the two.
                model.set_weights(heads.load_classifier(stage.best).get_weights())
    if run.assists:  # the chief writes
        return
    epochs = [{"stage": name, **row} for name, made in rows.items() for row in made]
    write_json(run.path(f"{spec.prefix}_history"), {"epochs": epochs})
    plots.draw_curves(rows, run.path(f"{spec.prefix}_curves"))
    fit.publish(stage.best, run.path(spec.prefix))


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Keras's dtype policy of the layers built inside."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def classifier(run: Run, spec: TeacherSpec, info):
    """The untrained teacher, with the weights that it starts from."""
    settings = spec.settings
    model = heads.build_classifier(
        settings.model,
        num_classes=len(info.classes),
        image_size=settings.data.image_size,
        dropout=settings.regularization.dropout,
        rematerialisation=settings.training.rematerialisation,
    )
    if settings.model.pretrained == GLOBAL_TEACHER:
        copy_weights(trained.load(run.path("teacher"), info), model)
    return model


def sampling(run: Run, spec: TeacherSpec, info) -> tuple[np.ndarray | None, np.ndarray]:
    """How often each photo of a class is to come (None: once), and how often photos of each class then do: float [C].

    Raises ValueError when the global teacher would never see one of the classes.
    """
    if spec.region:
        subset = run.read("regional_subset")
        if subset["region"] != spec.region:
            raise ValueError(
                f"{run.path('regional_subset')} is of region {subset['region']}, phase2.region is {spec.region}; run "
                "`phase2 subset`"
            )
        per_class = subset["per_class"]
    else:
        per_class = info.splits["train"]["per_class"]
    counts = np.array([per_class.get(name, 0) for name in info.classes])
    unseen = [name for name, n in zip(info.classes, counts, strict=True) if not n]
    if unseen and not spec.region:
        raise ValueError(
            f"received {len(unseen)} of {len(counts)} species with no train photo ({', '.join(unseen[:5])}), "
            "expected one or more of each; add photos, or leave them out with source.exclude, and run phase0 again"
        )
    repeats = pipeline.class_repeats(counts, spec.settings.data.sampling)
    return repeats, counts if repeats is None else counts * repeats


def stages(run: Run, spec: TeacherSpec, info) -> Iterator[tuple]:
    """(stage, backbone frozen?): the new head alone first, where the config asks for it, then everything.

    Raises ValueError when there are fewer photos than a batch takes, or fewer batches than an update does.
    """
    training = spec.settings.training

    def stage(name: str, epochs: int, warmup_epochs: float) -> Stage:
        steps = pipeline.steps_per_epoch(info, training.batch_size, spec.region)
        if epochs * steps < training.gradient_accumulation:
            raise ValueError(
                f"training.gradient_accumulation: received {training.gradient_accumulation}, and the stage {name} has "
                f"{epochs * steps} steps in all: no update would be made; lower it, or batch_size"
            )
        return Stage(
            run.path(spec.prefix).parent / name,
            epochs,
            steps,
            training.batch_size,
            len(info.classes),
            warmup_epochs,
            spec.settings.callbacks,
            made_from=run.made_from,
        )

    if training.head_epochs:
        yield stage("head", training.head_epochs, 0), True
    yield stage("full", training.epochs, training.warmup_epochs), False


def _warn(run: Run, spec: TeacherSpec) -> None:
    smoothing, temperature = spec.settings.regularization.label_smoothing, run.config.phase3.distillation.temperature
    if smoothing and temperature > 1:
        print(
            f"warning: label_smoothing {smoothing:g} meets phase3.distillation.temperature {temperature:g}: a teacher "
            "trained on smoothed labels says less about which species look alike, and the less the higher the "
            "temperature (arXiv 1906.02629, 2206.14532); set label_smoothing: 0, or the temperature to 1"
        )


def ready(model, spec: TeacherSpec, stage, frozen: bool, shown: np.ndarray) -> None:
    """Freezes and compiles for a stage.

    Args:
        shown: float [C], how often photos of each class come in an epoch.
    """
    heads.freeze_backbone(model, frozen)
    training, tau = spec.settings.training, spec.settings.regularization.logit_adjustment
    plain = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(
        optimizer=build_optimizer(
            training.optimizer,
            learning_rate=training.head_learning_rate if frozen else training.learning_rate,
            weight_decay=training.weight_decay,
            steps=stage.epochs * stage.steps_per_epoch,
            warmup=round(stage.warmup_epochs * stage.steps_per_epoch),
            rates=layerwise.layer_rates(model, training.layer_decay),
            clip_norm=training.clip_norm,
            gradient_accumulation=training.gradient_accumulation,
        ),
        loss=LogitAdjusted(logit_shift(shown, tau)) if tau else plain,
        metrics=[
            keras.metrics.CategoricalAccuracy(name="top1"),
            keras.metrics.TopKCategoricalAccuracy(5, name="top5"),
            MacroRecall(stage.num_classes),
        ],
        jit_compile=jit_compile(training.jit_compile),
    )


def batches(run: Run, spec: TeacherSpec, info, repeats: np.ndarray | None) -> Batches:
    """Training batches of a teacher: (image float32 [N, S, S, 3], label float32 [N, C])."""
    settings, classes = spec.settings, len(info.classes)
    preprocessing = Preprocessing(settings.data.image_size, run.config.dataset.short_side)
    smoothing = settings.regularization.label_smoothing

    def mixed(batch):
        images, partner, keep = augment.mix(
            batch["image"],
            mixup_alpha=settings.regularization.mixup_alpha,
            cutmix_alpha=settings.regularization.cutmix_alpha,
            seed=batch["seed"],
        )
        labels = augment.mix_labels(tf.one_hot(batch["label"], classes), partner, keep)
        return images, (1 - smoothing) * labels + smoothing / classes

    def make(epochs: range, done: int) -> tf.data.Dataset:
        return pipeline.training_batches(
            info,
            pipeline.training_view(settings.data.augmentation, preprocessing),
            batch_size=settings.training.batch_size,
            seed=run.config.seed,
            epochs=epochs,
            done=done,
            region=spec.region,
            repeats=repeats,
        ).map(mixed, tf.data.AUTOTUNE)

    return make


def validation(run: Run, spec: TeacherSpec, info):
    """The val split, its labels as they are. Of a regional teacher its own region's: of the others it gets more certain
    and more wrong.
    """
    preprocessing = Preprocessing(spec.settings.data.image_size, run.config.dataset.short_side)
    photos = pipeline.evaluation_batches(info, "val", preprocessing, region=spec.region)
    return photos.map(lambda batch: (batch["image"], tf.one_hot(batch["label"], len(info.classes))))
