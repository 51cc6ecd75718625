"""A folder of photos with a CSV of labels: documents, and what is said of faults."""

import itertools
import os
import socket
from pathlib import Path
from urllib.request import urlopen

import pytest
from PIL import Image

from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.ingest import photo_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images" / "été 1").mkdir(parents=True)
    Image.new("RGB", (120, 120)).save(tmp_path / "images" / "été 1" / "a#b.jpg")
    Image.new("RGB", (120, 120)).save(tmp_path / "images" / "c.jpg")
    (tmp_path / "secret.jpg").write_bytes(b"")
    return tmp_path


def _labels(folder: Path, *lines: str) -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_folder_becomes_documents(folder):
    lines = ["c.jpg,Bellis perennis,EU,o1", "été 1/a#b.jpg,Viola odorata,unknown,"]
    labels = _labels(folder, "image,latin_name,region,observation_id", *lines)
    first, second = photo_folder.documents(folder / "images", labels)
    assert {k: first[k] for k in first if k != "_id"} == {
        "latin_name": "Bellis perennis", "image_url": "c.jpg", "region": "EU", "observation_id": "o1",
    }  # fmt: skip
    assert second["image_url"] == "%C3%A9t%C3%A9%201/a%23b.jpg"
    assert second["region"] == "unknown"
    assert "observation_id" not in second


def test_folder_urls_lead_to_the_photos(folder):
    labels = _labels(folder, "image,latin_name", "été 1/a#b.jpg,Viola odorata")
    (document,) = photo_folder.documents(folder / "images", labels)
    with serve_folder(folder / "images") as base_url, urlopen(base_url + document["image_url"]) as reply:
        assert reply.read() == (folder / "images" / "été 1" / "a#b.jpg").read_bytes()


def test_folder_ids_depend_on_the_path_alone(folder):
    one = photo_folder.documents(folder / "images", _labels(folder, "image,latin_name", "c.jpg,A a"))
    two = photo_folder.documents(folder / "images", _labels(folder, "image,latin_name,region", "c.jpg,B b,EU"))
    assert one[0]["_id"] == two[0]["_id"]


def test_folder_or_labels_that_are_not_there_are_named(folder):
    with pytest.raises(ValueError, match="none.csv; expected a CSV file that exists"):
        photo_folder.documents(folder / "images", folder / "none.csv")
    with pytest.raises(ValueError, match="images; expected a CSV file that exists, no folder"):
        photo_folder.documents(folder / "images", folder / "images")
    with pytest.raises(ValueError, match="none; expected a folder that exists"):
        photo_folder.documents(folder / "none", folder / "none.csv")


def test_a_fault_is_told_by_the_name_that_was_typed(folder):
    labels, typed = _labels(folder, "image,species"), ("--images", "--labels")
    with pytest.raises(ValueError, match="^source.demo.images: received photos"):
        photo_folder.documents(folder / "none", labels)
    with pytest.raises(ValueError, match="^source.demo.labels: received .* add image, latin_name"):
        photo_folder.documents(folder / "images", _labels(folder, "x,y"))
    with pytest.raises(ValueError, match="^--images: received photos"):
        photo_folder.documents(folder / "none", labels, keys=typed)
    with pytest.raises(ValueError, match="^--labels: received .* add image, latin_name"):
        photo_folder.documents(folder / "images", labels, keys=typed)


def test_names_are_those_of_all_rows_whether_their_photos_are_there_or_not(folder):
    labels = _labels(folder, "image,latin_name", "c.jpg,A a", "gone.jpg,B b", "x.jpg,A a")
    assert photo_folder.names(labels) == ["A a", "B b", "A a"]
    with pytest.raises(ValueError, match="^source.demo.labels: received .*none.csv; expected a CSV"):
        photo_folder.names(folder / "none.csv")


