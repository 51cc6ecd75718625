"""Where a run was made, with no password in it."""

import pytest
from pymongo import MongoClient

from keras_pipeline.core import environment, redaction


@pytest.mark.parametrize(
    "text, expected",
    [
        ("mongodb://me:secret@host:27017/db", "mongodb://***@host:27017/db"),
        ("mongodb+srv://me:secret@host", "mongodb+srv://***@host"),
        ("mongodb://me:se/cret@host", "mongodb://***@host"),  # not percent-encoded: pymongo refuses it, and we show it
        ("mongodb://me:se@cr@et@host/db", "mongodb://***@host/db"),
        ("a https://u:p@x.org/y and mongodb://u:q@h", "a https://***@x.org/y and mongodb://***@h"),
        ("mongodb://host/db", "mongodb://host/db"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_redact(text, expected):
    assert redaction.redact(text) == expected


@pytest.mark.parametrize(
    "uri",
    ["mongodb://host", "mongodb://a-1.b_c:27017,[::1]:27018/plants?replicaSet=x&tls=true", "mongodb+srv://m%40e:p%2Fw@h.org",
     "mongodb://***@host/", "mongodb://%2Ftmp%2Fmongodb-27017.sock/plants", "mongodb://me:p$w+;=!@host?tls=true"],
)  # fmt: skip
def test_what_is_a_uri_of_a_mongodb(uri):
    assert redaction.redact(redaction.MONGODB_URI) == redaction.MONGODB_URI
    assert redaction.is_mongodb_uri(uri)
    if "+srv" not in uri and "***" not in uri:  # a DNS is asked, a password is missing
        MongoClient(uri, connect=False).close()


@pytest.mark.parametrize(
    "url, expected",
    [
        ("https://me:secret@host:8080/a.jpg", "https://host:8080/a.jpg"),
        ("https://me:se@cret@host/a.jpg?b@c", "https://host/a.jpg?b@c"),
        ("https://host/@me/a.jpg", "https://host/@me/a.jpg"),
        ("a/b@c.jpg", "a/b@c.jpg"),
        (" https://me:secret@host/a.jpg", " https://host/a.jpg"),
        ("//me:secret@host/a.jpg", "//host/a.jpg"),
        ("http://m e:sec ret@host/a.jpg", "http://host/a.jpg"),
        ("http:/me:secret@host/a.jpg", "http:/host/a.jpg"),
        ("http:\\\\me:secret@host/a.jpg", "http:\\\\host/a.jpg"),
        ("me:secret@host/a.jpg", "host/a.jpg"),
        ("photos/a:b@2x.jpg", "photos/a:b@2x.jpg"),
        ("https://me:se/c#r et@host/a.jpg", "https://host/a.jpg"),
        ("https://host:8080/a@b.jpg", "https://host:8080/a@b.jpg"),
        ("https://host/a:b/@c.jpg", "https://host/a:b/@c.jpg"),
    ],
)
def test_without_credentials(url, expected):
    assert redaction.without_credentials(url) == expected


def test_environment_names_the_versions_that_matter():
    found = environment.describe()
    assert {"python_version", "keras_version", "tensorflow_version", "cpu"} <= set(found)
    assert found["tensorflow_version"] == found["packages"]["tensorflow"] == "2.19.0"
    assert len(found["packages"]) > 50


def test_environment_holds_the_flags_but_no_secret(monkeypatch):
    monkeypatch.setenv("TF_DETERMINISTIC_OPS", "1")
    monkeypatch.setenv("XLA_FLAGS", "--dump_to=https://me:s3cret@host")
    monkeypatch.setenv("MONGODB_URI", "mongodb://me:s3cret@host")
    found = environment.describe()["flags"]
    assert found["TF_DETERMINISTIC_OPS"] == "1" and found["XLA_FLAGS"] == "--dump_to=https://***@host"
    assert "MONGODB_URI" not in found and "s3cret" not in str(found)


def test_git_commit_of_this_checkout_or_nothing(tmp_path, monkeypatch):
    found = environment.git_commit()
    assert found["git_commit"] is None or len(found["git_commit"]) == 40
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "provenance.py"))
    assert environment.git_commit() == {"git_commit": None, "git_dirty": None}
