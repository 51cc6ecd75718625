"""What the first bytes of a file tell: the picture's format and size, or why it is no photo that can be stored.

Pillow reads whole files. A check of URLs has only their beginning, and a refusal should name what came instead.
"""

from __future__ import annotations

import math
import re
import struct

from keras_pipeline.data import chunks

# Checked before decoding: a 1 MB file can claim 4 gigapixels. A 100-megapixel camera photo still passes.
MAX_PIXELS = 120_000_000
META = 10_000  # bytes at the start of an AVIF that hold what is said of its picture
ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"
NO_PICTURE = "not a JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF picture"
PICTURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF.{4}WEBP|GIF8[79]a|II[*+]\0|MM\0[*+]|BM", re.S)
KINDS = {"II": "TIFF", "MM": "TIFF", "GI": "GIF", "BM": "BMP"}  # by the first two letters; AVIF begins with a length
BRAND = re.compile(rb".{4}ftyp(.{4}).{4}((?:.{4})*)", re.S)  # of the ISO base media file format
HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
OTHERS = {
    "a video": re.compile(rb"\x1a\x45\xdf\xa3|RIFF.{4}AVI |FLV\x01|\0\0\x01[\xb3\xba]|\x30\x26\xb2\x75", re.S),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "a PDF document": re.compile(rb"%PDF-"),
    "an archive": re.compile(rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf"),
}  # fmt: skip


# Why a photo is refused, in the words that the page shares (`reasons` in messages.js), and what Python says of it. What
# stands before the colon, where there is one, is a reason's own.
REASONS = {
    "not a photo": NO_PICTURE,
    "HEIC": f"HEIC, {NO_PICTURE}",
    "too large": f"larger than {MAX_PIXELS} pixels",
    "too small": "shorter side below {} px",
    "cut off": "cut off: the end of the {} is missing",
    "damaged": "damaged: the {}'s data can't be decoded",
    "12 bits": "12 bits: browsers read JPEGs of 8 bits alone; save it as an ordinary JPEG",
    "lossless": "lossless: browsers read no JPEG of that kind; save it as an ordinary JPEG",
    "arithmetic coding": "arithmetic coding: browsers read no JPEG of that kind; save it as an ordinary JPEG",
    "other colours": "other colours: the {} says (cICP, nclx) that it is not in sRGB; save it as an ordinary JPEG",
    "transparent AVIF": "transparent AVIF: browsers show other pixels of it; save it as an ordinary JPEG",
    "animated AVIF": "animated AVIF: browsers show other pixels of it; save one picture of it as an ordinary JPEG",
    "32 bits": "32 bits: more than 16 bits a channel have no white that is agreed on; save it as an ordinary JPEG",
}


class Refusal(ValueError):
    """Why a photo is refused, in a sentence. `reason` is one of `REASONS`; `may_succeed`: by another download."""

    def __init__(self, sentence: str, reason: str = "not a photo"):
        super().__init__(sentence)
        self.reason, self.may_succeed = reason, reason == "cut off"


def refused(reason: str, detail: object = "") -> Refusal:
    """Return the refusal for one of `REASONS`; `detail` is the format or the number that its sentence names."""
    return Refusal(REASONS[reason].format(detail), reason)


def kind_of(photo: bytes) -> str:
    """Return the format of a file that `wrong_format` lets pass, as people call it."""
    return KINDS.get(photo[:2].decode("latin-1"), "AVIF")


def refusal(first: bytes, *, min_short_side: int) -> str:
    """Return why a file with these first bytes will not be stored, or "" if they tell nothing against it.

    Args:
        min_short_side: pixels; smaller photos are refused.
    """
    found = wrong_format(first)
    if not found and (sides := size(first)):
        found = wrong_size(sides, min_short_side=min_short_side)
    return str(found or "")


def too_small(first: bytes, *, min_short_side: int) -> bool:
    """Return whether these bytes tell that the picture's shorter side has fewer pixels."""
    sides = size(first)
    return sides is not None and min(sides) < min_short_side


def wrong_size(sides: tuple[int, int], *, min_short_side: int) -> Refusal | None:
    """Return why a picture of this width and height in pixels is not stored, or None."""
    if sides[0] * sides[1] > MAX_PIXELS:
        return refused("too large")
    return refused("too small", min_short_side) if min(sides) < min_short_side else None


def wrong_format(first: bytes) -> Refusal | None:
    """Return why a file is none of the formats that are stored, with its own format where it is known, or None."""
    if PICTURES.match(first):
        return None
    found = next((name for name, start in OTHERS.items() if start.match(first)), "")
    if brand := BRAND.match(first[: max(16, int.from_bytes(first[:4]))]):
        brands = {brand[1], *re.findall(b".{4}", brand[2], re.S)}
        if brand[1] in (b"avif", b"avis") or (brand[1] in HEIF and brands & {b"avif", b"avis"}):
            return None
        if brand[1] in HEIF:
            return refused("HEIC")
        found = "a video"
    return Refusal(", ".join(filter(None, (found, NO_PICTURE))))


def unusual_avif(photo: bytes) -> str:
    """Return which of `REASONS` speaks against an AVIF, of which browsers would show another picture, or ""."""
    first = photo[:META]
    if first[8:12] == b"avis":
        return "animated AVIF"
    if ALPHA in first:
        return "transparent AVIF"
    at = first.find(b"colrnclx")
    if at < 0 or len(first) < at + 12:
        return ""
    return "other colours" if chunks.other_colours(*struct.unpack_from(">HH", first, at + 8)) else ""


def size(first: bytes) -> tuple[int, int] | None:
    """Return a picture's width and height in pixels, None where these first bytes do not hold them."""
    try:
        if first.startswith(b"\xff\xd8"):
            return _jpeg_size(first)
        if first.startswith(b"\x89PNG"):
            width, height = struct.unpack_from(">II", first, 16)
            return (width, height) if first[12:16] == b"IHDR" else None
        if first.startswith(b"GIF8"):
            width, height = struct.unpack_from("<HH", first, 6)
            return width, height
        if first.startswith(b"BM") and first[14] != 12:  # 12: the header of OS/2
            width, height = struct.unpack_from("<ii", first, 18)
            return abs(width), abs(height)
        return _webp_size(first) if first.startswith(b"RIFF") else _avif_size(first)
    except (struct.error, IndexError):
        return None


def _jpeg_size(first: bytes) -> tuple[int, int] | None:
    place = 2
    while True:
        marker, length = first[place + 1], struct.unpack_from(">H", first, place + 2)[0]
        if first[place] != 0xFF:
            return None
        if marker == 0xFF:  # a fill byte
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", first, place + 5)
            return width, height
        else:
            place += 2 + length


def _webp_size(first: bytes) -> tuple[int, int] | None:
    if first[12:16] == b"VP8X":
        return int.from_bytes(first[24:27], "little") + 1, int.from_bytes(first[27:30], "little") + 1
    if first[12:16] == b"VP8L":
        bits = struct.unpack_from("<I", first, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", first, 26)
    return width & 0x3FFF, height & 0x3FFF


def _avif_size(first: bytes) -> tuple[int, int] | None:
    """Return the largest of the items' sizes: thumbnails and tiles have theirs too."""
    pairs = re.findall(rb"ispe.{4}(.{4})(.{4})", first, re.S)
    sizes = [(int.from_bytes(width), int.from_bytes(height)) for width, height in pairs]
    return max(sizes, key=math.prod, default=None)
