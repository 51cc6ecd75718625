"""Regions from the values of a field."""

import pytest

from keras_pipeline.core.config.load import from_dict
from keras_pipeline.core.config.source import Source
from keras_pipeline.ingest.entries import Reader
from keras_pipeline.ingest.regions import Regions

REGIONS = {"EU_SW": ["ES", "FR"], "EU_NORTH": ["DE", "FR"], "AMERICAS": ["US"]}


@pytest.mark.parametrize(
    "value, region",
    [
        ("ES", "EU_SW"), (" US ", "AMERICAS"), (["DE", "ES"], "EU_SW"), (["DE"], "EU_NORTH"), (["JP"], "unknown"),
        ("JP", "unknown"), (["JP", "US"], "AMERICAS"), ([], None), (None, None), ("", None), (["", " "], None),
        (7, 7), ({"a": 1}, {"a": 1}), ([["ES"]], [["ES"]]), (["ES", 7], ["ES", 7]), ("es", "unknown"),
    ],
)  # fmt: skip
def test_the_first_region_that_shares_a_value(value, region):
    regions = Regions(REGIONS)
    assert [regions.of(value), regions.of(value)] == [region, region]


def test_a_region_without_values_is_refused():
    with pytest.raises(ValueError, match=r"received EU_SW: \[\], a region that no photo can have, .*; add some"):
        Source(regions={"EU_NORTH": ["DE"], "EU_SW": []})


@pytest.mark.parametrize("photos", [["images", "images"], ["images", "img", "images.0"], ["images.1.url", "images"]])
def test_a_list_that_is_named_twice_is_refused(photos):
    with pytest.raises(ValueError, match="which name the same photos, expected each list once; remove one"):
        Source(photos=photos)
    assert Source(photos=["images", "images2", "images.more"]).photos == ["images", "images2", "images.more"]


def test_values_of_no_region_and_photos_of_several_are_counted():
    regions = Regions(REGIONS)
    for value in (["ES", "JP"], ["JP", "DE", "US"], "KR", ["FR"], ["ES"]):
        regions.of(value)
    assert regions.unnamed == {"JP": 2, "KR": 1}
    assert regions.several == {"EU_NORTH before AMERICAS": 1, "EU_SW before EU_NORTH": 1}


def test_a_photo_s_region_is_its_document_s_or_its_own():
    source = Source(photos=["l"], fields={"region": "where.countries"}, regions=REGIONS)
    entries = ["a", {"image_url": "b", "where": {"countries": ["US"]}}]
    document = {"_id": 1, "where": {"countries": ["DE"]}, "l": entries}
    assert [row["region"] for row in Reader(source).photos(document)] == ["EU_NORTH", "AMERICAS"]


@pytest.mark.parametrize(
    "regions, message",
    [
        ({}, "expected a mapping or null, not empty"),
        ({"EU": "ES"}, "source.regions.EU: received 'ES'"),
        ({"EU": ["SE", False]}, "as YAML reads NO, expected texts; write 'NO' in quotes"),
        ({"EU": [1]}, "source.regions.EU.0: received 1"),
        (["ES"], "source.regions: received"),
    ],
)
def test_bad_regions(regions, message):
    with pytest.raises(ValueError, match=message):
        from_dict({"experiment": "e", "source": {"regions": regions}})
