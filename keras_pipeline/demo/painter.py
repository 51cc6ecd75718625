"""Paints one photo: ground, plants behind, the plant itself, leaves in front, and the camera's faults."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from keras_pipeline.demo import scenery, sprites
from keras_pipeline.demo.flora import FAVOURED, GENUS_COLOURS, PETAL_COLOURS, Colour, Region, Species
from keras_pipeline.demo.sprites import LENGTH, Sprite

Point = tuple[float, float]


@dataclass(frozen=True)
class _Plant:
    """One individual: what its photos share, and its parts (lists: in shade, half-light, light)."""

    species: Species
    petals: list[Sprite]
    lips: list[Sprite]
    leaves: list[Sprite]
    stem: Sprite
    centre: Sprite
    floret: Sprite | None
    light: float  # direction the light comes from, radians, clockwise from the top


def paint(species: Species, region: Region, *, plant: int, view: int) -> Image.Image:
    """Paint one photo as RGB, short side 320 px. The seed `plant` gives an individual, `view` one of its photos."""
    shared, rng = np.random.default_rng(plant), np.random.default_rng(view)
    individual = _grow(species, region, shared)
    size = _frame(rng)
    # The background is painted at half size, for a quarter of the work: enlarging it is part of its blur.
    behind = scenery.background(region, (size[0] // 2, size[1] // 2), rng)
    for _ in range(rng.integers(0, 2)):
        _place(behind, individual, rng, scale=rng.uniform(0.35, 0.6), spread=0.9)
    behind = behind.filter(ImageFilter.GaussianBlur(rng.uniform(1.2, 3.0)))
    canvas = behind.resize(size, Image.Resampling.BICUBIC)
    _place(canvas, individual, rng, scale=rng.uniform(0.85, 1.15), spread=0.10, shadow=region.shadow)
    if rng.random() < 0.2:
        _overhang(canvas, individual, rng)
    return scenery.develop(canvas, region, rng)


def _frame(rng: np.random.Generator) -> tuple[int, int]:
    long = int(rng.choice([320, 400, 426], p=[0.15, 0.35, 0.5]))
    return (long, 320) if rng.random() < 0.5 else (320, long)


def _vary(colour: Colour, rng: np.random.Generator, by: float) -> Colour:
    factor = 1 + rng.normal(0, by) + rng.normal(0, by * 0.6, 3)
    red, green, blue = (int(v) for v in np.clip(np.asarray(colour) * factor, 8, 252))
    return red, green, blue


def _grow(species: Species, region: Region, rng: np.random.Generator) -> _Plant:
    palette = GENUS_COLOURS[species.genus] if rng.random() < FAVOURED else PETAL_COLOURS
    colour = _vary(palette[rng.integers(len(palette))], rng, 0.05)
    green = _vary(region.leaf, rng, 0.10)
    mark_colour = (96, 36, 78) if sum(colour) > 400 else (250, 240, 215)
    petal_mark = "plain" if species.lip else species.mark
    plant = _Plant(
        species=species,
        petals=sprites.petal(species.petal, colour, mark=petal_mark, mark_colour=mark_colour, rng=rng),
        lips=[],
        leaves=sprites.leaf(species.leaf, green, rng=rng),
        stem=sprites.stem(_vary(green, rng, 0.05)),
        centre=sprites.centre(_vary(species.disc_colour, rng, 0.08), stamens=species.stamens, rng=rng),
        floret=None,
        light=rng.uniform(-0.9, 0.9),
    )
    if species.lip:
        lips = sprites.petal(species.lip, colour, mark=species.mark, mark_colour=mark_colour, rng=rng)
        return replace(plant, lips=lips)
    return plant if species.habit != "spike" else replace(plant, floret=_floret(plant, rng))


def _floret(plant: _Plant, rng: np.random.Generator) -> Sprite:
    """Paint one small flower once, because a spike has dozens."""
    canvas = Image.new("RGBA", (72, 72))
    _rosette(canvas, plant, (36, 36), 30, _turn(rng.uniform(0, 6.3)), rng)
    pixels = np.asarray(canvas, np.float32)
    premultiplied = np.concatenate([pixels[..., :3] * pixels[..., 3:] / 255, pixels[..., 3:]], axis=-1)
    return Sprite.of(premultiplied, (36, 36))


def _turn(angle: float, squash: float = 1.0) -> np.ndarray:
    """Return a matrix [2,2] that turns clockwise by `angle` radians, then squashes vertically."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s * squash, c * squash]])


