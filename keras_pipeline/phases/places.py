"""Whether the outputs can be written: folders where folders will be made, files where files, and the rights to both."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from keras_pipeline.core.artifacts import ARTEFACTS, Run
from keras_pipeline.core.errors import SourceError
from keras_pipeline.phases.steps import Step

# Folders that steps make beside their artefacts: below the experiment's, and below the dataset's.
OF_EXPERIMENT = ("source", "source/mongo", "source/herbarium", "phase0/tables")
OF_DATASET = ("raw", "index")


def check(run: Run, steps: Collection[Step]) -> None:
    """Check that the outputs of these steps can be written.

    Raises:
        ValueError: a line for each file in place of a folder that will be made, and each folder in place of a file.
        SourceError: where this user, or a file system mounted read-only, lets nothing be written.
    """
    outputs = [name for step in steps for name in step.outputs]
    files = [run.path(name) for name in outputs if Path(ARTEFACTS[name]).suffix]
    folders = {run.path(name) for name in outputs} - {*files} | {file.parent for file in files}
    folders |= {run.folder / name for name in OF_EXPERIMENT}
    folders |= {run.path("dataset").parent / name for name in OF_DATASET}
    faults = [f"{what}, expected a folder" for folder in folders if (what := in_place_of(folder))]
    faults += [f"{file} is a folder, expected a file" for file in files if file.is_dir()]
    if faults:
        raise ValueError("\n".join(f"{fault}; move it away" for fault in sorted(set(faults))))
    if outputs:
        check_writable(run)
    for phase in dict.fromkeys(step.phase for step in steps if step.trains):
        folder = _checkpoints(run, phase)
        if folder and (why := _why_not_writable(Path(folder))):
            raise SourceError(
                f"{phase}.callbacks.checkpoint_dir: received {folder}, and {why}, expected a place that can be read "
                "and written; give another one, or null"
            )


def check_writable(run: Run) -> None:
    """Raise SourceError where the outputs can't be written."""
    for folder in (run.folder, run.path("dataset").parent, run.path("web").parent):
        if why := _why_not_writable(folder):
            raise SourceError(
                f"{why}, expected a place that can be read and written; give another one, --set root=DIR, or the rights"
            )


def _why_not_writable(folder: Path) -> str | None:
    """Try to write where a folder is or will be made: of a mount or of /proc its rights don't tell."""
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()  # without a name, so that nothing is left and no time changes
    except OSError as error:
        return f"{place} can't be written to ({error.strerror})"
    return None


def check_checkpoints(run: Run, phase: str) -> None:
    """Check the folder of a phase's checkpoints, which may lie anywhere. Raises ValueError."""
    folder = _checkpoints(run, phase)
    if folder and (what := in_place_of(Path(folder))):
        raise ValueError(
            f"{phase}.callbacks.checkpoint_dir: received {folder}, expected a folder, or a path where one can be made, "
            f"and {what}; give another one, or null"
        )


def _checkpoints(run: Run, phase: str) -> str | None:
    return (run.config.phase4 if phase == "phase4" else run.config.teachers[phase]).callbacks.checkpoint_dir


def in_place_of(folder: Path) -> str | None:
    """Say what stands in place of a folder, or of one above it; None where the folder is there or can be made."""
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists() or each.is_symlink())
    if place.is_dir():
        return None
    return f"{place} is {'a file' if place.exists() else f'a broken link to {place.readlink()}'}"
