"""Sections `phase1` and `phase2`: networks, training, data and regularization of the teachers."""

from __future__ import annotations

import difflib
import json
import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from keras_pipeline.core.config.base import FILE, Region, Section

VIT_NAME = re.compile(r"vit_(tiny|small|base|large|huge)_patch(8|14|16|32)(_(\d+))?")

# layers, heads, width; MLP = 4 x width. tiny and small: arXiv 2012.12877, table 1; the others: 2010.11929, table 1.
VIT_SIZES = {"tiny": (12, 3, 192), "small": (12, 6, 384), "base": (12, 12, 768), "large": (24, 16, 1024),
             "huge": (32, 16, 1280)}  # fmt: skip

# Names of keras-hub's presets; each needs a download or a copy of its weights.
VIT_PRESETS = (
    "vit_base_patch16_224_imagenet", "vit_base_patch16_384_imagenet", "vit_base_patch32_384_imagenet",
    "vit_large_patch16_224_imagenet", "vit_large_patch16_384_imagenet", "vit_large_patch32_384_imagenet",
    "vit_base_patch16_224_imagenet21k", "vit_base_patch32_224_imagenet21k", "vit_large_patch16_224_imagenet21k",
    "vit_large_patch32_224_imagenet21k", "vit_huge_patch14_224_imagenet21k",
)  # fmt: skip

MOBILENET_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # of Keras's ImageNet weights

GLOBAL_TEACHER = "global_teacher"  # as phase2.model.pretrained
FEW_PHOTOS = 10_000  # an epoch; frozen batch norms were measured up to 3,593 photos, and nobody has with more


class Model(Section):
    """A network and its initial weights."""

    name: str = Field(
        "vit_base_patch16_224", description="mobilenetv2 or vit_{tiny,small,base,large,huge}_patch{8,14,16,32}"
    )
    pretrained: Annotated[bool | str, FILE] = Field(
        True, description="true or imagenet, imagenet21k (ViT): download; a path: .weights.h5; false; global_teacher"
    )
    head_init: Literal["probe", "random"] | None = Field(
        None, description="weights of the new head: a linear probe of the network's own features; null: if pretrained"
    )
    num_classes: int | None = Field(None, ge=2, description="compared with the class list, which alone decides")
    alpha: float = Field(1.0, gt=0, le=2, description="width multiplier of mobilenetv2")
    dropout_rate: float = Field(0.2, ge=0, lt=1, description="before the student's head (teachers: regularization)")
    head_rank: int | None = Field(None, ge=1, description="rank of the head's factorized kernel; null: not factorized")
    freeze_batch_norm: bool | None = Field(
        None,
        description="training keeps the pretrained statistics and scales; null: if the head starts from a probe and an "
        f"epoch shows fewer than {FEW_PHOTOS:,} photos",
    )
    batch_norm_momentum: float = Field(0.9, gt=0, lt=1, description="Keras's 0.999 lags behind in short runs")

    @property
    def title(self) -> str:
        """Name of the network: two models with one title are the same network."""
        return f"{self.name}, alpha {self.alpha:g}" if self.name == "mobilenetv2" else self.name

    @property
    def starts_from_probe(self) -> bool:
        """Whether the head starts from the linear probe of the network's own frozen features (arXiv 2202.10054)."""
        if self.head_init is None:
            return self.pretrained not in (False, GLOBAL_TEACHER)
        return self.head_init == "probe"

    def freezes_batch_norm(self, photos: int) -> bool:
        """Whether batch norms stay in inference mode during training whose epochs show this many photos."""
        if self.freeze_batch_norm is None:
            return self.starts_from_probe and photos < FEW_PHOTOS
        return self.freeze_batch_norm

    @model_validator(mode="after")
    def _one_head(self) -> Model:
        if self.pretrained == GLOBAL_TEACHER and self.head_init is not None:
            raise ValueError(
                f"head_init: received {self.head_init} with pretrained: {GLOBAL_TEACHER}, expected null, because the "
                "global teacher's head is copied too; remove it"
            )
        return self

    @model_validator(mode="after")
    def _known(self) -> Model:
        if self.name != "mobilenetv2" and not VIT_NAME.fullmatch(self.name):
            close = difflib.get_close_matches(
                self.name, ["mobilenetv2", "vit_base_patch16_224", "vit_tiny_patch16"], 1, 0
            )
            raise ValueError(
                f"name: received {self.name!r}, expected mobilenetv2 or vit_{{tiny,small,base,large,huge}}_patch"
                f"{{8,14,16,32}} with or without _SIZE; did you mean {close[0]!r}?"
            )
        return self

    @model_validator(mode="after")
    def _published(self) -> Model:
        """Refuse weights that nobody has published, instead of failing at the download."""
        tag = "imagenet" if self.pretrained is True else self.pretrained
        if tag not in ("imagenet", "imagenet21k"):
            return self
        instead = "give the path of a .weights.h5 file, or pretrained: false"
        if self.name != "mobilenetv2" and f"{self.name}_{tag}" not in VIT_PRESETS:
            raise ValueError(
                f"pretrained: received {str(self.pretrained).lower()} for {self.name}, expected published weights of "
                f"keras-hub ({', '.join(VIT_PRESETS)}); {instead}"
            )
        if self.name == "mobilenetv2" and (tag != "imagenet" or self.alpha not in MOBILENET_ALPHAS):
            raise ValueError(
                f"pretrained: received {str(self.pretrained).lower()} for mobilenetv2 with alpha {self.alpha:g}, "
                "expected published weights (imagenet ones of alpha "
                f"{', '.join(map(str, MOBILENET_ALPHAS))}); {instead}"
            )
        return self


