"""Whether a step is up to date: its outputs' sidecars still match its code, its config and its inputs."""

from __future__ import annotations

import hashlib
import json
import time

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.fingerprint import change_since, config_hash, settings_hash, settings_of, shown
from keras_pipeline.core.files import write_json
from keras_pipeline.core.hashing import byte_hashes, content_hash
from keras_pipeline.core.sidecars import broken, fingerprint, is_altered, path_of, present_hash, sidecar
from keras_pipeline.phases.steps import Step


def write_sidecars(run: Run, step: Step, seconds: float) -> None:
    """Called once after a step has succeeded."""
    inputs, settings = input_hashes(run, step), settings_of(run.config, step.keys)
    for name in step.outputs:
        path = run.path(name)
        meta = {
            "content_hash": content_hash(path),
            "sha256": byte_hashes(path),
            **fingerprint(path),
            "producer": step.title,
            "code_version": step.version(run.config),
            "config_hash": settings_hash(settings),
            "config": shown(settings),
            "inputs": inputs,
            "seconds": round(seconds, 2),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(path_of(path), meta)


def input_hashes(run: Run, step: Step) -> dict[str, str | None]:
    """Of what is there now: a verdict on an altered file must not count for what its step left."""
    return {name: present_hash(run.path(name)) for name in step.needs(run.config)}


def recipe(run: Run, step: Step) -> str:
    """A hash of all that a step's outputs depend on: its code, its config and its inputs."""
    parts = [step.title, step.version(run.config), config_hash(run.config, step.keys), input_hashes(run, step)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def why_stale(run: Run, step: Step) -> str | None:
    """None when the step is up to date, otherwise the reason in a few words."""
    made_of = []  # the inputs of each output, as its sidecar has them
    for name in step.outputs:
        path = run.path(name)
        if why := broken(path):
            return why
        meta = sidecar(path)
        if meta is None:
            return f"{name} not made yet"
        if not path.exists():
            return f"{name} is missing"
        if {key: meta.get(key) for key in ("size", "mtime_ns")} != fingerprint(path):
            return f"{name} is not as its step left it (size or time)"
        if meta.get("code_version") != step.version(run.config):
            return "its code changed"
        change = change_since(meta, run.config, step.keys)
        if change is not None:
            return f"its config changed{change}"
        made_of.append(meta["inputs"])
    wanted = step.needs(run.config)
    dropped = sorted({name for inputs in made_of for name in inputs} - {*wanted})
    if dropped:
        return f"made from {', '.join(dropped)} too, which the config leaves out now"
    for source in wanted:
        if is_altered(run.path(source)):
            return f"its input {source} is not as its step left it"
        now = (sidecar(run.path(source)) or {}).get("content_hash")
        if any(inputs.get(source) != now for inputs in made_of):
            return f"its input {source} changed"
    return None
