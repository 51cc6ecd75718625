"""python -m keras_pipeline <phase> <step>: parse, import what is needed, exit code.

0 done; 1 a gate was missed, or a leak; 2 usage or config; 3 source, disk, network or a broken artefact.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import json
import logging
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from keras_pipeline import commands
from keras_pipeline.core import quiet
from keras_pipeline.core.errors import BrokenArtefact, LeakError, SourceError
from keras_pipeline.core.redaction import redact
from keras_pipeline.phases.steps import PHASES

# HDF5 crashes where it lets go of a file that a full disk has left half-written: the error holds on to it to the end.
_kept: list[OSError] = []
_GO_ON = "then the same command goes on where it stopped"
OS_REMEDIES = {
    errno.ENOSPC: f"; free space on that disk, {_GO_ON}",
    errno.EDQUOT: f"; free some of your quota on that disk, {_GO_ON}",
    errno.EFBIG: f"; raise the limit on file size (`ulimit -f`, or the file system's), {_GO_ON}",
    errno.EACCES: "; expected a place that can be read and written: give another one, or the rights",
    errno.EROFS: "; expected a place that can be written to: --set root=DIR gives another one",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = commands.parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of child processes too
    if "tensorflow" not in sys.modules and not any(isinstance(each, quiet.QuietImport) for each in sys.meta_path):
        sys.meta_path.insert(0, quiet.QuietImport())
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            result, code = _dispatch(options)
    except LeakError as error:
        return _fail(error, 1)
    except (SourceError, BrokenArtefact) as error:
        return _fail(error, 3)
    except OSError as error:
        _kept.append(error)
        return _fail(f"{error}{OS_REMEDIES.get(error.errno or 0, '')}", 3)
    except ValueError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on where it stopped", 130)
    if options.json:
        try:
            print(json.dumps(result, indent=2, ensure_ascii=False), flush=True)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _fail(error: object, code: int) -> int:
    print(f"error: {redact(str(error))}", file=sys.stderr)
    return code


def _dispatch(options: argparse.Namespace) -> tuple[object, int]:
    """(what --json prints, exit code)"""
    from keras_pipeline.core.artifacts import Run  # pydantic takes longer than --help may

    run = Run(_config(options), _open_source, getattr(options, "split", "test"), beam=_beam(options))
    if options.command in PHASES:
        return importlib.import_module("keras_pipeline.phases.run").phase(run, options)
    return importlib.import_module(f"keras_pipeline.phases.{options.command}").main(run, options)


def _beam(options: argparse.Namespace) -> tuple[str, ...] | None:
    arguments = getattr(options, "beam_args", [])
    if getattr(options, "runner", "local") == "beam":
        return tuple(arguments)
    if arguments:
        raise ValueError("--beam-args goes with --runner beam")
    return None


def _config(options: argparse.Namespace):
    from keras_pipeline.core.config import load

    options.set = [*options.set, *options.more_set, *_shorthands(options)]
    if options.config == commands.DEMO and not Path(commands.DEMO).exists():
        options.config = _installed_demo()
    if not options.config:
        return _config_of_manifest(options)
    images, labels = getattr(options, "images", None), getattr(options, "labels", None)
    if not (images or labels):
        return load.from_file(options.config, options.set)
    own = [f"source.demo.{key}={json.dumps(value)}" for key, value in (("images", images), ("labels", labels))]
    own.append(f"experiment={json.dumps(_experiment_of(Path(images or '.')))}")
    # The config knows how many photos it draws, and which regions those have; not so of a folder.
    own += ["gates.valid_photos_min=null", "gates.valid_photos_max=null"]
    loaded = load.from_file(options.config, own + options.set)
    return load.from_file(options.config, own + _regional(loaded, options) + options.set)


def _experiment_of(images: Path) -> str:
    """Return `demo-` and the folder's name, in the letters that the name of an experiment may have."""
    letters = unicodedata.normalize("NFKD", images.resolve().name)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-") or "photos"
    return f"demo-{name[:95]}"


