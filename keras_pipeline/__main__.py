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
import sys

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
        from keras_pipeline.core.config import load  # with pydantic, as in `_dispatch`

        said = load.with_origins(str(error), options.config, options.set, options.flags) if options.config else error
        return _fail(said, 2)
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
    from keras_pipeline import experiment  # pydantic takes longer than --help may

    run = experiment.run_of(options)
    if options.command in PHASES:
        return importlib.import_module("keras_pipeline.phases.run").phase(run, options)
    return importlib.import_module(f"keras_pipeline.phases.{options.command}").main(run, options)


if __name__ == "__main__":
    code = main()
    if _kept:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
