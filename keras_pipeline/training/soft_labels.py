"""Soft labels: a teacher's output for a train photo as a fixed-size record, and what is computed from such records.

    sample int64 (hash of the sample id) | V x { seed int64 | ids uint16[K] | logits float16[K] | tail float32 }

tail = log Σ exp(z / T) over the classes not listed. View 0 is the clean picture; the others can be recreated from
(sample, seed) as the teacher saw them. A record of 17 classes takes 88 bytes; at 9,000 classes and K = 128, 532 bytes
against 36,000 for dense float32.

Only `total` uses SciPy's softmax, which is the same to the last bit. `scipy.special.logsumexp` differs there, and so
would the tails stored; `log_softmax` subtracts the maximum, and so would change what is combined from the tails.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from scipy.special import softmax

from keras_pipeline.core.config.student import Phase3
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.data.augment import sample_hash
from keras_pipeline.training.losses import EMPTY_TAIL

BLOCK = 256  # records combined and written at once: 9,000 classes take 18 MB as float64


@dataclasses.dataclass(frozen=True)
class Layout:
    """Format and origin of a store; stores of equal layouts can be combined."""

    dataset_hash: str
    class_hash: str
    num_classes: int
    temperature: float
    top_k: int  # min(config's top_k, num_classes)
    views: int

    @classmethod
    def of(cls, phase3: Phase3, info: DatasetInfo) -> Layout:
        """Return the layout of all stores made from this dataset with this config."""
        return cls(
            dataset_hash=content_hash(info.folder / "dataset.json"),
            class_hash=info.class_hash,
            num_classes=len(info.classes),
            temperature=phase3.distillation.temperature,
            top_k=min(phase3.soft_labels.top_k, len(info.classes)),
            views=phase3.soft_labels.views,
        )

    def check(self) -> None:
        """Raise ValueError unless the sizes are plausible, because memory is allocated by them."""
        numbers = (self.num_classes, self.top_k, self.views)
        if not (all(type(n) is int for n in numbers) and 1 <= self.top_k <= self.num_classes <= 65536):
            raise ValueError(f"received {self}, expected 1 <= top_k <= num_classes <= 65536")
        if not 1 <= self.views <= 64 or not isinstance(self.temperature, float | int) or not self.temperature > 0:
            raise ValueError(f"received {self}, expected 1 to 64 views and a temperature above 0")

    @property
    def dtype(self) -> np.dtype:
        """Return the structured dtype of a photo's record."""
        k = self.top_k
        view = np.dtype([("seed", "<i8"), ("ids", "<u2", (k,)), ("logits", "<f2", (k,)), ("tail", "<f4")])
        return np.dtype([("sample", "<i8"), ("views", view, (self.views,))])


def encode_view(logits: np.ndarray, layout: Layout, seed: np.ndarray | int = 0) -> np.ndarray:
    """Encode one view of N photos.

    Args:
        logits: float [N, C].
        seed: int64 [N], of the view.

    Returns:
        Structured [N] of {seed, ids, logits, tail}; ids by falling logit, ties by class id.

    Raises:
        ValueError: if a logit is not finite, or the number of classes differs from the layout's.

    Example:
        Three classes, of which two are stored:

        >>> layout = Layout("", "", num_classes=3, temperature=1.0, top_k=2, views=1)
        >>> view = encode_view(np.array([[1.0, 3.0, 0.0]], np.float32), layout)[0]
        >>> view["ids"].tolist(), view["logits"].tolist(), float(view["tail"])  # logits minus the largest
        ([1, 0], [0.0, -2.0], -3.0)
    """
    return pack(summarise(tf.convert_to_tensor(logits), layout), layout, seed)


