"""What the audit counts and finds, what it can't use, and what it leaves on disk."""

import datetime
import html
import itertools
import json
import random
import tracemalloc

import pandas as pd
import pytest
from bson import DatetimeMS, ObjectId

from keras_pipeline.core import taxonomy
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.source import Source
from keras_pipeline.core.licenses import KNOWN
from keras_pipeline.ingest import audit as auditing
from keras_pipeline.ingest import license_counts, listing, tally
from keras_pipeline.ingest.audit import host_of
from keras_pipeline.ingest.curation import Curation
from keras_pipeline.ingest.entries import Reader
from keras_pipeline.ingest.hash_table import HashTable
from keras_pipeline.ingest.shared import with_synonyms
from keras_pipeline.phases.phase0_dataset import audit_origins, audit_report

FIELDS = tuple(auditing.FIELDS)


def document(number, latin_name="Viola odorata", image_url=None, **values):
    url = f"http://h/{number}.jpg" if image_url is None else image_url
    return dict.fromkeys(FIELDS) | {"sample_id": str(number), "latin_name": latin_name, "image_url": url} | values


def audit(documents, curation=None, min_per_species=2, **options):
    return auditing.audit(documents, curation=curation or Curation(), min_per_species=min_per_species, **options)


def test_counts():
    result = audit(
        [
            document(1, region="EU"), document(2, " Viola  odorata", region=" EU "), document(3, "Bellis perennis"),
            document(4, None), document(5, image_url=" "), document(6, 7), document(7, region=3),
        ],
        collection_count=8,
    )  # fmt: skip
    assert (result["collection_count"], result["documents"], result["usable"], result["species"]) == (8, 7, 4, 2)
    assert list(result["per_class"].items()) == [("Viola odorata", 3), ("Bellis perennis", 1)]
    assert result["per_region"] == {"EU": 2, "unknown": 2}
    assert result["unusable"] == {"no latin_name": 1, "no image_url": 1, "latin_name is no text": 1}
    assert next(iter(result["unusable_samples"])) == {"sample_id": "4", "reason": "no latin_name"}
    assert result["imbalance"] == 3.0
    assert result["class_size"] == {"min": 1.0, "median": 2.0, "max": 3.0}
    assert (result["rare_species"], result["min_per_species"]) == ({"Bellis perennis": 1}, 2)


def test_genera_hosts_licences_and_years():
    result = audit(
        [
            document(1, "Viola alba", "https://A.org/1", license="CC0", observed_on=datetime.datetime(2020, 5, 1)),
            document(2, "× Viola odorata", "http://a.org/2", license=" CC0 ", observed_on="2020-05-01T10:00:00Z"),
            document(3, "Bellis perennis", "photos/3.jpg", license=["CC0"], observed_on="last summer"),
        ]
    )
    assert result["per_genus"] == {"Viola": {"species": 2, "photos": 2}, "Bellis": {"species": 1, "photos": 1}}
    assert result["per_host"] == {"a.org": 2, "(relative URL)": 1}
    assert result["per_license"] == {"CC0": 2, "unknown": 1}
    assert result["per_year"] == {"2020": 2, "unknown": 1}


@pytest.mark.parametrize("documents", [[], [document(1, None)]])
def test_nothing_usable_is_still_a_report(documents):
    result = audit(documents)
    assert (result["usable"], result["species"], result["imbalance"]) == (0, 0, None)
    json.dumps(audit_report._for_json(result), allow_nan=False)


def test_all_are_counted_and_all_are_listed(monkeypatch):
    monkeypatch.setattr(listing, "IN_MEMORY", 1000)
    monkeypatch.setattr(tally, "DISTINCT", 3)
    result = audit([document(i, None) for i in range(250)] + [document(0, region=f"R{i}") for i in range(150)])
    assert result["unusable"] == {"no latin_name": 250} and len(list(result["unusable_samples"])) == 250
    assert result["repeated_urls"]["photos"] == 149 and len(list(result["repeated_urls"]["rows"])) == 149
    assert result["per_region"] == {"(other)": 147, "R0": 1, "R1": 1, "R2": 1}


def test_one_url_under_two_species_and_repeated_urls():
    names = ["Viola alba", "Viola odorata", "Viola alba", "Viola alba"]
    documents = [document(i, name, "http://h/same.jpg" + " " * i) for i, name in enumerate(names)]
    result = audit([document(9, "Bellis"), *documents])
    row = {"image_url": "http://h/same.jpg", "first_latin_name": "Viola alba"}
    assert list(result["conflicts"]["rows"]) == [row | {"latin_name": "Viola odorata", "sample_id": "1"}]
    assert (result["conflicts"]["photos"], result["conflicts"]["all_photos"]) == (1, 4)
    assert result["repeated_urls"]["photos"] == 2
    assert list(result["repeated_urls"]["rows"])[1] == row | {"latin_name": "Viola alba", "sample_id": "3"}


