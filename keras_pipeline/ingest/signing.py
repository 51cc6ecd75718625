"""URLs without what only signs them: stores sign a photo's URL anew every few hours, and the photo stays the same."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

# Query parameters of each scheme, in lower case: those by which it is recognised, and those that belong to it.
# S3 version 4 and its copies, S3 version 2, Google (V4 and V2), Azure's shared access signature, CloudFront.
SCHEMES: tuple[tuple[frozenset[str], frozenset[str]], ...] = tuple(
    (frozenset(needed.split()), frozenset(f"{needed} {optional}".split()))
    for needed, optional in (
        (
            "x-amz-signature",
            "x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signedheaders x-amz-security-token "
            "x-amz-content-sha256",
        ),
        ("awsaccesskeyid signature", "expires x-amz-security-token"),
        (
            "x-goog-signature",
            "x-goog-algorithm x-goog-credential x-goog-date x-goog-expires x-goog-signedheaders",
        ),
        ("googleaccessid signature", "expires"),
        ("sig sv", "sp st se spr sr sip si ss srt skoid sktid skt ske sks skv sdd saoid suoid scid ses"),
        ("key-pair-id signature", "expires policy hash-algorithm"),
    )
)  # fmt: skip


def unsigned(url: str) -> str:
    """Return the URL without the query parameters that only sign it; all others stay, byte for byte.

    >>> unsigned("https://b.s3.amazonaws.com/a.jpg?v=2&X-Amz-Date=20260101T000000Z&X-Amz-Signature=ab")
    'https://b.s3.amazonaws.com/a.jpg?v=2'
    """
    if "?" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # http://[half an IPv6 address
        return url
    parameters = [(part.partition("=")[0].lower(), part) for part in parts.query.split("&")]
    names = {name for name, _ in parameters}
    signs = frozenset().union(*(belonging for needed, belonging in SCHEMES if needed <= names))
    if not signs:
        return url
    return urlunsplit(parts._replace(query="&".join(part for name, part in parameters if name not in signs)))