def summarise(logits: tf.Tensor, layout: Layout) -> dict[str, tf.Tensor]:
    """Reduce logits [N, C] to what `pack` stores of them; runs in the model's graph, on its device.

    Returns:
        {ids int32 [N, K'], top [N, K'], rest float64 [N], finite bool [N]}: the K' = min(K + 1, C) largest logits, and
        Σ exp((z - t) / T) over the classes not listed, where t is the largest of theirs.

    Raises:
        ValueError: if the number of classes differs from the layout's.
    """
    if logits.shape.rank != 2 or logits.shape[1] != layout.num_classes:
        raise ValueError(_unusable(f"received logits of shape {logits.shape}", layout))
    k = layout.top_k
    # Equal values come by class id, on a CPU (documented) and a GPU (a stable radix sort, or a heap ordered by both).
    finite = tf.math.is_finite(logits)
    logits = tf.where(finite, logits, tf.zeros_like(logits))  # sorting is undefined with NaN
    top, ids = tf.math.top_k(logits, min(k + 1, layout.num_classes))
    if k < layout.num_classes:
        # With values cut off at t, each of the K listed classes adds exactly 1. In single precision the last bits of
        # the rest would be lost in that K.
        largest = tf.cast(top[:, k:], tf.float64)
        below = tf.minimum(tf.cast(logits, tf.float64) - largest, 0.0)
        rest = tf.reduce_sum(tf.exp(below / layout.temperature), axis=1) - k
    else:
        rest = tf.zeros(tf.shape(top)[0], tf.float64)
    return {"ids": ids, "top": top, "rest": rest, "finite": tf.reduce_all(finite, axis=1)}


def pack(summary: dict[str, tf.Tensor], layout: Layout, seed: np.ndarray | int = 0) -> np.ndarray:
    """Turn `summarise`'s tensors into structured [N], see `encode_view`.

    Raises:
        ValueError: if a logit is not finite.
    """
    ids, top, rest, finite = (np.asarray(summary[name]) for name in ("ids", "top", "rest", "finite"))
    if not finite.all():
        raise ValueError(_unusable(f"received NaN or infinity in {(~finite).sum()} of {len(finite)} photos", layout))
    # A constant shift changes no probability; with the maximum at 0, float16 is most precise where it matters.
    shifted = top.astype(np.float64) - top[:, :1]
    encoded = np.zeros(len(top), layout.dtype["views"].base)
    encoded["seed"] = seed
    encoded["ids"] = ids[:, : layout.top_k]
    encoded["logits"] = np.maximum(shifted[:, : layout.top_k], EMPTY_TAIL) + 0.0  # of -0.0, which is equal, 0.0
    encoded["tail"] = EMPTY_TAIL
    if layout.top_k < layout.num_classes:
        encoded["tail"] = np.maximum(shifted[:, -1] / layout.temperature + np.log(rest), EMPTY_TAIL)
    return encoded


def _unusable(received: str, layout: Layout) -> str:
    return (
        f"{received}, expected finite ones of [N, {layout.num_classes}]: the teacher diverged or has another class list"
    )


def log_sum(values: np.ndarray) -> np.ndarray:
    """Return log Σ exp(values), at least EMPTY_TAIL, of each row: float64 [N, M] -> [N]; EMPTY_TAIL if M is 0."""
    if values.shape[1] == 0:
        return np.full(len(values), EMPTY_TAIL)
    top = values.max(axis=1)
    return np.maximum(top + np.log(np.exp(values - top[:, None]).sum(axis=1)), EMPTY_TAIL)


def dense_log_probabilities(view: np.ndarray, layout: Layout) -> np.ndarray:
    """Decode structured [N] to log-probabilities at T, float64 [N, C], the tail spread evenly over its classes.

    Does what `losses.spread` does, in double precision.
    """
    dense = np.empty((len(view), layout.num_classes))
    listed, unlisted = log_probabilities(view, layout, dense)
    dense[:] = unlisted
    np.put_along_axis(dense, view["ids"].astype(np.int64), listed, axis=1)
    return dense


