"""The soft-label store: what a teacher said of each train photo, as fixed-size records beside the train shards.

`soft_labels/index.json` names dataset, class list, K, T, views and shards. Each shard has the name of its train shard
and its photos' order, so that reading is a zip. It is a TFRecord file, whose records (each with its CRC) are blocks of

    sample int64 (hash of the sample id) | V x { seed int64 | ids uint16[K] | logits float16[K] | tail float32 }

tail = log Σ exp(z / T) over the classes not listed. View 0 is the clean picture; the others are made again from
(sample, seed), as the teacher saw them. A record of 17 classes takes 88 bytes; at 9,000 classes and K = 128, 532 bytes
against 36,000 for dense float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from keras import ops

from keras_pipeline.core.config.student import Phase3
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import aside, read_json, write_json
from keras_pipeline.core.hashing import content_hash, file_hash
from keras_pipeline.core.schema import DatasetInfo
from keras_pipeline.data import records, tfrecord
from keras_pipeline.data.augment import sample_hash
from keras_pipeline.training.losses import EMPTY_TAIL

REMEDY = "run again with --force the step that made it (`logits` of phase1 or phase2, or `phase3 combine`)"
NOTE = ".finished.json"  # beside a shard until all are there
BLOCK = 256  # records that are combined, and written, at once: 9,000 classes of two teachers take 74 MB as float64


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a store holds; two stores can be combined when their layouts are equal."""

    dataset_hash: str
    class_hash: str
    num_classes: int
    temperature: float
    top_k: int  # min(config's top_k, num_classes)
    views: int

    @classmethod
    def of(cls, phase3: Phase3, info: DatasetInfo) -> Layout:
        """The layout of every store that is made of this dataset with this config."""
        return cls(
            dataset_hash=content_hash(info.folder / "dataset.json"),
            class_hash=info.class_hash,
            num_classes=len(info.classes),
            temperature=phase3.distillation.temperature,
            top_k=min(phase3.soft_labels.top_k, len(info.classes)),
            views=phase3.soft_labels.views,
        )

    def check(self) -> None:
        """Raises ValueError for what no store can have: such a size would be allocated."""
        numbers = (self.num_classes, self.top_k, self.views)
        if not (all(type(n) is int for n in numbers) and 1 <= self.top_k <= self.num_classes <= 65536):
            raise ValueError(f"received {self}, expected 1 <= top_k <= num_classes <= 65536")
        if not 1 <= self.views <= 64 or not isinstance(self.temperature, float | int) or not self.temperature > 0:
            raise ValueError(f"received {self}, expected 1 to 64 views and a temperature above 0")

    @property
    def dtype(self) -> np.dtype:
        """The structured dtype of one photo's record."""
        k = self.top_k
        view = np.dtype([("seed", "<i8"), ("ids", "<u2", (k,)), ("logits", "<f2", (k,)), ("tail", "<f4")])
        return np.dtype([("sample", "<i8"), ("views", view, (self.views,))])


def encode_view(logits: np.ndarray, layout: Layout, seed: np.ndarray | int = 0) -> np.ndarray:
    """float [N, C], int64 [N] -> structured [N] of {seed, ids, logits, tail}; ids in falling order of logit, ties by
    class id.

    Raises ValueError for logits that aren't finite or have another number of classes.

    Example:
        Three classes, of which two are listed:

        >>> layout = Layout("", "", num_classes=3, temperature=1.0, top_k=2, views=1)
        >>> view = encode_view(np.array([[1.0, 3.0, 0.0]], np.float32), layout)[0]
        >>> view["ids"].tolist(), view["logits"].tolist(), float(view["tail"])  # logits less the largest
        ([1, 0], [0.0, -2.0], -3.0)
    """
    if logits.ndim != 2 or logits.shape[1] != layout.num_classes or not np.isfinite(logits).all():
        raise ValueError(
            f"received logits of shape {logits.shape}{'' if np.isfinite(logits).all() else ' with NaN or infinity'}, "
            f"expected finite ones of [N, {layout.num_classes}]: the teacher diverged or has another class list"
        )
    # A constant shift changes no probability; with the maximum at 0, float16 is finest where it matters.
    logits = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    order = np.argsort(-logits, axis=1, kind="stable")
    top, rest = order[:, : layout.top_k], order[:, layout.top_k :]
    encoded = np.zeros(len(logits), layout.dtype["views"].base)
    encoded["seed"], encoded["ids"] = seed, top
    encoded["logits"] = np.maximum(np.take_along_axis(logits, top, 1), EMPTY_TAIL)
    encoded["tail"] = _log_sum(np.take_along_axis(logits, rest, 1) / layout.temperature)
    return encoded


