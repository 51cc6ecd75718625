"""The part of a config that a step depends on: its hash, and what of it changed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, get_args

from keras_pipeline.core.config.base import FILE, Section
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.hashing import file_hash
from keras_pipeline.core.redaction import redact_values

CONTENTS = "contents "  # before the hash of a file's contents, in place of its path
# Keys that sidecars of older programs hold and the config no longer has.
RENAMED: dict[str, str] = {}  # {former name: today's name}; the meaning is the same
REMOVED: dict[str, Any] = {}  # {key: the value at which today's program does what the older one did}


def config_hash(config: Config, sections: tuple[str, ...]) -> str:
    """sha256 of all settings in these sections."""
    return settings_hash(settings_of(config, sections))


def settings_hash(settings: dict[str, Any]) -> str:
    """sha256 of settings as `settings_of` returns them."""
    # A query may hold dates and bytes.
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=repr).encode()).hexdigest()


def lasting_hash(config: Config, sections: tuple[str, ...], known: Collection[str]) -> str:
    """Return a `config_hash` that a new key does not change while it is at its default.

    A hash that is stored alone cannot tell which keys it covers. This one covers the `known` keys, and any other key
    only where it differs from its default. Give as `known` the keys of the first program that stored the hash.
    """
    return settings_hash(_in_form(config, sections, dict.fromkeys(known)))


def settings_of(config: Config, sections: tuple[str, ...]) -> dict[str, Any]:
    """{dotted key: value} of all that these sections hold; a file that is named counts by its contents alone."""
    found: dict[str, Any] = {}
    dumped = config.model_dump(include={key.split(".")[0] for key in sections})
    for key in sections:
        value: Any = dumped
        for part in key.split("."):
            value = value[part]
        if _counts(config, key):
            _flatten(key, value, found)
    return found


def _counts(config: Config, key: str) -> bool:
    """Return whether the key can matter: `source.demo` fills the embedded server and no other source."""
    return config.source.uri == "embedded" or not f"{key}.".startswith("source.demo.")


def _flatten(key: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _flatten(f"{key}.{name}", inner, found)
    elif key in _file_keys() and isinstance(value, str) and Path(value).is_file():
        stat = Path(value).stat()
        found[key] = f"{CONTENTS}{_known_hash(value, stat.st_size, stat.st_mtime_ns)[:16]}"
    else:
        found[key] = value


@functools.cache
def _file_keys() -> frozenset[str]:
    """Return the dotted keys whose fields are marked with FILE."""
    return frozenset(_marked(Config, ""))


def _marked(section: type[Section], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        if FILE in field.metadata:
            yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):  # also of `Section | None`
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from _marked(kind, f"{prefix}{name}.")


def shown(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as a sidecar keeps them: JSON's types, no passwords."""
    return redact_values(json.loads(json.dumps(settings, default=repr)))


def change_since(meta: dict[str, Any], config: Config, sections: tuple[str, ...]) -> str | None:
    """Return how the config differs from that of a sidecar, as ` (key: old -> new, …)`; None where it does not.

    The sidecar may come from a program with other keys, and its `config_hash` covers the keys of that program. Today's
    settings are therefore put into the form of its `config` and hashed as that program hashed them:

    - A key that the sidecar lacks is left out while it is at its default, because a new key's default is what the
      program did before. At any other value it stays, and the hashes differ.
    - A renamed key is hashed under its former name.
    - A removed key is hashed with its value in `REMOVED`. Without an entry there the hashes differ: nobody can tell
      whether the old value was the one that today's program implies.
    - `source.demo` of a source that is not embedded is hashed as the sidecar has it, so it cannot differ.

    Where both have the same keys, this is a comparison with `config_hash`. The hash decides, not the sidecar's
    `config`: that holds no passwords, and a changed password has to be noticed. The result is then the empty text.
    """
    old = meta["config"]
    new = _in_form(config, sections, old) | {key: value for key, value in old.items() if not _counts(config, key)}
    if settings_hash(new) == meta["config_hash"]:
        return None
    defaults = {key: value for key, value in _defaults().items() if key in new}
    return difference(shown(defaults) | old, shown(new))


def _in_form(config: Config, sections: tuple[str, ...], known: dict[str, Any]) -> dict[str, Any]:
    """Return today's settings under the keys of `known`, and under others only what is not at its default."""
    settings = settings_of(config, sections)
    former = {RENAMED.get(key, key): key for key in known}  # by today's name
    kept = _restricted(settings, {name: known[key] for name, key in former.items()}, _given(config, settings))
    removed = {key: value for key, value in REMOVED.items() if key in known and _counts(config, key)}
    return removed | {former.get(key, key): value for key, value in kept.items()}


def _restricted(value: Any, known: Any, given: Any) -> Any:
    """Return `value` without the keys, also those of entries of lists, that are neither in `known` nor in `given`."""
    if isinstance(value, dict) and isinstance(known, dict):
        given = given or {}
        return {
            key: _restricted(inner, known.get(key), given.get(key))
            for key, inner in value.items()
            if key in known or key in given
        }
    if isinstance(value, list) and isinstance(known, list) and len(value) == len(known):
        parts = zip(value, known, given or [None] * len(value), strict=True)
        return [_restricted(*each) for each in parts]
    return value


def _given(config: Config, settings: dict[str, Any]) -> dict[str, Any]:
    """Return those of the settings that are not at their default.

    Of keys in a list or under a name of the user's (`phase3.teachers`, `phase0.export.hosts`) the default is the one in
    their class, of all others the one of a config that says nothing (`docs/config.md`).
    """
    defaults, beyond = _defaults(), _flat(config.model_dump(exclude_defaults=True))
    return {
        key: beyond.get(key)
        for key, value in settings.items()
        if (value != defaults[key] if key in defaults else key in beyond)
    }


@functools.cache
def _defaults() -> dict[str, Any]:
    return _flat(Config.model_validate({"experiment": "any"}).model_dump())


def _flat(sections: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in sections.items():
        _flatten(key, value, found)
    return found


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first keys that differ, as ` (key: old -> new, …)`; empty where only a password does."""
    keys = [key for key in sorted({**old, **new}) if old.get(key) != new.get(key)]
    shown = [f"{key}: {_of_file(key, old, new) or ' -> '.join(_short(old.get(key), new.get(key)))}" for key in keys[:3]]
    shown += [f"{len(keys) - 3} more"] if len(keys) > 3 else []
    return f" ({', '.join(shown)})" if keys else ""


def _of_file(key: str, old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Return what became of a file that counts by its contents; None where the config names no file any more."""
    was, now = old.get(key), new.get(key)
    if key not in _file_keys() or not (isinstance(was, str) and was.startswith(CONTENTS) and isinstance(now, str)):
        return None
    if now.startswith(CONTENTS):
        return "other contents"
    is_word = key.endswith(".pretrained") and not Path(now).suffix  # imagenet, global_teacher
    return None if is_word else f"{now} is gone"


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
