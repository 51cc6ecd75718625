"""A model against the linear probes of its own features and of phase 0's, which may be of another network and size."""

from __future__ import annotations

from keras_pipeline.core.artifacts import Run
from keras_pipeline.evaluation import answers
from keras_pipeline.evaluation.gate_metrics import Estimate, Unmeasurable, metric


def over_probe(run: Run, model: str) -> dict:
    """`intervals.compare` over all test photos: phase 0's linear probe, then a model. Raises Unmeasurable."""
    metric(f"{model}_metrics")(run)
    path = run.path("baseline_predictions")
    if not path.exists():
        raise Unmeasurable("each test photo's answer by the linear probe is missing: run `phase0 baseline`")
    return _compared(run, model, answers.load_answers(path))


def over_own_probe(run: Run, model: str) -> dict | None:
    """As `over_probe`, with the linear probe of the model's own features; None if it did not start from one."""
    metric(f"{model}_metrics")(run)
    path = run.path(f"{model}_predictions")
    probe = answers.load_own_probe(path) if path.exists() else None
    return probe and _compared(run, model, probe)


def _compared(run: Run, model: str, probe: dict) -> dict:
    its = answers.load_answers(run.path(f"{model}_predictions"))
    if not answers.same_photos(probe, its):
        raise Unmeasurable(f"linear probe and {model} were asked about other photos: run what `status` calls stale")
    found: dict = answers.compare(probe, its).overall
    if found["interval"][1] < 0 and found["verdict"] != "worse":
        raise Unmeasurable("too few groups of test photos on which it differs from the linear probe")
    return found


def teacher_over_probe(run: Run) -> Estimate:
    """Top-1 of the global teacher less the linear probe's: of its own features, or phase 0's if there is no such."""
    own = over_own_probe(run, "teacher")
    found = own or over_probe(run, "teacher")
    low, high = found["interval"]
    whose = "of its own features " if own else ""
    return Estimate(
        found["difference"],
        found["interval"],
        f"teacher {found['second']:.3f}, linear probe {whose}{found['first']:.3f}; judged by the upper end of their "
        f"difference's 95 % interval, {low:+.3f} to {high:+.3f}",
    )
