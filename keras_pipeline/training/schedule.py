"""Optimizers, XLA, and the learning rate: linear warm-up, then cosine to 0 (arXiv 1608.03983, eq. 5, one cycle)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras import ops

from keras_pipeline.training import distribute
from keras_pipeline.training.losses import Tensor


@keras.saving.register_keras_serializable("keras_pipeline")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate peak * (step + 1) / warmup up to `warmup` steps, then peak * (1 + cos(pi * progress)) / 2.

    Example:
        >>> rate = WarmupCosine(1.0, steps=6, warmup=2)
        >>> [round(float(rate(step)), 3) for step in range(7)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(self, peak: float, *, steps: int, warmup: int) -> None:
        if not 0 <= warmup < steps:
            raise ValueError(f"received warmup={warmup} steps of {steps}, expected 0 <= warmup < steps")
        self.peak = peak
        self.steps = steps
        self.warmup = warmup

    def __call__(self, step: Tensor) -> Tensor:
        step = ops.cast(step, "float32")
        progress = ops.clip((step - self.warmup) / (self.steps - self.warmup), 0.0, 1.0)
        cosine = self.peak * 0.5 * (1.0 + ops.cos(math.pi * progress))
        return ops.where(step < self.warmup, self.peak * (step + 1) / max(self.warmup, 1), cosine)

    def get_config(self) -> dict:
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


if TYPE_CHECKING:  # for the mixin, which overrides methods of the optimizer it is mixed into
    _Optimizer = Any
else:
    _Optimizer = object


class _PerVariable(_Optimizer):
    """Mixin for Keras optimizers: a rate for each variable, decoupled decay of kernels, and gradient norms.

    Keras's `exclude_from_weight_decay(var_names=…)` matches TensorFlow's variable names, which are whole paths:
    'embedding', meant for positions, would exclude `patch_embedding/kernel` too.
    """

    def __init__(self, *args: Any, decay: float = 0.0, rates: dict[str, float] | None = None, **kwargs: Any) -> None:
        """
        Args:
            decay: λ of w ← w − rate · λ · w (arXiv 1711.05101, algorithm 2), for kernels only.
            rates: {path of a variable: factor of the learning rate}, for layer-wise decay; 1 if not given.
        """
        super().__init__(*args, **kwargs)
        self.decay = decay
        self.rates = rates or {}

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        self._shares = [self.rates.get(v.path, 1.0) for v in variables]
        self._decays = [bool(self.decay) and v.path.endswith("kernel") for v in variables]
        options = {"dtype": "float32", "aggregation": "only_first_replica"}  # all replicas add the same
        self.norm_sum = self.add_variable((), name="gradient_norm_sum", **options)
        self.norm_count = self.add_variable((), name="gradient_norm_count", **options)

    def apply(self, grads: list[Tensor], trainable_variables: list[keras.Variable] | None = None) -> None:
        """Apply gradients as Keras does; add up the norm of each batch's gradient before clipping."""
        # Keras clips each replica's gradient before summing them: the norm, and a limit on it, would be of a part.
        grads = distribute.summed(grads)
        super().apply(grads, trainable_variables)
        self.norm_sum.assign_add(ops.cast(tf.linalg.global_norm(grads), "float32"))
        self.norm_count.assign_add(1.0)

    def _all_reduce_sum_gradients(self, grads_and_vars: list[tuple]) -> list[tuple]:
        return grads_and_vars  # `apply` has done it

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate * self._shares[index], variable.dtype)
        if self._decays[index]:
            self.assign_sub(variable, variable * rate * ops.cast(self.decay, variable.dtype))
        super().update_step(gradient, variable, rate)

    def get_config(self) -> dict:
        return {**super().get_config(), "decay": self.decay, "rates": self.rates}


class _OneKernel(keras.optimizers.Adam):
    """Keras's Adam, without AMSGrad, as one TensorFlow kernel for each variable.

    Tracing Keras's two dozen operations for each took a third of a MobileNetV2's first training step (6 of 17 s). Keras
    also squares the gradients of an embedding row one by one; here they are summed first, as in arXiv 1412.6980.
    """

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        index = self._get_variable_index(variable)
        step = ops.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=ops.power(ops.cast(self.beta_1, variable.dtype), step),
            beta2_power=ops.power(ops.cast(self.beta_2, variable.dtype), step),
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=ops.cast(gradient, variable.dtype),
        )


@keras.saving.register_keras_serializable("keras_pipeline")
class Adam(_PerVariable, _OneKernel):
    """Adam (arXiv 1412.6980); with `decay` AdamW."""


@keras.saving.register_keras_serializable("keras_pipeline")
class SGD(_PerVariable, keras.optimizers.SGD):
    """Nesterov's momentum; with `decay` SGDW."""


def build_optimizer(
    name: str,
    *,
    learning_rate: float,
    weight_decay: float,
    steps: int,
    warmup: int,
    rates: dict[str, float] | None = None,
    clip_norm: float | None = None,
    gradient_accumulation: int = 1,
) -> keras.optimizers.Optimizer:
    """Build an optimizer with the schedule WarmupCosine.

    Args:
        name: adam | adamw | sgd (momentum 0.9).
        learning_rate: peak.
        weight_decay: decoupled; 0 for adam.
        steps: batches of the whole stage; Keras counts batches even if several make one update.
        warmup: batches of linear warm-up.
        rates: see `models.layerwise.layer_rates`.
        clip_norm: maximum norm of the gradient over all weights; None: not clipped.
        gradient_accumulation: batches whose mean gradient makes one update.

    Raises:
        ValueError: unless 0 <= warmup < steps.
    """
    rate = WarmupCosine(learning_rate, steps=steps, warmup=warmup)
    options: dict[str, Any] = {"decay": weight_decay, "rates": rates, "global_clipnorm": clip_norm}
    if gradient_accumulation > 1:
        options["gradient_accumulation_steps"] = gradient_accumulation
    if name == "sgd":
        return SGD(rate, momentum=0.9, nesterov=True, **options)
    return Adam(rate, **options)


def mean_gradient_norm(optimizer: keras.optimizers.Optimizer) -> float:
    """Return the mean gradient norm of the batches since the last call; 0 if loss scaling has skipped them all."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # float16 wraps it in Keras's LossScaleOptimizer
    norm_sum, count = (float(ops.convert_to_numpy(v)) for v in (optimizer.norm_sum, optimizer.norm_count))
    optimizer.norm_sum.assign(0.0)
    optimizer.norm_count.assign(0.0)
    return norm_sum / max(count, 1.0)


def jit_compile(wanted: bool | None = None) -> bool | str:
    """Return the argument `jit_compile` of Keras's `compile`: the config's value, or a default for this device.

    The default is "auto" on a GPU, and False on a CPU or under a strategy, whose replicas XLA can't compile as one
    program. On 2 cores XLA made a MobileNetV2 step 5 times slower (benchmark jit_compile).
    """
    if wanted is not None:
        return wanted
    return "auto" if tf.config.list_physical_devices("GPU") and not tf.distribute.has_strategy() else False
