"""Keys that do nothing with the photos that are there are told, before anything is downloaded by them."""

import csv

import pytest

from keras_pipeline.core.config.phase0 import Export
from keras_pipeline.core.config.source import Source
from keras_pipeline.ingest import download, idle
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.ingest.entries import Reader
from keras_pipeline.ingest.ledger import Ledger
from keras_pipeline.ingest.understand import understand
from keras_pipeline.phases.phase0_dataset import audit_report

DOCUMENTS = [
    {"_id": i, "latin_name": "Aus bus", "image_url": f"http://h:8931/{i}/original.jpg", "commonName": "Bus",
     "names": ["a"], "l": [{"n": "b"}]}
    for i in range(4)
]  # fmt: skip


@pytest.fixture
def told(tmp_path):
    def told(hosts=(), **values):
        source, export = Source(uri="mongodb://h", **values), Export(hosts=dict.fromkeys(hosts, {}))
        photos = (photo for document in DOCUMENTS for photo in Reader(source).photos(document))
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            ledger.plan(download.rows(photos, Curation(), None, source.url_replace), seed=1)
            return [*idle.of_downloads(ledger, source, export)], ledger.tally("reason")

    return told


def test_what_has_an_effect_is_not_told(told):
    used = {"url_replace": {"original": "medium", "/medium.": "/small."}, "details": {"common": "commonName"}}
    assert told(["H:8931"], **used) == ([], [("", 4)])
    assert understand(DOCUMENTS, Source(**used)).warnings == ()


def test_a_text_that_is_in_no_url(told):
    (said,), _ = told(url_replace={"original": "medium", "/originall.": "/small.", "medium": "m"})
    assert said == (
        "source.url_replace: '/originall.' is in none of the 4 photos' URLs, which stay as they are; correct the text"
    )
    (warning,) = understand(DOCUMENTS, Source(url_replace={"original": "medium", "original.": "x"})).warnings
    assert warning == "source.url_replace: 'original.' is in none of 4 URLs looked at"


def test_a_replacement_that_makes_no_url_is_named(told):
    assert told(url_replace={"http://": "ftp://"}) == ([], [("not a valid http(s) URL after source.url_replace", 4)])
    (warning,) = understand(DOCUMENTS, Source(url_replace={"http://": "ftp://"})).warnings
    assert warning == "source.url_replace: makes no http(s) URL of 4 of 4 URLs looked at; correct the texts"
    assert understand([DOCUMENTS[0] | {"image_url": "a.jpg"}], Source(url_replace={"a.": "b."})).warnings == ()


def test_a_query_of_the_base_url(told):
    (said,), _ = told(base_url="http://h/photos?token=s3cret")
    assert said.startswith("source.base_url: what follows its ? is not sent") and "s3cret" not in said


@pytest.mark.parametrize("path", ["comonName", "names", "l.n"])
def test_a_detail_that_no_photo_has(told, path):
    (said,), _ = told(details={"common_name": path, "good": "commonName"})
    assert said.startswith(f"source.details.common_name: no photo that is used has a text under {path}; correct the")
    assert understand(DOCUMENTS, Source(details={"common_name": path})).warnings == (said,)


def test_a_host_that_no_photo_has(told):
    (said,), _ = told(["h", "h:8931"])
    assert said == (
        "phase0.export.hosts: h is no photo's host, so its limits hold for redirects alone; the hosts are h:8931 (4 "
        "photos), written with the port where the URL has one"
    )


def test_lines_of_files_without_effect(tmp_path):
    with (tmp_path / "synonyms.csv").open("w") as file:
        csv.writer(file).writerows([["synonym", "latin_name"], ["Aus bus", "Aus cus"], ["Aus dus", "Aus cus"]])
    curation = Curation.load(Source(synonyms=str(tmp_path / "synonyms.csv")))
    assert curation.latin_name("Aus  bus") == "Aus cus" and curation.used == {"Aus bus"}
    assert audit_report.without_effect(
        {"exclude_without_effect": ["a", "b"], "synonyms_without_effect": ["Aus dus"]}
    ) == [
        "source.exclude: 2 lines without effect, since no document has such an _id, URL or name: a; b",
        "source.synonyms: 1 line without effect, since no photo that is used has such a name: Aus dus",
    ]  # fmt: skip
