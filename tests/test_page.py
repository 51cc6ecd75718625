"""The page as a visitor meets it, in the real browser."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image
from support import web_example as example
from support.lines import LINES

from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.evaluation.report.html import write_report
from keras_pipeline.export import saved_model, tfjs
from keras_pipeline.export.browser import open_browser
from keras_pipeline.export.saved_model import load_classifier
from keras_pipeline.export.visit import show_photo


@pytest.fixture(scope="module")
def folder():
    example.need_browser()
    return example.bundle()[0]


def test_it_names_a_photo_as_python_does(folder, tmp_path):
    path = tmp_path / "flower.jpg"
    path.write_bytes(example.encoded(example.photo(3, 11, (1600, 1200))))
    shown = show_photo(folder, path, tmp_path / "page.png")
    expected = load_classifier(example.saved()).classify(path.read_bytes())
    assert shown["state"] == "answered" and shown["verdict"] == expected["latin_name"] == "Viola tricolor"
    assert shown["conclusive"] and expected["conclusive"]
    found = [(entry["latin_name"], entry["probability"]) for entry in shown["species"]]
    assert [name for name, _ in found] == [entry["latin_name"] for entry in expected["top5"]]
    np.testing.assert_allclose([p for _, p in found], [entry["probability"] for entry in expected["top5"]], atol=2e-3)
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_it_says_when_a_photo_does_not_tell_enough(folder, tmp_path):
    classifier = load_classifier(example.saved())
    mixtures = (Image.blend(example.photo(a, 1), example.photo(b, 1), 0.5) for a in range(4) for b in range(a))
    blurred = next(data for image in mixtures if not classifier.classify(data := example.encoded(image))["conclusive"])
    (tmp_path / "mixture.jpg").write_bytes(blurred)
    shown = show_photo(folder, tmp_path / "mixture.jpg")
    assert (shown["verdict"], shown["conclusive"]) == ("Not conclusive", False)
    assert shown["species"][0]["latin_name"] == classifier.classify(blurred)["latin_name"]


def test_it_turns_a_rotated_phone_photo_and_puts_transparency_on_white(folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned; to be shown turned 90 degrees clockwise
    cut_out = example.photo(1, 5, (500, 700)).convert("RGBA")
    cut_out.putalpha(Image.linear_gradient("L").resize(cut_out.size))
    stored = io.BytesIO()
    cut_out.transpose(Image.Transpose.ROTATE_90).save(stored, "PNG", exif=exif)
    (tmp_path / "phone.png").write_bytes(stored.getvalue())
    shown = show_photo(folder, tmp_path / "phone.png")
    expected = load_classifier(example.saved()).classify(stored.getvalue())
    assert shown["species"][0]["latin_name"] == expected["latin_name"]
    assert shown["species"][0]["probability"] == pytest.approx(expected["probability"], abs=0.01)


def test_it_names_no_plant_on_a_picture_too_small_for_one(folder, tmp_path):
    path = tmp_path / "pixel.png"
    Image.new("RGB", (15, 200), "green").save(path)
    answer = show_photo(folder, path)
    assert not answer["species"] and "it is too small to tell a plant" in answer["message"]


def test_it_complains_about_a_file_that_is_no_photo(folder, tmp_path):
    (tmp_path / "notes.jpg").write_text("no photo")
    shown = show_photo(folder, tmp_path / "notes.jpg")
    assert shown["state"] == "failed" and "notes.jpg" in shown["message"] and shown["species"] == []


@pytest.mark.parametrize("missing", ["model/group1-shard1of1.bin", "vendor/tf-core.es2017.min.js", "names.txt"])
def test_it_says_when_the_model_does_not_load(folder, tmp_path, missing):
    broken = shutil.copytree(folder, tmp_path / "bundle")
    (broken / missing).unlink()
    shown = show_photo(broken, tmp_path / "never.jpg")
    assert shown["state"] == "failed" and "model could not be loaded" in shown["message"]


@pytest.fixture(scope="module")
def page(folder):
    with serve_folder(folder) as base, open_browser() as browser:
        page = browser.new_page(viewport={"width": 320, "height": 640})
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(base)
        page.wait_for_selector("body[data-state=ready]")
        yield page


LONG_NAMES = {
    "Brassaiopsis argyroneurophylla": ["Brassaiopsis", "argyroneurophylla"],
    "Chenopodium quinoa subsp. milleanum": ["Chenopodium quinoa", "subsp. milleanum"],
    "Hyacinthoides non-scripta": ["Hyacinthoides", "non-scripta"],
    "Rosa_canina_var_hispanica_longissima": ["Rosa_canina_var_", "hispanica_longissima"],
}


def test_a_name_breaks_between_its_words_alone(tmp_path):
    example.need_browser()
    saved_model.write_saved_model(
        example.shipped(), tmp_path / "saved", labels=list(LONG_NAMES), preprocessing=example.PREPROCESSING,
        calibration=example.CALIBRATION,
    )  # fmt: skip
    tfjs.write_bundle(tmp_path / "saved", tmp_path / "page", about=example.ABOUT)
    with serve_folder(tmp_path / "page") as base, open_browser() as browser:
        page = browser.new_page(viewport={"width": 320, "height": 640})
        page.goto(base)
        page.wait_for_selector("body[data-state=ready]")
        for label, (name, lines) in enumerate(LONG_NAMES.items()):
            (tmp_path / "photo.jpg").write_bytes(example.encoded(example.photo(label, 11)))
            page.set_input_files("#choose", tmp_path / "photo.jpg")
            page.get_by_role("heading", name=name).wait_for()
            assert page.locator("#verdict").evaluate(LINES) == lines
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [320, 1120])
def test_a_reports_headline_breaks_between_words_alone(tmp_path, width):
    example.need_browser()
    write_report(
        tmp_path / "report.html",
        experiment="demo-flowers17_" * 5,
        summary={"documents": 12345678},
        gates=None,
        sections=[],
    )
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": width, "height": 640})
        page.goto((tmp_path / "report.html").as_uri())
        lines = page.locator("h1").evaluate(LINES)
        assert "".join(lines) == "demo-flowers17_" * 5 and all(line[-1] in "-_" for line in lines)
        assert page.locator(".tiles b").evaluate(LINES) == ["12,345,678"]
        assert len(lines) == {320: 5, 1120: 2}[width]


def test_a_narrow_phone_needs_no_sideways_scrolling(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_keyboard_reaches_language_then_photo_and_shows_where_it_is(page):
    reached = []
    for _ in range(2):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["language", "choose"]
    assert page.evaluate("getComputedStyle(document.querySelector('#choose + .button')).outlineStyle") == "solid"


def test_the_answer_is_announced_and_the_field_is_named(page):
    assert page.get_by_role("status").inner_text() == "Ready."
    assert "Choose a photo" in page.locator("#choose").evaluate("field => field.labels[0].innerText")


def test_scripts_from_elsewhere_are_forbidden(page):
    refused = page.evaluate("""async () => {
      const told = (resolve) => document.addEventListener("securitypolicyviolation", () => resolve(true));
      const broken = new Promise(told);
      const script = document.createElement("script");
      script.textContent = "globalThis.injected = true";
      document.head.append(script);
      return (await broken) && !globalThis.injected;
    }""")
    assert refused


def test_a_second_photo_takes_over_from_the_first(page, tmp_path):
    for label in (0, 2):
        (tmp_path / f"{label}.jpg").write_bytes(example.encoded(example.photo(label, 9)))
    page.set_input_files("#choose", tmp_path / "0.jpg")
    page.set_input_files("#choose", tmp_path / "2.jpg")
    page.wait_for_selector("body[data-state=answered]")
    page.wait_for_timeout(300)
    assert page.inner_text("#verdict") == example.SPECIES[2]


def test_a_dropped_photo_is_answered(page):
    page.evaluate(
        """bytes => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", { type: "image/jpeg" }));
      document.body.dataset.state = "ready";
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
    }""",
        list(example.encoded(example.photo(1, 4))),
    )
    page.wait_for_selector("body[data-state=answered]")
    assert page.inner_text("#verdict") == example.SPECIES[1]
