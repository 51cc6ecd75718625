"""Near-duplicates are all found, whatever the limits, and hashes are those that anyone can recompute."""

import io
import time

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from keras_pipeline.ingest import duplicates
from keras_pipeline.ingest.duplicates import near_duplicates, photo_hashes

BASE = np.array([0x0123456789ABCDEF, *range(11, 19)], np.uint64)
FIXED = (
    0xC4D2A7FCFC434462, 0xC4DA92ECA7B1DC87, 0xDC1B4387440F6287, 0xD2F0EE1388E4BBD2, 0xBE7133F03544CC0F,
    0xD833D8D82C346663, 0xF0C3E3E6C7246DB4, 0xF326C60ECE3C2334, 0x6343985B19BCEC34,
)  # fmt: skip


def hashes_of(*changes):
    """A row for each {column: bits to turn}, all of BASE."""
    rows = np.tile(BASE, (len(changes), 1))
    for row, change in zip(rows, changes, strict=True):
        for column, bits in change.items():
            row[column] ^= np.uint64(bits)
    return rows


def clustered(random, photos=1000, clusters=100, each=10):
    """Random hashes, and around each of the first ones others that differ in up to 7 and 9 bits: uint64 [n, 9]."""
    alone = random.integers(0, 2**64, (photos, 9), np.uint64)
    near = np.repeat(alone[:clusters], each, axis=0)
    for turn in range(16):
        bits = np.uint64(1) << random.integers(0, 64, len(near), np.uint64)
        column = 0 if turn < 7 else random.integers(1, 5, len(near))
        near[np.arange(len(near)), column] ^= np.where(random.random(len(near)) < 0.5, bits, 0)
    return random.permutation(np.concatenate([alone, near]))


def find(hashes, max_bits, confirm_bits, difference_bits=256, species=None):
    """Near-duplicates; without `species`, every photo is of its own one."""
    species = np.arange(len(hashes)) if species is None else np.asarray(species)
    limits = {"confirm_bits": confirm_bits, "difference_bits": difference_bits}
    return near_duplicates(hashes, species, max_bits=max_bits, **limits)


def brute_force(hashes, max_bits, confirm_bits, difference_bits=256, species=None):
    bits = np.stack([np.bitwise_count(word[:, None] ^ word) for word in hashes.T]).astype(int)
    candidates = bits[0] <= max_bits
    if species is not None:
        candidates |= species[:, None] == species
    near = candidates & (bits[1:5].sum(axis=0) <= confirm_bits) & (bits[5:].sum(axis=0) <= difference_bits)
    return np.argwhere(np.triu(near, 1))


def groups_of(pairs, n):
    """The number of each row's group, counted in the order of their first rows."""
    _, label = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(n, n)), directed=False)
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    return first[inverse]


