"""One experiment = one YAML file, read into frozen, typed sections; names are the training plan's.

`load(path, overrides)` returns a `Config` or raises `ConfigError` with, for every fault, the key's path, what was
received, what is allowed, and the nearest name. `${NAME}` and `${NAME:-default}` in strings come from the environment,
so that a password never has to stand in a file.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from keras_pipeline.core.provenance import MONGODB_URI, is_mongodb_uri, redact_values

VIT_NAME = re.compile(r"vit_(tiny|small|base|large|huge)_patch(8|14|16|32)(_(\d+))?")
# layers, heads, width; MLP = 4 x width. tiny and small: arXiv 2012.12877, table 1; the others: 2010.11929, table 1.
VIT_SIZES = {"tiny": (12, 3, 192), "small": (12, 6, 384), "base": (12, 12, 768), "large": (24, 16, 1024),
             "huge": (32, 16, 1280)}  # fmt: skip
# keras-hub's, by name; each needs a download or a copy of its weights.
VIT_PRESETS = (
    "vit_base_patch16_224_imagenet", "vit_base_patch16_384_imagenet", "vit_base_patch32_384_imagenet",
    "vit_large_patch16_224_imagenet", "vit_large_patch16_384_imagenet", "vit_large_patch32_384_imagenet",
    "vit_base_patch16_224_imagenet21k", "vit_base_patch32_224_imagenet21k", "vit_large_patch16_224_imagenet21k",
    "vit_large_patch32_224_imagenet21k", "vit_huge_patch14_224_imagenet21k",
)  # fmt: skip
MOBILENET_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # of Keras's ImageNet weights
GLOBAL_TEACHER = "global_teacher"  # as phase2.model.pretrained
REGIONAL_TEACHER = "phase2/best.keras"  # as a path of phase3.teachers
EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ConfigError(ValueError):
    """The configuration can't be used; the message lists every fault. The command line exits with 2."""


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # a password, perhaps
    )


class Demo(Section):
    """What the embedded server is filled with."""

    images: str | None = Field(None, description="folder of photos; none: a herbarium of invented plants is drawn")
    labels: str | None = Field(
        None,
        description="CSV with image (a path below `images`, with its suffix), latin_name[, region, observation_id]",
    )
    species: int = Field(14, ge=2, le=200, description="invented species; enough for look-alikes")
    photos: int = Field(1100, ge=20, le=1_000_000, description="drawn photos; minutes to train on")
    regional_shift: bool = Field(False, description="plants of EU_SW look like other species do elsewhere")

    @model_validator(mode="after")
    def _both_or_none(self) -> Demo:
        if (self.images is None) != (self.labels is None):
            raise ValueError("images and labels go together: give both (a folder and its CSV) or neither")
        return self


class Fields(Section):
    """Names of the fields in the source documents."""

    latin_name: str = "latin_name"
    image_url: str = "image_url"
    region: str = "region"
    observation_id: str = "observation_id"
    user_id: str = "user_id"
    observed_on: str = "observed_on"
    latitude: str = "latitude"
    longitude: str = "longitude"
    license: str = "license"
    attribution: str = "attribution"


def _with_datetimes(value: Any) -> Any:
    """YAML's 2020-01-31 is a date; MongoDB knows datetimes only."""
    if isinstance(value, dict):
        return {key: _with_datetimes(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_datetimes(inner) for inner in value]
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC)
    return value


class Source(Section):
    uri: str = Field("embedded", description="mongodb://… or `embedded`, which starts a server of its own")
    database: str = Field("plants", min_length=1, description="MongoDB database")
    collection: str = Field("photos", min_length=1, description="MongoDB collection, one document a photo")
    query: dict[str, Any] = Field({}, description="MongoDB filter; {} takes all documents")
    base_url: str | None = Field(None, description="relative image URLs are resolved against this")
    fields: Fields = Fields()
    synonyms: str | None = Field(None, description="CSV with synonym, latin_name: names that are replaced on reading")
    exclude: str | None = Field(None, description="file, a line each: _id, image URL or latin name to leave out")
    max_per_species: int | None = Field(None, ge=1, description="photos, a seeded choice; null keeps all")
    max_per_observation: int | None = Field(None, ge=1, description="photos, a seeded choice; null keeps all")
    demo: Demo = Demo()

    @field_validator("query")
    @classmethod
    def _dates(cls, query: dict) -> dict:
        return _with_datetimes(query)

    @model_validator(mode="after")
    def _scheme(self) -> Source:
        if self.uri != "embedded" and not self.uri.startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("uri must be `embedded` or start with mongodb:// or mongodb+srv://")
        if self.uri != "embedded" and not is_mongodb_uri(self.uri):
            # Not shown: what can't be told apart may be a password anywhere.
            raise ValueError(
                f"uri: received what is no URI of a MongoDB (not shown, for a password may be in it), {MONGODB_URI}"
            )
        return self


