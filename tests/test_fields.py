"""What values of every type mean."""

import datetime
import math
import uuid

import pytest
from bson import Binary, Int64, ObjectId

from keras_pipeline.ingest import fields


@pytest.mark.parametrize(
    "value, text",
    [(" a\n", "a"), ("", ""), (None, ""), (1, ""), (["a"], ""), ({}, ""), (math.nan, ""), (b"a", "")],
)
def test_text_of(value, text):
    assert fields.text_of(value) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (" o1 ", "o1"), (123, "123"), (123.0, "123"), (Int64(123), "123"), ("123", "123"), (123.5, ""), (math.nan, ""),
        (math.inf, ""), (True, ""), (False, ""), (None, ""), ([], ""), ({}, ""), (["a"], ""),
        (ObjectId("0123456789abcdef01234567"), "0123456789abcdef01234567"), (Binary(b"\x01\xff"), "01ff"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    ],
)  # fmt: skip
def test_id_of(value, text):
    assert fields.id_of(value) == text


@pytest.mark.parametrize(
    "value, day",
    [
        ("2021-05-03", "2021-05-03"), ("2021-05-03T23:10:00+02:00", "2021-05-03"), ("03/05/2021", ""), (None, ""),
        (20210503, ""), ("", ""), ("99-12-31", ""), ({"$date": 1}, ""), (datetime.datetime(999, 1, 2), "0999-01-02"),
    ],
)  # fmt: skip
def test_day_of(value, day):
    assert fields.day_of(value) == day


@pytest.mark.parametrize(
    "value, degrees",
    [
        (41, 41.0),
        (-90.0, -90.0),
        (90.1, None),
        (math.nan, None),
        (True, None),
        ("41", None),
        (None, None),
        (10**400, None),
    ],
)
def test_degrees_of(value, degrees):
    assert fields.degrees_of(value, 90) == degrees
