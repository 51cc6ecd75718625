"""The demo's source: drawn photos and their documents, with the faults of real collections."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from bson import ObjectId
from PIL import Image

from keras_pipeline.core.progress import progress
from keras_pipeline.demo.flora import REGIONS, SPECIES, Region, Species
from keras_pipeline.demo.painter import paint

Kind = Literal[
    "plain", "exif", "cmyk", "png", "copy", "missing", "html", "truncated", "small", "unlabelled", "unlinked"
]
Planned = TypeVar("Planned")  # the plan of a photo
DRAWING = 1  # raise when photos or documents change for the same arguments
LEAST = 8  # photos of the rarest species, in 4 observations or more: enough for four splits by observation
_TAIL = 0.7  # photos of the k-th commonest species ~ k^-0.7
_PHOTOS_A_SPECIES = 10  # fewer would leave no room for a tail above LEAST, nor for the faults
# Together 2 %, well under the 5 % that a run may lose.
_UNREADABLE: tuple[Kind, ...] = ("missing", "html", "truncated", "small")
_INCOMPLETE: tuple[Kind, ...] = ("unlabelled", "unlinked")  # together 0.5 %
_WITHOUT_FILE = ("missing", "unlinked")
_SHIFTED_REGION = "EU_SW"
_LICENSES = ("CC0-1.0", "CC-BY-4.0", "CC-BY-NC-4.0")

# The EXIF orientation, and the rotation of the stored pixels that it undoes.
_EXIF_TURNS = (
    (6, Image.Transpose.ROTATE_90),
    (3, Image.Transpose.ROTATE_180),
    (8, Image.Transpose.ROTATE_270),
)


@dataclass(frozen=True)
class _Shot:
    """The plan of one photo: what is drawn, and how it is stored.

    `species` and `region` go into the document; `look` and `scene` are what the picture shows.
    """

    key: str
    species: Species
    region: Region
    look: Species
    scene: Region
    observation: str
    plant: int
    view: int
    user: str
    kind: Kind = "plain"
    album: str = "photos"

    @property
    def file(self) -> str:
        return f"{self.album}/{self.key}.{'png' if self.kind == 'png' else 'jpg'}"


def draw(folder: Path, *, seed: int, species: int, photos: int, regional_shift: bool = False) -> list[dict]:
    """Draw those of `photos` photos that are missing under `folder`, and return as many MongoDB documents.

    The first `species` (2 to 20) of `flora.SPECIES` are drawn, with at least ten photos each. The same arguments give
    the same bytes and `_id`s. About 2 % of photos cannot be read (no such file, an HTML page, truncated, below 100 px).
    Some are stored in unusual ways (EXIF rotation, CMYK, PNG), and some are re-uploads of others. A few documents lack
    a label or a URL. `image_url`s are relative to `folder`.

    With `regional_shift`, plants of EU_SW keep their label but look like their neighbour in `flora.SPECIES` (0 and 1, 2
    and 3, ...; an odd last one like itself). Every plant then stands in the scenery and light of any region, so that
    the picture does not reveal which look applies. Only pictures and `image_url`s differ: they are in `shifted/`
    instead of `photos/`, because files already drawn are kept.

    Drawing uses worker processes, so a script must call this under `if __name__ == "__main__"`. Raises `ValueError` for
    numbers out of range.
    """
    if not 2 <= species <= len(SPECIES):
        raise ValueError(f"received species={species}; expected 2 to {len(SPECIES)}, the number invented; change it")
    if photos < _PHOTOS_A_SPECIES * species:
        raise ValueError(
            f"received photos={photos} for {species} species; expected at least {_PHOTOS_A_SPECIES} a species, "
            f"{_PHOTOS_A_SPECIES * species}; ask for more photos or fewer species"
        )
    shots = _plan(seed, species, photos)
    if regional_shift:
        shots = [_shifted(shot, species) for shot in shots]
    (folder / shots[0].album).mkdir(parents=True, exist_ok=True)
    todo = [shot for shot in shots if shot.kind not in _WITHOUT_FILE and not (folder / shot.file).exists()]
    in_parallel(partial(_store, folder), todo)
    return [_document(shot) for shot in shots]


def planned(*, seed: int, species: int, photos: int) -> list[dict]:
    """Return the documents of `draw`, without `regional_shift`, and draw no photo."""
    return [_document(shot) for shot in _plan(seed, species, photos)]


def in_parallel(store: Callable[[Planned], None], photos: list[Planned]) -> None:
    """Draw and store planned photos, in worker processes if there are many; `store` must be picklable."""
    if len(photos) < 100:  # faster than starting worker processes
        for photo in progress(photos, description="drawing"):
            store(photo)
        return
    # Spawned, not forked: the caller may have TensorFlow's threads running.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for _ in progress(pool.map(store, photos, chunksize=8), total=len(photos), description="drawing"):
            pass


def _number(*parts: object) -> int:
    """Return a 63-bit number that depends only on `parts`."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def _object_id(*parts: object) -> ObjectId:
    return ObjectId(hashlib.sha256(repr(parts).encode()).digest()[:12])


