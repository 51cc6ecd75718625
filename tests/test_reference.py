"""docs/config.md and docs/commands.md are what the config's classes and the parser say."""

from pathlib import Path

from keras_pipeline import commands
from keras_pipeline.core.config.reference import reference

DOCS = Path(__file__).parents[1] / "docs"


def test_the_reference_is_up_to_date():
    assert (DOCS / "config.md").read_text() == reference(), (
        "python -m keras_pipeline.core.config.reference > docs/config.md"
    )


def test_the_commands_are_up_to_date():
    text = commands.reference()
    assert (DOCS / "commands.md").read_text() == text, "python -m keras_pipeline.commands > docs/commands.md"
    assert "| `inspect` (by name only) | print the soft labels of one photo | `--sample-id ID`: the train photo" in text
    assert "- `--until P`: phase or 'phase step' to end with" in text


def test_defaults_domains_and_the_plans_own_values_are_there():
    text = reference()
    phase1, phase2 = (text.split(f"## {name}.training\n")[1].split("\n## ")[0] for name in ("phase1", "phase2"))
    assert "| `learning_rate` | `1e-05` | number, > 0, < 10 | peak, after warm-up |" in phase1
    assert "| `learning_rate` | `5e-06` |" in phase2
    assert "| `gradient_accumulation` | `1` | whole number, ≥ 1 |" in phase1
    assert "| `jit_compile` | `null` | true or false or null |" in phase1
    assert "| `quantization` | `fp16` | `fp16` or `int8` or `int8-qat` or `none` |" in text
    assert "## phase3.teachers.0, .1, …" in text and "| `region_filter` |" in text
