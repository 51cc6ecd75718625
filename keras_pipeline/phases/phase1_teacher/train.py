"""`phase1 train`: train a teacher; phase 2 trains the regional one by the same functions."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.teachers import GLOBAL_TEACHER, Teacher
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.files import read_json, write_json
from keras_pipeline.data import augment, pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation.report import plots
from keras_pipeline.evaluation.report.training import Pictures
from keras_pipeline.models import heads, layerwise, trained
from keras_pipeline.models.weights import copy_weights
from keras_pipeline.phases.phase1_teacher import own_probe
from keras_pipeline.training import distribute, fit
from keras_pipeline.training.fit import Batches, Stage
from keras_pipeline.training.losses import LogitAdjusted, logit_shift
from keras_pipeline.training.recall import MacroRecall
from keras_pipeline.training.schedule import build_optimizer, jit_compile


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """A teacher to train: its config section, and the names of its artefacts."""

    prefix: str  # artefact names: <prefix>, <prefix>_history, <prefix>_metrics, <prefix>_logits
    settings: Teacher
    region: str | list[str] | None = None  # whose train photos it learns from; None: all


def spec_of(run: Run) -> TeacherSpec:
    """Return the spec of the global teacher."""
    return TeacherSpec("teacher", run.config.phase1)


def run(run: Run) -> None:
    fit_teacher(run, spec_of(run))


def fit_teacher(run: Run, spec: TeacherSpec) -> None:
    """Train a teacher in one or two stages; write its weights, history and curves.

    Raises:
        ValueError: before anything is built, if there are too few photos or batches.
    """
    devices = distribute.strategy(run.config.distribute)
    keras.utils.set_random_seed(run.config.seed)
    info = records.load_info(run.path("dataset"))
    records.check_labels(info)
    repeats, shown = sampling(spec, info, run.path("regional_subset"))
    counts = train_photos(spec, info, run.path("regional_subset"))
    plan = list(stages(spec, info, run.path(spec.prefix).parent, run.made_from))  # raises before anything is built
    _warn(spec.settings.regularization.label_smoothing, run.config.phase3.distillation.temperature)
    preprocessing = Preprocessing.of(run.config.dataset, spec.settings.data.image_size)
    photos = batches(spec, info, preprocessing, seed=run.config.seed, repeats=repeats)
    judged = validation(info, preprocessing, spec.region)
    watched = pipeline.evaluation_batches(info, "val", preprocessing, region=spec.region)
    rows: dict[str, list[dict]] = {}
    starts: dict[str, dict] = {}
    with precision(spec.settings.training.precision):
        with devices.scope():
            model = classifier(spec.settings, info, global_teacher=run.path("teacher"))
        start = _start(run, spec, model, info, preprocessing)
        for stage, frozen in plan:
            with devices.scope():
                prepare(model, spec.settings, stage, frozen=frozen, shown=shown)
            pictures = Pictures(stage.folder, photos, watched, counts)
            rows[stage.folder.name] = fit.fit(model, photos, judged, stage, [pictures], start=start)
            if found := fit.read_start(stage):
                starts[stage.folder.name] = found
            if frozen:
                # The full stage starts from the best head, also after a restart between the two.
                model.set_weights(heads.load_classifier(stage.best).get_weights())
            start = start and fit.as_it_is
    if run.assists:  # the chief writes
        return
    epochs = [{"stage": name, **row} for name, made in rows.items() for row in made]
    write_json(run.path(f"{spec.prefix}_history"), {"epochs": epochs} | ({"starts": starts} if starts else {}))
    plots.draw_curves(rows, run.path(f"{spec.prefix}_curves"))
    own_probe.publish(plan[0][0], spec.settings.model, run.path(spec.prefix))
    fit.publish(stage.best, run.path(spec.prefix))


def _start(
    run: Run, spec: TeacherSpec, model: keras.Model, info: DatasetInfo, preprocessing: Preprocessing
) -> Callable[[], None] | None:
    """Return what gives the model its head before the first stage, see `fit.fit`; None if the head stays random."""
    if not spec.settings.model.starts_from_probe:
        return None
    return functools.partial(
        own_probe.initialise_head, model, info, preprocessing,
        region=spec.region, seed=run.config.seed, folder=run.path(spec.prefix).parent,
    )  # fmt: skip


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build layers with this dtype policy while the context is open."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def classifier(settings: Teacher, info: DatasetInfo, *, global_teacher: Path) -> keras.Model:
    """Build a teacher with its initial weights.

    Args:
        global_teacher: its `.keras` file, read only if `settings` asks for its weights.
    """
    model = heads.build_classifier(
        settings.model,
        num_classes=len(info.classes),
        image_size=settings.data.image_size,
        dropout=settings.regularization.dropout,
        rematerialisation=settings.training.rematerialisation,
    )
    if settings.model.pretrained == GLOBAL_TEACHER:
        copy_weights(trained.load(global_teacher, info), model)
    return model


def train_photos(spec: TeacherSpec, info: DatasetInfo, subset: Path) -> dict[str, int]:
    """Return {latin_name: photos} that a teacher is trained on, of all classes in their order.

    Args:
        subset: `phase2 subset`'s summary, read only for a regional teacher.

    Raises:
        ValueError: if the subset is of another region.
    """
    per_class = _regional_counts(subset, spec.region) if spec.region else info.splits["train"]["per_class"]
    return {name: per_class.get(name, 0) for name in info.classes}


def sampling(spec: TeacherSpec, info: DatasetInfo, subset: Path) -> tuple[np.ndarray | None, np.ndarray]:
    """Return how often an epoch shows each photo of a class, and how many photos of each class it shows.

    Args:
        subset: see `train_photos`.

    Returns:
        Repeats float [C], or None if each photo comes once; photos float or int [C].

    Raises:
        ValueError: if the global teacher would never see one of the classes, or as `train_photos`.
    """
    photos = train_photos(spec, info, subset)
    counts, unseen = np.array(list(photos.values())), [name for name, n in photos.items() if not n]
    if unseen and not spec.region:
        raise ValueError(
            f"received {len(unseen)} of {len(counts)} species with no train photo ({', '.join(unseen[:5])}), "
            "expected one or more of each; add photos, or leave them out with source.exclude, and run phase0 again"
        )
    repeats = pipeline.class_repeats(counts, spec.settings.data.sampling)
    return repeats, counts if repeats is None else counts * repeats


def _regional_counts(subset: Path, region: str | list[str]) -> dict[str, int]:
    summary = read_json(subset)
    if summary["region"] != region:
        raise ValueError(
            f"{subset}: received region {summary['region']}, expected phase2.region, {region}; run `phase2 subset`"
        )
    return summary["per_class"]


def stages(spec: TeacherSpec, info: DatasetInfo, folder: Path, made_from: str) -> Iterator[tuple[Stage, bool]]:
    """Yield each stage and whether it freezes the backbone: the new head alone, if the config asks for it, then all.

    Args:
        folder: where each stage gets a folder of its own.
        made_from: see `fit.Stage`.

    Raises:
        ValueError: if there are fewer photos than a batch needs, or fewer batches than an update needs.
    """
    training = spec.settings.training

    def stage(name: str, epochs: int, warmup_epochs: float) -> Stage:
        steps = pipeline.steps_per_epoch(info, training.batch_size, spec.region)
        if epochs * steps < training.gradient_accumulation:
            raise ValueError(
                f"training.gradient_accumulation: received {training.gradient_accumulation}, expected at most the "
                f"{epochs * steps} steps of the stage {name}, or no update is made; lower it, or batch_size"
            )
        return Stage(
            folder / name,
            epochs,
            steps,
            training.batch_size,
            len(info.classes),
            warmup_epochs,
            spec.settings.callbacks,
            made_from=made_from,
        )

    if training.head_epochs:
        yield stage("head", training.head_epochs, 0), True
    yield stage("full", training.epochs, training.warmup_epochs), False


def _warn(smoothing: float, temperature: float) -> None:
    if smoothing and temperature > 1:
        print(
            f"warning: label_smoothing {smoothing:g} with phase3.distillation.temperature {temperature:g}: a teacher "
            "trained on smoothed labels reveals less about which species look alike, and less still at a higher "
            "temperature (arXiv 1906.02629, 2206.14532); set label_smoothing: 0, or the temperature to 1"
        )


def prepare(model: keras.Model, settings: Teacher, stage: Stage, *, frozen: bool, shown: np.ndarray) -> None:
    """Freeze or free the backbone, and compile for a stage.

    Args:
        shown: float [C], photos of each class that an epoch shows.
    """
    heads.freeze(model, backbone=frozen, batch_norm=settings.model.freezes_batch_norm(stage.photos))
    training = settings.training
    tau = settings.regularization.logit_adjustment
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


def batches(
    spec: TeacherSpec, info: DatasetInfo, preprocessing: Preprocessing, *, seed: int, repeats: np.ndarray | None
) -> Batches:
    """Make a teacher's training batches: (image float32 [N, S, S, 3], label float32 [N, C])."""
    settings = spec.settings
    classes = len(info.classes)
    smoothing = settings.regularization.label_smoothing

    def mix(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
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
            seed=seed,
            epochs=epochs,
            done=done,
            region=spec.region,
            repeats=repeats,
        ).map(mix, tf.data.AUTOTUNE)

    return make


def validation(info: DatasetInfo, preprocessing: Preprocessing, region: str | list[str] | None) -> tf.data.Dataset:
    """Return the val split as (image, one-hot label), without augmentation.

    A regional teacher is validated on its own region: on the others it grows more confident and less accurate.
    """
    photos = pipeline.evaluation_batches(info, "val", preprocessing, region=region)
    return photos.map(lambda batch: (batch["image"], tf.one_hot(batch["label"], len(info.classes))))
