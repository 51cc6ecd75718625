"""Configuration: the plan's numbers by default, and a useful answer to every mistake."""

import datetime
import functools
import os
from pathlib import Path
from typing import get_args

import pytest
import yaml

from keras_pipeline.core.config import base, experiment, load
from keras_pipeline.core.config.base import ConfigError
from keras_pipeline.core.config.load import from_dict, from_file
from keras_pipeline.core.config.phase0 import Export
from keras_pipeline.core.config.source import Source

CONFIGS = sorted(Path(__file__).parents[1].glob("configs/*.yaml"))


@pytest.fixture
def write(tmp_path):
    def write(text, overrides=None, name="some.yaml"):
        (tmp_path / name).write_text(text)
        return from_file(tmp_path / name, overrides)

    return write


def test_defaults_are_the_plans():
    c = from_dict({"experiment": "x"})
    one, two, three, four = c.phase1, c.phase2, c.phase3, c.phase4
    # 1.1
    assert (one.model.name, one.model.pretrained) == ("vit_base_patch16_224", True)
    assert (one.training.learning_rate, one.training.batch_size, one.training.epochs) == (1e-5, 64, 15)
    assert (one.training.warmup_epochs, one.training.weight_decay) == (2, 0.01)
    assert (one.data.augmentation, one.data.image_size) == ("aggressive", 224)
    assert one.regularization.model_dump() == {
        "dropout": 0.2,
        "mixup_alpha": 0.8,
        "cutmix_alpha": 0.8,
        "label_smoothing": 0.0,
        "logit_adjustment": 0.0,
    }
    assert (one.callbacks.early_stopping, one.callbacks.early_stopping_patience) == (True, 3)
    assert one.callbacks.save_best is True
    # 2.2: no mixing is asked for there
    assert (two.model.name, two.model.pretrained, two.region) == ("vit_base_patch16_224", True, "EU_SW")
    assert (two.training.learning_rate, two.training.batch_size, two.training.epochs) == (5e-6, 32, 20)
    assert (two.training.warmup_epochs, two.training.weight_decay) == (2, 0.02)
    assert (two.data.augmentation, two.data.image_size) == ("moderate", 224)
    assert two.regularization.model_dump() == {
        "dropout": 0.3,
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "label_smoothing": 0.0,
        "logit_adjustment": 0.0,
    }
    assert two.callbacks.early_stopping_patience == 5
    # 3.1
    assert (three.model.name, three.model.alpha, three.model.dropout_rate) == ("mobilenetv2", 1.0, 0.2)
    # 3.0, 0.7 and 0.3 in the plan, on one view: benchmarks/distillation/distillation_gain.py
    assert (three.soft_labels.views, three.distillation.temperature) == (8, 2.0)
    assert three.distillation.loss_weights.model_dump() == {"kl_divergence": 1.0, "cross_entropy": 0.0}
    assert [(t.path, t.weight, t.region_filter) for t in three.teachers] == [
        ("phase1/best.keras", 0.5, None), ("phase2/best.keras", 0.5, "EU_SW"),
    ]  # fmt: skip
    assert (four.training.batch_size, four.training.warmup_epochs, four.training.optimizer) == (128, 1, "adam")
    assert (four.distill.epochs, four.distill.learning_rate) == (10, 1e-4)
    # 4.2
    assert (four.finetune.epochs, four.finetune.learning_rate, four.finetune.augmentation) == (10, 5e-5, "aggressive")
    assert c.seed == 42


