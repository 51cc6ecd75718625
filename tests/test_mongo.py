"""The source: real pymongo against the embedded server over a real socket, and servers that aren't there."""

import datetime
import itertools
import math
import random
import time
import types
from uuid import UUID

import bson
import pymongo
import pytest
from bson import DatetimeMS, Int64, ObjectId, Timestamp
from pymongo.errors import AutoReconnect, CursorNotFound, OperationFailure

from keras_pipeline.core.config.source import Source
from keras_pipeline.core.errors import SourceError
from keras_pipeline.demo import embedded
from keras_pipeline.ingest import mongo


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    with embedded.mongo(tmp_path_factory.mktemp("mongo")) as uri:
        with pymongo.MongoClient(uri) as client:
            client["plants"]["photos"].insert_many(
                [
                    {"_id": f"{i:04d}", "latin_name": f"Viola {i % 3}", "image_url": f"{i}.jpg",
                     "region": "EU" if i % 2 else "EU_SW", "especie": "Bellis", "extra": "x" * 100,
                     "photo": {"url": f"p/{i}.jpg"}}
                    for i in reversed(range(1200))
                ]
            )  # fmt: skip
        yield uri


def read(uri, page=mongo.PAGE, **settings):
    source = Source(uri=uri, **settings)
    with mongo.open_collection(source, uri) as collection:
        return list(mongo.documents(collection, source, page=page))


def test_every_document_once_in_order_with_our_fields_only(uri):
    documents = read(uri)
    assert [document["sample_id"] for document in documents] == [f"{i:04d}" for i in range(1200)]
    assert documents[7] == {
        "sample_id": "0007", "latin_name": "Viola 1", "image_url": "7.jpg", "region": "EU", "observation_id": None,
        "user_id": None, "observed_on": None, "latitude": None, "longitude": None, "license": None, "attribution": None,
    }  # fmt: skip


def test_query_and_field_names_act(uri):
    assert len(read(uri, query={"region": "EU", "latin_name": "Viola 1"})) == 200
    assert read(uri, query={"_id": "0003"}, fields={"latin_name": "especie"})[0]["latin_name"] == "Bellis"


def test_a_field_inside_a_sub_document(uri):
    (document,) = read(uri, query={"_id": "0003"}, fields={"image_url": "photo.url", "region": "region.name"})
    assert (document["image_url"], document["region"]) == ("p/3.jpg", None)


@pytest.mark.parametrize("settings", [{"query": {"region": "Mars"}}, {"collection": "photoz"}])
def test_an_empty_selection_says_where_it_looked(uri, settings):
    with pytest.raises(SourceError, match="has no document for query .*check source.database"):
        read(uri, **settings)


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://me:s3cret@127.0.0.1:9/",
        "mongodb://127.0.0.1:9/?tlsCertificateKeyFilePassword=s3cret",
        "mongodb://127.0.0.1:9/?appname=x&authMechanismProperties=AWS_SESSION_TOKEN:s3cret",
    ],
)
def test_nobody_answers_within_ten_seconds_and_the_password_stays_secret(uri):
    started = time.monotonic()
    with pytest.raises(SourceError) as caught:
        read(uri)
    assert time.monotonic() - started < 10
    assert "s3" not in str(caught.value) and "127.0.0.1" in str(caught.value)
    # Neither in what a traceback would show.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "uri",
    ["mongodb://me:s3/cret@127.0.0.1:9/", "mongodb://me:s3@cret@127.0.0.1:9/", "mongodb://me:s3cret@127.0.0.1:port/",
     "mongodb://me:s3cret@127.0.0.1:99999/"],
)  # fmt: skip
def test_what_is_no_uri_is_a_mistake_of_the_config(uri):
    with pytest.raises(ValueError, match="percent-encoded") as caught:
        read(uri)
    assert "s3" not in str(caught.value) and "cret" not in str(caught.value)


@pytest.mark.parametrize("page", [1, 400, 1199, 1200, 1201])
def test_pages_of_any_size_give_the_same_documents(uri, page):
    query = {"_id": {"$lt": "0020"}} if page == 1 else {}
    assert read(uri, page=page, query=query) == read(uri, query=query)


@pytest.mark.parametrize("query, n", [({}, 1200), ({"region": "EU"}, 600), ({"region": "Mars"}, 0)])
def test_count(uri, query, n):
    source = Source(uri=uri, query=query)
    with mongo.open_collection(source, uri) as collection:
        assert mongo.count(collection, source) == n


