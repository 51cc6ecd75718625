"""Count or look up keys at 5 or 10 bytes each.

Of 850,000 documents the audit keeps the URLs and observations in 13 MB. Dicts of 64-bit hashes take 144 MB and dicts
of texts 176 MB, which would double the audit's peak memory; they save 2.5 of 6 seconds. Lists to be sorted at the end
would be as small, but a repeated URL is reported with the names that both of its documents have, in one pass.
"""

from __future__ import annotations

import hashlib
from array import array


class HashTable:
    """Small numbers by key, each in a slot of 8 (typecode Q) or 4 bytes (I): open addressing, linear probing.

    A slot holds the number and the upper bits of the key's hash; the lower bits give its place (compact hashing, Cleary
    1984, but inexact). A look-up mistakes a new key for a known one with a probability of about 3 / 2**t, where t is
    the number of hash bits in a slot: among 850,000 keys, 2e-6 times for t = 40, 0.2 times for t = 24.

    Args:
        keys: how many are expected; for more, further tables are added.
        typecode: of `array`: Q or I.
        number_bits: bits of a slot that hold the number.
    """

    def __init__(self, keys: int, typecode: str, number_bits: int) -> None:
        self._typecode, self._bits = typecode, number_bits
        self._tag_mask = (1 << (array(typecode).itemsize * 8 - number_bits)) - 1
        self._tables: list[array] = []
        self._size = self._room = 0
        self._grow(keys + 1)  # a full table would add another

    def get(self, key: str, number: int) -> int:
        """Return the key's number. A new key gets `number` (at least 1), and 0 is returned."""
        slots, place, tag = self._find(key)
        if slots[place]:
            return slots[place] & ((1 << self._bits) - 1)
        self._set_new(slots, place, tag | number)
        return 0

    def count(self, key: str) -> int:
        """Count the key and return how often it was counted before; the count stops at the largest number."""
        slots, place, tag = self._find(key)
        largest = (1 << self._bits) - 1
        before = slots[place] & largest
        if not before:
            self._set_new(slots, place, tag | 1)
        elif before < largest:
            slots[place] += 1
        return before

    def peek(self, key: str) -> int:
        """Return the key's number, 0 for a new one, which stays new."""
        slots, place, _ = self._find(key)
        return slots[place] & ((1 << self._bits) - 1)

    def _find(self, key: str) -> tuple[array, int, int]:
        """Return the table and slot that hold the key, or the empty slot for it, and the key's tag."""
        # Not `hash`, which differs between processes: the same collection must give the same audit.
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
        if not self._room:  # more keys than expected
            self._grow(max(1000, self._size // 2))

    def _grow(self, keys: int) -> None:
        # At most 80 % full, because a look-up ends at an empty slot. Never moved, which would take two tables at once.
        self._tables.append(array(self._typecode, [0]) * (keys + keys // 4 + 1))
        self._size += keys
        self._room = keys
