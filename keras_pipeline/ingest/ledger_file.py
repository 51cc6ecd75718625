"""The file of a ledger: whether it is one, without the time that PyArrow takes, because `status` asks too."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path


def explained(path: Path, error: object) -> str:
    """Return what is said of a file that is no ledger."""
    return (
        f"{path}: {error}; remove it and its -wal and -shm files, then run `phase0 export --force`: all photos are "
        "fetched again"
    )


def fault(path: Path) -> str | None:
    """Say that a file is no SQLite database, or that its end is missing; None where nothing is there.

    Nothing is written beside it. While an export has it open, or after a kill, the end may be in its -wal file.
    """
    if path.is_dir():
        return explained(path, "a folder")
    if not path.is_file() or path.with_name(path.name + "-wal").exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as database:
            database.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:  # the disk's fault, not the contents'
        return None
    except sqlite3.DatabaseError as error:
        return explained(path, error)
    return None
