"""`--dry-run`: what the steps would take, and whether they could run."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.student import GLOBAL_PATH, REGIONAL_TEACHER
from keras_pipeline.core.config.teachers import GLOBAL_TEACHER
from keras_pipeline.core.progress import duration
from keras_pipeline.phases import forecast, preflight
from keras_pipeline.phases.steps import Step


def forecast_steps(run: Run, steps: list[Step], force: bool) -> list[dict]:
    """Print and return what would run, see `forecast.would_run`; then check the config as a run would."""
    rows = forecast.would_run(run, steps, force=force)
    if not rows:
        absent = {step.phase: why for step in steps if (why := run.why_not_applicable(step.phase))}
        told = [f"{phase}: not applicable here: {why}" for phase, why in absent.items()]
        applies = any(step.phase not in absent for step in steps)
        print("everything is up to date" if applies else "\n".join(told))
        return rows
    print(f"{'step':<22}{'about':>10}{'GB':>9}{'last took':>11}  why")
    for row in rows:
        last = "" if row["last"] is None else duration(row["last"])
        print(f"{row['step']:<22}{duration(row['seconds']):>10}{row['gigabytes']:>9.3f}{last:>11}  {row['reason']}")
    photos, origin = forecast.photos(run)
    seconds, gigabytes = (sum(row[key] for row in rows) for key in ("seconds", "gigabytes"))
    print(
        f"together about {duration(seconds)} and {gigabytes:.3g} GB (free {forecast.free_bytes(run) / 1e9:.3g} GB) on "
        f"{forecast.device().name}, for {photos['train']:,} train photos by {origin}; a forecast"
    )
    if downloads := sum(row["download_gigabytes"] for row in rows):
        each, origin = forecast.photo_bytes(run)
        print(f"to download about {downloads:.3g} GB: {each / 1e6:.2f} MB a photo, {origin}")
    preflight.check_ahead(run, steps, force=force, dry=True)
    warn_of_unused_teacher(run, steps)
    return rows


def warn_of_unused_teacher(run: Run, steps: list[Step]) -> None:
    """Say that a teacher is trained for nothing, where no student learns from it."""
    paths, phase2 = [member.path for member in run.config.phase3.teachers], run.config.phase2
    of_global = phase2 is not None and phase2.model.pretrained == GLOBAL_TEACHER and REGIONAL_TEACHER in paths
    if GLOBAL_PATH not in paths and not of_global and any(step.title == "phase1 train" for step in steps):
        print(
            f"warning: phase3.teachers: {GLOBAL_PATH} is not among them, and phase 1 trains it: no student learns "
            "from it; add it"
        )
    trains = phase2 is not None and any(step.phase == "phase2" for step in steps)
    if trains and REGIONAL_TEACHER not in paths:
        print(
            f"warning: phase3.teachers: {REGIONAL_TEACHER} is not among them, and phase 2 trains it: no student learns "
            "from it; add it, or set phase2: null"
        )
