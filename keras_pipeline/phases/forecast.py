"""What steps will take before they run, hours and gigabytes: arithmetic on the config, corrected by what has run here.

A forecast to plan by: rates of CPUs measured once, of GPUs assumed. benchmark scale compares it with runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute
import pyarrow.parquet

from keras_pipeline.core import sidecars
from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.teachers import Model
from keras_pipeline.core.dataset import SPLITS
from keras_pipeline.core.environment import nvidia
from keras_pipeline.core.errors import SourceError
from keras_pipeline.core.region_names import photos_of
from keras_pipeline.core.sidecars import is_as_written, sidecar
from keras_pipeline.export import engines
from keras_pipeline.ingest import pace, photo_folder, urls
from keras_pipeline.phases import staleness, status
from keras_pipeline.phases.macs import macs, width
from keras_pipeline.phases.steps import STEPS, Step


@dataclasses.dataclass(frozen=True)
class Device:
    """Multiply-adds a second, all cores or the whole card together, as training reaches them."""

    name: str
    mobilenet: float
    vit: float
    cores: int
    gpu: bool = False

    def together(self, device: float, cores: float) -> float:
        """Seconds of work that needs `device` seconds of it and `cores` seconds of a core: a GPU waits for neither."""
        return max(device, cores / self.cores) if self.gpu else device + cores / self.cores


@dataclasses.dataclass(frozen=True)
class Cost:
    """Time, disk and downloads of one step."""

    seconds: float
    bytes: float = 0.0  # that it leaves on the disk
    download: float = 0.0  # bytes


# A core: training of MobileNetV2 1.0 at 160 px (flowers17) and of ViT-tiny at 224 px (benchmark train_step: 8.0
# photos a second on two), of an AMD EPYC. A GPU: assumed, of the class of an
# A100 in TF32 (156 TFLOP/s on paper): ViTs reach a third of it, depthwise convolutions wait for memory.
CORE = {"mobilenet": 6e9, "vit": 15e9}
GPU = {"mobilenet": 1.5e12, "vit": 25e12}
START = 15.0  # seconds until TensorFlow is there and a graph is traced
LIGHT = (
    "phase0 audit", "phase0 validate-urls", "phase0 export", "phase0 split", "phase2 subset", "phase3 combine",
    "phase4 plot", "phase5 temperature", "phase5 threshold", "phase7 manifest",
)  # fmt: skip
LIGHT_START = 2.0  # of these, which need neither
BROWSER_START = 35.0  # `phase6 validate`: one for each of up to five backends, which answer a few photos
PASSES = {"chromium": 2, "firefox": 2, "webkit": 1}  # over all photos: with threads, and without
DECODE = 1 / 350  # seconds of a core a photo: decoding, cropping and `aggressive` views at 224 px
READ = 2.5e-4  # besides, for a photo of any size: a record's way through tf.data
STEP = 0.036  # seconds of a training step besides its photos, on CPUs: some hundred small operations
UPDATE = 10e-9  # and for each parameter: Adam
# Seconds of one core, measured in a run of 9,000 classes and 75,000 photos at 32 px; the work grows with the classes.
ENCODE = 123e-6 / 9000  # a view and class: soft labels from logits (benchmark soft_labels_9000)
COMBINE = 48e-6 / 9000  # a view and class: averaging the teachers' (the same)
COMPARE = 150e-6 / 9000  # a photo, class and teacher: dense ensembles of `phase3 check`
HISTOGRAM = 1.8e-3  # a photo at 224 px: colours counted
COPIES = (1e-2, 3e-11)  # a judged photo: what the probe leaves of the baseline's time; a pair and feature: assumed
OWN_PROBE_EPOCHS = 10  # as `own_probe.EPOCHS`, whose module imports TensorFlow
PROBE = (8e-9, 9e-11)  # a train photo, epoch and class of the linear probe, and for each feature
SPLIT = 1e-3  # a photo: hashed, compared, moved; 0.6e-3 of CPU, not all of it on both cores
DRAWING = 0.017  # seconds a photo of the demo, before the audit
STORED_PHOTO = 45e3  # bytes at 256 px, quality 95


def device() -> Device:
    """The first GPU that the driver names, or else the cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    if listed := nvidia("name"):
        return Device(listed[0], GPU["mobilenet"], GPU["vit"], cores, gpu=True)
    return Device(f"{cores} cores", cores * CORE["mobilenet"], cores * CORE["vit"], cores)


NOT_COUNTED = "gates.valid_photos_max, as nothing is counted yet: `phase0 audit` counts"


