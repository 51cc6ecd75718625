"""Preprocessing: the one deterministic path from a photo to a model's input.

    photo bytes -> upright sRGB uint8, short side <= 256 (`photo.seen`)              once, at export, and in the page
                -> central square, 7/8 of the short side -> [S, S, 3] float32 0..255  evaluation, soft labels,
                                                                                      calibration, export, page

Both resizes use the triangle filter widened by the scale factor (antialiased bilinear), the first in fixed point, the
second in float32. `preprocessing.json` documents both, and the page's worker repeats them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from keras_pipeline.core.config.source import Dataset
from keras_pipeline.data.first_bytes import MAX_PIXELS
from keras_pipeline.data.photo import seen


def decode_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decode JPEG bytes (scalar string) to uint8 [H, W, 3].

    INTEGER_ACCURATE equals Pillow's decoder exactly; TensorFlow's default is off by up to 4 levels.
    """
    return tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")


def resize_antialiased(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resize [H, W, 3] to float32 [size[0], size[1], 3] with a triangle filter widened by the scale factor."""
    return tf.image.resize(image, size, method="bilinear", antialias=True)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Convert a photo or a record to float32 [image_size, image_size, 3], RGB, 0..255.

    Example:
        A picture of 256 x 300 pixels in one colour:

        >>> tensor = Preprocessing(image_size=96).from_pixels(np.full((256, 300, 3), 200, np.uint8))
        >>> tensor.shape.as_list(), round(float(tensor[0, 0, 0]), 3)
        ([96, 96, 3], 200.0)
    """

    image_size: int  # pixels; the model's input
    short_side: int = 256  # pixels; of a stored record
    crop_fraction: float = 0.875  # 224 of 256: the usual ImageNet evaluation crop
    min_short_side: int = 1  # pixels; of an original. Smaller ones show too little, and training saw none

    @classmethod
    def of(cls, dataset: Dataset, image_size: int) -> Preprocessing:
        """Return the path to `image_size` pixels from photos stored as the config's section `dataset` asks."""
        return cls(image_size, dataset.short_side, min_short_side=dataset.min_short_side)

    def from_pixels(self, image: tf.Tensor) -> tf.Tensor:
        """Crop and resize uint8 [H, W, 3], short side <= short_side, to float32 [S, S, 3], 0..255."""
        shape = tf.shape(image)
        short = tf.cast(tf.minimum(shape[0], shape[1]), tf.float64)
        side = tf.cast(tf.floor(self.crop_fraction * short + 0.5), tf.int32)
        top = (shape[0] - side) // 2
        left = (shape[1] - side) // 2
        square = image[top : top + side, left : left + side]
        # At its own size the filter would return the same pixels, only later.
        resized = tf.cond(
            side == self.image_size,
            lambda: tf.cast(square, tf.float32),
            lambda: resize_antialiased(square, (self.image_size, self.image_size)),
        )
        return tf.ensure_shape(resized, (self.image_size, self.image_size, 3))

    def from_jpeg(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Convert a record's JPEG bytes (scalar string) to float32 [S, S, 3], 0..255."""
        return self.from_pixels(decode_jpeg(image_bytes))

    def from_photo(self, photo: bytes) -> tf.Tensor:
        """Convert any photo's bytes to float32 [S, S, 3], 0..255, as the page's worker does.

        Raises:
            ValueError: see `shrunk`.
        """
        return self.from_pixels(tf.constant(self.shrunk(photo)))

    def shrunk(self, photo: bytes) -> np.ndarray:
        """Return `photo.seen`: uint8 [h, w, 3], upright sRGB, shorter side <= short_side.

        Raises:
            ValueError: if the photo can't be decoded, or is below min_short_side or above MAX_PIXELS.
        """
        return seen(photo, self.short_side, min_short_side=self.min_short_side)

    def to_json(self) -> dict:
        """Return the content of `preprocessing.json`, enough to repeat the arithmetic in another language."""
        return {
            **dataclasses.asdict(self),
            "max_pixels": MAX_PIXELS,  # of an original
            "channels": "RGB",
            "range": [0, 255],
            "decoding": "a JPEG (baseline, extended or progressive, 8 bits) at 1/2, 3/8, 1/4 or 1/8 of its size by "
            "libjpeg-turbo's scaled inverse DCT, the smallest with a shorter side >= short_side; all else at its size; "
            "of an animation the first picture; of 16 bits a channel the upper 8",
            "colours": "to sRGB (a profile of version 2) by LittleCMS, perceptual, if the ICC profile is of the "
            "pixels' colour space and not sRGB itself; CMYK without a profile by (255 - ink)(255 - black) / 255; "
            "gAMA and cHRM do not count; cICP or nclx of other colours is refused; then transparency is laid on white",
            "to_short_side": "separable triangle filter widened by the scale, columns before rows, in fixed point with "
            "16-bit weights; never enlarges",
            "orientation": "applied after the resize: tag 0x0112, one SHORT from 1 to 8, of EXIF's first directory, in "
            "JPEG's first EXIF segment, PNG's eXIf before the pixels or WebP's EXIF; before the resize irot and imir "
            "of AVIF; no other",
            "crop": "central square of floor(crop_fraction * short side + 0.5) pixels",
            "to_image_size": "separable triangle filter widened by the scale, floating point, not rounded",
        }
