"""`phase3 check`: verify the soft labels, measure teachers and ensemble, and the student's size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from scipy.special import log_softmax

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.student import EnsembleMember, Phase3
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.core.progress import progress
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation.predict import decoded, inference
from keras_pipeline.models import heads, trained
from keras_pipeline.phases.phase3_soft_labels import student
from keras_pipeline.training import ensemble, soft_labels
from keras_pipeline.training.soft_labels import Layout
from keras_pipeline.training.store import Store

REPEATED = 256  # photos, drawn by the seed, on which each teacher predicts again
MIN_AGREEMENT = 0.98  # of those predictions with the stored ones; float16 may swap two nearly equal classes
MAX_SUM_ERROR = 1e-5  # from the training plan


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained teacher of the ensemble."""

    member: EnsembleMember
    path: Path
    preprocessing: Preprocessing
    infer: Callable[[tf.Tensor], np.ndarray]  # image [N, S, S, 3] -> logits [N, C]


def run(run: Run) -> None:
    """Check shapes, sums and the origin of the soft labels; measure teachers, ensemble and the student's size."""
    info = records.load_info(run.path("dataset"))
    layout = Layout.of(run.config.phase3, info)
    store = Store.open(run.path("soft_labels"), layout)
    members = run.config.phase3.teachers
    stores = [Store.open(run.folder / member.soft_labels, layout) for member in members]
    drawn = _draw(sum(shard["n"] for shard in store.shards), run.config.seed)
    rows = 0
    deviation = 0.0
    tails: list[np.ndarray] = []
    samples: list[tuple] = []  # (JPEG, each teacher's stored record) of the photos drawn
    hits = np.zeros(1 + len(members), int)
    for position, path in enumerate(info.shards("train")):
        combined, *own = (each.read(each.shards[position]) for each in (store, *stores))
        labels = np.empty(len(combined), int)
        for i, example in enumerate(records.read_shard(path)):
            photo = records.decode(example)
            labels[i] = photo.label
            if rows + i in drawn:
                samples.append((photo.image, [block[i] for block in own]))
        hits += [int((block["views"]["ids"][:, 0, 0] == labels).sum()) for block in (combined, *own)]
        deviation = max(deviation, _deviation(combined["views"], layout, store.folder / store.shards[position]["name"]))
        tails.append(soft_labels.tail_mass(combined["views"][:, 0], layout))
        rows += len(labels)
    teachers = [_load(run, member, info) for member in members]
    entries, answers = _measure(teachers, info, samples, run.config.phase3)
    with aside(run.path("ensemble_val")) as temporary:
        np.savez_compressed(temporary, **answers)
    for entry, n in zip(entries, hits, strict=True):
        entry["train_top1"] = n / rows
    untrained = student.build(run.config, len(info.classes))
    result = {
        "shape": [rows, len(info.classes)],
        "sum_max_deviation": deviation,
        "tail_mass": float(np.concatenate(tails).mean()),
        "bytes_per_photo": layout.dtype.itemsize,
        "ensemble": entries[0],
        "teachers": entries[1:],
        "student": _size(untrained, run.path("soft_label_check").with_name("student.keras"), run.config.seed),
    }
    write_json(run.path("soft_label_check"), result)
    _report(result)


def _report(result: dict) -> None:
    for entry in (result["ensemble"], *result["teachers"]):
        print(
            f"{entry['name']}: top-1 on train {entry['train_top1']:.3f}, val {entry['val_top1']:.3f}, "
            f"test {entry['test_top1']:.3f}"
            + (
                f"; {entry['agreement']:.1%} of {entry['asked']} stored answers are the teacher's"
                if "asked" in entry
                else ""
            )
        )
    print(f"soft labels {result['shape']}, {result['tail_mass']:.1%} outside the stored classes; {result['student']}")


def _load(run: Run, member: EnsembleMember, info: DatasetInfo) -> Teacher:
    path = run.folder / member.path
    model = trained.load(path, info)
    return Teacher(member, path, Preprocessing.of(run.config.dataset, model.input_shape[1]), inference(model))


def _deviation(views: np.ndarray, layout: Layout, shard: Path) -> float:
    """Return the largest distance from 1 of a record's sum of probabilities.

    Raises:
        BrokenArtefact: naming the shard, if that is above MAX_SUM_ERROR.
    """
    blocks = (views[start : start + soft_labels.BLOCK].ravel() for start in range(0, len(views), soft_labels.BLOCK))
    largest = float(np.max([np.abs(soft_labels.total(block, layout) - 1).max() for block in blocks]))
    if not largest <= MAX_SUM_ERROR:  # NaN too
        raise BrokenArtefact(
            f"{shard}: probabilities of a record sum to 1 ± {largest:g}, expected ± {MAX_SUM_ERROR:g}: a class is "
            "listed twice, or a value is not finite; run `phase3 combine` again with --force"
        )
    return largest


