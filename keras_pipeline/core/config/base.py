"""The base class of all config sections, and the error for a config that can't be used."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

# Marks a field that may name a file, `Annotated[str, FILE]`: the contents of the file count, not its path.
FILE = object()


class ConfigError(ValueError):
    """The configuration can't be used; the message lists every fault. The command line exits with 2."""


class Section(BaseModel):
    """A section of the YAML file: frozen, typed, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be a password
    )
