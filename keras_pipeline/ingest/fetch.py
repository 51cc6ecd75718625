"""One GET of an untrusted URL: every result is an `Answer` with a reason, and no private address is ever contacted."""

from __future__ import annotations

import codecs
import dataclasses
import email.utils
import ipaddress
import re
import socket
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import aiohttp

from keras_pipeline import __version__
from keras_pipeline.core.config.phase0 import Export
from keras_pipeline.ingest.urls import address, as_sent, host_of, join

NO_URL = "not a valid http(s) URL; relative ones need source.base_url"
A_PAGE = "an HTML page, not a photo"
A_DRAWING = "SVG or XML, not a photo"
A_TEXT = "a text or JSON, not a photo"
NOTHING = "an empty file"
REDIRECTS = {301, 302, 303, 307, 308}
RETRIED = {202, 408, 425, 429, *range(500, 600)}
# Trouble with the host, not the URL: requests pause for a while, and after several in a row the host is given up.
# 520 to 530 are a content network's words for an origin that does not answer.
OVERLOADED = {429, 503, *range(520, 531)}
GONE = {404, 410}  # all other refusals may be a limit, a challenge, or a signature that has expired
CODINGS = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"}
PRIVATE = "private address"
NAT64 = ipaddress.ip_network("64:ff9b::/96")
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all that IANA assigns
MARKUP = re.compile(rb"<(!doctype\s+html|!--|html|head|body|title|script)|<(\?xml|svg|!doctype)", re.I)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of one request. `body` is None unless the status was 200 (206 if ranged) and the body is complete."""

    body: bytes | None = None
    reason: str = ""
    http_status: int | None = None
    bytes: int = 0  # received
    may_succeed: bool = False  # on another try
    later: bool = False  # another run may succeed, but another try now would not
    redirected_to: str = ""  # the last redirect's target, without its signature
    host_trouble: bool = False
    retry_after: float | None = None  # seconds that the host asked for


# Waits until a host may receive a request, and leaves the previous host. Raises HostGivenUp.
Turn = Callable[[str], Awaitable[None]]


class HostGivenUp(Exception):  # noqa: N818
    """This host gets no more requests in this run; the message is the reason."""


def markup(body: bytes) -> str:
    """Return why markup is not a photo, or ""."""
    found = MARKUP.match(body[:2048].removeprefix(codecs.BOM_UTF8).lstrip())
    return "" if found is None else A_PAGE if found[1] else A_DRAWING


def no_file(body: bytes) -> str:
    """Return why a body can't be any picture, or "". The same URL may have a photo in another hour.

    Error, challenge and consent pages come with status 200, and so do a service's excuses in JSON.
    """
    if not body:
        return NOTHING
    # Every picture's header holds control characters.
    is_text = not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", body[:2048])
    return markup(body) or (A_TEXT if is_text else "")


def session(settings: Export, base_url: str | None = None) -> aiohttp.ClientSession:
    """Return a client without cookies and environment proxies that connects only to public addresses.

    Args:
        base_url: of our own (embedded) photo server, whose address is allowed.
    """
    agent = f"keras_pipeline/{__version__} (plant photo export{f'; {settings.contact}' if settings.contact else ''})"
    connector = aiohttp.TCPConnector(limit=0, socket_factory=_public_only(settings, base_url), ttl_dns_cache=300)
    timeout = aiohttp.ClientTimeout(
        total=settings.total_seconds, connect=settings.connect_seconds, sock_read=settings.read_seconds
    )
    client = aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        # Compressed bodies could expand beyond every limit, and photos do not compress.
        headers={"User-Agent": agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    # aiohttp repeats a GET when a kept connection breaks: requests above the host's rate, and not counted.
    client._retry_connection = False
    return client


def _public_only(settings: Export, base_url: str | None) -> Callable:
    """Return a socket factory that refuses private addresses, whichever name or redirect led there.

    A document in the database must not make us read a metadata service or an admin page in our network.
    """
    networks = [ipaddress.ip_network(network) for network in settings.allow_networks]
    own = urlsplit(base_url) if base_url else None

    def open_socket(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, (host, port, *_) = info
        address = ipaddress.ip_address(host.split("%")[0])
        ours = own is not None and (host, port) == (own.hostname, own.port)
        if not (ours or _is_public(address) or any(address in network for network in networks)):
            # Always the same errno: several refused addresses of one name are then reported as one error.
            raise OSError(1, f"{PRIVATE} {address} refused")
        return socket.socket(family, kind, protocol)

    return open_socket


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address.version == 6:
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
        if address not in GLOBAL_UNICAST:  # other translated addresses, and old private ones
            return False
    return address.is_global and not address.is_multicast


async def get(
    client: aiohttp.ClientSession, url: str, settings: Export, *, turn: Turn, first_bytes: int | None = None
) -> Answer:
    """Request a URL, following up to `max_redirects`, each to a checked address and in its host's turn.

    Raises HostGivenUp if a host on the way is given up.

    Args:
        first_bytes: request and read only that many bytes.
    """
    headers = {} if first_bytes is None else {"Range": f"bytes=0-{first_bytes - 1}"}
    body, redirected_to = bytearray(), ""
    try:
        for _ in range(settings.max_redirects + 1):
            await turn(host_of(url))
            async with client.get(as_sent(url), headers=headers, allow_redirects=False) as response:
                target = response.headers.get("Location")  # bytes that are not UTF-8 as surrogate escapes
                if response.status not in REDIRECTS or not target:
                    answer = await _read(response, settings, first_bytes, body)
                    return dataclasses.replace(answer, redirected_to=redirected_to)
                if (resolved := join(target, url)) is None:
                    reason = "redirected to what is no http(s) URL"
                    return Answer(reason=reason, http_status=response.status, later=True)
                url, redirected_to = resolved, address(resolved)
        reason = f"more than {settings.max_redirects} redirects"
        return Answer(reason=reason, http_status=response.status, later=True)
    except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
        return dataclasses.replace(_failure(error, settings), bytes=len(body), redirected_to=redirected_to)


async def _read(response: aiohttp.ClientResponse, settings: Export, first_bytes: int | None, body: bytearray) -> Answer:
    """Read a body, part by part so that the caller has what came before an error."""
    status = response.status
    if status != 200 and not (status == 206 and first_bytes):
        return Answer(
            reason=f"HTTP {status}",
            http_status=status,
            may_succeed=status in RETRIED,
            later=status not in GONE,
            host_trouble=status in OVERLOADED,
            retry_after=_seconds(response.headers.get("Retry-After")) if status in OVERLOADED else None,
        )
    encodings = ",".join(response.headers.getall("Content-Encoding", [])).lower().split(",")
    if codings := CODINGS.intersection(map(str.strip, encodings)):
        return Answer(reason=f"sent with Content-Encoding {min(codings)}", http_status=status)
    limit, too_large = settings.max_megabytes * 1e6, f"larger than {settings.max_megabytes:g} MB"
    if _announced(response) > limit:
        return Answer(reason=too_large, http_status=status)
    async for part in response.content.iter_any():
        body += part
        if first_bytes is not None and len(body) >= first_bytes:
            break
        if len(body) > limit:
            return Answer(reason=too_large, http_status=status, bytes=len(body))
    return Answer(body=bytes(body), http_status=status, bytes=len(body))


def _announced(response: aiohttp.ClientResponse) -> int:
    """Return the size of the whole file in bytes, 0 if the header does not tell it."""
    _, _, whole = response.headers.get("Content-Range", "").partition("/")
    return int(whole) if whole.isdecimal() and len(whole) < 19 else response.content_length or 0


def _seconds(retry_after: str | None) -> float | None:
    """Parse Retry-After: seconds or an HTTP date (RFC 9110, 10.2.3); None for anything else."""
    try:
        if retry_after is None or retry_after.strip().isdigit():
            return float(retry_after) if retry_after else None
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _failure(error: Exception, settings: Export) -> Answer:
    """Convert an exception to an answer: its reason, and whether another try may succeed."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Answer(
            reason=f"no connection within {settings.connect_seconds:g} s", may_succeed=True, host_trouble=True
        )
    if isinstance(error, aiohttp.SocketTimeoutError):
        return Answer(reason=f"silent for {settings.read_seconds:g} s", may_succeed=True)
    if isinstance(error, TimeoutError):
        return Answer(reason=f"not finished within {settings.total_seconds:g} s", may_succeed=True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Answer(reason="unknown host name", may_succeed=True, host_trouble=True)
    if isinstance(error, aiohttp.ClientSSLError):
        return Answer(reason="TLS failed or certificate not trusted", may_succeed=True, host_trouble=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        if PRIVATE in str(error.os_error):
            return Answer(reason=f"{error.os_error.strerror}; see phase0.export.allow_networks")
        return Answer(reason="connection refused", may_succeed=True, host_trouble=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Answer(reason="ended before its announced length", may_succeed=True)
    if isinstance(error, aiohttp.ClientResponseError):
        return Answer(reason="an answer that is not HTTP", may_succeed=True)
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return Answer(reason="connection reset", may_succeed=True)
    return Answer(reason=NO_URL)  # InvalidURL and ValueError, from yarl or the IDNA codec