class Dataset(Section):
    name: str | None = Field(None, description="folder below tfrecords/; none: the experiment's name")
    short_side: int = Field(256, ge=32, le=1024, description="pixels; stored photos are shrunk to it, never enlarged")
    min_short_side: int = Field(100, ge=1, description="pixels; smaller photos are filtered and counted (the plan)")
    jpeg_quality: int = Field(95, ge=50, le=100, description="0-100; 95 is visually lossless")
    shard_megabytes: float = Field(100.0, gt=0, le=2000, description="MB; shards come near it, raw and final")


class Audit(Section):
    min_per_species: int = Field(20, ge=1, description="photos; species below it are listed")


class ValidateUrls(Section):
    sample: int | None = Field(5000, ge=1, description="documents, a seeded choice; null asks for every URL")


class HostLimits(Section):
    concurrency: int = Field(4, ge=1, le=1000, description="requests under way at one host")
    requests_per_second: float | None = Field(10.0, gt=0, description="to one host; null: as fast as it answers")


class Export(Section):
    """How photos are fetched; `validate-urls` asks under the same limits."""

    concurrency: int = Field(64, ge=1, le=1000, description="downloads under way at once, all hosts together")
    each_host: HostLimits = HostLimits()
    hosts: dict[str, HostLimits] = Field({}, description="other limits for hosts that allow more, or less, by name")
    contact: str | None = Field(None, description="URL or mail address in the User-Agent; some hosts require one")
    attempts: int = Field(4, ge=1, le=20, description="tries a URL in one run; 404 and the like are not tried again")
    backoff_seconds: float = Field(1.0, ge=0, description="pause after a first failure; doubles, with jitter")
    max_wait_seconds: float = Field(600.0, ge=0, description="longest pause, and longest Retry-After that is kept")
    host_failures: int = Field(10, ge=1, description="in a row (no connection, 429, 503) before it is given up")
    connect_seconds: float = Field(10.0, gt=0, description="for name, connection and TLS")
    read_seconds: float = Field(30.0, gt=0, description="of silence inside an answer")
    total_seconds: float = Field(120.0, gt=0, description="for one whole download")
    max_megabytes: float = Field(50.0, gt=0, description="MB; longer bodies are refused")
    max_redirects: int = Field(5, ge=0, le=20, description="each one's address is checked like the first")
    allow_networks: list[str] = Field(
        [], description="private networks (10.1.0.0/16) that photos may come from; others are refused"
    )

    @model_validator(mode="after")
    def _hosts(self) -> Export:
        for host in self.hosts:
            if not re.fullmatch(r"[^\s/:@]+(:\d+)?", host):
                raise ValueError(f"hosts: received {host!r}, expected a name (or name:port) such as photos.example.org")
        if self.contact is not None and not self.contact.isprintable():
            raise ValueError(f"contact: received {self.contact!r}, expected one line of text")
        return self

    @model_validator(mode="after")
    def _networks(self) -> Export:
        for network in self.allow_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"allow_networks: {error}; expected networks such as 10.1.0.0/16 or ::1/128") from None
        return self


SameGroup = Literal["observation", "session", "sha256", "near-duplicate"]


class Split(Section):
    train: float = Field(0.80, gt=0, lt=1, description="share of the groups")
    val: float = Field(0.05, gt=0, lt=1, description="share of the groups; early stopping")
    calibration: float = Field(0.05, gt=0, lt=1, description="share of the groups; temperature and threshold")
    test: float = Field(0.10, gt=0, lt=1, description="share of the groups; every reported figure")
    keep_raw: bool = Field(False, description="keep raw shards after the split (doubles the disk space)")
    group_by: list[SameGroup] = Field(
        ["observation", "session", "sha256", "near-duplicate"],
        description="what keeps photos together; session: same user, day and place",
    )
    # Measured: a crop of 1 % a side differs in 2/6 (median, 95 %) of 64 and 18/24 of 256 bits, different photos of
    # flowers17 in 12 and 86 at least. Distances are even, so 3 would mean 2.
    near_duplicate_bits: int = Field(4, ge=0, le=5, description="of 64 perceptual hash bits, at most (candidates)")
    confirm_bits: int = Field(40, ge=0, le=128, description="of 256 perceptual hash bits, at most (confirms)")

    @model_validator(mode="after")
    def _sum(self) -> Split:
        total = self.train + self.val + self.calibration + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + calibration + test must be 1, received {total:g}")
        return self


