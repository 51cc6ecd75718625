"""The page that checks a visiting device, in real browsers, and what becomes of its verdict."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import yaml
from support import web_example as example
from support.axe import violations

from keras_pipeline.__main__ import main
from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.evaluation.report import html
from keras_pipeline.export import device_judgement, device_page, device_verdict, firefox
from keras_pipeline.export.browser import open_browser
from keras_pipeline.export.engines import ENGINES, missing_engines, open_engine
from keras_pipeline.export.made_photos import made_photos
from keras_pipeline.export.saved_model import load_classifier
from keras_pipeline.phases import inputs, report_delivery, serve

ADDRESS = next(
    (each.address for found in psutil.net_if_addrs().values() for each in found
     if each.family == socket.AF_INET and not each.address.startswith("127.")), None
)  # fmt: skip


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(example.saved())


@pytest.fixture(scope="module")
def site(tmp_path_factory, classifier):
    """A folder with the page in `secret`, which asks WebAssembly alone: graphics cards are emulated here, and slow."""
    root = tmp_path_factory.mktemp("site")
    device_page.write_device_page(example.bundle()[0], classifier, root / "secret")
    probe = root / "secret/probe.json"
    value = json.loads(probe.read_text())
    value["backends"] = [each for each in value["backends"] if each["name"] == "wasm"]
    probe.write_text(json.dumps(value))
    return root


CHECK = """async () => {
  document.getElementById("start").click();
  while (!["done", "failed"].includes(document.body.dataset.state)) await new Promise((go) => setTimeout(go, 50));
  return document.getElementById("text").value || document.getElementById("status").textContent;
}"""


def asked(name, url):
    """(verdict as text, URLs requested) of a browser that visits the page."""
    if why := missing_engines([name]).get(name):
        pytest.skip(f"{name}: {why}")
    requests = []
    with open_engine(name) as engine, engine.opened(url, requests) as page:
        return page.call(CHECK), requests


@pytest.fixture(scope="module")
def verdict(site):
    """What Chromium saves, over loopback."""
    with serve_folder(site) as base:
        return asked("chromium", f"{base}secret/index.html")[0]


def judged(text, classifier, tmp_path):
    (tmp_path / "verdict.json").write_text(text)
    return device_judgement.judge(device_verdict.read(tmp_path / "verdict.json"), example.bundle()[0], classifier)


@pytest.mark.parametrize("host", ["127.0.0.1", ADDRESS])
@pytest.mark.parametrize("name", ENGINES)
def test_each_browser_reports_pythons_answers_also_without_a_secure_context(
    site, classifier, tmp_path, monkeypatch, name, host
):
    if host is None:
        pytest.skip("this machine has no address besides loopback")
    monkeypatch.setitem(firefox.PREFERENCES, "network.proxy.no_proxies_on", host)
    with contextlib.suppress(ImportError):  # without Selenium, WebKitGTK is skipped
        from keras_pipeline.export import webdriver

        monkeypatch.setattr(webdriver, "HOST", host)
    with serve_folder(site, host=host) as base:
        text, requests = asked(name, f"{base}secret/index.html")
    assert {urlsplit(url).netloc for url in requests} <= {urlsplit(base).netloc, ""}  # "": blobs
    found = judged(text, classifier, tmp_path)
    assert (found["agrees"], found["reasons"]) == (True, [])
    assert found["photos"]["n"] == found["photos"]["same"] == 14 and found["photos"]["by_browser_same"] >= 1
    (wasm,) = found["backends"]
    assert wasm["n"] == wasm["same_top1"] >= 13 and wasm["max_abs_diff"] < 1e-6 and wasm["load_ms"] > 1
    is_secure = host == "127.0.0.1"
    assert found["device"]["secure_context"] is is_secure and json.loads(text)["files"]["n"] > 30
    assert found["hashed_by"] == ("browser" if is_secure else "JavaScript")
    assert any("need HTTPS" in each and "WebGPU" in each for each in found["untested"]) is not is_secure


def test_sha256_in_javascript_is_sha256(site):
    example.need_browser()
    lengths = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 121, 128, 100_003]
    ask = """async (lengths) => {
      const { sha256InJavaScript } = await import("./sha256.js");
      return lengths.map((n) => sha256InJavaScript(Uint8Array.from({ length: n }, (_, i) => (i * 31) % 251)));
    }"""
    with serve_folder(site) as base, open_browser() as browser:
        page = browser.new_page()
        page.goto(f"{base}secret/index.html")
        found = page.evaluate(ask, lengths)
    assert found == [hashlib.sha256(bytes(i * 31 % 251 for i in range(n))).hexdigest() for n in lengths]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_phone_and_the_file_saved_is_the_verdict(site, scheme):
    example.need_browser()
    with serve_folder(site) as base, open_browser() as browser:
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, bypass_csp=True)
        page = context.new_page()
        errors = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(f"{base}secret/index.html")
        assert violations(page) == []
        page.click("#start")
        page.wait_for_selector("body[data-state=done]")
        page.click("summary")
        assert violations(page) == [] and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.inner_text("#summary") == "The same answers as in Python."
        with page.expect_download() as saving:
            page.click("#save")
        assert Path(saving.value.path()).read_text() == page.input_value("#text")
        assert saving.value.suggested_filename.startswith("verdict-20") and errors == []


def test_the_same_photos_are_drawn_each_time():
    first, second = made_photos(), made_photos()
    assert first == second and len({each.name for each in first}) == len(first) >= 15


def changed(verdict, change):
    value = json.loads(verdict)
    change(value)
    return json.dumps(value)


def seen(value, **fields):
    value["photos"][0].update(fields)


DIFFERENCES = {
    "jpeg: other pixels, or": lambda v: seen(v, pixels="0" * 64),
    "jpeg: other pixels, or another refusal": lambda v: seen(v, pixels=None, refused="damaged"),
    "wasm: another species for 1 of 14 photos": lambda v: v["backends"][0]["answers"][0]["top"].reverse(),
    "wasm: probabilities differ by 5.0e-01": lambda v: v["backends"][0]["answers"][0].update(max_abs_diff=0.5),
    # A device that contradicts itself: what it shows counts.
    "wasm: probabilities differ by": lambda v: v["backends"][0]["answers"][0]["top"][0].__setitem__(1, 0.01),
    "wasm: 1 of 14 photos without an answer": lambda v: v["backends"][0]["answers"].pop(),
    "wasm: no memory": lambda v: v["backends"][0].update(error="no memory"),
    "worker.js: not the file that was exported": lambda v: v["files"]["wrong"].append("worker.js"),
    "no backend gave an answer": lambda v: v["backends"].clear(),
}


@pytest.mark.parametrize("reason", DIFFERENCES)
def test_a_device_that_differs_is_judged_so(verdict, classifier, tmp_path, reason):
    found = judged(changed(verdict, DIFFERENCES[reason]), classifier, tmp_path)
    assert not found["agrees"] and any(each.startswith(reason) for each in found["reasons"])


def test_a_photo_that_the_browser_decodes_otherwise_is_told_and_is_no_fault(verdict, classifier, tmp_path):
    def other(value):
        value["photos"][-1].update(pixels="0" * 64)  # of the AVIF
        value["backends"][0]["answers"][-1].update(max_abs_diff=0.5)

    found = judged(changed(verdict, other), classifier, tmp_path)
    assert found["agrees"] and found["photos"]["by_browser_same"] == found["photos"]["by_browser"] - 1


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A config whose page and SavedModel are the example's."""
    monkeypatch.setattr(inputs, "require", lambda run, step: None)
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump({"root": str(tmp_path), "source": {"uri": "mongodb://nowhere"}}))
    shutil.copytree(example.bundle()[0], tmp_path / "web_export/x")
    shutil.copytree(example.saved(), tmp_path / "artifacts/x/phase6/saved_model")
    return config


