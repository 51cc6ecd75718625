"""`phase7 reproduce`: run the whole chain again from a manifest, in a fresh folder, and compare."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_pipeline.core import files, manifest
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.load import from_dict
from keras_pipeline.core.config.student import Phase4
from keras_pipeline.core.config.teachers import Model, Teacher
from keras_pipeline.core.config.variables import literal
from keras_pipeline.core.manifest import Manifest
from keras_pipeline.core.sidecars import sidecar
from keras_pipeline.evaluation import gates
from keras_pipeline.phases import runner
from keras_pipeline.phases.steps import STEPS

# Must come out bit for bit the same where the config is deterministic; other differences are only reported.
WEIGHTS = (
    "dataset", "teacher", "regional", "soft_labels", "distilled", "student", "shipped", "shipped_calibration",
)  # fmt: skip
# Metrics in the manifest's phases that are compared within a tolerance where it is not.
SHARES = {
    "phase_0": ("baseline_top1",),
    "phase_1": ("top1", "top5"),
    "phase_2": ("top1",),
    "phase_4": ("final_top1", "final_top5"),
    "phase_5": ("ece", "precision", "coverage"),
}
DEVIATIONS = 3  # standard deviations of the difference between two independent measurements


def main(run: Run, options: argparse.Namespace) -> tuple[object, int]:
    """Reproduce the manifest that the options name, or the run's own; return the result and the exit code."""
    # Options of a step that were not given are not there, see `commands`.
    given = getattr(options, "manifest", None)
    result = reproduce(run, Path(given) if given else run.path("manifest"), force=getattr(options, "force", False))
    return result, int(not result["same"])


def reproduce(run: Run, source: Path, *, force: bool = False) -> dict:
    """Run the manifest's config again in `reproduction/` beside it, and compare the results.

    A repetition that is already there is continued. A live MongoDB keeps changing, so the stored records serve as the
    snapshot, if they are still the manifest's.

    Args:
        run: with the passwords, which a manifest does not hold.
        source: the manifest.
        force: run every step anew.

    Returns:
        The content of `reproduction.json`: {same, deterministic, first_difference, different, also_different, …}.

    Raises:
        ValueError: for several machines, or a missing password.
        BrokenArtefact: for a manifest that can't be read.
    """
    if run.config.distribute == "multi_worker":
        raise ValueError(
            "reproduce: received distribute: multi_worker, expected mirrored or none, because it runs on one machine; "
            "give --set distribute=mirrored"
        )
    old = manifest.read(source)
    folder = source.parent / "reproduction"
    again = dataclasses.replace(run, config=_config(run, old, folder))
    if again.config.source.uri != "embedded":
        _take_over_records(run, again, old)
    runner.execute(again, STEPS, force=force)
    verdicts = gates.judge(again, {step.title for step in STEPS})
    new = manifest.read(again.path("manifest"))
    different = [name for name in old.artefacts if _hash(new, name) != old.artefacts[name].content_hash]
    metrics = list(_metrics(old, new))
    weights = [name for name in WEIGHTS if name in old.artefacts]  # a run may have no regional teacher
    if again.config.deterministic:
        failed = [name for name in weights if name in different]
    elif "dataset" in different:
        failed = ["dataset"]
    else:
        failed = [row["figure"] for row in metrics if not row["within"]]
    result = {
        "same": not failed,
        "deterministic": again.config.deterministic,
        "first_difference": _step_of(old, failed),
        "different": failed,
        "also_different": [name for name in different if name not in failed],
        "weights": {name: old.artefacts[name].content_hash for name in weights},
        "figures": metrics,
        "environment": _environment(old, new),
        "gates_missed": [verdict["name"] for verdict in verdicts if verdict["status"] == "missed"],
    }
    files.write_json(source.parent / "reproduction.json", result)
    _print(result, old, folder)
    return result


def _config(run: Run, old: Manifest, folder: Path) -> Config:
    """Return the manifest's config with another folder, and with the passwords of the given config or `--set`."""
    given = {key: getattr(run.config.source, key) for key in ("uri", "base_url")}
    for key, value in given.items():
        if "***" in str(value):
            raise ValueError(
                f"source.{key}: received {value}, as in the manifest, which holds no passwords, expected it with its "
                f"password; give it by --set 'source.{key}=URI' (${{NAME}} in it is taken from the environment)"
            )
    # The devices that train do not belong to the result.
    here = {"root": str(folder), "distribute": run.config.distribute}
    settings = _without_dead_knobs(old.config)
    again = from_dict(literal(settings | here | {"source": settings["source"] | given}), "manifest")
    # Checkpoints elsewhere are those of the first run: continuing from them would compare it with itself.
    phases = {}
    trained: dict[str, Teacher | Phase4] = {**again.teachers, "phase4": again.phase4}
    for name, section in trained.items():
        own = section.callbacks.model_copy(update={"checkpoint_dir": None})
        phases[name] = section.model_copy(update={"callbacks": own})
    return again.model_copy(update=phases)


