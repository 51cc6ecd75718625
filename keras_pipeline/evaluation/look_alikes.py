"""Finds one picture in two splits by a rule of its own, to audit the split's rule by perceptual hashes.

    features of all photos -> nearest photos of other splits -> one picture placed inside the other -> correlation

The features find candidates, also crops and mirrored copies, but can't tell two flowers of a kind from two copies of a
photo. Placing can: the detail of the one is compared with that of the other at every size and place (template matching,
Lewis 1995, 'Fast normalized cross-correlation'), and then tile by tile, because two discs agree as a whole, but not in
what surrounds them. docs/near-duplicates.md has the measured correlations.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from PIL import Image
from scipy import fft
from scipy.ndimage import gaussian_filter

from keras_pipeline.core.progress import progress
from keras_pipeline.evaluation.baseline import Features, moments

NEAREST = 3  # photos of each other split that a photo is compared with
COSINE = 0.6  # of centred features, at least: 158 of 163 copies in the measured sets; the others were re-toned
PLAUSIBLE = 0.55  # correlation of a first, coarse look, at least; 161 of the 163 copies
CORRELATION = 0.6  # of three quarters of the tiles, at least: 157 of 163 copies; other photos have up to 0.55
TILES = 6  # rows and columns of them
FLAT = 1.0  # grey levels (of 255), the standard deviation of detail: a tile with less in both photos says nothing
QUERIES, BASE = 2048, 16_384  # photos compared at a time: 134 MB of cosines
# The longer side of the picture that holds the other, and the standard deviations between which detail lies; px.
COARSE, FINE = (64, 0.6, 2.5), (128, 1.0, 4.0)
SCALES = np.geomspace(0.42, 1.0, 30)  # of the largest size at which the one fits into the other; 3 % apart
SMALLEST = 16  # px


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Two photos with similar features, in two splits."""

    splits: tuple[str, str]
    sample_ids: tuple[str, str]
    cosine: float


def candidates(features: Mapping[str, Features]) -> list[Candidate]:
    """Return for each photo the nearest ones of the splits before its own, most similar first.

    Args:
        features: {split: features}; photos of the first split are only compared with.
    """
    (first, base), *_ = features.items()
    mean = moments(base.values)[0].astype(np.float32)
    found, before = [], [first]
    with progress(total=sum(len(each.labels) for each in features.values()), description="look-alikes") as bar:
        bar.update(len(base.labels))
        for split in list(features)[1:]:
            for other in before:
                for row, near, cosine in nearest(features[split].values, features[other].values, mean):
                    ids = features[split].sample_ids[row], features[other].sample_ids[near]
                    found.append(Candidate((split, other), (str(ids[0]), str(ids[1])), cosine))
            before.append(split)
            bar.update(len(features[split].labels))
    return sorted(found, key=lambda each: (-each.cosine, each.sample_ids))


def nearest(queries: np.ndarray, base: np.ndarray, mean: np.ndarray) -> list[tuple[int, int, float]]:
    """Return (row of queries, row of base, cosine) of the NEAREST rows of base to each query, from COSINE on.

    Args:
        queries, base: float [n, D], [m, D].
        mean: float [D], subtracted from both.
    """

    def unit(values: np.ndarray) -> tf.Tensor:
        return tf.math.l2_normalize(tf.constant(values.astype(np.float32) - mean), axis=1)

    found = []
    for start in range(0, len(queries), QUERIES):
        own = unit(queries[start : start + QUERIES])
        cosines, rows = tf.zeros((len(own), 0)), tf.zeros((len(own), 0), tf.int32)
        for top in range(0, len(base), BASE):
            block = tf.linalg.matmul(own, unit(base[top : top + BASE]), transpose_b=True)
            values, at = tf.math.top_k(block, min(NEAREST, block.shape[1]))
            cosines, rows = tf.concat([cosines, values], 1), tf.concat([rows, at + top], 1)
            cosines, order = tf.math.top_k(cosines, min(NEAREST, cosines.shape[1]))
            rows = tf.gather(rows, order, batch_dims=1)
        for i, j in np.argwhere(cosines.numpy() >= COSINE).tolist():
            found.append((start + i, int(rows[i, j]), float(cosines[i, j])))
    return found


