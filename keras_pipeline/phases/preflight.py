"""What can be known before hours of work: faults of the config, and of the photos once they are counted.

CHECKS are called before the first step runs and again after each step of phase 0. They raise as early as anyone can
know: ValueError for the config, naming the key and the value to set; SourceError or OSError of the machine.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from keras_pipeline import export
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.student import REGIONAL_TEACHER, TRAINED_HERE
from keras_pipeline.core.config.teachers import Model
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.core.schema import MIN_PHOTOS, UNKNOWN_REGION
from keras_pipeline.core.sidecars import sidecar
from keras_pipeline.export import browser
from keras_pipeline.models.pretrained import check_available
from keras_pipeline.phases import forecast, staleness, status
from keras_pipeline.phases.steps import Step

PAGE = Path(export.__file__).parent / "page"
LISTED = 10  # regions in a message
EXPECTED_VAL = 5  # photos of a region; with so many expected, fewer than one split in a hundred leaves it none


@dataclasses.dataclass(frozen=True)
class Counts:
    """Photos by region, as the audit or the split has counted them; the audit can't tell splits apart."""

    origin: str
    species: int
    photos: dict[str, int]
    train: dict[str, int]  # of the audit: no more than these
    val: dict[str, int] | None = None
    calibration: dict[str, int] | None = None  # by species

    @property
    def is_split(self) -> bool:
        return self.val is not None


def counted(run: Run, artefact: str) -> Counts:
    """By `audit` or `dataset`."""
    found = run.read(artefact)
    if artefact == "audit":
        return Counts("the audit", found["species"], found["per_region"], found["per_region"])
    regions: Counter[str] = Counter()
    for split in found["splits"].values():
        regions.update(split["per_region"])
    train, val = (found["splits"][name]["per_region"] for name in ("train", "val"))
    per_class = found["splits"]["calibration"]["per_class"]
    return Counts("the split", len(found["classes"]), dict(regions), train, val, per_class)


def check_teacher(run: Run, counts: Counts | None, phase: str) -> None:
    settings = run.config.teachers[phase]
    check_model(settings.model, counts, f"{phase}.model")
    region = settings.region if phase == "phase2" else None
    check_batch(counts, f"{phase}.training.batch_size", settings.training.batch_size, region)


def check_student(run: Run, counts: Counts | None) -> None:
    check_model(run.config.phase3.model, counts, "phase3.model")
    check_batch(counts, "phase4.training.batch_size", run.config.phase4.training.batch_size)


def check_model(model: Model, counts: Counts | None, key: str) -> None:
    check_available(model, f"{key}.pretrained")
    if counts and counts.is_split and model.num_classes not in (None, counts.species):
        raise ValueError(
            f"{key}.num_classes: received {model.num_classes}, and there are {counts.species} species by "
            f"{counts.origin}; remove the key, or set it to {counts.species}"
        )


def check_batch(counts: Counts | None, key: str, batch_size: int, region: str | None = None) -> None:
    if counts is None:
        return
    n = counts.train.get(region, 0) if region else sum(counts.train.values())
    if 1 < n < batch_size:  # `check_region` names a region of fewer
        most = "" if counts.is_split else "at most "
        of = f" of region {region}" if region else ""
        raise ValueError(
            f"{key}: received {batch_size}, and there are {most}{n:,} train photos{of} by {counts.origin}; set it to "
            f"{n} or less"
        )


def check_region(run: Run, counts: Counts | None) -> None:
    """Whether there is something for a regional teacher to learn from, and to tell it from."""
    if counts is None:
        return
    region = run.config.phase2.region
    n = counts.photos.get(region, 0)
    if n and n == sum(counts.photos.values()):
        raise ValueError(
            f"phase2.region: received {region}, which all {n:,} photos are of by {counts.origin}: a regional teacher "
            "would be the global one once more; set phase2: null for none"
        )
    parts = [counts.train, counts.val] if counts.is_split else [counts.photos]
    if n < 2 or not all(part.get(region) for part in parts):
        split = f" ({counts.train.get(region, 0)} train, {counts.val.get(region, 0)} val)" if counts.is_split else ""
        raise ValueError(
            f"phase2.region: received {region!r}, photos of it by {counts.origin}: {n}{split}, expected some to train "
            f"on and some to validate with; there are {_commonest(counts.photos)}; set phase2.region to one of these, "
            "or phase2: null for no regional teacher"
        )


