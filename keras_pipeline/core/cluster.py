"""Which of several machines this is, from TF_CONFIG (https://www.tensorflow.org/guide/distributed_training#TF_CONFIG)."""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}, '
    "the same on each machine but for the index"
)


class Task(NamedTuple):
    """This process's place in TF_CONFIG."""

    address: str  # host:port of this machine
    chief: str  # address of the machine that writes: the cluster's `chief`, or else worker 0
    others: tuple[str, ...]  # addresses of all other machines

    @property
    def is_chief(self) -> bool:
        """Whether this process writes artefacts."""
        return self.address == self.chief


def task() -> Task:
    """Read this process's task from TF_CONFIG. Raises ValueError if TF_CONFIG is missing or not usable."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        value = json.loads(text)
        cluster, kind, index = value["cluster"], value["task"]["type"], value["task"]["index"]
        fault = _fault(cluster, kind, index)
    except (ValueError, KeyError, TypeError, RecursionError):
        fault = "it is not JSON of that form" if text else "it is not set"
    if fault:
        raise ValueError(
            f"distribute: multi_worker needs the environment variable TF_CONFIG: received {text or 'none'} ({fault}), "
            f"expected {EXAMPLE}; or set distribute to mirrored (the GPUs of one machine) or none"
        )
    addresses = [*cluster.get("chief", []), *cluster["worker"]]
    mine = cluster[kind][index]
    return Task(mine, addresses[0], tuple(address for address in addresses if address != mine))


def _fault(cluster: dict, kind: str, index: int) -> str | None:
    lists = isinstance(cluster, dict) and all(isinstance(addresses, list) for addresses in cluster.values())
    if not (lists and {"worker"} <= set(cluster) <= {"chief", "worker"}):
        return "cluster holds the list `worker`, and also `chief` if the chief is not worker 0; nothing else"
    addresses = [address for listed in cluster.values() for address in listed]
    for address in addresses:
        match = re.fullmatch(r"[^\s/]+:(\d+)", address) if isinstance(address, str) else None
        if not match or not 0 < int(match[1]) < 65536:
            return f"{address!r} is not host:port"
    if len(set(addresses)) < len(addresses):
        return "an address is listed twice"
    if not isinstance(index, int) or not 0 <= index < len(cluster.get(kind, [])):
        return f"there is no {kind} {index!r}"
    return None
