"""`phase0 export` by Beam's DirectRunner with two worker processes, against the local engine.

    .venv/bin/python -m benchmarks.phase0.beam_export      (about 5 minutes on 2 cores)

The same JPEGs of 800 x 600 px from two hosts on loopback, 600 and then 2,400 of them; seconds of the whole commands, in
turn. A line through the two sizes gives the fixed cost and the cost a photo. Two workers on two cores can't be faster
than the engine that uses both: what Beam costs is what is measured, what more machines would bring is arithmetic.

Prints both, what 1, 10 and 100 such workers would take for 850,000 photos of as many hosts, and as the last line
images/s of Beam over the local engine's, without the fixed cost; exit 1 where the two stored other photos.
"""

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.support import loopback
from keras_pipeline.core.progress import duration
from keras_pipeline.data import records

SIZES, FULL = (600, 2400), 850_000
WORKERS = ("--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing")


def export(folder: Path, config: Path, name: str, photos: int) -> float:
    """Seconds of the command."""
    root = folder / f"{name}-{photos}"
    chosen = ["--set", f"root={root}", "--set", f"source.query={json.dumps({'number': {'$lt': photos}})}"]
    loopback.audit(config, *chosen)
    command = [sys.executable, "-m", "keras_pipeline", "phase0", "export", "--config", str(config), *chosen]
    if name == "beam":
        command += ["--runner", "beam", "--beam-args", *WORKERS]
    seconds, megabytes = loopback.run_watched(command, folder / f"{name}-{photos}.log")
    print(f"{name}: {photos} photos in {seconds:.1f} s, {megabytes:.0f} MB", flush=True)
    return seconds


def stored(root: Path) -> set[tuple[str, str]]:
    shards = root.glob("tfrecords/*/raw/photos-*.tfrecord")
    photos = (records.decode(example) for shard in shards for example in records.read_shard(shard))
    return {(photo.sample_id, photo.sha256) for photo in photos}


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        loopback.real_photos(folder / "photos", SIZES[-1], (800, 600), quality=85)
        files = sorted(path.name for path in (folder / "photos").glob("*.jpg"))
        with (
            loopback.photo_host(folder / "photos") as first,
            loopback.photo_host(folder / "photos") as second,
            loopback.collection(folder / "mongo", _documents(files, (first, second))) as (uri, _),
        ):
            loopback.write_config(folder / "bench.yaml", uri, None)
            found = {engine: [] for engine in ("local", "beam")}
            for photos in SIZES:
                for engine, seconds in found.items():
                    seconds.append(export(folder, folder / "bench.yaml", engine, photos))
                if stored(folder / f"local-{photos}") != stored(folder / f"beam-{photos}"):
                    print("not the same photos")
                    return 1
    each = {engine: (s[1] - s[0]) / (SIZES[1] - SIZES[0]) for engine, s in found.items()}
    for engine, seconds in found.items():
        fixed = seconds[0] - each[engine] * SIZES[0]
        print(f"{engine}: {fixed:.1f} s fixed, {1000 * each[engine]:.2f} ms a photo, {1 / each[engine]:.0f} images/s")
    fixed = found["beam"][0] - each["beam"] * SIZES[0]
    for workers in (1, 10, 100):  # the two had a core each
        print(f"{workers} workers: {duration(fixed + 2 * each['beam'] * FULL / workers)} for {FULL:,} photos")
    print(f"{each['local'] / each['beam']:.2f}")
    return 0


def _documents(files: list[str], hosts: tuple[str, str]):
    for i, file in enumerate(files):
        yield {"_id": file, "number": i, "latin_name": f"Species {i % 17}", "image_url": hosts[i % 2] + file}


if __name__ == "__main__":
    sys.exit(main())
