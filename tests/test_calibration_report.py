"""From predictions to calibration.json: fitted on one split, measured on the other, and what it says where it can't."""

import contextlib
import dataclasses
import io
import shutil

import keras
import numpy as np
import pandas as pd
import pytest

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_dict
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import write_json
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.data import assignment, records
from keras_pipeline.evaluation import predictions
from keras_pipeline.evaluation.metrics import softmax
from keras_pipeline.evaluation.predictions import Predictions
from keras_pipeline.evaluation.report import calibration
from keras_pipeline.models import trained
from keras_pipeline.phases.phase5_calibration import calibrate, temperature, threshold

CLASSES = [
    "Crocus nudiflorus", "Crocus vernus", "Tulipa agenensis", "Tulipa sylvestris", "Viola odorata", "Viola tricolor",
]  # fmt: skip
SIZES = {"train": 2400, "calibration": 1500, "test": 1500}
# What grows where: in EU_SW the first of each genus, elsewhere the second.
SHARES = {"EU": [0.02, 0.31, 0.02, 0.31, 0.03, 0.31], "EU_SW": [0.31, 0.02, 0.31, 0.02, 0.31, 0.03]}
TRUE_TEMPERATURE = 2.5


def photos(split, rng):
    """Observations of three photos, region and species drawn; logits of a model that knows the genus better."""
    n = SIZES[split]
    region = np.repeat(rng.choice(["EU", "EU_SW"], n // 3), 3)
    label = np.repeat([rng.choice(6, p=SHARES[r]) for r in region[::3]], 3)
    sample = np.array([f"{split}-{i}" for i in range(n)])
    observation = np.repeat([f"{split}/{i}" for i in range(n // 3)], 3)
    evidence = rng.normal(size=(n, 6))
    evidence[np.arange(n), label] += 1.0
    genus = rng.normal(size=(n, 3))
    genus[np.arange(n), label // 2] += 3.0
    # log p(photo | species): normal evidence of shift d adds d times itself.
    logits = 1.0 * evidence + np.repeat(3.0 * genus, 2, axis=1)
    table = pd.DataFrame(
        {
            "sample_id": sample, "split": split, "latin_name": np.array(CLASSES)[label], "region": region,
            "observation_id": observation,
            "license": "CC0",
            "attribution": "",
        }
    )  # fmt: skip
    logits = (logits * TRUE_TEMPERATURE).astype(np.float32)
    return table, Predictions(logits, label.astype(np.int64), sample, region, observation)


def made(tmp_path):
    """A run with predictions of the student; the weights are those of some model."""
    run = Run(from_dict({"experiment": "tiny", "root": str(tmp_path), "phase5": {"bins": 10}}), None)
    rng, tables = np.random.default_rng(0), []
    run.path("logits").mkdir(parents=True)
    for split in SIZES:
        table, found = photos(split, rng)
        tables.append(table)
        if split != "train":
            store(run, split, found)
    place(run, pd.concat(tables))
    shards = {
        split: {"n": n, "shards": [{"name": split, "n": n, "bytes": 1, "sha256": split * 3}]}
        for split, n in SIZES.items()
    }
    write_json(run.path("dataset"), {"classes": CLASSES, "class_hash": class_hash(CLASSES), "splits": shards})
    run.path("student").parent.mkdir(parents=True)
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(6)]).save(run.path("student"))
    return run


@pytest.fixture
def run(tmp_path):
    return made(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(a run that was calibrated, its calibration.json, what was printed)"""
    run, said = made(tmp_path_factory.mktemp("whole")), io.StringIO()
    with contextlib.redirect_stdout(said):
        return run, calibrated(run), said.getvalue()


def store(run, split, found):
    np.save(run.path("logits") / f"{split}.npy", found.logits)
    predictions.save(found, run.path("logits"), split)


def place(run, table):
    run.path("assignment").parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(run.path("assignment"), index=False)


def change(run, split, **columns):
    """The stored predictions with other columns."""
    found = predictions.load(run.path("logits"), split)
    store(run, split, dataclasses.replace(found, **{"logits": np.array(found.logits), **columns}))


def calibrated(run):
    temperature.run(run)
    threshold.run(run)
    return run.read("calibration")


def test_a_temperature_that_raises_the_ece_of_its_own_photos_is_told(whole):
    _, found, said = whole
    assert "raises the ECE" not in said
    worse = found | {"fit": {"ece_before": 0.05, "ece_after": 0.08, "ece_null": 0.02}}
    told = calibration.describe_temperature(worse)
    assert "raises the ECE of the calibration photos from 0.050 to 0.080" in told
    within_noise = found | {"fit": {"ece_before": 0.05, "ece_after": 0.06, "ece_null": 0.02}}
    assert "raises the ECE" not in calibration.describe_temperature(within_noise)


def test_everything_is_fitted_on_one_split_and_measured_on_the_other(whole):
    run, found, said = whole
    assert found["temperature"] == pytest.approx(TRUE_TEMPERATURE, rel=0.1)
    assert (found["n_fit"], found["n"], found["temperature_at_bound"]) == (1500, 1500, False)
    assert found["ece_after"] < 0.05 < 0.1 < found["ece_before"]
    assert found["nll_after"] < found["nll_before"] and found["brier_after"] < found["brier_before"]
    for name in ("ece", "ece_equal_mass", "mce", "nll", "brier"):
        low, high = found["after"][name]["interval"]
        assert low <= found["after"][name]["value"] <= high
    assert found["after"]["groups"] == 500
    low, high = found["after"]["ece"]["null_interval"]
    assert low < found["ece_null"] == found["after"]["ece"]["null"] < high
    assert found["fit"]["ece_after"] < 0.05 < 0.1 < found["fit"]["ece_before"]
    assert set(found["per_region"]) == {"EU", "EU_SW"}
    assert found["per_region"]["EU"]["after"]["ece"]["value"] < found["per_region"]["EU"]["before"]["ece"]["value"]
    assert found["weights_hash"] == content_hash(run.path("student"))
    for name in ("reliability", "reliability_regions", "risk_coverage"):
        assert run.path(name).read_bytes()[:4] == b"\x89PNG"
    assert "ECE" in said and "promised >=" in said and "observations of 1500 test photos" in said


def test_the_two_splits_of_one_draw_are_alike(whole):
    found = whole[1]["exchangeability"]
    assert found["species_size"]["calibration"] == [0, 0, 0, 0, 0, 1] and found["species_size"]["distance"] == 0
    assert not found["confidence"]["differs"] and "refused" not in whole[1]


@pytest.mark.parametrize("accepted", [False, True])
def test_a_calibration_split_of_other_species_promises_nothing(run, capsys, accepted):
    """All train photos of two species but four each are gone: these are rare now, and only test has them."""
    run = Run(from_dict(run.config.model_dump() | {"phase5": {"bins": 10, "accept_unmet": accepted}}), None)
    table = pd.read_parquet(run.path("assignment"))
    rare = table.latin_name.isin(CLASSES[:2])
    few = table[(table.split == "train") & rare].groupby("latin_name").head(4)
    place(run, pd.concat([table[(table.split != "train") | ~rare], few]))
    found = predictions.load(run.path("logits"), "calibration")
    common = found.labels >= 2
    columns = {name: getattr(found, name)[common] for name in ("labels", "sample_ids", "regions", "group_ids")}
    store(run, "calibration", Predictions(np.array(found.logits)[common], **columns))
    result = calibrated(run)
    assert result["threshold"] is None and result["genus"]["threshold"] is None and not result["target_met"]
    assert result["precision_lower_bound"] == 0 and result["photos_needed"] is None
    assert "0% of its photos are of species with fewer than 20" in result["refused"]
    said = capsys.readouterr().out
    assert "no promise is made: the calibration split's species are not the test split's" in said
    assert "phase0 split --force" in calibration.promise(result)


def test_one_photo_of_each_observation_makes_the_promise(whole):
    assert whole[1]["n_promise"] == 500


def test_genus_region_and_further_photos_each_add_something(whole):
    run, found, _ = whole
    # The genus is known where the species is not.
    genus = found["genus"]
    assert genus["genera"] == 3 and genus["target_met"] and genus["coverage"] > 0.3
    assert genus["precision"] > 0.93
    # The region tells the two species of a genus apart: 19 of 20 times.
    priors = found["region_priors"]
    assert priors["ship"] is False
    assert priors["top1"]["verdict"] == "better" and priors["top1"]["difference"] > 0.1
    assert priors["with"]["nll"]["value"] < priors["without"]["nll"]["value"] - 0.2
    assert priors["temperature"] == pytest.approx(TRUE_TEMPERATURE, rel=0.1)
    assert priors["coverage"] > found["coverage"] + 0.2
    # Three photos know more than one.
    several = found["observations"]
    assert (several["n"], several["photos"], several["two_names"]) == (500, 1500, 0)
    assert several["together"]["top1"] > several["single"]["top1"] + 0.05
    known = run.read("priors")
    assert known["regions"] == ["EU", "EU_SW"] and np.shape(known["log_ratios"]) == (2, 6)
    assert known["class_hash"] == class_hash(CLASSES)


def test_the_family_has_the_promise_that_a_genus_of_its_species_would_have(whole, run, capsys):
    assert "family" not in whole[1]
    names = ["Crocus vernus", "Galanthus nivalis", "Iris pumila", "Lilium album", "Tulipa rubra", "Viola odorata"]
    renamed = dict(zip(CLASSES, names, strict=True))
    write_json(run.path("dataset"), {**run.read("dataset"), "classes": names, "class_hash": class_hash(names)})
    table = pd.read_parquet(run.path("assignment"))
    place(run, table.assign(latin_name=table.latin_name.map(renamed)))
    genus_of = {name: {"Family": other.split()[0]} for other, name in renamed.items()}
    write_json(run.path("dataset").with_name("details.json"), genus_of)
    found, genus = calibrated(run), whole[1]["genus"]
    assert "why" in found["genus"]
    assert found["family"] == {**{key: value for key, value in genus.items() if key != "genera"}, "families": 3}
    assert "family of 1500 test photos without a conclusive species and genus: threshold 0." in capsys.readouterr().out


def test_the_priors_are_those_of_the_train_split(whole):
    run, _, _ = whole
    found = threshold.priors_of(run, records.read_info(run.path("dataset")), assignment.places(run.path("assignment")))
    # EU: 31 of 33 parts of a genus's photos are of its second species, half of all photos; 2 ln(31/33) at most.
    ratios = dict(zip(CLASSES, np.array(found["log_ratios"])[0], strict=True))
    assert ratios["Crocus vernus"] == pytest.approx(np.log(2 * 31 / 33), abs=0.1)
    assert ratios["Crocus nudiflorus"] < np.log(0.3)


def test_a_region_with_ten_photos_is_told_so(run):
    for split in ("calibration", "test"):
        found = predictions.load(run.path("logits"), split)
        change(run, split, regions=np.where(np.arange(len(found.labels)) < 10, "AZ", found.regions))
    found = calibrated(run)
    few = {"n": 10, "why": "10 test photos are too few for figures of their own, 20 are the least"}
    assert found["per_region"]["AZ"] == few
    assert "10 calibration photos" in found["threshold_per_region"]["AZ"]["why"]
    assert "threshold" in found["threshold_per_region"]["EU"]


def test_a_region_of_one_split_alone_is_not_passed_over(run):
    found = predictions.load(run.path("logits"), "calibration")
    change(run, "calibration", regions=np.where(np.arange(len(found.labels)) < 300, "MED", found.regions))
    found = calibrated(run)
    assert found["per_region"]["MED"]["n"] == found["threshold_per_region"]["MED"]["n"] == 0
    assert "0 test photos are too few" in found["threshold_per_region"]["MED"]["why"]


def test_what_cannot_be_measured_is_said(run):
    table = pd.read_parquet(run.path("assignment"))
    place(run, table.assign(region="unknown", observation_id=""))
    names = ["Crocus vernus", "Galanthus nivalis", "Iris pumila", "Lilium album", "Tulipa rubra", "Viola odorata"]
    write_json(run.path("dataset"), {**run.read("dataset"), "classes": names, "class_hash": class_hash(names)})
    found = calibrated(run)
    assert found["region_priors"]["why"] == "the train photos are of fewer than two known regions"
    assert found["genus"]["why"] == "each of the 6 species is the only one of its genus here"
    assert "0 test observations of several photos" in found["observations"]["why"]
    assert run.read("priors") == {"regions": []}


def test_a_region_that_is_the_species_own_is_no_prior(run):
    table = pd.read_parquet(run.path("assignment"))
    place(run, table.assign(region=np.where(table.latin_name.str.startswith(CLASSES[0]), "EU", "EU_SW")))
    assert calibrated(run)["region_priors"] == {"ship": False, "why": "the region is the species'"}
    assert run.read("priors") == {"regions": []}
    priors = run.config.phase5.region_priors.model_copy(update={"ship": True})
    phase5 = run.config.phase5.model_copy(update={"region_priors": priors})
    with pytest.raises(ValueError, match="phase5.region_priors.ship: received true, and the region is the species';"):
        calibrated(Run(run.config.model_copy(update={"phase5": phase5}), None))


def test_observations_with_two_names_are_left_out(run):
    found = predictions.load(run.path("logits"), "test")
    labels = found.labels.copy()
    labels[0] = (labels[0] + 1) % 6
    change(run, "test", labels=labels)
    several = calibrated(run)["observations"]
    assert (several["n"], several["photos"], several["two_names"]) == (499, 1497, 1)


def test_a_target_out_of_reach_is_said_with_what_would_settle_it(run):
    few = np.arange(90)
    for split in ("calibration", "test"):
        found = predictions.load(run.path("logits"), split)
        store(run, split, Predictions(*(getattr(found, name)[few] for name in found.__dataclass_fields__)))
    found = calibrated(run)
    assert found["target_met"] is False and found["shortfall"] > 0 and found["n_promise"] == 30
    said = calibration.shortfall(found)
    assert said.startswith(f"the promise falls short of the target by {found['shortfall']:.3f}: >= ")
    assert "is the most that the search can promise of 30 independent" in said
    assert calibration.promise(found) == f"No answer is conclusive: {said}."


def out_of_reach(run, **settings):
    """`run` with a target that none of its promises can keep, calibrated."""
    config = run.config.model_dump() | {"phase5": {"bins": 10, "target_precision": 0.999, **settings}}
    return calibrated(Run(from_dict(config), None))


def promises(found):
    regions = {name: found["threshold_per_region"][name] for name in ("EU", "EU_SW")}
    return {"species": found, "genus": found["genus"], "priors": found["region_priors"], **regions}


def test_where_no_promise_is_kept_nothing_is_conclusive(run, capsys):
    found = out_of_reach(run)
    for name, entry in promises(found).items():
        assert not entry["target_met"] and entry["threshold"] is None, name
        assert 0.4 <= entry["best_threshold"] < 1 and 0 < entry["precision_lower_bound"] < 0.999, name
        assert (entry["precision"], entry["coverage"]) == (None, 0.0), name
    assert (found["observations"]["precision"], found["observations"]["coverage"]) == (None, 0.0)
    assert found["genus"]["n"] == 1500  # photos without a conclusive species
    printed = capsys.readouterr().out
    assert printed.count("nothing is conclusive: the best threshold, 0.") == 3  # of species, genus, region priors


def test_an_accepted_promise_is_in_force_and_said(run, capsys):
    strict, found = promises(out_of_reach(run)), out_of_reach(run, accept_unmet=True)
    for name, entry in promises(found).items():
        assert not entry["target_met"] and entry["threshold"] == entry["best_threshold"], name
        assert entry["coverage"] > 0 and entry["precision"] > 0.5, name
    assert found["best_threshold"] == strict["species"]["best_threshold"]
    said = calibration.promise(found | {"precision_lower_bound": 0.6749})
    assert said.startswith("Conclusive answers are right in at least 67.4 % of cases (phase5.accept_unmet): the ")
    assert "the promise falls short of the target by 0." in capsys.readouterr().out


def test_a_promise_of_nothing_is_never_in_force(run, capsys):
    # The sure answers are all wrong: no threshold has a bound above 0.
    for split in ("calibration", "test"):
        labels = np.array(predictions.load(run.path("logits"), split).labels)
        change(run, split, logits=np.eye(6, dtype=np.float32)[(labels + 1) % 6] * 9)
    found = out_of_reach(run, accept_unmet=True)
    assert (found["best_threshold"], found["precision_lower_bound"], found["threshold"]) == (1.0, 0.0, None)
    assert (found["precision"], found["coverage"]) == (None, 0.0)
    assert calibration.promise(found).startswith("No answer is conclusive: the promise falls short of the target by 0.")
    assert "nothing is conclusive: the best threshold, 1.000, promises only >= 0.000" in capsys.readouterr().out


def test_a_promise_that_is_kept_is_in_force_whatever_is_accepted(whole):
    priors = whole[1]["region_priors"]
    assert priors["target_met"] and priors["threshold"] == priors["best_threshold"]
    assert calibration.promise(priors).startswith("Conclusive answers are right in at least 9")


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_photos_that_were_trained_on_are_refused(run, split):
    table = pd.read_parquet(run.path("assignment"))
    place(run, table.assign(split=table.split.where(table.sample_id != f"{split}-7", "train")))
    temperature.run(run)
    with pytest.raises(BrokenArtefact, match=f"{split}: 1 of 1500 photos are of another split.* {split}-7, of train"):
        threshold.run(run)


def test_a_shard_in_two_splits_is_refused(run):
    splits = run.read("dataset")["splits"]
    splits["calibration"]["shards"].append({"name": "x", "n": 1, "bytes": 1, "sha256": "traintraintrain"})
    write_json(run.path("dataset"), {**run.read("dataset"), "splits": splits})
    temperature.run(run)
    with pytest.raises(BrokenArtefact, match="calibration and train have a shard in common"):
        threshold.run(run)


def test_one_class_and_numbers_that_are_none_are_refused(run):
    whole = predictions.load(run.path("logits"), "calibration")
    change(run, "calibration", labels=np.ones(1500, np.int64))
    with pytest.raises(ValueError, match="photos of at least 2 classes, received only class 1"):
        temperature.run(run)
    logits = np.array(whole.logits)
    logits[3, 2] = np.nan
    change(run, "calibration", labels=np.array(whole.labels), logits=logits)
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 1500 rows"):
        temperature.run(run)


def test_truncated_predictions_are_named(run):
    file = run.path("logits") / "test.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BrokenArtefact, match=r"logits/test.npz, .npy: no predictions .*`phase5 calibrate --force"):
        temperature.run(run)


def test_an_assignment_of_an_older_split_is_named(run):
    place(run, pd.read_parquet(run.path("assignment")).drop(columns="observation_id"))
    temperature.run(run)
    with pytest.raises(BrokenArtefact, match="assignment.parquet.* run `phase0 split --force`"):
        threshold.run(run)


def test_predictions_are_kept_as_the_plan_names_them(whole, monkeypatch):
    run, _, _ = whole

    def predicted(model, info, split, preprocessing, description, *, file):
        found = predictions.load(run.path("logits").with_name("kept"), split)
        np.save(file, found.logits)
        return found

    shutil.copytree(run.path("logits"), run.path("logits").with_name("kept"))
    monkeypatch.setattr(calibrate, "predict_split", predicted)
    monkeypatch.setattr(trained, "load", lambda *_, **__: None)
    monkeypatch.setattr(records, "load_info", records.read_info)
    calibrate.run(run)
    test = predictions.load(run.path("logits"), "test")
    with np.load(run.path("predictions"), allow_pickle=False) as file:
        assert sorted(file) == ["log_sum_exp", "sample_id", "true_labels"]
        probabilities = predictions.predicted_probs(test.logits, file["log_sum_exp"])
        np.testing.assert_array_equal(
            probabilities[7:9], predictions.predicted_probs(test.logits, file["log_sum_exp"], slice(7, 9))
        )
        np.testing.assert_array_equal(file["true_labels"], test.labels)
        np.testing.assert_array_equal(file["sample_id"], test.sample_ids)
    np.testing.assert_allclose(probabilities, softmax(test.logits), atol=1e-7)
    assert probabilities.dtype == np.float32
    assert isinstance(test.logits, np.memmap)
