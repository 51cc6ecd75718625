"""`load`: small files of public forms with invented content, put into the embedded server over a real socket."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pymongo
import pytest
import yaml
from bson import Binary, ObjectId
from bson.binary import UUID_SUBTYPE
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from keras_pipeline import __main__ as cli
from keras_pipeline import commands, experiment
from keras_pipeline.core.config.source import Source
from keras_pipeline.demo import embedded
from keras_pipeline.ingest import mongo
from keras_pipeline.ingest.load import members
from keras_pipeline.ingest.load import rows as limits
from keras_pipeline.ingest.load.json_text import JsonText
from keras_pipeline.ingest.load.target import RECORDS, Target

DOCUMENTED = (Path(__file__).parents[1] / "docs/loading.md").read_text(encoding="utf-8")
DWC = "http://rs.tdwg.org/dwc/terms/"
META = f"""<?xml version="1.0"?>
<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="eml.xml">
 <core encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1"
   rowType="{DWC}Occurrence">
  <files><location>occurrence.txt</location></files><id index="0" />
  <field index="0" term="http://rs.gbif.org/terms/1.0/gbifID"/>
  <field index="1" term="{DWC}scientificName"/><field index="2" term="{DWC}countryCode"/>
  <field index="3" term="{DWC}eventDate"/><field default="HumanObservation" term="{DWC}basisOfRecord"/>
 </core>
 <extension encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1"
   rowType="http://rs.gbif.org/terms/1.0/Multimedia">
  <files><location>multimedia.txt</location></files><coreid index="0" />
  <field index="1" term="http://purl.org/dc/terms/identifier"/>
  <field index="2" term="http://purl.org/dc/terms/license"/>
 </extension>
 <extension rowType="{DWC}Identification"><files><location>other.txt</location></files><coreid index="0"/></extension>
