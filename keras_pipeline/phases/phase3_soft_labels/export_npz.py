"""`phase3 export-npz`: write the soft labels as the training plan's dense arrays."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.student import TRAINED_HERE
from keras_pipeline.core.files import aside
from keras_pipeline.core.npz import NpzWriter
from keras_pipeline.core.progress import progress
from keras_pipeline.data import records
from keras_pipeline.training import soft_labels
from keras_pipeline.training.soft_labels import Layout
from keras_pipeline.training.store import Store


def main(run: Run, options: argparse.Namespace) -> tuple[dict, int]:
    """Write the clean view's soft labels to phase3/npz/, for inspection; training does not read them.

    A teacher's file holds `logits` float32 [N, C] (log-probabilities times T, the tail spread evenly), `indices` str
    [N] (the sample ids) and `confidences` float32 [N] (the largest probability at T). The ensemble's holds
    `soft_probs` float32 [N, C] and `indices`. Arrays are written block by block: at full size one takes 30 GB.
    """
    info = records.load_info(run.path("dataset"))
    layout = Layout.of(run.config.phase3, info)
    ids = np.array([records.decode(e).sample_id for path in info.shards("train") for e in records.read_shard(path)])
    named = {"teacher": "teacher_global_logits_train", "regional": "teacher_regional_logits_train"}
    made = {}
    for member in run.config.phase3.teachers:
        store = Store.open(run.folder / member.soft_labels, layout)
        name = named.get(TRAINED_HERE.get(member.path, ""), Path(member.path).parent.name + "_logits_train")
        made[name] = (store, "logits", lambda dense: dense * layout.temperature, True)
    combined = Store.open(run.path("soft_labels"), layout)
    made["soft_labels_combined_train"] = (combined, "soft_probs", np.exp, False)
    folder = run.path("soft_labels").with_name("npz")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (store, key, convert, confident) in made.items():
        confidences: list[np.ndarray] = []
        with aside(folder / f"{name}.npz") as temporary, NpzWriter(temporary) as npz:
            npz.add_blocks(key, (len(ids), layout.num_classes), map(convert, _dense_blocks(store, name, confidences)))
            npz.add("indices", ids)
            if confident:
                npz.add("confidences", np.concatenate(confidences))
        print(folder / f"{name}.npz")
    return {"written": [str(folder / f"{name}.npz") for name in made]}, 0


def _dense_blocks(store: Store, name: str, confidences: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the clean views' log-probabilities at T, float64 [BLOCK, C] at a time.

    Appends each block's largest probabilities, float32 [BLOCK], to `confidences`.
    """
    for shard in progress(store.shards, description=name, unit="shards"):
        views = store.read(shard)["views"][:, 0]
        for start in range(0, len(views), soft_labels.BLOCK):
            dense = soft_labels.dense_log_probabilities(views[start : start + soft_labels.BLOCK], store.layout)
            confidences.append(np.exp(dense.max(axis=1)).astype("<f4"))
            yield dense
