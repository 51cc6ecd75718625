"""The audit's findings on lists, licences, regions and shared photos: sentences, tables and parts of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from keras_pipeline.core.config.source import Source
from keras_pipeline.core.licenses import KNOWN
from keras_pipeline.evaluation.report.html import Block, KeyValues, Paragraph, Table
from keras_pipeline.ingest.idle import without_value
from keras_pipeline.ingest.ledger import UNDER_SPECIES
from keras_pipeline.ingest.tally import counted
from keras_pipeline.ingest.understand import TEXT_IN_REPR, lists_as_text

SHOWN = 10  # rows in a table on the page
NAMED, NARROW = 5, 60  # values in a sentence; characters of a name in JSON
ALIKE = 0.95  # of the species have one region: then it is the species', not the photo's
SHARED = ["latin_name", "other", "shared", "photos", "other_photos", "share"]


def remarks(result: dict, source: Source) -> list[str]:
    """Return the sentences that the console shows too."""
    return [
        *_of_lists(result, source),
        *_of_types(result, source),
        *_of_missing(result, source),
        *_of_licenses(result, source),
        *_of_regions(result),
        *_of_shared(result),
    ]


def tables(result: dict) -> dict[str, pd.DataFrame]:
    """Return {name of the CSV file: its rows}."""
    licenses = [
        (name, spelling, n, entry["photos"], entry["species"])
        for name, entry in result["licenses"].items()
        for spelling, n in entry["spellings"].items()
    ]
    lost = [(", ".join(row["licenses"]), name) for row in result["allow_lists"] for name in row["lost"]]
    return {
        "licence_spellings": pd.DataFrame(licenses, columns=["licence", "spelling", "photos", "of_licence", "species"]),
        "licences_species_lost": pd.DataFrame(lost, columns=["source.licenses", "latin_name"]),
        "minima": pd.DataFrame(result["minima"], columns=["minimum", "species", "photos"]),
        "shared_photos": pd.DataFrame(result["shared_photos"], columns=SHARED),
        "unnamed_regions": pd.DataFrame(list(result["unnamed_regions"].items()), columns=["value", "photos"]),
    }


def for_json(result: dict, most: int) -> dict:
    """Return the findings with lists of at most so many entries."""
    lists = [
        row | {"lost": [name[:NARROW] for name in row["lost"][:most]], "species_lost": len(row["lost"])}
        for row in result["allow_lists"]
    ]
    return {
        "allow_lists": lists,
        "shared_photos": {"pairs": len(result["shared_photos"]), "rows": result["shared_photos"][:most]},
        "shared_synonyms": result["shared_synonyms"][:most],
    }


def licences(result: dict) -> list[Block]:
    """Return what the photos' licences are, and what lists of allowed ones would leave."""
    rows = [
        [name, entry["photos"], entry["species"], "; ".join(list(entry["spellings"])[:SHOWN])]
        for name, entry in list(result["licenses"].items())[:SHOWN]
    ]
    lists = [
        [", ".join(row["licenses"]), row["photos"], row["species"], len(row["lost"]), ", ".join(row["lost"][:NAMED])]
        for row in result["allow_lists"]
    ]
    return [
        *before_minimum(result),
        Table(["licence", "photos", "species", "spellings"], rows, "Licences (all: tables/licence_spellings.csv)"),
        Table(
            ["source.licenses", "photos left", "species left", "species lost", "such as"],
            lists,
            "What a list of allowed licences would leave (all lost species: tables/licences_species_lost.csv)",
        ),
        KeyValues({"cure": "source.licenses names the licences whose photos are used; all are, where it is null"}),
    ]


def before_minimum(result: dict) -> list[Block]:
    """Say what a table counts beyond the usable photos."""
    left_out = result["unusable"].get(UNDER_SPECIES, 0)
    if not left_out:
        return []
    photos = f"{result['usable'] + left_out:,} photos, {left_out:,} of which source.min_per_species leaves out later"
    return [Paragraph(f"Counted before source.min_per_species: {photos}.")]


def minima(result: dict) -> list[Block]:
    """Return what `source.min_per_species` would leave."""
    rows = [[row["minimum"], row["species"], row["photos"]] for row in result["minima"]]
    return [Table(["source.min_per_species", "species left", "photos left"], rows, "Photos by distinct URL")]


def shared(result: dict) -> list[Block]:
    """Return the pairs of names that share photos."""
    if not result["shared_photos"]:
        return []
    rows = [[row[name] for name in SHARED] for row in result["shared_photos"][:SHOWN]]
    return [Table(SHARED, rows, "Names that share photos (all: tables/shared_photos.csv)")]


