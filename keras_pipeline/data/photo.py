"""What a model sees of any photo, and the JPEG of a record, without TensorFlow, which `phase0 export` does not load.

photo bytes -> upright sRGB uint8, short side <= 256 (`seen`) -> JPEG (`to_record`)
"""

from __future__ import annotations

import dataclasses
import functools
import io
import threading
from collections.abc import Callable

import numpy as np
import simplejpeg
from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from keras_pipeline.core.config.source import Dataset
from keras_pipeline.data import chunks, colour, exif, first_bytes, jpeg_header
from keras_pipeline.data.first_bytes import Refusal, refused

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

# Formats that Pillow recognizes by their header. It reads forty more, and would try them on
# every response from the network (icons decode at once, PostScript starts a program).
FORMATS = ("GIF", "TIFF", "BMP", "AVIF")
MAX_SIDE = 65_500  # pixels, libjpeg's limit
Image.MAX_IMAGE_PIXELS = None  # `_check_size` checks it instead of Pillow's warning.

TRIANGLE = ResizeOptions(ResizeAlg.convolution(FilterType.bilinear))
_thread = threading.local()  # A Resizer holds buffers, so each thread has its own.


@dataclasses.dataclass(frozen=True)
class _Decoded:
    """A photo as its file has it."""

    image: Image.Image | np.ndarray  # L, LA, RGB, RGBA or CMYK, 8 bits a channel, not turned; an array is sRGB
    profile: bytes  # ICC; empty without one
    orientation: int  # 1 to 8

    @property
    def pixels(self) -> np.ndarray:
        """The picture in sRGB: uint8 [H, W, 3], not turned."""
        # Most photos are JPEGs without a profile, and a Pillow image would cost two copies of each.
        if isinstance(self.image, np.ndarray):
            return self.image
        return np.asarray(colour.to_srgb(self.image, self.profile))


def upright_rgb(photo: bytes) -> Image.Image:
    """Decode a photo at its size to upright 8-bit sRGB: `seen` without its reduction.

    Raises:
        Refusal: a ValueError that says why the photo is refused.
    """
    decoded = _decode(photo, 0, 1)
    return _turned(Image.fromarray(decoded.pixels), decoded.orientation)


def seen(photo: bytes, short_side: int, *, min_short_side: int = 1) -> np.ndarray:
    """Return what a model sees of a photo: uint8 [h, w, 3], upright sRGB, its shorter side <= `short_side` pixels.

    This is the one definition. A record is its JPEG, `classify` crops it, and the page's worker computes the same
    bytes.

    - A JPEG (baseline, extended or progressive, 8 bits) is decoded at 1/2, 3/8, 1/4 or 1/8 of its size (libjpeg-turbo's
      scaled inverse DCT), not at 3/8 where its sampling factors are uncommon: the smallest that leaves the shorter side
      >= `short_side`. A progressive one needs all scans of the lower frequencies. Any other photo is decoded at its
      size, of an animation the first picture. Of 16 bits a channel the upper 8 count.
    - Colours are converted to sRGB, and transparency is laid on white, see `colour`. Of CMYK without a profile each
      colour is reduced by black.
    - The triangle filter, widened by the scale, shrinks to `short_side`, first the columns, then the rows, in fixed
      point with 16-bit weights (cykooz.resizer). Nothing is enlarged.
    - Then the picture is turned upright: by EXIF in JPEG, PNG (before the pixels) and WebP, see `exif`. AVIF is turned
      by irot and imir and TIFF by its own tag, both before the filter. Other metadata does not count.

    Args:
        min_short_side: pixels; smaller photos are refused.

    Raises:
        Refusal: a ValueError that says why the photo is refused.
    """
    decoded = _decode(photo, short_side, min_short_side)
    pixels = _shrink(decoded.pixels, short_side)
    return np.asarray(_turned(Image.fromarray(pixels), decoded.orientation)) if decoded.orientation > 1 else pixels


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
    if size := _size_of_storable(photo, short_side, min_short_side):
        return photo, *size
    pixels = seen(photo, short_side, min_short_side=min_short_side)
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


def _size_of_storable(photo: bytes, short_side: int, min_short_side: int) -> tuple[int, int] | None:
    """Return (height, width) of a sound JPEG that is, decoded, what is `seen` of it; None for any other photo."""
    header = jpeg_header.read(photo)
    sound = header and header.is_plain and header.is_complete and not header.lacks_scans
    if not (header and sound and 0 < min(header.size) <= short_side):
        return None
    _check_size(header.size, min_short_side)
    # Damage shows at 1/8 of the size too: all codes are read, and far fewer pixels made of them.
    return None if _scaled_jpeg(photo, "RGB", 1) is None else (header.height, header.width)


def _decode(photo: bytes, short_side: int, min_short_side: int) -> _Decoded:
    """Decode a photo; a JPEG no larger than `short_side` needs, or at its size for 0."""
    if header := jpeg_header.read(photo):
        return _decode_jpeg(photo, header, short_side, min_short_side)
    if found := chunks.read(photo):
        return _decode_chunks(found, min_short_side)
    return _decode_other(photo, min_short_side)


