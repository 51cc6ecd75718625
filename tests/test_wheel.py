"""The package as pip installs it, away from its sources."""

import configparser
import fnmatch
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from keras_pipeline import commands
from keras_pipeline.export import tfjs

SOURCES = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The Python of an environment with the wheel; everything else comes from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"  # building leaves files behind
    ignored = shutil.ignore_patterns("node_modules", "__pycache__")
    shutil.copytree(SOURCES / "keras_pipeline", sources / "keras_pipeline", ignore=ignored)
    shutil.copytree(SOURCES / "configs", sources / "configs")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCES / name, sources)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(sources)], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv/bin/python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--force-reinstall", str(wheel)], check=True)
    site = folder / f"venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_it_holds_the_configs_of_the_demos(installed):
    copies = installed.parents[1] / "share/keras_pipeline/configs"
    for name in (commands.DEMO, commands.PHOTOS):
        assert (copies / Path(name).name).read_bytes() == (SOURCES / name).read_bytes()


def test_a_wheel_takes_every_library_of_the_page_along():
    """Where `npm ci` was run before the build; from the wheel, npm is not needed then."""
    configuration = configparser.ConfigParser()
    configuration.read(SOURCES / "setup.cfg")
    patterns = configuration["options.package_data"]["keras_pipeline.export"].split()
    for name in (*tfjs.VENDOR_FILES, tfjs.APACHE_LICENSE):
        assert any(fnmatch.fnmatch(f"page/node_modules/{name}", pattern) for pattern in patterns), name


def run(python, *arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-m", "keras_pipeline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_the_demo_finds_its_config_without_the_sources(installed, tmp_path):
    done = run(installed, "demo", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "phase0 audit" in done.stdout and "train photos by source.demo" in done.stdout
    done = run(installed, "status", "--config", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "nowhere.yaml: received no such file" in done.stderr


def test_a_config_of_the_users_own_goes_before(installed, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/demo.yaml").write_text("seed: no")
    done = run(installed, "demo", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2 and "configs/demo.yaml: seed: received" in done.stderr


def test_what_the_page_is_made_of_is_in_the_wheel(installed):
    page = next(installed.parents[1].glob("lib/*/site-packages/keras_pipeline/export/page"))
    assert {*tfjs.PAGE_FILES, "package.json", "package-lock.json"} <= {path.name for path in page.iterdir()}