def _plan(seed: int, species: int, photos: int) -> list[_Shot]:
    """Return all shots in order, without drawing any."""
    rng = np.random.default_rng([seed, DRAWING])
    n_copies, n_unreadable, n_incomplete = (max(1, round(share * photos)) for share in (0.015, 0.02, 0.005))
    kinds: list[Kind] = ["copy"] * n_copies
    kinds += [_UNREADABLE[k % 4] for k in range(n_unreadable)] + [_INCOMPLETE[k % 2] for k in range(n_incomplete)]
    counts = _long_tail(photos - len(kinds), species, rng)
    shots = [shot for s, n in zip(SPECIES, counts, strict=False) for shot in _species_shots(seed, s, int(n), rng)]
    shots = _oddly_stored(shots, rng)
    # Faults are added to the good photos, so that no rare species loses a photo to them.
    picks = rng.choice(len(shots), len(kinds), replace=False)
    added = enumerate(zip(picks, kinds, strict=True))
    return shots + [_again(shots[i], kind, _number(seed, DRAWING, k)) for k, (i, kind) in added]


def _long_tail(total: int, species: int, rng: np.random.Generator) -> np.ndarray:
    """Return the number of photos per species: a power law in shuffled order, none below LEAST; int [species]."""
    weights = rng.permutation(np.arange(1, species + 1) ** -_TAIL)
    spare = total - LEAST * species
    counts = np.floor(spare * weights / weights.sum()).astype(int)
    counts[np.argmax(weights)] += spare - counts.sum()
    return counts + LEAST


