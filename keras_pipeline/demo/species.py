"""The demo's second source: one document a species, its photos nested in two lists, as plant apps keep them."""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from bson import ObjectId
from PIL import Image

from keras_pipeline.demo import flora
from keras_pipeline.demo.herbarium import in_parallel
from keras_pipeline.demo.painter import paint

DRAWING = 1  # raise when photos or documents change for the same arguments
MOST_SPECIES = 400
MISSING_EVERY = 97  # photos whose number this divides are not there: 404
SIZES = {"original": (320, 95), "medium": (240, 85)}  # short side in pixels, JPEG quality
_ONE_PHOTO, _TWO_PHOTOS = 0.25, 0.15  # shares of species
_FEWEST, _MOST = 3, 60  # photos of all other species
_TWO_NAMES = 0.0173  # share of photos that a second species' document lists too
_OLDER_LIST_ONLY = 0.07  # share of photos without an entry in `images`
_UNKNOWN = 0.26  # share of species without countries
_SERIES = 3  # photos that one author took of one plant, at most

_GENERA = (
    "Alborea", "Brumaria", "Calvetia", "Dorvella", "Elmira", "Fontaria", "Gravinia", "Hestrea", "Istria", "Jolantha",
    "Kelmora", "Lurida", "Morvania", "Nelvia", "Orsinia", "Pellura", "Quilta", "Rovenna", "Silvara", "Tormina",
)  # fmt: skip
_EPITHETS = (
    "alta", "brevis", "crispa", "densa", "elegans", "fragilis", "grandis", "hirta", "incana", "laxa", "minor", "nitida",
    "obtusa", "palustris", "radicans", "serrata", "tenuis", "umbrosa", "vernalis", "xerica",
)  # fmt: skip
_NOUNS = (
    "cupwort", "mistbell", "baldstar", "dorvel", "elmcress", "springdaisy", "heavyhead", "hestwort", "istrian bell",
    "jolant", "keltongue", "dimflower", "moorspike", "nelwort", "orsin", "furstar", "quiltweed", "roverose", "woodlip",
    "stormspike",
)  # fmt: skip
_ADJECTIVES = (
    "Tall", "Short", "Curled", "Crowded", "Fine", "Brittle", "Great", "Hairy", "Grey-haired", "Loose", "Lesser",
    "Shining", "Blunt", "Marsh", "Rooting", "Saw-leaved", "Slender", "Shade", "Spring", "Dry-ground",
)  # fmt: skip
_FAMILIES = ("Alboreaceae", "Dorvellaceae", "Silvaraceae")
_COUNTRIES = {  # by the region of flora.REGIONS whose scenery they have
    "EU_SW": ("ES", "PT", "FR", "IT", "AD"),
    "EU": ("DE", "GB", "NL", "BE", "DK", "SE", "PL"),
    "NA": ("US", "CA", "MX"),
    "MED_E": ("GR", "TR", "CY", "IL"),
}
_CONTINENTS = {"EU_SW": "Europe", "EU": "Europe", "NA": "North America", "MED_E": "Asia"}
_LICENSES = {
    "CC-BY-NC": 44, "CC-BY": 28, "CC-BY-SA": 13, "CC0": 5, "cc-by-nc-sa": 2, "CC BY-SA 4.0": 2, "CC-BY-NC-ND": 2,
    "Public Domain": 1, "No known copyright": 1, "All rights reserved": 1, "": 1,
}  # fmt: skip
_MARKS: tuple[flora.Mark, ...] = ("plain", "veined", "spotted", "eyed", "edged")
_PETALS, _DISCS = (1.0, 0.6, 1.4, 1.8), (1.0, 1.5, 0.7, 1.2)  # times the genus's own
_SCENES = {region.name: region for region in flora.REGIONS}


@dataclass(frozen=True)
class _Kind:
    """One invented species."""

    latin_name: str
    common_name: str | None
    family: str
    look: flora.Species
    countries: tuple[str, ...]  # in any order; empty where unknown
    scenes: tuple[flora.Region, ...]

    @property
    def genus(self) -> str:
        """First word of the Latin name."""
        return self.latin_name.split()[0]


@dataclass(frozen=True)
class _Picture:
    """The plan of one photo: what is drawn, and what its entry says."""

    number: int
    look: flora.Species
    scene: flora.Region
    plant: int
    view: int
    author: str
    license: str
    is_structured: bool  # has an entry in `images`; all are in `img`

    def file(self, size: str) -> str:
        """Path below the folder, and relative URL."""
        return f"photos/{self.number}/{size}.jpg"


