"""Visits to the page in the real browser: languages, regions, genus, offline, backends, large photos, other sites."""

import re
import shutil

import pytest
from PIL import Image
from support import web_example as example
from support.lines import LINES

from keras_pipeline.core.files import read_json, write_json
from keras_pipeline.core.hashing import file_hash
from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.export import tfjs
from keras_pipeline.export.browser import open_browser
from keras_pipeline.export.saved_model import load_classifier, write_saved_model

AXE = tfjs.PAGE / "node_modules/axe-core/axe.min.js"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
LABELS = ["Iris germanica", "Viola alba", "Iris pumila", "Viola tricolor"]
CALIBRATION = {
    "temperature": 4.0, "threshold": 0.7, "genus": {"threshold": 0.75},
    "region_priors": {"ship": True, "temperature": 3.4, "threshold": 0.9},
}  # fmt: skip


UNMET = {"target_met": False, "precision_lower_bound": 0.679}
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 "
    "Mobile/15E148 Safari/604.1"
)


DETAILS = [
    {"common_name": "<b id=bold>Bold</b> & Co", "plant_id": 7},
    {"common_name": "Bartholomew-Fortescue's exceedingly long-stalked purple-eyed marsh violet of northern valleys"},
    {"latin_name": "no answer", "probability": 2, "common_name": 12},
    {"common_name": "بنفسج ثلاثي"},
]


def export(root, calibration, **assets):
    """A bundle with two genera and region priors."""
    priors = {"regions": ["Here", "Nowhere"], "log_ratios": [[0, 0, 0, 0], [-9, 8.7031, 1e-7, -0.3334]]}
    priors["class_hash"] = class_hash(LABELS)
    parts = {"labels": LABELS, "preprocessing": example.PREPROCESSING, "calibration": calibration, "priors": priors}
    write_saved_model(example.shipped(), root / "model", **parts, **assets)
    tfjs.write_bundle(root / "model", root / "bundle", about=example.ABOUT)
    return root / "bundle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    example.need_browser()
    return export(tmp_path_factory.mktemp("visit"), CALIBRATION)


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


