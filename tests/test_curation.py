"""Synonyms and exclusions: followed to the letter, or refused with the line and the remedy."""

import dataclasses

import pytest

from keras_pipeline.core.config.fingerprint import config_hash
from keras_pipeline.core.config.source import Source
from keras_pipeline.ingest import curation
from keras_pipeline.ingest.curation import Curation, missing_field


def document(latin_name="Viola odorata", image_url="http://h/1.jpg", sample_id="1"):
    return {"sample_id": sample_id, "latin_name": latin_name, "image_url": image_url}


@pytest.fixture
def load(tmp_path):
    """Contents of the two files -> Curation."""

    def _load(synonyms=None, exclude=None):
        paths = {}
        for name, content in (("synonyms", synonyms), ("exclude", exclude)):
            if content is not None:
                paths[name] = str(tmp_path / name)
                (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Curation.load(Source(**paths))

    return _load


def test_without_files_nothing_changes(load):
    cure = load()
    assert cure == Curation()
    assert cure.latin_name("  Viola \t odorata L.") == "Viola odorata L."
    assert cure.refusal(document()) is None


@pytest.mark.parametrize("prefix", ["", "\ufeff"])
def test_synonyms_match_whatever_the_blanks(load, prefix):
    cure = load(prefix + 'synonym,latin_name\nViola  odorata L., Viola odorata\r\n\n"Rosa x, hort.","Rosa × alba"\n')
    assert cure.latin_name(" Viola odorata  L. ") == "Viola odorata"
    assert cure.latin_name("Rosa x, hort.") == "Rosa × alba"
    assert cure.latin_name("viola odorata L.") == "viola odorata L."  # case is not ours to guess


def test_chains_are_followed_to_their_end(load):
    cure = load("synonym,latin_name\na,b\nb,c\nc,d\n")
    assert dict(cure.synonyms) == {"a": "d", "b": "d", "c": "d"}


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "line 1: received an empty file, expected synonym,latin_name; write this as line 1"),
        ("a,b\n", "line 1: received a,b, expected synonym,latin_name"),
        ("latin_name,synonym\na,b\n", "line 1: received latin_name,synonym"),
        ("synonym;latin_name\na;b\n", "save it with commas, not ';'"),
        ("synonym\tlatin_name\na\tb\n", r"save it with commas, not '\\t'"),
        ("synonym,latin_name\na,b\na,c\n", "line 3: received 'a' for 'b' and for 'c', expected one name"),
        ("synonym,latin_name\n a , a\n", "line 2: received 'a' twice, expected two different names"),
        ("synonym,latin_name\na,b\nb,a\n", "received a circle, a -> b -> a; expected chains that end"),
        ("synonym,latin_name\nc,a\na,b\nb,a\n", "received a circle, c -> a -> b -> a"),
        ("synonym,latin_name\na,b,c\n", "line 2: received 3 cells, expected 2; put names with commas"),
        ("synonym,latin_name\na,\n", r"line 2: received \['a', ''\], expected a synonym and a latin name"),
        ('synonym,latin_name\n"a,b\n', "expected CSV; save it as CSV, UTF-8"),
        ("synonym,latin_name\nIsoëtes,b\n".encode("latin-1"), "received bytes that are not UTF-8 .*; save it as"),
    ],
)
def test_unusable_synonyms_are_refused(load, content, message):
    with pytest.raises(ValueError, match=f"source.synonyms .*{message}"):
        load(content)


def test_the_same_line_twice_is_harmless(load):
    assert load("synonym,latin_name\na,b\na, b \n").synonyms == {"a": "b"}


@pytest.mark.parametrize("key", ["synonyms", "exclude"])
def test_a_missing_file_names_the_key(tmp_path, key):
    with pytest.raises(ValueError, match=f"source.{key}: received .*no.csv, which can't be read .*correct the path"):
        Curation.load(Source(**{key: str(tmp_path / "no.csv")}))


def test_exclusion_by_id_url_or_name(load):
    cure = load(exclude="\ufeff# a comment\n\n 17 \nhttp://h/p.jpg#2\r\nViola   alba\n")
    assert cure.refusal(document(sample_id="17")) == "excluded by source.exclude"
    assert cure.refusal(document(image_url=" http://h/p.jpg#2 ")) == curation.EXCLUDED
    assert cure.refusal(document(" Viola alba")) == curation.EXCLUDED
    assert cure.refusal(document("# a comment")) is None
    assert cure.refusal(document(sample_id="1", image_url="http://h/p.jpg")) is None


