"""The parts of a painted plant: petals, leaves and flower centres as small images, shaded pixel by pixel."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from keras_pipeline.demo.flora import Blade, Colour, Mark

LENGTH = 96  # pixels from a blade's base to its tip; about the size at which the largest are shown
_PAD = 6  # margin for the soft shadow around the outline
_LIGHTS = (0.80, 0.93, 1.07)


@dataclass(frozen=True)
class Sprite:
    """A part with premultiplied alpha in several sizes, each half the previous one, so that small copies stay smooth.

    `base` is the point (x, y) of the largest level at which the part is attached.
    """

    levels: tuple[Image.Image, ...]
    base: tuple[float, float]

    @classmethod
    def of(cls, pixels: np.ndarray, base: tuple[float, float]) -> "Sprite":
        """Make a sprite from premultiplied colour and alpha, [H,W,4] in 0..255."""
        opaque = np.minimum(np.maximum(pixels, 0), pixels[..., 3:]).astype(np.uint8)
        full = Image.frombuffer("RGBa", opaque.shape[1::-1], opaque, "raw", "RGBa", 0, 1)
        return cls((full, full.reduce(2), full.reduce(4)), base)


@lru_cache(maxsize=64)
def _grid(half_width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions along the blade (1 at the tip, in the top row) and across it, in its length, both [H,W]."""
    rows = np.arange(-_PAD, LENGTH + _PAD, dtype=np.float32)[::-1, None] / LENGTH
    columns = np.arange(-half_width, half_width + 1, dtype=np.float32)[None, :] / LENGTH
    along, across = np.broadcast_arrays(rows, columns)
    return np.ascontiguousarray(along), np.ascontiguousarray(across)


@lru_cache(maxsize=128)
def _half_width(blade: Blade) -> np.ndarray:
    """Return the half-width at 512 places from base to tip, in units of the length."""
    t = np.linspace(0, 1, 512, dtype=np.float32)
    if blade.flare >= 0:
        opening = np.sqrt(np.clip(t / 0.25, 0, 1)) * (0.74 + 0.14 * t - 0.10 * t**3)
        return blade.width * (opening + blade.flare * 0.6 * t**7)
    peak = blade.rise / (blade.rise + blade.fall)
    return blade.width * t**blade.rise * (1 - t) ** blade.fall / (peak**blade.rise * (1 - peak) ** blade.fall)


def _width_at(blade: Blade, along: np.ndarray) -> np.ndarray:
    index = np.clip(along * 511, 0, 511).astype(np.int32)
    return _half_width(blade)[index] * ((along >= 0) & (along <= 1))


@lru_cache(maxsize=128)
def _outline(blade: Blade, half_width: int) -> np.ndarray:
    """Return the distance inside the outline in units of the blade's length, negative outside; [H,W]."""
    along, across = _grid(half_width)
    if blade.flare >= 0:
        reach = blade.width * (0.78 + 0.6 * blade.flare)
        scallop = np.abs(np.sin(np.pi * (blade.lobes + 1) * 0.5 * (across / reach + 1)))
        rim = 1 - blade.lobe_depth * (1 - scallop)
        return np.minimum(_width_at(blade, along) - np.abs(across), (rim - along) * 0.8)
    cut = blade.notch * np.clip(1 - np.abs(across) / (0.55 * blade.width), 0, 1)
    width = _width_at(blade, along + cut * (along > 0.5))
    if blade.lobes:
        wave = np.abs(np.sin(np.pi * blade.lobes * (along + 0.35 * np.abs(across))))
        width = width * (1 - blade.lobe_depth * (1 - np.sqrt(wave)))
    return width - np.abs(across)


def _cut_out(colour: np.ndarray, inside: np.ndarray, *, shadow: float, scale: float = LENGTH) -> np.ndarray:
    """Cut out a colour [H,W,3] in 0..255 along `inside`, with a soft dark rim that shades what is below.

    Returns premultiplied colour and alpha, [H,W,4] in 0..255.
    """
    edge = np.clip(inside * (scale * 0.8) + 0.5, 0, 1)
    halo = (1 - edge) * shadow * np.clip(1 + inside * (scale / _PAD), 0, 1) ** 2
    pixels = np.empty((*inside.shape, 4), np.float32)
    # The rim is dark but not black: light passes through leaves and petals.
    np.multiply(colour, (edge + 0.22 * halo)[..., None], out=pixels[..., :3])
    pixels[..., 3] = (edge + halo) * 255
    return pixels


def _lit(pixels: np.ndarray) -> list[Sprite]:
    """Return the part in shade, half-light and light, attached at the bottom middle."""
    base = (pixels.shape[1] / 2, pixels.shape[0] - _PAD)
    return [Sprite.of(pixels * np.array([light, light, light, 1], np.float32), base) for light in _LIGHTS]


def _marked(mark: Mark, along: np.ndarray, relative: np.ndarray, phase: float) -> np.ndarray:
    """Return how much of the mark's colour shows, 0..1; `relative` is -1..1 across the blade; [H,W]."""
    if mark == "veined":
        lines = np.clip(1 - np.abs(np.sin(np.pi * 2.5 * relative)) * 2.2, 0, 1)
        return 0.7 * lines * np.clip(1.3 - along, 0, 1)
    if mark == "eyed":
        return 0.9 * np.clip((0.42 - along) * 9, 0, 1)
    if mark == "edged":
        return 0.9 * np.clip((along - 0.80) * 14, 0, 1)
    if mark == "spotted":
        cell = np.cos(2 * np.pi * (3.4 * along + phase)) * np.cos(np.pi * (2.0 * relative + phase * 0.3))
        return 0.85 * np.clip((cell - 0.35) * 4, 0, 1) * (along > 0.12)
    return np.zeros_like(along)


