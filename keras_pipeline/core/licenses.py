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
PARTS = re.compile("cc|by|nc|nd|sa")
JOINED = re.compile(r"cc(?:by|nc|nd|sa)+")  # CCBYNC
# Countries to whose law a licence was ported, as they follow its version: "CC BY-SA 3.0 DE".
COUNTRIES = (
    "ar at au az be bg br ca ch cl cn co cr cz de dk ec ee eg es fi fr ge gr gt hk hr hu ie il in it jp kr lu mk mt mx "
    "my nl no nz pe ph pl pr pt ro rs scotland se sg si th tw ug uk us ve vn za "
    "argentina austria australia belgium brazil canada chile china colombia denmark estonia finland france germany "
    "greece hungary india ireland israel italy japan luxembourg mexico netherlands new zealand norway poland portugal "
    "romania serbia singapore spain sweden switzerland taiwan ukraine united states kingdom"
)
PORTED = frozenset(COUNTRIES.split())
ADDRESS = re.compile(
    r"(?:https?:)?(?://)?(?:www\.)?creativecommons\.org/(?:licen[cs]es/)?(.*?)(?:/\d[\w./-]*)?/?(?:[?#].*)?"
)
# What programs write where there is no licence. "No licence" is not among them: it may mean that none is given.
NONE = {"none", "null", "nil", "nan", "na", "n a", "undefined", "unspecified", "not specified", "not available", ""}


def license_id(text: str) -> str:
    """Return the id of a licence, such as `cc-by-nc`; `unknown` for an empty text, `None` or `n/a`.

    Case, blanks, underscores, the version, a country after it and the address of Creative Commons don't count. What is
    not understood stays as it is, in lower case with hyphens, and is then a licence of its own.

    >>> license_id("CC BY-NC 4.0"), license_id("http://creativecommons.org/publicdomain/zero/1.0/")
    ('cc-by-nc', 'cc0')
    """
    return _id_of(text[:LONGEST])


@functools.lru_cache(10_000)
def _id_of(text: str) -> str:
    text = text.strip().lower().replace("(c)", "©")
    address = ADDRESS.fullmatch(text)
    words = ["cc", *WORDS.findall(address[1])] if address else WORDS.findall(text)
    if " ".join(words) in NONE:
        return UNKNOWN
    if words[:2] == ["cc", "0"]:
        words[:2] = ["cc0"]
    words = _without_version(words)
    return _named(words) or _creative_commons(words) or _reserved(words) or re.sub(r"[\s_]+", "-", text)


def _without_version(words: list[str]) -> list[str]:
    """Return the words without the version and the country that may follow it."""
    last = max((place for place, word in enumerate(words) if VERSION.fullmatch(word)), default=len(words))
    country = words[last + 1 :]
    if PORTED.issuperset(country):
        words = words[:last]
    return [word for word in words if not VERSION.fullmatch(word)]


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
    words = [part for word in words for part in (PARTS.findall(word) if JOINED.fullmatch(word) else [word])]
    named = "cc" in words or words[:2] == ["creative", "commons"] or (words[:1] == ["attribution"] and len(words) > 1)
    if not named and words[:1] != ["by"]:  # Openverse writes by-nc
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
