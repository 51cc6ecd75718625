"""Write blocks as one HTML file, which opens from disk, needs no network and fits a phone, or as Markdown.

Pictures are inlined, so that the file can be mailed. The same blocks give the same bytes.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from keras_pipeline.core.files import aside
from keras_pipeline.evaluation.report.template import PAGE, STYLE

Cell = str | int | float | bool | None

WIDTH = 960  # pixels; the widest that a picture is shown
BESIDE = 680  # pixels of the picture on the first screen: twice its width, for screens of high density
PHOTOGRAPHIC = 100_000  # bytes; a picture that takes more without loss holds photos, which bear a lossy format

# In reading order, each with a sign, so that colour is not the only carrier.
_STATUS = {"missed": ("bad", "✗"), "not measurable here": ("unknown", "–"), "met": ("good", "✓")}


@dataclass(frozen=True)
class Paragraph:
    """Running text; `this` is shown as code, everything else as it is."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under headers; numbers are set to the right, None shows as a dash."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str


@dataclass(frozen=True)
class Figure:
    """A PNG on disk, inlined about as large as it is shown; a screen reader reads the caption."""

    png: Path
    caption: str
    width: int = WIDTH  # pixels in which it is shown at most


@dataclass(frozen=True)
class KeyValues:
    """Short facts, one a line."""

    items: dict[str, Cell]


@dataclass(frozen=True)
class Code:
    """Long text as it is (a config)."""

    text: str


@dataclass(frozen=True)
class Details:
    """Blocks folded away under a title."""

    title: str
    blocks: Sequence[Block]


Block = Paragraph | Table | Figure | KeyValues | Code | Details


