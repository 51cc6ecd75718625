"""Arrays that are memory-mapped from a file."""

import mmap
from typing import Any

from numpy.typing import NDArray


def forget_pages(array: NDArray) -> None:
    """Give back the memory of pages that were read from a memory-mapped file, or written to it; no value is lost.

    Without this all pages of a pass over the logits, gigabytes at full size, count as the process's resident memory.
    The system's cache keeps them, so that the next pass doesn't read the disk again.

    Args:
        array: any shape, mapped to be read, or to be read and written; nothing happens if it isn't memory-mapped.
    """
    mapping: Any = array
    while mapping is not None and not isinstance(mapping, mmap.mmap):
        mapping = getattr(mapping, "base", None)  # a view's array, and in the end what that array lies in
    if mapping is not None:
        mapping.madvise(mmap.MADV_DONTNEED)
