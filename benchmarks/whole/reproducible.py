"""Does the manifest make the same again? The demo in deterministic mode, and once more by `phase7 reproduce`.

    .venv/bin/python -m benchmarks.whole.reproducible      (CPU only, 2 cores, 20 to 40 minutes)

`run --config configs/demo.yaml --set deterministic=true`, then `phase7 reproduce --manifest` of what it left: another
folder, other ports of MongoDB, photos and page, the same seed. Then the demo without determinism, for what that costs:
seconds of the four training steps, with over without.

Prints what differs, and as the last line the share of artefacts whose content hash is the same; exit 1 below 1.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAINING = ("phase1/best.keras", "phase2/best.keras", "phase4/distill/best.keras", "phase4/finetune/best.keras")


def run(*arguments: str) -> None:
    command = [sys.executable, "-m", "keras_pipeline", *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if done.returncode not in (0, 1):  # 1: a gate of the demo was missed, or the repetition differs
        sys.exit(f"{arguments}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def seconds(root: Path) -> float:
    files = [root / "artifacts/demo" / f"{name}.meta.json" for name in TRAINING]
    return sum(json.loads(file.read_text())["seconds"] for file in files)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        first, plain = Path(folder, "first"), Path(folder, "plain")
        run("run", "--config", "configs/demo.yaml", "--set", "deterministic=true", "--set", f"root={first}")
        phase7 = first / "artifacts/demo/phase7"
        run("phase7", "reproduce", "--manifest", str(phase7 / "manifest.yaml"))
        found = json.loads((phase7 / "reproduction.json").read_text())
        artefacts = len([*first.rglob("*.meta.json")]) - len([*phase7.rglob("*.meta.json")])
        different = found["different"] + found["also_different"]
        names = ", ".join(different) or "none"
        print(f"{artefacts} artefacts, different: {names}; first step: {found['first_difference']}", flush=True)
        run("run", "--config", "configs/demo.yaml", "--set", f"root={plain}")
        with_, again, without = seconds(first), seconds(phase7 / "reproduction"), seconds(plain)
        print(
            f"training: {with_:.0f} and {again:.0f} s deterministic, {without:.0f} s not: {with_ / without:.2f} times"
        )
    print(f"{1 - len(different) / artefacts:.3f}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
