"""What the global and the regional teacher share: train, and store logits."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.teachers import GLOBAL_TEACHER, Teacher
from keras_pipeline.core.files import write_json
from keras_pipeline.phases import build, on_beam

if TYPE_CHECKING:
    import numpy as np

    from keras_pipeline.training.fit import Batches


@dataclasses.dataclass(frozen=True)
class Job:
    """Which teacher: the artefacts' prefix, its config section, and the region it learns from (None: all)."""

    prefix: str  # artefact names: <prefix>, <prefix>_history, <prefix>_metrics, <prefix>_logits
    settings: Teacher
    region: str | None = None


def train(run: Run, job: Job) -> None:
    import keras

    from keras_pipeline.data import records
    from keras_pipeline.evaluation.report.training import Pictures
    from keras_pipeline.models import heads
    from keras_pipeline.training import distribute, fit

    devices = distribute.strategy(run.config.distribute)
    keras.utils.set_random_seed(run.config.seed)
    info = records.load_info(run.path("dataset"))
    records.check_labels(info)
    repeats, shown = sampling(run, job, info)
    plan = list(stages(run, job, info))  # raises before anything is built
    _warn(run, job)
    rows: dict[str, list[dict]] = {}
    with precision(job.settings.training.precision):
        with devices.scope():
            model = classifier(run, job, info)
        for stage, frozen in plan:
            with devices.scope():
                ready(model, job, stage, frozen, shown)
            photos, judged = batches(run, job, info, repeats), validation(run, job, info)
            pictures = Pictures(stage.folder, photos, judged, info.classes)
            rows[stage.folder.name] = fit.fit(model, photos, judged, stage, [pictures])
            if frozen:
                # The full stage starts from the best head, also after a restart between the two.
                model.set_weights(heads.load_classifier(stage.best).get_weights())
    if run.assists:  # the chief writes
        return
    epochs = [{"stage": name, **row} for name, made in rows.items() for row in made]
    write_json(run.path(f"{job.prefix}_history"), {"epochs": epochs})
    build.draw_curves(rows, run.path(f"{job.prefix}_curves"))
    fit.publish(stage.best, run.path(job.prefix))


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Keras's dtype policy of the layers built inside."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def classifier(run: Run, job: Job, info):
    """The untrained teacher, with the weights that it starts from."""
    from keras_pipeline.models import heads
    from keras_pipeline.models.weights import copy_weights

    settings = job.settings
    model = heads.build_classifier(
        settings.model,
        num_classes=len(info.classes),
        image_size=settings.data.image_size,
        dropout=settings.regularization.dropout,
        rematerialisation=settings.training.rematerialisation,
    )
    if settings.model.pretrained == GLOBAL_TEACHER:
        copy_weights(build.trained(run, "teacher", info), model)
    return model


def sampling(run: Run, job: Job, info) -> tuple[np.ndarray | None, np.ndarray]:
    """How often each photo of a class is to come (None: once), and how often photos of each class then do: float [C].

    Raises ValueError when the global teacher would never see one of the classes.
    """
    import numpy as np

    from keras_pipeline.data import pipeline

    if job.region:
        subset = run.read("regional_subset")
        if subset["region"] != job.region:
            raise ValueError(
                f"{run.path('regional_subset')} is of region {subset['region']}, phase2.region is {job.region}; run "
                "`phase2 subset`"
            )
        per_class = subset["per_class"]
    else:
        per_class = info.splits["train"]["per_class"]
    counts = np.array([per_class.get(name, 0) for name in info.classes])
    unseen = [name for name, n in zip(info.classes, counts, strict=True) if not n]
    if unseen and not job.region:
        raise ValueError(
            f"received {len(unseen)} of {len(counts)} species with no train photo ({', '.join(unseen[:5])}), "
            "expected one or more of each; add photos, or leave them out with source.exclude, and run phase0 again"
        )
    repeats = pipeline.class_repeats(counts, job.settings.data.sampling)
    return repeats, counts if repeats is None else counts * repeats


def stages(run: Run, job: Job, info) -> Iterator[tuple]:
    """(stage, backbone frozen?): the new head alone first, where the config asks for it, then everything.

    Raises ValueError when there are fewer photos than a batch takes, or fewer batches than an update does.
    """
    from keras_pipeline.data import pipeline
    from keras_pipeline.training.fit import Stage

    training = job.settings.training

    def stage(name: str, epochs: int, warmup_epochs: float) -> Stage:
        steps = pipeline.steps_per_epoch(info, training.batch_size, job.region)
        if epochs * steps < training.gradient_accumulation:
            raise ValueError(
                f"training.gradient_accumulation: received {training.gradient_accumulation}, and the stage {name} has "
                f"{epochs * steps} steps in all: no update would be made; lower it, or batch_size"
            )
        return Stage(
            run.path(job.prefix).parent / name,
            epochs,
            steps,
            training.batch_size,
            len(info.classes),
            warmup_epochs,
            job.settings.callbacks,
            made_from=run.made_from,
        )

    if training.head_epochs:
        yield stage("head", training.head_epochs, 0), True
    yield stage("full", training.epochs, training.warmup_epochs), False


