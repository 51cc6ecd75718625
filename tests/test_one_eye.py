"""One eye: what a model sees of each made photo, by hash, or why it is refused; in Python and in the page.

made_photos.json holds what was seen. Where the rule changes on purpose, or a library draws the photos anew, look at
what differs, then record it:

    PYTHONPATH=.:tests python tests/test_one_eye.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from support.made_photos import PHOTOS

from keras_pipeline.data.photo import seen

RECORDED = Path(__file__).with_name("made_photos.json")
SHORT_SIDE, MIN_SHORT_SIDE = 256, 20


def of(pixels):
    """Height, width and a hash of uint8 [h, w, 3]."""
    return [*pixels.shape[:2], hashlib.sha256(pixels.tobytes()).hexdigest()[:16]]


def seen_by_python(photo):
    try:
        return of(seen(photo, SHORT_SIDE, min_short_side=MIN_SHORT_SIDE))
    except ValueError as refusal:
        return refusal.reason


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORDED.read_text())


def test_the_table_holds_every_made_photo(recorded):
    assert list(recorded) == list(PHOTOS) and len(PHOTOS) >= 60


@pytest.mark.parametrize("name", PHOTOS)
def test_python_sees_what_was_recorded(recorded, name):
    assert seen_by_python(PHOTOS[name]) == recorded[name]


ALIKE = {
    "jpeg EXIF as a LONG": "jpeg XMP 6", "jpeg sRGB": "jpeg XMP 6", "jpeg sRGB of version 4": "jpeg XMP 6",
    "jpeg broken profile": "jpeg XMP 6", "jpeg with a grey profile": "jpeg XMP 6", "jpeg without its end": "jpeg XMP 6",
    "jpeg with more behind": "jpeg XMP 6", "jpeg damaged": "jpeg XMP 6",
    "jpeg CMYK with Display P3": "jpeg CMYK", "png gAMA 1.0": "png", "png gAMA and cHRM": "png", "png gAMA 1.8": "png",
    "png cICP sRGB": "png", "png long text": "png", "png Raw profile 6": "png", "png without its end": "png",
    "png animated": "png", "webp lossless": "png", "webp animated": "png",
    "webp EXIF 6": "png eXIf 6", "bmp": "png",
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_what_does_not_count_changes_nothing(recorded, name):
    assert recorded[name] == recorded[ALIKE[name]]


def test_alpha_is_laid_on_white_after_the_conversion():
    transparent, opaque = (seen(PHOTOS[name], 256) for name in ("png Display P3, transparent", "png RGBA"))
    assert (transparent[:, 0] == 255).all() and (opaque[:, 0] == 255).all()
    assert np.abs(transparent.astype(int) - opaque).max() > 5  # a saturated red goes beyond sRGB's


if __name__ == "__main__":
    lines = [f" {json.dumps(name)}: {json.dumps(seen_by_python(photo))}" for name, photo in PHOTOS.items()]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
