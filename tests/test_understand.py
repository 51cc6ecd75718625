"""What a look at a few documents says, and which keys it suggests."""

import pymongo
import pytest
from test_entries import SHAPES

from keras_pipeline import __main__ as cli
from keras_pipeline.core.config.source import Source
from keras_pipeline.demo import embedded
from keras_pipeline.ingest.understand import understand
from keras_pipeline.phases import doctor

SPECIES = [
    {"_id": i, "latinName": f"Aus bus{'a' * i}", "commonName": "Bus",
     "images": [{"url": f"https://h/{i}/original.jpg", "source": "s", "size": "original", "license": "CC0",
                 "attribution": "A"}],
     "img": [f"https://h/{i}/original.jpg"], "distribution": {"countries": ["ES", "FR"]}}
    for i in range(20)
]  # fmt: skip
LISTS = (
    "lists of photos are there: images (entries with url, source, size, license, attribution), img (texts); set "
    "source.photos: [images, img] and source.fields.image_url: url"
)


def said(documents, **source):
    return understand(documents, Source(**source)).summary


def test_lists_of_photos_are_found_and_the_keys_suggested():
    text = said(SPECIES, fields={"latin_name": "latinName"})
    assert text == f"none gives a photo: image_url is missing, but {LISTS}"
    text = said(SPECIES)
    assert text.startswith("none gives a photo: latin_name is missing and image_url is missing, but lists of photos")
    assert text.endswith(" and source.fields.latin_name: latinName")
    fields = {"latin_name": "latinName", "image_url": "images"}
    assert said(SPECIES, fields=fields) == f"none gives a photo: image_url is mistyped: list, but {LISTS}"


def test_what_is_suggested_works():
    settings = {"photos": ["images", "img"], "fields": {"latin_name": "latinName", "image_url": "url"}}
    seen = understand(SPECIES, Source(**settings))
    assert (seen.documents, seen.photos, seen.warnings) == (20, 20, ())
    assert seen.summary == (
        "20 give 20 photos, the first: latin_name 'Aus bus', image_url 'https://h/0/original.jpg', license 'CC0'"
    )


def test_a_list_as_region_is_told_by_documents():
    settings = {
        "photos": ["images"],
        "fields": {"latin_name": "latinName", "image_url": "url", "region": "distribution.countries"},
    }
    (warning,) = understand([*SPECIES, {"_id": 99}], Source(**settings)).warnings
    assert warning == (
        "source.fields.region: received lists (['ES', 'FR']) in 20 of 21 documents, expected a text; name the regions "
        "and their values in source.regions"
    )
    assert understand(SPECIES, Source(**settings, regions={"EU": ["ES"]})).warnings == ()


