"""Soft labels: what is encoded is decoded, and the ensemble is the sum it claims to be."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_pipeline.training import ensemble, soft_labels
from keras_pipeline.training.losses import EMPTY_TAIL

FULL = soft_labels.Layout("d", "c", num_classes=5, temperature=2.0, top_k=5, views=2)
SPARSE = dataclasses.replace(FULL, top_k=2, views=1)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def records(n, layout=FULL, seed=0):
    rng = np.random.default_rng(seed)
    block = np.zeros(n, layout.dtype)
    block["sample"] = 1000 + np.arange(n)
    for view in range(layout.views):
        logits = 2 * rng.normal(size=(n, layout.num_classes))
        block["views"][:, view] = soft_labels.encode_view(logits, layout, seed=7 + view)
    return block


def test_encode_literal():
    # Maximum shifted to 0; the two largest are classes 3 and 0; tail = ln(e^(-2/2) + e^(-4/2) + e^(-6/2))
    view = soft_labels.encode_view(np.array([[9.0, 8.0, 6.0, 10.0, 4.0]]), SPARSE)
    assert view["ids"].tolist() == [[3, 0]]
    assert view["logits"].tolist() == [[0.0, -1.0]]
    assert view["tail"][0] == pytest.approx(np.log(np.exp(-1) + np.exp(-2) + np.exp(-3)), abs=1e-6)


def test_ties_are_broken_by_class_id():
    assert soft_labels.encode_view(np.zeros((1, 5)), SPARSE)["ids"].tolist() == [[0, 1]]


def test_with_every_class_listed_nothing_is_lost():
    logits = np.random.default_rng(1).normal(size=(4, 5)) * 3
    dense = soft_labels.dense_log_probabilities(soft_labels.encode_view(logits, FULL), FULL)
    # half precision of numbers below 16: half a unit in the last place is 2^-8 = 0.004, halved by T = 2
    np.testing.assert_allclose(dense, log_softmax(logits / 2.0), atol=4e-3)
    assert (dense.argmax(1) == logits.argmax(1)).all()


def sorted_encoding(logits, layout):
    """What records held before top-k ran in the graph: all C classes sorted in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    order = np.argsort(-shifted, axis=1, kind="stable")
    top, rest = (np.take_along_axis(shifted, part, 1) for part in (order[:, : layout.top_k], order[:, layout.top_k :]))
    encoded = np.zeros(len(logits), layout.dtype["views"].base)
    encoded["ids"], encoded["logits"] = order[:, : layout.top_k], np.maximum(top, EMPTY_TAIL)
    encoded["tail"] = EMPTY_TAIL
    if rest.shape[1]:
        rest = rest / layout.temperature
        sums = rest[:, 0] + np.log(np.exp(rest - rest[:, :1]).sum(axis=1))
        encoded["tail"] = np.maximum(sums, EMPTY_TAIL)
    return encoded


def assert_same_bits(received, expected):
    """But for a zero's sign, which means nothing."""
    assert received["ids"].tobytes() == expected["ids"].tobytes()
    assert (received["logits"] + np.float16(0)).tobytes() == (expected["logits"] + np.float16(0)).tobytes()
    assert received["tail"].tobytes() == expected["tail"].tobytes()


KINDS = {
    "usual": lambda rng, shape: 3 * rng.normal(size=shape),
    "tied": lambda rng, shape: np.round(3 * rng.normal(size=shape)),
    "halves": lambda rng, shape: (3 * rng.normal(size=shape)).astype(np.float16),
    "equal": lambda rng, shape: np.full(shape, -7.25),
    "zeros of both signs": lambda rng, shape: np.where(rng.random(shape) < 0.5, -0.0, 0.0),
    "flat": lambda rng, shape: 1e-3 * rng.normal(size=shape),
    "beyond float16": lambda rng, shape: 3e4 * rng.normal(size=shape),
    "beyond float64's exp": lambda rng, shape: 1e30 * rng.normal(size=shape),
    "certain": lambda rng, shape: np.where(np.arange(shape[1]) == 3, 1e6, rng.normal(size=shape)),
}
SIZES = [(5, 5), (5, 2), (300, 299), (9000, 128)]  # classes, stored


def layout_of(classes, k, temperature=2.0):
    return soft_labels.Layout("d", "c", num_classes=classes, temperature=temperature, top_k=k, views=1)


