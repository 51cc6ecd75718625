"""From a command line to a run: the config with its flags, and the source that it opens."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from keras_pipeline import commands
from keras_pipeline.core import manifest
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config import load, variables
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.student import REGIONAL_TEACHER
from keras_pipeline.core.config.teachers import Model
from keras_pipeline.core.dataset import UNKNOWN_REGION
from keras_pipeline.core.region_names import photos_of, title_of
from keras_pipeline.ingest import photo_folder
from keras_pipeline.models import pretrained, weights_file
from keras_pipeline.phases import counts, places, teacher_checks
from keras_pipeline.phases.steps import PHASES

EMBEDDED = "source/mongo"  # the embedded server's data, below the run's folder


def run_of(options: argparse.Namespace) -> Run:
    """The run that a command line asks for: its config, and how to open its source."""
    opens = {"load": _open_to_load, "doctor": _open_to_look}.get(options.command, _open_source)
    beam = _beam(options)  # first: they may hold --config
    config = _config(options)
    if getattr(options, "images", None):
        print(_weights_line(config), flush=True)
    if options.command in ("demo", "run", "phase0"):
        _name_unread_columns(config)
    refetch = getattr(options, "refetch_older_records", False)
    run = Run(config, opens, getattr(options, "split", "test"), refetch=refetch, beam=beam)
    _check_places(run)
    _warn_of_copy(run, options)
    return run


def _warn_of_copy(run: Run, options: argparse.Namespace) -> None:
    """Say where a config that lies in an experiment's folder is of another folder: of the one that was copied."""
    file = Path(options.config or "").resolve()
    root = file.parent.parent.parent
    if file.name == "config.yaml" and file.parts[-3] == "artifacts" and run.folder.resolve() != file.parent:
        print(
            f"warning: {options.config} lies in {file.parent}, and its root is {run.config.root}: this command works "
            f"in {run.folder.resolve()}; --set root={shlex.quote(str(root))} works in the folder of the file",
            file=sys.stderr,
        )


def _check_places(run: Run) -> None:
    """Raise ValueError where something else stands in place of a folder that outputs go to."""
    for folder in (run.folder, run.path("dataset").parent, run.path("web").parent):
        if what := places.in_place_of(folder):
            raise ValueError(
                f"root: received {run.config.root}, expected a folder, or a path where one can be made, and {what}; "
                "give another one: --set root=DIR"
            )


def _name_unread_columns(config: Config) -> None:
    """A misspelt column is as if it were not there, and no later message can know."""
    if config.source.uri == "embedded" and config.source.demo.labels:
        with contextlib.suppress(ValueError):  # the checks before a run tell it with all other faults
            if line := photo_folder.unread_columns(Path(config.source.demo.labels)):
                print(line)


def _beam(options: argparse.Namespace) -> tuple[str, ...] | None:
    arguments = getattr(options, "beam_args", [])
    if ours := [each for each in arguments if each.partition("=")[0] in commands.NOT_BEAMS]:
        raise ValueError(
            f"--beam-args: received {ours[0]} behind it, expected Beam's own options only, as all that follows goes to "
            "Beam; put --beam-args last"
        )
    if getattr(options, "runner", "local") == "beam":
        if getattr(options, "refetch_older_records", False):
            raise ValueError(
                "--refetch-older-records: received it with --runner beam, expected the local runner, which alone keeps "
                "the old record of a photo that fails; leave --runner out"
            )
        return tuple(arguments)
    if arguments:
        raise ValueError("--beam-args goes with --runner beam; add it, before --beam-args")
    return None


