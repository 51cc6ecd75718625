"""URLs of photos: what is valid goes out byte for byte, what RFC 3986 does not allow is percent-encoded.

A signed URL is only valid as it was signed, and `%2F` is not `/` to every server. So nothing here normalizes a URL.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import yarl

from keras_pipeline.ingest.signing import unsigned

RELATIVE = "(relative URL)"  # in place of its host, before base_url
# Scheme, authority, path with query, without the fragment, which is never sent (RFC 3986, appendix B).
PARTS = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^#]*)", re.S)
# No `[` and `]`: they are allowed in an IPv6 host alone.
INVALID = re.compile(rb"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]")


def resolve(image_url: str, base_url: str | None, url_replace: Mapping[str, str] | None = None) -> str | None:
    """Return where to ask for a document's photo: an absolute http(s) URL without fragment, or None.

    Args:
        base_url: a folder, with or without a slash at its end.
        url_replace: texts to replace in the document's URL, one after the other.
    """
    for text, replacement in (url_replace or {}).items():
        image_url = image_url.replace(text, replacement)
    if base_url:
        scheme, authority, path = _split(base_url)
        path, question_mark, query = path.partition("?")
        base_url = f"{scheme}://{authority or ''}{path.removesuffix('/')}/{question_mark}{query}"
    return join(image_url.strip(), base_url)


def join(reference: str, base: str | None) -> str | None:
    """Return the http(s) URL that a reference means at an absolute base (RFC 3986, 5.2), or None.

    An absolute reference stays as it is, except for its fragment.
    """
    scheme, authority, path = _split(reference)
    if base and (not scheme or (authority is None and scheme.lower() == _split(base)[0].lower())):
        scheme, base_authority, base_path = _split(base)
        if authority is None:
            authority, path = base_authority, _merged(path, base_path)
    url = f"{scheme}://{authority or ''}{path}"
    try:
        return url if host_of(url) and quoted(url) else None
    except ValueError:
        return None


def _split(url: str) -> tuple[str, str | None, str]:
    match = next(PARTS.finditer(url))  # every part is optional, so that there is one
    return match[1] or "", match[2], match[3]


def _merged(path: str, base_path: str) -> str:
    """Resolve a relative path with its query against that of the base."""
    if not path:
        return base_path
    folder = base_path.partition("?")[0]
    path, question_mark, query = path.partition("?")
    if not path:
        return f"{folder}?{query}"
    if not path.startswith("/"):
        path = folder.rpartition("/")[0] + "/" + path
    kept: list[str] = []
    for segment in path.split("/"):
        if segment not in (".", ".."):
            kept.append(segment)
        elif segment == ".." and len(kept) > 1:
            kept.pop()
    if path.endswith(("/.", "/..")):
        kept.append("")
    return "/".join(kept) + question_mark + query


def host_of(url: str) -> str:
    """Return `name` or `name:port`, the key of limits and tallies. Raises ValueError for an invalid URL."""
    scheme, authority, _ = _split(url)
    return _host(scheme.lower(), authority or "")


@functools.lru_cache(10_000)
def _host(scheme: str, authority: str) -> str:
    # A byte of a header that is not UTF-8 is a surrogate here.
    if scheme not in ("http", "https") or re.search(r"[\s\\\x00-\x1f\x7f\ud800-\udfff]", authority):
        raise ValueError("not an http(s) URL with a host")
    parts = urlsplit(f"{scheme}://{authority}")
    name = parts.hostname or ""
    return name if parts.port in (None, {"http": 80, "https": 443}[scheme]) else f"{name}:{parts.port}"


def quoted(url: str) -> str:
    """Return the path and query of an absolute URL with only the invalid bytes percent-encoded.

    Args:
        url: bytes of a header that are not UTF-8 as surrogate escapes, as in `os.fsdecode`.

    Raises ValueError for text that can't be encoded.
    """
    path = _split(url)[2]
    path = path if path.startswith("/") else f"/{path}"
    encoded = path.encode("utf-8", "surrogateescape")
    return INVALID.sub(lambda match: b"%%%02X" % match[0][0], encoded).decode()


def address(url: str) -> str:
    """Return what tells one photo from another: the URL as it is sent, without password and what only signs it."""
    return unsigned(f"{_split(url)[0].lower()}://{host_of(url)}{quoted(url)}")


def as_sent(url: str) -> yarl.URL:
    """Return an absolute URL for aiohttp, which sends path and query as `quoted`. Raises ValueError."""
    scheme, authority, _ = _split(url)
    # All of it is the path, because yarl drops the `?` of an empty query.
    return yarl.URL(f"{scheme}://{authority}").with_path(quoted(url), encoded=True)