def test_all_photos_of_a_url_with_two_names_are_counted_in_any_order():
    """F-7: 60 photos, each under two names, are 120 of 120."""
    twice = [document(f"{name}{i}", name, f"u{i}") for name in ("Viola alba", "Viola odorata") for i in range(60)]
    assert audit(twice)["conflicts"]["all_photos"] == 120
    chance = random.Random(1)
    documents = [document(i, f"Viola {chance.choice('aaaab')}", f"u{chance.randrange(200)}") for i in range(600)]
    names = {}
    for each in documents:
        names.setdefault(each["image_url"], []).append(each["latin_name"])
    expected = sum(len(found) for found in names.values() if len(set(found)) > 1)
    for _ in range(3):
        chance.shuffle(documents)
        assert audit(documents)["conflicts"]["all_photos"] == expected


def test_a_conflict_between_synonyms_is_none():
    documents = [document(1, "Viola alt", "u"), document(2, "Viola neu", "u")]
    result = audit(documents, Curation(synonyms={"Viola alt": "Viola neu"}))
    assert (result["conflicts"]["photos"], result["repeated_urls"]["photos"], result["species"]) == (0, 1, 1)


def signed(number):
    return f"https://s3/a.jpg?X-Amz-Date={number}&X-Amz-Signature={number}"


def test_a_url_signed_anew_is_the_same_url():
    result = audit([document(1, image_url=signed(1)), document(2, image_url=signed(2)), document(3, "Rosa", signed(3))])
    assert (result["repeated_urls"]["photos"], result["conflicts"]["photos"]) == (1, 1)


def shared_collection():
    """Nova shares 4 of its 5 photos with Vetus, Alia shares 2 of its 2, and three photos of Vetus come twice."""
    urls = {"Planta vetus": [*range(10), 0, 1, 2], "Planta nova": [0, 1, 2, 3, 20], "Planta alia": [0, 30]}
    named = [(name, n) for name, listed in urls.items() for n in listed]
    return [document(i, name, f"http://h/{n}.jpg") for i, (name, n) in enumerate(named)]


def test_names_that_share_photos_and_the_synonyms_that_this_suggests():
    result = audit(shared_collection())
    assert [tuple(row.values()) for row in result["shared_photos"]] == [
        ("Planta nova", "Planta vetus", 4, 5, 10, 0.8), ("Planta alia", "Planta vetus", 1, 2, 10, 0.5)
    ]  # fmt: skip
    assert list(result["shared_photos"][0]) == audit_origins.SHARED
    assert (result["synonyms"], result["shared_synonyms"]) == ({"Planta nova": "Planta vetus"}, ["Planta nova"])
    said = audit_origins.remarks(result, Source())[-1]
    assert said.startswith("1 name with most photos under another name too, e.g. Planta nova and Planta vetus;")
    cured = audit(shared_collection(), Curation(synonyms=result["synonyms"]))
    assert (cured["shared_synonyms"], cured["per_class"]["Planta vetus"]) == ([], 18)


def test_suggested_synonyms_have_no_circles():
    rows = [
        {"latin_name": small, "other": large, "share": 1.0, "shared": 5}
        for small, large in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"), ("A", "x"))
    ]
    joined, added = with_synonyms({"A": "a", "x": "y"}, rows)
    assert joined == {"A": "a", "x": "y", "a": "b", "b": "c", "d": "c"} and added == ["a", "b", "d"]


def test_what_a_minimum_would_leave_and_does_leave():
    counts = {"Aus a": 1, "Aus b": 2, "Aus c": 3, "Aus d": 12}
    documents = [document(f"{name}{i}", name) for name, n in counts.items() for i in range(n)]
    documents += [document("twice", "Aus b", "http://h/Aus b0.jpg")] * 4
    result = audit(documents)
    assert [(row["minimum"], row["species"], row["photos"]) for row in result["minima"]] == [
        (1, 4, 18), (2, 3, 17), (3, 2, 15), (5, 1, 12), (10, 1, 12), (20, 0, 0)
    ]  # fmt: skip
    left = audit(documents, least=3)
    assert (left["per_class"], left["usable"]) == ({"Aus d": 12, "Aus c": 3}, 15)
    assert left["unusable"] == {"under source.min_per_species": 7} and left["minima"] == result["minima"]


def test_licences_by_spelling_and_species_and_what_lists_would_leave():
    licences = {"Aus a": ["CC0", "cc-0", "CC-BY"], "Aus b": ["CC-BY-NC"] * 3, "Aus c": [None, "© me"]}
    numbered = [(name, i, text) for name, each in licences.items() for i, text in enumerate(each)]
    documents = [document(f"{name}{i}", name, license=text) for name, i, text in numbered]
    result = audit(documents)
    assert list(result["licenses"]) == ["cc-by-nc", "cc0", "all-rights-reserved", "cc-by", "unknown"]
    assert result["licenses"]["cc0"] == {"photos": 2, "species": 1, "spellings": {"CC0": 1, "cc-0": 1}}
    lists = [(row["licenses"][-1], row["photos"], row["species"], row["lost"]) for row in result["allow_lists"]]
    assert lists[:3] == [
        ("public-domain", 2, 1, ["Aus b", "Aus c"]), ("cc-by", 3, 1, ["Aus b", "Aus c"]),
        ("cc-by-sa", 3, 1, ["Aus b", "Aus c"]),
    ]  # fmt: skip
    assert lists[3] == ("cc-by-nc-sa", 6, 2, ["Aus c"])
    strict = audit(documents, Curation(licenses=frozenset({"cc0"})))
    assert strict["licenses"] == result["licenses"] and strict["per_license"] == {"CC0": 1, "cc-0": 1}
    assert strict["unusable"]["licence cc-by-nc is not in source.licenses"] == 3


