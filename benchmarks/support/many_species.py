"""Thousands of invented species with a long tail: bands of colour under a light field, drawn in a fraction of a ms."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg

SIDE, BANDS = 48, 6  # px; bands of a photo
A_GENUS = 5  # species
REGIONS = {"EU_SW": 0.25, "EU_NORTH": 0.4, "AMERICAS_NORTH": 0.25, "unknown": 0.1}
FEW, MANY = (4, 9), (60, 240)  # photos of a species, from and to; MANY for one in 80
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "xo", "zu", "ra")


def write(folder: Path, species: int, seed: int) -> Path:
    """Draw the photos of `species` species into a folder; return labels.csv, which is written last."""
    labels = folder / "labels.csv"
    if labels.exists():
        return labels
    rows = []
    for number in range(species):
        place = folder / f"{number // 100:03d}"
        place.mkdir(parents=True, exist_ok=True)
        for i, (observation, region, image) in enumerate(_photos(number, seed)):
            file = place / f"{number:05d}-{i:03d}.jpg"
            file.write_bytes(simplejpeg.encode_jpeg(image, quality=90))
            rows.append((file.relative_to(folder).as_posix(), _name(number), region, observation))
    with labels.with_suffix(".writing").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("image", "latin_name", "region", "observation_id"), *rows])
    return labels.with_suffix(".writing").rename(labels)


def _name(number: int) -> str:
    def word(value: int) -> str:
        parts = []
        for _ in range(4):
            value, digit = divmod(value, len(SYLLABLES))
            parts.append(SYLLABLES[digit])
        return "".join(parts)

    return f"{word(number // A_GENUS * 37).capitalize()}us {word(number * 41)}a"


def _photos(number: int, seed: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield (observation, region, uint8 [SIDE, SIDE, 3]).

    The genus gives the bands, the species the colours of two.
    """
    genus = np.random.default_rng((seed, 1, number // A_GENUS))
    random = np.random.default_rng((seed, 2, number))
    colours = genus.uniform(-75, 75, (BANDS, 3))
    colours[random.choice(BANDS, 2, replace=False)] = random.uniform(-75, 75, (2, 3))
    colours += 128 - colours.mean(axis=1, keepdims=True)  # equally bright: the light is what a hash sees
    low, high = MANY if random.random() < 1 / 80 else FEW
    left, observation = int(random.integers(low, high + 1)), 0
    while left:
        size = min(left, int(random.integers(1, 4)))
        region = str(random.choice(list(REGIONS), p=list(REGIONS.values())))
        shift, light = random.uniform(-6, 6), random.normal(0, 35, (4, 4, 1))
        for _ in range(size):
            yield (
                f"{number}-{observation}",
                region,
                _draw(colours, shift, light + random.normal(0, 15, (4, 4, 1)), random),
            )
        left, observation = left - size, observation + 1


def _draw(colours: np.ndarray, shift: float, light: np.ndarray, random: np.random.Generator) -> np.ndarray:
    rows = (np.arange(SIDE) + shift + random.uniform(-2, 2)) * BANDS / SIDE
    bands = colours[np.clip(rows, 0, BANDS - 1).astype(int)][:, None, :]
    places = np.linspace(0, 2.999, SIDE)
    whole, part = places.astype(int), (places % 1)[:, None, None]
    down = light[whole] * (1 - part) + light[whole + 1] * part  # bilinear, along rows, then along columns
    across = part.reshape(1, SIDE, 1)
    field = down[:, whole] * (1 - across) + down[:, whole + 1] * across
    return (bands + field + random.normal(0, 8, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