@pytest.mark.parametrize(
    "documents, source, text",
    [
        ([{"_id": 1, "name": "Aus bus", "photo": {"large": "p/1.jpg"}}], {},
         "latin_name is missing and image_url is missing, but photos' URLs are there: photo.large and latin names are "
         "there: name; set source.fields.image_url: photo.large and source.fields.latin_name: name"),
        ([{"_id": 1, "latin_name": "Aus bus", "l": ["a.jpg"]}], {"photos": ["ls", "m"]},
         "ls and m are missing or empty, but lists of photos are there: l (texts); set source.photos: [l]"),
        ([{"_id": 1, "latin_name": 7, "image_url": "a.jpg"}], {},
         "latin_name is mistyped: int; the documents have _id, latin_name, image_url; name the fields in "
         "source.fields, lists of photos in source.photos"),
        ([{"_id": 1, "latin_name": "A", "l": [{"medium": {"url": "https://h/1"}}]}], {"photos": ["l"]},
         "image_url is missing, but lists of photos are there: l (entries with medium); set "
         "source.fields.image_url: medium.url"),
        ([{"_id": 1, "latin_name": "A"}, {"_id": 2, "image_url": "a.jpg"}], {},
         "no entry has both a latin_name and an image_url; the documents have _id, latin_name, image_url; name the "
         "fields in source.fields, lists of photos in source.photos"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_what_to_set(documents, source, text):
    assert said(documents, **source) == f"none gives a photo: {text}"


NESTED = [{"_id": 1, "latin_name": "Aus bus", "images": [[{"url": "1.jpg"}, {"url": "2.jpg"}], [{"url": "3.jpg"}]]}]
PHOTO = [{"_id": 1, "latin_name": "Aus bus", "image_url": "https://h/1.jpg"}]
NUMBERED = [{"_id": 1, "latin_name": "Aus bus", "images": {"0": {"url": "a.jpg"}, "1": {"url": "b.jpg"}, "n": 2}}]
NUMBERS = "numbered photos are there: images.0 (entries with url), images.1 (entries with url); set source.photos: "


@pytest.mark.parametrize(
    "documents, source, text, change",
    [
        (PHOTO, {"photos": ["images", "img"]},
         "images and img are missing or empty, but photos' URLs are there: image_url; remove source.photos",
         {"photos": None}),
        (PHOTO, {"photos": ["images"], "fields": {"image_url": "url"}},
         "images is missing or empty, but photos' URLs are there: image_url; remove source.photos and set "
         "source.fields.image_url: image_url", {"photos": None, "fields": {}}),
        (NESTED, {"photos": ["images"], "fields": {"image_url": "url"}},
         f"image_url is mistyped: list, but {NUMBERS}[images.0, images.1]", {"photos": ["images.0", "images.1"]}),
        (NESTED, {}, f"image_url is missing, but {NUMBERS}[images.0, images.1] and source.fields.image_url: url",
         {"photos": ["images.0", "images.1"], "fields": {"image_url": "url"}}),
        (NUMBERED, {"photos": ["images"], "fields": {"image_url": "url"}},
         f"image_url is missing, but {NUMBERS}[images.0, images.1]", {"photos": ["images.0", "images.1"]}),
        ([PHOTO[0] | {"latin_name": ["Aus bus", "Aus cus"]}], {},
         "latin_name is mistyped: list, but latin names are there: latin_name.0; set source.fields.latin_name: "
         "latin_name.0", {"fields": {"latin_name": "latin_name.0"}}),
        ([PHOTO[0] | {"l": [{"url": ["1.jpg"]}]}], {"photos": ["l"], "fields": {"image_url": "url"}},
         "image_url is mistyped: list, but lists of URLs are there: url; set source.fields.image_url: url.0",
         {"fields": {"image_url": "url.0"}}),
    ],
)  # fmt: skip
def test_the_cure_does_not_lead_back_to_itself(documents, source, text, change):
    assert said(documents, **source) == f"none gives a photo: {text}"
    assert understand(documents, Source(**source | change)).summary.startswith("1 give ")


def test_a_list_as_text_names_its_own_first_entry():
    (warning,) = understand([*PHOTO, PHOTO[0] | {"latin_name": ["Aus bus"]}], Source()).warnings
    assert warning.endswith("name one entry by its number, as in source.fields.latin_name: latin_name.0")


def test_a_field_of_the_config_that_no_photo_has():
    fields = {"region": "place.region", "user_id": "user"}
    (warning,) = understand([PHOTO[0] | {"user": 7}], Source(fields=fields)).warnings
    assert warning == (
        "source.fields.region: no photo has anything under place.region; correct the path, or remove the key"
    )


def test_a_list_of_sub_documents_as_region_names_their_field():
    documents = [{**PHOTO[0], "countries": [{"name": "Spain", "code": "ES"}, {"name": "France", "code": "FR"}]}]
    source = {"fields": {"region": "countries"}, "regions": {"EU_SW": ["ES"]}}
    (warning,) = understand(documents, Source(**source)).warnings
    assert warning.endswith("name one that is a text, as in source.fields.region: countries.code")
    source["fields"] = {"region": "countries.code"}
    assert understand(documents, Source(**source)).warnings == ()
    (warning,) = understand(documents, Source(fields={"region": "countries"})).warnings
    assert warning.endswith("countries.name, and the regions and their values in source.regions")


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_understood_and_its_lists_are_found_without_keys(shape):
    document, paths, fields = SHAPES[shape]
    assert understand([document], Source(photos=paths, fields=fields)).photos > 0
    seen = understand([document], Source(fields={"latin_name": fields.get("latin_name", "latin_name")}))
    assert f"source.photos: [{', '.join(paths)}]" in seen.summary


def test_a_password_in_a_url_is_not_shown():
    assert "s3cret" not in said([{"_id": 1, "latin_name": "A", "image_url": "https://me:s3cret@h/a.jpg"}])


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    """It is not what `doctor` is asked for here, and its import takes half a minute beside other tests."""
    monkeypatch.setattr(doctor, "_gpu", lambda: doctor._row("GPU", True, "not looked for"))


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    with embedded.mongo(tmp_path_factory.mktemp("mongo")) as uri:
        with pymongo.MongoClient(uri) as client:
            client["app"]["plants"].insert_many(SPECIES)
        yield uri


def command(words, uri, tmp_path, **source):
    source = {"uri": uri, "database": "app", "collection": "plants"} | source
    settings = [f"root={tmp_path}", *(f"source.{key}={value}" for key, value in source.items())]
    (tmp_path / "mine.yaml").write_text("experiment: mine\n")
    options = [word for setting in settings for word in ("--set", setting)]
    return cli.main([*words, "--config", str(tmp_path / "mine.yaml"), *options])


GOOD = {"photos": "[images, img]", "fields.latin_name": "latinName", "fields.image_url": "url"}


def test_doctor_and_audit_refuse_documents_without_a_photo_with_one_sentence(uri, tmp_path, capsys):
    sentence = f"20 documents in app.plants; of 20 looked at none gives a photo: image_url is missing, but {LISTS}"
    assert command(["doctor"], uri, tmp_path, **{"fields.latin_name": "latinName"}) == 3
    assert f"MISSING MongoDB: {sentence}\n" in capsys.readouterr().out
    assert command(["phase0", "audit"], uri, tmp_path, **{"fields.latin_name": "latinName"}) == 2
    assert sentence in capsys.readouterr().err


def test_doctor_shows_how_documents_are_understood(uri, tmp_path, capsys):
    command(["doctor"], uri, tmp_path, **GOOD)
    assert "ok      MongoDB: 20 documents in app.plants; of 20 looked at 20 give 20 photos" in capsys.readouterr().out
    command(["doctor"], uri, tmp_path, query="{latinName: x}", **GOOD)
    assert "and none for query {'latinName': 'x'}; check source.query" in capsys.readouterr().out


def test_doctor_names_a_collection_that_is_not_there(uri, tmp_path, capsys):
    """F-19: the query has nothing to do with it."""
    assert command(["doctor"], uri, tmp_path, **GOOD | {"collection": "plans"}) == 3
    said = capsys.readouterr().out
    assert "0 documents in app.plans, and none for query {}; check source.database and source.collection" in said


@pytest.mark.parametrize("shape", ["photos", "species"])
@pytest.mark.parametrize("lists", [False, True])
def test_doctor_reads_what_the_embedded_server_will_hold(tmp_path, capsys, shape, lists):
    """F-14: one shape with the other's config; the audit would refuse it after minutes of drawing."""
    fields = GOOD if lists else {}
    code = command(["doctor"], "embedded", tmp_path, **fields, **{"demo.shape": shape})
    assert (code == 0) == (lists == (shape == "species"))
    said = capsys.readouterr().out
    assert "MongoDB: embedded, started when needed; of 7 looked at" in said or "; of 20 looked at" in said
    assert ("source.photos: [images, img]" in said) == (shape == "species" and not lists)
    assert not (tmp_path / "artifacts").exists()  # it draws and leaves nothing


def test_doctor_reads_what_the_embedded_server_holds_and_waits_for_no_run(tmp_path, capsys):
    folder = tmp_path / "artifacts/mine/source/mongo"
    with embedded.mongo(folder) as uri, pymongo.MongoClient(uri) as client:
        client["app"]["plants"].insert_many(SPECIES)
        client["app"]["keras_pipeline_load"].insert_one({"_id": "plants"})
        command(["doctor"], "embedded", tmp_path, **GOOD)
        assert "ok      MongoDB: embedded, in use by another run, and not looked at" in capsys.readouterr().out
    command(["doctor"], "embedded", tmp_path, **GOOD)
    assert (
        "ok      MongoDB: embedded, started when needed; of 20 looked at 20 give 20 photos" in capsys.readouterr().out
    )


def test_audit_of_species_documents(uri, tmp_path, capsys):
    regions = {"fields.region": "distribution.countries", "regions": "{EU: [ES]}"}
    assert command(["phase0", "audit"], uri, tmp_path, **GOOD, **regions) == 0
    out = capsys.readouterr().out
    assert "20 documents, 20 photos, 20 usable, 20 species; skipped: none" in out
    assert "20 documents with 40 references to photos; 20 references to a URL that the document has twice, which" in out
    assert command(["phase0", "audit"], uri, tmp_path, **GOOD, min_per_species=2) == 2
    assert "source.min_per_species: received 2, which leaves 0 of 20 species" in capsys.readouterr().err
    assert command(["phase0", "audit"], uri, tmp_path, **GOOD, licenses="[cc-by]") == 2
    err = capsys.readouterr().err
    assert "source.licenses: received no usable photo: {'licence cc0 is not in source.licenses': 20}" in err
    assert "add some that the photos have (cc0 20), or set it to null" in err
