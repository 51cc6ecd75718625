"""Content hashes of artefacts, without the dates in .keras files, SavedModels and pages and the times in JSON."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

# `phase6 validate` adds it to the page that it checks; it is an artefact of its own.
ADDED_LATER = "equivalence.json"
ABOUT = "about.json"  # of the page: holds the date of its export
# Files that hold dates or a random id; a SavedModel's weights and assets are hashed.
VOLATILE = {"saved_model.pb", "fingerprint.pb", "keras_metadata.pb", ABOUT}
# ABOUT is also an entry of files.json, whose own hash is in equivalence.json. How many photos of dataset.json are of
# which rule follows from its shards, whose hashes it holds; older datasets don't say it.
UNTIMELY = {"timing", ABOUT, "list_sha256", "photos_by_rule"}
# What JSON, zipfile, NumPy, HDF5 and Parquet raise, as fuzzing shows, for a file with a changed byte or a missing end.
UNREADABLE = (ValueError, KeyError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def content_hash(path: Path) -> str:
    """Return the content hash of a file or a folder, see above. Reads all of it."""
    if path.is_dir():
        return folder_hash(file_hashes(path))
    if path.suffix == ".keras":
        return _weights_hash(path)
    if path.suffix == ".json":
        value = json.loads(path.read_text(encoding="utf-8"))
        return hashlib.sha256(json.dumps(_without_timing(value), sort_keys=True).encode()).hexdigest()
    return file_hash(path)


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the content hash of each file in a folder by its relative path, without the files that hold dates."""
    files = sorted(file for file in files_in(folder) if file.name not in VOLATILE)
    return {file.relative_to(folder).as_posix(): content_hash(file) for file in files}


def byte_hashes(path: Path) -> dict[str, str]:
    """Return the sha256 of a file's bytes, or of each file in a folder, by name."""
    if not path.is_dir():
        return {path.name: file_hash(path)}
    return {file.relative_to(path).as_posix(): file_hash(file) for file in sorted(files_in(path))}


def folder_hash(files: dict[str, str]) -> str:
    """Return the hash of a folder from the hashes of its files."""
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in files.items()).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_timing(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_timing(inner)
            for key, inner in value.items()
            if key not in UNTIMELY and not key.endswith(("_ms", "_per_second"))
        }
    return [_without_timing(inner) for inner in value] if isinstance(value, list) else value


def _weights_hash(path: Path) -> str:
    import h5py  # 0.3 s, which `status` does without

    digest = hashlib.sha256()
    with (
        zipfile.ZipFile(path) as archive,
        # Inside the archive, each seek backwards would read from the beginning.
        tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder,
        h5py.File(archive.extract("model.weights.h5", folder), "r") as weights,
    ):
        datasets: dict[str, Any] = {}
        weights.visititems(lambda name, item: datasets.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        for name in sorted(datasets):
            array = datasets[name][()]
            digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def files_in(folder: Path) -> list[Path]:
    """Return all files below a folder, except the one that a later step adds."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ADDED_LATER]
