"""`.npz` files larger than memory: NumPy's own `savez` needs each array whole."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np


class NpzWriter:
    """An uncompressed `.npz`, array after array."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "w", allowZip64=True)

    def __enter__(self) -> NpzWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def add(self, name: str, array: np.ndarray) -> None:
        """Write one array."""
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as out:
            np.lib.format.write_array(out, array, allow_pickle=False)

    def add_blocks(self, name: str, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
        """Write a float32 array of this shape, whose rows come in blocks."""
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as out:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            for block in blocks:
                out.write(block.astype("<f4").tobytes())