def _config(options: argparse.Namespace) -> Config:
    short = _shorthands(options)
    options.set = [*options.set, *options.more_set, *short]
    _refuse_second_values(options.set, short)
    _name_flags(options, short)
    if (given := getattr(options, "manifest", None)) and not Path(given).is_file():  # a pipe would be waited for
        kind = "a folder" if Path(given).is_dir() else "no file"
        raise ValueError(f"--manifest: received {given}, which is {kind}, expected what `phase7 manifest` writes")
    images, labels = getattr(options, "images", None), getattr(options, "labels", None)
    weights = _weights_of(options)
    if options.config == commands.DEMO:
        named = images and any(each.startswith("weights=") for each in options.set)
        options.config = _installed(commands.PHOTOS if weights or named else commands.DEMO)
    if not options.config:
        return _config_of_manifest(options)
    if images is None and labels is None:
        return load.from_file(options.config, options.set, short)
    if images is None or labels is None:
        one, other = ("--images", "--labels") if images else ("--labels", "--images")
        raise ValueError(
            f"{one}: received {images or labels} without {other}, expected a folder and its CSV; give both"
        )
    own = {f"source.demo.{key}={_as_it_is(getattr(options, key))}": f"--{key}" for key in ("images", "labels")}
    own["source.uri=embedded"] = "--images"
    if weights:
        own[f"weights={_as_it_is(weights)}"] = "--weights"
    _refuse_second_values([*own, *options.set], own)
    own[f"experiment={json.dumps(_experiment_of(Path(images)))}"] = "--images"
    # The config knows how many photos it draws, and which regions those have; not so of a folder.
    own |= dict.fromkeys(("gates.valid_photos_min=null", "gates.valid_photos_max=null"), "--images")
    loaded = load.from_file(options.config, [*own, *options.set], own)
    own |= dict.fromkeys(_regional(loaded, options), "--labels")
    _name_flags(options, own)
    return load.from_file(options.config, [*own, *options.set], own)


def _refuse_second_values(overrides: list[str], flags: dict[str, str]) -> None:
    """Raise ValueError where two overrides give one key different values: the first would be lost without a word.

    So would be a key whose section is given too, or the section's other keys, depending on the order.
    """
    first: dict[str, str] = {}
    for override in overrides:
        key = override.partition("=")[0]  # a value may be a URI with a password
        if (other := first.setdefault(key, override)) != override:
            names = " and ".join(dict.fromkeys(flags.get(each, f"--set {key}") for each in (other, override)))
            raise ValueError(f"{names}: received two values of {key}, expected one; leave the other out")
    for key in first:
        above = next((other for other in first if key.startswith(f"{other}.")), None)
        if above:
            names = " and ".join(flags.get(first[each], f"--set {each}") for each in (above, key))
            raise ValueError(
                f"{names}: received {above} as a whole and {key} besides, expected one of them; give the whole alone, "
                "or only keys of it"
            )


def _name_flags(options: argparse.Namespace, flags: dict[str, str]) -> None:
    """Note by which flag a key was given, unless by `--set`, for messages about it."""
    mine = {override.partition("=")[0] for override in options.set if override not in flags}
    named = ((override.partition("=")[0], flag) for override, flag in flags.items())
    options.flags = options.flags | {key: flag for key, flag in named if key not in mine}


def _experiment_of(images: Path) -> str:
    """Return `demo-` and the folder's name, in the letters that the name of an experiment may have."""
    letters = unicodedata.normalize("NFKD", images.resolve().name)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-") or "photos"
    return f"demo-{name[:95]}"


def _shorthands(options: argparse.Namespace) -> dict[str, str]:
    """{a config key and its value, as `--set` gives it: the step's flag that stands for it}"""
    found: dict[str, str] = {}
    if options.command in PHASES:
        if getattr(options, "live", False):
            found["phase4.distill.live=true"] = "--live"
        if getattr(options, "type", None):
            found[f"phase6.quantization={options.type}"] = "--type"
        if getattr(options, "photos", None) is not None:
            found[f"phase6.photos={json.dumps(options.photos)}"] = "--photos"
        if getattr(options, "browser", None):
            found[f"phase6.browsers={json.dumps(options.browser)}"] = "--browser"
        if getattr(options, "all", False):
            found["phase6.validation_photos=null"] = "--all"
    return found


