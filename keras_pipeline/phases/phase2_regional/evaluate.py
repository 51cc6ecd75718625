"""`phase2 evaluate`: as every model; on the test split also against the global teacher."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import write_json
from keras_pipeline.evaluation.answers import compare, load_answers
from keras_pipeline.phases.phase1_teacher import evaluate


def verdict(region: str, entry: dict | None) -> str:
    """Whether the regional teacher earns its place, from its region's entry of `intervals.compare`, in a sentence."""
    if entry is None:
        return f"{region}: no test photo, so that nothing shows whether the regional teacher earns its place"
    low, high = entry["interval"]
    figures = (
        f"{region}: regional teacher {entry['second']:.3f}, global teacher {entry['first']:.3f} on {entry['n']} test "
        f"photos in {entry['groups']} groups, a difference of {entry['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
    meaning = {
        "better": "the regional teacher earns its place",
        "worse": "the regional teacher does harm: leave it out of phase3.teachers",
        "no difference shown": "not shown that the regional teacher earns its place: leave it out of phase3.teachers, "
        "or judge it on more photos of the region",
    }
    return f"{figures}; {meaning[entry['verdict']]}"


def run(run: Run) -> None:
    """As every model; on the test split also against the global teacher."""
    size, region, compared = run.config.regional.data.image_size, run.config.regional.region, run.split == "test"
    # Read first: where they can't be, nothing is done in vain.
    rival = load_answers(run.path("teacher_predictions")) if compared else {}
    beside = {"global teacher": run.read("teacher_metrics")} if compared else {}
    evaluate.evaluate_model(run, "regional", image_size=size, beside=beside)
    if compared:
        comparison = compare(rival, load_answers(run.path("regional_predictions")))
        sentence = verdict(region, comparison.per_region.get(region))
        result = {"region": region, "verdict": sentence, "by_region": comparison.table()}
        write_json(run.path("regional_comparison"), result)
        print(sentence)
