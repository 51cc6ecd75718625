"""From a record or an original to the tensor a model sees: literal numbers and invariances."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_pipeline.data import preprocess
from keras_pipeline.data.photo import seen, to_record
from keras_pipeline.data.preprocess import Preprocessing

OPTIONS = {"short_side": 64, "min_short_side": 20, "quality": 95}


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width=30, height=20):
    """Red grows to the right, green downwards: any flip or rotation shows."""
    red = np.repeat(np.linspace(0, 250, width)[None], height, 0)
    green = np.repeat(np.linspace(0, 250, height)[:, None], width, 1)
    return Image.fromarray(np.stack([red, green, np.full_like(red, 60)], -1).astype(np.uint8))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 20}])
def test_tensorflow_decodes_as_pillow_does(jpeg, options):
    photo = jpeg(5, (61, 47), **options)
    np.testing.assert_array_equal(preprocess.decode_jpeg(photo), Image.open(io.BytesIO(photo)))


def test_every_stored_photo_can_be_decoded_by_tensorflow(jpeg):
    # Pillow forgives a missing end marker, and such bytes are stored as they are.
    photo = jpeg(1, (40, 36))
    for cut in (1, 2):
        try:
            stored, height, width = to_record(photo[:-cut], **OPTIONS)
        except ValueError:
            continue
        assert preprocess.decode_jpeg(stored).shape == (height, width, 3)


def test_from_pixels_literal():
    # 16 x 24 at fraction 0.5: a square of floor(0.5 * 16 + 0.5) = 8 from (4, 8), here kept at 8 px.
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[4:12, 8:16] = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    result = Preprocessing(image_size=8, crop_fraction=0.5).from_pixels(tf.constant(pixels))
    assert result.dtype == tf.float32
    np.testing.assert_array_equal(result, pixels[4:12, 8:16].astype("float32"))


def test_resize_by_half_is_the_triangle_filter():
    # Scale 2: weights of the source pixels around the centre between pixels 2i and 2i+1 are (1, 3, 3, 1) / 8;
    # at the edge the first falls off: (3, 3, 1) / 7.
    row = np.array([0, 10, 20, 40, 80, 160], np.float32)
    image = tf.constant(np.repeat(np.repeat(row[None, :, None], 6, 0), 3, 2))
    expected = [(3 * 0 + 3 * 10 + 20) / 7, (10 + 3 * 20 + 3 * 40 + 80) / 8, (40 + 3 * 80 + 3 * 160) / 7]
    np.testing.assert_allclose(preprocess.resize_antialiased(image, (3, 3))[1, :, 0], expected, rtol=1e-6)


def test_identity_resize_is_exact(jpeg):
    pixels = preprocess.decode_jpeg(jpeg(2, (32, 32)))
    same = Preprocessing(image_size=32, crop_fraction=1.0).from_pixels(pixels)
    np.testing.assert_array_equal(same, tf.cast(pixels, tf.float32))


def test_eager_graph_and_tf_data_agree(jpeg):
    photo, preprocessing = jpeg(4, (57, 44)), Preprocessing(image_size=32, short_side=44)
    eager = preprocessing.from_jpeg(photo)
    graph = tf.function(preprocessing.from_jpeg)(tf.constant(photo))
    (data,) = tf.data.Dataset.from_tensors(photo).map(preprocessing.from_jpeg)
    np.testing.assert_array_equal(eager, graph)
    np.testing.assert_array_equal(eager, data)
    assert eager.numpy().min() >= 0 and eager.numpy().max() <= 255


def test_a_mirrored_photo_gives_the_mirrored_tensor():
    # side floor(0.875 * 44 + 0.5) = 39; 59 - 39 is even, so that the crop is the same from both sides
    pixels, preprocessing = np.asarray(gradient(59, 44)), Preprocessing(image_size=32)
    mirrored = preprocessing.from_pixels(tf.constant(pixels[:, ::-1]))
    np.testing.assert_allclose(mirrored[:, ::-1], preprocessing.from_pixels(tf.constant(pixels)), atol=1e-4)


def test_a_photo_and_its_lossless_record_agree():
    preprocessing = Preprocessing(image_size=32, short_side=64)
    photo = encoded(gradient(150, 100))
    expected = preprocessing.from_pixels(tf.constant(seen(photo, 64)))
    np.testing.assert_array_equal(preprocessing.from_photo(photo), expected)


def test_a_tiny_picture_is_refused():
    preprocessing = Preprocessing(image_size=32, min_short_side=100)
    with pytest.raises(ValueError, match="shorter side below 100 px"):
        preprocessing.from_photo(encoded(gradient(150, 99)))
    assert preprocessing.from_photo(encoded(gradient(100, 150))).shape == (32, 32, 3)


def test_json_holds_the_numbers_that_were_used():
    value = Preprocessing(image_size=96, short_side=120, crop_fraction=0.8).to_json()
    assert (value["image_size"], value["short_side"], value["crop_fraction"]) == (96, 120, 0.8)
