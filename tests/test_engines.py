"""The page in each of the browsers that are there, and what is left of a browser when its check ends."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from support import web_example as example

from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.export import engines
from keras_pipeline.export.agreement import Sample
from keras_pipeline.export.browser import BrowserMissing, PageError, find_chromium
from keras_pipeline.export.engines import ENGINES, find_engine, missing_engines, open_engine
from keras_pipeline.export.equivalence import validate_bundle

NAMES = {"chromium": "Chromium", "firefox": "Firefox", "webkit": "WebKitGTK"}


def need(name):
    """Skip the test, saying why, where the browser is not there."""
    if why := missing_engines([name]).get(name):
        pytest.skip(f"{name}: {why}")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    need(request.param)
    with open_engine(request.param) as engine:
        yield engine


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of two pages: a bare one, and the example's bundle."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<!doctype html><title>bare</title>")
    (folder / "worker.js").write_text(
        "onmessage = ({ data }) => fetch(data, { mode: 'no-cors' }).catch(String).then(() => postMessage(0));"
    )
    with serve_folder(folder) as base:
        yield base


def judge(bundle, browsers, photos=3, backends=("wasm",)):
    samples = [Sample(*photo) for photo in example.samples(photos)]
    return validate_bundle(bundle, example.saved(), samples, backends=backends, browsers=browsers)


def test_a_page_is_called_with_json_and_answers_with_json(engine, site):
    with engine.opened(f"{site}index.html", []) as page:
        assert page.call("async ({ a, ...rest }) => [a + 1, rest, document.title]", {"a": 1, "ö": '"'}) == [
            2, {"ö": '"'}, "bare"
        ]  # fmt: skip
        assert page.call("() => {}") is None
        assert len(page.call("() => 'x'.repeat(3e6)")) == 3_000_000
        assert page.browser["name"] in NAMES.values() and int(page.browser["version"].split(".")[0]) >= 2
        assert 20 < page.peak_memory_mb() < 2000


def test_errors_of_the_page_are_of_one_type(engine, site):
    with engine.opened(f"{site}index.html", []) as page:
        for function in (
            "() => { throw new Error('the first line\\nthe second'); }",
            "async () => { await null; throw new Error('the first line'); }",
        ):
            with pytest.raises(PageError, match="the first line$"):
                page.call(function)
        assert page.call("() => 1") == 1
    with pytest.raises(PageError), engine.opened("http://127.0.0.1:1/", []):
        pass


def test_pages_share_no_storage(engine, site):
    for _ in range(2):
        with engine.opened(f"{site}index.html", []) as page:
            assert page.call("async () => [...(await caches.keys()), ...Object.keys(localStorage)]") == []
            page.call("async () => { await caches.open('kept'); localStorage.kept = 1; }")


def test_requests_to_other_hosts_are_seen_also_those_of_workers(engine, site):
    requests = []
    ask = """url => new Promise((resolve) => {
      const worker = new Worker("worker.js");
      worker.onmessage = resolve;
      worker.postMessage(url);
    })"""
    with engine.opened(f"{site}index.html", requests) as page:
        page.call(ask, "http://elsewhere.example/worker")
        page.call("url => fetch(url, { mode: 'no-cors' }).catch(String)", "https://elsewhere.example/page")
    foreign = [url for url in requests if not url.startswith(site)]
    assert foreign[0] == "http://elsewhere.example/worker" and len(foreign) == 2
    assert foreign[1] in ("https://elsewhere.example/page", "https://(an address that WebKitGTK encrypts)")


@pytest.mark.parametrize("name", ENGINES)
def test_the_page_says_in_each_browser_what_python_says(name):
    need(name)
    verdict = judge(example.bundle()[0], [name], backends=("wasm", "wasm-threads"))
    assert (verdict["status"], verdict["reasons"], verdict["other_browsers"]) == ("passed", [], [])
    assert verdict["browser"]["name"] == NAMES[name]
    wasm = verdict["backends"]["wasm"]
    assert {stage: found["n"] for stage, found in wasm["stages"].items()} == {"tensor": 12, "png": 12, "record": 12}
    assert wasm["max_abs_diff"] < 1e-6 and wasm["stages"]["record"]["max_abs_diff"] < 1e-6
    assert verdict["foreign_requests"] == [] and wasm["leaked_tensors"] == 0
    assert wasm["threads"] == 1
    if name == "webkit":
        assert verdict["missing_backends"] == {"wasm-threads": "this browser has none here"}  # no shared memory
    else:  # its service worker has taken over by then, while threads wait
        threaded = verdict["backends"]["wasm-threads"]
        assert threaded["threads"] > 1 and threaded["n"] == 12 and threaded["passed"]


def test_a_fault_that_one_of_two_browsers_shows_fails_the_proof(tmp_path):
    need("chromium")
    need("firefox")
    bundle = shutil.copytree(example.bundle()[0], tmp_path / "bundle")
    worker = bundle / "worker.js"
    broken = "if (navigator.userAgent.includes('Firefox')) throw new Error('not in this one');\n"
    worker.write_text(broken + worker.read_text())
    verdict = judge(bundle, ["chromium", "firefox"], photos=1)
    firefox = next(each for each in verdict["other_browsers"] if each["browser"]["name"] == "Firefox")
    assert verdict["browser"]["name"] == "Chromium" and verdict["backends"]["wasm"]["passed"]
    assert not firefox["backends"]["wasm"]["passed"] and not verdict["passed"]
    assert any(reason.startswith("Firefox wasm: ") for reason in verdict["reasons"])
    assert not any(reason.startswith("Chromium wasm: ") for reason in verdict["reasons"])


def test_a_browser_that_is_not_there_is_named_and_the_others_are_asked(monkeypatch):
    need("chromium")
    monkeypatch.setenv("CHROMIUM_PATH", str(find_chromium()))
    monkeypatch.setenv("PATH", "/nowhere")
    verdict = judge(example.bundle()[0], ["webkit", "chromium"], photos=1)
    assert verdict["passed"] and verdict["browser"]["name"] == "Chromium"
    assert list(verdict["missing_browsers"]) == ["webkit"]
    assert verdict["notes"][0].startswith("webkit: not measurable here, ")
    with pytest.raises(BrowserMissing, match="make browsers|pip install"):
        judge(example.bundle()[0], ["firefox"], photos=1)
    engines.need_one(None)
    with pytest.raises(BrowserMissing):
        engines.need_one(["webkit", "firefox"])


HELD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
from keras_pipeline.export.engines import open_engine
with open_engine(sys.argv[1]) as engine, engine.opened(sys.argv[2], []) as page:
    print("open", flush=True)
    page.call("() => new Promise(() => {})")
"""


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("name", ENGINES)
def test_no_process_stays_behind(name, ended_by, site):
    need(name)
    command = [sys.executable, "-c", HELD, name, f"{site}index.html"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ) as process:
        assert process.stdout.readline() == b"open\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) > 2
        process.send_signal(ended_by)
        try:
            process.wait(60)
        finally:
            process.kill()
    deadline = time.monotonic() + 20
    while alive := [each for each in started if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def test_a_browser_that_ends_meanwhile_is_an_error_of_the_page(site):
    for name in ("firefox", "webkit"):
        need(name)
        with open_engine(name) as engine, engine.opened(f"{site}index.html", []) as page:
            for child in psutil.Process().children(recursive=True):
                if child.name() in ("firefox-esr", "firefox", "MiniBrowser"):
                    child.kill()
            with pytest.raises(PageError):
                page.call("() => 1")


def test_what_drives_a_browser_is_found_or_asked_for(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("firefox", "webkit"):
        with pytest.raises(BrowserMissing, match="found; `make browsers` installs it|pip install"):
            find_engine(name)