def _species_shots(seed: int, species: Species, n: int, rng: np.random.Generator) -> Iterator[_Shot]:
    """Yield `n` shots of one species in observations of 1 to 4, with regions close to their shares for any `n`."""
    most = min(4, n // 4)
    sizes: list[int] = []
    while sum(sizes) < n:
        sizes.append(min(int(rng.integers(1, most + 1)), n - sum(sizes)))
    # Some species are commoner in some regions, as in nature; a regional model can gain from that.
    shares = np.array([r.share for r in REGIONS]) * rng.uniform(0.6, 1.4, len(REGIONS))
    places = (np.arange(len(sizes)) + rng.random()) / len(sizes)
    regions = rng.permutation(np.searchsorted(np.cumsum(shares / shares.sum())[:-1], places))
    for k, (size, region) in enumerate(zip(sizes, regions, strict=True)):
        plant = _number(seed, DRAWING, species.latin_name, k)
        for i in range(size):
            yield _Shot(
                key=str(_object_id(seed, DRAWING, species.latin_name, k, i)),
                species=species,
                region=REGIONS[region],
                look=species,
                scene=REGIONS[region],
                observation=f"obs-{plant % 10**12:012d}",
                plant=plant,
                view=_number(plant, i),
                user=f"user-{REGIONS[region].name.lower()}-{plant % 23:02d}",
            )


def _oddly_stored(shots: list[_Shot], rng: np.random.Generator) -> list[_Shot]:
    """Return the same shots, a few of them as EXIF-rotated, CMYK or PNG files, which a careful reader can read."""
    kinds = rng.permutation(len(shots))
    n = len(shots)
    limits: dict[Kind, int] = {"exif": max(1, n // 33), "cmyk": max(1, n // 100), "png": max(1, n // 50)}
    chosen: dict[int, Kind] = {}
    for kind, amount in limits.items():
        chosen |= {int(i): kind for i in kinds[len(chosen) : len(chosen) + amount]}
    return [replace(shot, kind=chosen.get(i, "plain")) for i, shot in enumerate(shots)]


def _again(shot: _Shot, kind: Kind, number: int) -> _Shot:
    """Return the same picture in another observation by another user."""
    observation, user = f"obs-{number % 10**12:012d}", f"user-x-{number % 9}"
    return replace(shot, key=str(_object_id(number)), kind=kind, observation=observation, user=user)


def _shifted(shot: _Shot, species: int) -> _Shot:
    """Return the same shot as drawn with `regional_shift` among the first `species` species."""
    neighbour = SPECIES.index(shot.species) ^ 1
    swapped = shot.region.name == _SHIFTED_REGION and neighbour < species
    # A plant stands in one place: all its photos, and their re-uploads, show the same scenery.
    scene = REGIONS[_number("scene", shot.plant) % len(REGIONS)]
    return replace(shot, look=SPECIES[neighbour] if swapped else shot.species, scene=scene, album="shifted")


def _store(folder: Path, shot: _Shot) -> None:
    """Draw one photo and move it into place in one step, so that a kill leaves no partial file."""
    path = folder / shot.file
    aside = path.with_name(path.name + ".part")
    if shot.kind == "html":
        aside.write_text("<!DOCTYPE html><html><title>429</title><body>Too many requests</body></html>")
    else:
        _save(paint(shot.look, shot.scene, plant=shot.plant, view=shot.view), aside, shot)
    aside.replace(path)


def _save(image: Image.Image, path: Path, shot: _Shot) -> None:
    options: dict = {"format": "JPEG", "quality": 82 + shot.view % 12}
    if shot.kind == "exif":
        orientation, turn = _EXIF_TURNS[shot.view % 3]
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
        image = image.transpose(turn)
    elif shot.kind == "cmyk":
        image = image.convert("CMYK")
    elif shot.kind == "png":
        options = {"format": "PNG", "compress_level": 1}
    elif shot.kind == "small":
        image = image.resize((96, 72))
    elif shot.kind == "copy":
        margin = shot.plant % 5
        image = image.crop((margin, margin, image.width, image.height)).resize([v * 7 // 8 for v in image.size])
        options["quality"] = 62
    image.save(path, **options)
    if shot.kind == "truncated":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3])


def _document(shot: _Shot) -> dict:
    south, north, west, east = shot.region.box
    place = np.random.default_rng(_number(shot.observation))
    day = datetime(2019, 3, 1) + timedelta(days=int(place.integers(0, 5)) * 365 + int(place.integers(0, 150)))
    document = {
        "_id": ObjectId(shot.key),
        "latin_name": shot.species.latin_name,
        "image_url": shot.file,
        "region": shot.region.name,
        "observation_id": shot.observation,
        "user_id": shot.user,
        "observed_on": day,
        "license": _LICENSES[int(place.integers(len(_LICENSES)))],
        "attribution": f"(c) {shot.user}, generated",
        "latitude": round(float(place.uniform(south, north)), 5),
        "longitude": round(float(place.uniform(west, east)), 5),
    }
    absent = {"unlabelled": ["latin_name"], "unlinked": ["image_url"]}.get(shot.kind, [])
    # Some uploads are anonymous, as in every collection.
    absent += ["user_id"] if place.random() < 0.04 else []
    return {name: value for name, value in document.items() if name not in absent}
