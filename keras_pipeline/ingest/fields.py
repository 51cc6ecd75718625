"""Values of a source document's fields, whatever their types. A value that can't be parsed counts as missing."""

from __future__ import annotations

import datetime
import functools
import uuid
from typing import Any

from bson import Binary, DatetimeMS, Decimal128, ObjectId, Timestamp, json_util

from keras_pipeline.core.taxonomy import normalise

IDS = (str, int, float, bytes, ObjectId, uuid.UUID)


def text_of(value: Any) -> str:
    """Return a text without surrounding blanks; "" for any other type."""
    return value.strip() if isinstance(value, str) else ""


def document_id(value: Any) -> str:
    """Return a document's _id as a person would write it; one text for each _id, whatever its type.

    A UUID and an ObjectId are written as usual, other bytes as hexadecimal digits, a whole number without a point, a
    date as 2020-05-03T10:00:00Z, true, false and null as in JSON, a sub-document as MongoDB's Extended JSON.
    """
    if isinstance(value, str | ObjectId | uuid.UUID | Decimal128):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, bytes):
        is_uuid = isinstance(value, Binary) and value.subtype in (3, 4) and len(value) == 16
        return str(uuid.UUID(bytes=bytes(value))) if is_uuid else value.hex()
    if isinstance(value, datetime.datetime):
        return f"{value.replace(tzinfo=None).isoformat(timespec='milliseconds' if value.microsecond else 'seconds')}Z"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, Timestamp):
        return f"{value.time}:{value.inc}"
    if isinstance(value, DatetimeMS):
        return str(int(value))
    return json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS, ensure_ascii=False)


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
