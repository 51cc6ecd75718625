"""Where and with what a run was made: Python, packages, processor, GPUs, and the code's commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from keras_pipeline.core.redaction import redact

# What decides which kernels run, and in what order.
FLAGS = re.compile(r"(TF|XLA|CUDA|CUDNN|NVIDIA|KERAS|OMP|MKL|OPENBLAS)_\w+|PYTHONHASHSEED")


def describe() -> dict:
    """Python, the version of every package, processor, and the flags that the shell gave."""
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


def nvidia(what: str) -> list[str]:
    """`name`, `driver_version` … of each of NVIDIA's cards, by its own tool; [] where there is none."""
    asked = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def git_commit() -> dict:
    """Commit and whether the working tree differs from it; nulls outside a repository."""
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
