"""`demo`: the whole chain on drawn photos, or on a folder of yours, and then the page in a real browser."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config import load
from keras_pipeline.core.config.base import ConfigError
from keras_pipeline.phases import preflight, runner, status
from keras_pipeline.phases import run as chain
from keras_pipeline.phases.steps import steps_between


def main(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    """`run`, and then the page asked about test photos; exit code 1 when it names none of them right.

    Of a folder of photos the config is written out, so that `status`, `serve` and the phases can be asked about it.
    """
    if options.images is not None:
        run = _as_first_called(run, options.images)
    if options.images is not None and not options.dry_run:
        # Only once the run is known to start: a refused command must not leave its settings to the next one.
        with runner.lock(run):
            steps = status.applicable(run, steps_between(options.first, options.last))
            preflight.check_ahead(run, steps, force=options.force)
            options.config, options.set = load.write(run.folder / "config.yaml", run.config), []
        print(f"config: {options.config}; every other command takes it: --config {options.config}")
    result, code = chain.main(run, options)
    if options.dry_run or run.assists or not run.path("web").exists() or chain.page_out_of_date(run):
        return result, code
    from keras_pipeline.phases.phase6_export import visit  # with pandas, which a dry run does without

    visits = visit.visit(run)
    for row in visits:
        verdict = "right" if row["answer"] == row["truth"] else "wrong"
        conclusive = "" if row["conclusive"] else ", not conclusive"
        print(f"the page on a test photo of {row['truth']}: {row['answer']} {row['percent']} ({verdict}{conclusive})")
    print(f"screenshot: {run.folder / 'page.png'}")
    named = any(row["answer"] == row["truth"] for row in visits)
    return {**result, "page": visits}, code if named else 1


def _as_first_called(run: Run, images: str) -> Run:
    """Return the run with the folder as the experiment's config calls it: another spelling is no other folder.

    Raises ValueError for another one: folders of one name would share an experiment, where the photos of the second
    would replace the first's.
    """
    file, earlier = run.folder / "config.yaml", None
    with contextlib.suppress(ConfigError):  # none yet, or one of an older version
        earlier = load.from_file(file).source.demo.images
    if earlier is None:
        return run
    if Path(earlier).resolve() != Path(images).resolve():
        raise ValueError(
            f"--images: received {images}, expected {earlier}, the folder that experiment {run.config.experiment} was "
            f"made of ({run.folder}); give this one a name of its own: --set experiment=NAME"
        )
    source = run.config.source
    source = source.model_copy(update={"demo": source.demo.model_copy(update={"images": earlier})})
    return dataclasses.replace(run, config=run.config.model_copy(update={"source": source}))
