"""What stops a run in its first seconds instead of hours later, and what it says then."""

import shutil

import pytest

from keras_pipeline import __main__ as cli
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.core.files import write_json
from keras_pipeline.export import browser
from keras_pipeline.models import pretrained
from keras_pipeline.phases import forecast, preflight, status, steps

SMALL = {"model": {"name": "mobilenetv2", "pretrained": False}, "training": {"batch_size": 8}}
BASE = {
    "phase0": {"baseline": {"features": "colour-histogram"}},
    "phase1": SMALL,
    "phase2": SMALL,
    "phase3": {"model": {"pretrained": False}},
    "phase4": {"training": {"batch_size": 8}},
}
TEACHER = {"path": "phase1/best.keras", "weight": 1.0}
REGIONS = {"EU": 60, "EU_SW": 40}


def merged(below, above):
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {key: merged(below.get(key), above[key]) if key in above else below[key] for key in {**below, **above}}


@pytest.fixture
def project(make_config, tmp_path):
    """(sections, by="audit" | "dataset" | None, photos by region, train and val photos of them) -> a Run, counted."""

    def make(sections=None, by="dataset", photos=REGIONS, train=None, val=None, calibration=None):
        run = Run(make_config(**merged(BASE, sections or {})), None)
        if by == "audit":
            counts = {"usable": sum(photos.values()), "species": 5, "per_region": photos, "per_host": {"h": 1}}
            write_made(run, "audit", counts)
        if by == "dataset":
            parts = {"train": photos if train is None else train, "val": photos if val is None else val}
            splits = {name: parts.get(name, photos) for name in ("train", "val", "calibration", "test")}
            splits = {name: {"n": sum(own.values()), "per_region": own} for name, own in splits.items()}
            splits["calibration"]["per_class"] = {"a": 50, "b": 50} if calibration is None else calibration
            write_made(run, "dataset", {"classes": list("abcde"), "splits": splits})
        return run

    return make


def write_made(run, name, value):
    run.path(name).parent.mkdir(parents=True, exist_ok=True)
    write_json(run.path(name), value)


def remaining(by):
    """The steps that follow what is counted."""
    return steps.steps_between({"dataset": "phase0 baseline", "audit": "phase0 validate-urls", None: None}[by], None)


def met_by(run, steps, counts):
    """The first step whose check raises."""
    for step in status.applicable(run, steps):
        try:
            if step.title in preflight.CHECKS:
                preflight.CHECKS[step.title](run, counts)
        except (ValueError, OSError):
            return step.title
    return None


EARLY, AUDIT = {"by": None}, {"by": "audit"}
# (config, what is known by then, what is said, the step that would have met it)
FAULTS = [
    ({"phase1": {"model": {"pretrained": "a.h5"}}}, EARLY, "phase1.model.pretrained: a.h5 does not", "phase1 train"),
    ({"phase2": {"model": {"pretrained": "a.h5"}}}, EARLY, "phase2.model.pretrained: a.h5 does not", "phase2 train"),
    ({"phase3": {"model": {"pretrained": "a.h5"}}}, EARLY, "phase3.model.pretrained: a.h5 does not", "phase3 check"),
    ({"phase6": {"photos": "no"}}, EARLY, "phase6.photos: received no, expected a folder of photos", "phase6 validate"),
    (
        {"phase3": {"teachers": [TEACHER, {"path": "../other/phase1/best.keras", "weight": 1.0}]}}, EARLY,
        r"phase3.teachers.1.path: .*other/phase1/best.keras does not exist; expected a .keras file below .*/tiny",
        "phase3 combine",
    ),
    (
        {"phase2": {"region": "EU"}}, EARLY,
        "phase3.teachers.1.region_filter: received 'EU_SW', and phase2/best.keras learns from phase2.region 'EU';",
        "phase3 combine",
    ),
    (
        {"phase2": {"region": "XX"}}, AUDIT,
        "phase2.region: received 'XX', photos of it by the audit: 0, expected .* there are EU 60, EU_SW 40",
        "phase2 subset",
    ),
    (
        {}, {"by": "audit", "photos": {"EU": 99, "EU_SW": 1}},
        "phase2.region: received 'EU_SW', photos of it by the audit: 1, expected some to train on", "phase2 subset",
    ),
    (
        {}, {"by": "audit", "photos": {"EU_SW": 1360}},
        "phase2.region: received EU_SW, which all 1,360 photos are of .* set phase2: null", "phase2 subset",
    ),
    (
        {}, {"val": {"EU": 9}},
        r"phase2.region: received 'EU_SW', photos of it by the split: 120 \(40 train, 0 val\)", "phase2 subset",
    ),
    (
        {"phase3": {"teachers": [TEACHER, {**TEACHER, "region_filter": "XX"}]}}, AUDIT,
        "phase3.teachers.1.region_filter: received 'XX', which no train photo has by the audit; there are EU 60, EU_SW",
        "phase3 combine",
    ),
    (
        {"phase1": {"training": {"batch_size": 101}}}, AUDIT,
        "phase1.training.batch_size: received 101, and there are at most 100 train photos by the audit; set it to 100",
        "phase1 train",
    ),
    (
        {"phase1": {"training": {"batch_size": 64}}}, {"train": {"EU": 40, "EU_SW": 20}},
        "phase1.training.batch_size: received 64, and there are 60 train photos by the split; set it to 60 or less",
        "phase1 train",
    ),
    (
        {"phase2": {"training": {"batch_size": 64}}}, {},
        "phase2.training.batch_size: received 64, and there are 40 train photos of region EU_SW by the split",
        "phase2 train",
    ),
    (
        {"phase4": {"training": {"batch_size": 128}}}, {},
        "phase4.training.batch_size: received 128, and there are 100 train photos by the split; set it to 100 or less",
        "phase4 distill",
    ),
    (
        {}, {"calibration": {"a": 10, "b": 9}},
        "phase0.split.calibration: received 0.05, which gives 19 photos of 2 species by the split, expected 20 or more",
        "phase5 temperature",
    ),
    (
        {}, {"calibration": {"a": 90}},
        "phase0.split.calibration: received 0.05, which gives 90 photos of 1 species by the split, expected 20 or more",
        "phase5 temperature",
    ),
    (
        {"phase1": {"model": {"num_classes": 9000}}}, {},
        "phase1.model.num_classes: received 9000, and there are 5 species by the split; remove the key, or set it to 5",
        "phase1 train",
    ),
    (
        {"phase2": None, "phase5": {"region_priors": {"ship": True}}},
        {"by": "audit", "photos": {"EU": 9, "unknown": 9}},
        "phase5.region_priors.ship: received true, and the photos are of 1 known regions by the audit, expected",
        "phase6 export",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "known", "said", "step"), FAULTS)
