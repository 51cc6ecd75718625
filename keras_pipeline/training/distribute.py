"""Training on all GPUs of a machine, or on several machines: TensorFlow's strategies, and what Keras lacks for them.

Each step takes the global batch that the config names, and each replica a part of it. Gradients and batch norms'
moments are summed over the parts, so that one replica or eight end at the same weights, up to the order of float32 sums
and to dropout, whose masks each replica draws for itself. Models are made and compiled in the strategy's scope, but
trained outside of it, as Keras has it: a variable that the chief alone made inside would wait for the other machines'.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import keras
import tensorflow as tf

from keras_pipeline.core import cluster
from keras_pipeline.core.errors import SourceError


@functools.cache
def strategy(name: str) -> tf.distribute.Strategy:
    """none | mirrored | multi_worker. The last must come before TensorFlow has computed anything, and waits for all
    machines of TF_CONFIG.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        made = tf.distribute.MirroredStrategy([device.name for device in devices])
    else:
        made = _several_machines_met()
    mend_keras(made)
    n = made.num_replicas_in_sync
    print(f"distribute: {name}, " + (f"{n} replicas" if n > 1 else "one device only: as `none`"), flush=True)
    return made


def _several_machines_met() -> tf.distribute.Strategy:
    task = cluster.task()
    awaited = ", ".join(task.others) if task.is_chief else f"the chief, {task.chief}"
    print(f"distribute: {task.address}{', the chief,' if task.is_chief else ''} waits for {awaited}", flush=True)
    # Here Ctrl-C is heard; the chief's wait is TensorFlow's.
    while not task.is_chief and not _answers(task.chief):
        time.sleep(1)
    heard = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise SourceError(
            f"distribute: no server of TensorFlow's at {task.address} ({error.message.splitlines()[0]}); expected a "
            "free port of this machine: end what holds it, or give another one in TF_CONFIG on all machines"
        ) from None
    finally:
        for number, handler in heard.items():  # TensorFlow has taken SIGTERM, for a note that nobody reads
            signal.signal(number, handler)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=5):
        return True
    return False


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what is left on disk."""
    return not _several_machines(strategy) or cluster.task().is_chief


def agreed(strategy: tf.distribute.Strategy, value: float) -> float:
    """The chief's value, on every machine, once all have come here."""
    if not _several_machines(strategy):
        return value

    def sum_up() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        first = context.replica_id_in_sync_group % _local_replicas(strategy) == 0
        mine = tf.cast(value if cluster.task().is_chief else 0.0, tf.float32) * tf.cast(first, tf.float32)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    return float(strategy.experimental_local_results(strategy.run(sum_up))[0])


def wait(strategy: tf.distribute.Strategy) -> None:
    """Until all machines have come here."""
    agreed(strategy, 0.0)


def dealt(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Every machine makes all batches and takes its part of each: MixUp's partners may be in another's."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options)


def summed(gradients: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Over all replicas; called by each."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return list(gradients)
    present = [each for each in gradients if each is not None]
    total = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if each is None else next(total) for each in gradients]


def share(loss: tf.Tensor) -> tf.Tensor:
    """A replica's part of a mean over the global batch; its parts are added up. Called by each replica."""
    return loss / tf.distribute.get_strategy().num_replicas_in_sync


def synchronise(model: keras.Model) -> None:
    """Batch norms take the moments of the global batch. By its part alone each replica would keep statistics of its
    own, and two machines would end with different ones.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = model.distribute_strategy.num_replicas_in_sync > 1


def mend_keras(strategy: tf.distribute.Strategy) -> list[str]:
    """What Keras 3 gets wrong under a strategy of several machines (keras-team/keras #20585), as long as it does: the
    names of what was mended. A test says when none is left.
    """
    from keras.src.backend.tensorflow import trainer  # not Keras's public part: only who has several replicas needs it

    mended = []
    if not _works(lambda: trainer.reduce_per_replica(tf.constant(1.0), strategy, "mean")):
        trainer.reduce_per_replica = _mean_of_scalars(trainer.reduce_per_replica)
        mended.append("reduce_per_replica")
    photos = 2 * strategy.num_replicas_in_sync - 1  # a last batch, which leaves its last replica less than the others
    batch = next(iter(strategy.experimental_distribute_dataset(dealt(tf.data.Dataset.range(photos).batch(photos)))))
    asked = SimpleNamespace(
        _distribute_strategy=strategy, distribute_strategy=strategy, _symbolic_build=lambda data_batch: None
    )
    build = trainer.TensorFlowTrainer._maybe_symbolic_build
    if not _works(lambda: build(asked, iterator=[(0, 0, iter([(batch,)]))])):
        trainer.TensorFlowTrainer._maybe_symbolic_build = _from_the_first_replica(build)
        mended.append("_maybe_symbolic_build")
    return mended


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except (ValueError, TypeError, tf.errors.InvalidArgumentError):
        return False
    return True


def _mean_of_scalars(original: Callable) -> Callable:
    """Keras takes the mean of metrics, which are scalars, over their axis 0."""

    @functools.wraps(original)
    def reduce_per_replica(values, strategy, reduction):
        if reduction not in ("auto", "mean"):
            return original(values, strategy, reduction)
        return keras.tree.map_structure(lambda each: strategy.reduce("MEAN", each, axis=None), values)

    return reduce_per_replica


def _from_the_first_replica(original: Callable) -> Callable:
    """Keras builds from the mean of all replicas' batches; it needs shapes alone."""

    @functools.wraps(original)
    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
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
