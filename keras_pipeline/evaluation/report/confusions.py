"""Pictures of confusions: of species, of genera where species are many, and of the photos themselves.

Arrays, PNGs, colours and determinism as in `pictures`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_pipeline.evaluation.confusion import MANY_SPECIES, GenusTable, confusion_table, genus_table
from keras_pipeline.evaluation.report.pictures import TILE, Pixels, drawn, place, wrapped
from keras_pipeline.evaluation.report.plots import BLUE, GREY, LIGHT_BLUE, ORANGE, new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LETTER = 0.063  # inches, at 8 points
_CELL = 0.27  # inches, of a table of many classes
_BARS = 2.2  # inches, the width of 100 %
_COUNTED_CLASSES = 15  # up to here a cell has room for its count
# What can become of a photo, its colour, and that of the count on it.
_PARTS = (
    ("right species", BLUE, "white"), ("right genus, wrong species", LIGHT_BLUE, "black"),
    ("wrong genus", ORANGE, "white"),
)  # fmt: skip


def confusion_picture(
    labels: ArrayLike, answers: ArrayLike, classes: Sequence[str], path: str | Path | None = None
) -> Pixels:
    """Draw the confusions `by_species`, or `by_genus` where there are more than `MANY_SPECIES`.

    Args:
        labels: integer [n], in [0, C).
        answers: integer [n], in [0, C), the first guesses.
        classes: C latin names.
        path: of the PNG; None writes none.

    Raises:
        ValueError: as `confusion.confusion_table`.
    """
    draw = by_genus if len(classes) > MANY_SPECIES else by_species
    return draw(labels, answers, classes, path)


def by_species(
    labels: ArrayLike, answers: ArrayLike, classes: Sequence[str], path: str | Path | None = None, *, most: int = 30
) -> Pixels:
    """Draw which share of each class's photos was taken for which class: right answers blue, mistakes orange.

    Args as `confusion_picture`, and:
        most: classes shown, those with the most mistakes; the others share one row and one column.

    Raises:
        ValueError: as `confusion.confusion_table`.
    """
    shown, table = confusion_table(labels, answers, len(classes), most=most)
    names = [short_name(classes[i], 34) for i in shown]
    others = len(classes) - len(shown)
    if others:
        names.append(f"{others:,} others")
    photos = table.sum(axis=1)
    rows = [f"{name}  {n:,}" for name, n in zip(names, photos, strict=True)]
    side = len(names) * float(np.clip(4.5 / len(names), _CELL, 0.8))
    axes, bars = _confusion_panels(side, _LETTER * max(map(len, rows)), _LETTER * max(map(len, names)))
    _draw_shares(axes, bars, table / np.maximum(photos, 1)[:, None], bool(others))
    if len(names) <= _COUNTED_CLASSES:
        _write_counts(axes, table, photos)
    axes.set_xticks(np.arange(len(names)), names, rotation=90)
    axes.set_yticks(np.arange(len(names)), rows)
    axes.tick_params(which="both", labelsize=8, length=0)
    axes.set_xlabel("answer", fontsize=9)
    axes.set_ylabel("truth, and its photos", fontsize=9)
    right = np.count_nonzero(np.asarray(labels) == np.asarray(answers))
    grey = "\n(grey: right or mistaken, but among the others)" if others else ""
    axes.set_title(f"{right:,} of {photos.sum():,} photos right{grey}", fontsize=9)
    return drawn(axes.figure, path)


def by_genus(
    labels: ArrayLike, answers: ArrayLike, classes: Sequence[str], path: str | Path | None = None, *, most: int = 20
) -> Pixels:
    """Draw what became of the photos of each genus: right species, right genus, or taken for which other genus.

    Args as `confusion_picture`, and:
        most: genera shown, those of the most frequent confusions; the others share the last row and column, so that
            everything adds up to all photos.

    Raises:
        ValueError: as `confusion.genus_table`.
    """
    table = genus_table(labels, answers, classes, most=most)
    names = [short_name(name, 22) for name in table.names] + [f"{table.others:,} other genera"] * bool(table.others)
    rows = [f"{name}  {n:,}" for name, n in zip(names, table.photos, strict=True)]
    left, below = _LETTER * max(map(len, rows)) + 0.35, _LETTER * max(map(len, names)) + 0.4
    side, above = _CELL * len(names), 0.85
    figure, (bars, cells) = new_figure(max(left + _BARS + side + 0.4, 7.2), below + side + above, columns=2)
    figure.set_layout_engine("none")
    place(bars, left, below, _BARS, side)
    place(cells, left + _BARS + 0.25, below, side, side)
    _draw_bars(bars, table)
    _draw_mistakes(cells, table)
    bars.set_yticks(np.arange(len(names)), rows)
    cells.set_xticks(np.arange(len(names)), names, rotation=90)
    cells.set_yticks(())
    for axes in (bars, cells):
        axes.tick_params(which="both", labelsize=8, length=0)
    bars.set_ylabel("truth, and its photos", fontsize=9)
    cells.set_xlabel("wrong genus: taken for (darker: a larger share of the row)", fontsize=9)
    _write_genus_title(figure, table, left)
    return drawn(figure, path)


@dataclasses.dataclass(frozen=True)
class Example:
    """A confused pair, for `confusion_examples`."""

    truth: str
    answer: str
    mistaken: Sequence[Pixels]  # photos of the truth, uint8 [h, w, 3] of any size, possibly none
    taken_for: Sequence[Pixels]  # the same of the answer, to compare with
    caption: str


def confusion_examples(rows: Sequence[Example], path: str | Path | None = None) -> Pixels:
    """Draw a row a confused pair: the names, the mistaken photos (blue frame), what they were taken for (orange).

    Args:
        rows: the pairs, the most confused first.
        path: of the PNG; None writes none.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError(
            "confusion_examples needs at least one pair, received none: a model without mistakes has none."
        )
    columns = max(1, *(len(row.mistaken) + len(row.taken_for) for row in rows))
    figure, panels = new_figure(
        2.5 + TILE * columns, (TILE + 0.1) * len(rows), columns=1 + columns, rows=len(rows),
        widths=[2.5 / TILE, *[1] * columns],
    )  # fmt: skip
    for number, row in enumerate(rows):
        text, *tiles = panels[number * (1 + columns) : (number + 1) * (1 + columns)]
        _describe(text, row)
        framed = [(photo, BLUE) for photo in row.mistaken] + [(photo, ORANGE) for photo in row.taken_for]
        for axes in tiles[len(framed) :]:
            axes.axis("off")
        for axes, (photo, colour) in zip(tiles, framed, strict=False):
            axes.imshow(photo)
            axes.set_anchor("N")
            axes.set(xticks=(), yticks=())
            axes.spines[:].set(visible=True, color=colour, linewidth=3)
    return drawn(figure, path)


