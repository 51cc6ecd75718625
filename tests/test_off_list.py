"""Off the list: literal scores and thresholds, what they may not depend on, and one verdict from graph to page."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import web_example as example

from keras_pipeline.core.config.delivery import Phase5
from keras_pipeline.core.config.load import from_dict
from keras_pipeline.core.config.teachers import Model
from keras_pipeline.core.static_server import serve_folder
from keras_pipeline.evaluation import off_list
from keras_pipeline.evaluation.calibration_report import Evidence
from keras_pipeline.evaluation.predictions import Predictions
from keras_pipeline.evaluation.report.calibration import describe_additions
from keras_pipeline.evaluation.scores import Scores
from keras_pipeline.export import quantize, saved_model, tfjs
from keras_pipeline.export.agreement import Question, Sample, Tally
from keras_pipeline.export.browser import open_browser
from keras_pipeline.export.equivalence import validate_bundle
from keras_pipeline.export.saved_model import load_classifier
from keras_pipeline.models import features, heads
from keras_pipeline.phases.phase6_export import off_list as scoring


def groups(n):
    return np.array([f"plant {i}" for i in range(n)])


def judged(fit, test=(0.1,), seed=0):
    fit, test = np.array(fit, float), np.array(test, float)
    return off_list.judge(fit, groups(len(fit)), test, groups(len(test)), seed=seed)


# --- the score ---


def test_a_score_is_the_share_of_the_squared_length_outside():
    axes = tf.constant(np.eye(5, dtype=np.float32)[:, :2])
    photos = tf.constant([[3.0, 4, 0, 0, 0], [3, 0, 4, 0, 0], [0, 0, 0, 0, 7], [0, 0, 0, 0, 0]])
    np.testing.assert_allclose(features.share_outside(photos, axes), [0.0, 16 / 25, 1.0, 1.0], atol=1e-6)


def test_train_photos_span_the_subspace_whatever_their_length_and_order():
    rng = np.random.default_rng(0)
    plants = rng.normal(size=(60, off_list.DIRECTIONS)) @ np.eye(off_list.DIRECTIONS, 80)
    for batches in ([plants], [plants[::-1][:25], 1000 * plants[::-1][25:]], [plants[:1], plants[1:]]):
        directions = off_list.principal_directions(batches)
        assert directions.shape == (80, off_list.DIRECTIONS) and directions.dtype == np.float32
        inside, outside = np.eye(80, dtype=np.float32)[[0, 31]], np.eye(80, dtype=np.float32)[[32, 79]]
        np.testing.assert_allclose(features.share_outside(inside, directions), 0, atol=2e-3)
        np.testing.assert_allclose(features.share_outside(outside, directions), 1, atol=1e-6)
    assert np.array_equal(directions, directions.astype(np.float16))  # the page's weights are of 16 bits


SMALL = {"num_classes": 5, "dropout": 0.2}
MODELS = [
    (Model(name="mobilenetv2", alpha=0.35, pretrained=False), 32, 1280),
    (Model(name="mobilenetv2", alpha=0.35, pretrained=False, head_rank=3), 32, 1280),
    (Model(name="vit_tiny_patch16", pretrained=False), 64, 192),
]


@pytest.mark.parametrize(("model", "size", "width"), MODELS)
def test_features_are_those_that_the_head_sees_also_of_a_folded_copy(model, size, width):
    keras.utils.set_random_seed(0)
    network = heads.build_classifier(model, image_size=size, **SMALL)
    images = np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)
    shipped = [quantize.fold_batch_norm(network)] if model.name == "mobilenetv2" else []
    for each in (network, *shipped):
        logits, found = features.with_features(each)(images, training=False)
        assert found.shape == (3, width)
        for layer in (layer for layer in each.layers if layer.name in heads.HEAD):
            found = layer(found)
        np.testing.assert_allclose(found, logits, atol=1e-5)


# --- the threshold ---


@pytest.mark.parametrize(
    ("n", "rank"),
    # the ceiling of 0.98 * (n + 1), counted from the smallest score
    [(49, 49), (99, 98), (100, 99), (1000, 981)],
)
def test_the_threshold_is_a_calibration_photos_own_score(n, rank):
    scores = np.random.default_rng(n).permutation(n) / 2000
    found = judged(scores)
    assert found.part["threshold"] == pytest.approx((rank - 1) / 2000) and found.part["n_promise"] == n
    assert found.on_fit.sum() == rank
    json.dumps(found.part, allow_nan=False)


def test_of_new_plants_98_percent_are_kept_on_average():
    rng = np.random.default_rng(1)
    kept = [judged(rng.beta(2, 9, 60), rng.beta(2, 9, 500)).part["kept"] for _ in range(200)]
    assert 0.98 <= np.mean(kept) < 0.99  # 60 of 61 is 0.984


def test_what_is_kept_of_the_test_photos_is_counted_with_its_interval_over_groups():
    found = judged(np.linspace(0, 0.4, 99), [0.1] * 9 + [0.9])
    assert found.part["kept"] == 0.9 and found.part["n"] == 10
    assert found.on_test.tolist() == [True] * 9 + [False]
    low, high = found.part["interval"]
    assert 0.5 < low < 0.9 < high < 1


def test_photos_of_one_plant_count_once():
    scores, plants = np.tile(np.linspace(0, 0.4, 60), 3), np.tile(groups(60), 3)
    assert off_list.judge(scores, plants, scores, plants, seed=0).part["n_promise"] == 60
    few = off_list.judge(scores[:48].repeat(3), groups(48).repeat(3), scores, plants, seed=0)
    assert few.part == {"why": "48 calibration photos of different plants are too few, 49 are the least"}
    assert few.on_fit.all() and few.on_test.all()
    said = describe_additions({"off_list": few.part, "region_priors": {"why": "none"}, "observations": {"why": "few"}})
    assert "off the list: 48 calibration photos of different plants are too few, 49 are the least" in said


@pytest.mark.parametrize(
    ("sets", "why"),
    [
        ({}, ""),
        ({"phase5": {"off_list": False}}, "phase5.off_list is false"),
        (
            {"phase3": {"model": {"name": "mobilenetv2", "pretrained": False}}},
            "the features of a student from random weights don't tell other pictures from plants",
        ),
    ],
)
def test_a_student_from_random_weights_gets_no_score(sets, why):
    assert scoring.why_not(from_dict({"experiment": "any", **sets})) == why


def test_photos_that_are_held_back_are_not_conclusive_at_any_rank():
    one, ranks = np.ones(3), np.array([[0.9], [0.8], [0.7]])
    scores = Scores(one, one, one, one, ranks, np.ones((3, 1)))
    held = scores.only(np.array([True, False, True]))
    assert held.confidence.tolist() == [1, 0, 1] and held.rank_confidence[:, 0].tolist() == [0.9, 0, 0.7]
    assert held.correct.tolist() == [1, 1, 1]


# --- the shipped model ---


@pytest.fixture(scope="module")
def model():
    """The example's shipped model, its subspace and its threshold, as `phase6 quantize` finds them."""
    train = [example.tensors(example.samples(20, first_seed=1000))]
    fitting, tests = example.samples(15, first_seed=3000), example.samples()
    predictor = scoring.ScoringModel(example.shipped(), train)
    logits = [predictor(example.tensors(photos)) for photos in (fitting, tests)]
    known = [
        Predictions(found, np.array([label for *_, label in photos]), *[np.array([name for name, *_ in photos])] * 3)
        for found, photos in zip(logits, (fitting, tests), strict=True)
    ]
    evidence = predictor.judge(Evidence(*known, Phase5(), 0))
    return predictor, evidence.off_list


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    predictor, found = model
    folder = tmp_path_factory.mktemp("off-list") / "saved_model"
    calibration = example.CALIBRATION | {"off_list": found.part, "genus": {"threshold": 0.5}}
    saved_model.write_saved_model(
        example.shipped(), folder, labels=example.SPECIES, preprocessing=example.PREPROCESSING,
        calibration=calibration, directions=predictor.directions,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def bundle(folder, tmp_path_factory):
    example.need_browser()
    page = tmp_path_factory.mktemp("off-list-page") / "page"
    tfjs.write_bundle(folder, page, about=example.ABOUT)
    return page


def strangers(count=6):
    """Records of noise: no drawn flower."""
    rng = np.random.default_rng(5)
    noise = [Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)) for _ in range(count)]
    return [(f"noise-{i}", example.encoded(image), 0) for i, image in enumerate(noise)]


