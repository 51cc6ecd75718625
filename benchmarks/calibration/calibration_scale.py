"""What calibration costs at full size, beside commit BASE: 100,000 photos of 9,000 species, logits on disk.

    .venv/bin/python -m benchmarks.calibration.calibration_scale [FOLDER]      (CPU only, ten minutes; needs git)

Both builds, this one and commit BASE in a worktree made for the run, take turns in processes of their own on the same
logits, drawn as in calibration_worlds.py, T = 2, and kept in FOLDER (3.6 GB) where one is given. Timed: the
temperature, every metric of `quality` before and after it, by 1,000 replicates over groups of two photos, the threshold
and the risk-coverage curve. scikit-learn fits a temperature to the first FEW photos, which is what fits into 10 GB
there, and so do we.

Judged by the process's CPU time (getrusage), all threads, because other work on the machine changes it less than the
time on the clock, which is printed beside it; medians of ROUNDS. Memory is the most that the process held of its own
(RssAnon, every 20 ms), and with the file's pages that it has mapped (VmHWM). All results have to be the same to 1e-6,
and so has the threshold that this build chooses by either build's scores: BASE searched it on a grid. The last line is
the smallest of: 0.4 over the ratio of CPU time, ours over BASE's; 0.5 over that of ours over scikit-learn's; 1 GB over
our own memory. Exit 1 below 1, or where results differ.
"""

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from sklearn.calibration import _TemperatureScaling  # its public wrapper predicts by folds, which lack classes here

from keras_pipeline.evaluation import calibration, threshold
from keras_pipeline.evaluation.scores import score

try:
    from keras_pipeline.evaluation.temperature import fit_by_likelihood, fit_temperature
except ImportError:  # BASE, which fits by likelihood alone
    fit_by_likelihood = fit_temperature = calibration.fit_temperature

BASE, ROOT = "1770f94", Path(__file__).parents[2]
PHOTOS, CLASSES, T, FEW = 100_000, 9000, 2.0, 20_000
ROUNDS, GOAL, GOAL_SKLEARN, GOAL_BYTES, SAME = 3, 0.4, 0.5, 1e9, 1e-6


def draw(folder: Path) -> None:
    random = np.random.default_rng(0)
    temporary = folder / "drawing.npy"
    logits = np.lib.format.open_memmap(temporary, "w+", np.float32, (PHOTOS, CLASSES))
    labels = np.empty(PHOTOS, np.int64)
    for start in range(0, PHOTOS, 1000):
        block = 1.5 * random.standard_normal((1000, CLASSES), np.float32)
        block[np.arange(1000), random.integers(0, CLASSES, 1000)] += random.gamma(3, 5.5, 1000)
        weight = np.exp(block.astype(np.float64)).cumsum(axis=1)
        labels[start : start + 1000] = (weight < random.random((1000, 1)) * weight[:, -1:]).sum(axis=1)
        logits[start : start + 1000] = T * block
    logits.flush()
    np.save(folder / "labels.npy", labels)
    temporary.rename(folder / "logits.npy")


def calibrate(folder: Path, keep: Path) -> dict:
    logits, labels = np.load(folder / "logits.npy", mmap_mode="r"), np.load(folder / "labels.npy")
    groups = np.arange(PHOTOS) // 2
    fit_temperature(logits, labels)  # for its time; the other build has the likelihood's alone to compare
    fitted = fit_by_likelihood(logits, labels)
    before, after = score(logits, labels), score(logits, labels, fitted)
    found = [calibration.quality(scores, groups) for scores in (before, after)]
    threshold.choose_threshold(after.confidence, after.correct)
    aurc = threshold.risk_coverage(after.confidence, after.correct)[2]
    np.savez(keep, **{name: getattr(after, name) for name in ("confidence", "correct", "nll", "brier")})
    return {"temperature": fitted, "quality": found, "aurc": aurc}


def ours_on_few(folder: Path, _: Path) -> dict:
    logits, labels = np.load(folder / "logits.npy", mmap_mode="r")[:FEW], np.load(folder / "labels.npy")[:FEW]
    return {"temperature": fit_by_likelihood(logits, labels)}


