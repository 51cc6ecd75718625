"""The proof passes for the bundle as made, and fails for each way of breaking it."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import made_photos
from support import web_example as example

from keras_pipeline.core.taxonomy import class_hash
from keras_pipeline.export import verdict as verdict_words
from keras_pipeline.export.agreement import PythonAnswers, Question, Sample, Tally, tolerance_of
from keras_pipeline.export.equivalence import validate_bundle
from keras_pipeline.export.saved_model import load_classifier
from keras_pipeline.export.tfjs import write_file_list


@pytest.fixture
def copy(tmp_path):
    example.need_browser()
    return shutil.copytree(example.bundle()[0], tmp_path / "bundle")


def judge(bundle, photos=None, **options):
    photos = [Sample(*photo) for photo in photos or example.samples(4)]
    return validate_bundle(bundle, example.saved(), photos, **{"backends": ("wasm",), **options})


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
    assert wasm["stages"]["record"]["conclusive"] == 38 and not any("'conclusive'" in n for n in verdict["notes"])
    assert verdict["browser"]["name"] == "Chromium" and int(verdict["browser"]["version"].split(".")[0]) > 100
    json.dumps(verdict, allow_nan=False)


def test_only_a_temperature_below_one_widens_the_largest_difference():
    limits = [tolerance_of("tensor", "wasm", temperature) for temperature in (2.0, 1.0, 0.1)]
    assert [limit["max_abs_diff"] for limit in limits] == pytest.approx([1e-5, 1e-5, 1e-4])
    assert {limit["top1_agreement"] for limit in limits} == {1.0}


def as_taken(count):
    """Larger than a record, as cameras make them; the records they would become are `example.samples`' own."""
    photos = [(f"{i % 4}-{100 + i // 4}", example.photo(i % 4, 100 + i // 4, (1024, 768)), i % 4) for i in range(count)]
    return [Sample(f"{name}.jpg", example.encoded(photo), label, name) for name, photo, label in photos]


def test_backends_say_the_same_of_tensors_pngs_records_and_originals(copy):
    verdict = judge(copy, example.samples(2), originals=as_taken(3), backends=("wasm", "cpu"))
    assert verdict["passed"], verdict["reasons"]
    assert set(verdict["backends"]) == {"wasm", "cpu"}
    for result in verdict["backends"].values():
        assert [figures["n"] for figures in result["stages"].values()] == [8, 8, 8, 4]  # an original more, enlarged
        assert result["stages"]["original"]["largest_megapixels"] >= 12
        assert result["accuracy"] == {"n": 3, "original": 1.0, "record": 1.0}
    assert "wasm: 4 original photos, 50 or more are wanted" in verdict["notes"]


def test_originals_that_are_no_photos_or_tiny_are_left_out_and_told(copy):
    icon = example.encoded(Image.new("RGB", (15, 40)), format="PNG")
    bad = [Sample("notes.jpg", b"no photo"), Sample("icon.png", icon)]
    verdict = judge(copy, originals=[*bad, *as_taken(1)])
    assert verdict["passed"] and verdict["backends"]["wasm"]["stages"]["original"]["n"] == 2
    told = "2 files among the originals were left out, the first: sample icon.png: shorter side below"
    assert any(note.startswith(told) for note in verdict["notes"])


def test_each_refusal_is_an_answer_counted_named_and_judged(copy):
    alike = ["jpeg lossless", "jpeg 12 bits", "jpeg cut off", "png damaged", "heic", "png cICP P3"]
    tiff = example.encoded(example.photo(1, 3), format="TIFF")  # Python reads it, no browser but Safari does
    originals = [*(Sample(name, made_photos.PHOTOS[name]) for name in alike), Sample("one.tif", tiff), *as_taken(1)]
    verdict = judge(copy, originals=originals)
    stage = verdict["backends"]["wasm"]["stages"]["original"]
    different = {"photo": "one.tif", "python": None, "page": "not a photo"}
    assert stage["refused"] == {"alike": 6, "differently": 1, "photos": [different]}
    assert (stage["n"], stage["top1_agreement"], stage["passed"]) == (3, 2 / 3, False)  # an original more, enlarged
    assert not verdict["passed"] and len(verdict["reasons"]) == 1
    assert any(note.startswith("6 files among the originals were left out") for note in verdict["notes"])
    told = "wasm, original: 1 photos refused differently: one.tif (Python: answered; page: not a photo)"
    assert told in verdict["notes"]
    json.dumps(verdict, allow_nan=False)


def test_a_page_that_refuses_everything_fails_and_says_so(copy):
    replace(copy / "worker.js", "  if (header.unusual) throw", "  throw")
    replace(copy / "worker.js", "selftest.jpg", "selftest.png")
    (copy / "selftest.jpg").unlink()
    Image.new("RGB", (40, 40)).save(copy / "selftest.png")
    replace(copy / "worker.js", "if (!(difference <= SAME))", "if (false)")
    write_file_list(copy)
    stage = judge(copy)["backends"]["wasm"]["stages"]["record"]
    assert (stage["n"], stage["error"]) == (16, "none of 16 photos was answered by both")
    assert stage["refused"]["differently"] == 16 and not stage["passed"]


def test_a_page_that_shrinks_photos_without_a_filter_fails_on_originals_alone(copy):
    replace(copy / "preprocess.js", "const support = Math.max(scale, 1), taps", "const support = 1, taps")
    write_file_list(copy)
    # One pixel of nine, all that a page sees that looks at nothing but the middle of each three by three.
    pixels, hidden = (np.array(example.photo(label, 7, (1024, 768))) for label in (3, 1))
    pixels[1::3, 1::3] = hidden[1::3, 1::3]
    verdict = judge(copy, originals=[Sample("two", example.encoded(Image.fromarray(pixels), format="PNG"))])
    stages = verdict["backends"]["wasm"]["stages"]
    assert [name for name, figures in stages.items() if not figures["passed"]] == ["original"]
    worst = next(photo for photo in stages["original"]["worst"] if photo["photo"] == "two")
    assert (worst["python"][0], worst["page"][0]) == (example.SPECIES[3], example.SPECIES[1])


def test_a_tally_adds_up_what_numpy_finds_at_once():
    random = np.random.default_rng(3)
    tally = Tally(load_classifier(example.saved()))
    python, page = random.dirichlet([1] * 4, (2, 30)).astype(np.float32)
    for rows in (slice(0, 20), slice(20, 30)):
        asked = [Sample(str(i), b"", 0) for i in range(30)[rows]]
        found = {"probabilities": page[rows], "ms": [1.0] * len(asked), "names": [None] * len(asked)}
        tally.add(Question("tensor", [], python[rows], asked), found)
    figures, difference = tally.judge({"top1_agreement": 1.0}), np.abs(python.astype(float) - page)
    assert figures["correlation"] == pytest.approx(np.corrcoef(python.ravel(), page.ravel())[0, 1], abs=1e-9)
    assert figures["max_abs_diff"] == difference.max() and not figures["passed"]
    assert figures["total_variation"] == pytest.approx(difference.sum(1).mean() / 2)
    assert figures["top1_agreement"] == np.mean(python.argmax(1) == page.argmax(1))
    assert figures["top5_agreement"] == 1.0  # of four species all are among the first five
    assert figures["worst"][0]["photo"] == str(difference.max(1).argmax())


def test_a_page_of_thousands_of_species_that_moves_a_hundredth_of_the_probability_fails():
    classes = 9000
    tally = Tally(load_classifier(example.saved()))
    tally.classifier = SimpleNamespace(labels=[str(i) for i in range(classes)])
    python = np.full((4, classes), 0.1 / (classes - 5), np.float32)
    python[:, :5] = 0.5, 0.2, 0.1, 0.06, 0.04
    page = python.copy()
    page[:, 0] -= 0.01
    page[:, 5:] += 0.01 / (classes - 5)  # the order stays
    asked = [Sample(str(i), b"") for i in range(4)]
    tally.add(Question("tensor", [], python, asked), {"probabilities": page, "ms": [1.0] * 4, "names": [None] * 4})
    found = tally.judge({"top1_agreement": 1.0, "total_variation": 0.005})
    assert (found["top1_agreement"], found["top5_agreement"]) == (1.0, 1.0)
    assert found["total_variation"] == pytest.approx(0.01, rel=1e-3) and not found["passed"]


@pytest.mark.parametrize(("apart", "agreement"), [(1e-7, 1.0), (1e-4, 0.8)])
def test_species_as_likely_as_the_fifth_may_take_its_place(monkeypatch, apart, agreement):
    tally = Tally(load_classifier(example.saved()))
    monkeypatch.setattr(tally, "classifier", SimpleNamespace(labels=list("abcdef")))
    python = np.array([[0.3, 0.3, 0.2, 0.1, 0.05 + apart, 0.05]], np.float32)
    page = python[:, [0, 1, 2, 3, 5, 4]]
    question = Question("tensor", [], python, [Sample("a", b"")])
    tally.add(question, {"probabilities": page, "ms": [1.0], "names": [None]})
    assert tally.judge({})["top5_agreement"] == pytest.approx(agreement)


@pytest.mark.parametrize(
    ("python", "page", "agreement", "passed"),
    [
        ([0.9, 0.5], [True, False], 1.0, True),
        ([0.9, 0.5], [False, False], 0.5, False),
        ([0.5, 0.5], [False, False], None, True),  # none is conclusive, all are: agreement proves nothing,
        ([0.9, 0.9], [True, True], None, True),
        ([0.5, 0.5], [True, True], 0.0, False),  # but disagreement does
        ([0.9, 0.9], [True, False], 0.5, False),
    ],
)
def test_conclusive_is_judged_where_some_answers_are_and_some_are_not(python, page, agreement, passed):
    tally = Tally(load_classifier(example.saved()))
    said = np.array([[p, 0.94 - p, 0.04, 0.02] for p in python], np.float32)  # the example's threshold is 0.89
    question = Question("record", [], said, [Sample(name, b"") for name in "ab"])
    words = {"names": [example.SPECIES[0]] * 2, "conclusive": page, "off_list": [None, None]}
    tally.add(question, {"probabilities": said, "ms": [1.0, 1.0], **words})
    figures = tally.judge({"name_agreement": 0.995, "conclusive_agreement": 0.995})
    assert figures["conclusive"] == python.count(0.9)
    assert (figures["conclusive_agreement"], figures["passed"]) == (agreement, passed)
    assert ("conclusive_agreement" in figures["tolerance"]) == (agreement is not None)


def test_where_conclusive_is_not_judged_is_told_with_the_reason():
    stages = {"tensor": {}, "png": {"conclusive_agreement": None, "conclusive": 0}}
    found = {"wasm": {"stages": stages | {"record": stages["png"]}}, "cpu": {"stages": {}}}
    found["webgl"] = {"stages": {"png": {"conclusive_agreement": None, "conclusive": 8}, "record": {
        "conclusive_agreement": 1.0, "conclusive": 7}}}  # fmt: skip
    assert verdict_words._unjudged_verdicts(found) == [
        "'conclusive' not judged, no answer is: wasm png, wasm record",
        "'conclusive' not judged, all answers are: webgl png",
    ]


def test_backends_are_named_by_their_browser_where_several_were_asked():
    alone = {"browser": {"name": "Chromium"}, "backends": {"wasm": {"n": 1}, "cpu": {"n": 2}}}
    assert verdict_words.named_backends(alone) == alone["backends"]  # as older programs left it
    both = alone | {"other_browsers": [{"browser": {"name": "Firefox"}, "backends": {"wasm": {"n": 3}}}]}
    named = {"Chromium wasm": {"n": 1}, "Chromium cpu": {"n": 2}, "Firefox wasm": {"n": 3}}
    assert verdict_words.named_backends(both) == named


def test_an_answer_that_is_not_a_number_fails():
    tally = Tally(load_classifier(example.saved()))
    found = {"probabilities": np.full((1, 4), np.nan, np.float32), "ms": [1.0], "names": [None]}
    tally.add(Question("tensor", [], np.full((1, 4), 0.25, np.float32), [Sample("a", b"")]), found)
    assert tally.judge({})["error"] == "1 of 1 answers are missing or not finite"


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
    assert not verdict["passed"]


@pytest.mark.parametrize("told", ["old", "new"])
def test_swapped_names_are_refused_by_the_page_even_with_new_hashes(copy, told):
    classes = [example.SPECIES[i] for i in (1, 0, 2, 3)]
    told_hash = class_hash(classes if told == "new" else example.SPECIES)
    (copy / "names.txt").write_text("\n".join([told_hash, *classes]) + "\n")
    write_file_list(copy)
    assert "another model" in judge(copy)["backends"]["wasm"]["error"]


def test_a_changed_resize_fails_all_stages_but_the_tensors(copy):
    replace(copy / "preprocess.js", "const kernelScale = Math.max(inverseScale, 1);", "const kernelScale = 1;")
    replace(copy / "worker.js", "if (!(difference <= SAME))", "if (false)")  # the self-test would notice
    write_file_list(copy)
    stages = judge(copy)["backends"]["wasm"]["stages"]
    assert stages["tensor"]["passed"] and not stages["png"]["passed"] and not stages["record"]["passed"]


def test_a_changed_threshold_fails(copy):
    (copy / "calibration.json").write_text(json.dumps(example.CALIBRATION | {"threshold": 1.0}))
    write_file_list(copy)
    verdict = judge(copy)
    assert verdict["assets"]["different"] == ["calibration.json"]
    assert "calibration.json was altered after export" in verdict["backends"]["wasm"]["error"]


def test_a_leaked_tensor_fails(copy):
    replace(copy / "worker.js", "    tf.dispose(results);", "    results.length;")
    write_file_list(copy)
    assert judge(copy)["backends"]["wasm"]["leaked_tensors"] == 48  # 16 photos in three stages


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
    python = PythonAnswers(logits.shape[1])
    python.add(logits, [Sample("", b"", label) for label in labels])
    reason = python.degenerate()
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
            validate_bundle(copy, example.saved(), [Sample(*photo) for photo in photos], backends=backends)