def test_a_fault_is_told_before_any_work(project, sections, known, said, step):
    run, by = project(sections, **known), known.get("by", "dataset")
    with pytest.raises(ValueError, match=said):
        preflight.check_ahead(run, remaining(by))
    assert met_by(run, remaining(by), by and preflight.counted(run, by)) == step


@pytest.mark.parametrize("by", ["dataset", "audit", None])
def test_nothing_is_said_of_a_config_without_fault(project, by):
    preflight.check_ahead(project(by=by), remaining(by))


def test_all_faults_are_told_at_once(project):
    run = project({"phase1": {"training": {"batch_size": 200}}, "phase2": {"region": "XX"}})
    with pytest.raises(ValueError) as caught:
        preflight.check_ahead(run, remaining("dataset"))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "phase1.training.batch_size", "phase2.region", "phase3.teachers.1.region_filter",
    ]  # fmt: skip


def test_a_split_that_will_be_made_anew_is_not_asked(project):
    # Its sidecar is missing, so the split runs again, and may know the region by then.
    run = project({"phase2": {"region": "XX"}, "phase3": {"teachers": [TEACHER]}})
    preflight.check_ahead(run, remaining(None))


def test_a_teacher_of_another_dataset_is_told_as_soon_as_the_split_is_made(project):
    run = project({"phase3": {"teachers": [{**TEACHER, "path": "../other/phase1/best.keras"}]}})
    teacher = run.folder.parent / "other/phase1/best.keras"
    (teacher.parent / "soft_labels").mkdir(parents=True)
    teacher.write_text("weights")
    meta = {"content_hash": "a" * 64, "size": 1, "mtime_ns": 1, "producer": "phase1 train", "code_version": 1}
    meta |= {"config_hash": "c", "config": {}, "seconds": 1.0, "finished": "2026-01-01T00:00:00Z"}
    write_json(teacher.with_name("best.keras.meta.json"), meta | {"inputs": {"dataset": "b" * 64}})
    write_json(run.path("dataset").with_name("dataset.json.meta.json"), meta | {"inputs": {}})
    with pytest.raises(
        ValueError, match="teachers.0.path: .*was trained on another dataset .*bbbbbbbbbbbb.*aaaaaaaaaaaa"
    ):
        preflight.check_ahead(run, remaining("dataset"))


def test_a_disk_that_is_too_small_is_told(project, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1_000_000))
    with pytest.raises(SourceError, match=r"received 0.001 GB free, expected about .* GB, .* --set root=DIR"):
        preflight.check_ahead(project(), remaining("dataset"))


