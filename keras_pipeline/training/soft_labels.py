"""The soft-label store: what a teacher said of each train photo, as fixed-size records beside the train shards.

`soft_labels/index.json` names dataset, class list, K, T, views and shards; `<train shard>.bin` has one record a photo,
in the shard's order:

    sample uint64 (hash of the sample id) | V x { ids uint16[K] | logits float16[K] | tail float32 }

tail = log Σ exp(z / T) over the classes not listed. View 0 is the clean picture; the others are made again from the
seed. A record of 17 classes takes 80 bytes; at 9,000 classes and K = 64, 268 bytes against 36,000 for dense float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_pipeline.core.artifacts import aside, file_hash, read_json, write_json
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.training.losses import EMPTY_TAIL


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a store holds; two stores can be combined when their layouts are equal."""

    dataset_hash: str
    class_hash: str
    num_classes: int
    temperature: float
    top_k: int  # min(config's top_k, num_classes)
    views: int

    @property
    def dtype(self) -> np.dtype:
        k = self.top_k
        view = np.dtype([("ids", "<u2", (k,)), ("logits", "<f2", (k,)), ("tail", "<f4")])
        return np.dtype([("sample", "<u8"), ("views", view, (self.views,))])


def encode_view(logits: np.ndarray, layout: Layout) -> np.ndarray:
    """float [N, C] -> structured [N] of {ids, logits, tail}; ids in falling order of logit, ties by class id.

    Raises ValueError for logits that aren't finite or have another number of classes.
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
    encoded["ids"] = top
    encoded["logits"] = np.maximum(np.take_along_axis(logits, top, 1), EMPTY_TAIL)
    encoded["tail"] = _log_sum(np.take_along_axis(logits, rest, 1) / layout.temperature)
    return encoded


def _log_sum(values: np.ndarray) -> np.ndarray:
    if values.shape[1] == 0:
        return np.full(len(values), EMPTY_TAIL)
    top = values.max(axis=1)
    return np.maximum(top + np.log(np.exp(values - top[:, None]).sum(axis=1)), EMPTY_TAIL)


def dense_log_probabilities(view: np.ndarray, layout: Layout) -> np.ndarray:
    """Structured [N] -> float64 [N, C], log-probabilities at T; the tail is spread evenly over its classes."""
    scaled = view["logits"].astype(np.float64) / layout.temperature
    tail = view["tail"].astype(np.float64)
    rest = max(layout.num_classes - layout.top_k, 1)
    dense = np.repeat((tail - np.log(rest))[:, None], layout.num_classes, axis=1)
    np.put_along_axis(dense, view["ids"].astype(np.int64), scaled, axis=1)
    return dense - np.log(np.exp(dense).sum(axis=1, keepdims=True))


def tail_mass(view: np.ndarray, layout: Layout) -> np.ndarray:
    """Structured [N] -> float64 [N], the probability at T outside the K listed classes."""
    top = _log_sum(view["logits"].astype(np.float64) / layout.temperature)
    return 1 / (1 + np.exp(np.clip(top - view["tail"], -700, 700)))


class Store:
    """A finished store on disk. Raises BrokenArtefact when it is incomplete or of another dataset."""

    def __init__(self, folder: Path) -> None:
        index = read_json(folder / "index.json")
        self.folder = folder
        self.layout = Layout(**index["layout"])
        self.shards: list[dict] = index["shards"]
        for shard in self.shards:
            file = folder / shard["name"]
            expected = shard["n"] * self.layout.dtype.itemsize
            received = file.stat().st_size if file.exists() else None
            if received != expected:
                raise BrokenArtefact(f"{file}: received {received} bytes, expected {expected}; run its step again")

    def check_layout(self, expected: Layout) -> None:
        """Raises BrokenArtefact unless the store was made from this dataset, class list, temperature, K and views."""
        if self.layout != expected:
            raise BrokenArtefact(f"{self.folder}: made with {self.layout}, expected {expected}; run its step again")

    def check_contents(self) -> None:
        """Reads every shard. Raises BrokenArtefact naming the first whose sha256 is wrong."""
        for shard in self.shards:
            self._check(shard)

    def read(self, shard: dict) -> np.ndarray:
        """One shard's records, structured [n]. Raises BrokenArtefact naming a shard whose sha256 is wrong."""
        return np.fromfile(self._check(shard), self.layout.dtype)

    def _check(self, shard: dict) -> Path:
        file = self.folder / shard["name"]
        if file_hash(file) != shard["sha256"]:
            raise BrokenArtefact(
                f"{file}: its sha256 is not the index's: corrupt; run again with --force the step that made it "
                "(`logits` of phase1 or phase2, or `phase3 combine`)"
            )
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
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)  # An older store must not vouch for new shards.
    progress_file = folder / "progress.json"  # Shards finished before a kill.
    head = {"layout": dataclasses.asdict(layout), "made_from": made_from}
    progress = read_json(progress_file) if progress_file.exists() else {}
    same = {key: progress.get(key) for key in head} == head
    done = {entry["name"]: entry for entry in progress["shards"]} if same else {}
    for name, n, batches in shards:
        if f"{name}.bin" not in done or not (folder / f"{name}.bin").exists():
            done[f"{name}.bin"] = _write_shard(folder / f"{name}.bin", n, batches)
            write_json(progress_file, {**head, "shards": list(done.values())})
    for old in folder.glob("*.bin"):
        if old.name not in done:
            old.unlink()
    write_json(folder / "index.json", {"layout": head["layout"], "shards": list(done.values())})
    progress_file.unlink(missing_ok=True)


