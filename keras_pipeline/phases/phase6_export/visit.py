"""Visit the finished page in a real browser: put a few test photos into its file field, as a user would."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from keras_pipeline.core.artifacts import Run
from keras_pipeline.data import records
from keras_pipeline.export.visit import show_photo

PHOTOS = 5  # of the test split, in the random order of the shards


def visit(run: Run) -> list[dict]:
    """Show the page the first test photos; write `page.png`, a screenshot of the first that it names right.

    Returns:
        [{truth, answer, percent, conclusive}] of each photo, as read off the screen.

    Raises:
        BrowserMissing: where there is no Chromium.
        OSError: when the page gives no answer.
    """
    info = records.load_info(run.path("dataset"))
    photos = (records.decode(example) for shard in info.shards("test") for example in records.read_shard(shard))
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "photo.jpg"
        for photo in itertools.islice(photos, PHOTOS):
            file.write_bytes(photo.image)
            seen_right = any(row["truth"] == row["answer"] for row in rows)
            picture = None if seen_right else run.folder / "page.png"
            answer = show_photo(run.path("web"), file, picture)
            best = answer["species"][0] if answer["species"] else {"latin_name": None, "percent": None}
            rows.append(
                {
                    "truth": photo.latin_name,
                    "answer": best["latin_name"],
                    "percent": best["percent"],
                    "conclusive": answer["conclusive"],
                }
            )
    return rows
