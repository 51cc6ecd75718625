"""The audit's files: JSON, a page, a table per finding, and cures that the config can name."""

from __future__ import annotations

import csv
import itertools
import shlex
from pathlib import Path

import pandas as pd

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.evaluation.report import plots
from keras_pipeline.evaluation.report.html import (
    Block,
    Cell,
    Figure,
    KeyValues,
    Paragraph,
    Table,
    write_report,
)
from keras_pipeline.ingest.audit import COLUMNS, SAMPLES
from keras_pipeline.ingest.tally import counted
from keras_pipeline.phases.phase0_dataset import audit_origins, audit_tables

IN_JSON = 100  # rows in each list of documents; the tables hold all of them
SHOWN = 10  # rows in a table on the page
NARROW = 80  # characters in a cell on the page
HISTOGRAM = "class_histogram.png"
CAPS_SPECIES = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
CAPS_OBSERVATION = (1, 2, 3, 5, 10, 20, 50)
APPEND = "append it to the file that source.exclude names"


LISTS = ("unusable_samples", "exclude_without_effect", "synonyms_without_effect")
LEFT_OUT = {  # what to do about photos that a key leaves out
    "source.fields": "correct them in the collection; source.fields.* if a field has another name there",
    "source.licenses": "source.licenses names the licences whose photos are used: add some (see Licences), or set null",
    "source.exclude": "none, if that is meant: remove lines of the file that source.exclude names",
    "source.min_per_species": "none, if that is meant: lower source.min_per_species, or collect more photos",
}


