"""Optimizers, XLA, and the learning rate: linear warm-up, then cosine to zero (arXiv 1608.03983, eq. 5, one cycle)."""

from __future__ import annotations

import math

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable("keras_pipeline")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """step -> rate: peak * (step + 1) / warmup up to `warmup` steps, then peak * (1 + cos(pi * progress)) / 2."""

    def __init__(self, peak: float, *, steps: int, warmup: int) -> None:
        if not 0 <= warmup < steps:
            raise ValueError(f"received warmup={warmup} steps of {steps}, expected 0 <= warmup < steps")
        self.peak, self.steps, self.warmup = peak, steps, warmup

    def __call__(self, step):
        step = ops.cast(step, "float32")
        progress = ops.clip((step - self.warmup) / (self.steps - self.warmup), 0.0, 1.0)
        cosine = self.peak * 0.5 * (1.0 + ops.cos(math.pi * progress))
        return ops.where(step < self.warmup, self.peak * (step + 1) / max(self.warmup, 1), cosine)

    def get_config(self) -> dict:
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


def jit_compile() -> bool | str:
    """For `compile`: Keras's own choice on a GPU, no XLA on a CPU.

    On 2 cores XLA made a MobileNetV2 step 5 times slower (benchmarks/jit_compile.py).
    """
    return "auto" if tf.config.list_physical_devices("GPU") else False


def build_optimizer(
    name: str, *, learning_rate: float, weight_decay: float, steps: int, warmup: int
) -> keras.optimizers.Optimizer:
    """adam | adamw | sgd (momentum 0.9) under WarmupCosine; decay is masked off biases, norms and embeddings."""
    rate = WarmupCosine(learning_rate, steps=steps, warmup=min(warmup, steps - 1))
    if name == "adam":
        return keras.optimizers.Adam(rate)
    if name == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=weight_decay or None)
    else:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "embedding", "class_token"])
    return optimizer