def _describe(axes: Axes, row: Example) -> None:
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    lines: list[tuple[str, dict[str, Any]]] = [
        *((line, {"style": "italic", "color": BLUE}) for line in wrapped(row.truth, 30, 2)),
        ("taken for", {"color": GREY}),
        *((line, {"style": "italic", "color": ORANGE}) for line in wrapped(row.answer, 30, 2)),
        *((line, {"color": GREY, "fontsize": 8}) for line in wrapped(row.caption, 38, 3)),
    ]
    for number, (line, look) in enumerate(lines):
        style: dict[str, Any] = {"fontsize": 9, **look}
        axes.text(0, 0.97 - 0.12 * number, line, va="top", **style)


def _confusion_panels(side: float, left: float, below: float) -> tuple[Axes, list[Axes]]:
    """Axes of a square and of two colour bars beside it; side and the room for names in inches.

    Placed by hand: the layout engine misjudges square axes, and cuts off what stands beside them.
    """
    left, below = left + 0.45, below + 0.4
    width, height = left + side + 1.95, below + side + 0.45
    figure, (axes, *bars) = new_figure(width, height, columns=3)
    figure.set_layout_engine("none")
    place(axes, left, below, side, side)
    for number, bar in enumerate(bars):
        place(bar, left + side + 0.35 + 0.85 * number, below + 0.1 * side, 0.18, 0.8 * side)
    return axes, bars


def _scale(title: str, colours: Sequence[str], power: float) -> tuple[Any, Any]:
    """Return a colour map from white on, and the norm that maps a share to its colour."""
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    return LinearSegmentedColormap.from_list(title, ["#FFFFFF", *colours]), PowerNorm(power, 0, 1)


