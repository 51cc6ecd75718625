"""`serve`: serve the page on this machine's loopback address."""

from __future__ import annotations

import argparse
import contextlib
import threading

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.static_server import ISOLATED, serve_folder
from keras_pipeline.phases import report, status


def main(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    """Serve until Ctrl-C; return an empty result and the exit code.

    Raises:
        BrokenArtefact: where there is no page yet.
    """
    folder = run.path("web")
    if not (folder / "index.html").exists():
        raise BrokenArtefact(f"{folder}: no page yet; run `{report.command('run', options)}` first")
    status.warn_if_out_of_date(run, "the page")
    with serve_folder(folder, options.port, headers=ISOLATED) as url:
        print(f"{url} (Ctrl-C stops it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return {}, 0