def test_default_gates_are_the_plans_criteria():
    limits = from_dict({"experiment": "x"}).gates.model_dump()
    assert limits == {
        "url_failure_rate": 0.05, "largest_group": 0.01, "split_shares": 0.01, "two_names": 0.05, "look_alikes": 0.01,
        "valid_photos_min": 800_000, "valid_photos_max": 900_000,
        "baseline_top1_min": 0.30, "teacher_top1": 0.70, "teacher_top5": 0.85, "teacher_min_recall": 0.60,
        "teacher_over_probe": 0.0, "regional_top1": 0.80,
        "regional_global_top1": 0.65, "regional_gain": 0.0, "student_megabytes": 20.0, "student_val_top1": 0.70,
        "student_train_top1": 0.80, "val_loss_ratio": 1.05, "ece": 0.10, "precision": 0.95, "coverage": 0.80,
        "bundle_megabytes": 150.0, "browser_correlation": 0.995, "prediction_seconds": 5.0,
    }  # fmt: skip


def test_a_partial_section_keeps_the_plans_other_values():
    c = from_dict({"experiment": "x", "phase2": {"training": {"epochs": 9}}, "phase4": {"finetune": {"epochs": 3}}})
    assert (c.phase2.training.epochs, c.phase2.training.learning_rate, c.phase2.training.batch_size) == (9, 5e-6, 32)
    assert (c.phase4.finetune.epochs, c.phase4.finetune.learning_rate) == (3, 5e-5)
    assert from_dict({"experiment": "x", "phase3": {"model": {"alpha": 0.35}}}).phase3.model.name == "mobilenetv2"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_in_the_repository_loads(path, monkeypatch):
    monkeypatch.setenv("KERAS_PIPELINE_TEST_DATA", "/data")
    loaded = from_file(path)
    assert loaded.experiment == path.stem
    assert path.read_text().startswith("#")  # the header says how to run it


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.0e-5", "0.00001", "+1e-05", ".1e-4", "10.e-6"])
def test_every_way_to_write_a_small_number(write, text):
    assert write(f"phase1: {{training: {{learning_rate: {text}}}}}").phase1.training.learning_rate == 1e-5


@pytest.mark.parametrize("text", ["1e5-flowers", "1e5x", "e5", "5e"])
def test_what_only_starts_like_a_number_stays_text(write, text):
    assert write(f"dataset: {{name: {text}}}").dataset.name == text


def test_whole_numbers_with_an_exponent_are_no_integers(write):
    assert write("phase1: {training: {learning_rate: 1E0}}").phase1.training.learning_rate == 1.0
    with pytest.raises(ConfigError, match="seed: received 100.0, expected a whole number"):
        write("seed: 1E2")


