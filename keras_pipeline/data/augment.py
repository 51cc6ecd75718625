"""Augmented training views, and MixUp and CutMix of a batch.

Every random number comes from a seed derived from (run seed, epoch or view, sample id). A restarted run therefore sees
the same pictures, and the view of a stored soft label can be recreated.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_pipeline.data.preprocess import resize_antialiased


@dataclasses.dataclass(frozen=True)
class Policy:
    """Strengths of a view's random operations."""

    area: tuple[float, float]  # fraction of the photo's area that the crop covers
    aspect: float  # crop width / height lies in [1/aspect, aspect], log-uniform
    flip: float  # probability of a mirrored view
    colour: float  # brightness, contrast and saturation factors lie in [1 - colour, 1 + colour]
    hue: float  # radians, rotation of the chroma plane
    warp: float  # probability of a rotation, shear and zoom


POLICIES = {
    "moderate": Policy(area=(0.35, 1.0), aspect=4 / 3, flip=0.5, colour=0.2, hue=0.0, warp=0.0),
    "aggressive": Policy(area=(0.2, 1.0), aspect=4 / 3, flip=0.5, colour=0.4, hue=0.15, warp=0.5),
}
# Up to this factor, plain bilinear differs from the antialiased filter by at most 1.1 of 255 levels (mean over
# flowers17); at 2.0 by 1.9, at 2.5 by 3.2.
PLAIN_SHRINK = 1.5
ROTATION, SHEAR, ZOOM = math.radians(25), 0.15, 0.2

# RGB <-> YIQ (NTSC): luma, and a chroma plane in which saturation is a scale and hue a rotation.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)


def sample_hash(sample_id: tf.Tensor) -> tf.Tensor:
    """Hash sample ids (string) to int64, the same on every run and machine (FarmHash)."""
    return tf.strings.to_hash_bucket_fast(sample_id, 2**62)


def view_seed(sample: tf.Tensor, view: tf.Tensor, seed: int) -> tf.Tensor:
    """Return the seed of a sample's view, int64 [2]; `view` is an epoch, or the number of a stored view."""
    return tf.stack([sample, tf.cast(view, tf.int64) * 1_000_003 + seed])


