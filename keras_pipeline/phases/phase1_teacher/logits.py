"""`phase1 logits`: store a teacher's soft labels for every view of every train photo."""

from __future__ import annotations

import functools
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from keras_pipeline.core import beam
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation.predict import graph
from keras_pipeline.models import trained
from keras_pipeline.phases.phase1_teacher.train import TeacherSpec, spec_of
from keras_pipeline.training import soft_labels, store
from keras_pipeline.training.background import BackgroundWriter
from keras_pipeline.training.soft_labels import Layout


def run(run: Run) -> None:
    store_logits(run, spec_of(run))


def store_logits(run: Run, spec: TeacherSpec) -> None:
    """Store the teacher's soft labels for every view of every train photo; Beam may share out the shards."""
    info = records.load_info(run.path("dataset"))
    folder = run.path(f"{spec.prefix}_logits")
    names = [shard["name"] for shard in info.splits["train"]["shards"]]
    store.begin_store(folder)
    if run.beam is None:
        entries = _labeller(run, spec, info)(names)
    else:
        label = functools.partial(label_shard, run.config, spec, run.made_from)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as scratch:
            by_name = {entry["name"]: entry for entry in beam.each(label, names, run.beam, Path(scratch))}
        entries = [by_name[name] for name in names]
    store.finish_store(folder, Layout.of(run.config.phase3, info), entries)


Labeller = Callable[[Sequence[str]], list[dict]]  # names of train shards -> their entries in the index
_labellers: dict[tuple, Labeller] = {}  # kept by a Beam worker from one shard to the next

# In a process: TensorFlow uses all its cores, and Keras can't build two models at once.
_one_at_a_time = threading.Lock()


def label_shard(config: Config, spec: TeacherSpec, made_from: str, name: str) -> dict:
    """Write one train shard's soft labels in a Beam worker; return its entry in the index."""
    key = (config.root, config.experiment, made_from, spec.prefix)
    with _one_at_a_time:
        if key not in _labellers:
            run = Run(config, None, made_from=made_from)
            _labellers[key] = _labeller(run, spec, records.load_info(run.path("dataset")))
        return _labellers[key]([name])[0]


def _labeller(run: Run, spec: TeacherSpec, info: DatasetInfo) -> Labeller:
    """Load the teacher; return a function that writes the soft labels of train shards."""
    layout = Layout.of(run.config.phase3, info)
    folder = run.path(f"{spec.prefix}_logits")
    model = trained.load(run.path(spec.prefix), info, image_size=spec.settings.data.image_size)
    summary = graph(model, functools.partial(soft_labels.summarise, layout=layout))
    preprocessing = Preprocessing.of(run.config.dataset, spec.settings.data.image_size)
    photos = {shard["name"]: shard["n"] for shard in info.splits["train"]["shards"]}

    def batches_of(shard: Path) -> Iterator[list[tuple]]:
        """Yield (seeds, summary) of each view, still on the device: only the writer waits for it."""
        views = [
            pipeline.stored_view_batches(shard, preprocessing, number=number, seed=run.config.seed)
            for number in range(layout.views)
        ]
        for batches in zip(*views, strict=True):
            yield [(batch["seed"], summary(batch["image"])) for batch in batches]

    def encode(views: list[tuple]) -> np.ndarray:
        block = np.zeros(len(views[0][0]), layout.dtype)
        for number, (seeds, answer) in enumerate(views):
            block["sample"], seed = seeds.numpy().T
            block["views"][:, number] = soft_labels.pack(answer, layout, seed)
        return block

    def label(names: Sequence[str]) -> list[dict]:
        with BackgroundWriter(folder, layout, made_from=run.made_from) as writer:
            for name in names:
                writer.write(name, photos[name], batches_of(info.folder / name), encode)
        return [writer.entries[name] for name in names]

    return label
