"""Imports point one way: __main__ -> phases, demo -> training, evaluation, web -> ingest, data, models -> core."""

import ast
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "keras_pipeline"
LEVELS = [
    {"core"},
    {"ingest", "data", "models"},
    {"training", "evaluation", "export"},
    {"phases", "demo"},
    {"__main__"},
]
# Files in phases/ that are no phases, and whom of their own folder they may import; "phase*" stands for any phase.
HELPERS = {"teacher", "build", "preflight", "evaluating", "teaching", "calibrating", "rounding", "proving"}
WITHIN_PHASES = {
    "teacher": {"build", "on_beam"},
    "preflight": {"cost", "teaching"},
    "build": set(),
    "evaluating": {"build"},
    "teaching": {"build"},
    "calibrating": {"build"},
    "rounding": {"build", "calibrating"},
    "proving": set(),
    "audit_report": set(),
    "shard_index": set(),
    "input_profile": {"teacher"},
    "on_beam": set(),
    "beam_export": set(),
    "downloads": {"shard_index", "beam_export", "on_beam"},
    "splitting": {"downloads", "shard_index"},
    "phase0_dataset": {"downloads", "splitting", "audit_report"} | HELPERS,
    "gates": {"evaluating"},
    "doctor": set(),
    "condition": set(),
    "cost": set(),
    "runner": {"phase*", "gates", "input_profile", "condition", "cost", "preflight"},
    "reproducing": {"runner"},
    "model_card": {"calibrating", "evaluating", "gates", "teaching"},
    "summary": {"runner", "gates", "calibrating", "model_card"},
    "phase7_manifest": {"gates"} | HELPERS,
}


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


def allowed(folder, stem, target):
    if not target or target == ["__version__"]:
        return True
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    if target[0] not in level:
        return False
    if folder != target[0]:
        return level[target[0]] < level[folder]
    if folder != "phases" or len(target) == 1:
        return folder != "phases"
    permitted = WITHIN_PHASES.get(stem, HELPERS)
    return target[1] in permitted or ("phase*" in permitted and target[1].startswith("phase"))


def offenders(package):
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        folder = parts[0]
        if folder == "__init__":
            continue
        for line, target in imported(ast.parse(path.read_text())):
            if not allowed(folder, parts[-1], target):
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
        "phases/phase1_x.py": ("if True:\n    from keras_pipeline.phases import runner", 2),
        "phases/phase2_x.py": ("from keras_pipeline.phases.phase1_x import STEPS", 1),
        "phases/doctor.py": ("from keras_pipeline.phases import gates", 1),
        "evaluation/f.py": ("from . import metrics", 1),
        "export/g.py": ("from keras_pipeline.utils import x", 1),
    }
    fine = {
        "export/h.py": "from keras_pipeline.export import quantize\nfrom keras_pipeline.core import schema",
        "phases/phase3_x.py": "from keras_pipeline.phases import build, teacher\nimport tensorflow",
        "phases/runner.py": "from keras_pipeline.phases import gates, phase1_x",
    }
    for name, text in {**{k: v[0] for k, v in planted.items()}, **fine}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
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