def log_probabilities(view: np.ndarray, layout: Layout, scratch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities at T, float64: [N, K] of the listed classes, [N, 1] of each other one.

    `scratch` is float64 [N, C]; new memory for it would take longer than the sum.
    """
    listed = view["logits"].astype(np.float64) / layout.temperature
    rest = max(layout.num_classes - layout.top_k, 1)
    unlisted = view["tail"].astype(np.float64)[:, None] - np.log(rest)
    # Added up class by class, although most are equal: another order of the sum would move its last bit, and with it
    # the order of classes that are equal but for rounding.
    scratch[:] = np.exp(unlisted)
    np.put_along_axis(scratch, view["ids"].astype(np.int64), np.exp(listed), axis=1)
    total = np.log(scratch.sum(axis=1, keepdims=True))
    return listed - total, unlisted - total


def total(view: np.ndarray, layout: Layout) -> np.ndarray:
    """Sum the probabilities at T of all classes: structured [N] -> float64 [N].

    The sum is 1 unless a class is listed twice or is not in the class list; NaN if a value is not finite.
    """
    listed = np.concatenate([view["logits"].astype(np.float64) / layout.temperature, view["tail"][:, None]], axis=1)
    shares = softmax(listed, axis=1)
    by_class = np.zeros((len(view), layout.num_classes))
    known = view["ids"] < layout.num_classes
    rows = np.broadcast_to(np.arange(len(view))[:, None], known.shape)
    by_class[rows[known], view["ids"][known]] = shares[:, :-1][known]
    return by_class.sum(axis=1) + shares[:, -1]


def tail_mass(view: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the probability at T outside the K listed classes: structured [N] -> float64 [N]."""
    top = log_sum(view["logits"].astype(np.float64) / layout.temperature)
    return np.where(view["tail"] <= EMPTY_TAIL, 0.0, 1 / (1 + np.exp(np.clip(top - view["tail"], -700, 700))))


def selector(layout: Layout) -> Callable:
    """Return `select` of `data.pipeline.Companion`: (record uint8 [bytes], photo, epoch) -> the epoch's view.

    The view is {"number": int64, "seed": int64 [2], "teacher": uint8 [bytes of ids, logits and tail]}. Reading raises
    InvalidArgumentError if the record belongs to another photo.
    """
    view_dtype = layout.dtype["views"].base
    first_view = _offset(layout.dtype, "views")
    teacher = _offset(view_dtype, "ids")

    def select(record: tf.Tensor, photo: dict[str, tf.Tensor], epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        sample = tf.bitcast(_field(record, layout.dtype, "sample"), tf.int64)
        check = tf.debugging.assert_equal(
            sample,
            sample_hash(photo["sample_id"]),
            "soft labels and photos are out of step; run the `logits` and `combine` steps again",
        )
        with tf.control_dependencies([check]):
            number = epoch % layout.views
        start = first_view + tf.cast(number, tf.int32) * view_dtype.itemsize
        view = tf.slice(record, [start], [view_dtype.itemsize])
        seed = tf.bitcast(_field(view, view_dtype, "seed"), tf.int64)
        return {"number": number, "seed": tf.stack([sample, seed]), "teacher": view[teacher:]}

    return select


def targets(teacher: tf.Tensor, layout: Layout) -> dict[str, tf.Tensor]:
    """Decode a batch of `selector`'s "teacher", uint8 [N, bytes].

    Returns:
        {teacher_ids int32 [N, K], teacher_logits float32 [N, K], teacher_tail float32 [N]}
    """
    view_dtype = layout.dtype["views"].base
    start = _offset(view_dtype, "ids")
    ids, logits, tail = (_field(teacher, view_dtype, name, start) for name in ("ids", "logits", "tail"))
    ids, logits = (tf.reshape(part, [-1, layout.top_k, 2]) for part in (ids, logits))
    return {
        "teacher_ids": tf.cast(tf.bitcast(ids, tf.uint16), tf.int32),
        "teacher_logits": tf.cast(tf.bitcast(logits, tf.float16), tf.float32),
        "teacher_tail": tf.bitcast(tail, tf.float32),
    }


def _field(data: tf.Tensor, dtype: np.dtype, name: str, start: int = 0) -> tf.Tensor:
    """Return the bytes of one field, uint8 [..., size]; `data` begins at byte `start` of the dtype."""
    offset = _offset(dtype, name) - start
    return data[..., offset : offset + dtype[name].itemsize]


def _offset(dtype: np.dtype, name: str) -> int:
    """Return the number of bytes before a field."""
    if dtype.fields is None or name not in dtype.fields:
        raise ValueError(f"received the field {name!r}, expected one of {dtype.names}; the stored layout is another")
    return dtype.fields[name][1]