def validate(config, text, *more):
    file = config.with_name("verdict.json")
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return main(["phase6", "validate", "--verdict", str(file), *more, "--config", str(config)])


def test_a_verdict_is_kept_once_and_shown_as_reported_by_a_device(project, verdict, capsys, make_config):
    assert validate(project, verdict) == 0
    assert "the same answers" in capsys.readouterr().out
    assert validate(project, verdict) == 0
    other = changed(verdict, lambda v: v["device"].update(user_agent="Another/1.0 (iPhone)"))
    assert validate(project, other) == 0
    store = json.loads((project.parent / "artifacts/x/phase6/device_verdicts.json").read_text())
    assert [each["agrees"] for each in store["verdicts"]] == [True, True]
    run = report_delivery.Run(make_config(experiment="x"), None)
    page = hashlib.sha256((project.parent / "web_export/x/files.json").read_bytes()).hexdigest()
    shown = "".join(map(html._block, report_delivery._device_blocks(run, page)))
    assert "Reported by a device" in shown and "no gate depends on it" in shown and "Another/1.0 (iPhone)" in shown
    assert report_delivery._device_blocks(run, "0" * 64) == []  # of another page
    # The schema lets no markup pass; the report would escape it all the same.
    first = store["verdicts"][0]
    first["device"]["user_agent"] = first["backends"][0]["renderer"] = "<script>x</script>"
    (project.parent / "artifacts/x/phase6/device_verdicts.json").write_text(json.dumps(store))
    shown = "".join(map(html._block, report_delivery._device_blocks(run, page)))
    assert "<script" not in shown and shown.count("&lt;script&gt;x") == 2


