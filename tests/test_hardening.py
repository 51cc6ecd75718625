"""What the source never does: run what it reads, or listen beyond this machine."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "keras_pipeline"
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
EXECUTING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code", "runpy"}
CALLS = {"eval", "exec", "compile", "mktemp", "unsafe_load", "full_load", "read_pickle", "to_pickle", "system", "popen",
         "enable_unsafe_deserialization"}  # fmt: skip
ARGUMENTS = {"allow_pickle": True, "shell": True, "safe_mode": False}


def found(matches):
    return [f"{name}:{node.lineno}" for name, tree in TREES.items() for node in ast.walk(tree) if matches(node)]


def name_of(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def test_no_module_is_imported_that_runs_what_it_reads():
    def matches(node):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        return any(name.split(".")[0] in EXECUTING for name in names)

    assert found(matches) == []


def test_no_call_runs_what_it_reads():
    def matches(node):
        # model.compile is Keras's.
        builtin = isinstance(node, ast.Call) and (name_of(node) != "compile" or isinstance(node.func, ast.Name))
        return builtin and name_of(node) in CALLS

    assert found(matches) == []


def test_no_argument_allows_it():
    def matches(node):
        return isinstance(node, ast.keyword) and node.arg in ARGUMENTS and (
            not isinstance(node.value, ast.Constant) or node.value.value is ARGUMENTS[node.arg]
        )  # fmt: skip

    assert found(matches) == []


def test_yaml_is_read_safely():
    def matches(node):
        return isinstance(node, ast.Call) and name_of(node) == "load" and "yaml" in ast.unparse(node.func)

    assert found(matches) == []


def test_nothing_listens_on_all_interfaces():
    def matches(node):
        return isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::")

    assert found(matches) == []
