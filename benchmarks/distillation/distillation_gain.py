"""Is a student that learns from a teacher better than one of the same size that learns from the labels alone?

    .venv/bin/python -m benchmarks.distillation.distillation_gain      (2 cores, hours; finished cells are kept)

The 17-flower photos, three group-wise splits, three seeds of the student on each. The teacher is phase 1's of
configs/flowers17.yaml. Students: MobileNetV2 alpha 0.35 from random weights and alpha 1 from its ImageNet weights, both
at 96 px, with the same steps, rates and batches whatever they learn from:

    plain   the labels, on `moderate` views, fresh ones each epoch
    V = 1   the plan's: the teacher's word on the clean view, T = 3, weights 0.7 and 0.3
    V = 8   its word on eight stored views, T = 2, no labels
    live    its word on the student's own `moderate` views, T = 2, no labels

Prints mean ± sd of test top-1 and NLL, and each variant's paired difference from plain; as the last line the best
variant's gain in top-1 points of the smaller student over 2, if its NLL is lower too; exit 1 below 1. Cells lie under
artifacts/distillation_gain/; remove the folder to begin again.
"""

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "artifacts/distillation_gain"
CONFIG = ROOT / "configs/flowers17.yaml"
SPLITS, SEEDS, SIZE = (1, 2, 3), (1, 2, 3), 96
STUDENTS = {
    "alpha 0.35 from scratch": ({"alpha": 0.35, "pretrained": False}, {"epochs": 40, "learning_rate": 2e-3}),
    "alpha 1 from ImageNet": ({"alpha": 1.0}, {"epochs": 10, "learning_rate": 3e-4}),
}
SOFT = {"temperature": 2.0, "loss_weights": {"kl_divergence": 1.0, "cross_entropy": 0.0}}
PLAN = {"temperature": 3.0, "loss_weights": {"kl_divergence": 0.7, "cross_entropy": 0.3}}
VARIANTS = {
    "plain": {},
    "V = 1": {"phase3.soft_labels.views": 1, "phase3.distillation": PLAN},
    "V = 8": {"phase3.soft_labels.views": 8, "phase3.distillation": SOFT},
    "live": {"phase4.distill.live": True, "phase3.distillation": SOFT},
}


def settings(split: int, name: str, values: dict) -> list[str]:
    """`--set` of an experiment over one split's photos; its teacher is the only one."""
    given = {"root": str(FOLDER / f"split{split}"), "experiment": name, "dataset.name": "flowers"}
    given["phase3.teachers"] = [{"path": "phase1/best.keras", "weight": 1.0}]
    return [f"{key}={json.dumps(value)}" for key, value in {**given, **values}.items()]


def teach(split: int) -> None:
    """Photos, split and teacher, by the command that users type; nothing where they are there."""
    command = [sys.executable, "-m", "keras_pipeline", "run", "--config", str(CONFIG), "--until", "phase1 evaluate"]
    command += [f"--set={value}" for value in settings(split, "teacher", {"seed": split})]
    log = FOLDER / f"split{split}/teacher.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as out:
        code = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT).returncode
    if code not in (0, 1):  # 1: a gate was missed
        sys.exit(f"{log}: exit {code}\n{log.read_text()[-3000:]}")


