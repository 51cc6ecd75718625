"""What can be known before hours of work: faults of the config, and of the photos once they are counted.

CHECKS are called before the first step runs and again after each step of phase 0. They raise as early as anyone can
know: ValueError for the config, naming the key and the value to set; SourceError or OSError of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_pipeline import export
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.student import REGIONAL_TEACHER, TRAINED_HERE
from keras_pipeline.core.config.teachers import Model
from keras_pipeline.core.dataset import MIN_PHOTOS, UNKNOWN_REGION
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.core.region_names import names_of, photos_of, title_of
from keras_pipeline.core.sidecars import sidecar
from keras_pipeline.export import browser
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.models.pretrained import check_available
from keras_pipeline.phases import forecast, inputs, places, staleness, status
from keras_pipeline.phases.counting import check_limits, counted
from keras_pipeline.phases.counts import AUDIT, Counts, commonest, photos_for, photos_for_region, regions_with_enough
from keras_pipeline.phases.steps import Step, steps_between

PAGE = Path(export.__file__).parent / "page"


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


def check_split(run: Run, counts: Counts | None) -> None:
    """Whether photos suffice for the splits; of the calibration split see `check_calibration`."""
    same_photo = run.config.phase0.split.same_photo
    if same_photo and not Path(same_photo).is_file():
        raise ValueError(
            f"phase0.split.same_photo: received {same_photo}, which is no file; expected a CSV such as "
            "phase0/tables/look_alikes.csv; correct the path, or set it to null"
        )
    if counts is None or counts.splits:
        return
    if counts.origin == AUDIT and run.path("url_ledger").exists():  # downloaded: the split soon tells exactly
        return
    if counts.species < 2:
        raise ValueError(
            f"source.fields.latin_name: received {'one' if counts.species else 'no'} species by {counts.origin} "
            f"({counts.total:,} photos), expected two or more; correct the field, or add photos of other species"
        )
    for split in ("train", "val", "test"):
        if counts.photos(split) < 1:
            share = getattr(counts.shares, split)
            raise ValueError(
                f"phase0.split.{split}: received {share:g}, less than a photo of {counts.total:,} by {counts.origin}, "
                f"expected one or more; raise it, or have {photos_for(1, share):,} photos"
            )


def check_teacher(run: Run, counts: Counts | None, phase: str) -> None:
    """Weights, class list and batch size of a teacher."""
    settings = run.config.teachers[phase]
    check_model(settings.model, counts, f"{phase}.model")
    places.check_checkpoints(run, phase)
    region = run.config.regional.region if phase == "phase2" else None
    check_batch(counts, f"{phase}.training.batch_size", settings.training.batch_size, region)


def check_student(run: Run, counts: Counts | None) -> None:
    """Weights, class list and batch size of the student."""
    check_model(run.config.phase3.model, counts, "phase3.model")
    places.check_checkpoints(run, "phase4")
    check_batch(counts, "phase4.training.batch_size", run.config.phase4.training.batch_size)


def check_model(model: Model, counts: Counts | None, key: str) -> None:
    """A network's weights file and class list."""
    if not _is_download(model):
        check_available(model, f"{key}.pretrained")
    if counts and counts.splits and model.num_classes not in (None, counts.species):
        raise ValueError(
            f"{key}.num_classes: received {model.num_classes}, and there are {counts.species} species by "
            f"{counts.origin}; remove the key, or set it to {counts.species}"
        )


def check_batch(counts: Counts | None, key: str, batch_size: int, region: str | list[str] | None = None) -> None:
    """Whether there are train photos for a batch."""
    if counts is None or (region and counts.regions is None):
        return
    n = counts.photos("train", region)
    if 0 < n < batch_size:  # `check_split` and `check_region` name what has none
        of = f" of region {title_of(region)}" if region else ""
        raise ValueError(
            f"{key}: received {batch_size}, and there are {counts.about}{n:,} train photos{of} by {counts.origin}; "
            f"set it to {n} or less"
        )


def check_region(run: Run, counts: Counts | None) -> None:
    """Whether there is something for a regional teacher to learn from, and to tell it from."""
    region = run.config.regional.region
    if UNKNOWN_REGION in names_of(region):
        known = counts and counts.regions
        others = _other_regions(run, known) if known else "set one that photos have, or phase2: null for none"
        raise ValueError(
            f"phase2.region: received {title_of(region)}, expected a region: {UNKNOWN_REGION} is what photos without "
            f"one have; {others}"
        )
    if counts is None or counts.regions is None:
        return
    n = photos_of(counts.regions, region)
    if n and n == sum(counts.regions.values()):
        raise ValueError(
            f"phase2.region: received {title_of(region)}, which all {n:,} photos are of by {counts.origin}: a regional "
            "teacher would be the global one once more; set phase2: null for none"
        )
    train, val = (counts.photos(split, region) for split in ("train", "val"))
    if n < 2 or (counts.splits and not (train and val)):
        split = f" ({train} train, {val} val)" if counts.splits else ""
        raise ValueError(
            f"phase2.region: received {region!r}, photos of it by {counts.origin}: {n}{split}, expected some to train "
            f"on and some to validate with; {_other_regions(run, counts.regions)}"
        )


def _other_regions(run: Run, photos: dict[str, int]) -> str:
    if set(photos) <= {UNKNOWN_REGION}:
        return f"{run.why_no_regions()}; set phase2: null for none"
    enough = regions_with_enough(run.config, photos)
    if enough:
        return f"enough have {commonest(enough)}; set phase2.region to one of these, or phase2: null for none"
    return (
        f"none of {commonest(photos)} has the {photos_for_region(run.config):,} photos that it takes, with as many of "
        "others; set phase2: null for none"
    )


