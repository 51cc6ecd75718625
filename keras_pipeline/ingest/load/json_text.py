"""JSON read piece by piece: lists and mappings larger than memory, one value at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

from keras_pipeline.core.errors import SourceError
from keras_pipeline.ingest.load.rows import LINE

PIECE = 1 << 16  # characters
BLANK = " \t\r\n"
FOLLOWS = tuple(f"{BLANK},]}}")  # a number


class JsonText:
    """A JSON text and the place up to which it has been read.

    Raises SourceError where it is cut or no JSON, with the character's number.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        self._text, self._at, self._before, self._ended = "", 0, 0, False
        self._decoder = json.JSONDecoder()

    @property
    def place(self) -> str:
        """Where reading stands."""
        return f"character {self._before + self._at + 1:,}"

    def next_sign(self) -> str:
        """Return the next character that is no blank, without taking it; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in BLANK:
                    return self._text[self._at]
                self._at += 1
            if not self._more(PIECE):
                return ""

    def take(self, *signs: str) -> str:
        """Take one of the characters."""
        found = self.next_sign()
        if found not in signs or not found:
            raise self._broken(f"expected {' or '.join(signs)}, received {found or 'the end: the file is cut'}")
        self._at += 1
        return found

    def value(self) -> tuple[Any, str]:
        """Take a value; return it and its text."""
        self.next_sign()
        wanted = PIECE
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or len(self._text) - self._at > LINE:
                    raise self._broken(f"no JSON value of up to {LINE:,} characters ({error})") from None
                if not self._more(wanted):
                    raise self._broken(f"{error}; the file is cut or no JSON") from None
                wanted *= 2  # each further try reads the value from its beginning
                continue
            complete = not isinstance(value, int | float) or self._text[end : end + 1] in FOLLOWS
            if complete or not self._more(PIECE):  # a number may go on
                text, self._at = self._text[self._at : end], end
                return value, text

    def elements(self) -> Iterator[tuple[str, Any, str]]:
        """Yield (place, value, text) of each element of a list."""
        self.take("[")
        if self.next_sign() == "]":
            self.take("]")
            return
        sign = ","
        while sign == ",":
            self.next_sign()
            place = self.place
            yield place, *self.value()
            sign = self.take(",", "]")

    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield (place, key) of each entry of a mapping; whoever asks takes the value before the next."""
        self.take("{")
        if self.next_sign() == "}":
            self.take("}")
            return
        sign = ","
        while sign == ",":
            self.next_sign()
            place = self.place
            key, _ = self.value()
            if not isinstance(key, str):
                raise self._broken(f"expected a key, received {key!r:.40}")
            self.take(":")
            yield place, key
            sign = self.take(",", "}")

    def end(self) -> None:
        """Check that nothing follows."""
        if found := self.next_sign():
            raise self._broken(f"expected the end, received {found!r}")

    def _more(self, characters: int) -> bool:
        self._text, self._before, self._at = self._text[self._at :], self._before + self._at, 0
        piece = "" if self._ended else self._stream.read(characters)
        self._ended = not piece
        self._text += piece
        return bool(piece)

    def _broken(self, why: str) -> SourceError:
        return SourceError(
            f"{self._name}, {self.place}: {why}; what came before is stored; download the file again and run the same "
            "command"
        )
