"""Where and with what a run was made, with secrets taken out."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "keras",
    "tensorflow",
    "keras-hub",
    "tensorflowjs",
    "numpy",
    "pandas",
    "pillow",
    "pymongo",
    "scipy",
    "playwright",
)


def redact(text: str) -> str:
    """Replaces user and password in any URI, and secret options: mongodb://user:secret@host -> mongodb://***@host."""
    # Up to the last @ of the word: a password that isn't percent-encoded may hold / and @ itself.
    text = re.sub(r"(\w[\w+.-]{0,30}://)\S*@", r"\1***@", text)
    return re.sub(
        r"([?&;][^=&;\s]*(?:pass|secret|token|key|authmechanismprop)[^=&;\s]*=)[^&;\s]*", r"\1***", text, flags=re.I
    )


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
    """Python, package versions, processor and git state."""
    return {
        "python_version": platform.python_version(),
        **{f"{name.replace('-', '_')}_version": _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
    }


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


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()