class Baseline(Section):
    features: Literal["imagenet", "file", "colour-histogram"] = Field(
        "imagenet", description="frozen features that class means and a linear probe stand on; imagenet: download"
    )
    weights: str | None = Field(None, description="MobileNetV2 1.0 .weights.h5 file, for features: file")
    image_size: int = Field(224, ge=32, le=512, description="pixels; MobileNetV2's own size")
    probe_epochs: int = Field(10, ge=1, le=1000, description="passes of the linear probe over the train split")

    @model_validator(mode="after")
    def _file(self) -> Baseline:
        if (self.features == "file") != (self.weights is not None):
            raise ValueError("features: file and weights: <path> go together")
        return self


class Phase0(Section):
    audit: Audit = Audit()
    validate_urls: ValidateUrls = ValidateUrls()
    export: Export = Export()
    split: Split = Split()
    baseline: Baseline = Baseline()


class Model(Section):
    name: str = Field(
        "vit_base_patch16_224", description="mobilenetv2 or vit_{tiny,small,base,large,huge}_patch{8,14,16,32}"
    )
    pretrained: bool | str = Field(
        True, description="true or imagenet, imagenet21k (ViT): download; a path: .weights.h5; false; global_teacher"
    )
    num_classes: int | None = Field(None, ge=2, description="checked against the class list, its only source")
    alpha: float = Field(1.0, gt=0, le=2, description="width multiplier of mobilenetv2")
    dropout_rate: float = Field(0.2, ge=0, lt=1, description="before the student's head (teachers: regularization)")
    head_rank: int | None = Field(None, ge=1, description="the head's kernel as a product of this rank; null: whole")
    batch_norm_momentum: float = Field(0.9, gt=0, lt=1, description="Keras's 0.999 lags behind in short runs")

    @property
    def title(self) -> str:
        """What makes two of them the same network."""
        return f"{self.name}, alpha {self.alpha:g}" if self.name == "mobilenetv2" else self.name

    @model_validator(mode="after")
    def _known(self) -> Model:
        if self.name != "mobilenetv2" and not VIT_NAME.fullmatch(self.name):
            close = difflib.get_close_matches(
                self.name, ["mobilenetv2", "vit_base_patch16_224", "vit_tiny_patch16"], 1, 0
            )
            raise ValueError(f"unknown model name {self.name!r}, nearest: {close[0]!r}")
        return self

    @model_validator(mode="after")
    def _published(self) -> Model:
        """Weights that nobody has published are an error here, not after a download has failed."""
        tag = "imagenet" if self.pretrained is True else self.pretrained
        if tag not in ("imagenet", "imagenet21k"):
            return self
        instead = "give the path of a .weights.h5 file, or pretrained: false"
        if self.name != "mobilenetv2" and f"{self.name}_{tag}" not in VIT_PRESETS:
            raise ValueError(
                f"pretrained: no {tag} weights of {self.name} are published in keras-hub (there are "
                f"{', '.join(VIT_PRESETS)}); {instead}"
            )
        if self.name == "mobilenetv2" and (tag != "imagenet" or self.alpha not in MOBILENET_ALPHAS):
            raise ValueError(
                f"pretrained: no {tag} weights of mobilenetv2 with alpha {self.alpha:g} are published (there are "
                f"imagenet ones of alpha {', '.join(map(str, MOBILENET_ALPHAS))}); {instead}"
            )
        return self


Optimizer = Literal["adam", "adamw", "sgd"]
Augmentation = Literal["none", "moderate", "aggressive"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


class Training(Section):
    learning_rate: float = Field(1e-5, gt=0, lt=10, description="peak, after warm-up")
    batch_size: int = Field(64, ge=1, description="photos a step")
    epochs: int = Field(15, ge=1, description="passes over the train split")
    warmup_epochs: float = Field(2.0, ge=0, description="linear warm-up, then cosine to 0")
    weight_decay: float = Field(0.01, ge=0, description="decoupled (AdamW); spares norms, biases and embeddings")
    optimizer: Optimizer = Field("adamw", description="AdamW is what ViTs are fine-tuned with")
    head_epochs: int = Field(0, ge=0, description="first train only the new head, so that it can't wreck the backbone")
    head_learning_rate: float = Field(1e-3, gt=0, lt=10, description="of the head-only stage")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="the rate falls by this factor a block towards the input (arXiv 2106.08254)"
    )
    clip_norm: float | None = Field(None, gt=0, description="greatest norm of the gradient; null: not clipped")
    gradient_accumulation: int = Field(1, ge=1, description="batches an update: large ones in little memory")
    precision: Precision = Field("float32", description="mixed ones halve the memory; weights stay float32")
    rematerialisation: bool = Field(False, description="ViT: blocks computed again backwards; less memory, slower")
    jit_compile: bool | None = Field(None, description="XLA; null: on GPUs only")

    @model_validator(mode="after")
    def _warmup(self) -> Training:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs})")
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError(f"weight_decay {self.weight_decay:g} with optimizer: adam; use adamw, or weight_decay: 0")
        return self


