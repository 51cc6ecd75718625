"""Does the whole road still tell the truth at 9,000 species, most of them with 4 to 9 photos?

    .venv/bin/python -m benchmarks.whole.species_9000 [--species 9000] [--root FOLDER]      (CPU only, 2 cores, hours)

Draws some 72,000 photos of invented species in 1,800 genera (`support/many_species.py`; bands of colour under a light
field), runs all steps with a small network at 32 px, and checks what small species break first: whether val speaks for
test, whether the promised precision is kept, whether the forecast is near. A run that was killed goes on where --root
is the same folder; without it everything is removed at the end.

Prints each claim with what was measured, and as the last line the share of claims that hold; exit 1 below 1.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from scipy.stats import beta

from benchmarks.support import many_species
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_file
from keras_pipeline.phases import forecast, status

SEED = 42
SMALL = {"name": "mobilenetv2", "alpha": 0.35, "pretrained": False}
TEACHER = {
    "model": SMALL | {"head_rank": 128},
    "training": {
        "optimizer": "adam", "weight_decay": 0.0, "learning_rate": 2e-3, "batch_size": 64, "epochs": 12,
        "warmup_epochs": 1,
    },
    "data": {"augmentation": "none", "image_size": 32},
    "regularization": {"dropout": 0.1, "mixup_alpha": 0.0, "cutmix_alpha": 0.0},
    "callbacks": {"early_stopping": False},
}  # fmt: skip
CONFIG = {
    "experiment": "species",
    "seed": SEED,
    "dataset": {"short_side": many_species.SIDE, "min_short_side": many_species.SIDE},
    "phase0": {"baseline": {"features": "colour-histogram", "image_size": 32}},
    "phase1": TEACHER,
    "phase2": TEACHER | {"region": "EU_SW"},
    "phase3": {"model": SMALL | {"dropout_rate": 0.1, "head_rank": 128}, "soft_labels": {"views": 2}},
    "phase4": {
        "data": {"image_size": 32},
        "training": {"batch_size": 64, "warmup_epochs": 1},
        "distill": {"epochs": 12, "learning_rate": 2e-3},
        "finetune": {"epochs": 2, "learning_rate": 5e-5, "augmentation": "none"},
        "callbacks": {"early_stopping": False},
    },
    "gates": {"valid_photos_min": None, "valid_photos_max": None},
}
LONG = 60.0  # seconds of a step whose forecast is judged
NEAR = 2.0  # the factor within which it has to be
APART = 0.05  # top-1 of val and test at most


def prepare(root: Path, species: int) -> Path:
    """Draw the photos; return the config's file."""
    photos = root / "photos"
    labels = many_species.write(photos, species, SEED)
    file = root / "species.yaml"
    demo = {"images": str(photos), "labels": str(labels)}
    file.write_text(yaml.safe_dump(CONFIG | {"root": str(root), "source": {"uri": "embedded", "demo": demo}}))
    return file


def command(file: Path, *words: str) -> float:
    """Run a command to its end; return its seconds. Missed gates (exit 1) are no failure here."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "keras_pipeline", *words, "--config", str(file)], check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(words)}: exit {done.returncode}")
    return time.perf_counter() - started


def claims(run: Run, expected: dict[str, float]) -> Iterator[tuple[str, str, bool]]:
    """Yield (claim, what was measured, whether it holds)."""
    val, test = (run.read(name)["top1_accuracy"] for name in ("student_metrics_val", "student_metrics"))
    yield f"val top-1 within {APART} of test", f"{val:.3f}, {test:.3f}", abs(val - test) <= APART
    yield _promise(run)
    shares = run.read("leak_audit")["shares"]
    worst = min(n / (shares["asked"][name] * sum(shares["photos"].values())) for name, n in shares["photos"].items())
    yield "each split has half of what was asked, at least", f"{worst:.3f}", worst >= 0.5
    for row in status.rows(run):
        if row["seconds"] and row["seconds"] > LONG:
            ratio = expected[row["step"]] / row["seconds"]
            told = f"{expected[row['step']]:.0f} s, took {row['seconds']:.0f} s"
            yield f"forecast of {row['step']}", told, 1 / NEAR <= ratio <= NEAR


def _promise(run: Run) -> tuple[str, str, bool]:
    """Whether the precision on test can be what was promised, by its upper 97.5 % bound."""
    found = run.read("calibration")
    if not found["target_met"]:
        return "the promise is kept, or none is made", "none is made", True
    n = round(found["coverage"] * found["n"])
    right = round(found["precision"] * n)
    high = 1.0 if right == n else float(beta.ppf(0.975, right + 1, n - right))
    told = f"promised {found['precision_lower_bound']:.3f}, {right} of {n} right"
    return "the promise is kept, or none is made", told, high >= found["precision_lower_bound"]


def main() -> int:
    """Draw, run, check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--species", type=int, default=9000)
    parser.add_argument("--root", type=Path)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = options.root or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = prepare(root, options.species)
        command(file, "run", "--until", "phase0 split")  # so that the forecast counts photos and species
        run = Run(from_file(file, []), None)
        told = root / "forecast.json"
        if not told.exists():
            told.write_text(json.dumps({title: cost.seconds for title, cost in forecast.costs(run).items()}))
        command(file, "run")
        found = list(claims(run, json.loads(told.read_text())))
    for claim, measured, holds in found:
        print(f"{'holds' if holds else 'FAILS'}  {claim}: {measured}")
    share = sum(holds for _, _, holds in found) / len(found)
    print(f"{share:.3f}")
    return int(share < 1)


if __name__ == "__main__":
    sys.exit(main())
