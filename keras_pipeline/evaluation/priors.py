"""What the region says of the species, before the photo is looked at."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def log_ratios(counts: ArrayLike, *, smoothing: float, floor: float) -> NDArray[np.float64]:
    """log of max(p(species | region) / p(species), floor), to be added to log p(species | photo).

    That is Bayes' rule where a species looks alike everywhere: p(s | photo, region) is proportional to p(s | photo)
    p(s | region) / p(s); the classifier has learnt p(s) from all regions together (Mac Aodha et al. 2019,
    arXiv 1906.05272, equation 2). Smoothed towards p(s) by `smoothing` photos of no region, so that a region with few
    photos says little: p(s | r) = (n_sr + m p(s)) / (n_r + m). What was never photographed in a region may be planted
    there, hence the floor.

    Args:
        counts: [R, C], train photos of each species in each region; a species that has none counts half a photo in p.
        smoothing: m > 0, photos.
        floor: in (0, 1], the least that a region may leave of a species' probability.

    Returns:
        float64 [R, C], each >= log(floor).

    Raises:
        ValueError: counts that aren't [R, C] of numbers >= 0, smoothing not above 0, floor outside (0, 1].
    """
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 2 or 0 in counts.shape or not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ValueError(f"counts: received shape {counts.shape}, expected [regions, species] of numbers of photos")
    if not smoothing > 0 or not 0 < floor <= 1:
        raise ValueError(f"received smoothing {smoothing} and floor {floor}, expected > 0 and in (0, 1]")
    overall = np.maximum(counts.sum(axis=0), 0.5)
    overall /= overall.sum()
    within = (counts + smoothing * overall) / (counts.sum(axis=1, keepdims=True) + smoothing)
    return np.log(np.maximum(within / overall, floor))