def texts(value, path=()):
    """The place of every text in a verdict."""
    if isinstance(value, str):
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from texts(inner, (*path, key))


def placed(value, path, new):
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


def without(value, key):
    del value[key]


BAD = {
    "cut": lambda v: json.dumps(v)[:1000],
    "empty": lambda v: "",
    "no UTF-8": lambda v: b"\xff\xfe" + json.dumps(v).encode(),
    "50 MB": lambda v: json.dumps(v) + " " * 50_000_000,
    "nested": lambda v: "[" * 100_000,
    "a list": lambda v: "[1, 2]",
    "NaN": lambda v: json.dumps(v).replace('"load_ms": ', '"load_ms": NaN, "x": '),
    "NaN itself": lambda v: placed(v["backends"][0], ["answers", 0, "max_abs_diff"], float("nan")),
    "infinity": lambda v: placed(v["backends"][0], ["load_ms"], float("inf")),
    "a number as text": lambda v: placed(v["files"], ["n"], "40"),
    "true as a number": lambda v: placed(v["files"], ["n"], True),
    "another format": lambda v: placed(v, ["format"], 2),
    "unknown key": lambda v: placed(v["device"], ["address"], "10.0.0.1"),
    "missing key": lambda v: without(v, "device"),
    "escape codes": lambda v: placed(v["device"], ["user_agent"], "\x1b[2J"),
    "a long text": lambda v: placed(v["device"], ["user_agent"], "x" * 301),
    "another bundle": lambda v: placed(v["bundle"], ["files_sha256"], "ab" * 32),
    "other photos": lambda v: placed(v["bundle"], ["photos_sha256"], "ab" * 32),
    "fewer photos": lambda v: v["photos"].pop(),
    "a class too many": lambda v: placed(v["backends"][0], ["answers", 0, "top", 0, 0], 4),
    "a class below": lambda v: placed(v["backends"][0], ["answers", 0, "top", 0, 0], -1),
    "a huge number": lambda v: placed(v["backends"][0], ["answers", 0, "top", 0, 0], 10**400),
    "an unknown backend": lambda v: placed(v["backends"][0], ["name"], "abacus"),
    "a backend twice": lambda v: v["backends"].append(v["backends"][0]),
    "an unknown photo": lambda v: placed(v["backends"][0], ["answers", 0, "name"], "mine"),
    "the 31st of February, in words": lambda v: placed(v, ["date"], "yesterday"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_no_verdict_on_this_page_is_refused_in_a_sentence(project, verdict, capsys, fault):
    value = json.loads(verdict)
    made = BAD[fault](value)
    assert validate(project, made if isinstance(made, str | bytes) else json.dumps(value)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: --verdict: ") and len(said) < 700 and said.isprintable()
    if fault == "another bundle":
        assert "abababababab…" in said and "web_export/x" in said
    assert not (project.parent / "artifacts/x/phase6/device_verdicts.json").exists()


def test_markup_is_refused_in_every_text(verdict, tmp_path):
    places = list(texts(json.loads(verdict)))
    assert len(places) > 40
    for path in places:
        value = json.loads(verdict)
        placed(value, path, "<img src=x onerror=alert(1)>")
        (tmp_path / "verdict.json").write_text(json.dumps(value))
        with pytest.raises(ValueError, match="^--verdict: "):
            device_verdict.read(tmp_path / "verdict.json")


def test_a_verdict_is_given_alone_and_is_a_file(project, verdict, capsys, tmp_path):
    assert validate(project, verdict, "--force") == 2
    assert "--verdict: received --force too, expected it alone" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "none.json", tmp_path, tmp_path / "pipe"):
        assert main(["phase6", "validate", "--verdict", str(file), "--config", str(project)]) == 2
        assert "; expected a verdict; " in capsys.readouterr().err


@contextlib.contextmanager
def serving(config, *options):
    """The real command; yields its URL."""
    command = [sys.executable, "-m", "keras_pipeline", "serve", "--probe", "--port", "0", "--config", str(config)]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # ignored in a shell's background
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=heard
    )
    try:
        yield process, process.stdout.readline().split()[0]
    finally:
        process.kill()
        process.wait()


def status_of(url, context=None):
    try:
        with urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        ).open(url, timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_command_serves_a_path_that_nobody_can_guess_and_ends_with_ctrl_c(project):
    with serving(project) as (process, url):
        assert url.startswith("http://127.0.0.1:") and len(urlsplit(url).path.strip("/")) >= 16
        assert [status_of(url), status_of(f"{url}page/classifier.js")] == [200, 200]
        root = url.rsplit("/", 2)[0]
        assert {status_of(f"{root}{path}") for path in ("/", "/index.html", "/probe.json", "/page/")} == {404}
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.fixture
def certificate(tmp_path):
    """(certificate, key) of this machine, which no browser knows."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "1",
         "-subj", "/CN=x", "-addext", f"subjectAltName=IP:127.0.0.1,IP:{ADDRESS or '127.0.0.1'}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_over_https_another_device_tests_all(site, classifier, tmp_path, certificate):
    if ADDRESS is None:
        pytest.skip("this machine has no address besides loopback")
    example.need_browser()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serve_folder(site, host=ADDRESS, certificate=context) as base, open_browser() as browser:
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.goto(f"{base}secret/index.html")
        found = judged(page.evaluate(CHECK), classifier, tmp_path)
    assert base.startswith("https://") and found["agrees"] and found["device"]["secure_context"]
    assert found["hashed_by"] == "browser" and not any("need HTTPS" in each for each in found["untested"])


def test_with_a_certificate_it_speaks_https_and_a_silent_visitor_holds_up_nobody(project, certificate):
    cert, key = certificate
    host = ADDRESS or "127.0.0.1"
    with serving(project, "--host", host, "--cert", str(cert), "--key", str(key)) as (_, url):
        assert url.startswith(f"https://{host}:")
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port)):  # never shakes hands
            assert status_of(url, ssl.create_default_context(cafile=str(cert))) == 200
        with pytest.raises(urllib.error.URLError, match="certificate"):
            status_of(url, ssl.create_default_context())


def test_after_an_hour_it_ends(project, monkeypatch, capsys):
    monkeypatch.setattr(serve, "HOUR", 0.05)
    assert main(["serve", "--probe", "--port", "0", "--config", str(project)]) == 0
    assert "it ends after an hour" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--host", "127.0.0.1"], 2, "--host: received without --probe, expected with it"),
        (["--probe", "--host", "0.0.0.0"], 2, "--host: received 0.0.0.0, expected one address of this machine"),
        (["--probe", "--host", "my-laptop"], 2, "--host: received my-laptop, expected one address of this machine"),
        (["--probe", "--host", "203.0.113.9"], 3, "203.0.113.9 cannot listen"),
        (["--probe", "--key", "x.pem"], 2, "--key: received without --cert"),
        (["--probe", "--cert", "nowhere.pem"], 2, "--cert, --key: received nowhere.pem, which can't be used"),
    ],
)
def test_what_it_cannot_serve_on_is_said(project, capsys, options, code, said):
    assert main(["serve", *options, "--port", "0", "--config", str(project)]) == code
    assert said in capsys.readouterr().err


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(project, capsys, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-passout", "pass:secret", "-keyout", key, "-out", cert,
         "-days", "1", "-subj", "/CN=x"],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ["--probe", "--cert", str(cert), "--key", str(key)]
    assert main(["serve", *options, "--port", "0", "--config", str(project)]) == 2
    assert "the key without a passphrase" in capsys.readouterr().err
