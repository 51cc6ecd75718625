"""The chain: what is up to date, what runs, and what the gates say."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
import time

from keras_pipeline.core import files, sidecars
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.phases import (
    condition,
    cost,
    gates,
    input_profile,
    phase0_dataset,
    phase1_teacher,
    phase2_regional,
    phase3_soft_labels,
    phase4_student,
    phase5_calibration,
    phase6_export,
    phase7_manifest,
    preflight,
    staleness,
)
from keras_pipeline.phases.steps import Step

PHASES = (
    phase0_dataset, phase1_teacher, phase2_regional, phase3_soft_labels, phase4_student, phase5_calibration,
    phase6_export, phase7_manifest,
)  # fmt: skip
STEPS: list[Step] = [step for phase in PHASES for step in phase.STEPS]


def steps_between(first: str | None, last: str | None) -> list[Step]:
    """Steps from `first` to `last`, each a phase (`phase3`) or a step (`phase3 combine`); None is open."""
    start = 0 if first is None else _positions(first)[0]
    stop = len(STEPS) if last is None else _positions(last)[-1] + 1
    if start >= stop:
        raise ValueError(f"--from {first} --until {last}: received an end before the beginning; exchange them")
    return STEPS[start:stop]


def _positions(name: str) -> list[int]:
    found = [i for i, step in enumerate(STEPS) if name in (step.phase, step.title)]
    if not found:
        raise ValueError(f"received {name!r}, expected one of {', '.join(step.title for step in STEPS)}")
    return found


def execute(run: Run, steps: list[Step], *, force: bool = False) -> list[dict]:
    """Runs what isn't up to date and returns the verdicts of all gates of these steps.

    Of several machines (`distribute: multi_worker`), all of which call this, the chief does all of it; the others take
    part where it trains, and return no verdict.
    """
    todo = condition.applicable(run, steps)
    if run.assists:
        _assist(run, todo)
        return []
    with _lock(run):
        _remove_leftovers(run)
        for phase in dict.fromkeys(step.phase for step in steps if step not in todo):
            print(f"{phase}: not applicable here: {run.why_not_applicable(phase)}", flush=True)
        check_ahead(run, todo, force=force)
        for position, step in enumerate(todo, 1):
            reason = "--force" if force else staleness.why_stale(run, step)
            _together(run, step, reason is not None)
            if reason is None:
                print(f"{step.title}: up to date", flush=True)
                if step.clean:  # A kill may have come just before.
                    step.clean(run)
                continue
            print(f"{step.title}: {reason}", flush=True)
            _execute(run, step)
            if step.phase == "phase0":  # now there may be counts to check against
                check_ahead(run, todo[position:], force=force)
        _together(run, None, False)
        return gates.judge(run, {step.title for step in steps})


def _assist(run: Run, steps: list[Step]) -> None:
    for step in steps:
        if _together(run, step, False) and step.trains:
            print(f"{step.title}: takes part", flush=True)
            _guarded(run, step)
    _together(run, None, False)  # or the chief's last words to the others would find nobody


@contextlib.contextmanager
def _others_present(run: Run):
    """Says in words what TensorFlow says of a machine that is gone."""
    try:
        yield
    except Exception as error:
        if run.config.distribute != "multi_worker" or "Collective ops is aborted" not in str(error):
            raise
        raise SourceError(
            "another machine of TF_CONFIG has ended or can't be reached "
            f"({re.split('Collective ops is aborted by: ', str(error))[-1].splitlines()[0]}); see what it said, and "
            "start the same command again on all of them: it goes on from the last backup"
        ) from None


def _together(run: Run, step: Step | None, runs: bool) -> bool:
    """Whether the chief runs the step, once all machines have come to it (None: to the end). Raises ValueError where it
    is at another one, or has made or would make something else of it.
    """
    if run.config.distribute != "multi_worker":
        return runs
    _make_deterministic(run)
    from keras_pipeline.training import distribute

    devices = distribute.strategy("multi_worker")
    with _others_present(run):
        distribute.wait(devices)  # now the chief has left all that the step reads
        mine = int(staleness.recipe(run, step)[:6], 16) + 1 if step else 0  # 24 bits: float32 holds them
        chiefs = distribute.agreed(devices, mine if runs else -mine)
    if abs(chiefs) != mine:
        raise ValueError(
            f"distribute: the chief of TF_CONFIG does not see `{step.title if step else 'the end'}` as this machine "
            "does, expected the same command, the same config and the same folder on all machines; stop them all and "
            "start them so"
        )
    return chiefs > 0


def check_ahead(run: Run, steps: list[Step], *, force: bool = False) -> None:
    """Two days into a run is no time to learn that weights can't be had.

    Raises ValueError with a line for each fault of the config; else what the machine lacks.
    """
    steps = condition.applicable(run, steps)
    first = 0 if force else next((i for i, step in enumerate(steps) if staleness.why_stale(run, step)), len(steps))
    pending = steps[first:]
    made_anew = {name for step in pending for name in step.outputs}
    by = "audit" if "dataset" in made_anew else "dataset"  # where neither is there, that is told as the step's input
    known = by if by not in made_anew and run.path(by).exists() else None
    counts, faults, lacks = known and preflight.counted(run, known), [], []
    for check in [step.check for step in pending if step.check] + [lambda *_: preflight.check_disk(run, pending)]:
        try:
            check(run, counts)
        except BrokenArtefact:
            raise
        except ValueError as error:
            faults.append(str(error))
        except (SourceError, OSError) as error:
            lacks.append(error)
    if faults:
        raise ValueError("\n".join(dict.fromkeys([*faults, *map(str, lacks)])))
    if lacks:
        raise lacks[0]


def estimate(run: Run, steps: list[Step]) -> dict[str, str]:
    """What each step that can tell says of its size; nothing is made."""
    with _lock(run):
        return {step.title: step.estimate(run) for step in steps if step.estimate}


def profile_input(run: Run, phase: str) -> dict:
    """`train --profile-input`: the figures of `input_profile.profile`; nothing is made."""
    job = {"phase1": phase1_teacher.job, "phase2": phase2_regional.job}[phase](run)
    (step,) = steps_between(f"{phase} train", f"{phase} train")
    with _lock(run):
        _check_inputs(run, step)
        check_ahead(run, [step], force=True)
        return input_profile.profile(run, job)


def evaluate_split(run: Run, step: Step) -> None:
    """`evaluate --split S`: files beside the artefacts. One that is an artefact too (phase 4's of val, for the gates)
    stays its step's where the same was found again.
    """
    with _lock(run):
        _check_inputs(run, step)
        _guarded(run, step)
        for path in map(run.path, step.outputs):
            meta = sidecars.sidecar(path)
            if meta and not sidecars.changed_files(path, meta):
                sidecars.renew_times(path)


def verify(run: Run) -> int:
    """Reads every artefact and returns how many. The times of those that are what their steps left count from now on as
    theirs. Raises BrokenArtefact naming the other files.
    """
    from keras_pipeline.data import records

    found = phase7_manifest.examine(run)
    if not found:
        raise BrokenArtefact(f"{run.folder}: nothing is made yet, there is nothing to verify; `run` makes it")
    with contextlib.suppress(OSError, SourceError), _lock(run):  # a folder may be read-only, or another run write in it
        for name in found:
            if not found[name]:
                sidecars.renew_times(run.path(name))
    changed = {name: altered for name, altered in found.items() if altered}
    if changed:
        # `run` would pass over a file whose size and time are as before.
        makers = [f"`{step.title} --force`" for step in STEPS if changed.keys() & {*step.outputs} - {"dataset"}]
        remedies = [*makers, *([f"of the dataset: {records.REMEDY}"] if "dataset" in changed else [])]
        altered = ", ".join(file for altered in changed.values() for file in altered)
        raise BrokenArtefact(f"changed since they were made: {altered}; to make them again: {', '.join(remedies)}")
    print(f"{len(found)} artefacts verified, none changed")
    return len(found)


def _execute(run: Run, step: Step) -> None:
    started = time.monotonic()
    with condition.under_way(run, step):
        stale = _check_inputs(run, step)
        for path in map(run.path, step.outputs):
            # Old sidecars stay until there are new ones: if the step fails, they still vouch for what it didn't touch.
            path.parent.mkdir(parents=True, exist_ok=True)
        _guarded(dataclasses.replace(run, stale=stale), step)
        seconds = time.monotonic() - started
        staleness.write_sidecars(run, step, seconds)
    if step.clean:
        step.clean(run)
    print(f"{step.title}: done in {seconds:.1f} s", flush=True)


def _guarded(run: Run, step: Step) -> None:
    _make_deterministic(run)
    try:
        with _others_present(run):
            step.run(dataclasses.replace(run, made_from=staleness.recipe(run, step)))
    except Exception as error:
        # tf.data names the position in a corrupt shard but not the shard.
        if type(error).__name__ in ("DataLossError", "InvalidArgumentError") and run.path("dataset").exists():
            _name_corrupt_shard(run)
        raise
    finally:
        if "keras" in sys.modules:
            sys.modules["keras"].backend.clear_session()  # collects garbage too


def _make_deterministic(run: Run) -> None:
    if run.config.deterministic and "tensorflow" not in sys.modules:
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(run.config.seed)
        tf.config.experimental.enable_op_determinism()


def _name_corrupt_shard(run: Run) -> None:
    from keras_pipeline.data import records

    corrupt = records.corrupt_shards(records.load_info(run.path("dataset")))
    if corrupt:
        raise BrokenArtefact(f"{', '.join(map(str, corrupt))}: corrupt shard; {records.REMEDY}") from None


def _check_inputs(run: Run, step: Step) -> dict[str, str]:
    """Their makers that are not up to date, and why. Raises BrokenArtefact for what is missing or was edited."""
    stale = {}
    for name in step.needs(run.config):
        maker = next(other for other in STEPS if name in other.outputs)
        if not run.path(name).exists():
            raise BrokenArtefact(f"{step.title} needs {run.path(name)}; run `{maker.title}` first")
        if sidecars.was_edited(run.path(name)):
            raise BrokenArtefact(
                f"{run.path(name)}: not what `{maker.title}` wrote; put that back, or run it again with --force"
            )
        reason = staleness.why_stale(run, maker)
        if reason is not None and sidecars.sidecar(run.path(name)):
            print(f"warning: {step.title} uses {name}, which is not up to date ({reason}); `{maker.title}` renews it")
            stale[maker.title] = reason
    return stale


@contextlib.contextmanager
def _lock(run: Run):
    """One run at a time writes into the experiment's folder, and into the dataset's, which experiments may share."""
    from filelock import FileLock, Timeout  # slow to import, and `status` takes no lock

    with contextlib.ExitStack() as stack:
        for folder in (run.folder, run.path("dataset").parent):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(folder / ".lock", timeout=0))
            except Timeout:
                raise SourceError(f"{folder}: another run is writing here; wait for it or stop it") from None
        yield


def _remove_leftovers(run: Run) -> None:
    """What a killed run was writing aside. The lock is held: nobody is writing now."""
    for kind in (".writing-*", ".old-*"):
        for folder in (run.folder, run.path("dataset").parent):
            for leftover in sorted(folder.rglob(kind)):
                files.remove(leftover)
        for leftover in run.path("web").parent.glob(f"{kind}-{run.config.experiment}"):
            files.remove(leftover)


def status(run: Run) -> list[dict]:
    """`condition.rows` of the whole chain."""
    return condition.rows(run, STEPS)


def would_run(run: Run, steps: list[Step], *, force: bool = False) -> list[dict]:
    """[{step, reason, seconds, gigabytes, last}]: what `execute` would run, or might, with the forecast of `cost`.

    seconds and gigabytes are expected, `last` is what the step took before (None: never).
    """
    forecast, rows = cost.corrected(run, condition.applicable(run, STEPS)), []
    for step, reason, above in condition.causes(run, condition.applicable(run, steps), force=force):
        if reason is None and above is None:
            continue
        reason = reason or f"where {above} ends otherwise than before"
        last = (sidecars.sidecar(run.path(step.outputs[0])) or {}).get("seconds")
        expected = forecast[step.title]
        rows.append(
            {"step": step.title, "reason": reason, "seconds": expected.seconds, "gigabytes": expected.bytes / 1e9,
             "last": last}
        )  # fmt: skip
    return rows
