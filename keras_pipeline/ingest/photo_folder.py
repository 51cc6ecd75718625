"""A folder of photos as a source: MongoDB documents from a CSV with `image, latin_name[, region, observation_id]`.

`image` is a path below the folder, with its suffix. Where there is a column `region`, each row has one.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import hashlib
import itertools
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from bson import ObjectId

from keras_pipeline.core.dataset import UNKNOWN_REGION

IMAGES, LABELS = "source.demo.images", "source.demo.labels"  # names of the folder and its CSV in messages
NEEDED = ("image", "latin_name")  # columns
COLUMNS = (*NEEDED, "region", "observation_id")
OTHER_NAMES = {
    "filename": "image", "file": "image", "file_name": "image", "path": "image", "photo": "image",
    "species": "latin_name", "scientificname": "latin_name", "scientific_name": "latin_name", "taxon": "latin_name",
}  # fmt: skip
PHOTO = re.compile(r"\.(jpe?g|png|webp|gif|tiff?|bmp|avif|heic)$", re.I)
ALIKE = 0.8  # difflib's ratio: of names this long, one or two letters differ
SHOWN = 60  # characters of a wrong first line
LOOKED_AT = 20_000  # files, for one that may be meant: a whole disk has millions
SPECIAL = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def documents(images: Path, labels: Path, *, keys: tuple[str, str] = (IMAGES, LABELS)) -> list[dict]:
    """Return a document for each row.

    `image_url` is the percent-encoded `image`; `_id` is a hash of it.

    Args:
        keys: names of the two in messages.

    Raises:
        ValueError: naming key, file and line, for a missing folder, CSV, column, value or photo, and for photos that
            lie outside `images` or are listed twice.
    """
    if not images.is_dir():
        raise ValueError(f"{keys[0]}: received photos {images}; expected a folder that exists; correct it")
    try:
        return _documents(images, labels)
    except ValueError as error:
        raise ValueError(f"{keys[1]}: {error}") from None


def names(labels: Path) -> list[str]:
    """Return the latin name of each row without looking at the photos. Raises as `documents`."""
    try:
        return [row["latin_name"] for _, row in _rows(labels)]
    except ValueError as error:
        raise ValueError(f"{LABELS}: {error}") from None


def images(labels: Path) -> list[str]:
    """Return the path below the folder of each row's photo. Raises as `documents`."""
    try:
        return [row["image"] for _, row in _rows(labels)]
    except ValueError as error:
        raise ValueError(f"{LABELS}: {error}") from None


def columns(labels: Path) -> list[str]:
    """Return the names in the first line, stripped of blanks. Raises as `documents`."""
    try:
        return list(_reader(labels).fieldnames or [])
    except ValueError as error:
        raise ValueError(f"{LABELS}: {error}") from None


def unread_columns(labels: Path) -> str | None:
    """Return a line that names the columns that nothing reads; None if there are none. Raises as `documents`."""
    unread = [name for name in columns(labels) if name and name not in COLUMNS]
    if not unread:
        return None
    named = (f"{name!r} (did you mean {_meant(name)!r}?)" if _meant(name) else repr(name) for name in unread)
    return f"{labels}: nothing reads the {'column' if len(unread) == 1 else 'columns'} {', '.join(named)}"


def _meant(name: str) -> str | None:
    return next(iter(difflib.get_close_matches(name.casefold(), COLUMNS, 1, ALIKE)), None)


def _documents(images: Path, labels: Path) -> list[dict]:
    rows = dict(_rows(labels))
    if not rows:
        raise ValueError(f"received {labels} with no rows; expected one line per photo; fill it")
    for name in NEEDED:
        _check_filled(rows, labels, name, "fill it in, or remove those lines")
    found: dict[str, dict] = {}
    for line, row in rows.items():
        document = _row_document(row, images, f"{labels}, line {line}")
        if document["image_url"] in found:
            raise ValueError(
                f"received {row['image']!r} again in {labels}, line {line}; expected each photo once; "
                "remove one of the two lines"
            )
        found[document["image_url"]] = document
    _check_filled(rows, labels, "region", f"write {UNKNOWN_REGION} where it is not known, or remove the column")
    _check_photos(rows, images, labels)
    return list(found.values())


