"""The page, table and metric of photos whose picture is in two splits, for `phase0 baseline`."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.core.progress import progress
from keras_pipeline.core.record import Photo
from keras_pipeline.data import records
from keras_pipeline.evaluation.baseline import Features
from keras_pipeline.evaluation.look_alikes import CORRELATION, Candidate, candidates, correlation
from keras_pipeline.evaluation.report import pictures
from keras_pipeline.evaluation.report.html import Figure, Paragraph, write_report
from keras_pipeline.ingest.same_photo import COLUMNS, read_pairs
from keras_pipeline.phases.phase0_dataset.shard_index import index_shards

COMPARED = 20_000  # candidates at most, the most similar first: 25 to 80 ms each
# In a row, after which the less similar pairs are not compared: fewer than 0.6 % of them are copies (95 %). The longest
# such row between two copies of flowers17 was 182.
IN_VAIN = 500
SHOWN = 60  # pairs in the page: of the same picture, and as many of the others
TILE = 160  # px
NAMED = ("sample_id", "latin_name", "split", "source_url")  # columns of the table, for both photos


def audit(run: Run, info: DatasetInfo, features: Mapping[str, Features]) -> dict:
    """Write `look_alikes.json`, the page beside it and `tables/look_alikes.csv`; return what the first one holds.

    The table starts with the pairs of `phase0.split.same_photo`, so that a config can name it for good.

    Args:
        features: {split: features}, train first.
    """
    found = candidates(features)
    place = _Shards(info)
    pairs = sorted(_compare(found[:COMPARED], place), key=lambda pair: -pair[1])
    same = [pair for pair in pairs if pair[1] >= CORRELATION]
    judged = sum(len(each.labels) for split, each in features.items() if split != "train")
    twice = len({candidate.sample_ids[0] for candidate, _ in same})
    result = {
        "photos": judged, "candidates": len(found), "compared": len(pairs), "pairs": len(same),
        "photos_with_a_copy": twice, "share": twice / judged,
        "examples": [list(candidate.sample_ids) for candidate, _ in same[:5]],
    }  # fmt: skip
    folder = run.path("look_alikes").parent
    listed = run.config.phase0.split.same_photo
    _write_table(table_path(run), _table(same, place), None if listed is None else read_pairs(Path(listed)))
    _write_page(folder / "look_alikes.html", run.config.experiment, result, pairs, place)
    write_json(run.path("look_alikes"), result)
    return result


def _compare(found: Sequence[Candidate], place: _Shards) -> list[tuple[Candidate, float]]:
    """Return the correlation of each candidate, up to where `IN_VAIN` of them are no copies."""
    pairs: list[tuple[Candidate, float]] = []
    in_vain = 0
    for candidate in progress(found, total=len(found), description="pictures compared", unit="pairs"):
        first, second = (place.read(sample_id) for sample_id in candidate.sample_ids)
        pairs.append((candidate, correlation(first.image, second.image)))
        in_vain = 0 if pairs[-1][1] >= CORRELATION else in_vain + 1
        if in_vain == IN_VAIN:
            break
    return pairs


class _Shards:
    """Reads single photos by their id."""

    def __init__(self, info: DatasetInfo) -> None:
        tables = [index_shards(info.shards(split)) for split in info.splits]
        self._places = pd.concat(tables).set_index("sample_id")[["file", "offset", "length"]]

    def read(self, sample_id: str) -> Photo:
        file, offset, length = self._places.loc[sample_id]
        return records.read(Path(file), offset, length)


def table_path(run: Run) -> Path:
    """Return where the table of copies lies, in the form that `phase0.split.same_photo` reads."""
    return run.path("look_alikes").parent / "tables" / "look_alikes.csv"


def _table(same: Sequence[tuple[Candidate, float]], place: _Shards) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for candidate, agreement in same:
        row: dict[str, Any] = {}
        for side, (split, sample_id) in enumerate(zip(candidate.splits, candidate.sample_ids, strict=True), start=1):
            photo = place.read(sample_id)
            named = dict(zip(NAMED, (sample_id, photo.latin_name, split, photo.source_url), strict=True))
            row |= {f"{key}_{side}": value for key, value in named.items()}
        rows.append(row | {"cosine": round(candidate.cosine, 4), "correlation": round(agreement, 4)})
    columns = [f"{key}_{side}" for side in (1, 2) for key in NAMED]
    return pd.DataFrame(rows, columns=[*columns, "cosine", "correlation"])


def _write_table(path: Path, found: pd.DataFrame, listed: pd.DataFrame | None) -> None:
    """Write the listed pairs as they are, then the pairs found that are not among them.

    The split no longer parts listed pairs, so that they are not found again. Yet the list may be this very file, and
    without them the next split would forget them.
    """
    if listed is not None:
        known = {frozenset(pair) for pair in listed[COLUMNS].itertuples(index=False)}
        new = [frozenset(pair) not in known for pair in found[COLUMNS].itertuples(index=False)]
        found = pd.concat([listed, found[new]]) if any(new) else listed
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path) as temporary:
        found.to_csv(temporary, index=False)


def _write_page(
    path: Path, experiment: str, result: dict, pairs: Sequence[tuple[Candidate, float]], place: _Shards
) -> None:
    """Show the pairs side by side: those of the same picture, then the most alike of the others."""
    count = result["pairs"]
    parts = (
        ("The same picture", pairs[:count], "In two splits, by the correlation of the one placed inside the other. "
         "Keep such photos together: set `phase0.split.same_photo: …/tables/look_alikes.csv` and run "
         "`phase0 split --force`."),
        ("The most alike of the others", pairs[count:], f"A correlation below {CORRELATION:g}: other photos, though "
         "perhaps of the same plant, a moment later. Add to the table what is the same picture after all."),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        sections = []
        for number, (title, part, words) in enumerate(parts):
            blocks: list[Paragraph | Figure] = [Paragraph(words if part else "None.")]
            if part:
                png = Path(folder) / f"{number}.png"
                _draw_pairs(part[:SHOWN], place, png)
                blocks.append(Figure(png, f"{min(SHOWN, len(part))} of {len(part):,} pairs, side by side"))
            sections.append((title, blocks))
        write_report(
            path, experiment=experiment, kind="Photos of one picture in two splits", gates=None, sections=sections,
            summary={
                "photos of val, calibration and test": result["photos"], "pairs compared": result["compared"],
                "pairs of the same picture": count, "photos with a copy elsewhere": result["photos_with_a_copy"],
            },
        )  # fmt: skip


def _draw_pairs(pairs: Sequence[tuple[Candidate, float]], place: _Shards, png: Path) -> None:
    tiles, captions = [], []
    for candidate, agreement in pairs:
        for side, sample_id in enumerate(candidate.sample_ids):
            image = Image.open(io.BytesIO(place.read(sample_id).image)).convert("RGB")
            image.thumbnail((TILE, TILE))
            tile = Image.new("RGB", (TILE, TILE), "white")
            tile.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
            tiles.append(np.asarray(tile))
            captions.append(f"{candidate.splits[side]} {sample_id[-16:]}" + (f" + {agreement:.2f}" if side else ""))
    pictures.photo_grid(np.stack(tiles), captions, png)