Sampling = Literal["natural", "sqrt", "balanced"]


class Data(Section):
    sampling: Sampling = Field(
        "natural", description="a class comes as often as it has photos, as their root, or as all"
    )
    augmentation: Augmentation = Field("aggressive", description="none | moderate | aggressive")
    image_size: int = Field(224, ge=32, le=512, description="pixels; the model's input")


class Regularization(Section):
    dropout: float = Field(0.2, ge=0, lt=1, description="before the head")
    mixup_alpha: float = Field(0.0, ge=0, le=10, description="Beta(α, α); 0 is off (arXiv 1710.09412)")
    cutmix_alpha: float = Field(0.0, ge=0, le=10, description="Beta(α, α); 0 is off (arXiv 1905.04899)")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label spread over all classes")
    logit_adjustment: float = Field(0.0, ge=0, le=3, description="τ; 1 trains for balanced classes (arXiv 2007.07314)")


class Callbacks(Section):
    early_stopping: bool = Field(True, description="stop when val loss no longer falls")
    early_stopping_patience: int = Field(3, ge=1, description="epochs without a better val loss")
    save_best: bool = Field(True, description="best.keras is the epoch of lowest val loss; false: the last epoch")
    checkpoint_dir: str | None = Field(None, description="none: phaseN/checkpoints in the experiment's folder")
    backup_minutes: float = Field(10.0, ge=0, description="what a kill inside an epoch may cost; 0: after every step")


def _check_patches(model: Model, image_size: int) -> None:
    match = VIT_NAME.fullmatch(model.name)
    if match and image_size % int(match[2]):
        raise ValueError(f"data.image_size {image_size} is not a multiple of {model.name}'s patch size {match[2]}")


class Teacher(Section):
    """Phases 1 and 2."""

    model: Model = Model()
    training: Training = Training()
    data: Data = Data()
    regularization: Regularization = Regularization()
    callbacks: Callbacks = Callbacks()

    @model_validator(mode="after")
    def _patches(self) -> Teacher:
        _check_patches(self.model, self.data.image_size)
        if self.training.rematerialisation and self.model.name == "mobilenetv2":
            raise ValueError("training.rematerialisation: true is for ViTs, received model.name mobilenetv2; remove it")
        return self


class RegionalTeacher(Teacher):
    """`phase2: null` instead of a section: no regional teacher, neither here nor in `phase3.teachers`."""

    region: str = Field("EU_SW", min_length=1, description="the region whose train photos phase 2 learns from")


# Not the plan's values (one view, T 3, weights 0.7 and 0.3): benchmarks/distillation_gain.py compares them.
class LossWeights(Section):
    kl_divergence: float = Field(1.0, ge=0, description="weight of the teachers' term: T² · KL(teacher || student)")
    cross_entropy: float = Field(0.0, ge=0, description="weight of the hard labels' cross-entropy")

    @model_validator(mode="after")
    def _some(self) -> LossWeights:
        if self.kl_divergence + self.cross_entropy == 0:
            raise ValueError("kl_divergence and cross_entropy can't both be 0: nothing would be learnt")
        return self


class Distillation(Section):
    temperature: float = Field(2.0, gt=0, le=100, description="softens both sides of the KL (Hinton 2015)")
    loss: Literal["kl", "dist"] = Field("kl", description="the teachers' term: KL, or DIST (arXiv 2205.10536)")
    loss_weights: LossWeights = LossWeights()


class EnsembleMember(Section):
    path: str = Field(
        description="a teacher's .keras, relative to the experiment's folder; soft_labels/ lies beside it"
    )
    weight: float = Field(ge=0, description="share in the ensemble, renormalised over the teachers that speak")
    region_filter: str | None = Field(None, description="speaks only for photos of this region")


