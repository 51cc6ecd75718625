"""Where and with what a run was made, with secrets taken out."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

# What decides which kernels run, and in what order.
FLAGS = re.compile(r"(TF|XLA|CUDA|CUDNN|NVIDIA|KERAS|OMP|MKL|OPENBLAS)_\w+|PYTHONHASHSEED")


def redact(text: str) -> str:
    """Replaces user and password in any URI, and secret options: mongodb://user:secret@host -> mongodb://***@host."""
    # Up to the last @ of the word: a password that isn't percent-encoded may hold / and @ itself.
    text = re.sub(r"(\w[\w+.-]{0,30}://)\S*@", r"\1***@", text)
    return re.sub(
        r"([?&;][^=&;\s]*(?:pass|secret|token|key|authmechanismprop)[^=&;\s]*=)[^&;\s]*", r"\1***", text, flags=re.I
    )


# Worded so that `redact` leaves it as it is.
MONGODB_URI = (
    "expected mongodb://host:port/, before the host user:password@ with special characters percent-encoded (@ is %40, "
    "/ is %2F, a space %20)"
)


def is_mongodb_uri(text: str) -> bool:
    """Whether user, password, hosts, database and options can be told apart (RFC 3986); if not, no one can say where a
    password ends.
    """
    host = r"(?:[\w.%-]+|\[[^\]\s]+\])(?::\d+)?"
    uri = rf"mongodb(?:\+srv)?://(?:[^@/?#\s]*@)?{host}(?:,{host})*(?:/[^/?#@\s]*)?(?:\?\S*)?"
    return re.fullmatch(uri, text) is not None


def redact_values(value: Any) -> Any:
    """`redact` for every string inside dicts and lists."""
    if isinstance(value, dict):
        return {key: redact_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_values(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def without_credentials(url: str) -> str:
    """The URL without its user and password: https://user:secret@host/a -> https://host/a. An @ of its path stays.

    Behind a colon that no port follows all up to the last @ is taken for a password that isn't percent-encoded.
    """
    if re.match(r"\s*(?:\w[\w+.-]*:)?//", url):
        return re.sub(r"^(.*?//)(?:[^/?#]*@|[^/?#@:]+:(?!\d*(?:[/?#]|$)).*@)", r"\1", url, flags=re.S)
    return re.sub(r"^(\s*(?:https?:)?[/\\]*)[^/?#@\\:]+:[^@]*@", r"\1", url)  # what should have been a URL


def environment() -> dict:
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
