"""`phase0 baseline`: class means and a linear probe on frozen features, as the score to beat; copies across splits."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import SPLITS
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.data import pipeline, records
from keras_pipeline.data.preprocess import Preprocessing
from keras_pipeline.evaluation import baseline
from keras_pipeline.evaluation.predict import inference
from keras_pipeline.evaluation.predictions import write_answers
from keras_pipeline.models import heads
from keras_pipeline.phases.phase0_dataset import look_alikes


def run(run: Run) -> None:
    settings, path = run.config.phase0.baseline, run.path("baseline")
    info = records.load_info(run.path("dataset"))
    extract: Callable[..., np.ndarray]
    if settings.features == "colour-histogram":
        extract = baseline.colour_histogram
    else:
        extract = inference(heads.build_backbone(settings.model, settings.image_size))
    preprocessing = Preprocessing.of(run.config.dataset, settings.image_size)
    # The runner removes such a folder after a kill, by its name.
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as folder:
        features = {
            name: baseline.extract_features(
                extract,
                pipeline.evaluation_batches(info, name, preprocessing).as_numpy_iterator(),
                Path(folder) / name,
                n=info.splits[name]["n"],
            )
            for name in SPLITS
        }
        tables, predictions = baseline.compare(
            features["train"], features["test"], info.classes, epochs=settings.probe_epochs, seed=run.config.seed,
            folder=Path(folder),
        )  # fmt: skip
        shared = look_alikes.audit(run, info, features)
        write_answers(run.path("baseline_predictions"), predictions)
    _move_recalls(tables, run.path("baseline_recall"))
    probe, majority = tables["linear_probe"], tables["majority"]["top1_accuracy"]
    headline = {key: probe[key] for key in ("n", "top1_accuracy", "top5_accuracy")}
    result = {"features": settings.features, "method": "linear probe", **headline, "majority_top1": majority}
    write_json(path, result | tables)
    print(f"baseline ({settings.features}), top-1 and top-5 on {probe['n']} test photos:")
    for name, table in tables.items():
        print(f"  {name.replace('_', ' ')}: {table['top1_accuracy']:.3f}, {table['top5_accuracy']:.3f}")
    print(
        f"{shared['photos_with_a_copy']} of {shared['photos']} photos of val, calibration and test have a copy in "
        f"another split; {run.path('look_alikes').with_suffix('.html')} shows them"
    )
    if shared["pairs"]:
        ready = shlex.quote(str(look_alikes.table_path(run)))
        print(
            "look at them, then keep the copies together: run `phase0 split --force --set phase0.split.same_photo="
            f"{ready}`, and set the same key in the config"
        )


def _move_recalls(tables: dict[str, dict], path: Path) -> None:
    """Replace each table's `per_class_recall` by its length, `classes`; write the recalls as arrays.

    As JSON, three tables of 9,000 species are 4 MB, which every report and gate would read for a few numbers.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, table in tables.items():
        recalls = table.pop("per_class_recall")
        table["classes"] = len(recalls)
        for key in ("n", "groups"):  # the same test photos in every table
            arrays[key] = np.array([entry[key] for entry in recalls.values()])
        arrays["latin_name"] = np.array(list(recalls))
        arrays[f"{name}_recall"] = np.array([entry["recall"] for entry in recalls.values()], float)
        arrays[f"{name}_interval"] = np.array([entry["interval"] or [None] * 2 for entry in recalls.values()], float)
    with aside(path) as temporary:
        np.savez_compressed(temporary, **arrays)