def draw(folder: Path, *, seed: int, species: int, photos: int) -> list[dict]:
    """Draw those of `photos` photos that are missing under `folder`, and return a MongoDB document for each species.

    Two documents are added: one without a name, and a second one for the species with most photos. A quarter of the
    species has one photo, 15 % have two, the others 3 to 60. URLs are relative to `folder`, `photos/N/original.jpg`;
    `medium.jpg` lies beside each, and neither for one N in 97. The same arguments give the same bytes and `_id`s.

    Drawing uses worker processes, so a script must call this under `if __name__ == "__main__"`. Raises `ValueError` for
    numbers out of range.
    """
    documents, pictures = _plan(seed, species, photos)
    todo = [each for each in pictures if each.number % MISSING_EVERY and not _is_stored(folder, each)]
    in_parallel(partial(_store, folder), todo)
    return documents


def planned(*, seed: int, species: int, photos: int) -> list[dict]:
    """Return the documents of `draw` without drawing a photo. Raises as `draw`."""
    return _plan(seed, species, photos)[0]


def _plan(seed: int, species: int, photos: int) -> tuple[list[dict], list[_Picture]]:
    """Return all documents and pictures, without drawing any."""
    if not 5 <= species <= MOST_SPECIES:
        raise ValueError(
            f"source.demo.species: received {species} with shape: species, expected 5 to {MOST_SPECIES}; change it"
        )
    ones, twos = round(_ONE_PHOTO * species), round(_TWO_PHOTOS * species)
    few = ones + 2 * twos + 1  # one is left to the document without a name
    least, most = (few + each * (species - ones - twos) for each in (_FEWEST, _MOST))
    if not least <= photos <= most:
        raise ValueError(
            f"source.demo.photos: received {photos} for {species} species with shape: species, expected {least} to "
            f"{most}, because {ones} have one photo, {twos} have two and the others {_FEWEST} to {_MOST}; change it"
        )
    kinds = _kinds(seed, species)
    listed, nameless = _pictures(seed, kinds, photos)
    pictures = {each.number: each for part in (*listed, [nameless]) for each in part}
    return _documents(seed, kinds, listed, nameless), list(pictures.values())


def _number(*parts: object) -> int:
    """Return a 63-bit number that depends only on `parts`."""
    return int.from_bytes(_digest(*parts)[:8], "big") >> 1


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(("species", DRAWING, *parts)).encode()).digest()


def _kinds(seed: int, species: int) -> list[_Kind]:
    """Return the species, in genera of equal size."""
    rng = np.random.default_rng([seed, DRAWING, 0])
    per_genus = math.ceil(math.sqrt(species))
    shares = np.array([region.share for region in flora.REGIONS])
    unknown = set(rng.choice(species, round(_UNKNOWN * species), replace=False).tolist())
    kinds = []
    for k in range(species):
        genus, epithet = divmod(k, per_genus)
        homes = [flora.REGIONS[i] for i in rng.choice(4, rng.integers(1, 4), replace=False, p=shares / shares.sum())]
        named = [country for home in homes for country in _COUNTRIES[home.name]]
        countries = rng.permutation(named)[: rng.integers(1, 8)].tolist()
        common = f"{_ADJECTIVES[epithet]} {_NOUNS[genus]}"
        kinds.append(
            _Kind(
                latin_name=f"{_GENERA[genus]} {_EPITHETS[epithet]}",
                common_name=None if rng.random() < 0.1 else common,  # some are known to botanists alone
                family=_FAMILIES[genus % len(_FAMILIES)],
                look=_look(genus, epithet),
                countries=() if k in unknown else tuple(countries),
                scenes=tuple(homes),
            )
        )
    return kinds


def _look(genus: int, epithet: int) -> flora.Species:
    """Return the appearance of a species: its genus has the habit and the colours, the species all else."""
    base = flora.SPECIES[7 * genus % len(flora.SPECIES)]  # neighbours in that list look alike
    row, leaves = epithet // len(_MARKS), [each.leaf for each in flora.SPECIES]
    return replace(
        base,
        mark=_MARKS[epithet % len(_MARKS)],
        petals=max(3, round(base.petals * _PETALS[row])) if base.petals > 1 else 1,
        disc=base.disc * _DISCS[row],
        leaf=base.leaf if row == 0 else leaves[(5 * row + genus) % len(leaves)],
    )


def _counts(total: int, species: int, rng: np.random.Generator) -> np.ndarray:
    """Return the number of photos per species, in random order, of sum `total`; int [species]."""
    ones, twos = round(_ONE_PHOTO * species), round(_TWO_PHOTOS * species)
    rest = total - ones - 2 * twos
    sizes = rng.lognormal(sigma=0.75, size=species - ones - twos)
    low, high = 0.0, _MOST / sizes.min()
    for _ in range(60):  # the factor at which they have that sum
        factor = (low + high) / 2
        low, high = (factor, high) if np.clip(sizes * factor, _FEWEST, _MOST).sum() < rest else (low, factor)
    exact = np.clip(sizes * high, _FEWEST, _MOST)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact)[: rest - counts.sum()]] += 1  # those that lost most
    return rng.permutation(np.concatenate([np.full(ones, 1), np.full(twos, 2), counts]))