@pytest.mark.parametrize("ids", [[ObjectId(f"{i * 7919 % 1009:024x}") for i in range(500)], range(-20, 480)])
def test_pages_of_ids_of_one_type_on_the_embedded_server(uri, ids):
    # It sorts numbers as text; then the first cursor is kept.
    name = type(ids[0]).__name__
    with pymongo.MongoClient(uri) as client:
        client["plants"][name].insert_many([{"_id": _id, "latin_name": "a"} for _id in ids])
    found = [document["sample_id"] for document in read(uri, page=100, collection=name)]
    assert len(found) == 500 and set(found) == set(map(str, ids))


def test_a_lost_connection_is_taken_up_again(uri, monkeypatch):
    pauses = []
    monkeypatch.setattr(mongo, "time", types.SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(mongo, "BATCH", 100)
    source = Source(uri=uri)
    with mongo.open_collection(source, uri) as collection:
        whole = mongo.documents(collection, source)
        found = list(itertools.islice(whole, 150))
        break_connections(collection)
        assert found + list(whole) == read(uri)
    assert pauses == [1]


def break_connections(collection):
    """As a server or a router between us does it."""
    (server,) = collection.database.client._topology._servers.values()
    for connection in server.pool.conns:
        connection.conn.sock.shutdown(2)


def test_a_cursor_that_the_server_forgot_silently_is_taken_up_again(uri, monkeypatch):
    monkeypatch.setattr(mongo, "BATCH", 100)
    source = Source(uri=uri)
    with mongo.open_collection(source, uri) as collection:
        whole = mongo.documents(collection, source)
        found = list(itertools.islice(whole, 150))
        # As pymongo does with a connection that perished while it rested.
        (server,) = collection.database.client._topology._servers.values()
        for connection in server.pool.conns:
            connection.close_conn(None)
        assert found + list(whole) == read(uri)


class Fake:
    """A collection as MongoDB sorts and matches it: types one after the other, and `$gt` within one of them."""

    def __init__(self, ids, failures=()):
        self.ids = sorted(ids, key=lambda _id: (self.rank(_id), not math.isnan(_id) if self.rank(_id) == 1 else 0, _id))
        self.failures, self.given, self.queries = list(failures), 0, []

    @staticmethod
    def rank(_id):
        return mongo.TYPE_ORDER.index(mongo.ID_TYPES[type(_id)])

    def matches(self, _id, query):
        if "$and" in query:
            return all(self.matches(_id, part) for part in query["$and"])
        if "_id" not in query:
            return True
        ((operator, value),) = query["_id"].items()
        if operator == "$type":
            return mongo.TYPE_ORDER[self.rank(_id)] == value
        return self.rank(_id) == self.rank(value) and (_id > value or (operator == "$gte" and _id == value))

    def find(self, query, projection, batch_size):
        self.queries.append(query)
        return FakeCursor(self, [_id for _id in self.ids if self.matches(_id, query)])

    def find_one(self, query, projection, sort):
        return next(({"_id": _id} for _id in reversed(self.ids) if self.matches(_id, query)), None)


class FakeCursor:
    def __init__(self, collection, ids):
        self.collection, self.ids = collection, ids

    def sort(self, key, direction):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self):
        for _id in [*self.ids, None]:
            # The n-th document of all, or the end after it, fails; or it seems to be the end.
            if self.collection.failures and self.collection.given == self.collection.failures[0][0]:
                failure = self.collection.failures.pop(0)[1]
                if failure is None:
                    return
                raise failure
            if _id is not None:
                self.collection.given += 1
                yield {"_id": _id}


KILLED = OperationFailure("cursor killed", 237)
DATE = datetime.datetime(2020, 1, 1)
MIXED = [
    -3, 2.5, 7, 7.5, Int64(2**40), "", "7", "a", "ab", b"\x01", ObjectId("0" * 24), ObjectId("f" * 24), False, True,
    DATE, Timestamp(1, 1), Timestamp(2, 1),
]  # fmt: skip


TEXTS = [
    "-3", "2.5", "7", "7.5", "1099511627776", "", "7", "a", "ab", "01", "0" * 24, "f" * 24, "false", "true",
    "2020-01-01T00:00:00Z", "1:1", "2:1",
]  # fmt: skip


def sample_ids(collection, page, query=None):
    found = mongo.documents(collection, Source(query=query or {}), page=page)
    return [document["sample_id"] for document in found]


@pytest.mark.parametrize("page", [*range(1, 19), 100])
def test_ids_of_all_types_come_once_in_order(page):
    ids = random.Random(page).sample(MIXED, len(MIXED))
    collection = Fake(ids)
    assert sample_ids(collection, page) == TEXTS
    assert page <= len(MIXED) or collection.queries == [{}]  # no page was full: no more cursors