@pytest.mark.parametrize(
    "text, parts",
    [
        ("phase1: {trainin: {}}", ["phase1.trainin", "did you mean 'training'?", "callbacks"]),
        ("phase2: {training: {lerning_rate: 1}}", ["phase2.training.lerning_rate", "'learning_rate'", "head_epochs"]),
        (
            "phase3: {teachers: [{path: a, weight: 1, regio_filter: b}]}",
            ["phase3.teachers.0.regio_filter", "'region_filter'"],
        ),
        ("phase3: {distillation: {loss_weights: {kl: 1}}}", ["loss_weights.kl", "'kl_divergence'"]),
        ("gates: {eec: 0.1}", ["gates.eec", "'ece'"]),
        ("phas1: {}", ["phas1", "'phase1'"]),
    ],
)
def test_an_unknown_key_names_its_path_the_nearest_and_the_allowed(write, text, parts):
    with pytest.raises(ConfigError) as caught:
        write(text)
    assert all(part in str(caught.value) for part in [*parts, "unknown key", "some.yaml"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed: hello", "seed: received 'hello' .text., expected a whole number"),
        ("seed: 1.5", "seed: received 1.5, expected a whole number"),
        ("seed: true", "seed: received true, expected a whole number"),
        ("seed: -1", "seed: received -1, expected .*≥ 0"),
        ("deterministic: 1", "deterministic: received 1, expected true or false"),
        (
            "phase1: {model: {dropout_rate: 0.3}}",
            "phase1.model.dropout_rate: received 0.3, expected nothing, as only the student",
        ),
        (
            "phase2: {model: {alpha: 0.5}}",
            "phase2.model.alpha: received 0.5, expected nothing, as vit_base_patch16_224 does",
        ),
        ("phase1: {model: {batch_norm_momentum: 0.8}}", "phase1.model.batch_norm_momentum: received 0.8"),
        ("phase1: {model: {alpha: 'big'}}", "phase1.model.alpha: received 'big'"),
        ("phase1: {training: {learning_rate: 0}}", "learning_rate: received 0, expected a number, > 0, < 10"),
        ("phase1: {training: {weight_decay: .inf}}", "weight_decay: received Infinity, expected a number"),
        ("gates: {ece: .nan}", "gates.ece: received NaN, expected a number"),
        (
            "phase1: {data: {augmentation: wild}}",
            "received 'wild' .text., expected `none` or `moderate` or `aggressive`",
        ),
        ("phase3: {soft_labels: {views: 0}}", "views: received 0"),
        ("phase3: {ensemble: mean}", "ensemble: received 'mean'"),
        ("phase3: {distillation: {loss: mse}}", "loss: received 'mse'"),
        (
            "phase4: {distill: {augmentation: aggressive}}",
            "augmentation: received aggressive with live: false, expected",
        ),
        ("phase3: {teachers: [{weight: 1}]}", "phase3.teachers.0.path: received nothing, expected text; add it"),
        ("phase1: 3", "phase1: received 3, expected a section with model, "),
        ("phase1:", "phase1: received nothing .null."),
        ("source: {database: ''}", "source.database: received ''"),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_allowed(write, text, message):
    with pytest.raises(ConfigError, match=message):
        write(text)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "phase0: {split: {train: 0.9}}",
            r"calibration \+ test: received 0.9 \+ 0.05 \+ 0.05 \+ 0.1 = 1.1, expected 1",
        ),
        ("phase0: {baseline: {features: file}}", "phase0.baseline.features: received file with weights: null, exp"),
        ("phase0: {baseline: {weights: a.h5}}", "features: received imagenet with weights: a.h5, expected"),
        (
            "phase1: {training: {epochs: 2}}",
            "phase1.training.warmup_epochs: received 2, expected less than epochs, 2; l",
        ),
        ("phase1: {data: {image_size: 230}}", "phase1.data.image_size: received 230, expected a multiple of 16"),
        (
            "phase1: {model: {name: vit_bas_patch16}}",
            "phase1.model.name: received 'vit_bas_patch16', .* did you mean 'vit_",
        ),
        ("phase3: {model: {name: vit_base_patch16_224}}", "phase3.model.name: received .*, expected mobilenetv2"),
        (
            "phase1: {model: {name: vit_tiny_patch16}}",
            "pretrained: received true for vit_tiny_patch16, expected published",
        ),
        ("phase1: {model: {name: vit_base_patch16}}", ".vit_base_patch16_224_imagenet, "),
        ("phase3: {model: {alpha: 0.6}}", "received true for mobilenetv2 with alpha 0.6, expected published"),
        (
            "phase1: {model: {pretrained: global_teacher}}",
            "phase1.model.pretrained: received global_teacher, which is for",
        ),
        (
            "phase2: {model: {pretrained: global_teacher, name: mobilenetv2}}",
            "global_teacher for mobilenetv2, alpha 1, expected phase1's model for it .vit_base_patch16_224.; give",
        ),
        (
            "phase1: {model: {name: mobilenetv2}, training: {rematerialisation: true}}",
            "phase1.training.rematerialisation: received true with model.name mobilenetv2, expected a ViT",
        ),
        ("phase3: {teachers: []}", "phase3.teachers: received an empty list, expected at least one with weight > 0"),
        (
            "phase2: null\nphase3: {teachers: [{path: phase2/best.keras, weight: 1.0}]}",
            "teachers: received an empty list, .*; phase2/best.keras does not count if phase2 is null",
        ),
        (
            "phase3: {teachers: [{path: a, weight: 1, region_filter: EU}]}",
            "phase3.teachers: received a with weight 1, region_filter EU, expected at",
        ),
        ("phase3: {teachers: [{path: a, weight: 0}]}", "phase3.teachers: received a with weight 0, region_filter null"),
        ("phase3: {distillation: {loss_weights: {kl_divergence: 0, cross_entropy: 0}}}", "received 0 and 0, expected"),
        ("phase4: {training: {weight_decay: 0.1}}", "weight_decay: received 0.1 with optimizer adam, expected adamw"),
        (
            "phase4: {training: {warmup_epochs: 10}}",
            "warmup_epochs: received 10, expected less than distill.epochs, 10",
        ),
        ("phase4: {finetune: {epochs: 1}}", "warmup_epochs: received 1, expected less than finetune.epochs, 1"),
        ("phase4: {data: {image_size: 300}}", "received 300, expected at most dataset.short_side, 256"),
        ("source: {uri: localhost}", "source.uri: received another text .*expected .embedded., mongodb://"),
        *(
            (f"source: {{uri: 'mongodb://{rest}'}}", "source.uri: received no valid MongoDB URI .not shown")
            for rest in (
                "me:s3/cret@host:1/db",
                "m e:s3cret@host",
                "me:s3cret@ho st/db",
                "me:x/s3cret",
                "me:s3@cret@host",
                "",
            )
        ),
        ("source: {demo: {images: a}}", "source.demo.images: received it without labels, expected a folder and"),
        ("experiment: ../up", "experiment: received '../up', expected at most 100 letters"),
    ],
)
def test_impossible_pairs(write, text, message):
    with pytest.raises(ConfigError, match=message):
        write(text)


