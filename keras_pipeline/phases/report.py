"""`report`: write report.html and model_card.md, unless they are up to date."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
from pathlib import Path

from keras_pipeline.core import sidecars
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.redaction import redact
from keras_pipeline.evaluation import gates
from keras_pipeline.phases import status
from keras_pipeline.phases.steps import STEPS


def main(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    path = write(run, options, again=True)
    stale = [row["step"] for row in status.rows(run) if row["state"] in ("stale", "broken")]
    if stale:
        print(f"out of date: {', '.join(stale)}; these metrics may come from different runs, see `status`")
    print(path)
    return {"report": str(path), "not_up_to_date": stale}, 0


def write(run: Run, options: argparse.Namespace, *, verdicts: list[dict] | None = None, again: bool = False) -> Path:
    """Write report.html and model_card.md; return the report's path.

    Sections whose artefacts are missing, broken or edited are left out, the latter two with a line on the console. A
    report of the same steps and verdicts is kept, unless `again`.

    Args:
        options: the command line's, for the commands that the report recommends.
        verdicts: of all gates, if a whole run has just judged them.

    Raises:
        BrokenArtefact: nothing is made yet, or an artefact does not hold what its step writes; names the step.
    """
    rows, path = status.rows(run), run.path("report")
    # As `run.read` refuses them.
    outputs = [(step.title, run.path(name)) for step in STEPS for name in step.outputs]
    broken = {title: why for title, file in outputs if (why := sidecars.broken(file) or sidecars.edited(file))}
    done = {step.title for step in STEPS if all(sidecars.sidecar(run.path(name)) for name in step.outputs)}
    done -= broken.keys()
    if not done:
        raise BrokenArtefact(f"{run.folder}: no step is done yet, there is nothing to report; `run` makes it")
    made = done | {row["step"] for row in rows if row["state"] == "not applicable"}  # all there will be of them
    try:
        verdicts = verdicts or gates.judge(run, made)
        made_from = hashlib.sha256(json.dumps([rows, verdicts]).encode()).hexdigest()
        again = again or ("phase6 validate" in made and not card(run).exists())
        if again or not path.exists() or made_from.encode() not in path.read_bytes()[:1000]:
            # Its pandas, SciPy and Pillow take longer to import than all else in a run that has nothing to do.
            from keras_pipeline.phases import report_sections

            for step, why in broken.items():
                print(f"warning: {step} is broken ({why}), and left out of the report; `run` makes it again")
            commands = {name: command(name, options) for name in ("run", "serve")}
            report_sections.write_sections(run, made, rows, verdicts, made_from, commands)
        return path
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        changed = [f"{row['step']} ({row['reason']})" for row in rows if row["state"] in ("stale", "broken")]
        if not changed:
            raise  # a fault of ours
        raise BrokenArtefact(
            f"{run.folder}: an artefact does not hold what its step writes ({error!r}); out of date are "
            f"{', '.join(changed)}: run them again"
        ) from error


def card(run: Run) -> Path:
    """Where the model card lies, once all that it describes is made."""
    return run.folder / "model_card.md"


def command(name: str, options: argparse.Namespace) -> str:
    """Return the command line that does `name` for the same run, without passwords: reports are mailed."""
    # The page is found by its folder alone; whatever else was set would only make the line long.
    places = ("root=", "experiment=")
    changes = [each for each in options.set if name != "serve" or each.startswith(places)]
    words = ["python", "-m", "keras_pipeline", name, "--config", str(options.config)]
    return redact(shlex.join([*words, *(word for change in changes for word in ("--set", change))]))
