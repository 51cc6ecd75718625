"""`phase0 export` against img2dataset 1.47: the same 2,400 JPEGs of 800 x 600 px from one server on loopback.

    .venv/bin/python -m benchmarks.phase0.export_vs_img2dataset      (about 5 minutes on 2 cores)

Both shrink to short side 256 and encode at quality 95. img2dataset runs in an environment of its own (made on the first
run in build/img2dataset) with its README's command, 2 processes and 64 threads. Three runs each, in turn; the best of
each counts. Both rates are the tools' own, from the first request to the last finished shard (ours read back as well);
what comes before is in the seconds of the whole commands, shown beside them. The outputs are compared photo by photo.
Prints images/s and peak memory (process trees) and as the last line the ratio; exit 1 below 2.5, or where ours needs
more memory.
"""

import io
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
from PIL import Image

from benchmarks.support import loopback
from keras_pipeline.data import records

PHOTOS, ROUNDS, GOAL = 2400, 3, 2.5
LEAST_PSNR = 28.0  # dB, the worst photo: other chroma sampling, another filter, fine texture, but the same picture
BUILD = loopback.ROOT / "build/img2dataset"


def img2dataset() -> Path:
    program = BUILD / "bin/img2dataset"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", BUILD], check=True)
        subprocess.run([BUILD / "bin/python", "-m", "pip", "install", "-q", "img2dataset==1.47.0"], check=True)
    return program


def theirs(folder: Path, urls: Path, number: int) -> tuple[float, float, float]:
    """(images/s, peak MB, seconds of the command)"""
    out, log = folder / f"theirs{number}", folder / f"theirs{number}.log"
    command = [
        str(img2dataset()), f"--url_list={urls}", f"--output_folder={out}", "--processes_count=2", "--thread_count=64",
        "--image_size=256", "--resize_mode=keep_ratio", "--resize_only_if_bigger=True", "--output_format=webdataset",
        "--encode_quality=95", f"--number_sample_per_shard={PHOTOS // 2}",
    ]  # fmt: skip
    seconds, megabytes = loopback.run_watched(command, log)
    rates = re.findall(r"total.*images per sec: (\d+) - count: (\d+)", log.read_text())
    rate = next(int(rate) for rate, count in rates if int(count) == PHOTOS)
    return float(rate), megabytes, seconds


def ours(folder: Path, config: Path, number: int) -> tuple[float, float, float]:
    root = ["--set", f"root={folder / f'ours{number}'}"]
    loopback.audit(config, *root)
    command = [sys.executable, "-m", "keras_pipeline", "phase0", "export", "--config", str(config), *root]
    log = folder / f"ours{number}.log"
    seconds, megabytes = loopback.run_watched(command, log)
    rate = re.search(rf"{PHOTOS} photos in [\d.]+ s: ([\d.]+) a second", log.read_text())
    return float(rate[1]), megabytes, seconds


def compare(folder: Path) -> None:
    """Raises ValueError where the two outputs are not the same photos."""
    mine = {}
    for shard in (folder / "ours0/tfrecords/bench/raw").glob("*.tfrecord"):
        for example in records.read_shard(shard):
            photo = records.decode(example)
            mine[photo.source_url] = photo.image
    worst = np.inf
    for tar in (folder / "theirs0").glob("*.tar"):
        table = pyarrow.parquet.read_table(tar.with_suffix(".parquet")).to_pydict()
        urls = {key: url.rsplit("/", 1)[1] for key, url in zip(table["key"], table["url"], strict=True)}
        with tarfile.open(tar) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    a = np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read())), float)
                    b = np.asarray(Image.open(io.BytesIO(mine.pop(urls[member.name.removesuffix(".jpg")]))), float)
                    if a.shape != b.shape:
                        raise ValueError(f"{member.name}: {a.shape} and {b.shape}")
                    worst = min(worst, 10 * np.log10(255**2 / ((a - b) ** 2).mean()))
    if mine or worst < LEAST_PSNR:
        raise ValueError(f"{len(mine)} photos only in ours; worst PSNR {worst:.1f} dB")
    print(f"the same {PHOTOS} photos of the same sizes; worst PSNR between the two {worst:.1f} dB")


def main() -> int:
    img2dataset()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        loopback.real_photos(folder / "photos", PHOTOS, (800, 600), quality=85)
        files = sorted(path.name for path in (folder / "photos").glob("*.jpg"))
        mean = sum(path.stat().st_size for path in (folder / "photos").glob("*.jpg")) / len(files)
        print(f"{len(files)} photos of {mean / 1e3:.0f} kB")
        documents = ({"_id": f, "latin_name": f"Species {i % 17}", "image_url": f} for i, f in enumerate(files))
        with (
            loopback.photo_host(folder / "photos") as base_url,
            loopback.collection(folder / "mongo", documents) as (uri, _),
        ):
            (folder / "urls.txt").write_text("".join(f"{base_url}{file}\n" for file in files))
            loopback.write_config(folder / "bench.yaml", uri, base_url)
            results = {"img2dataset": [], "ours": []}
            for number in range(ROUNDS):
                results["img2dataset"].append(theirs(folder, folder / "urls.txt", number))
                results["ours"].append(ours(folder, folder / "bench.yaml", number))
                for name, runs in results.items():
                    print("{}: {:.0f} images/s, {:.0f} MB, {:.1f} s in all".format(name, *runs[-1]), flush=True)
                if number == 0:
                    compare(folder)
    best = {name: max(rate for rate, *_ in runs) for name, runs in results.items()}
    memory = {name: max(megabytes for _, megabytes, _ in runs) for name, runs in results.items()}
    ratio = best["ours"] / best["img2dataset"]
    print(f"peak memory: ours {memory['ours']:.0f} MB, img2dataset {memory['img2dataset']:.0f} MB")
    print(f"{ratio:.2f}")
    return int(ratio < GOAL or memory["ours"] > memory["img2dataset"])


if __name__ == "__main__":
    sys.exit(main())
