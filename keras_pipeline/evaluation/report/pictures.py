"""Pictures of batches, mistakes and intervals, for the report (a PNG) and for TensorBoard (an array) alike.

Each function returns uint8 [H, W, 3] and, given a path, writes the same pixels there as a PNG. Colours and determinism
as in `plots`.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_pipeline.core.schema import MIN_PHOTOS
from keras_pipeline.evaluation.confusion import confusion_table
from keras_pipeline.evaluation.report.plots import BLUE, GREY, LIGHT_BLUE, ORANGE, new_figure, save_png, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pixels = NDArray[np.uint8]
_TILE = 1.8  # inches; a caption's line has room for 24 letters at 9 points
_CAPTION = 24
_LETTER = 0.063  # inches, at 8 points
_COUNTED_CLASSES = 15  # up to here a cell has room for its count
_REGIONS = 30
_LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREY, "^"), ("#009E73", "D"))  # of a classifier; the last is Okabe & Ito's too


def photo_grid(
    images: ArrayLike, captions: Sequence[str], path: str | Path | None = None, *, columns: int = 6
) -> Pixels:
    """Photos side by side with a caption below each, e.g. a training batch after augmentation.

    Args:
        images: [N, h, w, 3], 0..255, N >= 1; what lies outside is clipped.
        captions: N texts; a line breaks before ' + ' and once more where it is too long.
        path: of the PNG; None writes none.
        columns: photos in a row.

    Raises:
        ValueError: no photos, another shape, or not one caption each.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images) or len(captions) != len(images):
        raise ValueError(
            f"photo_grid: received images {images.shape} and {len(captions)} captions, expected [N, h, w, 3] and N >= 1"
            " of them: give RGB photos with a text each."
        )
    parts = [caption.replace(" + ", "\n+ ").splitlines() for caption in captions]
    texts = ["\n".join(line for part in own for line in _wrapped(part, _CAPTION, 2)) for own in parts]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = _TILE - 0.15
    height = width * images.shape[1] / images.shape[2]
    pitch = height + 0.25 + 0.15 * max(text.count("\n") + 1 for text in texts)
    figure, panels = new_figure(_TILE * columns, pitch * rows, columns=columns, rows=rows)
    figure.set_layout_engine("none")  # it would set the photos apart as their captions need
    for number, axes in enumerate(panels):
        axes.axis("off")
        row, column = divmod(number, columns)
        _place(axes, column * _TILE + 0.075, (rows - row) * pitch - height - 0.08, width, height)
    for axes, image, text in zip(panels, images, texts, strict=False):
        axes.imshow(np.clip(np.rint(image), 0, 255).astype(np.uint8))
        axes.annotate(
            text, (0.5, 0), (0, -3), xycoords="axes fraction", textcoords="offset points", ha="center", va="top",
            fontsize=9,
        )  # fmt: skip
    return _drawn(figure, path)


def confusion_examples(
    rows: Sequence[tuple[str, str, Sequence[Pixels], str]], path: str | Path | None = None
) -> Pixels:
    """One row a confused pair: what the plant was, what it was taken for, and the photos.

    Args:
        rows: `(truth, answer, photos, caption)`; photos uint8 [h, w, 3] of any size, possibly none.
        path: of the PNG; None writes none.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError(
            "confusion_examples needs at least one pair, received none: a model without mistakes has none."
        )
    columns = max(1, *(len(photos) for _, _, photos, _ in rows))
    figure, panels = new_figure(
        2.5 + _TILE * columns, (_TILE + 0.1) * len(rows), columns=1 + columns, rows=len(rows),
        widths=[2.5 / _TILE, *[1] * columns],
    )  # fmt: skip
    for row, (truth, answer, photos, caption) in enumerate(rows):
        text, *tiles = panels[row * (1 + columns) : (row + 1) * (1 + columns)]
        _describe(text, truth, answer, caption)
        for axes in tiles:
            axes.axis("off")
            axes.set_anchor("N")
        for axes, photo in zip(tiles, photos, strict=False):
            axes.imshow(photo)
    return _drawn(figure, path)


def confusion_picture(
    labels: ArrayLike, answers: ArrayLike, classes: Sequence[str], path: str | Path | None = None, *, most: int = 30
) -> Pixels:
    """Of the photos of each class, which share was taken for which: right answers blue, mistakes orange.

    Args:
        labels: integer [n], in [0, C).
        answers: integer [n], in [0, C), the first guesses.
        classes: C latin names.
        path: of the PNG; None writes none.
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
    side = len(names) * float(np.clip(4.5 / len(names), 0.27, 0.8))
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
    return _drawn(axes.figure, path)


