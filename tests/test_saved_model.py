"""The SavedModel says what the Keras model says, carries its names and numbers, and refuses altered ones."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import web_example as example

from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import read_json
from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.export.promise import Promise
from keras_pipeline.export.saved_model import classify, load_classifier, write_saved_model

LABELS = ["Iris germanica", "Viola alba", "Iris pumila", "Viola tricolor"]  # as no sorted list would have them


@pytest.fixture(scope="module")
def loaded():
    return load_classifier(example.saved())


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_logits_are_the_models_and_probabilities_calibrated(loaded):
    images = example.tensors(example.samples())
    logits, probabilities = loaded.scores(images)
    np.testing.assert_allclose(logits, example.shipped().predict(images, verbose=0), atol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(logits / 1.7), atol=1e-6)  # 1.7: the example's temperature


def test_signatures_are_documented_by_their_names(loaded):
    signatures = loaded.restored.signatures
    assert set(signatures) == {"serving_default", "classify_jpeg"}
    assert signatures["serving_default"].structured_input_signature[1]["image"].shape.as_list() == [None, 48, 48, 3]
    outputs = {"latin_name", "probability", "conclusive", "genus", "genus_probability", "genus_conclusive"}
    assert set(signatures["classify_jpeg"].structured_outputs) == outputs


def test_classify_jpeg_answers_records_as_the_python_path_does(loaded):
    photos = [record for _, record, _ in example.samples()]
    answers = loaded.restored.signatures["classify_jpeg"](image_bytes=tf.constant(photos))
    expected = [loaded.classify(photo) for photo in photos]
    assert [name.decode() for name in answers["latin_name"].numpy()] == [e["latin_name"] for e in expected]
    np.testing.assert_allclose(answers["probability"], [e["probability"] for e in expected], atol=1e-5)
    assert answers["conclusive"].numpy().tolist() == [e["conclusive"] for e in expected]


def test_details_stand_beside_each_name_and_are_absent_where_there_are_none(tmp_path, loaded):
    details = [{"common_name": "Daisy", "plant_id": 5}, {}, {"latin_name": "no answer"}, {}]
    parts = {"labels": example.SPECIES, "preprocessing": example.PREPROCESSING, "calibration": example.CALIBRATION}
    write_saved_model(example.shipped(), tmp_path / "model", **parts, details=details)
    assert read_json(tmp_path / "model/assets/labels.json")["details"] == details
    photo = example.encoded(example.photo(0, 3))
    said, plain = load_classifier(tmp_path / "model").classify(photo), loaded.classify(photo)
    assert said == plain | details[0] | {"top5": said["top5"]}
    assert [{**known, **entry} for known, entry in zip(said["top5"], plain["top5"], strict=True)] == said["top5"]
    assert "details" not in read_json(example.saved() / "assets/labels.json")


def test_where_the_species_is_not_conclusive_the_genus_may_be(tmp_path):
    labels = LABELS
    calibration = {"temperature": 4.0, "threshold": 0.7, "genus": {"threshold": 0.75}}
    folder = tmp_path / "model"
    write_saved_model(
        example.shipped(), folder, labels=labels, preprocessing=example.PREPROCESSING, calibration=calibration
    )
    loaded, photos = load_classifier(folder), [record for _, record, _ in example.samples()]
    answers = loaded.restored.signatures["classify_jpeg"](image_bytes=tf.constant(photos))
    verdicts = set()
    for i, photo in enumerate(photos):
        said = loaded.classify(photo)
        p = {entry["latin_name"]: entry["probability"] for entry in said["top5"]}
        by_genus = {"Iris": p[labels[0]] + p[labels[2]], "Viola": p[labels[1]] + p[labels[3]]}
        assert by_genus[said["genus"]] == max(by_genus.values()) == pytest.approx(said["genus_probability"], abs=1e-6)
        assert said["genus_conclusive"] == (said["probability"] < 0.7 and said["genus_probability"] >= 0.75)
        assert answers["genus"][i].numpy().decode() == said["genus"]
        assert answers["genus_probability"][i].numpy() == pytest.approx(said["genus_probability"], abs=1e-5)
        assert bool(answers["genus_conclusive"][i]) == said["genus_conclusive"]
        verdicts.add((said["conclusive"], said["genus_conclusive"]))
    assert (False, True) in verdicts and len(verdicts) > 1


def test_where_the_genus_is_not_conclusive_either_the_family_may_be(tmp_path):
    calibration = {"temperature": 3.0, "threshold": None, "genus": {"threshold": 0.7}, "family": {"threshold": 0.7}}
    labels = ["Iris germanica", "Viola alba", "Crocus vernus", "Rosa canina"]
    details = [{"family": "Iridaceae"}, {}, {"family": "Iridaceae"}, {"family": "Rosaceae"}]
    parts = {"labels": labels, "preprocessing": example.PREPROCESSING, "calibration": calibration}
    write_saved_model(example.shipped(), tmp_path / "model", **parts, details=details)
    assert read_json(tmp_path / "model/assets/labels.json")["families"] == ["Iridaceae", "", "Iridaceae", "Rosaceae"]
    loaded, photos = load_classifier(tmp_path / "model"), [record for _, record, _ in example.samples()]
    photos += [example.encoded(Image.blend(example.photo(0, seed), example.photo(2, seed), 0.5)) for seed in range(8)]
    answers = loaded.restored.signatures["classify_jpeg"](image_bytes=tf.constant(photos))
    verdicts = set()
    for i, photo in enumerate(photos):
        said = loaded.classify(photo)
        p = {entry["latin_name"]: entry["probability"] for entry in said["top5"]}
        sums = {"Iridaceae": p[labels[0]] + p[labels[2]], "": p[labels[1]], "Rosaceae": p[labels[3]]}
        assert sums[said["family"]] == max(sums.values()) == pytest.approx(said["family_probability"], abs=1e-6)
        named = said["family"] != "" and not said["genus_conclusive"]
        assert said["family_conclusive"] == (named and said["family_probability"] >= 0.7)
        assert answers["family"][i].numpy().decode() == said["family"]
        assert answers["family_probability"][i].numpy() == pytest.approx(said["family_probability"], abs=1e-5)
        assert bool(answers["family_conclusive"][i]) == said["family_conclusive"]
        verdicts.add((said["genus_conclusive"], said["family_conclusive"]))
    assert verdicts == {(True, False), (False, True), (False, False)}


def test_without_a_promise_for_the_genus_it_is_never_named(loaded):
    photos = [record for _, record, _ in example.samples()]
    assert not any(loaded.classify(photo)["genus_conclusive"] for photo in photos)
    answers = loaded.restored.signatures["classify_jpeg"](image_bytes=tf.constant(photos))
    assert not answers["genus_conclusive"].numpy().any()


UNMET = {"target_met": False, "precision_lower_bound": 0.674}


def with_promises(tmp_path, region, **calibration):
    """A classifier with two genera and region priors, of this calibration."""
    calibration |= {"temperature": 1.7, "region_priors": {"temperature": 1.0, **region}}
    priors = {"regions": ["Here"], "log_ratios": [[0, 0, 0, 0]], "class_hash": class_hash(LABELS)}
    parts = {"labels": LABELS, "preprocessing": example.PREPROCESSING, "priors": priors, "calibration": calibration}
    write_saved_model(example.shipped(), tmp_path / "model", **parts)
    return load_classifier(tmp_path / "model")


def test_without_a_threshold_nothing_is_conclusive_and_the_candidates_are_ranked(tmp_path):
    none = {"threshold": None, "best_threshold": 0.4, **UNMET}
    loaded = with_promises(tmp_path, none, **none, genus=none)
    photos = [record for _, record, _ in example.samples(2)]
    answers = loaded.restored.signatures["classify_jpeg"](image_bytes=tf.constant(photos))
    assert not answers["conclusive"].numpy().any() and not answers["genus_conclusive"].numpy().any()
    for said in (loaded.classify(photo, region) for photo in photos for region in (None, "Here")):
        assert (said["conclusive"], said["genus_conclusive"], said["promise"]) == (False, False, None)
        ranked = [entry["probability"] for entry in said["top5"]]
        assert ranked == sorted(ranked, reverse=True) and len(ranked) == 4
    assert max(loaded.classify(photo)["probability"] for photo in photos) > 0.8


def test_the_genus_has_a_promise_of_its_own(tmp_path):
    loaded = with_promises(tmp_path, {}, threshold=None, genus={"threshold": 0.4})
    photo = example.encoded(example.photo(3, 5))
    said = loaded.classify(photo)
    assert (said["conclusive"], said["genus"], said["genus_conclusive"]) == (False, "Viola", True)
    answers = loaded.restored.signatures["classify_jpeg"](image_bytes=tf.constant([photo]))
    assert answers["genus_conclusive"].numpy().tolist() == [True]


def test_an_accepted_promise_goes_with_what_is_conclusive(tmp_path):
    genus = UNMET | {"threshold": 0.4, "precision_lower_bound": 0.7}
    loaded = with_promises(tmp_path, {"threshold": 0.4}, **UNMET, threshold=0.6, genus=genus)
    sure = example.encoded(example.photo(3, 5))
    unsure = example.encoded(Image.blend(example.photo(3, 5), example.photo(1, 4), 0.5))
    said, other = loaded.classify(sure), dataclasses.replace(loaded, species=Promise()).classify(unsure)
    assert (said["conclusive"], said["promise"]) == (True, 0.674)
    assert (other["conclusive"], other["genus_conclusive"], other["promise"]) == (False, True, 0.7)
    assert loaded.classify(sure, "Here")["promise"] is None  # the region's is kept
    assert Promise.of({"threshold": 0.6, **UNMET, "target_met": True}) == Promise(0.6)


def test_a_region_counts_where_priors_are_shipped(tmp_path):
    # Photos of species 0; in Nowhere species 0 is e times rarer, and species 1 e times commoner.
    priors = {"regions": ["Here", "Nowhere"], "log_ratios": [[0, 0, 0, 0], [-9, 9, 0, 0]]}
    priors["class_hash"] = class_hash(example.SPECIES)
    calibration = example.CALIBRATION | {"region_priors": {"temperature": 3.4, "threshold": 0.9}}
    parts = {"labels": example.SPECIES, "preprocessing": example.PREPROCESSING, "calibration": calibration}
    folder = tmp_path / "model"
    write_saved_model(example.shipped(), folder, **parts, priors=priors)
    stored = {key: value for key, value in priors.items() if key != "log_ratios"}
    assert json.loads((folder / "assets/priors.json").read_text()) == stored
    assert (folder / "assets/priors.bin").read_bytes() == np.array(priors["log_ratios"], "<f2").tobytes()
    loaded, photo = load_classifier(folder), example.encoded(example.photo(0, 3))
    logits = loaded.scores(loaded.preprocessing.from_photo(photo)[None].numpy())[0]
    plain, here, nowhere = (loaded.classify(photo, region) for region in (None, "Here", "Nowhere"))
    assert plain["probability"] == pytest.approx(softmax(logits / 1.7).max(), abs=1e-6)
    assert here["probability"] == pytest.approx(softmax(logits / 3.4).max(), abs=1e-6)  # a temperature of its own
    expected = softmax(logits / 3.4 + np.array([-9, 9, 0, 0]))[0]
    assert nowhere["latin_name"] == example.SPECIES[1] and expected.argmax() == 1
    assert nowhere["probability"] == pytest.approx(expected[1], abs=1e-6)
    assert here["conclusive"] == (here["probability"] >= 0.9)
    with pytest.raises(ValueError, match="received region Mars, expected one of Here, Nowhere, or none"):
        classify(folder, [], "Mars")
    with pytest.raises(ValueError, match="of another class list"):
        write_saved_model(example.shipped(), folder, **parts, priors=priors | {"class_hash": "0"})


def test_a_region_without_priors_is_refused():
    with pytest.raises(ValueError, match="exported without region priors; set phase5.region_priors.ship: true"):
        classify(example.saved(), [], "EU_SW")


def test_classify_jpeg_shrinks_an_original(loaded):
    original = example.encoded(example.photo(2, 7, (1500, 1100)))
    answers = loaded.restored.signatures["classify_jpeg"](image_bytes=tf.constant([original]))
    assert answers["probability"].numpy()[0] == pytest.approx(loaded.classify(original)["probability"], abs=5e-3)


def test_assets_travel_with_the_model():
    assets = example.saved() / "assets"
    labels = json.loads((assets / "labels.json").read_text())
    genera = ["Bellis", "Crocus", "Iris", "Viola"]
    assert labels == {"sha256": class_hash(example.SPECIES), "classes": example.SPECIES, "genera": genera}
    assert json.loads((assets / "calibration.json").read_text()) == example.CALIBRATION
    assert json.loads((assets / "preprocessing.json").read_text())["image_size"] == 48


def test_classify_names_photos_with_five_or_all_species(tmp_path):
    paths = [tmp_path / f"{label}.jpg" for label in range(4)]
    for label, path in enumerate(paths):
        path.write_bytes(example.encoded(example.photo(label, 3)))
    answers = classify(example.saved(), paths)
    assert [answer["latin_name"] for answer in answers] == example.SPECIES
    assert [answer["photo"] for answer in answers] == [str(path) for path in paths]
    assert sum(entry["probability"] for entry in answers[0]["top5"]) == pytest.approx(1, abs=1e-5)


def test_a_rotated_phone_photo_gets_the_same_answer(tmp_path, loaded):
    upright = example.photo(1, 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture is stored turned; a viewer turns it 90 degrees clockwise
    turned = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    plain = loaded.classify(example.encoded(upright, format="PNG"))
    assert loaded.classify(turned.getvalue()) == plain


@pytest.mark.parametrize("content", [b"", b"no photo", b"\xff\xd8\xff\xe0broken"])
def test_a_file_that_is_no_photo_is_named_and_the_others_answered(tmp_path, content):
    bad, good = tmp_path / "notes.jpg", tmp_path / "good.jpg"
    bad.write_bytes(content)
    good.write_bytes(example.encoded(example.photo(2, 3)))
    complaint, answer = classify(example.saved(), [bad, good])
    assert complaint["photo"] == str(bad) and complaint["error"] and "latin_name" not in complaint
    assert answer["latin_name"] == example.SPECIES[2]


def test_altered_labels_are_refused(tmp_path):
    shutil.copytree(example.saved(), tmp_path / "model")
    path = tmp_path / "model/assets/labels.json"
    labels = json.loads(path.read_text())
    labels["classes"].reverse()
    path.write_text(json.dumps(labels))
    with pytest.raises(ValueError, match="labels.json"):
        load_classifier(tmp_path / "model")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("saved_model.pb", "no graph"),
        ("variables/variables.data-00000-of-00001", "short"),
    ],
)
def test_a_damaged_model_says_which_step_makes_it(tmp_path, file, content):
    folder = shutil.copytree(example.saved(), tmp_path / "model")
    (folder / file).write_text(content)
    with pytest.raises(BrokenArtefact, match="model: damaged .* run `phase6 export --force`"):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("calibration.json", json.dumps(example.CALIBRATION | {"threshold": 0.1})),
        ("preprocessing.json", json.dumps(example.Preprocessing(48, 256, 1.0).to_json())),
        ("attribution.txt", "nobody"),
    ],
)
def test_an_asset_of_another_export_is_refused(tmp_path, file, content):
    folder = shutil.copytree(example.saved(), tmp_path / "model")
    (folder / "assets" / file).write_text(content)
    with pytest.raises(BrokenArtefact, match=rf"{file}: received sha256 .* run `phase6 export --force`"):
        load_classifier(folder)


def test_priors_of_another_shape_are_not_shipped(tmp_path):
    parts = {"labels": example.SPECIES, "preprocessing": example.PREPROCESSING, "calibration": example.CALIBRATION}
    for ratios in ([[0, 0, 0, 0]], [[0, 0, 0]] * 2, [[0, 0, 0, float("nan")]] * 2):
        priors = {"regions": ["A", "B"], "log_ratios": ratios, "class_hash": class_hash(example.SPECIES)}
        with pytest.raises(ValueError, match="for 2 regions and 4 species, expected finite ones"):
            write_saved_model(example.shipped(), tmp_path / "model", **parts, priors=priors)


def test_an_absent_model_says_which_step_makes_it(tmp_path):
    with pytest.raises(ValueError, match="phase6 export"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": example.SPECIES[:3]}, "3 labels"),
        ({"labels": [example.SPECIES[0]] * 4}, "1 different"),
        ({"calibration": {"temperature": 1.0}}, "threshold 'nothing', expected a number from 0 to 1"),
        ({"calibration": {"temperature": None, "threshold": None}}, "temperature None, expected a number above 0"),
        ({"calibration": example.CALIBRATION | {"precision_lower_bound": None}}, "precision_lower_bound None"),
        ({"calibration": example.CALIBRATION | {"genus": {"threshold": 1.1}}}, "genus threshold 1.1"),
        ({"calibration": {"temperature": 0.0, "threshold": 0.5}}, "temperature 0.0"),
        ({"calibration": {"temperature": float("nan"), "threshold": 0.5}}, "temperature nan"),
        ({"preprocessing": example.Preprocessing(image_size=64)}, "image_size"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, change, match):
    parts = {"labels": example.SPECIES, "calibration": example.CALIBRATION, "preprocessing": example.PREPROCESSING}
    with pytest.raises(ValueError, match=match):
        write_saved_model(example.trained(), tmp_path / "model", **(parts | change))
    assert not any(tmp_path.iterdir())
