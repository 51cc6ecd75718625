"""Training views: reproducible by seed, equal at every size, and no operation that does nothing."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_pipeline.data import augment

SEED = tf.constant([7, 11], tf.int64)
NEUTRAL = augment.Policy(area=(1.0, 1.0), aspect=1.0, flip=0.5, colour=0.0, hue=0.0, warp=0.0)


@pytest.fixture(scope="module")
def picture():
    from conftest import jpeg_of

    return tf.constant(jpeg_of(3, (48, 48)))


def view(picture, policy, seed=SEED, size=32):
    return augment.random_view(picture, policy, size, seed).numpy()


@pytest.mark.parametrize("name", augment.POLICIES)
def test_a_view_is_a_function_of_its_seed_in_eager_graph_and_data(picture, name):
    policy = augment.POLICIES[name]
    eager = view(picture, policy)
    graph = tf.function(lambda p, s: augment.random_view(p, policy, 32, s))
    np.testing.assert_array_equal(view(picture, policy), eager)
    np.testing.assert_allclose(graph(picture, SEED), eager, atol=1e-3)  # fused multiply-adds round otherwise
    (data,) = tf.data.Dataset.from_tensors((picture, SEED)).map(lambda p, s: augment.random_view(p, policy, 32, s))
    np.testing.assert_array_equal(data, graph(picture, SEED))
    assert eager.shape == (32, 32, 3) and eager.min() >= 0 and eager.max() <= 255


@pytest.mark.parametrize("name", augment.POLICIES)
def test_other_seeds_give_other_views(picture, name):
    views = {view(picture, augment.POLICIES[name], tf.constant([7, s], tf.int64)).tobytes() for s in range(8)}
    assert len(views) == 8


def test_seeds_tell_samples_views_and_runs_apart():
    samples = augment.sample_hash(tf.constant(["a", "b"]))
    seeds = {
        tuple(augment.view_seed(sample, tf.constant(number, tf.int64), seed).numpy())
        for sample in samples for number in range(3) for seed in (1, 2)
    }  # fmt: skip
    assert len(seeds) == 12


def test_sample_hash_is_the_same_on_every_machine():
    # FarmHash of the id; soft-label stores on disk depend on it.
    assert augment.sample_hash(tf.constant("sample-007")).numpy() == 4209032847358876514


def test_teacher_and_student_sizes_see_the_same_region(picture):
    policy = dataclasses.replace(augment.POLICIES["aggressive"], warp=0.0)
    for number in range(6):
        seed = tf.constant([number, 0], tf.int64)
        large, small = view(picture, policy, seed, 64), view(picture, policy, seed, 16)
        shrunk = tf.image.resize(large, (16, 16), antialias=True).numpy()
        other = view(picture, policy, tf.constant([number, 1], tf.int64), 16)
        assert np.abs(shrunk - small).mean() < 3 < np.abs(other - small).mean()


def test_warp_is_the_same_at_every_size():
    # A smooth picture warped at 64 px and shrunk is the one warped at 32 px, away from the reflected edges.
    ramp = np.linspace(0, 255, 64, dtype="float32")
    large = np.stack([np.repeat(ramp[None], 64, 0), np.repeat(ramp[:, None], 64, 1), np.full((64, 64), 9.0)], -1)
    small = tf.image.resize(large, (32, 32), antialias=True)
    draws = tf.constant([0.9, 0.2, 0.1])
    shrunk = tf.image.resize(augment._warp(tf.constant(large), 64, draws), (32, 32), antialias=True)
    difference = np.abs(shrunk - augment._warp(small, 32, draws))[8:24, 8:24]
    assert difference.max() < 3


def test_the_neutral_policy_shows_the_photo_or_its_mirror(picture):
    from keras_pipeline.data.preprocess import decode_jpeg, resize_antialiased

    plain = resize_antialiased(decode_jpeg(picture), (24, 24)).numpy()
    flipped = 0
    for number in range(20):
        result = view(picture, NEUTRAL, tf.constant([number, 0], tf.int64), 24)
        mirrored = np.abs(result - plain[:, ::-1]).max() < 0.01
        assert mirrored or np.abs(result - plain).max() < 0.01
        flipped += mirrored
    assert 3 <= flipped <= 17  # a fair coin: P(outside) = 4e-4


@pytest.mark.parametrize(
    "change", [{"area": (0.2, 0.2)}, {"aspect": 2.0}, {"flip": 1.0}, {"colour": 0.4}, {"hue": 0.5}, {"warp": 1.0}]
)
def test_no_operation_does_nothing(picture, change):
    seeds = [tf.constant([7, number], tf.int64) for number in range(8)]
    changed = np.stack([view(picture, dataclasses.replace(NEUTRAL, **change), seed) for seed in seeds])
    assert np.abs(changed - [view(picture, NEUTRAL, seed) for seed in seeds]).mean() > 2


@pytest.mark.parametrize("size, scale", [(16, 3.0), (36, 1.33), (64, 0.75)])
def test_antialiased_where_the_window_shrinks_much(picture, size, scale):
    from keras_pipeline.data.preprocess import decode_jpeg, resize_antialiased

    window = decode_jpeg(picture)  # 48 x 48 px
    expected = resize_antialiased(window, (size, size)) if scale > 1.5 else tf.image.resize(window, (size, size))
    np.testing.assert_array_equal(augment._resize(window, size), expected)


def test_crop_box_literal():
    # 40 x 80 photo, area 0.5 of it: 1600 px, aspect exp(0) = 1 -> 40 x 40; top 0, left 0.5 * (80 - 40) = 20
    policy = dataclasses.replace(NEUTRAL, area=(0.5, 0.5), aspect=4 / 3)
    draws = tf.constant([0.0, 0.5, 0.3, 0.5])
    assert [int(v) for v in augment.crop_box(tf.constant([40, 80, 3]), policy, draws)] == [0, 20, 40, 40]


def test_crop_boxes_stay_inside_and_keep_their_area():
    draws, policy = np.random.default_rng(0).random((200, 4)).astype("float32"), augment.POLICIES["aggressive"]
    for shape in ((36, 200, 3), (200, 36, 3), (1, 1, 3)):
        for row in draws[:60]:
            top, left, height, width = (int(v) for v in augment.crop_box(tf.constant(shape), policy, tf.constant(row)))
            assert top >= 0 and left >= 0 and top + height <= shape[0] and left + width <= shape[1]
            assert height >= 1 and width >= 1


def test_colour_with_neutral_factors_is_the_identity():
    image = tf.random.stateless_uniform([8, 8, 3], [1, 2], 0, 255)
    neutral = augment._colour(image, augment.POLICIES["aggressive"], tf.zeros(4))
    np.testing.assert_allclose(neutral, image, atol=1e-3)


def test_colour_literal():
    # brightness 1.2 alone; then contrast 1.4 about the mean luma 100 of a flat grey picture: nothing moves
    image = tf.fill([4, 4, 3], 100.0)
    policy = dataclasses.replace(NEUTRAL, colour=0.4)
    np.testing.assert_allclose(augment._colour(image, policy, tf.constant([0.5, 0, 0, 0])), 120.0, rtol=1e-4)
    np.testing.assert_allclose(augment._colour(image, policy, tf.constant([0, 1.0, 0, 0])), 100.0, rtol=1e-4)


def test_saturation_and_hue_leave_grey_and_luma_alone():
    luma = tf.constant([0.299, 0.587, 0.114])
    image = tf.random.stateless_uniform([8, 8, 3], [1, 2], 90, 160)
    changed = augment._colour(image, dataclasses.replace(NEUTRAL, colour=0.4, hue=0.5), tf.constant([0, 0, 0.9, 0.9]))
    np.testing.assert_allclose(tf.tensordot(changed, luma, 1), tf.tensordot(image, luma, 1), atol=0.1)
    assert np.abs(changed - image).mean() > 2


# --- MixUp and CutMix

IMAGES = tf.random.stateless_uniform([16, 32, 32, 3], [0, 1], 0, 255)
IDENTITY = tf.eye(16)
BOTH = {"mixup_alpha": 0.8, "cutmix_alpha": 0.8}
CASES = [{"mixup_alpha": 0.8, "cutmix_alpha": 0.0}, {"mixup_alpha": 0.0, "cutmix_alpha": 0.8}, BOTH]


def constant_images():
    """Photo i is filled with the number i, so that pixels tell whose they are."""
    return tf.broadcast_to(tf.range(16.0)[:, None, None, None], [16, 32, 32, 3])


def mixed(images, labels, **options):
    images, partner, keep = augment.mix(images, **options)
    return images, augment.mix_labels(labels, partner, keep)


@pytest.mark.parametrize("alphas", CASES)
def test_labels_stay_distributions_in_eager_and_graph(alphas):
    images, labels = mixed(IMAGES, IDENTITY, seed=SEED, **alphas)
    graph = tf.function(lambda i, y: mixed(i, y, seed=SEED, **alphas))(IMAGES, IDENTITY)
    np.testing.assert_allclose(labels.numpy().sum(1), 1.0, atol=1e-6)
    assert images.shape == IMAGES.shape and labels.numpy().min() >= 0
    np.testing.assert_allclose(graph[0], images, atol=1e-3)
    np.testing.assert_allclose(graph[1], labels, atol=1e-6)


def test_identity_rows_show_the_mixing_matrix():
    # Each row λ on its own photo, 1 - λ on one partner; the partners are a permutation.
    _, matrix = mixed(IMAGES, IDENTITY, mixup_alpha=0.8, cutmix_alpha=0.0, seed=SEED)
    matrix = matrix.numpy()
    off = matrix - np.diag(np.diag(matrix))
    assert ((off > 0).sum(1) <= 1).all() and ((off > 0).sum(0) <= 1).all()
    assert len(np.unique(np.diag(matrix).round(6))) > 8  # each photo has a λ of its own


def test_mixup_blends_pixels_as_it_blends_labels():
    images, matrix = mixed(constant_images(), IDENTITY, mixup_alpha=0.8, cutmix_alpha=0.0, seed=SEED)
    expected = tf.linalg.matvec(matrix, tf.range(16.0))
    np.testing.assert_allclose(images, tf.broadcast_to(expected[:, None, None, None], images.shape), atol=1e-4)


def test_lambda_of_cutmix_is_the_share_of_pixels_kept():
    images, matrix = mixed(constant_images(), IDENTITY, mixup_alpha=0.0, cutmix_alpha=0.8, seed=SEED)
    for row, image in zip(matrix.numpy(), images.numpy(), strict=True):
        shares = [(image[..., 0] == number).mean() for number in range(16)]
        np.testing.assert_allclose(row, shares, atol=1e-6)
    assert ((np.diag(matrix) > 0) & (np.diag(matrix) < 1)).sum() > 8


def test_cutmix_pastes_one_box():
    images, _ = mixed(constant_images(), IDENTITY, mixup_alpha=0.0, cutmix_alpha=0.8, seed=SEED)
    for number, image in enumerate(images.numpy()[..., 0]):
        rows, columns = np.nonzero(image != number)
        if len(rows):
            assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_with_both_a_fair_coin_decides_for_each_batch():
    cut = 0
    for number in range(40):
        seed = tf.constant([number, 5], tf.int64)
        images, _ = mixed(constant_images(), IDENTITY, seed=seed, **BOTH)
        cut += (images.numpy() == np.round(images)).all()  # cut and pasted photos keep whole numbers
    assert 8 <= cut <= 32  # P(outside) = 1e-4


def test_alpha_zero_is_off():
    images, labels = mixed(IMAGES, IDENTITY, mixup_alpha=0.0, cutmix_alpha=0.0, seed=SEED)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, IDENTITY)


def test_another_size_is_mixed_alike():
    # A teacher at 32 px and a student at 16 px see the same mixture: same partners, λ but for the pixels of a border.
    small = tf.image.resize(IMAGES, [16, 16])
    for alphas in CASES:
        _, partner, keep = augment.mix(IMAGES, seed=SEED, **alphas)
        _, partner_small, keep_small = augment.mix(small, seed=SEED, **alphas)
        np.testing.assert_array_equal(partner, partner_small)
        np.testing.assert_allclose(keep, keep_small, atol=0.13)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 10.0])
def test_no_alpha_makes_nan(alpha):
    for number in range(5):
        seed = tf.constant([number, 1], tf.int64)
        for alphas in ({"mixup_alpha": alpha, "cutmix_alpha": 0.0}, {"mixup_alpha": 0.0, "cutmix_alpha": alpha}):
            images, labels = mixed(IMAGES, IDENTITY, seed=seed, **alphas)
            assert np.isfinite(images).all() and np.isfinite(labels).all()
            np.testing.assert_allclose(labels.numpy().sum(1), 1.0, atol=1e-6)


def test_beta_has_the_right_mean_and_variance():
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)) = 0.25 / 2.6 = 0.0962 at a = 0.8
    draws = augment._beta(tf.constant(20000), 0.8, SEED).numpy()
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    assert draws.var() == pytest.approx(0.25 / 2.6, abs=0.003)
