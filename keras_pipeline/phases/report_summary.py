"""The report's first screen in words: warning, five metrics, what to do next."""

from __future__ import annotations

from collections.abc import Callable

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.evaluation import gate_metrics, probe_gate
from keras_pipeline.evaluation.report.html import Cell

ADVICE = 3  # missed gates whose advice is on the first screen
NAMED, LETTERS = 3, 80  # steps named in a warning, and characters of each reason

OUT_OF_DATE = ("stale", "broken", "failed", "running")


def warning(rows: list[dict], phases: tuple[str, ...], states: tuple[str, ...] = OUT_OF_DATE) -> str:
    """Name the steps of these phases that are in one of the states; '' if there are none.

    Args:
        rows: `status.rows`.
        phases: beginnings of the steps' names.
    """
    found = [row for row in rows if row["state"] in states and row["step"].startswith(phases)]
    if not found:
        return ""
    named = "; ".join(f"{row['step']} ({_shortened(row['reason'])})" for row in found[:NAMED])
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"Out of date: {named}{more}. These metrics may come from different runs; `run` renews them."


def unfinished(rows: list[dict]) -> str:
    """Tell how many steps are not made yet, so that nobody takes the first gates for all; '' if all are made."""
    missing = [row["step"] for row in rows if row["state"] == "missing"]
    return f"Not finished: {len(missing)} of {len(rows)} steps are not made yet, {missing[0]} first." if missing else ""


def _shortened(reason: str) -> str:
    return reason if len(reason) <= LETTERS else f"{reason[: LETTERS - 1]}…"


def headline(run: Run) -> dict[str, Cell]:
    """Return five metrics, `{label: value}`."""
    dataset = run.read("dataset")
    photos = sum(entry["n"] for entry in dataset["splits"].values())
    student = _measured(run, gate_metrics.metric("student_metrics"), "{:.1%}")
    return {
        f"photos of {len(dataset['classes']):,} species": f"{photos:,}",
        f"teacher, test top-1{_judged(run, 'teacher_metrics')}": _measured(
            run, gate_metrics.metric("teacher_metrics"), "{:.1%}"
        ),
        f"student, test top-1{_judged(run, 'student_metrics')}; {_over_probe(run)}": student,
        "calibration error (ECE), as shipped": _measured(run, gate_metrics.ece, "{:.3f}"),
        "page answers equal to Python's": _measured(run, gate_metrics.compared("top1_agreement"), "{:.1%}"),
    }


def _judged(run: Run, artefact: str) -> str:
    return f", judged on {gate_metrics.judged(run.read(artefact))}"


def _measured(run: Run, value: Callable[[Run], float], form: str) -> str:
    try:
        return form.format(value(run))
    except (gate_metrics.Unmeasurable, BrokenArtefact):
        return "not measurable"


_VERDICTS = {"better": "better", "worse": "WORSE", "no difference shown": "not shown to be better"}


def _over_probe(run: Run) -> str:
    """Compare the student with the linear probe of its own features, if there is one, and with phase 0's."""
    words = [
        _against(run, probe_gate.over_own_probe, "the linear probe of its own features,"),
        _against(run, probe_gate.over_probe, "the linear probe of phase 0,"),
    ]
    return "; ".join(filter(None, words)) or "not compared with the linear probe"


def _against(run: Run, compared: Callable[[Run, str], dict | None], probe: str) -> str:
    try:
        found = compared(run, "student")
    except (gate_metrics.Unmeasurable, BrokenArtefact):
        return ""
    return f"{_VERDICTS[found['verdict']]} than {probe} {found['first']:.1%}" if found else ""


def advice(run: Run, rows: list[dict], verdicts: list[dict], commands: dict[str, str]) -> list[str]:
    """Return what to do next: finish the run, then what the first missed gates advise, else look at the page.

    Args:
        rows: `status.rows`.
        verdicts: `gates.judge`.
        commands: `{name: command line}` of `run` and `serve`.
    """
    open_steps = [row["step"] for row in rows if row["state"] not in ("done", "not applicable")]
    missed = [verdict for verdict in verdicts if verdict["status"] == "missed"]
    steps = "1 step" if len(open_steps) == 1 else f"{len(open_steps)} steps"
    found = [f"Run what is missing or out of date, {steps}: `{commands['run']}`"] if open_steps else []
    found += [
        f"{verdict['words']} ({verdict['value']:.4g}, target {verdict['target']}): {verdict['reason']}"
        for verdict in missed[:ADVICE]
    ]
    if len(missed) > ADVICE:
        found.append(f"{len(missed) - ADVICE} more gates are missed: see Gates.")
    if not found and run.path("web").exists():
        found = [f"Look at the page: `{commands['serve']}`", f"Publish its folder: `{run.path('web')}`"]
    return found
