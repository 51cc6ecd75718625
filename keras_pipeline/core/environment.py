"""The environment of a run: Python, packages, processor, GPUs, and the code's commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from keras_pipeline.core.redaction import redact

# Environment variables that decide which kernels run, and in what order.
FLAGS = re.compile(r"(TF|XLA|CUDA|CUDNN|NVIDIA|KERAS|OMP|MKL|OPENBLAS)_\w+|PYTHONHASHSEED")


def describe() -> dict:
    """Return Python, the version of every package, the processor, and the flags in the environment."""
    packages = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    return {
        "python_version": platform.python_version(),
        "tensorflow_version": packages["tensorflow"],
        "keras_version": packages["keras"],
        "platform": platform.platform(),
        "cpu": _cpu(),
        "flags": {name: redact(value) for name, value in sorted(os.environ.items()) if FLAGS.fullmatch(name)},
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def nvidia(field: str) -> list[str]:
    """Return a field (`name`, `driver_version`) of each NVIDIA GPU, from nvidia-smi; [] if there is none."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def git_commit() -> dict:
    """Return the commit and whether the working tree differs from it; nulls outside a repository."""
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    return {"git_commit": commit, "git_dirty": bool(_git(here, "status", "--porcelain")) if commit else None}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()
