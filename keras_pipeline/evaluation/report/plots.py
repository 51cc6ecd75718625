"""Figures of the report, one PNG a function. Same numbers, same bytes: no date and no library version inside.

Colours are Okabe & Ito's (2008), which stay apart for the colour-blind; line style and marker say the same again.
matplotlib is imported when a figure is drawn, and never through pyplot, whose global state does not suit a pipeline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_pipeline.core.files import aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6B6B6B"
LIGHT_BLUE = "#9CCBE8"  # under a hatch or a line that must stay visible
_NAMED_CLASSES = 40  # more bars than this and the names no longer fit a page; the tail's shape is what is left to see

History = dict[str, list[float]]
_PANELS = (  # title, the keys a Keras history may use for it, logarithmic
    ("Loss", ("loss",), False),
    ("Top-1 accuracy", ("top1", "top1_accuracy", "accuracy", "sparse_categorical_accuracy"), False),
    ("Top-5 accuracy", ("top5", "top5_accuracy", "sparse_top_k_categorical_accuracy"), False),
    ("Macro recall", ("macro_recall",), False),
    ("Agreement with the teachers", ("agreement",), False),
    ("Learning rate", ("learning_rate", "lr"), True),
    ("Gradient norm", ("gradient_norm",), True),
)
_SHARES = {"Top-1 accuracy", "Top-5 accuracy", "Macro recall", "Agreement with the teachers"}  # never above 1
_LABELS = ("training", "validation")


def class_histogram(counts: dict[str, int], path: str | Path, *, rare_below: int | None = None) -> None:
    """Photos per class on a log scale: one named bar a class; over 40 classes, the ranked curve and how many classes
    have how few photos.

    Args:
        counts: `{latin_name: photos}`, photos >= 0.
        path: of the PNG.
        rare_below: photos; classes with fewer are marked.

    Raises:
        ValueError: no classes.
    """
    if not counts:
        raise ValueError("class_histogram needs at least one class, received none: audit a source that holds photos.")
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    values = np.array([n for _, n in ranked])
    if len(ranked) <= _NAMED_CLASSES:
        figure, (axes,) = new_figure(7.0, 1.4 + 0.24 * len(ranked), columns=1)
        _named_bars(axes, [short_name(name) for name, _ in ranked], values)
    else:
        figure, (axes, octaves) = new_figure(11.0, 4.4, columns=2, widths=(5, 4))
        _ranked_curve(axes, values, rare_below)
        _octaves(octaves, values, rare_below)
    figure.suptitle(f"{int(values.sum()):,} photos of {len(values):,} classes; median {np.median(values):,.0f}")
    save_png(figure, path)


def reliability_diagram(tables: Mapping[str, tuple[Sequence[dict], Sequence[dict]]], path: str | Path) -> None:
    """Accuracy against confidence, before and after the temperature, with the photos of each bin below.

    Args:
        tables: {row's title, '' for none: (bins as `calibration.reliability_bins` returns them at T = 1, the same at
            the fitted temperature)}.
        path: of the PNG.
    """
    n = len(tables)
    figure, panels = new_figure(8.5, 0.6 + 5.0 * n, columns=2, rows=2 * n, heights=(3, 1) * n)
    for row, (name, pair) in enumerate(tables.items()):
        most = max(1, *(b["n"] for table in pair for b in table))
        for column, (moment, table) in enumerate(zip(("T = 1", "after temperature"), pair, strict=True)):
            upper, lower = panels[4 * row + column], panels[4 * row + 2 + column]
            _reliability_panel(upper, table)
            _count_panel(lower, table, most)
            upper.set_title(f"{short_name(name)}, {moment}" if name else f"Test photos, {moment}")
        panels[4 * row].set_ylabel("accuracy")
        panels[4 * row + 2].set_ylabel("photos")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    save_png(figure, path)


def risk_coverage(
    coverage: ArrayLike,
    risk: ArrayLike,
    path: str | Path,
    *,
    chosen: tuple[float, float] | None,
    target: float,
    area: float,
) -> None:
    """Share of wrong answers against the share of photos answered.

    Args:
        coverage: [m], rising, in (0, 1], from `threshold.risk_coverage`.
        risk: [m], in [0, 1].
        path: of the PNG.
        chosen: (coverage, risk) at the threshold that the app uses, marked; None draws no mark.
        target: precision promised; 1 - target is drawn as a line.
        area: under the curve (AURC).
    """
    coverage, risk = np.asarray(coverage, float), np.asarray(risk, float)
    figure, (axes,) = new_figure(6.5, 4.4, columns=1)
    axes.step(100 * coverage, 100 * risk, where="post", color=BLUE, label=f"wrong among answered (AURC {area:.4f})")
    allowed = 100 * (1 - target)
    axes.axhline(allowed, color=GREY, linestyle="--", linewidth=1, label=f"target: at most {allowed:.3g} % wrong")
    if chosen is not None:
        axes.plot(100 * chosen[0], 100 * chosen[1], "o", color=ORANGE, markersize=8, label="the chosen threshold")
    axes.set(xlabel="coverage: % of photos answered", ylabel="risk: % wrong", xlim=(0, 101))
    axes.set_ylim(0, max(100 * risk.max(), allowed) * 1.1)
    # Outside the axes, where neither the curve nor the target can cross it.
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save_png(figure, path)


def training_curves(histories: Sequence[tuple[str, History]], path: str | Path) -> None:
    """Loss, top-1, top-5, macro recall, agreement, learning rate and gradient norm by epoch, training against
    validation, phases one after the other; a panel for each that was recorded.

    Args:
        histories: `(title, {metric: one value an epoch})` in order of time, e.g. distillation, then fine-tuning; keys
            as Keras writes them (`loss`, `val_loss`, `top1`, `learning_rate` …), of which any may be absent.
        path: of the PNG.

    Raises:
        ValueError: no epoch at all, or none of these figures.
    """
    lengths = [max(map(len, history.values()), default=0) for _, history in histories]
    recorded = {key.removeprefix("val_") for _, history in histories for key, values in history.items() if len(values)}
    drawn = [panel for panel in _PANELS if recorded.intersection(panel[1])]
    if not drawn:
        raise ValueError("training_curves needs at least one epoch, received none: give the history of a run.")
    starts = np.cumsum([0, *lengths])[:-1]
    figure, panels = new_figure(9.0, 3.3 * -(-len(drawn) // 2), columns=2, rows=-(-len(drawn) // 2))
    for axes in panels[len(drawn) :]:
        axes.axis("off")
    for axes, (title, keys, logarithmic) in zip(panels, drawn, strict=False):
        for (_, history), start in zip(histories, starts, strict=True):
            _draw_history(axes, history, keys, int(start))
        _finish_panel(axes, title, logarithmic)
        _mark_phases(axes, histories, starts, lengths)
    lines = {line.get_label(): line for axes in panels for line in axes.lines if line.get_label() in _LABELS}
    figure.legend(list(lines.values()), list(map(str, lines)), loc="outside lower center", ncols=2, frameon=False)
    save_png(figure, path)


def _draw_history(axes: Axes, history: History, keys: tuple[str, ...], start: int) -> None:
    styles = (("", BLUE, "-", "o", _LABELS[0]), ("val_", ORANGE, "--", "s", _LABELS[1]))
    for prefix, colour, line, marker, label in styles:
        values = next((history[prefix + key] for key in keys if prefix + key in history), [])
        if len(values):
            epochs = start + 1 + np.arange(len(values))
            axes.plot(epochs, values, color=colour, linestyle=line, marker=marker, markersize=3, label=label)


def _finish_panel(axes: Axes, title: str, logarithmic: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, pad=18)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if title in _SHARES:
        axes.set_ylim(top=min(1.01, axes.get_ylim()[1]))
    if logarithmic and all(
        (np.asarray(line.get_ydata()) > 0).all() for line in axes.lines
    ):  # a schedule may end at exactly 0
        axes.set_yscale("log")


def _mark_phases(axes: Axes, histories: Sequence[tuple[str, History]], starts: NDArray, lengths: Sequence[int]) -> None:
    axes.set_xlim(0.5, sum(lengths) + 0.5)
    for (title, _), start, length in zip(histories, starts, lengths, strict=True):
        if not length:
            continue
        if start:
            axes.axvline(start + 0.5, color=GREY, linestyle=":", linewidth=1.2)
        middle = (start + (length / 2)) / sum(lengths)
        axes.text(middle, 1.02, title, transform=axes.transAxes, ha="center", fontsize=8, color=GREY)


def _named_bars(axes: Axes, names: list[str], values: np.ndarray) -> None:
    rows = np.arange(len(names))  # names cut to length may be equal
    axes.barh(rows, np.maximum(values, 0.8), color=BLUE, height=0.7)  # the axis begins at 0.8: none shows as no bar
    axes.set_yticks(rows, names)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlim(0.8, max(2, values.max()) * 1.6)
    axes.invert_yaxis()
    axes.set_xlabel("photos (log scale)")
    axes.tick_params(axis="y", labelsize=8, length=0)
    for label in axes.get_yticklabels():
        label.set_fontstyle("italic")
    for row, value in enumerate(values):
        axes.text(max(value, 0.8) * 1.04, row, f"{value:,}", va="center", fontsize=8, color=GREY)
    axes.grid(axis="y", visible=False)


def _ranked_curve(axes: Axes, values: np.ndarray, rare_below: int | None) -> None:
    rank = np.arange(1, len(values) + 1)
    drawn = np.maximum(values, 0.8)  # a class without photos still shows on a log axis, below one
    axes.fill_between(rank, 0.8, drawn, step="mid", color=BLUE, alpha=0.25, linewidth=0)
    axes.step(rank, drawn, where="mid", color=BLUE)
    axes.set(yscale="log", xlabel="classes, most photographed first", ylabel="photos (log scale)")
    axes.set(xlim=(1 - len(values) / 100, len(values)), ylim=(0.8, max(2, values.max(), rare_below or 0) * 1.5))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")
    share = np.cumsum(values) / max(1, values.sum())
    half = int(np.searchsorted(share, 0.5)) + 1
    axes.axvline(half, color=ORANGE, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"half of all photos are of\nthe first {half:,} classes",
        (half, 0.97), xycoords=("data", "axes fraction"), xytext=(6, 0), textcoords="offset points",
        va="top", color=ORANGE, fontsize=9,
    )  # fmt: skip
    if rare_below is not None:
        axes.axhline(rare_below, color=GREY, linestyle=":", linewidth=1.2)
        rare = int((values < rare_below).sum())
        # Away from the curve: it passes below the line's right half, or above its left one.
        x, offset, side = (0.98, 3, "right") if rare > len(values) / 2 else (0.1, -12, "left")
        axes.annotate(
            f"{rare:,} classes with fewer than {rare_below:,} photos", (x, rare_below),
            xycoords=("axes fraction", "data"), xytext=(0, offset), textcoords="offset points", ha=side, fontsize=9,
        )  # fmt: skip


def _octaves(axes: Axes, values: np.ndarray, rare_below: int | None) -> None:
    """Classes with 0, 1, 2-3, 4-7, … photos: what the flat end of a ranked curve hides."""
    octave = np.ceil(np.log2(values + 1)).astype(int)  # 0, 1, 2, 2, 3, 3, 3, 3, …
    counts = np.bincount(octave)
    first = int(octave.min())
    low = [0, *(1 << k for k in range(len(counts) - 1))]
    names = [f"{a:,}" if a < 2 else f"{a:,}–{2 * a - 1:,}" for a in low]
    rare = [rare_below is not None and 2 * a - 1 < rare_below for a in low]
    bars = axes.barh(names[first:], counts[first:], color=BLUE, height=0.75)
    for bar, n, hatched in zip(bars, counts[first:], rare[first:], strict=True):
        if hatched:
            bar.set(facecolor=LIGHT_BLUE, hatch="///", edgecolor=BLUE)
        axes.annotate(
            f"{n:,}", (n, bar.get_y() + bar.get_height() / 2), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=8, color=GREY,
        )  # fmt: skip
    hatch = f" (hatched: with fewer than {rare_below:,} photos)" if any(rare) else ""
    axes.set(xlabel=f"classes{hatch}", ylabel="photos of a class", xlim=(0, counts.max() * 1.15))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.grid(axis="y", visible=False)


def short_name(name: str, most: int = 50) -> str:
    """A name as text: short enough for a page (`most` characters), and no formula (`$`)."""
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")


def _reliability_panel(axes: Axes, table: Sequence[dict]) -> None:
    filled = [b for b in table if b["n"]]
    width = table[0]["upper"] - table[0]["lower"]
    middle = [(b["lower"] + b["upper"]) / 2 for b in filled]
    accuracy = np.array([b["accuracy"] for b in filled])
    confidence = np.array([b["confidence"] for b in filled])
    axes.bar(middle, accuracy, width=0.92 * width, color=LIGHT_BLUE, label="accuracy")
    # The gap runs from the accuracy to the bin's mean confidence, not to the diagonal: that is what ECE adds up.
    axes.bar(
        middle, confidence - accuracy, width=0.92 * width, bottom=accuracy,
        facecolor="none", edgecolor=ORANGE, hatch="////", linewidth=1.0, label="gap to mean confidence",
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    n = sum(b["n"] for b in filled)
    ece = sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in filled) / max(1, n)
    axes.text(0.97, 0.05, f"ECE {ece:.3f}\nn = {n:,}", transform=axes.transAxes, ha="right", bbox=_LABEL_BOX)


def _count_panel(axes: Axes, table: Sequence[dict], most: int) -> None:
    counts = np.array([b["n"] for b in table])
    width = table[0]["upper"] - table[0]["lower"]
    middle = np.array([(b["lower"] + b["upper"]) / 2 for b in table])
    axes.bar(middle, counts, width=0.92 * width, color=GREY)
    axes.set(xlim=(0, 1), xlabel="confidence", ylim=(0, most * 1.25))
    for x, n in zip(middle, counts, strict=True):
        if n and len(table) <= 20:
            axes.annotate(f"{n:,}", (x, n), xytext=(0, 1), textcoords="offset points", ha="center", fontsize=6.5)


_LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2.5}


def new_figure(
    width: float,
    height: float,
    *,
    columns: int,
    rows: int = 1,
    heights: Sequence[float] | None = None,
    widths: Sequence[float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure in inches and its axes in reading order, with the look that all figures share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = (
        figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights, "width_ratios": widths})
        .ravel()
        .tolist()
    )
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(visible=True, color="#E4E4E4", linewidth=0.7)
        one.set_axisbelow(True)
    return figure, axes


def save_png(figure: Figure, file: str | Path | BinaryIO) -> None:
    """The figure as a PNG of 120 pixels an inch, the same bytes each time."""
    with aside(Path(file)) if isinstance(file, (str, Path)) else contextlib.nullcontext(file) as target:
        # Without this entry the PNG carries matplotlib's version, and its hash would change with an upgrade.
        figure.savefig(target, format="png", dpi=120, metadata={"Software": None})


def draw_curves(stages: dict[str, list[dict]], path: Path) -> None:
    """The rows that `fit.fit` returned for each stage, one after the other."""
    histories = [(title, {key: [row[key] for row in rows] for key in rows[0]}) for title, rows in stages.items()]
    with aside(path) as temporary:
        training_curves(histories, temporary)