class SoftLabels(Section):
    top_k: int = Field(128, ge=1, le=16384, description="logits kept a photo; the rest as one tail sum")
    views: int = Field(8, ge=1, le=64, description="stored views a photo; the first is clean, the others augmented")


class Phase3(Section):
    model: Model = Model(name="mobilenetv2")
    distillation: Distillation = Distillation()
    teachers: list[EnsembleMember] = [
        EnsembleMember(path="phase1/best.keras", weight=0.5),
        EnsembleMember(path=REGIONAL_TEACHER, weight=0.5, region_filter="EU_SW"),
    ]
    ensemble: Literal["logits", "probabilities"] = Field("logits", description="where the teachers are averaged")
    soft_labels: SoftLabels = SoftLabels()

    @model_validator(mode="after")
    def _weights(self) -> Phase3:
        if self.model.name != "mobilenetv2":
            raise ValueError(f"model.name of the student must be mobilenetv2, received {self.model.name!r}")
        if not any(t.weight > 0 and t.region_filter is None for t in self.teachers):
            raise ValueError(
                f"teachers: received {'none' if self.teachers else 'an empty list'}, expected at least one with weight "
                "> 0 and no region_filter, for photos of any region, such as {path: phase1/best.keras, weight: 1.0}"
            )
        return self


class StudentTraining(Section):
    batch_size: int = Field(128, ge=1, description="photos a step")
    warmup_epochs: float = Field(1.0, ge=0, description="linear warm-up of each stage, then cosine to 0")
    weight_decay: float = Field(0.0, ge=0, description="only with optimizer: adamw")
    optimizer: Optimizer = Field("adam", description="the plan's")

    @model_validator(mode="after")
    def _decay(self) -> StudentTraining:
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay {self.weight_decay:g} needs optimizer: adamw, received {self.optimizer}")
        return self


class Stage(Section):
    epochs: int = Field(10, ge=1, description="passes over the train split")
    learning_rate: float = Field(1e-4, gt=0, lt=10, description="peak, after warm-up")
    augmentation: Augmentation = Field("aggressive", description="none | moderate | aggressive")


class Distill(Section):
    epochs: int = Field(10, ge=1, description="passes over the train split, on the views the teachers saw")
    learning_rate: float = Field(1e-4, gt=0, lt=10, description="peak, after warm-up")
    live: bool = Field(False, description="the teachers answer the student's own views as it trains; none are stored")
    augmentation: Augmentation = Field("moderate", description="of the views with live: true; stored ones are moderate")
    mixup_alpha: float = Field(0.0, ge=0, le=10, description="Beta(α, α); 0 switches it off")
    cutmix_alpha: float = Field(0.0, ge=0, le=10, description="Beta(α, α); 0 switches it off")

    @model_validator(mode="after")
    def _stored(self) -> Distill:
        if not self.live and self.augmentation != "moderate":
            raise ValueError(
                f"augmentation {self.augmentation} needs live: true; the first stored view is clean, the others are "
                "moderate, and phase3.soft_labels.views says how many there are"
            )
        return self


class StudentData(Section):
    image_size: int = Field(224, ge=32, le=512, description="pixels; the student's and the page's input")


class Phase4(Section):
    data: StudentData = StudentData()
    training: StudentTraining = StudentTraining()
    distill: Distill = Distill()
    finetune: Stage = Stage(learning_rate=5e-5)
    callbacks: Callbacks = Callbacks()

    @model_validator(mode="after")
    def _warmup(self) -> Phase4:
        for stage in ("distill", "finetune"):
            if self.training.warmup_epochs >= getattr(self, stage).epochs:
                raise ValueError(f"training.warmup_epochs must be below {stage}.epochs ({getattr(self, stage).epochs})")
        return self


class RegionPriors(Section):
    """What a photo's region says of its species, from the train split's counts; measured always, shipped if asked."""

    ship: bool = Field(False, description="the page asks for the region, and lets it count")
    smoothing: float = Field(100.0, gt=0, le=1e9, description="photos of no region mixed into each region's")
    floor: float = Field(0.02, gt=0, le=1, description="the least that a region leaves of a species' probability")


class Phase5(Section):
    bins: int = Field(15, ge=2, le=1000, description="confidence bins of ECE and MCE (Guo 2017)")
    target_precision: float = Field(0.95, gt=0, lt=1, description="promised for conclusive answers")
    confidence_level: float = Field(0.95, gt=0, lt=1, description="of the promise (one-sided)")
    accept_unmet: bool = Field(
        False,
        description="ships the best reachable threshold where target_precision can't be promised; page, model card and "
        "report print its promise beside it",
    )
    region_priors: RegionPriors = RegionPriors()


