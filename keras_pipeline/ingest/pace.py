"""How fast photos come: the hosts' limits, and what this machine converts. Free of aiohttp: every dry run reads it."""

from __future__ import annotations

from keras_pipeline.core.config.phase0 import Export, HostLimits

CONVERTED = 380  # photos a second that a core converts
PHOTO_BYTES = 1.5e6  # of a photo to download, where none was: iNaturalist's originals
FIRST_BYTES = 16_384  # of a photo, to check its URL; only a JPEG with a large thumbnail in it tells its size later


def expected_seconds(
    waiting: dict[str, int], settings: Export, *, photo_bytes: float, photos_per_second: float
) -> float:
    """Return how long a crawl takes at the hosts' limits, all hosts at once.

    Args:
        waiting: {host: URLs to request}.
        photo_bytes: of one photo, on average.
        photos_per_second: that this machine can convert; no host's limit exceeds it.
    """
    slowest = sum(waiting.values()) / photos_per_second
    for host, n in waiting.items():
        limits = limits_of(host, settings)
        if limits.requests_per_second:
            slowest = max(slowest, n / limits.requests_per_second)
        if limits.gigabytes_per_hour:
            slowest = max(slowest, n * photo_bytes * 3600 / (limits.gigabytes_per_hour * 1e9))
    return slowest


def limits_of(host: str, settings: Export) -> HostLimits:
    """Return the limits of a host, given as `host_of` names it."""
    return next((each for name, each in settings.hosts.items() if name.lower() == host), settings.each_host)
