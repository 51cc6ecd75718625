"""A whole experiment: the sections of one YAML file, and the rules between them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from keras_pipeline.core.config.base import FILE, Section
from keras_pipeline.core.config.delivery import Gates, Phase5, Phase6
from keras_pipeline.core.config.phase0 import Phase0
from keras_pipeline.core.config.source import Dataset, Source
from keras_pipeline.core.config.student import REGIONAL_TEACHER, TRAINED_HERE, Phase3, Phase4
from keras_pipeline.core.config.teachers import GLOBAL_TEACHER, RegionalTeacher, Teacher

EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# The training plan's values where they differ between phases. The file's own values are merged on top, so that a file
# that sets only phase2.training.epochs keeps the plan's phase2.training.learning_rate.
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
    """Remove the regional teacher from the ensemble if `phase2: null`, so that one key is enough."""
    if not isinstance(values, dict) or values["phase2"] is not None or not isinstance(values["phase3"], dict):
        return values
    teachers = values["phase3"].get("teachers", [member.model_dump() for member in Phase3().teachers])
    if isinstance(teachers, list):
        teachers = [each for each in teachers if not (isinstance(each, dict) and each.get("path") == REGIONAL_TEACHER)]
    return values | {"phase3": values["phase3"] | {"teachers": teachers}}


def planned(values: Any) -> Any:
    """Fill plain values, as YAML yields them, with the training plan's and with those that follow from other keys."""
    return _with_weights(_without_regional(_merge(PLAN, values)))


def _with_weights(values: Any) -> Any:
    """Give the weights of the key `weights` to every MobileNetV2, and to the baseline, that name none themselves."""
    weights = values.get("weights") if isinstance(values, dict) else None
    if not isinstance(weights, str):
        return values
    below: dict[str, Any] = {}
    for phase in ("phase1", "phase2", "phase3"):
        section = values[phase]
        model = section.get("model", {}) if isinstance(section, dict) else None
        if isinstance(model, dict) and model.get("name") == "mobilenetv2":
            below[phase] = {"model": {"pretrained": weights}}
    phase0 = values.get("phase0", {})
    baseline = phase0.get("baseline", {}) if isinstance(phase0, dict) else None
    if isinstance(baseline, dict) and not {"features", "weights"} & baseline.keys():
        own = {"features": "imagenet"} if weights == "imagenet" else {"features": "file", "weights": weights}
        below["phase0"] = {"baseline": own}
    return _merge(below, values)


class Config(Section):
    """One experiment."""

    experiment: str = Field(description="name of the folders; the file's stem unless given")
    seed: int = Field(42, ge=0, lt=2**31, description="of splits, weights, shuffles and views")
    deterministic: bool = Field(False, description="bit-identical repetitions, at some cost in speed")
    root: str = Field(".", description="folder that holds tfrecords/, artifacts/ and web_export/")
    distribute: Literal["none", "mirrored", "multi_worker"] = Field(
        "none", description="what trains: one device; all GPUs of this machine; those of all machines in TF_CONFIG"
    )
    weights: Annotated[str | None, FILE] = Field(
        None,
        description="of every mobilenetv2 (pretrained) and the baseline's features, where they name none: a "
        ".weights.h5 file, or imagenet",
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
        return planned(values)

    @model_validator(mode="after")
    def _pairs(self) -> Config:
        for key, name in (("experiment", self.experiment), ("dataset.name", self.dataset_name)):
            if not EXPERIMENT_NAME.fullmatch(name):
                raise ValueError(
                    f"{key}: received {name!r}, expected at most 100 letters, digits, '.', '_' and '-', the first a "
                    "letter or a digit; give another name"
                )
        for key, phase in (("phase1", self.phase1), ("phase2", self.phase2), ("phase4", self.phase4)):
            if phase and (size := phase.data.image_size) > self.dataset.short_side:
                raise ValueError(
                    f"{key}.data.image_size: received {size}, expected at most dataset.short_side, "
                    f"{self.dataset.short_side}, because stored photos would be enlarged; lower it, or raise "
                    "dataset.short_side"
                )
        return self

    @model_validator(mode="after")
    def _global_teacher(self) -> Config:
        """Refuse the global teacher's weights outside phase 2, and for another network."""
        for key, model in (("phase1.model", self.phase1.model), ("phase3.model", self.phase3.model)):
            if model.pretrained == GLOBAL_TEACHER:
                raise ValueError(
                    f"{key}.pretrained: received {GLOBAL_TEACHER}, which is for phase2.model, expected true, a path or "
                    "false; give one of them"
                )
        mine, theirs = self.phase2 and self.phase2.model, self.phase1.model
        if mine and mine.pretrained == GLOBAL_TEACHER and mine.title != theirs.title:
            raise ValueError(
                f"phase2.model.pretrained: received {GLOBAL_TEACHER} for {mine.title}, expected phase1's model for it "
                f"({theirs.title}); give phase2.model the same, or other weights"
            )
        return self

    @model_validator(mode="after")
    def _distributed(self) -> Config:
        """Refuse what Keras does wrongly or not at all on several replicas."""
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
        """Name of the folder below tfrecords/."""
        return self.dataset.name or self.experiment

    @property
    def teachers(self) -> dict[str, Teacher]:
        """Section of each phase that trains a teacher, by the phase's name."""
        return {name: phase for name in ("phase1", "phase2") if (phase := getattr(self, name))}

    @property
    def regional(self) -> RegionalTeacher:
        """Section phase2. Raises ValueError if it is null: only the steps of phase 2 and their metrics may read it."""
        if self.phase2 is None:
            raise ValueError("phase2: received null, expected the section of a regional teacher")
        return self.phase2

    def teacher_artefacts(self, *kinds: str) -> tuple[str, ...]:
        """Return artefact names of the ensemble's teachers that are trained here; `{name}` is teacher or regional."""
        paths = (member.path for member in self.phase3.teachers)
        names = dict.fromkeys(TRAINED_HERE[path] for path in paths if path in TRAINED_HERE)
        return tuple(kind.format(name=name) for name in names for kind in kinds)
