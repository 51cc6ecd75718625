"""What the segments of a JPEG tell before it is decoded: its EXIF orientation, a colour profile, whether it is cut off.

The page's `jpeg.js` reads the same bytes by the same rules, so that both turn, convert and refuse the same photos.
"""

from __future__ import annotations

import dataclasses
import struct

START_OF_SCAN, END_OF_IMAGE = 0xDA, b"\xff\xd9"
APP1, APP2 = 0xE1, 0xE2
EXIF, PROFILE = b"Exif\0\0", b"ICC_PROFILE\0"
ORIENTATION, SHORT = 0x0112, 3  # tag and type of TIFF 6.0, in which EXIF is written


@dataclasses.dataclass(frozen=True)
class JpegHeader:
    """The segments before the first scan."""

    orientation: int  # 1 to 8; 1 is upright
    has_profile: bool
    is_complete: bool  # the end of the image is there


def read(photo: bytes) -> JpegHeader | None:
    """Read the header of a JPEG; None for any other file.

    The first EXIF segment counts, if its orientation is one number of type SHORT, from 1 to 8. XMP does not count, as
    in browsers.
    """
    if photo[:2] != b"\xff\xd8":
        return None
    orientation, has_profile, at = None, False, 2
    while at + 4 <= len(photo) and photo[at] == 0xFF:
        marker, length = photo[at + 1], int.from_bytes(photo[at + 2 : at + 4])
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == START_OF_SCAN:
            return JpegHeader(orientation or 1, has_profile, photo.find(END_OF_IMAGE, at) >= 0)
        segment = photo[at + 4 : at + 2 + length]
        if marker == APP1 and orientation is None and segment.startswith(EXIF):
            orientation = _orientation(segment[len(EXIF) :])
        has_profile |= marker == APP2 and segment.startswith(PROFILE)
        at += 2 + length
    return JpegHeader(orientation or 1, has_profile, False)


def _orientation(tiff: bytes) -> int:
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
