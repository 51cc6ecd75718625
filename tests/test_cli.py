"""The command line in processes of its own: speed, exit codes, and what it says."""

import argparse
import ast
import builtins
import ctypes
import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pymongo
import pytest
from conftest import jpeg_of
from support.weights import write_weights

from keras_pipeline import __main__ as cli
from keras_pipeline import commands
from keras_pipeline import experiment as opening
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_file, write
from keras_pipeline.core.files import write_json
from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.demo import embedded
from keras_pipeline.evaluation import gates
from keras_pipeline.models import pretrained
from keras_pipeline.phases import forecast, report, runner, serve, status, teacher_checks
from keras_pipeline.phases import run as chain
from keras_pipeline.phases.phase6_export import visit
from keras_pipeline.phases.staleness import write_sidecars
from keras_pipeline.phases.steps import BY_NAME, PHASES, STEPS, Step

ROOT = Path(__file__).parents[1]
OWN_WEIGHTS = ["--set", "phase1.model.pretrained=false"]  # otherwise a network is asked first


JPEG = b"\xff\xd8\xff\xe0"  # the first bytes of one


def python(*arguments, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)


def pipeline(*arguments, cwd=ROOT):
    return python("-m", "keras_pipeline", *map(str, arguments), cwd=cwd)


@pytest.fixture
def experiment(tmp_path):
    """Writes a config whose outputs lie in the test's folder; returns its path."""

    def write(text="source: {uri: 'mongodb://127.0.0.1:9/'}"):
        (tmp_path / "tiny.yaml").write_text(f"root: {tmp_path}\n{text}\n")
        return tmp_path / "tiny.yaml"

    return write


def test_help_comes_at_once():
    def seconds():
        started = time.monotonic()
        assert pipeline("--help").returncode == 0
        return time.monotonic() - started

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    "command", [[], ["phase0"], ["run"], ["demo"], ["load"], ["status"], ["classify"], ["serve"], ["doctor"]]
)
def test_every_command_has_help(command):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0


def test_help_imports_neither_pydantic_nor_tensorflow():
    code = (
        "import runpy, sys\nsys.argv = ['keras_pipeline', '--help']\n"
        "try: runpy.run_module('keras_pipeline', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'pydantic', 'tensorflow', 'keras', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    assert python("-c", code).stdout.endswith("[]\n")


def test_the_commands_are_the_tables_of_steps():
    def names(parser):
        (choices,) = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        return choices

    offered = {f"{phase} {name}" for phase in PHASES for name in names(names(commands.parser())[phase])}
    assert offered == {step.title for step in [*STEPS, *BY_NAME]} and len(STEPS) == 25
    # By name only: `run` must not repeat everything.
    assert [step.title for step in BY_NAME] == [
        "phase3 export-npz", "phase3 inspect", "phase7 verify", "phase7 reproduce",
    ]  # fmt: skip


@pytest.mark.parametrize("step", [*STEPS, *BY_NAME], ids=lambda step: step.title)
def test_the_command_is_the_file(step):
    """Found without importing it, which would import TensorFlow."""
    file = Path(importlib.util.find_spec(step.module).origin)
    assert file.stem == step.name.replace("-", "_")
    functions = {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert ("run" if step in STEPS else "main") in functions


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["phase9"],
        ["phase0", "train"],
        ["run"],
        ["phase1", "evaluate", "--split", "all"],
        ["status", "--confg", "x"],
        ["serve", "--port", "99999", "--config", "x"],
        ["phase4", "distill", "--profile-input", "--config", "x"],
        ["phase4", "evaluate", "--live", "--config", "x"],
        ["phase0", "audit", "--split", "val", "--config", "x"],
        ["phase3", "check", "--sample-id", "x", "--config", "x"],
        ["phase7", "verify", "--manifest", "x"],
    ],
)
def test_wrong_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "argument COMMAND: received 'rnu' (did you mean run?), expected one of phase0, "),
        (["phase0", "exprt", "--config", "x"], "argument STEP: received 'exprt' (did you mean export?), expected one"),
        (["run", "--drt-run", "--config", "x"], "received --drt-run (did you mean --dry-run?), expected one of --help"),
        (["run", "--dry", "--config", "x"], "received --dry (did you mean --dry-run?), expected"),  # not shortened
        (["run", "--config", "x", "--form=phase1"], "received --form (did you mean --from?), expected one of"),
        (["status", "--confg", "x"], "received --confg (did you mean --config?), expected one of --help, --config, "),
        (["phase4", "--lvie", "--config", "x"], "received --lvie, expected one of --help, --config, --set, --json"),
        (["phase4", "distill", "--lvie"], "received --lvie (did you mean --live?), expected one of"),
        (["status", "--config", "x", "phase1"], "received phase1, expected one of --help, --config, "),
        (
            ["run", "--config", "x", "--set", "seed=1", "source.uri=mongodb://a:b@c"],
            "received source.uri=mongodb://***@c without an op",
        ),
        (
            ["--config", "x", "run"],
            "received --config before the command, expected the command first; put options behi",
        ),
        (["--config=x", "run"], "received --config before the command"),
        (
            ["run", "--config", "x", "--from", "phase2", "train"],
            "received train as a word of its own, expected a phase and its step in quotes; write 'phase2 train'",
        ),
        (["phase4", "evaluate", "--split", "vall"], "--split: received 'vall' (did you mean val?), expected one of tr"),
        (["status", "--config", "a", "--config", "b"], "--config: received a and b, expected one of them; leave the"),
        (["phase0", "--config", "a", "audit", "--config", "b"], "--config: received a and b, expected one of them; "),
        (["run", "--config", "a", "--from", "phase1", "--from", "phase2"], "--from: received phase1 and phase2, exp"),
        (["demo", "--images", "", "--labels", "x"], "--images: received '', expected a value; give one, or leave"),
        (["status", "--config="], "--config: received '', expected a value; give one, or leave the option out"),
    ],
)
def test_a_misspelt_word_an_empty_value_and_a_second_one_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and f" error: {said}" in printed.replace("argument --split", "--split"), printed


def test_the_same_option_twice_with_one_value_does_no_harm(experiment):
    file = str(experiment())
    assert cli.main(["phase0", "--config", file, "audit", "--config", file, "--dry-run", *OWN_WEIGHTS]) == 0


