"""PNG and WebP without Pillow: which chunks hold the picture, its EXIF orientation and its colours.

The page's `chunks.js` reads the same bytes by the same rules. Both decoders are given the picture's own chunks alone,
so that no text, frame of an animation or other data can change or refuse it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import zlib
from collections.abc import Iterator

from keras_pipeline.data import exif

PNG, RIFF, WEBP = b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"
PALETTE, GREYS, ALPHAS = 3, (0, 4), (4, 6)  # colour types of PNG
MOST_PROFILE = 1 << 24  # bytes of a profile in a PNG, inflated
# Primaries and transfer functions, as of ITU-T H.273, that browsers show as sRGB: BT.709 or unsaid; SD and HD video.
SRGB_PRIMARIES, SRGB_TRANSFERS = (1, 2), (1, 2, 6, 13, 14, 15)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """A PNG or WebP, taken apart."""

    kind: str  # PNG or WebP
    picture: bytes = b""  # the same picture as a file without anything else; empty where its chunks are missing
    width: int = 0  # pixels; 0 where no chunk says it
    height: int = 0
    is_grey: bool = False
    orientation: int = 1  # 1 to 8; 1 is upright
    profile: bytes = b""  # ICC; empty without one
    has_other_colours: bool = False  # than sRGB, said without a profile
    is_complete: bool = True  # the file does not end within a chunk that counts


def read(photo: bytes) -> Chunks | None:
    """Take a PNG or WebP apart; None for any other file. Of an animation the first picture counts."""
    if photo.startswith(PNG):
        return _read_png(photo)
    return _read_webp(photo) if photo[:4] == RIFF and photo[8:12] == WEBP else None


def other_colours(primaries: int, transfer: int) -> bool:
    """Return whether the code points of cICP or nclx say other colours than sRGB's."""
    return primaries not in SRGB_PRIMARIES or transfer not in SRGB_TRANSFERS


def _read_png(photo: bytes) -> Chunks:
    """EXIF and colours count before the pixels. gAMA and cHRM do not count, as in most programs that write photos."""
    kept: list[tuple[bytes, bytes]] = []  # chunks as they are, with their checksums
    found: dict[bytes, bytes] = {}
    at, is_complete = len(PNG), False
    while at + 8 <= len(photo):
        length, name = int.from_bytes(photo[at : at + 4]), photo[at + 4 : at + 8]
        data, chunk = photo[at + 8 : at + 8 + length], photo[at : at + 12 + length]
        at += 12 + length
        if name == b"IEND" or at > len(photo):
            is_complete = name == b"IEND"
            break
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            kept.append((name, chunk))
        if not any(name == b"IDAT" for name, _ in kept) or name == b"IDAT":
            found.setdefault(name, data)
    header = found.get(b"IHDR", b"")
    if len(header) != 13 or kept[0][0] != b"IHDR" or b"IDAT" not in found:
        return Chunks("PNG", is_complete=is_complete)
    width, height, bits, colours = struct.unpack_from(">IIBB", header)
    palette, cicp = found.get(b"PLTE", b""), found.get(b"cICP", b"")
    if colours == PALETTE and not palette:
        return Chunks("PNG", is_complete=is_complete)
    # Decoders differ in what else they make of it.
    counts = (
        len(found.get(b"tRNS", b"")) <= len(palette) // 3 if colours == PALETTE else bits == 8 and colours < ALPHAS[0]
    )
    picture = [chunk for name, chunk in kept if name != b"tRNS" or counts]
    profile = _inflated(found.get(b"iCCP", b""))
    return Chunks(
        "PNG", b"".join([PNG, *picture, _png_chunk(b"IEND", b"")]), width, height, colours in GREYS,
        exif.orientation(found.get(b"eXIf", b"")), profile,
        not profile and len(cicp) == 4 and other_colours(cicp[0], cicp[1]), is_complete,
    )  # fmt: skip


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _inflated(chunk: bytes) -> bytes:
    """Return the profile of an iCCP chunk: a name, a zero, the method 0, then deflated; b"" for a broken one."""
    _, _, rest = chunk.partition(b"\0")
    inflater = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        profile = inflater.decompress(rest[1:], MOST_PROFILE)
        return profile if rest[:1] == b"\0" and inflater.eof and not inflater.unused_data else b""
    return b""


def _read_webp(photo: bytes) -> Chunks:
    found: dict[bytes, bytes] = {}
    is_complete = True
    for name, data, is_whole in _riff(photo[12:]):
        found.setdefault(name, data)
        is_complete &= is_whole or name not in (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")
    # Place and size of the first picture, its duration and flags, then the same chunks again.
    frame = {name: data for name, data, _ in _riff(found[b"ANMF"][16:])} if b"ANMF" in found else found
    picture, width, height = _webp_picture(frame)
    return Chunks(
        "WebP", picture, width, height, orientation=exif.orientation(found.get(b"EXIF", b"")),
        profile=found.get(b"ICCP", b""), is_complete=is_complete and bool(found),
    )  # fmt: skip


def _webp_picture(frame: dict[bytes, bytes]) -> tuple[bytes, int, int]:
    """Return a file of these chunks' picture alone, its width and height; empty where they hold none."""
    lossless, lossy = frame.get(b"VP8L", b""), frame.get(b"VP8 ", b"")
    if len(lossless) >= 5:
        bits = int.from_bytes(lossless[1:5], "little")
        return _webp([(b"VP8L", lossless)]), (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if len(lossy) < 10:
        return b"", 0, 0
    width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", lossy, 6))
    parts = [(b"VP8 ", lossy)]
    if b"ALPH" in frame and width and height:
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        parts = [(b"VP8X", b"\x10\0\0\0" + size), (b"ALPH", frame[b"ALPH"]), *parts]
    return _webp(parts), width, height


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield name, content and whether it is whole, of each chunk."""
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length], at + 8 + length <= len(data)
        at += 8 + length + length % 2


def _webp(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return RIFF + struct.pack("<I", 4 + len(body)) + WEBP + body
