"""Latin names and the class list."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

HYBRID_SIGNS = ("×", "x", "X")
RANKS = {
    "subsp": "subsp.", "ssp": "subsp.", "subspec": "subsp.", "subspecies": "subsp.", "var": "var.", "variety": "var.",
    "varietas": "var.", "subvar": "subvar.", "f": "f.", "fo": "f.", "fa": "f.", "fm": "f.", "fma": "f.", "form": "f.",
    "forma": "f.", "subf": "subf.",
}  # fmt: skip
RANK_WITHOUT_BLANK = re.compile(rf" ((?:notho)?(?:{'|'.join(RANKS)})\.)(?=[^\W\d_A-Z]{{3}})")  # var.alba
# Words among authors' names. `f.` is filius unless an epithet follows: Hook. f.
AMONG_AUTHORS = {
    "ex", "et", "in", "and", "&", "al", "al.", "l.", "f.", "fil.", "filius", "bis", "emend.", "anon.", "apud", "ap.",
    "de", "d", "d.", "du", "da", "do", "dos", "di", "del", "della", "delle", "dello", "degli", "dal", "la", "le", "los",
    "las", "van", "von", "v", "v.", "der", "den", "dem", "ten", "ter", "'t", "’t", "zu", "zum", "zur", "y", "i", "e",
}  # fmt: skip
# How names are spelt instead (International Code of Nomenclature, Art. 60.7); of other letters the mark is left out.
LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "ao", "ø": "oe", "æ": "ae", "œ": "oe"})
# Beside these words a capitalized one is no author: Viola sp. A, Brassica oleracea Capitata Group.
OTHER_PLANTS = {
    "sp", "spp", "cv", "cf", "aff", "group", "gp", "grex", "sensu", "auct", "auctt", "hort", "non", "nec", "sect",
    "ser",
}  # fmt: skip
QUALIFIERS = {"cf", "aff", "conf", "confer", "affinis", "nr", "prox"}
# What forms and tables write where a name is missing; compared in lower case.
FILL_IN = {
    "nan", "null", "nil", "none", "na", "n/a", "#n/a", "n.a", "n.d", "<na>", "nd", "tbd", "undefined", "missing",
    "empty", "no name", "not available", "not identified", "other", "others", "species", "incertae sedis", "0", "-1",
}  # fmt: skip
FILL_IN_FIRST = {"unknown", "unidentified", "undetermined", "unspecified", "unbekannt", "inconnu", "desconocido"}
OPEN = {"sp", "spp", "cf", "aff", "indet", "ind", "undet", "det"}  # open nomenclature: not identified to the species
# Ranks between genus and species, second in a name; elsewhere `Ser.` is Seringe, an author.
ABOVE_SECOND = {
    "sect", "section", "subsect", "subsection", "subg", "subgen", "subgenus", "ser", "series", "gen", "genus", "family",
    "fam", "tribe", "order",
}  # fmt: skip
ABOVE = {
    "plantae", "viridiplantae", "angiospermae", "gymnospermae", "compositae", "cruciferae", "gramineae", "guttiferae",
    "labiatae", "leguminosae", "palmae", "umbelliferae",
}  # fmt: skip
ABOVE_ENDINGS = ("aceae", "oideae", "ineae", "ales", "opsida", "phyta", "phytina")
AROUND = ",;:?!*()[]\"'“”‘’"  # signs around a genus
# Invisible, although Unicode counts them among letters and marks: fillers, a joiner, variation selectors.
IGNORABLE = dict.fromkeys([0x34F, 0x115F, 0x1160, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])


def normalise(text: str) -> str:
    """Return a text as it is compared: composed (NFC), without invisible characters, its blanks collapsed.

    Isoëtes with one letter ë and with e and a combining diaeresis look the same and are the same name. Case, authors
    and hybrid signs are left alone: the audit reports them, nothing is guessed.
    """
    if not text.isprintable():  # nor are blanks other than the usual one
        text = "".join(letter for letter in text if letter.isspace() or not _is_invisible(letter))
    if not text.isascii():  # composed last: an invisible letter may stand between a letter and its diaeresis
        text = unicodedata.normalize("NFC", text.translate(IGNORABLE))
    return " ".join(text.split())


def _is_invisible(letter: str) -> bool:
    # Zero-width blanks, byte-order marks, soft hyphens, marks of direction, control characters.
    return unicodedata.category(letter) in ("Cf", "Cc")


def genus(latin_name: str) -> str:
    """Return the genus as written, without hybrid sign, underscore, comma or qualifier; empty for an empty name."""
    words = [word.strip(AROUND) for word in normalise(latin_name.replace("_", " ").replace("×", " ")).split()]
    words = [word for word in words if word]
    while len(words) > 1 and (_is_sign(words[0]) or words[0].casefold().rstrip(".") in QUALIFIERS):
        words = words[1:]
    return words[0] if words else ""


def genera(classes: Sequence[str]) -> list[str]:
    """Return the genus of each class, in the spelling that most of its species have: Quercus for 'QUERCUS suber'."""
    written = [genus(name) for name in classes]
    counts = Counter(written)
    best: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], not name.istitle(), name)):
        best.setdefault(name.casefold(), name)
    return [best[name.casefold()] for name in written]


PLURAL = {"genus": "genera", "family": "families"}


@dataclasses.dataclass(frozen=True)
class Rank:
    """A rank above the species: its taxa, and the taxon of each class."""

    name: str  # one of `PLURAL`
    taxa: tuple[str, ...]  # sorted; an empty name stands for the classes whose taxon is unknown
    members: tuple[int, ...]  # of each class, an index into `taxa`

    @classmethod
    def of(cls, name: str, taxon_of: Sequence[str]) -> Rank:
        """Return the rank in which each class has this taxon."""
        taxa = sorted(set(taxon_of))
        index = {taxon: i for i, taxon in enumerate(taxa)}
        return cls(name, tuple(taxa), tuple(index[taxon] for taxon in taxon_of))

    def of_classes(self) -> list[str]:
        """Return the taxon of each class."""
        return [self.taxa[member] for member in self.members]


def ranks_above(classes: Sequence[str], details: Sequence[Mapping[str, str]]) -> list[Rank]:
    """Return the ranks above the species, the lowest first: the genus, and the family where `details` tell it.

    Args:
        details: {name: text} of each class, `source.details`; a name is family in any case. Empty if there are none.
    """
    known = [next((text for name, text in own.items() if name.casefold() == "family"), "") for own in details]
    families = [Rank.of("family", _families(classes, known))] if any(known) else []
    return [Rank.of("genus", genera(classes)), *families]


def _families(classes: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the family of each class; where it is unknown that of its genus, if one is known there, else none."""
    of_class = [(own, normalise(family).capitalize()) for own, family in zip(genera(classes), known, strict=True)]
    of_genus: dict[str, set[str]] = {}
    for own, family in of_class:
        of_genus.setdefault(own, set()).update({family} - {""})
    return [family or (min(of_genus[own]) if len(of_genus[own]) == 1 else "") for own, family in of_class]