def photos(run: Run) -> tuple[dict[str, int], str]:
    """({train, val, calibration, test, region, classes}, where from): counted, or as the config gives them."""
    config, shares = run.config, run.config.phase0.split
    region = config.phase2 and config.phase2.region
    if is_as_written(run.path("dataset")):
        dataset = run.read("dataset")
        found = {name: split["n"] for name, split in dataset["splits"].items()}
        found["region"] = photos_of(dataset["splits"]["train"]["per_region"], region) if region else 0
        return found | {"classes": len(dataset["classes"])}, "the dataset"
    share = 1 / 3
    if is_as_written(run.path("audit")):
        audit = run.read("audit")
        total, classes, origin = audit["usable"], audit["species"], "the audit"
        share = photos_of(audit["per_region"], region) / max(total, 1) if region else 0.0
    elif config.source.uri != "embedded":
        total, classes = config.gates.valid_photos_max or 1_000_000, config.phase1.model.num_classes or 9000
        origin = NOT_COUNTED
    elif config.source.demo.labels:
        names = photo_folder.names(Path(config.source.demo.labels))
        total, classes, origin = len(names), len(set(names)), config.source.demo.labels
    else:
        total, classes, origin = config.source.demo.photos, config.source.demo.species, "source.demo"
    found = {name: round(total * getattr(shares, name)) for name in ("train", "val", "calibration", "test")}
    return found | {"region": round(found["train"] * share), "classes": classes}, origin


def costs(run: Run, on: Device | None = None) -> dict[str, Cost]:
    """Of every step by its title, on the given device (none: this machine's)."""
    on = on or device()
    n, _ = photos(run)
    found = _ingest(run, n, on) | _teachers(run, n, on) | _student(run, n, on) | _proof(run, n, on)
    return {title: dataclasses.replace(cost, seconds=_start(title) + cost.seconds) for title, cost in found.items()}


def _start(title: str) -> float:
    return LIGHT_START if title in LIGHT else START


def corrected(run: Run, steps: list[Step]) -> dict[str, Cost]:
    """`costs`, with the steps that compute multiplied by what finished ones took against what was said of them.

    The factor is the median of their ratios and of 1, the forecast's own, so that one step which ran while the machine
    was busy with something else decides nothing alone, and two that agree do. What it takes to begin is not multiplied,
    nor are LIGHT steps, which wait for hosts and disks.
    """
    found, ratios = costs(run), [1.0]
    heavy = [step for step in steps if step.title not in LIGHT]
    for step in heavy:
        meta, start = sidecar(run.path(step.outputs[0])), _start(step.title)
        if meta and meta["seconds"] > 4 * START and staleness.why_stale(run, step) is None:
            ratios.append(max(meta["seconds"] - start, 1.0) / max(found[step.title].seconds - start, 1.0))
    factor = math.exp(statistics.median(map(math.log, ratios)))  # so that 3 and a third cancel out
    return found | {
        step.title: dataclasses.replace(
            found[step.title], seconds=_start(step.title) + factor * (found[step.title].seconds - _start(step.title))
        )
        for step in heavy
    }


class _Network:
    """Seconds of passes of one network."""

    def __init__(self, model: Model, image_size: int, classes: int, on: Device) -> None:
        self.macs, self.parameters = macs(model, image_size, classes)
        rate = on.mobilenet if model.name == "mobilenetv2" else on.vit
        self._pass, self._read, self._on = self.macs / rate, READ + DECODE * (image_size / 224) ** 2, on
        self._step = 0.0 if on.gpu else STEP + UPDATE * self.parameters
        self._learn = OWN_PROBE_EPOCHS * _probe(1, classes, width(model)) if model.starts_from_probe else None

    def train(self, n: float, batch_size: int, *, beside: float = 0.0) -> float:
        """Forwards and backwards; `beside`: seconds a photo that another network takes."""
        return n * self._on.together(3 * self._pass + beside + self._step / batch_size, self._read)

    def infer(self, n: float, *, beside: float = 0.0) -> float:
        """Forwards; `beside`: seconds of a core a photo that the answers take."""
        return n * self._on.together(self._pass, self._read + beside)

    def start(self, n: float, n_val: float) -> float:
        """Probe of its own features of `n` train photos, and what it starts with on `n_val`; 0 for a random head."""
        return 0.0 if self._learn is None else self.infer(n + n_val) + n * self._learn

    @property
    def checkpoint(self) -> float:
        """Bytes of weights and of Adam's two moments."""
        return 12 * self.parameters


