"""The content of calibration.json: fitted on the calibration split, measured on the test split."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from keras_pipeline.core.config.delivery import Phase5, RegionPriors
from keras_pipeline.core.dataset import MIN_PHOTOS
from keras_pipeline.core.taxonomy import PLURAL, Rank
from keras_pipeline.evaluation import calibration, exchangeability, intervals
from keras_pipeline.evaluation import threshold as thresholds
from keras_pipeline.evaluation.off_list import OffList
from keras_pipeline.evaluation.predictions import Predictions
from keras_pipeline.evaluation.priors import log_ratios
from keras_pipeline.evaluation.scores import Prior, Scores, score, together
from keras_pipeline.evaluation.temperature import TEMPERATURE_BOUNDS, fit_temperature


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A model's predictions: on the calibration split for fitting, and on the test split for measuring."""

    fit: Predictions
    test: Predictions
    settings: Phase5
    seed: int
    off_list: OffList | None = None  # of the shipped weights alone: photos that it holds back are not conclusive
    refusal: str = ""  # why the calibration split can't promise for the test split

    def answered(self, fitted: Scores, tested: Scores) -> tuple[Scores, Scores]:
        """Return both splits' scores without answers to the photos that `off_list` holds back."""
        if self.off_list is None:
            return fitted, tested
        return fitted.only(self.off_list.on_fit), tested.only(self.off_list.on_test)

    def quality(self, scores: Scores, group_ids: np.ndarray) -> dict:
        """Measure top-1 and calibration errors on some of the test photos, see `calibration.quality`."""
        errors = calibration.quality(scores, group_ids, bins=self.settings.bins, seed=self.seed)
        return {"top1": float(scores.correct.mean()), **errors}


def temperature(evidence: Evidence) -> tuple[dict, Scores, Scores]:
    """Fit T, and measure the quality of the probabilities before and after, overall and by region.

    Returns:
        The content of `temperature.json`, and the test photos' scores before and after.

    Raises:
        ValueError: as `fit_temperature`.
    """
    fit, test = evidence.fit, evidence.test
    value = fit_temperature(fit.logits, fit.labels)
    before, after = (score(test.logits, test.labels, t) for t in (1.0, value))
    overall = {"before": evidence.quality(before, test.group_ids), "after": evidence.quality(after, test.group_ids)}
    per_region = {}
    for region, (_, own) in by_region(fit, test).items():
        if own.sum() < MIN_PHOTOS:
            per_region[region] = _too_few(int(own.sum()), "test photos")
        else:
            per_region[region] = {
                moment: evidence.quality(scores[own], test.group_ids[own])
                for moment, scores in (("before", before), ("after", after))
            }
    flat = {
        f"{name}_{moment}": figures[name]["value"]
        for moment, figures in overall.items()
        for name in ("ece", "mce", "nll", "brier")
    }
    result = {
        "temperature": value,
        "temperature_at_bound": value in TEMPERATURE_BOUNDS,
        "n_fit": len(fit.labels),
        "n": len(test.labels),
        **flat,
        "ece_null": overall["after"]["ece"]["null"],
        "fit": _on_the_fit_split(evidence, value),
        **overall,
        "per_region": per_region,
    }
    return result, before, after


def _on_the_fit_split(evidence: Evidence, value: float) -> dict:
    """Return the ECE of the calibration photos before and after T, and what chance alone shows there."""
    fit, edges = evidence.fit, calibration.equal_width(evidence.settings.bins)
    before, after = (score(fit.logits, fit.labels, t) for t in (1.0, value))
    eces = [calibration.expected_calibration_error(each.confidence, each.correct, edges) for each in (before, after)]
    null = calibration.null_errors(after.confidence, edges, seed=evidence.seed)[:, 0].mean()
    return {"ece_before": eces[0], "ece_after": eces[1], "ece_null": float(null)}


