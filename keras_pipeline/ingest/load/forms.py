"""The forms of file that `load` reads, told from what the file holds, and their documents."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keras_pipeline.ingest.load import darwin_core, readers
from keras_pipeline.ingest.load.json_text import JsonText
from keras_pipeline.ingest.load.members import open_zip, text_of_member
from keras_pipeline.ingest.load.rows import Bad, Lines, Row, cells

HEAD = 1 << 16  # bytes that tell the form
FORMS = (
    "a GBIF Darwin Core archive (.zip), an iNaturalist observations CSV (also zipped) or API answer (JSON), "
    "Pl@ntNet-300K's metadata (JSON), JSON lines"
)
NEEDED = ("id", "image_url", "scientific_name")  # columns of iNaturalist's export
API_KEYS = ("total_results", "page", "per_page", "results")
FAILURE_KEYS = {"error", "errors", "status", "statusCode", "code", "message", "detail"}  # of an API's refusal
OTHERS = {
    b"\x1f\x8b": "a gzip file: unpack it first; an archive of several files has to be a .zip",
    b"BZh": "a bzip2 file: unpack it first (bunzip2)",
    b"PAR1": "a Parquet file",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8",
}


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a known form.

    `rows(scratch)` yields its rows, and may use the folder `scratch`. `names` is what Pl@ntNet's file of names holds,
    which has no documents.
    """

    path: Path
    form: str
    rows: Callable[[Path], Iterator[Row | Bad]]
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    remark: str = ""

    @property
    def key(self) -> str:
        """What tells this file from others and from its other versions: place, size and time of change."""
        state = self.path.stat()
        return hashlib.sha256(f"{self.path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]


def open_all(paths: list[Path], stack: contextlib.ExitStack) -> list[File]:
    """Tell the form of each file, before anything is stored.

    Raises ValueError for a file that is not there, or of no form that `load` reads, SourceError for a damaged one.
    """
    names: dict[str, str] = {}
    files = [_open(path, names, stack) for path in paths]
    for file in files:
        names.update(file.names)
    documents = [file for file in files if not file.names]
    if not documents:
        raise ValueError(f"{paths[0]}: holds names of species only; give it together with plantnet300K_metadata.json")
    return documents


def _open(path: Path, names: dict[str, str], stack: contextlib.ExitStack) -> File:
    if path.is_dir():
        raise ValueError(f"{path}: received a folder, expected {FORMS}")
    if not path.exists():
        raise ValueError(f"{path}: received no file of this name, expected {FORMS}; correct the path")
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if head.startswith(b"PK"):
        return _open_zip(path, stack.enter_context(open_zip(path)))
    start = head.decode("utf-8-sig", "replace").lstrip()
    what = next((text for sign, text in OTHERS.items() if head.startswith(sign)), None)
    if what or not start or "\0" in start or start.startswith("<"):
        what = what or ("an empty file" if not head.strip() else "a web page or XML" if start[0] == "<" else "a binary")
        raise ValueError(f"{path}: received {what}; expected {FORMS}")
    if start.startswith("["):
        return File(path, "list of documents (JSON)", lambda _: readers.from_list(path))
    if start.startswith("{"):
        return _open_mapping(path, start, names)
    _check_header(path, next(iter(start.splitlines())))
    return File(path, "iNaturalist CSV", lambda _: readers.from_csv(readers.open_text(path)))


def _open_zip(path: Path, archive: zipfile.ZipFile) -> File:
    if meta := darwin_core.find_meta(archive):
        opened = darwin_core.open_archive(path, archive, meta)
        remarks = [f"not read: {', '.join(opened.ignored)}"] if opened.ignored else []
        if not opened.media:
            remarks.append("it has no table of media, so that its documents have no list `media` and no photo's URL")
        return File(
            path, "Darwin Core archive", lambda scratch: darwin_core.rows(opened, scratch), remark="; ".join(remarks)
        )
    inside = [info.filename for info in archive.infolist() if not info.is_dir()]
    tables = [name for name in inside if name.lower().endswith(".csv") and not name.startswith("__MACOSX")]
    if len(tables) != 1:
        shown = ", ".join(inside[:5]) or "nothing"
        raise ValueError(f"{path}: received a zip archive of {shown}, without meta.xml; expected {FORMS}")
    with text_of_member(archive, path, tables[0], "utf-8-sig") as stream:
        _check_header(path, stream.readline(HEAD))
    return File(
        path, "iNaturalist CSV", lambda _: readers.from_csv(text_of_member(archive, path, tables[0], "utf-8-sig"))
    )


def _open_mapping(path: Path, start: str, names: dict[str, str]) -> File:
    first = re.match(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:\s*', start)
    value: Any = None
    if first:
        with contextlib.suppress(ValueError, RecursionError):
            value, _ = json.JSONDecoder().raw_decode(start, first.end())
    whole: dict[str, Any] = {}
    with contextlib.suppress(ValueError, RecursionError):
        whole, _ = json.JSONDecoder().raw_decode(start)
    if whole and whole.keys() <= FAILURE_KEYS:
        raise ValueError(f"{path}: received an API's refusal, {start[:100]!r}; expected {FORMS}; ask the API again")
    if first and first[1] in API_KEYS:
        return File(path, "iNaturalist API answer", lambda _: readers.from_api(path))
    if first and isinstance(value, dict) and "species_id" in value and first[1] != "_id":
        return File(path, "Pl@ntNet-300K metadata", lambda _: readers.from_plantnet(path, names))
    if first and isinstance(value, str) and first[1].isdecimal():
        return File(path, "Pl@ntNet-300K names", lambda _: iter(()), _names(path))
    return File(path, "JSON lines", lambda _: readers.from_lines(path))


def _names(path: Path) -> dict[str, str]:
    with readers.open_text(path) as stream:
        text = JsonText(stream, str(path))
        found = {key: text.value()[0] for _, key in text.entries()}
    return {key: name for key, name in found.items() if isinstance(name, str)}


def _check_header(path: Path, line: str) -> None:
    columns = _columns(line, ",")
    missing = [name for name in NEEDED if name not in columns]
    if not missing:
        if dotted := [name for name in columns if "." in name or name.startswith("$")]:
            raise ValueError(f"{path}: received columns with a dot, {', '.join(dotted)}; leave them out of the export")
        return
    other = next((sign for sign in ";\t|" if set(NEEDED) <= set(_columns(line, sign))), None)
    if other:
        raise ValueError(f"{path}: received {other!r} between the columns, expected commas; save it with commas")
    if "gbifid" in line.lower():
        raise ValueError(
            f"{path}: received GBIF's simple download, which holds no photos; download `Darwin Core Archive` there"
        )
    raise ValueError(
        f"{path}: received a text whose first line is {line.strip()[:100]!r}; expected {FORMS}. iNaturalist's CSV "
        f"needs the columns {', '.join(NEEDED)}: choose them in its export"
    )


def _columns(line: str, delimiter: str) -> list[str]:
    found = next(cells(Lines(io.StringIO(line)), delimiter, '"'), None)
    return [] if found is None or isinstance(found, Bad) else found[1]