def test_a_full_dump_loads_again_though_it_holds_keys_without_effect(tmp_path):
    config = from_dict({"experiment": "x", "phase3": {"model": {"dropout_rate": 0.4, "alpha": 0.5}}})
    without_effect = config.model_dump()["phase1"]["model"]
    assert [without_effect[key] for key in ("dropout_rate", "alpha", "batch_norm_momentum")] == [0.2, 1.0, 0.9]
    assert from_file(load.write(tmp_path / "x.yaml", config)) == config


def test_all_faults_are_listed_at_once(write):
    with pytest.raises(ConfigError) as caught:
        write("sed: 1\nphase1: {training: {epochs: x}}\ngates: {ecee: 1}")
    assert str(caught.value).count("some.yaml: ") == 3


@pytest.mark.parametrize("text", ["a: b: c", "[1, 2", "\tx: 1", "a: !!python/object:os.system {}"])
def test_what_is_not_yaml(write, text):
    with pytest.raises(ConfigError, match="some.yaml: is not YAML"):
        write(text)


@pytest.mark.parametrize("text, kind", [("", "nothing, an empty file"), ("- a", "a list"), ("5", "a number")])
def test_what_is_no_mapping(write, text, kind):
    with pytest.raises(ConfigError, match=f"received {kind}, expected a mapping"):
        write(text)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml: received no such file, expected a YAML file"):
        from_file(tmp_path / "nowhere.yaml")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="pipe.yaml: received no file, expected a YAML file; correct the path"):
        from_file(tmp_path / "pipe.yaml")


def test_a_repeated_key_is_an_error(write):
    with pytest.raises(ConfigError, match="seed: given twice"):
        write("seed: 1\nexperiment: a\nseed: 2")
    with pytest.raises(ConfigError, match="epochs: given twice"):
        write("phase1: {training: {epochs: 3, epochs: 4}}")


def test_merge_keys_inherit_and_override(write):
    c = write("phase1: &t {training: {epochs: 5}, data: {image_size: 96}}\nphase2: {<<: *t, data: {image_size: 64}}\n")
    assert (c.phase2.training.epochs, c.phase1.data.image_size, c.phase2.data.image_size) == (5, 96, 64)
    assert c.phase2.training.learning_rate == 5e-6


