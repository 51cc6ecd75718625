"""SQL on the ledger's table `photos` that leaves photos out: repeated URLs, species too small, too many photos."""

from __future__ import annotations

import sqlite3


def repeated(columns: str) -> str:
    """Skip all rows but one of those that agree in these columns: a stored one, else one that was requested before."""
    return f"""
    UPDATE photos SET state = 'skipped', reason = ? || winner FROM (
        SELECT rowid AS id, ROW_NUMBER() OVER same AS place, FIRST_VALUE(sample_id) OVER same AS winner
        FROM photos WHERE state <> 'skipped' AND address <> ''
        WINDOW same AS (PARTITION BY {columns} ORDER BY sha256 = '', attempts = 0, draw, sample_id)
    ) WHERE photos.rowid = id AND place > 1
    """


def over(column: str) -> str:
    """Skip all but the first photos, by URL, with the same value in a column; stored ones come first."""
    return f"""
    UPDATE photos SET state = 'skipped', reason = ? WHERE rowid IN (
        SELECT id FROM (
            SELECT id, DENSE_RANK() OVER (PARTITION BY value ORDER BY missing, first, url) AS place FROM (
                SELECT rowid AS id, {column} AS value, IIF(address = '', rowid, address) AS url,
                    MIN(sha256 = '') OVER photo AS missing, MIN(draw) OVER photo AS first
                FROM photos WHERE state IN ('ok', 'waiting') AND {column} <> ''
                WINDOW photo AS (PARTITION BY {column}, IIF(address = '', rowid, address))
            )
        ) WHERE place > ?)
    """


def leave_out_under(db: sqlite3.Connection, least: int, reason: str) -> None:
    """Skip the photos of species with fewer, by distinct URL. What failed counts too, and stays failed.

    Raises ValueError if that leaves fewer than two species.
    """
    photos = "SELECT latin_name, COUNT(DISTINCT unsigned(url)) AS n FROM photos WHERE state <> 'skipped' GROUP BY 1"
    counts = f"SELECT COUNT(*), COALESCE(SUM(n >= ?), 0) FROM ({photos})"
    species, left = db.execute(counts, (least,)).fetchone()
    if left < 2 <= species:
        raise ValueError(
            f"source.min_per_species: received {least}, which leaves {left} of {species} species; expected two or "
            "more; lower it"
        )
    db.execute(
        "UPDATE photos SET state = 'skipped', reason = ? WHERE state IN ('ok', 'waiting') AND latin_name IN "
        f"(SELECT latin_name FROM ({photos}) WHERE n < ?)",
        (reason, least),
    )
