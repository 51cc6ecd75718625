"""Sections `phase3` and `phase4`: soft labels, distillation and fine-tuning of the student."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from keras_pipeline.core.config.base import Region, Section
from keras_pipeline.core.config.teachers import Augmentation, Callbacks, Model, Optimizer

GLOBAL_PATH, REGIONAL_TEACHER = "phase1/best.keras", "phase2/best.keras"  # as paths of phase3.teachers

TRAINED_HERE = {GLOBAL_PATH: "teacher", REGIONAL_TEACHER: "regional"}  # prefixes of their artefacts' names


# Not the plan's values (one view, T 3, weights 0.7 and 0.3): the benchmark distillation_gain compares both.
class LossWeights(Section):
    """Weights of the two terms of the distillation loss."""

    kl_divergence: float = Field(1.0, ge=0, description="weight of the teachers' term: T² · KL(teacher || student)")
    cross_entropy: float = Field(0.0, ge=0, description="weight of the hard labels' cross-entropy")

    @model_validator(mode="after")
    def _some(self) -> LossWeights:
        if self.kl_divergence + self.cross_entropy == 0:
            raise ValueError(
                "kl_divergence and cross_entropy: received 0 and 0, expected one above 0, or nothing would be learned; "
                "raise one of them"
            )
        return self


class Distillation(Section):
    """The loss of distillation."""

    temperature: float = Field(2.0, gt=0, le=100, description="softens both sides of the KL (Hinton 2015)")
    loss: Literal["kl", "dist"] = Field("kl", description="the teachers' term: KL, or DIST (arXiv 2205.10536)")
    loss_weights: LossWeights = LossWeights()


class EnsembleMember(Section):
    """One teacher of the ensemble."""

    path: str = Field(
        description="a teacher's .keras, relative to the experiment's folder, with soft_labels/ beside it"
    )
    weight: float = Field(0.5, ge=0, description="share in the ensemble, renormalized over the teachers that answer")
    region_filter: Region | None = Field(
        None, description="this teacher answers only for photos of this region, or of these regions"
    )

    @property
    def soft_labels(self) -> Path:
        """Folder of its soft labels, relative to the experiment's."""
        return Path(self.path).parent / "soft_labels"


class SoftLabels(Section):
    """How the teachers' outputs are stored."""

    top_k: int = Field(128, ge=1, le=16384, description="logits kept per photo; the rest as one tail sum")
    views: int = Field(8, ge=1, le=64, description="stored views per photo; the first is clean, the others augmented")


class Phase3(Section):
    """Soft labels, and the student's network."""

    model: Model = Model(name="mobilenetv2")
    distillation: Distillation = Distillation()
    teachers: list[EnsembleMember] = [
        EnsembleMember(path=GLOBAL_PATH, weight=0.5),
        EnsembleMember(path=REGIONAL_TEACHER, weight=0.5, region_filter="EU_SW"),
    ]
    ensemble: Literal["logits", "probabilities"] = Field("logits", description="what is averaged over the teachers")
    soft_labels: SoftLabels = SoftLabels()

    @model_validator(mode="after")
    def _weights(self) -> Phase3:
        if self.model.name != "mobilenetv2":
            raise ValueError(
                f"model.name: received {self.model.name!r}, expected mobilenetv2, the student's network; leave it out"
            )
        if not any(t.weight > 0 and t.region_filter is None for t in self.teachers):
            listed = [f"{t.path} with weight {t.weight:g}, region_filter {t.region_filter}" for t in self.teachers]
            raise ValueError(
                f"teachers: received {'; '.join(listed).replace('None', 'null') or 'an empty list'}, expected at least "
                "one with weight > 0 and no region_filter, for photos of any region, such as "
                f"{{path: {GLOBAL_PATH}, weight: 1.0}}"
                + (f"; {REGIONAL_TEACHER} does not count if phase2 is null, because no step makes it" * (not listed))
            )
        return self


class StudentTraining(Section):
    """Settings of both stages of the student's training."""

    batch_size: int = Field(128, ge=1, description="photos per step")
    warmup_epochs: float = Field(1.0, ge=0, description="linear warm-up of each stage, then cosine to 0")
    weight_decay: float = Field(0.0, ge=0, description="only with optimizer: adamw")
    optimizer: Optimizer = Field("adam", description="the training plan's choice")

    @model_validator(mode="after")
    def _decay(self) -> StudentTraining:
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(
                f"weight_decay: received {self.weight_decay:g} with optimizer {self.optimizer}, expected adamw for it; "
                "set optimizer: adamw, or weight_decay: 0"
            )
        return self


class Stage(Section):
    """Fine-tuning on the hard labels."""

    epochs: int = Field(10, ge=1, description="passes over the train split")
    learning_rate: float = Field(1e-4, gt=0, lt=10, description="peak, after warm-up")
    augmentation: Augmentation = Field("aggressive", description="none | moderate | aggressive")


class Distill(Section):
    """Distillation from the soft labels."""

    epochs: int = Field(10, ge=1, description="passes over the train split, on the views the teachers saw")
    learning_rate: float = Field(1e-4, gt=0, lt=10, description="peak, after warm-up")
    live: bool = Field(False, description="teachers predict the student's own views during training; nothing is stored")
    augmentation: Augmentation = Field("moderate", description="of the views if live: true; stored ones are moderate")
    mixup_alpha: float = Field(0.0, ge=0, le=10, description="Beta(α, α); 0 switches it off")
    cutmix_alpha: float = Field(0.0, ge=0, le=10, description="Beta(α, α); 0 switches it off")

    @model_validator(mode="after")
    def _stored(self) -> Distill:
        if not self.live and self.augmentation != "moderate":
            raise ValueError(
                f"augmentation: received {self.augmentation} with live: false, expected moderate, as stored views are; "
                "leave it out, or set live: true"
            )
        return self


class StudentData(Section):
    """The student's input."""

    image_size: int = Field(224, ge=32, le=512, description="pixels; the student's and the page's input")


class Phase4(Section):
    """Training of the student."""

    data: StudentData = StudentData()
    training: StudentTraining = StudentTraining()
    distill: Distill = Distill()
    finetune: Stage = Stage(learning_rate=5e-5)
    callbacks: Callbacks = Callbacks()

    @model_validator(mode="after")
    def _warmup(self) -> Phase4:
        for stage in ("distill", "finetune"):
            if self.training.warmup_epochs >= getattr(self, stage).epochs:
                raise ValueError(
                    f"training.warmup_epochs: received {self.training.warmup_epochs:g}, expected less than "
                    f"{stage}.epochs, {getattr(self, stage).epochs}; lower it, or raise {stage}.epochs"
                )
        return self
