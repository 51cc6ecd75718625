"""Latin names and the one class list."""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Iterable, Iterator

HYBRID_SIGNS = ("×", "x", "X")
RANKS = {
    "subsp": "subsp.", "ssp": "subsp.", "subspecies": "subsp.", "var": "var.", "variety": "var.", "varietas": "var.",
    "subvar": "subvar.", "f": "f.", "fo": "f.", "forma": "f.", "subf": "subf.",
}  # fmt: skip
# What stands among authors' names. `f.` is filius where no epithet follows it: Hook. f.
AMONG_AUTHORS = {
    "ex", "et", "in", "and", "&", "al.", "l.", "f.", "fil.", "bis", "emend.", "de", "d.", "du", "da", "dos", "di",
    "del", "della", "la", "le", "van", "von", "der", "den", "ter", "zu",
}  # fmt: skip
# Beside these a capital is no author's: Viola sp. A, Brassica oleracea Capitata Group.
OTHER_PLANTS = {
    "sp", "spp", "cv", "cf", "aff", "group", "gp", "grex", "sensu", "auct", "auctt", "hort", "non", "nec", "sect",
    "ser",
}  # fmt: skip


def normalise(latin_name: str) -> str:
    """Collapses blanks; everything else (case, authors, hybrid signs) is the audit's to report, not ours to guess."""
    return " ".join(latin_name.split())


def genus(latin_name: str) -> str:
    """The first word that is no hybrid sign, as it is written; empty for an empty name."""
    words = latin_name.replace("×", " ").split()
    if len(words) > 1 and words[0] in HYBRID_SIGNS:
        return words[1]
    return words[0] if words else ""


def genus_names(classes: list[str]) -> list[str]:
    """The genera of a class list, sorted."""
    return sorted({genus(name) for name in classes})


def genera_of(classes: list[str]) -> list[int]:
    """The genus of each class, an index into `genus_names`."""
    index = {name: i for i, name in enumerate(genus_names(classes))}
    return [index[genus(name)] for name in classes]


def canonical(latin_name: str) -> str:
    """The name without what labels of one plant differ in: case, blanks, hybrid signs, authors.

    'Viola odorata L.' and 'VIOLA  odorata' give 'viola odorata'. 'Mentha × piperita' gives 'mentha piperita': the sign
    makes no other name (International Code of Nomenclature, Art. H.3.3). Ranks below the species, cultivars, qualifiers
    (cf., sp., agg.) and hybrid formulas ('Salix alba × fragilis') mean another plant, and stay. In doubt two names stay
    two: this finds candidates, which people judge.
    """
    words = _words(latin_name)
    if len(words) > 1 and _is_sign(words[0]):
        words = words[1:]
    if len(words) > 2 and _is_sign(words[1]):
        words = [words[0], *words[2:]]
    if len(words) < 2 or any(_means_another_plant(word) for word in words[1:]):
        return " ".join("×" if word in HYBRID_SIGNS else word.casefold() for word in words)
    genus_alone = words[1][0] in "([" or (words[1][0].isupper() and words[1].endswith("."))  # Viola L.
    name = words[:1] if genus_alone else words[:2]
    return " ".join([*map(str.casefold, name), *_without_authors(words[len(name) :])])


def _words(latin_name: str) -> list[str]:
    text = unicodedata.normalize("NFC", latin_name)
    if not text.isascii():  # zero-width blanks, byte-order marks and the like are categories of their own
        text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    if text.isupper():  # says nothing of what is a name and what an author
        text = text.lower()
    return text.replace("×", " × ").split()


def _is_sign(word: str) -> bool:
    return word in HYBRID_SIGNS or word.casefold() == "hybrid"


def _means_another_plant(word: str) -> bool:
    # A sign is left here in formulas only.
    return word in HYBRID_SIGNS or word[0] in "'\"‘“" or word.casefold().rstrip(".") in OTHER_PLANTS


def _without_authors(words: list[str]) -> Iterator[str]:
    """What follows the species' name: ranks with their epithets, in one spelling, and whatever is no author."""
    taken = False
    for word, following in itertools.pairwise([*words, ""]):
        rank = RANKS.get(word.casefold().rstrip(".").removeprefix("notho"))
        if taken:
            taken = False
        elif rank and _is_epithet(following, rank):
            taken = True
            yield f"{rank} {following.casefold()}"
        elif not _is_author(word):
            yield word.casefold()


def _is_epithet(word: str, rank: str) -> bool:
    filius = rank == "f." and (word in AMONG_AUTHORS or not word.islower())  # L. f. ex Aiton
    return word.replace("-", "").isalpha() and not filius


def _is_author(word: str) -> bool:
    letters = word.strip("()[],;:")
    year = len(letters) == 4 and letters.isdecimal()
    particle = letters.casefold() in AMONG_AUTHORS or letters[:2] in ("d'", "d’", "l'", "l’")  # d'Urv.
    return not letters or year or particle or letters[0].isupper()


def class_list(latin_names: Iterable[str]) -> list[str]:
    """Sorted, unique: the only source of num_classes and of every label's index."""
    return sorted(set(latin_names))


def class_hash(classes: list[str]) -> str:
    """sha256 over the ordered list: a model refuses labels of another hash."""
    return hashlib.sha256(json.dumps(classes, ensure_ascii=False).encode()).hexdigest()
