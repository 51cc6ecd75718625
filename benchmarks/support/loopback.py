"""What the export benchmarks share: photos, a photo host and a MongoDB on loopback, memory of a process tree."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pymongo
import yaml
from PIL import Image

from keras_pipeline.demo import embedded

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TEST_DATA = Path(os.environ.get("KERAS_PIPELINE_TEST_DATA", ROOT / "../shared/data"))


def real_photos(folder: Path, n: int, size: tuple[int, int], quality: int) -> None:
    """n JPEGs of `size` (width, height): the 17-flower photos; beyond 1,360 they come mirrored, then again."""
    sources = sorted((TEST_DATA / "flowers17/images").glob("*.jpg"))
    if not sources:
        sys.exit(f"no photos in {TEST_DATA}/flowers17/images; let KERAS_PIPELINE_TEST_DATA name the folder above them")
    for number in range(n):
        image = Image.open(sources[number % len(sources)]).convert("RGB")
        scale = max(size[0] / image.width, size[1] / image.height)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
        image = image.crop((left, top, left + size[0], top + size[1]))
        if number // len(sources) % 2:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.save(folder / f"{number:05d}.jpg", quality=quality)


@contextlib.contextmanager
def photo_host(folder: Path) -> Iterator[str]:
    """Base URL of a server in a process of its own."""
    command = [sys.executable, str(HERE / "photo_server.py"), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        process.stdin.close()


@contextlib.contextmanager
def collection(folder: Path, documents: Iterator[dict]) -> Iterator[tuple[str, pymongo.collection.Collection]]:
    """(URI, a collection `plants.photos` of these documents) on a server of its own."""
    with embedded.mongo(folder) as uri, pymongo.MongoClient(uri) as client:
        photos, batch = client.plants.photos, []
        for document in documents:
            batch.append(document)
            if len(batch) == 1000:
                photos.insert_many(batch)
                batch = []
        if batch:
            photos.insert_many(batch)
        yield uri, photos


def write_config(file: Path, uri: str, base_url: str, **export) -> None:
    limits = {"concurrency": 64, "requests_per_second": None}
    values = {
        "root": str(file.parent / "root"),
        "source": {"uri": uri, "base_url": base_url},
        "phase0": {"export": {"allow_networks": ["127.0.0.0/8"], "each_host": limits, **export}},
    }
    file.write_text(yaml.safe_dump(values))


def audit(config: Path, *overrides: str) -> None:
    """Do the step before the export, which is not timed, with the same `--set`."""
    command = [sys.executable, "-m", "keras_pipeline", "phase0", "audit", "--config", str(config), *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def run_watched(command: list[str], log: Path) -> tuple[float, float]:
    """(seconds, peak MB) of a command with all its children: proportional set size, so that shared pages count once.

    Raises RuntimeError with the end of its log where it fails.
    """
    started, peak = time.perf_counter(), 0
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, sum(_pss(each) for each in (root, *root.children(recursive=True))))
            time.sleep(0.25)  # looking costs time too
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{log.read_text()[-2000:]}")
    return time.perf_counter() - started, peak / 1e6


def _pss(process: psutil.Process) -> int:
    """Bytes; 0 for a process that has ended."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return 0