def test_a_field_of_the_config_that_no_photo_has_is_told():
    result = audit([document(0, user_id=7), document(1)])
    (said,) = audit_origins.remarks(result, Source(fields={"region": "place.region", "user_id": "user"}))
    assert said.startswith("source.fields.region: no photo has anything under place.region; ")


def test_a_licence_of_the_config_that_no_photo_has_is_told():
    result = audit([document(i, license=text) for i, text in enumerate(["CC0", "CC0", "Mine"])])
    (said,) = audit_origins.remarks(result, Source(licenses=["cco", "mine", "cc-by"]))
    assert said == (
        "source.licenses: no photo has 'cco', and no known licence is called that; correct it; there are: cc0 2, mine 1"
    )
    assert audit_origins.remarks(result, Source(licenses=["cc0", "mine", "cc-by"])) == []


def test_a_thousand_licences_are_counted_in_little_space():
    result = audit(document(i, f"Aus {i % 3}", license=f"mine {i}") for i in range(1000))
    assert len(result["licenses"]) == license_counts.TOLD_APART - len(KNOWN)
    assert result["licenses"]["(other)"]["species"] == 3


def test_whose_the_region_is():
    def of_region(region):
        return [document(f"{s}{i}", f"Aus a{s}", region=region(s, i)) for s in range(40) for i in range(1 + (s > 0))]

    result = audit(of_region(lambda s, i: f"R{s % 3}"))
    assert result["region_of_species"] == {"one": 39, "species": 39}
    assert "region is the species' here: 39 of 39 species" in audit_origins.remarks(result, Source())[0]
    result = audit(of_region(lambda s, i: f"R{i % 3}"))
    assert result["region_of_species"] == {"one": 0, "species": 39} and audit_origins.remarks(result, Source()) == []
    assert audit_origins.remarks(audit(of_region(lambda s, i: None)), Source()) == []


def test_a_list_is_mistyped_and_told_with_its_cure():
    documents = [document(i, region=["ES", "FR"], image_url=["u"] if i else "u") for i in range(4)]
    result = audit(documents)
    region = result["fields"]["region"]
    assert (region["missing"], region["mistyped"], region["lists"]) == (0, 4, 4)
    assert audit_origins.remarks(result, Source()) == [
        "source.fields.image_url: received lists (['u']) in 3 of 4 documents, expected a text; name the list in "
        "source.photos, if each of its entries is a photo",
        "source.fields.region: received lists (['ES', 'FR']) in 4 of 4 documents, expected a text; name the regions "
        "and their values in source.regions",
    ]
    said = audit_origins.remarks(audit([document(1), document(2, image_url=[["u"]])]), Source(photos=["images"]))
    assert said[0].endswith("entries of images are lists themselves, name those: source.photos: [images.0, images.1]")
    source = Source(regions={"EU": ["ES"]}, fields={"region": "countries"})
    (said,) = audit_origins.remarks(audit([document(1, region=[{"id": "7", "code": "ES"}])]), source)
    assert said.endswith("as in source.fields.region: countries.code")


def test_photos_of_lists_are_counted_apart_from_their_documents(make_config):
    source = Source(
        photos=["images", "img"], fields={"image_url": "url", "region": "countries", "latin_name": "latinName"},
        regions={"EU_SW": ["ES"], "EU_NORTH": ["DE"]},
    )  # fmt: skip
    documents = [
        {"_id": 1, "latinName": "Aus a", "countries": ["ES", "DE"], "images": [{"url": "a"}, {"url": "b"}, {}],
         "img": ["a"]},
        {"_id": 2, "latinName": "Aus b", "countries": ["JP", "DE"], "img": ["c"]},
        {"_id": 3, "latinName": "Aus c", "img": []},
    ]  # fmt: skip
    reader = Reader(source)
    result = audit([photo for each in documents for photo in reader.photos(each)], reader=reader)
    assert [result[key] for key in ("documents", "references", "repeated_in_documents", "photos", "usable")] == [
        3, 5, 1, 4, 3
    ]  # fmt: skip
    assert result["per_region"] == {"EU_NORTH": 1, "EU_SW": 2}
    assert result["unusable"] == {"no image_url": 1, "a document without a photo": 1}
    assert result["left_out_by"] == {"source.fields": 1}  # photos alone, so that 4 photos are 3 usable and 1 not
    said = audit_origins.remarks(result, Source())
    assert said[0].startswith("3 documents with 5 references to photos; 1 reference to a URL that")
    assert (
        "source.fields.region has 1 value that no region of source.regions names: 'JP' (1 photo); such a photo may "
        "have a region by another value"
    ) in said
    assert said[1].startswith("1 document without a photo") and said[-1].endswith("EU_SW before EU_NORTH 3")
    page = (written(make_config(), result).path("audit").parent / "audit.html").read_text(encoding="utf-8")
    assert "EU_SW before EU_NORTH" in page and "tables/licence_spellings.csv" in page


