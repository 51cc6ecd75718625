"""What stops a run in its first seconds instead of hours later, and what it says then."""

import contextlib
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from support.weights import write_weights

from keras_pipeline import __main__ as cli
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config import source
from keras_pipeline.core.config.load import from_file
from keras_pipeline.core.errors import BrokenArtefact, SourceError
from keras_pipeline.core.files import write_json
from keras_pipeline.core.sidecars import fingerprint
from keras_pipeline.demo import flora
from keras_pipeline.export import browser
from keras_pipeline.models import pretrained
from keras_pipeline.phases import counts, doctor, forecast, preflight, status, steps

SMALL = {"model": {"name": "mobilenetv2", "pretrained": False}, "training": {"batch_size": 8}}
BASE = {
    "phase0": {"baseline": {"features": "colour-histogram"}},
    "phase1": SMALL,
    "phase2": SMALL,
    "phase3": {"model": {"pretrained": False}},
    "phase4": {"training": {"batch_size": 8}},
}
PLAIN = [  # nothing of it needs a download
    part
    for phase in ("phase1", "phase2", "phase3")
    for part in ("--set", f"{phase}.model={{name: mobilenetv2, pretrained: false}}")
] + ["--set", "phase0.baseline.features=colour-histogram"]
TEACHER = {"path": "phase1/best.keras", "weight": 1.0}
REGIONS = {"EU": 60, "EU_SW": 40}  # of the split; the audit counts five times as many


def merged(below, above):
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {key: merged(below.get(key), above[key]) if key in above else below[key] for key in {**below, **above}}


@pytest.fixture
def project(make_config, tmp_path):
    """(sections, by="audit" | "dataset" | None, photos by region, train and val photos of them) -> a Run, counted.

    audit: more entries of the audit.
    """

    def make(sections=None, by="dataset", photos=None, train=None, val=None, calibration=None, species=5, audit=None):
        run = Run(make_config(**merged(BASE, sections or {})), None)
        if by == "audit":
            photos = photos or {name: 5 * n for name, n in REGIONS.items()}
            found = {"usable": sum(photos.values()), "species": species, "per_region": photos, "per_host": {"h": 1}}
            found |= audit or {}
            write_made(run, "audit", found)
        photos = photos or REGIONS
        if by == "dataset":
            parts = {"train": photos if train is None else train, "val": photos if val is None else val}
            splits = {name: parts.get(name, photos) for name in ("train", "val", "calibration", "test")}
            splits = {name: {"n": sum(own.values()), "per_region": own, "shards": []} for name, own in splits.items()}
            calibration = calibration or {"a": 50, "b": 50}
            splits["calibration"] |= {"per_class": calibration, "per_region": {"EU": sum(calibration.values())}}
            write_made(run, "dataset", {"classes": list("abcde"), "splits": splits})
        return run

    return make


def write_made(run, name, value):
    run.path(name).parent.mkdir(parents=True, exist_ok=True)
    write_json(run.path(name), value)


def remaining(by):
    """The steps that follow what is counted."""
    return steps.steps_between({"dataset": "phase0 baseline", "audit": "phase0 validate-urls", None: None}[by], None)


