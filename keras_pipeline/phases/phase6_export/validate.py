"""`phase6 validate`: compare the page in real browsers with Python, on real test photos."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ImageOps

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.dataset import MIN_PHOTOS
from keras_pipeline.core.files import aside, write_json
from keras_pipeline.core.hashing import ADDED_LATER, file_hash
from keras_pipeline.core.progress import progress
from keras_pipeline.core.record import Photo
from keras_pipeline.data import records
from keras_pipeline.data.photo import upright_rgb
from keras_pipeline.evaluation.report import pictures
from keras_pipeline.export import engines, equivalence
from keras_pipeline.export.agreement import Sample
from keras_pipeline.export.browser import photos_in
from keras_pipeline.export.verdict import tested_in

SHOWN = 160  # side in pixels of a photo in the picture of the worst


def run(run: Run) -> None:
    """Write equivalence.json, also beside the page, and the picture of the photos that differ most."""
    stored = _Records(run)
    originals = _Originals(run, stored)
    bundle = run.path("web")
    browsers = run.config.phase6.browsers or engines.ENGINES
    result = equivalence.validate_bundle(
        bundle, run.path("saved_model"), stored, originals=originals, browsers=browsers
    )
    _draw_worst(run, result, stored, originals)
    write_json(run.path("equivalence"), result)
    with aside(bundle / ADDED_LATER) as temporary:
        shutil.copyfile(run.path("equivalence"), temporary)
    lines = []
    for tested in tested_in(result):
        lines.append("tested in {name} {version}".format(**tested["browser"]))
        lines += [line for name, found in tested["backends"].items() for line in _describe_backend(name, found)]
    verdict = {"passed": "the page agrees with Python", "not judged": "NOT JUDGED:", "failed": "NOT EQUIVALENT:"}
    print(*lines, *result["notes"], verdict[result["status"]], *(f"  {why}" for why in result["reasons"]), sep="\n")


def _describe_backend(name: str, result: dict) -> list[str]:
    if "error" in result:
        return []  # it is among the reasons
    memory = result["timing"]["peak_memory_mb"]
    lines = [
        f"{name} ({result['renderer']}): load {result['load_ms']:.0f} ms, first answer {result['first_ms']:.0f} ms; "
        f"{result['leaked_tensors']} tensors leaked" + (f"; peak memory {memory:.0f} MB" if memory else "")
    ]
    for stage, metrics in result["stages"].items():
        details = metrics.get("error") or (
            f"top-1 {metrics['top1_agreement']:.2%}, top-5 {metrics['top5_agreement']:.2%}"
            f"{_describe_verdicts(metrics)} the same, largest difference {metrics['max_abs_diff']:.1e}, total "
            f"variation {metrics['total_variation']:.1e}, {metrics['median_ms']:.0f} ms per photo"
        )
        lines.append(f"  {stage}, n {metrics['n']}: {'passed' if metrics['passed'] else 'FAILED'}; {details}")
    if (accuracy := result.get("accuracy")) and accuracy["n"] >= MIN_PHOTOS:
        lines.append(
            f"  top-1 of the page on {accuracy['n']} originals {accuracy['original']:.3f}, on the records made from "
            f"them {accuracy['record']:.3f}"
        )
    return lines


def _describe_verdicts(stage: dict) -> str:
    """Return '' where the stage has no verdicts, or where they are not judged, which the notes say."""
    agreement = stage.get("conclusive_agreement")
    verdicts = "" if agreement is None else f", 'conclusive' {agreement:.2%}"
    agreement = stage.get("off_list_agreement")
    return verdicts if agreement is None else f"{verdicts}, 'off the list' {agreement:.2%}"


class _Records:
    """Samples of the test split, all or a random choice; read from disk anew in each iteration."""

    def __init__(self, run: Run):
        self.info = records.load_info(run.path("dataset"))
        n, wanted = self.info.count("test"), run.config.phase6.validation_photos
        self.chosen = set(np.random.default_rng(run.config.seed).permutation(n)[:wanted].tolist())

    def __iter__(self) -> Iterator[Sample]:
        for photo in self.photos():
            yield Sample(photo.sample_id, photo.image, photo.label)

    def photos(self) -> Iterator[Photo]:
        """Read the chosen photos."""
        shards = self.info.shards("test")
        examples = (example for shard in shards for example in records.read_shard(shard))
        return (records.decode(example) for place, example in enumerate(examples) if place in self.chosen)


class _Originals:
    """Samples of photos as they were taken, from `phase6.photos`.

    Preferred are those from which the test records were made; without any, all photos there are used.
    """

    def __init__(self, run: Run, records: _Records):
        folder = Path(run.config.phase6.photos) if run.config.phase6.photos else run.embedded_photos
        self.found: dict[str, tuple[Path, int | None, str | None]] = {}
        if folder is None:
            return
        files = photos_in(folder)
        known = {photo.sha256: (photo.label, photo.sample_id) for photo in records.photos()}
        hashes = {path: file_hash(path) for path in progress(files, description="originals", unit="files")}
        chosen: list[tuple[Path, int | None, str | None]] = [
            (path, *known[digest]) for path, digest in hashes.items() if digest in known
        ]
        chosen = (chosen or [(path, None, None) for path in files])[: run.config.phase6.validation_photos]
        # Relative names, because the verdict is published beside the page.
        self.found = {photo[0].relative_to(folder).as_posix(): photo for photo in chosen}

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Sample]:
        for name, (path, label, record) in self.found.items():
            yield Sample(name, path.read_bytes(), label, record)


def _draw_worst(run: Run, result: dict, records: _Records, originals: _Originals) -> None:
    """Draw the photos on which page and Python differ most, for each stage of the first backend."""
    judged = [found["stages"] for found in result["backends"].values() if found["stages"]]
    stages: dict[str, dict] = judged[0] if judged else {}
    rows = [(stage, worst) for stage, metrics in stages.items() for worst in metrics.get("worst", [])]
    wanted = {worst["photo"] for _, worst in rows}
    files = {sample.name: sample.photo for sample in records if sample.name in wanted}
    files |= {name: path.read_bytes() for name, (path, _, _) in originals.found.items() if name in wanted}
    shown = {name: np.asarray(ImageOps.fit(upright_rgb(photo), (SHOWN, SHOWN))) for name, photo in files.items()}
    tiles = [(shown[worst["photo"]], _difference(stage, worst)) for stage, worst in rows if worst["photo"] in shown]
    with aside(run.path("equivalence_worst")) as temporary:
        if tiles:
            images, captions = zip(*tiles, strict=True)
            pictures.photo_grid(np.stack(images), captions, temporary)
        else:
            pictures.photo_grid(np.full((1, 64, 64, 3), 255.0), ["nothing was compared"], temporary)


def _difference(stage: str, worst: dict) -> str:
    python, page = worst["python"], worst["page"]
    names = python[0] if python[0] == page[0] else f"{python[0]} / {page[0]}"
    return f"{stage}: {worst['max_abs_diff']:.0e}\n{names}\n{python[1]:.4f} / {page[1]:.4f}"
