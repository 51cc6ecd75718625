"""What can be known before hours of work: faults of the config, and of the photos once they are counted.

CHECKS are called before the first step runs and again after each step of phase 0. They raise as early as anyone can
know: ValueError for the config, naming the key and the value to set; SourceError or OSError of the machine.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from keras_pipeline import export
from keras_pipeline.core import cluster
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.teachers import Model
from keras_pipeline.core.dataset import MIN_PHOTOS, SPLITS, UNKNOWN_REGION
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.core.region_names import title_of
from keras_pipeline.data import first_bytes
from keras_pipeline.export import browser, engines
from keras_pipeline.ingest import pace, photo_folder
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.models.pretrained import check_available
from keras_pipeline.phases import forecast, inputs, places, staleness, status
from keras_pipeline.phases.counting import check_limits, counted
from keras_pipeline.phases.counts import AUDIT, Counts, photos_for
from keras_pipeline.phases.steps import Step, steps_between
from keras_pipeline.phases.teacher_checks import check_ensemble, check_region

PAGE = Path(export.__file__).parent / "page"
LOOKED_INTO = 20_000  # files of a folder: a second or two


def check_files(run: Run, _: Counts | None) -> None:
    """The files that `source` names, a line for each that can't be used."""
    faults: list[str] = []
    for other in ("synonyms", "exclude"):
        try:
            Curation.load(run.config.source.model_copy(update={other: None}))
        except ValueError as error:
            faults.insert(0, str(error))
    if faults:
        raise ValueError("\n".join(faults))


def check_sizes(run: Run, counts: Counts | None) -> None:
    """Whether any photo of a folder is large enough to be stored; the first that is ends the search."""
    smallest, photos = run.config.dataset.min_short_side, _folder_photos(run)
    if counts is None or not photos:
        return
    for photo in photos:
        if not first_bytes.too_small(_first_bytes(photo), min_short_side=smallest):
            return
    raise ValueError(
        f"dataset.min_short_side: received {smallest}, and the shorter sides of all {len(photos):,} photos of "
        f"{run.config.source.demo.labels} have fewer pixels, expected a number that some have; lower it"
    )


def _name_other_files(run: Run) -> None:
    """Say how many files of a folder are no photos, before hours of work; the export only leaves them out."""
    wrong = {photo: first_bytes.wrong_format(_first_bytes(photo)) for photo in _folder_photos(run)[:LOOKED_INTO]}
    if named := [f"'{photo.name}' ({why})" for photo, why in wrong.items() if why]:
        n = f"{len(named):,} {'files that are' if len(named) > 1 else 'file that is'}"
        print(f"{run.config.source.demo.labels}: names {n} no photo, such as {named[0]}; not stored")


def _folder_photos(run: Run) -> list[Path]:
    """Return the files that a folder's CSV names; [] for other sources."""
    demo = run.config.source.demo
    if not (run.config.source.serves_photos and demo.images and demo.labels):
        return []
    return [Path(demo.images) / photo for photo in photo_folder.images(Path(demo.labels))]


def _first_bytes(photo: Path) -> bytes:
    with photo.open("rb") as stream:
        return stream.read(pace.FIRST_BYTES)


def check_split(run: Run, counts: Counts | None) -> None:
    """Whether photos suffice for the splits; of the calibration split see `check_calibration`."""
    if run.config.phase0.split.same_photo:
        from keras_pipeline.ingest import same_photo  # pandas and SciPy, which only runs with such a list need here

        same_photo.read_pairs(Path(run.config.phase0.split.same_photo))
    if counts is None or counts.splits:
        return
    if counts.origin == AUDIT and run.path("url_ledger").exists():  # downloaded: the split soon tells exactly
        return
    if counts.species < 2:
        key, correct = ("demo.labels", "") if _is_folder(run) else ("fields.latin_name", "correct the field, or ")
        raise ValueError(
            f"source.{key}: received {'one' if counts.species else 'no'} species by {counts.origin} ({counts.total:,} "
            f"photos), expected two or more; {correct}add photos of other species"
        )
    for split in ("train", "val", "test"):
        if counts.photos(split) < 1:
            share = getattr(counts.shares, split)
            raise ValueError(
                _few(run, counts, split, 1)
                or f"phase0.split.{split}: received {share:g}, less than a photo of {counts.total:,} by "
                f"{counts.origin}, expected one or more; raise it, or have {photos_for(1, share):,} photos"
            )
    _check_spare(run, counts, len(SPLITS) - 1)