def met_by(run, steps, known):
    """The first step whose check raises."""
    for step in status.applicable(run, steps):
        try:
            if step.title in preflight.CHECKS:
                preflight.CHECKS[step.title](run, known)
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
        r"phase3.teachers.1.path: received \.\./other/phase1/best.keras, and \S*artifacts/other/phase1/best.keras does "
        "not exist; expected the path of a .keras file from .*/tiny, as",
        "phase3 combine",
    ),
    (
        {"phase3": {"teachers": [TEACHER, {"path": "../..", "weight": 1.0}]}}, EARLY,
        r"phase3.teachers.1.path: received \.\./\.\., and \S+ is a folder; expected the path of a", "phase3 combine",
    ),
    (
        {"phase3": {"teachers": [TEACHER, {"path": f"{Path.cwd()}/README.md", "weight": 1.0}]}}, EARLY,
        r"phase3.teachers.1.path: received \S+/README.md, and \S+/README.md is no .keras file; exp", "phase3 combine",
    ),
    (
        {"phase2": {"region": ["EU", "NIX"]}, "phase3": {"teachers": [TEACHER]}}, AUDIT,
        r"phase2.region: received EU \+ NIX, and no photo is of NIX by the audit, expected regions of the photos \(EU "
        r"300, EU_SW 200\); correct it, or take it out of the list", "phase2 subset",
    ),
    (
        {"phase1": {"training": {"batch_size": 881}}}, EARLY,
        "phase1.training.batch_size: received 881, and there are about 880 train photos by source.demo.photos; set it",
        "phase1 train",
    ),
    (
        {"phase2": {"region": ["EU", "EU_XX"]}, "phase3": {"teachers": [TEACHER]}}, EARLY,
        r"phase2.region: received EU_XX, expected regions of the drawn photos \(EU_SW, EU, NA, MED_E\); correct it, or",
        "phase2 subset",
    ),
    (
        {"source": {"demo": {"photos": 399}}}, EARLY,
        "phase0.split.calibration: received 0.05, which gives about 19 photos by source.demo.photos",
        "phase5 temperature",
    ),
    (
        {"phase2": {"region": "EU"}}, EARLY,
        "phase3.teachers.1.region_filter: received 'EU_SW', and phase2/best.keras learns from phase2.region 'EU';",
        "phase3 combine",
    ),
    (
        {"phase2": {"region": "XX"}}, AUDIT,
        "phase2.region: received 'XX', photos of it by the audit: 0, expected .*; enough have EU 300, EU_SW 200; set",
        "phase2 subset",
    ),
    (
        {"phase2": {"region": "XX"}}, {"by": "audit", "photos": {"EU": 300, "NA": 100, "SA": 99, "unknown": 500}},
        "phase2.region: received 'XX', .*; enough have EU 300, NA 100; set phase2.region to one of these, or phase2:",
        "phase2 subset",
    ),
    (
        {}, {"by": "audit", "photos": {"EU": 499, "EU_SW": 1}},
        "phase2.region: received 'EU_SW', photos of it by the audit: 1, expected some to train on", "phase2 subset",
    ),
    (
        {}, {"by": "audit", "photos": {"EU_SW": 1360}},
        "phase2.region: received EU_SW, which all 1,360 photos are of .* set phase2: null", "phase2 subset",
    ),
    (
        {}, {"val": {"EU": 9}},
        r"phase2.region: received 'EU_SW', photos of it by the split: 80 \(40 train, 0 val\), .* none of EU 229, EU_S",
        "phase2 subset",
    ),
    (
        {"phase3": {"teachers": [TEACHER, {**TEACHER, "region_filter": "XX"}]}}, AUDIT,
        "phase3.teachers.1.region_filter: received 'XX', which no train photo has by the audit; there are EU 300, EU_S",
        "phase3 combine",
    ),
    (
        {"phase1": {"training": {"batch_size": 401}}}, AUDIT,
        "phase1.training.batch_size: received 401, and there are about 400 train photos by the audit; set it to 400 or",
        "phase1 train",
    ),
    (
        {"phase2": {"training": {"batch_size": 161}}}, AUDIT,
        "phase2.training.batch_size: received 161, and there are about 160 train photos of region EU_SW by the audit;",
        "phase2 train",
    ),
    (
        {}, {"by": "audit", "photos": {"EU": 300, "EU_SW": 200}, "species": 1},
        r"source.fields.latin_name: received one species by the audit \(500 photos\), expected two or more; correct",
        "phase0 split",
    ),
    (
        {"phase0": {"split": {"train": 0.948, "val": 0.001, "calibration": 0.05, "test": 0.001}}}, AUDIT,
        "phase0.split.val: received 0.001, less than a photo of 500 by the audit, expected one or more; raise it, or "
        "have 1,000 photos", "phase0 split",
    ),
    (
        {}, {"by": "audit", "photos": {"EU": 200, "EU_SW": 199}},
        "phase0.split.calibration: received 0.05, which gives about 19 photos by the audit, expected 20 .* 400 in all",
        "phase5 temperature",
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
        {"by": "audit", "photos": {"EU": 250, "unknown": 250}},
        "phase5.region_priors.ship: received true, and the photos are of 1 known regions by the audit, expected",
        "phase6 export",
    ),
    (
        {"phase2": {"region": "unknown"}, "phase3": {"teachers": [TEACHER]}}, EARLY,
        "phase2.region: received unknown, expected a region: unknown is what photos without one have; set one that",
        "phase2 subset",
    ),
    (
        {"phase2": {"region": ["EU", "unknown"]}, "phase3": {"teachers": [TEACHER]}}, AUDIT,
        r"phase2.region: received EU \+ unknown, expected .*; enough have EU 300, EU_SW 200; set phase2.region to",
        "phase2 subset",
    ),
    (
        {}, {"by": "audit", "photos": {"unknown": 500}},
        "phase2.region: received 'EU_SW', photos of it by the audit: 0, .*; no photo has a region; set phase2: null",
        "phase2 subset",
    ),
    ({"source": {"synonyms": "no.csv"}}, EARLY, "source.synonyms: received no.csv, which can't be", "phase0 audit"),
    ({"source": {"exclude": "no.txt"}}, EARLY, "source.exclude: received no.txt, which can't be read", "phase0 audit"),
    ({"source": {"exclude": "docs"}}, EARLY, "source.exclude: received docs, which is no file; exp", "phase0 audit"),
    (
        {"phase0": {"split": {"same_photo": "no.csv"}}}, EARLY,
        "phase0.split.same_photo: received no.csv, which does not exist; expected a CSV", "phase0 split",
    ),
    (
        {"phase0": {"split": {"same_photo": "configs/flowers17.yaml"}}}, EARLY,
        "phase0.split.same_photo: configs/flowers17.yaml", "phase0 split",
    ),
    (
        {}, {"by": "audit", "photos": {"EU": 300, "EU_SW": 200}, "species": 500},
        "source.fields.latin_name: received 500 photos of 500 species by the audit, expected 3 or more besides the",
        "phase0 split",
    ),
    (
        {}, {"by": "audit", "photos": {"EU": 300, "EU_SW": 200}, "species": 479},
        "source.fields.latin_name: received 500 photos of 479 species by the audit, expected 22 or more besides the",
        "phase5 temperature",
    ),
    (
        {"source": {"max_per_species": 20}}, {"by": "audit", "audit": {"per_class": {"a": 400, "b": 97, "c": 3}}},
        "source.max_per_species: received 20, which leaves 43 of 500 photos and 5 species by the audit, expected",
        "phase5 temperature",
    ),
    (
        {"source": {"max_per_observation": 2}},
        {"by": "audit", "audit": {"observations": {"photos": 500, "sizes": {"100": 5}}}},
        "source.max_per_observation: received 2, which leaves 10 of 500 photos and 5 species by the audit, expected",
        "phase0 split",
    ),
    (
        {"source": {"licenses": ["cc0"]}},
        {"by": "audit", "species": 1, "audit": {
            "left_out_by": {"source.licenses": 400, "source.fields": 3},
            "allow_lists": [{"species": 1, "species_lost": 3}],
            "licenses": {"cc0": {"photos": 500}, "cc-by": {"photos": 400}},
        }},
        r"source.licenses: received cc0, which leaves 500 of 900 photos and 1 species by the audit, expected enough "
        r"for every split, of two species or more; add some that the photos have \(cc0 500, cc-by 400\), or set it to",
        "phase0 split",
    ),
    (
        {"source": {"min_per_species": 9}},
        {"by": "audit", "species": 1, "audit": {
            "left_out_by": {"source.min_per_species": 20}, "minima": [{"minimum": 1, "species": 4, "photos": 520}],
        }},
        "source.min_per_species: received 9, which leaves 500 of 520 photos and 1 species by the audit, .*; lower it",
        "phase0 split",
    ),
    (
        {"source": {"exclude": "docs/README.md"}},
        {"by": "audit", "species": 1, "audit": {"left_out_by": {"source.exclude": 7}}},
        "source.exclude: received docs/README.md, which leaves 500 of 507 photos and 1 species by the audit, .* remo",
        "phase0 split",
    ),
    (
        {"source": {"fields": {"observation_id": "id"}}},
        {"by": "audit", "audit": {"observations": {"photos": 500, "sizes": {"250": 2}}}},
        "phase0.split.group_by: received observation, session, sha256, near-duplicate, and id "
        r"\(source.fields.observation_id\) ties the 500 photos by the audit into 2 groups; expected .*; give each",
        "phase0 split",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "known", "said", "step"), FAULTS)
