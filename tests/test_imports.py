"""Imports point one way.

__main__ -> experiment -> commands -> phases, demo -> training, export, evaluation/report
-> evaluation, ingest, data, models -> core.

Folders of one level don't import each other. Inside phases/: phase N may use phases up to N, the files beside the
phases may use everything, and steps.py imports nothing of ours.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "keras_pipeline"
LEVELS = [
    {"core"},
    {"evaluation", "ingest", "data", "models"},
    {"training", "export", "evaluation/report"},
    {"phases", "demo"},
    {"commands"},
    {"experiment"},
    {"__main__"},
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}


def imported(tree):
    """(line, dotted name below the package) of every import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from . import x` hides the folder, so relative imports are offenders too.
            module = "keras_pipeline.RELATIVE" if node.level else node.module
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name.split(".")[1:]) for name in names if name.split(".")[0] == "keras_pipeline")


def room_of(parts):
    """The room of a dotted name below the package, or of a file."""
    return "evaluation/report" if parts[:2] == ["evaluation", "report"] else parts[0]


def phase_of(parts):
    """N of a name inside phases/phaseN_x; None of the files beside the phases."""
    return int(parts[1][5]) if len(parts) > 1 and parts[1][:5] == "phase" and parts[1][5:6].isdigit() else None


def allowed(own, target):
    """Whether a file may import a name, both as parts of their dotted names below the package."""
    if not target or target == ["__version__"]:
        return True
    room, other = room_of(own), room_of(target)
    if other not in LEVEL:
        return False
    if room != other:
        return LEVEL[other] < LEVEL[room]
    if room != "phases":
        return True
    if own[1:] == ["steps"]:
        return False
    if (mine := phase_of(own)) is None:
        return True
    return (its := phase_of(target)) is not None and its <= mine


def offenders(package):
    found = []
    for path in sorted(package.rglob("*.py")):
        own = list(path.relative_to(package).with_suffix("").parts)
        if own == ["__init__"]:
            continue
        for line, target in imported(ast.parse(path.read_text())):
            if own[:2] == ["phases", "steps"] or not allowed(own, target):
                found.append(f"{path.relative_to(package).as_posix()}:{line}")
    return found


def test_imports_point_only_down():
    assert offenders(PACKAGE) == []


def test_planted_offenders_are_found(tmp_path):
    planted = {
        "core/a.py": ("import os\nfrom keras_pipeline.data import records", 2),
        "data/b.py": ("def f():\n    from keras_pipeline.ingest import mongo", 2),
        "training/c.py": ("import keras_pipeline.export.tfjs", 1),
        "models/d.py": ("from keras_pipeline.training.fit import fit", 1),
        "demo/e.py": ("from keras_pipeline import phases", 1),
        "evaluation/f.py": ("from . import metrics", 1),
        "evaluation/g.py": ("from keras_pipeline.evaluation.report import plots", 1),
        "export/h.py": ("from keras_pipeline.utils import x", 1),
        "phases/phase1_x/a.py": ("if True:\n    from keras_pipeline.phases import runner", 2),
        "phases/phase2_x/b.py": ("from keras_pipeline.phases.phase3_x import c", 1),
        "phases/steps.py": ("from keras_pipeline.core import record", 1),
    }
    fine = {
        "export/i.py": "from keras_pipeline.export import quantize\nfrom keras_pipeline.evaluation import metrics",
        "evaluation/report/j.py": "from keras_pipeline.evaluation import metrics",
        "phases/phase3_x/d.py": "import tensorflow\nfrom keras_pipeline.phases.phase1_x import a",
        "phases/runner.py": "from keras_pipeline.phases import forecast\nfrom keras_pipeline.phases.phase7_x import e",
    }
    for name, text in {**{k: v[0] for k, v in planted.items()}, **fine}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    assert set(offenders(tmp_path)) == {f"{name}:{line}" for name, (_, line) in planted.items()}


def loaded_by(*modules):
    """Top-level modules that a fresh Python holds after importing these."""
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent,
                          env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)})  # fmt: skip
    return set(done.stdout.split())


def test_core_imports_no_tensorflow():
    modules = [
        f"keras_pipeline.core.{path.stem}" for path in (PACKAGE / "core").glob("*.py") if path.stem != "__init__"
    ]
    assert len(modules) >= 8
    assert not loaded_by(*modules) & {"tensorflow", "keras", "tf_keras", "keras_hub"}


def test_main_imports_nothing_heavy():
    heavy = {"tensorflow", "keras", "pydantic", "numpy", "pandas", "pymongo", "yaml"}
    assert not loaded_by("keras_pipeline.__main__") & heavy


def test_the_tables_of_steps_need_no_tensorflow():
    # `status` and `run --dry-run` come this far.
    assert not loaded_by("keras_pipeline.phases.runner") & {"tensorflow", "keras", "matplotlib"}


@pytest.mark.parametrize(
    ("step", "without"),
    [
        # An export runs for days, beside other work: benchmark export_memory.
        ("phase0_dataset.export", {"tensorflow", "keras", "scipy", "matplotlib"}),
        ("phase0_dataset.audit", {"tensorflow", "keras", "scipy", "matplotlib"}),
        ("phase0_dataset.split", {"tensorflow", "keras", "matplotlib"}),
        ("phase5_calibration.temperature", {"tensorflow", "keras"}),
        ("phase5_calibration.threshold", {"tensorflow", "keras"}),
    ],
)
def test_steps_without_networks_import_none(step, without):
    assert not loaded_by(f"keras_pipeline.phases.{step}") & without
