"""Pictures: the same bytes and pixels twice, what must be in them, and every size from 2 to 9,000 classes."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_pipeline.evaluation.report import confusions, pictures, recalls
from keras_pipeline.evaluation.report.plots import BLUE, LIGHT_BLUE, ORANGE

LONG = "Dactylorhiza maculata subsp. fuchsii var. hebridensis"


def pixels_of(image, colour):
    """How many pixels have exactly this '#RRGGBB'."""
    return int((image == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1).sum())


def entry(n, recall, high=None, **more):
    return {"n": n, "recall": recall, "interval": [0.0, 1.0 if high is None else high], **more}


def region(n, top1):
    return {"n": n, "top1": top1, "top1_interval": [top1 - 0.1, top1 + 0.05]}


def bin_of(low, high, recall):
    return {"train": [low, high], "species": 3, "n": 9, "groups": 5, "recall": recall, "interval": [0.2, 1.0]}


def draw_all(folder):
    """Every picture once: {name: (pixels, path)}."""
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (3, 20, 30, 3), np.uint8)
    drawings = {
        "grid": (pictures.photo_grid, photos, ["Bellis perennis", LONG, "0.62 Iris $x$ + 0.38 Viola odorata"]),
        "examples": (
            confusions.confusion_examples,
            [
                confusions.Example("Iris", LONG, photos, photos[:1], "3 of 9"),
                confusions.Example(LONG, "Iris", [], [], ""),
            ],
        ),
        "confusion": (confusions.by_species, [0, 1, 1, 2], [0, 1, 2, 2], ["Iris", LONG, "Viola odorata"]),
        "genera": (confusions.by_genus, [0, 1, 1, 2], [0, 1, 2, 2], ["Iris", LONG, "Viola odorata"]),
        "curve": (recalls.recall_curve, [bin_of(2, 4, 0.3), bin_of(100, None, 1.0)]),
        "regions": (pictures.region_chart, {"a": {"EU": region(9, 0.5)}, "b": {"all": region(99, 0.7)}}),
    }
    result = {name: (draw(*data, folder / name), folder / name) for name, (draw, *data) in drawings.items()}
    recall = {"Iris": entry(30, 0.5), LONG: entry(3, 1.0), "Viola": entry(0, None)}
    result["recall"] = recalls.recall_chart(recall, folder / "recall", gate=0.6), folder / "recall"
    return result


def test_pixels_are_those_of_the_png_and_the_same_bytes_twice(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = draw_all(tmp_path / "a"), draw_all(tmp_path / "b")
    for name, (pixels, path) in first.items():
        data = path.read_bytes()
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        assert data == second[name][1].read_bytes()
        assert b"Software" not in data


def test_nothing_is_written_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pictures.photo_grid(np.zeros((1, 8, 8, 3)), ["x"]).shape[-1] == 3
    assert list(tmp_path.iterdir()) == []


def test_a_grid_shows_each_photo_clipped_to_its_range():
    # Two photos 1.65 inches wide at 120 dots an inch: 198 x 99 pixels each, as they are twice as wide as high.
    images = np.empty((2, 50, 100, 3), np.float32)
    images[0], images[1] = [300.0, -5.0, 0.2], [0.0, 0.0, 254.8]
    grid = pictures.photo_grid(images, ["red", "blue"])
    assert pixels_of(grid, "#FF0000") == pytest.approx(198 * 99, rel=0.02)
    assert pixels_of(grid, "#0000FF") == pytest.approx(198 * 99, rel=0.02)


def test_a_grid_grows_by_rows():
    images = np.zeros((5, 8, 8, 3))
    wide, high = (pictures.photo_grid(images, list("abcde"), columns=columns) for columns in (5, 2))
    assert wide.shape[0] * 3 == pytest.approx(high.shape[0], abs=3)
    assert wide.shape[1] / 5 == high.shape[1] / 2 == 216


def test_captions_break_at_the_plus_and_end_in_an_ellipsis():
    caption = f"0.62 {LONG} hort. ex Anon. + 0.38 Viola odorata"
    grid, plain = (pictures.photo_grid(np.zeros((1, 8, 8, 3)), [text]) for text in (caption, "Viola odorata"))
    assert grid.shape[0] - plain.shape[0] == pytest.approx(2 * 0.15 * 120, abs=1)  # three lines instead of one
    assert pictures.wrapped(f"0.62 {LONG} hort. ex Anon.", 30, 2)[-1].endswith("…")
    assert pictures.wrapped("Hyacinthoides non-scripta", 20, 2) == ["Hyacinthoides", "non-scripta"]


def random_answers(count):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, count, 3000)
    return labels, np.where(rng.random(3000) < 0.7, labels, (labels + rng.integers(1, 9, 3000)) % count)


def has_a_white_edge(picture):
    """Nothing reaches the edge, where it'd be cut."""
    return all((edge == 255).all() for edge in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]))