def _draw(n: int, seed: int) -> set[int]:
    """Draw the positions, among n train photos, of those on which the teachers predict again."""
    return set(np.random.default_rng(seed).choice(n, min(REPEATED, n), replace=False).tolist())


def _measure(
    teachers: Sequence[Teacher], info: DatasetInfo, samples: list[tuple], settings: Phase3
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Return metrics of the ensemble and of each teacher, and {sample_id, answer} of the ensemble on val.

    Args:
        samples: (JPEG, each teacher's stored record) of some train photos.

    Raises:
        BrokenArtefact: if a teacher does not repeat what is stored as its own.
    """
    entries: list[dict] = [{"name": "ensemble"}]
    for number, teacher in enumerate(teachers):
        agreement = _agreement(teacher, [(image, stored[number]) for image, stored in samples])
        if agreement < MIN_AGREEMENT:
            raise BrokenArtefact(
                f"{teacher.path}: of {len(samples)} stored answers {agreement:.1%} are the teacher's, "
                f"expected {MIN_AGREEMENT:.0%} or more: the soft labels are of another model or of other views; run "
                "its `logits` again with --force, then `phase3 combine`"
            )
        entries.append({"name": teacher.member.path, "agreement": agreement, "asked": len(samples)})
    by_split = {split: _answers(teachers, info, split, settings) for split in ("val", "test")}
    for split, (labels, _, answers) in by_split.items():
        for entry, column in zip(entries, answers.T, strict=True):
            entry[f"{split}_top1"] = float((column == labels).mean())
    _, ids, answers = by_split["val"]
    return entries, {"sample_id": ids, "answer": answers[:, 0]}


def _answers(
    teachers: Sequence[Teacher], info: DatasetInfo, split: str, settings: Phase3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels [n], sample ids [n], and first answers int [n, 1 + t] of the ensemble and of each teacher.

    Works batch by batch: 85,000 photos of 9,000 classes would take 3 GB a teacher.
    """
    members = [(teacher.member.weight, teacher.member.region_filter) for teacher in teachers]
    photos = [pipeline.evaluation_batches(info, split, teacher.preprocessing) for teacher in teachers]
    labels, ids, answers = [], [], []
    for batches in progress(tf.data.Dataset.zip(tuple(photos)), description=f"teachers on {split}", unit="batches"):
        images = [batch["image"] for batch in batches]
        logits = np.stack([each.infer(image) for each, image in zip(teachers, images, strict=True)], axis=1)
        shifted = (logits - logits.max(axis=2, keepdims=True)).astype(np.float64)
        dense = log_softmax(shifted / settings.distillation.temperature, axis=2)
        weights = ensemble.member_weights(members, decoded(batches[0]["region"].numpy()))
        together = np.asarray(ensemble.ensemble(dense, weights, settings.ensemble))
        answers.append(np.concatenate([together[:, None], dense], axis=1).argmax(axis=2))
        labels.append(batches[0]["label"].numpy())
        ids.append(decoded(batches[0]["sample_id"].numpy()))
    return np.concatenate(labels), np.concatenate(ids), np.concatenate(answers)


def _agreement(teacher: Teacher, samples: list[tuple]) -> float:
    """Return the share of (JPEG, stored record) whose first answer the teacher repeats on a stored view."""
    view = pipeline.stored_view(teacher.preprocessing)
    size = pipeline.EVALUATION_BATCH
    equal = 0
    for start in range(0, len(samples), size):
        images, stored = [], []
        for i, (image, record) in enumerate(samples[start : start + size]):
            number = i % len(record["views"])  # each view in its turn
            seed = tf.constant([record["sample"], record["views"]["seed"][number]], tf.int64)
            images.append(view(tf.constant(image), seed, tf.constant(number, tf.int64)))
            stored.append(record["views"]["ids"][number, 0])
        equal += int((teacher.infer(tf.stack(images)).argmax(axis=1) == np.array(stored)).sum())
    return equal / len(samples)


def _size(model: keras.Model, path: Path, seed: int) -> dict:
    """Save the untrained student to `path`; return its parameters and megabytes (10^6 bytes) of weights.

    Raises:
        ValueError: if it predicts differently after reloading.
    """
    image = np.random.default_rng(seed).uniform(0, 255, (2, *model.input_shape[1:])).astype("float32")
    with aside(path) as temporary:
        model.save(temporary)
        reloaded = heads.load_classifier(temporary)
        model.save(temporary)
    difference = float(np.abs(model(image, training=False) - reloaded(image, training=False)).max())
    if difference:
        raise ValueError(
            f"the saved student: received outputs that differ by {difference} after loading, expected equal ones; "
            "report this as a bug"
        )
    parameters = model.count_params()
    return {
        "parameters": parameters,
        "megabytes": {"fp32": parameters * 4e-6, "fp16": parameters * 2e-6, "int8": parameters * 1e-6},
    }