def _warn(run: Run, job: Job) -> None:
    smoothing, temperature = job.settings.regularization.label_smoothing, run.config.phase3.distillation.temperature
    if smoothing and temperature > 1:
        print(
            f"warning: label_smoothing {smoothing:g} meets phase3.distillation.temperature {temperature:g}: a teacher "
            "trained on smoothed labels says less about which species look alike, and the less the higher the "
            "temperature (arXiv 1906.02629, 2206.14532); set label_smoothing: 0, or the temperature to 1"
        )


def ready(model, job: Job, stage, frozen: bool, shown: np.ndarray) -> None:
    """Freezes and compiles for a stage.

    Args:
        shown: float [C], how often photos of each class come in an epoch.
    """
    import keras

    from keras_pipeline.models import heads, layerwise
    from keras_pipeline.training.losses import LogitAdjusted, logit_shift
    from keras_pipeline.training.recall import MacroRecall
    from keras_pipeline.training.schedule import build_optimizer, jit_compile

    heads.freeze_backbone(model, frozen)
    training, tau = job.settings.training, job.settings.regularization.logit_adjustment
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


def batches(run: Run, job: Job, info, repeats: np.ndarray | None) -> Batches:
    """Training batches of a teacher: (image float32 [N, S, S, 3], label float32 [N, C])."""
    import tensorflow as tf

    from keras_pipeline.data import augment, pipeline
    from keras_pipeline.data.preprocess import Preprocessing

    settings, classes = job.settings, len(info.classes)
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
            region=job.region,
            repeats=repeats,
        ).map(mixed, tf.data.AUTOTUNE)

    return make


def validation(run: Run, job: Job, info):
    """The val split, its labels as they are. Of a regional teacher its own region's: of the others it gets more certain
    and more wrong.
    """
    import tensorflow as tf

    from keras_pipeline.data import pipeline
    from keras_pipeline.data.preprocess import Preprocessing

    preprocessing = Preprocessing(job.settings.data.image_size, run.config.dataset.short_side)
    photos = pipeline.evaluation_batches(info, "val", preprocessing, region=job.region)
    return photos.map(lambda batch: (batch["image"], tf.one_hot(batch["label"], len(info.classes))))


def clean(run: Run, prefix: str) -> None:
    for stage in ("head", "full"):
        build.remove_backup(run.path(prefix).parent / stage)


def logits(run: Run, job: Job) -> None:
    """What the teacher says of every train photo, at every stored view."""
    from keras_pipeline.data import records
    from keras_pipeline.training import soft_labels

    info = records.load_info(run.path("dataset"))
    folder, names = run.path(f"{job.prefix}_logits"), [shard["name"] for shard in info.splits["train"]["shards"]]
    soft_labels.begin_store(folder)
    if run.beam is None:
        entries = list(map(_answering(run, job), names))
    else:
        answer = functools.partial(answer_shard, run.config, job, run.made_from)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as scratch:
            found = {each["name"]: each for each in on_beam.each(answer, names, run.beam, Path(scratch))}
        entries = [found[name] for name in names]
    soft_labels.finish_store(folder, build.soft_label_layout(run, info), entries)


_ready_here: dict[tuple, Callable[[str], dict]] = {}
_one_at_a_time = threading.Lock()  # of a process: TensorFlow uses all its cores, and Keras builds no two models at once


def answer_shard(config: Config, job: Job, made_from: str, name: str) -> dict:
    """One train shard's soft labels, by a worker of Beam's, which keeps the teacher for the next."""
    key = (config.root, config.experiment, made_from, job.prefix)
    with _one_at_a_time:
        if key not in _ready_here:
            _ready_here[key] = _answering(Run(config, None, made_from=made_from), job)
        return _ready_here[key](name)


def _answering(run: Run, job: Job) -> Callable[[str], dict]:
    """train shard's name -> its entry in the index of soft labels, once they are written"""
    import numpy as np

    from keras_pipeline.data import pipeline, records
    from keras_pipeline.data.preprocess import Preprocessing
    from keras_pipeline.evaluation.predict import inference
    from keras_pipeline.training import soft_labels

    info = records.load_info(run.path("dataset"))
    layout = build.soft_label_layout(run, info)
    model = build.trained(run, job.prefix, info, image_size=job.settings.data.image_size)
    infer = inference(model)
    preprocessing = Preprocessing(job.settings.data.image_size, run.config.dataset.short_side)
    photos = {shard["name"]: shard["n"] for shard in info.splits["train"]["shards"]}

    def records_of(shard: Path) -> Iterator[np.ndarray]:
        views = [
            pipeline.stored_view_batches(shard, preprocessing, number=number, seed=run.config.seed)
            for number in range(layout.views)
        ]
        for batches in zip(*views, strict=True):
            block = np.zeros(len(batches[0]["seed"]), layout.dtype)
            for number, batch in enumerate(batches):
                block["sample"], seed = batch["seed"].numpy().T
                block["views"][:, number] = soft_labels.encode_view(infer(batch["image"]), layout, seed)
            yield block

    def answer(name: str) -> dict:
        batches = records_of(info.folder / name)
        folder = run.path(f"{job.prefix}_logits")
        return soft_labels.write_shard(folder, layout, name, photos[name], batches, made_from=run.made_from)

    return answer
