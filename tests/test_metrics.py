"""Accuracy, recall and loss, against numbers worked out by hand and against scikit-learn."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, recall_score, top_k_accuracy_score

from keras_pipeline.evaluation import metrics
from keras_pipeline.evaluation.confusion import confused_pairs, confusion_table, examples, genus_table
from keras_pipeline.evaluation.mapped import forget_pages

CLASSES = ["Bellis perennis", "Crocus vernus", "Viola tricolor"]
# Ranks of the labels, by eye: row 0 first, row 1 second, row 2 third, row 3 ties with class 0 and comes after it.
LOGITS = np.array([[3.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 2.0, -1.0], [1.0, 1.0, 0.0]])
LABELS = np.array([0, 1, 2, 1])
REGIONS = ["EU_SW", "EU", "EU_SW", "EU"]
GROUPS = ["a", "b", "c", "b"]


def random_case(n=300, c=7, seed=0):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(n, c)), rng.integers(0, c, n)


def metrics_of(logits, labels, regions=None, classes=None, groups=None):
    """`classification_metrics`; one region, numbered classes and a group a photo unless given."""
    n, c = logits.shape
    classes = [str(i) for i in range(c)] if classes is None else classes
    groups = [f"g{i}" for i in range(n)] if groups is None else groups
    return metrics.classification_metrics(logits, labels, regions or ["EU"] * n, classes, groups)


def test_softmax_literal():
    # exp(ln 3) : exp(0) = 3 : 1; at T = 2 it is sqrt(3) : 1, 1.7320508 / 2.7320508 = 0.6339746
    logits = np.log([[3.0, 1.0]])
    np.testing.assert_allclose(metrics.softmax(logits), [[0.75, 0.25]])
    np.testing.assert_allclose(metrics.softmax(logits, 2.0), [[0.6339746, 0.3660254]], atol=1e-7)


def test_softmax_is_stable_and_blind_to_a_shift():
    logits, _ = random_case()
    np.testing.assert_allclose(metrics.softmax(logits + 1000.0), metrics.softmax(logits), atol=1e-12)
    np.testing.assert_array_equal(metrics.softmax([[1e4, 0.0, -1e4]]), [[1.0, 0.0, 0.0]])
    assert np.isfinite(metrics.log_softmax([[1e4, 0.0, -1e4]])).all()


def test_half_precision_logits_are_summed_in_double():
    logits = np.zeros((1, 9000), np.float16)
    assert metrics.nll(logits, [0]) == pytest.approx(np.log(9000), rel=1e-12)


def test_nll_literal():
    # -ln 0.75 = 0.2876821 and -ln 0.25 = 1.3862944: mean 0.8369882
    assert metrics.nll(np.log([[3.0, 1.0], [3.0, 1.0]]), [0, 1]) == pytest.approx(0.8369882, abs=1e-7)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_nll_agrees_with_sklearn(temperature):
    logits, labels = random_case()
    expected = log_loss(labels, metrics.softmax(logits, temperature), labels=range(7))
    assert metrics.nll(logits, labels, temperature) == pytest.approx(expected, abs=1e-6)


def test_blocks_of_rows_add_up(monkeypatch):
    logits, labels = random_case()
    whole = metrics.nll(logits, labels), metrics.label_ranks(logits, labels)
    monkeypatch.setattr(metrics, "_BLOCK_ELEMENTS", 7 * 13)  # 300 rows = 23 blocks of 13 and one of 1
    assert metrics.nll(logits, labels) == pytest.approx(whole[0], rel=1e-12)
    np.testing.assert_array_equal(metrics.label_ranks(logits, labels), whole[1])


def test_ranks_resolve_ties_by_class_index():
    np.testing.assert_array_equal(metrics.label_ranks(LOGITS, LABELS), [0, 1, 2, 1])
    np.testing.assert_array_equal(metrics.label_ranks(np.zeros((3, 3)), [0, 1, 2]), [0, 1, 2])


@pytest.mark.parametrize(("k", "expected"), [(1, 0.25), (2, 0.75), (3, 1.0), (5, 1.0)])
def test_topk_literal_and_capped_at_the_number_of_classes(k, expected):
    assert metrics.topk_accuracy(LOGITS, LABELS, k) == expected


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_agrees_with_sklearn(k):
    logits, labels = random_case()
    expected = top_k_accuracy_score(labels, logits, k=k, labels=range(7))
    assert metrics.topk_accuracy(logits, labels, k) == pytest.approx(expected, abs=1e-12)


def test_per_class_recall_literal():
    # class 0: 1 of 1; class 1: rows 1 and 3, neither first; class 2 has no photo here
    rows = [0, 1, 3]
    result = metrics.classification_metrics(LOGITS[rows], LABELS[rows], ["EU"] * 3, CLASSES, ["a", "b", "c"])
    assert result["species"] == 2
    assert {name: (entry["n"], entry["recall"]) for name, entry in result["per_class_recall"].items()} == {
        "Bellis perennis": (1, 1.0),
        "Crocus vernus": (2, 0.0),
        "Viola tricolor": (0, None),
    }


def test_classification_metrics_literal():
    result = metrics.classification_metrics(LOGITS, LABELS, REGIONS, CLASSES, GROUPS)
    assert (result["n"], result["groups"], result["top1_accuracy"], result["top5_accuracy"]) == (4, 3, 0.25, 1.0)
    assert result["macro_recall"] == pytest.approx(1 / 3)  # 1, 0 and 0
    assert result["loss"] == metrics.nll(LOGITS, LABELS)
    assert list(result["per_region"]) == ["EU", "EU_SW"]
    region = result["per_region"]["EU_SW"]  # photos 0 and 2 of groups a and c
    assert {key: region[key] for key in ("n", "species", "groups", "top1", "top5")} == {
        "n": 2,
        "species": 2,
        "groups": 2,
        "top1": 0.5,
        "top5": 1,
    }
    assert list(result["per_class_recall"]) == CLASSES
    assert result["min_recall"] is None  # no class has 20 photos


def test_intervals_lie_around_their_figures():
    logits, labels = random_case()
    logits[np.arange(300), labels] += 3
    result = metrics_of(logits, labels, ["EU", "EU_SW"] * 150)
    figures = {"top1_accuracy": "top1", "top5_accuracy": "top5", "macro_recall": "macro_recall"}
    for figure, name in figures.items():
        low, high = result[f"{name}_interval"]
        assert 0 < low < result[figure] < high < 1
    for entry in (*result["per_region"].values(), {"top1_interval": result["top1_interval"]}):
        assert 0.02 < entry["top1_interval"][1] - entry["top1_interval"][0] < 0.3


def test_recall_intervals_count_groups_not_photos():
    # Class 1 has two photos of one group, both wrong: no success in one trial, 1 - 0.025 ** (1 / 1) = 0.975.
    result = metrics.classification_metrics(LOGITS, LABELS, REGIONS, [*CLASSES[:2], "z"], GROUPS)
    entry = result["per_class_recall"]["Crocus vernus"]
    assert entry == {"n": 2, "recall": 0.0, "groups": 1, "interval": [0.0, pytest.approx(0.975)]}
    logits = np.pad(LOGITS, ((0, 0), (0, 1)), constant_values=-9)
    entry = metrics_of(logits, LABELS)["per_class_recall"]["3"]
    assert entry == {"n": 0, "recall": None, "groups": 0, "interval": None}


def test_min_recall_leaves_out_classes_with_fewer_than_20_photos():
    labels = np.repeat([0, 1, 2], [30, 20, 19])
    answers = np.where(np.arange(69) % 10 == 0, (labels + 1) % 3, labels)  # 3 of 30, 2 of 20, 2 of 19 wrong
    answers[[31, 32]] = 0  # 4 of 20
    answers[50:] = 0  # class 2: all wrong, but 19 photos
    assert metrics_of(np.eye(3)[answers], labels)["min_recall"] == {"latin_name": "1", "n": 20, "recall": 0.8}


def test_the_worst_tenth_of_equal_species_is_not_worse_by_chance():
    random = np.random.default_rng(5)
    labels = np.repeat(np.arange(1000), 24)
    groups = (np.arange(24_000) // 2).astype(str)
    right = random.random(24_000) < 0.72
    assert np.bincount(labels, right).min() == 11  # of 24: the lowest recall is 0.46
    found = metrics.worst_tenth(right, labels, groups)
    assert (found["species"], found["of"]) == (100, 1000) and found["recall"] == pytest.approx(0.72, abs=0.02)
    right[:2400] = random.random(2400) < 0.3  # a tenth that is worse
    assert metrics.worst_tenth(right, labels, groups)["recall"] == pytest.approx(0.33, abs=0.03)


def test_the_worst_tenth_needs_photos_and_groups():
    labels, right = np.repeat([0, 1, 2], [20, 19, 20]), np.arange(59) % 4 != 0
    groups = np.where(labels == 2, "one", np.arange(59).astype(str))
    # Class 0's photos 0, 2, 4, … are the one half, 5 of 10 right; the others 10 of 10.
    assert metrics.worst_tenth(right, labels, groups) == {"species": 1, "of": 1, "recall": 0.75}
    assert metrics.worst_tenth(right[20:], labels[20:], groups[20:]) is None


def pairs_of(labels, answers, classes, groups=None, confidence=None, **options):
    """`confused_pairs`; a group a photo and equal confidences unless given."""
    groups = [f"g{i}" for i in range(len(labels))] if groups is None else groups
    return confused_pairs(labels, answers, classes, groups, np.ones(len(labels)) if confidence is None else confidence,
                          **options)  # fmt: skip


def test_confused_pairs_literal():
    # Class 0: two of three photos taken for class 2. Class 1: one of two for class 0. Class 2: one of one for class 0.
    labels, answers = [0, 0, 0, 1, 1, 2], [2, 0, 2, 0, 1, 0]
    # Lower ends: of two in three 0.094, of one in one 0.025, of one in two 0.0126; times 2, 1 and 1.
    pairs = pairs_of(labels, answers, CLASSES)
    assert [(pair.pop("interval")[0], pair)[1] for pair in pairs] == [
        {"truth": "Bellis perennis", "answer": "Viola tricolor", "n": 2, "groups": 2, "share": pytest.approx(2 / 3)},
        {"truth": "Viola tricolor", "answer": "Bellis perennis", "n": 1, "groups": 1, "share": 1.0},
        {"truth": "Crocus vernus", "answer": "Bellis perennis", "n": 1, "groups": 1, "share": 0.5},
    ]
    lows = [pair["interval"][0] for pair in pairs_of(labels, answers, CLASSES)]
    assert lows == pytest.approx([0.0943, 0.025, 1 - 0.975**0.5], abs=1e-4)
    assert len(pairs_of(labels, answers, CLASSES, most=2)) == 2
    assert metrics_of(np.eye(3)[answers], np.array(labels), classes=CLASSES)["confused_pairs"][0]["n"] == 2
    assert pairs_of([0, 1], [0, 1], CLASSES) == []


def test_pairs_are_ranked_by_evidence_not_by_the_alphabet():
    # a: 30 of 600 photos; b: 12 of 600; c: 8 of 10; d: 2 of 2; e: 1 of 1; f: 8 of 10, all of one group.
    counts = {"a": (600, 30), "b": (600, 12), "c": (10, 8), "d": (2, 2), "e": (1, 1), "f": (10, 8)}
    labels = np.repeat(np.arange(6), [n for n, _ in counts.values()])
    answers = np.concatenate([np.where(np.arange(n) < wrong, 6, i) for i, (n, wrong) in enumerate(counts.values())])
    groups = np.where(labels == 5, "one", [f"g{i}" for i in range(len(labels))])
    found = pairs_of(labels, answers, [*counts, "z"], groups)
    assert [pair["truth"] for pair in found] == ["c", "a", "d", "b", "e", "f"]
    evidence = [pair["groups"] * pair["interval"][0] for pair in found]
    assert evidence == pytest.approx([3.55, 1.02, 0.316, 0.124, 0.025, 0.0082], rel=0.01)
    assert [pair["groups"] for pair in found] == [8, 30, 2, 12, 1, 1]


def test_equal_pairs_come_by_confidence_then_in_an_order_that_is_blind_to_names_and_photos():
    classes = [f"{letter}{i}" for letter in "abcdefghij" for i in range(2)]
    labels, answers = np.arange(0, 20, 2), np.arange(1, 20, 2)
    surest = pairs_of(labels, answers, classes, confidence=np.linspace(0.1, 0.9, 10))
    assert [pair["truth"] for pair in surest] == [f"{letter}0" for letter in "jihgfedcba"]
    equal, backwards = pairs_of(labels, answers, classes), pairs_of(labels[::-1], answers[::-1], classes)
    assert equal == backwards
    order = [pair["truth"] for pair in equal]
    assert order == [f"{letter}0" for letter in "hecgjfidab"]


def test_confused_pairs_agree_with_a_dense_matrix():
    _, labels = random_case()
    answers = np.random.default_rng(1).integers(0, 7, 300)
    dense = np.zeros((7, 7), int)
    np.add.at(dense, (labels, answers), 1)
    pairs = pairs_of(labels, answers, "abcdefg", most=99)
    assert {(p["truth"], p["answer"]): p["n"] for p in pairs} == {
        ("abcdefg"[i], "abcdefg"[j]): dense[i, j] for i, j in np.argwhere(dense) if i != j
    }
    _, table = confusion_table(labels, answers, 7)
    np.testing.assert_array_equal(table, dense)


def test_a_genus_is_right_where_only_the_species_is_wrong():
    classes = ["Iris lutea", "Viola alba", "Viola odorata"]
    found = metrics_of(np.eye(3)[[0, 1, 1, 1, 0, 2]], np.array([0, 1, 2, 0, 1, 2]), classes=classes)
    assert (found["top1_accuracy"], found["genus_accuracy"]) == (0.5, pytest.approx(4 / 6))
    assert {(pair["truth"], pair["answer"], pair["n"]) for pair in found["confused_genera"]} == {
        ("Iris", "Viola", 1), ("Viola", "Iris", 1),
    }  # fmt: skip


def test_genera_of_the_most_frequent_confusions_are_shown_and_all_adds_up():
    classes = ["Abies alba", "Iris lutea", "Iris alba", "Salix alba", "Viola alba", "Viola odorata"]
    labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 3, 4, 4, 5]
    answers = [0, 0, 0, 0, 0, 3, 2, 2, 1, 4, 4, 5, 4]
    # Twice within Iris, twice within Viola, once Abies for Salix and Salix for Viola.
    table = genus_table(labels, answers, classes, most=2)
    assert (set(table.names), table.others) == ({"Iris", "Viola"}, 2)
    rows = dict(
        zip(
            [*table.names, "rest"],
            zip(table.right_species, table.right_genus, table.mistakes, strict=True),
            strict=True,
        )
    )
    assert [tuple(map(int, rows[name][:2])) for name in ("Iris", "Viola", "rest")] == [(1, 2), (1, 2), (5, 0)]
    into = dict(zip([*table.names, "rest"], rows["rest"][2].tolist(), strict=True))
    assert into == {"Iris": 0, "Viola": 1, "rest": 1}
    assert table.photos.sum() == 13 == table.right_species.sum() + table.right_genus.sum() + table.mistakes.sum()
    whole = genus_table(labels, answers, classes)
    assert (whole.others, whole.mistakes.shape, whole.photos.sum()) == (0, (4, 4), 13)


@pytest.mark.parametrize("right", [0.0, 0.3, 1.0])
def test_a_genus_table_of_nine_thousand_species_adds_up(right):
    random = np.random.default_rng(0)
    classes = [f"Genus{i // 5:04d} species{i}" for i in range(9000)]
    labels = random.integers(0, 9000, 20_000)
    answers = np.where(random.random(20_000) < right, labels, random.integers(0, 9000, 20_000))
    table = genus_table(labels, answers, classes)
    assert (len(table.names), table.others, table.photos.sum()) == (20, 1780, 20_000)
    assert table.right_species.sum() == (labels == answers).sum()
    assert (table.right_species + table.right_genus).sum() == (labels // 5 == answers // 5).sum()
    assert not np.diag(table.mistakes)[:-1].any()


def test_recall_by_train_photos_literal():
    # Species of 0, 1, 3, 4 and 250 train photos; groups of two photos.
    labels = np.repeat([0, 1, 2, 3, 4], [2, 2, 4, 2, 10])
    right = np.array([0, 0, 1, 0, 1, 1, 0, 0, 1, 0, *[1] * 10], bool)
    groups = (np.arange(20) // 2).astype(str)
    rows = metrics.recall_by_train_photos(right, labels, groups, [0, 1, 3, 4, 250])
    intervals = [row.pop("interval") for row in rows]
    assert rows == [
        {"train": [0, 0], "species": 1, "n": 2, "groups": 1, "recall": 0.0},
        {"train": [1, 1], "species": 1, "n": 2, "groups": 1, "recall": 0.5},
        {"train": [2, 4], "species": 2, "n": 6, "groups": 3, "recall": 0.5},
        {"train": [100, None], "species": 1, "n": 10, "groups": 5, "recall": 1.0},
    ]
    assert intervals[0] == [0.0, pytest.approx(0.975)]  # one group without success
    assert intervals[3] == [pytest.approx(0.025 ** (1 / 5)), 1.0]  # five of five
    assert sum(row["n"] for row in rows) == 20


@pytest.mark.parametrize(
    ("photos", "train"),
    [(1, [1, 1]), (2, [2, 4]), (4, [2, 4]), (5, [5, 9]), (9, [5, 9]), (10, [10, 19]), (19, [10, 19]), (20, [20, 49]),
     (49, [20, 49]), (50, [50, 99]), (99, [50, 99]), (100, [100, None])],
)  # fmt: skip
def test_bins_of_train_photos_include_both_ends(photos, train):
    (row,) = metrics.recall_by_train_photos(np.array([True]), np.array([0]), np.array(["g"]), [photos])
    assert row["train"] == train


def test_confusion_table_adds_up_what_it_does_not_show():
    # Mistakes as truth or answer: class 0 three, class 1 two, class 2 one; class 3 none.
    labels, answers = [0, 0, 1, 2, 3, 3], [1, 0, 0, 0, 3, 3]
    shown, table = confusion_table(labels, answers, 4, most=2)
    assert shown.tolist() == [0, 1]
    assert table.tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 2]]  # last: one of class 2 taken for 0, two of class 3 right


def test_nine_thousand_classes_need_no_dense_table():
    labels, answers = np.random.default_rng(0).integers(0, 9000, (2, 5000))
    classes = [f"{i:04d}" for i in range(9000)]
    assert len(pairs_of(labels, answers, classes)) == 20
    shown, table = confusion_table(labels, answers, 9000)
    assert (len(shown), table.shape, table.sum()) == (30, (31, 31), 5000)


def test_examples_are_the_most_confident_mistakes_of_different_groups():
    labels, answers = [0, 0, 0, 1, 0], [2, 0, 2, 0, 2]
    pairs = [("Bellis perennis", "Viola tricolor"), ("Viola tricolor", "Crocus vernus")]
    confidence = [0.5, 0.99, 0.9, 0.7, 0.5]
    found = examples(labels, answers, confidence, list("abcde"), CLASSES, pairs, most=2)
    assert [rows.tolist() for rows in found] == [[2, 0], []]  # photos 0 and 4 are as confident: the first
    found = examples(labels, answers, confidence, list("abaca"), CLASSES, pairs[:1])
    assert found[0].tolist() == [2, 0, 4]
    found = examples(labels, answers, confidence, list("abacd"), CLASSES, pairs[:1])
    assert found[0].tolist() == [2, 4, 0]  # the second photo of group a comes last


def test_confusions_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\(2,\) labels and \(1,\) answers"):
        confused_pairs([0, 1], [0], CLASSES, ["a", "b"], [1, 1])
    with pytest.raises(ValueError, match=r"group_ids: received shape \(1,\), expected \(2,\)"):
        confused_pairs([0, 1], [0, 1], CLASSES, ["a"], [1, 1])
    with pytest.raises(ValueError, match=r"answers: received int64 from 0 to 3, expected integers in \[0, 3\)"):
        confusion_table([0, 1], [0, 3], 3)
    with pytest.raises(ValueError, match=r"pairs: received \['x'\]"):
        examples([0], [0], [1.0], ["g"], CLASSES, [("Bellis perennis", "x")])
    with pytest.raises(ValueError, match=r"confidence: received shape \(2,\)"):
        examples([0], [0], [1.0, 0.5], ["g"], CLASSES, [])


def test_regions_agree_with_topk_of_their_own_photos():
    logits, labels = random_case()
    regions = ["EU" if i % 3 else "EU_SW" for i in range(300)]
    table = metrics_of(logits, labels, regions)["per_region"]
    own = slice(0, None, 3)
    assert table["EU_SW"]["n"] == 100
    assert table["EU_SW"]["top1"] == metrics.topk_accuracy(logits[own], labels[own], 1)
    assert table["EU_SW"]["top5"] == metrics.topk_accuracy(logits[own], labels[own], 5)


def test_macro_recall_agrees_with_sklearn():
    logits, labels = random_case()
    expected = recall_score(labels, logits.argmax(1), average="macro")
    assert metrics_of(logits, labels)["macro_recall"] == pytest.approx(expected)


def test_the_order_of_photos_does_not_matter():
    logits, labels = random_case()
    regions, groups = np.array(["EU", "EU_SW", "NA"] * 100), np.array([f"g{i % 90}" for i in range(300)])
    order = np.random.default_rng(1).permutation(300)
    first = metrics_of(logits, labels, list(regions), groups=groups)
    second = metrics_of(logits[order], labels[order], list(regions[order]), groups=groups[order])
    assert first.pop("loss") == pytest.approx(second.pop("loss"), rel=1e-12)
    assert first == second


def test_metrics_are_plain_json():
    result = metrics_of(*random_case())
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert {type(name) for name in (*result["per_region"], *result["per_class_recall"])} == {str}


def test_first_guesses_take_the_first_of_equals_and_one_row_for_all_photos():
    logits = np.broadcast_to(np.array([1.0, 3.0, 3.0]), (5, 3))
    np.testing.assert_array_equal(metrics.first_guesses(logits), [1] * 5)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), [], "non-empty"),
        (np.zeros(3), [0], "shape"),
        ([[0.0, np.nan]], [0], "NaN or infinity in 1 of 1"),
        ([[0.0, np.inf]], [0], "NaN or infinity"),
        ([[0.0, 1.0]], [0, 1], "integers of shape"),
        ([[0.0, 1.0]], [0.0], "float64"),
        ([[0.0, 1.0]], [2], r"\[0, 2\)"),
        ([[0.0, 1.0]], [-1], r"\[0, 2\)"),
    ],
)
def test_malformed_input_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.nll(logits, labels)


@pytest.mark.parametrize(
    ("regions", "classes", "groups", "message"),
    [
        (REGIONS[:3], CLASSES, GROUPS, "3 and 3"),
        (REGIONS, CLASSES[:2], GROUPS, "4 and 2"),
        (REGIONS, CLASSES, GROUPS[:3], "as many groups as regions, received 3"),
        ([b"EU"] * 4, CLASSES, GROUPS, "Regions must be text.* decode bytes"),
        (REGIONS, CLASSES, [1, 2, 3, 4], "Groups must be text"),
        (REGIONS, ["a", "b", "a"], GROUPS, "repeats a name"),
    ],
)
def test_names_that_do_not_fit_are_refused(regions, classes, groups, message):
    with pytest.raises(ValueError, match=message):
        metrics.classification_metrics(LOGITS, LABELS, regions, classes, groups)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="Temperature must be finite and above 0"):
        metrics.softmax(LOGITS, temperature)


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="k must be at least 1"):
        metrics.topk_accuracy(LOGITS, LABELS, 0)


def test_pages_of_a_file_are_given_back_and_nothing_is_lost(tmp_path, monkeypatch):
    """64 MB of logits, read in blocks of 1 MB; resident, they are less than half of it, however often they are read."""

    def mapped_kb():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0])

    monkeypatch.setattr(metrics, "_FORGET_EVERY", 8)
    logits = np.lib.format.open_memmap(tmp_path / "logits.npy", "w+", np.float32, (16_384, 1024))
    logits[:] = np.arange(16_384)[:, None]
    forget_pages(logits)
    before = mapped_kb()
    peaks = metrics.by_blocks(logits, lambda rows, block: (mapped_kb(), float(block.sum()) / 1024 - block[:, 0].sum()))
    assert max(peak for peak, _ in peaks) - before < 32_000 and mapped_kb() - before < 8_000
    assert {difference for _, difference in peaks} == {0.0}
    forget_pages(np.zeros((2, 2)))  # nothing is mapped