def _ingest(run: Run, n: dict, on: Device) -> dict[str, Cost]:
    total = sum(n[name] for name in SPLITS)
    settings, hosts, each = run.config.phase0.export, _urls_by_host(run, total), photo_bytes(run)[0]
    requests = sum(hosts.values())
    downloads = pace.expected_seconds(hosts, settings, photo_bytes=each, photos_per_second=pace.CONVERTED * on.cores)
    audit = total / 20_000
    remote = 0 if run.config.source.serves_photos else requests
    if run.config.source.serves_photos:
        downloads = requests / 200
    if run.config.source.uri == "embedded" and not run.config.source.demo.images:
        audit += total * DRAWING
    sample = min((run.config.phase0.validate_urls.sample or total) / max(total, 1), 1)
    stored = total * STORED_PHOTO * (run.config.dataset.short_side / 256) ** 2
    return {
        "phase0 audit": Cost(audit),
        "phase0 validate-urls": Cost(sample * downloads, download=sample * remote * min(each, pace.FIRST_BYTES)),
        "phase0 export": Cost(downloads, stored, remote * each),
        "phase0 split": Cost(SPLIT * total / on.cores + stored / 100e6, stored),
        "phase0 baseline": Cost(_baseline(run, n, on)),
    }


def _baseline(run: Run, n: dict, on: Device) -> float:
    """Seconds of features of all photos, their search for copies, and the probe; hardly anything uses two cores."""
    settings, total = run.config.phase0.baseline, sum(n[name] for name in SPLITS)
    network = _Network(Model(name="mobilenetv2"), settings.image_size, 0, on)
    histogram = settings.features == "colour-histogram"
    judged, features = total - n["train"], 64 if histogram else 1280
    each = READ + HISTOGRAM * (settings.image_size / 224) ** 2
    extracted = total * each if histogram else network.infer(total)
    learnt = settings.probe_epochs * _probe(n["train"], n["classes"], features)
    copies = judged * (COPIES[0] + COPIES[1] * total * features)
    return extracted + learnt + copies


def _probe(n: float, classes: int, features: int) -> float:
    """Seconds of an epoch of a linear probe."""
    return n * classes * (PROBE[0] + PROBE[1] * features)


def check_disk(run: Run, steps: Iterable[Step]) -> None:
    """Raises SourceError where these steps will leave more than is free, less what a killed run of them has written.

    A number that nobody has counted only warns: it must not stop the audit, which counts.
    """
    expected, phases = costs(run), {step.phase for step in steps}
    folders = [run.folder / phase for phase in phases]
    folders += [run.path("dataset").parent] if "phase0" in phases else []
    written = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    wanted, free = sum(expected[step.title].bytes for step in steps) - written, free_bytes(run)
    if wanted <= free:
        return
    (counted, origin), place = photos(run), Path(run.config.root).absolute()
    received = f"{place}: received {free / 1e9:.3g} GB free, expected about {wanted / 1e9:.3g} GB"
    if origin == NOT_COUNTED:
        print(f"warning: {received} for {counted['train']:,} train photos by {origin}; the disk is checked again then")
        return
    raise SourceError(f"{received}, by the forecast of `--dry-run`; free some, or give another place: --set root=DIR")


def photo_bytes(run: Run) -> tuple[float, str]:
    """(bytes of a photo to download, where from): of those that were fetched here, else a guess."""
    with contextlib.suppress(OSError, pyarrow.ArrowException):  # none yet; who reads a broken one says so
        # Not by `read_table`, which would import pandas.
        ledger = pyarrow.parquet.ParquetFile(run.path("url_ledger")).read(["state", "bytes"])
        found = ledger.filter(pyarrow.compute.equal(ledger["state"], "ok"))["bytes"]
        if mean := pyarrow.compute.mean(found).as_py():
            return mean, "as those before"
    return pace.PHOTO_BYTES, "a guess, as none was fetched yet"


def _urls_by_host(run: Run, total: int) -> dict[str, int]:
    """{host: URLs to request}; copies of a URL are one."""
    if not is_as_written(run.path("audit")):
        return {"": total}
    audit = run.read("audit")
    repeats = sum(audit.get(name, {}).get("photos", 0) for name in ("repeated_urls", "conflicts"))
    different = 1 - repeats / max(audit["usable"], 1)
    hosts: Counter[str] = Counter()
    base = urls.resolve("photo", run.config.source.base_url)
    for host, n in audit.get("per_host", {"": total}).items():
        hosts[urls.host_of(base) if host == urls.RELATIVE and base else host] += round(n * different)
    return dict(hosts)


