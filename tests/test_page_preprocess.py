"""The page's resize against Pillow's and TensorFlow's, with the same pixels, in the real browser."""

import base64
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import web_example as example

from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.data.photo import shrink
from keras_pipeline.data.preprocess import Preprocessing, resize_antialiased
from keras_pipeline.export.browser import BrowserMissing, find_chromium, open_browser
from keras_pipeline.export.tfjs import PAGE

SIZES = [
    (256, 256),
    (257, 256),
    (300, 400),
    (341, 640),
    (1024, 257),
    (2000, 1333),
    (1999, 3001),
    (100, 60),
    (256, 5000),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """An empty page with preprocess.js in it; `page.folder` is served beside it."""
    example.need_browser()
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<script src=preprocess.js></script>")
    shutil.copyfile(PAGE / "preprocess.js", folder / "preprocess.js")
    with serve_folder(folder) as base, open_browser() as browser:
        page = browser.new_page()
        # `Failed to fetch` alone, seen once in many runs, does not say what Chromium met.
        page.on("requestfailed", lambda request: print(f"{request.url}: {request.failure}"))
        page.goto(base)
        page.folder = folder
        yield page


def pixels(width, height):
    """Noise, edges and a gradient: rounding errors have nowhere to hide."""
    rng = np.random.default_rng(width * height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[: height // 3] = (np.arange(width) * 255 // width)[:, None]
    image[height // 3 : height // 2] = np.where(np.arange(width)[:, None] % 7 < 3, 255, 0)
    return image


def in_page(page, image, expression):
    """Evaluates `expression` over width, height and strips of rgba; returns its typed array's bytes."""
    (page.folder / "rgba.bin").write_bytes(np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]).tobytes())
    script = """async ({ width, height }) => {
      const rgba = new Uint8Array(await (await fetch("rgba.bin", { cache: "no-store" })).arrayBuffer());
      const strip = (top, count, left, columns) => {
        const part = new Uint8Array(count * columns * 4);
        for (let y = 0; y < count; y++) {
          const from = ((top + y) * width + left) * 4;
          part.set(rgba.subarray(from, from + columns * 4), y * columns * 4);
        }
        return part;
      };
      const reader = new FileReader();
      reader.readAsDataURL(new Blob([%s]));
      await new Promise((resolve) => (reader.onload = resolve));
      return reader.result.split(",")[1];
    }"""
    return base64.b64decode(page.evaluate(script % expression, {"width": image.shape[1], "height": image.shape[0]}))


@pytest.mark.parametrize("rows", [37, 10_000])
@pytest.mark.parametrize("size", SIZES)
def test_first_resize_is_pillows_bit_for_bit(page, size, rows):
    image = pixels(*size)
    expected = np.asarray(shrink(Image.fromarray(image), 256))
    found = in_page(page, image, f"preprocess.shrink(strip, {rows}, width, height, 256).pixels")
    assert np.array_equal(np.frombuffer(found, np.uint8).reshape(expected.shape), expected)


@pytest.mark.parametrize("image_size", [32, 96, 128, 160, 224, 320])
def test_whole_path_is_tensorflows(page, image_size):
    image = pixels(517, 389)
    preprocessing = Preprocessing(image_size)
    expected = preprocessing.from_pixels(tf.constant(np.asarray(shrink(Image.fromarray(image), 256)))).numpy()
    found = in_page(page, image, f"preprocess.toTensor(strip, 37, width, height, {preprocessing.to_json()})")
    assert np.abs(np.frombuffer(found, "<f4").reshape(expected.shape) - expected).max() < 1e-3


def test_a_picture_smaller_than_the_input_is_enlarged_alike(page):
    image = pixels(40, 30)
    expected = resize_antialiased(tf.constant(image[2:28, 7:33]), (48, 48)).numpy()  # 26 = floor(0.875 * 30 + 0.5)
    found = in_page(page, image, f"preprocess.toTensor(strip, 37, width, height, {example.PREPROCESSING.to_json()})")
    assert np.abs(np.frombuffer(found, "<f4").reshape(expected.shape) - expected).max() < 1e-3


def test_a_missing_browser_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv("CHROMIUM_PATH", "/nowhere/chromium")
    with pytest.raises(BrowserMissing, match="apt-get install chromium"):
        find_chromium()
