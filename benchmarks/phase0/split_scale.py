"""What a split costs at full size: 850,000 photos of 9,000 species, 2 % of them copies of others, 20,000 nearly alike.

    .venv/bin/python -m benchmarks.phase0.split_scale      (CPU only, one core, three minutes)

Hashes are drawn as photos give them: half of the bits set, and as close by chance as those of flowers17 are (30.6 of 64
bits apart on average, 1.3e-5 of the pairs within 12). Timed are the search for near-duplicates, the grouping by all
four rules and the assignment; reading and hashing the photos comes on top (1.2 ms a photo and core). Prints seconds,
memory and the planted pairs found, and as the last line how many times it fits into 5 minutes; exit 1 below 1, above
4 GB, if a planted pair is missing or two splits share a group.
"""

import resource
import sys
import time

import numpy as np
import pandas as pd

from keras_pipeline.core.config.phase0 import Split
from keras_pipeline.core.dataset import SPLITS
from keras_pipeline.ingest.duplicates import EXHAUSTIVE, WORDS, near_duplicates
from keras_pipeline.ingest.split import split_photos, ties_of

PHOTOS, COPIES, SHEETS = 850_000, 17_000, 20_000
BITS = 64 * WORDS
ANY = 24  # of the 64 bits: the most that a copy in the measured sets differs in
SCENES, COMMON, SCENE, SHEET = 100, 0.3, 0.7, 0.15  # standard deviations, where that of a photo's own part is 1
GOAL_SECONDS, GOAL_BYTES = 300, 4e9


def drawn(n: int, scenes: np.ndarray, own: float, random: np.random.Generator) -> np.ndarray:
    """Hashes of n photos, each a scene and something of its own: uint64 [n, WORDS] from float32 [scenes, BITS]."""
    parts = []
    for start in range(0, n, 50_000):
        size = min(50_000, n - start)
        frequencies = own * random.standard_normal((size, BITS), np.float32)
        frequencies += scenes[random.integers(0, len(scenes), size)]
        halves = [part > np.median(part, axis=1, keepdims=True) for part in np.split(frequencies, [64, 320], axis=1)]
        parts.append(np.packbits(np.concatenate(halves, axis=1), axis=1).view(">u8").astype(np.uint64))
    return np.concatenate(parts)


def flipped(hashes: np.ndarray, columns: range, most: int, random: np.random.Generator) -> np.ndarray:
    """Copies with 0 to `most` bits of those columns turned."""
    hashes, rows = hashes.copy(), np.arange(len(hashes))
    turns = random.integers(0, most + 1, len(hashes))
    for turn in range(most):
        bits = np.uint64(1) << random.integers(0, 64, len(hashes), np.uint64)
        hashes[rows, random.integers(columns.start, columns.stop, len(hashes))] ^= np.where(turn < turns, bits, 0)
    return hashes


def collection(limits: Split, species: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled hashes, uint64 [PHOTOS, WORDS], and the planted pairs (i, j), int64 [COPIES, 2].

    Half of the copies get the species of their source (in `species`, too). Where all photos of a species are compared,
    up to ANY of the 64 bits are turned, elsewhere up to the limit.
    """
    scenes = COMMON * random.standard_normal(BITS) + SCENE * random.standard_normal((SCENES, BITS))
    photos = drawn(PHOTOS - COPIES - SHEETS, scenes.astype(np.float32), 1.0, random)
    sheets = drawn(SHEETS, random.standard_normal((1, BITS), np.float32), SHEET, random)
    sources = random.choice(len(photos), COPIES, replace=False)
    order = random.permutation(PHOTOS)
    place = np.argsort(order)
    planted = np.stack([place[sources], place[PHOTOS - COPIES :]], axis=1)
    species[planted[::2, 1]] = species[planted[::2, 0]]
    alike = species[planted[:, 0]] == species[planted[:, 1]]
    alike &= np.bincount(species)[species[planted[:, 0]]] <= EXHAUSTIVE
    copies = flipped(photos[sources], range(1), limits.near_duplicate_bits, random)
    copies[alike] = flipped(photos[sources[alike]], range(1), ANY, random)
    copies = flipped(copies, range(1, 5), limits.confirm_bits, random)
    copies = flipped(copies, range(5, WORDS), limits.difference_bits, random)
    return np.concatenate([photos, sheets, copies])[order], np.sort(planted, axis=1)


def ledger(species: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    """What the split knows of 850,000 photos: a long tail of species, observations of two photos, sessions of users."""
    observation = random.integers(0, PHOTOS // 2, PHOTOS)
    owner = random.integers(0, 40_000, PHOTOS)
    frame = {
        "sample_id": np.char.mod("%024d", np.arange(PHOTOS)),
        "latin_name": np.char.mod("Species %04d", species),
        "observation_id": np.char.mod("o%d", observation),
        "user_id": np.char.mod("u%d", owner),
        "day": np.char.mod("2021-%04d", random.integers(0, 360, PHOTOS)),
        "latitude": random.uniform(36, 44, PHOTOS),
        "longitude": random.uniform(-9, 4, PHOTOS),
        "sha256": np.char.mod("%064d", np.arange(PHOTOS)),
    }
    return pd.DataFrame(frame)


def main() -> int:
    limits, random = Split(), np.random.default_rng(0)
    species = np.minimum(random.zipf(1.3, PHOTOS), 9000)
    hashes, planted = collection(limits, species, random)
    table = ledger(species, random)
    started = time.perf_counter()
    pairs = near_duplicates(
        hashes, species, max_bits=limits.near_duplicate_bits, confirm_bits=limits.confirm_bits,
        difference_bits=limits.difference_bits,
    )  # fmt: skip
    searched = time.perf_counter() - started
    shares = {name: getattr(limits, name) for name in SPLITS}
    decided = split_photos(table, ties_of(table, limits.group_by, hashes, pairs), shares=shares, seed=0)
    seconds = time.perf_counter() - started
    print(f"near-duplicates {searched:.1f} s, grouping and assignment {seconds - searched:.1f} s")
    spans = pd.Series(decided.split).groupby(decided.group).nunique()
    print(f"{len(spans)} groups, the largest of {pd.Series(decided.group).value_counts().iloc[0]} photos")
    recall = np.isin(planted @ [PHOTOS, 1], pairs @ [PHOTOS, 1]).mean()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{len(pairs)} pairs, {recall:.2%} of {COPIES} planted ones, {seconds:.1f} s, {peak / 1e9:.2f} GB at most")
    ratio = GOAL_SECONDS / seconds
    print(f"{ratio:.2f}")
    return int(ratio < 1 or peak > GOAL_BYTES or recall < 1 or spans.max() > 1)


if __name__ == "__main__":
    sys.exit(main())
