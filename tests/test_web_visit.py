"""Visits to the page in the real browser: languages, regions, genus, offline, backends, large photos, other sites."""

import shutil

import pytest
import web_example as example
from PIL import Image

from keras_pipeline.core.artifacts import read_json, write_json
from keras_pipeline.core.content import file_hash
from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.web import tfjs
from keras_pipeline.web.browser import open_browser
from keras_pipeline.web.saved_model import load_classifier, write_saved_model

AXE = tfjs.PAGE / "node_modules/axe-core/axe.min.js"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
LABELS = ["Iris germanica", "Viola alba", "Iris pumila", "Viola tricolor"]
CALIBRATION = {
    "temperature": 4.0, "threshold": 0.7, "genus": {"threshold": 0.75},
    "region_priors": {"ship": True, "temperature": 3.4, "threshold": 0.9},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle with two genera and region priors."""
    example.need_browser()
    root = tmp_path_factory.mktemp("visit")
    priors = {"regions": ["Here", "Nowhere"], "log_ratios": [[0, 0, 0, 0], [-9, 9, 0, 0]]}
    priors["class_hash"] = class_hash(LABELS)
    parts = {"labels": LABELS, "preprocessing": example.PREPROCESSING, "calibration": CALIBRATION, "priors": priors}
    write_saved_model(example.shipped(), root / "model", **parts)
    tfjs.write_bundle(root / "model", root / "bundle")
    return root / "bundle"


@pytest.fixture(scope="module")
def classifier(folder):
    return load_classifier(folder.parent / "model")


@pytest.fixture(scope="module")
def browser():
    example.need_browser()
    with open_browser() as browser:
        yield browser


@pytest.fixture
def visit(folder, browser):
    """(what the context is given, folder of the bundle) -> a page that has loaded."""
    open_now = []

    def visit(bundle=folder, wait="ready", **context):
        server = serve_folder(bundle)
        base = server.__enter__()
        made = browser.new_context(reduced_motion="reduce", **{"locale": "en-GB", **context})
        open_now.append((made, server))
        page = made.new_page()
        page.requests = []
        made.on("request", lambda request: page.requests.append(request.url))
        page.goto(base)
        page.wait_for_selector(f"body[data-state={wait}]")
        page.base = base
        return page

    yield visit
    for made, server in open_now:
        made.close()
        server.__exit__(None, None, None)


def ask(page, data, name="photo.jpg", state="answered"):
    page.set_input_files("#choose", {"name": name, "mimeType": "image/jpeg", "buffer": data})
    page.wait_for_selector(f"body[data-state={state}]")


def kinds(classifier):
    """A photo whose species is conclusive, one of which only the genus is, and one of which nothing is."""
    found = {}
    pictures = [example.photo(label, seed) for label in range(4) for seed in range(8)]
    blends = [Image.blend(a, b, 0.5) for a in pictures[::7] for b in pictures[3::5]]
    for picture in [*pictures, *blends]:
        data = example.encoded(picture)
        said = classifier.classify(data)
        found.setdefault("species" if said["conclusive"] else "genus" if said["genus_conclusive"] else "none", data)
    return found


def test_each_verdict_has_its_words_and_its_advice(visit, classifier):
    page, found = visit(), kinds(classifier)
    for kind in ("species", "genus", "none"):
        said = classifier.classify(found[kind])
        ask(page, found[kind])
        page.wait_for_selector(f"#answer[data-conclusive={kind}]")
        verdict = {"species": said["latin_name"], "genus": f"A species of {said['genus']}", "none": "Not conclusive"}
        assert page.inner_text("#verdict") == verdict[kind]
        assert page.locator("#next").is_visible() == (kind == "none")
        page.evaluate("document.body.dataset.state = 'ready'")
    assert "filling the picture" in page.text_content("#next")


def test_it_speaks_the_visitors_language_and_remembers_another(visit, classifier):
    page = visit(locale="es-MX")
    assert page.inner_text("h1") == "¿Qué planta es?" and page.get_attribute("html", "lang") == "es"
    ask(page, kinds(classifier)["none"])
    assert page.inner_text("#verdict") == "No concluyente"
    page.click("#language")  # what was said is said again
    assert page.inner_text("#verdict") == "Not conclusive" and page.title() == "Which plant is this?"
    page.reload()
    page.wait_for_selector("body[data-state=ready]")
    assert page.inner_text("h1") == "Which plant is this?"


def test_both_languages_say_the_same_things(visit):
    page = visit()
    keys = page.evaluate("""async () => {
      const { messages } = await import("./messages.js");
      return Object.values(messages).map((m) =>
        Object.entries(m).map(([key, v]) => `${key} ${typeof v} ${typeof v === "string" ? 0 : v.length}`));
    }""")
    assert keys[0] == keys[1] and len(keys[0]) > 30


def test_the_region_counts_as_in_python(visit, classifier):
    photo = example.encoded(example.photo(0, 3))
    page = visit()
    assert page.locator("#region option").all_inner_texts() == ["In a garden, or I don't know", "Here", "Nowhere"]
    ask(page, photo)
    for region in (None, "Here", "Nowhere"):
        page.select_option("#region", region or "")
        expected = classifier.classify(photo, region)
        page.wait_for_function(
            "p => Math.abs(document.querySelector('#species li').dataset.probability - p) < 2e-3",
            arg=expected["probability"],
        )
        assert page.inner_text("#species li:first-child .name") == expected["latin_name"]
    assert page.inner_text("#threshold") == "Below 90 % a species is not conclusive."


def test_without_priors_nobody_asks_for_a_region(visit):
    page = visit(example.bundle()[0])
    assert not page.locator("#region").is_visible()


def test_offline_after_the_first_visit(visit):
    page = visit()
    page.wait_for_selector("#offline:not(:empty)")
    page.context.set_offline(True)
    page.reload()
    page.wait_for_selector("body[data-state=ready]")
    ask(page, example.encoded(example.photo(1, 3)))
    assert page.locator("#species li").count() == 4


def test_a_new_export_replaces_the_old_one_whole(visit, folder, tmp_path):
    bundle = shutil.copytree(folder, tmp_path / "bundle")
    page = visit(bundle)
    page.wait_for_selector("#offline:not(:empty)")
    (bundle / "style.css").write_text((bundle / "style.css").read_text() + "/* new */")
    tfjs.write_file_list(bundle)
    page.reload()
    kept = """async () => {
      const caught = await Promise.all((await caches.keys()).map((name) => caches.open(name)));
      const styles = await Promise.all(caught.map((cache) => cache.match("style.css")));
      return Promise.all(styles.map(async (style) => style && (await style.text()).endsWith("/* new */")));
    }"""
    for _ in range(100):  # the page's policy forbids Playwright's own waiting
        if page.evaluate(kept) == [True]:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"kept after five seconds: {page.evaluate(kept)}")


def test_a_lost_connection_is_said_and_can_be_tried_again(visit, folder, browser):
    with serve_folder(folder) as base:
        context = browser.new_context(locale="en-GB", service_workers="block")
        page = context.new_page()
        page.route("**/*.bin", lambda route: route.abort("internetdisconnected"))
        page.goto(base)
        page.wait_for_selector("body[data-state=failed]")
        assert page.inner_text("#status") == "The model could not be loaded: the connection was lost."
        page.unroute("**/*.bin")
        page.click("#retry")
        page.wait_for_selector("body[data-state=ready]")
        assert not page.locator("#retry").is_visible()
        context.close()


def test_software_webgl_is_passed_over_for_webassembly(visit):
    page = visit()
    assert page.get_attribute("body", "data-backend") == "wasm"


def test_a_backend_that_answers_otherwise_is_not_taken(visit, folder, tmp_path):
    bundle = shutil.copytree(folder, tmp_path / "bundle")
    told = read_json(bundle / "selftest.json")
    told["probabilities"] = told["probabilities"][::-1]
    write_json(bundle / "selftest.json", told)
    page = visit(bundle, wait="failed")
    assert "wasm gave other answers than the model's own" in page.inner_text("#status")


def test_a_weight_that_changes_few_answers_is_refused_too(visit, folder, tmp_path):
    bundle = shutil.copytree(folder, tmp_path / "bundle")
    (shard,) = bundle.glob("model/*.bin")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    page = visit(bundle, wait="failed")
    assert page.inner_text("#status").endswith("model/group1-shard1of1.bin was altered after export.")


@pytest.mark.parametrize("same", [True, False])
def test_the_proof_is_claimed_of_the_files_that_were_judged(visit, folder, tmp_path, same):
    bundle = shutil.copytree(folder, tmp_path / "bundle")
    judged = file_hash(bundle / "files.json") if same else "0" * 64
    proof = {"passed": True, "backends": {"wasm": {"n": 40}}, "files": {"list_sha256": judged}}
    write_json(bundle / "equivalence.json", proof)
    page = visit(bundle)
    page.wait_for_selector("#offline:not(:empty)")  # said after the proof
    assert page.inner_text("#proof") == ("Checked against the Python model on 40 photos: same answers." if same else "")


def test_no_other_host_is_asked(visit, classifier):
    page = visit()
    ask(page, kinds(classifier)["species"])
    page.wait_for_selector("#offline:not(:empty)")
    hosts = {url.split("/")[2] for url in page.requests if not url.startswith("blob:")}
    assert hosts == {page.base.split("/")[2]} and len(page.requests) > 10


def test_a_photo_of_60_megapixels_is_answered_as_in_python(visit, classifier):
    large = example.photo(2, 7, (9000, 6700))
    data = example.encoded(large)
    page = visit()
    page.set_default_timeout(60_000)
    ask(page, data)
    expected = classifier.classify(data)
    assert page.inner_text("#species li:first-child .name") == expected["latin_name"]
    shown = float(page.get_attribute("#species li", "data-probability"))
    assert shown == pytest.approx(expected["probability"], abs=5e-3)


def test_a_pasted_photo_is_answered_and_pasted_text_is_refused(visit):
    page = visit()
    paste = """([bytes, type]) => {
      const clipboardData = new DataTransfer();
      if (bytes) clipboardData.items.add(new File([new Uint8Array(bytes)], "pasted.jpg", { type }));
      document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
    }"""
    page.evaluate(paste, [list(example.encoded(example.photo(1, 4))), "image/jpeg"])
    page.wait_for_selector("body[data-state=answered]")
    page.evaluate(paste, [None, ""])
    page.wait_for_selector("body[data-state=failed]")
    assert page.inner_text("#status") == "What you pasted holds no photo."


def test_a_phone_offers_its_camera_and_a_desk_does_not(visit):
    assert visit(**PHONE).locator("label[for=camera]").is_visible()
    assert not visit().locator("label[for=camera]").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [{}, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing(visit, classifier, scheme, device):
    page, found = visit(color_scheme=scheme, bypass_csp=True, **device), kinds(classifier)
    page.add_script_tag(path=str(AXE))
    run = "axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })"
    for kind in (None, "species", "genus", "none"):
        if kind:
            page.evaluate("document.body.dataset.state = 'ready'")
            ask(page, found[kind])
        violations = page.evaluate(f"{run}.then(({{ violations }}) => violations.map((v) => [v.id, v.nodes[0].html]))")
        assert violations == [], kind
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_another_site_uses_the_module_alone(visit, folder, browser, classifier, tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><title>Another site</title>")
    photo = example.encoded(example.photo(3, 5))
    (tmp_path / "photo.jpg").write_bytes(photo)
    shutil.copytree(folder, tmp_path / "plants")
    with serve_folder(tmp_path) as base:
        page = browser.new_page()
        page.goto(base)
        answer = page.evaluate("""async () => {
          const { classify } = await import("/plants/classifier.js");
          const image = new Image();
          image.src = "photo.jpg";
          await image.decode();
          const blob = await (await fetch("photo.jpg")).blob();
          return [await classify(image), await classify(blob)].map(({ species, probability, conclusive }) => (
            { name: species[0].latin_name, count: species.length, probability, conclusive }));
        }""")
        page.close()
    expected = classifier.classify(photo)
    for said in answer:
        assert said["name"] == expected["latin_name"] and said["count"] == 4
        assert said["probability"] == pytest.approx(expected["probability"], abs=2e-3)
        assert said["conclusive"] == expected["conclusive"]