def recall_chart(
    per_class_recall: Mapping[str, Mapping], path: str | Path | None = None, *, gate: float | None, most: int = 25
) -> Pixels:
    """The recall of `worst_classes`, and how sure it is; classes with fewer than 20 photos paler.

    Args:
        per_class_recall: `{latin_name: {n, groups, recall, interval}}` of `classification_metrics`.
        path: of the PNG; None writes none.
        gate: the recall that every class shall exceed, drawn as a line; None draws none.
        most: classes shown.

    Raises:
        ValueError: no class with photos.
    """
    rows = worst_classes(per_class_recall)
    if not rows:
        raise ValueError("recall_chart needs at least one class with photos, received none: evaluate a split first.")
    judged = [entry["recall"] for _, entry in rows if entry["n"] >= MIN_PHOTOS]
    shown = rows[:most]
    figure, (axes,) = new_figure(8.5, 1.3 + 0.24 * len(shown), columns=1)
    for row, (_, entry) in enumerate(shown):
        _draw_interval(axes, row, entry["recall"], entry["interval"], BLUE if row < len(judged) else LIGHT_BLUE, "o")
    labels = [f"{short_name(name, 44)}  {entry['n']:,}" for name, entry in shown]
    _finish_rows(axes, labels, f"recall, with its 95 % interval (pale: fewer than {MIN_PHOTOS} photos)")
    title = f"{len(shown):,} of {len(rows):,} classes"
    if gate is not None:
        axes.axvline(100 * gate, color=ORANGE, linestyle="--", linewidth=1.2)
        missed = sum(recall <= gate for recall in judged)
        title += f"; of {len(judged):,} with {MIN_PHOTOS} photos or more, {missed:,} not above {100 * gate:g} %"
    axes.set_title(title, fontsize=10)
    return _drawn(figure, path)


def worst_classes(per_class_recall: Mapping[str, Mapping]) -> list[tuple[str, Mapping]]:
    """`(latin_name, entry)` of the classes with photos, the worst first.

    Those with at least 20 photos come by recall. The others follow by the upper end of their interval: what is bad for
    sure comes first, and one unlucky photo says little.
    """

    def key(item: tuple[str, Mapping]) -> tuple[bool, float]:
        _, entry = item
        few = entry["n"] < MIN_PHOTOS
        return few, entry["interval"][1] if few else entry["recall"]

    return sorted((item for item in per_class_recall.items() if item[1]["n"]), key=key)


def region_chart(classifiers: Mapping[str, Mapping[str, Mapping]], path: str | Path | None = None) -> Pixels:
    """Top-1 by region, one classifier or a few side by side; most photographed first, but 'all' before them.

    Args:
        classifiers: `{name: {region: {n, top1, top1_interval, …}}}`, as `per_region` of `classification_metrics`; 1 to
            4 names. A region may be absent from some. Beyond 30 regions the least photographed are left out.
        path: of the PNG; None writes none.

    Raises:
        ValueError: no classifier or more than 4, or no region.
    """
    photos = _regions_by_photos(classifiers)
    if not 1 <= len(classifiers) <= len(_LOOKS) or not photos:
        raise ValueError(
            f"region_chart: received {len(classifiers)} classifiers with {len(photos)} regions, expected 1 to "
            f"{len(_LOOKS)} and at least one region: compare fewer at a time."
        )
    spread = 0.36 * np.linspace(-0.5, 0.5, len(classifiers)) if len(classifiers) > 1 else [0.0]
    figure, (axes,) = new_figure(8.5, 1.4 + (0.12 + 0.12 * len(classifiers)) * len(photos), columns=1)
    lowest = 1.0
    for (name, per_region), offset, look in zip(classifiers.items(), spread, _LOOKS, strict=False):
        for row, region in enumerate(photos):
            if entry := per_region.get(region):
                _draw_interval(axes, row + offset, entry["top1"], entry["top1_interval"], *look, label=name)
                lowest = min(lowest, entry["top1_interval"][0])
    _finish_rows(axes, [f"{short_name(region)}  {n:,}" for region, n in photos.items()], "top-1, 95 % interval")
    axes.set_xlim(max(-1, 10 * math.floor(10 * lowest)), 101)  # a dot needs no zero, and a few points need to show
    if len(classifiers) > 1:
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False)
    return _drawn(figure, path)


