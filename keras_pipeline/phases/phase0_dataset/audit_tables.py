"""The audit's tables, and the cures that the config can name."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pandas as pd

from keras_pipeline.core.taxonomy import genera
from keras_pipeline.ingest.hash_table import HashTable
from keras_pipeline.ingest.listing import Listing
from keras_pipeline.ingest.tally import CLIP
from keras_pipeline.phases.phase0_dataset import audit_origins


def first(rows: Iterable, n: int) -> list:
    """Return the first n rows."""
    return list(itertools.islice(rows, n))


def listings(result: dict) -> dict[str, Listing]:
    """Return {name of the CSV file: its rows, of which there may be millions}."""
    return {
        "conflicts": result["conflicts"]["rows"],
        "repeated_urls": result["repeated_urls"]["rows"],
        "unusable": result["unusable_samples"],
    }


def tables(result: dict) -> dict[str, pd.DataFrame]:
    """Return {name of the CSV file: its rows}."""
    species = _frame(["latin_name", "photos"], result["per_class"].items())
    species["genus"] = genera(list(species.latin_name))
    per_genus = [(name, entry["species"], entry["photos"]) for name, entry in result["per_genus"].items()]
    fields = [(name, found["missing"], found["mistyped"]) for name, found in result["fields"].items()]
    spellings = [(e["latin_name"], name, n) for e in result["spellings"] for name, n in e["spellings"].items()]
    return {
        "species": species,
        "genera": _frame(["genus", "species", "photos"], per_genus),
        "regions": _frame(["region", "photos"], result["per_region"].items()),
        "hosts": _frame(["host", "photos"], result["per_host"].items()),
        "licences": _frame(["license", "photos"], result["per_license"].items()),
        "years": _frame(["year", "photos"], result["per_year"].items()),
        "observations": _frame(["photos_each", "observations"], result["observations"]["sizes"].items()),
        "fields": _frame(["field", "missing", "mistyped"], fields),
        "spellings": _frame(["latin_name", "spelling", "photos"], spellings),
        "synonyms_suggested": _frame(["synonym", "latin_name"], result["synonyms"].items()),
        "no_species": pd.DataFrame(result["no_species"], columns=["latin_name", "photos", "why"]),
        "rare_species": _frame(["latin_name", "photos"], result["rare_species"].items()),
        **audit_origins.tables(result),
    }


def _frame(columns: list[str], rows: Iterable[tuple]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns)


def exclusions(result: dict) -> dict[str, tuple[str, Iterable[str]]]:
    """Return {name of the file: (comment, lines)}, in the form that source.exclude reads."""
    conflicts = (row["image_url"] for row in result["conflicts"]["rows"])
    repeats = (row["sample_id"] for row in result["repeated_urls"]["rows"])
    return {
        "exclude_conflicts": (
            "image URLs that carry two species' names",
            _lines(conflicts, result["conflicts"]["photos"]),
        ),
        "exclude_repeated_urls": (
            "photos whose URL another document gives to the same species",
            _lines(repeats, result["repeated_urls"]["photos"]),
        ),
        "exclude_no_species": (
            "labels that name no species",
            _lines((row["latin_name"] for row in result["no_species"]), len(result["no_species"])),
        ),
        "exclude_rare_species": (
            f"fewer than {result['min_per_species']} photos",
            _lines(rare(result), len(result["rare_species"])),
        ),
    }


def rare(result: dict) -> dict[str, int]:
    """Return rare species that are not just rare spellings of others."""
    spelled = {name for entry in result["spellings"] for name in entry["spellings"]}
    return {name: n for name, n in result["rare_species"].items() if name not in spelled}


def _lines(values: Iterable[str], most: int) -> Iterator[str]:
    seen = HashTable(most, "Q", 1)
    for value in values:
        # A value that was cut, or that spans two lines, would exclude nothing.
        if len(value) < CLIP and "\n" not in value and not seen.get(value, 1):
            yield value
