"""What several phases build from the config in the same way."""

from __future__ import annotations

import shutil
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.core.sidecars import sidecar


def trained(run: Run, model_name: str, info, *, image_size: int | None = None):
    """A model artefact, see `load`."""
    return load(run, run.path(model_name), info, image_size=image_size)


def load(run: Run, path: Path, info, *, image_size: int | None = None):
    """A `.keras` file. Raises BrokenArtefact where it was trained on another dataset, whose classes may be others, or
    takes photos of another size.
    """
    from keras_pipeline.models import heads

    learnt = (sidecar(path) or {}).get("inputs", {}).get("dataset")
    present = (sidecar(run.path("dataset")) or {}).get("content_hash")
    if learnt and present and learnt != present:
        raise BrokenArtefact(
            f"{path}: trained on another dataset (content hash {learnt[:12]}) than {run.path('dataset')} "
            f"({present[:12]}), whose classes may be others; train it again"
        )
    model = heads.load_classifier(path)
    if model.output_shape[-1] != len(info.classes):
        raise BrokenArtefact(
            f"{path}: answers {model.output_shape[-1]} classes, the dataset has {len(info.classes)}; train it again"
        )
    if image_size not in (None, model.input_shape[1]):
        raise BrokenArtefact(
            f"{path}: takes photos of {model.input_shape[1]} px, the config's data.image_size is {image_size}; set it "
            "back, or train again"
        )
    return model


def predict_split(run: Run, model_name: str, split: str, image_size: int):
    """(predictions of a model artefact over a split, dataset info); of train, its first shard only."""
    from keras_pipeline.data import records

    info = records.load_info(run.path("dataset"))
    model = trained(run, model_name, info, image_size=image_size)
    return predict(run, model, split, image_size, f"{model_name} on {split}"), info


def predict(run: Run, model, split: str, image_size: int, description: str, *, file: Path | None = None):
    """Predictions over a split; of train, its first shard only.

    Args:
        model: see `evaluation.predict`.
        file: where the logits are to lie, see `evaluation.predict`.
    """
    from keras_pipeline.data import pipeline, records
    from keras_pipeline.data.preprocess import Preprocessing
    from keras_pipeline.evaluation import predict

    info = records.load_info(run.path("dataset"))
    max_shards = 1 if split == "train" else None
    n = sum(shard["n"] for shard in info.splits[split]["shards"][:max_shards])
    preprocessing = Preprocessing(image_size, run.config.dataset.short_side)
    batches = pipeline.evaluation_batches(info, split, preprocessing, max_shards=max_shards)
    return predict.predict(model, batches, n, description, file=file)


def student_preprocessing(run: Run):
    """From a photo to the student's input; a photo too small for the export is too small for an answer."""
    from keras_pipeline.data.preprocess import Preprocessing

    settings = run.config.dataset
    return Preprocessing(run.config.phase4.data.image_size, settings.short_side, min_short_side=settings.min_short_side)


def soft_label_layout(run: Run, info):
    """The layout that every store of this run has."""
    from keras_pipeline.training.soft_labels import Layout

    settings = run.config.phase3
    return Layout(
        dataset_hash=content_hash(run.path("dataset")),
        class_hash=info.class_hash,
        num_classes=len(info.classes),
        temperature=settings.distillation.temperature,
        top_k=min(settings.soft_labels.top_k, len(info.classes)),
        views=settings.soft_labels.views,
    )


def student(run: Run, num_classes: int):
    """The untrained student of phase 3's section at phase 4's image size."""
    from keras_pipeline.models import heads

    model = run.config.phase3.model
    return heads.build_classifier(
        model, num_classes=num_classes, image_size=run.config.phase4.data.image_size, dropout=model.dropout_rate
    )


def draw_curves(stages: dict[str, list[dict]], path: Path) -> None:
    """The rows that `fit.fit` returned for each stage, one after the other."""
    from keras_pipeline.evaluation.report import plots

    histories = [(title, {key: [row[key] for row in rows] for key in rows[0]}) for title, rows in stages.items()]
    with aside(path) as temporary:
        plots.training_curves(histories, temporary)


def remove_backup(stage: Path) -> None:
    """What only a restart of the stage's training needs, once its artefacts are safe."""
    shutil.rmtree(stage / "backup", ignore_errors=True)
