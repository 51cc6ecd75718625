"""The orientation in EXIF: one rule for JPEG, PNG and WebP. The page has it in jpeg.js, as `exifOrientation`."""

from __future__ import annotations

import struct

PREFIX = b"Exif\0\0"  # before EXIF in a JPEG, and needlessly in some PNGs and WebPs
ORIENTATION, SHORT = 0x0112, 3  # tag and type of TIFF 6.0, in which EXIF is written


def orientation(exif: bytes) -> int:
    """Return the orientation, 1 (upright) to 8, of EXIF's first directory.

    It counts if it is one number of type SHORT, from 1 to 8; else the photo is upright.
    """
    tiff = exif.removeprefix(PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (entries,) = struct.unpack_from(f"{order}H", tiff, start)
    for at in range(start + 2, min(start + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, at)
        if tag == ORIENTATION:
            return value if (kind, count) == (SHORT, 1) and 1 <= value <= 8 else 1
    return 1
