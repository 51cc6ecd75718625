"""Phase 6's quantize: BatchNorm folded, weights rounded, and what that costs, one way beside the other."""

from __future__ import annotations

import collections
import hashlib
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.core.hashing import content_hash
from keras_pipeline.phases import build, calibrating

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_pipeline.evaluation.predict import Predictions

REPRESENTATIVE = 128  # train photos on which rounding is judged, and whose activations set TensorFlow Lite's ranges
LITE = "tflite-int8"


def quantize(run: Run) -> None:
    """The shipped weights and their calibration, the TensorFlow Lite file and its own, and the table of what rounding
    costs.
    """
    from keras_pipeline.data import records
    from keras_pipeline.export import quantize as rounding

    settings, size = run.config.phase6, run.config.phase4.data.image_size
    info = records.load_info(run.path("dataset"))
    student = build.trained(run, "student", info, image_size=size)
    rounding.check_finite(student)
    folded, photos = rounding.fold_batch_norm(student), _representative(run)
    variants = {}
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=run.path("quantization").parent) as scratch:
        table = _Table(run, Path(scratch))
        for way in dict.fromkeys([settings.quantization, *settings.compare]):
            model, tensors = _rounded(run, folded, way, photos)
            fit, test = table.predict(model, way)
            figures = {"megabytes": rounding.megabytes(tensors), "tensors": tensors}
            if way == settings.quantization:
                _refuse_costly_rounding(run, table.top1(test))  # before anything of an earlier one is replaced
                with aside(run.path("shipped")) as temporary:
                    model.save(temporary)
                digest = content_hash(run.path("shipped"))
                calibration, _, _ = calibrating.calibration(run, "shipped", digest, fit, test)
                variants[way] = table.row(way, test, calibration, figures)
            else:
                variants[way] = table.row(way, test, calibrating.temperature(run, fit, test)[0], figures)
        variants[LITE] = _write_lite(run, folded, photos, table)
    before = {"megabytes": student.count_params() * 4 / 1e6, **table.before}
    write_json(run.path("quantization"), {"type": settings.quantization, "float32": before, "variants": variants})
    write_json(run.path("shipped_calibration"), calibration)
    print(calibrating.describe_temperature(calibration))
    print(calibrating.describe(calibration))


class _Table:
    """A row for each way of rounding, against the float student on the test split."""

    def __init__(self, run: Run, scratch: Path):
        from keras_pipeline.evaluation import predict

        self._run, self._scratch = run, scratch
        self._test = predict.load(run.path("logits"), "test")
        figures = run.read("temperature")
        self.before = {
            "n": figures["n"],
            "top1": figures["after"]["top1"],
            "nll": figures["nll_before"],
            "temperature": figures["temperature"],
            "ece": figures["ece_after"],
        }
        print("float32: test top-1 {top1:.3f}, NLL {nll:.4f}, ECE {ece:.4f}".format(**self.before))

    def predict(self, model, name: str) -> tuple[Predictions, Predictions]:
        folder = self._scratch / name
        folder.mkdir()
        return calibrating.predict(self._run, model, name, folder)

    def top1(self, test: Predictions) -> dict:
        """The paired difference to the float student."""
        from keras_pipeline.evaluation.quantization import cost

        return cost(self._test, test)["top1"]

    def row(self, name: str, test: Predictions, fitted: dict, figures: dict) -> dict:
        """`figures` with what changed; prints it.

        Args:
            fitted: of `calibrating.temperature` or `calibration`; each way of rounding has a temperature of its own.
        """
        from keras_pipeline.evaluation.quantization import cost

        found = cost(self._test, test) | {"temperature": fitted["temperature"], "ece": fitted["ece_after"]}
        top1, flips = found["top1"], found["flips"]
        stored = collections.Counter(entry["stored"] for entry in figures["tensors"])
        ways = f" ({', '.join(f'{n} tensors as {way}' for way, n in sorted(stored.items()))})" if stored else ""
        print(
            f"{name}: {figures['megabytes']:.2f} MB{ways}; test top-1 {top1['first']:.3f} -> {top1['second']:.3f} "
            f"[{top1['interval'][0]:+.3f}, {top1['interval'][1]:+.3f}], {flips['n']} of {found['n']} answers changed "
            f"({flips['to_right']} to right, {flips['to_wrong']} to wrong), NLL {found['delta_nll']:+.4f}, ECE "
            f"{found['ece']:.4f}, largest change of a probability {found['max_abs_dp']:.3f}"
        )
        return {**figures, **found}


