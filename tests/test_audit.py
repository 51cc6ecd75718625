"""What the audit counts, and what it can't use."""

import json

import pytest

from keras_pipeline.core import taxonomy
from keras_pipeline.ingest.audit import audit


def document(number, latin_name="Viola odorata", image_url="a.jpg", region=None):
    return {"sample_id": str(number), "latin_name": latin_name, "image_url": image_url, "region": region}


def test_counts():
    result = audit(
        [
            document(1, region="EU"), document(2, " Viola  odorata", region=" EU "), document(3, "Bellis perennis"),
            document(4, None), document(5, image_url=""), document(6, 7), document(7, region=3),
        ]
    )  # fmt: skip
    assert (result["documents"], result["usable"], result["species"]) == (7, 4, 2)
    assert list(result["per_class"].items()) == [("Viola odorata", 3), ("Bellis perennis", 1)]
    assert result["per_region"] == {"EU": 2, "unknown": 2}
    assert result["unusable"] == {"no latin_name": 1, "no image_url": 1, "latin_name is no text": 1}
    assert result["unusable_samples"][0] == {"sample_id": "4", "reason": "no latin_name"}
    assert result["imbalance"] == 3.0
    assert result["class_size"] == {"min": 1.0, "median": 2.0, "max": 3.0}


@pytest.mark.parametrize("documents", [[], [document(1, None)]])
def test_nothing_usable_is_still_a_report(documents):
    result = audit(documents)
    assert (result["usable"], result["species"], result["imbalance"]) == (0, 0, None)
    json.dumps(result, allow_nan=False)


def test_all_are_counted_though_only_a_hundred_are_listed():
    result = audit(document(i, None) for i in range(250))
    assert result["unusable"] == {"no latin_name": 250} and len(result["unusable_samples"]) == 100


def test_class_list_is_sorted_and_its_hash_sees_the_order():
    names = taxonomy.class_list(["Viola", "Bellis", "Viola", "Ácer"])
    assert names == ["Bellis", "Viola", "Ácer"]
    assert taxonomy.class_hash(names) != taxonomy.class_hash(names[::-1])
    assert taxonomy.class_hash(["a,b"]) != taxonomy.class_hash(["a", "b"])


def test_names():
    assert taxonomy.normalise("  Viola \t odorata\n") == "Viola odorata"
    assert taxonomy.genus("Viola odorata L.") == "Viola"
