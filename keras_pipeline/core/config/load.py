"""Reads an experiment's YAML file, with `--set` overrides and `${NAME:-default}` from the environment.

`from_file(path, overrides)` returns a `Config` or raises `ConfigError`, which says of every fault where the value was
given, what was received, what is expected, and what to do (`faults`). No password needs to be in a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from keras_pipeline.core.config import faults
from keras_pipeline.core.config.base import ConfigError, Section
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.student import REGIONAL_TEACHER
from keras_pipeline.core.redaction import redact_values

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")  # ${NAME} or ${NAME:-default}


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
            f"{path}: received {type(values).__name__}, expected a mapping of sections, see configs/demo.yaml"
        )
    values.setdefault("experiment", path.stem)
    return with_overrides(values, overrides or [], str(path), flags)


def with_overrides(values: dict, overrides: list[str], origin: str, flags: Mapping[str, str] | None = None) -> Config:
    """Apply `a.b.c=value` strings, then validate as `from_dict`. Raises ConfigError."""
    given: dict[str, str] = {}
    for override in overrides:
        values = _override(values, override)
        key = override.partition("=")[0]  # a value may be a URI with a password
        given.pop(key, None)  # the last one counts
        given[key] = (flags or {}).get(override, f"--set {key}")
    _refuse_without_effect(values, list(given))
    return from_dict(values, origin, given)


def from_dict(values: dict, origin: str = "config", given: Mapping[str, str] | None = None) -> Config:
    """Validate nested plain values, as YAML yields them; `given` is as in `faults.described`. Raises ConfigError."""
    try:
        return Config.model_validate(_expand(values))
    except ValidationError as error:
        raise ConfigError(faults.described(error.errors(include_url=False), origin, given or {})) from None
    except RecursionError:
        raise ConfigError(f"{origin}: a section contains itself (through a YAML alias); remove the alias") from None


def write(path: Path, config: Config) -> Path:
    """Write a file that `from_file` reads as the same config, without passwords; return its path."""
    values = redact_values(config.model_dump())
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
        raise ConfigError(f"{origin}: is not YAML: {error}") from error


def _override(values: dict, override: str) -> dict:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigError(f"--set {override}: expected a.b.c=value")
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
                    "is null, so no step makes it; take it back, or set phase2.region to a region that photos have"
                )


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
        raise ConfigError(f"--set {key}: {above} is {'null' if values is None else 'a value'}, not a section")
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


def with_variables(message: str, path: str | Path, overrides: list[str]) -> str:
    """Add to each line that starts with a key the environment variables that the file builds its value from.

    Args:
        message: of an error, such as `source.demo.images: received …`.
        path, overrides: as given to `from_file`; nothing is added where the file can't be read.
    """
    try:
        values = _parse(Path(path).read_text(encoding="utf-8"), str(path))
        for override in overrides:
            values = _override(values, override)
    except (OSError, ValueError):
        return message
    lines = []
    for line in message.splitlines():
        value = _value_at(values, line.partition(":")[0].partition(" ")[0].split("."))
        names = dict.fromkeys(match[1] for match in VARIABLE.finditer(value)) if isinstance(value, str) else ()
        said = (f"{name}, which is {'set' if os.environ.get(name) else 'not set'}" for name in names)
        lines.append("; its value is built from the environment variable ".join((line, *said)))
    return "\n".join(lines)


def _value_at(value: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(value, list):
            value = dict(zip(map(str, range(len(value))), value, strict=True))
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _expand(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _expand(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner) for inner in value]
    if isinstance(value, str):
        return VARIABLE.sub(_from_environment, value)
    return value


def _from_environment(match: re.Match) -> str:
    name = match[1]
    value = os.environ.get(name) or match[2]
    if value is None:
        raise ConfigError(
            f"${{{name}}}: the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
        )
    return value