def _commonest(regions: dict[str, int]) -> str:
    named = [f"{name} {n:,}" for name, n in Counter(regions).most_common()]
    return ", ".join(named[:LISTED]) + (f" and {len(named) - LISTED} more" if len(named) > LISTED else "")


def choose_region(config: Config, photos: dict[str, int]) -> str | None:
    """The region for a regional teacher, of a folder with these photos by region.

    The config's where it has photos enough, else the commonest that has; None where none can be told from the rest.
    """
    split, batch_size = config.phase0.split, config.phase2.training.batch_size

    def is_enough(n: int) -> bool:
        return n * split.train >= batch_size and n * split.val >= EXPECTED_VAL

    def is_region(name: str) -> bool:
        n = photos.get(name, 0)
        return is_enough(n) and is_enough(sum(photos.values()) - n)

    named = [config.phase2.region, *(name for name, _ in Counter(photos).most_common() if name != UNKNOWN_REGION)]
    return next(filter(is_region, named), None)


def check_ensemble(run: Run, counts: Counts | None) -> None:
    """The teachers of phase 3: those made elsewhere are there and of this dataset, regions are those of photos."""
    for i, member in enumerate(run.config.phase3.teachers):
        key, region = f"phase3.teachers.{i}", member.region_filter
        if member.path not in TRAINED_HERE:
            # A dry run has made no folder yet for `..` to lead out of.
            _check_foreign(run, counts, f"{key}.path", Path(os.path.normpath(run.folder / member.path)))
        if member.path == REGIONAL_TEACHER and region not in (None, run.config.phase2.region):
            raise ValueError(
                f"{key}.region_filter: received {region!r}, and {member.path} learns from phase2.region "
                f"{run.config.phase2.region!r}; set it to {run.config.phase2.region!r}, or to null to have it speak "
                "for every photo"
            )
        if counts and region not in (None, *counts.train):
            raise ValueError(
                f"{key}.region_filter: received {region!r}, which no train photo has by {counts.origin}; there are "
                f"{_commonest(counts.train)}; set it to one of these"
            )


def _check_foreign(run: Run, counts: Counts | None, key: str, path: Path) -> None:
    if not path.is_file():
        raise ValueError(
            f"{key}: {path} does not exist; expected a .keras file below {run.folder}, as "
            f"{' or '.join(TRAINED_HERE)}, which phases 1 and 2 make"
        )
    labels = path.parent / "soft_labels"
    if not (run.config.phase4.distill.live or labels.is_dir()):
        raise ValueError(
            f"{key}: {labels} does not exist; run that teacher's `logits` first, or set phase4.distill.live: true"
        )
    learnt = (sidecar(path) or {}).get("inputs", {}).get("dataset")
    present = (sidecar(run.path("dataset")) or {}).get("content_hash")
    if counts and counts.is_split and learnt and present and learnt != present:
        raise ValueError(
            f"{key}: {path} was trained on another dataset (content hash {learnt[:12]}) than {run.path('dataset')} "
            f"({present[:12]}), whose classes may be others; expected a teacher of this dataset: set dataset.name to "
            "the one it was trained on, or take phase1/best.keras"
        )


def check_calibration(run: Run, counts: Counts | None) -> None:
    if not (counts and counts.is_split):
        return
    n, species = sum(counts.calibration.values()), len(counts.calibration)
    if n < MIN_PHOTOS or species < 2:
        raise ValueError(
            f"phase0.split.calibration: received {run.config.phase0.split.calibration:g}, which gives {n} photos of "
            f"{species} species by {counts.origin}, expected {MIN_PHOTOS} or more of two or more: a temperature needs "
            "them; raise it and lower phase0.split.train, or add photos"
        )