def write_report(
    path: str | Path,
    *,
    experiment: str,
    summary: dict[str, Cell],
    gates: Sequence[dict] | None,
    sections: Sequence[tuple[str, Sequence[Block]]],
    kind: str = "Training report",
    made_from: str = "",
    warning: str = "",
    picture: Figure | None = None,
    advice: Sequence[str] = (),
    folded: bool = False,
) -> None:
    """Write the report to a temporary file, then rename it.

    Args:
        path: the HTML file; its folder must exist.
        experiment: the config's name.
        summary: `{label: value}`, the few metrics shown large at the top.
        gates: dictionaries `name, words, status, value, target, reason`; status is 'met', 'missed' or 'not measurable
            here'; missed ones are shown first. None: the page is not about gates.
        sections: `(title, blocks)` in reading order.
        kind: what the page is, above its title.
        made_from: identifies what the page was made from; stands in its first thousand bytes.
        warning: shown below the verdict.
        picture: shown beside the summary.
        advice: what to do next, one sentence each; `this` is shown as code.
        folded: whether gates and sections are closed at first.

    Raises:
        ValueError: an unknown gate status, a missing gate key, a table row of the wrong length, a file that is no PNG.
        FileNotFoundError: a figure that is not there.
    """
    path = Path(path)
    _check_gates(gates or [])
    anchors = [f"section-{number}" for number, _ in enumerate(sections, start=1)]
    links = [("gates", "Gates")] if gates is not None else []
    links += [(anchor, title) for anchor, (title, _) in zip(anchors, sections, strict=True)]
    page = PAGE.substitute(
        style=STYLE,
        made_from=_escape(made_from),
        title=_escape(experiment),
        headline=_escape(experiment).replace("_", "_<wbr>"),  # and at hyphens, but nowhere inside a word
        kind=_escape(kind),
        verdict=_verdict(gates or []),
        warning=f'<p class="warning unknown">{_with_code(warning)}</p>' if warning else "",
        summary=_tiles(summary),
        picture=_figure(picture) if picture else "",
        advice=_advice(advice),
        gates="" if gates is None else _section("gates", "Gates", _gates(gates), folded),
        contents="".join(f'<a href="#{anchor}">{_escape(title)}</a>' for anchor, title in links),
        sections="".join(
            _section(anchor, title, "".join(map(_block, blocks)), folded)
            for anchor, (title, blocks) in zip(anchors, sections, strict=True)
        ),
    )
    with aside(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_markdown(path: str | Path, title: str, sections: Sequence[tuple[str, Sequence[Block]]]) -> None:
    """The same blocks as a Markdown file, without the figures; written aside first."""
    parts = [f"# {title}"]
    for heading, blocks in sections:
        parts += [f"## {heading}", *map(_markdown, blocks)]
    with aside(Path(path)) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _markdown(block: Block) -> str:
    match block:
        case Paragraph(text):
            return _running(text)
        case KeyValues(items):
            return "\n".join(f"- {_literal(key)}: {_literal(format_cell(value))}" for key, value in items.items())
        case Table(headers, rows, caption):
            columns = [format_column(column) for column in zip(*rows, strict=True)]
            lines = [headers, ["---"] * len(headers), *zip(*columns, strict=True)]
            escaped = [" | ".join(_literal(cell).replace("|", r"\|") for cell in line) for line in lines]
            return f"{_literal(caption)}:\n\n" + "\n".join(f"| {line} |" for line in escaped)
    return ""


def _running(text: str) -> str:
    """Escape a paragraph for Markdown; what stands between backticks is code, as on the page."""
    return "".join(part if number % 2 else _literal(part) for number, part in enumerate(re.split(r"(`[^`]+`)", text)))


def _literal(text: str) -> str:
    """Escape for Markdown what would not be shown as it is: names come from a database, and many read the file raw."""
    plain = text.replace("\N{NO-BREAK SPACE}", " ")
    plain = re.sub(r"&(?=#|\w+;)", "&amp;", plain)
    plain = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", plain)
    return re.sub(r"([\\`*]|\](?=[(\[:]))", r"\\\1", plain)


def format_cell(value: Cell) -> str:
    """Format a value, not yet escaped: 4 significant digits, thousands separated, None as a dash.

    Give identifiers that happen to be numbers (a seed, a year) as text.
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _format_float(value)
    return str(value)


def interval(ends: Sequence[float]) -> str:
    """Format an interval, which no line break may tear apart."""
    return "{:.3f} to {:.3f}".format(*ends).replace(" ", "\N{NO-BREAK SPACE}")


def format_column(column: Sequence[Cell]) -> list[str]:
    """Format a column's cells; floats of similar size get the same number of decimals, so that they can be compared."""
    present = [cell for cell in column if cell is not None]
    sizes = [abs(cell) for cell in present if isinstance(cell, float)]
    alike = _is_numeric(column) and sizes and all(size == 0 or 1e-3 <= size < 1000 for size in sizes)
    if not alike or not any(sizes):
        return [format_cell(cell) for cell in column]
    decimals = min(3, 3 - math.floor(math.log10(max(sizes))))
    return [format_cell(cell) if cell is None else f"{cell:.{decimals}f}" for cell in column]


def _format_float(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _section(anchor: str, title: str, body: str, folded: bool) -> str:
    heading = f"<h2>{_escape(title)}</h2>"
    if not folded:
        return f'<section id="{anchor}">{heading}{body}</section>'
    # A link to an element inside closed details opens them.
    return f'<details class="section"><summary>{heading}</summary><div id="{anchor}">{body}</div></details>'


def _advice(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{_with_code(sentence)}</li>" for sentence in sentences)
    return f'<div class="next"><h2>What to do next</h2><ul>{items}</ul></div>' if items else ""


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{_with_code(text)}</p>"
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)
        case KeyValues(items):
            pairs = "".join(f"<dt>{_escape(key)}</dt><dd>{_escape(value)}</dd>" for key, value in items.items())
            return f"<dl>{pairs}</dl>"
        case Code(text):
            return f'<pre tabindex="0">{_escape(text)}</pre>'
        case Details(title, blocks):
            inner = "".join(map(_block, blocks))
            return f"<details><summary><h3>{_escape(title)}</h3></summary>{inner}</details>"
    raise ValueError(
        f"received a block {type(block).__name__}, expected Paragraph, Table, Figure, KeyValues, Code or Details"
    )


def _table(table: Table) -> str:
    for row in table.rows:
        if len(row) != len(table.headers):
            raise ValueError(
                f"Table {table.caption!r} has {len(table.headers)} headers and a row of {len(row)} cells: {list(row)}. "
                "Give one cell a header; None shows as a dash."
            )
    numeric = [_is_numeric(column) for column in zip(*table.rows, strict=True)] or [False] * len(table.headers)
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    head = "".join(
        # An empty header cell would be announced as a nameless header.
        f'<th scope="col"{kind}>{_escape(header)}</th>' if header else "<td></td>"
        for kind, header in zip(kinds, table.headers, strict=True)
    )
    columns = [[_escape(text) for text in format_column(column)] for column in zip(*table.rows, strict=True)]
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{text}</td>" for kind, text in zip(kinds, row, strict=True)) + "</tr>"
        for row in zip(*columns, strict=True)
    )
    return _wrap_table(table.caption, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")


def _is_numeric(column: Sequence[Cell]) -> bool:
    present = [cell for cell in column if cell is not None]
    return bool(present) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in present)


def _figure(figure: Figure) -> str:
    data = Path(figure.png).read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{figure.png} is no PNG: write figures with keras_pipeline.evaluation.report.plots.")
    caption = _escape(figure.caption)
    with Image.open(io.BytesIO(data)) as picture:
        encoded, (width, height) = _webp(picture.convert("RGB"), figure.width)
    source = f"data:image/webp;base64,{base64.b64encode(encoded).decode('ascii')}"
    image = f'<img src="{source}" alt="{caption}" width="{width}" height="{height}">'
    # On a phone a chart scrolls inside its own box, because its words would be too small at the screen's width.
    return f'<figure><div class="chart" tabindex="0">{image}</div><figcaption>{caption}</figcaption></figure>'


def _webp(picture: Image.Image, width: int) -> tuple[bytes, tuple[int, int]]:
    """Encode a chart without loss, photos reduced to the width and with losses that nobody sees; return the size too.

    A chart keeps its pixels, up to twice the width: reducing blurs its few colours into many, which take more bytes.
    """
    if picture.width <= 2 * width:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", lossless=True, method=4)
        if buffer.tell() <= PHOTOGRAPHIC:
            return buffer.getvalue(), picture.size
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=75, method=4)
    return buffer.getvalue(), picture.size


