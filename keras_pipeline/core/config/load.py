"""Reads an experiment's YAML file, with `--set` overrides and `${NAME:-default}` from the environment.

`from_file(path, overrides)` returns a `Config` or raises `ConfigError`, which says of every fault where the value was
given, what was received, what is expected, and what to do (`faults`). No password needs to be in a file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from keras_pipeline.core.config import faults, variables
from keras_pipeline.core.config.base import ConfigError, Section
from keras_pipeline.core.config.experiment import Config, planned
from keras_pipeline.core.config.student import REGIONAL_TEACHER
from keras_pipeline.core.redaction import redact_values

KINDS = {type(None): "nothing, an empty file", list: "a list", str: "text", bool: "true or false"}


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads 1e-5 as a number (YAML 1.1: a string) and refuses repeated keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        # Here, before merge keys (`<<`) are resolved: those write inherited keys into the node too.
        keys = [key.value for key, _ in node.value]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            where = f"{self.name}, section from line {node.start_mark.line + 1}"
            raise ConfigError(f"{where}: {', '.join(sorted(repeated))}: given twice; keep one")
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def from_file(path: str | Path, overrides: list[str] | None = None, flags: Mapping[str, str] | None = None) -> Config:
    """Read one experiment.

    Args:
        path: YAML file; its stem is the experiment's name unless the file gives one.
        overrides: `a.b.c=value` strings, the value in YAML, applied after the file.
        flags: {override: what was typed instead, such as `--images`}, for messages; the others are called `--set`.

    Raises:
        ConfigError: the configuration is not usable; lists every fault.
    """
    path = Path(path)
    if not path.is_file():  # a pipe would be waited for
        kind = "a folder" if path.is_dir() else "no file" if path.exists() else "no such file"
        raise ConfigError(f"{path}: received {kind}, expected a YAML file; correct the path, see configs/")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read ({error}); expected a YAML file, see configs/") from error
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: received {KINDS.get(type(values), 'a number')}, expected a mapping of sections; give another "
            "file, see configs/demo.yaml"
        )
    notes = {} if "experiment" in values else {"experiment": "; this is the file's stem: add a line `experiment: NAME`"}
    values.setdefault("experiment", path.stem)
    return with_overrides(values, overrides or [], str(path), flags, notes=notes)


def with_overrides(
    values: dict,
    overrides: list[str],
    origin: str,
    flags: Mapping[str, str] | None = None,
    *,
    notes: Mapping[str, str] | None = None,
) -> Config:
    """Apply `a.b.c=value` strings, then validate as `from_dict`. Raises ConfigError.

    Args:
        values: plain, of a file.
        overrides, flags: as of `from_file`.
        origin: what holds the values, for messages.
        notes: {dotted key: what follows a message about the file's value of it}
    """
    file, typed = values, dict[str, faults.Typed]()
    for override in overrides:
        key, _, text = override.partition("=")
        values = _override(values, override)
        typed.pop(key, None)  # the last one counts
        typed[key] = faults.Typed((flags or {}).get(override, f"--set {key}"), text)
    _refuse_without_effect(values, list(typed))
    untyped = {key: note for key, note in (notes or {}).items() if key not in typed}
    config = _validated(values, faults.Given(origin, file, typed, untyped))
    followed = _with_its_region(file, values, list(typed))
    return config if followed is values else from_dict(followed, origin)


def from_dict(values: dict, origin: str = "config") -> Config:
    """Validate nested plain values, as YAML yields them. Raises ConfigError."""
    return _validated(values, faults.Given(origin, values))


def _validated(values: dict, given: faults.Given) -> Config:
    try:
        return Config.model_validate(variables.expand(values, given, lambda text: _parse(text, "")))
    except ValidationError as error:
        given = dataclasses.replace(given, notes={**variables.origins(values), **given.notes})
        raise ConfigError(faults.described(error.errors(include_url=False), given)) from None
    except RecursionError:
        raise ConfigError(
            f"{given.origin}: a section contains itself (through a YAML alias); remove the alias"
        ) from None


def write(path: Path, config: Config) -> Path:
    """Write a file that `from_file` reads as the same config, without passwords; return its path."""
    values = variables.literal(redact_values(config.model_dump()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# Written by `demo --images`.\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path


def _parse(text: str, origin: str) -> Any:
    try:
        loader = _Loader(text)
        loader.name = origin  # PyYAML would call it <unicode string>.
        return loader.get_single_data()
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2020-13-01 is no date, [[[[… has no end
        raise ConfigError(f"{origin}: is not YAML: {error}; correct it, or put texts with signs in quotes") from error


def _override(values: dict, override: str) -> dict:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        received = f"received {override!r}" if override else "received nothing"
        raise ConfigError(f"--set: {received}, expected a key, = and a value; give it as --set a.b.c=value")
    return _with(values, key.split("."), _parse(text, f"--set {key}"), key)


def _refuse_without_effect(values: dict, keys: list[str]) -> None:
    """Without phase 2 its entry of phase3.teachers is left out, as documented; not so if it was given to be changed."""
    phase3 = values.get("phase3")
    teachers = phase3.get("teachers") if isinstance(phase3, dict) else None
    if "phase2" not in values or values["phase2"] is not None or not isinstance(teachers, list):
        return
    for i, each in enumerate(teachers):
        for key in keys:
            is_regional = isinstance(each, dict) and each.get("path") == REGIONAL_TEACHER
            if is_regional and key.startswith(f"phase3.teachers.{i}."):
                raise ConfigError(
                    f"--set {key}: received a setting of {REGIONAL_TEACHER}, expected one of another teacher: phase2 "
                    "is null, so no step makes it; leave it out, or let phase2 be a section: --set 'phase2={region: …}'"
                )


def _with_its_region(file: dict, values: dict, keys: list[str]) -> dict:
    """Let the regional teacher answer for the new `phase2.region` where it answered for the file's, as `keys` leave it.

    Who gives a region means both; what the ensemble gives that teacher to answer is easily forgotten.
    """
    was, new = (_setting(each, ["phase2", "region"]) for each in (file, values))
    teachers = _setting(values, ["phase3", "teachers"])
    for i, each in enumerate(teachers if isinstance(teachers, list) and None not in (was, new) else ()):
        key = f"phase3.teachers.{i}.region_filter"
        follows = isinstance(each, dict) and (each.get("path"), each.get("region_filter")) == (REGIONAL_TEACHER, was)
        if follows and was != new and not any(f"{key}.".startswith(f"{given}.") for given in keys):
            values = _with(values, key.split("."), new, key)
    return values


def _setting(values: dict, path: list[str]) -> Any:
    """Return the value of a key in a section, or its default."""
    section, key = path
    below = values.get(section, {})
    if not isinstance(below, dict) or key in below:
        return faults.value_at(values, path)
    place = faults.place_of((section,)).section
    default = place.model_fields[key].default if place else None
    return _default(path) if isinstance(default, list) else default


def _with(values: Any, path: list[str], value: Any, key: str) -> Any:
    """Return a copy with one value replaced: sections that phases share (`*anchor`) must not change."""
    first, *rest = path
    above = key[: -len(".".join(path)) - 1]
    if isinstance(values, list):
        numbers = [str(number) for number in range(len(values))]
        if first not in numbers:
            expected = f"one of {', '.join(numbers)}" if numbers else "none, for the list is empty"
            raise ConfigError(
                f"--set {key}: received {first!r} as the number of an entry of {above}, expected {expected}; "
                f"a list of another length is given whole: --set '{above}=[…]'"
            )
        entries = dict(zip(numbers, values, strict=True))
        return list(_with(entries, path, value, key).values())
    if not isinstance(values, dict):
        if values is None:
            raise ConfigError(
                f"--set {key}: received a key of {above}, which is null, expected one of a section; leave it out, or "
                f"give the whole section: --set '{above}={{{'.'.join(path)}: …}}'"
            )
        raise ConfigError(f"--set {key}: {above} is a value, not a section; leave {'.'.join(path)} out")
    below = values[first] if first in values else _default([*above.split("."), first] if above else [first])
    return {**values, first: _with(below, rest, value, key) if rest else value}


def _default(path: list[str]) -> list | dict:
    """Return what an override changes if the file lacks it: the default of a list, or an empty section."""
    section = faults.place_of(tuple(path[:-1])).section
    field = section.model_fields.get(path[-1]) if section else None
    default = field.default if field else None
    if not isinstance(default, list):
        return {}
    return [entry.model_dump(exclude_unset=True) if isinstance(entry, Section) else entry for entry in default]


def with_origins(message: str, path: str | Path, overrides: list[str], flags: Mapping[str, str]) -> str:
    """Add to each line that starts with a key what its value is from: a flag, or environment variables.

    Args:
        message: of an error, such as `source.demo.images: received …`.
        path, overrides: as given to `from_file`; nothing is added where the file can't be read.
        flags: {dotted key: the flag that was typed for it}
    """
    try:
        values = _parse(Path(path).read_text(encoding="utf-8"), str(path))
        for override in overrides:
            values = _override(values, override)
    except (OSError, ValueError):
        return message
    values = planned(values)  # a key may have its value from another one, such as `weights`
    lines = []
    for line in message.splitlines():
        key = line.partition(":")[0].partition(" ")[0]
        built = line + variables.origin(faults.value_at(values, key.split(".")))
        lines.append(f"{flags[key]}: {built}" if key in flags else built)
    return "\n".join(lines)
