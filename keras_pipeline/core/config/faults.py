"""Faults of a config in our words: where the value was given, what was received, what is expected, what to do."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import functools
import json
import re
import shlex
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from keras_pipeline.core.config.base import Section
from keras_pipeline.core.config.domains import domain, members
from keras_pipeline.core.config.experiment import Config

SHOWN = 60  # characters of a wrong value
SHOWN_KEYS = 4  # of those that may be meant


@dataclasses.dataclass(frozen=True)
class Place:
    """A key as pydantic's location names it."""

    parts: tuple[str, ...]
    annotation: Any  # of its field; None where no field has this name
    rules: tuple[Any, ...] = ()

    @property
    def key(self) -> str:
        """The dotted name; '' for the whole file."""
        return ".".join(self.parts)

    @property
    def section(self) -> type[Section] | None:
        """The class of the section, if this is one."""
        kinds = members(self.annotation)
        return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


class Typed(NamedTuple):
    """A value of the command line."""

    name: str  # `--set a.b` or `--images`
    text: str


@dataclasses.dataclass(frozen=True)
class Given:
    """Where the values of a config are from."""

    origin: str  # the file, or what else holds them
    values: dict[Any, Any]  # of the file
    typed: Mapping[str, Typed] = dataclasses.field(default_factory=dict)  # by dotted key; they replace the file's
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)  # {dotted key: what follows a message about it}

    def told(self, key: str, said: str, names: list[str] | None = None) -> str:
        """Return a line about a key that names what was typed; `names` if that was something else."""
        said += self.notes.get(key, "")
        if names is None:
            names = [typed.name for other, typed in self.typed.items() if _related(other, key)][-1:]
        if not names:
            return ": ".join(filter(None, (self.origin, key, said)))
        if names == [f"--set {key}"]:
            return f"{names[0]}: {said}"
        return ": ".join(filter(None, (", ".join(dict.fromkeys(names)), key, said)))


def described(faults: list[Any], given: Given) -> str:
    """Return a line for each key that is wrong, of pydantic's faults, `ValidationError.errors()`."""
    # Of a key that may have two types pydantic reports two faults.
    first = {place_of(fault["loc"]).key: fault for fault in reversed(faults)}
    return "\n".join(_line(first[key], given) for key in reversed(first))


def value_at(values: Any, path: list[str]) -> Any:
    """Return what nested plain values hold at a path of keys and numbers; None where they don't."""
    for part in path:
        if isinstance(values, list):
            values = dict(zip(map(str, range(len(values))), values, strict=True))
        values = values.get(part) if isinstance(values, dict) else None
    return values


def place_of(location: tuple[int | str, ...]) -> Place:
    """Return the key at a location, without the marks that pydantic adds for the types of a union."""
    place = Place((), Config)
    for part in location[:-1] if location[-1:] == ("[key]",) else location:
        below = next(filter(None, (_below(place.parts, kind, part) for kind in members(place.annotation))), None)
        if below is None:
            break
        place = below
    return place


def _below(parts: tuple[str, ...], kind: Any, part: int | str) -> Place | None:
    parts, inner = (*parts, str(part)), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Section):
        field = kind.model_fields.get(str(part))
        return Place(parts, field.annotation, tuple(field.metadata)) if field else Place(parts, None)
    if typing.get_origin(kind) is list and isinstance(part, int):
        return Place(parts, inner[0])
    return Place(parts, inner[1]) if typing.get_origin(kind) is dict else None


def _line(fault: Mapping[str, Any], given: Given) -> str:
    place = place_of(fault["loc"])
    key = place.key
    if fault["type"] != "value_error":
        return given.told(key, _wrong(fault, place, given))
    said = str(fault["ctx"]["error"])  # a rule of ours
    names = _typed_of_rule(key, said, given.typed)
    if match := re.match(r"([\w.]+): ", said):  # of a section, about one of its keys
        key, said = f"{key}.{match[1]}".lstrip("."), said[match.end() :]
    return given.told(key, said, names)


def _typed_of_rule(section: str, said: str, given: Mapping[str, Typed]) -> list[str]:
    """Return how the values were typed that a rule between several keys speaks of, or else all of its section."""
    words = re.findall(r"[a-z][\w.]*\w", said)
    spoken = {f"{section}.{word}" for word in words} if section else {*words}
    spoken |= {word for word in words if "." in word}
    about = [typed.name for key, typed in given.items() if any(_related(key, each) for each in spoken)]
    return about or [typed.name for key, typed in given.items() if _related(key, section)]