def write(run: Run, result: dict) -> None:
    """Write audit.json, audit.html, class_histogram.png and tables/ into one folder.

    Args:
        result: from `ingest.audit.audit`.
    """
    folder = run.path("audit").parent
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)  # other steps have tables there too
    for name, table in audit_tables.tables(result).items():
        with aside(tables / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    for name, listing in audit_tables.listings(result).items():
        with aside(tables / f"{name}.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, listing.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(listing)
    for name, (comment, lines) in audit_tables.exclusions(result).items():
        with aside(tables / f"{name}.txt") as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in itertools.chain([f"# {comment}"], lines))
    (folder / HISTOGRAM).unlink(missing_ok=True)
    if result["per_class"]:
        plots.class_histogram(result["per_class"], folder / HISTOGRAM, rare_below=result["min_per_species"])
    write_report(
        folder / "audit.html",
        kind="Audit of the collection",
        experiment=run.config.experiment,
        summary=_summary(result),
        gates=None,
        sections=_sections(result, folder),
    )
    write_json(run.path("audit"), _for_json(result))


def _for_json(result: dict) -> dict:
    short = {
        name: {**result[name], "rows": audit_tables.first(result[name]["rows"], IN_JSON)}
        for name in ("conflicts", "repeated_urls")
    }
    cut = {name: audit_tables.first(result[name], IN_JSON) for name in LISTS}
    return {**result, **short, **cut, **audit_origins.for_json(result, IN_JSON), "histogram": HISTOGRAM}


def _summary(result: dict) -> dict[str, Cell]:
    return {
        "documents": result["documents"],
        "photos": result["photos"],
        "usable": result["usable"],
        "species": result["species"],
        "photos of a species, median": result["class_size"].get("median"),
        "largest / smallest species": result["imbalance"],
        f"species below {result['min_per_species']} photos": len(result["rare_species"]),
        "names in several spellings": len(result["spellings"]),
        "photos whose URL has two names": result["conflicts"]["all_photos"],
    }


def _sections(result: dict, folder: Path) -> list[tuple[str, list[Block]]]:
    tables = folder / "tables"
    return [
        ("Documents", _documents(result)),
        ("Balance", _balance(result, folder)),
        ("Names", _names(result, tables)),
        ("Image URLs", _urls(result, tables)),
        ("Observations", _observations(result)),
        ("Fields", _fields(result)),
        ("Where, when, whose", _origins(result)),
        ("Licences", audit_origins.licences(result)),
    ]


def _documents(result: dict) -> list[Block]:
    counted, read = result["collection_count"], result["documents"]
    blocks: list[Block] = audit_origins.documents(result)
    if counted not in (None, read):
        blocks.append(
            Paragraph(
                f"The server counted {counted:,} documents but returned {read:,}. The collection is changing, its "
                "count is off (after a crash, or while shards are moved), or documents were lost on the way: audit "
                "again before you rely on this."
            )
        )
    blocks += map(Paragraph, without_effect(result))
    if not result["unusable"]:
        return [*blocks, Paragraph("Every document has a latin name and an image URL, and none is excluded.")]
    unusable = audit_tables.first(result["unusable_samples"], SHOWN)
    samples = [[_short(row["sample_id"]), row["reason"]] for row in unusable]
    return [
        *blocks,
        _ranked("Why documents are left out", "reason", "photos", result["unusable"]),
        Table(["sample_id", "reason"], samples, f"The first {len(samples)} of them (all: tables/unusable.csv)"),
        KeyValues({f"cure of {photos:,}": LEFT_OUT[key] for key, photos in result["left_out_by"].items()}),
    ]


def without_effect(result: dict) -> list[str]:
    """Return a sentence for each file of the config that has lines without effect."""
    return [
        f"{key}: {counted(len(lines), 'line')} without effect, since {why}: {'; '.join(map(_short, lines[:SHOWN]))}"
        for key, lines, why in (
            ("source.exclude", result["exclude_without_effect"], "no document has such an _id, URL or name"),
            ("source.synonyms", result["synonyms_without_effect"], "no photo that is used has such a name"),
        )
        if lines
    ]


def _balance(result: dict, folder: Path) -> list[Block]:
    if not result["per_class"]:
        return [Paragraph("No document can be used, so there are no species.")]
    least, rare = result["min_per_species"], audit_tables.rare(result)
    blocks: list[Block] = [
        Figure(folder / HISTOGRAM, "Photos per species, log scale"),
        _ranked("The most photographed species (all: tables/species.csv)", "species", "photos", result["per_class"]),
        _caps(result["per_class"]),
        *audit_origins.minima(result),
        KeyValues({"cure": "source.max_per_species keeps a seeded sample of each species"}),
    ]
    if not rare:
        return [*blocks, Paragraph(f"No species with a single spelling has fewer than {least} photos.")]
    return [
        *blocks,
        _ranked(
            f"The rarest of {len(rare):,} species with fewer than {least} photos and one spelling",
            "species",
            "photos",
            rare,
        ),
        KeyValues(
            {
                "cure": f"collect more, or leave them out: {APPEND}; phase0.audit.min_per_species sets the limit",
                "ready file": str(folder / "tables" / "exclude_rare_species.txt"),
            }
        ),
    ]


def _caps(per_class: dict[str, int]) -> Table:
    photos = pd.Series(per_class)
    rows = []
    for cap in (cap for cap in CAPS_SPECIES if cap < photos.max()):
        left = photos.clip(upper=cap)
        rows.append([cap, int((photos > cap).sum()), int(left.sum()), float(left.max() / left.min())])
    headers = ["source.max_per_species", "species cut", "photos left", "largest / smallest"]
    return Table(headers, rows, "What a limit would leave")


def _names(result: dict, tables: Path) -> list[Block]:
    found = result["spellings"]
    rows = []
    for entry in found[:SHOWN]:
        (best, most), *others = entry["spellings"].items()
        rows.append([_short(best), most, "; ".join(f"{_short(name)} ({n:,})" for name, n in others[:SHOWN])])
    text = "names come in several spellings that differ only in case, blanks, underscores, hybrid signs or authors."
    spellings = [
        Paragraph(f"{len(found):,} {text} Each spelling counts as a separate species until they are joined."),
        Table(
            ["most frequent", "photos", "other spellings"], rows, "The most photographed (all: tables/spellings.csv)"
        ),
    ]
    blocks: list[Block] = [*(spellings if found else [Paragraph(f"No {text}")]), *map(Paragraph, remarks(result))]
    if result["no_species"]:
        unnamed = [[_short(row["latin_name"]), row["photos"], row["why"]] for row in result["no_species"][:SHOWN]]
        caption = "Labels that name no species, the most photographed (all: tables/no_species.csv)"
        blocks.append(Table(["label", "photos", "why"], unnamed, caption))
        cure = (
            f"remove the lines of labels that you do want as classes, then {APPEND}; or full names in source.synonyms"
        )
        blocks.append(KeyValues({"cure": cure, "ready file": str(tables / "exclude_no_species.txt")}))
    if not (found or result["underscores"] or result["one_word"]):
        return blocks
    cure = (
        "check each line, add full names for one-word names, copy the file beside your config and name it in "
        "source.synonyms; it also contains the synonyms in force"
    )
    return [*blocks, KeyValues({"cure": cure, "ready file": str(tables / "synonyms_suggested.csv")})]


def remarks(result: dict) -> list[str]:
    """Return a sentence for each oddity in single names."""
    return [
        f"{what}: {len(names):,}, e.g. {_short(next(iter(names)))}; {meaning}"
        for names, what, meaning in (
            (
                result["underscores"],
                "Names with an underscore",
                "their genus is unclear; cure: source.synonyms.",
            ),
            (
                {row["latin_name"]: row["photos"] for row in result["no_species"]},
                "Labels that name no species",
                "each counts as one; cure: source.exclude with tables/exclude_no_species.txt.",
            ),
            (result["one_word"], "Names of one word", "it counts as the genus; cure: full names in source.synonyms."),
        )
        if names
    ]


def suggestion(run: Run, result: dict) -> list[str]:
    """Return the sentence about the synonyms that the audit suggests, with the option that applies them; [] if none."""
    many = sum(len(entry["spellings"]) - 1 for entry in result["spellings"])
    if not many:
        return []
    first, other = list(result["spellings"][0]["spellings"])[:2]
    file = run.path("audit").parent / "tables" / "synonyms_suggested.csv"
    return [
        f"Classes too many by their spelling: {many:,}, e.g. {_short(other)} beside {_short(first)}; check the "
        f"ready file, then join them: --set source.synonyms={shlex.quote(str(file))}"
    ]


def _urls(result: dict, tables: Path) -> list[Block]:
    return [
        *_seen_before(result, "conflicts", "another species", tables),
        *audit_origins.shared(result),
        *_seen_before(result, "repeated_urls", "the same species", tables),
        *audit_origins.before_minimum(result),
        _ranked("Hosts (all: tables/hosts.csv)", "host", "photos", result["per_host"]),
    ]


def _seen_before(result: dict, name: str, whose: str, tables: Path) -> list[Block]:
    found = result[name]
    photos = counted(found["photos"], "photo") if found["photos"] else "No photo"
    text = f"{photos} with a URL that an earlier document gives to {whose}."
    if not found["photos"]:
        return [Paragraph(text)]
    rows = [[_short(row[key]) for key in COLUMNS] for row in audit_tables.first(found["rows"], SHOWN)]
    headers = ["URL", "species", "_id", "species before"]
    return [
        Paragraph(text),
        Table(headers, rows, f"The first {len(rows)} (all: tables/{name}.csv)"),
        KeyValues({"cure": APPEND, "ready file": str(tables / f"exclude_{name}.txt")}),
    ]


def _observations(result: dict) -> list[Block]:
    known = result["observations"]
    sizes = {int(size): n for size, n in known["sizes"].items()}
    if not sizes:
        return [Paragraph("No usable document has an observation_id (source.fields.observation_id names the field).")]
    without = result["usable"] - known["photos"]
    rows = [
        [cap, sum(n for size, n in sizes.items() if size > cap),
         without + sum(min(size, cap) * n for size, n in sizes.items())]
        for cap in CAPS_OBSERVATION
        if cap < max(sizes)
    ]  # fmt: skip
    return [
        Paragraph(
            f"{known['photos']:,} photos belong to {sum(sizes.values()):,} observations, {without:,} to no known one. "
            "Many photos of one plant teach little more than one photo does."
        ),
        Table(["source.max_per_observation", "observations cut", "photos left"], rows, "What a limit would leave"),
        KeyValues({"cure": "source.max_per_observation keeps a seeded sample of each observation"}),
    ]


def _fields(result: dict) -> list[Block]:
    rows = [[name, found["missing"], found["mistyped"]] for name, found in result["fields"].items()]
    samples = [
        [name, _short(sample["sample_id"]), _short(sample["value"])]
        for name, found in result["fields"].items()
        for sample in found["samples"]
    ]
    blocks: list[Block] = [Table(["field", "missing", "mistyped"], rows, f"Of {result['photos']:,} photos")]
    if samples:
        caption = f"Values of another type or range than expected, up to {SAMPLES} a field"
        blocks.append(Table(["field", "_id", "value"], samples, caption))
    cure = "source.fields.* names a field that is missing everywhere; the rest is to be corrected in the collection"
    return [*blocks, KeyValues({"cure": cure})]


def _origins(result: dict) -> list[Block]:
    genera = {name: entry["photos"] for name, entry in result["per_genus"].items()}
    latest = dict(reversed(result["per_year"].items()))
    return [
        *audit_origins.regions(result),
        *audit_origins.before_minimum(result),
        _ranked("Regions (all: tables/regions.csv)", "region", "photos", result["per_region"]),
        _ranked("The latest years (all: tables/years.csv)", "year", "photos", latest),
        _ranked("Genera (all: tables/genera.csv)", "genus", "photos", genera),
    ]


def _ranked(caption: str, header: str, unit: str, counts: dict[str, int]) -> Table:
    """Return a table of the first counts, in their order."""
    rows: list[list[str | int]] = [[_short(name), n] for name, n in list(counts.items())[:SHOWN]]
    return Table([header, unit], rows, caption)


def _short(text: str) -> str:
    return text if len(text) <= NARROW else text[: NARROW - 1] + "…"
