"""Calibration in words and charts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from keras_pipeline.core.dataset import MIN_PHOTOS
from keras_pipeline.core.taxonomy import PLURAL
from keras_pipeline.evaluation import calibration, threshold
from keras_pipeline.evaluation.calibration_report import Evidence, by_region
from keras_pipeline.evaluation.predictions import Predictions
from keras_pipeline.evaluation.report import plots
from keras_pipeline.evaluation.scores import Scores


def draw_reliability(test: Predictions, before: Scores, after: Scores, bins: int, file: Path, regions: Path) -> None:
    """Draw reliability before and after temperature scaling: of all test photos, and of each region with enough."""
    edges = calibration.equal_width(bins)

    def binned(rows: np.ndarray | slice) -> tuple[list[dict], list[dict]]:
        own = (scores[rows] for scores in (before, after))
        first, second = (calibration.reliability_bins(each.confidence, each.correct, edges) for each in own)
        return first, second

    plots.reliability_diagram({"": binned(slice(None))}, file)
    own = {name: binned(rows) for name, (rows,) in by_region(test).items() if rows.sum() >= MIN_PHOTOS}
    plots.reliability_diagram(own or {"": binned(slice(None))}, regions)


def draw_risk(result: dict, tested: Scores, file: Path) -> None:
    """Draw the risk-coverage curve with the threshold in force."""
    coverage, risk, area = threshold.risk_coverage(tested.confidence, tested.correct)
    chosen = None if result["precision"] is None else (result["coverage"], 1 - result["precision"])
    plots.risk_coverage(coverage, risk, file, chosen=chosen, target=result["target_precision"], area=area)


def describe_temperature(result: dict) -> str:
    """The temperature and the probabilities' quality before and after it, in lines of text."""
    lines = [f"fitted on {result['n_fit']} calibration photos, test n {result['n']}"]
    for moment, value in (("before", 1.0), ("after", result["temperature"])):
        lines.append(f"{moment} (T {value:.3f}): {_describe_quality(result[moment])}")
    if result["temperature_at_bound"]:
        lines.append("the temperature stands at its bound: too few photos, or a model that knows nothing")
    fit = result["fit"]
    if fit["ece_after"] > fit["ece_before"] + fit["ece_null"]:  # by more than chance
        lines.append(
            f"the temperature raises the ECE of the calibration photos from {fit['ece_before']:.3f} to "
            f"{fit['ece_after']:.3f}: confidences err in both directions, which one temperature can't correct"
        )
    lines += [f"{region}: {entry['why']}" for region, entry in result["per_region"].items() if "why" in entry]
    return "\n".join(lines)


def describe_raw(evidence: Evidence, scores: Scores) -> str:
    """The quality of the probabilities as the model gives them, by the test photos' scores."""
    figures = evidence.quality(scores, evidence.test.group_ids)
    return f"test n {figures['n']}, uncalibrated: {_describe_quality(figures)}"


def describe(result: dict) -> str:
    """The threshold, its promise and what genus, region and further photos add, in lines of text."""
    lines = [f"{_describe_threshold(result)}; AURC {result['aurc']:.4f}"]
    if not result["target_met"]:
        lines.append(shortfall(result))
    return "\n".join([*lines, *describe_additions(result)])


def describe_additions(result: dict) -> list[str]:
    """What genus, region and further photos of a plant add to the threshold."""
    lines = []
    priors, several = result["region_priors"], result["observations"]
    ranks = {rank: result[rank] for rank in PLURAL if rank in result}
    off_list = {"off the list": result["off_list"]} if "off_list" in result else {}
    for name, entry in {**ranks, "region priors": priors, "several photos": several, **off_list}.items():
        if "why" in entry:
            lines.append(f"{name}: {entry['why']}")
    for rank, below in (("genus", "species"), ("family", "species and genus")):
        if "why" not in (own := ranks.get(rank, {"why": ""})):
            lines.append(f"{rank} of {own['n']} test photos without a conclusive {below}: {_describe_threshold(own)}")
    if "why" not in priors:
        top1 = priors["top1"]
        low, high = top1["interval"]
        lines.append(
            f"region priors{'' if priors['ship'] else ' (not shipped)'}: top-1 {top1['first']:.3f} -> "
            f"{top1['second']:.3f} ({top1['difference']:+.3f} [{low:+.3f}, {high:+.3f}]), "
            f"{_describe_threshold(priors)}; {_describe_quality(priors['with'])}"
        )
    if "threshold" in (kept := result.get("off_list", {})):
        low, high = kept["interval"]
        lines.append(
            f"off the list: above a score of {kept['threshold']:.3f}; {kept['kept']:.3f} [{low:.3f}, {high:.3f}] of "
            f"{kept['n']} test photos do not exceed it"
        )
    if "why" not in several:
        lines.append(f"{several['n']} observations of {several['photos']} test photos")
        lines += [f"  {name}: {_describe_quality(several[name])}" for name in ("single", "together")]
    return lines


def promise(chosen: dict) -> str:
    """Say in a sentence what conclusive answers promise, or why there are none."""
    if chosen["threshold"] is None:
        return f"No answer is conclusive: {shortfall(chosen)}."
    least = math.floor(1000 * chosen["precision_lower_bound"]) / 10
    kept = f"Conclusive answers are right in at least {least:.1f} % of cases"
    return f"{kept}." if chosen["target_met"] else f"{kept} (phase5.accept_unmet): {shortfall(chosen)}."


def _describe_threshold(chosen: dict) -> str:
    if "refused" in chosen:
        return "nothing is conclusive"
    if chosen["threshold"] is None:
        return (
            f"nothing is conclusive: the best threshold, {chosen['best_threshold']:.3f}, promises only >= "
            f"{chosen['precision_lower_bound']:.3f}"
        )
    precision = "-" if chosen["precision"] is None else f"{chosen['precision']:.3f}"
    return (
        f"threshold {chosen['threshold']:.3f}: precision {precision}, coverage {chosen['coverage']:.3f} on test, "
        f"promised >= {chosen['precision_lower_bound']:.3f}"
    )


def _describe_quality(figures: dict) -> str:
    ece = figures["ece"]
    low, high = ece["interval"]
    return (
        f"top-1 {figures['top1']:.3f}, ECE {ece['value']:.4f} [{low:.4f}, {high:.4f}] ({ece['null']:.4f} by chance "
        f"alone), equal-mass {figures['ece_equal_mass']['value']:.4f}, MCE {figures['mce']['value']:.3f}, NLL "
        f"{figures['nll']['value']:.4f}, Brier {figures['brier']['value']:.4f}"
        + (f"; {figures['fewer_photos_than_bins']}" if "fewer_photos_than_bins" in figures else "")
    )


def shortfall(result: dict) -> str:
    """What to tell where a promise can't be made."""
    if "refused" in result:
        return f"no promise is made: {result['refused']}; `phase0 split --force` gives all groups new places"
    needed = (
        f"about {result['photos_needed']} of different plants, instead of {result['n_promise']}, would settle it"
        if result["photos_needed"]
        else "how many would settle it can't be estimated: these are too few, or the model errs too often where it is "
        "surest"
    )
    return (
        f"the promise falls short of the target by {result['shortfall']:.3f}: >= {result['precision_lower_bound']:.3f} "
        f"is the most that the search can promise of {result['n_promise']} independent calibration photos; {needed}"
    )
