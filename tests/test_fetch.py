"""One GET at a time against a host that misbehaves: the reason of each failure, and what is never connected to."""

import asyncio
import ipaddress

import pytest
from support.hostile_host import HostileHost
from support.raw_host import RawHost, response

from keras_pipeline.core.config.phase0 import Export
from keras_pipeline.ingest import fetch, urls

FAST = Export(
    connect_seconds=1, read_seconds=0.4, total_seconds=1, max_megabytes=0.2, allow_networks=["127.0.0.1/32"],
    max_redirects=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def host():
    from conftest import jpeg_of

    with HostileHost(jpeg_of) as host:
        yield host


def get(url, settings=FAST, base_url=None, **options):
    async def turn(name):
        turns.append(name)

    async def once():
        async with fetch.session(settings, base_url) as client:
            return await fetch.get(client, url, settings, turn=turn, **options)

    turns = []
    answer = asyncio.run(once())
    return answer, turns


@pytest.mark.parametrize(
    "name, reason, status, again, trouble",
    [
        ("missing-1.jpg", "HTTP 404", 404, False, False),
        ("moody-1.jpg", "HTTP 500", 500, True, False),
        ("down-1.jpg", "HTTP 503", 503, True, True),
        ("busy-1.jpg", "HTTP 429", 429, True, True),
        ("short-1.jpg", "ended before its announced length", None, True, False),
        ("reset-1.jpg", "connection reset", None, True, False),
        ("hung-1.jpg", "silent for 0.4 s", None, True, False),
        ("quiet-1.jpg", "silent for 0.4 s", None, True, False),
        ("drip-1.jpg", "not finished within 1 s", None, True, False),
        ("endless-1.jpg", "larger than 0.2 MB", 200, False, False),
        ("loop-1.jpg", "more than 3 redirects", 302, False, False),
        ("away-1.jpg", "redirected to what is no http(s) URL", 302, False, False),
        ("gzip-1.jpg", "sent with Content-Encoding gzip", 200, False, False),
        ("rubbish-1.jpg", "an answer that is not HTTP", None, True, False),
        ("inside-1.jpg", "private address 127.0.0.2 refused; see phase0.export.allow_networks", None, False, False),
    ],
)
def test_failures_have_their_reason(host, name, reason, status, again, trouble):
    answer, _ = get(host.url + name)
    assert answer.body is None
    found = (answer.reason, answer.http_status, answer.may_succeed, answer.host_trouble)
    assert found == (reason, status, again, trouble)


def test_a_photo_arrives_whole_also_after_a_redirect(host):
    answer, turns = get(host.url + "good-1.jpg")
    assert answer.body == host.photo_of("good-1.jpg") and answer.http_status == 200
    assert turns == [f"127.0.0.1:{host.port}"]
    answer, turns = get(host.url + "moved-1.jpg")
    assert answer.body == host.photo_of("good-elsewhere.jpg")
    assert turns == [f"127.0.0.1:{host.port}"] * 2  # the second request waits for its turn too


def test_the_first_bytes_are_enough_to_check_a_url(host):
    answer, _ = get(host.url + "endless-2.jpg", first_bytes=512)
    assert answer.http_status == 200 and answer.body is not None and answer.bytes < 200_000


def test_nobody_listens_or_nobody_has_that_name():
    answer, _ = get("http://127.0.0.1:9/x.jpg")
    assert (answer.reason, answer.may_succeed, answer.host_trouble) == ("connection refused", True, True)
    answer, _ = get("http://nowhere.invalid/x.jpg")
    assert (answer.reason, answer.host_trouble) == ("unknown host name", True)


@pytest.mark.parametrize(
    "host_name", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0.0.0.0"]
)
def test_loopback_is_refused_however_it_is_written(host, host_name):
    before = host.asked.total()
    answer, _ = get(f"http://{host_name}:{host.port}/good-1.jpg", Export(connect_seconds=1))
    assert answer.body is None and host.asked.total() == before
    assert "private address" in answer.reason or answer.reason in (
        "connection refused",
        "unknown host name",
        fetch.NO_URL,
    )


@pytest.mark.parametrize(
    "address, public",
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("10.1.2.3", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("192.168.1.1", False), ("172.16.0.1", False), ("224.0.0.1", False),
        ("fe80::1", False), ("fd00::1", False), ("::", False), ("::ffff:10.0.0.1", False), ("::ffff:8.8.8.8", True),
        ("64:ff9b::a9fe:a9fe", False), ("2002:7f00:1::", False), ("255.255.255.255", False),
        ("::1", False), ("64:ff9b:1::7f00:1", False), ("::ffff:0:a00:1", False), ("::7f00:1", False),
        ("fec0::1", False), ("5f00::1", False), ("64:ff9b::808:808", True),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address, public):
    assert fetch._is_public(ipaddress.ip_address(address)) is public


def test_our_own_photo_server_is_allowed_and_its_neighbour_is_not(host):
    settings = Export(connect_seconds=1)
    assert get(host.url + "good-1.jpg", settings, base_url=host.url)[0].body
    assert get(host.url + "good-1.jpg", settings, base_url="http://127.0.0.1:1/")[0].body is None


def test_who_asks_says_so(host):
    host.agents.clear()
    get(host.url + "good-1.jpg", FAST.model_copy(update={"contact": "mailto:team@example.org"}))
    (agent,) = host.agents
    assert agent.startswith("User-Agent: keras_pipeline/") and "mailto:team@example.org" in agent


@pytest.mark.parametrize(
    "url, base, expected",
    [
        ("a/b c.jpg", "https://x.org/p/", "https://x.org/p/a/b c.jpg"),
        (" https://x.org/a.jpg ", None, "https://x.org/a.jpg"),
        ("a.jpg", None, None),
        ("ftp://x.org/a.jpg", None, None),
        ("file:///etc/passwd", "https://x.org/", None),
        ("http:///a.jpg", None, None),
        ("http://[::1/a.jpg", None, None),
        ("http://x.org:port/a.jpg", None, None),
    ],
)
def test_resolve(url, base, expected):
    assert urls.resolve(url, base) == expected


def test_host_of():
    assert urls.host_of("https://X.org:443/a") == "x.org"
    assert urls.host_of("http://x.org:8080/a") == "x.org:8080"


@pytest.mark.parametrize(
    "body, reason",
    [(b"  <!DOCTYPE HTML><p>", fetch.A_PAGE), (b"<!-- x -->\n<html>", fetch.A_PAGE),
     (b"\xef\xbb\xbf<html>", fetch.A_PAGE),
     (b"<?xml version='1.0'?><Error>", fetch.A_DRAWING), (b"<svg xmlns='a'>", fetch.A_DRAWING),
     (b"<!DOCTYPE svg>", fetch.A_DRAWING), (b"<!---->" * 400, fetch.A_PAGE),
     (b"\xff\xd8\xff\xe0", ""), (b"", ""), (b"<3 flowers", "")],
)  # fmt: skip
def test_markup_is_no_photo(body, reason):
    assert fetch.markup(body) == reason


@pytest.mark.parametrize("value, seconds", [("120", 120), (" 7 ", 7), ("soon", None), (None, None), ("-1", None)])
def test_retry_after(value, seconds):
    assert fetch._seconds(value) == seconds


def test_retry_after_as_a_date():
    assert fetch._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert fetch._seconds("Fri, 31 Dec 2999 23:59:59 GMT") > 1e9


@pytest.mark.parametrize(
    "status, again, later, trouble",
    [(202, True, True, False), (404, False, False, False), (410, False, False, False), (403, False, True, False),
     (401, False, True, False), (500, True, True, False), (501, True, True, False), (508, True, True, False),
     (520, True, True, True), (522, True, True, True), (530, True, True, True), (599, True, True, False)],
)  # fmt: skip
def test_what_a_later_try_or_a_later_run_can_mend(status, again, later, trouble):
    with RawHost(lambda *_: response(b"<html>", status)) as host:
        answer, _ = get(host.url + "/a.jpg")
        found = (answer.reason, answer.may_succeed, answer.later, answer.host_trouble)
        assert found == (f"HTTP {status}", again, later, trouble)


@pytest.mark.parametrize("encoding", ["", "identity", "none", "binary", "utf-8", "image/jpeg", "identity, identity"])
def test_an_encoding_that_codes_nothing_is_accepted(encoding):
    with RawHost(lambda *_: response(b"photo", content_encoding=encoding)) as host:
        assert get(host.url + "/a.jpg")[0].body == b"photo"


@pytest.mark.parametrize(
    "encoding, named",
    [("gzip", "gzip"), (" GZip", "gzip"), ("identity, br", "br"), ("zstd", "zstd"), ("x-gzip", "x-gzip"),
     ("deflate", "deflate"), ("compress", "compress")],
)  # fmt: skip
def test_a_coded_body_is_refused(encoding, named):
    with RawHost(lambda *_: response(b"photo", content_encoding=encoding)) as host:
        assert get(host.url + "/a.jpg")[0].reason == f"sent with Content-Encoding {named}"


def test_a_file_that_announces_too_many_bytes_is_refused_before_they_come():
    def answer(target, _):
        if target == "/part":
            return response(b"photo", 206, content_range="bytes 0-4/200001")
        return b"HTTP/1.1 200 OK\r\nContent-Length: 200001\r\n\r\nphoto"

    with RawHost(answer) as host:
        for target, options in (("/whole", {}), ("/whole", {"first_bytes": 5}), ("/part", {"first_bytes": 5})):
            assert get(host.url + target, **options)[0].reason == "larger than 0.2 MB"


def test_bytes_before_an_error_count():
    with RawHost(lambda *_: b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + bytes(5000)) as host:
        answer, _ = get(host.url + "/a.jpg")
        assert (answer.reason, answer.bytes) == ("silent for 0.4 s", 5000)


@pytest.mark.parametrize(
    "body, reason",
    [(b"", fetch.NOTHING), (b"\n<html>", fetch.A_PAGE), (b'{"error": "not found"}', fetch.A_TEXT),
     ("Bitte später\r\n".encode(), fetch.A_TEXT), (b"\xff\xd8\xff\xe0\0\x10JFIF", ""), (b"GIF89a\x01\0\x01\0", ""),
     (b"\x89PNG\r\n\x1a\n", "")],
)  # fmt: skip
def test_what_can_be_no_picture(body, reason):
    assert fetch.no_file(body) == reason
