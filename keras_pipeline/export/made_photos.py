"""A handful of drawn photos of the kinds that cameras and programs write, on which a device is asked for its answers.

They are made where they are needed, because a photo of somebody else's would need its licence. The same libraries give
the same bytes.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image, features

from keras_pipeline.data.colour import srgb_profile
from keras_pipeline.data.exif import ORIENTATION

SIZE = (400, 300)


@dataclasses.dataclass(frozen=True)
class MadePhoto:
    """A file for the page."""

    name: str
    file: bytes
    by_browser: bool = False  # decoded by the browser's own decoder, through a canvas


def made_photos() -> list[MadePhoto]:
    """Draw the photos; two of them are refused."""
    photos = [
        MadePhoto("jpeg", _encoded(_picture(0))),
        MadePhoto("jpeg 4:2:0, odd size", _encoded(_picture(1, (1331, 1057)), subsampling="4:2:0", quality=80)),
        MadePhoto("jpeg progressive", _encoded(_picture(2), progressive=True)),
        MadePhoto("jpeg turned by EXIF", _encoded(_picture(3), exif=_turned())),
        MadePhoto("jpeg grey", _encoded(_picture(4).convert("L"))),
        MadePhoto("jpeg CMYK", _encoded(_picture(5).convert("CMYK"))),
        MadePhoto("jpeg with another profile", _encoded(_picture(6), icc_profile=_swapped_profile())),
        MadePhoto("jpeg of 12 megapixels", _encoded(_picture(7, (4000, 3000)), exif=_turned())),
        MadePhoto("jpeg cut off", _encoded(_picture(8))[:9000]),
        MadePhoto("png", _encoded(_picture(9), "PNG")),
        MadePhoto("png transparent", _encoded(_transparent(10), "PNG")),
        MadePhoto("webp", _encoded(_picture(11), "WebP")),
        MadePhoto("webp turned by EXIF", _encoded(_picture(12), "WebP", lossless=True, exif=_turned())),
        MadePhoto("no photo", b"A text, and no photo of a plant.\n"),
        MadePhoto("gif", _encoded(_picture(13).quantize(64), "GIF"), by_browser=True),
    ]
    if features.check("avif"):
        photos.append(MadePhoto("avif", _encoded(_picture(14), "AVIF", subsampling="4:4:4"), by_browser=True))
    return photos


def _picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Draw a smooth picture of many colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def _transparent(seed: int) -> Image.Image:
    picture = _picture(seed).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(SIZE))
    return picture


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif


def _swapped_profile() -> bytes:
    """Return sRGB's profile with red and green exchanged, which nobody takes for sRGB."""
    return srgb_profile().replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")


def _encoded(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 95, "subsampling": "4:4:4"} if kind == "JPEG" else {}) | options)
    return buffer.getvalue()