def _threshold(
    evidence: Evidence, value: float, table: pd.DataFrame, classes: list[str], known: dict | str, ranks: Sequence[Rank]
) -> tuple[dict, Scores]:
    """Return the other half of `calibration.json`, and the test photos' scores.

    That half holds the threshold, the ranks below it, and what region priors and further photos of a plant add.

    Args:
        value: T.
        table: of `assignment.places`.
        known: of `priors`, or why there are none.
    """
    fit, test = evidence.fit, evidence.test
    fitted, tested = (score(each.logits, each.labels, value, ranks=ranks) for each in (fit, test))
    alike, every = _exchangeability(evidence, fitted, tested, table, classes), tested
    fitted, tested = evidence.answered(fitted, tested)
    evidence = dataclasses.replace(evidence, refusal=exchangeability.why_not(alike))
    chosen = choose(evidence, fitted)
    in_force = _in_force(chosen)
    judged = thresholds.evaluate_threshold(tested.confidence, tested.correct, in_force)
    result = {
        **chosen,
        "target_precision": evidence.settings.target_precision,
        "precision": judged["precision"],
        "coverage": judged["coverage"],
        "aurc": thresholds.risk_coverage(tested.confidence, tested.correct)[2],
        "threshold_scan": thresholds.threshold_scan(tested.confidence, tested.correct),
        "threshold_per_region": _by_region(evidence, fitted, tested),
        **_above(evidence, fitted, tested, in_force, ranks),
        "region_priors": _with_priors(evidence, every, known),
        "observations": _observations(evidence, every, table, value, in_force),
        "exchangeability": alike,
        **({} if evidence.off_list is None else {"off_list": evidence.off_list.part}),
    }
    return result, tested


def _exchangeability(
    evidence: Evidence, fitted: Scores, tested: Scores, table: pd.DataFrame, classes: list[str]
) -> dict[str, dict]:
    """Compare the two splits by one photo of each group, see `exchangeability.compare`."""
    learnt = table.latin_name[table.split == "train"].value_counts().reindex(classes, fill_value=0).to_numpy()
    sizes, confidence = [], []
    for photos, scores in ((evidence.fit, fitted), (evidence.test, tested)):
        asked = thresholds.one_of_each(photos.group_ids, seed=evidence.seed)
        sizes.append(learnt[photos.labels[asked]])
        confidence.append(scores.confidence[asked])
    return exchangeability.compare(*sizes, *confidence)


def report(
    evidence: Evidence,
    table: pd.DataFrame,
    classes: list[str],
    known: dict | str,
    ranks: Sequence[Rank],
    fitted: dict | None = None,
) -> tuple[dict, Scores]:
    """Return a model's `calibration.json` without its name and hash, and the test photos' scores.

    Args:
        table: of `assignment.places`.
        classes: C latin names.
        known: of `priors`, or why there are none.
        ranks: those to answer about where the species is not conclusive, the lowest first.
        fitted: of `temperature`, if already computed.
    """
    fitted = fitted or temperature(evidence)[0]
    chosen, tested = _threshold(evidence, fitted["temperature"], table, classes, known, ranks)
    return {**fitted, **chosen}, tested


def choose(evidence: Evidence, scores: Scores, rows: np.ndarray | None = None) -> dict:
    """Choose a threshold on one photo of each group: the bound counts independent photos.

    Args:
        scores: of the calibration photos.
        rows: bool [n], the photos that may be asked; None all.

    Returns:
        `threshold`: the one in force, None where its promise falls short of the target and that is not accepted, or
        where nothing at all can be promised, accepted or not;
        `best_threshold`: the best reachable one, which `precision_lower_bound`, `target_met`, `shortfall`,
        `photos_needed` (see `threshold.choose_threshold`) and `n_promise`, the photos asked, are about. Where the
        calibration split can't promise for the test split, `refused` says why, and nothing is promised.
    """
    settings = evidence.settings
    asked = np.arange(len(scores)) if rows is None else np.flatnonzero(rows)
    asked = asked[thresholds.one_of_each(evidence.fit.group_ids[asked], seed=evidence.seed)]
    if evidence.refusal:
        return {
            "threshold": None, "best_threshold": None, "precision_lower_bound": 0.0, "target_met": False,
            "shortfall": settings.target_precision, "photos_needed": None, "refused": evidence.refusal,
            "n_promise": len(asked),
        }  # fmt: skip
    found: dict[str, Any] = thresholds.choose_threshold(
        scores.confidence[asked], scores.correct[asked], target=settings.target_precision,
        confidence_level=settings.confidence_level,
    )  # fmt: skip
    kept = ("precision_lower_bound", "target_met", "shortfall", "photos_needed")
    acceptable = settings.accept_unmet and found["precision_lower_bound"] > 0 and found["threshold"] < 1
    return {
        "threshold": found["threshold"] if found["target_met"] or acceptable else None,
        "best_threshold": found["threshold"],
        **{key: found[key] for key in kept},
        "n_promise": len(asked),
    }