def _related(one: str, other: str) -> bool:
    """Return whether they are the same key, or one is a section that holds the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _wrong(fault: Mapping[str, Any], place: Place, given: Given) -> str:
    if place.annotation is None:
        return _unknown(place, place_of(fault["loc"][:-1]).section or Config, given)
    if fault["loc"][-1:] == ("[key]",):
        return f"received the name {fault['loc'][-2]!r}, expected text; put it in quotes"
    words = domain(place.annotation, place.rules)
    expected = f"a {words}" if words.startswith(("list", "mapping", "number", "section", "whole")) else words
    if fault["type"] == "missing":
        return f"received nothing, expected {expected}; add it"
    remedy = _quoted(fault["input"], place, given) or _remedy(fault["input"], place, given)
    return f"received {_shown(fault['input'])}, expected {expected}; {remedy}"


def _unknown(place: Place, section: type[Section], given: Given) -> str:
    name, names = place.parts[-1], list(section.model_fields)
    typed = next((key for key in given.typed if f"{key}.".startswith(f"{place.key}.")), place.key)
    above = place.key.removesuffix(name)
    ends = [key for key in _keys(above, section) if key.endswith(f".{typed.removeprefix(above)}")]
    if ends:
        more = ", …" if len(ends) > SHOWN_KEYS else ""
        return f"received an unknown key, expected the whole of it; did you mean {', '.join(ends[:SHOWN_KEYS])}{more}?"
    begun = [each for each in names if each.startswith(name) or name.startswith(each)]
    close = begun or difflib.get_close_matches(name, names, 1, 0.4)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"received an unknown key{meant}, expected one of {', '.join(names)}; correct it, or remove it"


def _keys(above: str, section: type[Section]) -> Iterator[str]:
    """Yield the dotted keys below a section, which begin with `above`."""
    for name, field in section.model_fields.items():
        yield f"{above}{name}"
        for kind in members(field.annotation):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from _keys(f"{above}{name}.", kind)


def _shown(value: Any) -> str:
    """Return a value as the YAML file has it, the type of a text beside it: '5' is no number."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, str):
        return f"{_shortened(repr(value))} (text)"
    try:
        return _shortened(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError):  # a date
        return _shortened(str(value))


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def _quoted(value: Any, place: Place, given: Given) -> str:
    """Return how to write a text that YAML reads as something else; "" where the value is none of these."""
    values = value if isinstance(value, list) else [value]
    misread = [each for each in values if isinstance(each, bool | int | float | datetime.date)]
    if str not in members(place.annotation) or not misread:
        return ""
    typed = given.typed.get(place.key)
    if typed and typed.name == f"--set {place.key}" and value in misread:
        return f"quote it: --set {shlex.quote(f'{place.key}={json.dumps(typed.text, ensure_ascii=False)}')}"
    such_as = ', such as "NO", which YAML reads as false' if any(each is False for each in misread) else ""
    return f"put {'its texts' if isinstance(value, list) else 'it'} in quotes{such_as}"


def _remedy(value: Any, place: Place, given: Given) -> str:
    above = place_of(place.parts[:-1])
    is_typed = any(_related(key, place.key) for key in given.typed)
    if value is None and type(None) in typing.get_args(above.annotation):
        return f"correct it, or {f'give --set {above.key}=null' if is_typed else f'set {above.key}: null'} for none"
    if is_typed and place.key != "experiment" and value_at(given.values, list(place.parts)) is not None:
        return f"correct it, or leave it out for the value in {given.origin}"
    default: Any = _defaults()
    for part in place.parts:
        if not isinstance(default, Section) or part == "experiment":
            return "correct it"
        default = getattr(default, part)
    if place.section or (isinstance(default, list) and any(isinstance(each, Section) for each in default)):
        return "correct it, or leave the key out for its defaults"
    plain = json.dumps(default, ensure_ascii=False).replace('"', "")
    return f"correct it, or leave the key out for its default, {plain}"


@functools.cache
def _defaults() -> Config:
    return Config(experiment="any")
