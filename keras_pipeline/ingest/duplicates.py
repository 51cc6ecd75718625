"""Finds photos of the same picture: recompressed, resized, slightly cropped or a little brighter.

    JPEG of a record -> 64 and 256 bits (perceptual hash) -> pairs that differ in few bits of both

64 bits find candidates and 256 confirm them. Measured on flowers17: recompression, resizing and mild colour changes
change <= 4 and <= 18 bits, cropping 1 % off each side 6 and 26 (95 % of photos). Different photos are >= 12 and >= 86
bits apart. Mirrored or rotated copies are not found, nor other photos of the same flower, which the groups
`observation` and `session` cover.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import combinations

import imagehash
import numpy as np
import simplejpeg
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

DECODED = 128  # px: the DCT-scaled decoder halves the picture while its shorter side stays this long
HASHED = 64  # px square: the input of phash with hash_size 16; both hashes share it
AGREEING = 3  # blocks of the 64 bits in a key; with more, keys are more selective but more numerous
MAX_BITS = 5
CHUNK = 1 << 16  # candidate pairs compared together: their arrays fit in a core's cache
MAX_PAIRS = 10_000_000  # 160 MB; above, only a spanning forest is kept


def photo_hashes(image: bytes) -> np.ndarray:
    """Return the perceptual hashes of a stored JPEG (upright, sRGB): uint64 [5], 64 bits and then 256, high bit first.

    They are `imagehash.phash(grey, 8)` and `imagehash.phash(grey, 16)` (DCT of the picture, low frequencies against
    their median; hackerfactor.com 2011, 'Looks like it') of grey = the JPEG's luma, decoded at the smallest libjpeg
    scale that leaves both sides >= 128 px, then resized to 64 x 64 px with Pillow's BILINEAR. `f"{word:016x}"` of the
    words, joined, is `str` of imagehash's hashes. As half of the bits lie above the median, distances between photos
    are even except for ties: a limit of 3 bits means 2. All pictures of one plain colour have the same hash.

    Raises ValueError for bytes that can't be decoded.
    """
    grey = _grey(image).resize((HASHED, HASHED), Image.Resampling.BILINEAR)
    bits = np.concatenate([imagehash.phash(grey, hash_size).hash.ravel() for hash_size in (8, 16)])
    return np.packbits(bits).view(">u8").astype(np.uint64)


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


def near_duplicates(hashes: np.ndarray, *, max_bits: int, confirm_bits: int) -> np.ndarray:
    """Find pairs of rows that differ in <= max_bits of the 64 bits and in <= confirm_bits of the 256.

    Multi-index hashing (Norouzi, Punjani, Fleet 2012, arXiv 1307.2982, section 2): of max_bits + 3 blocks of bits, at
    least 3 agree in such a pair, so photos are sorted by every choice of 3 blocks and compared where these are equal.

    Rows that are equal in all 5 words count as one photo: the first represents them, and each other one is paired only
    with it. So not every pair is returned, but enough to connect the same photos: if photos that are connected by
    near-duplicates lie in two splits, at least one of the returned pairs does. Above 10 million pairs only a spanning
    forest is kept, for which the same holds.

    Args:
        hashes: uint64 [n, 5], rows of `photo_hashes`.
        max_bits: 0..5.
        confirm_bits: 0..256.

    Returns:
        int64 [m, 2], each row (i, j) with i < j, sorted and unique. Time is linear in equal rows and quadratic, in
        bounded memory, in different rows that share blocks (50,000 that share all 64 bits: 25 s).
    """
    if hashes.ndim != 2 or hashes.shape[1] != 5 or hashes.dtype != np.uint64:
        raise ValueError(f"hashes: received {hashes.dtype} {list(hashes.shape)}, expected uint64 [n, 5]")
    if not 0 <= max_bits <= MAX_BITS:
        raise ValueError(f"max_bits: received {max_bits}, expected 0 to {MAX_BITS}; with more, keys select too little")
    order = np.lexsort(hashes.T[::-1])  # by the 64 bits first; stable, so that the first of equal rows leads them
    new = _differs_from_previous(hashes[order])
    leaders = order[new]
    stars = np.stack([leaders[np.cumsum(new) - 1], order], axis=1)[~new]
    pairs = leaders[_different_pairs(hashes[leaders], max_bits, confirm_bits)]
    pairs = np.sort(np.concatenate([stars, pairs]), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _different_pairs(hashes: np.ndarray, max_bits: int, confirm_bits: int) -> np.ndarray:
    """Return `near_duplicates` of sorted, unique rows, each pair in any order: int [m, 2]."""
    word64, *words256 = np.ascontiguousarray(hashes.T)
    found, count = [np.empty((0, 2), np.int64)], 0
    for left, right in _candidates(word64, max_bits):
        bits = np.zeros(len(left), np.uint16)
        for word in words256:  # one at a time: the first rejects most chance pairs
            bits += np.bitwise_count(word[left] ^ word[right])
            near = bits <= confirm_bits
            left, right, bits = left[near], right[near], bits[near]
        found.append(np.stack([left, right], axis=1))
        count += len(found[-1])
        if count > MAX_PAIRS:
            found = [_spanning_forest(np.concatenate(found), len(hashes))]
            count = len(found[0])
    return np.concatenate(found)


def _candidates(words: np.ndarray, max_bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield chunks of index pairs whose sorted words differ in <= max_bits, each pair once: (int [m], int [m])."""
    ends = _run_ends(words)
    yield from _pairs_between(np.arange(1, len(words) + 1), ends)
    blocks = _blocks(max_bits + AGREEING)
    for chosen in combinations(range(len(blocks)), AGREEING):
        keys = words & np.bitwise_or.reduce(blocks[list(chosen)])
        order = np.argsort(keys, kind="stable")  # equal words stay together and are skipped, being paired above
        in_order = words[order]
        # A pair may agree in more blocks than a key has; its key is the first three.
        skipped = [blocks[b] for b in range(chosen[-1]) if b not in chosen]
        for left, right in _pairs_between(_run_ends(in_order), _run_ends(keys[order])):
            different = in_order[left] ^ in_order[right]
            near = np.bitwise_count(different) <= max_bits
            left, right, different = left[near], right[near], different[near]
            first = np.all([different & block != 0 for block in skipped], axis=0) if skipped else slice(None)
            yield order[left[first]], order[right[first]]


def _blocks(number: int) -> np.ndarray:
    """Cut the 64 bits into disjoint masks of nearly equal size: uint64 [number].

    A block has every number-th bit, not adjacent ones: those are adjacent frequencies, and photos agree in all of the
    lowest more often than by chance.
    """
    return np.array([sum(1 << bit for bit in range(start, 64, number)) for start in range(number)], np.uint64)


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


def _spanning_forest(pairs: np.ndarray, n: int) -> np.ndarray:
    """Return as few pairs as connect the same rows: int [m, 2]."""
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    forest = minimum_spanning_tree(graph.tocsr()).tocoo()
    return np.stack([forest.row, forest.col], axis=1).astype(np.int64)