def _check_spare(run: Run, counts: Counts, needed: int) -> None:
    """Check that photos are left for the splits that are evaluated, as the first one of each species goes to train."""
    spare = counts.total - counts.species
    if counts.splits or spare >= needed:
        return
    key = "demo.labels" if _is_folder(run) else "fields.latin_name"
    raise ValueError(
        f"source.{key}: received {counts.total:,} photos of {counts.species:,} species by {counts.origin}, expected "
        f"{needed} or more besides the first of each species, which goes to train: the other splits need them; add "
        "photos of the same species, or correct the names if they are of fewer species"
    )


def _is_folder(run: Run) -> bool:
    return run.config.source.uri == "embedded" and run.config.source.demo.labels is not None


def _few(run: Run, counts: Counts, split: str, n: int) -> str:
    """Return that a folder has too few photos for `n` of them in a split, whose share nobody typed; "" otherwise."""
    share = getattr(counts.shares, split)
    if not _is_folder(run) or counts.splits or counts.total >= photos_for(n, share):
        return ""
    return (
        f"source.demo.labels: received {counts.total:,} photos by {counts.origin}, expected {photos_for(n, share):,} "
        f"or more, for {n} in phase0.split.{split}, {share:g}; add photos, or raise that share"
    )


def check_teacher(run: Run, counts: Counts | None, phase: str) -> None:
    """Weights, class list and batch size of a teacher."""
    settings = run.config.teachers[phase]
    check_model(run, settings.model, counts, f"{phase}.model")
    places.check_checkpoints(run, phase)
    region = run.config.regional.region if phase == "phase2" else None
    check_batch(counts, f"{phase}.training.batch_size", settings.training.batch_size, region)


def check_student(run: Run, counts: Counts | None) -> None:
    """Weights, class list and batch size of the student."""
    check_model(run, run.config.phase3.model, counts, "phase3.model")
    places.check_checkpoints(run, "phase4")
    check_batch(counts, "phase4.training.batch_size", run.config.phase4.training.batch_size)


def check_model(run: Run, model: Model, counts: Counts | None, key: str) -> None:
    """A network's weights file and class list."""
    if not _is_download(model):
        check_available(model, f"{key}.pretrained")
    is_known = counts and (counts.splits or _is_folder(run))  # of a collection a species may get no photo
    if counts and is_known and model.num_classes not in (None, counts.species):
        raise ValueError(
            f"{key}.num_classes: received {model.num_classes}, and there are {counts.species} species by "
            f"{counts.origin}; remove the key, or set it to {counts.species}"
        )


def check_batch(counts: Counts | None, key: str, batch_size: int, region: str | list[str] | None = None) -> None:
    """Whether there are train photos for a batch."""
    if counts is None or (region and counts.regions is None):
        return
    n = counts.photos("train", region)
    if not all(counts.photos(split) for split in ("train", "val", "test")):  # too few for anything, see `check_split`
        return
    if 0 < n < batch_size:  # `check_split` and `check_region` name what has none
        of = f" of region {title_of(region)}" if region else ""
        raise ValueError(
            f"{key}: received {batch_size}, and there are {counts.about}{n:,} train photos{of} by {counts.origin}; "
            f"set it to {n} or less"
        )