def replace(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def violations(page):
    """What axe finds; needs bypass_csp."""
    page.add_script_tag(path=str(AXE))
    run = "axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })"
    return page.evaluate(f"{run}.then(({{ violations }}) => violations.map((v) => [v.id, v.nodes[0].html]))")


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


def test_where_neither_species_nor_genus_is_conclusive_the_family_may_be(visit, tmp_path):
    calibration = CALIBRATION | {"threshold": None, "genus": {"threshold": None}, "family": {"threshold": 0.5}}
    details = [{"family": "Iridaceae"}, {"family": "Violaceae"}] * 2
    page = visit(export(tmp_path, calibration, details=details), bypass_csp=True)
    ask(page, example.encoded(example.photo(3, 5)))
    page.wait_for_selector("#answer[data-conclusive=family]")
    assert page.inner_text("#verdict") == "A species of Violaceae"
    assert page.inner_text("#sure").startswith("The family is Violaceae (")
    assert violations(page) == []
    page.click("#language")
    assert page.inner_text("#sure").startswith("La familia es Violaceae (certeza: ")


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


def test_a_common_name_stands_beside_the_latin_one(visit, tmp_path):
    bundle = export(tmp_path, CALIBRATION, details=DETAILS)
    classifier = load_classifier(tmp_path / "model")
    page = visit(bundle, viewport={"width": 320, "height": 700}, bypass_csp=True)
    for label in range(4):
        data = next(
            photo
            for photo in (example.encoded(example.photo(label, seed)) for seed in range(20))
            if (said := classifier.classify(photo))["conclusive"] and said["latin_name"] == LABELS[label]
        )
        page.evaluate("document.body.dataset.state = 'ready'")
        ask(page, data)
        name = "" if label == 2 else DETAILS[label]["common_name"]
        assert page.inner_text("#verdict") == LABELS[label] and page.text_content("#common") == name
        row = page.locator("#species li").first
        assert (row.locator(".name").inner_text(), row.locator(".common").text_content()) == (LABELS[label], name)
        assert page.text_content("#status").startswith(f"{LABELS[label]} ({name}), " if name else f"{LABELS[label]}, ")
        lines = [re.split("[ -]", line.rstrip("-")) for line in page.locator("#common").evaluate(LINES)]
        assert [word for line in lines for word in line] == re.split("[ -]", name) * bool(name), lines
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert violations(page) == []
        assert page.locator("#bold").count() == 0  # a name is no markup


def test_the_details_of_a_species_are_in_each_answer_as_in_python(visit, tmp_path):
    page = visit(export(tmp_path, CALIBRATION, details=DETAILS))
    photo = example.encoded(example.photo(0, 3))
    said = load_classifier(tmp_path / "model").classify(photo)
    answer = page.evaluate(
        """async (bytes) => {
      const { classify } = await import("./classifier.js");
      const { species } = await classify(new Blob([new Uint8Array(bytes)]));
      return species.map(({ probability, ...rest }) => rest);
    }""",
        list(photo),
    )
    assert answer == [{key: value for key, value in each.items() if key != "probability"} for each in said["top5"]]
    assert [each["latin_name"] for each in answer if "plant_id" in each] == [LABELS[0]]
    assert all(each["latin_name"] in LABELS and each["probability"] <= 1 for each in said["top5"])


def test_the_region_counts_as_in_python(visit, classifier):
    photo = example.encoded(example.photo(0, 3))
    page = visit(service_workers="block")  # which would fetch all files for later
    assert page.locator("#region option").all_inner_texts() == ["In a garden, or I don't know", "Here", "Nowhere"]
    ask(page, photo)
    assert not [url for url in page.requests if "priors.bin" in url]  # few visitors name a region
    for region in (None, "Here", "Nowhere"):
        page.select_option("#region", region or "")
        expected = classifier.classify(photo, region)
        page.wait_for_function(
            "p => Math.abs(document.querySelector('#species li').dataset.probability - p) < 2e-3",
            arg=expected["probability"],
        )
        assert page.inner_text("#species li:first-child .name") == expected["latin_name"]
    assert page.inner_text("#threshold") == "Below 90\u00a0% a species is not conclusive."
    assert len([url for url in page.requests if "priors.bin" in url]) == 1


def test_a_region_whose_priors_were_lost_is_said_and_asked_again(visit):
    page, photo = visit(service_workers="block"), example.encoded(example.photo(0, 3))
    ask(page, photo)
    answered = """async (region) => {
      const { Classifier } = await import("./classifier.js");
      window.kept ??= await Classifier.load({ backends: ["wasm"] });
      const image = await (await fetch("selftest.jpg")).blob();
      return window.kept.classify(image, { region }).then(({ probabilities }) => [...probabilities], String);
    }"""
    page.evaluate(answered, None)
    page.route("**/priors.bin", lambda route: route.abort("internetdisconnected"))
    assert page.evaluate(answered, "Nowhere") == "Error: no connection"
    page.unroute("**/priors.bin")
    page.route("**/priors.bin", lambda route: route.fulfill(body=bytes(16)))
    assert page.evaluate(answered, "Nowhere") == "Error: priors.bin was altered after export"
    page.unroute("**/priors.bin")
    assert sum(page.evaluate(answered, "Nowhere")) == pytest.approx(1, abs=1e-5)


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
    # caches.match leaves alone what caches.open would make again: a cache that the worker has just deleted.
    kept = """async () => {
      const find = async (cacheName) => (await caches.match("style.css", { cacheName }))?.text();
      return (await Promise.all((await caches.keys()).map(find))).map((style) => style?.endsWith("/* new */"));
    }"""
    for _ in range(100):  # the page's policy forbids Playwright's own waiting
        if page.evaluate(kept) == [True]:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"kept after five seconds: {page.evaluate(kept)}")


HOST_WORKER = """
self.addEventListener("install", (event) => event.waitUntil(caches.open("host-v1").then(async (cache) => {
  await cache.add("./");
  await cache.put("plants/style.css", new Response("the host's own"));
  return self.skipWaiting();
})));
self.addEventListener("activate", (event) => event.waitUntil(clients.claim()));
const kept = (event) => fetch(event.request).catch(() => caches.match(event.request));
self.addEventListener("fetch", (event) => event.respondWith(kept(event)));
"""


def test_a_host_with_a_worker_and_a_cache_of_its_own_still_works_offline(visit, folder, tmp_path):
    (tmp_path / "index.html").write_text('<!doctype html><title>Host</title><body data-state="ready">The host')
    (tmp_path / "worker.js").write_text(HOST_WORKER)
    shutil.copytree(folder, tmp_path / "plants")
    page = visit(tmp_path)
    page.evaluate("navigator.serviceWorker.register('worker.js').then(() => navigator.serviceWorker.ready)")
    page.wait_for_function("navigator.serviceWorker.controller")
    host, ours = page.base, f"{page.base}plants/"
    for _ in range(2):  # at the second visit old caches are looked for again
        page.goto(ours)
        page.wait_for_selector("#offline:not(:empty)")
    page.context.set_offline(True)
    page.reload()
    page.wait_for_selector("body[data-state=ready]")
    assert "herbarium" in page.evaluate("fetch('style.css').then((response) => response.text())")
    page.goto(host)
    assert page.inner_text("body") == "The host"
    names = page.evaluate("caches.keys()")
    assert "host-v1" in names and len(names) == 2
    assert all(name == "host-v1" or name.startswith(f"{ours} ") for name in names)


