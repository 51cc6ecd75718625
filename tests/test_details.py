"""What is kept of species in the ledger: their details, and whether they have photos enough."""

import pytest

from keras_pipeline.core.config.load import from_dict
from keras_pipeline.core.config.source import Source
from keras_pipeline.ingest import details
from keras_pipeline.ingest.entries import Reader
from keras_pipeline.ingest.ledger import UNDER_SPECIES, Document, Ledger, Outcome
from keras_pipeline.phases.steps import STEPS

NO_CAPS = {"max_per_observation": None, "max_per_species": None}


def planned(path, documents):
    ledger = Ledger(path / "ledger.sqlite").__enter__()
    ledger.plan(documents, seed=1)
    return ledger


def test_details_come_from_the_document_then_from_the_entry_as_text():
    source = Source(
        photos=["l"], fields={"image_url": "url"},
        details={"common_name": "commonName", "plant_id": "_id", "family": "taxonomy.family", "note": "note"},
    )  # fmt: skip
    document = {
        "_id": 7.0, "commonName": " Bus ", "taxonomy": {"family": ["A"]},
        "l": [{"url": "a", "_id": 99, "note": "n", "commonName": "of the photo"}, "b"],
    }  # fmt: skip
    first, second = Reader(source).photos(document)
    assert first["details"] == {"common_name": "Bus", "plant_id": "7", "note": "n"}
    assert second["details"] == {"common_name": "Bus", "plant_id": "7"}
    (whole,) = Reader(Source(details={"common_name": "name"})).photos({"_id": 1, "name": None})
    assert whole["details"] == {}


def test_the_commonest_text_of_a_species_is_kept_and_skipped_photos_have_no_say(tmp_path):
    texts = ["b", "a", "a", "b", "c", "c", "c"]
    documents = [
        Document(str(i), f"u{i}", "Aus bus", details={"name": text}, state="skipped" if text == "c" else "waiting")
        for i, text in enumerate(texts)
    ]
    ledger = planned(tmp_path, [*documents, Document("x", "ux", "Cus dus")])
    ledger.plan([*documents, Document("x", "ux", "Cus dus", details={"id": "é 1"})], seed=1)  # counts once
    ledger.write_parquet(tmp_path / "ledger.parquet")
    assert details.read(tmp_path / "ledger.parquet") == {"Aus bus": {"name": "a"}, "Cus dus": {"id": "é 1"}}


def test_without_details_the_ledger_s_file_has_no_metadata(tmp_path):
    ledger = planned(tmp_path, [Document("1", "u", "Aus bus")])
    ledger.write_parquet(tmp_path / "ledger.parquet")
    assert details.read(tmp_path / "ledger.parquet") == {}
    (step,) = (step for step in STEPS if step.title == "phase6 export")
    config, with_details = (
        from_dict({"experiment": "e", "source": {"details": found}}) for found in ({}, {"name": "commonName"})
    )
    assert "url_ledger" not in step.needs(config) and "url_ledger" in step.needs(with_details)


def test_species_with_few_urls_are_left_out_and_come_back(tmp_path):
    signed = "u?X-Amz-Signature={0}&X-Amz-Date={0}"
    urls = {"Aus bus": ["a", "a", "b"], "Cus dus": [signed.format(1), signed.format(2)], "Eus fus": ["c", "d", "e"]}
    documents = [Document(f"{name}{i}", url, name) for name, listed in urls.items() for i, url in enumerate(listed)]
    ledger = planned(tmp_path, documents)
    ledger.choose(**NO_CAPS, min_per_species=2)
    wanted = [("Aus bus", "", 3), ("Eus fus", "", 3)]
    assert ledger.tally("latin_name", "reason") == [*wanted, ("Cus dus", UNDER_SPECIES, 2)]
    ledger.record([Outcome(f"Eus fus{i}", "failed", "HTTP 404") for i in range(3)])
    ledger.choose(**NO_CAPS, min_per_species=2)  # failed photos count: what is wanted must not depend on the hour
    assert ("Eus fus", "HTTP 404", 3) in ledger.tally("latin_name", "reason")
    with pytest.raises(ValueError, match="received 3, which leaves 1 of 3 species; .* lower it"):
        ledger.choose(**NO_CAPS, min_per_species=3)
    ledger.choose(**NO_CAPS)
    assert ledger.count("skipped") == 0 and ledger.count("waiting") == 5


@pytest.mark.parametrize("details", [{"": "a"}, {"a": ""}, {"a": "b..c"}, {"a": 1}])
def test_bad_details(details):
    with pytest.raises(ValueError, match="source.details"):
        from_dict({"experiment": "e", "source": {"details": details}})
