"""What TensorFlow's C++ side writes to standard error reaches nobody, unless something fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_pipeline.core.quiet import stderr_held_back


def test_what_is_held_back_is_dropped(capfd):
    with stderr_held_back():
        os.write(2, b"computation placer already registered\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_it_is_shown_after_all_where_something_fails(capfd):
    with pytest.raises(ZeroDivisionError), stderr_held_back():
        os.write(2, b"the reason\n")
        raise ZeroDivisionError
    assert capfd.readouterr().err == "the reason\n"


def test_a_command_that_imports_tensorflow_writes_nothing_to_stderr(tmp_path):
    command = [sys.executable, "-m", "keras_pipeline", "doctor", "--config", "configs/demo.yaml"]
    # As in a shell: the tests' own process has silenced some of it.
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert "ok      GPU: none; trains on the CPU\n" in done.stdout or "ok      GPU: /" in done.stdout


def test_a_tensorflow_that_cannot_be_imported_says_why(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os; os.write(2, b'no such library\\n'); raise ImportError('broken')"
    )
    code = "import sys; from keras_pipeline.__main__ import main; sys.exit(main(['doctor', '--config', sys.argv[1]]))"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    command = [sys.executable, "-c", code, "configs/demo.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 3 and "no such library" in done.stderr
    assert "MISSING GPU: TensorFlow can't be imported: broken\n" in done.stdout