Optimizer = Literal["adam", "adamw", "sgd"]

Augmentation = Literal["none", "moderate", "aggressive"]

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


class Training(Section):
    """A teacher's training."""

    learning_rate: float = Field(1e-5, gt=0, lt=10, description="peak, after warm-up")
    batch_size: int = Field(64, ge=1, description="photos per step")
    epochs: int = Field(15, ge=1, description="passes over the train split")
    warmup_epochs: float = Field(2.0, ge=0, description="linear warm-up, then cosine to 0")
    weight_decay: float = Field(0.01, ge=0, description="decoupled (AdamW); spares norms, biases and embeddings")
    optimizer: Optimizer = Field("adamw", description="ViTs are fine-tuned with AdamW")
    head_epochs: int = Field(0, ge=0, description="epochs that train only the new head first, to protect the backbone")
    head_learning_rate: float = Field(1e-3, gt=0, lt=10, description="of the head-only stage")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate per block towards the input (arXiv 2106.08254)"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient; null: not clipped")
    gradient_accumulation: int = Field(1, ge=1, description="batches per update, for large batches in little memory")
    precision: Precision = Field("float32", description="mixed precision halves the memory; weights stay float32")
    rematerialisation: bool = Field(False, description="ViT: recompute blocks on the way back; less memory, slower")
    jit_compile: bool | None = Field(None, description="XLA; null: on GPUs only")

    @model_validator(mode="after")
    def _warmup(self) -> Training:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs: received {self.warmup_epochs:g}, expected less than epochs, {self.epochs}; lower it, "
                "or raise epochs"
            )
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError(
                f"weight_decay: received {self.weight_decay:g} with optimizer: adam, expected adamw for it; set "
                "optimizer: adamw, or weight_decay: 0"
            )
        return self


Sampling = Literal["natural", "sqrt", "balanced"]


class Data(Section):
    """A teacher's input."""

    sampling: Sampling = Field(
        "natural", description="classes drawn in proportion to their photos, to the square root, or equally"
    )
    augmentation: Augmentation = Field("aggressive", description="none | moderate | aggressive")
    image_size: int = Field(224, ge=32, le=512, description="pixels; the model's input")


class Regularization(Section):
    """Measures against overfitting."""

    dropout: float = Field(0.2, ge=0, lt=1, description="before the head")
    mixup_alpha: float = Field(0.0, ge=0, le=10, description="Beta(α, α); 0 is off (arXiv 1710.09412)")
    cutmix_alpha: float = Field(0.0, ge=0, le=10, description="Beta(α, α); 0 is off (arXiv 1905.04899)")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label spread over all classes")
    logit_adjustment: float = Field(0.0, ge=0, le=3, description="τ; 1 trains for balanced classes (arXiv 2007.07314)")


class Callbacks(Section):
    """Early stopping, checkpoints and backups."""

    early_stopping: bool = Field(True, description="stop when the val loss no longer falls")
    early_stopping_patience: int = Field(3, ge=1, description="epochs without a lower val loss")
    save_best: bool = Field(True, description="best.keras is the epoch with the lowest val loss; false: the last")
    checkpoint_dir: str | None = Field(None, description="null: phaseN/checkpoints in the experiment's folder")
    backup_minutes: float = Field(10.0, ge=0, description="training lost at most by a kill in an epoch; 0: every step")


def _check_patches(model: Model, image_size: int) -> None:
    match = VIT_NAME.fullmatch(model.name)
    if match and image_size % int(match[2]):
        raise ValueError(
            f"data.image_size: received {image_size}, expected a multiple of {match[2]}, the patch size of "
            f"{model.name}; change it"
        )


class Teacher(Section):
    """Training of a teacher, in phases 1 and 2."""

    model: Model = Model()
    training: Training = Training()
    data: Data = Data()
    regularization: Regularization = Regularization()
    callbacks: Callbacks = Callbacks()

    @model_validator(mode="after")
    def _patches(self) -> Teacher:
        _check_patches(self.model, self.data.image_size)
        if self.training.rematerialisation and self.model.name == "mobilenetv2":
            raise ValueError(
                "training.rematerialisation: received true with model.name mobilenetv2, expected a ViT; remove it"
            )
        return self

    @model_validator(mode="after")
    def _no_dead_knobs(self) -> Teacher:
        """Refuse keys without effect, except at their defaults, which a full dump (as in a manifest) holds."""
        for key in self.dead_knobs(self.model.name):
            default = Model.model_fields[key].default
            if (value := getattr(self.model, key)) == default:
                continue
            if key == "dropout_rate":
                raise ValueError(
                    f"model.dropout_rate: received {value:g}, expected nothing, as only the student uses it; set "
                    f"regularization.dropout for a teacher, and remove this, or set it to its default, {default:g}"
                )
            raise ValueError(
                f"model.{key}: received {json.dumps(value)}, expected nothing, as {self.model.name} does not use it; "
                f"remove it, or set it to its default, {json.dumps(default)}"
            )
        return self

    @staticmethod
    def dead_knobs(model_name: str) -> tuple[str, ...]:
        """Return the keys of `model` that have no effect on a teacher of this name."""
        return (
            ("dropout_rate",)
            if model_name == "mobilenetv2"
            else ("dropout_rate", "alpha", "freeze_batch_norm", "batch_norm_momentum")
        )


class RegionalTeacher(Teacher):
    """The regional teacher. `phase2: null` instead of a section: no such teacher, also not in `phase3.teachers`."""

    region: Region = Field("EU_SW", description="region, or list of regions, whose train photos phase 2 is trained on")
