"""Values of a source document's fields, whatever their types. A value that can't be parsed counts as missing."""

from __future__ import annotations

import datetime
import functools
import re
import uuid
from typing import Any

from bson import Binary, DatetimeMS, DBRef, Decimal128, ObjectId, Timestamp, json_util

from keras_pipeline.core.taxonomy import normalise

IDS = (str, int, float, bytes, ObjectId, uuid.UUID)
WHOLE = re.compile(r"([+-]?\d+)\.0*")  # as programs write a number column with gaps
HEXADECIMAL = re.compile(r"[0-9A-Fa-f]{24}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")  # ObjectId, UUID
YEAR_FIRST = re.compile(r"(\d{4})\D{1,3}(\d{1,2})\D{1,3}(\d{1,2})(?!\d)")
COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(\d{6})?")  # 20200503, also with hours, minutes and seconds
EPOCH = re.compile(r"(\d{9,10}|\d{12,13})(\.\d*)?")  # seconds or milliseconds since 1970, from 1973 on
LAST_YEAR = 2100  # of days from seconds and milliseconds: beyond, the number means something else


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
    """Return an observation's or user's id as text, the same for each type that it may have.

    123, 123.0 (as JavaScript stores it), Decimal128, '123' and '123.0' are the same, and so are a UUID or an ObjectId
    and its text in small or capital letters.
    """
    if isinstance(value, DBRef):
        value = value.id
    if isinstance(value, Decimal128):
        number = value.to_decimal()
        return f"{number:.0f}" if number.is_finite() and number == number.to_integral_value() else ""
    if isinstance(value, str):
        text = normalise(value)
        if whole := WHOLE.fullmatch(text):
            return whole[1]
        return text.lower() if HEXADECIMAL.fullmatch(text) else text
    if not isinstance(value, IDS) or isinstance(value, bool):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    if isinstance(value, bytes):
        is_uuid = isinstance(value, Binary) and value.subtype in (3, 4) and len(value) == 16
        return str(uuid.UUID(bytes=bytes(value))) if is_uuid else value.hex()
    return str(value)


def day_of(value: Any) -> str:
    """Return YYYY-MM-DD of a date, a number or a text; "" if it has none that is sure.

    Understood are texts that begin with an ISO date or with year, month and day, whatever is between them, and seconds
    or milliseconds since 1970. 03.05.2020 may be two days, so it is neither.
    """
    if isinstance(value, Timestamp):
        value = value.as_datetime()
    if isinstance(value, datetime.datetime):
        return value.isoformat()[:10]
    if isinstance(value, float):
        value = int(value) if value.is_integer() else str(value)
    if isinstance(value, Decimal128 | int) and not isinstance(value, bool):
        value = str(value)
    return _day_of_text(value.strip()[:20]) if isinstance(value, str) else ""


@functools.lru_cache(10_000)
def _day_of_text(text: str) -> str:
    try:
        if EPOCH.fullmatch(text):
            number = int(text.partition(".")[0])
            day = datetime.datetime.fromtimestamp(number / (1000 if number >= 10**11 else 1), datetime.UTC).date()
            return day.isoformat() if day.year <= LAST_YEAR else ""
        if parts := COMPACT.fullmatch(text.partition(".")[0]) or YEAR_FIRST.match(text):
            return datetime.date(*map(int, parts.groups()[:3])).isoformat()
        return datetime.date.fromisoformat(text[:10]).isoformat()
    except ValueError:
        return ""


def degrees_of(value: Any, limit: float) -> float | None:
    """Return a number, or a text that is one (43.5 or 43,5), from -limit to limit; None for NaN and anything else."""
    if isinstance(value, Decimal128):
        value = str(value)
    if isinstance(value, str):
        try:
            value = float(value.replace(",", "."))
        except ValueError:
            return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and -limit <= value <= limit else None
