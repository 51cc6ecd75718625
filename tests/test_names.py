"""names.txt says what labels.json says, and the page's worker reads it back."""

import pytest
from support import web_example as example

from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.export import saved_model, tfjs
from keras_pipeline.export.browser import open_browser
from keras_pipeline.export.names import names_text

CLASSES = [
    "Acer", "Acer campestre", "ACER rubrum", "Acer × freemanii", "Abies alba", "Abies_nordmanniana",
    "× Chitalpa tashkentensis", "Isoëtes \"lacustris\" \\", "Rosa", "Rosa canina var. hispanica",
]  # fmt: skip
FAMILIES = ["Sapindaceae", "", "Sapindaceae", "", "Pinaceae", "Pinaceae", "Bignoniaceae", "", "", "Rosaceae"]
DETAILS = [{"family": family, "common_name": f"the {i}th"} for i, family in enumerate(FAMILIES)]
READ = """async () => {
  await new Promise((resolve, reject) => {
    const script = document.createElement("script");
    Object.assign(script, { src: "worker.js", onload: resolve, onerror: reject });
    document.head.append(script);
  });
  return readNames(await (await fetch("names.txt")).text());
}"""


@pytest.mark.parametrize("details", [[], DETAILS], ids=["names", "details"])
def test_the_page_reads_the_names_that_python_writes(tmp_path, details):
    example.need_browser()
    labels = saved_model.assets(CLASSES, {}, example.PREPROCESSING, details)["labels.json"]
    (tmp_path / "names.txt").write_text(names_text(labels), encoding="utf-8")
    (tmp_path / "worker.js").write_bytes((tfjs.PAGE / "worker.js").read_bytes())
    (tmp_path / "index.html").write_text("<!doctype html><title>names</title>")
    with serve_folder(tmp_path) as base, open_browser() as browser:
        page = browser.new_page()
        page.goto(base)
        found = page.evaluate(READ)
    assert found["classes"] == CLASSES and found["sha256"] == class_hash(CLASSES)
    assert found["ranks"]["genus"] == labels["genera"] and found["hasDetails"] == bool(details)
    assert found["ranks"].get("family") == labels.get("families")


def test_it_is_small():
    classes = [f"Genus{i // 5:04} epithet{i:05}" for i in range(9000)]
    labels = saved_model.assets(classes, {}, example.PREPROCESSING)["labels.json"]
    assert len(names_text(labels)) < 145_000  # 22 letters a name; labels.json has 410,000


@pytest.mark.parametrize("name", ["Two\nlines", "A\ttab", " blank first"])
def test_a_name_that_does_not_fit_is_refused(name):
    with pytest.raises(ValueError, match="expected one line"):
        names_text({"sha256": "0", "classes": [name], "genera": ["Two"]})