def _weights_of(options: argparse.Namespace) -> str | None:
    """Return the value of `weights` for `demo --images`: the given file, or `imagenet` if it can be downloaded.

    None: random weights, those of the user's own config, or what a first run without any has begun with.
    """
    given, images = getattr(options, "weights", None), getattr(options, "images", None)
    if given is not None and images is None:
        raise ValueError(f"--weights: received {given} without --images, expected a folder too; give both, or neither")
    if given is not None:
        if why := weights_file.fault(Path(given), Model(name="mobilenetv2", pretrained=False)):
            raise ValueError(f"--weights: received {given}, which {why}")
        return str(given)
    if images is None or options.config != commands.DEMO or any(each.startswith("weights=") for each in options.set):
        return None
    with contextlib.suppress(ValueError):  # a wrong --set is named later, with what else is wrong
        mine = [f"experiment={json.dumps(_experiment_of(Path(images)))}", *options.set]
        begun = Run(load.from_file(_installed(commands.DEMO), mine), None).folder / "config.yaml"
        if begun.exists():
            return load.from_file(begun).weights
    try:
        pretrained.check_available(Model(name="mobilenetv2"), "weights")
    except ValueError:
        return None
    return "imagenet"


def _weights_line(config: Config) -> str:
    """Return what the networks of a folder of photos start from, and without weights what to expect."""
    weights = config.phase1.model.pretrained
    if not weights:
        return (
            "weights: random, because none can be downloaded and no file is given: expect little; a linear probe on "
            "colours may do as well. --weights FILE starts from ImageNet weights (docs/teachers.md tells how to get it)"
        )
    source = "downloaded" if weights in (True, "imagenet") else str(weights)
    return f"weights: pretrained on ImageNet ({source}), for the teachers and the student"


def _installed(config: str) -> str:
    """Return a config of the package: where it is called, beside the sources, or the copy of an installed package."""
    if Path(config).exists():
        return config
    above, copy = Path(__file__).parents[1], f"share/keras_pipeline/{config}"
    places = [above / config, above / copy]  # of an editable install; of pip's --target
    with contextlib.suppress(metadata.PackageNotFoundError):
        found = metadata.files("keras_pipeline") or ()
        places += [Path(file.locate()).resolve() for file in found if file.match(copy)]
    return next((str(place) for place in places if place.exists()), config)


def _regional(config: Config, options: argparse.Namespace) -> list[str]:
    """What a folder's regions change in the config, as `--set` would: a regional teacher of one of them, or none."""
    documents = photo_folder.documents(Path(options.images), Path(options.labels), keys=("--images", "--labels"))
    # Who gives the section as a whole gives its region too.
    if config.phase2 is None or any(each.startswith("phase2=") for each in options.set):
        return []
    photos, wanted = Counter(document["region"] for document in documents), config.phase2.region
    needed = counts.photos_for_region(config)
    region: str | list[str] | None = wanted
    if not any(each.startswith("phase2.region=") for each in options.set):
        region = counts.choose_region(config, photos)
    if region is None:
        _refuse_settings_of_none(config, options)
    if region is None and set(photos) == {UNKNOWN_REGION}:
        print(f"{Run(config, None).why_no_regions()}: no regional teacher")
        return ["phase2=null"]
    if region is None:
        print(
            f"{options.labels}: a regional teacher needs {needed:,} photos of its region and {needed:,} of others; "
            f"there are {counts.commonest(photos)}: no regional teacher"
        )
        return ["phase2=null"]
    if region != wanted:
        print(
            f"{options.labels}: {photos_of(photos, wanted):,} photos of {title_of(wanted)}, and a regional teacher "
            f"needs {needed:,}; {teacher_checks.meant(wanted, photos)}it learns from "
            f"{title_of(region)} ({photos_of(photos, region):,})"
        )
    return [f"phase2.region={_as_it_is(region)}"]