def _without_dead_knobs(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what manifests of older programs hold and a config may not: teachers' keys that never had an effect."""
    kept = copy.deepcopy(config)
    for phase in ("phase1", "phase2"):
        model = (kept.get(phase) or {}).get("model", {})
        for key in Teacher.dead_knobs(model.get("name", Model.model_fields["name"].default)):
            if model.pop(key, Model.model_fields[key].default) != Model.model_fields[key].default:
                print(f"manifest: {phase}.model.{key} is left out; it never had an effect on a teacher")
    return kept


def _take_over_records(run: Run, again: Run, old: Manifest) -> None:
    mine = run.path("dataset")
    if again.path("dataset").exists() or not (mine.exists() and (run.folder / "phase0").exists()):
        return
    if (sidecar(mine) or {}).get("content_hash") != old.data.dataset_hash:
        print(f"{mine}: not the manifest's records; reading the collection again")
        return
    # Links, because records may be large, with the same times, which sidecars check. The files left out are changed in
    # place, or belong to the baseline, which is made again.
    left_out = shutil.ignore_patterns(
        ".lock",
        ".writing-*",
        ".old-*",
        "ledger.sqlite*",
        "raw",
        "baseline.json*",
        "baseline_recall.npz*",
        "predictions_test.npz*",
    )
    shutil.copytree(mine.parent, again.path("dataset").parent, copy_function=_link, ignore=left_out)
    shutil.copytree(run.folder / "phase0", again.folder / "phase0", copy_function=_link, ignore=left_out)
    print(f"using the records of {mine.parent}, which are the manifest's")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def _hash(of: Manifest, name: str) -> str | None:
    return of.artefacts[name].content_hash if name in of.artefacts else None


def _step_of(old: Manifest, failed: list[str]) -> str | None:
    """Return the first step of the chain that made one of these; a metric's own name if it is no artefact."""
    if not failed:
        return None
    makers = {old.artefacts[name].producer for name in failed if name in old.artefacts}
    return next((step.title for step in STEPS if step.title in makers), failed[0])


def _metrics(old: Manifest, new: Manifest) -> Iterator[dict]:
    """Yield {figure, then, now, tolerance, within} for metrics that are shares of n test photos.

    The difference between two measurements of the same share p has a standard deviation of sqrt(2 p (1 - p) / n).
    """
    n = old.data.test_samples
    for phase, names in SHARES.items():
        for name in names:
            then, now = (getattr(each.phases[phase], name, None) for each in (old, new))
            if then is None or now is None:
                continue
            share = min(max(then, 1 / n), 1 - 1 / n)
            tolerance = DEVIATIONS * math.sqrt(2 * share * (1 - share) / n)
            within = abs(now - then) <= tolerance
            yield {"figure": f"{phase} {name}", "then": then, "now": now, "tolerance": tolerance, "within": within}


def _environment(old: Manifest, new: Manifest) -> dict[str, list]:
    """Return {name: [then, now]} for what changed of the machine, the packages or the code."""
    pairs = {"git_commit": (old.git_commit, new.git_commit)}
    before, after = old.environment.model_dump(), new.environment.model_dump()
    for key in ("python_version", "platform", "cpu", "gpu", "drivers", "flags"):
        pairs[key] = (before[key], after[key])
    for name in sorted({**before["packages"], **after["packages"]}):
        pairs[name] = (before["packages"].get(name), after["packages"].get(name))
    return {name: list(pair) for name, pair in pairs.items() if pair[0] != pair[1]}


def _print(result: dict, old: Manifest, folder: Path) -> None:
    for row in result["figures"]:
        verdict = "" if row["within"] else "  OUTSIDE"
        print(f"{row['figure']:<24}{row['then']:>8.4f} -> {row['now']:.4f} (± {row['tolerance']:.4f}){verdict}")
    for name, (then, now) in result["environment"].items():
        print(f"changed since: {name}: {then} -> {now}")
    for name in result["different"]:
        maker = old.artefacts[name].producer if name in old.artefacts else "metric"
        print(f"{maker}: {name} differs")
    if result["also_different"]:
        print(f"differ too, but don't count: {', '.join(result['also_different'])}")
    if not result["same"]:
        print(
            f"NOT reproduced: the first that differs is {result['first_difference']}; both runs are kept, see {folder}"
        )
    elif result["deterministic"]:
        print(f"reproduced: {len(result['weights'])} artefacts have the same content hash")
    else:
        print("reproduced: every metric is within its tolerance (the config is not deterministic)")
