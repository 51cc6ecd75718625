"""Everything in a photo except the plant: ground, light, lens and sensor. It reveals the region, never the species."""

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from keras_pipeline.demo.flora import Region


def background(region: Region, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Paint the out-of-focus ground of a region as RGB of `size` (width, height)."""
    small = (size[0] // 2, size[1] // 2)
    ground = _mottled(region, small, rng)
    _SCENES[region.scene](ground, region, rng)
    ground = ground.filter(ImageFilter.GaussianBlur(rng.uniform(1.0, 2.4)))
    return ground.resize(size, Image.Resampling.BICUBIC)


def _noise(size: tuple[int, int], cells: int, rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of about 0..1, [H,W], with about `cells` bumps across."""
    raw = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(raw.resize(size, Image.Resampling.BICUBIC))


def _mottled(region: Region, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Mix the ground colours by smooth noise, lighter towards the far end (the top)."""
    level = 0.5 * _noise(size, 5, rng) + 0.4 * _noise(size, 13, rng) + 0.1 * _noise(size, 40, rng)
    level = level + rng.uniform(-0.12, 0.12) + np.linspace(0.16, -0.16, size[1], dtype=np.float32)[:, None]
    stops = np.asarray(region.ground, np.float32)
    channels = [np.interp(level, [0.2, 0.5, 0.85], stops[:, c]) for c in range(3)]
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8), "RGB")


def _tone(colour: tuple[int, ...], factor: float) -> tuple[int, ...]:
    return tuple(int(min(255, v * factor)) for v in colour)


def _stones(image: Image.Image, region: Region, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    for y in np.sort(rng.uniform(0, image.height, 26)):
        x, r = rng.uniform(0, image.width), rng.uniform(1.5, 8) * (0.5 + y / image.height)
        colour = region.ground[rng.integers(1, 3)]
        draw.ellipse((x - r, y - r * 0.55 + 2, x + r + 2, y + r * 0.75 + 2), fill=_tone(region.ground[0], 0.75))
        draw.ellipse((x - r, y - r * 0.6, x + r, y + r * 0.6), fill=_tone(colour, rng.uniform(0.85, 1.1)))
    _blades(draw, image.size, (176, 160, 96), 14, rng)


def _meadow(image: Image.Image, region: Region, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    _blades(draw, image.size, region.ground[1], 40, rng)
    _blades(draw, image.size, region.ground[2], 30, rng)
    _dots(draw, image.size, 9, rng)


def _wood(image: Image.Image, region: Region, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    for x in rng.uniform(0, image.width, 4):
        draw.rectangle((x, 0, x + rng.uniform(3, 9), image.height * rng.uniform(0.3, 0.6)), fill=(26, 22, 18))
    for _ in range(14):
        x, y, r = rng.uniform(0, image.width), rng.uniform(0, image.height), rng.uniform(2, 6)
        fleck = _tone(region.ground[2], rng.uniform(0.8, 1.6))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fleck)
    _blades(draw, image.size, (60, 84, 48), 16, rng)


def _cliff(image: Image.Image, region: Region, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    horizon = image.height * rng.uniform(0.15, 0.45)
    draw.rectangle((0, 0, image.width, horizon), fill=_tone(region.ground[2], rng.uniform(0.9, 1.15)))
    draw.rectangle((0, horizon * 0.8, image.width, horizon), fill=_tone((112, 150, 178), rng.uniform(0.9, 1.2)))
    for _ in range(16):
        x, y, r = rng.uniform(0, image.width), rng.uniform(horizon, image.height), rng.uniform(3, 14)
        points = [(x + r * np.cos(a), y + 0.7 * r * np.sin(a)) for a in np.sort(rng.uniform(0, 6.28, 6))]
        draw.polygon(points, fill=_tone(region.ground[rng.integers(0, 2)], rng.uniform(0.85, 1.2)))


def _blades(draw: ImageDraw.ImageDraw, size: tuple[int, int], colour: tuple, n: int, rng: np.random.Generator) -> None:
    for _ in range(n):
        x, y = rng.uniform(0, size[0]), size[1] * rng.uniform(0.4, 1.1)
        tip = (x + rng.normal(0, 0.15) * size[0], y - size[1] * rng.uniform(0.15, 0.6))
        draw.line([(x, y), tip], fill=_tone(colour, rng.uniform(0.6, 1.25)), width=int(rng.integers(1, 3)))


def _dots(draw: ImageDraw.ImageDraw, size: tuple[int, int], n: int, rng: np.random.Generator) -> None:
    """Draw distant flowers: specks of any colour."""
    for _ in range(n):
        x, y, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0.8, 2.6)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(v) for v in rng.integers(120, 250, 3)))


_SCENES = {"stones": _stones, "meadow": _meadow, "wood": _wood, "cliff": _cliff}


def cast_shadow(canvas: Image.Image, at: tuple[float, float], radius: float, strength: float, light: float) -> None:
    """Softly darken the ground on the side of `at` away from the light, in place."""
    small = (canvas.width // 8, canvas.height // 8)
    mask = Image.new("L", small)
    x, y = (at[0] - np.sin(light) * radius * 0.6) / 8, (at[1] + radius * 0.55) / 8
    r = radius / 8
    ImageDraw.Draw(mask).ellipse((x - r, y - r * 0.6, x + r, y + r * 0.6), fill=int(255 * strength))
    mask = mask.filter(ImageFilter.GaussianBlur(r * 0.25)).resize(canvas.size, Image.Resampling.BILINEAR)
    canvas.paste((18, 16, 20), (0, 0, *canvas.size), mask)


def develop(canvas: Image.Image, region: Region, rng: np.random.Generator) -> Image.Image:
    """Apply exposure, white balance, contrast, vignette, sensor noise and sometimes a missed focus."""
    if rng.random() < 0.25:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.3)))
    exposure = rng.uniform(*region.exposure)
    contrast = region.contrast * rng.uniform(0.92, 1.08)
    levels = np.arange(256, dtype=np.float32)
    curves = [np.clip(((levels - 128) * contrast + 128) * exposure * gain, 0, 255) for gain in region.light]
    canvas = canvas.point(np.concatenate(curves).astype(np.uint8).tolist())
    canvas = ImageChops.multiply(canvas, _vignette(canvas.size, rng.uniform(0.08, 0.24)))
    amount = int(rng.integers(2, 8))
    grain = Image.fromarray(rng.integers(0, 2 * amount + 1, (canvas.height, canvas.width), dtype=np.uint8))
    return ImageChops.add(canvas, Image.merge("RGB", [grain] * 3), offset=-amount)


def _vignette(size: tuple[int, int], strength: float) -> Image.Image:
    axis = np.linspace(-1, 1, 32, dtype=np.float32) ** 2
    bright = 255 * (1 - strength * (axis[:, None] + axis[None, :]))
    return Image.fromarray(bright.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB")
