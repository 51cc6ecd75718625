"""`phase2 evaluate`: measure the regional teacher; on the test split, compare it with the global one."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import write_json
from keras_pipeline.core.region_names import are_of_species, names_of, title_of
from keras_pipeline.data import records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation.answers import compare, load_answers
from keras_pipeline.models import trained
from keras_pipeline.phases.phase1_teacher import evaluate


def verdict(region: str, entry: dict | None) -> str:
    """Say in a sentence whether the regional teacher is better than the global one on its region.

    The sentence is part of the artefact `regional_comparison`: another wording changes its hash.

    Args:
        entry: the region's entry of `answers.compare`; None if the region has no test photo.
    """
    if entry is None:
        return f"{region}: no test photo, so that nothing shows whether the regional teacher earns its place"
    low, high = entry["interval"]
    comparison = (
        f"{region}: regional teacher {entry['second']:.3f}, global teacher {entry['first']:.3f} on {entry['n']} test "
        f"photos in {entry['groups']} groups, a difference of {entry['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
    meaning = {
        "better": "the regional teacher earns its place",
        "worse": "the regional teacher does harm: leave it out of phase3.teachers",
        "no difference shown": "not shown that the regional teacher earns its place: leave it out of phase3.teachers, "
        "or judge it on more photos of the region",
    }
    return f"{comparison}; {meaning[entry['verdict']]}"


def run(run: Run) -> None:
    """Measure the regional teacher; on the test split, compare it with the global one."""
    image_size, seen = run.config.regional.data.image_size, run.read("regional_subset")["per_class"]
    if run.split != "test":
        evaluate.evaluate_model(run, "regional", image_size=image_size, train_photos=seen)
        return
    # Read before the long evaluation, so that a broken file is reported at once.
    global_answers = load_answers(run.path("teacher_predictions"))
    beside = {"global teacher": run.read("teacher_metrics")}
    evaluate.evaluate_model(run, "regional", image_size=image_size, train_photos=seen, beside=beside)
    region = run.config.regional.region
    title = title_of(region)
    regional_answers = load_answers(run.path("regional_predictions"))
    comparison = compare(_as_one(global_answers, region), _as_one(regional_answers, region))
    sentence = verdict(title, comparison.per_region.get(title))
    result: dict[str, Any] = {"region": region, "verdict": sentence, "by_region": comparison.table()}
    train = run.read("dataset")["splits"]["train"]["per_class"]
    if title in comparison.per_region and are_of_species((n, train[name]) for name, n in seen.items()):
        restricted = _among(run, set(seen), global_answers)
        fair = compare(_as_one(restricted, region), _as_one(regional_answers, region)).per_region[title]
        sentence = (
            f"{verdict(title, fair)}. The region is the species' here, so the global teacher was asked among its "
            f"{len(seen)} species only; among all {len(train)} it has {comparison.per_region[title]['first']:.3f}"
        )
        result |= {"verdict": sentence, "among_its_species": {"species": len(seen), **fair}}
    write_json(run.path("regional_comparison"), result)
    print(sentence)


def _as_one(answers: dict[str, np.ndarray], region: str | list[str]) -> dict[str, np.ndarray]:
    """Return answers in which the regions of a list bear one name."""
    inside = np.isin(answers["region"], names_of(region))
    return {**answers, "region": np.where(inside, title_of(region), answers["region"])}


def _among(run: Run, names: set[str], answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the global teacher's answers where it may choose among these species only.

    A regional teacher knows no other. Where the region was looked up by the species' name, the global teacher owes it
    that knowledge alone, and a comparison without it would praise the regional teacher for what the region gives away.
    """
    info, size = records.load_info(run.path("dataset")), run.config.phase1.data.image_size
    model = trained.load(run.path("teacher"), info, image_size=size)
    preprocessing = Preprocessing.of(run.config.dataset, size)
    logits = evaluate.predict_split(model, info, "test", preprocessing, "global teacher, among the region's").logits
    outside = [name not in names for name in info.classes]
    return {**answers, "answer": np.where(outside, -np.inf, logits).argmax(axis=1)}
