"""Names and paths of all artefacts, and the `Run` that every step receives."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from keras_pipeline.core import cluster
from keras_pipeline.core.config.experiment import Config
from keras_pipeline.core.config.student import GLOBAL_PATH, REGIONAL_TEACHER
from keras_pipeline.core.dataset import UNKNOWN_REGION
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.core.files import read_json
from keras_pipeline.core.sidecars import edited, is_as_written

ARTEFACTS = {
    "audit": "artifacts/{experiment}/phase0/audit.json",
    "url_check": "artifacts/{experiment}/phase0/url_check.json",
    "url_ledger": "artifacts/{experiment}/phase0/url_ledger.parquet",
    "dataset": "tfrecords/{dataset}/dataset.json",
    "assignment": "tfrecords/{dataset}/assignment.parquet",
    "leak_audit": "artifacts/{experiment}/phase0/leak_audit.json",
    "baseline": "artifacts/{experiment}/phase0/baseline.json",
    "baseline_recall": "artifacts/{experiment}/phase0/baseline_recall.npz",
    "look_alikes": "artifacts/{experiment}/phase0/look_alikes.json",
    "baseline_predictions": "artifacts/{experiment}/phase0/predictions_test.npz",
    "teacher": f"artifacts/{{experiment}}/{GLOBAL_PATH}",
    "teacher_history": "artifacts/{experiment}/phase1/history.json",
    "teacher_curves": "artifacts/{experiment}/phase1/curves.png",
    "teacher_metrics": "artifacts/{experiment}/phase1/metrics_test.json",
    "teacher_predictions": "artifacts/{experiment}/phase1/predictions_test.npz",
    "teacher_pictures": "artifacts/{experiment}/phase1/pictures_test",
    "teacher_logits": "artifacts/{experiment}/phase1/soft_labels",
    "regional_subset": "artifacts/{experiment}/phase2/subset.json",
    "regional_index": "artifacts/{experiment}/phase2/subset.parquet",
    "regional": f"artifacts/{{experiment}}/{REGIONAL_TEACHER}",
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
    "off_list": "artifacts/{experiment}/phase6/off_list.npy",
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


@dataclasses.dataclass(frozen=True)
class Run:
    """The context of a step: the config, the paths, and how to open the source."""

    config: Config
    # config -> (uri, base_url); None if nothing reads the collection
    open_source: Callable[[Config], contextlib.AbstractContextManager[tuple[str, str | None]]] | None
    split: str = "test"  # of `evaluate`
    made_from: str = ""  # `recipe` of the current step: unfinished work is resumed only if its recipe is the same
    refetch: bool = False  # `phase0 export` fetches photos again whose records follow an older rule
    beam: tuple[str, ...] | None = None  # Beam's arguments if it distributes the work; they change no result
    # step that made an input -> why it is out of date
    stale: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return the path of an artefact."""
        relative = ARTEFACTS[name].format(experiment=self.config.experiment, dataset=self.config.dataset_name)
        return Path(self.config.root) / relative

    def source(self) -> contextlib.AbstractContextManager[tuple[str, str | None]]:
        """Open the source: (URI of the MongoDB, base URL of relative photo URLs) while the context is open."""
        if self.open_source is None:
            raise ValueError("this run was made without a way to open its source; only its artefacts can be read")
        return self.open_source(self.config)

    @property
    def folder(self) -> Path:
        """The folder artifacts/<experiment>."""
        return Path(self.config.root) / "artifacts" / self.config.experiment

    @property
    def assists(self) -> bool:
        """Whether this machine only takes part in training, while another one writes the artefacts."""
        return self.config.distribute == "multi_worker" and not cluster.task().is_chief

    def why_not_applicable(self, phase: str) -> str | None:
        """Return why the phase has nothing to do (its section of the config is null); None if it has."""
        if getattr(self.config, phase, True) is not None:
            return None
        audit = self.path("audit")
        regions = self.read("audit").get("per_region", {}) if is_as_written(audit) else {}
        if len(regions) == 1:
            ((region, n),) = regions.items()
            if region == UNKNOWN_REGION:
                return self.why_no_regions()
            return f"all {n:,} photos are of region {region}: there is no other region to compare with"
        return f"the config says {phase}: null"

    def why_no_regions(self) -> str:
        """Return why no photo has a region, if none has: of a folder its CSV may have no such column."""
        labels = self.config.source.demo.labels
        if labels and self.embedded_photos:
            with contextlib.suppress(OSError, ValueError):  # gone, or no text: then nobody can tell
                head = Path(labels).read_text(encoding="utf-8-sig").partition("\n")[0]
                if "region" not in [name.strip(' "\r') for name in head.split(",")]:
                    return f"{labels} has no column region"
        return "no photo has a region"

    @property
    def embedded_photos(self) -> Path | None:
        """Folder of the embedded source's photos, drawn or given; None for any other source."""
        if self.config.source.uri != "embedded":
            return None
        given = self.config.source.demo.images
        return Path(given) if given else self.folder / "source/herbarium"

    def read(self, name: str) -> dict:
        """Read a JSON artefact. Raises BrokenArtefact, naming it, if it is missing or not as its step left it."""
        found = read_json(self.path(name))
        if why := edited(self.path(name)):
            raise BrokenArtefact(why)
        if not isinstance(found, dict):
            raise BrokenArtefact(f"{self.path(name)}: JSON without keys; run its step again, which `status` names")
        return found
