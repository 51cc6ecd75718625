"""What keeps the house easy to enter: sizes, imports and docstrings, which may only get better.

A number that has to grow is a reason to split something, not to raise the number.
"""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "keras_pipeline").rglob("*.py") if "node_modules" not in path.parts)
TREES = {path: ast.parse(path.read_text()) for path in FILES}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
# Keras, tf.data and the standard library call these; their own documentation says what they do.
OVERRIDES = {
    "build", "call", "compute_mask", "compute_output_shape", "get_config", "from_config", "reset_state", "result",
    "update_state", "train_step", "test_step", "compute_loss", "compute_loss_and_updates", "apply", "update_step",
    "variables", "metrics", "stateless_call", "compile", "on_train_begin", "on_train_end", "on_train_batch_begin",
    "on_train_batch_end", "on_epoch_begin", "on_epoch_end", "find_spec", "exec_module", "create_module",
    "compose_mapping_node", "do_GET", "do_HEAD", "end_headers", "log_message", "send_head", "translate_path",
}  # fmt: skip


def named(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno} {getattr(node, 'name', '')}".rstrip()


def imports_in_functions():
    return {
        named(path, inner)
        for path, tree in TREES.items()
        for function in ast.walk(tree)
        if isinstance(function, FUNCTION)
        for inner in ast.walk(function)
        if isinstance(inner, (ast.Import, ast.ImportFrom))
    }


def public(tree):
    """Public classes and functions of a module, and their public methods."""
    for node in tree.body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (each for each in node.body if isinstance(each, FUNCTION) and not each.name.startswith("_"))


def needs_docstring(path, node):
    # A step's `run`, and a command's `main`, are what the module's docstring describes.
    entry = path.parent.parts[-2:-1] == ("phases",) or path.parent.name == "phases"
    return not (node.name in OVERRIDES or (entry and node.name in ("run", "main")))


def test_imports_stand_at_the_top():
    assert len(imports_in_functions()) <= 50, sorted(imports_in_functions())


def test_files_are_short():
    lines = {path: len(path.read_text().splitlines()) for path in FILES if path.stat().st_size}
    assert {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > 380} == {}
    assert statistics.median(lines.values()) <= 120


def test_functions_are_short():
    functions = [(path, node) for path, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, FUNCTION)]
    assert len(functions) > 1000
    assert [named(path, node) for path, node in functions if node.end_lineno - node.lineno + 1 > 60] == []


def test_what_is_public_has_a_docstring():
    missing = [
        named(path, node)
        for path, tree in TREES.items()
        for node in public(tree)
        if needs_docstring(path, node) and not ast.get_docstring(node)
    ]
    assert missing == []
    assert [str(path) for path, tree in TREES.items() if path.stat().st_size and not ast.get_docstring(tree)] == []


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_bytes()
    assert len(text) <= 7000 and len(text.splitlines()) <= 120
    assert [line for line in text.decode().splitlines() if len(line) > 100 and "|" not in line] == []


@pytest.mark.parametrize("name", ["utils", "helpers", "misc", "common", "registry"])
def test_no_file_without_a_subject(name):
    assert [path for path in FILES if path.stem == name] == []