Rounding = Literal["fp16", "int8", "int8-qat", "none"]


class Qat(Section):
    """Quantisation-aware training, of `quantization: int8-qat`."""

    steps: int = Field(200, ge=1, description="batches of phase4.training.batch_size")
    learning_rate: float = Field(3e-6, gt=0, description="of Adam, falling to 0; 1e-5 ruins flowers17's student")


class Phase6(Section):
    quantization: Rounding = Field(
        "fp16",
        description="of the shipped weights; int8: kernels that bear it in a byte a value, the rest fp16; int8-qat: "
        "the same after training for it",
    )
    compare: list[Rounding] = Field([], description="other ways of rounding, measured beside the shipped one")
    qat: Qat = Qat()
    validation_photos: int | None = Field(
        1000, ge=20, description="seeded sample of the test split shown to the browser; null: all"
    )
    photos: str | None = Field(
        None,
        min_length=1,
        description="folder of photos as they were taken, for the page's whole path; null: an embedded source's",
    )
    max_top1_loss: float = Field(0.02, ge=0, le=1, description="test top-1 that rounding may cost before export stops")


class Gates(Section):
    """What the run must reach; a missed gate makes it exit 1 at the end. null: not asked for."""

    url_failure_rate: float | None = Field(0.05, description="below")
    largest_group: float | None = Field(0.01, description="share of the photos in the largest group, at most")
    valid_photos_min: int | None = Field(800_000, description="photos; the plan: 800-900 thousand")
    valid_photos_max: int | None = Field(900_000, description="photos")
    baseline_top1_min: float | None = Field(0.30, description="of the linear probe; the plan: 30-40 %")
    teacher_top1: float | None = Field(0.70, description="test, at least")
    teacher_top5: float | None = Field(0.85, description="test, at least")
    teacher_min_recall: float | None = Field(0.60, description="of each class, above")
    teacher_over_probe: float | None = Field(
        0.0, description="test top-1 less the linear probe's; missed where its whole 95 % interval is below"
    )
    regional_top1: float | None = Field(0.80, description="regional teacher in its region, at least")
    regional_global_top1: float | None = Field(0.65, description="regional teacher over all regions, at least")
    regional_gain: float | None = Field(0.0, description="top-1 over the global teacher in the region, above")
    student_megabytes: float | None = Field(20.0, description="MB, below")
    student_val_top1: float | None = Field(0.70, description="at least")
    student_train_top1: float | None = Field(0.80, description="on clean train photos, above")
    val_loss_ratio: float | None = Field(1.05, description="final val loss / best val loss, at most")
    ece: float | None = Field(0.10, description="of the shipped model on test, below")
    precision: float | None = Field(0.95, description="of conclusive answers, on test, at least")
    coverage: float | None = Field(0.80, description="share of conclusive answers, on test, at least")
    bundle_megabytes: float | None = Field(150.0, description="MB, at most")
    browser_correlation: float | None = Field(0.995, description="Python against browser, above")
    prediction_seconds: float | None = Field(5.0, description="a photo in the browser on the CPU, below")


# Where the plan gives the same knob other values in other phases. Merged below the file's own values, so that a file
# which sets phase2.training.epochs alone keeps the plan's phase2.training.learning_rate.
PLAN = {
    "phase1": {"regularization": {"mixup_alpha": 0.8, "cutmix_alpha": 0.8}},
    "phase2": {
        "training": {"learning_rate": 5e-6, "batch_size": 32, "epochs": 20, "weight_decay": 0.02},
        "data": {"augmentation": "moderate"},
        "regularization": {"dropout": 0.3},
        "callbacks": {"early_stopping_patience": 5},
    },
    "phase3": {"model": {"name": "mobilenetv2"}},
    "phase4": {"finetune": {"learning_rate": 5e-5}},
}


