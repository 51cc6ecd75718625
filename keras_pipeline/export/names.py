"""names.txt: the class list with its genera and families as the page reads it before its first answer.

    4f2c…e1 [details] [families]     sha256 of the class list (`class_hash`); whether labels.json holds details
    Abies alba\t\tPinaceae           name, genus, family
     nordmanniana                    begins with a blank: the first word is that of the line above
    Acer campestre\t\tSapindaceae

A genus that is not told is the first word of the name. A family that is not told is that of the line above. It holds a
third of the bytes of labels.json, which stays the file that other programs read.
"""

from __future__ import annotations

NAMES = "names.txt"


def names_text(labels: dict) -> str:
    """Return the content of names.txt.

    Args:
        labels: content of labels.json, {sha256, classes, genera, [families], [details]}.

    Raises:
        ValueError: for a name that does not fit into a line.
    """
    classes, genera = labels["classes"], labels["genera"]
    families = labels.get("families", [""] * len(classes))
    told = [key for key in ("details", "families") if key in labels]
    lines, above, family_above = [" ".join([labels["sha256"], *told])], "", ""
    for name, genus, family in zip(classes, genera, families, strict=True):
        _check(name, genus, family)
        first = name.split(" ")[0]
        written = name.removeprefix(first) if first == above and " " in name else name
        fields = [written, "" if genus == first else genus, family]
        if family == family_above:
            fields = fields[: 2 if fields[1] else 1]
        lines.append("\t".join(fields))
        above, family_above = first, family
    return "\n".join(lines) + "\n"


def _check(*texts: str) -> None:
    for text in texts:
        if text.startswith(" ") or set(text) & set("\t\r\n"):
            raise ValueError(
                f"received the name {text!r}, expected one line that does not begin with a blank; "
                "correct it in the collection, or by source.synonyms"
            )
