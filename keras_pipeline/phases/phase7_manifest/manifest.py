"""`phase7 manifest`: fold the sidecars of the whole chain into one file; nothing is measured anew."""

from __future__ import annotations

import time

import tensorflow as tf

from keras_pipeline.core import environment, redaction
from keras_pipeline.core import manifest as schema
from keras_pipeline.core.artifacts import ARTEFACTS, Run
from keras_pipeline.core.schema import SPLITS
from keras_pipeline.core.sidecars import required, sidecar
from keras_pipeline.evaluation import gates


def run(run: Run) -> None:
    """Folds the sidecars of the whole chain into one file; nothing is measured anew."""
    config, dataset = run.config, run.read("dataset")
    counts = {name: dataset["splits"][name]["n"] for name in SPLITS}
    shards = [shard for split in dataset["splits"].values() for shard in split["shards"]]
    value = {
        "manifest_version": 1,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **environment.git_commit(),
        "experiment": config.experiment,
        "data": {
            "mongo_snapshot": f"tfrecords/{config.dataset_name}/dataset.json",
            # Of the audit: the config may name another server by now.
            "source": run.read("audit").get("source", "unknown"),
            "query": redaction.redact_values(config.source.query),
            "dataset_hash": required(run.path("dataset"))["content_hash"],
            "class_hash": dataset["class_hash"],
            "total_samples": sum(counts.values()),
            "total_species": len(dataset["classes"]),
            **{f"{name}_samples": n for name, n in counts.items()},
            "shards": {shard["name"]: shard["sha256"] for shard in shards},
        },
        "phases": _phases(run),
        "environment": _environment(run),
        "hyperparameters": _hyperparameters(run),
        "gates": gates.judge(run, {gate.step for gate in gates.GATES} - {"phase7 manifest"}),
        "artefacts": _artefacts(run),
        "config": redaction.redact_values(config.model_dump()),
    }
    schema.write(run.path("manifest"), value)
    print(run.path("manifest"))


def _phases(run: Run) -> dict:
    teacher, student = (run.read(f"{n}_metrics") for n in ("teacher", "student"))
    calibration, export, equivalence = (run.read(n) for n in ("shipped_calibration", "export", "equivalence"))
    model, soft_labels = run.config.phase3.model, run.read("soft_label_check")
    figures = {
        "phase_0": {
            "documents": run.read("audit")["documents"],
            "url_failure_rate": run.read("url_check")["failure_rate"],
            "groups": run.read("leak_audit")["groups"],
            "leaks": len(run.read("leak_audit")["leaks"]),
            "baseline_top1": run.read("baseline")["top1_accuracy"],
        },
        "phase_1": {
            "teacher": run.config.phase1.model.name,
            "top1": teacher["top1_accuracy"],
            "top5": teacher["top5_accuracy"],
            **_checkpoint(run, "teacher"),
        },
        "phase_2": _regional(run) if run.config.phase2 else {},
        "phase_3": {
            "student_architecture": f"{model.name}_{model.alpha}",
            "student_parameters": soft_labels["student"]["parameters"],
            "soft_label_sum_error": soft_labels["sum_max_deviation"],
        },
        "phase_4": {
            "distillation_epochs": len(run.read("distill_history")["epochs"]),
            "finetuning_epochs": len(run.read("finetune_history")["epochs"]),
            "final_top1": student["top1_accuracy"],
            "final_top5": student["top5_accuracy"],
            "val_top1": run.read("student_metrics_val")["top1_accuracy"],
            "train_top1": run.read("student_metrics_train")["top1_accuracy"],
            **_checkpoint(run, "student"),
        },
        "phase_5": {
            "temperature": calibration["temperature"],
            "ece": calibration["ece_after"],
            "confidence_threshold": calibration["threshold"],
            "precision": calibration["precision"],
            "coverage": calibration["coverage"],
        },
        "phase_6": {
            f"model_size_{run.config.phase6.quantization}": round(export["bytes"] / 1e6, 3),  # MB
            "tfjs_export": f"web_export/{run.config.experiment}",
            "equivalence": equivalence["status"],
            **_checkpoint(run, "shipped"),
        },
    }
    return {name: _status(run, name.replace("_", "")) | entry for name, entry in figures.items()}


def _regional(run: Run) -> dict:
    metrics, region = run.read("regional_metrics"), run.config.regional.region
    return {
        "teacher": run.config.regional.model.name,
        "region": region,
        f"top1_{region.lower()}": (metrics["per_region"].get(region) or {}).get("top1"),
        "top1": metrics["top1_accuracy"],
        "verdict": run.read("regional_comparison")["verdict"],
        **_checkpoint(run, "regional"),
    }


def _status(run: Run, phase: str) -> dict:
    """Completed they all are: the step's inputs were there, or it would not have begun."""
    if absent := run.why_not_applicable(phase):
        return {"status": "not applicable", "why": {phase: absent}, "seconds": 0.0}
    why = {title: reason for title, reason in run.stale.items() if title.startswith(phase)}
    seconds = {m["producer"]: m["seconds"] for m in _metas(run).values() if m["producer"].startswith(phase)}
    said = {"status": "not up to date", "why": why} if why else {"status": "completed"}
    return said | {"seconds": round(sum(seconds.values()), 2)}


def _checkpoint(run: Run, name: str) -> dict:
    return {
        "checkpoint": ARTEFACTS[name].split("/", 2)[2],
        "checkpoint_hash": required(run.path(name))["content_hash"],
    }


def _hyperparameters(run: Run) -> dict:
    config = run.config
    weights = config.phase3.distillation.loss_weights
    regional = {"teacher_regional_lr": config.phase2.training.learning_rate} if config.phase2 else {}
    return {
        "teacher_global_lr": config.phase1.training.learning_rate,
        **regional,
        "student_distill_lr": config.phase4.distill.learning_rate,
        "student_finetune_lr": config.phase4.finetune.learning_rate,
        "distillation_temperature": config.phase3.distillation.temperature,
        "kl_weight": weights.kl_divergence,
        "ce_weight": weights.cross_entropy,
    }  # The plan's list. Every parameter there is stands in `config`.


def _metas(run: Run) -> dict[str, dict]:
    """Sidecars of what this run made: a phase that the config leaves out may have left something earlier."""
    metas = {name: sidecar(run.path(name)) for name in ARTEFACTS if name not in ("manifest", "report")}
    return {n: meta for n, meta in metas.items() if meta and not run.why_not_applicable(meta["producer"].split()[0])}


def _artefacts(run: Run) -> dict:
    keys = ("content_hash", "producer", "code_version", "inputs", "seconds", "finished")
    return {name: {key: meta[key] for key in keys} for name, meta in _metas(run).items()}


def _environment(run: Run) -> dict:
    devices = tf.config.list_physical_devices("GPU")
    built = tf.sysconfig.get_build_info()
    return {
        **environment.describe(),
        "gpu": [tf.config.experimental.get_device_details(each).get("device_name", each.name) for each in devices],
        "drivers": {key: str(built[key]) for key in ("cuda_version", "cudnn_version") if devices and key in built}
        | {f"nvidia_{i}": driver for i, driver in enumerate(environment.nvidia("driver_version"))},
        "seed": run.config.seed,
        "deterministic": run.config.deterministic,
    }
