"""Files inside a zip archive, within limits: nothing is unpacked to the disk."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any, TextIO

from keras_pipeline.core.errors import SourceError

MEMBERS = 10_000  # files in an archive
BYTES = 1_000_000_000_000  # of a member, unpacked
RATIO = 200  # unpacked / packed; tables of occurrences reach 30
RATIO_FROM = 50_000_000  # unpacked bytes; below, a ratio is no danger


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive. Raises SourceError if it is cut, damaged or has too many members."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise SourceError(
            f"{path}: begins as a zip archive, but has no valid end ({error}), as if its download had been cut; "
            "download it again"
        ) from None
    if len(archive.infolist()) > MEMBERS:
        raise SourceError(f"{path}: received {len(archive.infolist()):,} members, expected at most {MEMBERS:,}")
    return archive


class Member(io.RawIOBase):
    """A file inside a zip archive, unpacked as it is read, within the limits on bytes and ratio.

    Raises SourceError, on reading too, for what is damaged, encrypted or larger than the limits allow.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path, name: str) -> None:
        self._what, self._read = f"{path}, {name}", 0
        try:
            self._packed = archive.getinfo(name).compress_size
            self._stream = archive.open(name)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise SourceError(f"{self._what}: can't be unpacked ({error}); download the archive again") from None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Unpack up to the buffer's size; return the number of bytes, 0 at the end."""
        try:
            data = self._stream.read(len(buffer))
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, zlib.error, lzma.LZMAError) as error:
            raise SourceError(
                f"{self._what}: the archive is damaged after {self._read:,} unpacked bytes ({error}); what came before "
                "is stored; download the archive again and run the same command"
            ) from None
        self._read += len(data)
        if self._read > BYTES or self._read > max(RATIO_FROM, RATIO * self._packed):
            raise SourceError(
                f"{self._what}: received more than {self._read:,} bytes from {self._packed:,} packed ones, expected at "
                f"most {RATIO} times as many, and {BYTES:,}; is this the file that you meant?"
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the member; the archive stays open."""
        self._stream.close()
        super().close()


def text_of_member(archive: zipfile.ZipFile, path: Path, name: str, encoding: str, newline: str = "") -> TextIO:
    """Return a member of an archive as text. Bytes of another encoding become surrogates, which no document takes."""
    binary = io.BufferedReader(Member(archive, path, name), 1 << 20)
    return io.TextIOWrapper(binary, encoding=encoding, errors="surrogateescape", newline=newline)