def test_merge_keys_over_merge_keys_are_no_repetition(write):
    text = "source: {query: {a: &b {x: 1}, c: {y: &m {<<: *b, x: 2}}, d: {<<: *m, z: 3}}}"
    assert write(text).source.query == {"a": {"x": 1}, "c": {"y": {"x": 2}}, "d": {"x": 2, "z": 3}}


def test_set_overrides_after_the_file(write):
    c = write(
        "seed: 1", ["seed=2", "phase1.training.learning_rate=3e-4", "source.query={region: EU}", "gates.ece=null"]
    )
    assert (c.seed, c.phase1.training.learning_rate, c.source.query, c.gates.ece) == (2, 3e-4, {"region": "EU"}, None)


def test_set_does_not_reach_a_section_shared_through_an_anchor(write):
    c = write("phase1: &t {training: {epochs: 5}}\nphase2: {<<: *t}", ["phase1.training.epochs=9"])
    assert (c.phase1.training.epochs, c.phase2.training.epochs) == (9, 5)


TEACHERS = "teachers: [{path: one.keras, weight: 1}, {path: two.keras, weight: 2, region_filter: EU}]"


def regions_and_weights(found):
    return [(teacher.region_filter, teacher.weight) for teacher in found.phase3.teachers]


@pytest.mark.parametrize(
    "text, override, found",
    [
        (f"phase3: {{{TEACHERS}}}", "phase3.teachers.1.region_filter=unknown", [(None, 1), ("unknown", 2)]),
        (f"phase3: {{{TEACHERS}}}", "phase3.teachers.1={path: x, weight: 3}", [(None, 1), (None, 3)]),
        (f"phase3: {{{TEACHERS}}}", 'phase3.teachers=[{"path": "x", "weight": 1.0}]', [(None, 1)]),
        # The list is the default's.
        ("seed: 1", "phase3.teachers.1.region_filter=unknown", [(None, 0.5), ("unknown", 0.5)]),
        ("phase3: {ensemble: logits}", "phase3.teachers.0.weight=2", [(None, 2), ("EU_SW", 0.5)]),
    ],
)
def test_set_reaches_entries_of_a_list_and_whole_lists(write, text, override, found):
    assert regions_and_weights(write(text, [override])) == found


def test_set_of_several_entries_keeps_each(write):
    sets = ["phase3.teachers.0.weight=2", "phase3.teachers.1.weight=3", "phase0.split.group_by.3=observation"]
    found = write("seed: 1", sets)
    assert regions_and_weights(found) == [(None, 2), ("EU_SW", 3)]
    assert found.phase0.split.group_by == ["observation", "session", "sha256", "observation"]


def test_set_does_not_reach_an_entry_shared_through_an_anchor(write):
    text = "phase3: {teachers: [&one {path: one.keras, weight: 1}, *one]}"
    assert regions_and_weights(write(text, ["phase3.teachers.1.weight=2"])) == [(None, 1), (None, 2)]


def test_set_does_not_reach_a_list_shared_through_an_anchor(write):
    text = "source: {query: {taxon: &some {$in: [1, 2]}, parent: *some}}"
    query = write(text, ["source.query.taxon.$in.0=9"]).source.query
    assert query == {"taxon": {"$in": [9, 2]}, "parent": {"$in": [1, 2]}}


@pytest.mark.parametrize("number", ["2", "-1", "x", "01", "²"])
def test_an_entry_that_a_list_does_not_have(write, number):
    with pytest.raises(ConfigError) as error:
        write(f"phase3: {{{TEACHERS}}}", [f"phase3.teachers.{number}.weight=1"])
    assert str(error.value) == (
        f"--set phase3.teachers.{number}.weight: received '{number}' as the number of an entry of phase3.teachers, "
        "expected one of 0, 1; a list of another length is given whole: --set 'phase3.teachers=[…]'"
    )


