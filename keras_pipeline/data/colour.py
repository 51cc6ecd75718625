"""Colours to sRGB, by the same rule and the same library (LittleCMS) as in the page (`colour.js`, `profile.js`).

A profile counts if its colour space is that of the pixels and LittleCMS can read it; without one, the pixels are sRGB.
Transparency is laid on white after the conversion.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct

import numpy as np
from PIL import Image, ImageCms

SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}  # of Pillow's modes, as profiles name them
# Red, green and blue of sRGB in XYZ, adapted to D50 (IEC 61966-2-1, ICC.1), and how near to it a profile's count.
PRIMARIES = {
    b"rXYZ": (0.43607, 0.22249, 0.01392),
    b"gXYZ": (0.38515, 0.71687, 0.09708),
    b"bXYZ": (0.14307, 0.06061, 0.71410),
}
NEAR_PRIMARY, NEAR_CURVE = 0.002, 0.001


@functools.cache
def srgb_profile() -> bytes:
    """Return the profile of sRGB that everything is converted to.

    It is LittleCMS's own, but marked version 2: to a profile of version 4 LittleCMS compensates the black point, which
    browsers don't.
    """
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[8:12] = b"\2\x40\0\0"
    profile[24:36] = bytes(12)  # when it was made
    return bytes(profile)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert a picture of mode L, LA, RGB, RGBA or CMYK to sRGB on white, mode RGB.

    Args:
        profile: ICC; empty without one.
    """
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    flat = {"LA": lambda: image.getchannel("L"), "RGBA": lambda: image.convert("RGB")}.get(image.mode, lambda: image)()
    rgb = _converted(flat, profile) or flat.convert("RGB")
    if alpha is None:
        return rgb
    rgb.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, (255, 255, 255, 255)), rgb).convert("RGB")


def _converted(flat: Image.Image, profile: bytes) -> Image.Image | None:
    if profile[36:40] != b"acsp" or profile[16:20] != SPACES[flat.mode] or is_srgb(profile):
        return None
    # A broken profile is common and harmless: viewers show such photos as plain sRGB.
    with contextlib.suppress(ImageCms.PyCMSError, OSError):
        source, target = (ImageCms.ImageCmsProfile(io.BytesIO(each)) for each in (profile, srgb_profile()))
        return ImageCms.profileToProfile(flat, source, target, outputMode="RGB")
    return None


def is_srgb(profile: bytes) -> bool:
    """Return whether a profile says sRGB in other words, as most do; the pixels then stay as they are."""
    tags = _tags(profile)
    if b"A2B0" in tags or profile[16:24] != b"RGB XYZ ":
        return False
    for name, primary in PRIMARIES.items():
        tag = tags.get(name, b"")
        if len(tag) < 20 or not np.allclose(
            np.divide(struct.unpack_from(">3i", tag, 8), 65536), primary, rtol=0, atol=NEAR_PRIMARY
        ):
            return False
    x = np.arange(17) / 16
    expected = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    curves = [_curve(tags.get(name, b""), x) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return all(curve is not None and np.abs(curve - expected).max() <= NEAR_CURVE for curve in curves)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """Return the tags of a profile by name; broken ones are left out."""
    count = min(int.from_bytes(profile[128:132]), (len(profile) - 132) // 12, 100)
    entries = [struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(max(count, 0))]
    return {name: profile[at : at + length] for name, at, length in entries}


def _curve(tag: bytes, x: np.ndarray) -> np.ndarray | None:
    """Evaluate a tone curve at `x`, 0..1; None where it is of another kind than sRGB's in any profile."""
    if tag[:4] == b"curv" and len(tag) >= 12:
        count = int.from_bytes(tag[8:12])
        if count < 2 or len(tag) < 12 + 2 * count:
            return None
        table = np.frombuffer(tag, ">u2", count, 12) / 65535
        return np.interp(x * (count - 1), np.arange(count), table)
    if tag[:4] == b"para" and tag[8:10] == b"\0\3" and len(tag) >= 32:
        gamma, a, b, c, d = np.divide(struct.unpack_from(">5i", tag, 12), 65536)
        return np.where(x >= d, np.maximum(a * x + b, 0) ** gamma, c * x)
    return None
