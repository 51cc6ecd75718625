"""What a model sees of any photo, and the JPEG of a record, without TensorFlow, which `phase0 export` does not load.

photo bytes -> upright sRGB uint8, short side <= 256 (`seen`) -> JPEG (`to_record`)
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from collections.abc import Callable

import numpy as np
import simplejpeg
from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from keras_pipeline.core.config.source import Dataset
from keras_pipeline.data import first_bytes, jpeg_header

# Undoes each orientation, like Pillow's ImageOps.exif_transpose.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Formats that Pillow recognizes by their header and decodes on request. It reads forty more, and would try them on
# every response from the network (icons decode at once, PostScript starts a program).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
MAX_SIDE = 65_500  # pixels, libjpeg's limit
Image.MAX_IMAGE_PIXELS = None  # `_opened` checks the size instead of Pillow's warning.

TRIANGLE = ResizeOptions(ResizeAlg.convolution(FilterType.bilinear))
_thread = threading.local()  # A Resizer holds buffers, so each thread has its own.


def upright_rgb(photo: bytes) -> Image.Image:
    """Decode a photo's first frame to 8-bit sRGB with its EXIF orientation applied.

    TensorFlow ignores EXIF orientation and browsers apply it, so it is applied once, here, before anything is stored.

    Raises:
        ValueError: if the picture is undecodable, truncated or oversized.
    """
    image = _opened(photo)
    try:
        with image:
            image.load()
            header = jpeg_header.read(photo)
            if header is None:
                return _to_srgb(ImageOps.exif_transpose(image))
            upright = _to_srgb(image)
            return upright.transpose(UPRIGHT[header.orientation]) if header.orientation > 1 else upright
    except Exception as error:  # Pillow's readers raise SyntaxError, RuntimeError, OSError, … on broken files
        raise ValueError(_broken(photo)) from error


def seen(photo: bytes, short_side: int, *, min_short_side: int = 1) -> np.ndarray:
    """Return what a model sees of a photo: uint8 [h, w, 3], upright sRGB, its shorter side <= `short_side` pixels.

    This is the one definition. A record is its JPEG, `classify` crops it, and the page's worker computes the same
    bytes.

    - A JPEG in grey, RGB or YCbCr and without a colour profile is decoded at 1/2, 3/8, 1/4 or 1/8 of its size
      (libjpeg-turbo's scaled inverse DCT): the smallest that leaves the shorter side >= `short_side`.
    - Any other photo is decoded at its size, see `upright_rgb`.
    - The triangle filter, widened by the scale, shrinks to `short_side`, first the columns, then the rows, in fixed
      point with 16-bit weights (cykooz.resizer). Nothing is enlarged.
    - Then the picture is turned upright.

    Args:
        min_short_side: pixels; smaller photos are refused.

    Raises:
        ValueError: saying why the photo is refused.
    """
    return _seen(photo, short_side, min_short_side)[0]


def to_record(photo: bytes, *, short_side: int, min_short_side: int, quality: int) -> tuple[bytes, int, int]:
    """Convert a downloaded photo to what is stored: an upright sRGB JPEG with its shorter side <= short_side.

    A JPEG that already fits keeps its bytes, after a trial decoding.

    Args:
        min_short_side: pixels; smaller photos are refused.
        quality: JPEG quality, 0 to 100.

    Returns:
        JPEG bytes, height and width in pixels.

    Raises:
        ValueError: saying why the photo is refused.
    """
    pixels, is_as_stored = _seen(photo, short_side, min_short_side)
    if is_as_stored:
        return photo, pixels.shape[0], pixels.shape[1]
    if max(pixels.shape) > MAX_SIDE:
        raise ValueError(f"longer side above {MAX_SIDE} px")
    # 4:2:0, like nearly all photos: a quarter smaller than 4:4:4, and a quarter faster to decode in every epoch.
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420")
    return encoded, pixels.shape[0], pixels.shape[1]


def checker(settings: Dataset) -> Callable[[bytes], str]:
    """Return what says, from a file's first bytes, why `converter` will refuse it, or ""."""
    return functools.partial(first_bytes.refusal, min_short_side=settings.min_short_side)


def converter(settings: Dataset) -> Callable[[bytes], tuple[bytes, int, int]]:
    """Return `to_record` with the config's values."""
    return functools.partial(
        to_record,
        short_side=settings.short_side,
        min_short_side=settings.min_short_side,
        quality=settings.jpeg_quality,
    )


def _seen(photo: bytes, short_side: int, min_short_side: int) -> tuple[np.ndarray, bool]:
    """Return `seen`, and whether the file itself, decoded, is just that."""
    with _opened(photo) as image:
        size = image.size
        # Phones write MPO: a JPEG followed by a second picture.
        plain = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
        storable = image.format == "JPEG" and image.mode == "RGB"
    if wrong := first_bytes.wrong_size(size, min_short_side=min_short_side):
        raise ValueError(wrong)
    header = jpeg_header.read(photo)
    if header is None or header.has_profile or not plain:
        return _shrink(np.asarray(upright_rgb(photo)), short_side), False
    # Where only the end's marker is missing, nothing is lost; where more is, the decoder says so.
    pixels = _decode_plain_jpeg(photo if header.is_complete else photo + jpeg_header.END_OF_IMAGE, short_side)
    if pixels is None and not header.is_complete:
        raise ValueError(_broken(photo))
    if pixels is None:  # damaged, and Pillow may show what is left
        return _shrink(np.asarray(upright_rgb(photo)), short_side), False
    fits = storable and header.is_complete and header.orientation == 1 and min(size) <= short_side
    return _upright(_shrink(pixels, short_side), header.orientation), fits


def _opened(photo: bytes) -> Image.Image:
    """Read a picture's header and check its number of pixels, without decoding it. Raises ValueError."""
    try:
        image = Image.open(io.BytesIO(photo), formats=FORMATS)
    except UnidentifiedImageError as error:
        # A picture with a broken header is not identified either.
        raise ValueError(first_bytes.wrong_format(photo) or _broken(photo)) from error
    except Exception as error:
        raise ValueError(_broken(photo)) from error
    if wrong := first_bytes.wrong_size(image.size, min_short_side=1):
        raise ValueError(wrong)
    return image


def _broken(photo: bytes) -> str:
    header = jpeg_header.read(photo)
    is_cut = header is not None and not header.is_complete
    return "cut off: the end of the JPEG is missing" if is_cut else "truncated or broken photo"


def _decode_plain_jpeg(photo: bytes, short_side: int) -> np.ndarray | None:
    """Decode to uint8 [H, W, 3], halved, quartered … as long as the shorter side stays >= short_side.

    Returns None if the decoder fails, so that Pillow tries. libjpeg only warns of a truncated file; simplejpeg's
    default, `strict`, makes that an error.
    """
    try:
        return simplejpeg.decode_jpeg(photo, "RGB", min_height=short_side, min_width=short_side, min_factor=2)
    except ValueError:
        return None


def _shrink(pixels: np.ndarray, short_side: int) -> np.ndarray:
    """Resize uint8 [H, W, 3] so that the shorter side is `short_side`; return a smaller picture unchanged."""
    height, width = pixels.shape[:2]
    if min(height, width) <= short_side:
        return pixels
    if not hasattr(_thread, "resizer"):
        _thread.resizer = Resizer()
    target = ImageData(*_shrunk((width, height), short_side), PixelType.U8x3)
    _thread.resizer.resize(ImageData(width, height, PixelType.U8x3, pixels.tobytes()), target, TRIANGLE)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(target.height, target.width, 3)


def _shrunk(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Scale a size; the longer side becomes floor(long * short_side / short + 0.5)."""
    first, second = (int(side * short_side / min(size) + 0.5) for side in size)
    return first, second


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[orientation]))


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = _profile(image)
    space = profile.profile.xcolor_space.strip() if profile else ""
    flat = _flattened(image)
    if space == "GRAY" and flat.mode != "CMYK":
        flat = flat.convert("L")
    elif flat.mode != "CMYK" or space != "CMYK":
        flat = flat.convert("RGB")
    if profile and space == {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[flat.mode]:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            converted = ImageCms.profileToProfile(flat, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return converted or flat  # typed as optional: None only when converting in place
    return flat.convert("RGB")


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """Return the ICC profile, or None. A broken one is common and harmless: viewers show such photos as plain sRGB."""
    with contextlib.suppress(ImageCms.PyCMSError, OSError):
        if profile := image.info.get("icc_profile"):
            return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return None


def _flattened(image: Image.Image) -> Image.Image:
    """Convert to 8 bits a channel, and put a transparent picture on white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image
