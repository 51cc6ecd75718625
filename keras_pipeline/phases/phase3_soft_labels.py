"""Phase 3: the teachers' answers become one set of soft labels, and the student is measured before it is trained."""

from __future__ import annotations

from pathlib import Path

from keras_pipeline.core.artifacts import Run, Step, write_json
from keras_pipeline.core.pretrained import check_available
from keras_pipeline.phases import build


def combine(run: Run) -> None:
    import numpy as np

    from keras_pipeline.data import records
    from keras_pipeline.training import soft_labels

    info = records.load_info(run.path("dataset"))
    layout = build.soft_label_layout(run, info)
    members = [(_store(run, member.path, layout), member) for member in run.config.phase3.teachers]

    def records_of(position: int, path: Path):
        regions = np.array([records.decode(example).region for example in records.read_shard(path)])
        answers = [(store.read(store.shards[position]), m.weight, m.region_filter) for store, m in members]
        yield soft_labels.combine(answers, regions, layout)

    shards = info.splits["train"]["shards"]
    soft_labels.write_store(
        run.path("soft_labels"),
        layout,
        ((s["name"], s["n"], records_of(position, info.folder / s["name"])) for position, s in enumerate(shards)),
        made_from=run.made_from,
    )


def _store(run: Run, teacher_path: str, layout):
    """The store beside a teacher's .keras file, of the same layout as everything else."""
    from keras_pipeline.training.soft_labels import Store

    store = Store((run.folder / teacher_path).parent / "soft_labels")
    store.check_layout(layout)
    return store


def check(run: Run) -> None:
    """Shape, sums, the stored ensemble's own accuracy, and the student's size."""
    import numpy as np

    from keras_pipeline.data import records
    from keras_pipeline.training import soft_labels

    info = records.load_info(run.path("dataset"))
    store = soft_labels.Store(run.path("soft_labels"))
    store.check_layout(build.soft_label_layout(run, info))
    rows, hits, deviation, tail = 0, 0, 0.0, []
    for entry, shard in zip(store.shards, info.shards("train"), strict=True):
        block = store.read(entry)
        labels = np.array([records.decode(example).label for example in records.read_shard(shard)])
        dense = soft_labels.dense_log_probabilities(block["views"][:, 0], store.layout)
        deviation = max(deviation, float(np.abs(np.exp(dense).sum(axis=1) - 1).max()))
        hits += int((dense.argmax(axis=1) == labels).sum())
        rows += len(block)
        tail.append(soft_labels.tail_mass(block["views"][:, 0], store.layout))
    result = {
        "shape": [rows, len(info.classes)],
        "sum_max_deviation": deviation,
        "train_top1": hits / rows,
        "tail_mass": float(np.concatenate(tail).mean()),
        "bytes_per_photo": store.layout.dtype.itemsize,
        "student": _student_size(run, info),
    }
    write_json(run.path("soft_label_check"), result)
    print(
        f"soft labels {result['shape']}, ensemble top-1 on train {result['train_top1']:.3f}; "
        f"student {result['student']}"
    )


def _student_size(run: Run, info) -> dict:
    """Builds, saves and reloads the student; equal outputs or ValueError. Sizes in MB (10^6 bytes) of the weights."""
    import numpy as np

    from keras_pipeline.core.artifacts import aside
    from keras_pipeline.models import heads

    student = build.student(run, len(info.classes))
    size = run.config.phase4.data.image_size
    image = np.random.default_rng(run.config.seed).uniform(0, 255, (2, size, size, 3)).astype("float32")
    with aside(run.path("soft_label_check").with_name("student.keras")) as temporary:
        student.save(temporary)
        reloaded = heads.load_classifier(temporary)
        student.save(temporary)
    difference = float(np.abs(student(image, training=False) - reloaded(image, training=False)).max())
    if difference:
        raise ValueError(f"the student answers differently after save and load, by {difference}; report this as a bug")
    parameters = student.count_params()
    return {
        "parameters": parameters,
        "megabytes": {"fp32": parameters * 4e-6, "fp16": parameters * 2e-6, "int8": parameters * 1e-6},
    }


STEPS = [
    Step(
        "phase3", "combine", combine, ("dataset", "teacher_logits", "regional_logits"), ("soft_labels",),
        ("phase3.teachers", "phase3.distillation.temperature", "phase3.soft_labels"), 1,
    ),
    Step(
        "phase3", "check", check, ("dataset", "soft_labels"), ("soft_label_check",),
        ("seed", "phase3.model", "phase4.data"), 1,
        check=lambda run: check_available(run.config.phase3.model, "phase3.model.pretrained"),
    ),
]  # fmt: skip