def _regions_by_photos(classifiers: Mapping[str, Mapping[str, Mapping]]) -> dict[str, int]:
    """`{region: photos}`, 'all' first, then the most photographed, 30 at most."""
    photos: dict[str, int] = {}
    for per_region in classifiers.values():
        for region, entry in per_region.items():
            photos[region] = max(entry["n"], photos.get(region, 0))
    ranked = sorted(photos, key=lambda region: (region != "all", -photos[region], region))
    return {region: photos[region] for region in ranked[:_REGIONS]}


def _drawn(figure: Any, path: str | Path | None) -> Pixels:
    """The PNG is what the array is read from: the two can't differ."""
    from PIL import Image

    file = io.BytesIO()
    save_png(figure, file)
    if path is not None:
        Path(path).write_bytes(file.getvalue())
    return np.array(Image.open(file).convert("RGB"))


def _place(axes: Axes, left: float, below: float, width: float, height: float) -> None:
    """In inches, from the figure's lower left corner."""
    figure: Any = axes.figure  # no SubFigure here
    across, up = figure.get_size_inches()
    axes.set_position((left / across, below / up, width / across, height / up))


def _wrapped(text: str, letters: int, lines: int) -> list[str]:
    """Lines that break between words; a word that is longer than a line is cut."""
    parts = textwrap.wrap(
        text, letters, max_lines=lines, placeholder="…", break_on_hyphens=False, break_long_words=False
    )
    return [short_name(part, letters) for part in parts]


def _describe(axes: Axes, truth: str, answer: str, caption: str) -> None:
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    lines: list[tuple[str, dict[str, Any]]] = [
        *((line, {"style": "italic", "color": BLUE}) for line in _wrapped(truth, 30, 2)),
        ("taken for", {"color": GREY}),
        *((line, {"style": "italic", "color": ORANGE}) for line in _wrapped(answer, 30, 2)),
        *((line, {"color": GREY, "fontsize": 8}) for line in _wrapped(caption, 38, 3)),
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
    _place(axes, left, below, side, side)
    for place, bar in enumerate(bars):
        _place(bar, left + side + 0.35 + 0.85 * place, below + 0.1 * side, 0.18, 0.8 * side)
    return axes, bars


def _draw_shares(axes: Axes, bars: list[Axes], shares: NDArray[np.float64], others: bool) -> None:
    """Two colour scales on one picture, for mistakes by the root of the share, so that one in 50 shows.

    Args:
        others: the last row and column are the classes not shown.
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    own = np.eye(len(shares), dtype=bool)
    for bar, title, hidden, colours, power, ticks in (
        (bars[0], "right", ~own, (LIGHT_BLUE, BLUE, "#00324F"), 1.0, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (bars[1], "mistakes", own, ("#F2B48A", ORANGE, "#7A3300"), 0.5, (0, 0.05, 0.2, 0.5, 1)),
    ):
        colour_map = LinearSegmentedColormap.from_list(title, ["#FFFFFF", *colours])
        norm = PowerNorm(power, 0, 1)
        image = axes.imshow(np.ma.array(shares, mask=hidden), colour_map, norm, interpolation="none")
        axes.figure.colorbar(image, bar, ticks=ticks, format=lambda share, _: f"{100 * share:.0f} %")
        bar.set_title(title, fontsize=8)
        bar.tick_params(labelsize=7)
    edges = np.arange(len(shares) + 1) - 0.5
    if others:
        axes.fill_between(edges[-2:], *edges[-2:], color="#BDBDBD")
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


def _draw_interval(
    axes: Axes, row: float, value: float, interval: Sequence[float], colour: str, marker: str, label: str | None = None
) -> None:
    low, high = (100 * end for end in interval)
    axes.plot([low, high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot(100 * value, row, marker, color=colour, markersize=5, label=label)


def _finish_rows(axes: Axes, labels: list[str], xlabel: str) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.set(xlim=(-1, 101), ylim=(len(labels) - 0.4, -0.6), xlabel=xlabel)
    axes.xaxis.set_major_formatter("{x:.0f} %")
