"""What a model's probabilities are worth, and when it should say 'not conclusive': of the float student in phase 5, of
the shipped weights in phase 6.

Everything is fitted on the calibration split and measured on the test split.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.schema import UNKNOWN_REGION
from keras_pipeline.core.taxonomy import genera_of
from keras_pipeline.phases import build

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from keras_pipeline.evaluation.predict import Predictions
    from keras_pipeline.evaluation.scores import Prior, Scores

LEAST = 20  # photos for figures of their own: of a region, of observations


def predict(run: Run, model, name: str, folder: Path) -> tuple[Predictions, Predictions]:
    """Of the calibration and the test split; the logits lie in `folder`, see `evaluation.predict`."""
    size = run.config.phase4.data.image_size
    fit, test = (
        build.predict(run, model, split, size, f"{name} on {split}", file=folder / f"{split}.npy")
        for split in ("calibration", "test")
    )
    return fit, test


def places(run: Run) -> pd.DataFrame:
    """Where each photo went: sample_id (index), split, latin_name, region, observation_id, license, attribution."""
    import pandas as pd
    import pyarrow as pa

    columns = ["sample_id", "split", "latin_name", "region", "observation_id", "license", "attribution"]
    try:
        return pd.read_parquet(run.path("assignment"), columns=columns).set_index("sample_id")
    except (OSError, pa.ArrowException) as error:
        said = str(error).partition("\n")[0]
        raise BrokenArtefact(f"{run.path('assignment')}: {said}; run `phase0 split --force`") from None


def refuse_learnt(run: Run, table: pd.DataFrame, fit: Predictions, test: Predictions) -> None:
    """Raises BrokenArtefact where photos that are to judge the model, or to calibrate it, have chosen its weights or
    each other's place: by sample id, and by the shards' hashes.
    """
    splits = run.read("dataset")["splits"]
    for name, predictions in (("calibration", fit), ("test", test)):
        place = table.split.reindex(predictions.sample_ids).replace("", "none").fillna("none")
        wrong = place[place != name]
        if len(wrong):
            raise BrokenArtefact(
                f"{name}: {len(wrong)} of {len(place)} photos are of another split, the first, {wrong.index[0]}, of "
                f"{wrong.iloc[0]}: a model is not judged on photos it has learnt from; run `phase0 split "
                "--force` and what follows"
            )
        for other in splits.keys() - {name}:
            shared = {s["sha256"] for s in splits[name]["shards"]} & {s["sha256"] for s in splits[other]["shards"]}
            if shared:
                raise BrokenArtefact(
                    f"{run.path('dataset')}: {name} and {other} have a shard in common (sha256 {min(shared)[:12]}): "
                    "a model is not judged on photos it has learnt from; run `phase0 split --force` and what follows"
                )


def temperature(run: Run, fit: Predictions, test: Predictions) -> tuple[dict, Scores, Scores]:
    """(`temperature.json`: T, and what the probabilities are worth before and after it, overall and by region; the test
    photos' scores before, and after).
    """
    from keras_pipeline.evaluation import calibration
    from keras_pipeline.evaluation.scores import score

    value = calibration.fit_temperature(fit.logits, fit.labels)
    before, after = (score(test.logits, test.labels, t) for t in (1.0, value))
    overall = {"before": _quality(run, before, test.group_ids), "after": _quality(run, after, test.group_ids)}
    per_region = {}
    for region, (_, own) in _regions(fit, test).items():
        if own.sum() < LEAST:
            per_region[region] = _too_few(int(own.sum()), "test photos")
        else:
            per_region[region] = {
                moment: _quality(run, scores[own], test.group_ids[own])
                for moment, scores in (("before", before), ("after", after))
            }
    flat = {
        f"{name}_{moment}": figures[name]["value"]
        for moment, figures in overall.items()
        for name in ("ece", "mce", "nll", "brier")
    }
    result = {
        "temperature": value,
        "temperature_at_bound": value in calibration.TEMPERATURE_BOUNDS,
        "n_fit": len(fit.labels),
        "n": len(test.labels),
        **flat,
        "ece_null": overall["after"]["ece"]["null"],
        **overall,
        "per_region": per_region,
    }
    return result, before, after


def _threshold(
    run: Run, fit: Predictions, test: Predictions, value: float, table: pd.DataFrame, known: dict | None
) -> tuple[dict, Scores]:
    """(the other half of `calibration.json`: the threshold, the genus below it, what region and further photos add; the
    test photos' scores).

    Args:
        value: T.
        table: of `places`.
        known: of `priors`.
    """
    import numpy as np

    from keras_pipeline.evaluation import threshold as thresholds
    from keras_pipeline.evaluation.scores import score

    genera = np.array(genera_of(run.read("dataset")["classes"]))
    fitted, tested = (score(each.logits, each.labels, value, genera=genera) for each in (fit, test))
    chosen = choose(run, fitted, fit)
    in_force = _in_force(chosen)
    judged = thresholds.evaluate_threshold(tested.confidence, tested.correct, in_force)
    result = {
        **chosen,
        "target_precision": run.config.phase5.target_precision,
        "precision": judged["precision"],
        "coverage": judged["coverage"],
        "aurc": thresholds.risk_coverage(tested.confidence, tested.correct)[2],
        "threshold_scan": thresholds.threshold_scan(tested.confidence, tested.correct),
        "threshold_per_region": _by_region(run, fit, test, fitted, tested),
        "genus": _genus(run, fit, fitted, tested, in_force, genera),
        "region_priors": _with_priors(run, fit, test, tested, known),
        "observations": _observations(run, test, tested, table, value, in_force),
    }
    return result, tested


def calibration(
    run: Run, name: str, weights_hash: str, fit: Predictions, test: Predictions, fitted: dict | None = None
) -> tuple[dict, Scores, dict | None]:
    """(`calibration.json` of a model, the test photos' scores, `priors`).

    Args:
        name: the model's.
        weights_hash: content hash of what it was loaded from, or is to be.
        fitted: of `temperature`, where that is known.
    """
    table = places(run)
    refuse_learnt(run, table, fit, test)
    fitted = fitted or temperature(run, fit, test)[0]
    known = priors(run, table)
    chosen, tested = _threshold(run, fit, test, fitted["temperature"], table, known)
    return {**fitted, **chosen, "model": name, "weights_hash": weights_hash}, tested, known


def draw_reliability(run: Run, test: Predictions, before: Scores, after: Scores) -> None:
    """reliability.png, and reliability_regions.png of the regions with photos enough."""
    from keras_pipeline.evaluation import calibration
    from keras_pipeline.evaluation.report import plots

    edges = calibration.equal_width(run.config.phase5.bins)

    def bins(rows: np.ndarray | slice) -> tuple[list[dict], list[dict]]:
        own = (scores[rows] for scores in (before, after))
        first, second = (calibration.reliability_bins(each.confidence, each.correct, edges) for each in own)
        return first, second

    plots.reliability_diagram({"": bins(slice(None))}, run.path("reliability"))
    regions = {name: bins(own) for name, (own,) in _regions(test).items() if own.sum() >= LEAST}
    plots.reliability_diagram(regions or {"": bins(slice(None))}, run.path("reliability_regions"))


def draw_risk(run: Run, result: dict, tested: Scores) -> None:
    from keras_pipeline.evaluation import threshold
    from keras_pipeline.evaluation.report import plots

    coverage, risk, area = threshold.risk_coverage(tested.confidence, tested.correct)
    chosen = None if result["precision"] is None else (result["coverage"], 1 - result["precision"])
    target = run.config.phase5.target_precision
    plots.risk_coverage(coverage, risk, run.path("risk_coverage"), chosen=chosen, target=target, area=area)


def describe_temperature(result: dict) -> str:
    lines = [f"fitted on {result['n_fit']} calibration photos, test n {result['n']}"]
    for moment, value in (("before", 1.0), ("after", result["temperature"])):
        lines.append(f"{moment} (T {value:.3f}): {_describe_quality(result[moment])}")
    if result["temperature_at_bound"]:
        lines.append("the temperature stands at its bound: too few photos, or a model that knows nothing")
    lines += [f"{region}: {entry['why']}" for region, entry in result["per_region"].items() if "why" in entry]
    return "\n".join(lines)


def describe_raw(run: Run, test: Predictions) -> str:
    """What the probabilities are worth as the model gives them."""
    from keras_pipeline.evaluation.scores import score

    figures = _quality(run, score(test.logits, test.labels), test.group_ids)
    return f"test n {figures['n']}, uncalibrated: {_describe_quality(figures)}"


def describe(result: dict) -> str:
    lines = [f"{_describe_threshold(result)}; AURC {result['aurc']:.4f}"]
    if not result["target_met"]:
        lines.append(shortfall(result))
    return "\n".join([*lines, *describe_additions(result)])


def describe_additions(result: dict) -> list[str]:
    """What genus, region and further photos of a plant add to the threshold."""
    lines = []
    genus, priors, several = result["genus"], result["region_priors"], result["observations"]
    for name, entry in (("genus", genus), ("region priors", priors), ("several photos", several)):
        if "why" in entry:
            lines.append(f"{name}: {entry['why']}")
    if "why" not in genus:
        lines.append(f"genus of {genus['n']} test photos without a conclusive species: {_describe_threshold(genus)}")
    if "why" not in priors:
        top1 = priors["top1"]
        low, high = top1["interval"]
        lines.append(
            f"region priors{'' if priors['ship'] else ' (not shipped)'}: top-1 {top1['first']:.3f} -> "
            f"{top1['second']:.3f} ({top1['difference']:+.3f} [{low:+.3f}, {high:+.3f}]), "
            f"{_describe_threshold(priors)}; {_describe_quality(priors['with'])}"
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


def choose(run: Run, scores: Scores, photos: Predictions, rows: np.ndarray | None = None) -> dict:
    """Choose a threshold on one photo of each group: the bound counts independent photos.

    Args:
        rows: bool [n], the photos that may be asked; None all.

    Returns:
        `threshold`: the one in force, None where its promise falls short of the target and that is not accepted;
        `best_threshold`: the best reachable one, which `precision_lower_bound`, `target_met`, `shortfall`,
        `photos_needed` (see `threshold.choose_threshold`) and `n_promise`, the photos asked, are about.
    """
    import numpy as np

    from keras_pipeline.evaluation import threshold as thresholds

    settings = run.config.phase5
    asked = np.arange(len(scores)) if rows is None else np.flatnonzero(rows)
    asked = asked[thresholds.one_of_each(photos.group_ids[asked], seed=run.config.seed)]
    found = thresholds.choose_threshold(
        scores.confidence[asked], scores.correct[asked], target=settings.target_precision,
        confidence_level=settings.confidence_level,
    )  # fmt: skip
    kept = ("precision_lower_bound", "target_met", "shortfall", "photos_needed")
    return {
        "threshold": found["threshold"] if found["target_met"] or settings.accept_unmet else None,
        "best_threshold": found["threshold"],
        **{key: found[key] for key in kept},
        "n_promise": len(asked),
    }


def _in_force(chosen: dict) -> float:
    """Return the threshold; infinity, which no confidence reaches, where none is in force."""
    return math.inf if chosen["threshold"] is None else chosen["threshold"]


def _quality(run: Run, scores: Scores, group_ids: np.ndarray) -> dict:
    from keras_pipeline.evaluation.calibration import quality

    figures = quality(scores, group_ids, bins=run.config.phase5.bins, seed=run.config.seed)
    return {"top1": float(scores.correct.mean()), **figures}


def _regions(*splits: Predictions) -> dict[str, list[np.ndarray]]:
    """{region: whose photos are of it, bool [n] of each split}, of every region that one of the splits knows."""
    names = sorted({str(name) for photos in splits for name in set(photos.regions)})
    return {name: [photos.regions == name for photos in splits] for name in names}


def _too_few(n: int, of: str) -> dict:
    return {"n": n, "why": f"{n} {of} are too few for figures of their own, {LEAST} are the least"}


def _by_region(run: Run, fit: Predictions, test: Predictions, fitted: Scores, tested: Scores) -> dict:
    """A promise for each region's photos alone; where it can't be made, the one for all photos is what there is."""
    from keras_pipeline.evaluation import threshold as thresholds

    result = {}
    for region, (known, own) in _regions(fit, test).items():
        if min(known.sum(), own.sum()) < LEAST:
            split, n = ("calibration", known.sum()) if known.sum() < LEAST else ("test", own.sum())
            result[region] = _too_few(int(n), f"{split} photos")
            continue
        chosen = choose(run, fitted, fit, known)
        judged = thresholds.evaluate_threshold(tested.confidence[own], tested.correct[own], _in_force(chosen))
        result[region] = {**chosen, **{key: judged[key] for key in ("precision", "coverage", "n")}}
    return result


def _genus(
    run: Run, fit: Predictions, fitted: Scores, tested: Scores, species_threshold: float, genera: np.ndarray
) -> dict:
    """The genus's own threshold, on photos whose species is not conclusive.

    That subset depends on the species' threshold, which the same photos have chosen: what made it stop is among them,
    so that they err more, if anything, than others would. In 200 simulated worlds 12 such promises were false
    (tests/test_threshold.py), no more than chance allows where 5 % are.
    """
    import dataclasses

    if genera.max() + 1 == len(genera):
        return {"why": f"each of the {len(genera)} species is the only one of its genus here"}
    open_fit, open_test = (scores.confidence < species_threshold for scores in (fitted, tested))
    if open_fit.sum() < LEAST:
        return _too_few(int(open_fit.sum()), "calibration photos without a conclusive species")
    by_genus = dataclasses.replace(fitted, confidence=fitted.genus_confidence, correct=fitted.genus_correct)
    chosen = choose(run, by_genus, fit, open_fit)
    named = open_test & (tested.genus_confidence >= _in_force(chosen))
    return {
        **chosen,
        "genera": int(genera.max()) + 1,
        "n": int(open_test.sum()),
        "coverage": float(named.mean()),
        "precision": float(tested.genus_correct[named].mean()) if named.any() else None,
    }


def region_counts(table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Train photos of each species (columns, in order) in each known region (rows, sorted)."""
    import pandas as pd

    train = table[(table.split == "train") & (table.region != UNKNOWN_REGION)]
    return pd.crosstab(train.region, train.latin_name).reindex(columns=classes, fill_value=0)


def priors(run: Run, table: pd.DataFrame) -> dict | None:
    """{class_hash, regions, smoothing, floor, log_ratios [R, C]}, or None where fewer than two regions are known."""
    from keras_pipeline.evaluation.priors import log_ratios

    dataset, settings = run.read("dataset"), run.config.phase5.region_priors
    counts = region_counts(table, dataset["classes"])
    if len(counts) < 2:
        return None
    ratios = log_ratios(counts.to_numpy(), smoothing=settings.smoothing, floor=settings.floor)
    return {
        "class_hash": dataset["class_hash"],
        "regions": counts.index.tolist(),
        "smoothing": settings.smoothing,
        "floor": settings.floor,
        "log_ratios": ratios.round(4).tolist(),
    }


def _prior_of(known: dict, photos: Predictions) -> Prior:
    """A photo of no known region gets nothing added."""
    import numpy as np

    from keras_pipeline.evaluation.scores import Prior

    rows = {region: row for row, region in enumerate(known["regions"])}
    added = np.vstack([known["log_ratios"], np.zeros(len(known["log_ratios"][0]))])
    return Prior(added, np.array([rows.get(region, len(rows)) for region in photos.regions.tolist()]))


def _with_priors(run: Run, fit: Predictions, test: Predictions, without: Scores, known: dict | None) -> dict:
    """What the region adds, with a temperature and a threshold of its own."""
    from keras_pipeline.evaluation import calibration, intervals
    from keras_pipeline.evaluation import threshold as thresholds
    from keras_pipeline.evaluation.scores import score

    if known is None:
        return {
            "ship": run.config.phase5.region_priors.ship,
            "why": "the train photos are of fewer than two known regions",
        }
    fit_prior, test_prior = (_prior_of(known, each) for each in (fit, test))
    value = calibration.fit_temperature(fit.logits, fit.labels, prior=fit_prior)
    fitted = score(fit.logits, fit.labels, value, prior=fit_prior)
    tested = score(test.logits, test.labels, value, prior=test_prior)
    chosen = choose(run, fitted, fit)
    judged = thresholds.evaluate_threshold(tested.confidence, tested.correct, _in_force(chosen))
    compared = intervals.compare(without.correct, tested.correct, test.regions, test.group_ids)
    return {
        "ship": run.config.phase5.region_priors.ship,
        "temperature": value,
        **chosen,
        "precision": judged["precision"],
        "coverage": judged["coverage"],
        "top1": compared.pop("all"),
        "top1_per_region": compared,
        "without": _quality(run, without, test.group_ids),
        "with": _quality(run, tested, test.group_ids),
    }


def _observations(
    run: Run, test: Predictions, tested: Scores, table: pd.DataFrame, value: float, species_threshold: float
) -> dict:
    """Several photos of one observation, asked together, against the same photos one by one."""
    import pandas as pd

    from keras_pipeline.evaluation import threshold as thresholds
    from keras_pipeline.evaluation.scores import score, together

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
    if len(one_plant) < LEAST:
        return _too_few(len(one_plant), "test observations of several photos")
    member = one_plant.index.get_indexer(photos.observation)
    rows = member >= 0
    labels = one_plant["first"].to_numpy()
    groups = photos.group[rows].groupby(member[rows]).first().to_numpy()
    said = score(together(test.logits, value, member, len(one_plant)), labels)
    answered = thresholds.evaluate_threshold(said.confidence, said.correct, species_threshold)
    return {
        "n": len(one_plant),
        "photos": int(rows.sum()),
        "two_names": int(len(several) - len(one_plant)),
        "single": _quality(run, tested[rows], test.group_ids[rows]),
        "together": _quality(run, said, groups),
        "precision": answered["precision"],
        "coverage": answered["coverage"],
    }