def test_all_rows_of_a_cure_are_in_its_file(make_config):
    documents = [document(i, f"Viola {'ab'[i % 2]}", f"u{i // 2}") for i in range(20_002)]
    documents += [document(f"again{i}", "Viola a", f"u{i}") for i in range(10_001)]
    tables = written(make_config(), audit(documents)).path("audit").parent / "tables"
    for name in ("conflicts", "repeated_urls"):
        assert len(pd.read_csv(tables / f"{name}.csv")) == 10_001
        assert len((tables / f"exclude_{name}.txt").read_text().splitlines()) == 10_002


def test_a_value_that_is_no_text_is_told_whatever_its_type():
    documents = [document(i, license=value) for i, value in enumerate([["CC0"], 5, {"code": "cc-by"}, "CC0", None])]
    said = audit_origins.remarks(audit(documents), Source())
    assert said[0].startswith("source.fields.license: received lists (['CC0']) in 1 of 5 documents")
    assert said[1] == (
        "source.fields.license: received int 5 in 2 of 5 photos, expected a text, so that it counts as missing; "
        "correct the documents"
    )
    (said,) = audit_origins.remarks(audit(documents[2:3]), Source(fields={"license": "rights"}))
    assert said.endswith("name a field in it, as in source.fields.license: rights.code")


def test_each_reason_to_leave_a_photo_out_has_its_own_cure(make_config):
    documents = [
        document(i, "Aus bus" if i < 3 else "Cus dus", f"u{i}", license="CC BY" if i else "GFDL") for i in range(5)
    ]
    result = audit([*documents, document(9, image_url="")], Curation(licenses=frozenset({"cc-by"})), least=2)
    assert result["left_out_by"] == {"source.licenses": 1, "source.fields": 1}
    result = audit(documents, Curation(licenses=frozenset({"cc-by"})), least=3)
    assert result["left_out_by"] == {"source.min_per_species": 4, "source.licenses": 1}
    page = (written(make_config(), result).path("audit").parent / "audit.html").read_text(encoding="utf-8")
    assert "lower source.min_per_species" in page and "add some (see Licences)" in page
    assert "if a field has another name there" not in page


def test_excluded_documents_are_counted_and_nothing_else_of_them():
    result = audit([document(1, region="EU"), document(2)], Curation(excluded=frozenset({"1"})))
    assert result["unusable"] == {"excluded by source.exclude": 1}
    assert (result["usable"], result["per_region"]) == (1, {"unknown": 1})


@pytest.mark.parametrize(
    "field, right, wrong",
    [
        ("observed_on", [datetime.datetime(1, 1, 1), "2020-02-29", "2020-02-29 10:00"], ["2021-02-29", 2020, "May",
                                                                                       DatetimeMS(2**50), b"2020"]),
        ("latitude", [90, -90.0, 0, "40"], [90.1, float("nan"), float("inf"), "40°", True, [1]]),
        ("longitude", [180, -180.0], [180.1, {"lon": 1}]),
        ("region", ["EU"], [1, ["EU"]]),
        ("license", ["CC0"], [b"CC0"]),
        ("attribution", ["(c)"], [1.5]),
        ("observation_id", ["a", 1, ObjectId()], [1.5, False, {}, ["a"]]),
        ("user_id", ["a", 1, ObjectId()], [1.5, [1]]),
        ("latin_name", ["Viola"], [7, {}]),
        ("image_url", ["u"], [["u"], 0]),
    ],
)  # fmt: skip
def test_missing_and_mistyped_fields(field, right, wrong):
    values = [None, "", " ", *right, *wrong]
    found = audit(document(i) | {field: value} for i, value in enumerate(values))["fields"][field]
    assert (found["missing"], found["mistyped"]) == (3, len(wrong))
    assert found["samples"][0]["sample_id"] == str(3 + len(right))
    assert found["samples"][0]["value"] == f"{type(wrong[0]).__name__} {wrong[0]!r}"


