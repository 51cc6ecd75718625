"""The source: real pymongo against the embedded server over a real socket, and servers that aren't there."""

import time

import pymongo
import pytest

from keras_pipeline.core.config import Source
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


def read(uri, **settings):
    source = Source(uri=uri, **settings)
    with mongo.open_collection(source, uri) as collection:
        return list(mongo.documents(collection, source))


def test_every_document_once_in_order_with_our_fields_only(uri):
    documents = read(uri)
    assert [document["sample_id"] for document in documents] == [f"{i:04d}" for i in range(1200)]
    assert documents[7] == {
        "sample_id": "0007", "latin_name": "Viola 1", "image_url": "7.jpg", "region": "EU", "observation_id": None,
        "license": None, "attribution": None,
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


@pytest.mark.parametrize(
    "document, reason",
    [
        ({"latin_name": "a", "image_url": "b"}, None),
        ({"latin_name": None, "image_url": "b"}, "no latin_name"),
        ({"latin_name": " ", "image_url": "b"}, "no latin_name"),
        ({"latin_name": "a", "image_url": ""}, "no image_url"),
        ({"latin_name": 3, "image_url": "b"}, "latin_name is no text"),
        ({"latin_name": "a", "image_url": 0}, "image_url is no text"),
        ({"latin_name": "a", "image_url": {}}, "image_url is no text"),
    ],
)
def test_missing_field(document, reason):
    assert mongo.missing_field(document) == reason
