"""Removal of passwords and tokens from text before it is shown or stored."""

from __future__ import annotations

import re
from typing import Any


def redact(text: str) -> str:
    """Replace user and password in any URI, and secret options: mongodb://user:secret@host -> mongodb://***@host."""
    # Up to the last @ of the word: a password that is not percent-encoded may itself hold / and @.
    text = re.sub(r"(\w[\w+.-]{0,30}://)\S*@", r"\1***@", text)
    return re.sub(
        r"([?&;][^=&;\s]*(?:pass|secret|token|key|authmechanismprop)[^=&;\s]*=)[^&;\s]*", r"\1***", text, flags=re.I
    )


# Worded so that `redact` leaves it as it is.
MONGODB_URI = (
    "expected mongodb://host:port/, before the host user:password@ with special characters percent-encoded (@ is %40, "
    "/ is %2F, a space %20)"
)


def is_mongodb_uri(text: str) -> bool:
    """Return whether user, password, hosts, database and options can be told apart (RFC 3986).

    If not, nobody can say where a password ends.
    """
    host = r"(?:[\w.%-]+|\[[^\]\s]+\])(?::\d+)?"
    uri = rf"mongodb(?:\+srv)?://(?:[^@/?#\s]*@)?{host}(?:,{host})*(?:/[^/?#@\s]*)?(?:\?\S*)?"
    return re.fullmatch(uri, text) is not None


def redact_values(value: Any) -> Any:
    """Apply `redact` to every string inside dicts and lists."""
    if isinstance(value, dict):
        return {key: redact_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_values(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def without_credentials(url: str) -> str:
    """Remove user and password from a URL: https://user:secret@host/a -> https://host/a. An @ in the path stays.

    After a colon without a port, everything up to the last @ counts as a password that is not percent-encoded.
    """
    if re.match(r"\s*(?:\w[\w+.-]*:)?//", url):
        return re.sub(r"^(.*?//)(?:[^/?#]*@|[^/?#@:]+:(?!\d*(?:[/?#]|$)).*@)", r"\1", url, flags=re.S)
    return re.sub(r"^(\s*(?:https?:)?[/\\]*)[^/?#@\\:]+:[^@]*@", r"\1", url)  # what should have been a URL
