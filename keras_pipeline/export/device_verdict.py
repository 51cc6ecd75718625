"""The verdict that the page of `serve --probe` saves on a device: its schema, as anyone may have written it.

Free of TensorFlow, as `export.device_page` is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FORMAT = 1
LARGEST = 1_000_000  # bytes; some 30,000 are usual
SHOWN = 60  # characters of a wrong value
REMEDY = "give the file as the page of `serve --probe` saved it"

# Printable ASCII without what begins markup in HTML and Markdown; the page replaces all else.
Text = Annotated[str, Field(max_length=300, pattern=r"^[ -%'-;=?-_a-~]*$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Milliseconds = Annotated[float, Field(ge=0, le=1e7)]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of the verdict: typed, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class Bundle(Part):
    """What the device was asked about."""

    files_sha256: Sha256  # of files.json
    photos_sha256: Sha256


class Device(Part):
    """The browser, and what it lets this page do."""

    user_agent: Text
    cores: int | None = Field(ge=1, le=4096)
    secure_context: bool
    isolated: bool  # cross-origin isolated, as threads need it


class Files(Part):
    """The bundle's files, each hashed on the device."""

    n: int = Field(ge=0, le=10_000)
    wrong: list[Text] = Field(max_length=100)
    hashed_by: Literal["browser", "JavaScript"]


class Seen(Part):
    """What the page saw of a photo: a hash of its pixels, or why it refused it."""

    name: Text
    pixels: Sha256 | None
    refused: Text | None


class Answer(Part):
    """A backend's answer to a photo, and how far it is from Python's."""

    name: Text
    top: list[tuple[Annotated[int, Field(ge=0)], Share]] = Field(min_length=1, max_length=5)  # (class, probability)
    max_abs_diff: Share
    ms: Milliseconds


class Backend(Part):
    """A backend's answers; `error` where it gave up."""

    name: Text
    renderer: Text
    load_ms: Milliseconds | None
    first_ms: Milliseconds | None
    answers: list[Answer] = Field(max_length=100)
    error: Text | None


class Missing(Part):
    """A backend that the device does not have."""

    name: Text
    why: Text


class Verdict(Part):
    """The whole file."""

    format: Literal[1]
    date: Annotated[str, Field(pattern=r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    bundle: Bundle
    device: Device
    files: Files
    photos: list[Seen] = Field(max_length=100)
    backends: list[Backend] = Field(max_length=10)
    missing: list[Missing] = Field(max_length=10)
    untested: list[Text] = Field(max_length=20)


def read(path: Path) -> Verdict:
    """Read a verdict.

    Raises:
        ValueError: in one sentence, what is wrong with it.
    """
    if not path.is_file():  # a pipe would be waited for
        kind = "is no file" if path.exists() else "does not exist"
        raise ValueError(f"--verdict: received {path}, which {kind}; expected a verdict; {REMEDY}")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        size = path.stat().st_size
        raise ValueError(f"--verdict: received {path} of {size:,} bytes, expected at most {LARGEST:,}; {REMEDY}")
    try:
        return Verdict.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        received = repr(fault["input"])[:SHOWN]
        raise ValueError(f"--verdict: {path}: {place}: received {received}: {fault['msg']}; {REMEDY}") from None
