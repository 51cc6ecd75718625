"""Every benchmark can be imported: what it takes from the package is still there."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in ROOT.glob("benchmarks/*/*.py")
    if file.parent.name != "support"
)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_is_importable(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("benchmarks", "keras_pipeline"):
            raise
        pytest.skip(f"{error.name} is of an environment of its own")
    assert callable(module.main)
