"""One eye: what a model sees of each made photo, by hash, or why it is refused; in Python and in the page.

made_photos.json holds what was seen. Where the rule changes on purpose, or a library draws the photos anew, look at
what differs, then record it:

    PYTHONPATH=.:tests python tests/test_one_eye.py
"""

import base64
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import web_example as example
from support.made_photos import PHOTOS

from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.data.first_bytes import REASONS
from keras_pipeline.data.photo import seen
from keras_pipeline.export.browser import open_browser
from keras_pipeline.export.engines import missing_engines, open_engine
from keras_pipeline.export.tfjs import PAGE

RECORDED = Path(__file__).with_name("made_photos.json")
SHORT_SIDE, MIN_SHORT_SIDE = 256, example.PREPROCESSING.min_short_side


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


ASK = """async (photos) => {
  const { Classifier } = await import("./classifier.js");
  const classifier = await Classifier.load({ backends: ["wasm"] });
  const answers = [];
  for (const photo of photos) {
    const bytes = Uint8Array.from(atob(photo), (sign) => sign.charCodeAt(0));
    try {
      const { pixels, width, height } = await classifier.ask("seen", { picture: new Blob([bytes]) });
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", pixels));
      const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
      answers.push([height, width, hex.slice(0, 16)]);
    } catch (error) {
      answers.push(error.message);
    }
  }
  return answers;
}"""


@pytest.fixture(scope="module")
def page():
    """The real page, and the URLs that it asked for."""
    example.need_browser()
    with serve_folder(example.bundle()[0]) as base, open_browser() as browser:
        page = browser.new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url.removeprefix(base)))
        page.goto(base)
        page.wait_for_selector("body[data-state=ready]")
        page.context.set_default_timeout(0)
        yield page


@pytest.fixture(scope="module")
def seen_by_the_page(page):
    answers = page.evaluate(ASK, [base64.b64encode(photo).decode() for photo in PHOTOS.values()])
    return dict(zip(PHOTOS, answers, strict=True))


@pytest.mark.parametrize("name", PHOTOS)
def test_the_page_sees_what_python_sees(recorded, seen_by_the_page, name):
    assert seen_by_the_page[name] == recorded[name]


@pytest.mark.parametrize("name", ["firefox", "webkit"])
def test_other_browsers_see_the_same_of_jpeg_png_and_webp(recorded, name):
    if why := missing_engines([name]).get(name):
        pytest.skip(f"{name}: {why}")
    own = {title: photo for title, photo in PHOTOS.items() if title.split(",")[0].split()[0] in ("jpeg", "png", "webp")}
    with serve_folder(example.bundle()[0]) as base, open_engine(name) as engine, engine.opened(base, []) as page:
        answers = page.call(ASK, [base64.b64encode(photo).decode() for photo in own.values()])
    assert len(own) > 70
    assert dict(zip(own, answers, strict=True)) == {title: recorded[title] for title in own}


def test_each_reason_has_words_in_the_page():
    spoken = (PAGE / "messages.js").read_text()
    assert all(f"  {reason}: " in spoken or f'  "{reason}": ' in spoken for reason in REASONS if reason != "32 bits")


def test_decoders_come_with_the_first_photo_that_needs_them(page):
    later = {
        "png.js",
        "webp.js",
        "profile.js",
        "emscripten.js",
        "chunks.js",
        "colour.js",
        "vendor/lcms.wasm",
        "vendor/webp_dec.wasm",
    }
    needed = {
        "jpeg 4:4:4": set(),
        "jpeg sRGB": {"colour.js"},
        "jpeg Display P3": {"colour.js", "profile.js", "emscripten.js", "vendor/lcms.wasm"},
        "webp": {"chunks.js", "webp.js", "emscripten.js", "vendor/webp_dec.wasm"},
    }
    for name, files in needed.items():
        page.asked.clear()
        page.evaluate(ASK, [base64.b64encode(PHOTOS[name]).decode()])
        assert {url for url in page.asked if url in later} == files, name


PROTECT = """const read = OffscreenCanvasRenderingContext2D.prototype.getImageData;
OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...place) {
  const found = read.apply(this, place);
  found.data[5] ^= 1;
  return found;
};
"""


def test_a_protected_canvas_refuses_what_needs_it_and_nothing_else(page, recorded, tmp_path):
    folder = shutil.copytree(example.bundle()[0], tmp_path / "bundle")
    (folder / "worker.js").write_text(PROTECT + (folder / "worker.js").read_text())
    names = ["jpeg Display P3", "png RGBA", "webp", "gif", "bmp", "avif"]
    with serve_folder(folder) as base:
        other = page.context.browser.new_page()
        other.goto(base)
        answers = other.evaluate(ASK, [base64.b64encode(PHOTOS[name]).decode() for name in names])
    assert answers == [*(recorded[name] for name in names[:3]), *["protected canvas"] * 3]


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