def test_a_fault_is_told_before_any_work(project, sections, known, said, step):
    run, by = project(sections, **known), known.get("by", "dataset")
    with pytest.raises(ValueError, match=said):
        preflight.check_ahead(run, remaining(by))
    assert met_by(run, remaining(by), preflight.counted(run, by or "source")) == step


@pytest.mark.parametrize("by", ["dataset", "audit", None])
def test_nothing_is_said_of_a_config_without_fault(project, by):
    preflight.check_ahead(project(by=by), remaining(by))


def test_both_files_of_the_source_are_told(project):
    run = project({"source": {"synonyms": "no.csv", "exclude": "no.txt"}}, by=None)
    with pytest.raises(ValueError, match="^source.synonyms: received no.csv, .*\nsource.exclude: received no.txt, .*$"):
        preflight.check_ahead(run, remaining(None))


def test_a_limit_is_to_blame_after_the_split_too(project):
    licensed = {"source": {"licenses": ["cc0"]}}
    audit = {"left_out_by": {"source.licenses": 400}, "licenses": {"cc-by": {"photos": 400}}}
    audit |= {"allow_lists": [{"species": 5, "species_lost": 0}], "per_host": {"h": 1}}
    run = project(licensed, calibration={"a": 10, "b": 9})
    with pytest.raises(ValueError, match="^phase0.split.calibration: received 0.05, which gives 19 photos .*$"):
        preflight.check_ahead(run, remaining("dataset"))
    write_made(run, "audit", {"usable": 399, "species": 5, "per_region": {"EU": 399}} | audit)
    with pytest.raises(ValueError, match="^source.licenses: received cc0, which leaves 399 of 799 photos .*$"):
        preflight.check_ahead(run, remaining("dataset"))
    write_made(run, "audit", {"usable": 400, "species": 5, "per_region": {"EU": 400}} | audit)  # enough, as expected
    with pytest.raises(ValueError, match="^phase0.split.calibration: received 0.05, which gives 19 photos .*$"):
        preflight.check_ahead(run, remaining("dataset"))


def test_all_faults_are_told_at_once(project):
    run = project({"phase1": {"training": {"batch_size": 200}}, "phase2": {"region": "XX"}})
    with pytest.raises(ValueError) as caught:
        preflight.check_ahead(run, remaining("dataset"))
    lines = str(caught.value).splitlines()
    # Of the teacher's region_filter nothing is said before its region is one that photos have.
    assert [line.split(":")[0] for line in lines] == ["phase1.training.batch_size", "phase2.region"]


def test_a_split_that_will_be_made_anew_is_not_asked(project):
    # Its sidecar is missing, so the split runs again, and may know the region by then.
    run = project({"phase2": {"region": "MED_E"}, "phase3": {"teachers": [TEACHER]}})
    preflight.check_ahead(run, remaining(None))


def test_a_teacher_of_another_dataset_is_told_as_soon_as_the_split_is_made(project):
    run = project({"phase3": {"teachers": [{**TEACHER, "path": "../other/phase1/best.keras"}]}})
    teacher = run.folder.parent / "other/phase1/best.keras"
    (teacher.parent / "soft_labels").mkdir(parents=True)
    zipfile.ZipFile(teacher, "w").close()
    meta = {"content_hash": "a" * 64, "size": 1, "mtime_ns": 1, "producer": "phase1 train", "code_version": 1}
    meta |= {"config_hash": "c", "config": {}, "seconds": 1.0, "finished": "2026-01-01T00:00:00Z"}
    write_json(teacher.with_name("best.keras.meta.json"), meta | {"inputs": {"dataset": "b" * 64}})
    own = meta | fingerprint(run.path("dataset")) | {"inputs": {}}
    write_json(run.path("dataset").with_name("dataset.json.meta.json"), own)
    with pytest.raises(
        ValueError, match="teachers.0.path: .*was trained on another dataset .*bbbbbbbbbbbb.*aaaaaaaaaaaa"
    ):
        preflight.check_ahead(run, remaining("dataset"))


def test_a_disk_that_is_too_small_is_told(project, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1_000_000))
    with pytest.raises(SourceError, match=r"received 0.001 GB free, expected about .* GB, .* --set root=DIR"):
        preflight.check_ahead(project(), remaining("dataset"))


