"""A changed step module needs a raised `code_version`, or a look that says why not.

step_modules.json holds a hash of each step's module, docstrings and comments left out. Where one differs, raise the
step's `code_version` in phases/steps.py if its outputs change, and record the new hashes in any case:

    python tests/test_steps.py
"""

import ast
import hashlib
import importlib.util
import json
from pathlib import Path

from keras_pipeline.phases.steps import STEPS

RECORDED = Path(__file__).with_name("step_modules.json")


def hash_of(module):
    """Of what the module does: its syntax tree without docstrings."""
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def present():
    return {step.title: {"code_version": step.code_version, "module": hash_of(step.module)} for step in STEPS}


def test_a_changed_step_was_looked_at():
    recorded, now = json.loads(RECORDED.read_text()), present()
    changed = [title for title in now if recorded.get(title) != now[title]]
    assert changed == [], "raise code_version in phases/steps.py where outputs change; then: python tests/test_steps.py"


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(present(), indent=1) + "\n")
