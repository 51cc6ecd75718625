"""Values of a source document's fields, whatever their types. A value that can't be parsed counts as missing."""

from __future__ import annotations

import datetime
import functools
import uuid
from typing import Any

from bson import ObjectId

from keras_pipeline.core.taxonomy import normalise

IDS = (str, int, float, bytes, ObjectId, uuid.UUID)


def text_of(value: Any) -> str:
    """Return a text without surrounding blanks; "" for any other type."""
    return value.strip() if isinstance(value, str) else ""


def id_of(value: Any) -> str:
    """Return an observation's or user's id as text: 123, 123.0 (as JavaScript stores it) and '123' are the same."""
    if isinstance(value, str):
        return normalise(value)
    if not isinstance(value, IDS) or isinstance(value, bool):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    return value.hex() if isinstance(value, bytes) else str(value)


def day_of(value: Any) -> str:
    """Return YYYY-MM-DD of a datetime, or of a text that begins with an ISO date; otherwise ""."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()[:10]
    return _day_of_text(value[:10]) if isinstance(value, str) else ""


@functools.lru_cache(10_000)
def _day_of_text(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        return ""


def degrees_of(value: Any, limit: float) -> float | None:
    """Return a number from -limit to limit; None for NaN and anything else."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and -limit <= value <= limit else None
