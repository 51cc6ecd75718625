"""Regions by the values of a field: `source.regions` names each region's values, in order of precedence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_pipeline.core.schema import UNKNOWN_REGION
from keras_pipeline.ingest.tally import Tally

REMEMBERED, LONG = 10_000, 300  # different values of the field; texts in one


class Regions:
    """The region of each photo, and counts of the photos whose region is not clear from the config."""

    def __init__(self, regions: Mapping[str, list[str]]) -> None:
        self.unnamed = Tally()  # {value that no region names: photos}
        self.several = Tally()  # {"the region taken before another one that shares a value too": photos}
        self._values = {name: {value.strip() for value in values} for name, values in regions.items()}
        self._named: set[str] = set().union(*self._values.values())
        self._known: dict[tuple[str, ...], list[str]] = {}

    def of(self, value: Any) -> Any:
        """Return the first region that shares a value with the field, a text or a list of texts.

        A field without a value gives None, one with values that no region names gives `unknown`, and anything else
        (a number, a sub-document) comes back as it is, to be counted as mistyped.
        """
        if value is None or value == []:
            return None
        texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
        if not texts or not all(isinstance(text, str) for text in texts):
            return value
        found = self._known.get(texts)
        if found is None:
            stripped = {text.strip() for text in texts}
            found = [name for name, values in self._values.items() if not values.isdisjoint(stripped)]
            if len(self._known) < REMEMBERED and len(texts) < LONG:
                self._known[texts] = found
        for text in texts:
            if text.strip() not in self._named and text.strip():
                self.unnamed.add(text.strip())
        if len(found) > 1:
            self.several.add(f"{found[0]} before {', '.join(found[1:])}")
        blank = not any(text.strip() for text in texts)
        return found[0] if found else None if blank else UNKNOWN_REGION