def _tiles(summary: dict[str, Cell]) -> str:
    tiles = "".join(f"<div><b>{_escape(value)}</b><span>{_escape(key)}</span></div>" for key, value in summary.items())
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def _verdict(gates: Sequence[dict]) -> str:
    """Return one sentence, and how many gates are in which state."""
    if not gates:
        return ""
    counts = Counter(gate["status"] for gate in gates)
    if missed := counts["missed"]:
        sentence = f"{missed} gate{'s' if missed > 1 else ''} missed"
    elif not counts["met"]:
        sentence = "No gate can be measured here"
    else:
        sentence = "All measurable gates met" if counts["not measurable here"] else "All gates met"
    chips = [
        f'<span class="chip {kind}">{sign} {counts[status]} {status}</span>'
        for status, (kind, sign) in _STATUS.items()
        if counts[status]
    ]
    return " ".join([f"<strong>{sentence}</strong>", *chips])


def _gates(gates: Sequence[dict]) -> str:
    if not gates:
        return "<p>No gate has been checked yet.</p>"
    order = list(_STATUS)
    rows = "".join(_gate(gate) for gate in sorted(gates, key=lambda gate: order.index(gate["status"])))
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Metric", "Status", "Value", "Target", "Why, or advice"))
    caption = "The targets of this run, and whether it met them"
    return _wrap_table(caption, f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>", kind=' class="gates"')


def _gate(gate: dict) -> str:
    kind, sign = _STATUS[gate["status"]]
    value = format_cell(gate["value"]) + (f", interval to {format_cell(gate['bound'])}" if "bound" in gate else "")
    return (
        f'<tr><th scope="row">{_escape(gate["words"])} <code>{_escape(gate["name"])}</code></th>'
        f'<td><span class="chip {kind}">{sign} {gate["status"]}</span></td>'
        f'<td data-label="Value">{_escape(value)}</td><td data-label="Target">{_escape(gate["target"])}</td>'
        f"<td>{_with_code(gate['reason'] or '')}</td></tr>"
    )


def _check_gates(gates: Sequence[dict]) -> None:
    for gate in gates:
        missing = {"name", "words", "status", "value", "target", "reason"} - gate.keys()
        if missing or gate["status"] not in _STATUS:
            raise ValueError(
                f"A gate needs name, words, status, value, target and reason, received {gate}: "
                f"add what is missing ({sorted(missing)}); status is one of {list(_STATUS)}."
            )


def _wrap_table(caption: str, inner: str, *, kind: str = "") -> str:
    # A wide table scrolls inside its own box: on a phone the page itself must not slide sideways.
    caption = f"<caption><span>{_escape(caption)}</span></caption>"
    return f'<div class="scroll" tabindex="0"><table{kind}>{caption}{inner}</table></div>'


def _with_code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _escape(text))


def _escape(value: Cell) -> str:
    return html.escape(format_cell(value))