def _shorthands(options: argparse.Namespace) -> Iterator[str]:
    """Flags of steps that stand for a config key, as `--set` gives it."""
    if options.command in PHASES:
        if getattr(options, "live", False):
            yield "phase4.distill.live=true"
        if getattr(options, "type", None):
            yield f"phase6.quantization={options.type}"
        if getattr(options, "photos", None) is not None:
            yield f"phase6.photos={json.dumps(options.photos)}"
        if getattr(options, "all", False):
            yield "phase6.validation_photos=null"


def _installed_demo() -> str:
    """The file beside the package's sources, or the copy that an installed package carries."""
    from importlib import metadata

    above, copy = Path(__file__).parents[1], f"share/keras_pipeline/{commands.DEMO}"
    places = [above / commands.DEMO, above / copy]  # of an editable install; of pip's --target
    with contextlib.suppress(metadata.PackageNotFoundError):
        found = metadata.files("keras_pipeline") or ()
        places += [Path(file.locate()).resolve() for file in found if file.match(copy)]
    return next((str(place) for place in places if place.exists()), commands.DEMO)


def _regional(config, options: argparse.Namespace) -> list[str]:
    """What a folder's regions change in the config, as `--set` would: a regional teacher of one of them, or none."""
    from keras_pipeline.core.config.student import REGIONAL_TEACHER
    from keras_pipeline.ingest import photo_folder
    from keras_pipeline.phases import counts

    typed = ("--images (source.demo.images)", "--labels (source.demo.labels)")
    documents = photo_folder.documents(Path(options.images), Path(options.labels), keys=typed)
    if config.phase2 is None:
        return []
    photos, wanted = Counter(document["region"] for document in documents), config.phase2.region
    needed = counts.photos_for_region(config)
    region = wanted
    if not any(each.startswith("phase2.region=") for each in options.set):
        region = counts.choose_region(config, photos)
    if region is None:
        print(
            f"{options.labels}: a regional teacher needs {needed:,} photos of its region and {needed:,} of others; "
            f"there are {counts.commonest(photos)}: no regional teacher"
        )
        return ["phase2=null"]
    if region != wanted:
        print(
            f"{options.labels}: {photos[wanted]:,} photos of {wanted}, and a regional teacher needs {needed:,}; it "
            f"learns from {region} ({photos[region]:,})"
        )
    filters = [
        f"phase3.teachers.{i}.region_filter={json.dumps(region)}"
        for i, member in enumerate(config.phase3.teachers)
        if member.path == REGIONAL_TEACHER and member.region_filter is not None
    ]
    return [f"phase2.region={json.dumps(region)}", *filters]


def _config_of_manifest(options: argparse.Namespace):
    from keras_pipeline.core import manifest
    from keras_pipeline.core.config import load

    if not getattr(options, "manifest", None):
        raise ValueError(f"{options.command}: --config is missing; expected a YAML file, see configs/")
    return load.with_overrides(manifest.read(Path(options.manifest)).config, options.set, options.manifest)


@contextlib.contextmanager
def _open_source(config) -> Iterator[tuple[str, str | None]]:
    """(URI of the MongoDB, base URL of relative photo URLs) while the context is open."""
    source = config.source
    if source.uri != "embedded":
        yield source.uri, source.base_url
        return
    from keras_pipeline.core.artifacts import Run
    from keras_pipeline.demo import embedded, herbarium
    from keras_pipeline.ingest import photo_folder

    run = Run(config, None)
    folder, photos = run.folder / "source", run.embedded_photos
    assert photos is not None  # of an embedded source
    if source.demo.images:
        documents = lambda: photo_folder.documents(photos, Path(source.demo.labels))  # noqa: E731
    else:
        photos.mkdir(parents=True, exist_ok=True)
        wanted = source.demo.model_dump(include={"species", "photos", "regional_shift"})
        documents = lambda: herbarium.draw(photos, seed=config.seed, **wanted)  # noqa: E731
    with embedded.source(
        folder / "mongo", documents=documents, photos=photos, database=source.database, collection=source.collection
    ) as opened:
        yield opened


if __name__ == "__main__":
    code = main()
    if _kept:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
