"""`phase6 quantize`: fold BatchNorm, quantize the weights, calibrate the shipped model, and measure the cost."""

from __future__ import annotations

import collections
import hashlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

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

REPRESENTATIVE = 128  # train photos that decide which kernels become uint8, and set TensorFlow Lite's ranges
LITE = "tflite-int8"


def run(run: Run) -> None:
    """Write the shipped weights, their calibration, the TensorFlow Lite folder, and what each quantization costs.

    Raises:
        ValueError: where the shipped quantization costs more top-1 than phase6.max_top1_loss, or weights are NaN,
            infinite or too large for float16.
    """
    settings, info = run.config.phase6, records.load_info(run.path("dataset"))
    model = trained.load(run.path("student"), info, image_size=run.config.phase4.data.image_size)
    quantize.check_finite(model)
    folded, photos = quantize.fold_batch_norm(model), _representative(run, info)
    table = assignment.places(run.path("assignment"))
    variants: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=run.path("quantization").parent) as scratch:
        costs = _Costs(run, info, Path(scratch))
        for way in dict.fromkeys([settings.quantization, *settings.compare]):
            quantized, tensors = _quantized(run, info, folded, way, photos)
            evidence = costs.evidence(quantized, way)
            size = {"megabytes": quantize.megabytes(tensors), "tensors": tensors}
            if way != settings.quantization:
                variants[way] = costs.row(way, evidence.test, calibration_report.temperature(evidence)[0], size)
                continue
            _refuse_costly(run, costs.top1(evidence.test))  # before artefacts of an earlier run are replaced
            with aside(run.path("shipped")) as temporary:
                quantized.save(temporary)
            weights = content_hash(run.path("shipped"))
            shipped, _ = report_of(info, table, priors_of(run, info, table), evidence, "shipped", weights)
            variants[way] = costs.row(way, evidence.test, shipped, size)
        variants[LITE] = _write_lite(run, info, table, folded, photos, costs)
    before = {"megabytes": model.count_params() * 4 / 1e6, **costs.before}
    write_json(run.path("quantization"), {"type": settings.quantization, "float32": before, "variants": variants})
    write_json(run.path("shipped_calibration"), shipped)
    print(calibration.describe_temperature(shipped))
    print(calibration.describe(shipped))


class _Costs:
    """What each way of quantizing costs on the test split, compared with the float student."""

    def __init__(self, run: Run, info: DatasetInfo, scratch: Path):
        self._run, self._info, self._scratch = run, info, scratch
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

    def evidence(self, model: keras.Model | tflite.LiteModel, name: str) -> Evidence:
        """Predict the calibration and test splits with a quantized model."""
        folder = self._scratch / name
        folder.mkdir()
        preprocessing = student.preprocessing(self._run.config)
        return evidence_of(self._run, model, self._info, preprocessing, name, folder)

    def top1(self, test: Predictions) -> dict:
        """Return the paired comparison with the float student."""
        return cost(self._test, test)["top1"]

    def row(self, name: str, test: Predictions, fitted: dict, size: dict) -> dict:
        """Return `size` with the metrics of a quantized model, and print them.

        Args:
            name: of the way of quantizing.
            test: its predictions.
            fitted: of `calibration_report`; each way of quantizing has a temperature of its own.
            size: {megabytes, tensors}.
        """
        metrics = cost(self._test, test) | {"temperature": fitted["temperature"], "ece": fitted["ece_after"]}
        top1, flips = metrics["top1"], metrics["flips"]
        stored = collections.Counter(entry["stored"] for entry in size["tensors"])
        ways = f" ({', '.join(f'{n} tensors as {way}' for way, n in sorted(stored.items()))})" if stored else ""
        print(
            f"{name}: {size['megabytes']:.2f} MB{ways}; test top-1 {top1['first']:.3f} -> {top1['second']:.3f} "
            f"[{top1['interval'][0]:+.3f}, {top1['interval'][1]:+.3f}], {flips['n']} of {metrics['n']} answers changed "
            f"({flips['to_right']} to right, {flips['to_wrong']} to wrong), NLL {metrics['delta_nll']:+.4f}, ECE "
            f"{metrics['ece']:.4f}, largest change of a probability {metrics['max_abs_dp']:.3f}"
        )
        return {**size, **metrics}


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
    run: Run, info: DatasetInfo, table: pd.DataFrame, folded: keras.Model, photos: np.ndarray, costs: _Costs
) -> dict:
    """Write the TensorFlow Lite folder; return its row.

    The model is converted twice, because the temperature is fitted to the logits of the converted model.
    """
    evidence = costs.evidence(tflite.LiteModel(tflite.convert(folded, photos, temperature=1.0)), LITE)
    fitted = calibration_report.temperature(evidence)[0]
    content = tflite.convert(folded, photos, temperature=fitted["temperature"])
    logits, probabilities = tflite.LiteModel(content).scores(photos[:8])
    if not np.allclose(softmax(logits, fitted["temperature"]), probabilities, atol=1e-5):
        raise ValueError(
            "tflite: the converted file does not return softmax(logits / T); install the versions of requirements.lock"
        )
    digest = hashlib.sha256(content).hexdigest()
    calibrated, _ = report_of(info, table, priors_of(run, info, table), evidence, LITE, digest, fitted)
    assets = saved_model.assets(info.classes, calibrated, student.preprocessing(run.config))
    with aside(run.path("tflite")) as temporary:
        temporary.mkdir()
        (temporary / "model.tflite").write_bytes(content)
        for name, value in assets.items():
            write_json(temporary / name, value)
    return costs.row(LITE, evidence.test, fitted, {"megabytes": len(content) / 1e6, "tensors": []})


def _representative(run: Run, info: DatasetInfo) -> np.ndarray:
    """Return unaugmented train photos, float32 [n, S, S, 3]: the first of a shard, which are a random sample."""
    batches = pipeline.evaluation_batches(info, "train", student.preprocessing(run.config), max_shards=1)
    return np.concatenate([batch["image"] for batch in batches.unbatch().batch(REPRESENTATIVE).take(1)])


def _train_views(run: Run, info: DatasetInfo) -> Iterator[tf.Tensor]:
    """Yield endless batches of `moderate` views of train photos, float32 [N, S, S, 3]."""
    view = pipeline.training_view("moderate", student.preprocessing(run.config))
    batch_size = min(run.config.phase4.training.batch_size, info.count("train"))
    for epoch in itertools.count():
        batches = pipeline.training_batches(
            info, view, batch_size=batch_size, seed=run.config.seed + 2, epochs=range(epoch, epoch + 1)
        )
        yield from (batch["image"] for batch in batches)


def _refuse_costly(run: Run, top1: dict) -> None:
    loss, most = -top1["difference"], run.config.phase6.max_top1_loss
    if loss > most:
        raise ValueError(
            f"phase6.quantization: received a loss of {loss:.3f} test top-1, expected at most {most:g} "
            "(phase6.max_top1_loss); use another --type, or raise the limit"
        )
