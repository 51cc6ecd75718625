"""`phase3 combine`: average the teachers' soft labels into one set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_pipeline.core.artifacts import Run
from keras_pipeline.data import records
from keras_pipeline.training import ensemble, soft_labels
from keras_pipeline.training.soft_labels import Layout
from keras_pipeline.training.store import Store, write_store


def run(run: Run) -> None:
    info = records.load_info(run.path("dataset"))
    layout = Layout.of(run.config.phase3, info)
    members = [(Store.open(run.folder / member.soft_labels, layout), member) for member in run.config.phase3.teachers]
    tails: list[np.ndarray] = []
    cores = len(os.sched_getaffinity(0))

    def records_of(position: int, path: Path) -> Iterator[np.ndarray]:
        regions = np.array([records.decode(example).region for example in records.read_shard(path)])
        answers = [(store.read(store.shards[position]), m.weight, m.region_filter) for store, m in members]
        for block in ensemble.combine(answers, regions, layout, space=run.config.phase3.ensemble, workers=cores):
            tails.append(soft_labels.tail_mass(block["views"][:, 0], layout))
            yield block

    shards = info.splits["train"]["shards"]
    write_store(
        run.path("soft_labels"),
        layout,
        ((s["name"], s["n"], records_of(position, info.folder / s["name"])) for position, s in enumerate(shards)),
        made_from=run.made_from,
    )
    tail = float(np.concatenate(tails).mean()) if tails else 0.0  # of the shards that this run wrote
    if tail > 0.5:
        print(
            f"warning: at T {layout.temperature:g}, {tail:.0%} of the teachers' probability lies outside the "
            f"{layout.top_k} classes stored of each photo, only its sum is stored, so the student learns little of it; "
            "lower phase3.distillation.temperature (1 keeps nearly all of it), or raise phase3.soft_labels.top_k"
        )