def sklearn_on_few(folder: Path, _: Path) -> dict:
    logits, labels = np.load(folder / "logits.npy", mmap_mode="r")[:FEW], np.load(folder / "labels.npy")[:FEW]
    return {"temperature": 1 / float(_TemperatureScaling().fit(logits, labels).beta_)}


def status(name: str) -> int:
    """Bytes, of /proc/self/status."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def worker(what: Callable[[Path, Path], dict], folder: Path, keep: Path) -> None:
    """Measure one build, the one that this process imports; prints JSON."""
    own, done = [status("RssAnon")], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            own.append(status("RssAnon"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    cpu, clock = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), time.perf_counter()
    result = what(folder, keep)
    cpu, clock = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - cpu, time.perf_counter() - clock
    done.set()
    print(json.dumps(result | {"cpu": cpu, "clock": clock, "own": max(own), "resident": status("VmHWM")}))


def measure(tree: Path, what: str, folder: Path, keep: Path) -> dict:
    """Run `worker` with the package of a source tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, __file__, what, str(folder), str(keep)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def numbers(value: object) -> Iterator[float]:
    """Yield all numbers of a JSON value."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float):
        yield float(value)


def difference(base: dict, ours: dict, kept: dict[str, Path]) -> float:
    """Return the largest difference of any result, and of the threshold that the scores lead to."""
    names = ("temperature", "quality", "aurc")
    results = (np.array([*numbers([each[name] for name in names])]) for each in (base, ours))
    vectors = [np.load(kept[build]) for build in ("base", "ours")]
    chosen = (threshold.choose_threshold(each["confidence"], each["correct"])["threshold"] for each in vectors)
    pairs = [tuple(results), tuple(chosen)]
    pairs += [tuple(each[name].astype(float) for each in vectors) for name in vectors[0].files]
    return max(float(np.abs(np.subtract(*pair)).max()) for pair in pairs)


def told(name: str, rounds: list[dict]) -> float:
    """Print what the rounds cost; return the median of their CPU time."""
    cpu, clock = (statistics.median(each[key] for each in rounds) for key in ("cpu", "clock"))
    own, resident = (max(each[key] for each in rounds) / 1e9 for key in ("own", "resident"))
    singles = " ".join(f"{each['cpu']:.1f}" for each in rounds)
    print(
        f"{name:<22} {cpu:6.1f} s of CPU ({singles}), {clock:6.1f} s on the clock, {own:.2f} GB of its own, "
        f"{resident:.2f} GB resident, T {rounds[-1]['temperature']:.7f}",
        flush=True,
    )
    return cpu


def compare(folder: Path, base: Path) -> int:
    if not (folder / "logits.npy").exists():
        draw(folder)
    kept = {build: folder / f"{build}.npz" for build in ("base", "ours")}
    results: dict[str, list[dict]] = {name: [] for name in ("base", "ours", "ours_on_few", "sklearn_on_few")}
    for _ in range(ROUNDS):
        for build, tree in (("base", base), ("ours", ROOT)):
            results[build].append(measure(tree, "calibrate", folder, kept[build]))
        for what in ("ours_on_few", "sklearn_on_few"):
            results[what].append(measure(ROOT, what, folder, folder / "unused.npz"))
    cpu = {name: told(name, rounds) for name, rounds in results.items()}
    ratio, beside = cpu["ours"] / cpu["base"], cpu["ours_on_few"] / cpu["sklearn_on_few"]
    most = difference(results["base"][-1], results["ours"][-1], kept)
    own = max(each["own"] for each in results["ours"])
    print(f"{ratio:.3f} times BASE's CPU time, {beside:.3f} times scikit-learn's; largest difference {most:.1e}")
    goal = min(GOAL / ratio, GOAL_SKLEARN / beside, GOAL_BYTES / own)
    print(f"{goal:.2f}")
    return int(goal < 1 or most > SAME)


def main(folder: Path) -> int:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(base), BASE], check=True)
        try:
            return compare(folder, base)
        finally:
            subprocess.run([*git, "remove", "--force", str(base)], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        worker(globals()[sys.argv[1]], *map(Path, sys.argv[2:]))
    elif len(sys.argv) == 2:
        sys.exit(main(Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as drawn:
            sys.exit(main(Path(drawn)))
