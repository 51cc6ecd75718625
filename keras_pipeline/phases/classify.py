"""`classify`: classify photos with the SavedModel."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import read_json
from keras_pipeline.core.taxonomy import PLURAL
from keras_pipeline.data import first_bytes
from keras_pipeline.export.promise import PRIORS, check_region
from keras_pipeline.ingest import pace
from keras_pipeline.phases import report, status


def main(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    """Print the answer to each photo; return the answers and the exit code, 2 where a photo could not be read.

    Raises:
        ValueError: for paths that are no files.
        BrokenArtefact: where there is no model yet, or a damaged one.
    """
    absent = [f"{photo}: received {_kind(photo)}, expected a photo" for photo in options.photos if not photo.is_file()]
    if absent:
        raise ValueError("\n".join(f"{each}; correct the path" for each in absent))
    if not (folder := run.path("saved_model")).exists():
        raise BrokenArtefact(f"{folder}: no model yet; run `{report.command('run', options)}` first")
    _check_region(folder / "assets", options.region)
    status.warn_if_out_of_date(run, "the model")
    refused = {photo: why for photo in options.photos if (why := _no_photo(photo))}
    photos = [photo for photo in options.photos if photo not in refused]
    answers = [{"photo": str(photo), "error": str(why)} for photo, why in refused.items()]
    if photos:
        from keras_pipeline.export import saved_model  # TensorFlow takes seconds: what is no photo is told before

        answers += saved_model.classify(folder, photos, options.region)
    for answer in answers:
        if "error" in answer:
            print(f"error: {answer['photo']}: {answer['error']}", file=sys.stderr)
            continue
        name = answer["latin_name"]
        common = f" ({answer['common_name']})" if answer.get("common_name") else ""
        if answer["off_list"]:
            print(f"{answer['photo']}: does not look like one of the plants of this list")
            continue
        verdict = f"{name}{common}" if answer["conclusive"] else f"not conclusive ({name}?)"
        above = [rank for rank in PLURAL if answer.get(f"{rank}_conclusive")]
        taxon = "".join(f"; {rank} {answer[rank]}, {answer[f'{rank}_probability']:.1%}" for rank in above)
        promise = "" if answer["promise"] is None else f"; right in at least {int(100 * answer['promise'])} % of cases"
        print(f"{answer['photo']}: {verdict}, {answer['probability']:.1%}{taxon}{promise}")
    return answers, 2 if any("error" in answer for answer in answers) else 0


def _kind(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return "no file" if path.exists() else "no such file"


def _no_photo(photo: Path) -> object:
    """Return why a file can't be a photo, as its first bytes tell; None if it may be one."""
    try:
        with photo.open("rb") as stream:
            return first_bytes.wrong_format(stream.read(pace.FIRST_BYTES))
    except OSError as error:
        return error


def _check_region(assets: Path, region: str | None) -> None:
    """Raise ValueError for a region of which the model has no prior. A damaged model is told when it is loaded."""
    with contextlib.suppress(BrokenArtefact, OSError):
        if region is not None and assets.is_dir():
            file = assets / PRIORS
            check_region(region, read_json(file)["regions"] if file.exists() else None)