def _log_sum(values: np.ndarray) -> np.ndarray:
    if values.shape[1] == 0:
        return np.full(len(values), EMPTY_TAIL)
    top = values.max(axis=1)
    return np.maximum(top + np.log(np.exp(values - top[:, None]).sum(axis=1)), EMPTY_TAIL)


def dense_log_probabilities(view: np.ndarray, layout: Layout) -> np.ndarray:
    """Structured [N] -> float64 [N, C], log-probabilities at T; the tail is spread evenly over its classes.

    `losses.spread` in double precision, for sums that are to be exact.
    """
    scaled = view["logits"].astype(np.float64) / layout.temperature
    tail = view["tail"].astype(np.float64)
    rest = max(layout.num_classes - layout.top_k, 1)
    dense = np.repeat((tail - np.log(rest))[:, None], layout.num_classes, axis=1)
    np.put_along_axis(dense, view["ids"].astype(np.int64), scaled, axis=1)
    return dense - np.log(np.exp(dense).sum(axis=1, keepdims=True))


def total(view: np.ndarray, layout: Layout) -> np.ndarray:
    """Structured [N] -> float64 [N], the probabilities at T of all classes summed up: 1, unless a class is listed twice
    or is none of the class list, or a number is not finite (then NaN).
    """
    listed = np.concatenate([view["logits"].astype(np.float64) / layout.temperature, view["tail"][:, None]], axis=1)
    shares = np.exp(listed - listed.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    by_class = np.zeros((len(view), layout.num_classes))
    known = view["ids"] < layout.num_classes
    rows = np.broadcast_to(np.arange(len(view))[:, None], known.shape)
    by_class[rows[known], view["ids"][known]] = shares[:, :-1][known]
    return by_class.sum(axis=1) + shares[:, -1]


def tail_mass(view: np.ndarray, layout: Layout) -> np.ndarray:
    """Structured [N] -> float64 [N], the probability at T outside the K listed classes."""
    top = _log_sum(view["logits"].astype(np.float64) / layout.temperature)
    return np.where(view["tail"] <= EMPTY_TAIL, 0.0, 1 / (1 + np.exp(np.clip(top - view["tail"], -700, 700))))


class Store:
    """A finished store on disk. Raises BrokenArtefact when it is incomplete or of another dataset."""

    def __init__(self, folder: Path) -> None:
        index = read_json(folder / "index.json")
        self.folder = folder
        try:
            self.layout = Layout(**index["layout"])
            self.layout.check()
            self.shards: list[dict] = [records.shard_entry(shard) for shard in index["shards"]]
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenArtefact(f"{folder / 'index.json'}: no index of soft labels ({error!r}); {REMEDY}") from None
        for shard in self.shards:
            file = folder / shard["name"]
            received = file.stat().st_size if file.exists() else None
            if received != shard["bytes"]:
                raise BrokenArtefact(f"{file}: received {received} bytes, expected {shard['bytes']}; {REMEDY}")

    @classmethod
    def open(cls, folder: Path, expected: Layout) -> Store:
        """A store of this dataset, class list, temperature, K and views. Raises BrokenArtefact for another."""
        store = cls(folder)
        store.check_layout(expected)
        return store

    def check_layout(self, expected: Layout) -> None:
        """Raises BrokenArtefact unless the store was made from this dataset, class list, temperature, K and views."""
        made, now = dataclasses.asdict(self.layout), dataclasses.asdict(expected)
        if made != now:
            apart = ", ".join(f"{key} {made[key]}, expected {now[key]}" for key in made if made[key] != now[key])
            raise BrokenArtefact(f"{self.folder}: made with {apart}; {REMEDY}")

    def check_contents(self) -> None:
        """Reads every shard. Raises BrokenArtefact naming the first whose sha256 is wrong."""
        for shard in self.shards:
            self._check(shard)

    def read(self, shard: dict) -> np.ndarray:
        """One shard's records, structured [n]. Raises BrokenArtefact naming a damaged shard and the byte."""
        try:
            blocks = [data for _, data in tfrecord.read_records(self.folder / shard["name"])]
        except BrokenArtefact as error:
            raise BrokenArtefact(f"{error}; {REMEDY}") from None
        data, item = b"".join(blocks), self.layout.dtype
        if len(data) % item.itemsize:
            raise BrokenArtefact(f"{self.folder / shard['name']}: {len(data)} bytes are no whole records; {REMEDY}")
        return np.frombuffer(data, item)

    def _check(self, shard: dict) -> Path:
        file = self.folder / shard["name"]
        if file_hash(file) != shard["sha256"]:
            raise BrokenArtefact(f"{file}: its sha256 is not the index's: corrupt; {REMEDY}")
        return file


def write_store(
    folder: Path, layout: Layout, shards: Iterable[tuple[str, int, Iterator[np.ndarray]]], *, made_from: str = ""
) -> None:
    """Writes the shards that aren't there yet, then the index; removes shards of an older store.

    Args:
        shards: (train shard's name, its number of photos, iterator of structured record arrays).
        made_from: names the teacher's weights and the seed: shards that a killed run left are kept for the same only.

    Raises ValueError when a shard gets another number of records than announced.
    """
    begin_store(folder)
    finish_store(folder, layout, [write_shard(folder, layout, *shard, made_from=made_from) for shard in shards])


def begin_store(folder: Path) -> None:
    """Make the folder, and remove an index of an earlier store."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)  # An older store must not vouch for new shards.


def write_shard(
    folder: Path, layout: Layout, name: str, n: int, batches: Iterator[np.ndarray], *, made_from: str = ""
) -> dict:
    """One shard of `write_store`. What a killed run has finished of the same stays. Returns its entry of the index."""
    head, note = {"layout": dataclasses.asdict(layout), "made_from": made_from}, folder / f"{name}{NOTE}"
    told = read_json(note) if note.exists() else {}
    if told.get("head") == head and (folder / name).exists():
        return told["shard"]
    entry = _write_shard(folder / name, n, batches)
    write_json(note, {"head": head, "shard": entry})
    return entry


def finish_store(folder: Path, layout: Layout, entries: list[dict]) -> None:
    """Writes the index over all shards, in the order of the train split's."""
    names = {entry["name"] for entry in entries}
    for old in folder.glob("*.tfrecord"):
        if old.name not in names:
            old.unlink()
    write_json(folder / "index.json", {"layout": dataclasses.asdict(layout), "shards": entries})
    for note in folder.glob(f"*{NOTE}"):
        note.unlink()


def _write_shard(path: Path, n: int, batches: Iterator[np.ndarray]) -> dict:
    with aside(path) as temporary:
        writer, written = tfrecord.Writer(temporary), 0
        try:
            for block in batches:
                writer.add(block.tobytes())
                written += len(block)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        if written != n:
            raise ValueError(f"{path.name}: announced {n} records, wrote {written}; the shard was not kept")
        return {"name": path.name, "n": n, "bytes": writer.size, "sha256": file_hash(temporary)}


def combine(
    members: list[tuple[np.ndarray, float, str | None]], regions: np.ndarray, layout: Layout, *, space: str = "logits"
) -> Iterator[np.ndarray]:
    """The region-filtered ensemble of one shard, see `ensemble`, in blocks.

    Args:
        members: (structured records [n], weight, region_filter or None) of each teacher.
        regions: str [n], of the photos.
        space: logits | probabilities.

    Yields:
        Structured records of the same layout; log-probabilities (times T) stand for logits.

    Raises ValueError when the teachers' records are of other photos, other views, or in another order.
    """
    first = members[0][0]
    for block, _, _ in members[1:]:
        if not np.array_equal(block["sample"], first["sample"]) or not np.array_equal(
            block["views"]["seed"], first["views"]["seed"]
        ):
            raise ValueError(
                "the teachers' records are of other photos or views, or in another order; run both `logits` again"
            )
    weights = member_weights([(weight, region) for _, weight, region in members], regions)
    for start in range(0, len(first), BLOCK):
        rows = slice(start, start + BLOCK)
        combined = np.zeros(len(first[rows]), layout.dtype)
        combined["sample"] = first["sample"][rows]
        for view in range(layout.views):
            dense = [dense_log_probabilities(records["views"][rows, view], layout) for records, _, _ in members]
            together = ops.convert_to_numpy(ensemble(np.stack(dense, axis=1), weights[rows], space))
            seed = first["views"]["seed"][rows, view]
            combined["views"][:, view] = encode_view(together * layout.temperature, layout, seed)
        yield combined


def member_weights(members: list[tuple[float, str | None]], regions: np.ndarray) -> np.ndarray:
    """Share of each teacher in what is said of each photo: float64 [n, t], rows sum to 1.

    Args:
        members: (weight, region_filter or None); a teacher with a filter speaks for photos of that region alone.
        regions: str [n].
    """
    weights = np.array([[w if r in (None, region) else 0.0 for w, r in members] for region in regions])
    return weights / weights.sum(axis=1, keepdims=True)


def ensemble(log_probabilities, weights, space: str):
    """What several teachers say together; of arrays and of tensors, so that live teachers and stored ones agree.

    Args:
        log_probabilities: float [n, t, C], at T.
        weights: float [n, t], rows sum to 1.
        space: `logits`: Σ w z, the plan's (a geometric mean of the probabilities); `probabilities`: Σ w p.

    Returns:
        float [n, C], log-probabilities at T up to a constant of each row.
    """
    if space == "logits":
        return ops.sum(log_probabilities * weights[:, :, None], axis=1)
    return ops.logsumexp(log_probabilities + ops.log(weights)[:, :, None], axis=1)


def selector(layout: Layout):
    """For `data.pipeline.Companion`: (record uint8 [bytes], photo, epoch) -> the view due in that epoch:

    {"number": int64, "seed": int64 [2], "teacher": uint8 [bytes of ids, logits and tail]}. Raises InvalidArgumentError
    where the record is another photo's.
    """
    view_dtype = layout.dtype["views"].base
    first_view, told = _offset(layout.dtype, "views"), _offset(view_dtype, "ids")

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
        return {"number": number, "seed": tf.stack([sample, seed]), "teacher": view[told:]}

    return select


def targets(teacher: tf.Tensor, layout: Layout) -> dict[str, tf.Tensor]:
    """Batch of `selector`'s "teacher", uint8 [N, bytes] -> {teacher_ids int32 [N, K], teacher_logits float32 [N, K],
    teacher_tail float32 [N]}.
    """
    view_dtype = layout.dtype["views"].base
    told = _offset(view_dtype, "ids")
    ids, logits, tail = (_field(teacher, view_dtype, name, told) for name in ("ids", "logits", "tail"))
    ids, logits = (tf.reshape(part, [-1, layout.top_k, 2]) for part in (ids, logits))
    return {
        "teacher_ids": tf.cast(tf.bitcast(ids, tf.uint16), tf.int32),
        "teacher_logits": tf.cast(tf.bitcast(logits, tf.float16), tf.float32),
        "teacher_tail": tf.bitcast(tail, tf.float32),
    }


def _field(data: tf.Tensor, dtype: np.dtype, name: str, start: int = 0) -> tf.Tensor:
    """Bytes of one field, uint8 [..., size]; `data` begins at byte `start` of the dtype."""
    offset = _offset(dtype, name) - start
    return data[..., offset : offset + dtype[name].itemsize]


def _offset(dtype: np.dtype, name: str) -> int:
    """Bytes from the start of the dtype to a field."""
    assert dtype.fields is not None
    return dtype.fields[name][1]
