"""`phase3 check`: verify the soft labels, judge teachers and ensemble, and measure the student's size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.core.progress import progress
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation.predict import decoded, inference
from keras_pipeline.models import heads, trained
from keras_pipeline.phases.phase3_soft_labels import student
from keras_pipeline.training import soft_labels
from keras_pipeline.training.soft_labels import Layout, Store

AGREEING = 256  # photos, drawn by the seed, on which each teacher is asked again

SUM_ERROR = 1e-5  # of the plan

LEAST_AGREEMENT = 0.98  # float16 may turn round two answers that are as good as equal


def run(run: Run) -> None:
    """Check shapes, sums and whose answers are stored; measure teachers, ensemble and the student's size."""
    info = records.load_info(run.path("dataset"))
    layout = Layout.of(run.config.phase3, info)
    store = Store.open(run.path("soft_labels"), layout)
    members = run.config.phase3.teachers
    stores = [Store.open(run.folder / member.soft_labels, layout) for member in members]
    asked = _asked(run, sum(shard["n"] for shard in store.shards))
    rows, deviation, tail, samples = 0, 0.0, [], []
    hits = np.zeros(1 + len(members), int)
    for position, path in enumerate(info.shards("train")):
        said = [each.read(each.shards[position]) for each in (store, *stores)]
        labels = np.empty(len(said[0]), int)
        for i, example in enumerate(records.read_shard(path)):
            photo = records.decode(example)
            labels[i] = photo.label
            if rows + i in asked:
                samples.append((photo.image, [block[i] for block in said[1:]]))
        hits += [int((block["views"]["ids"][:, 0, 0] == labels).sum()) for block in said]
        deviation = max(deviation, _deviation(said[0]["views"], layout, store.folder / store.shards[position]["name"]))
        rows += len(labels)
        tail.append(soft_labels.tail_mass(said[0]["views"][:, 0], layout))
    judged, answers = _judge(run, info, samples)
    with aside(run.path("ensemble_val")) as temporary:
        np.savez_compressed(temporary, **answers)
    for entry, n in zip(judged, hits, strict=True):
        entry["train_top1"] = n / rows
    result = {
        "shape": [rows, len(info.classes)],
        "sum_max_deviation": deviation,
        "tail_mass": float(np.concatenate(tail).mean()),
        "bytes_per_photo": layout.dtype.itemsize,
        "ensemble": judged[0],
        "teachers": judged[1:],
        "student": _student_size(run, info),
    }
    write_json(run.path("soft_label_check"), result)
    for entry in judged:
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


def _deviation(views: np.ndarray, layout, shard: Path) -> float:
    """How far from 1 a record's probabilities sum up. Raises BrokenArtefact naming the shard where that is too far."""
    blocks = (views[start : start + soft_labels.BLOCK].ravel() for start in range(0, len(views), soft_labels.BLOCK))
    largest = float(np.max([np.abs(soft_labels.total(block, layout) - 1).max() for block in blocks]))
    if not largest <= SUM_ERROR:  # NaN too
        raise BrokenArtefact(
            f"{shard}: probabilities of a record sum to 1 ± {largest:g}, expected ± {SUM_ERROR:g}: a class listed "
            "twice, or numbers that are none; run `phase3 combine` again with --force"
        )
    return largest


def _asked(run: Run, n: int) -> set[int]:
    """Positions, among n train photos, of those on which the teachers are asked again."""
    return set(np.random.default_rng(run.config.seed).choice(n, min(AGREEING, n), replace=False).tolist())


