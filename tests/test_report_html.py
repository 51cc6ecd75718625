"""The report and its figures: self-contained, escaped, the same bytes for the same numbers."""

import base64
import io
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from support import axe

from keras_pipeline.evaluation.calibration import equal_width, reliability_bins
from keras_pipeline.evaluation.report import html, plots
from keras_pipeline.export.browser import BrowserMissing, open_browser

GATE = {
    "name": "student_top1",
    "words": "Student top-1",
    "status": "met",
    "value": 0.912,
    "target": "≥ 0.70",
    "reason": "",
}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Balance(HTMLParser):
    """Fails where a tag is closed that was not the last one opened."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def written(path, **changes):
    arguments = {"experiment": "demo", "summary": {}, "gates": [], "sections": []} | changes
    html.write_report(path, **arguments)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chromium():
    try:
        with open_browser() as opened:
            yield opened
    except BrowserMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def figure(tmp_path):
    path = tmp_path / "histogram.png"
    plots.class_histogram({"Bellis perennis": 12, "Viola tricolor": 3}, path)
    return path


def test_page_is_well_formed_and_needs_no_network(tmp_path, figure):
    blocks = [
        html.Paragraph("text"),
        html.Table(["Region", "Top-1"], [["EU", 0.5], ["NA", None]], "By region"),
        html.Figure(figure, "Photos per class"),
        html.KeyValues({"seed": "7"}),
    ]
    page = written(tmp_path / "r.html", gates=[GATE], summary={"Top-1": 0.9}, sections=[("Data", blocks)])
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    links = [attrs.get("src") or attrs.get("href") for _, attrs in parser.seen if {"src", "href"} & attrs.keys()]
    assert links and all(link.startswith(("data:image/webp;base64,", "#")) for link in links)
    assert "http" not in page and "@import" not in page and "url(" not in page


def test_everything_is_escaped(tmp_path):
    evil = "<script>\"&'"
    gate = GATE | {"name": evil, "words": evil, "reason": evil, "target": evil, "value": evil}
    blocks = [html.Paragraph(evil), html.Table([evil], [[evil]], evil), html.KeyValues({evil: evil})]
    page = written(tmp_path / "r.html", experiment=evil, summary={evil: evil}, gates=[gate], sections=[(evil, blocks)])
    assert "<script" not in page
    # title, heading, tile (2), gate (5), contents, section, paragraph, caption, header, cell, key and value
    assert page.count("&lt;script&gt;&quot;&amp;&#x27;") == 17


def test_dollar_signs_and_braces_survive_the_template(tmp_path):
    page = written(tmp_path / "r.html", sections=[("$style", [html.Paragraph("${title} {x} $$")])])
    assert "<p>${title} {x} $$</p>" in page and "<h2>$style</h2>" in page


def test_backticks_mark_code_in_running_text_alone(tmp_path):
    blocks = [html.Paragraph("`a<b` and ` alone"), html.KeyValues({"key": "`c`"})]
    page = written(tmp_path / "r.html", sections=[("x", blocks)], advice=["run `d`"], warning="not `e`")
    assert "<p><code>a&lt;b</code> and ` alone</p>" in page and "<dd>`c`</dd>" in page
    assert "<li>run <code>d</code></li>" in page and "not <code>e</code></p>" in page


def test_a_gate_that_its_interval_meets_shows_the_end_that_was_compared(tmp_path):
    page = written(tmp_path / "r.html", gates=[GATE | {"value": -0.13731, "bound": 0.04512}])
    assert ">-0.1373, interval to 0.04512</td>" in page


def test_gates_are_counted_by_status(tmp_path):
    gates = [GATE, GATE | {"status": "missed"}, GATE | {"status": "met"}]
    page = written(tmp_path / "r.html", gates=gates)
    assert re.findall(r"[✓✗–] \d [a-z ]+", page) == ["✗ 1 missed", "✓ 2 met"]


@pytest.mark.parametrize("gate", [GATE | {"status": "passed"}, {"name": "x"}])
def test_malformed_gates_are_refused(tmp_path, gate):
    with pytest.raises(ValueError, match="A gate needs name, words, status, value, target and reason"):
        written(tmp_path / "r.html", gates=[gate])


def test_a_failure_leaves_the_old_report_alone(tmp_path):
    path = tmp_path / "r.html"
    written(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="2 headers and a row of 1 cells"):
        written(path, sections=[("x", [html.Table(["a", "b"], [[1]], "c")])])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.html"]


def test_figures_must_be_png(tmp_path):
    fake = tmp_path / "x.png"
    fake.write_text("<svg>")
    with pytest.raises(ValueError, match="is no PNG"):
        written(tmp_path / "r.html", sections=[("x", [html.Figure(fake, "c")])])


def test_unknown_blocks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="received a block str, expected Paragraph"):
        written(tmp_path / "r.html", sections=[("x", ["text"])])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (True, "yes"), (850_000, "850,000"), (0.123456, "0.1235"), (1e-5, "1e-05"), (12_345.6, "12,346")],
)
def test_cells_read_well(value, expected):
    assert html.format_cell(value) == expected


def test_no_line_break_tears_an_interval_apart():
    cell = html.interval([0.25, 0.5])
    assert cell == "0.250\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}0.500"
    assert html._literal(cell) == "0.250 to 0.500"


def test_columns_of_like_numbers_share_their_decimals():
    assert html.format_column([0.9, 1.0, 0.9067, None]) == ["0.900", "1.000", "0.907", "–"]
    assert html.format_column([1e-5, 0.1]) == ["1e-05", "0.1"]
    assert html.format_column(["EU", 0.5]) == ["EU", "0.5"]
    assert html.format_column([0.0, 0.0]) == ["0", "0"]


def test_a_limit_far_above_all_classes_is_drawn_too(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, that there is no room for the axes
        plots.class_histogram({f"species {i}": 1 for i in range(60)}, tmp_path / "rare.png", rare_below=30)
    assert (tmp_path / "rare.png").exists()


def draw_all(folder):
    """Every figure once, from the same numbers each time."""
    rng = np.random.default_rng(0)
    confidence = rng.beta(4, 1, 200)
    bins = reliability_bins(confidence, rng.random(200) < confidence, equal_width(15))
    run = {"loss": [2.0, 1.0], "val_loss": [2.1, 1.2], "learning_rate": [1e-3, 0.0]}
    plots.class_histogram({f"species {i}": 1000 // (i + 1) for i in range(60)}, folder / "many.png")
    plots.class_histogram({"Bellis perennis": 0}, folder / "few.png")
    plots.reliability_diagram({"": (bins, bins)}, folder / "reliability.png")
    plots.reliability_diagram({"EU": (bins, bins), "EU_SW": (bins, bins)}, folder / "regions.png")
    plots.risk_coverage([0.5, 1.0], [0.0, 0.1], folder / "risk.png", chosen=(0.5, 0.0), target=0.95, area=0.05)
    plots.training_curves([("distillation", run), ("fine-tuning", run), ("skipped", {})], folder / "curves.png")
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_figures_are_the_same_bytes_twice_and_name_no_software(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = draw_all(tmp_path / "a")
    assert len(first) == 6
    assert first == draw_all(tmp_path / "b")
    assert not any(b"Software" in data or b"matplotlib" in data for data in first.values())


def test_figures_without_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one class"):
        plots.class_histogram({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="at least one epoch"):
        plots.training_curves([("distillation", {})], tmp_path / "x.png")


def test_missed_gates_come_first(tmp_path):
    gates = [GATE | {"name": name, "status": status} for name, status in (("a", "met"), ("b", "missed"), ("c", "met"))]
    page = written(tmp_path / "r.html", gates=gates)
    assert re.findall(r"<code>(\w)</code>", page) == ["b", "a", "c"]


def test_markdown_has_the_same_numbers_and_no_figures(tmp_path, figure):
    blocks = [
        html.Paragraph("text"),
        html.Table(["Region", "Top-1"], [["EU|SW", 0.5], ["NA", None]], "By region"),
        html.Figure(figure, "Photos per class"),
        html.KeyValues({"photos": 12345, "<b>x</b>": "[a](javascript:1)"}),
    ]
    html.write_markdown(tmp_path / "card.md", "Card", [("Data", blocks)])
    assert (tmp_path / "card.md").read_text() == (
        "# Card\n\n## Data\n\ntext\n\nBy region:\n\n| Region | Top-1 |\n| --- | --- |\n"
        "| EU\\|SW | 0.500 |\n| NA | – |\n\n- photos: 12,345\n- &lt;b>x&lt;/b>: [a\\](javascript:1)\n"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`run` renews them", "`run` renews them"),
        ("one ` alone", "one \\` alone"),
        ("the interval [0.5, 0.7] < 0.9 & more", "the interval [0.5, 0.7] < 0.9 & more"),
        ("A|B", "A|B"),
        ("[a](http://b)", "[a\\](http://b)"),
        ("[a]: http://b", "[a\\]: http://b"),
        ("*x* <img> &lt;", "\\*x\\* &lt;img> &amp;lt;"),
    ],
)
def test_markdown_escapes_only_what_would_be_shown_otherwise(tmp_path, text, shown):
    html.write_markdown(tmp_path / "card.md", "Card", [("Data", [html.Paragraph(text)])])
    assert (tmp_path / "card.md").read_text() == f"# Card\n\n## Data\n\n{shown}\n"


def test_a_link_opens_the_folded_section_it_leads_to(tmp_path, chromium):
    written(tmp_path / "r.html", gates=[GATE], sections=[("Data", [html.Paragraph("rows")])], folded=True)
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.goto((tmp_path / "r.html").as_uri())
    assert not page.get_by_text("rows").is_visible()
    page.click("nav a >> text=Data")
    assert page.get_by_text("rows").is_visible()
    page.close()


def test_print_shows_what_is_folded(tmp_path, chromium):
    blocks = [html.Details("More", [html.Paragraph("rows")])]
    written(tmp_path / "r.html", sections=[("Data", blocks)], folded=True)
    page = chromium.new_page()
    page.goto((tmp_path / "r.html").as_uri())
    assert not page.get_by_text("rows").is_visible()
    page.emulate_media(media="print")
    assert page.get_by_text("rows").is_visible()
    page.close()


def test_the_keyboard_opens_a_folded_section(tmp_path, chromium):
    written(tmp_path / "r.html", sections=[("Data", [html.Paragraph("rows")])], folded=True)
    page = chromium.new_page()
    page.goto((tmp_path / "r.html").as_uri())
    for key in ("Tab", "Tab", "Enter"):  # past the link to it
        page.keyboard.press(key)
    assert page.get_by_text("rows").is_visible()
    page.close()


def test_the_verdict_is_a_sentence_and_advice_stands_below_it(tmp_path):
    missed = [GATE, GATE | {"status": "missed"}, GATE | {"status": "not measurable here"}]
    page = written(tmp_path / "r.html", gates=missed, advice=["raise epochs"], folded=True)
    assert "<strong>1 gate missed</strong>" in page and "<li>raise epochs</li>" in page


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        (["met"], "All gates met"),
        (["met", "not measurable here"], "All measurable gates met"),
        (["not measurable here"], "No gate can be measured here"),
        (["missed", "missed", "met"], "2 gates missed"),
    ],
)
def test_the_verdict_claims_no_more_than_was_measured(tmp_path, states, sentence):
    gates = [GATE | {"status": state} for state in states]
    assert f"<strong>{sentence}</strong>" in written(tmp_path / "r.html", gates=gates)


def test_pictures_are_no_larger_than_they_are_shown(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1920, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    page = written(tmp_path / "r.html", sections=[("x", [html.Figure(tmp_path / "photo.png", "c")])])
    assert 'width="960" height="750"' in page and len(page) < 900_000
    data = re.search('base64,([^"]+)', page)[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (960, 750) and picture.format == "WEBP"


@pytest.mark.parametrize(("width", "shown"), [(1920, 1920), (1922, 960)])
def test_charts_keep_their_pixels_up_to_twice_the_width(tmp_path, width, shown):
    Image.new("RGB", (width, 100), "white").save(tmp_path / "chart.png")
    page = written(tmp_path / "r.html", sections=[("x", [html.Figure(tmp_path / "chart.png", "c")])])
    assert f'width="{shown}" height="' in page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_axe_finds_nothing_and_a_phone_needs_no_scrolling_sideways(tmp_path, figure, chromium, width, scheme):
    long = ["Region", "a rather long header", "another one of them", "and one more", "the last of these"]
    blocks = [
        html.Paragraph("text, phase3.distillation.loss_weights.cross_entropy.and_so_on_without_any_blank"),
        html.Table(long, [["EU_SW", 0.5, 1, 2.25, "words that are many " * 5]], "By region"),
        html.Figure(figure, "Photos per class"),
        html.KeyValues({"hash": "0123456789abcdef" * 4, "a long key of several words, as they come": "0 of 1360"}),
        html.Details("The config", [html.Code("seed: 42\n" * 3 + "x" * 300), html.Figure(figure, "Folded")]),
        html.Details("More", [html.Table(long, [["EU_SW", 0.5, 1, 2.25, "x" * 99]], "A caption of many words " * 5)]),
        html.Table(["photos", ""], [[1, "a column without a header"]], "Photos"),
    ]
    gates = [GATE | {"status": status} for status in ("met", "missed", "not measurable here")]
    file = tmp_path / "r.html"
    first = {"picture": html.Figure(figure, "The page"), "advice": ["Run `x`."], "warning": "Out.", "folded": True}
    written(file, gates=gates, summary={"Top-1": 0.9, "photos": 1360}, sections=[("Data", blocks)], **first)
    assert axe.violations_of_report(chromium, file, width=width, scheme=scheme) == []
    page = chromium.new_page(viewport={"width": width, "height": 800})
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    heights = page.evaluate("[...document.querySelectorAll('dd')].map((e) => e.offsetHeight)")
    assert heights[1] < 60  # its words stand side by side
    charts = page.evaluate("[...document.querySelectorAll('.section img')].map((e) => e.offsetWidth)")
    assert charts == [840 if width == 1280 else 640] * 2  # on a phone it scrolls, so that its words can be read
    page.close()
