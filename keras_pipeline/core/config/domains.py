"""What a config key may hold, in words: for docs/config.md and for messages about wrong values."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import annotated_types

from keras_pipeline.core.config.base import Section

SIGNS = {annotated_types.Ge: "≥", annotated_types.Gt: ">", annotated_types.Le: "≤", annotated_types.Lt: "<"}


def domain(annotation: Any, rules: Iterable[Any]) -> str:
    """Return type and limits, such as `whole number, ≥ 1, ≤ 1000`.

    Args:
        annotation: of the field.
        rules: its metadata, of which pydantic's limits are shown.
    """
    return ", ".join([kind(annotation), *(words for rule in rules for words in _limits(rule))])


def kind(annotation: Any) -> str:
    """Return the type alone: `list of text`, `whole number or null`."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return kind(typing.get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in typing.get_args(annotation))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(kind(part) for part in typing.get_args(annotation))
    if origin is list:
        return f"list of {kind(typing.get_args(annotation)[0])}"
    if origin is dict or annotation is dict:
        return "mapping"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"section with {', '.join(annotation.model_fields)}"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(
        annotation, getattr(annotation, "__name__", str(annotation)).lower()
    )


def members(annotation: Any) -> Iterator[Any]:
    """Yield the types that a value may have: those of a union, without null, or the one there is."""
    if typing.get_origin(annotation) is Annotated:
        yield from members(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (types.UnionType, typing.Union):
        for part in typing.get_args(annotation):
            yield from members(part)
    elif annotation is not type(None):
        yield annotation


def _limits(rule: Any) -> Iterator[str]:
    for limit, sign in SIGNS.items():
        if isinstance(rule, limit):
            yield f"{sign} {getattr(rule, limit.__name__.lower())}"
    if isinstance(rule, annotated_types.MinLen):
        yield "not empty"
