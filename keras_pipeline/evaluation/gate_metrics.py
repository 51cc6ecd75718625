"""What each gate measures, from the artefacts: a number, or why it says nothing here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import MIN_PHOTOS
from keras_pipeline.core.files import read_json
from keras_pipeline.core.region_names import pooled, title_of
from keras_pipeline.core.sidecars import sidecar

FIVE = "Of {} species the right one is always among the first five."

NO_RULES = "phase0.split.group_by is empty: nothing holds photos together"


class Unmeasurable(Exception):
    """Why a gate's metric says nothing here: it is missing, or could only come out perfect."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric that is missed only where the whole of its 95 % interval is beyond the limit."""

    value: float
    interval: list[float]  # [low, high]
    words: str  # what it was made from


def url_failure_rate(run: Run) -> float:
    """Share of URLs that fail; not measurable where the sample's interval holds the limit."""
    check, limit = run.read("url_check"), run.config.gates.url_failure_rate
    if check["failure_rate"] is None:
        raise Unmeasurable("no URL to check")
    low, high = check["interval"]
    if not check["complete"] and (low < limit) != (high < limit):
        raise Unmeasurable(
            f"the sample's interval, {low:.3g} to {high:.3g}, holds the limit: raise phase0.validate_urls.sample"
        )
    return check["failure_rate"]


def largest_group(run: Run) -> float:
    """Share of the photos in the largest group."""
    audit, limit = run.read("leak_audit"), run.config.gates.largest_group
    if not audit["links"]:
        raise Unmeasurable(NO_RULES)
    largest = audit["largest_group"]
    # The limit is one of 850,000 photos. Of a few hundred, the photos of one plant are more than that.
    if largest["share"] > limit and largest["n"] < MIN_PHOTOS:
        raise Unmeasurable(
            f"the largest group has {largest['n']} of {audit['photos']:,} photos: with fewer than {MIN_PHOTOS} it may "
            "well be one plant, whatever its share"
        )
    return largest["share"]


def split_shares(run: Run) -> float | Estimate:
    """The largest difference of a split's share of the photos from the reachable one.

    From the one that was asked for where a split has less than half of that: if no more is reachable, what is judged on
    it says little all the same.
    """
    shares = run.read("leak_audit").get("shares")
    if shares is None:
        raise Unmeasurable("the shares were not recorded: run `phase0 split --force`")
    total = sum(shares["photos"].values())
    wanted = {split: share * total for split, share in shares["asked"].items()}
    found = (
        max(
            abs(n - (wanted[split] if n < wanted[split] / 2 else shares["reachable"][split]))
            for split, n in shares["photos"].items()
        )
        / total
    )
    if found <= run.config.gates.split_shares:
        return found
    allowed = shares["two_groups"] / total
    return Estimate(found, [max(0.0, found - allowed), found], f"two groups are {allowed:.3g} of the photos")


def two_names_by_url(run: Run) -> float:
    """Share of the photos whose URL has two names."""
    audit = run.read("audit")
    photos = sum(audit["per_class"].values())
    if not photos:
        raise Unmeasurable("no usable photo")
    conflicts = audit["conflicts"]  # an older audit has not counted the photos that came first
    return conflicts.get("all_photos", conflicts["photos"]) / photos


def two_names_by_picture(run: Run) -> float:
    """Share of the photos whose picture has two names."""
    audit = run.read("leak_audit")
    if "two_names" not in audit:
        raise Unmeasurable("pictures with two names were not counted: run `phase0 split --force`")
    if not {"sha256", "near-duplicate"} & audit["links"].keys():
        raise Unmeasurable("phase0.split.group_by has neither sha256 nor near-duplicate: no rule compares pictures")
    if "photos_with_two_names" not in audit:  # an older split has counted pictures only
        return audit["two_names"] / audit["pictures"]
    return audit["photos_with_two_names"] / audit["photos_compared"]


def leaks(run: Run) -> int:
    """Leaks between splits."""
    audit = run.read("leak_audit")
    if not audit["leaks"] and not audit["links"]:
        raise Unmeasurable(NO_RULES)
    return len(audit["leaks"])


def look_alikes(run: Run) -> float:
    """Share of the judged photos whose picture is in another split, too."""
    if not run.path("look_alikes").exists():
        raise Unmeasurable("copies in two splits were not looked for: run `phase0 baseline`")
    return run.read("look_alikes")["share"]


