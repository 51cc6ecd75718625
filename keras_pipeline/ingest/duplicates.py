"""Finds photos of the same picture: recompressed, resized, watermarked, in other tones, or cropped at the edges.

    JPEG of a record -> 64 + 256 + 256 bits (perceptual hashes) -> pairs that differ in few bits of both 256

Two hashes decide: the phash compares low frequencies, the dhash neighbouring pixels, so that what fools one seldom
fools the other. Photos of one species are all compared. Across species, 64 bits of the phash find the candidates.
docs/near-duplicates.md has the measured distances. Mirrored or rotated copies and deep crops are not found, nor other
photos of the same flower, which the groups `observation` and `session` cover; `phase0 baseline` looks for those.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import chain, combinations, pairwise

import imagehash
import numpy as np
import simplejpeg
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

DECODED = 128  # px: the DCT-scaled decoder halves the picture while its shorter side stays this long
HASHED = 64  # px square: the input of phash with hash_size 16; all hashes share it
WORDS = 9  # of 64 bits: 1 phash, 4 phash, 4 dhash
AGREEING = 3  # blocks of the 64 bits in a key; with more, keys are more selective but more numerous
MAX_BITS = 8
CHUNK = 1 << 16  # candidate pairs compared together: their arrays fit in a core's cache
EXHAUSTIVE = 20_000  # photos of a species; 2 s. A larger species is searched by the index, as pairs of two species are
MAX_PAIRS = 10_000_000  # 160 MB; above, only a spanning forest is kept


def photo_hashes(image: bytes) -> np.ndarray:
    """Return the perceptual hashes of a stored JPEG (upright, sRGB): uint64 [9], high bit first.

    They are `imagehash.phash(grey, 8)` in word 0, `imagehash.phash(grey, 16)` in words 1 to 4 (DCT of the picture, low
    frequencies against their median; hackerfactor.com 2011, 'Looks like it') and `imagehash.dhash(grey, 16)` in words 5
    to 8 (each pixel of 17 x 16 against its right neighbour) of grey = the JPEG's luma, decoded at the smallest libjpeg
    scale that leaves both sides >= 128 px, then resized to 64 x 64 px with Pillow's BILINEAR. `f"{word:016x}"` of the
    words, joined, is `str` of imagehash's hashes. As half of a phash's bits lie above the median, its distances between
    photos are even except for ties: a limit of 3 bits means 2. All pictures of one plain colour have the same hashes.

    Raises ValueError for bytes that can't be decoded.
    """
    grey = _grey(image).resize((HASHED, HASHED), Image.Resampling.BILINEAR)
    hashes = imagehash.phash(grey, 8), imagehash.phash(grey, 16), imagehash.dhash(grey, 16)
    return np.packbits(np.concatenate([each.hash.ravel() for each in hashes])).view(">u8").astype(np.uint64)


def _grey(image: bytes) -> Image.Image:
    try:
        # Not strict: stray bytes in a photo that was stored unchanged must not make it unhashable.
        luma = simplejpeg.decode_jpeg(image, "GRAY", min_height=DECODED, min_width=DECODED, strict=False)
        return Image.fromarray(luma[..., 0])
    except ValueError:  # CMYK, for one
        pass
    try:
        return Image.open(io.BytesIO(image)).convert("L")
    except Exception as error:  # Pillow's readers raise SyntaxError, OSError, … on broken files
        raise ValueError("not a readable JPEG") from error


def near_duplicates(
    hashes: np.ndarray, species: np.ndarray, *, max_bits: int, confirm_bits: int, difference_bits: int
) -> np.ndarray:
    """Find pairs of rows that differ in <= confirm_bits of the phash's and <= difference_bits of the dhash's 256 bits.

    All photos of one species are compared, up to `EXHAUSTIVE` of them. Pairs of two species, and those of a larger
    species, must also differ in <= max_bits of the 64 bits, which multi-index hashing finds (Norouzi, Punjani, Fleet
    2012, arXiv 1307.2982, section 2): of max_bits + 3 blocks of bits, at least 3 agree in such a pair, so photos are
    sorted by every choice of 3 blocks and compared where these are equal.

    Rows that are equal in all 9 words count as one photo: the first represents them, and each other one is paired only
    with it. So not every pair is returned, but enough to connect the same photos: if photos that are connected by
    near-duplicates lie in two splits, at least one of the returned pairs does. Above 10 million pairs only a spanning
    forest is kept, for which the same holds.

    Args:
        hashes: uint64 [n, 9], rows of `photo_hashes`.
        species: int [n], a number for each species.
        max_bits: 0..8.
        confirm_bits, difference_bits: 0..256.

    Returns:
        int64 [m, 2], each row (i, j) with i < j, sorted and unique. Time is linear in equal rows and quadratic, in
        bounded memory, in the rows of a species and in different rows that share blocks (50,000 that share all 64
        bits: 25 s).
    """
    if hashes.ndim != 2 or hashes.shape[1] != WORDS or hashes.dtype != np.uint64:
        raise ValueError(f"hashes: received {hashes.dtype} {list(hashes.shape)}, expected uint64 [n, {WORDS}]")
    if len(species) != len(hashes):
        raise ValueError(f"species: received {len(species)}, expected one for each of {len(hashes)} hashes")
    if not 0 <= max_bits <= MAX_BITS:
        raise ValueError(f"max_bits: received {max_bits}, expected 0 to {MAX_BITS}; with more, keys select too little")
    order = np.lexsort(hashes.T[::-1])  # by the 64 bits first; stable, so that the first of equal rows leads them
    new = _differs_from_previous(hashes[order])
    leaders, leader = order[new], np.cumsum(new) - 1
    stars = np.stack([leaders[leader], order], axis=1)[~new]
    # A picture in several species is compared in each.
    places = _unique_rows(np.stack([species[order], leader], axis=1))
    pairs = leaders[_different_pairs(hashes[leaders], places, max_bits, (confirm_bits, difference_bits))]
    return _unique_rows(np.sort(np.concatenate([stars, pairs]), axis=1))


def _different_pairs(hashes: np.ndarray, places: np.ndarray, max_bits: int, limits: tuple[int, int]) -> np.ndarray:
    """Return `near_duplicates` of sorted, unique rows, each pair in any order and once or more: int [m, 2].

    Args:
        places: int [k, 2], (species, row), sorted.
        limits: bits of the phash and of the dhash.
    """
    words = np.ascontiguousarray(hashes.T)
    found, count = [np.empty((0, 2), np.int64)], 0
    for left, right in chain(_in_species(words[1:5], places, limits[0]), _candidates(words[0], max_bits)):
        for hashed, limit in zip((words[1:5], words[5:]), limits, strict=True):
            bits = np.zeros(len(left), np.uint16)
            for word in hashed:  # one at a time: the first rejects most chance pairs
                bits += np.bitwise_count(word[left] ^ word[right])
                near = bits <= limit
                left, right, bits = left[near], right[near], bits[near]
        found.append(np.stack([left, right], axis=1))
        count += len(left)
        if count > MAX_PAIRS:
            found = [_spanning_forest(np.concatenate(found), len(hashes))]
            count = len(found[0])
    return np.concatenate(found)


def _in_species(words: np.ndarray, places: np.ndarray, limit: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield chunks of index pairs within a species that differ in <= limit bits of all words: (int [m], int [m]).

    Args:
        words: uint64 [4, n].
        places: int [k, 2], (species, row), sorted.
    """
    edges = [*np.flatnonzero(_differs_from_previous(places[:, :1])), len(places)]
    for start, stop in pairwise(edges):
        rows = places[start:stop, 1]
        if not 1 < len(rows) <= EXHAUSTIVE:
            continue
        own = words[:, rows]
        step = max(1, CHUNK // len(rows))
        for top in range(0, len(rows), step):
            bits = np.zeros((min(step, len(rows) - top), len(rows) - top), np.uint16)
            for word in own:
                bits += np.bitwise_count(word[top : top + step, None] ^ word[top:])
            left, right = np.nonzero(bits <= limit)
            left, right = left[left < right], right[left < right]
            yield rows[top + left], rows[top + right]


def _candidates(words: np.ndarray, max_bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield chunks of index pairs whose sorted words differ in <= max_bits, each pair once: (int [m], int [m])."""
    ends = _run_ends(words)
    yield from _pairs_between(np.arange(1, len(words) + 1), ends)
    number = max_bits + AGREEING
    blocks = _blocks(words, number)
    for chosen in combinations(range(number), AGREEING):
        keys = _joined(blocks, chosen)
        # A pair may agree in more blocks than a key has; its key is the first three. Photos that also agree in the
        # first of the skipped blocks are sorted together, so that their pairs are not even formed.
        skipped = [b for b in range(chosen[-1]) if b not in chosen]
        finer = _joined(blocks, (*chosen, *skipped[:1]))
        order = np.argsort(finer, kind="stable")  # equal words stay together and are skipped, being paired above
        in_order = words[order]
        starts = _run_ends(finer[order] if skipped else in_order)
        for left, right in _pairs_between(starts, _run_ends(keys[order])):
            different = in_order[left] ^ in_order[right]
            kept = np.flatnonzero(np.bitwise_count(different) <= max_bits)
            left, right = order[left[kept]], order[right[kept]]
            for b in skipped[1:]:  # one at a time: of photos that are nearly alike, the first rejects most
                first = blocks[b][left] != blocks[b][right]
                left, right = left[first], right[first]
            yield left, right


def _blocks(words: np.ndarray, number: int) -> list[np.ndarray]:
    """Cut the 64 bits into disjoint blocks of nearly equal size: `number` times uint64 [n], below 2**(size of a block).

    A block has every number-th bit, not adjacent ones: those are adjacent frequencies, and photos agree in all of the
    lowest more often than by chance.
    """
    blocks = []
    for start in range(number):
        block = np.zeros_like(words)
        for bit in range(start, 64, number):
            block = block << 1 | words >> bit & 1
        blocks.append(block)
    return blocks


def _joined(blocks: list[np.ndarray], chosen: tuple[int, ...]) -> np.ndarray:
    """Return the bits of the chosen blocks, the first ones highest: uint64 [n]."""
    keys = np.zeros_like(blocks[0])
    for b in chosen:
        keys = keys << len(range(b, 64, len(blocks))) | blocks[b]
    return keys


def _pairs_between(starts: np.ndarray, stops: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield chunks of all (p, q) with starts[p] <= q < stops[p]; each has up to CHUNK pairs, or those of a single p."""
    left = np.flatnonzero(stops > starts)
    counts = (stops - starts)[left]
    ends = np.cumsum(counts)
    at = 0
    while at < len(left):
        done = ends[at] - counts[at]
        upto = max(at + 1, int(np.searchsorted(ends, done + CHUNK, "right")))
        chunk = slice(at, upto)
        shift = starts[left[chunk]] - (ends[chunk] - counts[chunk] - done)
        right = np.arange(ends[upto - 1] - done) + np.repeat(shift, counts[chunk])
        yield np.repeat(left[chunk], counts[chunk]), right
        at = upto


def _run_ends(values: np.ndarray) -> np.ndarray:
    """Return for each value, where equal values are adjacent, the index after the last equal one: int [n]."""
    starts = np.flatnonzero(_differs_from_previous(values[:, None]))
    ends = np.append(starts[1:], len(values))
    return np.repeat(ends, ends - starts) if len(values) else ends


def _differs_from_previous(rows: np.ndarray) -> np.ndarray:
    """Return where a row differs from the previous one: bool [n], True for the first row."""
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return new


def _unique_rows(pairs: np.ndarray) -> np.ndarray:
    """Return the rows sorted, each once: int64 [m, 2] from int [k, 2] below 2**31; 20 x as fast as by axis."""
    return np.stack(np.divmod(np.unique(pairs[:, 0].astype(np.int64) << 31 | pairs[:, 1]), 1 << 31), axis=1)


def _spanning_forest(pairs: np.ndarray, n: int) -> np.ndarray:
    """Return as few pairs as connect the same rows: int [m, 2]."""
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    forest = minimum_spanning_tree(graph.tocsr()).tocoo()
    return np.stack([forest.row, forest.col], axis=1).astype(np.int64)