def _stamp(canvas: Image.Image, sprite: Sprite, at: Point, matrix: np.ndarray) -> None:
    """Put `sprite` on the canvas with its base at `at`, transformed by `matrix` [2,2] in one resampling."""
    (a, b), (c, d) = matrix.tolist()
    level = min(int(abs(a * d - b * c) < 0.25) + int(abs(a * d - b * c) < 0.06), 2)
    image, zoom = sprite.levels[level], 2.0**level
    a, b, c, d, bx, by = a * zoom, b * zoom, c * zoom, d * zoom, sprite.base[0] / zoom, sprite.base[1] / zoom
    corners = [(x - bx, y - by) for x in (0, image.width) for y in (0, image.height)]
    xs, ys = [a * x + b * y + at[0] for x, y in corners], [c * x + d * y + at[1] for x, y in corners]
    left, top = max(int(min(xs)), 0), max(int(min(ys)), 0)
    right, bottom = min(int(max(xs)) + 1, canvas.width), min(int(max(ys)) + 1, canvas.height)
    if right <= left or bottom <= top:
        return
    det, x, y = a * d - b * c, left - at[0], top - at[1]
    inverse = (d / det, -b / det, (d * x - b * y) / det + bx, -c / det, a / det, (a * y - c * x) / det + by)
    patch = image.transform((right - left, bottom - top), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
    patch = patch.convert("RGBA")
    if canvas.mode == "RGBA":
        canvas.alpha_composite(patch, (left, top))
    else:
        canvas.paste(patch, (left, top), patch)


def _lit(parts: list[Sprite], plant: _Plant, angle: float) -> Sprite:
    """Return the part with the brightness for pointing along `angle`."""
    return parts[min(max(round(1 + np.cos(angle - plant.light) * 1.2), 0), 2)]


def _rosette(
    canvas: Image.Image, plant: _Plant, at: Point, radius: float, pose: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint a flower seen from above: petals around a centre."""
    species, n = plant.species, plant.species.petals
    for i in rng.permutation(n):
        angle = 2 * np.pi * i / n + rng.normal(0, 0.25 / n)
        matrix = pose @ _turn(angle) * radius / LENGTH * rng.uniform(0.93, 1.05)
        _stamp(canvas, _lit(plant.petals, plant, angle), at, matrix)
    _stamp(canvas, plant.centre, at, pose * species.disc * radius / 31 * (1.9 if species.stamens else 1.0))


def _orchid(
    canvas: Image.Image, plant: _Plant, at: Point, radius: float, pose: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint a flower with one mirror axis: four petals above, a broad lip below."""
    pose = pose * radius / LENGTH
    for angle in (-2.0, 2.0, -0.62, 0.62):
        _stamp(canvas, _lit(plant.petals, plant, angle), at, pose @ _turn(angle + rng.normal(0, 0.06)) * 0.95)
    _stamp(canvas, plant.lips[1 + (plant.light > 0)], at, pose @ _turn(np.pi + rng.normal(0, 0.05)) * 1.05)
    _stamp(canvas, plant.centre, at, pose * plant.species.disc * LENGTH / 31)


def _stalk(canvas: Image.Image, plant: _Plant, points: np.ndarray, width: float) -> None:
    """Paint a stem through `points` [N,2], `width` pixels thick."""
    for start, end in zip(points[:-1], points[1:], strict=True):
        x, y = end - start
        stretch = np.diag([width / 16, np.hypot(x, y) * 1.12 / LENGTH])
        _stamp(canvas, plant.stem, tuple(start), _turn(np.arctan2(x, -y)) @ stretch)


def _arch(start: Point, end: Point, bend: float, n: int = 7) -> np.ndarray:
    """Return points [n,2] of a curve whose middle is half of `bend` times its length off the straight line."""
    t = np.linspace(0, 1, n)[:, None]
    a, b = np.asarray(start, float), np.asarray(end, float)
    return a + (b - a) * t + np.array([b[1] - a[1], a[0] - b[0]]) * bend * t * (1 - t) * 2


def _leaves(
    canvas: Image.Image, plant: _Plant, at: Point, size: float, angles: np.ndarray, rng: np.random.Generator
) -> None:
    for angle in angles:
        matrix = _turn(angle, rng.uniform(0.6, 1.0)) * size / LENGTH * rng.uniform(0.8, 1.15)
        _stamp(canvas, _lit(plant.leaves, plant, angle), at, matrix)


def _place(
    canvas: Image.Image, plant: _Plant, rng: np.random.Generator, *, scale: float, spread: float, shadow: float = 0.0
) -> None:
    """Paint a plant of the given size somewhere around the middle, with its stem, leaves and shadow."""
    short = min(canvas.size)
    x = canvas.width / 2 + rng.normal(0, spread) * short / 2
    y = canvas.height * 0.47 + rng.normal(0, spread) * short / 2
    radius = short * _SIZE[plant.species.habit] * scale
    if shadow:
        scenery.cast_shadow(canvas, (x, y), radius * 1.5, shadow, plant.light)
    _HABITS[plant.species.habit](canvas, plant, (x, y), radius, rng)


def _place_face(canvas: Image.Image, plant: _Plant, at: Point, radius: float, rng: np.random.Generator) -> None:
    """Paint flowers that face the camera: one to three on their own stems over a ring of leaves."""
    foot = (at[0] + rng.normal(0, 0.25) * radius, at[1] + radius * rng.uniform(1.3, 2.2))
    n = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    heads = [at] + [(at[0] + s * radius * rng.uniform(1.2, 1.6), at[1] + rng.normal(0, 0.5) * radius) for s in (-1, 1)]
    _leaves(canvas, plant, foot, radius * 1.7, rng.uniform(-1.9, 1.9, 6), rng)
    draw = _orchid if plant.species.habit == "lip" else _rosette
    for i in reversed(range(n)):
        size = radius * (1 if i == 0 else rng.uniform(0.55, 0.8))
        _stalk(canvas, plant, _arch(foot, heads[i], rng.normal(0, 0.2)), max(3.0, radius * 0.09))
        _leaves(canvas, plant, heads[i], radius * 1.25, rng.uniform(0.9, 5.4, 2), rng)
        turn = rng.normal(0, 0.25) if plant.species.habit == "lip" else rng.uniform(0, 6.3)
        pose = _turn(rng.normal(0, 0.4), rng.uniform(0.68, 1.0)) @ _turn(turn)
        draw(canvas, plant, heads[i], size, pose, rng)


def _place_bells(canvas: Image.Image, plant: _Plant, at: Point, radius: float, rng: np.random.Generator) -> None:
    """Paint bells hanging from an arching stem."""
    side = rng.choice([-1, 1])
    foot = (at[0] - side * radius * 0.9, at[1] + radius * 2.2)
    stem = _arch(foot, (at[0] + side * radius * 1.1, at[1] - radius * 0.9), side * rng.uniform(0.3, 0.5), 13)
    _leaves(canvas, plant, foot, radius * 1.9, rng.uniform(-1.3, 1.3, 4), rng)
    _leaves(canvas, plant, tuple(stem[3]), radius * 1.2, np.array([-1.0, 1.1]), rng)
    _stalk(canvas, plant, stem, max(2.5, radius * 0.07))
    for i in np.linspace(5, 12, int(rng.integers(3, 6))).astype(int):
        hang = np.pi + rng.normal(0, 0.22) - side * 0.25
        matrix = _turn(hang) * radius / LENGTH * rng.uniform(0.95, 1.15)
        _stamp(canvas, plant.petals[rng.integers(3)], tuple(stem[i]), matrix)
        _leaves(canvas, plant, tuple(stem[i]), radius * 0.28, np.array([hang - 0.5, hang + 0.5]), rng)


def _place_spike(canvas: Image.Image, plant: _Plant, at: Point, radius: float, rng: np.random.Generator) -> None:
    """Paint many florets: a dense column, separate rings, or a dome."""
    species, size, floret = plant.species, radius * 0.34, plant.floret
    if floret is None:
        raise ValueError(f"{species}: received a spike without a floret, expected one; give the plant a floret")
    foot = (at[0] + rng.normal(0, 0.4) * radius, at[1] + radius * 2.4)
    top = (at[0], at[1] - radius * 1.1)
    stem = _arch(foot, at if species.dome else top, rng.normal(0, 0.15), 9)
    _leaves(canvas, plant, foot, radius * 1.7, rng.uniform(-1.4, 1.4, 5), rng)
    _stalk(canvas, plant, stem, max(2.5, radius * 0.08))
    for x, y, scale in _florets(species, at, radius, stem, rng):
        if species.dome:
            _stalk(canvas, plant, np.array([stem[-2], (x, y)]), max(1.5, radius * 0.03))
        matrix = _turn(0, rng.uniform(0.7, 1)) @ _turn(rng.uniform(0, 6.3)) * size * scale / 30
        _stamp(canvas, floret, (x, y), matrix)


def _florets(
    species: Species, at: Point, radius: float, stem: np.ndarray, rng: np.random.Generator
) -> list[tuple[float, float, float]]:
    """Return position (x, y) and size of the florets, back to front."""
    if species.dome:
        angle, reach = rng.uniform(0, 2 * np.pi, 26), np.sqrt(rng.uniform(0, 1, 26))
        x = at[0] + np.cos(angle) * reach * radius * 1.15
        y = at[1] - radius * 0.6 + np.sin(angle) * reach * radius * 0.5
        return sorted(zip(x, y, rng.uniform(0.8, 1.05, 26), strict=True), key=lambda f: f[1])
    n = 30
    along = np.linspace(0.42, 1.0, n)
    if species.whorls:
        along = 0.45 + 0.55 * np.floor(np.linspace(0, species.whorls - 1e-6, n)) / max(species.whorls - 1, 1)
    taper = 1.15 - 0.6 * along
    at_stem = np.stack([np.interp(along * (len(stem) - 1), range(len(stem)), stem[:, k]) for k in (0, 1)], 1)
    side = rng.uniform(-1, 1, n) * radius * 0.62 * taper
    lift = rng.normal(0, 0.04, n) * radius
    return [(x + s, y + d, t * 1.3) for (x, y), s, d, t in zip(at_stem, side, lift, taper, strict=True)]


def _overhang(canvas: Image.Image, plant: _Plant, rng: np.random.Generator) -> None:
    """Paint a leaf out of focus that reaches in from below and hides a part of the plant."""
    image = plant.leaves[0].levels[1].filter(ImageFilter.GaussianBlur(1.5))
    blurred = Sprite((image,) * 3, (image.width / 2, image.height))
    at = (canvas.width * rng.uniform(0.1, 0.9), canvas.height * 1.08)
    _stamp(canvas, blurred, at, _turn(rng.normal(0, 0.5)) * min(canvas.size) * rng.uniform(0.35, 0.6) / image.height)


_HABITS = {
    "open": _place_face,
    "daisy": _place_face,
    "lip": _place_face,
    "bell": _place_bells,
    "spike": _place_spike,
}
# The radius of a flower, or half the height of a group, as a fraction of the photo's short side.
_SIZE = {"open": 0.38, "daisy": 0.38, "lip": 0.42, "bell": 0.36, "spike": 0.35}
