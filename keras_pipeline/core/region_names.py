"""Regions: as a config names them, one or several that count as one, and as a property of photos or of species."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Share of the species whose photos all lie in one region, from which on the region is taken for the species' own: a
# distribution that was looked up by the name, not where the photo was taken.
OF_SPECIES = 0.95


def names_of(region: str | list[str]) -> list[str]:
    """Return the regions of photos that it stands for."""
    return [region] if isinstance(region, str) else region


def title_of(region: str | list[str]) -> str:
    """Return its name in tables and messages: `ES + PT`."""
    return " + ".join(names_of(region))


def photos_of(per_region: Mapping[str, int], region: str | list[str]) -> int:
    """Count its photos, given those of each region."""
    return sum(per_region.get(name, 0) for name in names_of(region))


def pooled(per_region: Mapping[str, dict], region: str | list[str]) -> dict | None:
    """Return {n, species, top1} of its photos, given each region's; None if it has no photo.

    `species` is that of the region with most: which species are the same in two regions is not known here.
    """
    entries = [per_region[name] for name in names_of(region) if name in per_region]
    if not entries:
        return None
    n = sum(entry["n"] for entry in entries)
    top1 = entries[0]["top1"] if len(entries) == 1 else sum(entry["n"] * entry["top1"] for entry in entries) / n
    return {"n": n, "species": max(entry["species"] for entry in entries), "top1": top1}


def are_of_species(photos: Iterable[tuple[int, int]]) -> bool:
    """Return whether regions are a property of the species here: nearly all have all their photos in one.

    Args:
        photos: of each species, those in the region in question and in all; species with one photo tell nothing.
    """
    telling = [inside == total for inside, total in photos if total > 1]
    return bool(telling) and sum(telling) >= OF_SPECIES * len(telling)