def test_exclusion_by_name_before_and_after_synonyms(load):
    synonyms = "synonym,latin_name\nViola alt,Viola neu\n"
    before, after = load(synonyms, "Viola alt\n"), load(synonyms, "Viola neu\n")
    assert [bool(before.refusal(document(name))) for name in ("Viola alt", "Viola neu")] == [True, False]
    assert [bool(after.refusal(document(name))) for name in ("Viola alt", "Viola neu")] == [True, True]


def test_a_missing_field_comes_before_an_exclusion():
    cure = Curation(excluded=frozenset({"1"}))
    assert cure.refusal(document(latin_name=None)) == "no latin_name"
    assert cure.refusal(document(image_url=["a"])) == "image_url is no text"


@pytest.mark.parametrize(
    "latin_name, image_url, reason",
    [
        ("a", "b", None),
        (None, "b", "no latin_name"),
        (" ", "b", "no latin_name"),
        ("a", "", "no image_url"),
        (3, "b", "latin_name is no text"),
        (float("nan"), "b", "latin_name is no text"),
        ("a", 0, "image_url is no text"),
        ("a", {}, "image_url is no text"),
        ("a", ["b"], "image_url is no text"),
    ],
)
def test_missing_field(latin_name, image_url, reason):
    assert missing_field(document(latin_name, image_url)) == reason


@pytest.mark.parametrize(
    "licence, reason",
    [
        ("CC BY 4.0", None), ("cc-by-nc", "licence cc-by-nc is not in source.licenses"),
        (None, "licence unknown is not in source.licenses"), (7, "licence that is no text is not in source.licenses"),
        ("Mine", "licence mine is not in source.licenses"), ("CC0", None),
    ],
)  # fmt: skip
def test_licences(licence, reason):
    cure = Curation.load(Source(licenses=["cc0", "CC-BY"]))
    assert cure.refusal({**document(), "license": licence}) == reason


def test_an_unknown_licence_may_be_allowed():
    cure = Curation.load(Source(licenses=["unknown", "Mine"]))
    assert [cure.refusal({**document(), "license": text}) for text in (None, " MINE ")] == [None, None]


def test_a_photo_of_a_list_is_excluded_by_its_id_and_by_its_document_s(tmp_path):
    (tmp_path / "exclude").write_text("7\n8/0123456789ab\n")
    cure = Curation.load(Source(photos=["l"], exclude=str(tmp_path / "exclude")))
    ids = ["7/aaaaaaaaaaaa", "7/l.0", "8/0123456789ab", "8/aaaaaaaaaaaa", "7"]
    excluded = [True, True, True, False, True]
    assert [bool(cure.refusal(document(sample_id=_id))) for _id in ids] == excluded
    cure = Curation.load(Source(exclude=str(tmp_path / "exclude")))
    assert cure.refusal(document(sample_id="7/aaaaaaaaaaaa")) is None


@pytest.mark.parametrize("lists", [None, ["l"]])
def test_a_uuid_is_excluded_with_and_without_its_hyphens(tmp_path, lists):
    """F-20: nx-27017 returns it as bytes, and the sample_id of existing projects is that of bytes."""
    (tmp_path / "exclude").write_text("00000000-0000-0000-0000-000000000005\n" + "0" * 31 + "6\n")
    cure = Curation.load(Source(photos=lists, exclude=str(tmp_path / "exclude")))
    part = "/0123456789ab" if lists else ""
    ids = [f"{'0' * 31}{n}{part}" for n in "567"] + [f"00000000-0000-0000-0000-000000000005{part}"]
    assert [bool(cure.refusal(document(sample_id=each))) for each in ids] == [True, True, False, True]
    assert cure.matched == cure.excluded


def test_an_excluded_url_may_be_signed_anew(load):
    url = "https://s3/a.jpg?v=1&X-Amz-Date={0}&X-Amz-Signature={0}"
    cure = load(exclude=url.format(1) + "\n")
    assert cure.refusal(document(image_url=url.format(2))) == curation.EXCLUDED
    assert cure.refusal(document(image_url="https://s3/a.jpg?v=2")) is None


def test_a_curation_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Curation().excluded = frozenset()


def test_what_the_files_hold_decides_whether_a_step_is_stale(make_config, tmp_path):
    file = tmp_path / "exclude.txt"
    file.write_text("1\n")
    config = make_config(source={"exclude": str(file)})
    before = config_hash(config, ("source.synonyms", "source.exclude"))
    file.write_text("1\n2\n")
    assert config_hash(config, ("source.synonyms", "source.exclude")) != before
