"""The part of a config that a step depends on: its hash, and what of it changed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.hashing import file_hash
from keras_pipeline.core.redaction import redact_values

# Config keys that may name a file: what it holds counts, not where it lies.
FILE_KEYS = {"labels", "pretrained", "weights", "synonyms", "exclude"}


def config_hash(config: Config, sections: tuple[str, ...]) -> str:
    """sha256 of all settings in these sections."""
    return settings_hash(settings_of(config, sections))


def settings_hash(settings: dict[str, Any]) -> str:
    """sha256 of settings as `settings_of` returns them."""
    # A query may hold dates and bytes.
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=repr).encode()).hexdigest()


def settings_of(config: Config, sections: tuple[str, ...]) -> dict[str, Any]:
    """{dotted key: value} of all that these sections hold; a file that is named counts by its contents alone."""
    found: dict[str, Any] = {}
    dumped = config.model_dump(include={key.split(".")[0] for key in sections})
    for key in sections:
        value: Any = dumped
        for part in key.split("."):
            value = value[part]
        _flatten(key, value, found)
    return found


def _flatten(key: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _flatten(f"{key}.{name}", inner, found)
    elif key.rpartition(".")[2] in FILE_KEYS and isinstance(value, str) and Path(value).is_file():
        stat = Path(value).stat()
        found[key] = f"contents {_known_hash(value, stat.st_size, stat.st_mtime_ns)[:16]}"
    else:
        found[key] = value


def shown(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as a sidecar keeps them: JSON's types, no passwords."""
    return redact_values(json.loads(json.dumps(settings, default=repr)))


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first keys that differ, as ` (key: old -> new, …)`; empty where only a password does."""
    keys = [key for key in sorted({**old, **new}) if old.get(key) != new.get(key)]
    shown = [f"{key}: {' -> '.join(_short(old.get(key), new.get(key)))}" for key in keys[:3]]
    shown += [f"{len(keys) - 3} more"] if len(keys) > 3 else []
    return f" ({', '.join(shown)})" if keys else ""


def _short(*values: Any) -> list[str]:
    """Each as JSON; of longer ones 36 characters, from a little before the first that they don't share."""
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    start = max(0, len(os.path.commonprefix(texts)) - 16)
    start = start if max(map(len, texts)) > 40 else 0
    lead = "... " if start else ""
    return [lead + (rest if len(rest) <= 40 else f"{rest[:36]} ...") for rest in (text[start:] for text in texts)]


@functools.lru_cache(maxsize=32)
def _known_hash(path: str, size: int, mtime_ns: int) -> str:
    """file_hash, once for each state of a file: one weights file is named in several sections."""
    return file_hash(Path(path))
