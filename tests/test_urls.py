"""URLs of photos: what reaches the host is what the document says, byte for byte."""

from urllib.parse import urljoin

import pytest
from support.raw_host import RawHost, response
from test_fetch import get

from keras_pipeline.ingest import urls

VALID = [
    "/a.jpg?Signature=q%2Fx%3D", "/a/../b%2e%41.jpg", "//x//y.jpg", "/a.jpg?", "/?", "/a+b;c=d?x=a+b%20c&&=",
    "/%F8?x=%ff", "/a:b@c!$'()*,~", "/a%2fb%2Fc", "/?a=/?b",
]  # fmt: skip


@pytest.fixture(scope="module")
def host():
    def answer(target, _):
        if target.startswith("/to"):
            return response(status=302, location=target[3:])
        return response(b"photo")

    with RawHost(answer) as host:
        yield host


@pytest.mark.parametrize("target", VALID)
def test_a_valid_url_is_sent_byte_for_byte_from_document_redirect_and_base(host, target):
    host.lines.clear()
    for url in (host.url + target, f"{host.url}/to{host.url}{target}", urls.resolve(host.url + target, "http://x/")):
        assert get(url)[0].body == b"photo"
    assert [line for line in host.lines if " /to" not in line] == [f"GET {target} HTTP/1.1"] * 3


@pytest.mark.parametrize(
    "target, sent",
    [
        ("/a b.jpg", "/a%20b.jpg"), ("/Viola é.jpg", "/Viola%20%C3%A9.jpg"), ("/100%.jpg", "/100%25.jpg"),
        ("/a%zz%41", "/a%25zz%41"), ("/[1]|^`{}\\\"<>", "/%5B1%5D%7C%5E%60%7B%7D%5C%22%3C%3E"), ("?a=b c", "/?a=b%20c"),
        ("", "/"), ("/a.jpg#top", "/a.jpg"), ("/a\nb\tc.jpg", "/a%0Ab%09c.jpg"),
    ],
)  # fmt: skip
def test_only_what_is_invalid_is_quoted(host, target, sent):
    host.lines.clear()
    assert get(urls.resolve(host.url + target, None))[0].body == b"photo"
    assert host.lines == [f"GET {sent} HTTP/1.1"]


@pytest.mark.parametrize(
    "location, sent",
    [
        (b"/r\xf8d.jpg", "/r%F8d.jpg"),
        ("/rød.jpg".encode(), "/r%C3%B8d.jpg"),
        (b"r\xf8d.jpg?a=\xff", "/r%F8d.jpg?a=%FF"),
    ],
)
def test_no_byte_of_a_redirect_is_dropped(location, sent):
    with RawHost(lambda target, _: response(b"photo", 302 if target == "/" else 200, location=location)) as host:
        answer, _ = get(host.url + "/")
        assert answer.body == b"photo" and host.lines[-1] == f"GET {sent} HTTP/1.1"
        assert answer.redirected_to == host.url + sent


@pytest.mark.parametrize("location", [b"http://r\xf8d.org/a.jpg", b"http://a b.org/", b"http://x\\y.org/"])
def test_a_redirect_to_no_url_is_a_failure(location):
    with RawHost(lambda target, _: response(status=302, location=location)) as host:
        answer, turns = get(host.url + "/")
        assert (answer.reason, answer.later) == ("redirected to what is no http(s) URL", True) and len(turns) == 1


@pytest.mark.parametrize("base", ["http://x.org/photos", "http://x.org/photos/"])
def test_a_folder_is_a_folder_with_and_without_its_slash(base):
    assert urls.resolve("a/1.jpg", base) == "http://x.org/photos/a/1.jpg"
    assert urls.resolve("/a/1.jpg", base) == "http://x.org/a/1.jpg"
    assert urls.resolve("//y.org/1.jpg", base) == "http://y.org/1.jpg"


@pytest.mark.parametrize(
    "reference",
    ["g", "./g", "g/", "/g", "//g", "?y", "g?y", ";x", "g;x", "", ".", "./", "..", "../", "../g", "../..", "../../g",
     "../../../g", "/./g", "/../g", "g.", "..g", "./../g", "./g/.", "g/./h", "g/../h", "g;x=1/../y", "g?y/../x"],
)  # fmt: skip
def test_relative_references_as_rfc_3986_has_them(reference):
    base = "http://a/b/c/d;p?q"
    assert urls.join(reference, base) == urljoin(base, reference)  # the examples of 5.4


def test_one_photo_has_one_address_however_it_is_written_or_signed():
    signed = "https://me:hush@X.org:443/a%2Fb c.jpg?v=2&X-Amz-Date={0}&X-Amz-Signature={0}&X-Amz-Expires=60"
    assert {urls.address(signed.format(day)) for day in (1, 2)} == {"https://x.org/a%2Fb%20c.jpg?v=2"}
    assert urls.address("https://x.org/a%2fb.jpg") != urls.address("https://x.org/a%2Fb.jpg")
