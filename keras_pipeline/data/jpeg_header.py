"""What a JPEG tells before it is decoded: its size, coding, EXIF orientation and profile, and whether it is cut off.

The page's `jpeg.js` reads the same bytes by the same rules, so that both turn, convert and refuse the same photos.
"""

from __future__ import annotations

import dataclasses
import re

from keras_pipeline.data import exif

START_OF_SCAN, END_OF_IMAGE = 0xDA, b"\xff\xd9"
APP1, APP2 = 0xE1, 0xE2
PROFILE, SECOND_PICTURE = b"ICC_PROFILE\0", b"MPF\0"
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
ORDINARY = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, all by Huffman's code
LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
PROGRESSIVE = 0xC2
BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
BETWEEN_SCANS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
SAMPLING = {0x11, 0x21, 0x12, 0x22, 0x41, 0x14}  # of the first component: 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1, 4:4:1
SMOOTHED = 10  # coefficients of a block: where one lacks bits, libjpeg smooths the picture, each version otherwise


@dataclasses.dataclass(frozen=True)
class JpegHeader:
    """The segments before the first scan."""

    width: int = 0  # pixels; 0 where no frame says it
    height: int = 0
    components: int = 0
    unusual: str = ""  # "12 bits", "lossless" or "arithmetic coding": what browsers don't read
    has_common_sampling: bool = True  # sampling factors of the components that simplejpeg has a name for
    orientation: int = 1  # 1 to 8; 1 is upright
    profile: bytes = b""  # ICC; empty without one
    has_second_picture: bool = False  # as phones write it: MPO
    is_complete: bool = False  # the end of the image is there
    lacks_scans: bool = False  # progressive, and what there is shows the picture coarsely only

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def is_plain(self) -> bool:
        """Whether its pixels are upright sRGB, and all that it holds."""
        ordinary = self.components == 3 and not self.unusual and self.orientation == 1
        return ordinary and not self.profile and not self.has_second_picture


def read(photo: bytes) -> JpegHeader | None:
    """Read the header of a JPEG; None for any other file.

    The first EXIF segment counts. XMP does not count, as in browsers. Bytes between segments are skipped, as by the
    decoder.
    """
    if photo[:2] != b"\xff\xd8":
        return None
    header: dict = {}
    profile: dict[int, bytes] = {}
    at = 2
    while (at := photo.find(b"\xff", at)) >= 0 and at + 4 <= len(photo):
        marker, length = photo[at + 1], int.from_bytes(photo[at + 2 : at + 4])
        if marker in (0x00, 0xFF) or marker in BARE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == START_OF_SCAN:
            header["is_complete"] = photo.rfind(END_OF_IMAGE, at) >= 0  # from the end, where it mostly is
            header["lacks_scans"] = header.pop("is_progressive", False) and _lacks_scans(
                photo, at, header["components"]
            )
            break
        segment = photo[at + 4 : at + 2 + length]
        if marker in FRAMES and "width" not in header and len(segment) >= 6:
            header |= _frame(marker, segment)
        elif marker == APP1 and segment.startswith(exif.PREFIX):
            header.setdefault("orientation", exif.orientation(segment))
        elif marker == APP2 and segment.startswith(PROFILE) and len(segment) > len(PROFILE) + 2:
            profile.setdefault(segment[len(PROFILE)], segment[len(PROFILE) + 2 :])
        elif marker == APP2 and segment.startswith(SECOND_PICTURE):
            header["has_second_picture"] = True
        at += 2 + max(length, 2)
    header.pop("is_progressive", None)
    return JpegHeader(**header, profile=b"".join(part for _, part in sorted(profile.items())))


def _frame(marker: int, segment: bytes) -> dict:
    unusual = "lossless" if marker in LOSSLESS else "" if marker in ORDINARY else "arithmetic coding"
    first, *others = segment[7 : 6 + 3 * segment[5] : 3] or b"\x11"
    usual = {2: b"\x11\x11", 3: bytes((0x11, 0x11, first))}  # of black as of the first
    return {
        "height": int.from_bytes(segment[1:3]),
        "width": int.from_bytes(segment[3:5]),
        "components": segment[5],
        "unusual": unusual or ("12 bits" if segment[0] != 8 else ""),
        "has_common_sampling": not others or (first in SAMPLING and bytes(others) == usual.get(len(others))),
        "is_progressive": marker == PROGRESSIVE,
    }


def _lacks_scans(photo: bytes, at: int, components: int) -> bool:
    """Tell of the scans from `at` on whether they leave a component's first coefficients without their last bits."""
    missing: dict[tuple[int, int], int] = {}  # (component, coefficient) -> how many bits
    while photo[at + 1] != END_OF_IMAGE[1]:
        length = int.from_bytes(photo[at + 2 : at + 4])
        segment = photo[at + 4 : at + 2 + length]
        count = segment[0] if segment else 0
        if photo[at + 1] == START_OF_SCAN and len(segment) == 4 + 2 * count:
            first, last, bits = segment[-3:]
            for component in segment[1:-3:2]:
                missing |= {(component, i): bits & 0x0F for i in range(first, min(last + 1, SMOOTHED))}
        if not (found := BETWEEN_SCANS.search(photo, at + 2 + max(length, 2))):
            break
        at = found.start()
    return len(missing) < components * SMOOTHED or any(missing.values())
