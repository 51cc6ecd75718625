"""`phase2 evaluate`: measure the regional teacher; on the test split, compare it with the global one."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import write_json
from keras_pipeline.evaluation.answers import compare, load_answers
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
    image_size = run.config.regional.data.image_size
    if run.split != "test":
        evaluate.evaluate_model(run, "regional", image_size=image_size)
        return
    # Read before the long evaluation, so that a broken file is reported at once.
    global_answers = load_answers(run.path("teacher_predictions"))
    beside = {"global teacher": run.read("teacher_metrics")}
    evaluate.evaluate_model(run, "regional", image_size=image_size, beside=beside)
    region = run.config.regional.region
    comparison = compare(global_answers, load_answers(run.path("regional_predictions")))
    sentence = verdict(region, comparison.per_region.get(region))
    result = {"region": region, "verdict": sentence, "by_region": comparison.table()}
    write_json(run.path("regional_comparison"), result)
    print(sentence)