def check_ensemble(run: Run, counts: Counts | None) -> None:
    """The teachers of phase 3: those made elsewhere are there and of this dataset, regions are those of photos."""
    for i, member in enumerate(run.config.phase3.teachers):
        key, region = f"phase3.teachers.{i}", member.region_filter
        if member.path not in TRAINED_HERE:
            # A dry run has made no folder yet for `..` to lead out of.
            _check_foreign(run, counts, f"{key}.path", Path(os.path.normpath(run.folder / member.path)))
        its = run.config.regional.region if member.path == REGIONAL_TEACHER else None
        of_nobody = its and counts and counts.regions and not photos_of(counts.regions, its)  # see `check_region`
        if its and region and set(names_of(region)) != set(names_of(its)) and not of_nobody:
            raise ValueError(
                f"{key}.region_filter: received {region!r}, and {member.path} learns from phase2.region {its!r}; set "
                f"both, add --set '{key}.region_filter={json.dumps(its)}', or set it to null to have it speak for "
                "every photo"
            )
        known = counts.with_train_photos if counts else None
        if counts and known and region and not its and not photos_of(known, region):  # `check_region` asks for its
            raise ValueError(
                f"{key}.region_filter: received {region!r}, which no train photo has by {counts.origin}; there are "
                f"{commonest(known)}; set it to one of these"
            )


def _check_foreign(run: Run, counts: Counts | None, key: str, path: Path) -> None:
    if not path.is_file():
        is_what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(
            f"{key}: {path} {is_what}; expected a .keras file below {run.folder}, as "
            f"{' or '.join(TRAINED_HERE)}, which phases 1 and 2 make"
        )
    labels = path.parent / "soft_labels"
    if not (run.config.phase4.distill.live or labels.is_dir()):
        raise ValueError(
            f"{key}: {labels} does not exist; run that teacher's `logits` first, or set phase4.distill.live: true"
        )
    learnt = (sidecar(path) or {}).get("inputs", {}).get("dataset")
    present = (sidecar(run.path("dataset")) or {}).get("content_hash")
    if counts and counts.splits and learnt and present and learnt != present:
        raise ValueError(
            f"{key}: {path} was trained on another dataset (content hash {learnt[:12]}) than {run.path('dataset')} "
            f"({present[:12]}), whose classes may be others; expected a teacher of this dataset: set dataset.name to "
            "the one it was trained on, or take phase1/best.keras"
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
            f"phase0.split.calibration: received {share:g}, which gives {counts.about}{n} photos{of_species} by "
            f"{counts.origin}, expected {MIN_PHOTOS} or more of two or more species: a temperature needs them; raise "
            f"it and lower phase0.split.train, or add photos{enough}"
        )


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


FEATURES = "phase0.baseline.weights (with features: file)"


def check_features(run: Run, _: Counts | None) -> None:
    """The weights file of the baseline's features."""
    if run.config.phase0.baseline.features == "file":
        check_available(run.config.phase0.baseline.model, FEATURES)


def check_features_download(run: Run) -> None:
    """Whether the baseline's features can be downloaded."""
    if run.config.phase0.baseline.features == "imagenet":
        check_available(run.config.phase0.baseline.model, FEATURES)


# Faults of the config, by the step that would meet them.
CHECKS: dict[str, Callable[[Run, Counts | None], None]] = {
    "phase0 audit": check_files,
    "phase0 split": check_split,
    "phase0 baseline": check_features,
    "phase1 train": lambda run, counts: check_teacher(run, counts, "phase1"),
    "phase2 subset": check_region,
    "phase2 train": lambda run, counts: check_teacher(run, counts, "phase2"),
    "phase3 combine": check_ensemble,
    "phase3 check": lambda run, counts: check_model(run.config.phase3.model, counts, "phase3.model"),
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
    "phase6 validate": lambda run: browser.find_chromium(),
}


def check_ahead(run: Run, steps: list[Step], *, force: bool = False) -> None:
    """Two days into a run is no time to learn that weights can't be had.

    The config is checked for the whole chain from the first of `steps` that will run: what is trained for a chain that
    can't end is trained for nothing. The machine is checked for `steps` alone: another one may go on.

    Raises as `check` and `inputs.check`.
    """
    asked = status.applicable(run, steps)
    first = 0 if force else next((i for i, step in enumerate(asked) if staleness.why_stale(run, step)), len(asked))
    if pending := asked[first:]:
        check(run, pending, status.applicable(run, steps_between(pending[0].title, None)))
        inputs.check(run, pending)


def check(run: Run, asked: list[Step], chain: list[Step]) -> None:
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
        if is_asked and step.title in NEEDS:
            with noted():
                NEEDS[step.title](run)
    with noted():
        places.check(run, asked)
        forecast.check_disk(run, asked)
    if faults:
        raise ValueError("\n".join(dict.fromkeys([*faults, *map(str, lacks)])))
    if lacks:
        raise lacks[0]


def _counted_by(run: Run, chain: list[Step]) -> str:
    """Return the last of source, audit and dataset that this chain does not make anew; "" if it is missing."""
    made_anew = {name for step in chain for name in step.outputs}
    if "audit" in made_anew:
        return "source"
    by = "audit" if "dataset" in made_anew else "dataset"
    if why := inputs.fault(run, by):
        raise BrokenArtefact(why)
    return by if run.path(by).exists() else ""  # a missing one is told as the step's input