@pytest.mark.parametrize("classes, k", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_records_hold_what_sorting_every_class_gives(kind, classes, k):
    logits = KINDS[kind](np.random.default_rng(classes), (16, classes)).astype(np.float32)
    for temperature in (1.0, 3.0):
        layout = layout_of(classes, k, temperature)
        expected = sorted_encoding(logits, layout)
        assert_same_bits(soft_labels.encode_view(logits, layout), expected)
        in_graph = tf.function(lambda z, layout=layout: soft_labels.summarise(z, layout))(tf.constant(logits))
        assert_same_bits(soft_labels.pack(in_graph, layout), expected)


def test_the_limits_of_float16_literal():
    # 6e-8 is float16's smallest step, 65504 its largest number; below, a logit stays at -65504
    view = soft_labels.encode_view(np.float32([[0, -6e-8, -65504, -65600, -1e9]]), FULL)[0]
    assert view["ids"].tolist() == [0, 1, 2, 3, 4]
    assert view["logits"].tolist() == [0.0, -(2.0**-24), -65504.0, -65504.0, -65504.0]
    assert view["tail"] == -65504.0
    # T = 2, one class left, 131006 below the largest: -65503; at 131010 the limit holds
    layout = dataclasses.replace(SPARSE, num_classes=3)
    tails = soft_labels.encode_view(np.float32([[0, 0, -131006], [0, 0, -131010]]), layout)["tail"]
    assert tails.tolist() == [-65503.0, -65504.0]


def test_ties_at_the_last_place_go_to_the_lower_class_ids():
    # 300 classes of the value 2 compete for three places of four; the rest are 297 of them and 8,699 of the value 0
    logits = np.zeros((1, 9000), np.float32)
    logits[0, 8999], logits[0, 30:9000:30] = 5.0, 2.0
    layout = layout_of(9000, 4, temperature=1.0)
    view = soft_labels.encode_view(logits, layout)[0]
    assert view["ids"].tolist() == [8999, 30, 60, 90]
    assert view["logits"].tolist() == [0.0, -3.0, -3.0, -3.0]
    assert view["tail"] == pytest.approx(np.log(296 * np.exp(-3) + 8700 * np.exp(-5)), abs=1e-6)


def test_tail_is_spread_evenly_and_probabilities_sum_to_one():
    logits = np.array([[9.0, 8.0, 6.0, 10.0, 4.0]])
    view = soft_labels.encode_view(logits, SPARSE)
    probabilities = np.exp(soft_labels.dense_log_probabilities(view, SPARSE))
    exact = np.exp(log_softmax(logits / 2.0))
    np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(probabilities[:, [3, 0]], exact[:, [3, 0]], atol=1e-6)
    np.testing.assert_allclose(probabilities[0, [1, 2, 4]], exact[0, [1, 2, 4]].sum() / 3, atol=1e-6)


def test_tail_mass():
    # (9, 8, 6, 10, 4) at T = 2: e^0 + e^-.5 listed against e^-1 + e^-2 + e^-3
    view = soft_labels.encode_view(np.array([[9.0, 8.0, 6.0, 10.0, 4.0]]), SPARSE)
    rest, listed = np.exp([-1, -2, -3]).sum(), np.exp([0, -0.5]).sum()
    assert soft_labels.tail_mass(view, SPARSE)[0] == pytest.approx(rest / (rest + listed), abs=1e-6)
    assert soft_labels.tail_mass(soft_labels.encode_view(np.zeros((1, 5)), FULL), FULL)[0] == pytest.approx(
        0, abs=1e-12
    )


def test_total_is_one_unless_a_record_is_broken():
    views = soft_labels.encode_view(np.random.default_rng(0).normal(size=(4, 5)) * 3, SPARSE)
    np.testing.assert_allclose(soft_labels.total(views, SPARSE), 1, atol=1e-12)
    views["ids"][1] = [2, 2]  # a class twice: the smaller of its two shares is all that is left
    views["ids"][2, 1] = 5  # no such class
    views["tail"][3] = np.nan
    sums = soft_labels.total(views, SPARSE)
    shares = np.exp(np.append(views["logits"][1] / 2.0, views["tail"][1]))
    assert sums[0] == pytest.approx(1) and sums[1] == pytest.approx(1 - shares[0] / shares.sum(), abs=1e-6)
    assert sums[2] < 0.999 and np.isnan(sums[3])


def test_a_certain_teacher_is_stored_finitely():
    view = soft_labels.encode_view(np.array([[1e6, 0.0, 0.0, 0.0, 0.0]]), SPARSE)
    assert view["tail"][0] == EMPTY_TAIL
    assert np.isfinite(view["logits"]).all()
    np.testing.assert_allclose(np.exp(soft_labels.dense_log_probabilities(view, SPARSE)), [[1, 0, 0, 0, 0]], atol=1e-9)


@pytest.mark.parametrize(
    "logits", [np.zeros((2, 4)), np.array([[0, 1, np.nan, 0, 0]]), np.array([[0, np.inf, 0, 0, 0]])]
)
def test_unusable_logits_raise(logits):
    with pytest.raises(ValueError, match=r"expected finite ones of \[N, 5\]"):
        soft_labels.encode_view(logits, FULL)


def one_view(*rows):
    block = np.zeros(len(rows), dataclasses.replace(FULL, views=1).dtype)
    block["sample"] = np.arange(len(rows))
    block["views"][:, 0] = soft_labels.encode_view(np.array(rows, float), FULL)
    return block


def combined_of(members, regions, layout, **options):
    return np.concatenate(list(ensemble.combine(members, np.array(regions), layout, **options)))


def test_combine_literal():
    # Two teachers with logits (4, 0, 0, 0, 0) and (0, 0, 8, 0, 0), weights 0.5 and 0.5: mean (2, 0, 4, 0, 0),
    # at T = 2 -> (1, 0, 2, 0, 0), shifted so that the maximum is 0 and stored as logits: (-2, -4, 0, -4, -4).
    layout = dataclasses.replace(FULL, views=1)
    members = [(one_view([4, 0, 0, 0, 0]), 0.5, None), (one_view([0, 0, 8, 0, 0]), 0.5, "EU_SW")]
    view = combined_of(members, ["EU_SW"], layout)["views"][:, 0]
    assert view["ids"].tolist() == [[2, 0, 1, 3, 4]]
    np.testing.assert_allclose(view["logits"], [[0, -2, -4, -4, -4]], atol=2e-3)


def test_the_regional_teacher_is_silent_elsewhere_and_weights_are_renormalised():
    layout = dataclasses.replace(FULL, views=1)
    globally, regionally = one_view([4, 0, 1, 0, 0], [4, 0, 1, 0, 0]), one_view([0, 9, 0, 0, 0], [0, 9, 0, 0, 0])
    members = [(globally, 0.3, None), (regionally, 0.9, "EU_SW")]
    combined = combined_of(members, ["EU", "EU_SW"], layout)["views"][:, 0]
    dense = soft_labels.dense_log_probabilities(combined, layout)
    np.testing.assert_allclose(dense[0], log_softmax(np.array([4, 0, 1, 0, 0]) / 2), atol=2e-3)
    mixed = 0.25 * np.array([4, 0, 1, 0, 0]) + 0.75 * np.array([0, 9, 0, 0, 0])  # 0.3 and 0.9 of 1.2
    np.testing.assert_allclose(dense[1], log_softmax(mixed / 2), atol=4e-3)
    np.testing.assert_allclose(np.exp(dense).sum(1), 1.0, atol=1e-12)


def test_combine_keeps_each_view_apart():
    block = records(3)
    combined = combined_of([(block, 1.0, None)], ["EU"] * 3, FULL)
    np.testing.assert_array_equal(combined["views"]["ids"], block["views"]["ids"])
    np.testing.assert_allclose(combined["views"]["logits"], block["views"]["logits"], atol=4e-3)
    np.testing.assert_array_equal(combined["sample"], block["sample"])


def test_combining_records_of_other_photos_raises():
    other = records(3)
    other["sample"] = other["sample"][::-1]
    with pytest.raises(ValueError, match="other photos or views"):
        combined_of([(records(3), 0.5, None), (other, 0.5, None)], ["EU"] * 3, FULL)
    other = records(3)
    other["views"]["seed"] += 1  # teachers that saw other pictures
    with pytest.raises(ValueError, match="other photos or views"):
        combined_of([(records(3), 0.5, None), (other, 0.5, None)], ["EU"] * 3, FULL)


def test_an_ensemble_of_probabilities_literal():
    # Two teachers, (0.8, 0.1, 0.1) and (0.2, 0.7, 0.1), weights 0.25 and 0.75: (0.35, 0.55, 0.1). Of logits it would be
    # (0.8^.25 0.2^.75, 0.1^.25 0.7^.75, 0.1) / sum = (0.282843, 0.430352, 0.1) / 0.813195.
    both = np.log([[[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]]])
    weights = np.array([[0.25, 0.75]])
    mixed = np.exp(ensemble.ensemble(both, weights, "probabilities"))
    np.testing.assert_allclose(mixed, [[0.35, 0.55, 0.1]], rtol=1e-12)
    geometric = np.exp(ensemble.ensemble(both, weights, "logits"))
    np.testing.assert_allclose(geometric / geometric.sum(), [[0.347817, 0.529211, 0.122972]], rtol=2e-6)
    silent = np.exp(ensemble.ensemble(both, np.array([[1.0, 0.0]]), "probabilities"))
    np.testing.assert_allclose(silent, [[0.8, 0.1, 0.1]], rtol=1e-12)


def test_combine_in_probability_space_differs_and_sums_to_one():
    layout = dataclasses.replace(FULL, views=1)
    members = [(one_view([4, 0, 0, 0, 0]), 0.5, None), (one_view([0, 0, 8, 0, 0]), 0.5, None)]
    view = combined_of(members, ["EU"], layout, space="probabilities")["views"][:, 0]
    # T = 2: e^2 / (e^2 + 4) = 0.648786, e^4 / (e^4 + 4) = 0.931738; means with 1 / (e^2 + 4) and 1 / (e^4 + 4)
    expected = np.array([0.648786 + 0.017066, 0, 0.931738 + 0.087803, 0, 0]) / 2
    expected[[1, 3, 4]] = (0.087803 + 0.017066) / 2
    np.testing.assert_allclose(np.exp(soft_labels.dense_log_probabilities(view, layout))[0], expected, atol=5e-4)


def test_blocks_of_a_shard_are_combined_alike(monkeypatch):
    block = records(5)
    whole = combined_of([(block, 1.0, None)], ["EU"] * 5, FULL)
    monkeypatch.setattr(ensemble, "BLOCK", 2)
    np.testing.assert_array_equal(combined_of([(block, 1.0, None)], ["EU"] * 5, FULL), whole)


def dense_combination(views, weights, layout, space):
    """The ensemble with every class written out, sorted as a whole."""
    dense = np.stack([soft_labels.dense_log_probabilities(view, layout) for view in views], axis=1)
    return sorted_encoding(np.asarray(ensemble.ensemble(dense, weights, space)) * layout.temperature, layout)


@pytest.mark.parametrize("space", ["logits", "probabilities"])
@pytest.mark.parametrize("classes, k", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_combining_the_listed_classes_gives_what_combining_every_class_does(kind, classes, k, space):
    # Rounded to float16, logits of two teachers often have the same mean: the order of those has to be the same too.
    layout = layout_of(classes, k)
    rng = np.random.default_rng(k)
    members = []
    for weight, region in ((0.3, None), (0.9, "EU_SW"), (0.4, None)):
        block = np.zeros(9, layout.dtype)
        block["views"][:, 0] = soft_labels.encode_view(KINDS[kind](rng, (9, classes)).astype(np.float32), layout)
        members.append((block, weight, region))
    regions = ["EU_SW", "EU", "EU"] * 3
    for number in (1, 2, 3):
        received = combined_of(members[:number], regions, layout, space=space)["views"][:, 0]
        weights = ensemble.member_weights([(w, region) for _, w, region in members[:number]], np.array(regions))
        views = [block["views"][:, 0] for block, _, _ in members[:number]]
        assert_same_bits(received, dense_combination(views, weights, layout, space))


def test_the_number_of_threads_changes_nothing(monkeypatch):
    block, other = records(41), records(41, seed=1)
    members, regions = [(block, 0.5, None), (other, 0.5, "EU_SW")], ["EU", "EU_SW"] * 20 + ["EU"]
    whole = combined_of(members, regions, FULL)
    np.testing.assert_array_equal(whole["sample"], block["sample"])
    np.testing.assert_array_equal(whole["views"]["seed"], block["views"]["seed"])
    monkeypatch.setattr(ensemble, "BLOCK", 4)
    for workers in (1, 2, 5):
        assert combined_of(members, regions, FULL, workers=workers).tobytes() == whole.tobytes()


def selected(block, layout, *, epoch, sample_id=b"sample-007"):
    select = soft_labels.selector(layout)
    record = tf.constant(np.frombuffer(block[:1].tobytes(), np.uint8))
    return tf.function(select)(record, {"sample_id": tf.constant(sample_id)}, tf.constant(epoch, tf.int64))


@pytest.mark.parametrize("layout", [FULL, SPARSE])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_the_view_due_in_the_epoch_is_selected(layout, epoch):
    block = records(1, layout)
    block["sample"] = tf.strings.to_hash_bucket_fast("sample-007", 2**62).numpy()
    out, view = selected(block, layout, epoch=epoch), epoch % layout.views
    assert out["number"] == view
    assert out["seed"].numpy().tolist() == [block["sample"][0], 7 + view]
    target = soft_labels.targets(out["teacher"][None], layout)
    np.testing.assert_array_equal(target["teacher_ids"], block["views"]["ids"][:, view])
    np.testing.assert_array_equal(target["teacher_logits"], block["views"]["logits"][:, view].astype("float32"))
    np.testing.assert_array_equal(target["teacher_tail"], block["views"]["tail"][:, view])


def test_another_photos_record_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="out of step"):
        selected(records(1), FULL, epoch=0)


@pytest.mark.parametrize("classes, k, views, size", [(17, 17, 1, 88), (9000, 128, 1, 532), (17, 17, 8, 648)])
def test_record_size_is_what_the_documentation_says(classes, k, views, size):
    layout = soft_labels.Layout("d", "c", num_classes=classes, temperature=3.0, top_k=k, views=views)
    assert layout.dtype.itemsize == size