def test_a_number_that_nobody_has_counted_stops_no_audit(make_config, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1_000_000))
    run = Run(make_config(source={"uri": "mongodb://127.0.0.1:1"}), None)  # and nothing asks that server
    forecast.check_disk(run, steps.steps_between("phase0", "phase0"))
    said = capsys.readouterr().out
    assert said.startswith("warning: ") and said.count("\n") == 1
    assert (
        "received 0.001 GB free, expected about " in said and "`phase0 audit` counts; the disk is checked again" in said
    )
    run.path("audit").parent.mkdir(parents=True)
    write_json(run.path("audit"), {"usable": 100_000, "species": 7, "per_region": {}})
    with pytest.raises(SourceError, match="received 0.001 GB free, expected about .* --set root=DIR"):
        forecast.check_disk(run, steps.steps_between("phase0", "phase0"))
    assert capsys.readouterr().out == ""


def test_what_a_killed_run_has_written_is_not_asked_for_again(project, monkeypatch):
    run, steps = project(), [step for step in remaining("dataset") if step.phase == "phase1"]
    wanted = sum(forecast.costs(run)[step.title].bytes for step in steps)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, int(wanted) - 500))
    with pytest.raises(SourceError):
        forecast.check_disk(run, steps)
    write_made(run, "teacher_history", {"x": "y" * 600})
    forecast.check_disk(run, steps)


def test_a_missing_browser_is_told(project, monkeypatch):
    monkeypatch.setenv("CHROMIUM_PATH", "/nowhere/chromium")
    with pytest.raises(browser.BrowserMissing, match="CHROMIUM_PATH=/nowhere/chromium: no such file"):
        preflight.check_ahead(project(), remaining("dataset"))
    monkeypatch.setenv("CHROMIUM_PATH", "chromium-9000")
    with pytest.raises(browser.BrowserMissing, match="CHROMIUM_PATH=chromium-9000: no such program on the PATH; give"):
        preflight.check_ahead(project(), remaining("dataset"))
    monkeypatch.setenv("CHROMIUM_PATH", "docs")
    with pytest.raises(browser.BrowserMissing, match="CHROMIUM_PATH=docs: a folder; install"):
        preflight.check_ahead(project(), remaining("dataset"))
    monkeypatch.setenv("CHROMIUM_PATH", __file__)
    with pytest.raises(browser.BrowserMissing, match=f"CHROMIUM_PATH={__file__}: not a program that can be started"):
        preflight.check_ahead(project(), remaining("dataset"))
    preflight.check_ahead(project(), steps.steps_between("phase0 baseline", "phase6 export"))


def test_a_browser_that_does_not_start_is_told(project, monkeypatch, tmp_path):
    stub = tmp_path / "chromium-browser"
    stub.write_text("#!/bin/sh\necho requires the chromium snap >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CHROMIUM_PATH", "chromium-browser")
    assert browser.find_chromium() == stub
    with pytest.raises(browser.BrowserMissing, match=f"{stub} does not start: .*; install Chromium"):
        preflight.check_ahead(project(), remaining("dataset"))
    assert not doctor._browser(project())["ok"]
    preflight.check_ahead(project(), remaining("dataset"), dry=True)
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
    with pytest.raises(BrokenArtefact, match="dataset.json: broken .no whole JSON.; `phase0 split` makes it again"):
        preflight.check_ahead(run, remaining("dataset"))


def test_one_host_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr("urllib.request.urlopen", lambda request, timeout: asked.append(request) or request)
    monkeypatch.setattr("urllib.request.Request.close", lambda self: None, raising=False)
    pretrained._reachable.cache_clear()
    assert pretrained._reachable("http://127.0.0.1:9/x") and pretrained._reachable("http://127.0.0.1:9/x")
    assert len(asked) == 1
    pretrained._reachable.cache_clear()


def test_priors_of_regions_that_are_the_species_are_refused_after_the_split(project):
    run = project({"phase5": {"region_priors": {"ship": True}}})
    rows = [(f"{i}", "train", "Iris" if i % 2 else "Viola", "EU_SW" if i % 2 else "EU", "", "", "") for i in range(8)]
    columns = ["sample_id", "split", "latin_name", "region", "observation_id", "license", "attribution"]
    pd.DataFrame(rows, columns=columns).to_parquet(run.path("assignment"))
    known = preflight.counted(run, "dataset")
    with pytest.raises(ValueError, match="ship: received true, and the region is the species'; set it to false"):
        preflight.check_region_priors(run, known)
    pd.DataFrame([*rows, ("9", "train", "Iris", "EU", "", "", "")], columns=columns).to_parquet(run.path("assignment"))
    preflight.check_region_priors(run, known)  # Iris grows in both


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
    assert counts.choose_region(config, photos) == region


def test_the_photos_that_the_docs_ask_for_are_those_of_the_demo():
    config = from_file("configs/demo.yaml")
    # max(8 / 0.62, 5 / 0.08), and 20 / 0.13
    assert counts.photos_for_region(config) == 63 and counts.photos_for(20, config.phase0.split.calibration) == 154
    text = Path("docs/your-data.md").read_text()
    assert "a folder needs 154" in text and "A regional teacher needs 63 photos" in text


