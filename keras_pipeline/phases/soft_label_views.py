"""What lies in the soft labels, for people who want to look: the plan's arrays, and one photo's record."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import aside
from keras_pipeline.core.npz import NpzWriter
from keras_pipeline.core.progress import progress
from keras_pipeline.phases import build, teaching

if TYPE_CHECKING:
    import numpy as np


def export_npz(run: Run) -> dict:
    """The plan's arrays, for people who want to look; training reads none of them.

    phase3/npz/: of each teacher `logits` float32 [N, C] (log-probabilities times T, the tail spread evenly), `indices`
    str [N], the sample ids, and `confidences` float32 [N], the largest probability at T; of the ensemble `soft_probs`
    float32 [N, C] and `indices`. Of the clean view. Written row by row: at full size each is 30 GB.
    """
    import numpy as np

    from keras_pipeline.data import records
    from keras_pipeline.training import soft_labels

    info = records.load_info(run.path("dataset"))
    layout = build.soft_label_layout(run, info)
    ids = np.array([records.decode(e).sample_id for path in info.shards("train") for e in records.read_shard(path)])
    named = {"teacher": "teacher_global_logits_train", "regional": "teacher_regional_logits_train"}
    made = {}
    for member in run.config.phase3.teachers:
        store = teaching.teacher_store(run, member.path, layout)
        name = named.get(teaching.MADE_HERE.get(member.path, ""), Path(member.path).parent.name + "_logits_train")
        made[name] = (store, "logits", lambda dense: dense * layout.temperature, True)
    combined = soft_labels.Store(run.path("soft_labels"))
    combined.check_layout(layout)
    made["soft_labels_combined_train"] = (combined, "soft_probs", np.exp, False)
    folder = run.path("soft_labels").with_name("npz")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (store, key, of, confident) in made.items():
        confidences: list[np.ndarray] = []
        with aside(folder / f"{name}.npz") as temporary, NpzWriter(temporary) as npz:
            npz.add_blocks(key, (len(ids), layout.num_classes), map(of, _dense_blocks(store, name, confidences)))
            npz.add("indices", ids)
            if confident:
                npz.add("confidences", np.concatenate(confidences))
        print(folder / f"{name}.npz")
    return {"written": [str(folder / f"{name}.npz") for name in made]}


def _dense_blocks(store, name: str, confidences: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Log-probabilities at T of the clean views, float64 [BLOCK, C] at a time; appends each block's largest
    probabilities, float32 [BLOCK].
    """
    import numpy as np

    from keras_pipeline.training import soft_labels

    for shard in progress(store.shards, description=name, unit="shards"):
        views = store.read(shard)["views"][:, 0]
        for start in range(0, len(views), soft_labels.BLOCK):
            dense = soft_labels.dense_log_probabilities(views[start : start + soft_labels.BLOCK], store.layout)
            confidences.append(np.exp(dense.max(axis=1)).astype("<f4"))
            yield dense


def inspect(run: Run, sample_id: str) -> dict:
    """Prints what is stored of one train photo: of each teacher and of the ensemble, view by view.

    Raises ValueError where no train photo has that id.
    """
    import numpy as np

    from keras_pipeline.data import augment, records
    from keras_pipeline.training import soft_labels

    info = records.load_info(run.path("dataset"))
    layout = build.soft_label_layout(run, info)
    combined = soft_labels.Store(run.path("soft_labels"))
    combined.check_layout(layout)
    sample = int(augment.sample_hash(sample_id))
    # Of the soft labels a shard is some MB, of the photos a thousand times that.
    found = ((at, np.flatnonzero(combined.read(s)["sample"] == sample)) for at, s in enumerate(combined.shards))
    position, rows = next(((at, rows) for at, rows in found if len(rows)), (None, None))
    if position is None:
        raise ValueError(f"--sample-id: received {sample_id!r}, which no train photo has; only those have soft labels")
    row = int(rows[0])
    photo = records.decode(next(islice(records.read_shard(info.shards("train")[position]), row, None)))
    stores = {member.path: teaching.teacher_store(run, member.path, layout) for member in run.config.phase3.teachers}
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
