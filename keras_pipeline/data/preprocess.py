"""The one deterministic path from a photo to the tensor a model sees.

    photo bytes -> upright sRGB uint8 -> short side <= 256 (Pillow, antialiased)     once, at export, and in the page
                -> central square, 7/8 of the short side -> [S, S, 3] float32 0..255  evaluation, soft labels,
                                                                                      calibration, export, page

Both resizes use the triangle filter widened by the scale factor (antialiased bilinear). The first is Pillow's 8-bit
fixed-point arithmetic, the second float32; `preprocessing.json` names them and the page's worker does the same sums.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import tensorflow as tf
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112  # EXIF tag

# Refused before decoding: a 1 MB file can announce 4 gigapixels. A 100-megapixel camera photo still passes.
MAX_PIXELS = 120_000_000
MAX_SIDE = 65_500  # what libjpeg can write
Image.MAX_IMAGE_PIXELS = None  # The check below answers instead of Pillow's warning.


def upright_rgb(photo: bytes) -> Image.Image:
    """Decodes any photo Pillow reads to 8-bit sRGB with its EXIF orientation applied.

    Raises ValueError for an undecodable, truncated or oversized picture. TensorFlow ignores EXIF orientation and
    browsers apply it, so it is applied once, here, before anything is stored.
    """
    try:
        with Image.open(io.BytesIO(photo)) as image:
            if image.width * image.height <= MAX_PIXELS:
                image.load()
                return _to_srgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise ValueError("not a photo: no picture format that Pillow reads") from error
    except Exception as error:  # Pillow's readers raise SyntaxError, RuntimeError, OSError, … on broken files
        raise ValueError("truncated or broken photo") from error
    raise ValueError(f"larger than {MAX_PIXELS} pixels")


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            return ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            pass  # A broken profile is common and harmless: such photos are shown as plain sRGB everywhere.
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Resizes so that the shorter side is `short_side` pixels; a smaller picture is returned as it is.

    The longer side is floor(long * short_side / short + 0.5). Pillow's BILINEAR is the antialiased triangle filter.
    """
    short = min(image.size)
    if short <= short_side:
        return image
    width, height = (int(side * short_side / short + 0.5) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def to_record(photo: bytes, *, short_side: int, min_short_side: int, quality: int) -> tuple[bytes, int, int]:
    """A downloaded photo -> (JPEG bytes, height, width) as stored: upright, sRGB, shorter side <= short_side.

    A JPEG that is all this already keeps its own bytes. Raises ValueError saying why a photo is refused.
    """
    image = upright_rgb(photo)
    if min(image.size) < min_short_side:
        raise ValueError(f"shorter side below {min_short_side} px")
    with Image.open(io.BytesIO(photo)) as original:
        plain = original.format == "JPEG" and original.mode == "RGB" and "icc_profile" not in original.info
        untouched = plain and original.getexif().get(ORIENTATION, 1) == 1 and min(original.size) <= short_side
    if untouched:
        return photo, image.height, image.width
    image = shrink(image, short_side)
    if max(image.size) > MAX_SIDE:
        raise ValueError(f"longer side above {MAX_SIDE} px")
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality, subsampling=0)
    return encoded.getvalue(), image.height, image.width


def decode_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    """JPEG bytes (scalar string) -> uint8 [H, W, 3].

    INTEGER_ACCURATE equals Pillow's decoder exactly; TensorFlow's default is off by up to 4 levels.
    """
    return tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")


def resize_antialiased(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """[H, W, 3] -> float32 [size[0], size[1], 3], triangle filter widened by the scale factor."""
    return tf.image.resize(image, size, method="bilinear", antialias=True)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Photo or record -> float32 [image_size, image_size, 3], RGB, 0..255."""

    image_size: int  # pixels; the model's input
    short_side: int = 256  # pixels; of a stored record
    crop_fraction: float = 0.875  # 224 of 256: the usual ImageNet evaluation crop

    def from_pixels(self, image: tf.Tensor) -> tf.Tensor:
        """uint8 [H, W, 3] with short side <= short_side -> float32 [S, S, 3], 0..255."""
        shape = tf.shape(image)
        short = tf.cast(tf.minimum(shape[0], shape[1]), tf.float64)
        side = tf.cast(tf.floor(self.crop_fraction * short + 0.5), tf.int32)
        top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
        square = image[top : top + side, left : left + side]
        resized = resize_antialiased(square, (self.image_size, self.image_size))
        return tf.ensure_shape(resized, (self.image_size, self.image_size, 3))

    def from_jpeg(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """A record's JPEG bytes (scalar string) -> float32 [S, S, 3], 0..255."""
        return self.from_pixels(decode_jpeg(image_bytes))

    def from_photo(self, photo: bytes) -> tf.Tensor:
        """Any photo's bytes -> float32 [S, S, 3], 0..255, as the page's worker does it. Raises ValueError."""
        return self.from_pixels(tf.constant(np.asarray(shrink(upright_rgb(photo), self.short_side))))

    def to_json(self) -> dict:
        """What `preprocessing.json` holds, so that another language can repeat the sums."""
        return {
            **dataclasses.asdict(self),
            "channels": "RGB",
            "range": [0, 255],
            "orientation": "EXIF applied",
            "to_short_side": "separable triangle filter widened by the scale, 8-bit fixed point (Pillow BILINEAR); "
            "never enlarges",
            "crop": "central square of floor(crop_fraction * short side + 0.5) pixels",
            "to_image_size": "separable triangle filter widened by the scale, floating point, not rounded",
        }