def train(split: int, seed: int, student: str, variant: str) -> dict[str, float]:
    """One student, in this process: {top1, nll} on the test split."""
    import keras
    import numpy as np

    from keras_pipeline.core.artifacts import Run
    from keras_pipeline.core.config.load import from_file
    from keras_pipeline.data import records
    from keras_pipeline.data.preprocess import Preprocessing
    from keras_pipeline.evaluation.metrics import classification_metrics
    from keras_pipeline.models import trained
    from keras_pipeline.phases.phase1_teacher import evaluate, logits
    from keras_pipeline.phases.phase3_soft_labels import check, combine
    from keras_pipeline.phases.phase3_soft_labels.student import build
    from keras_pipeline.phases.phase4_student import distill, finetune

    model, rates = STUDENTS[student]
    values = {f"phase3.model.{key}": value for key, value in model.items()} | {"seed": seed, **VARIANTS[variant]}
    values |= {"phase4.data.image_size": SIZE, "phase4.training.batch_size": 32}
    values |= {f"phase4.{stage}.{key}": value for stage in ("distill", "finetune") for key, value in rates.items()}
    name = f"{variant}-{student}-{seed}".replace(" ", "").replace("=", "")
    run = Run(from_file(CONFIG, settings(split, name, values)), None)
    info = records.load_info(run.path("dataset"))
    run.path("teacher").parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(FOLDER / f"split{split}/artifacts/teacher/phase1/best.keras", run.path("teacher"))
    for artefact in ("soft_labels", "distilled", "student"):
        run.path(artefact).parent.mkdir(parents=True, exist_ok=True)
    if variant == "plain":
        keras.utils.set_random_seed(seed)
        build(run.config, len(info.classes)).save(run.path("distilled"))
        finetune.run(run)
    else:
        if variant != "live":
            logits.run(run)
            combine.run(run)
            check.run(run)
        distill.run(run)
    model = trained.load(run.path("student" if variant == "plain" else "distilled"), info, image_size=SIZE)
    preprocessing = Preprocessing.of(run.config.dataset, SIZE)
    found = evaluate.predict_split(model, info, "test", preprocessing, "student on test")
    result = classification_metrics(found.logits, found.labels, found.regions, info.classes, found.group_ids)
    shutil.rmtree(run.folder)
    return {"top1": result["top1_accuracy"], "nll": float(np.float64(result["loss"]))}


def cell(split: int, seed: int, student: str, variant: str) -> dict[str, float]:
    """`train` in a process of its own, once."""
    done = FOLDER / f"split{split}/{variant}-{student}-{seed}.json".replace(" ", "")
    if not done.exists():
        command = [sys.executable, __file__, str(split), str(seed), student, variant]
        log = done.with_suffix(".log")
        alone = os.environ | {"TF_NUM_INTRAOP_THREADS": "1"}  # a second thread makes these steps faster by a sixth
        with log.open("w") as out:
            code = subprocess.run(command, cwd=ROOT, env=alone, stdout=out, stderr=subprocess.STDOUT).returncode
        if code:
            raise RuntimeError(f"{log}: exit {code}\n{log.read_text()[-3000:]}")
        done.write_text(log.read_text().splitlines()[-1])
    print(f"{student}, split {split}, seed {seed}, {variant}: {done.read_text()}", flush=True)
    return json.loads(done.read_text())


def main() -> int:
    better = 0.0
    for split in SPLITS:
        teach(split)
    cells = list(itertools.product(SPLITS, SEEDS, STUDENTS, VARIANTS))
    cells.sort(key=lambda each: list(STUDENTS).index(each[2]))  # the smaller student's table first
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(cells, pool.map(cell, *zip(*cells, strict=True)), strict=True))
    for student in STUDENTS:
        found = {v: [each for key, each in results.items() if key[2:] == (student, v)] for v in VARIANTS}
        print(f"{student}, {len(SPLITS)} splits x {len(SEEDS)} seeds: test top-1, NLL, paired difference from plain")
        for variant, cells in found.items():
            columns = []
            for key in ("top1", "nll"):
                values = [each[key] for each in cells]
                gains = [each[key] - plain[key] for each, plain in zip(cells, found["plain"], strict=True)]
                columns.append((statistics.mean(values), statistics.stdev(values), statistics.mean(gains)))
                columns[-1] += (statistics.stdev(gains),)
            (top1, sd, gain, gain_sd), (nll, nll_sd, nll_gain, nll_gain_sd) = columns
            print(
                f"  {variant:<6} top-1 {top1:.3f} ± {sd:.3f} ({gain:+.3f} ± {gain_sd:.3f}), "
                f"NLL {nll:.3f} ± {nll_sd:.3f} ({nll_gain:+.3f} ± {nll_gain_sd:.3f})"
            )
            if student == next(iter(STUDENTS)) and nll_gain < 0:
                better = max(better, gain)
    print(f"{100 * better / 2:.2f}")
    return int(better < 0.02)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        split, seed, student, variant = sys.argv[1:]
        print(json.dumps(train(int(split), int(seed), student, variant)))
    else:
        sys.exit(main())
