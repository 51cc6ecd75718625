"""The sidecar `X.meta.json` beside each artefact `X`: what it was made from, and whether it is still that.

Keys: {content_hash, sha256, size, mtime_ns, producer, code_version, config_hash, config, inputs, seconds, finished}.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import write_json
from keras_pipeline.core.hashing import UNREADABLE, byte_hashes, content_hash, files_in

# What has to be in a sidecar for it to vouch for anything; sidecars had no sha256 at first.
SIDECAR = {
    "content_hash": str, "sha256": dict, "size": int, "mtime_ns": int, "producer": str, "code_version": int,
    "config_hash": str, "config": dict, "inputs": dict, "seconds": float, "finished": str,
}  # fmt: skip

TABLES = (".json", ".npz", ".parquet")  # small files, read again where size or time have changed


def changed_files(path: Path, meta: dict) -> list[str]:
    """Reads all of an artefact; the files that are not, byte for byte, what its step left."""
    if not path.exists():
        return [f"{path} (missing)"]
    if "sha256" not in meta:
        return [] if _has_content(path, meta["content_hash"]) else [str(path)]
    found, then = byte_hashes(path), meta["sha256"]
    folder = path if path.is_dir() else path.parent
    names = [name for name in sorted({**found, **then}) if found.get(name) != then.get(name)]
    return [str(folder / name) + ("" if name in found else " (missing)") for name in names]


def path_of(path: Path) -> Path:
    """Where an artefact's sidecar lies."""
    return path.with_name(path.name + ".meta.json")


def has_unreadable_sidecar(path: Path) -> bool:
    """Whether there is a sidecar that can't be read."""
    return sidecar(path) is None and path_of(path).exists()


def broken(path: Path) -> str | None:
    """Say which file of an artefact is broken, as a full disk leaves it, and how; None where none is.

    A sidecar has to be complete, and a JSON file to be a JSON object; of other artefacts size and time tell.
    """
    if has_unreadable_sidecar(path):
        return f"{path_of(path)}: broken ({_state(path_of(path), 'no whole sidecar')})"
    if path.suffix != ".json" or not path.exists():
        return None
    if not path.is_file():
        return f"{path}: broken (no file)"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return f"{path}: broken ({_state(path, 'no whole JSON')})"
    return None if isinstance(found, dict) else f"{path}: broken (JSON without keys)"


def _state(file: Path, otherwise: str) -> str:
    return "empty" if file.is_file() and file.stat().st_size == 0 else otherwise


def is_as_written(path: Path) -> bool:
    """Whether an artefact is there and holds, as far as can be told, what its step wrote."""
    return path.exists() and broken(path) is None and not is_altered(path)


def sidecar(path: Path) -> dict | None:
    """Read an artefact's sidecar; None where there is none that can be read."""
    file = path_of(path)
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None  # a pipe would never end
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        found = None
    # A broken sidecar means nothing is known: the step runs again.
    complete = isinstance(found, dict) and all(
        isinstance({"sha256": {}, **found}.get(key), kind) for key, kind in SIDECAR.items()
    )
    return found if complete else None


def required(path: Path) -> dict:
    """`sidecar`. Raises BrokenArtefact where there is none that can be read."""
    found = sidecar(path)
    if found is None:
        raise BrokenArtefact(f"{path}: has no sidecar that can be read; run its step again with --force")
    return found


def fingerprint(path: Path) -> dict:
    """Size and time: cheap enough for `status`, where content_hash is not.

    dataset.json stands for the shards beside it too, which it lists with their sha256.
    """
    files = files_in(path) if path.is_dir() else [path]
    if path.name == "dataset.json":
        files += path.parent.glob("*.tfrecord")
    stats = [file.stat() for file in files]
    return {"size": sum(s.st_size for s in stats), "mtime_ns": max((s.st_mtime_ns for s in stats), default=0)}


def renew_times(path: Path) -> None:
    """A copy's files are younger than its sidecar says. To be called when its bytes are known to be the same."""
    meta, now = sidecar(path), fingerprint(path)
    if meta and not now.items() <= meta.items():
        write_json(path_of(path), meta | now)


def edited(path: Path) -> str | None:
    """Say whose JSON file or table holds something else than its step wrote, and what to do; None where it does not.

    Other artefacts have checks of their own, which name the damaged part.
    """
    if path.suffix not in TABLES or not is_altered(path):
        return None
    return f"{path}: not what `{required(path)['producer']}` wrote; put that back, or run it again with --force"


def is_altered(path: Path) -> bool:
    """Whether what is there is not what its step left; a small file is read, of others size and time tell."""
    meta = sidecar(path)
    if meta is None or not path.exists() or fingerprint(path).items() <= meta.items():
        return False
    return path.suffix not in TABLES or not _has_content(path, meta["content_hash"])


def _has_content(path: Path, content: str) -> bool:
    try:
        return content_hash(path) == content
    except UNREADABLE:
        return False


def present_hash(path: Path) -> str | None:
    """Content hash of what is there now; None where nothing is known of it."""
    if is_altered(path):
        with contextlib.suppress(*UNREADABLE):
            return content_hash(path)
        return "altered"
    return (sidecar(path) or {}).get("content_hash")