def photo(seed, size=(256, 300)):
    coarse = np.random.default_rng(seed).integers(0, 256, (14, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def cropped(image, share):
    """Without that share of the picture on each side."""
    width, height = image.size
    return image.crop((width * share, height * share, width * (1 - share), height * (1 - share)))


def jpeg_of(image, quality=95):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def distances(first, second):
    bits = np.bitwise_count(first ^ second)
    return int(bits[0]), int(bits[1:5].sum()), int(bits[5:].sum())


@pytest.mark.parametrize("max_bits", range(9))
def test_finds_what_comparing_all_pairs_finds(max_bits):
    hashes = clustered(np.random.default_rng(max_bits + 10))
    expected = brute_force(hashes, max_bits, 5)
    assert len(expected) > 5
    np.testing.assert_array_equal(find(hashes, max_bits, 5), expected)


@pytest.mark.parametrize("max_bits", range(9))
def test_turned_bits_anywhere_are_found_up_to_the_limit(max_bits):
    random = np.random.default_rng(0)
    turned = np.repeat(np.arange(8), 200)
    hashes = random.integers(0, 2**64, (len(turned), 9), np.uint64)
    copies = hashes.copy()
    for row, bits in zip(copies, turned, strict=True):
        row[0] ^= np.uint64(sum(1 << int(bit) for bit in random.choice(64, bits, replace=False)))
    pairs = find(np.concatenate([hashes, copies]), max_bits, 26)
    found = np.flatnonzero(turned <= max_bits)
    np.testing.assert_array_equal(pairs, np.stack([found, found + len(turned)], axis=1))


def test_the_256_bits_confirm():
    hashes = hashes_of({}, {0: 0b111, 1: 0b11, 2: 0b1, 3: 0b1, 4: 0b1})  # 3 and 5 bits
    assert find(hashes, 3, 5).tolist() == [[0, 1]]
    assert find(hashes, 3, 4).tolist() == []
    assert find(hashes, 2, 5).tolist() == []
    opposite = hashes_of({}, dict.fromkeys(range(1, 5), 2**64 - 1))  # 0 and 256 bits: must not wrap to 0
    assert find(opposite, 5, 255).tolist() == []
    assert find(opposite, 5, 256).tolist() == [[0, 1]]


def test_the_dhash_confirms_too():
    hashes = hashes_of({}, {5: 0b11, 6: 0b1, 8: 2**63})
    assert find(hashes, 3, 0, 4).tolist() == [[0, 1]]
    assert find(hashes, 3, 0, 3).tolist() == []


def test_within_a_species_the_64_bits_need_not_agree():
    hashes = hashes_of({}, {0: 2**30 - 1, 1: 0b111})  # 30 and 3 bits
    assert find(hashes, 8, 3).tolist() == []
    assert find(hashes, 8, 3, species=[7, 7]).tolist() == [[0, 1]]
    assert find(hashes, 8, 2, species=[7, 7]).tolist() == []


@pytest.mark.parametrize("most", [duplicates.EXHAUSTIVE, 20])
def test_a_species_is_compared_as_a_whole_unless_it_is_too_large(most, monkeypatch):
    monkeypatch.setattr(duplicates, "EXHAUSTIVE", most)
    monkeypatch.setattr(duplicates, "CHUNK", 100)
    random = np.random.default_rng(5)
    hashes = clustered(random)
    hashes[::3, 0] ^= random.integers(0, 2**64, len(hashes[::3]), np.uint64)
    species = random.integers(0, 60, len(hashes))
    species[np.bincount(species)[species] > most] = -1 - np.flatnonzero(np.bincount(species)[species] > most)
    expected = brute_force(hashes, 4, 9, species=species)
    np.testing.assert_array_equal(find(hashes, 4, 9, species=species), expected)


def test_a_picture_of_two_species_is_compared_in_both():
    hashes = hashes_of({}, {}, {0: 2**30 - 1}, {0: (2**30 - 1) << 30})
    pairs = find(hashes, 0, 0, species=[0, 1, 0, 1])
    assert pairs.tolist() == [[0, 1], [0, 2], [0, 3]]


def test_equal_photos_are_paired_with_the_first():
    hashes = hashes_of({0: 2**63}, {}, {2: 1}, {}, {0: 2**63}, {})
    # 1, 3 and 5 are equal, as are 0 and 4; 1 bit lies between these two, and 1 from 2 to the former.
    expected = [[0, 1], [0, 4], [1, 2], [1, 3], [1, 5]]
    assert find(hashes, 1, 0).tolist() == [[0, 1], [0, 4], [1, 3], [1, 5]]
    assert find(hashes, 0, 1).tolist() == [[0, 4], [1, 2], [1, 3], [1, 5]]
    assert find(hashes, 1, 1).tolist() == sorted([*expected, [0, 2]])


@pytest.mark.parametrize("most", [50, duplicates.MAX_PAIRS])
def test_pairs_connect_what_near_duplicates_connect(most, monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_PAIRS", most)
    monkeypatch.setattr(duplicates, "CHUNK", 64)
    random = np.random.default_rng(1)
    hashes = clustered(random, photos=100, clusters=40)[random.integers(0, 500, 900)]  # many are equal
    every = brute_force(hashes, 3, 5)
    pairs = find(hashes, 3, 5)
    assert len(pairs) < len(every)
    assert {tuple(pair) for pair in pairs} < {tuple(pair) for pair in every}
    np.testing.assert_array_equal(groups_of(pairs, 900), groups_of(every, 900))
    # Therefore: where near-duplicates lie in two splits, those of one of the pairs do.
    for alone in range(900):
        assert (pairs == alone).any() == (every == alone).any()


def test_the_order_of_the_rows_changes_numbers_only():
    hashes = np.unique(clustered(np.random.default_rng(2)), axis=0)
    pairs = find(hashes, 4, 5)
    order = np.random.default_rng(3).permutation(len(hashes))
    shuffled = order[find(hashes[order], 4, 5)]
    assert {frozenset(pair) for pair in shuffled.tolist()} == {frozenset(pair) for pair in pairs.tolist()}


def test_pairs_are_sorted_unique_and_repeat():
    hashes = clustered(np.random.default_rng(4))[:900]
    hashes = np.concatenate([hashes, hashes])
    pairs = find(hashes, 5, 26)
    assert pairs.tolist() == sorted(map(list, {tuple(pair) for pair in pairs.tolist()}))
    assert (pairs[:, 0] < pairs[:, 1]).all() and pairs.dtype == np.int64
    np.testing.assert_array_equal(pairs, find(hashes, 5, 26))


def test_thirty_thousand_equal_photos_are_quick():
    hashes = np.tile(BASE, (30_000, 1))
    started = time.perf_counter()
    pairs = find(hashes, 5, 26)
    assert time.perf_counter() - started < 2  # 0.02 s; comparing all pairs takes minutes
    np.testing.assert_array_equal(pairs, [(0, other) for other in range(1, 30_000)])


@pytest.mark.parametrize("n", [0, 1])
def test_no_pair_without_two_photos(n):
    pairs = find(np.zeros((n, 9), np.uint64), 3, 26)
    assert pairs.shape == (0, 2) and pairs.dtype == np.int64


def test_wrong_arguments_raise():
    with pytest.raises(ValueError, match=r"received uint64 \[2, 5\], expected uint64 \[n, 9\]"):
        find(np.zeros((2, 5), np.uint64), 3, 26)
    with pytest.raises(ValueError, match="species: received 1, expected one for each of 2 hashes"):
        find(np.zeros((2, 9), np.uint64), 3, 26, species=[0])
    with pytest.raises(ValueError, match="max_bits: received 9, expected 0 to 8"):
        find(np.zeros((2, 9), np.uint64), 9, 26)


def test_hashes_are_those_of_imagehash():
    image = photo(0, size=(64, 64))
    words = photo_hashes(jpeg_of(image.convert("L"), quality=100))
    grey = Image.open(io.BytesIO(jpeg_of(image.convert("L"), quality=100)))
    assert words.dtype == np.uint64 and words.shape == (9,)
    assert f"{words[0]:016x}" == str(imagehash.phash(grey, 8))
    assert "".join(f"{word:016x}" for word in words[1:5]) == str(imagehash.phash(grey, 16))
    assert "".join(f"{word:016x}" for word in words[5:]) == str(imagehash.dhash(grey, 16))


def test_hashes_stay_what_they_were():
    """Stored hashes are compared with those of later runs: a release of a library must not move them."""
    words = np.array(FIXED, np.uint64)
    bits = distances(photo_hashes(jpeg_of(photo(0))), words)
    assert bits[0] <= 2 and bits[1] <= 4 and bits[2] <= 4  # another libjpeg may round otherwise


@pytest.mark.parametrize(
    "change",
    [
        lambda image: Image.open(io.BytesIO(jpeg_of(image, quality=60))),
        lambda image: image.resize((192, 225), Image.Resampling.BICUBIC),
        lambda image: ImageEnhance.Brightness(image).enhance(1.05),
        lambda image: image.convert("L"),
    ],
    ids=["re-compressed", "resized", "brighter", "grey"],
)
def test_the_same_picture_stored_otherwise_stays_near(change):
    for seed in range(10):
        image = photo(seed)
        bits = distances(photo_hashes(jpeg_of(image)), photo_hashes(jpeg_of(change(image))))
        assert bits[0] <= 4 and bits[1] <= 16 and bits[2] <= 16


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda image: Image.open(io.BytesIO(jpeg_of(image, 30))), (2, 4, 2)),
        (lambda image: image.point(lambda value: 255 * (value / 255) ** 2), (6, 24, 11)),
        (lambda image: ImageOps.expand(image, 5), (4, 44, 25)),
        (lambda image: cropped(image, 0.01), (4, 34, 14)),
        (lambda image: cropped(image, 0.02), (4, 48, 35)),
        (lambda image: cropped(image, 0.04), (10, 78, 71)),  # beyond the default limits: 72 and 84
        (lambda image: cropped(image, 0.08), (26, 126, 105)),  # as far as another photo
        (ImageOps.mirror, (30, 128, 158)),
        (lambda image: photo(1), (34, 138, 128)),
    ],
    ids=["quality 30", "gamma 2", "frame", "crop 1 %", "crop 2 %", "crop 4 %", "crop 8 %", "mirrored", "another photo"],
)
def test_distances_of_an_invented_picture(change, expected):
    bits = distances(photo_hashes(jpeg_of(photo(0))), photo_hashes(jpeg_of(change(photo(0)))))
    assert np.abs(np.subtract(bits, expected)).max() <= 4  # another libjpeg may round otherwise


def test_different_photos_are_far_apart():
    hashes = [photo_hashes(jpeg_of(photo(seed))) for seed in range(20)]
    bits = [distances(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(bits) > (8, 0, 0) and min(b for _, b, _ in bits) > 84 and min(d for *_, d in bits) > 84


@pytest.mark.parametrize("size", [(1, 1), (40, 36), (120, 400), (2000, 3)])
def test_any_size_has_hashes(size):
    assert photo_hashes(jpeg_of(photo(3, size))).shape == (9,)


def test_a_jpeg_that_the_fast_decoder_refuses():
    image = photo(4)
    bits = distances(photo_hashes(jpeg_of(image.convert("CMYK"))), photo_hashes(jpeg_of(image)))
    assert bits[0] <= 4 and bits[1] <= 16 and bits[2] <= 16
    stray = jpeg_of(image)[:-2] + bytes(50) + b"\xff\xd9"
    assert distances(photo_hashes(stray), photo_hashes(jpeg_of(image))) == (0, 0, 0)


@pytest.mark.parametrize("image", [b"", b"<html>", b"\xff\xd8\xff"])
def test_no_photo_raises(image):
    with pytest.raises(ValueError, match="not a readable JPEG"):
        photo_hashes(image)