def _merge(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {key: _merge(below.get(key), above[key]) if key in above else below[key] for key in {**below, **above}}


def _without_regional(values: Any) -> Any:
    """`phase2: null` takes its teacher out of the ensemble too, so that one key is enough."""
    if not isinstance(values, dict) or values["phase2"] is not None or not isinstance(values["phase3"], dict):
        return values
    teachers = values["phase3"].get("teachers", [member.model_dump() for member in Phase3().teachers])
    if isinstance(teachers, list):
        teachers = [each for each in teachers if not (isinstance(each, dict) and each.get("path") == REGIONAL_TEACHER)]
    return values | {"phase3": values["phase3"] | {"teachers": teachers}}


class Config(Section):
    experiment: str = Field(description="name of the folders; the file's stem unless given")
    seed: int = Field(42, ge=0, lt=2**31, description="of splits, weights, shuffles and views")
    deterministic: bool = Field(False, description="bit-identical repeats, at some cost in speed")
    root: str = Field(".", description="folder that holds tfrecords/, artifacts/ and web_export/")
    distribute: Literal["none", "mirrored", "multi_worker"] = Field(
        "none", description="who trains: one device; all GPUs of this machine; those of all in TF_CONFIG"
    )
    source: Source = Source()
    dataset: Dataset = Dataset()
    phase0: Phase0 = Phase0()
    phase1: Teacher = Teacher()
    phase2: RegionalTeacher | None = RegionalTeacher()
    phase3: Phase3 = Phase3()
    phase4: Phase4 = Phase4()
    phase5: Phase5 = Phase5()
    phase6: Phase6 = Phase6()
    gates: Gates = Gates()

    @model_validator(mode="before")
    @classmethod
    def _plan(cls, values: Any) -> Any:
        return _without_regional(_merge(PLAN, values))

    @model_validator(mode="after")
    def _pairs(self) -> Config:
        for key, name in (("experiment", self.experiment), ("dataset.name", self.dataset_name)):
            if not EXPERIMENT_NAME.fullmatch(name):
                raise ValueError(f"{key}: {name!r} must be at most 100 letters, digits, '.', '_' and '-'")
        for key, phase in (("phase1", self.phase1), ("phase2", self.phase2), ("phase4", self.phase4)):
            if phase and (size := phase.data.image_size) > self.dataset.short_side:
                raise ValueError(
                    f"{key}.data.image_size {size} is larger than dataset.short_side {self.dataset.short_side}: "
                    "stored photos would be enlarged; raise short_side or lower image_size"
                )
        return self

    @model_validator(mode="after")
    def _global_teacher(self) -> Config:
        """Only phase 2 comes after the global teacher and answers its classes."""
        for key, model in (("phase1.model", self.phase1.model), ("phase3.model", self.phase3.model)):
            if model.pretrained == GLOBAL_TEACHER:
                raise ValueError(f"{key}.pretrained: {GLOBAL_TEACHER} is for phase2.model; give true, a path or false")
        mine, theirs = self.phase2 and self.phase2.model, self.phase1.model
        if mine and mine.pretrained == GLOBAL_TEACHER and mine.title != theirs.title:
            raise ValueError(
                f"phase2.model.pretrained: {GLOBAL_TEACHER} needs phase1's model ({theirs.title}), received "
                f"{mine.title}; give phase2.model the same, or other weights"
            )
        return self

    @model_validator(mode="after")
    def _distributed(self) -> Config:
        """What Keras does wrong, or not at all, on several replicas."""
        if self.distribute == "none":
            return self
        for phase, training in ((name, teacher.training) for name, teacher in self.teachers.items()):
            for key, wanted, instead in (
                ("gradient_accumulation", training.gradient_accumulation > 1, "1: each replica holds its part only"),
                ("precision", training.precision == "mixed_float16", "mixed_bfloat16 or float32"),
                ("jit_compile", training.jit_compile, "null or false"),
            ):
                if wanted:
                    raise ValueError(
                        f"{phase}.training.{key}: received {getattr(training, key)} with distribute: "
                        f"{self.distribute}, expected {instead}; or set distribute: none"
                    )
        return self

    @property
    def dataset_name(self) -> str:
        return self.dataset.name or self.experiment

    @property
    def teachers(self) -> dict[str, Teacher]:
        """Of the phases that train one, by the phase's name."""
        return {name: phase for name in ("phase1", "phase2") if (phase := getattr(self, name))}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-5 as a string; everyone who writes it means a number. Repeated keys raise."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        # Here, before merge keys (`<<`) are resolved: those write inherited keys into the node too.
        keys = [key.value for key, _ in node.value]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            where = f"{self.name}, section from line {node.start_mark.line + 1}"
            raise ConfigError(f"{where}: {', '.join(sorted(repeated))}: given twice; keep one")
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Reads one experiment.

    Args:
        path: YAML file; its stem is the experiment's name unless the file gives one.
        overrides: `a.b.c=value` strings, the value in YAML, applied after the file.

    Raises:
        ConfigError: for anything that isn't a usable configuration, listing every fault.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read ({error}); expected a YAML file, see configs/") from error
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: received {type(values).__name__}, expected a mapping of sections, see configs/demo.yaml"
        )
    values.setdefault("experiment", path.stem)
    return with_overrides(values, overrides or [], str(path))


