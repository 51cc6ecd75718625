"""Do two machines, or two devices of one, train to what one device trains to? What does a killed machine change?

    .venv/bin/python -m benchmarks.training.several_devices      (CPU only, 2 cores, 14 minutes)

Phase 1 on the 17-flower photos from TFRecords: MobileNetV2 1.0 from its ImageNet weights at 96 px (dropout 0, whose
masks each replica draws for itself), global batches of 32, `moderate` views, MixUp, gradients clipped, all callbacks,
50 steps at the plan's rate, 1e-5 (at ten times that, what float32 rounds grows within 50 steps to 1.4 % of the loss,
by two threads as by two machines). Once in one process (and once more with two threads, which add up in another
order), on two logical CPUs under MirroredStrategy, as two processes on loopback under MultiWorkerMirroredStrategy, and
so again with one of the two killed in the middle of an epoch and both started anew.

Prints for each the largest relative difference of the epoch's mean loss so far, step by step, from the first's, and
whether both machines ended with the same weights, bit for bit; as the last line 0.001 over the largest difference, 0
where weights differ that have to be equal; exit 1 below 1.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from support import replica  # noqa: E402

SETTINGS = {
    "dataset.name": "flowers17",
    "phase1.data.image_size": 96, "phase1.data.augmentation": "moderate",
    "phase1.training": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-5, "warmup_epochs": 0.5, "clip_norm": 1.0},
    "phase1.regularization": {"dropout": 0.0, "mixup_alpha": 0.2}, "phase1.callbacks.backup_minutes": 0.1,
}  # fmt: skip
TOLERANCE = 1e-3


def started(root: Path, name: str, *, cpus: int = 1, threads: int = 1, task: str | None = None, **settings):
    """(process, folder of what it leaves) of `phase1 train`."""
    folder = root / f"{name}-{json.loads(task)['task']['index'] if task else 0}"
    folder.mkdir(exist_ok=True)
    command = [sys.executable, ROOT / "tests/support/replica.py", str(cpus), "whole", folder, "phase1 train"]
    command += ["--config", ROOT / "configs/flowers17.yaml", f"--set=root={root}", f"--set=experiment={name}"]
    command += [f"--set={key}={json.dumps(value)}" for key, value in {**SETTINGS, **settings}.items()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_NUM_INTRAOP_THREADS": str(threads)}
    environment |= {"TF_CONFIG": task} if task else {}
    out = (folder / "out.txt").open("a")
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT), folder


def machines(root: Path, name: str) -> list:
    return [started(root, name, task=task, distribute="multi_worker") for task in replica.two_machines()]


def ended(*replicas) -> list[Path]:
    for process, folder in replicas:
        if process.wait():
            sys.exit(f"{folder}/out.txt: exit {process.returncode}\n{(folder / 'out.txt').read_text()[-3000:]}")
    return [folder for _, folder in replicas]


def kill_one(root: Path, name: str) -> int:
    """The step at which the second of two machines is killed."""
    (chief, folder), (other, _) = machines(root, name)
    file = root / "artifacts" / name / "phase1/full/backup/position.json"
    while not (file.exists() and json.loads(file.read_text())["step"] > 5):
        if chief.poll() is not None:
            sys.exit(f"{folder}/out.txt: exit {chief.returncode}")
        time.sleep(0.2)
    other.send_signal(signal.SIGKILL)
    if chief.wait() != 3:
        sys.exit(f"{folder}/out.txt: exit {chief.returncode}, expected 3")
    return json.loads(file.read_text())["step"]


def same(one: Path, other: Path) -> bool:
    return all(np.array_equal(*pair) for pair in zip(replica.weights(one), replica.weights(other), strict=True))


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        command = [sys.executable, "-m", "keras_pipeline", "run", "--until", "phase0 split", f"--set=root={root}"]
        subprocess.run([*command, "--config", ROOT / "configs/flowers17.yaml"], cwd=ROOT, check=True)
        (alone,) = ended(started(root, "alone"))
        (threads,) = ended(started(root, "threads", threads=2))
        (devices,) = ended(started(root, "devices", cpus=2, distribute="mirrored"))
        first, second = ended(*machines(root, "machines"))
        step = kill_one(root, "killed")
        again, again_second = ended(*machines(root, "killed"))

        reference, worst = np.load(alone / "full.steps.npy"), 0.0
        for title, folder in (("two threads", threads), ("two devices", devices), ("two machines", first)):
            found = np.load(folder / "full.steps.npy")
            off = np.abs(found / reference - 1)
            print(f"{title}: {len(off)} steps, loss off by {off.max():.1e} at most, {off[:5].max():.1e} in the first 5")
            worst = max(worst, off.max() if folder != threads else 0.0)
        equal = {
            "both machines": same(first, second),
            "both machines, one killed and started again": same(again, again_second),
            "killed and undisturbed": same(first, again),
        }
        print(f"killed after a backup at step {step}; loss from {reference[0]:.3f} to {reference[-1]:.3f}")
        print(
            *(f"{title}: weights {'equal' if each else 'DIFFERENT'}, bit for bit" for title, each in equal.items()),
            sep="\n",
        )
        ratio = TOLERANCE / worst if all(equal.values()) else 0.0
        print(f"{ratio:.2f}")
        return int(ratio < 1)


if __name__ == "__main__":
    sys.exit(main())