def _teachers(run: Run, n: dict, on: Device) -> dict[str, Cost]:
    config, found = run.config, {"phase2 subset": Cost(n["train"] / 50_000)}
    labels = _soft_label_bytes(run, n)
    for phase, settings in config.teachers.items():
        train = n["region" if phase == "phase2" else "train"]
        network = _Network(settings.model, settings.data.image_size, n["classes"], on)
        epochs, heads = settings.training.epochs, settings.training.head_epochs
        learnt = network.train(train, settings.training.batch_size)
        seconds = epochs * (learnt + network.infer(n["val"])) + heads * network.infer(train + n["val"])
        seconds += network.start(train, n["val"])
        found[f"{phase} train"] = Cost(seconds, (epochs + heads + 1) * network.checkpoint)
        found[f"{phase} evaluate"] = Cost(network.infer(n["test"]))
        stored = 0 if config.phase4.distill.live else labels
        views = n["train"] * config.phase3.soft_labels.views
        found[f"{phase} logits"] = Cost(network.infer(views, beside=ENCODE * n["classes"]), stored)
    return found


def _soft_label_bytes(run: Run, n: dict) -> float:
    settings = run.config.phase3.soft_labels
    return n["train"] * (8 + settings.views * (12 + 4 * min(settings.top_k, n["classes"])))


def _student(run: Run, n: dict, on: Device) -> dict[str, Cost]:
    config = run.config
    student = _Network(config.phase3.model, config.phase4.data.image_size, n["classes"], on)
    teachers = [_Network(each.model, each.data.image_size, n["classes"], on) for each in config.teachers.values()]
    live = sum(each.infer(1) for each in teachers) if config.phase4.distill.live else 0.0
    labels, views = _soft_label_bytes(run, n), n["train"] * config.phase3.soft_labels.views
    dense = COMPARE * n["classes"]
    found = {
        "phase3 combine": Cost(2 * labels / 20e6 + views * COMBINE * n["classes"] / on.cores, labels),
        "phase3 check": Cost(
            2 * labels / 20e6 + sum(each.infer(n["val"] + n["test"], beside=dense) for each in teachers)
        ),
        "phase4 evaluate": Cost(student.infer(n["val"] + n["test"])),
        "phase4 plot": Cost(0),
    }
    for name, beside in (("distill", live), ("finetune", 0.0)):
        epochs = getattr(config.phase4, name).epochs
        learnt = student.train(n["train"], config.phase4.training.batch_size, beside=beside)
        seconds = epochs * (learnt + student.infer(n["val"]))
        seconds += student.start(n["train"], n["val"]) if name == "distill" else 0.0
        found[f"phase4 {name}"] = Cost(seconds, (epochs + 1) * student.checkpoint)
    return found


def _proof(run: Run, n: dict, on: Device) -> dict[str, Cost]:
    config, judged = run.config, n["calibration"] + n["test"]
    student = _Network(config.phase3.model, config.phase4.data.image_size, n["classes"], on)
    logits = 4.0 * judged * n["classes"]
    ways = 2 + len(config.phase6.compare)  # TensorFlow Lite's is one
    shown = min(config.phase6.validation_photos or n["test"], n["test"])
    asked = {*(config.phase6.browsers or engines.ENGINES)} - engines.missing_engines().keys()
    passes = sum(PASSES[name] for name in asked)
    return {
        "phase5 calibrate": Cost(student.infer(judged), logits),
        "phase5 temperature": Cost(logits / 30e6),
        "phase5 threshold": Cost(logits / 300e6),
        # TensorFlow Lite's eight-bit kernels on all cores, wasm on one: whatever the device.
        "phase6 quantize": Cost(
            ways * student.infer(judged) + judged * student.macs / (3e9 * on.cores), 4 * student.parameters
        ),
        "phase6 export": Cost(0, 8 * student.parameters),
        "phase6 validate": Cost(BROWSER_START * len(asked) + shown * passes * (0.07 + student.macs / 3e9)),
        "phase7 manifest": Cost(0),
    }


def free_bytes(run: Run) -> int:
    """On the disk that the outputs go to."""
    place = Path(run.config.root)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def would_run(run: Run, steps: list[Step], *, force: bool = False) -> list[dict]:
    """[{step, reason, seconds, gigabytes, download_gigabytes, last}]: what `execute` would run, or might.

    seconds and gigabytes are expected, `last` is what the step took before (None: never).
    """
    expected, rows = corrected(run, status.applicable(run, STEPS)), []
    for step, reason, above in status.causes(run, status.applicable(run, steps), force=force):
        if reason is None and above is None:
            continue
        reason = reason or f"where {above} ends otherwise than before"
        last = (sidecars.sidecar(run.path(step.outputs[0])) or {}).get("seconds")
        rows.append(
            {"step": step.title, "reason": reason, "seconds": expected[step.title].seconds,
             "gigabytes": expected[step.title].bytes / 1e9, "download_gigabytes": expected[step.title].download / 1e9,
             "last": last}
        )  # fmt: skip
    return rows
