"""The demo's flora: invented species in look-alike genera, and regions that look different.

The species of a genus share its favourite flower colours, so that only form distinguishes them: the number and shape
of petals, their marks, the centre, the position of flowers on the stem, and the leaf.
"""

from dataclasses import dataclass
from typing import Literal

Colour = tuple[int, int, int]

WHITE, LEMON, APRICOT, ROSE, CRIMSON, VIOLET, BLUE = PETAL_COLOURS = (
    (246, 242, 234),
    (247, 214, 70),
    (244, 158, 84),
    (240, 138, 170),
    (206, 56, 92),
    (156, 104, 206),
    (98, 126, 222),
)
YELLOW_DISC, DARK_DISC, GREEN_DISC = (236, 190, 60), (72, 44, 34), (150, 176, 70)

# Overlapping on purpose, and not the whole story: see FAVOURED.
GENUS_COLOURS: dict[str, tuple[Colour, ...]] = {
    "Vellania": (ROSE, CRIMSON),
    "Asterilla": (WHITE, LEMON),
    "Campastra": (BLUE, VIOLET),
    "Volucrina": (APRICOT, CRIMSON),
    "Spirella": (WHITE, BLUE),
}
FAVOURED = 0.85  # share of plants in a colour of their genus; the others have any colour


@dataclass(frozen=True)
class Blade:
    """The outline of a petal, bell or leaf: half-width ~ t^rise (1-t)^fall over its length t in 0..1."""

    width: float  # greatest half-width as a fraction of the length
    rise: float  # small: broad at once from the base; large: narrow claw
    fall: float  # small: blunt tip; large: drawn-out point
    notch: float = 0.0  # depth of the cut in the tip's middle, fraction of the length
    lobes: int = 0  # teeth or lobes along each side
    lobe_depth: float = 0.0  # fraction of the local half-width that the cuts take away
    flare: float = -1.0  # >= 0: a bell seen from the side, its mouth widened by this fraction


Mark = Literal["plain", "veined", "spotted", "eyed", "edged"]
Habit = Literal["open", "daisy", "bell", "lip", "spike"]


@dataclass(frozen=True)
class Species:
    """The appearance of one invented species. Lengths are fractions of the flower's radius."""

    latin_name: str
    habit: Habit
    petal: Blade
    petals: int
    leaf: Blade
    mark: Mark = "plain"
    disc: float = 0.2  # radius of the centre
    stamens: int = 0
    disc_colour: Colour = YELLOW_DISC
    lip: Blade | None = None  # habit 'lip': the lowest petal
    whorls: int = 0  # habit 'spike': separate rings of florets; 0 means one dense column
    dome: bool = False  # habit 'spike': florets form a dome instead of a column

    @property
    def genus(self) -> str:
        """First word of the Latin name."""
        return self.latin_name.split()[0]


@dataclass(frozen=True)
class Region:
    """The appearance of photos from one region; `share` is its share of all observations."""

    name: str
    share: float
    scene: Literal["stones", "meadow", "wood", "cliff"]
    ground: tuple[Colour, Colour, Colour]  # dark, middle, light
    leaf: Colour
    light: tuple[float, float, float]  # white balance, per channel
    exposure: tuple[float, float]
    contrast: float
    shadow: float  # strength of the cast shadow, 0..1
    box: tuple[float, float, float, float]  # where observations are: south, north, west, east in degrees


_LANCE = Blade(0.11, 0.7, 0.9)
_OVAL = Blade(0.30, 0.6, 0.7)
_HEART = Blade(0.46, 0.3, 0.9)
_OAK = Blade(0.28, 0.8, 0.6, lobes=4, lobe_depth=0.55)
_FERN = Blade(0.26, 0.5, 0.9, lobes=9, lobe_depth=0.85)
_SAW = Blade(0.22, 0.6, 0.8, lobes=8, lobe_depth=0.3)

_ROUND = Blade(0.42, 0.75, 0.35)
_NOTCHED = Blade(0.40, 0.9, 0.30, notch=0.24)
_POINTED = Blade(0.33, 0.8, 1.0)
_SLIM = Blade(0.24, 0.8, 0.7)
_RAY = Blade(0.115, 0.5, 0.35)
_BROAD_RAY = Blade(0.22, 0.6, 0.4, notch=0.10)
_NEEDLE_RAY = Blade(0.10, 0.5, 0.9)
_BROAD_LIP = Blade(0.56, 0.6, 0.3, notch=0.12)
_NARROW_LIP = Blade(0.20, 0.8, 0.6)
_FLORET = Blade(0.38, 0.7, 0.5)