def _rounded(run: Run, folded: keras.Model, way: str, photos: np.ndarray) -> tuple[keras.Model, list[dict]]:
    """(a model of the rounded weights, what became of each tensor)"""
    from keras_pipeline.export import qat
    from keras_pipeline.export import quantize as rounding

    if way == "int8-qat":
        settings, kernels = run.config.phase6.qat, qat.kernels_of(folded)
        model = qat.train(
            folded, kernels, _train_views(run), steps=settings.steps, learning_rate=settings.learning_rate
        )
        return model, rounding.round_kernels(model, kernels)
    model = rounding.copy(folded)
    if way == "none":
        return model, rounding.keep_float32(model)
    return model, rounding.round_to_float16(model) if way == "fp16" else rounding.round_to_uint8(model, photos)


def _write_lite(run: Run, folded: keras.Model, photos: np.ndarray, table: _Table) -> dict:
    """Its row. Converted twice, because the temperature of its logits is known only once it has answered."""
    import numpy as np

    from keras_pipeline.evaluation.metrics import softmax
    from keras_pipeline.export import tflite

    fit, test = table.predict(tflite.LiteModel(tflite.convert(folded, photos, temperature=1.0)), LITE)
    fitted = calibrating.temperature(run, fit, test)[0]
    content = tflite.convert(folded, photos, temperature=fitted["temperature"])
    logits, probabilities = tflite.LiteModel(content).scores(photos[:8])
    if not np.allclose(softmax(logits, fitted["temperature"]), probabilities, atol=1e-5):
        raise ValueError("tflite: the converted file does not answer softmax(logits / T); use another TensorFlow")
    digest = hashlib.sha256(content).hexdigest()
    calibration, _, _ = calibrating.calibration(run, LITE, digest, fit, test, fitted)
    _write_lite_folder(run, content, calibration)
    return table.row(LITE, test, fitted, {"megabytes": len(content) / 1e6, "tensors": []})


def _write_lite_folder(run: Run, content: bytes, calibration: dict) -> None:
    from keras_pipeline.export import saved_model

    assets = saved_model.assets(run.read("dataset")["classes"], calibration, build.student_preprocessing(run))
    with aside(run.path("tflite")) as temporary:
        temporary.mkdir()
        (temporary / "model.tflite").write_bytes(content)
        for name, value in assets.items():
            write_json(temporary / name, value)


def _representative(run: Run) -> np.ndarray:
    """Clean views of train photos, float32 [n, S, S, 3]: the first of a shard, which are a random sample."""
    import numpy as np

    from keras_pipeline.data import pipeline, records

    info = records.load_info(run.path("dataset"))
    batches = pipeline.evaluation_batches(info, "train", build.student_preprocessing(run), max_shards=1)
    return np.concatenate([batch["image"] for batch in batches.unbatch().batch(REPRESENTATIVE).take(1)])


def _train_views(run: Run):
    """Endless batches of `moderate` views of train photos, float32 [N, S, S, 3]."""
    from keras_pipeline.data import pipeline, records

    info = records.load_info(run.path("dataset"))
    view = pipeline.training_view("moderate", build.student_preprocessing(run))
    batch_size = min(run.config.phase4.training.batch_size, info.count("train"))
    for epoch in itertools.count():
        batches = pipeline.training_batches(
            info, view, batch_size=batch_size, seed=run.config.seed + 2, epochs=range(epoch, epoch + 1)
        )
        yield from (batch["image"] for batch in batches)


def _refuse_costly_rounding(run: Run, top1: dict) -> None:
    loss, most = -top1["difference"], run.config.phase6.max_top1_loss
    if loss > most:
        raise ValueError(
            f"phase6.quantization: rounding costs {loss:.3f} test top-1, phase6.max_top1_loss allows {most:g}: use "
            "another --type, or raise the limit"
        )