def _rows(labels: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a CSV with the needed columns; values are stripped of blanks."""
    reader, line = _reader(labels), 1
    try:
        for row in reader:
            line = reader.line_num
            if None in row:
                n = len(reader.fieldnames or ())
                remedy = "put values with commas in double quotes"
                if not any(value.strip() for value in row[None]):
                    remedy = "remove the commas behind the last value, here and in other lines"
                raise ValueError(
                    f"received {n + len(row[None])} values in {labels}, line {line}; expected {n}, as its first line "
                    f"has; {remedy}"
                )
            yield line, {name: value.strip() for name, value in row.items()}
    except csv.Error as error:
        raise _no_csv(labels, line, error) from error


def _reader(labels: Path) -> csv.DictReader:
    """Return a reader of a CSV with the needed columns, after its first line."""
    if not labels.is_file():
        raise ValueError(f"received labels {labels}; expected a CSV file that exists, no folder; correct it")
    try:
        text = labels.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"received {labels} in another encoding (line {line}: byte 0x{error.object[error.start]:02x}); expected "
            "UTF-8; save it as such"
        ) from error
    head = text.partition("\n")[0]
    separator = next((sign for sign in ";\t|" if sign in head and "," not in head), None)
    if separator:
        raise ValueError(f"received {labels} with {separator!r} between values; expected commas; save it with commas")
    reader = csv.DictReader(text.splitlines(keepends=True), restval="", strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise _no_csv(labels, 0, error) from error
    if "image" not in reader.fieldnames and (seen := _no_header(text)):
        raise ValueError(f"received {labels} with {seen}")
    _check_columns(reader.fieldnames, labels)
    return reader


def _no_header(text: str) -> str:
    """Return what the first line is instead of the columns' names, what is expected and what to do; "" if unknown."""
    expected = "expected image, latin_name[, region, observation_id] in its first line"
    start, first, second = text.lstrip()[:1], *[line.strip() for line in [*text.split("\n", 2), "", ""][:2]]
    if start == "<":
        return f"HTML or XML; {expected}; save the table itself as CSV"
    if start in ("{", "["):
        return f"JSON; {expected}; convert it to CSV, or put its documents into a collection: `load`"
    if all(name in next(csv.reader([second]), []) for name in NEEDED):
        return f"{first[:SHOWN]!r} in front of its columns; {expected}; remove that line"
    if any(PHOTO.search(value.strip()) for value in next(csv.reader([first]), [])):
        return f"a photo's row as its first line; {expected}; add that line in front"
    return ""


def _no_csv(labels: Path, line: int, error: csv.Error) -> ValueError:
    expected = "double quotes in pairs"
    if "field limit" in str(error):
        expected += f", and values of at most {csv.field_size_limit():,} characters"
    return ValueError(f"received {labels}, no CSV after line {line} ({error}); expected {expected}; correct it")


def _check_columns(columns: Sequence[str], labels: Path) -> None:
    lacking = [name for name in NEEDED if name not in columns]
    if lacking:
        meant = {name: OTHER_NAMES.get(name.casefold()) or _meant(name) for name in columns}
        close = [f"rename {name!r} to {other}" for name, other in meant.items() if other in lacking]
        remedy = ", ".join(close) or f"add {', '.join(lacking)} to its first line"
        raise ValueError(
            f"received {labels} with columns {', '.join(columns) or 'none'}; expected image, latin_name[, region, "
            f"observation_id]; {remedy}"
        )
    repeated = [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]
    if repeated:
        raise ValueError(
            f"received {labels} with more than one column {', '.join(repeated)}; expected each name once; remove or "
            "rename the others"
        )


def _row_document(row: dict[str, str], images: Path, where: str) -> dict:
    root, path = images.absolute(), (images.absolute() / row["image"])
    if ".." in Path(row["image"]).parts:  # it may lead out of the folder and in again
        root, path = root.resolve(), path.parent.resolve() / path.name
    if path.name == ".." or not path.is_relative_to(root):
        raise ValueError(
            f"received {row['image']!r} in {where}; expected a path inside {images}; move the photo or correct it"
        )
    relative = path.relative_to(root).as_posix()
    document = {
        "_id": ObjectId(hashlib.sha256(repr(("folder", relative)).encode()).digest()[:12]),
        "latin_name": row["latin_name"],
        "image_url": quote(relative),
        "region": row.get("region", UNKNOWN_REGION),
    }
    return document | ({"observation_id": row["observation_id"]} if row.get("observation_id") else {})


def _check_filled(rows: dict[int, dict[str, str]], labels: Path, column: str, remedy: str) -> None:
    empty = [line for line, row in rows.items() if row.get(column) == ""]
    if empty:
        first = ", ".join(map(str, empty[:3]))
        raise ValueError(
            f"received no {column} in {len(empty):,} of the {len(rows):,} rows of {labels} (line {first}"
            f"{', …' if len(empty) > 3 else ''}); expected one in each row; {remedy}"
        )


def _check_photos(rows: dict[int, dict[str, str]], images: Path, labels: Path) -> None:
    absent = {line: row["image"] for line, row in rows.items() if not _is_file(images / row["image"])}
    if not absent:
        return
    line, image = next(iter(absent.items()))
    found = _special(images / image)
    fault = f"but that is {found}, no photo" if found else f"but there is no such file in {images}"
    others = f"({len(absent):,} of {len(rows):,} {'no photos' if found else 'not found'}, this is the first)"
    raise ValueError(
        f"received {image!r} in {labels}, line {line}, {fault} {others}; expected a path below {images} with its "
        f"suffix{'' if found else _hint(image, images)}; correct the column image, or remove those lines"
    )


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):  # a name that the file system refuses
        return path.is_file()
    return False


def _special(path: Path) -> str | None:
    """Return what is there instead of a file; None if nothing is."""
    try:
        return SPECIAL.get(stat.S_IFMT(path.stat().st_mode))
    except OSError:
        with contextlib.suppress(OSError):  # no link, or no name that the file system takes
            return f"a broken link to {path.readlink()}"
    return None


def _hint(image: str, images: Path) -> str:
    """Return which photo may be meant, to follow `with its suffix`."""
    slashed = image.replace("\\", "/")
    meant = slashed.rpartition("/")[2].casefold()
    found = itertools.islice(images.rglob("*"), LOOKED_AT)
    there = (path for path in sorted(found) if meant in (path.name.casefold(), path.stem.casefold()))
    names = [path.relative_to(images).as_posix() for path in there]
    such = f" such as {slashed if slashed in names else names[0]!r}, which is there" if names else ""
    return (" and forward slashes" if slashed != image else "") + such