def test_what_a_killed_run_has_written_is_not_asked_for_again(project, monkeypatch):
    run, steps = project(), [step for step in remaining("dataset") if step.phase == "phase1"]
    wanted = sum(forecast.costs(run)[step.title].bytes for step in steps)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, int(wanted) - 500))
    with pytest.raises(SourceError):
        preflight.check_disk(run, steps)
    write_made(run, "teacher_history", {"x": "y" * 600})
    preflight.check_disk(run, steps)


def test_a_missing_browser_is_told(project, monkeypatch):
    monkeypatch.setenv("CHROMIUM_PATH", "/nowhere/chromium")
    with pytest.raises(browser.BrowserMissing, match="CHROMIUM_PATH=/nowhere/chromium: no such file"):
        preflight.check_ahead(project(), remaining("dataset"))
    preflight.check_ahead(project(), steps.steps_between("phase0 baseline", "phase6 export"))


def test_a_page_that_cannot_be_made_is_told(project, monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "PAGE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="npm: not found, and the page's TensorFlow.js is not installed yet; install"):
        preflight.check_ahead(project(), steps.steps_between("phase0 baseline", "phase6 export"))
    (tmp_path / "node_modules").mkdir()
    preflight.check_ahead(project(), steps.steps_between("phase0 baseline", "phase6 export"))


def test_a_broken_artefact_is_no_fault_of_the_config(project):
    run = project()
    run.path("dataset").write_text("{")
    with pytest.raises(BrokenArtefact, match="dataset.json: not JSON"):
        preflight.check_ahead(run, remaining("dataset"))


def test_one_host_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr("urllib.request.urlopen", lambda request, timeout: asked.append(request) or request)
    monkeypatch.setattr("urllib.request.Request.close", lambda self: None, raising=False)
    pretrained._reachable.cache_clear()
    assert pretrained._reachable("http://127.0.0.1:9/x") and pretrained._reachable("http://127.0.0.1:9/x")
    assert len(asked) == 1
    pretrained._reachable.cache_clear()


@pytest.mark.parametrize(
    ("photos", "region"),
    [
        ({"unknown": 1360}, None),
        ({"EU": 1360}, None),
        ({"EU": 460, "EU_SW": 440, "NA": 460}, "EU_SW"),  # the config's
        ({"EU": 900, "NA": 460}, "EU"),
        ({"unknown": 900, "NA": 460}, "NA"),  # no name of a region
        ({"EU": 1300, "EU_SW": 60}, None),  # of EU_SW three val photos are expected, and as many of the rest
        ({"EU": 1240, "EU_SW": 120}, "EU_SW"),
        ({"EU": 1359, "NA": 1}, None),
    ],
)
def test_the_region_that_a_folder_can_teach(make_config, photos, region):
    config = make_config(phase2={"training": {"batch_size": 8}})  # of 5 % val
    assert preflight.choose_region(config, photos) == region


@pytest.fixture
def folder(tmp_path, jpeg):
    """(regions of its photos) -> the demo's arguments for a folder of these."""

    def make(regions):
        photos = tmp_path / "photos"
        photos.mkdir()
        rows = []
        for i, region in enumerate(regions):
            (photos / f"{i}.jpg").write_bytes(jpeg(i, (120, 110)))
            rows.append(f"{i}.jpg,Viola {'ab'[i % 2]},{region}")
        (tmp_path / "labels.csv").write_text("\n".join(["image,latin_name,region", *rows]))
        own = ["--images", str(photos), "--labels", str(tmp_path / "labels.csv"), "--set", f"root={tmp_path}"]
        return ["demo", *own, "--config", "configs/demo.yaml"]

    return make


def test_a_region_that_nobody_has_stops_a_folder_after_the_audit(folder, tmp_path, capsys):
    arguments = folder(["EU"] * 8 + ["NA"] * 8)
    assert cli.main([*arguments, "--set", "phase2.region=XX"]) == 2
    said = capsys.readouterr()
    assert "phase2.region: received 'XX', photos of it by the audit: 0" in said.err and "EU 8, NA 8" in said.err
    assert "phase0 audit: done" in said.out and "phase0 validate-urls" not in said.out
    # The config that the command stood for is there for the other commands.
    written = str(tmp_path / "artifacts/demo-photos/config.yaml")
    assert cli.main(["status", "--config", written]) == 0
    assert "phase0 audit          done" in capsys.readouterr().out


def test_a_dry_run_looks_ahead_too(folder, capsys):
    arguments = [*folder(["EU"] * 8), "--dry-run", "--set", "phase6.photos=nowhere"]
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert "phase6.photos: received nowhere" in said.err and "no regional teacher" in said.out
    assert "phase1 train" in said.out and "phase2" not in said.out
