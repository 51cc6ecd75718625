"""Generates docs/config.md from the config classes: python -m keras_pipeline.core.config.reference > docs/config.md"""

import json
from collections.abc import Iterator
from typing import Any

from keras_pipeline.core.config.base import Section
from keras_pipeline.core.config.domains import domain
from keras_pipeline.core.config.experiment import Config

HEAD = """# Every key of a config

Generated from the classes in `keras_pipeline/core/config/` by
`python -m keras_pipeline.core.config.reference > docs/config.md`; a test checks that it is current.
Defaults are the training plan's where it names one. Any key can be set on the command line:
`--set phase1.training.learning_rate=1e-5`, an entry of a list by its number:
`--set phase3.teachers.1.weight=0.3`. `${NAME}` and `${NAME:-default}` in strings come from the
environment; `$${NAME}` is the text `${NAME}`. A value that is one variable and nothing else is read as
YAML (`seed: ${SEED:-7}` is a number), unless its key takes text and not what that gives.
"""


def reference() -> str:
    """Return Markdown: a table for each section, its keys in the order of the classes."""
    parts = [
        HEAD,
        *filter(None, (_table(path, section) for path, section in _sections("", Config(experiment="the-files-stem")))),
    ]
    return "\n".join(parts)


def _sections(path: str, section: Section) -> Iterator[tuple[str, Section]]:
    yield path, section
    for name in type(section).model_fields:
        value = getattr(section, name)
        key = f"{path}.{name}".strip(".")
        if isinstance(value, Section):
            yield from _sections(key, value)
        elif isinstance(value, list) and value and isinstance(value[0], Section):
            yield f"{key}.0, .1, …", type(value[0]).model_construct()  # without the keys that have no default


def _table(path: str, section: Section) -> str:
    rows = [
        f"| `{name}` | `{_plain(getattr(section, name, 'required'))}` "
        f"| {_escape(domain(field.annotation, field.metadata))} | {_escape(field.description or '')} |"
        for name, field in type(section).model_fields.items()
        if not isinstance(getattr(section, name, None), Section)
    ]
    if not rows:
        return ""
    about = (type(section).__doc__ or "").strip()
    head = f"## {path or 'top level'}\n\n" + (f"{about}\n\n" if about and "BaseModel" not in about else "")
    return head + "\n".join(["| key | default | allowed | meaning |", "| --- | --- | --- | --- |", *rows, ""])


def _plain(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Section):
        return f"{len(value)} entries"
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
