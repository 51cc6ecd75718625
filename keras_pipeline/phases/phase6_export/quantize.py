"""`phase6 quantize`: fold BatchNorm, quantize the weights, calibrate the shipped model, and measure the cost."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import DatasetInfo
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.data import assignment, pipeline, records
from keras_pipeline.evaluation import calibration_report, predictions
from keras_pipeline.evaluation.calibration_report import Evidence
from keras_pipeline.evaluation.metrics import softmax
from keras_pipeline.evaluation.predictions import Predictions
from keras_pipeline.evaluation.quantization import cost
from keras_pipeline.evaluation.report import calibration
from keras_pipeline.export import qat, quantize, saved_model, tflite
from keras_pipeline.models import trained
from keras_pipeline.phases.phase3_soft_labels import student
from keras_pipeline.phases.phase5_calibration.calibrate import evidence_of
from keras_pipeline.phases.phase5_calibration.threshold import priors_of, report_of
from keras_pipeline.phases.phase6_export import off_list

REPRESENTATIVE = 128  # train photos that decide which kernels become uint8, and set TensorFlow Lite's ranges
COMPARED = 512  # test photos shown to both of LiteRT's sets of kernels
LITE = "tflite-int8"


def run(run: Run) -> None:
    """Write the shipped weights, their calibration, the TensorFlow Lite folder, and what each quantization costs.

    Raises:
        ValueError: where the shipped quantization costs more top-1 than phase6.max_top1_loss, or weights are NaN,
            infinite or too large for float16. Artefacts of an earlier run stay as they were then.
    """
    settings, info = run.config.phase6, records.load_info(run.path("dataset"))
    model = trained.load(run.path("student"), info, image_size=run.config.phase4.data.image_size)
    quantize.check_finite(model)
    folded, photos = quantize.fold_batch_norm(model), _representative(run, info)
    table, costs = assignment.places(run.path("assignment")), _Costs(run, info)
    variants: dict[str, dict] = {}
    unscored = off_list.why_not(run.config)
    places = (aside(run.path(name)) for name in ("shipped", "off_list", "tflite"))
    with contextlib.ExitStack() as stack:  # all, or none
        weights, subspace, lite = (stack.enter_context(place) for place in places)
        for way in dict.fromkeys([settings.quantization, *settings.compare]):
            quantized, tensors = _quantized(run, info, folded, way, photos)
            size: dict[str, Any] = {"megabytes": quantize.megabytes(tensors), "tensors": tensors}
            scoring = way == settings.quantization and not unscored
            predictor = off_list.ScoringModel(quantized, _train_photos(run, info)) if scoring else quantized
            with costs.evidence(predictor, way) as evidence:
                size |= costs.of(evidence.test)
                if way != settings.quantization:
                    variants[way] = _describe(way, size, calibration_report.temperature(evidence)[0])
                    continue
                if not size["within_limit"]:
                    raise ValueError(
                        f"phase6.quantization: received {way}, which loses {-size['top1']['difference']:.3f} test "
                        f"top-1, expected at most {settings.max_top1_loss:g} (phase6.max_top1_loss); use another "
                        "--type, or raise the limit"
                    )
                quantized.save(weights)
                off_list.save(predictor, subspace)
                evidence = off_list.without(evidence, unscored) if unscored else predictor.judge(evidence)
                priors = priors_of(run, info, table)
                shipped, _ = report_of(run, info, table, priors, evidence, "shipped", content_hash(weights))
                variants[way] = _describe(way, size, shipped)
        variants[LITE] = _write_lite(run, info, table, folded, photos, costs, lite)
    before = {"megabytes": model.count_params() * 4 / 1e6, **costs.before}
    write_json(run.path("quantization"), {"type": settings.quantization, "float32": before, "variants": variants})
    write_json(run.path("shipped_calibration"), shipped)
    print(calibration.describe_temperature(shipped))
    print(calibration.describe(shipped))


class _Costs:
    """What each way of quantizing costs on the test split, compared with the float student."""

    def __init__(self, run: Run, info: DatasetInfo):
        self._run, self._info = run, info
        self._test = predictions.load(run.path("logits"), "test")
        fitted = run.read("temperature")
        self.before = {
            "n": fitted["n"],
            "top1": fitted["after"]["top1"],
            "nll": fitted["nll_before"],
            "temperature": fitted["temperature"],
            "ece": fitted["ece_after"],
        }
        print("float32: test top-1 {top1:.3f}, NLL {nll:.4f}, ECE {ece:.4f}".format(**self.before))

    @contextlib.contextmanager
    def evidence(self, model: keras.Model | off_list.ScoringModel | tflite.LiteModel, name: str) -> Iterator[Evidence]:
        """Predict the calibration and test splits with a quantized model; the logits are on disk for the context."""
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=self._run.path("quantization").parent) as folder:
            preprocessing = student.preprocessing(self._run.config)
            yield evidence_of(self._run, model, self._info, preprocessing, name, Path(folder))

    def of(self, test: Predictions) -> dict:
        """Return `quantization.cost` beside the float student, and whether it is `within_limit`."""
        found = cost(self._test, test)
        return found | {"within_limit": -found["top1"]["difference"] <= self._run.config.phase6.max_top1_loss}


def _describe(name: str, costs: dict, fitted: dict) -> dict:
    """Return `costs` with the temperature and the ECE of a way of quantizing, and print them.

    Args:
        name: of the way.
        costs: of `_Costs.of`, with {megabytes, tensors}.
        fitted: of `calibration_report`; each way of quantizing has a temperature of its own.
    """
    row = costs | {"temperature": fitted["temperature"], "ece": fitted["ece_after"]}
    top1, flips = row["top1"], row["flips"]
    stored = collections.Counter(entry["stored"] for entry in row["tensors"])
    ways = f" ({', '.join(f'{n} tensors as {way}' for way, n in sorted(stored.items()))})" if stored else ""
    print(
        f"{name}: {row['megabytes']:.2f} MB{ways}; test top-1 {top1['first']:.3f} -> {top1['second']:.3f} "
        f"[{top1['interval'][0]:+.3f}, {top1['interval'][1]:+.3f}], {flips['n']} of {row['n']} answers changed "
        f"({flips['to_right']} to right, {flips['to_wrong']} to wrong), NLL {row['delta_nll']:+.4f}, ECE "
        f"{row['ece']:.4f}, largest change of a probability {row['max_abs_dp']:.3f}"
    )
    return row


def _quantized(
    run: Run, info: DatasetInfo, folded: keras.Model, way: str, photos: np.ndarray
) -> tuple[keras.Model, list[dict]]:
    """Return a model with quantized weights, and how each tensor is stored."""
    if way == "int8-qat":
        settings, kernels = run.config.phase6.qat, qat.kernels_of(folded)
        views = _train_views(run, info)
        model = qat.train(folded, kernels, views, steps=settings.steps, learning_rate=settings.learning_rate)
        return model, quantize.quantize_kernels(model, kernels)
    model = quantize.copy(folded)
    if way == "none":
        return model, quantize.keep_float32(model)
    if way == "fp16":
        return model, quantize.quantize_to_float16(model)
    return model, quantize.quantize_to_uint8(model, photos)


def _write_lite(
    run: Run, info: DatasetInfo, table: pd.DataFrame, folded: keras.Model, photos: np.ndarray, costs: _Costs, to: Path
) -> dict:
    """Write the TensorFlow Lite folder; return its row.

    The model is converted twice, because the temperature is fitted to the logits of the converted model.
    """
    raw = tflite.LiteModel(tflite.convert(folded, photos, temperature=1.0))
    with costs.evidence(raw, LITE) as evidence:
        fitted = calibration_report.temperature(evidence)[0]
        content = tflite.convert(folded, photos, temperature=fitted["temperature"])
        logits, probabilities = tflite.LiteModel(content).scores(photos[:8])
        if not np.allclose(softmax(logits, fitted["temperature"]), probabilities, atol=1e-5):
            raise ValueError(
                f"{LITE}: the converted file does not return softmax(logits / T); install the versions of "
                "requirements.lock"
            )
        digest = hashlib.sha256(content).hexdigest()
        evidence = off_list.without(evidence, "model.tflite has no output for it")
        calibrated, _ = report_of(run, info, table, priors_of(run, info, table), evidence, LITE, digest, fitted)
        row = _describe(LITE, {"megabytes": len(content) / 1e6, "tensors": []} | costs.of(evidence.test), fitted)
    to.mkdir()
    (to / "model.tflite").write_bytes(content)
    details = records.load_details(run.path("dataset"), info.classes) if "family" in calibrated else ()
    for name, value in saved_model.assets(info.classes, calibrated, student.preprocessing(run.config), details).items():
        write_json(to / name, value)
    if not row["within_limit"]:  # no reason to withhold the page, which does not use it
        print(f"warning: {LITE} loses more test top-1 than phase6.max_top1_loss, {run.config.phase6.max_top1_loss:g}")
    return row | {"without_xnnpack": _without_xnnpack(run, info, content, calibrated["threshold"])}


def _without_xnnpack(run: Run, info: DatasetInfo, content: bytes, threshold: float | None) -> dict:
    """Compare the answers of a file by LiteRT's default kernels with those by its others, on some test photos.

    Returns:
        `n` photos; how many of them have another first answer (`changed`) or are conclusive by one alone
        (`conclusive_changed`, None without a threshold); `max_abs_dp`, the largest change of a probability.
    """
    changed, conclusive_changed, differences = [], [], []
    ways = [tflite.LiteModel(content, xnnpack=each) for each in (True, False)]
    for photos in _photos(run, info, "test", COMPARED):
        first, second = (way.scores(photos)[1] for way in ways)
        changed += (first.argmax(1) != second.argmax(1)).tolist()
        differences.append(np.abs(first - second).max())
        if threshold is not None:
            conclusive_changed += ((first.max(1) >= threshold) != (second.max(1) >= threshold)).tolist()
    found = {
        "n": len(changed),
        "changed": sum(changed),
        "conclusive_changed": None if threshold is None else sum(conclusive_changed),
        "max_abs_dp": float(max(differences)),
    }
    conclusive = "" if threshold is None else f", {found['conclusive_changed']} in being conclusive"
    print(
        f"{LITE} without XNNPACK: {found['changed']} of {found['n']} answers differ{conclusive}, largest change of a "
        f"probability {found['max_abs_dp']:.3f}"
    )
    return found


def _train_photos(run: Run, info: DatasetInfo) -> Iterator[np.ndarray]:
    """Yield unaugmented train photos, float32 [N, S, S, 3], for the subspace of the off-list score."""
    return _photos(run, info, "train", off_list.TRAIN_PHOTOS)


def _representative(run: Run, info: DatasetInfo) -> np.ndarray:
    """Return unaugmented train photos, float32 [n, S, S, 3]."""
    return np.concatenate(list(_photos(run, info, "train", REPRESENTATIVE)))


def _photos(run: Run, info: DatasetInfo, split: str, most: int) -> Iterator[np.ndarray]:
    """Yield batches of a split's photos, float32 [N, S, S, 3]: the first of a shard, which are a random sample."""
    batches = pipeline.evaluation_batches(info, split, student.preprocessing(run.config), max_shards=1)
    return (batch["image"] for batch in batches.unbatch().take(most).batch(REPRESENTATIVE).as_numpy_iterator())


def _train_views(run: Run, info: DatasetInfo) -> Iterator[tf.Tensor]:
    """Yield endless batches of `moderate` views of train photos, float32 [N, S, S, 3]."""
    view = pipeline.training_view("moderate", student.preprocessing(run.config))
    batch_size = min(run.config.phase4.training.batch_size, info.count("train"))
    for epoch in itertools.count():
        batches = pipeline.training_batches(
            info, view, batch_size=batch_size, seed=run.config.seed + 2, epochs=range(epoch, epoch + 1)
        )
        yield from (batch["image"] for batch in batches)