def _draw_shares(axes: Axes, bars: list[Axes], shares: NDArray[np.float64], others: bool) -> None:
    """Two colour scales on one picture, for mistakes by the root of the share, so that one in 50 shows.

    Args:
        others: the last row and column are the classes not shown.
    """
    own = np.eye(len(shares), dtype=bool)
    for bar, title, hidden, colours, power, ticks in (
        (bars[0], "right", ~own, (LIGHT_BLUE, BLUE, "#00324F"), 1.0, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (bars[1], "mistakes", own, ("#F2B48A", ORANGE, "#7A3300"), 0.5, (0, 0.05, 0.2, 0.5, 1)),
    ):
        colour_map, norm = _scale(title, colours, power)
        image = axes.imshow(np.ma.array(shares, mask=hidden), colour_map, norm, interpolation="none")
        axes.figure.colorbar(image, bar, ticks=ticks, format=lambda share, _: f"{100 * share:.0f} %")
        bar.set_title(title, fontsize=8)
        bar.tick_params(labelsize=7)
    edges = np.arange(len(shares) + 1) - 0.5
    if others:
        axes.fill_between(edges[-2:], *edges[-2:], color="#BDBDBD")
    _draw_cells(axes, len(shares))


def _draw_cells(axes: Axes, size: int) -> None:
    """Draw the lines between the cells of a square table."""
    edges = np.arange(size + 1) - 0.5
    axes.set(xlim=edges[[0, -1]], ylim=edges[[-1, 0]])
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(False)


def _write_counts(axes: Axes, table: NDArray[np.int64], photos: NDArray[np.int64]) -> None:
    for row, column in np.argwhere(table):
        colour = "white" if table[row, column] > 0.5 * photos[row] else "black"
        axes.text(column, row, f"{table[row, column]:,}", ha="center", va="center", fontsize=8, color=colour)


def _draw_bars(axes: Axes, table: GenusTable) -> None:
    """Stack right species, right genus and wrong genus as shares of a row; a count stands where it has room."""
    parts = (table.right_species, table.right_genus, table.mistakes.sum(axis=1))
    begin = np.zeros(len(table.photos))
    for n, (_, colour, ink) in zip(parts, _PARTS, strict=True):
        share = n / np.maximum(table.photos, 1)
        axes.barh(np.arange(len(n)), share, 0.86, left=begin, color=colour)
        for row in np.flatnonzero(_BARS * share > _LETTER * np.char.str_len([f"{each:,}" for each in n]) + 0.06):
            middle = begin[row] + share[row] / 2
            axes.text(middle, row, f"{n[row]:,}", ha="center", va="center", fontsize=7.5, color=ink)
        begin += share
    axes.set(xlim=(0, 1), ylim=(len(begin) - 0.5, -0.5), xticks=(0, 0.5, 1), xticklabels=("0 %", "50 %", "100 %"))
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def _draw_mistakes(axes: Axes, table: GenusTable) -> None:
    """Colour each cell by its share of the row, and write its photos: exactly up to 999, then in thousands."""
    shares = table.mistakes / np.maximum(table.photos, 1)[:, None]
    colours, norm = _scale("mistakes", ("#F2B48A", ORANGE, "#7A3300"), 0.5)
    axes.imshow(shares, colours, norm, interpolation="none")
    for genus in range(len(table.names)):
        axes.fill_between((genus - 0.5, genus + 0.5), genus - 0.5, genus + 0.5, color="#EDEDED")
    for row, column in np.argwhere(table.mistakes):
        ink = "white" if shares[row, column] > 0.25 else "black"
        axes.text(column, row, _brief(table.mistakes[row, column]), ha="center", va="center", fontsize=7, color=ink)
    _draw_cells(axes, len(shares))


def _brief(n: int) -> str:
    """Write a count in four characters at most, e.g. 873, 9.4k, 12k."""
    return f"{n}" if n < 1000 else f"{n / 1000:.1f}k" if n < 9950 else f"{n / 1000:.0f}k"


def _write_genus_title(figure: Any, table: GenusTable, left: float) -> None:
    """Write the totals, and below them what the bars' colours mean."""
    width, height = figure.get_size_inches()
    photos, species = int(table.photos.sum()), int(table.right_species.sum())
    genus, genera = species + int(table.right_genus.sum()), len(table.names) + table.others
    species_share, genus_share = 100 * species / max(photos, 1), 100 * genus / max(photos, 1)
    figure.text(
        left / width, 1 - 0.1 / height,
        f"{photos:,} photos, {genera:,} genera\nright species {species:,} ({species_share:.1f} %), "
        f"right genus {genus:,} ({genus_share:.1f} %)",
        fontsize=9.5, va="top",
    )  # fmt: skip
    across = left
    for title, colour, _ in _PARTS:
        figure.text(across / width, 1 - 0.52 / height, "■", color=colour, fontsize=10, va="top")
        figure.text((across + 0.17) / width, 1 - 0.54 / height, title, fontsize=8, va="top")
        across += 0.35 + _LETTER * len(title)
