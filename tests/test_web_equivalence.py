"""The proof passes for the bundle as made, and fails for each way of breaking it."""

import json
import shutil

import numpy as np
import pytest
import web_example as example

from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.web import equivalence
from keras_pipeline.web.equivalence import validate_bundle
from keras_pipeline.web.tfjs import write_file_list


@pytest.fixture
def copy(tmp_path):
    example.need_browser()
    return shutil.copytree(example.bundle()[0], tmp_path / "bundle")


def judge(bundle, photos=None):
    return validate_bundle(bundle, example.saved(), photos or example.samples(4))


def replace(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_the_bundle_passes(copy):
    verdict = judge(copy, example.samples())
    wasm = verdict["backends"]["wasm"]
    assert (verdict["status"], verdict["passed"], verdict["reasons"]) == ("passed", True, [])
    assert wasm["n"] == 40 and wasm["top1_agreement"] == 1.0 and wasm["max_abs_diff"] < 1e-5
    assert wasm["correlation"] > 0.9999 and wasm["leaked_tensors"] == 0 and wasm["median_ms"] > 0
    assert wasm["stages"]["record"]["conclusive_agreement"] == 1.0
    assert wasm["stages"]["record"]["top1_accuracy"] == verdict["python"]["top1_accuracy"] > 0.9
    assert verdict["files"]["n"] == example.bundle()[1]["files"]
    json.dumps(verdict, allow_nan=False)


def test_only_a_temperature_below_one_widens_the_largest_difference():
    limits = [equivalence._tensor_tolerance("wasm", temperature) for temperature in (2.0, 1.0, 0.1)]
    assert [limit["max_abs_diff"] for limit in limits] == pytest.approx([1e-5, 1e-5, 1e-4])
    assert {limit["top1_agreement"] for limit in limits} == {1.0}


def flip_a_byte(bundle):
    """The sign of one float16 weight of the head, which lies last but for the constants."""
    shard = bundle / "model/group1-shard1of1.bin"
    data = bytearray(shard.read_bytes())
    data[len(data) - 61] ^= 0x80
    shard.write_bytes(bytes(data))


def test_one_altered_byte_of_the_model_fails(copy):
    flip_a_byte(copy)
    verdict = judge(copy)
    assert not verdict["passed"] and "model/group1-shard1of1.bin" in verdict["files"]["wrong"]


def test_an_altered_weight_fails_even_with_a_new_file_list(copy):
    flip_a_byte(copy)
    write_file_list(copy)
    verdict = judge(copy)
    assert verdict["files"]["passed"] and not verdict["passed"]
    # The page itself asks its model for the stored answers before it takes a photo.
    assert "wasm gave other answers than the model's own" in verdict["backends"]["wasm"]["error"]


def test_two_swapped_labels_fail_even_with_new_hashes(copy):
    classes = [example.SPECIES[i] for i in (1, 0, 2, 3)]
    (copy / "labels.json").write_text(json.dumps({"sha256": class_hash(classes), "classes": classes}))
    write_file_list(copy)
    verdict = judge(copy)
    assert verdict["assets"]["different"] == ["labels.json"]
    assert "another model" in verdict["backends"]["wasm"]["error"]  # the page itself refuses them
    assert not verdict["passed"]


def test_swapped_names_are_refused_by_the_page_under_the_old_hash(copy):
    labels = json.loads((copy / "labels.json").read_text())
    labels["classes"][:2] = labels["classes"][1::-1]
    (copy / "labels.json").write_text(json.dumps(labels))
    assert "altered after export" in judge(copy)["backends"]["wasm"]["error"]


def test_a_changed_resize_fails_the_record_stage_alone(copy):
    replace(copy / "preprocess.js", "const kernelScale = Math.max(inverseScale, 1);", "const kernelScale = 1;")
    write_file_list(copy)
    stages = judge(copy)["backends"]["wasm"]["stages"]
    assert stages["tensor"]["passed"] and not stages["record"]["passed"]


def test_a_changed_threshold_fails(copy):
    (copy / "calibration.json").write_text(json.dumps(example.CALIBRATION | {"threshold": 1.0}))
    write_file_list(copy)
    verdict = judge(copy)
    assert verdict["assets"]["different"] == ["calibration.json"]
    assert verdict["backends"]["wasm"]["stages"]["record"]["conclusive_agreement"] < 0.5


def test_a_leaked_tensor_fails(copy):
    replace(copy / "worker.js", "    result.dispose();", "    result.shape;")
    write_file_list(copy)
    assert judge(copy)["backends"]["wasm"]["leaked_tensors"] == 32  # 16 photos in two stages


def test_a_page_that_asks_another_host_fails(copy):
    replace(
        copy / "worker.js", "let loaded = null;", 'let loaded = fetch("http://127.0.0.1:9/count").catch(() => null);'
    )
    write_file_list(copy)
    verdict = judge(copy)
    assert verdict["foreign_requests"] == ["http://127.0.0.1:9/count"] and not verdict["passed"]


def test_missing_and_added_files_are_named(copy):
    (copy / "NOTICES.txt").unlink()
    (copy / "extra.js").write_text("")
    wrong = judge(copy)["files"]["wrong"]
    assert set(wrong) == {"NOTICES.txt", "extra.js"}


@pytest.mark.parametrize(
    ("logits", "labels", "match"),
    [
        (np.full((8, 4), 0.1) + np.eye(8, 4) * 0.01, [0, 1, 2, 3] * 2, "untrained"),
        (np.tile([9.0, 0, 0, 0], (8, 1)), [0, 1, 2, 3] * 2, "collapsed"),
        (9 * np.eye(2)[[0, 0, 0, 1, 1]], [0, 0, 0, 1, 1], None),
    ],
)
def test_a_degenerate_model_is_told(logits, labels, match):
    reason = equivalence._degenerate(equivalence._Reference([], [], logits, logits, np.array(labels)))
    assert match in reason if match else reason is None


def test_a_degenerate_model_is_not_judged(copy):
    one_species = [sample for sample in example.samples() if sample[2] == 0]
    mislabelled = [(name, record, number % 4) for number, (name, record, _) in enumerate(one_species)]
    verdict = judge(copy, mislabelled)
    assert (verdict["status"], verdict["passed"], verdict["backends"]) == ("not judged", False, {})


def test_a_sample_that_is_no_photo_is_named(copy):
    with pytest.raises(ValueError, match="sample broken"):
        judge(copy, [("broken", b"no jpeg", 0)])


def test_unknown_backend_and_no_samples_are_refused(copy):
    for photos, backends in (([], ("wasm",)), (example.samples(), ("abacus",))):
        with pytest.raises(ValueError, match="expected one or more"):
            validate_bundle(copy, example.saved(), photos, backends=backends)
