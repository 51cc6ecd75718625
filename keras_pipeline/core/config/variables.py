"""Values of a config from the environment: `${NAME}` and `${NAME:-default}`; `$${NAME}` is the text `${NAME}`.

A value that is one variable and nothing else is read as YAML, where its key takes what that gives: `seed: ${SEED:-7}`
is a number, `phase2.region: ${REGION}` the text NO. Every other value stays text.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from keras_pipeline.core.config import faults
from keras_pipeline.core.config.base import ConfigError
from keras_pipeline.core.config.domains import members

VARIABLE = re.compile(r"(\$?)\$\{(\w+)(?::-([^}]*))?\}")

KeyPath = tuple[int | str, ...]  # keys, and numbers of entries


def expand(values: Any, given: faults.Given, parse: Callable[[str], Any]) -> Any:
    """Return plain values with each variable replaced by its value.

    Args:
        given: where the values are from, for messages.
        parse: reads a text as YAML; raises ValueError.

    Raises:
        ConfigError: for a variable without a value or a default.
    """

    def changed(text: str, path: KeyPath) -> Any:
        def value_of(match: re.Match) -> str:
            if match[1]:
                return match[0][1:]
            value = os.environ.get(match[2]) or match[3]
            if value is None:
                key = ".".join(map(str, path))
                said = (
                    f"received {match[0]}, and the environment variable {match[2]} is {_state(match[2])}, expected a "
                    f"value for it; set it, or write ${{{match[2]}:-default}}"
                )
                raise ConfigError(given.told(key, said))
            return value

        found = VARIABLE.sub(value_of, text)
        whole = VARIABLE.fullmatch(text)
        return found if whole is None or whole[1] else _typed(found, faults.place_of(path).annotation, parse)

    return _each_text(values, changed)


def literal(value: Any) -> Any:
    """Return plain values, such as those of a written config, whose `${…}` stay what they are when they are read."""
    return _each_text(value, lambda text, _: VARIABLE.sub(lambda match: f"${match[0]}", text))


def origins(values: Any) -> dict[str, str]:
    """{dotted key: which variables its value is built from, to follow a message}"""
    found: dict[str, str] = {}

    def noted(text: str, path: KeyPath) -> str:
        if said := origin(text):
            found[".".join(map(str, path))] = said
        return text

    _each_text(values, noted)
    return found


def origin(value: Any) -> str:
    """Return which variables a value is built from, to follow a message; "" if none."""
    matches = VARIABLE.finditer(value) if isinstance(value, str) else ()
    names = dict.fromkeys(match[2] for match in matches if not match[1])
    return "".join(
        f"; its value is built from the environment variable {name}, which is {_state(name)}" for name in names
    )


def _state(name: str) -> str:
    if name not in os.environ:
        return "not set"
    return "set" if os.environ[name] else "empty"


def _typed(text: str, annotation: Any, parse: Callable[[str], Any]) -> Any:
    """Return what YAML reads a text as, unless the key takes texts and no such value."""
    try:
        value = parse(text)
    except ValueError:
        return text
    kinds = [*members(annotation)]
    if str not in kinds and Any not in kinds and annotation is not None:
        return value
    if value is None:
        return None if type(None) in typing.get_args(annotation) else text
    return value if type(value) in [typing.get_origin(kind) or kind for kind in kinds] else text


def _each_text(value: Any, change: Callable[[str, KeyPath], Any], path: KeyPath = ()) -> Any:
    if isinstance(value, Mapping):
        return {name: _each_text(inner, change, (*path, name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [_each_text(inner, change, (*path, i)) for i, inner in enumerate(value)]
    return change(value, path) if isinstance(value, str) else value