def _in_force(chosen: dict) -> float:
    """Return the threshold; infinity, which no confidence reaches, where none is in force."""
    return math.inf if chosen["threshold"] is None else chosen["threshold"]


def by_region(*splits: Predictions) -> dict[str, list[np.ndarray]]:
    """Return {region: [bool [n] of each split, whether a photo is of it]} for every region in one of the splits."""
    names = sorted({str(name) for photos in splits for name in set(photos.regions)})
    return {name: [photos.regions == name for photos in splits] for name in names}


def _too_few(n: int, of: str) -> dict:
    return {"n": n, "why": f"{n} {of} are too few for figures of their own, {MIN_PHOTOS} are the least"}


def _by_region(evidence: Evidence, fitted: Scores, tested: Scores) -> dict:
    """Choose a threshold for each region's photos alone; where that fails, only the overall one holds."""
    result = {}
    for region, (known, own) in by_region(evidence.fit, evidence.test).items():
        if min(known.sum(), own.sum()) < MIN_PHOTOS:
            split, n = ("calibration", known.sum()) if known.sum() < MIN_PHOTOS else ("test", own.sum())
            result[region] = _too_few(int(n), f"{split} photos")
            continue
        chosen = choose(evidence, fitted, known)
        judged = thresholds.evaluate_threshold(tested.confidence[own], tested.correct[own], _in_force(chosen))
        result[region] = {**chosen, **{key: judged[key] for key in ("precision", "coverage", "n")}}
    return result


def _above(
    evidence: Evidence, fitted: Scores, tested: Scores, species_threshold: float, ranks: Sequence[Rank]
) -> dict[str, dict]:
    """Choose a threshold for each rank above the species, on photos for which nothing below it is conclusive.

    That subset depends on thresholds that were chosen on the same photos: the errors that stopped the search are among
    them, so that they err more, if anything, than new photos would. In 200 simulated worlds 12 such guarantees were
    broken (tests/test_threshold.py), no more than chance allows where 5 % may be.
    """
    result: dict[str, dict] = {}
    open_fit, open_test = (scores.confidence < species_threshold for scores in (fitted, tested))
    below = "species"
    for index, rank in enumerate(ranks):
        if len(rank.taxa) == len(rank.members):
            result[rank.name] = {"why": f"each of the {len(rank.taxa)} species is the only one of its {rank.name} here"}
            continue
        if open_fit.sum() < MIN_PHOTOS:
            result[rank.name] = _too_few(int(open_fit.sum()), f"calibration photos without a conclusive {below}")
            continue
        ours, theirs = fitted.of_rank(index), tested.of_rank(index)
        chosen = choose(evidence, ours, open_fit)
        named = open_test & (theirs.confidence >= _in_force(chosen))
        result[rank.name] = {
            **chosen,
            PLURAL[rank.name]: len(rank.taxa),
            "n": int(open_test.sum()),
            "coverage": float(named.mean()),
            "precision": float(theirs.correct[named].mean()) if named.any() else None,
        }
        open_fit, open_test = open_fit & (ours.confidence < _in_force(chosen)), open_test & ~named
        below = rank.name
    return result


