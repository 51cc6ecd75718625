"""Regions by the values of a field: `source.regions` names each region's values, in order of precedence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_pipeline.core.dataset import UNKNOWN_REGION
from keras_pipeline.ingest.tally import Tally

REMEMBERED, LONG = 10_000, 300  # different values of the field; texts in one


@dataclasses.dataclass(frozen=True)
class _Found:
    """What the field's values mean."""

    region: str | None
    unnamed: list[str]
    several: str  # "" if at most one region shares a value


class Regions:
    """The region of each photo, and counts of the photos whose region is not clear from the config."""

    def __init__(self, regions: Mapping[str, list[str]]) -> None:
        self.unnamed = Tally()  # {value that no region names: photos}
        self.several = Tally()  # {"the region taken before another one that shares a value too": photos}
        self._values = {name: {value.strip() for value in values} for name, values in regions.items()}
        self._named: set[str] = set().union(*self._values.values())
        self._known: dict[tuple, _Found] = {}

    def of(self, value: Any) -> Any:
        """Return the first region that shares a value with the field, a text or a list of texts.

        A field without a value gives None, one with values that no region names gives `unknown`, and anything else
        (a number, a sub-document) comes back as it is, to be counted as mistyped.
        """
        if value is None or value == []:
            return None
        texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
        try:
            found = self._known.get(texts)
        except TypeError:  # a list of lists
            return value
        if found is None:
            if not texts or not all(isinstance(text, str) for text in texts):
                return value
            found = self._look_up(texts)
        for text in found.unnamed:
            self.unnamed.add(text)
        if found.several:
            self.several.add(found.several)
        return found.region

    def _look_up(self, texts: tuple[str, ...]) -> _Found:
        stripped = [text for text in dict.fromkeys(map(str.strip, texts)) if text]
        shared = [name for name, values in self._values.items() if not values.isdisjoint(stripped)]
        found = _Found(
            shared[0] if shared else UNKNOWN_REGION if stripped else None,
            [text for text in stripped if text not in self._named],
            f"{shared[0]} before {', '.join(shared[1:])}" if len(shared) > 1 else "",
        )
        if len(self._known) < REMEMBERED and len(texts) < LONG:
            self._known[texts] = found
        return found
