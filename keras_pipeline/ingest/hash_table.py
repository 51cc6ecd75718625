"""What was seen before, at 5 or 10 bytes a key: a dict of a million texts takes a hundred."""

from __future__ import annotations

import hashlib
from array import array


class HashTable:
    """A small number for each key, in one slot of 8 (typecode Q) or 4 bytes (I): open addressing, linear probing.

    A slot holds the number and the upper bits of the key's hash; the lower ones are its place (compact hashing, Cleary
    1984, without his exactness). A look-up takes a new key for a known one with a probability of about 3 / 2**t, with
    t the bits of a slot without the number's: among 850,000 keys, 2e-6 times for t = 40, 0.2 times for t = 24.

    Args:
        keys: how many are expected; more make another table.
        typecode: of `array`, Q or I.
        number_bits: of a slot, for the number.
    """

    def __init__(self, keys: int, typecode: str, number_bits: int) -> None:
        self._typecode, self._bits = typecode, number_bits
        self._tag_mask = (1 << (array(typecode).itemsize * 8 - number_bits)) - 1
        self._tables: list[array] = []
        self._size = self._room = 0
        self._grow(keys + 1)  # the one more would begin another table

    def get(self, key: str, number: int) -> int:
        """The number that the key has, or 0: it is new and has this one (at least 1) now."""
        slots, place, tag = self._find(key)
        if slots[place]:
            return slots[place] & ((1 << self._bits) - 1)
        self._set_new(slots, place, tag | number)
        return 0

    def count(self, key: str) -> int:
        """How often the key was counted before; the largest number means that or more, and stays."""
        slots, place, tag = self._find(key)
        largest = (1 << self._bits) - 1
        before = slots[place] & largest
        if not before:
            self._set_new(slots, place, tag | 1)
        elif before < largest:
            slots[place] += 1
        return before

    def _find(self, key: str) -> tuple[array, int, int]:
        """The slots and the place that hold the key or, empty, wait for it; its tag."""
        # Not `hash`, which is another one in each process: the same collection must give the same audit.
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        hashed, bits = int.from_bytes(digest), self._bits
        for slots in self._tables:
            size = len(slots)
            above, place = divmod(hashed, size)
            tag = (above & self._tag_mask) << bits
            while (entry := slots[place]) and entry >> bits << bits != tag:
                place += 1
                if place == size:
                    place = 0
            if entry:
                break
        return slots, place, tag

    def _set_new(self, slots: array, place: int, entry: int) -> None:
        slots[place] = entry
        self._room -= 1
        if not self._room:  # more documents than were announced
            self._grow(max(1000, self._size // 4))

    def _grow(self, keys: int) -> None:
        # At most 80 % full: a look-up ends at an empty slot. And never moved, which would take two tables at once.
        self._tables.append(array(self._typecode, [0]) * (keys + keys // 4 + 1))
        self._size += keys
        self._room = keys