def test_labels_in_another_encoding_are_refused(folder):
    labels = _labels(folder, "image,latin_name")
    labels.write_bytes("image,latin_name\nc.jpg,A a\nété.jpg,A a\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels.csv in another encoding \(line 3: byte 0xe9\); expected UTF-8; save"):
        photo_folder.documents(folder / "images", labels)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,latin_name", "c.jpg,A a", "gone.jpg,A a"], r"'gone.jpg' in .*labels.csv, line 3.*no such file"),
        (["image,latin_name", "../secret.jpg,A a"], r"line 2; expected a path inside"),
        (["image,latin_name", "/etc/hostname,A a"], r"line 2; expected a path inside"),
        (["image,latin_name", "c.jpg,"], r"no latin_name in 1 of the 1 rows of .*line 2"),
        (["image,latin_name", "c.jpg"], r"no latin_name in 1 of the 1 rows of .*line 2"),
        (["image,latin_name", "c.jpg,A a", "./c.jpg,B b"], r"again in .*line 3"),
        (["image,kind", "c.jpg,A a"], r"with columns image, kind; .*add latin_name to its first line"),
        (["filename,Species", "c.jpg,A a"], r"; rename 'filename' to image, rename 'Species' to latin_name"),
        (["c.jpg,A a,EU", "d.jpg,A a,EU"], r"with a photo's row as its first line; expected .*; add that line"),
        (["image|latin_name", "c.jpg|A a"], r"with '|' between values; expected commas"),
        (["<html>", "<body>404</body></html>"], r"with HTML or XML; expected .*; save the table itself as CSV"),
        (['[{"image": "c.jpg"}]'], r"with JSON; expected .*; convert it to CSV, or put its documents"),
        (["sep=,", "image,latin_name", "c.jpg,A a"], r"with 'sep=,' in front of its columns; .*; remove that line"),
        (["# mine", "image,latin_name", "c.jpg,A a"], r"with '# mine' in front of its columns; .*; remove that line"),
        (["image,latin_name", "c.jpg,A a,"], r"3 values in .*line 2; expected 2, .*; remove the commas behind the"),
        (["image,latin_name", "..,A a"], r"line 2; expected a path inside"),
        (["latin_name,region", "A a,EU"], r"add image to its first line"),
        ([""], r"with columns none; expected image, latin_name"),
        (["image,latin_name"], r"no rows"),
        (["image,latinname", "c.jpg,A a"], r"columns image, latinname; .*; rename 'latinname' to latin_name"),
        (["image,latin_name,region,region", "c.jpg,A a,EU,NA"], r"more than one column region; expected each"),
        (["image;latin_name;region", "c.jpg;A a;EU"], r"with ';' between values; expected commas"),
        (['"image";"latin_name"', '"c.jpg";"A, a"'], r"with ';' between values; expected commas"),
        (["image\tlatin_name", "c.jpg\tA a"], r"with '\\t' between values; expected commas"),
        (["image,latin_name", ",A a"], r"no image in 1 of the 1 rows of .*line 2"),
        (["image,latin_name,region", "c.jpg,A, a,EU"], r"received 4 values in .*line 2; expected 3"),
        (["image,latin_name", "c.jpg,A a", '"d.jpg,A a'], r"no CSV after line 2 .unexpected end of data"),
        (
            ["image,latin_name", f'"{"x" * 200_000},A a'],
            r"after line 1 .field larger .*at most 131,072 char",
        ),
    ],
)
def test_bad_label_files_are_refused(folder, lines, message):
    with pytest.raises(ValueError, match=message):
        photo_folder.documents(folder / "images", _labels(folder, *lines))


@pytest.mark.parametrize("header", ["\ufeffimage,latin_name,region", " image ,latin_name, region "])
def test_a_mark_or_blanks_around_the_columns_names_do_no_harm(folder, header):
    (document,) = photo_folder.documents(folder / "images", _labels(folder, header, "c.jpg , A a , EU "))
    assert (document["image_url"], document["latin_name"], document["region"]) == ("c.jpg", "A a", "EU")


def test_a_path_out_of_the_folder_and_in_again_is_inside(folder):
    documents = photo_folder.documents(folder / "images", _labels(folder, "image,latin_name", "../images/c.jpg,A a"))
    assert [each["image_url"] for each in documents] == ["c.jpg"]
    again = _labels(folder, "image,latin_name", "../images/c.jpg,A a", "c.jpg,A a")
    with pytest.raises(ValueError, match="received 'c.jpg' again"):
        photo_folder.documents(folder / "images", again)


def test_without_a_column_region_all_are_unknown(folder):
    labels = _labels(folder, "image,latin_name", "c.jpg,A a", "été 1/a#b.jpg,B b")
    assert {each["region"] for each in photo_folder.documents(folder / "images", labels)} == {"unknown"}


def test_rows_without_a_name_are_counted(folder):
    labels = _labels(folder, "image,latin_name", *[f"{i}.jpg, " for i in range(1200)], "c.jpg,A a")
    found = r"no latin_name in 1,200 of the 1,201 rows of \S+ \(line 2, 3, 4, …\); expected one in each row; fill it in"
    with pytest.raises(ValueError, match=found):
        photo_folder.documents(folder / "images", labels)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (["c.jpg,A a,", "été 1/a#b.jpg,B b,EU"], r"1 of the 2 rows of \S+ \(line 2\)"),
        (["c.jpg,A a, ", "été 1/a#b.jpg,B b"], r"2 of the 2 rows of \S+ \(line 2, 3\)"),
        ([f"{i}.jpg,A a," for i in range(1200)], r"1,200 of the 1,200 rows of \S+ \(line 2, 3, 4, …\)"),
    ],
)
def test_rows_without_their_region_are_counted(folder, rows, found):
    with pytest.raises(ValueError, match=f"no region in {found}; expected one in each row; write unknown where"):
        photo_folder.documents(folder / "images", _labels(folder, "image,latin_name,region", *rows))