@pytest.mark.parametrize(
    "override, message",
    [
        ("phase6.compare.0=int8", "received '0' as the number of an entry of phase6.compare, expected none, for the"),
        ("phase3.teachers.1.weight.x=1", "--set phase3.teachers.1.weight.x: phase3.teachers.1.weight is a value"),
        ("phase3.teachers.1.wight=1", "phase3.teachers.1.wight: received an unknown key .did you mean 'weight'"),
        ("phase3.teachers.0.region_filter=EU", "at least one with weight > 0 and no region_filter"),
        ("seed", "--set: received 'seed', expected a key, = and a value; give it as --set a.b.c=value"),
        ("", "--set: received nothing, expected a key, = and a value; give it as --set a.b.c=value"),
        ("a..b=1", "received 'a..b=1', expected a key"),
        ("seed.x=1", "--set seed.x: seed is a value, not a section"),
        ("phase1.training.epoch=1", "unknown key .did you mean 'epochs'"),
        ("seed=[", r"(?s)--set seed: is not YAML: .*; correct it, or put texts with signs in quotes$"),
    ],
)
def test_a_bad_override(write, override, message):
    with pytest.raises(ConfigError, match=message):
        write("seed: 1", [override])


def test_a_setting_of_a_regional_teacher_that_is_not_made_is_refused(write):
    with pytest.raises(ConfigError, match="phase2, which is null, .* give the whole section: --set 'phase2={reg"):
        write("phase2: null", ["phase2.region=EU"])
    for key in ("region_filter=unknown", "weight=0.1"):
        for text, override in (("phase2: null", []), ("seed: 1", ["phase2=null"])):
            with pytest.raises(ConfigError, match="^--set phase3.teachers.1.[a-z_]+: received a setting of phase2"):
                write(text, [*override, f"phase3.teachers.1.{key}"])
    assert write("phase2: null", ["phase3.teachers.0.weight=0.1"]).phase3.teachers[0].weight == 0.1
    assert write("seed: 1", ["phase3.teachers.1.weight=0.1"]).phase3.teachers[1].weight == 0.1


def test_environment_variables(write, monkeypatch):
    monkeypatch.setenv("PLANTS_PASS", "s3cret")
    monkeypatch.delenv("PLANTS_HOST", raising=False)
    c = write("source: {uri: 'mongodb://me:${PLANTS_PASS}@${PLANTS_HOST:-localhost}/', query: {a: ['${PLANTS_PASS}']}}")
    assert c.source.uri == "mongodb://me:s3cret@localhost/"
    assert c.source.query == {"a": ["s3cret"]}


def test_an_unset_environment_variable_is_named(write, monkeypatch):
    monkeypatch.delenv("PLANTS_HOST", raising=False)
    with pytest.raises(ConfigError, match="environment variable PLANTS_HOST is not set"):
        write("source: {base_url: '${PLANTS_HOST}'}")
    assert write("source: {base_url: '${PLANTS_HOST}'}", ["source.base_url=http://x"]).source.base_url == "http://x"


