"""Training on all GPUs of a machine, or on several machines: TensorFlow's strategies, and fixes to Keras for them.

The config gives the global batch; each replica takes a part of it. Gradients and batch norms' moments are summed over
the parts, so that one replica or eight end at the same weights, up to the order of float32 sums and to dropout, whose
masks each replica draws for itself. Models are built and compiled in the strategy's scope, but trained outside, as
Keras expects: a variable that only the chief creates inside the scope would wait for the other machines.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_pipeline.core import cluster
from keras_pipeline.core.errors import SourceError


@functools.cache
def strategy(name: str) -> tf.distribute.Strategy:
    """Return the strategy of a name: none | mirrored | multi_worker.

    Create multi_worker before TensorFlow has computed anything; it waits for all machines of TF_CONFIG.

    Raises:
        SourceError: if this machine's port in TF_CONFIG is not free.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        result = tf.distribute.MirroredStrategy([device.name for device in devices])
    else:
        result = _multi_worker()
    patch_keras(result)
    n = result.num_replicas_in_sync
    print(f"distribute: {name}, " + (f"{n} replicas" if n > 1 else "one device only: same as `none`"), flush=True)
    return result


def _multi_worker() -> tf.distribute.Strategy:
    task = cluster.task()
    awaited = ", ".join(task.others) if task.is_chief else f"the chief, {task.chief}"
    print(f"distribute: {task.address}{', the chief,' if task.is_chief else ''} waits for {awaited}", flush=True)
    # Wait in Python, where Ctrl-C works; the chief waits inside TensorFlow.
    while not task.is_chief and not _answers(task.chief):
        time.sleep(1)
    # So that Ctrl-C ends the process also while TensorFlow waits in C++.
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise SourceError(
            f"distribute: TensorFlow can't start its server at {task.address} ({error.message.splitlines()[0]}); "
            "expected a free port of this machine: stop the process that uses it, or give another port in TF_CONFIG on "
            "all machines"
        ) from None
    finally:
        for number, handler in handlers.items():  # TensorFlow replaces the handler of SIGTERM
            signal.signal(number, handler)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=5):
        return True
    return False


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Return whether this process writes the files."""
    return not _several_machines(strategy) or cluster.task().is_chief


def agreed(strategy: tf.distribute.Strategy, value: float) -> float:
    """Return the chief's value on every machine, once all have called this."""
    return float(chiefs(strategy, np.array(value))) if _several_machines(strategy) else value


def chiefs(strategy: tf.distribute.Strategy, values: np.ndarray) -> np.ndarray:
    """Return the chief's array, as float32, on every machine, once all have called this; one machine's is its own."""
    if not _several_machines(strategy):
        return values

    def sum_up() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        first = context.replica_id_in_sync_group % _local_replicas(strategy) == 0
        mine = tf.cast(values if cluster.task().is_chief else np.zeros_like(values), tf.float32)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, mine * tf.cast(first, tf.float32))

    return np.asarray(strategy.experimental_local_results(strategy.run(sum_up))[0])


def wait(strategy: tf.distribute.Strategy) -> None:
    """Wait until all machines have called this."""
    agreed(strategy, 0.0)


def sharded(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Let every machine make all batches and take its part of each: MixUp's partners may be in another part."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options)


def summed(gradients: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Sum gradients over all replicas; each replica calls this."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return list(gradients)
    present = [each for each in gradients if each is not None]
    total = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if each is None else next(total) for each in gradients]


def share(loss: tf.Tensor) -> tf.Tensor:
    """Return a replica's summand of the mean over the global batch; each replica calls this."""
    return loss / tf.distribute.get_strategy().num_replicas_in_sync


def synchronise(model: keras.Model) -> None:
    """Let batch norms use the moments of the global batch.

    With the moments of its part, each replica would keep its own statistics, and two machines would end with different
    models.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = model.distribute_strategy.num_replicas_in_sync > 1


def patch_keras(strategy: tf.distribute.Strategy) -> list[str]:
    """Patch what Keras 3 gets wrong under a strategy of several machines (keras-team/keras #20585).

    Returns:
        Names of what was patched. A test fails once none is left.
    """
    from keras.src.backend.tensorflow import trainer  # private, so imported only where several replicas need it

    patched = []
    if not _works(lambda: trainer.reduce_per_replica(tf.constant(1.0), strategy, "mean")):
        trainer.reduce_per_replica = _mean_of_scalars(trainer.reduce_per_replica)
        patched.append("reduce_per_replica")
    photos = 2 * strategy.num_replicas_in_sync - 1  # a last batch, of which the last replica gets fewer
    batch = next(iter(strategy.experimental_distribute_dataset(sharded(tf.data.Dataset.range(photos).batch(photos)))))
    stand_in = SimpleNamespace(
        _distribute_strategy=strategy, distribute_strategy=strategy, _symbolic_build=lambda data_batch: None
    )
    build = trainer.TensorFlowTrainer._maybe_symbolic_build
    if not _works(lambda: build(stand_in, iterator=[(0, 0, iter([(batch,)]))])):
        trainer.TensorFlowTrainer._maybe_symbolic_build = _from_the_first_replica(build)
        patched.append("_maybe_symbolic_build")
    return patched


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except (ValueError, TypeError, tf.errors.InvalidArgumentError):
        return False
    return True


def _mean_of_scalars(original: Callable) -> Callable:
    """Wrap Keras's function, which averages metrics over axis 0, although they are scalars."""

    @functools.wraps(original)
    def reduce_per_replica(values: Any, strategy: tf.distribute.Strategy, reduction: str) -> Any:
        if reduction not in ("auto", "mean"):
            return original(values, strategy, reduction)
        return keras.tree.map_structure(lambda each: strategy.reduce("MEAN", each, axis=None), values)

    return reduce_per_replica


def _from_the_first_replica(original: Callable) -> Callable:
    """Wrap Keras's method, which builds from the mean of the replicas' batches, although it needs only shapes."""

    @functools.wraps(original)
    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is None or self._distribute_strategy is None:
            return original(self, iterator=iterator, data_batch=data_batch)
        first = self.distribute_strategy.experimental_local_results
        _, _, batches = next(iter(iterator))
        return original(self, data_batch=keras.tree.map_structure(lambda each: first(each)[0], next(batches)))

    return _maybe_symbolic_build


def _several_machines(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _local_replicas(strategy: tf.distribute.Strategy) -> int:
    return len(strategy.extended.worker_devices)