def test_nan_is_an_id_too():
    assert sample_ids(Fake([math.nan, -math.inf, 0, "a"]), 1) == ["nan", "-inf", "0", "a"]


def test_a_query_holds_on_every_page():
    collection = Fake(range(5))
    sample_ids(collection, 2, {"region": "EU"})
    assert collection.queries[:2] == [{"region": "EU"}, {"$and": [{"region": "EU"}, {"_id": {"$gt": 1}}]}]


@pytest.mark.parametrize("page", [3, 100])
@pytest.mark.parametrize("failure", [AutoReconnect("gone"), CursorNotFound("forgotten"), KILLED, None])
@pytest.mark.parametrize("position", [1, 5, 16, 17])
def test_a_failure_anywhere_loses_nothing(monkeypatch, page, failure, position):
    monkeypatch.setattr(mongo, "PAUSES", (0, 0))
    collection = Fake(MIXED, [(position, failure), (position + 1, failure)])
    assert sample_ids(collection, page) == TEXTS


def test_a_failure_before_the_first_document(monkeypatch):
    monkeypatch.setattr(mongo, "PAUSES", (0, 0))
    assert sample_ids(Fake([1, 2], [(0, AutoReconnect("gone"))] * 2), 100) == ["1", "2"]


@pytest.mark.parametrize(
    "code, cure",
    [(13, "give the user of source.uri the role read on herbarium"), (18, "correct the user, the password or auth"),
     (8000, "correct the user, the password or auth"), (2, "correct source.query if it is to blame")],
)  # fmt: skip
def test_a_failure_of_another_kind_ends_with_its_cure(monkeypatch, uri, code, cure):
    failure = OperationFailure("no", code, {"errmsg": "no", "$clusterTime": "noise"})
    with pytest.raises(OperationFailure):
        sample_ids(Fake([1, 2], [(1, failure)]), 100)
    source = Source(uri=uri, database="herbarium", collection="photos")
    with pytest.raises(SourceError, match=f": no; {cure}"), mongo.open_collection(source, uri):
        raise failure


def test_pauses_grow_and_end(monkeypatch):
    pauses = []
    monkeypatch.setattr(mongo, "time", types.SimpleNamespace(sleep=pauses.append))
    collection = Fake(range(10), [(2, AutoReconnect("gone"))] + [(4, AutoReconnect("gone"))] * 6)
    with pytest.raises(AutoReconnect, match="gone"):
        sample_ids(collection, 100)
    assert pauses == [1, 1, 2, 4, 8, 16]  # what was read in between begins them anew


def test_a_server_that_sorts_otherwise_is_read_with_one_cursor_or_not_at_all():
    collection = Fake(range(12))
    collection.ids.sort(key=str)  # 0 1 10 11 2 …
    assert sample_ids(collection, 5) == sorted(map(str, range(12)))
    assert len(collection.queries) == 1
    for failure, error in ((CursorNotFound("forgotten"), CursorNotFound), (None, SourceError)):
        collection.given, collection.failures = 0, [(6, failure)]
        with pytest.raises(error, match="forgotten|ended its answer early, after 6 documents"):
            sample_ids(collection, 5)


def test_a_uuid_is_an_id_as_the_uri_wants_it():
    """With uuidRepresentation=standard in the URI, pymongo gives UUIDs instead of Binary."""
    assert mongo._after(UUID(int=5)) == [{"_id": {"$gt": UUID(int=5)}}, *mongo._after(b"")[1:]]


def test_an_id_of_no_known_type_is_refused_where_it_would_be_lost():
    with pytest.raises(SourceError, match="received the _id .*expected a type among null, number, string"):
        mongo._after(complex(1, 2))


def test_one_odd_date_or_byte_does_not_end_the_reading(uri):
    with mongo.open_collection(Source(uri=uri), uri) as collection:
        options = collection.codec_options
    far = DatetimeMS(2**50)  # the year 37,648
    assert bson.decode(bson.encode({"day": far}), options) == {"day": far}
    broken = bson.encode({"latin_name": "Viola ?"}).replace(b"?", b"\xff")
    assert bson.decode(broken, options) == {"latin_name": "Viola \ufffd"}


@pytest.mark.parametrize(
    "settings, match",
    [({"database": "a b"}, "source.database"), ({"collection": "$bad"}, "source.collection"),
     ({"query": {"a": 10**30}}, "source.query")],
)  # fmt: skip
def test_names_and_queries_that_no_mongodb_takes_are_the_configs_fault(uri, settings, match):
    with pytest.raises(ValueError, match=match):
        read(uri, **settings)
