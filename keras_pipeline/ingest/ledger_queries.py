"""SQL over the rows of a ledger: repeated URLs, limits of species, and what an export has to tell."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterable, Mapping

CUT_OFF_REQUESTS = 5
# Whether a failure may pass: a photo that is cut off is the host's file once it comes with as many bytes as before.
AGAIN = f"""
CASE WHEN :cut_off AND (bytes = :bytes OR attempts + :attempts >= {CUT_OFF_REQUESTS}) THEN 0 ELSE :may_succeed END
"""

# Skips all rows but one of those that agree in `columns`: a stored one counts, else one that was requested before.
# What an earlier call decided and what still holds is not written again.
REPEATED = """
UPDATE photos
SET state = CASE WHEN place > 1 THEN 'skipped' WHEN sha256 = '' THEN 'waiting' ELSE 'ok' END,
    reason = IIF(place > 1, '{same}' || winner, '')
FROM (
    SELECT rowid AS id, ROW_NUMBER() OVER same AS place, FIRST_VALUE(sample_id) OVER same AS winner
    FROM photos WHERE (state <> 'skipped' OR reason GLOB '{same}*') AND address <> ''
    WINDOW same AS (PARTITION BY {columns} ORDER BY sha256 = '', attempts = 0, draw, sample_id)
)
WHERE photos.rowid = id AND IIF(place > 1, reason <> '{same}' || winner, state = 'skipped')
"""

# The place of each row among those that a limit counts: stored photos first, then in seeded order.
OF_SPECIES = """
SELECT rowid AS id, ROW_NUMBER() OVER (PARTITION BY latin_name ORDER BY sha256 = '', draw) AS place
FROM photos WHERE state IN ('ok', 'waiting') AND latin_name <> ''
"""
# A URL under two names is one photo of its observation.
OF_OBSERVATION = """
SELECT id, DENSE_RANK() OVER (PARTITION BY observation_id ORDER BY missing, first, photo) AS place FROM (
    SELECT rowid AS id, observation_id, IIF(address = '', rowid, address) AS photo,
        MIN(sha256 = '') OVER same AS missing, MIN(draw) OVER same AS first
    FROM photos WHERE state IN ('ok', 'waiting') AND observation_id <> ''
    WINDOW same AS (PARTITION BY observation_id, IIF(address = '', rowid, address))
)
"""

# (latin name, documents, their commonest reason): MAX takes `reason` from its own row.
WITHOUT_PHOTO = """
SELECT latin_name, SUM(n), reason, MAX(n) FROM (
    SELECT latin_name, reason, COUNT(*) AS n, SUM(state = 'ok') AS stored
    FROM photos WHERE latin_name <> '' GROUP BY latin_name, reason
)
GROUP BY latin_name HAVING SUM(stored) = 0 ORDER BY latin_name
"""

# (URL, documents, species) of what photos of several species were redirected to.
SHARED_REDIRECTS = """
SELECT redirected_to, COUNT(*) AS n, COUNT(DISTINCT latin_name) AS species
FROM photos WHERE redirected_to <> '' GROUP BY redirected_to HAVING species >= ? ORDER BY n DESC, redirected_to
"""

SEVERAL_NAMES = """
SELECT COUNT(*) FROM (
    SELECT address FROM photos WHERE state = 'ok' AND address <> ''
    GROUP BY address HAVING COUNT(DISTINCT latin_name) > 1
)
"""

# A stored photo of which no other shard, see `know_elsewhere`, has the same file.
NOT_ELSEWHERE = "state = 'ok' AND (sample_id, sha256) NOT IN (SELECT sample_id, sha256 FROM elsewhere)"
ONLY_HERE = f"SELECT DISTINCT shard FROM photos WHERE {NOT_ELSEWHERE}"
LOST = f"UPDATE photos SET state = 'waiting', sha256 = '', refetched_rule = NULL WHERE shard = ? AND {NOT_ELSEWHERE}"


def know_elsewhere(db: sqlite3.Connection, photos: Iterable[tuple[str, str]]) -> None:
    """Set which photos, as (sample_id, sha256), are stored elsewhere for NOT_ELSEWHERE."""
    db.execute("CREATE TEMP TABLE IF NOT EXISTS elsewhere (sample_id, sha256, PRIMARY KEY (sample_id, sha256))")
    db.execute("DELETE FROM elsewhere")
    db.executemany("INSERT OR IGNORE INTO elsewhere VALUES (?, ?)", photos)


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


@dataclasses.dataclass(frozen=True)
class InUse:
    """What the photos have of what a config names."""

    photos: int  # with a name
    urls_with: dict[str, int]  # {text of source.url_replace: photos whose URL holds it when its turn comes}
    hosts: dict[str, int]  # {host: photos, whatever became of them}, most first
    details: set[str]  # names that a photo to be used has a text for


def in_use(db: sqlite3.Connection, replace: Mapping[str, str]) -> InUse:
    """Count the photos that have what the config names. `replace` of SQLite does what Python's does."""
    url = "url"
    before: list[str] = []
    columns, values = [], []
    for text, replacement in replace.items():
        columns.append(f"COALESCE(SUM(INSTR({url}, ?) > 0), 0)")
        values += [*before, text]
        url, before = f"REPLACE({url}, ?, ?)", [*before, text, replacement]
    query = f"SELECT {', '.join(['COUNT(*)', *columns])} FROM photos WHERE latin_name <> ''"
    photos, *counts = db.execute(query, values).fetchone()
    hosts = db.execute("SELECT host, COUNT(*) AS n FROM photos WHERE host <> '' GROUP BY host ORDER BY n DESC, host")
    details = {name for (name,) in db.execute("SELECT DISTINCT name FROM details")}
    return InUse(photos, dict(zip(replace, counts, strict=True)), dict(hosts), details)
