"""Phase 6: the shipped weights, the SavedModel, the page, and the proof that they agree."""

from __future__ import annotations

import collections
import shutil
import tempfile
from pathlib import Path

from keras_pipeline.core.artifacts import Run, Step, aside, content_hash, write_json
from keras_pipeline.core.errors import BrokenArtefact
from keras_pipeline.phases import build, calibrating

REPRESENTATIVE = 128  # train photos on which rounding is judged


def quantize(run: Run) -> None:
    """BatchNorm folded, weights rounded; what that costs; and the calibration of the weights that are shipped."""
    from keras_pipeline.models import heads
    from keras_pipeline.web import quantize as rounding

    student = heads.load_classifier(run.path("student"))
    shipped = rounding.fold_batch_norm(student)
    tensors = []
    if run.config.phase6.quantization == "fp16":
        tensors = rounding.round_to_float16(shipped)
    elif run.config.phase6.quantization == "int8":
        tensors = rounding.round_to_uint8(shipped, _representative(run))
    with aside(run.path("shipped")) as temporary:
        shipped.save(temporary)
    size = run.config.phase4.data.image_size
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=run.path("quantization").parent) as folder:
        before, _ = build.predict_split(run, "student", "test", size, file=Path(folder) / "before.npy")
        fit, after = calibrating.predict(run, "shipped", Path(folder))
        cost = rounding.compare_models(before.logits, after.logits, after.labels)
        calibration, _, _ = calibrating.calibration(run, "shipped", fit, after)
    megabytes = rounding.weight_megabytes(shipped)
    result = {"type": run.config.phase6.quantization, "megabytes": megabytes, **cost, "tensors": tensors}
    write_json(run.path("quantization"), result)
    write_json(run.path("shipped_calibration"), calibration)
    print(
        f"{run.config.phase6.quantization}: top-1 {cost['top1_before']:.3f} -> {cost['top1_after']:.3f} on test, "
        f"{cost['top1_agreement']:.1%} of the answers the same, NLL {cost['delta_nll']:+.4f}, largest change of a "
        f"probability {cost['max_abs_dp']:.3f}; {_count_ways(tensors)}"
    )
    print(calibrating.describe_temperature(calibration))
    print(calibrating.describe(calibration))
    _refuse_costly_rounding(run, cost)


def _count_ways(tensors: list[dict]) -> str:
    counts = collections.Counter(entry["stored"] for entry in tensors)
    return ", ".join(f"{n} tensors as {way}" for way, n in sorted(counts.items())) or "float32 throughout"


def _representative(run: Run):
    """Clean views of train photos, float32 [n, S, S, 3]: the first of a shard, which are a random sample."""
    import numpy as np

    from keras_pipeline.data import pipeline, records
    from keras_pipeline.data.preprocess import Preprocessing

    info = records.load_info(run.path("dataset"))
    preprocessing = Preprocessing(run.config.phase4.data.image_size, run.config.dataset.short_side)
    batches = pipeline.evaluation_batches(info, "train", preprocessing, max_shards=1)
    return np.concatenate([batch["image"] for batch in batches.unbatch().batch(REPRESENTATIVE).take(1)])


def _refuse_costly_rounding(run: Run, cost: dict) -> None:
    loss = cost["top1_before"] - cost["top1_after"]
    if loss > run.config.phase6.max_top1_loss:
        raise ValueError(
            f"phase6.quantization: rounding costs {loss:.3f} test top-1, phase6.max_top1_loss allows "
            f"{run.config.phase6.max_top1_loss:g}: use quantization: none, or raise the limit"
        )


def export(run: Run) -> None:
    """SavedModel, TF.js graph model and page, all with the calibration of the shipped weights."""
    from keras_pipeline.data import records
    from keras_pipeline.data.preprocess import Preprocessing
    from keras_pipeline.models import heads
    from keras_pipeline.web import saved_model, tfjs

    calibration = run.read("shipped_calibration")
    if calibration["weights_hash"] != content_hash(run.path("shipped")):
        raise BrokenArtefact(
            f"{run.path('shipped_calibration')}: fitted on other weights than "
            f"{run.path('shipped')}; run `phase6 quantize --force`"
        )
    info = records.load_info(run.path("dataset"))
    saved_model.write_saved_model(
        heads.load_classifier(run.path("shipped")),
        run.path("saved_model"),
        labels=info.classes,
        preprocessing=Preprocessing(run.config.phase4.data.image_size, run.config.dataset.short_side),
        calibration=calibration,
        priors=_shipped_priors(run, calibration),
    )
    report = tfjs.write_bundle(run.path("saved_model"), run.path("web"))
    write_json(run.path("export"), report)
    print(f"page: {run.path('web')} (model {report['bytes'] / 1e6:.2f} MB in {report['shards']} shards)")


def _shipped_priors(run: Run, calibration: dict) -> dict | None:
    """Raises ValueError where they are to be shipped and can't be."""
    measured = calibration["region_priors"]
    if not measured["ship"]:
        return None
    if "why" in measured:
        raise ValueError(f"phase5.region_priors.ship: {measured['why']}; set it to false")
    return run.read("priors")


def validate(run: Run) -> None:
    """The page in a real browser against Python, on real test photos."""
    import numpy as np

    from keras_pipeline.data import records
    from keras_pipeline.web import equivalence

    info = records.load_info(run.path("dataset"))
    chosen = np.random.default_rng(run.config.seed).permutation(info.count("test"))[
        : run.config.phase6.validation_photos
    ]
    wanted = set(chosen.tolist())
    samples = []
    photos = (records.decode(example) for shard in info.shards("test") for example in records.read_shard(shard))
    for position, photo in enumerate(photos):
        if position in wanted:
            samples.append((photo.sample_id, photo.image, photo.label))
    bundle = run.path("web")
    result = equivalence.validate_bundle(bundle, run.path("saved_model"), samples)
    write_json(run.path("equivalence"), result)
    with aside(bundle / "equivalence.json") as temporary:
        shutil.copyfile(run.path("equivalence"), temporary)
    for name, figures in result["backends"].items():
        if "error" in figures:
            continue  # said among the reasons
        stages = figures["stages"]
        print(
            f"{name}: n {figures['n']}, same tensors: {figures['top1_agreement']:.2%} of the answers the same, largest "
            f"difference {figures['max_abs_diff']:.1e}, correlation {figures['correlation']:.13f}; same records: "
            f"{stages['record']['top1_agreement']:.2%}, {stages['record']['max_abs_diff']:.1e}; prediction "
            f"{figures['median_ms']:.1f} ms (first {figures['first_ms']:.0f} ms), load {figures['load_ms']:.0f} ms, "
            f"{figures['leaked_tensors']} tensors leaked"
        )
    print("the page says what Python says" if result["passed"] else f"NOT EQUIVALENT: {result.get('reasons')}")


STEPS = [
    Step(
        "phase6", "quantize", quantize, ("dataset", "assignment", "student"),
        ("shipped", "quantization", "shipped_calibration"),
        ("seed", "phase4.data", "phase5", "phase6.quantization", "phase6.max_top1_loss"), 2,
    ),
    Step(
        "phase6", "export", export, ("dataset", "shipped", "shipped_calibration", "priors"),
        ("saved_model", "web", "export"), ("dataset.short_side", "phase4.data"), 2,
    ),
    Step(
        "phase6", "validate", validate, ("dataset", "saved_model", "web"), ("equivalence",),
        ("seed", "phase6.validation_photos"), 1,
    ),
]  # fmt: skip