def _refuse_settings_of_none(config: Config, options: argparse.Namespace) -> None:
    """Raise ValueError for settings of a regional teacher that the folder's regions don't allow."""
    teachers = enumerate(config.phase3.teachers)
    entries = [f"phase3.teachers.{i}." for i, each in teachers if each.path == REGIONAL_TEACHER]
    keys = [override.partition("=")[0] for override in options.set]
    given = [f"--set {key}" for key in keys if key.startswith(("phase2.", *entries))]
    if given:
        raise ValueError(
            f"{', '.join(given)}: received a setting of the regional teacher, and no region in {options.labels} has "
            f"the photos for one, {counts.photos_for_region(config):,} and as many of others, expected settings of "
            f"what is made; leave {'them' if len(given) > 1 else 'it'} out, or give more photos their region"
        )


def _as_it_is(value: object) -> str:
    """Return a value for `--set` that is not the user's YAML: a `${` in it is no variable."""
    return json.dumps(variables.literal(value))


def _config_of_manifest(options: argparse.Namespace) -> Config:
    if not getattr(options, "manifest", None):
        raise ValueError(f"{options.command}: --config is missing; expected a YAML file, see configs/")
    values = variables.literal(manifest.read(Path(options.manifest)).config)
    return load.with_overrides(values, options.set, options.manifest)


@contextlib.contextmanager
def _open_to_load(config: Config) -> Iterator[tuple[str, str | None]]:
    """The same for `load`: an embedded server as it is, without documents of the demo."""
    if config.source.uri != "embedded":
        yield config.source.uri, None
        return
    from keras_pipeline.demo import embedded  # as below

    with embedded.mongo(Run(config, None).folder / EMBEDDED) as uri:
        yield uri, None


@contextlib.contextmanager
def _open_to_look(config: Config) -> Iterator[tuple[str, str | None]]:
    """The same for `doctor`: an embedded server with what was loaded or, where nothing was, a few documents to come."""
    source = config.source
    if source.uri != "embedded":
        yield source.uri, None
        return
    from keras_pipeline.demo import embedded, herbarium, species  # as below
    from keras_pipeline.ingest.understand import LOOKED_AT

    demo = source.demo

    def documents() -> list[dict]:
        if demo.images and demo.labels:
            return photo_folder.documents(Path(demo.images), Path(demo.labels))[:LOOKED_AT]
        shape = species if demo.shape == "species" else herbarium
        return shape.planned(seed=config.seed, species=5, photos=60)

    names = {"database": source.database, "collection": source.collection}
    with embedded.looked_at(Run(config, None).folder / EMBEDDED, documents=documents, **names) as uri:
        yield uri, None


@contextlib.contextmanager
def _open_source(config: Config) -> Iterator[tuple[str, str | None]]:
    """(URI of the MongoDB, base URL of relative photo URLs) while the context is open."""
    source, run = config.source, Run(config, None)
    photos = run.embedded_photos
    if photos is None:
        yield source.uri, source.base_url
        return
    # MongoDB's driver and Pillow, which `status` does without.
    from keras_pipeline.demo import embedded, herbarium, species

    if labels := source.demo.labels:
        documents = lambda: photo_folder.documents(photos, Path(labels))  # noqa: E731
    else:
        photos.mkdir(parents=True, exist_ok=True)
        demo = source.demo
        numbers = {"seed": config.seed, "species": demo.species, "photos": demo.photos}
        if demo.shape == "species":
            documents = lambda: species.draw(photos, **numbers)  # noqa: E731
        else:
            documents = lambda: herbarium.draw(photos, **numbers, regional_shift=demo.regional_shift)  # noqa: E731
    with embedded.source(
        run.folder / EMBEDDED,
        documents=documents,
        photos=photos,
        database=source.database,
        collection=source.collection,
    ) as (uri, base_url):
        yield uri, source.base_url or base_url
