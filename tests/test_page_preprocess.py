"""The page's reading of photos against Python's, byte for byte, in the real browser."""

import base64
import io
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import web_example as example

from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.data.exif import ORIENTATION
from keras_pipeline.data.photo import seen
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
    """An empty page with preprocess.js and jpeg.js in it; `page.folder` is served beside it."""
    example.need_browser()
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<script src=preprocess.js></script><script src=jpeg.js></script>")
    for name in ("preprocess.js", "jpeg.js", "node_modules/@cwasm/jpeg-turbo/jpeg-turbo.wasm"):
        shutil.copy(PAGE / name, folder)
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


def in_page(page, image, expression, rows=37):
    """Evaluates `expression` over a `picture` of `rows` at a time; returns its typed array's bytes."""
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
      const picture = { width, height, strip, rows: %d, channels: 4 };
      return %s;
    }"""
    script %= rows, as_base64(expression)
    return base64.b64decode(page.evaluate(script, {"width": image.shape[1], "height": image.shape[0]}))


def as_base64(expression):
    reader = "Object.assign(new FileReader(), { onload: ({ target }) => resolve(target.result.split(',')[1]) })"
    return f"await new Promise((resolve) => {reader}.readAsDataURL(new Blob([{expression}])))"


@pytest.mark.parametrize("rows", [37, 10_000])
@pytest.mark.parametrize("size", SIZES)
def test_first_resize_is_pythons_bit_for_bit(page, size, rows):
    image = pixels(*size)
    expected = seen(png(image), 256)
    found = in_page(page, image, "preprocess.shrink(picture, 256).pixels", rows)
    assert np.array_equal(np.frombuffer(found, np.uint8).reshape(expected.shape), expected)


@pytest.mark.parametrize("image_size", [32, 96, 128, 160, 224, 320])
def test_whole_path_is_tensorflows(page, image_size):
    image = pixels(517, 389)
    preprocessing = Preprocessing(image_size)
    expected = preprocessing.from_photo(png(image)).numpy()
    found = in_page(page, image, f"preprocess.toTensor(picture, {preprocessing.to_json()})")
    assert np.abs(np.frombuffer(found, "<f4").reshape(expected.shape) - expected).max() < 1e-3


def test_a_picture_smaller_than_the_input_is_enlarged_alike(page):
    image = pixels(40, 30)
    expected = resize_antialiased(tf.constant(image[2:28, 7:33]), (48, 48)).numpy()  # 26 = floor(0.875 * 30 + 0.5)
    found = in_page(page, image, f"preprocess.toTensor(picture, {example.PREPROCESSING.to_json()})")
    assert np.abs(np.frombuffer(found, "<f4").reshape(expected.shape) - expected).max() < 1e-3


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def photo(size, *, orientation=None, mode="RGB", **options):
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    Image.fromarray(pixels(*size)).convert(mode).save(buffer, "JPEG", exif=exif, **{"quality": 85, **options})
    return buffer.getvalue()


def decoded(page, file, preprocessing):
    """The tensor of jpeg.js and preprocess.js; None where the decoder refuses."""
    (page.folder / "photo.jpg").write_bytes(file)
    script = """async () => {
      const read = async (name) => (await fetch(name, { cache: "no-store" })).arrayBuffer();
      const bytes = new Uint8Array(await read("photo.jpg"));
      const module = await WebAssembly.compile(await read("jpeg-turbo.wasm"));
      const header = jpeg.header(bytes), { orientation } = header;
      const found = jpeg.decode(module, bytes, header, 256);
      if (!found) return null;
      const strip = (top, count, left, columns) => {
        const part = new Uint8Array(count * columns * 3);
        for (let y = 0; y < count; y++) {
          const from = ((top + y) * found.width + left) * 3;
          part.set(found.pixels.subarray(from, from + columns * 3), y * columns * 3);
        }
        return part;
      };
      const picture = { ...found, strip, rows: 37, channels: 3 };
      return %s;
    }"""
    answer = page.evaluate(script % as_base64(f"preprocess.toTensor(picture, {preprocessing.to_json()}, orientation)"))
    return None if answer is None else np.frombuffer(base64.b64decode(answer), "<f4")


# Of 255 pixels nothing is halved, of 513 the half, of 700 three eighths, of 1030 a quarter, of 2100 an eighth.
JPEGS = {
    **{f"{short} px": {"size": (short + 70, short)} for short in (100, 255, 256, 513, 700, 1030, 2100)},
    **{f"EXIF {k}": {"size": (331, 402 + k), "orientation": k} for k in range(1, 9)},
    **{f"subsampling {k}": {"size": (901, 704), "subsampling": k} for k in range(3)},
    "progressive": {"size": (1500, 1001), "progressive": True},
    "grey": {"size": (640, 481), "mode": "L"},
    "restart markers": {"size": (640, 481), "restart_marker_blocks": 7},
    "RGB, not YCbCr": {"size": (640, 481), "keep_rgb": True},
    "quality 5": {"size": (1200, 900), "quality": 5},
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_is_the_same_tensor_in_every_byte(page, name):
    file = photo(**JPEGS[name])
    preprocessing = Preprocessing(224)
    crop = Preprocessing(224, crop_fraction=0.871)  # 223 of 256: the square's place is odd by a pixel
    for each in (preprocessing, crop):
        assert np.abs(decoded(page, file, each) - each.from_photo(file).numpy().ravel()).max() < 1e-3


def test_bytes_behind_the_end_and_a_missing_end_marker_change_nothing(page):
    file = photo((640, 481))
    expected = decoded(page, file, Preprocessing(96))
    for variant in (file + b"a second picture", file[:-2]):
        assert np.array_equal(decoded(page, variant, Preprocessing(96)), expected)
        assert np.abs(Preprocessing(96).from_photo(variant).numpy().ravel() - expected).max() < 1e-3


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_is_refused_on_both_sides(page, share, progressive):
    file = photo((640, 481), progressive=progressive)
    file = file[: int(len(file) * share)]
    assert decoded(page, file, Preprocessing(96)) is None
    with pytest.raises(ValueError, match="cut off: the end of the JPEG is missing"):
        seen(file, 256)


def test_a_missing_browser_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv("CHROMIUM_PATH", "/nowhere/chromium")
    with pytest.raises(BrowserMissing, match="apt-get install chromium"):
        find_chromium()