def canonical(latin_name: str) -> str:
    """Return the name without what differs between labels of one plant: case, blanks, hybrid signs, authors.

    'Viola odorata L.' and 'VIOLA  odorata' give 'viola odorata'. 'Mentha × piperita' gives 'mentha piperita', because
    the sign does not make another name (International Code of Nomenclature, Art. H.3.3). 'Isoëtes lacustris' gives
    'isoetes lacustris' and 'Carex mülleri' 'carex muelleri' (Art. 60.7). Ranks below the species, cultivars, qualifiers
    (cf., sp., agg.) and hybrid formulas ('Salix alba × fragilis') mean another plant and stay.
    In doubt two names stay apart: the result is a candidate for people to judge.
    """
    words = _words(latin_name)
    if len(words) > 1 and _is_sign(words[0]):
        words = words[1:]
    if len(words) > 2 and _is_sign(words[1]):
        words = [words[0], *words[2:]]
    if len(words) < 2 or any(_means_another_plant(word) for word in words[1:]):
        return _plain(" ".join("×" if word in HYBRID_SIGNS else word.casefold() for word in words))
    genus_alone = words[1][0] in "([" or (words[1][0].isupper() and words[1].endswith("."))  # Viola L.
    name = words[:1] if genus_alone else words[:2]
    return _plain(" ".join([*map(str.casefold, name), *_without_authors(words[len(name) :])]))