def _write_shard(path: Path, n: int, batches: Iterator[np.ndarray]) -> dict:
    with aside(path) as temporary:
        written = 0
        with temporary.open("wb") as file:
            for batch in batches:
                file.write(batch.tobytes())
                written += len(batch)
        if written != n:
            raise ValueError(f"{path.name}: announced {n} records, wrote {written}; the shard was not kept")
        return {"name": path.name, "n": n, "sha256": file_hash(temporary)}


def combine(members: list[tuple[np.ndarray, float, str | None]], regions: np.ndarray, layout: Layout) -> np.ndarray:
    """The region-filtered ensemble of one shard: Σ w_t z_t in logit space, as the plan, renormalised.

    Args:
        members: (structured records [n], weight, region_filter or None) of each teacher.
        regions: str [n], of the photos.

    Returns:
        Structured records [n] of the same layout; log-probabilities (times T) stand for logits.
    """
    first = members[0][0]
    for records, _, _ in members[1:]:
        if not np.array_equal(records["sample"], first["sample"]):
            raise ValueError("the teachers' records are of other photos or another order; run both `logits` again")
    weights = np.array([[w if r in (None, region) else 0.0 for _, w, r in members] for region in regions])
    weights /= weights.sum(axis=1, keepdims=True)
    combined = np.zeros(len(first), layout.dtype)
    combined["sample"] = first["sample"]
    for view in range(layout.views):
        dense = [dense_log_probabilities(records["views"][:, view], layout) for records, _, _ in members]
        mean = np.einsum("nt,tnc->nc", weights, np.stack(dense))
        combined["views"][:, view] = encode_view(mean * layout.temperature, layout)
    return combined


def decoder(layout: Layout):
    """For `data.pipeline.Companion`: (record bytes, photo, epoch) -> teacher tensors of the view due in that epoch."""
    k, view_bytes = layout.top_k, layout.dtype["views"].base.itemsize

    def decode(record: tf.Tensor, photo: dict[str, tf.Tensor], epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        sample = tf.io.decode_raw(tf.strings.substr(record, 0, 8), tf.int64)[0]
        expected = tf.strings.to_hash_bucket_fast(photo["sample_id"], 2**62)
        check = tf.debugging.assert_equal(
            sample, expected, "soft labels and photos are out of step; run the `logits` and `combine` steps again"
        )
        view = epoch % layout.views
        offset = 8 + tf.cast(view, tf.int32) * view_bytes
        with tf.control_dependencies([check]):
            ids = tf.io.decode_raw(tf.strings.substr(record, offset, 2 * k), tf.uint16)
        logits = tf.io.decode_raw(tf.strings.substr(record, offset + 2 * k, 2 * k), tf.float16)
        tail = tf.io.decode_raw(tf.strings.substr(record, offset + 4 * k, 4), tf.float32)[0]
        return {
            "view": view,
            "teacher_ids": tf.ensure_shape(tf.cast(ids, tf.int32), [k]),
            "teacher_logits": tf.ensure_shape(tf.cast(logits, tf.float32), [k]),
            "teacher_tail": tail,
        }

    return decode