def random_view(image_bytes: tf.Tensor, policy: Policy, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Decode a random view: JPEG bytes (scalar string), seed int64 [2] -> float32 [size, size, 3], 0..255.

    The draws don't depend on `size`: a teacher at 160 px and a student at 96 px see the same part of the photo.
    """
    draws = tf.random.stateless_uniform([13], seed)
    # Decode only the crop.
    box = crop_box(tf.io.extract_jpeg_shape(image_bytes), policy, draws[:4])
    window = tf.image.decode_and_crop_jpeg(image_bytes, box, channels=3, dct_method="INTEGER_ACCURATE")
    window = tf.cond(draws[4] < policy.flip, lambda: tf.reverse(window, [1]), lambda: window)
    view = _resize(window, size)
    if policy.warp:
        view = tf.cond(draws[5] < policy.warp, lambda: _warp(view, size, draws[6:9]), lambda: view)
    view = _colour(view, policy, 2 * draws[9:] - 1)
    return tf.ensure_shape(view, (size, size, 3))


def _resize(window: tf.Tensor, size: int) -> tf.Tensor:
    """Resize uint8 [H, W, 3] to float32 [size, size, 3].

    Antialiases only where it matters, because that takes twice as long as decoding.
    """
    shrinks = tf.cast(tf.reduce_max(tf.shape(window)[:2]), tf.float32) > PLAIN_SHRINK * size
    plain = lambda: tf.image.resize(window, (size, size))  # noqa: E731
    return tf.cond(shrinks, lambda: resize_antialiased(window, (size, size)), plain)


def crop_box(shape: tf.Tensor, policy: Policy, draws: tf.Tensor) -> tf.Tensor:
    """Return the window of a random resized crop: top, left, height, width, int32 [4] in pixels.

    Args:
        shape: int32 [3] of the photo: height, width, channels.
        draws: float32 [4], uniform in [0, 1).
    """
    full_height = tf.cast(shape[0], tf.float32)
    full_width = tf.cast(shape[1], tf.float32)
    area = (policy.area[0] + draws[0] * (policy.area[1] - policy.area[0])) * full_height * full_width
    aspect = tf.exp((2 * draws[1] - 1) * math.log(policy.aspect))
    height = tf.minimum(tf.sqrt(area / aspect), full_height)
    width = tf.minimum(tf.sqrt(area * aspect), full_width)
    top, left = draws[2] * (full_height - height), draws[3] * (full_width - width)
    top, left = tf.cast(top, tf.int32), tf.cast(left, tf.int32)
    height, width = tf.maximum(tf.cast(height, tf.int32), 1), tf.maximum(tf.cast(width, tf.int32), 1)
    return tf.stack([top, left, height, width])


def _warp(image: tf.Tensor, size: int, draws: tf.Tensor) -> tf.Tensor:
    """Rotate, shear and zoom about the centre in one resampling; draws are uniform in [0, 1)."""
    angle, shear = (2 * draws[0] - 1) * ROTATION, (2 * draws[1] - 1) * SHEAR
    zoom = 1 + (2 * draws[2] - 1) * ZOOM
    a, b = tf.cos(angle) * zoom, (-tf.sin(angle) + shear) * zoom
    c, d = tf.sin(angle) * zoom, (tf.cos(angle) + shear * tf.sin(angle)) * zoom
    centre = (size - 1) / 2
    transform = tf.stack([a, b, centre - a * centre - b * centre, c, d, centre - c * centre - d * centre, 0.0, 0.0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )[0]


def _colour(image: tf.Tensor, policy: Policy, draws: tf.Tensor) -> tf.Tensor:
    """Change brightness, contrast, saturation and hue by one affine map of RGB; draws are uniform in [-1, 1)."""
    brightness, contrast, saturation = tf.unstack(1 + policy.colour * draws[:3])
    cos, sin = tf.cos(policy.hue * draws[3]), tf.sin(policy.hue * draws[3])
    chroma = saturation * tf.stack([tf.stack([cos, -sin]), tf.stack([sin, cos])])
    yiq = tf.pad(chroma, [[1, 0], [1, 0]]) + tf.linalg.diag([1.0, 0.0, 0.0])
    matrix = brightness * contrast * tf.linalg.inv(_TO_YIQ) @ yiq @ _TO_YIQ
    # Some 3,000 pixels suffice for the mean, and a matrix product over flat pixels is five times as fast as tensordot.
    every = tf.maximum(tf.shape(image)[0] // 56, 1)
    mean_luma = tf.reduce_sum(tf.reduce_mean(image[::every, ::every], [0, 1]) * _TO_YIQ[0])
    offset = brightness * (1 - contrast) * mean_luma
    flat = tf.matmul(tf.reshape(image, [-1, 3]), matrix, transpose_b=True) + offset
    return tf.reshape(tf.clip_by_value(flat, 0.0, 255.0), tf.shape(image))


def mix(
    images: tf.Tensor, *, mixup_alpha: float, cutmix_alpha: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Apply MixUp (arXiv 1710.09412) or CutMix (arXiv 1905.04899) to a batch, with a λ for each photo.

    Args:
        images: float32 [N, S, S, 3].
        mixup_alpha, cutmix_alpha: λ is drawn from Beta(α, α); 0 switches it off. With both on, a fair coin decides for
            each batch.
        seed: int64 [2]; the same seed gives the same partners, and the same mixture at any S.

    Returns:
        Images of the same shape; partner int32 [N], a permutation; λ float32 [N]. Result i mixes λ of photo i with
        1 - λ of photo partner[i]. CutMix's λ is the fraction of pixels actually kept.
    """
    n = tf.shape(images)[0]
    if not mixup_alpha and not cutmix_alpha:
        return images, tf.range(n), tf.ones([n])
    partner = tf.argsort(tf.random.stateless_uniform([n], seed + 2))
    others = tf.gather(images, partner)

    def mixup() -> tuple[tf.Tensor, tf.Tensor]:
        keep = _beta(n, mixup_alpha, seed + 3)
        return keep[:, None, None, None] * images + (1 - keep)[:, None, None, None] * others, keep

    def cutmix() -> tuple[tf.Tensor, tf.Tensor]:
        mask, keep = _cut(tf.shape(images), _beta(n, cutmix_alpha, seed + 4), seed + 5)
        return tf.where(mask[..., None], others, images), keep

    if mixup_alpha and cutmix_alpha:
        mixed, keep = tf.cond(tf.random.stateless_uniform([], seed) < 0.5, mixup, cutmix)
    else:
        mixed, keep = mixup() if mixup_alpha else cutmix()
    return mixed, partner, keep


def mix_labels(labels: tf.Tensor, partner: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
    """Mix labels, float [N, C] with rows that sum to 1, as `mix` mixed their photos."""
    return keep[:, None] * labels + (1 - keep)[:, None] * tf.gather(labels, partner)


def _beta(n: tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    gammas = tf.random.stateless_gamma([2, n], seed, alpha)
    # At small α both gammas can underflow to 0: keep the photo unmixed.
    total = gammas[0] + gammas[1]
    return tf.where(total > 0, tf.math.divide_no_nan(gammas[0], total), 1.0)


def _cut(shape: tf.Tensor, keep: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cut boxes of area 1 - keep around uniform centres.

    Returns:
        bool [N, S, S], true for the partner's pixels; λ float32 [N], the fraction of pixels actually kept.
    """
    n = shape[0]
    size = tf.cast(shape[1], tf.float32)
    half = tf.sqrt(1 - keep) * size / 2
    centres = tf.random.stateless_uniform([2, n], seed) * size
    pixels = tf.range(shape[1], dtype=tf.float32) + 0.5
    inside = tf.abs(pixels[None, None] - centres[..., None]) < half[None, :, None]
    mask = inside[0][:, :, None] & inside[1][:, None, :]
    return mask, 1 - tf.reduce_mean(tf.cast(mask, tf.float32), [1, 2])
