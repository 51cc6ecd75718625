"""What the SavedModel computes: probabilities of tensors, and answers to JPEGs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_pipeline.core.taxonomy import Rank
from keras_pipeline.data.preprocess import Preprocessing, decode_jpeg, resize_antialiased
from keras_pipeline.export.promise import Promise
from keras_pipeline.models.features import share_outside, with_features


def scores(
    model: keras.Model, size: int, temperature: float, subspace: tf.Variable | None
) -> Callable[..., dict[str, tf.Tensor]]:
    """Return the graph of `serving_default`, see `saved_model`.

    Args:
        model: float32 [N, size, size, 3], RGB 0..255 -> logits [N, C].
        size: pixels.
        temperature: > 0, divides the logits.
        subspace: float32 [D, K] of the off-list score; None for no such output.
    """
    outputs = model if subspace is None else with_features(model)

    @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3), tf.float32, name="image")])
    def serving_default(image: tf.Tensor) -> dict[str, tf.Tensor]:
        found = outputs(image, training=False)
        logits, features = (found, None) if subspace is None else found
        logits = tf.cast(logits, tf.float32)
        # Multiplied, because the converter replaces a division by a product with a reciprocal rounded differently.
        known = {"logits": logits, "probabilities": tf.nn.softmax(logits * (1 / temperature))}
        return known if subspace is None else known | {"off_list_score": share_outside(features, subspace)}

    return serving_default


def answers(
    scores: Callable[..., dict[str, tf.Tensor]],
    labels: list[str],
    preprocessing: Preprocessing,
    calibration: dict,
    ranks: Sequence[Rank],
) -> Callable[..., dict[str, tf.Tensor]]:
    """Return the graph of `classify_jpeg`, see `saved_model`.

    Args:
        scores: of `scores`.
        labels: C latin names.
        preprocessing: of the photos.
        calibration: checked by `promise.check_calibration`.
        ranks: those above the species, the lowest first.
    """
    tensor = tf.TensorSpec((preprocessing.image_size, preprocessing.image_size, 3), tf.float32)
    species, off_list = Promise.of(calibration).threshold, calibration.get("off_list", {}).get("threshold")

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    def classify_jpeg(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(lambda jpeg: _from_jpeg(jpeg, preprocessing), image_bytes, fn_output_signature=tensor)
        outputs = scores(images)
        probabilities = outputs["probabilities"]
        probability = tf.reduce_max(probabilities, axis=-1)
        off = outputs["off_list_score"] > off_list if "off_list_score" in outputs else tf.zeros_like(probability, bool)
        conclusive = (probability >= species) & ~off
        answer = {
            "latin_name": tf.gather(tf.constant(labels), tf.argmax(probabilities, axis=-1)),
            "probability": probability,
            "conclusive": conclusive,
        }
        answered = conclusive | off
        for rank in ranks:
            sums = tf.math.unsorted_segment_sum(tf.transpose(probabilities), rank.members, len(rank.taxa))
            taxon, sure = tf.argmax(sums, axis=0), tf.reduce_max(sums, axis=0)
            named = tf.gather(tf.constant([name != "" for name in rank.taxa]), taxon)
            own = ~answered & named & (sure >= Promise.of(calibration.get(rank.name, {})).threshold)
            answered |= own
            answer |= {
                rank.name: tf.gather(tf.constant(rank.taxa), taxon),
                f"{rank.name}_probability": sure,
                f"{rank.name}_conclusive": own,
            }
        return answer | ({"off_list": off} if "off_list_score" in outputs else {})

    return classify_jpeg


def _from_jpeg(jpeg: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Preprocess an upright JPEG in the graph: a record exactly as `Preprocessing.from_photo`.

    A larger JPEG is decoded whole here, which `from_photo` does not do: convert it with `to_record` first.
    """
    pixels, target = decode_jpeg(jpeg), preprocessing.short_side
    short = tf.reduce_min(tf.shape(pixels)[:2])
    return preprocessing.from_pixels(tf.cond(short > target, lambda: _shrink(pixels, target), lambda: pixels))


def _shrink(pixels: tf.Tensor, short_side: int) -> tf.Tensor:
    sides = tf.cast(tf.shape(pixels)[:2], tf.float64)
    size = tf.cast(sides * short_side / tf.reduce_min(sides) + 0.5, tf.int32)
    return tf.cast(tf.clip_by_value(tf.floor(resize_antialiased(pixels, size) + 0.5), 0, 255), tf.uint8)
