"""What does a photo cost in each phase, how does that grow, and what would 850,000 take? Writes scale.md.

    .venv/bin/python -m benchmarks.whole.scale [--price-per-gpu-hour 2.5]      (CPU only, 2 cores, 20 to 40 minutes)

`configs/demo.yaml` with fewer epochs at three sizes, 1,200, 3,600 and 10,800 photos, each step timed by its sidecar. A
line through the three gives a step's fixed cost and its cost a photo; of a + b n^p at n, 3 n and 9 n the differences
are as 1 to 3^p, which gives the power p with which it grows: of the processors' time, all processes together, because
on a machine that others share a step now and then waits for as long as it works. Trainings are judged together, and so
are predictions: each kind does the same work, and to trace one's graph now takes a few seconds more, now less, as much
as 2,400 photos. What one GPU and eight would take for
`configs/full.yaml` is the forecast that `run --dry-run` gives too (`keras_pipeline/phases/cost.py`): its rates of a CPU
are checked here against the measured, those of a GPU are assumed and named.

Prints the tables, and as the last line 1.15 over the largest power of what the last size adds more than half a minute
of processor time to; exit 1 below 1.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from keras_pipeline.__main__ import main as command_line
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_file
from keras_pipeline.core.progress import duration
from keras_pipeline.phases import forecast, status
from keras_pipeline.phases.steps import STEPS

ROOT = Path(__file__).parents[2]
SIZES = (1200, 3600, 10_800)
TEACHER = {
    "learning_rate": 3e-3, "batch_size": 32, "epochs": 2, "warmup_epochs": 1, "optimizer": "adam", "weight_decay": 0.0,
}  # fmt: skip
FEWER = {
    "phase1.training": TEACHER,
    "phase2.training": TEACHER,
    "phase4.training": {"batch_size": 32, "warmup_epochs": 1},
    "phase4.distill": {"epochs": 2, "learning_rate": 3e-3},
    "phase4.finetune": {"epochs": 2, "learning_rate": 5e-5, "augmentation": "none"},
}
TOGETHER = {
    "trainings": ("phase1 train", "phase2 train", "phase4 distill", "phase4 finetune"),
    "predictions": (
        "phase1 evaluate", "phase1 logits", "phase2 evaluate", "phase2 logits", "phase3 check", "phase4 evaluate",
        "phase5 calibrate",
    ),
}  # fmt: skip
LONG = 30.0  # seconds of processor time that the last size must add for growth to be judged
GOAL = 1.15
FULL = 850_000
GPUS = (("one GPU", 1), ("eight", 8))
CORES = 16  # beside each card


def settings(root: Path, photos: int) -> list[str]:
    values = {"root": str(root), "source.demo": {"species": 10, "photos": photos}} | FEWER
    values |= {"gates.valid_photos_min": None, "gates.valid_photos_max": None}
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def clocked(root: Path, photos: int) -> int:
    """The chain, in a process of its own; root/processor.json: {step: seconds of processor time, children's too}."""
    under_way, found = status.under_way, {}

    @contextlib.contextmanager
    def watched(run, step):
        before = sum(os.times()[:4])
        with under_way(run, step):
            yield
        found[step.title] = sum(os.times()[:4]) - before

    status.under_way = watched
    code = command_line(["run", "--config", "configs/demo.yaml", *(f"--set={one}" for one in settings(root, photos))])
    (root / "processor.json").write_text(json.dumps(found))
    return code


def measure(root: Path, photos: int) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """(seconds of each step, of processor time, what the forecast says of them)"""
    done = subprocess.run([sys.executable, __file__, root, str(photos)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    run = Run(from_file(ROOT / "configs/demo.yaml", settings(root, photos)), None)
    seconds = {row["step"]: row["seconds"] for row in status.status(run)}
    print(f"{photos} photos: {duration(sum(seconds.values()))}", flush=True)
    worked = json.loads((root / "processor.json").read_text())
    return seconds, worked, {title: found.seconds for title, found in forecast.costs(run).items()}


def full_size(gpus: int) -> dict[str, forecast.Cost]:
    run = Run(from_file(ROOT / "configs/full.yaml", [f"gates.valid_photos_max={FULL}"]), None)
    mobilenet, vit = (gpus * forecast.GPU[network] for network in ("mobilenet", "vit"))
    card = forecast.Device("GPU", mobilenet, vit, CORES * gpus, gpu=True)
    return forecast.costs(run, card)


def table(measured: list[dict[str, float]], forecast: dict[str, float]) -> list[str]:
    rows = []
    for step in measured[0]:
        seconds = np.array([each[step] for each in measured])
        slope, fixed = np.polyfit(SIZES, seconds, 1)
        cells = [f"{s:.1f}" for s in seconds] + [f"{max(fixed, 0):.1f}", f"{max(1000 * slope, 0):.2f}"]
        rows.append(f"| `{step}` | {' | '.join(cells)} | {forecast[step]:.0f} |")
    return rows


def growth(worked: list[dict[str, float]]) -> tuple[list[str], float]:
    """(Markdown rows, the largest power)"""
    alone = {f"`{step}`": (step,) for step in worked[0] if not any(step in steps for steps in TOGETHER.values())}
    rows, largest = [], 0.0
    for name, steps in {**TOGETHER, **alone}.items():
        seconds = [sum(each[step] for step in steps) for each in worked]
        first, second = np.diff(seconds)
        if second > LONG:
            power = float(np.log(second / max(first, 1.0)) / np.log(3))
            largest = max(largest, power)
            rows.append(f"| {name} | {' | '.join(f'{s:.1f}' for s in seconds)} | {power:.2f} |")
    return rows, largest


def projection(price: float | None) -> list[str]:
    one, eight = (full_size(n) for _, n in GPUS)
    rows = []
    for step in (each.title for each in STEPS):
        cells = (duration(one[step].seconds), duration(eight[step].seconds), f"{one[step].bytes / 1e9:.1f}")
        rows.append(f"| `{step}` | {' | '.join(cells)} |")
    totals = [duration(sum(found.seconds for found in each.values())) for each in (one, eight)]
    rows.append(f"| together | {' | '.join(totals)} | {sum(found.bytes for found in one.values()) / 1e9:.0f} |")
    trained = [{s: f.seconds for s, f in each.items() if not s.startswith("phase0")} for each in (one, eight)]
    if price:  # phase 0 needs no GPU
        paid = [gpus * sum(each.values()) / 3600 * price for (_, gpus), each in zip(GPUS, trained, strict=True)]
        rows.append(f"| GPUs, at {price:g} an hour | {paid[0]:,.0f} | {paid[1]:,.0f} | |")
    slowest = [max(each, key=each.get) for each in trained]
    model = from_file(ROOT / "configs/full.yaml").phase3.model
    reading, training = forecast.DECODE / CORES, 3 * forecast.macs(model, 224, 9000)[0] / forecast.GPU["mobilenet"]
    rows += [
        "",
        f"After phase 0 the bottleneck is `{slowest[0]}` on one GPU and `{slowest[1]}` on eight. Phase 0's is the "
        "politeness: one host gives 10 photos a second; with a hundred hosts it is the processor. The student's "
        f"training waits for {'the photos' if reading > training else 'the card'}: {CORES} cores decode and augment "
        f"{1 / reading:,.0f} a second, a card would train on {1 / training:,.0f}.",
    ]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--price-per-gpu-hour", type=float)
    parser.add_argument("clocked", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.clocked:
        root, photos = options.clocked
        return clocked(Path(root), int(photos))
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(Path(folder, str(photos)), photos) for photos in SIZES]
    measured, worked, (*_, forecast) = zip(*found, strict=True)
    grown, largest = growth(worked)
    ratio = sum(measured[-1].values()) / sum(forecast.values())
    heads = " | ".join(f"{n:,} photos" for n in SIZES)
    text = "\n".join(
        [
            "# What a photo costs",
            "",
            "Written by `benchmarks/whole/scale.py`, which says how. `configs/demo.yaml` (MobileNetV2 0.35 at 96 px, "
            f"two epochs a training) on {forecast.device().name}, seconds of each step:",
            "",
            f"| step | {heads} | fixed | ms a photo | forecast at {SIZES[2]:,} |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *table(measured, forecast),
            "",
            f"All steps at {SIZES[2]:,} photos took {ratio:.2f} times what `run --dry-run` forecasts for them here.",
            "",
            f"Seconds of processor time, of all that the last size adds more than {LONG:.0f} to:",
            "",
            f"| step | {heads} | grows as n to the |",
            "| --- | --- | --- | --- | --- |",
            *grown,
            "",
            f"## {FULL:,} photos, `configs/full.yaml`",
            "",
            "Forecast, not run. Arithmetic of the networks (ViT-base 17.6 billion multiply-adds a photo, MobileNetV2 "
            f"0.3) at rates that are assumed: {forecast.GPU['vit'] / 1e12:g} and "
            f"{forecast.GPU['mobilenet'] / 1e12:g} trillion a second on a card of an A100's class in TF32, {CORES} "
            "cores a card. Eight cards: the same divided by "
            "eight, as if nothing were lost between them (`distribute: mirrored`).",
            "",
            "| step | one GPU | eight | GB |",
            "| --- | --- | --- | --- |",
            *projection(options.price_per_gpu_hour),
            "",
        ]
    )
    (ROOT / "benchmarks/whole/scale.md").write_text(text)
    print(text)
    if not largest:
        sys.exit("nothing grew enough to be judged: raise SIZES")
    print(f"{GOAL / largest:.2f}")
    return int(largest > GOAL)


if __name__ == "__main__":
    sys.exit(main())