def _judge(run: Run, info, samples: list[tuple]) -> tuple[list[dict], dict]:
    """([figures of the ensemble, of each teacher], {sample_id, answer} of the ensemble over val).

    Raises BrokenArtefact where a teacher does not say what is stored as its word.
    """
    members = run.config.phase3.teachers
    models = [trained.load(run.folder / member.path, info) for member in members]
    asked = [(model.input_shape[1], inference(model)) for model in models]
    entries: list[dict] = [{"name": "ensemble"}]
    for number, (member, (size, infer)) in enumerate(zip(members, asked, strict=True)):
        agreement = _agreement(run, size, infer, [(image, record[number]) for image, record in samples])
        if agreement < LEAST_AGREEMENT:
            raise BrokenArtefact(
                f"{run.folder / member.path}: of {len(samples)} stored answers {agreement:.1%} are the teacher's, "
                f"expected {LEAST_AGREEMENT:.0%} or more: the soft labels are another model's, or of other views; run "
                "its `logits` again with --force, then `phase3 combine`"
            )
        entries.append({"name": member.path, "agreement": agreement, "asked": len(samples)})
    said = {split: _answers(run, info, split, asked) for split in ("val", "test")}
    for split, (labels, _, answers) in said.items():
        for entry, column in zip(entries, answers.T, strict=True):
            entry[f"{split}_top1"] = float((column == labels).mean())
    _, ids, answers = said["val"]
    return entries, {"sample_id": ids, "answer": answers[:, 0]}


def _answers(run: Run, info, split: str, asked: list[tuple]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels [n], sample ids [n], first answers int [n, 1 + t] of the ensemble and of each teacher).

    Args:
        asked: (image size, inference) of each teacher. Batch by batch, because 85,000 photos of 9,000 classes would be
            3 GB a teacher.
    """
    members, temperature = run.config.phase3.teachers, run.config.phase3.distillation.temperature
    short_side = run.config.dataset.short_side
    photos = [pipeline.evaluation_batches(info, split, Preprocessing(size, short_side)) for size, _ in asked]
    labels, ids, answers = [], [], []
    for batches in progress(tf.data.Dataset.zip(tuple(photos)), description=f"teachers on {split}", unit="batches"):
        logits = np.stack([infer(b["image"]) for b, (_, infer) in zip(batches, asked, strict=True)], axis=1)
        scaled = (logits - logits.max(axis=2, keepdims=True)).astype(np.float64) / temperature
        dense = scaled - np.log(np.exp(scaled).sum(axis=2, keepdims=True))
        regions = decoded(batches[0]["region"].numpy())
        weights = soft_labels.member_weights([(m.weight, m.region_filter) for m in members], regions)
        together = np.asarray(soft_labels.ensemble(dense, weights, run.config.phase3.ensemble))
        answers.append(np.concatenate([together[:, None], dense], axis=1).argmax(axis=2))
        labels.append(batches[0]["label"].numpy())
        ids.append(decoded(batches[0]["sample_id"].numpy()))
    return np.concatenate(labels), np.concatenate(ids), np.concatenate(answers)


def _agreement(run: Run, size: int, infer: Callable, samples: list[tuple]) -> float:
    """Share of (JPEG, stored record) for which the teacher, shown a stored view again, has the stored first answer."""
    view = pipeline.stored_view(Preprocessing(size, run.config.dataset.short_side))
    equal = 0
    for start in range(0, len(samples), 64):
        images, stored = [], []
        for i, (image, record) in enumerate(samples[start : start + 64]):
            number = i % len(record["views"])  # each view in its turn
            seed = tf.constant([record["sample"], record["views"]["seed"][number]], tf.int64)
            images.append(view(tf.constant(image), seed, tf.constant(number, tf.int64)))
            stored.append(record["views"]["ids"][number, 0])
        equal += int((infer(tf.stack(images)).argmax(axis=1) == np.array(stored)).sum())
    return equal / len(samples)


def _student_size(run: Run, info) -> dict:
    """Builds, saves and reloads the student; equal outputs or ValueError. Sizes in MB (10^6 bytes) of the weights."""
    model = student.build(run.config, len(info.classes))
    size = run.config.phase4.data.image_size
    image = np.random.default_rng(run.config.seed).uniform(0, 255, (2, size, size, 3)).astype("float32")
    with aside(run.path("soft_label_check").with_name("student.keras")) as temporary:
        model.save(temporary)
        reloaded = heads.load_classifier(temporary)
        model.save(temporary)
    difference = float(np.abs(model(image, training=False) - reloaded(image, training=False)).max())
    if difference:
        raise ValueError(f"the student answers differently after save and load, by {difference}; report this as a bug")
    parameters = model.count_params()
    return {
        "parameters": parameters,
        "megabytes": {"fp32": parameters * 4e-6, "fp16": parameters * 2e-6, "int8": parameters * 1e-6},
    }
