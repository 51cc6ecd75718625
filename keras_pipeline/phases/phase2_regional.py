"""Phase 2: the regional teacher, trained on one region's photos over the same class list."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run, Step, write_json
from keras_pipeline.core.config import GLOBAL_TEACHER
from keras_pipeline.core.pretrained import check_available
from keras_pipeline.phases import build, teacher


def _job(run: Run) -> teacher.Job:
    return teacher.Job("regional", run.config.phase2, run.config.phase2.region)


def subset(run: Run) -> None:
    """Counts of the region's train photos; training reads them from the train shards, without a second copy."""
    from collections import Counter

    from keras_pipeline.data import records

    region = run.config.phase2.region
    info = records.load_info(run.path("dataset"))
    counts: Counter[str] = Counter()
    for shard in info.shards("train"):
        for example in records.read_shard(shard):
            photo = records.decode(example)
            if photo.region == region:
                counts[photo.latin_name] += 1
    for split in ("train", "val"):
        if not info.count(split, region):
            known = ", ".join(f"{name} {n}" for name, n in info.splits[split]["per_region"].items())
            raise ValueError(
                f"phase2.region: received {region!r}, of which no {split} photo is; expected one of {known}; set "
                "phase2.region to one of them"
            )
    commonest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    result = {"region": region, "samples": sum(counts.values()), "species": len(counts), "per_class": dict(commonest)}
    write_json(run.path("regional_subset"), result)
    print(f"{region}: {result['samples']} train photos of {len(counts)} species; commonest: {commonest[:20]}")


def train(run: Run) -> None:
    teacher.train(run, _job(run))


def evaluate(run: Run) -> None:
    build.evaluate(run, "regional", image_size=run.config.phase2.data.image_size)


def logits(run: Run) -> None:
    teacher.logits(run, _job(run))


STEPS = [
    Step("phase2", "subset", subset, ("dataset",), ("regional_subset",), ("phase2.region",), 1),
    Step(
        "phase2", "train", train, ("dataset", "regional_subset"), ("regional", "regional_history"),
        ("seed", "deterministic", "phase2"), 4, clean=lambda run: teacher.clean(run, "regional"),
        check=lambda run: check_available(run.config.phase2.model, "phase2.model.pretrained"),
        more_inputs=lambda config: ("teacher",) if config.phase2.model.pretrained == GLOBAL_TEACHER else (),
    ),
    Step("phase2", "evaluate", evaluate, ("dataset", "regional"), ("regional_metrics",), (), 1),
    Step(
        "phase2", "logits", logits, ("dataset", "regional"), ("regional_logits",),
        ("seed", "phase3.distillation.temperature", "phase3.soft_labels"), 2,
    ),
]  # fmt: skip
