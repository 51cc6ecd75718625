"""Which of several machines this is, as TF_CONFIG says (https://www.tensorflow.org/guide/distributed_training#TF_CONFIG)."""

from __future__ import annotations

import json
import os

EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}, '
    "the same on each machine but for the index"
)


def is_chief() -> bool:
    """The one machine that writes: the cluster's `chief`, or else its worker 0. Raises ValueError without a usable
    TF_CONFIG.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        value = json.loads(text)
        cluster, (kind, index) = value["cluster"], (value["task"]["type"], value["task"]["index"])
        known = set(cluster) <= {"chief", "worker"} and isinstance(cluster[kind], list)
        known = known and isinstance(cluster[kind][index], str) and index >= 0
    except (ValueError, KeyError, TypeError, IndexError):
        known = False
    if not known:
        raise ValueError(
            f"distribute: multi_worker needs the environment variable TF_CONFIG: received {text or 'none'}, expected "
            f"{EXAMPLE}; or set distribute to mirrored (the GPUs of one machine) or none"
        )
    return kind == "chief" or ("chief" not in cluster and index == 0)