@pytest.mark.parametrize("draw", [confusions.by_species, confusions.by_genus])
@pytest.mark.parametrize("count", [2, 17, 9000])
def test_confusions_of_any_number_of_classes(draw, count):
    classes = [f"{LONG[6:20]}{i // 5} {LONG[:24]}{i}" for i in range(count)]
    picture = draw(*random_answers(count), classes)
    assert min(picture.shape[:2]) > 150 and max(picture.shape[:2]) < 2000
    assert has_a_white_edge(picture)


@pytest.mark.parametrize("count", [2, 17, 30, 100, 101, 900])
def test_more_than_100_species_are_shown_by_genus(count):
    answers, classes = random_answers(count), [f"Genus{i // 5} species{i}" for i in range(count)]
    picture = confusions.confusion_picture(*answers, classes)
    draw = confusions.by_species if count <= 100 else confusions.by_genus
    np.testing.assert_array_equal(picture, draw(*answers, classes))


def test_a_genus_has_a_bar_of_what_is_right_and_what_is_not():
    # Right species, right genus, wrong genus: 1, 1 and 2 of four photos; bars are 2.2 inches wide, 0.86 * 0.27 high.
    picture = confusions.by_genus([0, 0, 0, 0], [0, 1, 2, 2], ["Viola alba", "Viola odorata", "Iris lutea"])
    bar = 2.2 * 0.86 * 0.27 * 120**2
    for colour, share in ((BLUE, 0.25), (LIGHT_BLUE, 0.25), (ORANGE, 0.5)):
        assert pixels_of(picture, colour) == pytest.approx(share * bar, rel=0.25)  # less its count, more its legend


def test_a_flawless_and_an_all_wrong_model_have_a_picture_by_genus():
    labels, classes = np.arange(300), [f"Genus{i // 3} species{i}" for i in range(300)]
    flawless, wrong = confusions.by_genus(labels, labels, classes), confusions.by_genus(labels, labels[::-1], classes)
    assert pixels_of(flawless, BLUE) > 20 * pixels_of(flawless, ORANGE)
    assert pixels_of(wrong, ORANGE) > 20 * pixels_of(wrong, BLUE)


@pytest.mark.parametrize(("n", "text"), [(1, "1"), (999, "999"), (1000, "1.0k"), (9949, "9.9k"), (9950, "10k"),
                                         (84_700, "85k")])  # fmt: skip
def test_a_cell_has_room_for_four_characters(n, text):
    assert confusions._brief(n) == text


def test_mistaken_photos_have_a_blue_frame_and_what_they_were_taken_for_an_orange_one():
    photo = np.full((20, 20, 3), 128, np.uint8)
    mistaken, both = (
        confusions.confusion_examples([confusions.Example("Iris", "Viola", [photo], taken, "1 of 9 photos")])
        for taken in ([], [photo])
    )
    assert both.shape[1] - mistaken.shape[1] == 216
    assert pixels_of(both, BLUE) == pytest.approx(pixels_of(mistaken, BLUE), rel=0.1)
    assert pixels_of(both, ORANGE) > 1000 > 100 > pixels_of(mistaken, ORANGE)


def test_confusions_are_orange_and_right_answers_blue():
    right = confusions.by_species([0, 1], [0, 1], ["a", "b"])
    wrong = confusions.by_species([0, 1], [1, 0], ["a", "b"])
    cell = int((0.8 * 120) ** 2)  # a share of 100 % has the last colour of its scale
    assert pixels_of(right, "#00324F") > 1.8 * cell > 0.1 * cell > pixels_of(right, "#7A3300")
    assert pixels_of(wrong, "#7A3300") > 1.8 * cell > 0.1 * cell > pixels_of(wrong, "#00324F")


def test_the_others_are_grey():
    labels = np.arange(40)
    shown, hidden = (confusions.by_species(labels, labels, [str(i) for i in labels], most=m) for m in (40, 30))
    assert pixels_of(shown, "#BDBDBD") < 50 < 500 < pixels_of(hidden, "#BDBDBD")


def test_what_is_bad_for_sure_comes_first_whatever_the_number_of_photos():
    recall = {
        "one unlucky photo": entry(1, 0.0, high=0.975),
        "good": entry(40, 0.9, high=0.97),
        "none": entry(0, None),
        "bad for sure": entry(12, 0.0, high=0.26),
        "bad": entry(40, 0.3, high=0.47),
    }
    names = [name for name, _ in recalls.worst_classes(recall)]
    assert names == ["bad for sure", "bad", "good", "one unlucky photo"]