</archive>"""
OCCURRENCES = (
    "gbifID\tscientificName\tcountryCode\teventDate\n"
    "11\tVellania \"alba\"\tES\t2020-05-03\n"
    "12\tVellania rubra\t\t\n"
    "\n"
    "13\tVellania rubra\n"
    "11\tVellania nigra\tFR\t\n"
    "\tVellania nigra\tFR\t\n"
)  # fmt: skip
MEDIA = (
    "gbifID\tidentifier\tlicense\n12\thttp://h/3.jpg\tCC0\n11\thttp://h/1.jpg\tCC-BY\n11\thttp://h/2.jpg\t\n99\tx\t\n"
)
CSV = (
    "id,observed_on,license,image_url,scientific_name,description\n"
    '1,2020-05-03,CC-BY,http://h/1.jpg,Vellania alba,"two\nlines, one cell"\n'
    "2,2020-05-04,,http://h/2.jpg,Vellania rubra,\n"
    "3,2020-05-04,CC0,http://h/3.jpg\n"
)
API = {
    "total_results": 2,
    "page": 1,
    "per_page": 2,
    "results": [
        {"id": 7, "taxon": {"name": "Vellania alba"}, "photos": [{"id": 1, "url": "http://h/square.jpg"}]},
        {"id": 8, "taxon": {"name": "Vellania rubra"}, "photos": []},
    ],
}
PLANTNET = {
    "0a1b": {"species_id": "1355868", "obs_id": "100", "organ": "flower", "author": "A", "license": "cc-by-sa"},
    "0c2d": {"species_id": "2", "obs_id": "101", "organ": "leaf", "author": "B", "license": "cc-by-sa"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with embedded.mongo(tmp_path_factory.mktemp("mongo")) as uri, pymongo.MongoClient(uri) as client:
        yield uri, client["app"]


@pytest.fixture
def load(server, tmp_path, request):
    """(files, options) -> (exit code, the collection)."""
    uri, database = server
    name = f"c{abs(hash(request.node.name)) % 10**9}"
    config = tmp_path / "x.yaml"
    config.write_text(json.dumps({"experiment": "x", "root": str(tmp_path), "source": {
        "uri": uri, "database": "app", "collection": name}}))  # fmt: skip

    def run(*files, options=()):
        return cli.main(["load", *map(str, files), "--config", str(config), *options]), database[name]

    run.config, run.collection, run.folder = config, database[name], tmp_path / "artifacts/x/load"
    return run


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        given = {"meta": META, "occurrence": OCCURRENCES, "multimedia": MEDIA, "other": "id\n"} | members
        for name, text in given.items():
            if text is not None:
                file.writestr(f"{name}.xml" if name == "meta" else f"{name}.txt", text)
    return path


def written(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_darwin_core(load, tmp_path, capsys):
    code, collection = load(archive(tmp_path / "gbif.zip"))
    assert code == 0
    assert sorted(collection.find(), key=lambda found: found["_id"]) == [
        {"_id": "11", "gbifID": "11", "scientificName": 'Vellania "alba"', "countryCode": "ES",
         "eventDate": "2020-05-03", "basisOfRecord": "HumanObservation",
         "media": [{"identifier": "http://h/1.jpg", "license": "CC-BY"}, {"identifier": "http://h/2.jpg"}]},
        {"_id": "12", "gbifID": "12", "scientificName": "Vellania rubra", "basisOfRecord": "HumanObservation",
         "media": [{"identifier": "http://h/3.jpg", "license": "CC0"}]},
    ]  # fmt: skip
    assert (load.folder / "gbif.zip.bad.csv").read_text().splitlines() == [
        "place,reason",
        'occurrence.txt line 5,"2 columns, expected 4 or more"',
        "occurrence.txt line 6,the _id '11' came before; the first row stands",
        "occurrence.txt line 7,no id",
        "multimedia.txt line 5,\"media of '99', which is no occurrence here\"",
    ]
    said = capsys.readouterr().out
    assert "Darwin Core archive; not read: other.txt" in said
    assert "6 rows, 2 new documents, 0 that were there, 4 bad rows" in said
    assert list(load.folder.iterdir()) == [load.folder / "gbif.zip.bad.csv"]  # and no SQLite file


def test_an_archive_in_a_folder_with_quotes_and_another_encoding(load, tmp_path):
    meta = META.replace('fieldsTerminatedBy="\\t"', 'fieldsTerminatedBy=","').replace('fieldsEnclosedBy=""', "")
    text = '11,"Isoëtes, ""alba""\nBrown",ES,\n'
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("down/meta.xml", meta.replace('encoding="UTF-8"', 'encoding="ISO-8859-1"'))
        file.writestr("down/occurrence.txt", f"gbifID,b,c,d\r\n{text}".encode("latin-1"))
        file.writestr("down/multimedia.txt", "a,b,c\n11,http://h/1.jpg,\n")
        file.writestr("down/other.txt", "")
    code, collection = load(tmp_path / "a.zip")
    assert code == 0 and collection.find_one()["scientificName"] == 'Isoëtes, "alba"\nBrown'
    assert collection.find_one()["media"] == [{"identifier": "http://h/1.jpg"}]


def test_inaturalist_csv_plain_and_zipped(load, tmp_path):
    written(tmp_path / "observations-1.csv", "\ufeff" + CSV)
    code, collection = load(tmp_path / "observations-1.csv")
    assert code == 0 and collection.count_documents({}) == 2
    assert collection.find_one({"_id": "1"}) == {
        "_id": "1", "id": "1", "observed_on": "2020-05-03", "license": "CC-BY", "image_url": "http://h/1.jpg",
        "scientific_name": "Vellania alba", "description": "two\nlines, one cell",
    }  # fmt: skip
    report = (load.folder / "observations-1.csv.bad.csv").read_text()
    assert report.splitlines()[1:] == ['line 5,"4 columns, expected 6"']
    with zipfile.ZipFile(tmp_path / "o.zip", "w") as file:
        file.writestr("observations-1.csv", CSV.replace("Vellania rubra", "Vellania nigra"))
        file.writestr("README.txt", "Exported at")
    assert load(tmp_path / "o.zip")[0] == 0
    assert collection.find_one({"_id": "2"})["scientific_name"] == "Vellania nigra"


def test_inaturalist_api_answers_one_after_another(load, tmp_path):
    second = API | {"page": 2, "results": [{"id": 9, "photos": []}, "odd", {"photos": []}]}
    written(tmp_path / "pages.json", json.dumps(API, indent=1) + "\n" + json.dumps(second))
    code, collection = load(tmp_path / "pages.json")
    assert code == 0 and [found["_id"] for found in collection.find().sort("_id")] == ["7", "8", "9"]
    assert collection.find_one({"_id": "7"}) == {"_id": "7", **API["results"][0]}
    assert len((load.folder / "pages.json.bad.csv").read_text().splitlines()) == 3


def test_plantnet_with_its_names(load, tmp_path):
    metadata = written(tmp_path / "plantnet300K_metadata.json", PLANTNET)
    names = written(tmp_path / "plantnet300K_species_id_2_name.json", {"1355868": "Vellania alba L."})
    code, collection = load(metadata, names)
    assert code == 0
    assert collection.find_one({"_id": "0a1b"}) == {
        "_id": "0a1b", **PLANTNET["0a1b"], "species_name": "Vellania alba L.",
    }  # fmt: skip
    assert collection.find_one({"_id": "0c2d"}) == {"_id": "0c2d", **PLANTNET["0c2d"]}
    assert load(names)[0] == 2


def test_json_lines_and_lists(load, tmp_path):
    lines = [
        '{"_id": {"$oid": "5f5e100000000000000000aa"}, "when": {"$date": "2020-05-03T00:00:00Z"}, '
        '"n": {"$numberLong": "5"}}',
        '{"id": 5, "latin_name": "Vellania alba"}', '{"latin_name": "Vellania rubra"}', "{cut",
        '{"_id": [1], "a": 1}', '{"_id": 1, "a.b": 1}', '{"_id": 2, "n": 99999999999999999999}', "[1]", '{"_id": 3}',
        '{"_id": {"$oid": "5f"}, "a": 1}', '{"_id": 4, "bad": "\udc80"}', '{"_id": null, "a": 1}',
    ]  # fmt: skip
    path = tmp_path / "dump.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    code, collection = load(path)
    assert code == 0
    oid = ObjectId("5f5e100000000000000000aa")
    found = {document["_id"]: document for document in collection.find()}
    assert set(found) >= {oid, "5"} and len(found) == 3
    assert found[oid]["when"].isoformat() == "2020-05-03T00:00:00" and found[oid]["n"] == 5
    bad = (load.folder / "dump.jsonl.bad.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in bad] == [f"line {n}" for n in range(4, 13)]
    written(tmp_path / "list.json", "[" + ",\n".join(lines[:3]) + "]")
    assert load(tmp_path / "list.json")[0] == 0 and collection.count_documents({}) == 3  # the same _ids


def test_a_second_load_updates_and_a_wrong_row_stands_for_nothing(load, tmp_path, capsys):
    load(written(tmp_path / "a.csv", CSV))
    load(written(tmp_path / "a.csv", CSV.replace("CC-BY", "CC0").replace("2020-05-04,,", ",,")))
    assert load.collection.find_one({"_id": "1"})["license"] == "CC0"
    assert "observed_on" not in load.collection.find_one({"_id": "2"})  # as in the file
    assert "3 rows, 0 new documents, 2 that were there, 1 bad rows" in capsys.readouterr().out


def test_documents_with_a_binary_id_are_found_again(load, tmp_path, capsys):
    """nx-27017 finds no binary _id and no boolean one, and forgets that bytes are a UUID."""
    ids = ['{"$uuid": "00000000-0000-0000-0000-000000000005"}', '{"$binary": {"base64": "YWJj", "subType": "00"}}']
    lines = [f'{{"_id": {_id}, "latin_name": "Viola alba"}}' for _id in [*ids, "true"]]
    path = written(tmp_path / "a.jsonl", "\n".join(lines))
    assert load(path)[0] == 0 and load(path)[0] == 0
    assert {each["_id"] for each in load.collection.find()} == {
        "00000000-0000-0000-0000-000000000005", "616263", "true"
    }  # fmt: skip
    assert "3 rows, 0 new documents, 3 that were there, 0 bad rows" in capsys.readouterr().out


def test_a_collection_of_somebody_else_is_refused(load, tmp_path, capsys):
    load.collection.insert_many([{"_id": "1", "mine": 1, "license": "x"}, {"_id": "z", "mine": 2}])
    path = written(tmp_path / "a.csv", CSV)
    assert load(path)[0] == 2
    assert "received a collection that `load` did not make (2 documents)" in capsys.readouterr().err
    assert load.collection.count_documents({}) == 2
    assert load(path, options=["--into-existing"])[0] == 0
    assert load.collection.count_documents({}) == 3
    first = load.collection.find_one({"_id": "1"})
    assert (first["mine"], first["license"]) == (1, "CC-BY")  # what the file does not have stays
    assert load.collection.find_one({"_id": "z"}) == {"_id": "z", "mine": 2}
    assert load(path)[0] == 2  # still not its own


def test_a_name_that_another_collection_has_taken_is_refused(load, tmp_path):
    path = written(tmp_path / "a.csv", CSV)
    load(path)
    records = load.collection.database[RECORDS]
    records.update_one({"_id": load.collection.name}, {"$set": {"uuid": "another"}})
    assert load(path)[0] == 2 and load.collection.count_documents({}) == 2
    load.collection.drop()
    assert load(path)[0] == 0 and load.collection.count_documents({}) == 2


def test_a_collection_made_anew_under_its_name_is_not_its_own(load, tmp_path):
    """F-5: nx-27017 gives all collections one UUID."""
    path = written(tmp_path / "a.csv", CSV)
    assert load(path)[0] == 0 and load(path)[0] == 0
    load.collection.drop()
    load.collection.insert_one({"_id": "mine"})
    assert load(path)[0] == 2 and [*load.collection.find()] == [{"_id": "mine"}]
    # One that was loaded before there was a mark goes on, and has one then.
    records, name = load.collection.database[RECORDS], {"_id": load.collection.name}
    records.update_one(name, {"$unset": {"marked": 1}})
    assert load(path)[0] == 0 and records.find_one(name)["marked"]


def test_an_empty_collection_is_taken(load, tmp_path):
    """F-13: `doctor` and `phase0 audit` make one on some servers."""
    load.collection.database.create_collection(load.collection.name)
    path = written(tmp_path / "a.csv", CSV)
    assert load(path)[0] == 0 and load(path)[0] == 0 and load.collection.count_documents({}) == 2


@pytest.mark.parametrize("value", ['{"$numberDecimal": "1.5"}', "NaN", '{"$timestamp": {"t": 1, "i": 2}}'])
def test_a_value_that_the_server_cannot_hold_is_one_bad_row(load, tmp_path, capsys, value):
    """F-4: 1 of 600 must not block the others; a MongoDB would take it."""
    lines = [json.dumps({"_id": str(n), "n": n}) for n in range(600)]
    lines[7] = f'{{"_id": "7", "n": {value}}}'
    path = written(tmp_path / "a.jsonl", "\n".join(lines))
    assert load(path)[0] == 0 and load.collection.count_documents({}) == 599
    assert "600 rows, 599 new documents, 0 that were there, 1 bad rows" in capsys.readouterr().out
    assert "line 8,a value that this server can't hold (" in (load.folder / "a.jsonl.bad.csv").read_text()
    assert load(path)[0] == 0 and "0 new documents, 599 that were there, 1 bad rows" in capsys.readouterr().out


def test_a_file_of_which_the_server_takes_nothing_is_no_success(load, tmp_path, capsys):
    lines = [f'{{"_id": "{n}", "n": {{"$numberDecimal": "{n}.5"}}}}' for n in range(3)]
    assert load(written(tmp_path / "a.jsonl", "\n".join(lines)))[0] == 3
    said = capsys.readouterr().err
    assert "received 3 rows of which the server takes none (see " in said and "MongoDB of your own: source.uri" in said
    assert len((load.folder / "a.jsonl.bad.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", CSV.replace(",", ";"), "received ';' between the columns, expected commas"),
        ("a.csv", "gbifID\tspecies\n1\tx\n", "GBIF's simple download, which holds no photos"),
        ("a.csv", "name,url\na,b\n", "whose first line is 'name,url'"),
        ("a.html", "<!DOCTYPE html><html>", "received a web page"),
        ("a.txt", "", "received an empty file"),
        ("a.json", '{"error": "Too many", "status": 429}', "received an API's refusal"),
        ("a.json", '{"statusCode": 404, "message": "none"}', "received an API's refusal"),
        ("a.gz", "\x1f\x8b\x08", "received a gzip file"),
        ("a.csv", "\xff\xfei\0d\0", "text in UTF-16"),
        ("a.bin", "\x00\x01\x02", "received a binary"),
    ],
)
def test_wrong_files(load, tmp_path, capsys, name, content, said):
    path = tmp_path / name
    path.write_bytes(content.encode("latin-1"))
    assert load(path)[0] == 2 and said in capsys.readouterr().err
    assert load.collection.count_documents({}) == 0


def test_nothing_is_stored_if_one_of_the_files_is_wrong(load, tmp_path, capsys):
    good = written(tmp_path / "a.csv", CSV)
    assert load(good, written(tmp_path / "b.csv", "x\n"))[0] == 2
    assert load(good, tmp_path / "missing.csv")[0] == 2
    assert load(tmp_path)[0] == 2 and "received a folder" in capsys.readouterr().err
    assert load(tmp_path / "none.zip")[0] == 2
    assert "none.zip: received no file of this name, expected a GBIF" in capsys.readouterr().err
    assert load.collection.name not in load.collection.database.list_collection_names()


def many(n):
    header = OCCURRENCES.splitlines()[0]
    return "\n".join([header, *(f"{i}\tVellania {i * 7919 % 1009}\tES\t2020" for i in range(n)), ""])


def test_a_cut_archive(load, tmp_path, capsys):
    path = archive(tmp_path / "a.zip", occurrence=many(3000))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert load(path)[0] == 3 and "as if its download had been cut" in capsys.readouterr().err
    # Damaged in the middle: what came before is stored and named.
    path.write_bytes(whole[:9000] + bytes(100) + whole[9100:])
    assert load(path)[0] == 3 and "download the archive again" in capsys.readouterr().err
    path.write_bytes(whole)
    assert load(path)[0] == 0 and load.collection.count_documents({}) == 3000


def test_cut_json_names_the_place_and_keeps_what_came_before(load, tmp_path, capsys):
    text = json.dumps(API)
    path = written(tmp_path / "a.json", text[: text.index('{"id": 8') + 20])
    assert load(path)[0] == 3
    assert "the file is cut or no JSON; what came before is stored" in capsys.readouterr().err


def test_unsafe_archives(load, tmp_path, capsys, monkeypatch):
    bomb = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + META.partition("?>")[2]
    assert load(archive(tmp_path / "a.zip", meta=bomb))[0] == 3
    assert "document type (DOCTYPE)" in capsys.readouterr().err
    for location in ("../occurrence.txt", "/etc/passwd", "http://h/occurrence.txt", "none.txt"):
        assert load(archive(tmp_path / "a.zip", meta=META.replace("occurrence.txt", location)))[0] == 3
        assert f"names the table {location!r}, which the archive does not hold" in capsys.readouterr().err
    monkeypatch.setattr(members, "RATIO_FROM", 1000)
    assert load(archive(tmp_path / "a.zip", occurrence="gbifID\n" + "x" * 10_000_000))[0] == 3
    assert "expected at most 200 times as many" in capsys.readouterr().err
    monkeypatch.setattr(members, "MEMBERS", 3)
    assert load(archive(tmp_path / "a.zip"))[0] == 3 and "received 4 members" in capsys.readouterr().err


def test_archives_of_something_else(load, tmp_path, capsys):
    taxon = META.replace(f"{DWC}Occurrence", f"{DWC}Taxon")
    assert load(archive(tmp_path / "a.zip", meta=taxon))[0] == 2
    assert "received a core of Taxon" in capsys.readouterr().err
    assert load(archive(tmp_path / "a.zip", meta=None))[0] == 2
    assert "without meta.xml" in capsys.readouterr().err
    assert load(archive(tmp_path / "a.zip", meta="<archive>"))[0] == 3
    assert "no valid XML" in capsys.readouterr().err
    assert load(archive(tmp_path / "a.zip", meta=META.replace("UTF-8", "klingon")))[0] == 3
    assert "unknown encoding" in capsys.readouterr().err


@pytest.mark.parametrize("headers", [0, 1])
def test_an_archive_whose_lines_end_otherwise_than_it_says_is_read(load, tmp_path, headers):
    """F-6, mac.zip: meta.xml says a line feed, and the files have carriage returns alone."""
    meta = META.replace('ignoreHeaderLines="1"', f'ignoreHeaderLines="{headers}"')
    texts = ["\r".join(text.split("\n")[1 - headers :]) for text in (OCCURRENCES, MEDIA)]
    code, collection = load(archive(tmp_path / "mac.zip", meta=meta, occurrence=texts[0], multimedia=texts[1]))
    assert code == 0 and sorted(found["_id"] for found in collection.find()) == ["11", "12"]
    assert len(collection.find_one({"_id": "11"})["media"]) == 2


@pytest.mark.parametrize("headers", [0, 1])
def test_a_row_with_a_column_too_many_is_shifted(load, tmp_path, headers):
    """F-6, shift.zip: the species would be the country."""
    rows = ["gbifID\tscientificName\tcountryCode\teventDate"][: headers] + [
        "1\tVellania alba\tES\t2020", "2\t\tVellania alba\tES\t2020",
    ]  # fmt: skip
    meta = META.replace('ignoreHeaderLines="1"', f'ignoreHeaderLines="{headers}"')
    code, collection = load(archive(tmp_path / "a.zip", meta=meta, occurrence="\n".join(rows), multimedia=""))
    assert code == 0 and [found["_id"] for found in collection.find()] == ["1"]
    report = (load.folder / "a.zip.bad.csv").read_text()
    assert "5 columns, expected 4 as in the table's first line" in report


def test_columns_that_meta_xml_leaves_out_are_no_shift(load, tmp_path):
    rows = "gbifID\tscientificName\tcountryCode\teventDate\tremarks\n1\tVellania alba\tES\t2020\tx\n"
    code, collection = load(archive(tmp_path / "a.zip", occurrence=rows, multimedia=""))
    assert code == 0 and collection.count_documents({}) == 1
    assert not (load.folder / "a.zip.bad.csv").exists()


@pytest.mark.parametrize("headers", [0, 1])
def test_another_delimiter_than_an_archive_says_is_named(load, tmp_path, capsys, headers):
    """F-17."""
    meta = META.replace('ignoreHeaderLines="1"', f'ignoreHeaderLines="{headers}"')
    path = archive(tmp_path / "a.zip", meta=meta, occurrence=OCCURRENCES.replace("\t", ";"))
    assert load(path)[0] == 3
    said = capsys.readouterr().err
    assert "occurrence.txt: received ';' between the columns, expected '\\t', as fieldsTerminatedBy" in said


def test_an_archive_without_media_says_so(load, tmp_path, capsys):
    meta = META.partition(" <extension")[0] + "</archive>"
    assert load(archive(tmp_path / "a.zip", meta=meta))[0] == 0
    assert "it has no table of media, so that its documents have no list `media`" in capsys.readouterr().out


def test_a_file_without_rows_is_named(load, tmp_path, capsys):
    assert load(written(tmp_path / "a.csv", CSV.splitlines()[0]))[0] == 0
    assert "warning: received no row, and expected some" in capsys.readouterr().out


def test_long_fields_and_lines_are_bad_rows(load, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "LINE", 3000)
    monkeypatch.setattr(limits, "FIELD", 100)
    long = CSV.replace("CC-BY", "C" * 200).replace("CC0", "C" * 5000)
    unclosed = '4,2020,,http://h/4.jpg,V a,"never closed\n5,,,x,V b,\n'
    code, collection = load(written(tmp_path / "a.csv", long + unclosed))
    assert code == 0 and [found["_id"] for found in collection.find()] == ["2"]
    reasons = (load.folder / "a.csv.bad.csv").read_text()
    assert "field larger than field limit (100)" in reasons and "more than 3,000 characters" in reasons
    assert "line 5 to 7,no row of the table: unexpected end of data" in reasons
    assert csv.field_size_limit() == 131072


def test_a_document_nested_too_deep_is_a_bad_row(load, tmp_path):
    """MongoDB refuses the whole batch for it; nx-27017 takes it."""
    lines = ['{"_id": "deep", "a": ' + "[" * n + "1" + "]" * n + "}" for n in (100, 99)]  # the document is a level too
    assert load(written(tmp_path / "a.jsonl", "\n".join(lines)))[0] == 0
    assert "nested more than 100 levels deep" in (load.folder / "a.jsonl.bad.csv").read_text()
    assert load.collection.count_documents({}) == 1


def test_a_file_without_a_good_row_is_a_wrong_file(load, tmp_path, capsys):
    header = CSV.splitlines()[0]
    assert load(written(tmp_path / "a.csv", "\n".join([header, *["1,2"] * 5000])))[0] == 3
    assert "received 1,000 rows of which none can be stored" in capsys.readouterr().err


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_json_is_read_in_pieces(monkeypatch, piece):
    monkeypatch.setattr("keras_pipeline.ingest.load.json_text.PIECE", piece)
    value = {"a": [1, 23, "x" * 50, {"b": None}], "ñ": {}, "c": 1.5e3, "d": []}
    text = JsonText(io.StringIO(" " + json.dumps(value, indent=2) + "\n"), "f")
    assert {key: text.value()[0] for _, key in text.entries()} == value
    text.end()
    text = JsonText(io.StringIO(json.dumps([[1], 2, 345])), "f")
    assert [element for _, element, _ in text.elements()] == [[1], 2, 345]


def test_killed_loads_go_on_and_the_next_run_keeps_the_documents(tmp_path):
    config = written(tmp_path / "x.yaml", {"experiment": "x", "root": str(tmp_path), "source": {
        "database": "app", "fields": {"latin_name": "scientificName", "image_url": "gbifID"}}})  # fmt: skip
    path = archive(tmp_path / "a.zip", occurrence=many(5000), multimedia="h\n")
    command = [sys.executable, "-m", "keras_pipeline", "load", str(path), "--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    data = tmp_path / "artifacts/x/source/mongo/mongo.db"
    deadline = time.monotonic() + 60
    while not (data.exists() and data.stat().st_size > 300_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.returncode == -signal.SIGKILL
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "rows are stored already; goes on after them" in done
    assert "app.photos: 5,000 documents" in done
    # The next command opens the same server: the demo's documents must not replace these.
    run = experiment.run_of(commands.parser().parse_args(["phase0", "audit", "--config", str(config)]))
    with run.source() as (uri, base_url), pymongo.MongoClient(uri) as client:
        assert client["app"]["photos"].count_documents({}) == 5000 and base_url.startswith("http://127.0.0.1:")
    assert not any(run.embedded_photos.iterdir())


def test_documents_of_the_demo_are_not_its_own(tmp_path, capsys):
    documents = [{"_id": str(i), "latin_name": "Vellania alba", "image_url": f"{i}.jpg"} for i in range(5)]
    folder = tmp_path / "artifacts/x/source/mongo"
    names = {"database": "plants", "collection": "photos", "photos": tmp_path}
    with embedded.source(folder, documents=lambda: documents, **names):
        pass
    config = written(tmp_path / "x.yaml", {"experiment": "x", "root": str(tmp_path)})
    command = ["load", str(written(tmp_path / "a.csv", CSV)), "--config", str(config)]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert "received the 5 documents of source.demo" in said and "--set root=DIR" in said
    assert "--into-existing" not in said  # which would mix invented plants with real ones
    assert cli.main([*command, "--into-existing"]) == 0
    with embedded.source(folder, documents=lambda: 1 / 0, **names) as (uri, _), pymongo.MongoClient(uri) as client:
        assert client["plants"]["photos"].count_documents({}) == 5  # 1 and 2 were there
        assert client["plants"]["photos"].find_one({"_id": "1"})["scientific_name"] == "Vellania alba"


CONFIGS = [yaml.safe_load(text)["source"] for text in re.findall(r"```yaml\n(.*?)```", DOCUMENTED, re.S)]
OBSERVATION = API["results"][0] | {
    "user": {"id": 3},
    "observed_on": "2020-05-03",
    "geojson": {"type": "Point", "coordinates": [5.1, 43.5]},
    "photos": [{"id": 1, "url": "http://h/square.jpg", "license_code": "cc-by", "attribution": "(c) A"}],
}


@pytest.mark.parametrize(
    ("collection", "content", "photo"),
    [
        ("gbif", None, {
            "latin_name": "Vellania alba", "image_url": "http://h/1.jpg", "region": "ES", "observation_id": "11",
            "observed_on": "2020-05-03", "license": "CC-BY"}),
        ("inaturalist", API | {"results": [OBSERVATION]}, {
            "latin_name": "Vellania alba", "image_url": "http://h/square.jpg", "observation_id": "7", "user_id": 3,
            "observed_on": "2020-05-03", "latitude": 43.5, "longitude": 5.1, "license": "cc-by",
            "attribution": "(c) A"}),
        ("inaturalist_csv", CSV, {
            "latin_name": "Vellania alba", "image_url": "http://h/1.jpg", "observation_id": "1",
            "observed_on": "2020-05-03", "license": "CC-BY"}),
        ("plantnet", {"0a1b": PLANTNET["0a1b"]}, {
            "latin_name": "Vellania alba L.", "image_url": "0a1b", "observation_id": "100", "license": "cc-by-sa",
            "attribution": "A"}),
    ],
)  # fmt: skip
def test_the_documented_config_reads_what_was_loaded(load, server, tmp_path, collection, content, photo):
    (section,) = (each for each in CONFIGS if each["collection"] == collection)
    files = [archive(tmp_path / "f", meta=META.replace("scientificName", "species"), occurrence=OCCURRENCES.replace(
        '"', ""))] if content is None else [written(tmp_path / "f", content)]  # fmt: skip
    if collection == "plantnet":
        files.append(written(tmp_path / "names", {"1355868": "Vellania alba L."}))
    assert load(*files)[0] == 0
    source = Source(**section | {"uri": server[0], "database": "app", "collection": load.collection.name})
    first = next(mongo.documents(load.collection, source))
    assert {name: first[name] for name in photo} == photo


def test_ids_that_are_the_same_text_are_one_document(load, tmp_path):
    load(written(tmp_path / "a.jsonl", '{"_id": 7, "a": 1}\n{"_id": "7", "a": 2}\n{"_id": 8, "a": 3}\n'))
    assert sorted(found["a"] for found in load.collection.find()) == [1, 3]
    assert "line 2,the _id '7' came before" in (load.folder / "a.jsonl.bad.csv").read_text()


def test_what_the_server_refuses_is_a_bad_row(load, tmp_path):
    load.collection.insert_one({"_id": "old", "code": "A"})
    load.collection.create_index("code", unique=True)
    lines = [{"_id": f"n{i}", "code": code} for i, code in enumerate("XAY")]
    path = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert load(path, options=["--into-existing"])[0] == 0
    assert sorted(found["code"] for found in load.collection.find()) == ["A", "X", "Y"]
    assert "line 2,another document has its unique value" in (load.folder / "a.jsonl.bad.csv").read_text()


def test_what_a_replica_set_has_not_confirmed_is_not_noted_as_stored(load, tmp_path, capsys, monkeypatch):
    """nx-27017 has no replica set: this is what pymongo raises of a `wtimeout`."""
    path = written(tmp_path / "a.jsonl", '{"_id": "1", "a": 1}')
    late = {"writeErrors": [], "writeConcernErrors": [{"errmsg": "timed out"}], "nUpserted": 1, "nMatched": 0}

    def bulk_write(*_, **__):
        raise BulkWriteError(late)

    with monkeypatch.context() as patched:
        patched.setattr(Collection, "bulk_write", bulk_write)
        assert load(path)[0] == 3
    assert "not as safely as the write concern asks (timed out)" in capsys.readouterr().err
    assert load.collection.database[RECORDS].find_one({"_id": load.collection.name})["files"] == {}
    assert load(path)[0] == 0


def test_a_collection_stays_its_own_where_the_uri_asks_for_uuids():
    def existing(uuid):
        entry = {"name": "c", "info": {"uuid": uuid}}
        target = object.__new__(Target)
        target._name = "c"
        target.collection = SimpleNamespace(database=SimpleNamespace(list_collections=lambda: [entry]))
        return target._existing()

    assert existing(UUID(int=5)) == existing(Binary(UUID(int=5).bytes, UUID_SUBTYPE))
