"""`phase3 inspect`: print the soft labels of one train photo."""

from __future__ import annotations

import argparse
from itertools import islice

import numpy as np

from keras_pipeline.core.artifacts import Run
from keras_pipeline.data import augment, records
from keras_pipeline.training import soft_labels
from keras_pipeline.training.soft_labels import Layout
from keras_pipeline.training.store import Store


def main(run: Run, options: argparse.Namespace) -> tuple[dict, int]:
    return inspect(run, getattr(options, "sample_id", None)), 0  # what was not given is not there, see `commands`


def inspect(run: Run, sample_id: str | None) -> dict:
    """Print the soft labels stored for one train photo, of each teacher and of the ensemble, view by view.

    Raises:
        ValueError: if no train photo has that id, or none is given; names one that exists.
    """
    info = records.load_info(run.path("dataset"))
    layout = Layout.of(run.config.phase3, info)
    combined = Store.open(run.path("soft_labels"), layout)
    found = _find(combined, sample_id) if sample_id else None
    if not (sample_id and found):
        example = records.decode(next(records.read_shard(info.shards("train")[0]))).sample_id
        raise ValueError(
            f"--sample-id: received {repr(sample_id) if sample_id else 'nothing'}, expected the id of a train photo, "
            f"since only those have soft labels; give one, such as {example}"
        )
    position, row = found
    photo = records.decode(next(islice(records.read_shard(info.shards("train")[position]), row, None)))
    stores = {member.path: Store.open(run.folder / member.soft_labels, layout) for member in run.config.phase3.teachers}
    stores["ensemble"] = combined
    result = {"sample_id": sample_id, "latin_name": photo.latin_name, "region": photo.region,
              "shard": info.splits["train"]["shards"][position]["name"], "row": row, "said": {}}  # fmt: skip
    print(
        f"{sample_id}: {photo.latin_name}, {photo.region}; record {row} of {result['shard']}, T {layout.temperature:g}"
    )
    for name, store in stores.items():
        record = store.read(store.shards[position])[row]
        dense = np.exp(soft_labels.dense_log_probabilities(record["views"], layout))
        tail = soft_labels.tail_mass(record["views"], layout)
        result["said"][name] = []
        for number, (view, probabilities) in enumerate(zip(record["views"], dense, strict=True)):
            top = [(info.classes[i], float(probabilities[i])) for i in view["ids"][:5]]
            result["said"][name].append({"seed": int(view["seed"]), "top": top, "tail": float(tail[number])})
            best = ", ".join(f"{species} {p:.3f}" for species, p in top)
            print(
                f"  {name}, view {number} (seed {view['seed']}): {best}; outside the stored classes {tail[number]:.3f}"
            )
    return result


def _find(store: Store, sample_id: str) -> tuple[int, int] | None:
    """Return the shard number and the row of a photo; None where there is none.

    Searches the soft labels, whose shards take some MB; those of the photos take a thousand times as much.
    """
    sample = int(augment.sample_hash(sample_id))
    for number, shard in enumerate(store.shards):
        rows = np.flatnonzero(store.read(shard)["sample"] == sample)
        if len(rows):
            return number, int(rows[0])
    return None