def check_calibration(run: Run, counts: Counts | None) -> None:
    """Whether a temperature can be fitted."""
    if counts is None:
        return
    n, species, share = counts.photos("calibration"), counts.calibration_species, run.config.phase0.split.calibration
    if n < MIN_PHOTOS or species == 1:
        of_species = "" if species is None else f" of {species} species"
        enough = f" (at this share {photos_for(MIN_PHOTOS, share):,} in all)" if n < MIN_PHOTOS else ""
        raise ValueError(
            _few(run, counts, "calibration", MIN_PHOTOS)
            or f"phase0.split.calibration: received {share:g}, which gives {counts.about}{n} photos{of_species} by "
            f"{counts.origin}, expected {MIN_PHOTOS} or more of two or more species: a temperature needs them; raise "
            f"it and lower phase0.split.train, or add photos{enough}"
        )
    if counts.total - counts.species >= len(SPLITS) - 1:  # with fewer `check_split` says the same
        _check_spare(run, counts, MIN_PHOTOS + 2)


def check_region_priors(run: Run, counts: Counts | None) -> None:
    """Whether there are regions for the priors to be shipped."""
    if counts is None or counts.with_train_photos is None or not run.config.phase5.region_priors.ship:
        return
    n = len(set(counts.with_train_photos) - {UNKNOWN_REGION})
    if n < 2:
        raise ValueError(
            f"phase5.region_priors.ship: received true, and the photos are of {n} known regions by "
            f"{counts.origin}, expected two or more; set it to false"
        )
    if run.path("assignment").exists():
        from keras_pipeline.data import assignment  # pandas, which `status` does without

        if absent := assignment.why_no_priors(assignment.places(run.path("assignment"))):
            raise ValueError(f"phase5.region_priors.ship: received true, and {absent}; set it to false")


def check_photos(run: Run, _: Counts | None) -> None:
    """The folder of original photos."""
    if run.config.phase6.photos:
        browser.photos_in(Path(run.config.phase6.photos))


def check_libraries() -> None:
    """Whether the page's TensorFlow.js can be installed."""
    if not (PAGE / "node_modules").is_dir() and shutil.which("npm") is None:
        raise SourceError(
            "npm: not found, and the page's TensorFlow.js is not installed yet; install Node with npm, or end before "
            "the page: --until 'phase6 quantize'"
        )


def _is_download(model: Model) -> bool:
    return model.pretrained in (True, "imagenet", "imagenet21k")


def check_download(model: Model, key: str) -> None:
    """Whether weights that have to be downloaded can be."""
    if _is_download(model):
        check_available(model, f"{key}.pretrained")


def check_features(run: Run, _: Counts | None) -> None:
    """The weights file of the baseline's features."""
    if run.config.phase0.baseline.features == "file":
        check_available(run.config.phase0.baseline.model, "phase0.baseline.weights")


def check_features_download(run: Run) -> None:
    """Whether the baseline's features can be downloaded."""
    if run.config.phase0.baseline.features == "imagenet":
        remedy = "give its path here as phase0.baseline.weights with phase0.baseline.features: file, or set that to "
        remedy += "colour-histogram"
        check_available(run.config.phase0.baseline.model, "phase0.baseline.features", "imagenet", remedy)


# Faults of the config, by the step that would meet them.
CHECKS: dict[str, Callable[[Run, Counts | None], None]] = {
    "phase0 audit": check_files,
    "phase0 export": check_sizes,
    "phase0 split": check_split,
    "phase0 baseline": check_features,
    "phase1 train": lambda run, counts: check_teacher(run, counts, "phase1"),
    "phase2 subset": check_region,
    "phase2 train": lambda run, counts: check_teacher(run, counts, "phase2"),
    "phase3 combine": check_ensemble,
    "phase3 check": lambda run, counts: check_model(run, run.config.phase3.model, counts, "phase3.model"),
    "phase4 distill": check_student,
    "phase5 temperature": check_calibration,
    "phase6 export": check_region_priors,
    "phase6 validate": check_photos,
}
OF_SPLITS = {"phase0 split": check_split, "phase5 temperature": check_calibration}  # fail where photos are too few
# What the machine and its network lack, by the step that needs it.
NEEDS: dict[str, Callable[[Run], object]] = {
    "phase0 baseline": check_features_download,
    "phase1 train": lambda run: check_download(run.config.phase1.model, "phase1.model"),
    "phase2 train": lambda run: check_download(run.config.regional.model, "phase2.model"),
    "phase3 check": lambda run: check_download(run.config.phase3.model, "phase3.model"),
    "phase6 export": lambda run: check_libraries(),
    "phase6 validate": lambda run: engines.need_one(run.config.phase6.browsers, start=True),
}
IN_DRY_RUN = NEEDS | {  # starts nothing: it takes a second
    "phase6 validate": lambda run: engines.need_one(run.config.phase6.browsers)
}


