"""Names of the artefacts, and the sidecars that say what each was made from.

An artefact `X` has a sidecar `X.meta.json`: {content_hash, sha256, size, mtime_ns, producer, code_version,
config_hash, config, inputs, seconds, finished}. A step is up to date while the sidecars of all its outputs still match
its code, its config and its inputs (`content` has the hashes, `settings` the config's part).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_pipeline.core import cluster
from keras_pipeline.core.config import Config
from keras_pipeline.core.content import UNREADABLE, byte_hashes, content_hash, files_in
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.settings import config_hash, difference, settings_hash, settings_of, shown

ARTEFACTS = {
    "audit": "artifacts/{experiment}/phase0/audit.json",
    "url_check": "artifacts/{experiment}/phase0/url_check.json",
    "url_ledger": "artifacts/{experiment}/phase0/url_ledger.parquet",
    "dataset": "tfrecords/{dataset}/dataset.json",
    "assignment": "tfrecords/{dataset}/assignment.parquet",
    "leak_audit": "artifacts/{experiment}/phase0/leak_audit.json",
    "baseline": "artifacts/{experiment}/phase0/baseline.json",
    "baseline_predictions": "artifacts/{experiment}/phase0/predictions_test.npz",
    "teacher": "artifacts/{experiment}/phase1/best.keras",
    "teacher_history": "artifacts/{experiment}/phase1/history.json",
    "teacher_curves": "artifacts/{experiment}/phase1/curves.png",
    "teacher_metrics": "artifacts/{experiment}/phase1/metrics_test.json",
    "teacher_predictions": "artifacts/{experiment}/phase1/predictions_test.npz",
    "teacher_pictures": "artifacts/{experiment}/phase1/pictures_test",
    "teacher_logits": "artifacts/{experiment}/phase1/soft_labels",
    "regional_subset": "artifacts/{experiment}/phase2/subset.json",
    "regional_index": "artifacts/{experiment}/phase2/subset.parquet",
    "regional": "artifacts/{experiment}/phase2/best.keras",
    "regional_history": "artifacts/{experiment}/phase2/history.json",
    "regional_curves": "artifacts/{experiment}/phase2/curves.png",
    "regional_metrics": "artifacts/{experiment}/phase2/metrics_test.json",
    "regional_predictions": "artifacts/{experiment}/phase2/predictions_test.npz",
    "regional_pictures": "artifacts/{experiment}/phase2/pictures_test",
    "regional_comparison": "artifacts/{experiment}/phase2/comparison.json",
    "regional_logits": "artifacts/{experiment}/phase2/soft_labels",
    "soft_labels": "artifacts/{experiment}/phase3/soft_labels",
    "soft_label_check": "artifacts/{experiment}/phase3/check.json",
    "ensemble_val": "artifacts/{experiment}/phase3/ensemble_val.npz",
    "distilled": "artifacts/{experiment}/phase4/distill/best.keras",
    "distill_history": "artifacts/{experiment}/phase4/distill/history.json",
    "student": "artifacts/{experiment}/phase4/finetune/best.keras",
    "finetune_history": "artifacts/{experiment}/phase4/finetune/history.json",
    "student_metrics": "artifacts/{experiment}/phase4/metrics_test.json",
    "student_predictions": "artifacts/{experiment}/phase4/predictions_test.npz",
    "student_pictures": "artifacts/{experiment}/phase4/pictures_test",
    "student_metrics_val": "artifacts/{experiment}/phase4/metrics_val.json",
    "student_metrics_train": "artifacts/{experiment}/phase4/metrics_train.json",
    "curves": "artifacts/{experiment}/phase4/curves.png",
    "predictions": "artifacts/{experiment}/phase5/predictions.npz",
    "logits": "artifacts/{experiment}/phase5/logits",
    "reliability": "artifacts/{experiment}/phase5/reliability.png",
    "reliability_regions": "artifacts/{experiment}/phase5/reliability_regions.png",
    "temperature": "artifacts/{experiment}/phase5/temperature.json",
    "calibration": "artifacts/{experiment}/phase5/calibration.json",
    "priors": "artifacts/{experiment}/phase5/priors.json",
    "risk_coverage": "artifacts/{experiment}/phase5/risk_coverage.png",
    "shipped": "artifacts/{experiment}/phase6/student_shipped.keras",
    "tflite": "artifacts/{experiment}/phase6/tflite",
    "quantization": "artifacts/{experiment}/phase6/quantization.json",
    "shipped_calibration": "artifacts/{experiment}/phase6/calibration.json",
    "saved_model": "artifacts/{experiment}/phase6/saved_model",
    "export": "artifacts/{experiment}/phase6/export.json",
    "web": "web_export/{experiment}",
    "equivalence": "artifacts/{experiment}/phase6/equivalence.json",
    "equivalence_worst": "artifacts/{experiment}/phase6/worst.png",
    "manifest": "artifacts/{experiment}/phase7/manifest.yaml",
    "report": "artifacts/{experiment}/report.html",
}

# What has to be in a sidecar for it to vouch for anything; sidecars had no sha256 at first.
SIDECAR = {
    "content_hash": str, "sha256": dict, "size": int, "mtime_ns": int, "producer": str, "code_version": int,
    "config_hash": str, "config": dict, "inputs": dict, "seconds": float, "finished": str,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """What a step gets: the config, where things lie, and how to open the source."""

    config: Config
    open_source: Callable[[Config], contextlib.AbstractContextManager[tuple[str, str | None]]]  # -> (uri, base_url)
    split: str = "test"  # of `evaluate`
    made_from: str = ""  # `recipe` of the step under way: what a killed run left goes on only under the same one
    beam: tuple[str, ...] | None = None  # Beam's arguments, where it deals out the work; not part of any result
    stale: Mapping[str, str] = dataclasses.field(default_factory=dict)  # makers of its inputs, and why they are

    def path(self, name: str) -> Path:
        """Where artefact `name` lies."""
        relative = ARTEFACTS[name].format(experiment=self.config.experiment, dataset=self.config.dataset_name)
        return Path(self.config.root) / relative

    @property
    def folder(self) -> Path:
        """artifacts/<experiment>"""
        return Path(self.config.root) / "artifacts" / self.config.experiment

    @property
    def assists(self) -> bool:
        """Whether another machine writes, and this one only takes part in training."""
        return self.config.distribute == "multi_worker" and not cluster.task().is_chief

    def why_not_applicable(self, phase: str) -> str | None:
        """Why the phase has nothing to do, which is where its section of the config is null; None where it has."""
        if getattr(self.config, phase, True) is not None:
            return None
        regions = self.read("audit")["per_region"] if self.path("audit").exists() else {}
        if len(regions) == 1:
            ((region, n),) = regions.items()
            return f"all {n:,} photos are of region {region}: there is no region to tell from the rest"
        return f"the config says {phase}: null"

    @property
    def embedded_photos(self) -> Path | None:
        """Where the photos of an embedded source lie, drawn or given; None: the source is another."""
        if self.config.source.uri != "embedded":
            return None
        given = self.config.source.demo.images
        return Path(given) if given else self.folder / "source/herbarium"

    def read(self, name: str) -> dict:
        """A JSON artefact. Raises BrokenArtefact naming it when it is absent or not JSON."""
        return read_json(self.path(name))


@dataclasses.dataclass(frozen=True)
class Step:
    """One command: which artefacts it reads and leaves, which config it depends on, and what it does."""

    phase: str
    name: str
    run: Callable[[Run], None]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sections: tuple[str, ...]  # dotted config keys
    code_version: int
    # Removes what only a restart needs, once the outputs are safe; again after each later run.
    clean: Callable[[Run], None] | None = None
    estimate: Callable[[Run], str] | None = None  # what `--dry-run` says of its size
    # (run, photos as far as they are counted), before anything runs: raises where the step can't succeed
    check: Callable[[Run, Any], None] | None = None
    more_inputs: Callable[[Config], tuple[str, ...]] | None = None  # that only some configs ask for
    trains: bool = False  # on all devices that the config's `distribute` names

    @property
    def title(self) -> str:
        return f"{self.phase} {self.name}"

    def needs(self, config: Config) -> tuple[str, ...]:
        """Names of the artefacts that it reads."""
        return self.inputs + (self.more_inputs(config) if self.more_inputs else ())


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        said = "missing; the step that writes it has not run, or it was removed (see `status`)"
        raise BrokenArtefact(f"{path}: {said}") from None
    except (ValueError, RecursionError) as error:
        raise BrokenArtefact(f"{path}: not JSON ({error}); remove it and run its step again") from error


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling; renames it over `path` on success, removes it on failure."""
    temporary = temporary_for(path)
    try:
        yield temporary
        if temporary.is_dir() and path.exists():
            old = path.with_name(f".old-{os.getpid()}-{path.name}")
            path.rename(old)
            temporary.rename(path)
            remove(old)
        else:
            temporary.replace(path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """A file or a folder, where there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def temporary_for(path: Path) -> Path:
    """A sibling to write in until `path` is complete; the runner removes what a killed run left under such names.

    It keeps the suffix, because Keras chooses a format by it.
    """
    return path.with_name(f".writing-{os.getpid()}-{path.name}")


def changed_files(path: Path, meta: dict) -> list[str]:
    """Reads all of an artefact; the files that are not, byte for byte, what its step left."""
    if not path.exists():
        return [f"{path} (missing)"]
    if "sha256" not in meta:
        return [] if _has_content(path, meta["content_hash"]) else [str(path)]
    found, then = byte_hashes(path), meta["sha256"]
    folder = path if path.is_dir() else path.parent
    names = [name for name in sorted({**found, **then}) if found.get(name) != then.get(name)]
    return [str(folder / name) + ("" if name in found else " (missing)") for name in names]


def _sidecar_of(path: Path) -> Path:
    return path.with_name(path.name + ".meta.json")


def has_unreadable_sidecar(path: Path) -> bool:
    return sidecar(path) is None and _sidecar_of(path).exists()


def sidecar(path: Path) -> dict | None:
    file = _sidecar_of(path)
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None  # a pipe would never end
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        found = None
    # A broken sidecar means nothing is known: the step runs again.
    complete = isinstance(found, dict) and all(
        isinstance({"sha256": {}, **found}.get(key), kind) for key, kind in SIDECAR.items()
    )
    return found if complete else None


def write_sidecars(run: Run, step: Step, seconds: float) -> None:
    """Called once after a step has succeeded."""
    inputs, settings = input_hashes(run, step), settings_of(run.config, step.sections)
    for name in step.outputs:
        path = run.path(name)
        meta = {
            "content_hash": content_hash(path),
            "sha256": byte_hashes(path),
            **fingerprint(path),
            "producer": step.title,
            "code_version": step.code_version,
            "config_hash": settings_hash(settings),
            "config": shown(settings),
            "inputs": inputs,
            "seconds": round(seconds, 2),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(_sidecar_of(path), meta)


def fingerprint(path: Path) -> dict:
    """Size and time: cheap enough for `status`, where content_hash is not.

    dataset.json stands for the shards beside it too, which it lists with their sha256.
    """
    files = files_in(path) if path.is_dir() else [path]
    if path.name == "dataset.json":
        files += path.parent.glob("*.tfrecord")
    stats = [file.stat() for file in files]
    return {"size": sum(s.st_size for s in stats), "mtime_ns": max((s.st_mtime_ns for s in stats), default=0)}


def renew_times(path: Path) -> None:
    """A copy's files are younger than its sidecar says. To be called when its bytes are known to be the same."""
    meta, now = sidecar(path), fingerprint(path)
    if meta and not now.items() <= meta.items():
        write_json(_sidecar_of(path), meta | now)


def was_edited(path: Path) -> bool:
    """Whether a JSON file or a table says something else than when its step wrote it. Other artefacts have checks of
    their own, which name the damaged part.
    """
    return path.suffix in (".json", ".parquet") and _is_altered(path)


def _is_altered(path: Path) -> bool:
    """Whether what is there is not what its step left; a small file is read, of others size and time tell."""
    meta = sidecar(path)
    if meta is None or not path.exists() or fingerprint(path).items() <= meta.items():
        return False
    return path.suffix not in (".json", ".parquet") or not _has_content(path, meta["content_hash"])


def _has_content(path: Path, content: str) -> bool:
    try:
        return content_hash(path) == content
    except UNREADABLE:
        return False


def input_hashes(run: Run, step: Step) -> dict[str, str | None]:
    """Of what is there now: a verdict on an altered file must not count for what its step left."""
    return {name: _present_hash(run.path(name)) for name in step.needs(run.config)}


def _present_hash(path: Path) -> str | None:
    if _is_altered(path):
        with contextlib.suppress(*UNREADABLE):
            return content_hash(path)
        return "altered"
    return (sidecar(path) or {}).get("content_hash")


def table_attributes(path: Path) -> dict:
    """`attrs` of a table that pandas wrote as parquet; {} where there is none, or no parquet file."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return {}
    return json.loads(metadata.get(b"PANDAS_ATTRS", b"{}"))


def recipe(run: Run, step: Step) -> str:
    """A hash of all that a step's outputs depend on: its code, its config and its inputs."""
    parts = [step.title, step.code_version, config_hash(run.config, step.sections), input_hashes(run, step)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def why_stale(run: Run, step: Step) -> str | None:
    """None when the step is up to date, otherwise the reason in a few words."""
    settings = settings_of(run.config, step.sections)
    made_of = []  # the inputs of each output, as its sidecar has them
    for name in step.outputs:
        path = run.path(name)
        meta = sidecar(path)
        if meta is None:
            return f"the sidecar of {name} can't be read" if has_unreadable_sidecar(path) else f"{name} not made yet"
        if not path.exists():
            return f"{name} is missing"
        if {key: meta.get(key) for key in ("size", "mtime_ns")} != fingerprint(path):
            return f"{name} is not as its step left it (size or time)"
        if meta.get("code_version") != step.code_version:
            return "its code changed"
        if meta.get("config_hash") != settings_hash(settings):
            return f"its config changed{difference(meta['config'], shown(settings))}"
        made_of.append(meta["inputs"])
    wanted = step.needs(run.config)
    dropped = sorted({name for inputs in made_of for name in inputs} - {*wanted})
    if dropped:
        return f"made from {', '.join(dropped)} too, which the config leaves out now"
    for source in wanted:
        if _is_altered(run.path(source)):
            return f"its input {source} is not as its step left it"
        now = (sidecar(run.path(source)) or {}).get("content_hash")
        if any(inputs.get(source) != now for inputs in made_of):
            return f"its input {source} changed"
    return None
