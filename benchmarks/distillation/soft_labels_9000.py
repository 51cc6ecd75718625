"""What soft labels of 9,000 classes cost beside the build that sorted every class: `phase1 logits`, `phase3 combine`.

    .venv/bin/python -m benchmarks.distillation.soft_labels_9000      (CPU only, 2 cores, five minutes; needs git)

Both builds, this one and commit BASE in a worktree made for the run, take turns in processes of their own on the same
project: drawn photos of 32 px, 8 views, two teachers (means of 4 x 4 pixels, one dense layer), 128 classes stored. The
steps' own functions run. `logits` gets its batches from memory: decoding and augmentation, the same in both, took as
much as the encoding and varied by more than what is left of it. The same batches through the same model without
encoding are subtracted, so that encoding, the copy to the host and writing remain. Of `combine`, nothing is subtracted.

Judged by the process's CPU time (getrusage), all threads, because other work on the machine changes it less than the
time on the clock, which is printed beside it. Each process takes the means of PASSES, after one to warm up; medians of
ROUNDS. Both builds have to write the same bytes. The last line is 0.2 over the larger of the two ratios, ours over
BASE's; exit 1 below 1 or where bytes differ.
"""

import hashlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from PIL import Image

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_dict
from keras_pipeline.core.files import write_json
from keras_pipeline.core.record import Photo
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.data import photo, pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation.predict import inference
from keras_pipeline.models import trained
from keras_pipeline.phases.phase1_teacher import logits
from keras_pipeline.phases.phase2_regional import logits as regional_logits
from keras_pipeline.phases.phase3_soft_labels import combine

BASE = "8e263ef"
ROOT = Path(__file__).parents[2]
CLASSES, PHOTOS, VIEWS, SIZE = 9000, 640, 8, 32
ROUNDS, PASSES, GOAL = 5, 2, 0.2
STORES = ("teacher_logits", "regional_logits", "soft_labels")


def open_run(root: Path) -> Run:
    """The project at `root`: two teachers of equal weight, T = 1 as docs/student.md has it for many classes."""
    small = {phase: {"data": {"image_size": SIZE}} for phase in ("phase1", "phase2", "phase4")}
    phase3 = {
        "teachers": [{"path": f"phase{number}/best.keras", "weight": 0.5} for number in (1, 2)],
        "soft_labels": {"views": VIEWS, "top_k": 128},
        "distillation": {"temperature": 1.0},
    }
    values = {"experiment": "many", "root": str(root), "dataset": {"short_side": SIZE}, "phase3": phase3, **small}
    return Run(from_dict(values), None)


