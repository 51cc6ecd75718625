"""Work distributed by Apache Beam: the same functions, on the machines of its runner.

Every worker needs the project's folder under the same path (a shared disk) and this package with its extra `beam`.
Workers write their results into that folder and return only small dicts.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_pipeline.core.errors import SourceError


def each(function: Callable[[Any], dict], items: Sequence[Any], arguments: Sequence[str], scratch: Path) -> list[dict]:
    """Call function(item) for each item, once each if the runner guarantees that; return the results in any order.

    Args:
        function: picklable, and safe to call again with the same item: a runner repeats the work of a lost worker.
        arguments: Beam's own, such as `--runner=FlinkRunner`; without any, DirectRunner in this process.
        scratch: an empty folder that all workers see.

    Raises:
        SourceError: Beam is not installed, or a worker failed for good.
        ValueError: Beam does not accept the arguments.
    """
    try:
        import apache_beam as beam  # an extra that most installations lack
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
        from apache_beam.runners import create_runner
    except ImportError as error:
        raise SourceError(f"--runner beam needs Apache Beam ({error}); pip install 'keras_pipeline[beam]'") from error
    usage = io.StringIO()  # Beam prints a page of it
    try:
        with contextlib.redirect_stderr(usage):
            options = PipelineOptions(list(arguments))
            options.get_all_options()
            create_runner(options.view_as(StandardOptions).runner or "DirectRunner")
    except (SystemExit, ValueError, ImportError, AttributeError) as error:  # the last two: no such module.Runner
        raise ValueError(
            f"--beam-args: received {' '.join(arguments)}, expected arguments of Beam's "
            f"({(usage.getvalue().strip() or str(error)).splitlines()[-1]})"
        ) from None
    if not items:
        return []
    try:
        with beam.Pipeline(options=options) as pipeline:
            answers = pipeline | beam.Create(list(items)) | beam.Reshuffle() | beam.Map(function)
            answers | beam.Map(json.dumps) | beam.io.WriteToText(str(scratch / "answers"))
    except Exception as error:  # each runner has its own exceptions
        raise SourceError(
            f"Beam: {str(error).strip().splitlines()[-1]}; finished work is kept; run the same again"
        ) from error
    return [json.loads(line) for file in sorted(scratch.glob("answers*")) for line in file.read_text().splitlines()]
