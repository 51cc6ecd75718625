"""Convert the student to a TensorFlow Lite file in 8-bit integers, for apps; the page does not use it.

    image: float32 [1, S, S, 3], RGB 0..255  ->  logits, probabilities: float32 [1, C], calibrated

Post-training quantization: kernels in int8 with a range for each channel, activations in int8 with ranges measured on a
representative set (Jacob et al. 2017, arXiv 1712.05877). Scaling, logits, temperature and softmax stay float32, because
int8 has only 256 values: among thousands of species many logits would tie for the first place. The last layer keeps its
kernel in int8 all the same and computes in float32.

LiteRT runs the file, as in apps: TensorFlow's own interpreter is its predecessor.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType, SignatureRunner
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer

from keras_pipeline.core.quiet import stderr_held_back

FLOAT_OPERATIONS = ["SOFTMAX", "MUL"]  # in a MobileNet only scaling and temperature multiply
LOGITS = "StatefulPartitionedCall:0"  # the converter's name for the first output of a signature, by its name


def convert(model: keras.Model, photos: np.ndarray, *, temperature: float) -> bytes:
    """Convert a model to the file described above; return its bytes.

    Args:
        model: float32 [N, S, S, 3] RGB 0..255 -> logits [N, C] of a Dense layer, BatchNorm folded.
        photos: float32 [n, S, S, 3], of the train split; their activations set the ranges.
        temperature: > 0, divides the logits.
    """
    size = model.input_shape[1]

    @tf.function(input_signature=[tf.TensorSpec((1, size, size, 3), tf.float32, name="image")])
    def scores(image: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(image, training=False)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits * (1 / temperature))}

    def representative() -> Iterator[dict[str, np.ndarray]]:
        return ({"image": photo[None]} for photo in photos)

    servable = tf.Module()
    servable.weights, servable.scores = [weight.value for weight in model.weights], scores
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(servable, folder, signatures={"serving_default": scores})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        # Only the debugger can leave some operations in float32.
        options = tf.lite.experimental.QuantizationDebugOptions(
            denylisted_ops=FLOAT_OPERATIONS, denylisted_nodes=[LOGITS]
        )
        with _without_notices(), stderr_held_back():
            debugger = tf.lite.experimental.QuantizationDebugger(
                converter=converter, debug_dataset=representative, debug_options=options
            )
            body = debugger.get_nondebug_quantized_model()
    # The converter can't quantize a layer's weights alone. ai-edge-quantizer can, but its ranges for activations lie
    # further off: on flowers17 the whole model by it cost four times the KL divergence.
    head = Quantizer(body)
    head.add_dynamic_config(regex=LOGITS, operation_name=TFLOperationName.FULLY_CONNECTED, num_bits=8)
    with _without_notices():
        return bytes(head.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Silence two warnings: that the debugger's interpreter has moved, and that all but the head is quantized."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated")
        warnings.filterwarnings("ignore", "Input model is already partially quantized")
        yield


class LiteModel:
    """A converted file, run photo by photo on all cores: float32 [N, S, S, 3] -> logits float32 [N, C].

    Args:
        content: of the file.
        xnnpack: use the kernels that LiteRT takes by default. The others, which an app gets where XNNPACK is switched
            off or does not support a processor, round differently.
    """

    def __init__(self, content: bytes, *, xnnpack: bool = True):
        kernels = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        # One interpreter per core: the threads of a single one busy-wait for each other, which takes hundreds of times
        # as long when the cores have other work.
        with stderr_held_back():
            self._interpreters = [
                Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=kernels)
                for _ in range(os.cpu_count() or 1)
            ]
            for each in self._interpreters:
                each.allocate_tensors()  # writes about its delegate to stderr
        self._runners = [each.get_signature_runner("serving_default") for each in self._interpreters]
        self.output_shape = (None, self._runners[0].get_output_details()["logits"]["shape"][1])

    def scores(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and calibrated probabilities, float32 [N, C] each."""
        with ThreadPoolExecutor(len(self._runners)) as pool:
            parts = pool.map(_outputs, self._runners, np.array_split(images, len(self._runners)))
            outputs = [output for part in parts for output in part]
        logits, probabilities = (np.concatenate([each[key] for each in outputs]) for key in ("logits", "probabilities"))
        return logits, probabilities

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.scores(images)[0]


def _outputs(runner: SignatureRunner, images: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [runner(image=np.asarray(image, np.float32)[None]) for image in images]