def make_project(root: Path) -> None:
    """Draw the photos and the teachers' weights."""
    run, random = open_run(root), np.random.default_rng(0)
    classes = [f"Species {number:04d}" for number in range(CLASSES)]
    folder = run.path("dataset").parent

    def example(number: int) -> bytes:
        file = io.BytesIO()
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        image, height, width = photo.to_record(file.getvalue(), short_side=SIZE, min_short_side=SIZE, quality=90)
        label = number % CLASSES
        return records.encode(
            Photo(
                sample_id=f"photo-{number}", image=image, height=height, width=width, label=label, region="EU",
                latin_name=classes[label], group_id=f"{number}", source_url="", sha256="",
            )
        )  # fmt: skip

    shards = [records.write_shard(folder / f"train-{i}.tfrecord", map(example, range(i, PHOTOS, 2))) for i in range(2)]
    splits = {"train": {"n": PHOTOS, "shards": shards, "per_region": {"EU": PHOTOS}, "per_class": {}}}
    write_json(
        run.path("dataset"), {"name": "many", "classes": classes, "class_hash": class_hash(classes), "splits": splits}
    )
    kernel = random.normal(size=(192, CLASSES))
    for name in ("teacher", "regional"):
        own = kernel + 0.3 * random.normal(size=kernel.shape)
        model = keras.Sequential([
            keras.Input((SIZE, SIZE, 3)), keras.layers.Rescaling(1 / 64, offset=-2), keras.layers.AveragePooling2D(4),
            keras.layers.Flatten(), keras.layers.Dense(CLASSES),
        ])  # fmt: skip
        model.layers[-1].set_weights([(own * 3 / 192**0.5).astype("float32"), np.zeros(CLASSES, "float32")])
        run.path(name).parent.mkdir(parents=True)
        model.save(run.path(name))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Microseconds of CPU and on the clock, a view of a photo."""

    def cpu() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    began, used = time.perf_counter(), cpu()
    work()
    return tuple(1e6 * value / PHOTOS / VIEWS for value in (cpu() - used, time.perf_counter() - began))


def keep_batches(run: Run) -> None:
    """Let both `logits` and `forward` find their batches in memory."""
    info, make = records.load_info(run.path("dataset")), pipeline.stored_view_batches
    preprocessing = Preprocessing.of(run.config.dataset, SIZE)
    kept = {
        (shard.name, number): list(make(shard, preprocessing, number=number, seed=run.config.seed))
        for shard in info.shards("train")
        for number in range(VIEWS)
    }
    pipeline.stored_view_batches = lambda shard, _, *, number, seed: kept[shard.name, number]


def forward(run: Run) -> None:
    """Do what `logits` does, but for encoding."""
    info = records.load_info(run.path("dataset"))
    infer = inference(trained.load(run.path("teacher"), info))
    for shard in info.shards("train"):
        for number in range(VIEWS):
            for batch in pipeline.stored_view_batches(shard, None, number=number, seed=run.config.seed):
                infer(batch["image"])


def worker(root: Path) -> None:
    """Time one build, the one that this process imports; prints JSON."""
    run = open_run(root)
    keep_batches(run)
    regional_logits.run(run)  # of the second teacher
    steps = {"forward": forward, "logits": logits.run, "combine": combine.run}
    passes: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(1 + PASSES):
        for name, step in steps.items():
            passes[name].append(timed(lambda step=step: step(run)))
    result = {name: np.mean(each[1:], axis=0) for name, each in passes.items()}
    result["logits"] = result["logits"] - result["forward"]
    files = [file for name in STORES for file in sorted(run.path(name).glob("*.tfrecord"))]
    written = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    print(json.dumps({name: each.tolist() for name, each in result.items()} | {"bytes": written}))


def measure(tree: Path, root: Path) -> dict:
    """Run `worker` with the package of a source tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, str(root)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        root, base = Path(name) / "project", Path(name) / "base"
        make_project(root)
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(base), BASE], check=True)
        try:
            results: dict[str, list[dict]] = {"base": [], "ours": []}
            for _ in range(ROUNDS):
                for build, tree in (("base", base), ("ours", ROOT)):
                    results[build].append(measure(tree, root))
        finally:
            subprocess.run([*git, "remove", "--force", str(base)], check=True)
    ratios = []
    for step in ("forward", "logits", "combine"):
        cpu, clock = (
            {build: statistics.median(result[step][which] for result in each) for build, each in results.items()}
            for which in (0, 1)
        )
        ratio = cpu["ours"] / cpu["base"]
        singles = {build: [round(result[step][0]) for result in each] for build, each in results.items()}
        print(
            f"{step:<8} {cpu['base']:6.0f} -> {cpu['ours']:5.0f} µs of CPU a view, {ratio:.3f} times; on the clock "
            f"{clock['base']:.0f} -> {clock['ours']:.0f}; single runs {singles['base']}, {singles['ours']}"
        )
        if step != "forward":
            ratios.append(ratio)
    same = len({result["bytes"] for each in results.values() for result in each}) == 1
    print(f"the same bytes: {same}")
    print(f"{GOAL / max(ratios):.3f}")
    return int(max(ratios) > GOAL or not same)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        worker(Path(sys.argv[1]))
    else:
        sys.exit(main())