def _decode_jpeg(photo: bytes, header: jpeg_header.JpegHeader, short_side: int, min_short_side: int) -> _Decoded:
    if header.unusual:
        raise refused(header.unusual)
    if not header.width:
        raise refused("damaged" if header.is_complete else "cut off", "JPEG")
    _check_size(header.size, min_short_side)
    if header.lacks_scans or not (header.is_complete or header.has_common_sampling):
        raise refused("cut off", "JPEG")
    # Where only the end's marker is missing, nothing is lost; where more is, the decoder says so.
    whole = photo if header.is_complete else photo + jpeg_header.END_OF_IMAGE
    mode = "CMYK" if header.components == 4 else "RGB"
    scaled = _scaled_jpeg if header.has_common_sampling else _halved_jpeg
    pixels = scaled(whole, mode, short_side)
    if pixels is None and not header.is_complete:
        raise refused("cut off", "JPEG")
    if pixels is None:  # damaged; browsers show what there is
        pixels = _scaled_jpeg(whole, mode, short_side, strict=False)
    if pixels is None:
        raise refused("damaged", "JPEG")
    image: Image.Image | np.ndarray = pixels
    if mode == "CMYK":  # stored inverted, as Adobe does
        image = Image.fromarray(255 - pixels, mode)
    elif header.components != 3:
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    elif header.profile:
        image = Image.fromarray(pixels)
    return _Decoded(image, header.profile, header.orientation)


def _decode_chunks(found: chunks.Chunks, min_short_side: int) -> _Decoded:
    if found.has_other_colours:
        raise refused("other colours", found.kind)
    if found.width:
        _check_size((found.width, found.height), min_short_side)
    try:
        image = Image.open(io.BytesIO(found.picture), formats=[found.kind])
        image.load()
    except Exception as error:  # Pillow's readers raise SyntaxError, RuntimeError, OSError, … on broken files
        raise refused("damaged" if found.is_complete else "cut off", found.kind) from error
    picture = _eight_bits(image)
    if found.is_grey and picture.mode == "RGBA":
        picture = Image.merge("LA", (picture.getchannel("R"), picture.getchannel("A")))
    return _Decoded(picture, found.profile, found.orientation)


def _decode_other(photo: bytes, min_short_side: int) -> _Decoded:
    """Decode GIF, TIFF, BMP and AVIF, which the page leaves to the browser."""
    if wrong := first_bytes.wrong_format(photo):
        raise wrong
    kind = first_bytes.kind_of(photo)
    if kind == "AVIF" and (reason := first_bytes.unusual_avif(photo)):
        raise refused(reason, kind)
    try:
        image = Image.open(io.BytesIO(photo), formats=FORMATS)
        _check_size(image.size, min_short_side)
        box = image.tile[0].extents if image.tile else None  # of a GIF's first picture, on its canvas
        image.load()
        turn = image.getexif().get(exif.ORIENTATION, 1) if kind == "AVIF" else 1  # Pillow's word for irot and imir
    except Refusal:
        raise
    except Exception as error:
        raise refused("damaged", kind) from error
    if image.mode in ("I", "F"):
        raise refused("32 bits")
    picture = _eight_bits(image)
    if kind == "GIF" and box:  # white around it, as browsers show it
        canvas = Image.new(picture.mode, picture.size, "white")
        canvas.paste(picture.crop(box), box)
        picture = canvas
    # Turned before it is shrunk, as browsers do.
    return _Decoded(_turned(picture, turn if turn in UPRIGHT else 1), image.info.get("icc_profile") or b"", 1)


def _check_size(size: tuple[int, int], min_short_side: int) -> None:
    if wrong := first_bytes.wrong_size(size, min_short_side=min_short_side):
        raise wrong


def _scaled_jpeg(photo: bytes, mode: str, short_side: int, *, strict: bool = True) -> np.ndarray | None:
    """Decode to uint8 [H, W, C], as small as leaves the shorter side >= short_side; at its size for 0.

    Returns None if the decoder fails. libjpeg only warns of data that it can't make sense of; `strict` makes that a
    failure.
    """
    factor = 2 if short_side else 1
    try:
        return simplejpeg.decode_jpeg(
            photo, mode, min_height=short_side, min_width=short_side, min_factor=factor, strict=strict
        )
    except (ValueError, KeyError):  # KeyError: colours that it has no name for
        return None


def _halved_jpeg(photo: bytes, mode: str, short_side: int) -> np.ndarray | None:
    """Decode as `_scaled_jpeg` with Pillow, which knows any sampling factors, but no 3/8 of the size."""
    try:
        image = Image.open(io.BytesIO(photo), formats=["JPEG"])
        parts = (n for n in (8, 4, 2) if -(-min(image.size) // n) >= short_side > 0)
        if part := next(parts, 0):
            image.draft(None, (image.width // part, image.height // part))
        pixels = np.asarray(image)
    except Exception:  # Pillow's readers raise SyntaxError, OSError, … on broken files
        return None
    return 255 - pixels if mode == "CMYK" else pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode but I and F to L, LA, RGB, RGBA or CMYK."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
    if image.mode == "PA" or "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


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


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation > 1 else image
