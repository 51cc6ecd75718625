"""Phase 7: the manifest from which the run can be repeated, and the check that nothing changed since."""

from __future__ import annotations

import time

import yaml

from keras_pipeline.core import provenance
from keras_pipeline.core.artifacts import ARTEFACTS, Run, Step, aside, content_hash, sidecar
from keras_pipeline.core.schema import SPLITS
from keras_pipeline.phases import gates

INPUTS = (
    "audit", "dataset", "baseline", "teacher", "teacher_metrics", "regional", "regional_metrics", "soft_labels",
    "soft_label_check", "student", "student_metrics", "shipped", "shipped_calibration", "saved_model",
    "web", "equivalence",
)  # fmt: skip


def manifest(run: Run) -> None:
    config, dataset = run.config, run.read("dataset")
    counts = {name: dataset["splits"][name]["n"] for name in SPLITS}
    value = {
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **provenance.git_commit(),
        "experiment": config.experiment,
        "data": {
            "mongo_snapshot": f"tfrecords/{config.dataset_name}/dataset.json",
            "source": f"{provenance.redact(config.source.uri)} {config.source.database}.{config.source.collection}",
            "query": config.source.query,
            "dataset_hash": _hash(run, "dataset"),
            "total_samples": sum(counts.values()),
            "total_species": len(dataset["classes"]),
            **{f"{name}_samples": n for name, n in counts.items()},
        },
        "phases": _phases(run),
        "environment": {**provenance.environment(), "gpu": _gpus(), "seed": config.seed},
        "hyperparameters": _hyperparameters(run),
        "gates": gates.judge(run, {gate.step for gate in gates.GATES}),
        "artefacts": _artefacts(run),
        "config": _redacted(config.model_dump()),
    }
    with aside(run.path("manifest")) as temporary:
        temporary.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
    print(run.path("manifest"))


def _phases(run: Run) -> dict:
    teacher, regional, student = (run.read(f"{n}_metrics") for n in ("teacher", "regional", "student"))
    region = run.config.phase2.region
    calibration, export = run.read("shipped_calibration"), run.read("export")
    student_model = run.config.phase3.model
    epochs = {name: len(run.read(f"{name}_history")["epochs"]) for name in ("distill", "finetune")}
    phases = {
        "phase_0": {"baseline_top1": run.read("baseline")["top1_accuracy"]},
        "phase_1": {
            "teacher": run.config.phase1.model.name,
            "top1": teacher["top1_accuracy"],
            "top5": teacher["top5_accuracy"],
            "checkpoint": _relative("teacher"),
        },
        "phase_2": {
            "teacher": run.config.phase2.model.name,
            "region": region,
            f"top1_{region.lower()}": (regional["per_region"].get(region) or {}).get("top1"),
            "checkpoint": _relative("regional"),
        },
        "phase_3": {"student_architecture": f"{student_model.name}_{student_model.alpha}"},
        "phase_4": {
            "distillation_epochs": epochs["distill"],
            "finetuning_epochs": epochs["finetune"],
            "final_top1": student["top1_accuracy"],
            "final_top5": student["top5_accuracy"],
            "checkpoint": _relative("student"),
        },
        "phase_5": {"ece": calibration["ece_after"], "confidence_threshold": calibration["threshold"]},
        "phase_6": {
            f"model_size_{run.config.phase6.quantization}": round(export["bytes"] / 1e6, 3),  # MB
            "tfjs_export": f"web_export/{run.config.experiment}",
        },
    }
    # Completed all of them: the step's inputs were there, or it would not have begun.
    return {name: {"status": "completed", **entry} for name, entry in phases.items()}


def _hyperparameters(run: Run) -> dict:
    config = run.config
    weights = config.phase3.distillation.loss_weights
    return {
        "teacher_global_lr": config.phase1.training.learning_rate,
        "teacher_regional_lr": config.phase2.training.learning_rate,
        "student_distill_lr": config.phase4.distill.learning_rate,
        "student_finetune_lr": config.phase4.finetune.learning_rate,
        "distillation_temperature": config.phase3.distillation.temperature,
        "kl_weight": weights.kl_divergence,
        "ce_weight": weights.cross_entropy,
    }  # Everything else is in `config`.


def _artefacts(run: Run) -> dict:
    metas = {name: sidecar(run.path(name)) for name in ARTEFACTS if name not in ("manifest", "report")}
    return {
        name: {key: meta[key] for key in ("content_hash", "producer", "code_version", "inputs", "seconds")}
        for name, meta in metas.items()
        if meta
    }


def _relative(name: str) -> str:
    return ARTEFACTS[name].split("/", 2)[2]


def _hash(run: Run, name: str) -> str | None:
    return (sidecar(run.path(name)) or {}).get("content_hash")


def _redacted(value):
    if isinstance(value, dict):
        return {key: _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(inner) for inner in value]
    return provenance.redact(value) if isinstance(value, str) else value


def _gpus() -> list[str]:
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(device).get("device_name", device.name) for device in devices]


def verify(run: Run) -> None:
    """Re-hashes every artefact. Raises BrokenArtefact naming those that are not what their step left."""
    from keras_pipeline.core.errors import BrokenArtefact
    from keras_pipeline.data import records

    changed, checked = [], 0
    for name in ARTEFACTS:
        path, meta = run.path(name), sidecar(run.path(name))
        if meta is None or (name == "raw" and not path.exists()):
            continue
        checked += 1
        if not path.exists() or content_hash(path) != meta["content_hash"]:
            changed.append(str(path))
    if run.path("dataset").exists():
        changed += map(str, records.corrupt_shards(records.load_info(run.path("dataset"))))
    if changed:
        raise BrokenArtefact("changed since they were made: " + ", ".join(changed) + "; `run` makes them again")
    print(f"{checked} artefacts verified, none changed")


STEPS = [Step("phase7", "manifest", manifest, INPUTS, ("manifest",), (), 1)]
