"""The first answer of the page at 9,000 species, from a cold start over a slow link, beside commit BASE's.

    .venv/bin/python -m benchmarks.export.page_9000      (CPU only, 2 cores, five minutes, headless Chromium)

MobileNetV2 0.35 at 32 px with a head of 128, random weights in fp16 (3.2 MB in both builds); 9,000 species of 1,800
genera. Once without region priors, once with those of 200 regions. Each visit is a new browser context: open the page,
choose a 12-megapixel JPEG as soon as that is possible, wait for the answer. Each link has one speed for all requests
together, and a round trip before each answer; the builds take turns.

Prints medians and what was fetched before the answer; the last line is the smaller of 0.6 over the ratio of the times
with priors over the first link, and 150 kB over the JSON; exit 1 below 1. Without priors the ratio is reported: it is
that of the bytes, and the weights are most of them.
"""

import io
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.support.pages import ROOT, Link, base_tree, slow_server, written_by
from keras_pipeline.export.browser import open_browser

ROUNDS = 5
LINKS = {"20 Mbit/s, 40 ms": (20e6, 0.04), "100 Mbit/s, 20 ms": (100e6, 0.02)}
RATIO, JSON_BYTES = 0.6, 150_000


def visit(browser: Any, folder: Path, speed: tuple[float, float], photo: bytes) -> tuple[float, dict[str, int]]:
    """Return the seconds until the answer, and the bytes of each file that was fetched before it."""
    link = Link(*speed)
    with slow_server(folder, link) as base:
        context = browser.new_context(service_workers="block")
        page = context.new_page()
        started = time.perf_counter()
        page.goto(base, wait_until="commit")
        page.wait_for_selector("body[data-state=ready]", timeout=300_000)
        page.set_input_files("#choose", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo})
        page.wait_for_selector("body[data-state=answered]", timeout=300_000)
        seconds, fetched = time.perf_counter() - started, dict(link.bytes)
        context.close()
    return seconds, fetched


def main() -> int:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    large = io.BytesIO()
    Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC).save(large, "JPEG", quality=90)
    judged: list[float] = []
    with tempfile.TemporaryDirectory() as scratch, base_tree() as tree, open_browser() as browser:
        for what in ("many_species", "many_species_regions"):
            trees = {"ours": ROOT, "base": tree}
            bundles = {name: written_by(trees[name], what, Path(scratch) / what / name) for name in trees}
            for link, speed in LINKS.items():
                times: dict[str, list[float]] = {name: [] for name in bundles}
                fetched: dict[str, dict[str, int]] = {}
                for _ in range(ROUNDS):
                    for name, bundle in bundles.items():
                        seconds, fetched[name] = visit(browser, bundle, speed, large.getvalue())
                        times[name].append(seconds)
                ours, base = (statistics.median(times[name]) for name in ("ours", "base"))
                print(f"{what}, {link}: {ours:.2f} s, before {base:.2f} s: {ours / base:.3f} times")
                for name, each in fetched.items():
                    json = sum(size for path, size in each.items() if path.endswith(".json"))
                    singles = " ".join(f"{seconds:.2f}" for seconds in times[name])
                    names = sum(size for path, size in each.items() if path.endswith("names.txt"))
                    print(f"  {name}: {singles}; {sum(each.values()) / 1e6:.2f} MB, JSON {json / 1e3:.0f} kB, "
                          f"names {names / 1e3:.0f} kB", flush=True)  # fmt: skip
                    if name == "ours" and what == "many_species":
                        judged.append(JSON_BYTES / json)
                if what == "many_species_regions" and link == next(iter(LINKS)):
                    judged.append(RATIO * base / ours)
    print(f"{min(judged):.2f}")
    return int(min(judged) < 1)


if __name__ == "__main__":
    sys.exit(main())