def test_a_new_export_leaves_the_caches_of_others_alone(visit, folder, tmp_path):
    bundle = shutil.copytree(folder, tmp_path / "bundle")
    page = visit(bundle)
    page.wait_for_selector("#offline:not(:empty)")
    (mine,) = page.evaluate("caches.keys()")
    others = ["host-v1", "0" * 64, mine.replace(" ", "v2/ ")]  # the last: another export, in a folder below
    page.evaluate("(names) => Promise.all(names.map((name) => caches.open(name)))", others)
    (bundle / "style.css").write_text((bundle / "style.css").read_text() + "/* new */")
    tfjs.write_file_list(bundle)
    page.reload()
    for _ in range(100):
        names = page.evaluate("caches.keys()")
        if mine not in names:
            break
        page.wait_for_timeout(50)
    assert set(others) < set(names) and len(names) == 4 and mine not in names


def test_what_a_killed_worker_kept_is_fetched_again(visit):
    page = visit()
    page.wait_for_selector("#offline:not(:empty)")
    (mine,) = page.evaluate("caches.keys()")
    half = """async (name) => {
      const cache = await caches.open(name);
      await cache.delete("files.json");
      await cache.delete("style.css");
    }"""
    page.evaluate(half, mine)
    page.reload()
    for _ in range(100):
        if page.evaluate("(cacheName) => caches.match('files.json', { cacheName }).then(Boolean)", mine):
            break
        page.wait_for_timeout(50)
    assert page.evaluate("(cacheName) => caches.match('style.css', { cacheName }).then(Boolean)", mine)


def test_what_the_host_has_stored_stays(visit):
    page = visit()
    page.evaluate("localStorage.setItem('language', 'the host’s')")
    page.click("#language")
    assert page.evaluate("localStorage.getItem('language')") == "the host’s"
    page.reload()
    page.wait_for_selector("body[data-state=ready]")
    assert page.inner_text("h1") == "¿Qué planta es?"


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
    told["probabilities"] = dict(zip(told["probabilities"], reversed(told["probabilities"].values()), strict=True))
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


def test_the_classifier_says_what_it_is_also_offline(visit):
    page = visit()
    page.wait_for_selector("#offline:not(:empty)")
    about = 'async () => (await (await import("./classifier.js")).Classifier.load()).about'
    assert page.evaluate(about) == example.ABOUT
    page.context.set_offline(True)
    assert page.evaluate(about) == example.ABOUT


def test_an_about_json_of_another_export_is_refused(visit, folder, tmp_path):
    bundle = shutil.copytree(folder, tmp_path / "bundle")
    replace(bundle / "about.json", "0.95", "0.99")
    page = visit(bundle, wait="failed")
    assert page.inner_text("#status").endswith("about.json was altered after export.")


@pytest.fixture
def proven(visit, folder, tmp_path):
    """(the proof's backends, what else it says, what answers here if not WebAssembly) -> what the page says of it"""

    def proven(backends, proof=None, used="loaded.backend", **context):
        bundle = shutil.copytree(folder, tmp_path / "bundle")
        replace(bundle / "worker.js", "    backend: loaded.backend,\n", f"    backend: {used},\n")
        tfjs.write_file_list(bundle)
        judged = {"list_sha256": file_hash(bundle / "files.json")}
        told = {"passed": True, "browser": {"name": "Chromium", "version": "156.0.1"}, "files": judged}
        write_json(bundle / "equivalence.json", told | {"backends": backends} | (proof or {}))
        page = visit(bundle, **context)
        page.wait_for_selector("#offline:not(:empty)")  # said after the proof
        return page.inner_text("#proof")

    return proven


WASM = {"wasm": {"n": 1040, "software": True}}
CHECKED = "Checked against the Python model on 1,040 photos in Chromium 156 on WebAssembly"


def test_the_proof_names_the_browser_that_was_asked(proven):
    assert proven(WASM) == f"{CHECKED}: same answers."


@pytest.mark.parametrize("proof", [{"files": {"list_sha256": "0" * 64}}, {"passed": False}, {"backends": {}}])
def test_of_other_files_or_without_a_verdict_nothing_is_claimed(proven, proof):
    assert proven(WASM, proof) == ""


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({"user_agent": FIREFOX}, f"{CHECKED}; not in this browser (Firefox)."),
        ({"user_agent": SAFARI}, f"{CHECKED}; not in this browser (Safari)."),
        (
            {"user_agent": FIREFOX, "locale": "es-ES"},
            "Comprobado con el modelo de Python en 1040 fotos, en Chromium 156 con WebAssembly; no en este navegador "
            "(Firefox).",
        ),
    ],
)
def test_a_visitor_with_another_engine_does_not_read_the_proof_as_his(proven, context, said):
    assert proven(WASM, **context) == said