def test_equally_sure_classes_come_by_recall_then_photos_then_not_by_the_alphabet():
    recall = {"a": entry(1, 0.5, high=0.9), "b": entry(2, 0.2, high=0.9), "c": entry(3, 0.2, high=0.9)}
    assert [name for name, _ in recalls.worst_classes(recall)] == ["c", "b", "a"]
    equal = {letter: entry(1, 0.0, high=0.975) for letter in "abcdefghij"}
    order = [name for name, _ in recalls.worst_classes(equal)]
    assert order == [name for name, _ in recalls.worst_classes(dict(reversed(equal.items())))] != sorted(order)


def test_a_recall_curve_grows_by_its_bins_and_names_them():
    bins = [(0, 0), (1, 1), (2, 4), (5, 9), (10, 19), (20, 49), (50, 99), (100, None)]
    one, eight = (recalls.recall_curve([bin_of(*each, 0.5) for each in bins[:n]]) for n in (1, 8))
    assert one.shape[1] == 540 and eight.shape[1] == pytest.approx(120 * (1.5 + 8 * 1.15), abs=1)
    assert has_a_white_edge(eight)
    words = [recalls.train_range({"train": each}) for each in bins]
    assert words == ["0", "1", "2–4", "5–9", "10–19", "20–49", "50–99", "100+"]
    with pytest.raises(ValueError, match="at least one row"):
        recalls.recall_curve([])


def test_recall_chart_has_its_gate_and_pales_small_classes():
    large, small = {"Iris": entry(20, 0.5)}, {"Iris": entry(19, 0.5)}
    with_gate = recalls.recall_chart(large, gate=0.6)
    assert pixels_of(with_gate, ORANGE) > 20 > 0 == pixels_of(recalls.recall_chart(large, gate=None), ORANGE)
    assert pixels_of(with_gate, BLUE) > 100 > 0 == pixels_of(with_gate, LIGHT_BLUE)
    assert pixels_of(recalls.recall_chart(small, gate=None), LIGHT_BLUE) > 100


def test_recall_chart_stops_at_25_classes():
    charts = [
        recalls.recall_chart({f"{LONG} {i}": entry(30, i / count) for i in range(count)}, gate=0.6)
        for count in (25, 9000)
    ]
    assert charts[0].shape == charts[1].shape and has_a_white_edge(charts[1])


def test_regions_are_sorted_by_photos_after_all():
    table = {"b": region(5, 0.5), "a": region(5, 0.5), "all": region(1, 0.5), "c": region(2, 0.5)}
    more = {"c": region(9, 0.5), **{f"r{i:02d}": region(1, 0.5) for i in range(40)}}
    order = list(pictures._regions_by_photos({"x": table, "y": more}))
    assert order[:5] == ["all", "c", "a", "b", "r00"] and len(order) == 30


def test_two_classifiers_have_two_colours():
    one = pictures.region_chart({"teacher": {"EU": region(9, 0.5)}})
    two = pictures.region_chart({"teacher": {"EU": region(9, 0.5)}, "student": {"EU": region(9, 0.6)}})
    assert pixels_of(one, BLUE) > 100 and pixels_of(one, ORANGE) == 0
    assert pixels_of(two, BLUE) > 100 and pixels_of(two, ORANGE) > 100


@pytest.mark.parametrize(
    ("draw", "data", "message"),
    [
        (pictures.photo_grid, (np.zeros((0, 8, 8, 3)), []), "N >= 1"),
        (pictures.photo_grid, (np.zeros((1, 8, 8, 3)), []), "0 captions"),
        (pictures.photo_grid, (np.zeros((1, 8, 8)), ["x"]), r"\[N, h, w, 3\]"),
        (confusions.confusion_examples, ([],), "at least one pair"),
        (confusions.confusion_picture, ([0], [2], ["a", "b"]), r"\[0, 2\)"),
        (pictures.region_chart, ({},), "received 0 classifiers"),
        (pictures.region_chart, ({"x": {}},), "1 classifiers with 0 regions"),
    ],
)
def test_malformed_input_is_refused(draw, data, message):
    with pytest.raises(ValueError, match=message):
        draw(*data)


def test_a_chart_without_classes_is_refused():
    with pytest.raises(ValueError, match="at least one class with photos"):
        recalls.recall_chart({"Iris": entry(0, None)}, gate=0.6)
