"""Sections `phase5`, `phase6` and `gates`: calibration, export, and the targets of the run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keras_pipeline.core.config.base import Section


class RegionPriors(Section):
    """Prior probabilities of species by region, from counts of the train split; always measured, shipped if `ship`."""

    ship: bool = Field(False, description="the page asks for the region and applies its prior")
    smoothing: float = Field(100.0, gt=0, le=1e9, description="photos of all regions mixed into each region's counts")
    floor: float = Field(
        0.02, gt=0, le=1, description="smallest factor that a region applies to a species' probability"
    )


class Phase5(Section):
    """Calibration, and the threshold of conclusive answers."""

    bins: int = Field(15, ge=2, le=1000, description="confidence bins of ECE and MCE (Guo 2017)")
    target_precision: float = Field(0.95, gt=0, lt=1, description="guaranteed for conclusive answers")
    confidence_level: float = Field(0.95, gt=0, lt=1, description="of the guarantee (one-sided)")
    accept_unmet: bool = Field(
        False,
        description="ships the best reachable threshold if target_precision can't be guaranteed; page, model card and "
        "report print the precision that it does guarantee",
    )
    off_list: bool = Field(
        True,
        description="page and `classify` tell photos that look like none of the plants of the list; needs a "
        "pretrained student and 49 calibration photos of different plants",
    )
    region_priors: RegionPriors = RegionPriors()


Rounding = Literal["fp16", "int8", "int8-qat", "none"]

Browser = Literal["chromium", "firefox", "webkit"]
CHROMIUM: list[Browser] = ["chromium"]


class Qat(Section):
    """Quantization-aware training, for `quantization: int8-qat`."""

    steps: int = Field(200, ge=1, description="batches of phase4.training.batch_size")
    learning_rate: float = Field(3e-6, gt=0, description="of Adam, falling to 0; 1e-5 ruins flowers17's student")


class Phase6(Section):
    """The shipped weights, and the comparison with Python in a browser."""

    quantization: Rounding = Field(
        "fp16",
        description="of the shipped weights; int8: kernels in one byte per weight where accuracy allows, the rest "
        "fp16; int8-qat: the same after quantization-aware training",
    )
    compare: list[Rounding] = Field([], description="other quantizations to measure for comparison")
    qat: Qat = Qat()
    validation_photos: int | None = Field(
        1000, ge=20, description="seeded sample of the test split shown to the browser; null: all"
    )
    photos: str | None = Field(
        None,
        min_length=1,
        description="folder of original photos to test the whole page with; null: those of an embedded source",
    )
    browsers: list[Browser] | None = Field(
        CHROMIUM, min_length=1, description="where the page is compared with Python; null: those that are there"
    )
    max_top1_loss: float = Field(
        0.02, ge=0, le=1, description="test top-1 that quantization may cost; export stops above"
    )


class Gates(Section):
    """Targets of the run; a missed gate makes it exit 1 at the end. null: no target."""

    url_failure_rate: float | None = Field(0.05, ge=0, le=1, description="below")
    largest_group: float | None = Field(
        0.01, ge=0, le=1, description="share of the photos in the largest group, at most"
    )
    split_shares: float | None = Field(
        0.01,
        ge=0,
        le=1,
        description="difference of a split's share from the reachable one, at most; two groups are no difference",
    )
    two_names: float | None = Field(
        0.05,
        ge=0,
        le=1,
        description="share of photos whose picture has two names, at most; after audit by URL, after split by picture",
    )
    look_alikes: float | None = Field(
        0.01,
        ge=0,
        le=1,
        description="share of the val, calibration and test photos with a copy in another split, at most",
    )
    valid_photos_min: int | None = Field(800_000, ge=0, description="photos; the plan: 800-900 thousand")
    valid_photos_max: int | None = Field(900_000, ge=1, description="photos")
    baseline_top1_min: float | None = Field(0.30, ge=0, le=1, description="of the linear probe; the plan: 30-40 %")
    teacher_top1: float | None = Field(0.70, ge=0, le=1, description="test, at least")
    teacher_top5: float | None = Field(0.85, ge=0, le=1, description="test, at least")
    teacher_min_recall: float | None = Field(
        0.60, ge=0, le=1, description="of the worst tenth of the species, above; the plan: of each"
    )
    teacher_over_probe: float | None = Field(
        0.0,
        ge=-1,
        le=1,
        description="test top-1 minus that of the linear probe of its own features, or phase 0's; missed if the "
        "whole 95 % interval is below",
    )
    regional_top1: float | None = Field(0.80, ge=0, le=1, description="regional teacher in its region, at least")
    regional_global_top1: float | None = Field(
        0.65, ge=0, le=1, description="regional teacher over all regions, at least"
    )
    regional_gain: float | None = Field(
        0.0,
        ge=-1,
        le=1,
        description="top-1 over the global teacher in the region, above; where the region is the species', the global "
        "teacher is asked among the region's species only",
    )
    student_megabytes: float | None = Field(20.0, gt=0, description="MB, below")
    student_val_top1: float | None = Field(0.70, ge=0, le=1, description="at least")
    student_train_top1: float | None = Field(0.80, ge=0, le=1, description="on clean train photos, above")
    val_loss_ratio: float | None = Field(1.05, ge=1, description="final val loss / best val loss, at most")
    ece: float | None = Field(0.10, ge=0, le=1, description="of the shipped model on test, below")
    precision: float | None = Field(0.95, ge=0, le=1, description="of conclusive answers, on test, at least")
    coverage: float | None = Field(0.80, ge=0, le=1, description="share of conclusive answers, on test, at least")
    bundle_megabytes: float | None = Field(150.0, gt=0, description="MB, at most")
    browser_correlation: float | None = Field(0.995, ge=-1, le=1, description="Python against browser, above")
    prediction_seconds: float | None = Field(5.0, gt=0, description="a photo in the browser on the CPU, below")
