"""Judge what a device has reported of the page against Python; see `device_page` and `device_verdict`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from keras_pipeline.core.hashing import file_hash
from keras_pipeline.export.agreement import ARITHMETIC, TIE
from keras_pipeline.export.device_page import Expected, asked_of, expected_answers, limit_of, photos_hash
from keras_pipeline.export.device_verdict import Answer, Backend, Verdict
from keras_pipeline.export.saved_model import Classifier
from keras_pipeline.export.tfjs import FILE_LIST


def judge(verdict: Verdict, bundle_folder: Path, classifier: Classifier) -> dict:
    """Compare a device's answers with Python's, computed anew.

    Args:
        verdict: checked by its schema only.
        bundle_folder: the bundle that it has to be about.
        classifier: the SavedModel that the bundle was made from.

    Returns:
        {date, device, hashed_by, photos: {n, same, by_browser, by_browser_same}, backends: [{name, renderer, n,
        same_top1, max_abs_diff, limit, load_ms, first_ms, median_ms}], missing, untested, agrees, reasons}. The device
        alone vouches for what Python can't compute: times, and differences beyond the first five classes.

    Raises:
        ValueError: a verdict on another bundle or other photos, or one that contradicts itself.
    """
    list_hash = file_hash(bundle_folder / FILE_LIST)
    if verdict.bundle.files_sha256 != list_hash:
        raise ValueError(
            f"--verdict: received one on another page, whose files.json has sha256 "
            f"{verdict.bundle.files_sha256[:12]}…, expected that of {bundle_folder}, {list_hash[:12]}…; run `serve "
            "--probe` and open its page on the device again"
        )
    expected = expected_answers(classifier)
    _check(verdict, expected, len(classifier.labels))
    seen, by_name = {each.name: each for each in verdict.photos}, {each.photo.name: each for each in expected}
    same = {
        name for name, each in by_name.items() if (seen[name].pixels, seen[name].refused) == (each.pixels, each.refused)
    }
    ours = [name for name, each in by_name.items() if not each.photo.by_browser]
    reasons = [f"{name}: not the file that was exported" for name in verdict.files.wrong]
    reasons += [f"{name}: other pixels, or another refusal" for name in ours if name not in same]
    backends = []
    for backend in verdict.backends:
        wanted = [each for each in asked_of(backend.name, expected) if each.photo.name in same]
        found = _compare(backend, wanted) | {"limit": limit_of(backend.name, classifier)}
        backends.append(found)
        reasons += _reasons(backend, found, len(wanted))
    if not backends:
        reasons.append("no backend gave an answer")
    return {
        "date": verdict.date,
        "device": verdict.device.model_dump(),
        "hashed_by": verdict.files.hashed_by,
        "photos": {
            "n": len(ours), "same": len(same & set(ours)),
            "by_browser": len(expected) - len(ours), "by_browser_same": len(same - set(ours)),
        },
        "backends": backends,
        "missing": [each.model_dump() for each in verdict.missing],
        "untested": verdict.untested,
        "agrees": not reasons,
        "reasons": reasons,
    }  # fmt: skip


def _check(verdict: Verdict, expected: list[Expected], classes: int) -> None:
    """Raise ValueError for what the page of `serve --probe` can't have written about this bundle."""
    names = [each.photo.name for each in expected]
    if verdict.bundle.photos_sha256 != photos_hash(expected) or [each.name for each in verdict.photos] != names:
        raise ValueError(
            f"--verdict: received one on {len(verdict.photos)} other photos, expected the {len(names)} that this "
            "version draws; run `serve --probe` here and open its page on the device again"
        )
    for place in verdict.backends + verdict.missing:
        if place.name not in ARITHMETIC:
            raise ValueError(
                f"--verdict: received a backend {place.name!r}, expected some of {', '.join(ARITHMETIC)}; give the "
                "file as the page saved it"
            )
    backends = [each.name for each in verdict.backends + verdict.missing]
    answers = [(each.name, answer.name) for each in verdict.backends for answer in each.answers]
    if len({*backends}) != len(backends) or len({*answers}) != len(answers) or {name for _, name in answers} - {*names}:
        raise ValueError(
            "--verdict: received a backend or photo twice, or a photo that was not asked, expected each once; give the "
            "file as the page saved it"
        )
    if any(index >= classes for each in verdict.backends for answer in each.answers for index, _ in answer.top):
        raise ValueError(f"--verdict: received a class beyond {classes - 1}; give the file as the page saved it")


def _compare(backend: Backend, wanted: list[Expected]) -> dict:
    answers = {answer.name: answer for answer in backend.answers}
    pairs = [
        (each.probabilities, answers[each.photo.name])
        for each in wanted
        if each.probabilities is not None and each.photo.name in answers
    ]
    return {
        "name": backend.name,
        "renderer": backend.renderer,
        "n": len(pairs),
        "same_top1": sum(_is_first(expected, answer) for expected, answer in pairs),
        "max_abs_diff": max((_difference(expected, answer) for expected, answer in pairs), default=None),
        "load_ms": backend.load_ms,
        "first_ms": backend.first_ms,
        "median_ms": median(answer.ms for _, answer in pairs) if pairs else None,
    }


def _is_first(expected: np.ndarray, answer: Answer) -> bool:
    return bool(expected[answer.top[0][0]] >= expected.max() - TIE)


def _difference(expected: np.ndarray, answer: Answer) -> float:
    """Return the largest difference, as reported or as the first five classes show it."""
    shown = (abs(probability - float(expected[index])) for index, probability in answer.top)
    return max(answer.max_abs_diff, *shown)


def _reasons(backend: Backend, found: dict, wanted: int) -> Iterator[str]:
    if backend.error:
        yield f"{backend.name}: {backend.error}"
    if found["n"] < wanted:
        yield f"{backend.name}: {wanted - found['n']} of {wanted} photos without an answer"
    if found["same_top1"] < found["n"]:
        yield f"{backend.name}: another species for {found['n'] - found['same_top1']} of {found['n']} photos"
    if found["n"] and found["max_abs_diff"] > found["limit"]:
        yield f"{backend.name}: probabilities differ by {found['max_abs_diff']:.1e}, expected {found['limit']:.0e}"