def check_region_priors(run: Run, counts: Counts | None) -> None:
    known = set(counts.train if counts else ()) - {UNKNOWN_REGION}
    if counts and run.config.phase5.region_priors.ship and len(known) < 2:
        raise ValueError(
            f"phase5.region_priors.ship: received true, and the photos are of {len(known)} known regions by "
            f"{counts.origin}, expected two or more; set it to false"
        )


def check_page(run: Run, counts: Counts | None) -> None:
    check_region_priors(run, counts)
    if not (PAGE / "node_modules").is_dir() and shutil.which("npm") is None:
        raise SourceError(
            "npm: not found, and the page's TensorFlow.js is not installed yet; install Node with npm, or end before "
            "the page: --until 'phase6 quantize'"
        )


def check_disk(run: Run, steps: Iterable[Step]) -> None:
    """Raises SourceError where these steps will leave more than is free, less what a killed run of them has written."""
    costs, phases = forecast.costs(run), {step.phase for step in steps}
    folders = [run.folder / phase for phase in phases]
    folders += [run.path("dataset").parent] if "phase0" in phases else []
    written = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    wanted, free = sum(costs[step.title].bytes for step in steps) - written, forecast.free_bytes(run)
    if wanted > free:
        raise SourceError(
            f"{Path(run.config.root).absolute()}: received {free / 1e9:.3g} GB free, expected about "
            f"{wanted / 1e9:.3g} GB, by the forecast of `--dry-run`; free some, or give another place: --set root=DIR"
        )


def check_features(run: Run, _: Counts | None) -> None:
    baseline = run.config.phase0.baseline
    if baseline.features != "colour-histogram":
        check_available(baseline.model, "phase0.baseline.weights (with features: file)")


def check_browser(run: Run, _: Counts | None) -> None:
    """A browser, and photos where the config names a folder of them."""
    browser.find_chromium()
    if run.config.phase6.photos:
        browser.photos_in(Path(run.config.phase6.photos))


# By the step that would meet the fault.
CHECKS: dict[str, Callable[[Run, Counts | None], None]] = {
    "phase0 baseline": check_features,
    "phase1 train": lambda run, counts: check_teacher(run, counts, "phase1"),
    "phase2 subset": check_region,
    "phase2 train": lambda run, counts: check_teacher(run, counts, "phase2"),
    "phase3 combine": check_ensemble,
    "phase3 check": lambda run, counts: check_model(run.config.phase3.model, counts, "phase3.model"),
    "phase4 distill": check_student,
    "phase5 temperature": check_calibration,
    "phase6 export": check_page,
    "phase6 validate": check_browser,
}


def check_ahead(run: Run, steps: list[Step], *, force: bool = False) -> None:
    """Two days into a run is no time to learn that weights can't be had.

    Raises ValueError with a line for each fault of the config; else what the machine lacks.
    """
    steps = status.applicable(run, steps)
    first = 0 if force else next((i for i, step in enumerate(steps) if staleness.why_stale(run, step)), len(steps))
    pending = steps[first:]
    made_anew = {name for step in pending for name in step.outputs}
    by = "audit" if "dataset" in made_anew else "dataset"  # where neither is there, that is told as the step's input
    known = by if by not in made_anew and run.path(by).exists() else None
    counts, faults, lacks = known and counted(run, known), [], []
    checks = [CHECKS[step.title] for step in pending if step.title in CHECKS]
    for check in [*checks, lambda *_: check_disk(run, pending)]:
        try:
            check(run, counts)
        except BrokenArtefact:
            raise
        except ValueError as error:
            faults.append(str(error))
        except (SourceError, OSError) as error:
            lacks.append(error)
    if faults:
        raise ValueError("\n".join(dict.fromkeys([*faults, *map(str, lacks)])))
    if lacks:
        raise lacks[0]