def test_a_hostile_collection_ends_in_a_report():
    long = "x" * 1_000_000
    documents = [
        dict.fromkeys(FIELDS) | {"sample_id": "none"},
        document(1, 7), document(2, image_url=["a", "b"]), document(3, latitude=float("nan")),
        document(4, observed_on=datetime.datetime(1, 1, 1)), document(5, "Mentha × piperita"),
        document(6, long, long, region=long, license=long, observation_id=long, observed_on=long, sample_id=long),
        document(7, long, long), document(8, "\u200b", "http://[", observation_id=-1), document(9, user_id=2**63),
    ]  # fmt: skip
    result = audit(documents, min_per_species=5)
    assert (result["documents"], result["usable"], result["conflicts"]["photos"]) == (10, 6, 0)
    assert result["per_year"] == {"0001": 1, "unknown": 5}
    # In bounded space, but for the species' own names.
    names = ("per_class", "per_genus", "rare_species", "one_word", "no_species")
    shown = json.dumps({k: v for k, v in audit_report._for_json(result).items() if k not in names})
    assert len(shown) < 10_000


def test_the_order_of_documents_changes_no_count():
    documents = [document(i, f"Viola {'abc'[i % 3]}", f"u{i % 7}", region=f"R{i % 4}") for i in range(60)]
    first = audit(documents)
    random.Random(0).shuffle(documents)
    second = audit(documents)
    assert first["conflicts"]["photos"] + first["repeated_urls"]["photos"] == 53  # 60 photos of 7 URLs
    for key in ("per_class", "per_genus", "per_region", "per_host", "spellings", "rare_species", "class_size"):
        assert first[key] == second[key]


def test_observations():
    documents = [document(i, observation_id=o) for i, o in enumerate(["a", "a", "a", 7, 7, "7", None, " ", 1.5])]
    assert audit(documents)["observations"] == {"photos": 6, "sizes": {"3": 2}}


def test_an_observation_beyond_255_photos():
    result = audit(document(i, observation_id="a" if i % 2 else "b") for i in range(600))
    assert result["observations"] == {"photos": 600, "sizes": {"255": 2}}


def test_hash_tables_find_what_they_hold_however_many_more_come_than_announced():
    keys = [f"url {i}" for i in range(5000)]
    for announced in (1, 4999, 5000, 20_000):
        table = HashTable(announced, "Q", 24)
        assert [table.get(key, i + 1) for i, key in enumerate(keys)] == [0] * 5000
        assert [table.get(key, 1) for key in keys] == list(range(1, 5001))


