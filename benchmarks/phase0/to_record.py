"""`to_record` converts as many photos a second as that of commit BASE did: 0.97 of it, at least.

    .venv/bin/python -m benchmarks.phase0.to_record      (CPU only, one core, two minutes)

272 real photos of 500 px, and one of them enlarged to 12 megapixels twenty times, in a process of its own for each
build and round; the builds take turns. BASE runs twice: what differs between its two runs is noise. Counted by the
process's CPU time, which other work on the machine changes less than the time on the clock.

Prints medians; the last line is the smaller ratio of the two kinds of photos over 0.97; exit 1 below 1.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.support.pages import DATA, ROOT, base_tree

ROUNDS, GOAL = 7, 0.97
WORKER = """
import json, sys, time
from pathlib import Path
from keras_pipeline.data.photo import to_record
photos = [file.read_bytes() for file in sorted(Path(sys.argv[1]).glob("*.jpg"))]
options = {"short_side": 256, "min_short_side": 64, "quality": 95}
to_record(photos[0], **options)
started = time.process_time()
for photo in photos:
    to_record(photo, **options)
print(json.dumps(len(photos) / (time.process_time() - started)))
"""


def photos_a_second(tree: Path, folder: Path) -> float:
    """Run the conversion with the package of a source tree; return photos a second of CPU time."""
    command = [sys.executable, "-c", WORKER, str(folder)]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return float(json.loads(done.stdout.splitlines()[-1]))


def compare(kind: str, trees: dict[str, Path], folder: Path) -> float:
    """Print the photos a second of each build; return ours over BASE's."""
    found: dict[str, list[float]] = {name: [] for name in trees}
    for _ in range(ROUNDS):
        for name, tree in trees.items():
            found[name].append(photos_a_second(tree, folder))
    middle = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        print(f"{kind}, {name}: {middle[name]:.1f} photos/s ({min(values):.1f} to {max(values):.1f})", flush=True)
    ratio, noise = (middle[name] / middle["base"] for name in ("ours", "again"))
    print(f"{kind}: ours / base {ratio:.3f}, again / base {noise:.3f}")
    return ratio


def main(scratch: Path) -> int:
    files = sorted((DATA / "flowers17/images").glob("*.jpg"))[::5]
    large = io.BytesIO()
    Image.open(files[0]).resize((4000, 3000), Image.Resampling.BICUBIC).save(large, "JPEG", quality=90)
    for kind, photos in (("500 px", [file.read_bytes() for file in files]), ("12 megapixels", [large.getvalue()] * 20)):
        (scratch / kind).mkdir(parents=True)
        for number, photo in enumerate(photos):
            (scratch / kind / f"{number:04}.jpg").write_bytes(photo)
    started = time.perf_counter()
    with base_tree() as tree:
        trees = {"base": tree, "ours": ROOT, "again": tree}
        smallest = min(compare(kind.name, trees, kind) for kind in sorted(scratch.iterdir()))
    print(f"{time.perf_counter() - started:.0f} s\n{smallest / GOAL:.3f}")
    return int(smallest < GOAL)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        sys.exit(main(Path(name)))
