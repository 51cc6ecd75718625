"""Does anything that comes from outside crash, hang or swell the pipeline? 100,000 hostile inputs and more.

    .venv/bin/python -m benchmarks.whole.fuzz      (CPU only, one core, minutes)

Documents (hypothesis: any BSON value in any field) through audit and export's reading; image bytes, config files,
TFRecord shards, records with right CRCs, dataset.json, sidecars, manifests, label CSVs, curation files, soft-label
shards and calibration.json, each spoilt by seeded mutations of a good one (`support/hostile.py`). Allowed is a result,
or one of the pipeline's own errors with a message. Each input has 5 seconds; the memory of the process may grow by
1 GB over them all: a header may announce 120 megapixels, which are 480 MB, and a copy of them.

Prints inputs, errors and the slowest of each kind, and as the last line inputs over 100,000 (0 where one failed); exit
1 below 1.
"""

import collections
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from hypothesis import HealthCheck, given, settings

from benchmarks.support.hostile import ALLOWED, Room, documents
from keras_pipeline.ingest import audit, curation
from keras_pipeline.ingest.download import rows

TOTAL, DOCUMENTS, SEED, SECONDS, MEMORY = 110_000, 12_000, 42, 5, 1e9


class TooSlow(BaseException):
    pass


def too_slow(*_):
    raise TooSlow


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attack(name: str, n: int, target) -> int:
    """Runs one target n times; returns how many inputs it failed on."""
    said, slowest, failed = collections.Counter(), 0.0, 0
    for number in range(n):
        seed = f"{SEED} {name} {number}"
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            target(random.Random(seed))
            said["taken"] += 1
        except ALLOWED as error:
            if type(error) is ValueError or type(error) in ALLOWED:
                said["refused"] += 1
            else:
                said[f"FAILED: {type(error).__name__}"] += 1
                failed += 1
                print(f"{name}, seed {seed!r}:\n{traceback.format_exc()[-1500:]}", flush=True)
        except (Exception, TooSlow) as error:
            said[f"FAILED: {type(error).__name__}"] += 1
            failed += 1
            print(f"{name}, seed {seed!r}:\n{traceback.format_exc()[-1500:]}", flush=True)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.monotonic() - started)
    print(f"{name}: {n} inputs, {dict(said)}, slowest {1000 * slowest:.0f} ms, peak {peak() / 1e6:.0f} MB", flush=True)
    return failed


def attack_documents(n: int) -> int:
    seen = 0

    @settings(max_examples=n, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(documents())
    def read(document):
        nonlocal seen
        seen += 1
        cured = curation.Curation()
        audit.audit([document], curation=cured, min_per_species=2)
        list(rows([document], cured, "https://photos.example.org/"))

    try:
        read()
    except Exception:
        traceback.print_exc()
        return 1
    print(f"documents: {seen} inputs, all taken or counted as unusable", flush=True)
    return 0


def main() -> int:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, too_slow)
    room = Room()
    targets = list(room.targets())
    whole = sum(share for _, share, _ in targets)
    for _, _, target in targets:  # what is loaded once is not an input's memory
        for number in range(20):
            try:
                target(random.Random(number))
            except Exception:  # counted below
                continue
    before = peak()
    failed = attack_documents(DOCUMENTS)
    inputs = DOCUMENTS
    for name, share, target in targets:
        n = (TOTAL - DOCUMENTS) * share // whole
        inputs += n
        failed += attack(name, n, target)
    grown = peak() - before
    print(f"{inputs} inputs, {failed} failed; memory grew by {grown / 1e6:.0f} MB (allowed {MEMORY / 1e6:.0f})")
    room.close()
    good = not failed and grown <= MEMORY
    print(f"{inputs / 100_000 if good else 0:.2f}")
    return int(not good or inputs < 100_000)


if __name__ == "__main__":
    sys.exit(main())