def test_a_hash_table_counts():
    table = HashTable(10, "I", 8)
    keys = [f"o{i % 40}" for i in range(400)]
    assert [table.count(key) for key in keys] == [i // 40 for i in range(400)]
    assert (table.peek("o3"), table.peek("new"), table.peek("new")) == (10, 0, 0)


def peak_memory(n):
    """Bytes that an audit of n documents with n URLs and observations takes at most, beyond what it is given."""

    def documents():
        shared = document(0)
        for i in range(n):
            shared["latin_name"], shared["image_url"], shared["observation_id"] = names[i % 300], f"http://h/{i}", i
            yield shared

    names = [f"Viola {i}" for i in range(300)]
    tracemalloc.start()
    try:
        assert audit(documents(), collection_count=n)["repeated_urls"]["photos"] == 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_the_species_and_16_bytes_a_document():
    # The difference: what 300 species take, and whatever is loaded on first use, is the same in both.
    small, large = min(peak_memory(5000) for _ in range(2)), peak_memory(25_000)
    assert large - small < 16 * 20_000
    assert small < 16 * 5000 + 1_000_000


@pytest.mark.parametrize(
    "url, host",
    [
        ("https://Photos.Example.org/a.jpg", "photos.example.org"),
        ("https://user:s3cret@h.org:8080/a?b=c", "h.org:8080"),
        ("https://h.org:443/a", "h.org"),
        ("HTTP://h.org:80?a", "h.org"),
        ("http://h.org#a", "h.org"),
        ("photos/1.jpg", "(relative URL)"),
        ("photos/1.jpg?from=http://h.org", "(relative URL)"),
        ("//h.org/a", "(relative URL)"),
        ("http://[", "["),
    ],
)
def test_hosts(url, host):
    assert host_of(url) == host


SPELLINGS = [
    "Mentha × piperita",
    "mentha ×piperita",
    "MENTHA PIPERITA L.",
    "Mentha x piperita L.",
    "Mentha hybrid piperita",
]


def test_spellings_become_a_file_that_source_synonyms_takes(tmp_path, make_config):
    counts = dict(zip(SPELLINGS, (2, 1, 1, 5, 1), strict=True))
    names = [name for name, n in counts.items() for _ in range(n)]
    documents = [document(i, name) for i, name in enumerate([*names, "Mentha spicata"])]
    result = audit(documents)
    (entry,) = result["spellings"]
    assert (entry["latin_name"], entry["photos"], entry["spellings"]) == ("Mentha x piperita L.", 10, counts)
    run = written(make_config(), result)
    file = run.path("audit").parent / "tables" / "synonyms_suggested.csv"
    assert file.read_text(encoding="utf-8").splitlines()[0] == "synonym,latin_name"
    cured = audit(documents, Curation.load(Source(synonyms=str(file))))
    assert (cured["spellings"], cured["per_class"]) == ([], {"Mentha x piperita L.": 10, "Mentha spicata": 1})
    assert cured["synonyms"] == result["synonyms"]  # the new file can take the old one's place


def test_new_spellings_join_the_synonyms_in_force():
    documents = [document(0, "Old name"), *(document(i, "New name L.") for i in range(1, 4)), document(9, "New name")]
    result = audit(documents, Curation(synonyms={"Old name": "New name"}))
    assert result["synonyms"] == {"New name": "New name L.", "Old name": "New name L."}


def test_of_equally_frequent_spellings_the_usual_one_is_chosen():
    names = ["VIOLA ODORATA", "viola odorata", "Viola odorata", "Viola Odorata"]
    for order in itertools.permutations(names):
        assert audit(map(document, range(4), order))["spellings"][0]["latin_name"] == "Viola odorata"


UNDERSCORES = ("Rosa_canina", "Rosa_canina", "Rosa canina", "rosa_rugosa", "Bellis perennis")


def test_names_with_underscores_are_told_and_cured(tmp_path, make_config):
    documents = list(map(document, range(5), UNDERSCORES))
    result = audit(documents)
    assert result["underscores"] == {"Rosa_canina": 2, "rosa_rugosa": 1} and result["one_word"] == {}
    assert [entry["spellings"] for entry in result["spellings"]] == [{"Rosa_canina": 2, "Rosa canina": 1}]
    assert result["synonyms"] == {"Rosa_canina": "Rosa canina", "rosa_rugosa": "rosa rugosa"}
    remark = "Names with an underscore: 2, e.g. Rosa_canina; their genus is unclear; cure: source.synonyms."
    assert audit_report.remarks(result) == [remark]
    folder = written(make_config(), result).path("audit").parent
    assert html.escape(remark) in (folder / "audit.html").read_text(encoding="utf-8")
    cured = audit(documents, Curation.load(Source(synonyms=str(folder / "tables/synonyms_suggested.csv"))))
    assert (cured["underscores"], cured["spellings"]) == ({}, [])
    assert cured["per_class"] == {"Rosa canina": 3, "Bellis perennis": 1, "rosa rugosa": 1}


@pytest.mark.parametrize("name", ["Rosa", "rose", "ROSA", "Rosa L.", "× Rosa", "×Rosa", "Rosa_", "___"])
def test_names_of_one_word_are_told(name):
    result = audit([document(1, name), document(2, "Rosa canina"), document(3, "Rosa sp."), document(4, "rosa × alba")])
    assert result["one_word"] == {name: 1}
    remark = f"Names of one word: 1, e.g. {name}; it counts as the genus; cure: full names in source.synonyms."
    assert audit_report.remarks(result)[-1] == remark


def test_full_names_without_underscores_are_not_remarked_on():
    assert audit_report.remarks(audit([document(1), document(2, "Bellis perennis L.")])) == []


@pytest.mark.parametrize(
    "name, same",
    [
        ("Viola odorata", ["Viola odorata L.", "VIOLA  ODORATA", "viola odorata l.", "Viola odorata L. f. ex Aiton",
                           "Viola Odorata", "Viola odorata (L.) Mill., 1768", "\u200bViola\u00a0odorata",
                           "Viola odorata d'Urv.", "Viola × odorata"]),
        ("Mentha × piperita", SPELLINGS),
        ("× Cuprocyparis leylandii", ["×Cuprocyparis leylandii", "X Cuprocyparis leylandii", "Cuprocyparis leylandii"]),
        ("Viola alba subsp. dehnhardtii", ["Viola alba Besser ssp. dehnhardtii (Ten.) W.Becker",
                                           "VIOLA ALBA SUBSP. DEHNHARDTII"]),
        ("Viola alba f. albiflora", ["Viola alba Besser forma albiflora"]),
        ("Isoëtes lacustris", ["Isoe\u0308tes lacustris L.", "Isoetes_lacustris"]),
        ("Carex muelleri", ["Carex mülleri", "Carex muelleri(Brown)Green", "Carex müllerI v. d. Berg & ten Hove"]),
        ("Hordeum vulgare f. coerulescens", ["Hordeum vulgare fma. cœrulescens", "Hordeum vulgare f.cœrulescens"]),
        ("Viola alba var. rosea", ["Viola alba Besser y Garcia i Soler var.rosea apud Braun & al",
                                   "Viola alba (Besser) 't Hart var. rosea de los Ríos, zur Linden"]),
        ("Viola", ["Viola L.", "viola"]),
        ("Capsella bursa-pastoris", ["Capsella bursa-pastoris (L.) Medik."]),
    ],
)  # fmt: skip
def test_canonical_joins(name, same):
    assert {taxonomy.canonical(other) for other in same} == {taxonomy.canonical(name)}


def test_canonical_keeps_apart():
    names = [
        "Viola alba", "Viola alba subsp. dehnhardtii", "Viola alba var. dehnhardtii", "Viola alba f. dehnhardtii",
        "Viola", "Viola sp. A", "Viola sp. B", "Viola cf. alba", "Viola alba agg.", "Viola alba 'Snow Queen'",
        "Viola alba × Viola odorata", "Viola alba x odorata", "Viola odorata", "Viola hybrid", "Viola alba dehnhardtii",
        "Brassica oleracea", "Brassica oleracea Capitata Group", "Viola alba sensu Smith", "", "Viola ×",
    ]  # fmt: skip
    assert len({taxonomy.canonical(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "name", [*SPELLINGS, "Viola alba Besser ssp. dehnhardtii", "Viola alba x odorata", "", "\u200b"]
)
def test_canonical_names_stay_as_they_are(name):
    assert taxonomy.canonical(taxonomy.canonical(name)) == taxonomy.canonical(name)


def test_equivalent_and_invisible_characters_are_one_name():
    composed, apart = "Iso\u00ebtes lacustris", "Isoe\u0308tes lacustris"
    result = audit([document(1, composed), document(2, apart), document(3, "\ufeffIso\u00ebtes\u2009lacus\u00adtris")])
    assert result["per_class"] == {composed: 3}
    assert taxonomy.normalise("Isoe\u200b\u0308tes") == "Iso\u00ebtes"
    assert taxonomy.normalise("Ros\ufe0fa\u3164 \x00canina\u2028L.") == "Rosa canina L."
    assert audit([document(1, "\u200b\ufeff")])["unusable"] == {"no latin_name": 1}


def test_the_genus_comes_from_the_canonical_form():
    names = ["quercus ilex", "Quercus robur", "QUERCUS SUBER", "Quercus_pubescens", "cf. Quercus rubra",
             "× Quercus hispanica", "Quercus, alba", "? Quercus", "(Quercus) dentata"]  # fmt: skip
    assert taxonomy.genera(names) == ["Quercus"] * 9
    assert taxonomy.genera(["iris pumila", "iris sibirica", "Iris lutea", "Viola alba"]) == ["iris"] * 3 + ["Viola"]
    assert audit([document(1, "rosa canina"), document(2, "Rosa rugosa")])["per_genus"] == {
        "Rosa": {"species": 2, "photos": 2}
    }


def test_labels_that_name_no_species_are_a_finding_with_a_cure(tmp_path, make_config):
    names = ["nan", "NULL", "Quercus sp.", "Quercus", "Iso\u00ebtes lacustris", "Isoe\u0308tes lacustris"]
    documents = [document(12 * i + k, name) for i, name in enumerate(names) for k in range(12)]
    result = audit(documents)
    why = {row["latin_name"]: row["why"] for row in result["no_species"]}
    assert why == {"nan": "fill-in word", "NULL": "fill-in word", "Quercus sp.": "open nomenclature",
                   "Quercus": "rank above the species"}  # fmt: skip
    assert {row["photos"] for row in result["no_species"]} == {12}
    assert result["usable"] == 72  # a finding, not a refusal
    folder = written(make_config(), result).path("audit").parent
    assert "Labels that name no species: 4, e.g. NULL" in (folder / "audit.html").read_text(encoding="utf-8")
    cured = audit(documents, Curation.load(Source(exclude=str(folder / "tables/exclude_no_species.txt"))))
    assert cured["per_class"] == {"Iso\u00ebtes lacustris": 24} and cured["no_species"] == []


NO_SPECIES = ("Unknown plant", "#N/A", "?", "-", "Quercus cf. robur", "Cf. Quercus robur", "QUERCUS SP", "Quercus_sp.",
              "Quercus sp1", "Quercus robur?", "Quercus ssp.", "Rumex indet.", "Acer aff. campestre", "Rosaceae",
              "Rosaceae indet.", "Quercus sect. Lobatae", "Plantae", "Viola L.", "Taraxacum")  # fmt: skip
SPECIES = ("Rosa 'Peace'", "Mentha × piperita", "Salix alba × fragilis", "Rubus fruticosus agg.", "Rosa hybrid",
           "Viola alba subsp. dehnhardtii", "Hydrangea macrophylla (Thunb.) Ser.", "Ipomoea nil", "Hosta cv. Undulata",
           "×Cuprocyparis leylandii", "Brassica oleracea Capitata Group", "Prunus avium L. ssp. avium",
           "Acer palmatum var. dissectum", "Thalesia uniflora", "Nanodea muscosa", "Spiraea japonica L. f.",
           "Carex sp\u00eddula", "Affonsea juglandifolia", "Unxia camphorata", "Testudinaria nulla")  # fmt: skip


def test_what_names_no_species():
    assert set(taxonomy.no_species([*NO_SPECIES, *SPECIES])) == set(NO_SPECIES)
    # Most labels are single words, so they are the classes that somebody wants.
    garden = ["Daffodil", "Snowdrop", "Crocus", "Lily Valley", "Tigerlily"]
    assert taxonomy.no_species([*garden, "nan", "Crocus vernus"]) == {
        "nan": "fill-in word", "Crocus": "rank above the species",
    }  # fmt: skip


def test_suggested_synonyms_are_announced_with_the_option_that_applies_them(make_config):
    run = Run(make_config(), None)
    result = audit([document(1, "Rosa canina"), document(2, "Rosa canina L."), document(3, "ROSA CANINA")])
    (line,) = audit_report.suggestion(run, result)
    assert line.startswith("Classes too many by their spelling: 2, e.g. ")
    assert line.endswith(f"--set source.synonyms={run.path('audit').parent}/tables/synonyms_suggested.csv")
    assert audit_report.suggestion(run, audit([document(1), document(2, "Bellis perennis")])) == []


def test_class_list_is_sorted_and_its_hash_sees_the_order():
    names = taxonomy.class_list(["Viola", "Bellis", "Viola", "Ácer"])
    assert names == ["Bellis", "Viola", "Ácer"]
    assert taxonomy.class_hash(names) != taxonomy.class_hash(names[::-1])
    assert taxonomy.class_hash(["a,b"]) != taxonomy.class_hash(["a", "b"])


def test_names():
    assert taxonomy.normalise("  Viola \t odorata\n") == "Viola odorata"
    names = ["Viola odorata L.", "×Cuprocyparis leylandii", "x Cuprocyparis a", "X", ""]
    assert [taxonomy.genus(name) for name in names] == ["Viola", "Cuprocyparis", "Cuprocyparis", "X", ""]


def written(config, result):
    run = Run(config, None)
    run.path("audit").parent.mkdir(parents=True)
    audit_report.write(run, result)
    return run


def test_report_tables_and_cures(make_config):
    documents = [document(i, f"Viola {'a' if i < 5 else 'b'}", f"u{i // 2}", observation_id=i // 3) for i in range(9)]
    result = audit([*documents, document(10, None), document(11, "rara")], min_per_species=2, collection_count=12)
    run = written(make_config(), result)
    folder = run.path("audit").parent
    tables = {path.stem: pd.read_csv(path) for path in (folder / "tables").glob("*.csv")}
    assert tables["species"].values.tolist() == [["Viola a", 5, "Viola"], ["Viola b", 4, "Viola"], ["rara", 1, "rara"]]
    assert tables["unusable"].values.tolist() == [[10, "no latin_name"]]
    assert tables["conflicts"].values.tolist() == [["u2", "Viola b", 5, "Viola a"]]  # photos 4 and 5
    assert tables["repeated_urls"].sample_id.tolist() == [1, 3, 7]
    assert tables["rare_species"].latin_name.tolist() == ["rara"]
    assert tables.keys() >= {"genera", "regions", "hosts", "licences", "years", "synonyms_suggested", "fields"}
    page = (folder / "audit.html").read_text(encoding="utf-8")
    for part in ("returned 11", "exclude_conflicts.txt", "source.max_per_species", "source.max_per_observation"):
        assert part in page
    assert json.loads(run.path("audit").read_text())["histogram"] == "class_histogram.png"
    assert (folder / "class_histogram.png").exists()


def test_the_ready_exclusions_cure(make_config):
    documents = [document(i, f"Viola {'ab'[i % 2]}", f"u{i // 4}") for i in range(8)] + [document(9, "rara")]
    run = written(make_config(), audit(documents))
    folder, excluded = run.path("audit").parent / "tables", run.path("audit").parent / "exclude.txt"
    excluded.write_text("".join(path.read_text() for path in sorted(folder.glob("exclude_*.txt"))))
    cured = audit([*documents, document(10)], Curation.load(Source(exclude=str(excluded))))
    assert (cured["usable"], cured["conflicts"]["photos"], cured["repeated_urls"]["photos"]) == (1, 0, 0)


def test_a_rare_spelling_of_a_common_species_is_not_excluded(make_config):
    documents = [document(i, "Viola alba" if i else "VIOLA ALBA") for i in range(9)] + [document(10, "rara")]
    run = written(make_config(), audit(documents, min_per_species=5))
    lines = (run.path("audit").parent / "tables" / "exclude_rare_species.txt").read_text().splitlines()
    assert lines == ["# fewer than 5 photos", "rara"]


@pytest.mark.parametrize("documents", [[], [document(1, None)], [document(1, "$\\frac$ <b>" + "x" * 100)]])
def test_odd_collections_have_a_report_too(make_config, documents):
    run = written(make_config(), audit(documents))
    page = (run.path("audit").parent / "audit.html").read_text(encoding="utf-8")
    assert "Audit of the collection" in page and "<b>x" not in page


def test_lines_of_the_exclude_file_that_no_document_has_are_told(tmp_path):
    (tmp_path / "exclude.txt").write_text("Viola  odorata\nmistyped\n3\n# a comment\n")
    curation = Curation.load(Source(exclude=str(tmp_path / "exclude.txt")))
    documents = [document(i, name) for i, name in enumerate(("Viola odorata", "Bellis perennis", "Crocus vernus", "x"))]
    result = audit(documents, curation=curation)
    assert result["exclude_without_effect"] == ["mistyped"] and result["usable"] == 2
