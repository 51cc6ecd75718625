"""`phase7 manifest`: combine the sidecars and metrics of the whole chain in one file; nothing is measured again."""

from __future__ import annotations

import time

import tensorflow as tf

from keras_pipeline.core import environment, redaction
from keras_pipeline.core import manifest as schema
from keras_pipeline.core.artifacts import ARTEFACTS, Run
from keras_pipeline.core.dataset import SPLITS
from keras_pipeline.core.region_names import pooled, title_of
from keras_pipeline.core.sidecars import required, sidecar
from keras_pipeline.evaluation import gates


def run(run: Run) -> None:
    """Write `manifest.yaml`.

    Raises:
        BrokenArtefact: where an artefact of the chain is missing, or the result does not fit the schema.
    """
    value = {
        "manifest_version": 1,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **environment.git_commit(),
        "experiment": run.config.experiment,
        "data": _data(run),
        "phases": _phases(run),
        "environment": _environment(run),
        "hyperparameters": _hyperparameters(run),
        "gates": [
            {key: verdict[key] for key in schema.Gate.model_fields}
            for verdict in gates.judge(run, {gate.step for gate in gates.GATES} - {"phase7 manifest"})
        ],
        "artefacts": _artefacts(run),
        "config": redaction.redact_values(run.config.model_dump()),
    }
    schema.write(run.path("manifest"), value)
    print(run.path("manifest"))


def _data(run: Run) -> dict:
    dataset = run.read("dataset")
    counts = {name: dataset["splits"][name]["n"] for name in SPLITS}
    shards = [shard for split in dataset["splits"].values() for shard in split["shards"]]
    return {
        "mongo_snapshot": f"tfrecords/{run.config.dataset_name}/dataset.json",
        # From the audit, because the config may name another server by now.
        "source": run.read("audit").get("source", "unknown"),
        "query": redaction.redact_values(run.config.source.query),
        "dataset_hash": required(run.path("dataset"))["content_hash"],
        "class_hash": dataset["class_hash"],
        "total_samples": sum(counts.values()),
        "total_species": len(dataset["classes"]),
        **{f"{name}_samples": n for name, n in counts.items()},
        "shards": {shard["name"]: shard["sha256"] for shard in shards},
    }


def _phases(run: Run) -> dict:
    entries = {
        "phase_0": _collection(run),
        "phase_1": _teacher(run),
        "phase_2": _regional(run) if run.config.phase2 else {},
        "phase_3": _soft_labels(run),
        "phase_4": _student(run),
        "phase_5": _calibration(run),
        "phase_6": _export(run),
    }
    return {name: _status(run, name.replace("_", "")) | entry for name, entry in entries.items()}


def _collection(run: Run) -> dict:
    leaks = run.read("leak_audit")
    return {
        "documents": run.read("audit")["documents"],
        "url_failure_rate": run.read("url_check")["failure_rate"],
        "groups": leaks["groups"],
        "leaks": len(leaks["leaks"]),
        "baseline_top1": run.read("baseline")["top1_accuracy"],
    }


def _teacher(run: Run) -> dict:
    metrics = run.read("teacher_metrics")
    return {
        "teacher": run.config.phase1.model.name,
        "top1": metrics["top1_accuracy"],
        "top5": metrics["top5_accuracy"],
        **_checkpoint(run, "teacher"),
    }


def _soft_labels(run: Run) -> dict:
    model, check = run.config.phase3.model, run.read("soft_label_check")
    return {
        "student_architecture": f"{model.name}_{model.alpha}",
        "student_parameters": check["student"]["parameters"],
        "soft_label_sum_error": check["sum_max_deviation"],
    }


def _student(run: Run) -> dict:
    metrics = run.read("student_metrics")
    return {
        "distillation_epochs": len(run.read("distill_history")["epochs"]),
        "finetuning_epochs": len(run.read("finetune_history")["epochs"]),
        "final_top1": metrics["top1_accuracy"],
        "final_top5": metrics["top5_accuracy"],
        "val_top1": run.read("student_metrics_val")["top1_accuracy"],
        "train_top1": run.read("student_metrics_train")["top1_accuracy"],
        **_checkpoint(run, "student"),
    }


def _calibration(run: Run) -> dict:
    shipped = run.read("shipped_calibration")
    return {
        "temperature": shipped["temperature"],
        "ece": shipped["ece_after"],
        "confidence_threshold": shipped["threshold"],
        "precision": shipped["precision"],
        "coverage": shipped["coverage"],
    }


def _export(run: Run) -> dict:
    return {
        f"model_size_{run.config.phase6.quantization}": round(run.read("export")["bytes"] / 1e6, 3),  # MB
        "tfjs_export": f"web_export/{run.config.experiment}",
        "equivalence": run.read("equivalence")["status"],
        **_checkpoint(run, "shipped"),
    }


def _regional(run: Run) -> dict:
    metrics, region = run.read("regional_metrics"), run.config.regional.region
    title = title_of(region)
    own = pooled(metrics["per_region"], region)
    return {
        "teacher": run.config.regional.model.name,
        "region": region,
        f"top1_{title.lower()}": own["top1"] if own else None,
        "top1": metrics["top1_accuracy"],
        "verdict": run.read("regional_comparison")["verdict"],
        **_checkpoint(run, "regional"),
    }


def _status(run: Run, phase: str) -> dict:
    """Return status and seconds of a phase; it was completed at some time, or this step would lack its inputs."""
    if absent := run.why_not_applicable(phase):
        return {"status": "not applicable", "why": {phase: absent}, "seconds": 0.0}
    why = {title: reason for title, reason in run.stale.items() if title.startswith(phase)}
    seconds = {m["producer"]: m["seconds"] for m in _metas(run).values() if m["producer"].startswith(phase)}
    status = {"status": "not up to date", "why": why} if why else {"status": "completed"}
    return status | {"seconds": round(sum(seconds.values()), 2)}


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
    }  # The plan's list; `config` holds every parameter.


def _metas(run: Run) -> dict[str, dict]:
    """Return the sidecars of this run's artefacts, without those of phases that the config now leaves out."""
    metas = {name: sidecar(run.path(name)) for name in ARTEFACTS if name not in ("manifest", "report")}
    return {
        name: meta for name, meta in metas.items() if meta and not run.why_not_applicable(meta["producer"].split()[0])
    }


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