def check_ahead(run: Run, steps: list[Step], *, force: bool = False, dry: bool = False) -> None:
    """Two days into a run is no time to learn that weights can't be had.

    The config is checked for the whole chain from the first of `steps` that will run: what is trained for a chain that
    can't end is trained for nothing. The machine is checked for `steps` alone: another one may go on.

    Raises as `check` and `inputs.check`.
    """
    asked = status.applicable(run, steps)
    first = 0 if force else next((i for i, step in enumerate(asked) if staleness.why_stale(run, step)), len(asked))
    if pending := asked[first:]:
        check(run, pending, status.applicable(run, steps_between(pending[0].title, None)), IN_DRY_RUN if dry else NEEDS)
        inputs.check(run, pending)


def check(run: Run, asked: list[Step], chain: list[Step], needs: Mapping[str, Callable[[Run], object]] = NEEDS) -> None:
    """Check the steps asked for, and the config for the chain that they belong to.

    Raises ValueError with a line for each fault of the config; else what the machine lacks.
    """
    faults: list[str] = []
    lacks: list[Exception] = []

    @contextlib.contextmanager
    def noted() -> Iterator[None]:
        try:
            yield
        except BrokenArtefact:
            raise
        except ValueError as error:
            faults.extend(str(error).splitlines())
        except (SourceError, OSError) as error:
            lacks.append(error)

    counts = None
    with noted():
        by = _counted_by(run, chain)
        found = counted(run, by) if by else None
        if found:
            expecting = chain if found.splits else asked  # as below
            check_limits(run, found, by, [OF_SPLITS[step.title] for step in expecting if step.title in OF_SPLITS])
        counts = found  # else a limit is to blame, and what it breaks besides is no fault of other keys
    for step in chain:
        is_asked = step in asked
        if step.title in CHECKS:
            with noted():
                # Phase 0 alone makes a dataset for other settings too: what is only expected must not prevent it.
                CHECKS[step.title](run, counts if is_asked or (counts and counts.splits) else None)
        if is_asked and step.trains and run.config.distribute == "multi_worker":
            with noted():
                cluster.task()
        if is_asked and step.title in needs:
            with noted():
                needs[step.title](run)
    with noted():
        places.check(run, asked)
        forecast.check_disk(run, asked)
    if faults:
        raise ValueError("\n".join(dict.fromkeys([*faults, *map(str, lacks)])))
    if lacks:
        raise lacks[0]
    titles = [step.title for step in asked]
    if counts and "phase0 split" in titles:
        _warn_of_largest_group(run, counts)
    if "phase0 audit" in titles:  # once, at the start
        _name_other_files(run)


def _warn_of_largest_group(run: Run, counts: Counts) -> None:
    """Say that a gate will be missed: the split's groups are no smaller than the observations."""
    limit, n = run.config.gates.largest_group, counts.largest_group
    if limit is not None and n >= MIN_PHOTOS and n > limit * counts.total:
        print(
            f"warning: gates.largest_group: {limit:g}, and {counts.ties}: the run will miss it; give each plant an "
            "observation_id of its own, or set the gate to null"
        )


def _counted_by(run: Run, chain: list[Step]) -> str:
    """Return the last of source, audit and dataset that this chain does not make anew; "" if it is missing."""
    made_anew = {name for step in chain for name in step.outputs}
    if "audit" in made_anew:
        return "source"
    by = "audit" if "dataset" in made_anew else "dataset"
    if why := inputs.fault(run, by):
        raise BrokenArtefact(why)
    return by if run.path(by).exists() else ""  # a missing one is told as the step's input