def petal(blade: Blade, colour: Colour, *, mark: Mark, mark_colour: Colour, rng: np.random.Generator) -> list[Sprite]:
    """Paint one petal, `LENGTH` px long, in shade, half-light and light."""
    half_width = int(blade.width * (1 + 0.8 * max(blade.flare, 0)) * LENGTH) + _PAD
    along, across = _grid(half_width)
    relative = across / np.maximum(_width_at(blade, along), 0.02)
    bend = rng.uniform(-0.5, 0.5)
    shade = 0.92 + 0.17 * along - 0.16 * (relative - bend) ** 2 - 0.12 * np.exp(-((relative / 0.14) ** 2))
    shade += 0.035 * np.sin(relative * 11 + along * 4)
    if blade.flare >= 0:
        shade += 0.14 * np.cos(relative * 1.9 + 0.6) - 0.12 * (1 - along)
    cover = _marked(mark, along, relative, rng.uniform(0, 0.25))[..., None]
    base = np.asarray(colour, np.float32)
    throat = np.clip(0.36 - along, 0, 1)[..., None] * 1.3
    body = base + (np.array([60, 78, 34], np.float32) - 0.45 * base) * throat
    # Tips catch the sky: paler and a little less saturated than the body.
    body = body + (255 - body) * (0.16 * np.clip(along - 0.45, 0, 1))[..., None]
    mixed = body + (np.asarray(mark_colour, np.float32) - body) * cover
    colours = mixed * np.clip(shade, 0.5, 1.2)[..., None]
    return _lit(_cut_out(colours, _outline(blade, half_width), shadow=0.30))


def leaf(blade: Blade, colour: Colour, *, rng: np.random.Generator) -> list[Sprite]:
    """Paint one leaf with midrib and side veins, `LENGTH` px long, in shade, half-light and light."""
    half_width = int(blade.width * LENGTH) + _PAD
    along, across = _grid(half_width)
    relative = across / np.maximum(blade.width, 0.02)
    rib = np.exp(-((across / 0.014) ** 2))
    slant = along - 0.55 * np.abs(across) / max(blade.width, 0.15)
    side = np.clip(1 - np.abs(np.sin(np.pi * 7 * slant)) * 3, 0, 1)
    shade = 0.80 + 0.24 * along + 0.15 * np.sign(rng.uniform(-1, 1)) * np.tanh(relative * 4)
    shade = shade + 0.26 * rib + 0.10 * side * (blade.width > 0.15)
    warm = np.asarray(colour, np.float32) + np.array([26, 20, -8], np.float32) * np.clip(along - 0.3, 0, 1)[..., None]
    return _lit(_cut_out(warm * shade[..., None], _outline(blade, half_width), shadow=0.36))


def stem(colour: Colour) -> Sprite:
    """Paint a straight piece of stalk, `LENGTH` px long and 16 px wide, rounded by its shading."""
    across = np.linspace(-1, 1, 16, dtype=np.float32)
    shade = np.clip(1.05 - 0.5 * (across + 0.25) ** 2, 0.4, 1.1)
    edge = np.clip((1 - np.abs(across)) * 6, 0, 1)
    row = np.concatenate([np.asarray(colour) * (shade * edge)[:, None], 255 * edge[:, None]], axis=1)
    return Sprite.of(np.broadcast_to(row, (LENGTH, 16, 4)), (8, LENGTH))


@lru_cache(maxsize=1)
def _disc() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, x = np.mgrid[-1.15:1.15:72j, -1.15:1.15:72j].astype(np.float32)
    return np.hypot(x, y), np.arctan2(y, x), x + y


def centre(colour: Colour, *, stamens: int, rng: np.random.Generator) -> Sprite:
    """Paint a flower's centre, 72 px wide: a grainy dome, or with `stamens` a ring of anthers around a small one."""
    distance, angle, slope = _disc()
    grain = Image.fromarray(rng.normal(0, 1, (22, 22)).astype(np.float32)).resize((72, 72), Image.Resampling.BICUBIC)
    shade = 0.95 + 0.30 * (1 - distance) - 0.12 * slope + 0.15 * np.asarray(grain)
    inside = 1 - distance
    if stamens:
        ring = np.cos(angle * stamens + 0.9 * np.sin(angle * 3))
        anthers = np.minimum(0.30 + 0.2 * (ring - 0.5), 0.16 - np.abs(distance - 0.80))
        stalks = np.minimum((ring - 0.86) * 0.4, 0.8 - distance)
        inside = np.maximum(np.maximum(anthers, stalks), 0.36 - distance)
        shade = shade * np.where(distance < 0.36, 0.74, 1.0)
    colours = np.asarray(colour, np.float32) * np.clip(shade, 0.4, 1.3)[..., None]
    return Sprite.of(_cut_out(colours, inside, shadow=0.35, scale=31), (36, 36))