def counted_species(run: Run) -> int:
    """Species that the audit has counted."""
    species = len(run.read("audit")["per_class"])
    if species == 1:
        raise Unmeasurable("one species: nothing to balance; is source.fields.latin_name the right field?")
    return species


def _refuse_one_species(species: int, photos: str) -> None:
    """Whoever always gives the one answer that is right there is perfect."""
    if species < 2:
        raise Unmeasurable(f"{photos} are of one species")


def metric(artefact: str, key: str = "top1_accuracy") -> Callable[[Run], Any]:
    """Of a `metrics_<split>.json`."""

    def value(run: Run) -> Any:
        metrics = run.read(artefact)
        _refuse_one_species(metrics["species"], f"all {metrics['n']} {metrics['split']} photos")
        return metrics[key]

    return value


def trivial(run: Run) -> str:
    """Which metrics of the test photos could not have come out otherwise, in sentences; '' where all could."""
    probe = run.read("baseline")["linear_probe"]  # every model's test photos and class list
    lone = [name for name, entry in probe["per_region"].items() if entry["species"] < 2]
    older = probe.get("per_class_recall")  # written here until it moved to `baseline_recall.npz`
    said, species = [], probe["classes"] if older is None else len(older)
    if probe["species"] < 2:
        said.append("All test photos are of one species: shares of them, ECE and precision say nothing.")
    elif lone:
        said.append(f"All test photos of {', '.join(lone)} are of one species: shares of them say nothing.")
    if species <= 5:
        said.append(FIVE.format(species))
    return " ".join(said)


def probe(run: Run) -> float:
    """Top-1 of the linear probe."""
    probe = run.read("baseline")["linear_probe"]
    _refuse_one_species(probe["species"], f"all {probe['n']} test photos")
    return probe["top1_accuracy"]


def teacher_top5(run: Run) -> float:
    """Top-5 of the global teacher; trivial with five species or fewer."""
    species = len(run.read("teacher_metrics")["per_class_recall"])
    if species <= 5:
        raise Unmeasurable(FIVE.format(species))
    return metric("teacher_metrics", "top5_accuracy")(run)


def worst_tenth(run: Run) -> float:
    """Recall of the tenth of the species that the global teacher recognises worst."""
    metric("teacher_metrics")(run)
    found = run.read("teacher_metrics")
    if "worst_tenth" not in found:
        raise Unmeasurable("it was not measured by that version: run `phase1 evaluate --force`")
    if found["worst_tenth"] is None:
        raise Unmeasurable("no species has 20 test photos in two groups")
    recall: float = found["worst_tenth"]["recall"]
    return recall


def judged(metrics: dict) -> str:
    """Return how many species have a photo that judges, and of how many, for the caption of metrics."""
    return f"{metrics['species']:,} of {len(metrics['per_class_recall']):,} species"


def region(run: Run, artefact: str) -> float:
    """Top-1 in the regional teacher's region, of one of the metrics."""
    region = run.config.regional.region
    entry = pooled(run.read(artefact)["per_region"], region)
    if entry is None:
        raise Unmeasurable(f"no test photo of {title_of(region)}")
    _refuse_one_species(entry["species"], f"all {entry['n']} test photos of {title_of(region)}")
    return entry["top1"]


def regional_gain(run: Run) -> float | Estimate:
    """Top-1 in the region, regional less global teacher.

    Where the region is the species', `phase2 evaluate` has also asked the global teacher among these species only. That
    difference judges then: the other one praises the regional teacher for what the region gives away.
    """
    unrestricted = region(run, "regional_metrics") - region(run, "teacher_metrics")
    comparison = run.path("regional_comparison")
    fair = run.read("regional_comparison").get("among_its_species") if comparison.exists() else None
    if fair is None:
        return unrestricted
    difference, (low, high) = fair["difference"], fair["interval"]
    return Estimate(
        difference,
        [difference],
        f"regional teacher {fair['second']:.3f}, global teacher {fair['first']:.3f} among the region's "
        f"{fair['species']:,} species; 95 % interval of the difference {low:+.3f} to {high:+.3f}",
    )


def val_loss_ratio(run: Run) -> float:
    """The last val loss over the best."""
    losses = [row["val_loss"] for row in run.read("finetune_history")["epochs"]]
    if len(losses) == 1:
        raise Unmeasurable("one epoch: the last is the best")
    if min(losses) == 0:
        raise Unmeasurable("the best val loss is 0: nothing is a multiple of it")
    return losses[-1] / min(losses)


