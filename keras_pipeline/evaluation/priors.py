"""Region priors: how likely each species is in a region, before the photo is seen."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def log_ratios(counts: ArrayLike, *, smoothing: float, floor: float) -> NDArray[np.float64]:
    """Return log max(p(species | region) / p(species), floor), to be added to log p(species | photo).

    This is Bayes' rule for species that look the same everywhere: p(s | photo, region) is proportional to p(s | photo)
    p(s | region) / p(s); the classifier has learnt p(s) from all regions together (Mac Aodha et al. 2019,
    arXiv 1906.05272, equation 2). p(s | r) = (n_sr + m p(s)) / (n_r + m) is smoothed towards p(s) by m = `smoothing`
    photos, so that a region with few photos changes little. A species that was never photographed in a region may be
    planted there, hence the floor.

    Args:
        counts: [R, C], train photos of each species in each region; a species without photos counts half a photo in p.
        smoothing: m > 0, photos.
        floor: in (0, 1], the smallest factor by which a region may reduce a species' probability.

    Returns:
        float64 [R, C], each >= log(floor).

    Raises:
        ValueError: counts that aren't [R, C] of numbers >= 0, smoothing not above 0, floor outside (0, 1].
    """
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 2 or 0 in counts.shape or not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ValueError(f"counts: received shape {counts.shape}, expected [regions, species], numbers of photos >= 0")
    if not smoothing > 0 or not 0 < floor <= 1:
        raise ValueError(
            f"received smoothing {smoothing} and floor {floor}, expected smoothing > 0 and floor in (0, 1]"
        )
    overall = np.maximum(counts.sum(axis=0), 0.5)
    overall /= overall.sum()
    within = (counts + smoothing * overall) / (counts.sum(axis=1, keepdims=True) + smoothing)
    return np.log(np.maximum(within / overall, floor))
