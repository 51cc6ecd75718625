"""Colours to sRGB: which profile counts, and what it does, with literal numbers."""

import numpy as np
import pytest
from PIL import Image
from support import made_photos as made

from keras_pipeline.data import chunks, colour


@pytest.mark.parametrize("profile, expected", [
    (made.SRGB, True), (made.SRGB_4, True), (colour.srgb_profile(), True), (made.P3, False), (made.ADOBE, False),
    (made.LINEAR, False), (made.GREY, False), (made.INK, False), (b"", False), (made.SRGB[:300], False),
    (bytes(200), False),
], ids=range(11))  # fmt: skip
def test_what_is_srgb_in_other_words(profile, expected):
    assert colour.is_srgb(profile) is expected


def test_a_pure_power_is_not_srgb():
    primaries = (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)
    assert not colour.is_srgb(made.rgb_profile(*primaries, made.gamma(2.2)))


@pytest.mark.parametrize(("mode", "colours", "profile", "expected"), [
    # Display P3's (200, 100, 20) is a stronger orange in sRGB; its grey is the same grey.
    ("RGB", (200, 100, 20), made.P3, (215, 93, 0)),
    ("RGB", (128, 128, 128), made.P3, (128, 128, 128)),
    # gamma 1.8: (128 / 255) ^ 1.8 = 0.289 of white, which sRGB writes as 147
    ("L", 128, made.GREY, (147, 147, 147)),
    ("L", 128, made.P3, (128, 128, 128)),
    ("RGB", (200, 100, 20), made.GREY, (200, 100, 20)),
    ("CMYK", (0, 0, 0, 51), made.P3, (204, 204, 204)),
], ids=range(6))  # fmt: skip
def test_a_profile_counts_for_pixels_of_its_own_space(mode, colours, profile, expected):
    found = colour.to_srgb(Image.new(mode, (3, 3), colours), profile).getpixel((1, 1))
    np.testing.assert_allclose(found, expected, atol=1)


def test_black_is_not_lifted():
    # To a profile of version 4 LittleCMS would compensate the black point of this one, which is at L* = 8.
    dark = colour.to_srgb(Image.new("CMYK", (3, 3), (255, 255, 255, 255)), made.INK).getpixel((1, 1))
    assert min(dark) > 15


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["png", "webp lossless, transparent", "webp animated"])
def test_a_cut_file_is_known_by_its_chunks(name, share):
    whole = made.PHOTOS[name]
    assert chunks.read(whole).is_complete
    found = chunks.read(whole[: int(len(whole) * share)])
    assert not found.is_complete or (name == "webp animated" and share == 0.99)  # its second picture


def test_of_a_png_the_pixels_chunks_are_kept_alone():
    kept = chunks.read(made.PHOTOS["png long text"])
    assert kept.picture == made.PHOTOS["png"] and (kept.width, kept.height) == (340, 270)
    late = made.PHOTOS["png"][:-12] + made.chunk(b"eXIf", made.turned_by(6)) + made.chunk(b"IEND", b"")
    assert chunks.read(late).orientation == 1  # after the pixels
    assert chunks.read(made.PHOTOS["png eXIf 6"]).orientation == 6