def test_python_graph_and_phase6_tell_the_same_photos(folder, model):
    _, found = model
    classifier, photos = load_classifier(folder), example.samples() + strangers()
    _, _, scores = classifier.answers(example.tensors(photos))
    off = classifier.is_off_list(scores)
    assert (~off[:40]).tolist() == found.on_test.tolist() and found.part["kept"] >= 0.9
    assert off[40:].all()
    said = [classifier.classify(record) for _, record, _ in photos]
    assert [each["off_list"] for each in said] == off.tolist()
    assert not any(each["conclusive"] or each["genus_conclusive"] for each, it in zip(said, off, strict=True) if it)
    answers = classifier.restored.signatures["classify_jpeg"](image_bytes=tf.constant([each[1] for each in photos]))
    assert answers["off_list"].numpy().tolist() == off.tolist()
    assert answers["conclusive"].numpy().tolist() == [each["conclusive"] for each in said]
    assert answers["genus_conclusive"].numpy().tolist() == [each["genus_conclusive"] for each in said]


def test_a_model_without_a_score_answers_as_it_always_did(folder):
    with_score, without = load_classifier(folder), load_classifier(example.saved())
    outputs = without.restored.signatures["serving_default"].structured_outputs
    assert set(outputs) == {"logits", "probabilities"}
    photo = example.samples(1)[0][1]
    said = without.classify(photo)
    assert said["off_list"] is None
    assert said == with_score.classify(photo) | {"off_list": None} | {
        key: said[key] for key in said if key.startswith("genus")
    }


