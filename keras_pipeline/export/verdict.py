"""What equivalence.json says: of which browsers, and in words. Without TensorFlow, as reports read it too."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterator

DEVICES = "device_verdicts.json"  # beside equivalence.json: what devices have reported of the same page
ORIGINALS = 50  # a proof with fewer original photos carries a note


def tested_in(verdict: dict) -> list[dict]:
    """Return {browser, backends, missing_backends, foreign_requests} of each browser that was asked.

    The proofs of older programs know one browser, which stands in the verdict itself.
    """
    return [verdict, *verdict.get("other_browsers", [])]


def named_backends(verdict: dict) -> dict[str, dict]:
    """Return {name: result} of every backend; the name says its browser, where several were asked."""
    return {
        _named(verdict, each)(backend): result
        for each in tested_in(verdict)
        for backend, result in each["backends"].items()
    }


def _named(verdict: dict, each: dict) -> Callable[[str], str]:
    browser = each["browser"]["name"]
    return lambda backend: f"{browser} {backend}" if len(tested_in(verdict)) > 1 else backend


def reasons_of(verdict: dict) -> list[str]:
    """Say why a verdict is not passed, a sentence for each reason."""
    reasons = [f"{name}: {why}" for name, why in verdict["files"]["wrong"].items()]
    reasons += [f"{name}: differs from the SavedModel's" for name in verdict["assets"]["different"]]
    for each in tested_in(verdict):
        name = each["browser"]["name"]
        reasons += [f"the page requested another host in {name}: {url}" for url in each["foreign_requests"]]
        reasons += [] if each["backends"] else [f"no backend of {name} could be judged"]
    for backend, result in named_backends(verdict).items():
        if "error" in result:
            reasons.append(f"{backend}: {result['error']}")
        if result.get("leaked_tensors"):
            reasons.append(f"{backend}: {result['leaked_tensors']} tensors leaked")
        for stage, metrics in result["stages"].items():
            if not metrics["passed"]:
                limits = metrics["tolerance"]
                received = metrics.get("error") or json.dumps({key: metrics.get(key) for key in limits})
                reasons.append(f"{backend}, {stage}: received {received}, expected {json.dumps(limits)}")
    return reasons


def notes_of(verdict: dict, skipped: list[str]) -> list[str]:
    """Say what the proof leaves open.

    Args:
        verdict: of `validate_bundle`.
        skipped: why originals were left out, a sentence each.
    """
    skipped = sorted(set(skipped))
    notes = [f"{name}: not measurable here, {why}" for name, why in verdict["missing_browsers"].items()]
    for each in tested_in(verdict):
        named = _named(verdict, each)
        notes += [f"{named(backend)}: not judged, {why}" for backend, why in each["missing_backends"].items()]
        for number, (backend, result) in enumerate(each["backends"].items()):
            originals = result["stages"].get("original", {"n": 0})["n"]
            if "error" not in result and number == 0 and originals < ORIGINALS:
                notes.append(f"{named(backend)}: {originals or 'no'} original photos, {ORIGINALS} or more are wanted")
            if number and result["software"] and result["n"] and not backend.startswith("wasm"):
                notes.append(f"{named(backend)}: no hardware behind it here, so asked about {result['n']} photos")
    notes += _refusals(named_backends(verdict))
    notes += _unjudged_verdicts(named_backends(verdict))
    if skipped:
        notes.append(f"{len(skipped)} files among the originals were left out, the first: {skipped[0]}")
    return notes


def _refusals(backends: dict) -> Iterator[str]:
    """Say which photos one side refuses, or both for different reasons."""
    for backend, result in backends.items():
        for stage, metrics in result["stages"].items():
            refused = metrics.get("refused", {"photos": []})
            shown = [
                f"{each['photo']} (Python: {each['python'] or 'answered'}; page: {each['page'] or 'answered'})"
                for each in refused["photos"]
            ]
            if shown:
                yield f"{backend}, {stage}: {refused['differently']} photos refused differently: {', '.join(shown)}"


def _unjudged_verdicts(backends: dict) -> list[str]:
    """Say where the agreement on 'conclusive', or on plants off the list, proves nothing, by reason."""
    places = collections.defaultdict(list)
    for backend, result in backends.items():
        for stage, metrics in result["stages"].items():
            if metrics.get("conclusive_agreement", 1) is None:
                why = "all answers are" if metrics["conclusive"] else "no answer is"
                places[f"'conclusive' not judged, {why}"].append(f"{backend} {stage}")
            if metrics.get("off_list") is not None and metrics["off_list_agreement"] is None:
                why = "all photos are" if metrics["off_list"] else "no photo is"
                places[f"'off the list' not judged, {why}"].append(f"{backend} {stage}")
    return [f"{why}: {', '.join(stages)}" for why, stages in places.items()]
