"""`phase1 logits`: store a teacher's soft labels of every train photo, at every stored view."""

from __future__ import annotations

import functools
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from keras_pipeline.core import beam
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation.predict import inference
from keras_pipeline.models import trained
from keras_pipeline.phases.phase1_teacher.train import TeacherSpec, spec_of
from keras_pipeline.training import soft_labels
from keras_pipeline.training.soft_labels import Layout


def run(run: Run) -> None:
    store_logits(run, spec_of(run))


def store_logits(run: Run, spec: TeacherSpec) -> None:
    """What the teacher says of every train photo, at every stored view."""
    info = records.load_info(run.path("dataset"))
    folder, names = run.path(f"{spec.prefix}_logits"), [shard["name"] for shard in info.splits["train"]["shards"]]
    soft_labels.begin_store(folder)
    if run.beam is None:
        entries = list(map(_answering(run, spec), names))
    else:
        answer = functools.partial(answer_shard, run.config, spec, run.made_from)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as scratch:
            found = {each["name"]: each for each in beam.each(answer, names, run.beam, Path(scratch))}
        entries = [found[name] for name in names]
    soft_labels.finish_store(folder, Layout.of(run.config.phase3, info), entries)


_ready_here: dict[tuple, Callable[[str], dict]] = {}

_one_at_a_time = threading.Lock()  # of a process: TensorFlow uses all its cores, and Keras builds no two models at once


def answer_shard(config: Config, spec: TeacherSpec, made_from: str, name: str) -> dict:
    """One train shard's soft labels, by a worker of Beam's, which keeps the teacher for the next."""
    key = (config.root, config.experiment, made_from, spec.prefix)
    with _one_at_a_time:
        if key not in _ready_here:
            _ready_here[key] = _answering(Run(config, None, made_from=made_from), spec)
        return _ready_here[key](name)


def _answering(run: Run, spec: TeacherSpec) -> Callable[[str], dict]:
    """train shard's name -> its entry in the index of soft labels, once they are written"""
    info = records.load_info(run.path("dataset"))
    layout = Layout.of(run.config.phase3, info)
    model = trained.load(run.path(spec.prefix), info, image_size=spec.settings.data.image_size)
    infer = inference(model)
    preprocessing = Preprocessing(spec.settings.data.image_size, run.config.dataset.short_side)
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
        folder = run.path(f"{spec.prefix}_logits")
        return soft_labels.write_shard(folder, layout, name, photos[name], batches, made_from=run.made_from)

    return answer
