"""Pictures of batches and of regions, and what all pictures share.

They are for the report (a PNG) and for TensorBoard (an array) alike. Each function returns uint8 [H, W, 3] and, given a
path, writes the same pixels there as a PNG. Colours and determinism as in `plots`.
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

from keras_pipeline.evaluation.report.plots import BLUE, GREY, ORANGE, new_figure, save_png, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pixels = NDArray[np.uint8]
TILE = 1.8  # inches; a caption's line has room for 24 letters at 9 points
_CAPTION = 24
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
    texts = ["\n".join(line for part in own for line in wrapped(part, _CAPTION, 2)) for own in parts]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = TILE - 0.15
    height = width * images.shape[1] / images.shape[2]
    pitch = height + 0.25 + 0.15 * max(text.count("\n") + 1 for text in texts)
    figure, panels = new_figure(TILE * columns, pitch * rows, columns=columns, rows=rows)
    figure.set_layout_engine("none")  # it would set the photos apart as their captions need
    for number, axes in enumerate(panels):
        axes.axis("off")
        row, column = divmod(number, columns)
        place(axes, column * TILE + 0.075, (rows - row) * pitch - height - 0.08, width, height)
    for axes, image, text in zip(panels, images, texts, strict=False):
        axes.imshow(np.clip(np.rint(image), 0, 255).astype(np.uint8))
        axes.annotate(
            text, (0.5, 0), (0, -3), xycoords="axes fraction", textcoords="offset points", ha="center", va="top",
            fontsize=9,
        )  # fmt: skip
    return drawn(figure, path)


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
                draw_interval(axes, row + offset, entry["top1"], entry["top1_interval"], *look, label=name)
                lowest = min(lowest, entry["top1_interval"][0])
    finish_rows(axes, [f"{short_name(region)}  {n:,}" for region, n in photos.items()], "top-1, 95 % interval")
    axes.set_xlim(max(-1, 10 * math.floor(10 * lowest)), 101)  # a dot needs no zero, and a few points need to show
    if len(classifiers) > 1:
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False)
    return drawn(figure, path)


def _regions_by_photos(classifiers: Mapping[str, Mapping[str, Mapping]]) -> dict[str, int]:
    """`{region: photos}`, 'all' first, then the most photographed, 30 at most."""
    photos: dict[str, int] = {}
    for per_region in classifiers.values():
        for region, entry in per_region.items():
            photos[region] = max(entry["n"], photos.get(region, 0))
    ranked = sorted(photos, key=lambda region: (region != "all", -photos[region], region))
    return {region: photos[region] for region in ranked[:_REGIONS]}


def drawn(figure: Any, path: str | Path | None) -> Pixels:
    """Return the figure's pixels, uint8 [H, W, 3], read from the PNG, so that the two can't differ; write it there."""
    from PIL import Image

    file = io.BytesIO()
    save_png(figure, file)
    if path is not None:
        Path(path).write_bytes(file.getvalue())
    return np.array(Image.open(file).convert("RGB"))


def place(axes: Axes, left: float, below: float, width: float, height: float) -> None:
    """Place axes, in inches from the figure's lower left corner."""
    figure: Any = axes.figure  # no SubFigure here
    across, up = figure.get_size_inches()
    axes.set_position((left / across, below / up, width / across, height / up))


def wrapped(text: str, letters: int, lines: int) -> list[str]:
    """Return lines that break between words; a word that is longer than a line is cut."""
    parts = textwrap.wrap(
        text, letters, max_lines=lines, placeholder="…", break_on_hyphens=False, break_long_words=False
    )
    return [short_name(part, letters) for part in parts]


def draw_interval(
    axes: Axes, row: float, value: float, interval: Sequence[float], colour: str, marker: str, label: str | None = None
) -> None:
    """Draw a share and its interval [low, high], all in [0, 1], on a row of a chart in per cent."""
    low, high = (100 * end for end in interval)
    axes.plot([low, high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot(100 * value, row, marker, color=colour, markersize=5, label=label)


def finish_rows(axes: Axes, labels: list[str], xlabel: str) -> None:
    """Name the rows of a chart in per cent, the first one on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.set(xlim=(-1, 101), ylim=(len(labels) - 0.4, -0.6), xlabel=xlabel)
    axes.xaxis.set_major_formatter("{x:.0f} %")