def test_page_and_python_agree_on_who_is_off_the_list(bundle, folder):
    photos = [Sample(*photo) for photo in strangers() + example.samples(3)]
    verdict = validate_bundle(bundle, folder, photos, backends=("wasm", "cpu"))
    assert verdict["passed"], verdict["reasons"]
    for result in verdict["backends"].values():
        assert result["stages"]["record"]["off_list"] >= 6
        assert result["stages"]["record"]["off_list_agreement"] == 1.0


def test_a_page_that_holds_nobody_back_fails(folder):
    tally = Tally(load_classifier(folder))
    said = np.array([[0.95, 0.03, 0.01, 0.01]] * 2, np.float32)
    question = Question("record", [], said, [Sample(n, b"") for n in "ab"], off_list=np.array([True, False]))
    words = {"names": [example.SPECIES[0]] * 2, "conclusive": [True, True], "off_list": [False, False]}
    tally.add(question, {"probabilities": said, "ms": [1.0, 1.0], **words})
    metrics = tally.judge({"name_agreement": 0.995, "off_list_agreement": 0.995})
    assert (metrics["off_list_agreement"], metrics["off_list"], metrics["passed"]) == (0.5, 1, False)


def test_the_page_says_it_in_two_languages(bundle, tmp_path):
    (tmp_path / "noise.jpg").write_bytes(strangers(1)[0][1])
    with serve_folder(bundle) as base, open_browser() as browser:
        page = browser.new_page(viewport={"width": 320, "height": 640})
        page.goto(base)
        page.wait_for_selector("body[data-state=ready]")
        page.set_input_files("#choose", tmp_path / "noise.jpg")
        page.wait_for_selector("body[data-state=answered]")
        assert page.inner_text("#verdict") == "This does not look like one of the plants of this list"
        assert page.get_attribute("#answer", "data-conclusive") == "none"
        assert page.get_attribute("#answer", "data-off-list") == "true"
        assert page.locator("#species li").count() == 0 and "%" not in page.inner_text("#answer")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.click("#language")
        assert page.inner_text("#verdict") == "No parece una de las plantas de esta lista"


def test_the_subspace_costs_two_bytes_a_number(bundle):
    plain = example.bundle()[0]
    grown = [sum(f.stat().st_size for f in (each / "model").glob("*.bin")) for each in (plain, bundle)]
    width = example.shipped().get_layer("logits").input.shape[-1]
    assert 0 < grown[1] - grown[0] <= 2 * (width // 2) * width + 64  # K is 16 there, half of the 32 features
