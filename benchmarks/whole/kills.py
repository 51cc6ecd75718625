"""Does a run that is killed, or meets a full disk, end with what an undisturbed one ends with?

    .venv/bin/python -m benchmarks.whole.kills      (CPU only, 2 cores, half an hour)

The suite's run of the whole road (easy photos, tiny networks, a real browser; deterministic mode). One run is left
alone. Another is killed 25 times (`kill -9`) at moments drawn by a seed, each after it has made some progress, every
third one while a file is being written aside, and then finished. A third meets, one after the other, limits on the size
of files (as on a full disk, writes fail half-way; `run` has to say so and exit with 3), and is then finished without.
All content hashes of all artefacts but the manifest (it holds dates) are compared.

Prints each kill: step, what it had written, and as the last line the share of kills and limits that are survived with
equal hashes; exit 1 below 1.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from test_end_to_end import CONFIG, draw_photos  # noqa: E402

KILLS, SEED = 25, 42
MADE = (".tfrecord", ".keras", "position.json", ".meta.json")  # shards, checkpoints, training's backups, artefacts
LIMITS = (30e3, 200e3, 700e3, 3e6)  # bytes; records, checkpoints, soft labels and figures are larger


def command(root: Path) -> list[str]:
    file = root.parent / "kills.yaml"
    return [sys.executable, "-m", "keras_pipeline", "run", "--config", str(file), "--set", f"root={root}"]


def prepare(folder: Path) -> None:
    """The photos and the config of the suite's own run of the whole road."""
    photos = folder / "photos"
    photos.mkdir()
    demo = {"images": str(photos), "labels": str(draw_photos(photos))}
    config = CONFIG | {"source": {"uri": "embedded", "demo": demo}}
    (folder / "kills.yaml").write_text(yaml.safe_dump(config))


def run(root: Path, *more: str, limit: float | None = None) -> subprocess.CompletedProcess:
    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))

    return subprocess.run([*command(root), *more], cwd=ROOT, capture_output=True, text=True, preexec_fn=limited)


def hashes(root: Path) -> dict[str, str]:
    found = {}
    for file in sorted(root.rglob("*.meta.json")):
        if file.parent.name != "phase7":
            found[str(file.relative_to(root))] = json.loads(file.read_text())["content_hash"]
    return found


def finish(root: Path) -> dict[str, str]:
    done = run(root)
    if done.returncode:
        sys.exit(f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    left = [str(path) for path in root.rglob("*") if path.name.startswith((".writing-", ".old-"))]
    if left:
        sys.exit(f"left behind: {left}")
    return hashes(root)


def entries(root: Path) -> Iterator[Path]:
    """All files and folders; os.walk passes over a folder that the run removes meanwhile, as Path.rglob doesn't."""
    for folder, folders, files in os.walk(root):
        yield from (Path(folder) / name for name in (*folders, *files))


def half_written(root: Path) -> list[str]:
    return [path.name for path in entries(root) if path.name.startswith(".writing-")]


def newer(root: Path, than: float, endings: tuple[str, ...]) -> list[Path]:
    """What a run has finished since."""
    found = []
    for path in entries(root):
        try:
            if path.name.endswith(endings) and not path.name.startswith(".") and path.stat().st_mtime > than:
                found.append(path)
        except FileNotFoundError:
            continue
    return found


def kill_once(root: Path, number: int, chance: random.Random) -> bool:
    """Starts the run and kills it; False where it ended first."""
    # Half of them after a whole step: else all kills would come in the few that take long.
    delay, in_a_write, after_a_step = chance.uniform(0, chance.choice((2, 10))), number % 3 == 0, number % 2 == 0
    started = time.time()
    log = root.parent / "killed.log"
    with log.open("w") as out:
        process = subprocess.Popen(command(root), cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
    progress: list[Path] = []
    moment = None
    while process.poll() is None:
        if not progress:
            progress = newer(root, started, (".meta.json",) if after_a_step else MADE)
            moment = time.time() + delay
        elif time.time() > moment and (not in_a_write or time.time() > moment + 60 or half_written(root)):
            break
        time.sleep(0.003 if progress else 0.1)
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with_write = half_written(root)
    steps = re.findall(r"^(phase\d [\w-]+): (?!up to date|done)", log.read_text(), re.M)
    written = len(newer(root, started, MADE))
    print(
        f"kill {number}: in {steps[-1] if steps else '?'}, {written} files further, half-written: {with_write}",
        flush=True,
    )
    return True


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        expected = finish(Path(folder, "undisturbed"))
        print(f"undisturbed: {len(expected)} artefacts", flush=True)
        chance, kills, rounds, survived = random.Random(SEED), 0, 0, 0
        while kills < KILLS:  # where the run ends before all kills are spent, another one takes the rest
            rounds += 1
            root, before = Path(folder, f"killed-{rounds}"), kills
            root.mkdir()
            while kills < KILLS and kill_once(root, kills + 1, chance):
                kills += 1
            survived += (kills - before) if same(expected, finish(root), f"after {kills - before} kills") else 0
            shutil.rmtree(root)
        root, stopped = Path(folder, "full"), 0
        run(root, "--until", "phase0 audit")  # the embedded MongoDB needs more room than what comes after it
        for limit in LIMITS:
            done = run(root, limit=limit)
            said = next((line for line in done.stderr.splitlines() if line.startswith("error: ")), "nothing")
            stopped += done.returncode == 3 and said != "nothing"
            print(f"files of at most {limit:,.0f} bytes: exit {done.returncode}, {said[:200]}", flush=True)
        stopped = stopped if same(expected, finish(root), "after full disks") else 0
    print(f"{(survived + stopped) / (KILLS + len(LIMITS)):.3f}")
    return int(survived + stopped < KILLS + len(LIMITS))


def same(expected: dict[str, str], found: dict[str, str], when: str) -> bool:
    different = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    print(f"{when}: {len(found)} artefacts, different: {different or 'none'}", flush=True)
    return not different


if __name__ == "__main__":
    sys.exit(main())
