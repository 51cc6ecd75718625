"""Run a chain of steps: what is up to date is skipped, what fails leaves everything before it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_pipeline.core import files, sidecars
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import SHARD_REMEDY
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.phases import inputs, preflight, staleness, status
from keras_pipeline.phases.steps import Step


def execute(
    run: Run, steps: list[Step], *, force: bool = False, after: Callable[[Step], None] = lambda step: None
) -> None:
    """Run what isn't up to date, and call `after` with each step that ran.

    Of several machines (`distribute: multi_worker`), all of which call this, the chief does all of it; the others take
    part where it trains.
    """
    todo = status.applicable(run, steps)
    if run.assists:
        _assist(run, todo)
        return
    with lock(run):
        _remove_leftovers(run)
        for phase in dict.fromkeys(step.phase for step in steps if step not in todo):
            print(f"{phase}: not applicable here: {run.why_not_applicable(phase)}", flush=True)
        preflight.check_ahead(run, todo, force=force)
        for position, step in enumerate(todo, 1):
            reason = "--force" if force else staleness.why_stale(run, step)
            _together(run, step, reason is not None)
            if reason is None:
                print(f"{step.title}: up to date", flush=True)
                _remove(run, step.leftovers)  # a kill may have come just before
                continue
            print(f"{step.title}: {reason}", flush=True)
            _execute(run, step)
            after(step)
            if step.phase == "phase0":  # now there may be counts to check against
                preflight.check_ahead(run, todo[position:], force=force)
        _together(run, None, False)


def _assist(run: Run, steps: list[Step]) -> None:
    for step in steps:
        if _together(run, step, False) and step.trains:
            print(f"{step.title}: takes part", flush=True)
            _guarded(run, step)
    _together(run, None, False)  # or the chief's last words to the others would find nobody


@contextlib.contextmanager
def _others_present(run: Run) -> Iterator[None]:
    """Turn TensorFlow's error about a lost machine into a message of ours."""
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
    if run.config.deterministic:
        _make_deterministic(run.config.seed)
    from keras_pipeline.training import distribute  # with TensorFlow, which one machine alone may not need

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


def estimate(run: Run, steps: list[Step]) -> dict[str, str]:
    """What each step that can tell says of its size; nothing is made."""
    with lock(run):
        return {step.title: step.load().estimate(run) for step in steps if step.estimates}


def profile_train_input(run: Run, step: Step) -> dict:
    """`train --profile-input`: see `profile_input.profile`; nothing is made."""
    with lock(run):
        _check_inputs(run, step)
        preflight.check(run, [], [step])  # of the config: it writes nothing, so the disk does not matter
        from keras_pipeline.phases.phase1_teacher import profile_input  # with TensorFlow

        return profile_input.profile(run, step.load().spec_of(run))


def evaluate_split(run: Run, step: Step) -> None:
    """`evaluate --split S`: files beside the artefacts. One that is an artefact too (phase 4's of val, for the gates)
    stays its step's where the same was found again.
    """
    with lock(run):
        _check_inputs(run, step)
        _guarded(run, step)
        for path in map(run.path, step.outputs):
            meta = sidecars.sidecar(path)
            if meta and not sidecars.changed_files(path, meta):
                sidecars.renew_times(path)


def _execute(run: Run, step: Step) -> None:
    started = time.monotonic()
    stale = _check_inputs(run, step)  # a step that is refused has not begun, and has not failed
    with status.under_way(run, step):
        for path in map(run.path, step.outputs):
            # Old sidecars stay until there are new ones: if the step fails, they still vouch for what it didn't touch.
            path.parent.mkdir(parents=True, exist_ok=True)
        _guarded(dataclasses.replace(run, stale=stale), step)
        seconds = time.monotonic() - started
        staleness.write_sidecars(run, step, seconds)
    _remove(run, step.leftovers)
    print(f"{step.title}: done in {seconds:.1f} s", flush=True)


def _guarded(run: Run, step: Step) -> None:
    if run.config.deterministic:
        _make_deterministic(run.config.seed)
    try:
        with _others_present(run):
            step.load().run(dataclasses.replace(run, made_from=staleness.recipe(run, step)))
    except Exception as error:
        # tf.data names the position in a corrupt shard but not the shard.
        tensorflow = sys.modules.get("tensorflow")  # else it is none of its errors
        kinds = (tensorflow.errors.DataLossError, tensorflow.errors.InvalidArgumentError) if tensorflow else ()
        if isinstance(error, kinds) and run.path("dataset").exists():
            _name_corrupt_shard(run)
        raise
    finally:
        if "keras" in sys.modules:
            sys.modules["keras"].backend.clear_session()  # collects garbage too


@functools.cache
def _make_deterministic(seed: int) -> None:
    """Once a process: operations that have no deterministic kernel raise from then on."""
    import keras  # where determinism is not asked for, phase 0 does without TensorFlow
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _name_corrupt_shard(run: Run) -> None:
    from keras_pipeline.data import records

    corrupt = records.corrupt_shards(records.load_info(run.path("dataset")))
    if corrupt:
        raise BrokenArtefact(f"{', '.join(map(str, corrupt))}: corrupt shard; {SHARD_REMEDY}") from None


def _check_inputs(run: Run, step: Step) -> dict[str, str]:
    """Their makers that are not up to date, and why. Raises BrokenArtefact for what is missing or was edited."""
    inputs.require(run, step)
    stale = {}
    for name in step.needs(run.config):
        maker = inputs.maker(name)
        reason = staleness.why_stale(run, maker)
        if reason is not None and sidecars.sidecar(run.path(name)):
            print(f"warning: {step.title} uses {name}, which is not up to date ({reason}); `{maker.title}` renews it")
            stale[maker.title] = reason
    return stale


@contextlib.contextmanager
def lock(run: Run) -> Iterator[None]:
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


def _remove(run: Run, patterns: tuple[str, ...]) -> None:
    names = {"experiment": run.config.experiment, "dataset": run.config.dataset_name}
    for pattern in patterns:
        for path in Path(run.config.root).glob(pattern.format(**names)):
            files.remove(path)


def _remove_leftovers(run: Run) -> None:
    """What a killed run was writing aside. The lock is held: nobody is writing now."""
    for kind in (".writing-*", ".old-*"):
        for folder in (run.folder, run.path("dataset").parent):
            for leftover in sorted(folder.rglob(kind)):
                files.remove(leftover)
        for leftover in run.path("web").parent.glob(f"{kind}-{run.config.experiment}"):
            files.remove(leftover)
