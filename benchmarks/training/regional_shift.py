"""Is the regional teacher worth its training where the region is different, and only there?

    .venv/bin/python -m benchmarks.training.regional_shift      (CPU only, 2 cores, twelve minutes)

Two herbaria of the same plan through phases 0 to 2 of configs/demo.yaml. In the first (`source.demo.regional_shift`)
plants of EU_SW look like other species do elsewhere, in the second like everywhere; in both the picture tells nothing
of the region. The regional teacher starts from the global one and learns from EU_SW's photos alone. Prints top-1 of
both teachers by region and the paired difference with its 95 % interval (bootstrap over groups); as the last line the
lower end of EU_SW's gain with the shift over the upper end of it without. Exit 1 below 1, unless the verdict is
'better' with the shift, or where it is 'better' without.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Three times the demo's photos and a third of them to test on: the demo's own 42 of EU_SW leave 30 points of doubt.
SETTINGS = {
    "source.demo.photos": 3000,
    "phase0.split": {"train": 0.55, "val": 0.08, "calibration": 0.04, "test": 0.33},
    "phase2.model.pretrained": "global_teacher",
    "phase2.data.augmentation": "moderate",
    "phase2.training.learning_rate": 1e-3,
    "phase2.training.epochs": 15,
    "phase2.training.warmup_epochs": 1,
}


def by_region(root: str, name: str, shift: bool) -> dict[str, dict]:
    """phase2/comparison.json's `by_region` of one herbarium."""
    values = {"root": root, "experiment": name, "source.demo.regional_shift": shift, **SETTINGS}
    settings = [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    command = [sys.executable, "-m", "keras_pipeline", "run", "--config", "configs/demo.yaml", *settings]
    log = Path(root) / f"{name}.log"
    with log.open("w") as out:
        code = subprocess.run(
            [*command, "--until", "phase2 evaluate"], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
        ).returncode
    if code not in (0, 1):  # 1: a gate of the demo's, which has another herbarium, was missed
        sys.exit(f"{name}: exit {code}\n{log.read_text()[-3000:]}")
    return json.loads((Path(root) / f"artifacts/{name}/phase2/comparison.json").read_text())["by_region"]


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        found = {}
        for name, shift in (("shifted", True), ("usual", False)):
            found[name] = by_region(root, name, shift)
            print(f"{name}:")
            for region, entry in found[name].items():
                low, high = entry["interval"]
                print(
                    f"  {region:<6} n {entry['n']:>3} in {entry['groups']:>3} groups: global {entry['first']:.3f}, "
                    f"regional {entry['second']:.3f}, difference {entry['difference']:+.3f} [{low:+.3f}, {high:+.3f}], "
                    f"{entry['verdict']}",
                    flush=True,
                )
    shifted, usual = found["shifted"]["EU_SW"], found["usual"]["EU_SW"]
    ratio = shifted["interval"][0] / max(usual["interval"][1], 1e-3)
    print(f"{ratio:.2f}")
    if not (ratio >= 1 and shifted["verdict"] == "better" and usual["verdict"] != "better"):
        sys.exit(1)


if __name__ == "__main__":
    main()