@pytest.mark.parametrize(
    ("text", "value", "key", "found"),
    [
        ("seed: ${IT:-7}", None, "seed", 7),
        ("seed: ${IT:-7}", "8", "seed", 8),
        ("phase1: {training: {learning_rate: '${IT}'}}", "3e-3", "phase1.training.learning_rate", 0.003),
        ("deterministic: ${IT}", "true", "deterministic", True),
        ("phase1: {model: {pretrained: '${IT}'}}", "false", "phase1.model.pretrained", False),
        ("phase1: {model: {pretrained: '${IT}'}}", "5", "phase1.model.pretrained", "5"),
        ("gates: {ece: '${IT}'}", "null", "gates.ece", None),
        ("phase2: ${IT}", "null", "phase2", None),
        ("phase2: {region: '${IT}'}", "NO", "phase2.region", "NO"),  # false is no region
        ("phase2: {region: '${IT}'}", "[ES, PT]", "phase2.region", ["ES", "PT"]),
        ("experiment: ${IT}", "2024", "experiment", "2024"),
        ("experiment: x${IT}", "2024", "experiment", "x2024"),
        ("source: {base_url: '${IT}'}", "null", "source.base_url", None),
        ("source: {query: {code: '${IT}'}}", "007", "source.query", {"code": "007"}),  # any value: as before
        ("source: {synonyms: '${IT}'}", "[a", "source.synonyms", "[a"),  # no YAML
    ],
)
def test_a_value_that_is_one_variable_has_the_type_of_its_key(write, monkeypatch, text, value, key, found):
    if value is None:
        monkeypatch.delenv("IT", raising=False)
    else:
        monkeypatch.setenv("IT", value)
    assert functools.reduce(getattr, key.split("."), write(text)) == found


def test_the_experiment_is_named_after_its_file(write):
    assert write("seed: 1", name="flowers17.yaml").experiment == "flowers17"
    assert write("experiment: other", name="flowers17.yaml").experiment == "other"
    c = write("dataset: {name: shared}", name="second.yaml")
    assert (c.experiment, c.dataset_name) == ("second", "shared")


def test_every_knob_says_what_it_is():
    def undescribed(section, path=""):
        for name, field in section.model_fields.items():
            parts = [each for each in get_args(field.annotation) if isinstance(each, type)]
            kind = next((each for each in parts if issubclass(each, base.Section)), field.annotation)
            if isinstance(kind, type) and issubclass(kind, base.Section):
                yield from undescribed(kind, f"{path}{name}.")
            elif not field.description:
                yield path + name

    # Field names of documents and lists of sections explain themselves.
    assert [key for key in undescribed(experiment.Config) if not key.startswith("source.fields.")] == []


@pytest.mark.parametrize(
    "export",
    [
        {"hosts": {"http://127.0.0.1/": {}}},
        {"hosts": {"a b": {}}},
        {"contact": "a\nb"},
        {"allow_networks": ["10.1.0.0/99"]},
    ],
)
def test_limits_that_would_silently_not_act_are_refused(export):
    with pytest.raises(ValueError, match="expected"):
        Export(**export)


def test_dates_of_a_query_become_datetimes():
    query = yaml.safe_load("{observed_on: {$gte: 2020-01-31}, $or: [{a: 2021-02-01}, {b: 3}]}")
    found = Source(query=query).query
    assert found["observed_on"]["$gte"] == datetime.datetime(2020, 1, 31, tzinfo=datetime.UTC)
    assert found["$or"] == [{"a": datetime.datetime(2021, 2, 1, tzinfo=datetime.UTC)}, {"b": 3}]


def test_one_key_names_the_weights_of_all_networks():
    """Of those that name none themselves, and have the network."""
    found = from_dict({"experiment": "x", "weights": "a.weights.h5", "phase1": {"model": {"name": "mobilenetv2"}}})
    assert (found.phase0.baseline.features, found.phase0.baseline.weights) == ("file", "a.weights.h5")
    assert [found.phase1.model.pretrained, found.phase3.model.pretrained] == ["a.weights.h5"] * 2
    assert found.phase2.model.pretrained is True  # a ViT
    assert from_dict(found.model_dump()) == found
    own = {"phase0": {"baseline": {"features": "colour-histogram"}}, "phase3": {"model": {"pretrained": False}}}
    found = from_dict({"experiment": "x", "weights": "a.weights.h5", "phase2": None, **own})
    assert (found.phase0.baseline.features, found.phase3.model.pretrained) == ("colour-histogram", False)
    assert from_dict({"experiment": "x", "weights": "imagenet"}).phase0.baseline.features == "imagenet"
