"""The base class of all config sections, and the error for a config that can't be used."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from keras_pipeline.core.region_names import names_of

# Marks a field that may name a file, `Annotated[str, FILE]`: the contents of the file count, not its path.
FILE = object()


def _checked(region: str | list[str]) -> str | list[str]:
    names = names_of(region)
    if not names or not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"received {region!r}, expected a region, or a list of different regions such as [ES, PT]; correct it"
        )
    return region if len(names) > 1 else names[0]


# A region of the photos, or several that count as one.
Region = Annotated[str | list[str], AfterValidator(_checked)]


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