@pytest.mark.parametrize(
    ("image", "there"),
    [
        ("c", "c.jpg"),
        ("C.JPG", "c.jpg"),
        ("A#B", "été 1/a#b.jpg"),
        ("images/c.jpg", "c.jpg"),
        ("a#b.jpg", "été 1/a#b.jpg"),
    ],
)
def test_photos_not_found_are_counted_and_what_is_meant_is_named(folder, image, there):
    labels = _labels(folder, "image,latin_name", "c.jpg,A a", f"{image},A a", "gone.jpg,A a")
    with pytest.raises(ValueError) as error:
        photo_folder.documents(folder / "images", labels)
    start = f"source.demo.labels: received {image!r} in {labels}, line 3, but there is no such file in "
    assert str(error.value).startswith(start)
    assert "(2 of 3 not found, this is the first); expected a path below" in str(error.value)
    assert f"with its suffix such as {there!r}, which is there" in str(error.value)


def test_a_photo_that_may_be_meant_is_not_looked_for_on_a_whole_disk(folder, monkeypatch):
    labels, seen = _labels(folder, "image,latin_name", "gone.jpg,A a"), []
    monkeypatch.setattr(photo_folder, "LOOKED_AT", 20)
    monkeypatch.setattr(Path, "rglob", lambda *_: (seen.append(i) or Path(f"/{i}.jpg") for i in itertools.count()))
    with pytest.raises(ValueError, match="no such file"):
        photo_folder.documents(folder / "images", labels)
    assert len(seen) == 20


def test_backslashes_between_folders_are_told(folder):
    for image, there in [
        ("été 1\\a#b.jpg", " such as 'été 1/a#b.jpg', which is there"),
        ("c:\\C.jpg", " such as 'c.jpg', which is there"),
        ("x\\y.jpg", ""),
    ]:
        labels = _labels(folder, "image,latin_name", f"{image},A a")
        with pytest.raises(ValueError, match=f"with its suffix and forward slashes{there}; correct the column image"):
            photo_folder.documents(folder / "images", labels)
    (folder / "images" / "x\\y.jpg").write_bytes(b"")  # a photo may be named so
    assert len(photo_folder.documents(folder / "images", labels)) == 1


@pytest.mark.parametrize(
    ("image", "what"),
    [
        ("été 1", "a folder"),
        ("link.jpg", "a broken link to gone.jpg"),
        ("pipe.jpg", "a pipe"),
        ("socket.jpg", "a socket"),
        ("null.jpg", "a device"),
    ],
)
def test_what_is_no_photo_is_named(folder, monkeypatch, image, what):
    images = folder / "images"
    (images / "link.jpg").symlink_to("gone.jpg")
    (images / "null.jpg").symlink_to("/dev/null")
    os.mkfifo(images / "pipe.jpg")
    monkeypatch.chdir(images)  # the name of a socket may have 108 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
    labels = _labels(folder, "image,latin_name", "c.jpg,A a", f"{image},A a")
    with pytest.raises(ValueError, match=rf"{image!r} in \S+, line 3, but that is {what}, no photo \(1 of 2 no"):
        photo_folder.documents(images, labels)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("image,latin_name,region,observation_id", None),
        ("image,latin_name,", None),
        ("image,latin_name,Region", "nothing reads the column 'Region' (did you mean 'region'?)"),
        (
            "image,latin_name,observationid,common_name,regoin",
            "nothing reads the columns 'observationid' (did you mean 'observation_id'?), 'common_name', 'regoin' (did "
            "you mean 'region'?)",
        ),
    ],
)
def test_columns_that_nothing_reads_are_named(folder, header, said):
    labels = _labels(folder, header, "c.jpg,A a")
    assert photo_folder.unread_columns(labels) == (said and f"{labels}: {said}")


def test_a_photo_not_found_that_may_mean_none_gets_no_example(folder):
    with pytest.raises(ValueError, match="with its suffix; correct the column image"):
        photo_folder.documents(folder / "images", _labels(folder, "image,latin_name", "x" * 300 + ",A a"))