@pytest.fixture
def folder(tmp_path, jpeg):
    """(regions of its photos, species) -> the demo's arguments for a folder of these."""

    def make(regions, species="ab"):
        photos = tmp_path / "photos"
        photos.mkdir()
        rows = []
        for i, region in enumerate(regions):
            (photos / f"{i}.jpg").write_bytes(jpeg(i, (120, 110)))
            rows.append(f"{i}.jpg,Viola {species[i % len(species)]},{region}")
        (tmp_path / "labels.csv").write_text("\n".join(["image,latin_name,region", *rows]))
        own = ["--images", str(photos), "--labels", str(tmp_path / "labels.csv"), "--set", f"root={tmp_path}"]
        return ["demo", *own, "--config", "configs/demo.yaml"]

    return make


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("regions", "species", "sets", "said"),
    [
        (
            ["EU"] * 40 + ["NA"] * 120,
            "ab",
            ["phase2.region=XX"],
            "phase2.region: received 'XX', photos of it by {csv}: 0",
        ),
        (["EU"] * 80 + ["NA"] * 120, "ab", ["phase2.region=XX"], "enough have NA 120, EU 80; set phase2.region"),
        (
            ["EU"] * 160,
            [f"n{i}" for i in range(160)],
            [],
            "error: --labels: source.demo.labels: received 160 photos of 160 species by {csv}, expected 3 or more "
            "besides the first of each species, which goes to train: the other splits need them; add photos of the",
        ),
        (["EU"] * 160, "a", [], "--labels: source.demo.labels: received one species by {csv} (160 photos)"),
        (
            ["EU"] * 150,
            "ab",
            [],
            "error: --labels: source.demo.labels: received 150 photos by {csv}, expected 154 or more, for 20 in "
            "phase0.split.calibration, 0.13; add photos, or raise that share\n",
        ),
        (
            ["EU"] * 4,
            "ab",
            [],
            "error: --labels: source.demo.labels: received 4 photos by {csv}, expected 13 or more, for 1 in "
            "phase0.split.val, 0.08; add photos, or raise that share\n--labels: source.demo.labels: received 4 photos",
        ),
        (
            ["EU"] * 160,
            "ab",
            ["dataset.min_short_side=111"],
            "error: dataset.min_short_side: received 111, and the shorter sides of all 160 photos of {csv} have",
        ),
        (["EU"] * 160, "ab", ["distribute=multi_worker"], "needs the environment variable TF_CONFIG: received none"),
        (
            ["EU"] * 160,
            "ab",
            ["phase0.baseline.features=imagenet"],
            "phase0.baseline.features: imagenet needs a download from http://x, which does not answer",
        ),
        (["EU"] * 160, "ab", ["phase1.training.batch_size=100"], "there are about 99 train photos by {csv}"),
        (
            ["EU"] * 160,
            "ab",
            ["phase3.model.num_classes=3"],
            "phase3.model.num_classes: received 3, and there are 2 species by {csv}; remove the key, or set it to 2",
        ),
        (["EU"] * 160, "ab", ["phase5.region_priors.ship=true"], "the photos are of 1 known regions by {csv}"),
    ],
)
def test_what_a_csv_can_tell_is_told_before_the_audit(
    folder, tmp_path, capsys, dry, regions, species, sets, said, monkeypatch
):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(pretrained, "_source", lambda model: ("http://x", False))
    monkeypatch.setattr(pretrained, "_reachable", lambda _: False)
    arguments = [*folder(regions, species), *dry]
    assert cli.main([*arguments, *(part for each in sets for part in ("--set", each))]) == 2
    printed = capsys.readouterr()
    assert said.format(csv=tmp_path / "labels.csv") in printed.err
    assert "phase0 audit: " not in printed.out


