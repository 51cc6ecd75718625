"""What calibration costs at full size: 100,000 photos of 9,000 species, logits on disk.

    .venv/bin/python -m benchmarks.calibration.calibration_scale      (CPU only, 2 cores, 5 minutes, 3.6 GB of disk)

Timed, in a process of its own: the temperature, every figure of `quality` before and after it, by 1,000 replicates
over groups of two photos, the threshold and the risk-coverage curve. The logits are drawn as in calibration_worlds.py,
T = 2. Prints seconds by part and the peak memory, pages of the logits' file included; as the last line how many times
it fits into 3 minutes; exit 1 below 1, or from 6 GB on.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from keras_pipeline.evaluation import calibration, threshold
from keras_pipeline.evaluation.scores import score

PHOTOS, CLASSES, T = 100_000, 9000, 2.0
GOAL_SECONDS, GOAL_BYTES = 180, 6e9


def draw(folder: Path) -> None:
    random = np.random.default_rng(0)
    logits = np.lib.format.open_memmap(folder / "logits.npy", "w+", np.float32, (PHOTOS, CLASSES))
    labels = np.empty(PHOTOS, np.int64)
    for start in range(0, PHOTOS, 1000):
        block = 1.5 * random.standard_normal((1000, CLASSES), np.float32)
        block[np.arange(1000), random.integers(0, CLASSES, 1000)] += random.gamma(3, 5.5, 1000)
        weight = np.exp(block.astype(np.float64)).cumsum(axis=1)
        labels[start : start + 1000] = (weight < random.random((1000, 1)) * weight[:, -1:]).sum(axis=1)
        logits[start : start + 1000] = T * block
    logits.flush()
    np.save(folder / "labels.npy", labels)


def calibrate(folder: Path) -> None:
    logits, labels = np.load(folder / "logits.npy", mmap_mode="r"), np.load(folder / "labels.npy")
    groups = np.arange(PHOTOS) // 2
    began = time.perf_counter()

    def lap(what: str) -> None:
        print(f"  {time.perf_counter() - began:6.1f} s  {what}", flush=True)

    fitted = calibration.fit_temperature(logits, labels)
    lap(f"temperature {fitted:.4f}")
    before, after = score(logits, labels), score(logits, labels, fitted)
    lap("scores before and after")
    for scores in (before, after):
        found = calibration.quality(scores, groups)
        lap(f"ECE {found['ece']['value']:.4f} {found['ece']['interval']}, null {found['ece']['null']:.4f}")
    chosen = threshold.choose_threshold(after.confidence, after.correct)
    area = threshold.risk_coverage(after.confidence, after.correct)[2]
    lap(f"threshold {chosen['threshold']}, coverage {chosen['coverage']:.3f}, AURC {area:.4f}")
    print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        draw(Path(name))
        made = subprocess.run([sys.executable, __file__, name], stdout=subprocess.PIPE, text=True, check=True).stdout
    *laps, last = made.splitlines()
    seconds, memory = map(float, last.split())
    print("\n".join(laps), f"\n  {seconds:.0f} s, {memory / 1e9:.2f} GB at the peak")
    print(f"{GOAL_SECONDS / seconds:.2f}")
    return int(seconds > GOAL_SECONDS or memory > GOAL_BYTES)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        calibrate(Path(sys.argv[1]))
    else:
        sys.exit(main())
