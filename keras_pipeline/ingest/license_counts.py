"""Licences of a collection's photos: their spellings, and what the usual lists of allowed ones would leave."""

from __future__ import annotations

from typing import Any

from keras_pipeline.core.licenses import KNOWN, LONGEST, UNKNOWN, USUAL, license_id
from keras_pipeline.ingest.fields import text_of
from keras_pipeline.ingest.tally import CLIP, OTHER, Tally

TOLD_APART = 64  # licences by species; all others count as one


class LicenseCounts:
    """Photos by spelling, and the licences that each species has: a bit for each licence."""

    def __init__(self) -> None:
        self._bits = {name: 1 << bit for bit, name in enumerate((*KNOWN, OTHER))}
        self._of_species: dict[str, int] = {}
        self._spellings = Tally()

    def add(self, value: Any, latin_name: str) -> str:
        """Count a photo's licence, and return it as the document spells it; `unknown` without one."""
        spelling = text_of(value)[:LONGEST] or UNKNOWN
        self._spellings.add(spelling)
        key = license_id(spelling)
        bit = self._bits.get(key)
        if bit is None:
            bit = self._bits[OTHER]
            if len(self._bits) < TOLD_APART:
                bit = self._bits[key] = 1 << len(self._bits)
        self._of_species[latin_name] = self._of_species.get(latin_name, 0) | bit
        return spelling

    def by_license(self) -> dict[str, dict[str, Any]]:
        """Return {id: {photos, species, spellings: {text: photos}}}, most photos first."""
        found: dict[str, dict[str, Any]] = {}
        for spelling, n in self._spellings.ranked().items():
            key = license_id(spelling)
            entry = found.setdefault(key if key in self._bits else OTHER, {"photos": 0, "species": 0, "spellings": {}})
            entry["photos"] += n
            entry["spellings"][spelling] = n
        for key, entry in found.items():
            entry["species"] = sum(1 for bits in self._of_species.values() if bits & self._bits[key])
        return dict(sorted(found.items(), key=lambda item: (-item[1]["photos"], item[0])))

    def allow_lists(self) -> list[dict[str, Any]]:
        """Return what each usual list would leave: [{licenses, photos, species, lost: [species, sorted]}]."""
        licenses, rows = self.by_license(), []
        allowed: list[str] = []
        for more in USUAL:
            allowed += more
            mask = sum(self._bits[key] for key in allowed)
            lost = sorted(name[:CLIP] for name, bits in self._of_species.items() if not bits & mask)
            photos = sum(licenses[key]["photos"] for key in allowed if key in licenses)
            left = len(self._of_species) - len(lost)
            rows.append({"licenses": [*allowed], "photos": photos, "species": left, "lost": lost})
        return rows