LEFT = (  # (source, species of the photos, what is said)
    (
        "licenses=[cc0]",
        "ab",
        "received cc0, which leaves 0 of 160 photos and 0 species by {csv}, expected enough for every split, of two "
        "species or more; add some that the photos have (unknown 160), or set it to null for all\n",
    ),
    ("min_per_species=81", "ab", "received 81, which leaves 0 of 160 photos and 0 species by {csv}, expected"),
    ("min_per_species=2", "a" * 159 + "b", "received 2, which leaves 159 of 160 photos and 1 species by {csv}, exp"),
    ("max_per_species=2", "ab", "received 2, which leaves 4 of 160 photos and 2 species by {csv}, expected enough"),
    ("exclude={exclude}", "ab", "received {exclude}, which leaves 80 of 160 photos and 1 species by {csv}, expected"),
    ("synonyms=no.csv", "ab", "received no.csv, which can't be read (No such file or directory); expected a text file"),
    ("exclude=no.txt", "ab", "received no.txt, which can't be read (No such file or directory); expected a text file"),
)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(("setting", "species", "said"), LEFT)
def test_what_leaves_too_few_of_a_csv_is_told_alone(folder, tmp_path, capsys, dry, setting, species, said):
    names = {"csv": tmp_path / "labels.csv", "exclude": tmp_path / "exclude.txt"}
    names["exclude"].write_text("Viola b\n")
    assert cli.main([*folder(["EU"] * 160, species), *dry, "--set", f"source.{setting.format(**names)}"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: source.{setting.partition('=')[0]}: {said.format(**names)}")
    assert printed.err.count("\n") == 1 and "phase0 audit: " not in printed.out


def test_a_csv_without_regions_is_told_so(folder, tmp_path, capsys):
    arguments = folder(["EU"] * 160)
    labels = tmp_path / "labels.csv"
    labels.write_text(labels.read_text().replace("region", "place"))
    assert cli.main([*arguments, "--dry-run", "--set", "phase6.photos=nowhere"]) == 2
    assert f"{labels} has no column region: no regional teacher\n" in capsys.readouterr().out
    assert cli.main([*arguments, "--dry-run", "--set", "phase2.region=EU"]) == 2
    assert f"; {labels} has no column region; set phase2: null for none" in capsys.readouterr().err
    assert cli.main([*arguments, "--dry-run", "--set", "phase2.region=unknown"]) == 2
    said = "phase2.region: received unknown, expected a region: unknown is what photos without one have; "
    assert f"{said}{labels} has no column region; set phase2: null for none" in capsys.readouterr().err
    assert cli.main([*arguments, "--dry-run", "--set", "phase3.teachers.1.region_filter=unknown"]) == 2
    said = "--set phase3.teachers.1.region_filter: received a setting of the regional teacher, and no region in"
    assert said in capsys.readouterr().err


def test_the_observations_of_a_csv_count_as_the_split_counts_them(folder, tmp_path, capsys):
    # 2 of each observation of 5 are left, and of these 64 photos 13 % are for calibration.
    arguments = folder(["EU"] * 160)
    labels = tmp_path / "labels.csv"
    head, *rows = labels.read_text().splitlines()
    labels.write_text("\n".join([f"{head},observation_id", *(f"{row},{i // 5}" for i, row in enumerate(rows))]))
    assert cli.main([*arguments, "--dry-run", "--set", "source.max_per_observation=2"]) == 2
    said = f"source.max_per_observation: received 2, which leaves 64 of 160 photos and 2 species by {labels}, expected"
    assert said in capsys.readouterr().err


TIED = (
    "error: phase0.split.group_by: received observation, session, sha256, near-duplicate, and the column "
    "observation_id ties the 160 photos of {csv} into {groups}; expected enough for every split; give each plant an "
    "observation_id of its own, or none where it is not known, or take observation out of the list\n"
)


def test_observations_that_miss_the_gate_are_told_once(folder, tmp_path, capsys):
    arguments = [*folder(["EU"] * 400), "--dry-run"]
    labels = tmp_path / "labels.csv"
    head, *rows = labels.read_text().splitlines()
    for n, said in ((20, 1), (40, 0)):  # groups of 20, which the gate judges, and of 10
        labels.write_text("\n".join([f"{head},observation_id", *(f"{row},o{i % n}" for i, row in enumerate(rows))]))
        assert cli.main(arguments) == 0
        told = "warning: gates.largest_group: 0.01, and the column observation_id ties the 400 photos of "
        assert capsys.readouterr().out.count(told) == said
    assert cli.main([*arguments, "--set", "gates.largest_group=null"]) == 0
    assert "largest_group" not in capsys.readouterr().out


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("observation", "sets", "groups"),
    [
        (lambda i: "o1", [], "1 group (the largest, 'o1', has 160)"),
        (lambda i: "ab"[i % 2], [], "2 groups (the largest, 'a', has 80)"),  # the species: all of it goes to train
        (lambda i: f"o{i % 3}", [], "3 groups (the largest, 'o0', has 54)"),
        (lambda i: "o1" if i < 150 else "", [], "11 groups (the largest, 'o1', has 150)"),
        (lambda i: "o1", ["phase0.split.group_by=[sha256]"], None),
        (lambda i: f"o{i // 2}", [], None),
    ],
)
def test_observations_that_leave_too_few_for_a_split(folder, tmp_path, capsys, dry, observation, sets, groups):
    # Nothing runs: where the observations are no fault, another one is told.
    arguments = [*folder(["EU"] * 160), *dry, "--set", "phase6.photos=nowhere"]
    labels = tmp_path / "labels.csv"
    head, *rows = labels.read_text().splitlines()
    labels.write_text("\n".join([f"{head},observation_id", *(f"{row},{observation(i)}" for i, row in enumerate(rows))]))
    assert cli.main([*arguments, *(part for each in sets for part in ("--set", each))]) == 2
    said = capsys.readouterr().err
    if groups:
        assert said.startswith(TIED.format(csv=labels, groups=groups))
    assert "phase6.photos: received nowhere" in said and said.count("\n") == (2 if groups else 1)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_column_that_nothing_reads_is_named_once(folder, tmp_path, capsys, dry):
    arguments = [*folder(["EU"] * 20), *dry]
    labels = tmp_path / "labels.csv"
    labels.write_text(labels.read_text().replace("region", "Region"))
    assert cli.main(arguments) == 2  # too few photos
    said = capsys.readouterr().out
    assert said.count(f"{labels}: nothing reads the column 'Region' (did you mean 'region'?)\n") == 1


def test_files_that_are_no_photos_are_named_once(folder, tmp_path, capsys):
    arguments = [*folder(["EU"] * 160), "--dry-run"]
    for name in ("notes.txt", "broken.jpg"):
        (tmp_path / "photos" / name).write_text("These are no photos.")
    (tmp_path / "photos/0").write_bytes((tmp_path / "photos/0.jpg").read_bytes())
    with (tmp_path / "labels.csv").open("a") as labels:
        labels.write("\nnotes.txt,Viola a,EU\n0,Viola a,EU\nbroken.jpg,Viola a,EU\n")
    assert cli.main([*arguments, "--until", "phase0 audit"]) == 0
    said = f"{tmp_path}/labels.csv: names 2 files that are no photo, such as 'notes.txt' (not a JPEG, PNG"
    printed = capsys.readouterr().out
    assert printed.count(said) == 1 and "to download" not in printed


def test_a_phase_that_is_left_out_is_not_up_to_date(tmp_path, capsys):
    arguments = ["phase2", "--dry-run", "--config", "configs/demo.yaml", "--set", f"root={tmp_path}"]
    assert cli.main([*arguments, "--set", "phase2=null"]) == 0
    assert capsys.readouterr().out.strip() == "phase2: not applicable here: the config says phase2: null"


def test_what_the_audit_shows_does_not_prevent_it(folder, tmp_path, capsys):
    # 16 photos are too few for a run, and the audit is how one looks at them.
    arguments = folder(["EU"] * 8 + ["NA"] * 8)
    assert cli.main([*arguments, "--until", "phase0 audit"]) == 0
    assert "phase0 audit: done" in capsys.readouterr().out
    # The config that the command stood for is there for the other commands.
    written = str(tmp_path / "artifacts/demo-photos/config.yaml")
    assert cli.main(["status", "--config", written]) == 0
    assert "phase0 audit          done" in capsys.readouterr().out
    assert cli.main(["run", "--dry-run", "--config", written]) == 2
    assert "source.demo.labels: received 16 photos by the audit, expected 154 or more, for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("csv", "said"),
    [
        (None, "source.demo.labels: received labels"),
        ("image,species\n0.jpg,Viola a", "source.demo.labels: received "),
        ("image,latin_name\ngone.jpg,Viola a", "source.demo.labels: received 'gone.jpg' in "),
    ],
)
@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["phase0"], ["phase0", "audit"]])
def test_faults_of_a_configs_csv_are_told_at_once(folder, tmp_path, capsys, command, csv, said):
    _, _, images, _, labels, *_ = folder(["EU"])
    (tmp_path / "labels.csv").unlink()
    if csv:
        (tmp_path / "labels.csv").write_text(csv)
    config = tmp_path / "mine.yaml"
    config.write_text(f"root: {tmp_path}\nsource: {{demo: {{images: {images}, labels: {labels}}}}}\n")
    assert cli.main([*command, "--config", str(config), *PLAIN]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {said}") and err.count("\n") == 1 and "--labels" not in err


def test_a_folder_that_is_not_there_is_told_at_once(folder, tmp_path, capsys):
    _, _, images, _, labels, *_ = folder(["EU"])
    (tmp_path / "mine.yaml").write_text(f"source: {{demo: {{images: {tmp_path}/no, labels: {labels}}}}}\n")
    assert cli.main(["run", "--dry-run", "--config", str(tmp_path / "mine.yaml"), *PLAIN]) == 2
    assert f"source.demo.images: received photos {tmp_path}/no; expected a folder" in capsys.readouterr().err
    assert cli.main(["demo", "--images", f"{tmp_path}/no", "--labels", labels]) == 2
    assert "error: --images: received photos" in capsys.readouterr().err


def test_the_variable_that_builds_a_path_is_named(capsys, monkeypatch, tmp_path):
    arguments = ["run", "--dry-run", "--config", "configs/flowers17.yaml", "--set", f"root={tmp_path}"]
    built = "; its value is built from the environment variable KERAS_PIPELINE_TEST_DATA, which is"
    monkeypatch.setenv("KERAS_PIPELINE_TEST_DATA", f"{tmp_path}/none")
    assert cli.main(arguments) == 2
    said = f"source.demo.labels: received labels {tmp_path}/none/flowers17/labels.csv; expected a CSV file that exists"
    assert f"{said}, no folder; correct it{built} set\n" in capsys.readouterr().err
    (tmp_path / "none/flowers17").mkdir(parents=True)
    (tmp_path / "none/flowers17/0.jpg").write_bytes(b"")
    (tmp_path / "none/flowers17/labels.csv").write_text("image,latin_name\n0.jpg,A a\n")
    assert cli.main([*arguments, "--set", "phase1.model.pretrained=no.h5"]) == 2
    lines = capsys.readouterr().err.splitlines()
    named = {line.removeprefix("error: ").partition(":")[0]: line.endswith(f"{built} set") for line in lines}
    assert named["phase0.baseline.weights"] and named["phase2.model.pretrained"]
    assert not named["phase1.model.pretrained"] and named["source.demo.labels"]
    monkeypatch.delenv("KERAS_PIPELINE_TEST_DATA")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("source: {exclude: '${KERAS_PIPELINE_TEST_DATA:-no}/file'}")
    assert cli.main(["run", "--dry-run", "--config", "own.yaml"]) == 2
    assert f"or set source.exclude to null{built} not set\n" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["phase0", "audit"], ["status"], ["doctor"]])
