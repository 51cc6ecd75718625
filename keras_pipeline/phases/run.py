"""`run`, and each phase on its own: run the steps that are not up to date."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from keras_pipeline.core.artifacts import Run
from keras_pipeline.evaluation import gates
from keras_pipeline.phases import dry_run, inputs, report, runner, status
from keras_pipeline.phases.steps import BY_NAME, Step, steps_between


def main(run: Run, options: argparse.Namespace) -> tuple[Any, int]:
    """The whole chain, or the part between `--from` and `--until`; then the report."""
    steps = steps_between(options.first, options.last)
    if options.dry_run:
        return dry_run.forecast_steps(run, steps, options.force), 0
    result, code = gated(run, steps, options.force)
    if run.assists:
        return result, code
    whole = options.first is None and options.last is None
    print(f"report: {report.write(run, options, verdicts=result['gates'] if whole else None)}")
    if not report.card(run).exists():
        print("model card: not written, since `phase6 validate` is not done; `run` without --until makes both")
    if why := page_out_of_date(run):
        print(f"page: {run.path('web')} is out of date ({why}); `run` without --until renews it")
    elif run.path("web").exists():
        print(f"page: {run.path('web')}; see it with `{report.command('serve', options)}`")
    return result, code


def page_out_of_date(run: Run) -> str | None:
    """Return why the page that is there is not what the chain would make now; None where it is, or where none is."""
    if not run.path("web").exists():
        return None
    (row,) = (row for row in status.rows(run) if row["step"] == "phase6 export")
    if row["state"] == "done":
        return "a step before it is" if row["reason"] else None
    return row["reason"]


def phase(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    """A phase's steps, or one of them."""
    if options.step and (absent := run.why_not_applicable(options.command)):
        raise ValueError(f"{options.command} {options.step}: not applicable here: {absent}")
    name = " ".join(filter(None, (options.command, options.step)))
    for step in BY_NAME:
        if step.title == name:
            _refuse_phases_options(step, options)
            inputs.require(run, step)
            return step.load().main(run, options)
    steps = steps_between(name, name)
    if file := getattr(options, "verdict", None):
        return _take_in_verdict(run, steps[0], options, Path(file))
    profiles = getattr(options, "profile_input", False)
    if options.dry_run and (profiles or run.split != "test"):
        other = "--profile-input" if profiles else f"--split {run.split}"
        raise ValueError(f"{name}: received --dry-run and {other}, expected one of them; leave the other out")
    if profiles:
        return runner.profile_train_input(run, steps[0]), 0
    if run.split != "test":
        runner.evaluate_split(run, steps[0])
        return {}, 0
    force = options.force or run.refetch
    if options.dry_run:
        rows = dry_run.forecast_steps(run, steps, force)
        sizes = runner.estimate(run, steps) if options.step else {}
        print(*(f"{title}: {size}" for title, size in sizes.items()), sep="\n")
        return {"would_run": rows, "estimates": sizes}, 0
    return gated(run, steps, force)


def _take_in_verdict(run: Run, step: Step, options: argparse.Namespace, file: Path) -> tuple[dict, int]:
    """Judge what a device has reported, keep it beside the step's artefacts, and write the report again."""
    others = [f"--{name}" for name in ("photos", "browser", "all", "force", "dry-run") if _is_given(options, name)]
    if others:
        raise ValueError(f"--verdict: received {', '.join(others)} too, expected it alone; leave the other out")
    from keras_pipeline.phases.phase6_export import device  # with TensorFlow

    with runner.lock(run):
        inputs.require(run, step)
        found = device.take_in(run, file)
    if run.path("report").exists():
        print(f"report: {report.write(run, options, again=True)}")
    return found, 0


def _is_given(options: argparse.Namespace, name: str) -> bool:
    return bool(getattr(options, name.replace("-", "_"), None))


def _refuse_phases_options(step: Step, options: argparse.Namespace) -> None:
    """A dry run that is none would run for hours."""
    for flag in ("force", "dry-run"):
        if getattr(options, flag.replace("-", "_")) and flag not in step.flags:
            raise ValueError(f"{step.title}: received --{flag}, expected it with steps that `run` makes; leave it out")


def gated(run: Run, steps: list[Step], force: bool) -> tuple[dict, int]:
    """Run the steps and print the verdicts of their gates; exit code 1 where one was missed."""
    dry_run.warn_of_unused_teacher(run, steps)
    several = len(steps) > 1  # of a single step, the verdicts below follow at once
    runner.execute(run, steps, force=force, after=lambda step: _show_missed(run, step) if several else None)
    if run.assists:  # the chief judges
        return {"gates": []}, 0
    verdicts = gates.judge(run, {step.title for step in steps})
    for verdict in verdicts:
        print(gates.describe(verdict))
    return {"gates": verdicts}, int(any(verdict["status"] == "missed" for verdict in verdicts))


def _show_missed(run: Run, step: Step) -> None:
    """Show a step's missed gates at once: what they advise is better done before hours of later training."""
    for verdict in gates.judge(run, {step.title}):
        if verdict["status"] == "missed":
            print(gates.describe(verdict), flush=True)
