"""Schema of the manifest: the plan's YAML (7.1) and all that a repetition needs; checked on writing and reading."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside

PHASES = tuple(f"phase_{n}" for n in range(7))  # phase 7 writes the manifest
LARGEST = 20_000_000  # bytes, twenty times what 10,000 shards need; YAML of more computes for minutes
SHOWN = 60  # characters of a wrong value
HASH = Field(pattern="^[0-9a-f]{64}$")


class Part(BaseModel):
    """A part of the manifest: typed, no unknown keys."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Data(Part):
    """The collection as it was when the records were made."""

    mongo_snapshot: str  # dataset.json of the records
    source: str  # without a password
    query: dict[str, Any]
    dataset_hash: str = HASH
    class_hash: str
    total_samples: int
    total_species: int
    train_samples: int
    val_samples: int
    calibration_samples: int
    test_samples: int
    shards: dict[str, str]  # file -> sha256


class Phase(BaseModel):
    """Status and checkpoint, which every phase has; the metrics beside them differ from phase to phase."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    status: Literal["completed", "not up to date", "not applicable"]
    why: dict[str, str] | None = None  # step or phase -> reason, where it isn't completed
    seconds: float  # of its steps, when they last ran
    checkpoint: str | None = None
    checkpoint_hash: str | None = None  # content hash: of the weights, not of the file's dates


class Environment(Part):
    """Packages, processor, GPUs and flags of the run."""

    python_version: str
    tensorflow_version: str
    keras_version: str
    platform: str
    cpu: str
    gpu: list[str]
    drivers: dict[str, str]
    flags: dict[str, str]  # environment variables of TensorFlow, XLA, CUDA and Keras
    packages: dict[str, str]
    seed: int
    deterministic: bool


class Gate(Part):
    """A gate's verdict."""

    name: str
    words: str
    step: str
    status: Literal["met", "missed", "not measurable here"]
    value: float | None
    target: str
    reason: str


class Artefact(Part):
    """The part of an artefact's sidecar that a manifest keeps."""

    content_hash: str = HASH
    producer: str
    code_version: int
    inputs: dict[str, str | None]
    seconds: float
    finished: str


class Manifest(Part):
    """phase7/manifest.yaml."""

    manifest_version: Literal[1]
    timestamp: str
    git_commit: str | None
    git_dirty: bool | None
    experiment: str
    data: Data
    phases: dict[str, Phase]
    environment: Environment
    hyperparameters: dict[str, float]
    gates: list[Gate]
    artefacts: dict[str, Artefact] = Field(min_length=1)
    config: dict[str, Any]

    @field_validator("phases")
    @classmethod
    def _all_phases(cls, phases: dict[str, Phase]) -> dict[str, Phase]:
        if set(phases) != set(PHASES):
            raise ValueError(f"received {', '.join(phases) or 'none'}, expected {', '.join(PHASES)}")
        return phases


def write(path: Path, value: dict) -> None:
    """Write a manifest. Raises BrokenArtefact, naming the fields, if it does not fit the schema."""
    checked = _validate(value, path)
    with aside(path) as temporary:
        text = yaml.safe_dump(checked.model_dump(exclude_none=False), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")


def read(path: Path) -> Manifest:
    """Read a manifest. Raises BrokenArtefact if it is none, or of another version."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"received {path.stat().st_size:,} bytes, expected at most {LARGEST:,}")
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BrokenArtefact(f"{path}: missing; run `phase7 manifest` first, or give another --manifest") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # YAML puts the position on separate lines
        raise BrokenArtefact(f"{path}: can't be read ({reason}); expected what `phase7 manifest` writes") from error
    return _validate(value, path)


def _validate(value: Any, path: Path) -> Manifest:
    if not (isinstance(value, dict) and "manifest_version" in value):
        raise BrokenArtefact(
            f"{path}: received a file without manifest_version, expected a manifest; give the file that `phase7 "
            "manifest` writes, phase7/manifest.yaml in the experiment's folder"
        )
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        faults = list(map(_said, error.errors()))
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise BrokenArtefact(
            f"{path}: does not fit the manifest schema: {'; '.join(faults[:5])}{more}; `phase7 manifest` writes one"
        ) from None


def _said(fault: Any) -> str:
    place, context = ".".join(map(str, fault["loc"])), fault.get("ctx", {})
    if fault["type"] == "value_error":  # a rule of ours
        return f"{place}: {context['error']}"
    if fault["type"] in ("missing", "extra_forbidden"):
        return f"{place}: {'missing' if fault['type'] == 'missing' else 'unknown'}"
    allowed = context.get("expected", context.get("pattern", "a value of another type"))
    return f"{place}: received {repr(fault['input'])[:SHOWN]}, expected {allowed}"
