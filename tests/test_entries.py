"""Photos in lists inside documents: four real shapes through the embedded server, and what is not as it should be."""

import datetime
import random
import uuid

import pymongo
import pytest
from bson import Binary, DatetimeMS, Decimal128, Int64, ObjectId, Timestamp

from keras_pipeline.core.config.source import Source
from keras_pipeline.demo import embedded
from keras_pipeline.ingest import mongo
from keras_pipeline.ingest.entries import MISSING, Reader, path_of, value_at
from keras_pipeline.ingest.fields import document_id

FIELDS = {
    "latin_name", "image_url", "region", "observation_id", "user_id", "observed_on", "latitude", "longitude",
    "license", "attribution",
}  # fmt: skip
SIGNED = "https://s3/a.jpg?X-Amz-Date={0}&X-Amz-Signature={0}"


def photos(document, **source):
    return list(Reader(Source(**source)).photos({"_id": 1, **document}))


def counted(document, **source):
    reader = Reader(Source(**source))
    return list(reader.photos({"_id": 1, **document})), reader


def short(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize(
    "path, value",
    [
        ("a", 1), ("b.c", 2), ("b.x", MISSING), ("x.y", MISSING), ("a.b", MISSING), ("n", None), ("n.x", None),
        ("l.0", "p"), ("l.2", MISSING), ("l.x", ["p", "q"]), ("d.u", [5, 6]), ("d.1.u", 6), ("d.0.v", MISSING),
        ("d.v", [7]), ("e", []), ("e.x", []), ("m.0.1", 4), ("k.0", "text"), ("g.coordinates.1", 43.5),
        ("l.-1", ["p", "q"]),
    ],
)  # fmt: skip
def test_value_at(path, value):
    document = {
        "a": 1, "b": {"c": 2}, "n": None, "l": ["p", "q"], "d": [{"u": 5}, {"u": 6, "v": 7}], "e": [],
        "m": [[3, 4]], "k": {"0": "text"}, "g": {"coordinates": [5.1, 43.5]},
    }  # fmt: skip
    found = value_at(document, path_of(path))
    assert found is value if value is MISSING else found == value


def test_the_entry_stands_before_the_document_also_with_null():
    document = {"license": "CC0", "attribution": "doc", "l": [{"url": "a", "license": None}, {"url": "b"}, "c"]}
    rows = photos(document, photos=["l"], fields={"image_url": "url"})
    assert short(rows, "image_url", "license", "attribution") == [
        ("a", None, "doc"), ("b", "CC0", "doc"), ("c", "CC0", "doc")
    ]  # fmt: skip
    assert set(rows[0]) == FIELDS | {"sample_id"}


def test_one_url_in_a_document_is_one_photo_and_gaps_are_filled():
    document = {
        "license": "of the document", "img": ["u1", "u2", "u1"],
        "images": [
            {"url": " u1 ", "license": "CC0", "attribution": ""},
            {"url": "u1", "license": "CC-BY", "attribution": "me"},
        ],
    }  # fmt: skip
    rows, reader = counted(document, photos=["img", "images"], fields={"image_url": "url"})
    assert short(rows, "image_url", "license", "attribution") == [
        ("u1", "CC0", "me"), ("u2", "of the document", None)
    ]  # fmt: skip
    assert (reader.documents, reader.references, reader.repeated) == (1, 5, 3)


def test_the_same_photo_signed_twice_is_one_and_the_first_list_s_word_stands():
    first, second = ([{"url": SIGNED.format(n), "license": licence}] for n, licence in ((1, "CC0"), (2, "CC-BY")))
    document = {"a": first, "b": second}
    (row,) = photos(document, photos=["a", "b"], fields={"image_url": "url"})
    assert (row["image_url"], row["license"]) == (SIGNED.format(1), "CC0")


def test_sample_ids_survive_another_order_and_another_signature():
    urls = [SIGNED.format(1), "https://h/b.jpg", "https://h/c.jpg"]
    first = {row["sample_id"] for row in photos({"l": urls}, photos=["l"])}
    shuffled = random.Random(0).sample([SIGNED.format(2), *urls[1:]], 3)
    assert {row["sample_id"] for row in photos({"l": shuffled}, photos=["l"])} == first
    assert "1/c6da7576bd18" in first  # of https://h/b.jpg


def test_entries_without_a_url_are_told_by_their_place():
    document = {"image_url": "http://page.of.the/document", "l": [{}, {"image_url": 7}, ["a"], None, 5, " ", "a"]}
    rows = photos(document, photos=["l"])
    assert short(rows, "sample_id", "image_url")[:6] == [
        ("1/l.0", None), ("1/l.1", 7), ("1/l.2", ["a"]), ("1/l.3", None), ("1/l.4", 5), ("1/l.5", " "),
    ]  # fmt: skip
    assert rows[6]["image_url"] == "a"


@pytest.mark.parametrize("document", [{}, {"l": None}, {"l": []}, {"x": {"y": 1}}])
def test_a_document_without_photos_is_a_row_without_url(document):
    (row,), reader = counted({"latin_name": "Aus bus", "image_url": "u", **document}, photos=["l", "x.z"])
    assert (row["sample_id"], row["image_url"], row["latin_name"]) == ("1", None, "Aus bus")
    assert (reader.without_photos, reader.references) == (1, 0)


@pytest.mark.parametrize(
    "value, urls", [({"url": "a"}, ["a"]), ("a", ["a"]), (5, [5]), ([["a"], ["b"]], [["a"], ["b"]])]
)
def test_one_sub_document_a_text_and_lists_of_lists(value, urls):
    rows = photos({"m": {"photo": value}}, photos=["m.photo"], fields={"image_url": "url"})
    assert [row["image_url"] for row in rows] == urls


def test_the_observation_s_id_is_the_document_s_where_photos_have_a_field_of_that_name():
    document = {"id": 77, "photos": [{"id": 1, "url": "a"}, {"id": 2, "url": "b"}]}
    fields = {"image_url": "url", "observation_id": "id"}
    assert short(photos(document, photos=["photos"], fields=fields), "observation_id") == [(77,), (77,)]
    del document["id"]
    assert short(photos(document, photos=["photos"], fields=fields), "observation_id") == [(1,), (2,)]


@pytest.mark.parametrize(
    "value, text",
    [
        ("a 1", "a 1"), (7, "7"), (Int64(7), "7"), (7.0, "7"), (-0.0, "0"), (2.5, "2.5"), (1e300, "1e+300"),
        (float("nan"), "nan"), (Decimal128("1.50"), "1.50"), (True, "true"), (None, "null"),
        (ObjectId("0123456789abcdef01234567"), "0123456789abcdef01234567"),
        (Binary.from_uuid(uuid.UUID(int=5)), "00000000-0000-0000-0000-000000000005"),
        (Binary(uuid.UUID(int=5).bytes, 3), "00000000-0000-0000-0000-000000000005"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"), (b"\x01\xff", "01ff"),
        (datetime.datetime(2020, 5, 3, 10), "2020-05-03T10:00:00Z"),
        (datetime.datetime(2020, 5, 3, 10, 0, 0, 120_000), "2020-05-03T10:00:00.120Z"),
        (DatetimeMS(2**50), "1125899906842624"), (Timestamp(3, 1), "3:1"),
        ({"site": 3, "photo": Int64(7)}, '{"site": 3, "photo": 7}'),
        ({"é": ObjectId("0" * 24)}, '{"é": {"$oid": "000000000000000000000000"}}'),
    ],
)  # fmt: skip
def test_every_id_has_one_text(value, text):
    assert document_id(value) == text


SPECIES = {
    "_id": ObjectId("0123456789abcdef01234567"), "latinName": "Aus bus", "commonName": "Bus",
    "images": [
        {"url": "https://h/1/original.jpg", "source": "inaturalist", "license": "CC-BY-NC", "attribution": "A"},
        {"url": "https://h/2/original.jpg", "source": "inaturalist", "license": None, "attribution": "B"},
    ],
    "img": ["https://h/2/original.jpg", "https://h/3/original.jpg"],
    "distribution": {"countries": ["ES", "FR"], "continents": ["Europe"]},
}  # fmt: skip
INATURALIST = {
    "_id": 10, "id": 10, "taxon": {"id": 3, "name": "Aus bus"}, "user": {"id": 8}, "observed_on": "2020-05-03",
    "license_code": "cc0", "geojson": {"type": "Point", "coordinates": [5.1, 43.5]},
    "photos": [
        {"id": 100, "url": "https://h/100/square.jpg", "license_code": "cc-by", "attribution": "(c) A"},
        {"id": 101, "url": "https://h/101/square.jpg", "license_code": None, "attribution": "(c) A"},
    ],
}  # fmt: skip
GBIF = {
    "_id": "gbif-1", "gbifID": 5, "species": "Aus bus", "countryCode": "ES", "eventDate": "2020-05-03T00:00:00",
    "decimalLatitude": 43.5, "decimalLongitude": 5.1, "identifier": "urn:x", "license": "CC_BY_4_0",
    "media": [{"type": "StillImage", "identifier": "https://h/1.jpg", "rightsHolder": "A"}],
}  # fmt: skip
OBSERVATION = {"_id": 4, "latin_name": "Aus bus", "user_id": "u", "photos": ["https://h/1.jpg", "https://h/2.jpg"]}
SHAPES = {
    "species": (SPECIES, ["images", "img"], {
        "latin_name": "latinName", "image_url": "url", "region": "distribution.countries"}),
    "inaturalist": (INATURALIST, ["photos"], {
        "latin_name": "taxon.name", "image_url": "url", "license": "license_code", "observation_id": "id",
        "user_id": "user.id", "latitude": "geojson.coordinates.1", "longitude": "geojson.coordinates.0"}),
    "gbif": (GBIF, ["media"], {
        "latin_name": "species", "image_url": "identifier", "attribution": "rightsHolder", "region": "countryCode",
        "observed_on": "eventDate", "observation_id": "gbifID", "latitude": "decimalLatitude",
        "longitude": "decimalLongitude"}),
    "observation": (OBSERVATION, ["photos"], {"observation_id": "_id"}),
}  # fmt: skip
EMPTY = dict.fromkeys(FIELDS)
READ = {
    "species": [
        EMPTY | {"latin_name": "Aus bus", "image_url": f"https://h/{n}/original.jpg", "region": ["ES", "FR"],
                 "license": licence, "attribution": author, "sample_id": f"0123456789abcdef01234567/{digest}"}
        for n, licence, author, digest in (
            (1, "CC-BY-NC", "A", "ec7ed1319153"), (2, None, "B", "43c048ea2f88"), (3, None, None, "6ec5de18c671"),
        )
    ],
    "inaturalist": [
        EMPTY | {"latin_name": "Aus bus", "image_url": f"https://h/{n}/square.jpg", "license": licence,
                 "attribution": "(c) A", "observation_id": 10, "user_id": 8,
                 "observed_on": "2020-05-03", "latitude": 43.5, "longitude": 5.1}
        for n, licence in ((100, "cc-by"), (101, None))
    ],
    "gbif": [
        EMPTY | {"latin_name": "Aus bus", "image_url": "https://h/1.jpg", "license": "CC_BY_4_0", "attribution": "A",
                 "region": "ES", "observed_on": "2020-05-03T00:00:00", "observation_id": 5,
                 "latitude": 43.5, "longitude": 5.1}
    ],
    "observation": [
        EMPTY | {"latin_name": "Aus bus", "image_url": f"https://h/{n}.jpg", "user_id": "u", "observation_id": 4}
        for n in (1, 2)
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    with embedded.mongo(tmp_path_factory.mktemp("mongo")) as uri:
        with pymongo.MongoClient(uri) as client:
            for name, (document, _, _) in SHAPES.items():
                client["app"][name].insert_one(document)
            client["app"]["many"].insert_many(
                [{"_id": i, "photos": [f"{i}/{n}" for n in range(i % 4)]} for i in range(1000)]
            )
            large = [{"url": f"https://h/{n}.jpg", "license": "CC0", "note": "x" * 1000} for n in range(5000)]
            client["app"]["large"].insert_many([{"_id": i, "latin_name": "Aus bus", "photos": large} for i in range(3)])
        yield uri


def read(uri, collection, **settings):
    source = Source(uri=uri, database="app", collection=collection, **settings)
    reader = Reader(source)
    with mongo.open_collection(source, uri) as opened:
        return list(mongo.documents(opened, source, reader=reader)), reader


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_through_a_server(uri, shape):
    _, paths, fields = SHAPES[shape]
    rows, reader = read(uri, shape, photos=paths, fields=fields)
    assert rows == [{"sample_id": row["sample_id"]} | want for row, want in zip(rows, READ[shape], strict=True)]
    assert reader.documents == 1 and reader.repeated == (1 if shape == "species" else 0)


def test_lists_over_many_messages(uri):
    rows, reader = read(uri, "many", photos=["photos"])
    assert (reader.documents, reader.references, reader.without_photos) == (1000, 1500, 250)
    assert len({row["sample_id"] for row in rows}) == len(rows) == 1750


def test_documents_of_five_megabytes(uri):
    rows, reader = read(uri, "large", photos=["photos"], fields={"image_url": "url"})
    assert len(rows) == 15_000 and reader.documents == 3
    assert {row["license"] for row in rows} == {"CC0"}


def test_a_number_in_a_path_takes_one_photo_of_a_list(uri):
    (row,), _ = read(uri, "inaturalist", fields={"latin_name": "taxon.name", "image_url": "photos.0.url"})
    assert (row["image_url"], row["sample_id"]) == ("https://h/100/square.jpg", "10")


@pytest.mark.parametrize(
    "photos, message", [([], "at least 1 item"), ("images", "valid list"), (["a..b"], "names with dots")]
)
def test_a_bad_path_is_the_config_s_fault(photos, message):
    with pytest.raises(ValueError, match=message):
        Source(photos=photos)
