"""docs/config.md says what the config's classes say."""

from pathlib import Path

from keras_pipeline.core.config.reference import reference

DOCS = Path(__file__).parents[1] / "docs/config.md"


def test_the_reference_is_up_to_date():
    assert DOCS.read_text() == reference(), "python -m keras_pipeline.core.reference > docs/config.md"


def test_defaults_domains_and_the_plans_own_values_are_there():
    text = reference()
    phase1, phase2 = (text.split(f"## {name}.training\n")[1].split("\n## ")[0] for name in ("phase1", "phase2"))
    assert "| `learning_rate` | `1e-05` | number, > 0, < 10 | peak, after warm-up |" in phase1
    assert "| `learning_rate` | `5e-06` |" in phase2
    assert "| `gradient_accumulation` | `1` | whole number, ≥ 1 |" in phase1
    assert "| `jit_compile` | `null` | true or false or null |" in phase1
    assert "| `quantization` | `fp16` | `fp16` or `int8` or `int8-qat` or `none` |" in text
    assert "## phase3.teachers.0, .1, …" in text and "| `region_filter` |" in text
