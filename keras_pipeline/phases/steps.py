"""The steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.experiment import Config


@dataclasses.dataclass(frozen=True)
class Step:
    """One command: which artefacts it reads and leaves, which config it depends on, and what it does."""

    phase: str
    name: str
    run: Callable[[Run], None]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sections: tuple[str, ...]  # dotted config keys
    code_version: int
    # Removes what only a restart needs, once the outputs are safe; again after each later run.
    clean: Callable[[Run], None] | None = None
    estimate: Callable[[Run], str] | None = None  # what `--dry-run` says of its size
    # (run, photos as far as they are counted), before anything runs: raises where the step can't succeed
    check: Callable[[Run, Any], None] | None = None
    more_inputs: Callable[[Config], tuple[str, ...]] | None = None  # that only some configs ask for
    trains: bool = False  # on all devices that the config's `distribute` names

    @property
    def title(self) -> str:
        return f"{self.phase} {self.name}"

    def needs(self, config: Config) -> tuple[str, ...]:
        """Names of the artefacts that it reads."""
        return self.inputs + (self.more_inputs(config) if self.more_inputs else ())
