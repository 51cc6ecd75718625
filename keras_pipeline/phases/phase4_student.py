"""Phase 4: the student learns from the soft labels, then from the hard ones."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.files import write_json
from keras_pipeline.phases import build, evaluating, preflight, teaching
from keras_pipeline.phases.steps import Step


def distill(run: Run) -> None:
    import keras

    from keras_pipeline.data import records
    from keras_pipeline.training import distribute, fit
    from keras_pipeline.training.distiller import Distiller

    devices = distribute.strategy(run.config.distribute)
    keras.utils.set_random_seed(run.config.seed)
    info = records.load_info(run.path("dataset"))
    settings = run.config.phase3.distillation
    stage = _stage(run, info, "distill")
    with devices.scope():
        taught = teaching.live(run, info) if run.config.phase4.distill.live else teaching.stored(run, info)
        model = Distiller(
            build.student(run, len(info.classes)),
            temperature=settings.temperature,
            soft=settings.loss_weights.kl_divergence,
            cross_entropy=settings.loss_weights.cross_entropy,
            loss=settings.loss,
            teacher=taught.teacher,
        )
        _compile(run, model, stage, run.config.phase4.distill.learning_rate)
    _write_history(run, "distill_history", fit.fit(model, taught.batches, taught.validation, stage))


def finetune(run: Run) -> None:
    import keras

    from keras_pipeline.data import pipeline, records
    from keras_pipeline.data.preprocess import Preprocessing
    from keras_pipeline.training import distribute, fit

    devices = distribute.strategy(run.config.distribute)
    keras.utils.set_random_seed(run.config.seed)
    info = records.load_info(run.path("dataset"))
    settings = run.config.phase4.finetune
    preprocessing = Preprocessing(run.config.phase4.data.image_size, run.config.dataset.short_side)

    def batches(epochs: range, done: int):
        dataset = pipeline.training_batches(
            info,
            pipeline.training_view(settings.augmentation, preprocessing),
            batch_size=run.config.phase4.training.batch_size,
            seed=run.config.seed + 1,  # not the views of the distillation once more
            epochs=epochs,
            done=done,
        )
        return dataset.map(lambda batch: (batch["image"], batch["label"]))

    validation = pipeline.evaluation_batches(info, "val", preprocessing)
    validation = validation.map(lambda batch: (batch["image"], batch["label"]))
    stage = _stage(run, info, "finetune")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with devices.scope():
        model = build.trained(run, "distilled", info, image_size=run.config.phase4.data.image_size)
        _compile(run, model, stage, settings.learning_rate, loss)
    _write_history(run, "finetune_history", fit.fit(model, batches, validation, stage))


def _write_history(run: Run, name: str, rows: list[dict]) -> None:
    if not run.assists:
        write_json(run.path(name), {"epochs": rows})


def _stage(run: Run, info, name: str):
    from keras_pipeline.data import pipeline
    from keras_pipeline.training.fit import Stage

    settings = run.config.phase4
    steps = pipeline.steps_per_epoch(info, settings.training.batch_size)
    return Stage(
        run.path(f"{name}_history").parent,
        getattr(settings, name).epochs,
        steps,
        settings.training.batch_size,
        len(info.classes),
        settings.training.warmup_epochs,
        settings.callbacks,
        made_from=run.made_from,
    )


def _compile(run: Run, model, stage, learning_rate: float, loss=None) -> None:
    import keras

    from keras_pipeline.training.recall import MacroRecall
    from keras_pipeline.training.schedule import build_optimizer, jit_compile

    training = run.config.phase4.training
    optimizer = build_optimizer(
        training.optimizer,
        learning_rate=learning_rate,
        weight_decay=training.weight_decay,
        steps=stage.epochs * stage.steps_per_epoch,
        warmup=round(stage.warmup_epochs * stage.steps_per_epoch),
    )
    metrics = [
        keras.metrics.SparseCategoricalAccuracy(name="top1"),
        keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5"),
        MacroRecall(stage.num_classes),
    ]
    model.compile(optimizer=optimizer, loss=loss, metrics=metrics, jit_compile=jit_compile())


def evaluate(run: Run) -> None:
    # The gates ask for three splits, the report shows pictures of one.
    splits = ("train", "val", "test") if run.split == "test" else (run.split,)
    for split in splits:
        size = run.config.phase4.data.image_size
        evaluating.evaluate(run, "student", image_size=size, split=split, pictures=split == run.split)


def plot(run: Run) -> None:
    stages = {"distillation": "distill_history", "fine-tuning": "finetune_history"}
    build.draw_curves({title: run.read(name)["epochs"] for title, name in stages.items()}, run.path("curves"))
    print(run.path("curves"))


def _teachers(config: Config) -> tuple[str, ...]:
    """Where the teachers' word comes from."""
    return teaching.teachers_inputs("{name}")(config) if config.phase4.distill.live else ("soft_labels", "ensemble_val")


STEPS = [
    Step(
        "phase4", "distill", distill, ("dataset",), ("distilled", "distill_history"),
        ("seed", "deterministic", "phase3.model", "phase3.distillation", "phase3.teachers", "phase3.ensemble",
         "phase4.data", "phase4.training", "phase4.distill", "phase4.callbacks"), 4, more_inputs=_teachers,
        check=preflight.check_student,
        clean=lambda run: build.remove_backup(run.path("distilled").parent), trains=True,
    ),
    Step(
        "phase4", "finetune", finetune, ("dataset", "distilled"), ("student", "finetune_history"),
        ("seed", "deterministic", "phase4.data", "phase4.training", "phase4.finetune", "phase4.callbacks"), 3,
        clean=lambda run: build.remove_backup(run.path("student").parent), trains=True,
    ),
    Step(
        "phase4", "evaluate", evaluate, ("dataset", "student"),
        ("student_metrics", "student_predictions", "student_pictures", "student_metrics_val", "student_metrics_train"),
        (), 3,
    ),
    Step("phase4", "plot", plot, ("distill_history", "finetune_history"), ("curves",), (), 1),
]  # fmt: skip
