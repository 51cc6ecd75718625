"""Phase 2: the regional teacher, trained on one region's photos over the same class list."""

from __future__ import annotations

from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.teachers import GLOBAL_TEACHER
from keras_pipeline.core.files import write_json
from keras_pipeline.phases import evaluating, preflight, teacher
from keras_pipeline.phases.steps import Step


def job(run: Run) -> teacher.Job:
    return teacher.Job("regional", run.config.phase2, run.config.phase2.region)


def subset(run: Run) -> None:
    """Which train photos are the region's and where they lie; training reads them there, without a second copy."""
    import pandas as pd

    from keras_pipeline.core.files import aside
    from keras_pipeline.core.progress import progress
    from keras_pipeline.data import records

    region = run.config.phase2.region
    info = records.load_info(run.path("dataset"))
    tables = [
        records.index_shard(shard, lambda photo: {"latin_name": photo.latin_name, "region": photo.region})
        for shard in progress(info.shards("train"), description="subset", unit="shards")
    ]
    index = pd.concat([table[table.region == region] for table in tables], ignore_index=True)
    index["file"] = index["file"].map(lambda file: Path(file).name)
    with aside(run.path("regional_index")) as temporary:
        index.drop(columns="region").to_parquet(temporary, index=False)
    commonest = sorted(index["latin_name"].value_counts().items(), key=lambda item: (-item[1], item[0]))
    per_class = {name: int(n) for name, n in commonest}
    write_json(
        run.path("regional_subset"),
        {"region": region, "samples": len(index), "species": len(per_class), "per_class": per_class},
    )
    print(f"{region}: {len(index)} train photos of {len(per_class)} species; the commonest:")
    print("\n".join(f"{n:>8}  {name}" for name, n in list(per_class.items())[:20]))


def train(run: Run) -> None:
    teacher.train(run, job(run))


def evaluate(run: Run) -> None:
    """As every model; on the test split also against the global teacher."""
    size, region, compared = run.config.phase2.data.image_size, run.config.phase2.region, run.split == "test"
    # Read first: where they can't be, nothing is done in vain.
    rival = evaluating.load_answers(run.path("teacher_predictions")) if compared else {}
    beside = {"global teacher": run.read("teacher_metrics")} if compared else {}
    evaluating.evaluate(run, "regional", image_size=size, beside=beside)
    if compared:
        by_region = evaluating.compare(rival, evaluating.load_answers(run.path("regional_predictions")))
        verdict = evaluating.verdict(region, by_region.get(region))
        write_json(run.path("regional_comparison"), {"region": region, "verdict": verdict, "by_region": by_region})
        print(verdict)


def logits(run: Run) -> None:
    teacher.logits(run, job(run))


STEPS = [
    Step(
        "phase2", "subset", subset, ("dataset",), ("regional_subset", "regional_index"), ("phase2.region",), 2,
        check=preflight.check_region,
    ),
    Step(
        "phase2", "train", train, ("dataset", "regional_subset"), ("regional", "regional_history", "regional_curves"),
        ("seed", "deterministic", "phase2"), 5, trains=True, clean=lambda run: teacher.clean(run, "regional"),
        check=lambda run, counts: preflight.check_teacher(run, counts, "phase2"),
        more_inputs=lambda config: ("teacher",) if config.phase2.model.pretrained == GLOBAL_TEACHER else (),
    ),
    Step(
        "phase2", "evaluate", evaluate, ("dataset", "regional", "teacher_metrics", "teacher_predictions"),
        ("regional_metrics", "regional_predictions", "regional_pictures", "regional_comparison"), ("phase2.region",), 3,
    ),
    Step(
        "phase2", "logits", logits, ("dataset", "regional"), ("regional_logits",),
        ("seed", "phase3.distillation.temperature", "phase3.soft_labels"), 3,
    ),
]  # fmt: skip