def test_an_unknown_key_exits_2_and_says_what_was_meant(experiment, capsys):
    assert cli.main(["status", "--config", str(experiment("phase1: {training: {epoch: 3}}"))]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and "Traceback" not in captured.err
    for part in ("phase1.training.epoch", "did you mean 'epochs'", "learning_rate"):
        assert part in captured.err


def test_a_wrong_type_shows_what_was_received(experiment, capsys):
    assert cli.main(["status", "--config", str(experiment()), "--set", "seed=many"]) == 2
    assert "error: --set seed: received 'many' (text), expected a whole number" in capsys.readouterr().err


def test_a_missing_config_exits_2(tmp_path, capsys):
    assert cli.main(["status", "--config", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml: received no such file" in capsys.readouterr().err


def test_status_of_nothing_as_json(experiment, capsys):
    assert cli.main(["status", "--json", "--config", str(experiment())]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in rows} == {"missing"}
    assert rows[0] == {
        "step": "phase0 audit", "state": "missing", "reason": "audit not made yet", "seconds": None, "finished": None,
    }  # fmt: skip


def test_set_reaches_the_run(experiment, capsys, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    sets = ["--set", f"root={elsewhere}", "--set", "experiment=other", *OWN_WEIGHTS]
    assert cli.main(["phase1", "train", "--config", str(experiment()), *sets]) == 3
    assert str(elsewhere / "tfrecords" / "other" / "dataset.json") in capsys.readouterr().err


def test_dry_run_says_what_would_run_and_touches_nothing(experiment, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "free_bytes", lambda run: 10**12)  # with less than it needs, a line more says so
    arguments = ["run", "--config", str(experiment()), "--until", "phase0 export", "--dry-run"]
    assert cli.main(arguments) == 0
    head, *lines, last, download = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()[:2]) for line in lines] == ["phase0 audit", "phase0 validate-urls", "phase0 export"]
    assert download.startswith("to download about ") and "a guess" in download
    assert head.split() == ["step", "about", "GB", "last", "took", "why"]
    assert re.match(r"together about .* and 40.5 GB \(free .* GB\) on .* for 720,000 train photos by gates", last)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("argument", ["--from", "--until"])
def test_an_unknown_phase_exits_2(experiment, capsys, argument):
    assert cli.main(["run", "--config", str(experiment()), argument, "phase12"]) == 2
    assert f"{argument}: received 'phase12', expected one of phase0, phase1, " in capsys.readouterr().err


def test_a_step_without_its_input_exits_3_and_names_the_step(experiment, capsys):
    assert cli.main(["phase1", "train", "--config", str(experiment()), *OWN_WEIGHTS]) == 3
    assert "run `phase0 split` first" in capsys.readouterr().err


def test_no_server_exits_3_within_ten_seconds_without_the_password(experiment):
    config = experiment("source: {uri: 'mongodb://me:s3cret@127.0.0.1:9/plants'}")
    started = time.monotonic()
    done = pipeline("phase0", "audit", "--config", config)
    assert done.returncode == 3 and time.monotonic() - started < 10
    assert "no MongoDB answers at mongodb://***@127.0.0.1:9" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_doctor_names_what_is_missing(experiment, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CHROMIUM_PATH", str(tmp_path / "nowhere"))
    file = experiment("source: {uri: 'mongodb://anna:secret@127.0.0.1:9/'}")
    assert cli.main(["doctor", "--config", str(file)]) == 3
    said = capsys.readouterr().out
    assert "secret" not in said and str(tmp_path / "nowhere") in said
    state = {what: word for word, what in re.findall(r"^(ok|MISSING) +(\w+): ", said, re.M)}
    assert [state.pop("MongoDB"), state.pop("browser")] == ["MISSING", "MISSING"]
    assert state.pop("GPU") in ("ok", "MISSING") and state == {"versions": "ok", "disk": "ok"}


def test_an_empty_collection_exits_3_and_a_filled_one_is_audited(experiment, tmp_path, capsys):
    with embedded.mongo(tmp_path / "mongo") as uri:
        config = str(experiment(f"source: {{uri: '{uri}'}}"))
        assert cli.main(["phase0", "audit", "--config", config]) == 3
        assert "plants.photos has no document" in capsys.readouterr().err
        with pymongo.MongoClient(uri) as client:
            client["plants"]["photos"].insert_one({"latin_name": "Viola odorata", "image_url": "a.jpg"})
        assert cli.main(["phase0", "audit", "--config", config]) == 0
    assert json.loads((tmp_path / "artifacts/tiny/phase0/audit.json").read_text())["species"] == 1


@pytest.mark.parametrize(
    "error, code",
    [("LeakError", 1), ("SourceError", 3), ("BrokenArtefact", 3), ("OSError", 3), ("ValueError", 2),
     ("KeyboardInterrupt", 130)],
)  # fmt: skip
def test_exit_codes(experiment, monkeypatch, capsys, error, code):
    from keras_pipeline.core import errors

    def fail(run, options):
        raise getattr(errors, error, getattr(builtins, error, None))("mongodb://a:b@c")

    monkeypatch.setattr(status, "main", fail)
    assert cli.main(["status", "--config", str(experiment())]) == code
    assert "a:b" not in capsys.readouterr().err


@pytest.mark.parametrize("verdict_is, code", [("met", 0), ("not measurable here", 0), ("missed", 1)])
def test_only_a_missed_gate_exits_1(experiment, monkeypatch, capsys, verdict_is, code):
    verdict = {"name": "ece", "step": "x", "status": verdict_is, "value": 0.5, "target": "< 0.1", "reason": ""}
    monkeypatch.setattr(runner, "execute", lambda run, steps, **_: None)
    monkeypatch.setattr(gates, "judge", lambda run, steps: [verdict])
    assert cli.main(["phase5", "--json", "--config", str(experiment())]) == code
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"gates": [verdict]} and "ece: 0.5 < 0.1" in captured.err


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No answer from any network, and caches in which nothing lies yet."""
    for host in ("KAGGLE", "KERAS"):
        monkeypatch.setattr(pretrained, host, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))


# Nothing else of these configs needs a download.
WITHOUT = {
    "phase0": "phase0: {baseline: {features: colour-histogram}}",
    "phase1": "phase1: {model: {name: mobilenetv2, pretrained: false}}",
    "phase2": "phase2: {model: {name: mobilenetv2, pretrained: false}}",
    "phase3": "phase3: {model: {pretrained: false}}",
}
VIT, MOBILENET = "keras_hub.models.ViTBackbone.from_preset", "keras.applications.MobileNetV2"


@pytest.mark.parametrize(
    "section, key, recipe",
    [
        ("phase0: {}", "phase0.baseline.features: imagenet", f"{MOBILENET}(alpha=1, "),
        ("phase1: {}", "phase1.model.pretrained: true", f"{VIT}('vit_base_patch16_224_imagenet').save_weights('vit_"),
        ("phase1: {model: {pretrained: imagenet21k}}", "phase1.model.pretrained: imagenet21k", "16_224_imagenet21k')"),
        (
            "phase2: {model: {name: mobilenetv2, alpha: 0.35, pretrained: imagenet}}",
            "phase2.model.pretrained: imagenet",
            f"{MOBILENET}(alpha=0.35, classifier_activation=None).save_weights('mobilenetv2.weights.h5')",
        ),
        ("phase3: {}", "phase3.model.pretrained: true", f"{MOBILENET}(alpha=1, "),
    ],
)
def test_weights_that_cannot_be_had_stop_a_run_before_any_work(
    experiment, offline, capsys, tmp_path, section, key, recipe
):
    text = "\n".join({**WITHOUT, section[:6]: section}.values())
    started = time.monotonic()
    # No MongoDB answers either, but it is not asked: the first step would be `phase0 audit`.
    assert cli.main(["run", "--config", str(experiment(text))]) == 2
    assert time.monotonic() - started < 10
    captured = capsys.readouterr()
    assert f"{key} needs a download from http://127.0.0.1:9, which does not answer" in captured.err
    assert recipe in captured.err and "give its path here as phase" in captured.err
    assert captured.out == "" and {path.name for path in tmp_path.rglob("*.*")} == {".lock", "tiny.yaml"}


def test_a_weights_file_that_is_not_there_stops_it_too(experiment, offline, capsys):
    text = "\n".join({**WITHOUT, "phase1": "phase1: {model: {pretrained: no/such.weights.h5}}"}.values())
    assert cli.main(["run", "--config", str(experiment(text))]) == 2
    assert "phase1.model.pretrained: no/such.weights.h5 does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "section, cached",
    [
        ("phase1: {}", "kagglehub/models/keras/vit/keras/vit_base_patch16_224_imagenet/4/model.weights.h5"),
        (
            "phase1: {model: {name: mobilenetv2, alpha: 0.5}}",
            "keras/models/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.5_224_no_top.h5",
        ),
        ("phase1: {model: {pretrained: mine.weights.h5}}", "mine.weights.h5"),
        (WITHOUT["phase1"], None),
    ],
)
def test_what_lies_here_needs_no_network(experiment, offline, capsys, tmp_path, monkeypatch, section, cached):
    monkeypatch.chdir(tmp_path)
    if cached:
        (tmp_path / cached).parent.mkdir(parents=True, exist_ok=True)
        if cached == "mine.weights.h5":
            write_weights(tmp_path / cached, "vit_base_patch16_224")
        else:
            (tmp_path / cached).touch()
    config = str(experiment(f"source: {{uri: 'mongodb://127.0.0.1:9/'}}\n{section}"))
    assert cli.main(["phase1", "train", "--config", config]) == 3
    assert "run `phase0 split` first" in capsys.readouterr().err  # it got as far as that


def test_a_host_that_answers_with_an_error_is_there(experiment, offline, capsys, tmp_path, monkeypatch):
    with serve_folder(tmp_path) as url:
        monkeypatch.setattr(pretrained, "KAGGLE", url)
        assert cli.main(["phase1", "train", "--config", str(experiment("phase1: {}"))]) == 3
    assert "run `phase0 split` first" in capsys.readouterr().err


def test_profile_input_of_no_dataset_names_the_step_that_makes_it(experiment, capsys):
    assert cli.main(["phase2", "train", "--profile-input", "--config", str(experiment())]) == 3
    assert "run `phase0 split` first" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path):
    """(regions of its photos) -> arguments of `demo` for a folder with a CSV."""

    def make(*regions):
        rows = [f"{i}.jpg,Viola odorata,{region}" for i, region in enumerate(regions)]
        for row in rows:
            (tmp_path / row.split(",")[0]).write_bytes(b"photo")
        (tmp_path / "labels.csv").write_text("\n".join(["image,latin_name,region", *rows]))
        return ["demo", "--images", str(tmp_path), "--labels", str(tmp_path / "labels.csv")]

    return make


def config_of(arguments):
    return opening._config(commands.parser().parse_args(arguments))


@pytest.fixture
def unreachable(monkeypatch):
    def check_available(*_):
        raise ValueError("does not answer")

    monkeypatch.setattr(opening.pretrained, "check_available", check_available)


def test_demo_on_a_folder_downloads_weights_where_it_can(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(opening.pretrained, "check_available", lambda *_: None)
    found = config_of([*folder(*["EU", "EU_SW"] * 100), "--set", f"root={tmp_path}"])
    assert [found.weights, found.phase1.model.pretrained, found.phase2.model.pretrained] == ["imagenet"] * 3
    assert (found.phase3.model.pretrained, found.phase3.model.alpha, found.phase0.baseline.features) == (
        "imagenet", 1.0, "imagenet",
    )  # fmt: skip
    assert opening._weights_line(found) == (
        "weights: pretrained on ImageNet (downloaded), for the teachers and the student"
    )


def test_demo_on_a_folder_says_what_to_expect_without_weights(folder, unreachable, tmp_path):
    found = config_of([*folder(*["EU", "EU_SW"] * 100), "--set", f"root={tmp_path}"])
    assert (found.weights, found.phase1.model.pretrained, found.phase1.model.alpha) == (None, False, 0.35)
    assert "expect little; a linear probe on colours may do as well" in opening._weights_line(found)


def test_demo_on_a_folder_goes_on_as_it_began(folder, unreachable, monkeypatch, tmp_path):
    """Without weights, although they can be had today: the experiment has trained models."""
    arguments = [*folder(*["EU", "EU_SW"] * 100), "--set", f"root={tmp_path}"]
    first = config_of(arguments)
    write(tmp_path / "artifacts" / first.experiment / "config.yaml", first)
    monkeypatch.setattr(opening.pretrained, "check_available", lambda *_: None)
    assert config_of(arguments) == first


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "--weights: received .*x.weights.h5, which does not exist; expected a .weights.h5 file"),
     (b"text", "--weights: received .*x.weights.h5, which is no HDF5 file; expected")],
)  # fmt: skip
def test_a_weights_file_that_cannot_serve_is_refused_at_once(folder, tmp_path, content, message):
    if content:
        (tmp_path / "x.weights.h5").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        config_of([*folder("EU"), "--weights", str(tmp_path / "x.weights.h5")])


def test_weights_without_a_folder_are_refused():
    with pytest.raises(ValueError, match="--weights: received x without --images, expected a folder too"):
        config_of(["demo", "--weights", "x"])


def test_demo_on_a_folder_keeps_the_region_where_the_folder_has_it(folder, experiment):
    arguments = [*folder(*["EU", "EU_SW"] * 100), "--config", str(experiment())]
    found = config_of(arguments)
    assert (found.phase2.region, found.phase3.teachers[1].region_filter) == ("EU_SW", "EU_SW")
    found = config_of([*arguments, "--set", "phase2.region=EU"])
    assert (found.phase2.region, found.phase3.teachers[1].region_filter) == ("EU", "EU")


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["source.uri=mongodb://me:pw@h/"], "--images and --set source.uri: received two values of source.uri, expect"),
        (["source.demo.images=/tmp"], "--images and --set source.demo.images: received two values of source.demo.imag"),
        (["seed=1", "seed=2"], "--set seed: received two values of seed, expected one; leave the other out"),
        (["seed=1", "seed =2"], "--set seed: received two values of seed, expected one; leave the other out"),
        (
            ["phase2.region=EU", "phase2=null"],
            "--set phase2 and --set phase2.region: received phase2 as a whole and pha",
        ),
        (["phase2={region: EU}", "phase2.training.epochs=2"], "--set phase2 and --set phase2.training.epochs: receiv"),
        (["source={}"], "--set source and --images: received source as a whole and source.demo.images besides, expec"),
    ],
)
def test_two_values_of_a_key_are_refused(folder, capsys, sets, said):
    assert cli.main([*folder(*["EU"] * 200), *(part for each in sets for part in ("--set", each))]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_a_flag_is_named_in_what_is_said_of_the_key_it_stands_for(experiment, capsys):
    arguments = ["phase6", "validate", "--config", str(experiment()), "--dry-run", *OWN_WEIGHTS]
    assert cli.main([*arguments, "--photos", "/no"]) == 2
    assert "error: --photos: phase6.photos: received /no, expected a folder of photos\n" in capsys.readouterr().err
    assert cli.main([*arguments, "--set", "phase6.photos=/no"]) == 2
    assert "error: phase6.photos: received /no, expected a folder of photos\n" in capsys.readouterr().err
    arguments = ["phase4", "distill", "--live", "--set", "phase4.distill.live=false"]
    assert cli.main([*arguments, "--config", str(experiment())]) == 2
    said = "error: --set phase4.distill.live and --live: received two values of phase4.distill.live, expected one;"
    assert said in capsys.readouterr().err


def test_a_dollar_in_the_regions_of_a_csv_is_no_variable(folder, experiment, monkeypatch, tmp_path):
    monkeypatch.setenv("PLANTS_HOME", "/root")
    found = config_of([*folder(*["${PLANTS_HOME}", "EU"] * 200), "--config", str(experiment())])
    assert found.phase2.region == "${PLANTS_HOME}" and found.phase3.teachers[1].region_filter == "${PLANTS_HOME}"
    assert from_file(write(tmp_path / "written.yaml", found)) == found


def test_demo_on_a_folder_without_the_region_takes_the_commonest(folder, experiment, capsys, tmp_path):
    found = config_of([*folder(*["unknown", "NA", "unknown"] * 100), "--config", str(experiment())])
    assert (found.phase2.region, found.phase3.teachers[1].region_filter) == ("NA", "NA")
    assert found.experiment == f"demo-{tmp_path.name}"
    assert (found.gates.valid_photos_min, found.gates.valid_photos_max) == (None, None)
    said = "labels.csv: 0 photos of EU_SW, and a regional teacher needs 100; it learns from NA (100)"
    assert said in capsys.readouterr().out


def test_regions_in_other_capitals_are_named(folder, experiment, capsys):
    arguments = [*folder(*["eu_sw", "eu"] * 100), "--config", str(experiment())]
    found = config_of(arguments)
    said = "0 photos of EU_SW, and a regional teacher needs 100; did you mean eu_sw? it learns from "
    assert found.phase2.region in ("eu", "eu_sw") and said in capsys.readouterr().out
    photos = {"EU": 5, "EU_SW": 1}
    assert teacher_checks.meant("EU_SW,eu", photos) == "did you mean [EU_SW, EU]? "
    assert teacher_checks.meant(["eu", "EU_SW"], photos) == "did you mean [EU, EU_SW]? "
    assert [teacher_checks.meant(each, photos) for each in ("EU_SW", "NA", ["eu", "NA"])] == ["", "", ""]


def test_demo_on_a_folder_of_one_region_has_no_regional_teacher(folder, experiment, capsys):
    found = config_of([*folder(*["EU"] * 200), "--config", str(experiment())])
    assert found.phase2 is None and [each.path for each in found.phase3.teachers] == ["phase1/best.keras"]
    said = "needs 100 photos of its region and 100 of others; there are EU 200: no regional teacher"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("key", ["phase2.training.batch_size", "phase3.teachers.1.weight"])
def test_a_setting_of_a_regional_teacher_that_a_folder_does_not_allow(folder, experiment, capsys, key):
    assert cli.main([*folder(*["unknown"] * 200), "--config", str(experiment()), "--set", f"{key}=1"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: --set {key}: received a setting of the regional teacher, and no region in ")
    assert printed.endswith("leave it out, or give more photos their region\n")


@pytest.mark.parametrize(
    ("folder_name", "experiment_name"),
    [
        ("Pflanzenföto", "demo-Pflanzenfoto"),
        ("my flora", "demo-my-flora"),
        ("a + b (2)", "demo-a-b-2"),
        ("C++", "demo-C"),
        ("花", "demo-photos"),
        ("x" * 120, "demo-" + "x" * 95),
        ("photos_2.0", "demo-photos_2.0"),
    ],
)
def test_the_experiment_is_named_by_the_folder_in_letters_that_a_name_may_have(
    experiment, tmp_path, folder_name, experiment_name
):
    images = tmp_path / folder_name
    images.mkdir()
    (images / "a.jpg").write_bytes(b"photo")
    (tmp_path / "labels.csv").write_text("image,latin_name\na.jpg,Viola odorata")
    arguments = ["demo", "--images", str(images), "--labels", str(tmp_path / "labels.csv")]
    assert config_of([*arguments, "--config", str(experiment())]).experiment == experiment_name


def test_two_folders_of_one_name_do_not_share_an_experiment(experiment, tmp_path, capsys):
    config, arguments = str(experiment()), {}
    for above in ("first", "second"):
        images = tmp_path / above / "photos"
        images.mkdir(parents=True)
        (images / "a.jpg").write_bytes(b"photo")
        (tmp_path / above / "labels.csv").write_text("image,latin_name\na.jpg,Viola odorata")
        labels = str(tmp_path / above / "labels.csv")
        arguments[above] = ["demo", "--images", str(images), "--labels", labels, "--config", config]
    written = tmp_path / "artifacts/demo-photos/config.yaml"
    write(written, config_of(arguments["first"]))
    before = written.read_text()
    for dry in ([], ["--dry-run"]):
        assert cli.main([*arguments["second"], *dry]) == 2
        err = capsys.readouterr().err
        assert f"--images: received {tmp_path}/second/photos, expected {tmp_path}/first/photos, the folder that" in err
        assert "experiment demo-photos was made of" in err and "--set experiment=NAME" in err
    assert written.read_text() == before
    # Another CSV for the same folder is a collection that grows, by whatever path it is called.
    assert cli.main([*arguments["first"], "--dry-run"]) == 2  # one species
    assert "the folder that experiment" not in capsys.readouterr().err
    assert cli.main([*arguments["second"], "--set", "experiment=other", "--dry-run"]) == 2
    assert "the folder that experiment" not in capsys.readouterr().err


def test_another_spelling_of_a_folder_makes_nothing_stale(folder, experiment, monkeypatch, tmp_path):
    arguments, typed = [*folder("EU", "EU"), "--config", str(experiment())], str(tmp_path)
    config = config_of(arguments)
    write(Run(config, None).folder / "config.yaml", config)
    (tmp_path / "link").symlink_to(typed)
    monkeypatch.chdir(Path(typed).parent)
    seen = []
    monkeypatch.setattr(chain, "main", lambda run, options: (seen.append(run.config.source.demo.images), 0))
    name = Path(typed).name
    for spelling in (typed, f"{typed}/", name, f"./{name}//", f"{tmp_path}/link", f"{typed}/../{name}"):
        assert cli.main(["demo", "--images", spelling, *arguments[3:], "--dry-run"]) == 0
    assert seen == [typed] * 6


def test_demo_finds_its_config_beside_the_sources_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_of(["demo"]).experiment == "demo"


@pytest.fixture
def finished(monkeypatch):
    """(whether the page is up to date) -> nothing; every run ends at once and leaves a page."""

    def make(state, reason):
        rows = [{"step": "phase6 export", "state": state, "reason": reason}]
        monkeypatch.setattr(runner, "execute", lambda run, steps, **_: run.path("web").mkdir(parents=True))
        monkeypatch.setattr(gates, "judge", lambda run, steps: [])
        monkeypatch.setattr(report, "write", lambda run, options, verdicts: "report.html")
        monkeypatch.setattr(status, "rows", lambda run: rows)
        monkeypatch.setattr(
            visit, "visit", lambda run: [{"truth": "a", "answer": "a", "percent": "9", "conclusive": 1}]
        )

    return make


@pytest.mark.parametrize("command", ["run", "demo"])
@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        ("stale", "its input shipped changed", "its input shipped changed"),
        ("done", "until phase1 train ends otherwise than before", "a step before it is"),
    ],
)
def test_a_page_that_is_out_of_date_is_not_shown(experiment, finished, capsys, command, state, reason, said, tmp_path):
    finished(state, reason)
    assert cli.main([command, "--config", str(experiment()), "--until", "phase1"]) == 0
    out = capsys.readouterr().out
    assert f"page: {tmp_path}/web_export/tiny is out of date ({said}); `run` without --until renews it" in out
    assert "serve" not in out and "the page on a test photo" not in out


@pytest.mark.parametrize("command", ["run", "demo"])
def test_a_page_that_is_up_to_date_is_shown(experiment, finished, capsys, command):
    finished("done", None)
    assert cli.main([command, "--config", str(experiment())]) == 0
    out = capsys.readouterr().out
    assert "see it with `python -m keras_pipeline serve" in out and "out of date" not in out
    assert ("the page on a test photo of a: a 9 (right)" in out) == (command == "demo")


def test_a_missed_gate_is_shown_before_the_next_step(experiment, monkeypatch, capsys):
    def execute(run, steps, *, force, after):
        for step in steps:
            print(step.title)
            after(step)

    def judge(run, titles):
        common = {"step": "x", "value": -0.1, "target": ">= 0", "reason": "", "words": ""}
        rows = [("teacher_over_probe", "missed"), ("teacher_top5", "met")] if "phase1 evaluate" in titles else []
        return [{"name": name, "status": status, **common} for name, status in rows]

    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(gates, "judge", judge)
    assert cli.main(["phase1", "--config", str(experiment())]) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    missed, met = "missed  teacher_over_probe: -0.1 >= 0", "met  teacher_top5: -0.1 >= 0"
    assert lines == ["phase1 train", "phase1 evaluate", missed, "phase1 logits", missed, met]
    assert cli.main(["phase1", "evaluate", "--config", str(experiment())]) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["phase1 evaluate", missed, met]  # once, where nothing comes between


def test_a_regional_teacher_that_nobody_learns_from_is_a_warning(experiment, monkeypatch, capsys):
    monkeypatch.setattr(runner, "execute", lambda run, steps, **_: None)
    monkeypatch.setattr(gates, "judge", lambda run, steps: [])
    alone = "phase3: {teachers: [{path: phase1/best.keras, weight: 1.0}]}"
    said = "warning: phase3.teachers: phase2/best.keras is not among them, and phase 2 trains it: "
    assert cli.main(["phase2", "--config", str(experiment(alone))]) == 0
    assert capsys.readouterr().out.count(said) == 1
    assert cli.main(["phase1", "--config", str(experiment(alone))]) == 0
    assert cli.main(["phase2", "--config", str(experiment())]) == 0
    assert said not in capsys.readouterr().out
    other = "phase3: {teachers: [{path: phase2/best.keras}]}"
    said = "warning: phase3.teachers: phase1/best.keras is not among them, and phase 1 trains it: no student learns"
    assert cli.main(["phase1", "--config", str(experiment(other))]) == 0
    assert said in capsys.readouterr().out
    assert (
        cli.main(["phase1", "--config", str(experiment(other)), "--set", "phase2.model.pretrained=global_teacher"]) == 0
    )
    assert said not in capsys.readouterr().out


def test_demo_on_a_folder_needs_both(folder, experiment, capsys):
    assert cli.main([*folder("EU")[:3], "--config", str(experiment())]) == 2
    assert "without --labels, expected a folder and its CSV; give both" in capsys.readouterr().err
    assert cli.main(["demo", "--labels", "a.csv", "--config", str(experiment())]) == 2
    assert "error: --labels: received a.csv without --images, expected" in capsys.readouterr().err


def test_demo_calls_the_folder_by_its_flag(folder, experiment, capsys):
    arguments = folder("EU")
    assert cli.main(["demo", "--images", "/no/folder", *arguments[3:], "--config", str(experiment())]) == 2
    assert capsys.readouterr().err.startswith("error: --images: received photos /no/folder; expected a folder that")
    assert cli.main([*arguments, "--config", str(experiment()), "--set", "seed=x"]) == 2
    assert capsys.readouterr().err.startswith("error: --set seed: received 'x' (text), expected a whole number")


@pytest.mark.parametrize(("code", "remedy"), [(errno.ENOSPC, "free space"), (errno.EFBIG, "ulimit -f")])
def test_a_disk_that_takes_no_more_says_what_to_do(experiment, capsys, monkeypatch, code, remedy):
    def full(*_):
        raise OSError(code, os.strerror(code), "photos.tfrecord")

    monkeypatch.setattr(cli, "_dispatch", full)
    assert cli.main(["status", "--config", str(experiment())]) == 3
    err = capsys.readouterr().err
    assert "photos.tfrecord" in err and remedy in err and "goes on where it stopped" in err


def test_a_directory_is_no_weights_file(experiment, capsys, tmp_path):
    arguments = ["phase1", "train", "--config", str(experiment()), "--set", f"phase1.model.pretrained={tmp_path}"]
    assert cli.main(arguments) == 2
    assert "is a directory; expected a .weights.h5 file" in capsys.readouterr().err


def test_a_fault_of_set_names_the_key_that_was_given_and_no_value(experiment, capsys):
    sets = ["--set", "source.uri=mongodb://me:s3cret@host/", "--set", "seed=many"]
    assert cli.main(["status", "--config", str(experiment()), *sets]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --set seed: received 'many' (text)") and "s3cret" not in err


def test_a_report_of_nothing_is_refused(experiment, capsys):
    assert cli.main(["report", "--config", str(experiment())]) == 3
    assert "no step is done yet" in capsys.readouterr().err


@pytest.mark.parametrize("null", [[], ["--set", "phase2=null"]])
def test_status_goes_on_past_a_broken_file(experiment, capsys, tmp_path, null):
    config = experiment()
    run = Run(from_file(config), None)
    audit = next(step for step in STEPS if step.title == "phase0 audit")
    run.path("audit").parent.mkdir(parents=True)
    write_json(run.path("audit"), {"per_region": {"EU": 1}})
    write_sidecars(run, audit, 1.0)
    run.path("audit").write_text("")
    assert cli.main(["status", "--config", str(config), *null]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("phase0 audit")]
    assert line.split()[2] == "broken" and line.endswith(f"{run.path('audit')}: broken (empty)")
    assert lines[-1].startswith("phase7 manifest") and len(lines) == len(STEPS) + 1
    assert run.path("audit").read_bytes() == b""


def test_a_report_of_an_artefact_that_was_edited_names_its_step(experiment, capsys, tmp_path):
    config = experiment()
    run = Run(from_file(config), None)
    for step in (step for step in STEPS if step.phase == "phase0"):
        for name in step.outputs:
            run.path(name).parent.mkdir(parents=True, exist_ok=True)
            run.path(name).write_text("{}")
        write_sidecars(run, step, 1.0)
    run.path("audit").write_text('{"documents": 3}')
    assert cli.main(["report", "--config", str(config)]) == 3
    err = capsys.readouterr().err
    assert "does not hold what its step writes (KeyError" in err and "phase0 audit (audit is not as" in err


@pytest.mark.parametrize("text", ["{}", "[]", "7", '{"per_region": 3}', None])
@pytest.mark.parametrize("null", [[], ["--set", "phase2=null"]])
def test_an_artefact_of_another_shape_is_told_and_the_rest_goes_on(experiment, capsys, text, null):
    arguments = ["--config", str(experiment()), *null]
    run = Run(from_file(arguments[1]), None)
    audit = {"per_region": {"EU": 1}, "usable": 1, "species": 1}
    made = {"audit": audit, "url_check": {"failure_rate": 0.5, "interval": [0, 1], "complete": True}}
    for name, value in made.items():
        run.path(name).parent.mkdir(parents=True, exist_ok=True)
        write_json(run.path(name), value)
        write_sidecars(run, next(step for step in STEPS if name in step.outputs), 1.0)
    run.path("audit").unlink()
    run.path("audit").mkdir() if text is None else run.path("audit").write_text(text)
    assert cli.main(["status", *arguments]) == 0
    assert ("audit is not as its step left it" in (said := capsys.readouterr().out)) or f"{run.path('audit')}: " in said
    assert cli.main(["report", *arguments]) == 0
    assert f"warning: phase0 audit is broken ({run.path('audit')}: " in capsys.readouterr().out
    (verdict,) = gates.judge(run, {"phase0 audit"})[:1]
    assert verdict["status"] == "not measurable here" and str(run.path("audit")) in verdict["reason"]


def test_type_is_the_config_key_of_the_quantization(experiment, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(chain, "phase", lambda run, options: (asked.append(run.config.phase6.quantization), 0))
    for given in ([], ["--type", "int8"], ["--type", "none"]):
        assert cli.main(["phase6", "quantize", *given, "--config", str(experiment())]) == 0
    assert asked == ["fp16", "int8", "none"]


def test_live_is_the_config_key_and_goes_with_distill(experiment, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(chain, "phase", lambda run, options: (asked.append(run.config.phase4.distill.live), 0))
    assert cli.main(["phase4", "distill", "--live", "--config", str(experiment())]) == 0
    assert cli.main(["phase4", "distill", "--config", str(experiment())]) == 0
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["phase3", "inspect", "--sample-id", "x"], "phase3 inspect needs {}/dataset.json; run `phase0 split` first"),
        (["phase3", "export-npz"], "phase3 export-npz needs {}/dataset.json; run `phase0 split` first"),
        (["serve"], ": no page yet; run `python -m keras_pipeline run --config {}/tiny.yaml --set seed=7` first"),
        (["classify", __file__], ": no model yet; run `python -m keras_pipeline run --config {}/tiny.yaml --set seed"),
    ],
)
def test_looking_at_what_is_not_made_names_a_command(experiment, capsys, tmp_path, arguments, message):
    config = str(experiment())
    folder = tmp_path if "--config" in message else Run(from_file(config), None).path("dataset").parent
    assert cli.main([*arguments, "--config", config, "--set", "seed=7"]) == 3
    assert message.format(folder) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        ({"conclusive": True}, "Viola alba, 72.0%"),
        ({"conclusive": True, "promise": 0.679}, "Viola alba, 72.0%; right in at least 67 % of cases"),
        ({"conclusive": False}, "not conclusive (Viola alba?), 72.0%"),
        ({"conclusive": False, "off_list": False}, "not conclusive (Viola alba?), 72.0%"),
        ({"conclusive": False, "off_list": True}, "does not look like one of the plants of this list"),
        (
            {"conclusive": False, "genus_conclusive": True, "promise": 0.5},
            "not conclusive (Viola alba?), 72.0%; genus Viola, 90.0%; right in at least 50 % of cases",
        ),
        (
            {"conclusive": False, "family": "Violaceae", "family_probability": 0.95, "family_conclusive": True},
            "not conclusive (Viola alba?), 72.0%; family Violaceae, 95.0%",
        ),
        ({"conclusive": True, "common_name": "White violet"}, "Viola alba (White violet), 72.0%"),
    ],
)
def test_classify_says_what_is_conclusive_and_what_less_it_promises(
    experiment, capsys, monkeypatch, tmp_path, verdict, line
):
    from keras_pipeline.export import saved_model

    (tmp_path / "a.jpg").write_bytes(JPEG)
    said = {"photo": "a.jpg", "latin_name": "Viola alba", "probability": 0.72, "genus": "Viola"}
    said |= {"genus_probability": 0.9, "genus_conclusive": False, "off_list": None, "promise": None}
    monkeypatch.setattr(saved_model, "classify", lambda *_: [said | verdict])
    config = str(experiment())
    Run(from_file(config), None).path("saved_model").mkdir(parents=True)
    assert cli.main(["classify", "--config", config, str(tmp_path / "a.jpg")]) == 0
    assert capsys.readouterr().out == f"a.jpg: {line}\n"


@pytest.fixture
def exported(experiment, monkeypatch):
    """(config file, run) of a chain of two steps, both up to date; classify and serve answer at once."""
    from keras_pipeline.export import saved_model

    chain = [
        Step("phase4", "finetune", "", (), ("student_metrics",), ("phase4.finetune",)),
        Step("phase6", "export", "", ("student_metrics",), ("export",), ("phase4.data",)),
    ]
    monkeypatch.setattr(status, "STEPS", chain)
    answer = {
        "photo": "a.jpg",
        "latin_name": "Viola alba",
        "probability": 0.72,
        "conclusive": True,
        "promise": None,
        "off_list": None,
    }
    monkeypatch.setattr(saved_model, "classify", lambda *_: [answer | {"genus_conclusive": False}])
    stop = SimpleNamespace(wait=lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(serve, "threading", SimpleNamespace(Event=lambda: stop))
    config = experiment()
    run = Run(from_file(config), None)
    for step in chain:
        path = run.path(step.outputs[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"top1": 0.5})
        write_sidecars(run, step, 1.0)
    run.path("web").mkdir(parents=True)
    run.path("saved_model").mkdir()
    (run.path("web") / "index.html").write_text("page")
    return config, run


@pytest.mark.parametrize(
    ("command", "what", "said"),
    [
        (["classify"], "the model", "a.jpg: Viola alba, 72.0%"),
        (["serve", "--port", "0"], "the page", "http://127.0.0.1"),
    ],
)
def test_a_model_that_is_out_of_date_answers_and_says_so(exported, capsys, tmp_path, command, what, said):
    config, run = exported
    (tmp_path / "a.jpg").write_bytes(JPEG)
    command = [*command, "--config", str(config), *([str(tmp_path / "a.jpg")] if command == ["classify"] else [])]
    assert cli.main(command) == 0
    captured = capsys.readouterr()
    assert said in captured.out and captured.err == ""
    assert cli.main([*command, "--set", "phase4.finetune.epochs=7"]) == 0
    captured = capsys.readouterr()
    assert said in captured.out
    assert captured.err == (
        f"warning: {what} is out of date: `phase4 finetune` is not up to date (its config changed "
        "(phase4.finetune.epochs: 3 -> 7)); `run` renews it\n"
    ).replace("3 -> 7", f"{run.config.phase4.finetune.epochs} -> 7")
    # A step before it was made again, with another outcome.
    write_json(run.path("student_metrics"), {"top1": 0.75})
    write_sidecars(run, status.STEPS[0], 1.0)
    assert cli.main(command) == 0
    assert capsys.readouterr().err == (
        f"warning: {what} is out of date: `phase6 export` is not up to date (its input student_metrics changed); `run` "
        "renews it\n"
    )


def test_no_photo_and_an_unknown_region_are_told_before_the_model_is_loaded(exported, capsys, tmp_path, monkeypatch):
    from keras_pipeline.export import saved_model

    asked = []
    monkeypatch.setattr(saved_model, "classify", lambda folder, photos, region: asked.append(photos) or [])
    config, run = exported
    table, photo = tmp_path / "table.csv", tmp_path / "a.jpg"
    table.write_text("a,b")
    photo.write_bytes(JPEG)
    arguments = ["classify", "--config", str(config), str(table)]
    assert cli.main(arguments) == 2
    assert f"error: {table}: not a JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF picture\n" in capsys.readouterr().err
    assert cli.main([*arguments, str(photo)]) == 2
    assert asked == [[photo]]
    (run.path("saved_model") / "assets").mkdir()
    assert cli.main([*arguments, str(photo), "--region", "EU"]) == 2
    assert "error: received region EU, but this model was exported without region priors" in capsys.readouterr().err
    write_json(run.path("saved_model") / "assets/priors.json", {"regions": ["EU", "NA"]})
    assert cli.main([*arguments, str(photo), "--region", "eu"]) == 2
    assert "error: received region eu, expected one of EU, NA, or none" in capsys.readouterr().err
    assert asked == [[photo]]
    assert cli.main(["classify", "--config", str(config), str(tmp_path), str(tmp_path / "no.jpg")]) == 2
    folder, absent = capsys.readouterr().err.splitlines()
    assert folder == f"error: {tmp_path}: received a folder, expected a photo; correct the path"
    assert absent == f"{tmp_path / 'no.jpg'}: received no such file, expected a photo; correct the path"


def test_a_copied_experiment_says_that_its_config_is_of_the_original(tmp_path, capsys):
    original = tmp_path / "a/artifacts/x"
    original.mkdir(parents=True)
    (original / "config.yaml").write_text(f"experiment: x\nroot: {tmp_path}/a\n")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert cli.main(["status", "--config", str(original / "config.yaml")]) == 0
    assert capsys.readouterr().err == ""
    copy = tmp_path / "b/artifacts/x/config.yaml"
    assert cli.main(["status", "--config", str(copy)]) == 0
    assert capsys.readouterr().err == (
        f"warning: {copy} lies in {copy.parent}, and its root is {tmp_path}/a: this command works in {original}; --set "
        f"root={tmp_path}/b works in the folder of the file\n"
    )
    assert cli.main(["status", "--config", str(copy), "--set", f"root={tmp_path}/b"]) == 0
    assert capsys.readouterr().err == ""


def test_a_bundle_away_from_its_experiment_answers_without_a_warning(exported, capsys, tmp_path):
    config, run = exported
    (tmp_path / "a.jpg").write_bytes(JPEG)
    run.path("student_metrics").unlink()
    run.path("student_metrics").with_name("metrics_test.json.meta.json").unlink()
    command = ["classify", "--config", str(config), str(tmp_path / "a.jpg"), "--set", "phase4.finetune.epochs=7"]
    assert cli.main(command) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["phase7", "reproduce", "--dry-run"],
            "phase7 reproduce: received --dry-run, expected it with steps that `run`",
        ),
        (
            ["phase7", "--dry-run", "reproduce"],
            "phase7 reproduce: received --dry-run, expected it with steps that `run`",
        ),
        (["phase7", "verify", "--force"], "phase7 verify: received --force, expected it with steps that `run` makes"),
        (["phase7", "--force", "verify"], "phase7 verify: received --force, expected it with steps that `run` makes"),
        (
            ["phase7", "verify", "--dry-run"],
            "phase7 verify: received --dry-run, expected it with steps that `run` makes",
        ),
        (["phase3", "--dry-run", "inspect"], "phase3 inspect: received --dry-run, expected it with steps that `run`"),
        (["phase3", "export-npz", "--force"], "phase3 export-npz: received --force, expected it with steps that `run`"),
        (
            ["phase1", "train", "--profile-input", "--dry-run"],
            "train: received --dry-run and --profile-input, expected",
        ),
        (["phase4", "evaluate", "--split", "val", "--dry-run"], "received --dry-run and --split val, expected one of"),
        (["phase3", "export-npz", "--dry-run"], "phase3 export-npz: received --dry-run, expected it with steps that"),
    ],
)
def test_an_option_that_a_step_by_name_does_not_take_is_refused(experiment, capsys, arguments, said):
    assert cli.main([*arguments, "--config", str(experiment())]) == 2
    assert said in capsys.readouterr().err


def test_usage_and_reference_name_the_options_that_a_step_takes(capsys):
    for name, taken in (("verify", ()), ("reproduce", ("--force",)), ("manifest", ("--force", "--dry-run"))):
        with pytest.raises(SystemExit):
            cli.main(["phase7", name, "--help"])
        usage = capsys.readouterr().out
        assert [flag for flag in ("--force", "--dry-run") if flag in usage] == [*taken]
    rows = [line for line in commands.reference().splitlines() if line.startswith(("| `verify`", "| `reproduce`"))]
    assert ["`--force`" in row for row in rows] == [False, True] and not any("--dry-run" in row for row in rows)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("phase4 distil", "phase4 distill"),
        ("phase4_distill", "phase4 distill"),
        ("phase6 quantise", "phase6 quantize"),
        ("phase 5", "phase5"),
    ],
)
def test_the_nearest_step_is_named(experiment, capsys, typed, meant):
    for option in ("--from", "--until"):
        assert cli.main(["run", option, typed, "--dry-run", "--config", str(experiment())]) == 2
        err = capsys.readouterr().err
        assert f"error: {option}: received {typed!r} (did you mean {meant!r}?), expected one of phase0, phase1" in err


@pytest.mark.parametrize(("made", "said"), [(False, True), (True, False)])
def test_a_run_without_a_model_card_says_why(experiment, finished, capsys, made, said):
    finished("done", None)
    config = experiment()
    card = report.card(Run(from_file(config), None))
    card.parent.mkdir(parents=True, exist_ok=True)
    if made:
        card.write_text("card")
    assert cli.main(["demo", "--config", str(config), "--until", "phase5"]) == 0
    line = "model card: not written, since `phase6 validate` is not done; `run` without --until makes both\n"
    assert (line in capsys.readouterr().out) is said


def without_roots_rights():
    """Root may write anywhere; without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH it is bound by the mode like others."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_a_read_only_folder_is_named_and_later_the_same_command_goes_on(experiment, tmp_path):
    root = tmp_path / "locked"
    root.mkdir(mode=0o555)
    photos = {"images": str(tmp_path), "labels": str(tmp_path / "labels.csv")}
    (tmp_path / "a.jpg").write_bytes(jpeg_of(1))
    (tmp_path / "labels.csv").write_text("image,latin_name\na.jpg,Bellis perennis\n")
    sets = [f"root={root}", "source.uri=embedded", f"source.demo={json.dumps(photos)}"]
    command = [sys.executable, "-m", "keras_pipeline", "phase0", "audit", "--config", str(experiment())]
    command += [part for one in sets for part in ("--set", one)]
    for asked in (["--dry-run"], []):
        done = subprocess.run([*command, *asked], capture_output=True, text=True, preexec_fn=without_roots_rights)
        assert done.returncode == 3, done.stderr
        assert str(root) in done.stderr and "expected a place that can be read and written" in done.stderr
        assert "Traceback" not in done.stderr
    examine = (
        "import sys; from keras_pipeline.core.artifacts import Run; from keras_pipeline.phases import doctor; "
        "from keras_pipeline.core.config.load import from_file; "
        "print(doctor._disk(Run(from_file(sys.argv[1], sys.argv[2:]), None)))"
    )
    disk = [sys.executable, "-c", examine, command[6], f"root={root}"]
    done = subprocess.run(disk, capture_output=True, text=True, preexec_fn=without_roots_rights)
    assert f"'ok': False, 'detail': \"{root} can't be written to (Permission denied), expected a place" in done.stdout
    root.chmod(0o755)
    assert subprocess.run(command, capture_output=True, preexec_fn=without_roots_rights).returncode == 0
