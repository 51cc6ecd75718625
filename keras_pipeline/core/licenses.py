"""Licences of photos: one id for the many spellings of a licence, compared by whole words and never by parts of them.

`CC-BY-NC` contains `CC-BY`, and is not as permissive.
"""

from __future__ import annotations

import difflib
import functools
import re

UNKNOWN = "unknown"
RESERVED = "all-rights-reserved"
PUBLIC = "public-domain"
KNOWN = (
    "cc0", PUBLIC, "cc-by", "cc-by-sa", "cc-by-nd", "cc-by-nc", "cc-by-nc-sa", "cc-by-nc-nd", RESERVED, UNKNOWN,
)  # fmt: skip
# Lists that are often allowed, each with those before it.
USUAL = (("cc0", PUBLIC), ("cc-by",), ("cc-by-sa",), ("cc-by-nc", "cc-by-nc-sa"), ("cc-by-nd", "cc-by-nc-nd"))
LONGEST = 200  # characters; what follows is no licence's name
MARKS = ("by", "nc", "nd", "sa")
LONG = {
    "attribution": "by", "noncommercial": "nc", "commercial": "nc", "sharealike": "sa", "alike": "sa",
    "noderivs": "nd", "noderivatives": "nd", "derivs": "nd", "derivatives": "nd",
}  # fmt: skip
# Words that change nothing: "Creative Commons Attribution-Non Commercial 4.0 International License".
NOISE = {
    "cc", "creative", "commons", "international", "universal", "unported", "generic", "igo", "license", "licence",
    "deed", "legalcode", "the", "non", "no", "share",
}  # fmt: skip
ZERO = {"cc0", "zero", "publicdomain zero", "no rights reserved"}
PUBLIC_WORDS = {
    "public domain", "publicdomain", "public domain mark", "publicdomain mark", "pd", "pdm", "no known copyright",
    "no known copyright restrictions",
}  # fmt: skip
WORDS = re.compile(r"[^\W_]+|©")
VERSION = re.compile(r"v?\d+")
ADDRESS = re.compile(r"(?:https?:)?(?://)?(?:www\.)?creativecommons\.org/(?:licen[cs]es/)?(.*?)(?:/\d[\w./-]*)?/?")


def license_id(text: str) -> str:
    """Return the id of a licence, such as `cc-by-nc`; `unknown` for an empty text.

    Case, blanks, underscores, the version and the address of Creative Commons don't count. What is not understood
    stays as it is, in lower case with hyphens, and is then a licence of its own.

    >>> license_id("CC BY-NC 4.0"), license_id("http://creativecommons.org/publicdomain/zero/1.0/")
    ('cc-by-nc', 'cc0')
    """
    return _id_of(text[:LONGEST])


@functools.lru_cache(10_000)
def _id_of(text: str) -> str:
    text = text.strip().lower().replace("(c)", "©")
    if not text:
        return UNKNOWN
    address = ADDRESS.fullmatch(text)
    words = ["cc", *WORDS.findall(address[1])] if address else WORDS.findall(text)
    if words[:2] == ["cc", "0"]:
        words[:2] = ["cc0"]
    words = [word for word in words if not VERSION.fullmatch(word)]
    return _named(words) or _creative_commons(words) or _reserved(words) or re.sub(r"[\s_]+", "-", text)


def misspelt(license: str) -> str | None:
    """Return the known id that a config's licence is meant to be but is not; None where it may be its own name."""
    found = license_id(license)
    close = difflib.get_close_matches(found, KNOWN, 1, 0.75)
    return close[0] if close and found not in KNOWN else None


def _named(words: list[str]) -> str | None:
    forms = (" ".join(words), " ".join(word for word in words if word not in NOISE))
    if not ZERO.isdisjoint(forms):
        return "cc0"
    return None if PUBLIC_WORDS.isdisjoint(forms) else PUBLIC


def _creative_commons(words: list[str]) -> str | None:
    """Return the id if every word is understood."""
    if not ("cc" in words or words[:2] == ["creative", "commons"] or (words[0] == "attribution" and len(words) > 1)):
        return None
    marks = [LONG.get(word, word) for word in words if word not in NOISE]
    if "by" not in marks or not set(marks) <= set(MARKS) or {"nd", "sa"} <= set(marks):
        return None
    return "-".join(["cc", *(mark for mark in MARKS if mark in marks)])


def _reserved(words: list[str]) -> str | None:
    # A text that names a Creative Commons licence too is not clear, and stays its own.
    if not {"cc", "cc0", "commons"}.isdisjoint(words):
        return None
    reserved = "©" in words or "copyright" in words or "all rights reserved" in " ".join(words)
    return RESERVED if reserved else None