def _pictures(seed: int, kinds: list[_Kind], photos: int) -> tuple[list[list[_Picture]], _Picture]:
    """Return each species' photos, some of them in the lists of two species, and the one of the nameless document."""
    rng = np.random.default_rng([seed, DRAWING, 1])
    counts = _counts(photos - 1, len(kinds), rng)
    bare = set(rng.choice(photos, round(_OLDER_LIST_ONLY * photos), replace=False).tolist())
    licenses = rng.choice(list(_LICENSES), photos, p=np.array(list(_LICENSES.values())) / 100).tolist()
    listed: list[list[_Picture]] = []
    number = 0
    for kind, count in zip(kinds, counts.tolist(), strict=True):
        own: list[_Picture] = []
        while len(own) < count:
            author, scene = f"user-{rng.integers(1, 2 + photos // 8):03d}", kind.scenes[rng.integers(len(kind.scenes))]
            plant, last = _number(seed, number + 1, "plant"), min(count, len(own) + int(rng.integers(1, _SERIES + 1)))
            while len(own) < last:
                number += 1
                view, is_structured = _number(seed, number), number not in bare
                picture = _Picture(number, kind.look, scene, plant, view, author, licenses[number - 1], is_structured)
                own.append(picture)
        listed.append(own)
    nameless = replace(listed[0][0], number=photos, view=_number(seed, photos), is_structured=True)
    _share(listed, round(_TWO_NAMES * photos), rng)
    return listed, nameless


def _share(listed: list[list[_Picture]], n: int, rng: np.random.Generator) -> None:
    """Enter `n` photos under a second species: all of one species, as of a synonym, and single ones elsewhere."""
    common = sorted((k for k, own in enumerate(listed) if len(own) >= _FEWEST), key=lambda k: len(listed[k]))
    synonym, accepted = common[:2]
    shared = listed[synonym][:n]
    others = [(k, picture) for k, own in enumerate(listed) if k != synonym for picture in own]
    picks = rng.choice(len(others), n - len(shared), replace=False)
    listed[accepted].extend(shared)
    for k, picture in (others[i] for i in picks):
        listed[rng.choice([each for each in common[1:] if each != k])].append(picture)


def _is_stored(folder: Path, picture: _Picture) -> bool:
    return all((folder / picture.file(size)).exists() for size in SIZES)


def _store(folder: Path, picture: _Picture) -> None:
    """Draw one photo and move its sizes into place one by one, so that a kill leaves no partial file."""
    painted = paint(picture.look, picture.scene, plant=picture.plant, view=picture.view)
    for size, (side, quality) in SIZES.items():
        path = folder / picture.file(size)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        scale = side / min(painted.size)
        shown = painted.resize((round(painted.width * scale), round(painted.height * scale)), Image.Resampling.BICUBIC)
        shown.save(aside, format="JPEG", quality=quality)
        aside.replace(path)


def _documents(seed: int, kinds: list[_Kind], listed: list[list[_Picture]], nameless: _Picture) -> list[dict]:
    """Return a document for each species, the second one of the largest species, and the nameless one."""
    largest = max(range(len(listed)), key=lambda k: len(listed[k]))
    again = max(1, len(listed[largest]) // 5)
    documents = []
    for k, (kind, pictures) in enumerate(zip(kinds, listed, strict=True)):
        parts = [pictures] if k != largest else [pictures[:-again], pictures[-2 * again :]]
        documents += [_document(seed, kind, part, f"{k}/{i}") for i, part in enumerate(parts)]
    stray = {"_id": ObjectId(_digest(seed, "nameless")[:12]), "images": [_entry(nameless)]}
    return [*documents, stray]


def _document(seed: int, kind: _Kind, pictures: list[_Picture], key: str) -> dict:
    document = {
        "_id": ObjectId(_digest(seed, key)[:12]),
        "latinName": kind.latin_name,
        "commonName": kind.common_name,
        "images": [_entry(picture) for picture in pictures if picture.is_structured],
        "img": [picture.file("original") for picture in pictures],
        "taxonomy": {"family": kind.family, "genus": kind.genus},
    }
    absent = ["commonName"] if kind.common_name is None else []
    if kind.countries or _number(seed, key) % 2:  # unknown: half of them say so by an empty list
        continents = sorted({_CONTINENTS[home] for home, named in _COUNTRIES.items() if {*named} & {*kind.countries}})
        document["distribution"] = {"countries": list(kind.countries), "continents": continents}
    return {name: value for name, value in document.items() if name not in absent}


def _entry(picture: _Picture) -> dict:
    return {
        "url": picture.file("original"),
        "source": "inaturalist",
        "size": "original",
        "license": picture.license,
        "attribution": f"(c) {picture.author}, {picture.license or 'no licence said'}",
    }