def _plain(text: str) -> str:
    if text.isascii():
        return text
    parts = unicodedata.normalize("NFD", text.translate(LETTERS))
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


def no_species(classes: Sequence[str]) -> dict[str, str]:
    """Return {class: why it names no species} of a class list, for people to judge.

    A name of one word counts as a rank above the species where another class has it as its genus, or where most
    classes have two words or more: a list of garden names ('Daffodil', 'Snowdrop') is left alone. Hybrids, subspecies,
    aggregates and cultivars name plants.
    """
    single = {name for name in classes if " " not in canonical(name.replace("_", " "))}
    most_are_binomial = 2 * len(single) < len(classes)
    with_species = {genus(name).casefold() for name in classes if name not in single}
    found = {}
    for name in classes:
        above = name in single and (most_are_binomial or genus(name).casefold() in with_species)
        if why := _why_no_species(name, above):
            found[name] = why
    return found


def _why_no_species(latin_name: str, above: bool) -> str | None:
    words = normalise(latin_name.replace("_", " ")).casefold().split()
    if not words:
        return "fill-in word"
    whole, plain = " ".join(words).strip(" .:;"), [word.strip(AROUND).rstrip(".0123456789") for word in words]
    if whole in FILL_IN or plain[0] in FILL_IN_FIRST or not any(map(str.isalnum, whole)):
        return "fill-in word"
    if OPEN.intersection(plain) or plain[-1] in ("ssp", "subsp", "species") or any("?" in word for word in words):
        return "open nomenclature"
    if above or plain[0] in ABOVE or plain[0].endswith(ABOVE_ENDINGS) or ABOVE_SECOND.intersection(plain[1:2]):
        return "rank above the species"
    return None


def _words(latin_name: str) -> list[str]:
    text = normalise(latin_name.replace("_", " "))
    if text.isupper():  # case then tells names and authors apart no more
        text = text.lower()
    text = RANK_WITHOUT_BLANK.sub(r" \1 ", text)
    return text.replace("×", " × ").replace("(", " (").replace(")", ") ").split()


def _is_sign(word: str) -> bool:
    return word in HYBRID_SIGNS or word.casefold() == "hybrid"


def _means_another_plant(word: str) -> bool:
    # Here a sign is left only in formulas.
    quoted = word[0] in "'\"‘“’" and word not in AMONG_AUTHORS  # a cultivar; ‘'t’ is an author's
    return word in HYBRID_SIGNS or quoted or word.casefold().rstrip(".") in OTHER_PLANTS


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
    particle = letters.casefold() in AMONG_AUTHORS or letters[:2] in ("d'", "d’", "l'", "l’", "v.")  # d'Urv., v.d.
    return not letters or year or particle or letters[0].isupper()


def class_list(latin_names: Iterable[str]) -> list[str]:
    """Return the sorted, unique names: the only source of num_classes and of every label's index."""
    return sorted(set(latin_names))


def class_hash(classes: list[str]) -> str:
    """Return the sha256 of the ordered list. A model refuses labels of another hash."""
    return hashlib.sha256(json.dumps(classes, ensure_ascii=False).encode()).hexdigest()
