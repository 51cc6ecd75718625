"""Pictures of recall: by species, the surely bad ones first, and by the number of train photos.

Arrays, PNGs, colours and determinism as in `pictures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from keras_pipeline.core.dataset import MIN_PHOTOS
from keras_pipeline.evaluation.confusion import stable_hash
from keras_pipeline.evaluation.report.pictures import Pixels, draw_interval, drawn, finish_rows
from keras_pipeline.evaluation.report.plots import BLUE, LIGHT_BLUE, ORANGE, new_figure, short_name

_LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}


def recall_chart(
    per_class_recall: Mapping[str, Mapping], path: str | Path | None = None, *, gate: float | None, most: int = 25
) -> Pixels:
    """Draw the recall of `worst_classes`, and how sure it is; classes with fewer than 20 photos paler.

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
        colour = BLUE if entry["n"] >= MIN_PHOTOS else LIGHT_BLUE
        draw_interval(axes, row, entry["recall"], entry["interval"], colour, "o")
    labels = [f"{short_name(name, 44)}  {entry['n']:,}" for name, entry in shown]
    finish_rows(axes, labels, f"recall, with its 95 % interval (pale: fewer than {MIN_PHOTOS} photos)")
    title = f"{len(shown):,} of {len(rows):,} classes"
    if gate is not None:
        axes.axvline(100 * gate, color=ORANGE, linestyle="--", linewidth=1.2)
        missed = sum(recall <= gate for recall in judged)
        sure = sum(entry["interval"][1] <= gate for _, entry in rows)
        title += f"; not above {100 * gate:g} %: {sure:,} for sure"
        title += f", of {len(judged):,} with {MIN_PHOTOS} photos or more: {missed:,} as measured" * bool(judged)
    figure.suptitle(title, fontsize=10)  # over all of it: names may leave the axes less width than the title needs
    return drawn(figure, path)


def worst_classes(per_class_recall: Mapping[str, Mapping]) -> list[tuple[str, Mapping]]:
    """Return `(latin_name, entry)` of the classes with photos: what is bad for sure comes first.

    They are ordered by the upper end of their interval, below which the recall lies for sure: 0 of 12 photos (0.26)
    and 12 of 40 (0.47) come before one unlucky photo (0.975). By the lower end that photo would come first, because it
    is 0 for every species without a right answer. Equals by recall, then those with more photos, then by a hash.
    """

    def key(item: tuple[str, Mapping]) -> tuple[float, float, int, bytes]:
        name, entry = item
        return entry["interval"][1], entry["recall"], -entry["n"], stable_hash(name)

    return sorted((item for item in per_class_recall.items() if item[1]["n"]), key=key)


def recall_curve(rows: Sequence[Mapping], path: str | Path | None = None) -> Pixels:
    """Draw recall against the number of train photos of a species, with 95 % intervals.

    Args:
        rows: of `metrics.recall_by_train_photos`.
        path: of the PNG; None writes none.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("recall_curve needs at least one row, received none: evaluate a split first.")
    figure, (axes,) = new_figure(max(4.5, 1.5 + 1.15 * len(rows)), 4.2, columns=1)
    places = range(len(rows))
    recalls = [100 * row["recall"] for row in rows]
    axes.plot(places, recalls, "o--", color=BLUE, linewidth=0.8, markersize=6)
    for x, row in enumerate(rows):
        low, high = (100 * end for end in row["interval"])
        axes.plot([x, x], [low, high], color=BLUE, linewidth=2.5, solid_capstyle="butt")
        axes.annotate(f"{recalls[x]:.0f} %", (x, recalls[x]), (6, -9), textcoords="offset points", va="center",
                      fontsize=9, bbox=_LABEL_BOX)  # fmt: skip
    labels = [f"{train_range(row)}\n{row['species']:,} species\n{row['n']:,} photos" for row in rows]
    axes.set_xticks(places, labels, fontsize=8.5)
    axes.set(xlim=(-0.5, len(rows) - 0.2), ylim=(-9, 103), xlabel="train photos of a species")
    axes.set_ylabel("recall, with its 95 % interval")
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.set_title(f"{sum(row['n'] for row in rows):,} photos, by how many photos their species was learnt from",
                   fontsize=9.5)  # fmt: skip
    return drawn(figure, path)


def train_range(row: Mapping) -> str:
    """Return a row's bin in words: '1', '2–4' or '100+'."""
    low, high = row["train"]
    return f"{low}+" if high is None else f"{low}" if low == high else f"{low}–{high}"
