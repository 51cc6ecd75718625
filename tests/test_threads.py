"""The page where its server isolates it: WebAssembly with threads, whose script is a file of the bundle."""

import re
import shutil

import pytest
from support import web_example as example

from keras_pipeline.core.static_server import ISOLATED, serve_folder
from keras_pipeline.export import tfjs, threads
from keras_pipeline.export.browser import open_browser

POLICY = re.search(r'Content-Security-Policy" content="([^"]+)"', (tfjs.PAGE / "index.html").read_text())[1]
STRICT = ISOLATED | {"Content-Security-Policy": POLICY}  # as a header it binds the workers too
ASK = """async ({ base, backends }) => {
  const { Classifier } = await import(`${base}classifier.js`);
  const classifier = await Classifier.load({ backends });
  const photo = await (await fetch(`${base}selftest.jpg`)).blob();
  const { probabilities } = await classifier.classify(photo);
  const { backend, threads } = classifier;
  classifier.close();
  return { backend, threads, probabilities: Array.from(probabilities) };
}"""
BOTH = ["wasm-threads", "wasm"]


@pytest.fixture(scope="module")
def browser():
    example.need_browser()
    with open_browser() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """(address) -> a page that has loaded, with what it complained of and what it requested."""
    contexts = []

    def open_page(url):
        context = browser.new_context()
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.requests = [], []
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(url)
        page.wait_for_selector("body:not([data-state=loading])")
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_threads_start_under_the_pages_own_policy_and_answer_alike(opened):
    with serve_folder(example.bundle()[0], headers=STRICT) as base:
        page = opened(base)
        assert page.get_attribute("body", "data-backend") == "wasm-threads"
        found = [page.evaluate(ASK, {"base": base, "backends": [name]}) for name in BOTH]
        assert [each["backend"] for each in found] == BOTH
        assert found[0]["threads"] > 1 == found[1]["threads"]
        assert found[0]["probabilities"] == found[1]["probabilities"]  # in every bit
        assert not [text for text in page.complaints if "404" not in text]  # equivalence.json is not there
        assert not [url for url in page.requests if not url.startswith(base)]
        assert f"{base}vendor/tfjs-backend-wasm-threaded-simd.worker.js" in page.requests


def test_without_isolation_there_are_none(opened):
    with serve_folder(example.bundle()[0]) as base:
        page = opened(base)
        assert page.get_attribute("body", "data-backend") == "wasm"
        assert not [url for url in page.requests if "thread" in url]


def test_offline_it_is_isolated_too(opened):
    with serve_folder(example.bundle()[0], headers=ISOLATED) as base:
        page = opened(base)
        page.wait_for_selector("#offline:not(:empty)")
        page.context.set_offline(True)
        page.reload()
        page.wait_for_selector("body[data-state=ready]")
        assert page.get_attribute("body", "data-backend") == "wasm-threads"


@pytest.mark.parametrize("change", ["absent", "broken", "silent"])
def test_where_a_thread_does_not_start_one_is_enough(opened, tmp_path, change):
    bundle = shutil.copytree(example.bundle()[0], tmp_path / "bundle")
    script = bundle / "vendor/tfjs-backend-wasm-threaded-simd.worker.js"
    worker = bundle / "worker.js"
    worker.write_text(worker.read_text().replace("THREADS_START_MS = 10_000", "THREADS_START_MS = 500"))
    script.unlink() if change == "absent" else script.write_text("}" if change == "broken" else "")
    with serve_folder(bundle, headers=ISOLATED) as base:
        page = opened(base)
        assert page.get_attribute("body", "data-state") == "ready"
        assert page.get_attribute("body", "data-backend") == "wasm"
        page.set_input_files("#choose", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": example.samples(1)[3][1]})
        page.wait_for_selector("body[data-state=answered]")
        assert page.inner_text("#verdict") == "Viola tricolor"


def test_threads_that_answer_otherwise_are_not_taken(opened, tmp_path):
    bundle = shutil.copytree(example.bundle()[0], tmp_path / "bundle")
    worker = bundle / "worker.js"
    wrong = 'const off = backend === "wasm-threads" ? 0.1 : 0;\n  const difference = off + second'
    worker.write_text(worker.read_text().replace("const difference = second", wrong))
    with serve_folder(bundle, headers=ISOLATED) as base:
        assert opened(base).get_attribute("body", "data-backend") == "wasm"


def test_an_isolated_page_of_another_host_gets_one_thread(opened, tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><title>Another</title><body data-state=none>page")
    shared = ISOLATED | {"Cross-Origin-Resource-Policy": "cross-origin", "Access-Control-Allow-Origin": "*"}
    with serve_folder(example.bundle()[0], headers=shared) as base, serve_folder(tmp_path, headers=ISOLATED) as other:
        page = opened(other)
        assert page.evaluate("crossOriginIsolated")
        found = page.evaluate(ASK, {"base": base, "backends": BOTH})
        assert (found["backend"], found["threads"]) == ("wasm", 1)


@pytest.mark.parametrize("name", threads.MENDED_FILES)
def test_another_version_of_the_backend_is_refused(tmp_path, name):
    vendor = tfjs.PAGE / "node_modules"
    for each in threads.MENDED_FILES:
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(vendor / each, tmp_path / each)
    (tmp_path / name).write_text("let another;")
    with pytest.raises(ValueError, match=r"expected tfjs-backend-wasm 4\.22\.0; run `npm ci`"):
        threads.write_mended(tmp_path, tmp_path)