def test_a_root_that_is_no_folder_is_told(tmp_path, capsys, command):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "made/artifacts").mkdir(parents=True)
    (tmp_path / "made/tfrecords").write_text("")
    for root, what in (
        ("file", "file is a file"),
        ("file/below", "file is a file"),
        ("link", "link is a broken link to gone"),
        ("made", "made/tfrecords is a file"),
    ):
        root = f"{tmp_path}/{root}"
        assert cli.main([*command, "--config", "configs/demo.yaml", "--set", f"root={root}"]) == 2
        expected = f"expected a folder, or a path where one can be made, and {tmp_path}/{what}; give another one: --set"
        assert capsys.readouterr().err == f"error: root: received {root}, {expected} root=DIR\n"
    assert cli.main(["status", "--config", "configs/demo.yaml", "--set", f"root={tmp_path}/not/yet"]) == 0


def test_what_stands_in_place_of_an_output_is_told(project):
    run = project()
    for place in ("artifacts/tiny/phase1", "web_export/tiny", "artifacts/tiny/source"):
        (Path(run.config.root) / place).parent.mkdir(parents=True, exist_ok=True)
        (Path(run.config.root) / place).write_text("")
    run.path("student_metrics").mkdir(parents=True)
    with pytest.raises(ValueError) as caught:
        preflight.check_ahead(run, remaining("dataset"))
    assert str(caught.value).replace(f"{run.config.root}/", "").splitlines() == [
        "artifacts/tiny/phase1 is a file, expected a folder; move it away",
        "artifacts/tiny/phase4/metrics_test.json is a folder, expected a file; move it away",
        "artifacts/tiny/source is a file, expected a folder; move it away",
        "web_export/tiny is a file, expected a folder; move it away",
    ]


@pytest.mark.parametrize(("section", "step"), [("phase1", "phase1"), ("phase2", "phase2"), ("phase4", "phase4")])
def test_checkpoints_in_a_file_are_told(project, tmp_path, section, step):
    (tmp_path / "file").write_text("")
    run = project({section: {"callbacks": {"checkpoint_dir": f"{tmp_path}/file/own"}}})
    said = f"^{step}.callbacks.checkpoint_dir: received {tmp_path}/file/own, expected a folder, .* {tmp_path}/file is a"
    with pytest.raises(ValueError, match=said):
        preflight.check_ahead(run, remaining("dataset"))


def test_checkpoints_that_cannot_be_written_are_told(project):
    run = project({"phase1": {"callbacks": {"checkpoint_dir": "/proc/own"}}})  # which root too can't make
    said = "^phase1.callbacks.checkpoint_dir: received /proc/own, and /proc can't be written to .*, expected a place th"
    with pytest.raises(SourceError, match=said):
        preflight.check_ahead(run, remaining("dataset"))