# Ordered so that any first n hold several genera with look-alikes in them.
SPECIES: tuple[Species, ...] = (
    Species("Vellania rotunda", "open", _ROUND, 5, _OVAL, "plain", 0.16, 18),
    Species("Vellania oculata", "open", _ROUND, 5, _OVAL, "eyed", 0.16, 18),
    Species("Asterilla tenuis", "daisy", _RAY, 21, _SAW, "plain", 0.26),
    Species("Asterilla fusca", "daisy", _RAY, 21, _SAW, "plain", 0.42, disc_colour=DARK_DISC),
    Species("Campastra longiflora", "bell", Blade(0.18, 0, 0, lobes=2, lobe_depth=0.16, flare=0.5), 1, _LANCE),
    Species("Campastra globosa", "bell", Blade(0.50, 0, 0, lobes=2, lobe_depth=0.10, flare=0.0), 1, _LANCE),
    Species("Volucrina maculata", "lip", _SLIM, 4, _LANCE, "spotted", 0.1, lip=_BROAD_LIP),
    Species("Volucrina angusta", "lip", _SLIM, 4, _LANCE, "plain", 0.1, lip=_NARROW_LIP),
    Species("Spirella densa", "spike", _FLORET, 5, _HEART),
    Species("Spirella umbellata", "spike", _FLORET, 5, _HEART, dome=True),
    Species("Asterilla latiligula", "daisy", _BROAD_RAY, 8, _SAW, "plain", 0.26),
    Species("Vellania stellata", "open", _POINTED, 6, _OVAL, "plain", 0.16, 18),
    Species("Campastra picta", "bell", Blade(0.30, 0, 0, lobes=2, lobe_depth=0.16, flare=0.2), 1, _SAW, "edged"),
    Species("Volucrina striata", "lip", _ROUND, 4, _OVAL, "veined", 0.1, lip=_BROAD_LIP),
    Species("Spirella verticillata", "spike", _FLORET, 5, _HEART, whorls=4),
    Species("Vellania octopetala", "open", _NOTCHED, 8, _OAK, "veined", 0.16, 18),
    Species("Asterilla spinosa", "daisy", _NEEDLE_RAY, 13, _FERN, "plain", 0.30, disc_colour=GREEN_DISC),
    Species("Campastra reflexa", "bell", Blade(0.25, 0, 0, lobes=2, lobe_depth=0.30, flare=0.75), 1, _SAW),
    Species("Volucrina ampla", "lip", _ROUND, 4, _LANCE, "spotted", 0.1, lip=_BROAD_LIP),
    Species("Spirella cruciata", "spike", Blade(0.46, 0.7, 0.4), 4, _FERN, whorls=2),
)

REGIONS: tuple[Region, ...] = (
    Region("EU_SW", 0.36, "stones", ((120, 88, 58), (186, 146, 98), (228, 200, 152)), (128, 142, 92),
           (1.08, 1.0, 0.88), (1.02, 1.18), 1.12, 0.55, (36.5, 44.0, -9.0, 3.0)),
    Region("EU", 0.34, "meadow", ((42, 74, 30), (92, 132, 54), (160, 186, 98)), (78, 132, 58),
           (1.0, 1.0, 1.0), (0.92, 1.08), 1.0, 0.30, (45.0, 58.0, 3.0, 24.0)),
    Region("NA", 0.16, "wood", ((34, 38, 28), (72, 70, 48), (132, 138, 90)), (62, 112, 72),
           (0.94, 1.0, 1.06), (0.84, 1.0), 0.96, 0.20, (32.0, 49.0, -124.0, -68.0)),
    Region("MED_E", 0.14, "cliff", ((132, 132, 130), (182, 180, 172), (176, 196, 210)), (104, 136, 100),
           (1.02, 1.0, 0.98), (1.0, 1.14), 1.04, 0.45, (34.5, 41.0, 20.0, 36.0)),
)  # fmt: skip