def regions(result: dict) -> list[Block]:
    """Return what is not clear about the regions."""
    blocks: list[Block] = list(map(Paragraph, _of_regions(result)))
    if unnamed := result["unnamed_regions"]:
        rows: list[list[str | int]] = [[value, n] for value, n in list(unnamed.items())[:SHOWN]]
        blocks.append(Table(["value", "photos"], rows, "In no region (all: tables/unnamed_regions.csv)"))
    return blocks


def documents(result: dict) -> list[Block]:
    """Return documents and photos apart."""
    if result["references"] == result["documents"] and not result["documents_without_photos"]:
        return []
    return [Paragraph(sentence) for sentence in _counted(result)]


def _counted(result: dict) -> Iterator[str]:
    without, repeated = result["documents_without_photos"], result["repeated_in_documents"]
    yield (
        f"{counted(result['documents'], 'document')} with {counted(result['references'], 'reference')} to photos; "
        f"{counted(repeated, 'reference')} to a URL that the document has twice, which leaves {result['photos']:,}."
    )
    if without:
        yield f"{counted(without, 'document')} without a photo: the lists are missing or empty."


def _of_types(result: dict, source: Source) -> Iterator[str]:
    """Of needed fields, the reasons why photos are skipped tell; of lists, `_of_lists`."""
    for name in ("region", "license", "attribution", "observation_id", "user_id"):
        found, path = result["fields"][name], getattr(source.fields, name)
        n = found["mistyped"] - found["lists"]
        if n:
            shown = next((each["value"] for each in found["samples"] if not each["value"].startswith("list ")), "")
            key = next((key for key, _ in TEXT_IN_REPR.findall(shown)), None)
            remedy = f"name a field in it, as in source.fields.{name}: {path}.{key}" if key else "correct the documents"
            yield (
                f"source.fields.{name}: received {shown or 'another type'} in {n:,} of "
                f"{counted(result['photos'], 'photo')}, expected a text, so that it counts as missing; {remedy}"
            )


def _of_missing(result: dict, source: Source) -> Iterator[str]:
    if result["usable"]:  # else the needed fields are missing, and the error tells what to set
        fields = result["fields"].items()
        yield from without_value(source, [name for name, found in fields if found["missing"] == result["photos"]])


def _of_lists(result: dict, source: Source) -> Iterator[str]:
    if result["references"] != result["documents"]:
        yield from _counted(result)
    unit = "documents" if result["references"] == result["documents"] else "photos"
    for name, found in result["fields"].items():
        if found["lists"]:
            values = (sample["value"] for sample in found["samples"] if sample["value"].startswith("list "))
            shown = next(values, "list […]").removeprefix("list ")
            yield lists_as_text(name, shown, found["lists"], result[unit], unit, source)


def _of_licenses(result: dict, source: Source) -> Iterator[str]:
    """Of a licence that is known, a photo need not be there: the list may be a usual one."""
    if idle := [name for name in source.licenses or () if name not in (*KNOWN, *result["licenses"])]:
        there = {name: entry["photos"] for name, entry in result["licenses"].items()}
        yield (
            f"source.licenses: no photo has {', '.join(map(repr, idle[:NAMED]))}, and no known licence is called that; "
            f"correct it; there are: {_named(there)}"
        )


def _of_regions(result: dict) -> Iterator[str]:
    one, species = result["region_of_species"]["one"], result["region_of_species"]["species"]
    known = sum(name != "unknown" for name in result["per_region"])
    if known > 1 and species > 1 and one >= ALIKE * species:
        yield (
            f"The region is the species' here: {one:,} of {species:,} species with two photos or more have one. What "
            "is measured in a region is then measured on its species, and says nothing on other plants of the region."
        )
    if unnamed := result["unnamed_regions"]:
        values = ", ".join(f"{value!r} ({counted(n, 'photo')})" for value, n in list(unnamed.items())[:NAMED])
        more = f" and {len(unnamed) - NAMED:,} more" if len(unnamed) > NAMED else ""
        yield (
            f"source.fields.region has {counted(len(unnamed), 'value')} that no region of source.regions names: "
            f"{values}{more}; such a photo may have a region by another value"
        )
    if several := result["several_regions"]:
        yield (
            f"{counted(sum(several.values()), 'photo')} with values of several regions: the first in source.regions "
            f"counts: {_named(several)}"
        )


def _of_shared(result: dict) -> Iterator[str]:
    if names := result["shared_synonyms"]:
        yield (
            f"{counted(len(names), 'name')} with most photos under another name too, e.g. {names[0]} and "
            f"{result['synonyms'][names[0]]}; tables/synonyms_suggested.csv joins them, if source.synonyms names it."
        )


def _named(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{value} {n:,}" for value, n in list(counts.items())[:NAMED])
    return shown + (f" and {len(counts) - NAMED:,} more" if len(counts) > NAMED else "")
