"""`classify`: classify photos with the SavedModel."""

from __future__ import annotations

import argparse
import sys

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.phases import report, status


def main(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    """Print the answer to each photo; return the answers and the exit code, 2 where a photo could not be read.

    Raises:
        ValueError: for paths that are no files.
        BrokenArtefact: where there is no model yet, or a damaged one.
    """
    absent = [str(photo) for photo in options.photos if not photo.is_file()]
    if absent:
        raise ValueError(f"{', '.join(absent)}: no such file, or a folder or a pipe; expected photos")
    if not (folder := run.path("saved_model")).exists():
        raise BrokenArtefact(f"{folder}: no model yet; run `{report.command('run', options)}` first")
    status.warn_if_out_of_date(run, "the model")
    from keras_pipeline.export import saved_model  # TensorFlow takes seconds: a mistyped name should fail before

    answers = saved_model.classify(folder, options.photos, options.region)
    for answer in answers:
        if "error" in answer:
            print(f"error: {answer['photo']}: {answer['error']}", file=sys.stderr)
            continue
        name = answer["latin_name"]
        common = f" ({answer['common_name']})" if answer.get("common_name") else ""
        verdict = f"{name}{common}" if answer["conclusive"] else f"not conclusive ({name}?)"
        genus = f"; genus {answer['genus']}, {answer['genus_probability']:.1%}" if answer["genus_conclusive"] else ""
        promise = "" if answer["promise"] is None else f"; right in at least {int(100 * answer['promise'])} % of cases"
        print(f"{answer['photo']}: {verdict}, {answer['probability']:.1%}{genus}{promise}")
    return answers, 2 if any("error" in answer for answer in answers) else 0