def priors(counts: pd.DataFrame, classes: list[str], class_hash: str, settings: RegionPriors) -> dict:
    """Compute region priors, see `priors.log_ratios`.

    Args:
        counts: of `assignment.region_counts`.

    Returns:
        {class_hash, regions, smoothing, floor, log_ratios [R, C]}
    """
    counts = counts.reindex(columns=classes, fill_value=0)
    ratios = log_ratios(counts.to_numpy(), smoothing=settings.smoothing, floor=settings.floor)
    return {
        "class_hash": class_hash,
        "regions": counts.index.tolist(),
        "smoothing": settings.smoothing,
        "floor": settings.floor,
        "log_ratios": ratios.astype(np.float16).astype(np.float64).round(4).tolist(),  # judged as they are shipped
    }


def _prior_of(known: dict, photos: Predictions) -> Prior:
    """Return each photo's row of the priors; a photo without a known region gets zeros."""
    rows = {region: row for row, region in enumerate(known["regions"])}
    added = np.vstack([known["log_ratios"], np.zeros(len(known["log_ratios"][0]))])
    return Prior(added, np.array([rows.get(region, len(rows)) for region in photos.regions.tolist()]))


def _with_priors(evidence: Evidence, without: Scores, known: dict | str) -> dict:
    """Measure what region priors add, with a temperature and a threshold of their own."""
    fit, test, ship = evidence.fit, evidence.test, evidence.settings.region_priors.ship
    if isinstance(known, str):
        if ship:
            raise ValueError(f"phase5.region_priors.ship: received true, and {known}; set it to false")
        return {"ship": ship, "why": known}
    fit_prior, test_prior = (_prior_of(known, each) for each in (fit, test))
    value = fit_temperature(fit.logits, fit.labels, prior=fit_prior)
    fitted = score(fit.logits, fit.labels, value, prior=fit_prior)
    tested = score(test.logits, test.labels, value, prior=test_prior)
    asked, answered = evidence.answered(fitted, tested)
    chosen = choose(evidence, asked)
    judged = thresholds.evaluate_threshold(answered.confidence, answered.correct, _in_force(chosen))
    compared = intervals.compare(without.correct, tested.correct, test.regions, test.group_ids)
    return {
        "ship": ship,
        "temperature": value,
        **chosen,
        "precision": judged["precision"],
        "coverage": judged["coverage"],
        "top1": compared.overall,
        "top1_per_region": compared.per_region,
        "without": evidence.quality(without, test.group_ids),
        "with": evidence.quality(tested, test.group_ids),
    }


def _observations(
    evidence: Evidence, tested: Scores, table: pd.DataFrame, value: float, species_threshold: float
) -> dict:
    """Compare predictions combined over several photos of one observation with those of the single photos."""
    test = evidence.test
    photos = pd.DataFrame(
        {
            "observation": table.observation_id.reindex(test.sample_ids).to_numpy(),
            "label": test.labels,
            "group": test.group_ids,
        }
    )
    named = photos[photos.observation.fillna("") != ""].groupby("observation")
    several = named.label.agg(["size", "nunique", "first"]).query("size > 1")
    one_plant = several[several["nunique"] == 1]  # two names for one plant: one of them is wrong
    if len(one_plant) < MIN_PHOTOS:
        return _too_few(len(one_plant), "test observations of several photos")
    member = one_plant.index.get_indexer(photos.observation)
    rows = member >= 0
    labels = one_plant["first"].to_numpy()
    groups = photos.group[rows].groupby(member[rows]).first().to_numpy()
    blocks = together(test.logits, value, member, len(one_plant))
    said = Scores.concatenated([score(logits, labels[plants]) for plants, logits in blocks])
    answered = thresholds.evaluate_threshold(said.confidence, said.correct, species_threshold)
    return {
        "n": len(one_plant),
        "photos": int(rows.sum()),
        "two_names": int(len(several) - len(one_plant)),
        "single": evidence.quality(tested[rows], test.group_ids[rows]),
        "together": evidence.quality(said, groups),
        "precision": answered["precision"],
        "coverage": answered["coverage"],
    }