def with_overrides(values: dict, overrides: list[str], origin: str) -> Config:
    """`from_dict` after `a.b.c=value` strings. Raises ConfigError."""
    for override in overrides:
        values = _override(values, override)
    keys = [override.partition("=")[0] for override in overrides]  # a value may be a URI with a password
    return from_dict(values, f"{origin}, --set {', '.join(keys)}" if keys else origin)


def from_dict(values: dict, origin: str = "config") -> Config:
    """Validates nested plain values (as YAML gives them). Raises ConfigError."""
    try:
        return Config.model_validate(_expand(values))
    except ValidationError as error:
        faults = [_describe(fault) for fault in error.errors(include_url=False)]
        raise ConfigError("\n".join(f"{origin}: {fault}" for fault in faults)) from None
    except RecursionError:
        raise ConfigError(f"{origin}: a section that contains itself (an alias of what it is part of)") from None


def write(path: Path, config: Config) -> Path:
    """A file that `load` reads as the same config, passwords left out; returns its path."""
    values = redact_values(config.model_dump())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# Written by `demo --images`.\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path


def _parse(text: str, origin: str) -> Any:
    try:
        loader = _Loader(text)
        loader.name = origin  # PyYAML would call it <unicode string>.
        return loader.get_single_data()
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2020-13-01 is no date, [[[[… has no end
        raise ConfigError(f"{origin}: is not YAML: {error}") from error


def _override(values: dict, override: str) -> dict:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigError(f"--set {override}: expected a.b.c=value")
    return _with(values, key.split("."), _parse(text, f"--set {key}"), key)


def _with(values: Any, path: list[str], value: Any, key: str) -> Any:
    """A copy with one value replaced: sections that YAML shares between phases (`*anchor`) must stay as they are."""
    first, *rest = path
    above = key[: -len(".".join(path)) - 1]
    if isinstance(values, list):
        numbers = [str(number) for number in range(len(values))]
        if first not in numbers:
            expected = f"one of {', '.join(numbers)}" if numbers else "none, for the list is empty"
            raise ConfigError(
                f"--set {key}: received {first!r} as the number of an entry of {above}, expected {expected}; "
                f"a list of another length is given whole: --set '{above}=[…]'"
            )
        entries = dict(zip(numbers, values, strict=True))
        return list(_with(entries, path, value, key).values())
    if not isinstance(values, dict):
        raise ConfigError(f"--set {key}: {above} is a value, not a section")
    below = values[first] if first in values else _default([*above.split("."), first] if above else [first])
    return {**values, first: _with(below, rest, value, key) if rest else value}


def _default(path: list[str]) -> list | dict:
    """What an override changes where the file says nothing: a list's default; of a section, no key is given yet."""
    field = _section_at(path[:-1]).model_fields.get(path[-1])
    default = field.default if field else None
    if not isinstance(default, list):
        return {}
    return [entry.model_dump(exclude_unset=True) if isinstance(entry, Section) else entry for entry in default]


def _expand(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _expand(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", _from_environment, value)
    return value


def _from_environment(match: re.Match) -> str:
    name = match[1]
    value = os.environ.get(name) or match[2]
    if value is None:
        raise ConfigError(
            f"${{{name}}}: the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
        )
    return value


def _describe(fault: dict) -> str:
    path = [str(part) for part in fault["loc"]]
    key = ".".join(path) or "config"
    if fault["type"] == "extra_forbidden":
        names = list(_section_at(path[:-1]).model_fields)
        close = difflib.get_close_matches(path[-1], names, 1, 0)
        return f"{key}: unknown key; did you mean {close[0]!r}? Allowed here: {', '.join(names)}"
    if fault["type"] == "value_error":
        return f"{key}: {fault['ctx']['error']}"
    received, message = fault["input"], fault["msg"]
    return f"{key}: received {received!r} ({type(received).__name__}); {message[0].lower()}{message[1:]}"


def _section_at(path: list[str]) -> type[Section]:
    section: type[Section] = Config
    for part in path:
        field = section.model_fields.get(part)
        kind = field.annotation if field else None
        kind = next((each for each in get_args(kind) if each is not type(None)), kind)  # of `Section | None`
        if isinstance(kind, type) and issubclass(kind, Section):
            section = kind
        elif part == "teachers":
            section = EnsembleMember
    return section