@pytest.mark.parametrize(
    ("webgpu", "said"),
    [
        ({}, f"{CHECKED}; not on WebGPU, which is used here."),
        ({"webgpu": {"n": 8, "software": True}}, f"{CHECKED}; not on WebGPU, which is used here."),
        (
            {"webgpu": {"n": 1000, "software": False}},
            "Checked against the Python model on 1,000 photos in Chromium 156 on WebGPU: same answers.",
        ),
    ],
)
def test_a_visitor_with_another_backend_does_not_read_the_proof_as_his(proven, webgpu, said):
    assert proven(WASM | webgpu, used='"webgpu"') == said


WEBKITGTK = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/60.5 Safari/605.1.15"
OTHERS = {
    "other_browsers": [
        {"browser": {"name": "Firefox", "version": "153.8.0"}, "backends": {"wasm": {"n": 1039, "software": True}}},
        {"browser": {"name": "WebKitGTK", "version": "2.50.6"}, "backends": WASM},
    ]
}
ALL = "Checked against the Python model on 1,039 photos in Chromium 156, Firefox 153, and WebKitGTK 2.50 on WebAssembly"


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({}, f"{ALL}: same answers."),
        ({"user_agent": FIREFOX}, f"{ALL}: same answers."),
        ({"user_agent": WEBKITGTK}, f"{ALL}: same answers."),
        ({"user_agent": SAFARI}, f"{ALL}; not in this browser (Safari)."),
        (
            {"locale": "es-ES"},
            "Comprobado con el modelo de Python en 1039 fotos, en Chromium 156, Firefox 153 y WebKitGTK 2.50 con "
            "WebAssembly: las mismas respuestas.",
        ),
    ],
)
def test_the_proof_names_all_browsers_that_were_asked(proven, context, said):
    assert proven(WASM, OTHERS, **context) == said


def test_the_proof_on_a_graphics_card_names_the_browsers_that_ran_on_it_alone(proven):
    said = proven(WASM | {"webgpu": {"n": 1000, "software": False}}, OTHERS, used='"webgpu"')
    assert said == "Checked against the Python model on 1,000 photos in Chromium 156 on WebGPU: same answers."


def test_a_model_without_a_kept_promise_ranks_the_candidates_and_says_why(visit, tmp_path):
    none = {"threshold": None, "best_threshold": 0.4, **UNMET}
    calibration = {"temperature": 1.7, **none, "genus": none, "region_priors": CALIBRATION["region_priors"] | none}
    page = visit(export(tmp_path, calibration))
    ask(page, example.encoded(example.photo(3, 5)))
    for region in ("", "Here"):
        page.evaluate("document.body.dataset.state = 'ready'")
        page.select_option("#region", region)
        page.wait_for_selector("body[data-state=answered]")
        assert page.inner_text("#verdict") == "Not conclusive"
        assert page.get_attribute("#answer", "data-conclusive") == "none"
    assert page.inner_text("#sure").startswith("The likeliest is Viola tricolor (")
    assert page.inner_text("#threshold") == (
        "No species counts as conclusive: it could not be shown that this model is right often enough."
    )
    assert page.locator("#species li").count() == 4
    assert not page.locator(".mark").first.is_visible() and not page.locator(".mark-sample").is_visible()
    page.click("#language")
    assert page.inner_text("#threshold").startswith("Ninguna especie cuenta como concluyente")


def test_an_accepted_promise_stands_beside_the_answers_that_it_is_about(visit, tmp_path):
    calibration = CALIBRATION | UNMET | {"genus": {"threshold": 0.75, **UNMET, "precision_lower_bound": 0.5}}
    page = visit(export(tmp_path, calibration), bypass_csp=True)
    found = kinds(load_classifier(tmp_path / "model"))
    for kind, percent in (("species", 67), ("genus", 50), ("none", None)):
        ask(page, found[kind])
        page.wait_for_selector(f"#answer[data-conclusive={kind}]")
        said = f"Conclusive answers are right in at least {percent}\u00a0% of cases."
        assert page.inner_text("#promise") == (said if percent else "")
        assert (said in page.text_content("#status")) == bool(percent)
        page.evaluate("document.body.dataset.state = 'ready'")
    page.click("#language")
    ask(page, found["species"])
    assert page.inner_text("#promise") == "Las respuestas concluyentes aciertan al menos en el 67\u00a0% de los casos."
    page.select_option("#region", "Here")  # whose own promise is kept
    page.wait_for_selector("#answer[data-threshold='0.9']")
    assert page.inner_text("#promise") == ""
    assert violations(page) == []


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
    for kind in (None, "species", "genus", "none"):
        if kind:
            page.evaluate("document.body.dataset.state = 'ready'")
            ask(page, found[kind])
        assert violations(page) == [], kind
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
