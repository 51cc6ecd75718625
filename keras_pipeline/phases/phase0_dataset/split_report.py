"""What `phase0 split` says beyond its counts: whom it judges, and what its rules could not see."""

from __future__ import annotations

from keras_pipeline.core.dataset import SPLITS

COPIES = "the same picture as another record of its species"
NEEDS = {  # what a rule in `phase0.split.group_by` compares
    "observation": "observation_id",
    "session": "user_id or no day that is understood",
    "author": "user_id or attribution",
}


def remarks(report: dict) -> list[str]:
    """Return sentences about leak_audit.json, the most important first."""
    total, species, stored = report["photos"], report["species"], report["stored"]
    judged = species - report["species_missing_from"]["test"]
    said = [f"judged on {judged:,} of {species:,} species: the others have no test photo"] if judged < species else []
    shares = report["shares"]
    starved = [split for split in SPLITS if shares["photos"][split] < shares["asked"][split] * total / 2]
    if starved:
        got = ", ".join(
            f"{split} {shares['photos'][split]:,} of {round(shares['asked'][split] * total):,} photos"
            for split in starved
        )
        said.insert(
            0,
            f"warning: less than half of what was asked for: {got}; what is judged or fitted on so few says little: "
            "leave out species of so few photos (source.min_per_species), take the rule that makes large groups out of "
            "phase0.split.group_by, or ask for less in phase0.split",
        )
    off = [
        f"{split} {shares['photos'][split] / total:.1%} instead of {shares['asked'][split]:.1%}"
        for split in SPLITS
        if abs(shares["reachable"][split] - shares["asked"][split] * total) > max(0.01 * total, shares["two_groups"])
    ]
    if off:
        said.append(
            f"shares that this collection does not allow: {', '.join(off)}; every species needs a train photo, one of "
            "many groups a photo in each split, and old groups keep their place"
        )
    absent = report["absent"]
    parts = {"session": f" ({absent['user_id']:,} no user_id, {absent['day']:,} no day)"}
    said += [
        f"rule {rule}: {stored - n:,} of {stored:,} photos have no {NEEDS[rule]}{parts.get(rule, '')}, so that "
        "it can't judge them"
        for rule, n in report["judged"].items()
        if n < stored / 2
    ]
    if "session" in report["judged"] and report["without_day"]:
        said.append(
            f"{report['without_day']:,} of {stored:,} photos have a user, but no day that is understood, such as "
            "2020-05-03 or 2020/5/3; is source.fields.observed_on the right field?"
        )
    photos = report["by_author"]["photos"]
    tied = max(report["judged"].get(rule, 0) for rule in ("observation", "session"))
    if "author" not in report["judged"] and photos and tied < stored / 2:
        said.append(
            f"neither observation nor session ties most photos: the rule author in phase0.split.group_by would tie "
            f"{photos:,} of {stored:,} photos to others of the same species and author"
        )
    return said
