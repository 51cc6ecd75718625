"""Latin names and the class list."""

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
# Words among authors' names. `f.` is filius unless an epithet follows: Hook. f.
AMONG_AUTHORS = {
    "ex", "et", "in", "and", "&", "al.", "l.", "f.", "fil.", "bis", "emend.", "de", "d.", "du", "da", "dos", "di",
    "del", "della", "la", "le", "van", "von", "der", "den", "ter", "zu",
}  # fmt: skip
# Beside these words a capitalized one is no author: Viola sp. A, Brassica oleracea Capitata Group.
OTHER_PLANTS = {
    "sp", "spp", "cv", "cf", "aff", "group", "gp", "grex", "sensu", "auct", "auctt", "hort", "non", "nec", "sect",
    "ser",
}  # fmt: skip


def normalise(latin_name: str) -> str:
    """Collapse blanks. Case, authors and hybrid signs are left alone: the audit reports them, nothing is guessed."""
    return " ".join(latin_name.split())


def genus(latin_name: str) -> str:
    """Return the first word that is not a hybrid sign, as written; empty for an empty name."""
    words = latin_name.replace("×", " ").split()
    if len(words) > 1 and words[0] in HYBRID_SIGNS:
        return words[1]
    return words[0] if words else ""


def genus_names(classes: list[str]) -> list[str]:
    """Return the genera of a class list, sorted."""
    return sorted({genus(name) for name in classes})


def genera_of(classes: list[str]) -> list[int]:
    """Return the genus of each class as an index into `genus_names`."""
    index = {name: i for i, name in enumerate(genus_names(classes))}
    return [index[genus(name)] for name in classes]


def canonical(latin_name: str) -> str:
    """Return the name without what differs between labels of one plant: case, blanks, hybrid signs, authors.

    'Viola odorata L.' and 'VIOLA  odorata' give 'viola odorata'. 'Mentha × piperita' gives 'mentha piperita', because
    the sign does not make another name (International Code of Nomenclature, Art. H.3.3). Ranks below the species,
    cultivars, qualifiers (cf., sp., agg.) and hybrid formulas ('Salix alba × fragilis') mean another plant and stay.
    In doubt two names stay apart: the result is a candidate for people to judge.
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
    if not text.isascii():  # Cf: zero-width blanks, byte-order marks and the like
        text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    if text.isupper():  # case then tells names and authors apart no more
        text = text.lower()
    return text.replace("×", " × ").split()


def _is_sign(word: str) -> bool:
    return word in HYBRID_SIGNS or word.casefold() == "hybrid"


def _means_another_plant(word: str) -> bool:
    # Here a sign is left only in formulas.
    return word in HYBRID_SIGNS or word[0] in "'\"‘“" or word.casefold().rstrip(".") in OTHER_PLANTS


def _without_authors(words: list[str]) -> Iterator[str]:
    """Yield what follows the species' name: ranks and epithets in one spelling, and all other words but authors."""
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
    """Return the sorted, unique names: the only source of num_classes and of every label's index."""
    return sorted(set(latin_names))


def class_hash(classes: list[str]) -> str:
    """Return the sha256 of the ordered list. A model refuses labels of another hash."""
    return hashlib.sha256(json.dumps(classes, ensure_ascii=False).encode()).hexdigest()