def _refuse_one_test_species(run: Run) -> None:
    test = run.read("dataset")["splits"]["test"]
    _refuse_one_species(len(test["per_class"]), f"all {test['n']} test photos")


def shipped(key: str) -> Callable[[Run], float]:
    """Of the shipped weights' `calibration.json`."""

    def value(run: Run) -> float:
        _refuse_one_test_species(run)
        found = run.read("shipped_calibration")[key]
        if found is None:
            raise Unmeasurable("no test photo is conclusive")
        return found

    return value


def precision(run: Run) -> float:
    """Precision of conclusive test answers."""
    value, test = shipped("precision")(run), run.read("dataset")["splits"]["test"]
    conclusive = round(run.read("shipped_calibration")["coverage"] * test["n"])
    if conclusive < MIN_PHOTOS:
        raise Unmeasurable(f"{conclusive} conclusive test photos are too few to judge, {MIN_PHOTOS} are the least")
    return value


def ece(run: Run) -> float:
    """Who knows nothing, and gives each species its share, has none."""
    value, test = shipped("ece_after")(run), run.read("dataset")["splits"]["test"]
    top1, commonest = run.read("shipped_calibration")["after"]["top1"], max(test["per_class"].values()) / test["n"]
    if top1 <= commonest:
        raise Unmeasurable(
            f"top-1 is {top1:.3f}, and {commonest:.3f} for who always names one species: probabilities of such a model "
            "say nothing"
        )
    return value


def _judged(run: Run) -> dict:
    """equivalence.json of a model that could be compared with its page."""
    verdict = run.read("equivalence")
    if verdict["status"] == "not judged":
        raise Unmeasurable("; ".join(verdict["reasons"]))
    return verdict


def wasm(run: Run, key: str) -> float:
    """One of the page's metrics on WebAssembly."""
    found = _judged(run)["backends"].get("wasm", {}).get(key)
    if found is None:
        raise Unmeasurable("the browser has no WebAssembly, or gave no answer: see phase6/equivalence.json")
    return found


def compared(key: str) -> Callable[[Run], float]:
    """Of the page's answers against Python's, which differ little where all photos are of one species."""

    def value(run: Run) -> float:
        _refuse_one_test_species(run)
        return wasm(run, key)

    return value


def equivalent(run: Run) -> float:
    """1 where the page was shown to say what Python says, in every browser that was asked, else 0."""
    verdict = _judged(run)
    passed = verdict["passed"]
    if passed:
        _refuse_one_test_species(run)
        missing = verdict.get("missing_browsers", {})
        if missing and run.config.phase6.browsers:  # null asks for those that are there
            raise Unmeasurable("; ".join(f"{name}: {why}" for name, why in missing.items()))
    return float(passed)


def gpu_seconds(run: Run) -> float:
    """Of the faster of the backends that a graphics card has run."""
    backends = _judged(run)["backends"].values()
    found = [each["median_ms"] for each in backends if not each["software"] and each["median_ms"] is not None]
    if not found:
        raise Unmeasurable("no backend ran on a graphics card")
    return min(found) / 1000


def completed_phases(run: Run) -> int:
    """Phases that the manifest calls completed, or not applicable."""
    from keras_pipeline.core import manifest  # slow to import, and `status` judges nothing

    phases = manifest.read(run.path("manifest")).phases.values()
    return sum(phase.status in ("completed", "not applicable") for phase in phases)


def reproduced(run: Run) -> float:
    """Of a repetition of these very weights."""
    file = run.path("manifest").with_name("reproduction.json")
    found: Any = read_json(file) if file.exists() else {}
    weights = found.get("weights", {}) if isinstance(found, dict) else {}
    mine = {name: (sidecar(run.path(name)) or {}).get("content_hash") for name in weights}
    if not mine or mine != weights or "same" not in found:
        raise Unmeasurable("needs a second run of these weights: `phase7 reproduce`")
    return float(found["same"])


def value_of(artefact: str, *keys: str) -> Callable[[Run], float]:
    """What stands in a JSON artefact."""

    def value(run: Run) -> float:
        found: Any = run.read(artefact)
        for key in keys:
            found = found[key]
        return found

    return value
