"""JSON files and atomic writes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_pipeline.core.errors import BrokenArtefact


def read_json(path: Path) -> dict:
    """Read a JSON file. Raises BrokenArtefact if it is missing, no file, or not JSON."""
    if path.exists() and not path.is_file():  # a pipe would never end
        raise BrokenArtefact(f"{path}: no file; move it away, and run its step again, which `status` names")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BrokenArtefact(
            f"{path}: missing; the step that writes it has not run, or it was removed (see `status`)"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BrokenArtefact(f"{path}: not JSON ({error}); run its step again, which `status` names") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, atomically; lists of numbers on one line. Raises ValueError for NaN and infinity."""
    with aside(path) as temporary:
        temporary.write_text(_indented(value, "\n") + "\n", encoding="utf-8")


def _indented(value: Any, line: str) -> str:
    """Return JSON as of `json.dumps(indent=2)`, but for lists of numbers: 9,000 lines of one number help no reader.

    Args:
        value: any JSON value.
        line: a line break and the indentation of the value.
    """
    inner = line + "  "
    if isinstance(value, dict) and value:
        names = (key if isinstance(key, str) else json.dumps(key) for key in value)
        keys = (json.dumps(name, ensure_ascii=False) for name in names)
        pairs = (f"{key}: {_indented(each, inner)}" for key, each in zip(keys, value.values(), strict=True))
        return f"{{{inner}{f',{inner}'.join(pairs)}{line}}}"
    if isinstance(value, list | tuple) and not all(isinstance(each, int | float | None) for each in value):
        return f"[{inner}{f',{inner}'.join(_indented(each, inner) for each in value)}{line}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling; rename it over `path` on success, remove it on failure."""
    temporary = temporary_for(path)
    try:
        yield temporary
        if temporary.is_dir() and path.exists():
            old = path.with_name(f".old-{os.getpid()}-{path.name}")
            path.rename(old)
            temporary.rename(path)
            remove(old)
        else:
            temporary.replace(path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def temporary_for(path: Path) -> Path:
    """Return the name of a sibling to write to until `path` is complete.

    It keeps the suffix, from which Keras chooses a format. The runner removes what a killed run left under such names.
    """
    return path.with_name(f".writing-{os.getpid()}-{path.name}")


def table_attributes(path: Path) -> dict:
    """Return the `attrs` of a table that pandas wrote as parquet; {} if the file or the attributes are missing."""
    import pyarrow as pa  # 0.4 s, which `status` does without
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return {}
    return json.loads(metadata.get(b"PANDAS_ATTRS", b"{}"))