@pytest.mark.parametrize("key", ["phase1.model.pretrained", "phase0.baseline.weights"])
@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("a.weights.h5", b"image,latin_name", "is no HDF5 file"),
        ("a.weights.h5", b"", "is no HDF5 file"),
        ("labels.csv", b"\x89HDF\r\n\x1a\n", "does not end in .weights.h5"),
        ("a.weights.h5", b"\x89HDF\r\n\x1a\n and more", "is no whole HDF5 file"),
    ],
)
def test_a_file_that_holds_no_weights_is_told(project, tmp_path, key, name, data, fault):
    (tmp_path / name).write_bytes(data)
    phase, section, field = key.split(".")
    own = {"features": "file"} if section == "baseline" else {}
    run = project({phase: {section: own | {field: f"{tmp_path}/{name}"}}})
    with pytest.raises(ValueError, match=f"{key}.*: {tmp_path}/{name} {fault}; expected a .weights.h5 file"):
        preflight.check_ahead(run, remaining("dataset"))


VIT, MOBILENET = "vit_tiny_patch16_224", "mobilenetv2"
PATCHES = "layers/vi_t_patching_and_embedding/patch_embedding/vars/0"


@pytest.mark.parametrize(
    ("file", "model", "said"),
    [
        ((MOBILENET, 1.0), {"name": VIT}, f"{VIT} .{PATCHES}: received none, expected .16, 16, 3, 192."),
        (("vit_base_patch16", 1.0), {"name": VIT}, f"{VIT} .{PATCHES}: received .16, 16, 3, 768., expected .16, 16, 3"),
        (
            (MOBILENET, 1.0),
            {"name": MOBILENET, "alpha": 0.35},
            r"mobilenetv2, alpha 0.35 .layers/conv2d_34",
        ),
        (
            (MOBILENET, 0.35),
            {"name": MOBILENET, "alpha": 0.5},
            r"mobilenetv2, alpha 0.5 .layers/conv2d_34",
        ),
        ((VIT, 1.0), {"name": MOBILENET}, "mobilenetv2, alpha 1 .layers/conv2d_34/vars/0: received none, exp"),
        (("vit_tiny_patch16_384", 1.0), {"name": VIT}, None),
        ((MOBILENET, 0.35), {"name": MOBILENET, "alpha": 0.35}, None),
        ((MOBILENET, 1.3), {"name": MOBILENET, "alpha": 1.3}, None),
    ],
)
def test_weights_of_another_network_are_told(project, tmp_path, file, model, said):
    path = write_weights(tmp_path / "a.weights.h5", *file)
    run = project({"phase1": {"model": model | {"pretrained": str(path)}}})
    refused = pytest.raises(ValueError, match=f"phase1.model.pretrained: {path} does not fit {said}")
    with refused if said else contextlib.nullcontext():
        preflight.check_ahead(run, remaining("dataset"))


def test_one_step_is_not_begun_for_a_chain_that_cannot_end(project):
    run = project({"phase3": {"teachers": [TEACHER, {"path": "nope.keras", "weight": 1.0}]}})
    with pytest.raises(ValueError, match=r"phase3.teachers.1.path: received nope.keras, and \S+nope.keras does not"):
        preflight.check_ahead(run, steps.steps_between("phase1 train", "phase1 train"))
    preflight.check_ahead(run, steps.steps_between("phase4", "phase4"))  # the teachers are asked no more
    preflight.check_ahead(run, [])


def test_the_drawn_regions_are_those_of_the_demo():
    assert [region.name for region in flora.REGIONS] == [*source.DRAWN_REGIONS]


def test_expected_photos_do_not_prevent_a_dataset(project):
    # It may be made for other settings, and the split tells how many photos there are.
    run = project({"phase1": {"training": {"batch_size": 401}}}, by="audit")
    preflight.check_ahead(run, steps.steps_between("phase0 validate-urls", "phase0"))
    with pytest.raises(ValueError, match="phase1.training.batch_size: received 401, and there are about 400 train"):
        preflight.check_ahead(run, steps.steps_between("phase0 validate-urls", "phase1"))
    run = project({"phase1": {"training": {"batch_size": 101}}})
    with pytest.raises(ValueError, match="phase1.training.batch_size: received 101, and there are 100 train"):
        preflight.check_ahead(run, steps.steps_between("phase0 baseline", "phase0 baseline"))


def test_photos_that_are_stored_are_left_to_the_split(project):
    run = project(by="audit", photos={"EU": 12, "EU_SW": 7})
    few = steps.steps_between("phase0 validate-urls", "phase0")
    with pytest.raises(ValueError, match="phase0.split.val: received 0.05, less than a photo of 19 by the audit"):
        preflight.check_ahead(run, few)
    run.path("url_ledger").write_text("photos")
    preflight.check_ahead(run, few)


def test_what_the_machine_lacks_for_later_steps_does_not_block(project, monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "PAGE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CHROMIUM_PATH", "/nowhere/chromium")
    monkeypatch.setattr(pretrained, "_reachable", lambda _: False)
    monkeypatch.setattr(pretrained, "_source", lambda model: ("http://x", False))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10_000_000))
    run = project({"phase3": {"model": {"pretrained": True}}})
    preflight.check_ahead(run, steps.steps_between("phase0 baseline", "phase0 baseline"))
    with pytest.raises(ValueError, match="phase3.model.pretrained: true needs a download"):
        preflight.check_ahead(run, steps.steps_between("phase0 baseline", "phase3"))


def test_a_dry_run_looks_ahead_too(folder, capsys):
    arguments = [*folder(["EU"] * 160), "--dry-run", "--set", "phase6.photos=nowhere"]
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert "phase6.photos: received nowhere" in said.err and "no regional teacher" in said.out
    assert "phase1 train" in said.out and "phase2" not in said.out
