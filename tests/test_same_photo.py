"""A list of pairs keeps photos together; what is no such list is refused in words."""

import pandas as pd
import pytest

from keras_pipeline.ingest.same_photo import same_photo
from keras_pipeline.ingest.split import find_leaks, split_photos

IDS = pd.Series(["a", "b", "c", "d"])


@pytest.fixture
def listed(tmp_path):
    def listed(text, ids=IDS, encoding="utf-8"):
        path = tmp_path / "pairs.csv"
        path.write_text(text, encoding=encoding)
        return same_photo(path, ids)

    return listed


def test_listed_pairs_are_tied(listed):
    ties = listed("sample_id_1,split_1,sample_id_2\na,test, c \nb,val,gone\n", encoding="utf-8-sig")
    assert ties.pairs.tolist() == [[0, 2]] and ties.members.tolist() == [[0, 0], [2, 2]]
    assert listed("sample_id_1,sample_id_2\n").links == 0


def test_ids_that_look_like_numbers_stay_texts(listed):
    assert listed("sample_id_1,sample_id_2\n007,1e3\n", pd.Series(["007", "1e3"])).pairs.tolist() == [[0, 1]]


def test_they_stay_in_one_split_and_count_as_a_leak_elsewhere(listed):
    ids = pd.Series([f"{i:03d}" for i in range(100)])
    pairs = [(f"{i:03d}", f"{i + 50:03d}") for i in range(50)]
    ties = {"same_photo": listed("sample_id_1,sample_id_2\n" + "".join(f"{a},{b}\n" for a, b in pairs), ids)}
    table = pd.DataFrame({"sample_id": ids, "latin_name": "Bellis perennis", "sha256": ids})
    shares = {"train": 0.4, "val": 0.2, "calibration": 0.2, "test": 0.2}
    split = pd.Series(split_photos(table, ties, shares=shares, seed=0).split, index=ids)
    assert all(split[a] == split[b] for a, b in pairs) and split.nunique() == 4
    apart = table.assign(split=["train"] * 50 + ["test"] * 50, group_id=ids)
    assert len(find_leaks(apart, ties)) == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\nx,y\n", "received the columns a, b, expected sample_id_1 and sample_id_2"),
        ("", "is not a readable CSV"),
        ("sample_id_1,sample_id_2\nx,y\n", "received 1 pairs without a stored photo, expected sample ids such as a"),
    ],
)
def test_what_is_no_list_is_refused(listed, text, message):
    with pytest.raises(ValueError, match=message):
        listed(text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"same_photo: received .*none\.csv, which does not exist"):
        same_photo(tmp_path / "none.csv", IDS)
