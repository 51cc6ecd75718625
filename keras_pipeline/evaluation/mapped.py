"""Arrays that are memory-mapped from a file."""

import mmap

from numpy.typing import NDArray


def forget_pages(array: NDArray) -> None:
    """Give back the memory of pages that were read from a memory-mapped file, or written to it; no value is lost.

    Without this all pages of a pass over the logits, gigabytes at full size, count as the process's resident memory.
    The system's cache keeps them, so that the next pass doesn't read the disk again.

    Args:
        array: any shape; nothing happens if it isn't memory-mapped.
    """
    mapping = getattr(array, "_mmap", None)
    if mapping is not None:
        mapping.madvise(mmap.MADV_DONTNEED)