def correlation(first: bytes, second: bytes) -> float:
    """Return how well two photos agree where one is placed inside the other, mirrored or not: -1 to 1.

    It is the correlation that three quarters of the tiles reach at the best place. Detail is compared, so that a dark
    background, on which two flowers agree, counts for nothing. The one may be down to 0.42 of the other's size, with
    the same proportions; turned copies are not recognised. Most photos differ at 64 px already and are not compared at
    128 px; then the correlation as a whole is returned.

    Args:
        first, second: JPEG.
    """
    one, other = (Image.open(io.BytesIO(image)).convert("L") for image in (first, second))
    whole = max(_placed(one, other, *COARSE)[0], _placed(other, one, *COARSE)[0])
    if whole < PLAUSIBLE:
        return whole
    _, *details = max(_placed(one, other, *FINE), _placed(other, one, *FINE), key=lambda found: found[0])
    return _tiles_agree(*details)


def _placed(
    part: Image.Image, whole: Image.Image, side: int, finest: float, coarsest: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the best correlation of `part` at any size and place inside `whole`, and the detail of both there.

    Args:
        side: px, the longer side of `whole`.
        finest, coarsest: see `_detail`.
    """
    part = _reduced(part, 2 * side)  # so that it only has to be reduced further
    inside = _detail(_reduced(whole, side), finest, coarsest)
    height, width = inside.shape
    size = [fft.next_fast_len(pixels, real=True) for pixels in inside.shape]
    spectrum = fft.rfft2(inside, size)
    sums, squares = _integral(inside), _integral(inside**2)
    fits, best = min(width / part.width, height / part.height), (-1.0, inside, np.zeros_like(inside))
    for scale in SCALES:
        shape = int(part.width * fits * scale), int(part.height * fits * scale)
        if min(shape) < SMALLEST:
            continue
        # Without the border, whose detail is the filter's.
        detail = _detail(part.resize(shape, Image.Resampling.BOX), finest, coarsest)[1:-1, 1:-1]
        h, w = detail.shape
        both = np.stack([detail, detail[:, ::-1]])
        own = (detail - detail.mean()) / (np.linalg.norm(detail - detail.mean()) + 1e-6)
        products = fft.irfft2(spectrum * fft.rfft2(np.stack([own, own[:, ::-1]]), size).conj(), size)
        spread = _window(squares, h, w) - _window(sums, h, w) ** 2 / (h * w)
        agreement = products[:, : height - h + 1, : width - w + 1] / np.sqrt(np.maximum(spread, 1e-3))
        mirrored, top, left = np.unravel_index(np.argmax(agreement), agreement.shape)
        found = float(agreement[mirrored, top, left])
        if found > best[0]:
            best = found, inside[top : top + h, left : left + w], both[mirrored]
    return best


def _tiles_agree(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation that three quarters of the tiles with any detail reach; 0 without such a tile."""
    found = []
    for rows in zip(*(np.array_split(each, TILES) for each in (first, second)), strict=True):
        for tiles in zip(*(np.array_split(each, TILES, axis=1) for each in rows), strict=True):
            one, other = (tile - tile.mean() for tile in tiles)
            if max(one.std(), other.std()) >= FLAT:
                found.append((one * other).mean() / (one.std() * other.std() + 1e-6))
    return float(np.quantile(found, 0.25)) if found else 0.0


def _reduced(image: Image.Image, side: int) -> Image.Image:
    factor = side / max(image.size)
    shape = (max(SMALLEST, round(image.width * factor)), max(SMALLEST, round(image.height * factor)))
    return image.resize(shape, Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR)


def _detail(image: Image.Image, finest: float, coarsest: float) -> np.ndarray:
    """Return what lies between two standard deviations of a Gaussian, in px."""
    pixels = np.asarray(image, np.float64)
    return gaussian_filter(pixels, finest, truncate=3) - gaussian_filter(pixels, coarsest, truncate=3)


def _integral(values: np.ndarray) -> np.ndarray:
    return np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def _window(integral: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the sum over each window of that size: [H - height + 1, W - width + 1]."""
    below, above = integral[height:], integral[:-height]
    return below[:, width:] - above[:, width:] - below[:, :-width] + above[:, :-width]
