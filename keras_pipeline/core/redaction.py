"""Take passwords and tokens out of texts before they are shown or stored."""

from __future__ import annotations

import re
from typing import Any


def redact(text: str) -> str:
    """Replaces user and password in any URI, and secret options: mongodb://user:secret@host -> mongodb://***@host."""
    # Up to the last @ of the word: a password that isn't percent-encoded may hold / and @ itself.
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
    """Whether user, password, hosts, database and options can be told apart (RFC 3986); if not, no one can say where a
    password ends.
    """
    host = r"(?:[\w.%-]+|\[[^\]\s]+\])(?::\d+)?"
    uri = rf"mongodb(?:\+srv)?://(?:[^@/?#\s]*@)?{host}(?:,{host})*(?:/[^/?#@\s]*)?(?:\?\S*)?"
    return re.fullmatch(uri, text) is not None


def redact_values(value: Any) -> Any:
    """`redact` for every string inside dicts and lists."""
    if isinstance(value, dict):
        return {key: redact_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_values(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def without_credentials(url: str) -> str:
    """The URL without its user and password: https://user:secret@host/a -> https://host/a. An @ of its path stays.

    Behind a colon that no port follows all up to the last @ is taken for a password that isn't percent-encoded.
    """
    if re.match(r"\s*(?:\w[\w+.-]*:)?//", url):
        return re.sub(r"^(.*?//)(?:[^/?#]*@|[^/?#@:]+:(?!\d*(?:[/?#]|$)).*@)", r"\1", url, flags=re.S)
    return re.sub(r"^(\s*(?:https?:)?[/\\]*)[^/?#@\\:]+:[^@]*@", r"\1", url)  # what should have been a URL
