"""Silence for TensorFlow's C++ code, which writes notices about GPUs to standard error at any logging level."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
    """Drop what is written to file descriptor 2 while the context is open, and show it if the context fails."""
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            held.seek(0)
            os.write(shown, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)


class QuietImport(importlib.abc.MetaPathFinder):
    """Keep the first `import tensorflow`, wherever it happens, from writing to standard error."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            setattr(spec.loader, "exec_module", _quietly(spec.loader.exec_module))  # noqa: B010, a method of one object
        return spec


def _quietly(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def executed(module: ModuleType) -> None:
        with stderr_held_back():
            execute(module)

    return executed
