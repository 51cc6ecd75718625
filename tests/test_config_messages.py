"""What a wrong config says: where the value was typed, what was received, what is expected, what to do."""

import json
import re
import typing
from pathlib import Path

import pytest

from keras_pipeline.core.config import faults, load, variables
from keras_pipeline.core.config.base import ConfigError, Section
from keras_pipeline.core.config.experiment import Config

JARGON = re.compile(
    r"Input should|input should|valid (dictionary|string|list|integer|number|boolean)|instance of|Extra inputs|"
    r"Value error|Field required|field required|Assertion|NoneType|pydantic|function-|type=|\[key\]|Keys should|"
    r"should have at least|model_type"
)


class Odd:
    """What no field takes."""

    def __repr__(self):
        return "odd"


def keys_of(section=Config, path=()):
    """(path of a key, its section) of every key, those of entries of lists and mappings too."""
    for name, field in section.model_fields.items():
        yield (*path, name), section
        for kind in [*faults.members(field.annotation)]:
            steps = {list: 0, dict: "some"}.get(typing.get_origin(kind))
            inner = kind if steps is None else typing.get_args(kind)[-1]
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from keys_of(inner, (*path, name) if steps is None else (*path, name, steps))


def nested(path, value):
    for part in reversed(path):
        value = [value] if part == 0 else {part: value}
    return value


def message(values):
    try:
        load.from_dict({"experiment": "x"} | values, "some.yaml")
    except ConfigError as error:
        return str(error)
    return None


KEYS = sorted({path for path, _ in keys_of()}, key=str)


def test_the_walk_sees_every_kind_of_place():
    assert len(KEYS) > 180
    found = {".".join(map(str, path)) for path in KEYS}
    assert found >= {"seed", "phase0.export.hosts.some.concurrency", "phase3.teachers.0.weight", "phase2.region"}


@pytest.mark.parametrize("value", [Odd(), None, [[1]], {"a": 1}, "text", "", -1, 1.5, True, [], {}, {5: 1}, 2**2000])
def test_no_wrong_value_of_any_key_speaks_of_the_library(value):
    refused = 0
    for path in KEYS:
        said = message(nested(path, value))
        if said is None:
            continue
        refused += 1
        key = ".".join(map(str, path))
        lines = said.splitlines()
        about = [line for line in lines if key in line or key.rpartition(".")[0] in line]
        assert about and not JARGON.search(said), said
        for line in lines:
            assert line.startswith("some.yaml: ") and "received" in line and "expected" in line and ";" in line, line
    assert refused > 20
    if isinstance(value, Odd):
        free = sum(message(nested(path, value)) is None for path in KEYS)
        assert free == 0


def test_a_wrong_type_is_said_of_the_key_itself():
    for path in KEYS:
        key = ".".join(map(str, path))
        assert f"some.yaml: {key}: received odd, expected " in message(nested(path, Odd()))


def test_an_unknown_key_is_named_in_every_section():
    sections = {path[:-1] for path in KEYS}
    assert len(sections) > 30
    for path in sections:
        said, key = message(nested((*path, "nonsense"), 1)), ".".join(map(str, (*path, "nonsense")))
        assert f"some.yaml: {key}: received an unknown key" in said and not JARGON.search(said)


SPLIT = "train + val + calibration + test"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "phase1=null",
            "--set phase1: received nothing (null), expected a section with model, training, data, regularization, "
            "callbacks; correct it, or leave the key out for its defaults",
        ),
        (
            "source.base_url=foo",
            "--set source.base_url: received 'foo', expected a URL such as https://example.org/photos/; correct it",
        ),
        ("experiment=", "--set experiment: received nothing (null), expected text; correct it"),
        (
            "experiment=a b",
            "--set experiment: received 'a b', expected at most 100 letters, digits, '.', '_' and '-', the first a "
            "letter or a digit; give another name",
        ),
        (
            "phase0.split.group_by=foo",
            "--set phase0.split.group_by: received 'foo' (text), expected a list of `observation` or `session` or "
            "`sha256` or `near-duplicate` or `author`; correct it, or leave the key out for its default, [observation, "
            "session, sha256, near-duplicate]",
        ),
        (
            "phase0.split.group_by=[foo]",
            "--set phase0.split.group_by: phase0.split.group_by.0: received 'foo' (text), expected `observation` or "
            "`session` or `sha256` or `near-duplicate` or `author`; correct it",
        ),
        (
            "phase0.split.train=0.9",
            f"--set phase0.split.train: phase0.split: {SPLIT}: received 0.9 + 0.05 + 0.05 + 0.1 = 1.1, expected 1; "
            "change the others too",
        ),
        (
            "gates.teacher_top1=2",
            "--set gates.teacher_top1: received 2, expected a number or null, ≥ 0, ≤ 1; correct it, or leave the key "
            "out for its default, 0.7",
        ),
        (
            "seed='5'",
            "--set seed: received '5' (text), expected a whole number, ≥ 0, < 2147483648; correct it, or leave it out "
            "for the value in {file}",
        ),
        (
            "phase2.training.epochs=many",
            "--set phase2.training.epochs: received 'many' (text), expected a whole number, ≥ 1; correct it, or leave "
            "the key out for its default, 20",
        ),
        (
            "phase2.region=5",
            "--set phase2.region: received 5, expected text or list of text; quote it: --set 'phase2.region=\"5\"'",
        ),
        (
            "phase2.region=NO",
            "--set phase2.region: received false, expected text or list of text; quote it: --set "
            "'phase2.region=\"NO\"'",
        ),
        (
            "phase2.region=[ES, NO]",
            '--set phase2.region: received ["ES", false], expected text or list of text; put its texts in quotes, such '
            'as "NO", which YAML reads as false',
        ),
        (
            "phase2.region=null",
            "--set phase2.region: received nothing (null), expected text or list of text; correct it, or give --set "
            "phase2=null for none",
        ),
        (
            "experiment=2024",
            "--set experiment: received 2024, expected text; quote it: --set 'experiment=\"2024\"'",
        ),
        (
            "experiment=2024-05-06",
            "--set experiment: received 2024-05-06, expected text; quote it: --set 'experiment=\"2024-05-06\"'",
        ),
        (
            "experiment=${{NOPE}}",
            "--set experiment: received ${{NOPE}}, and the environment variable NOPE is not set, expected a value for "
            "it; set it, or write ${{NOPE:-default}}",
        ),
        (
            "phase3.teachers.0.weight=0",
            "--set phase3.teachers.0.weight: phase3.teachers: received phase1/best.keras with weight 0, region_filter "
            "null; phase2/best.keras with weight 0.5, region_filter EU_SW, expected at least one with weight > 0 and "
            "no region_filter, for photos of any region, such as {{path: phase1/best.keras, weight: 1.0}}",
        ),
        (
            "source.regions={{5: [a]}}",
            "--set source.regions: source.regions.5: received the name 5, expected text; put it in quotes",
        ),
        (
            "phase1.training.epochs=1",
            "--set phase1.training.epochs: phase1.training.warmup_epochs: received 2, expected less than epochs, 1; "
            "lower it, or raise epochs",
        ),
        (
            "phase3.teachers=[{{weight: 1}}]",
            "--set phase3.teachers: phase3.teachers.0.path: received nothing, expected text; add it",
        ),
    ],
)
def test_the_whole_message(override, said, tmp_path, monkeypatch):
    monkeypatch.delenv("NOPE", raising=False)
    file = tmp_path / "some.yaml"
    file.write_text("seed: 1")
    with pytest.raises(ConfigError) as caught:
        load.from_file(file, [override.format()])
    assert str(caught.value) == said.format(file=file)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"experiment": 2024}, "some.yaml: experiment: received 2024, expected text; put it in quotes"),
        (
            {"phase2": {"region": False}},
            'some.yaml: phase2.region: received false, expected text or list of text; put it in quotes, such as "NO", '
            "which YAML reads as false",
        ),
        (
            {"phase2": {"region": None}},
            "some.yaml: phase2.region: received nothing (null), expected text or list of text; correct it, or set "
            "phase2: null for none",
        ),
        (
            {"phase3": {"teachers": [{"path": "${NOPE}"}]}},
            "some.yaml: phase3.teachers.0.path: received ${NOPE}, and the environment variable NOPE is not set, "
            "expected a value for it; set it, or write ${NOPE:-default}",
        ),
    ],
)
def test_the_whole_message_of_a_file(values, said, monkeypatch):
    monkeypatch.delenv("NOPE", raising=False)
    assert message(values) == said


def test_a_teacher_without_a_weight_has_the_default(tmp_path):
    (tmp_path / "some.yaml").write_text("phase3: {teachers: [{path: a}]}")
    assert load.from_file(tmp_path / "some.yaml").phase3.teachers[0].weight == 0.5
    assert "| `path` | `required` |" in Path("docs/config.md").read_text()


@pytest.mark.parametrize("text", ["${HOME}", "$${HOME}", "${NOPE}", "a$${b:-c}${d}", "$", "${}", "$${"])
def test_values_from_data_are_read_as_they_were_written(text, tmp_path, monkeypatch):
    monkeypatch.delenv("NOPE", raising=False)
    (tmp_path / "some.yaml").write_text("seed: 1")
    config = load.from_file(tmp_path / "some.yaml", [f"phase2.region={json.dumps(variables.literal(text))}"])
    assert config.phase2.region == text
    assert load.from_file(load.write(tmp_path / "written.yaml", config)) == config
    again = load.from_file(load.write(tmp_path / "again.yaml", config), ["seed=2"])
    assert again.phase2.region == text and again.seed == 2


@pytest.mark.parametrize(
    ("text", "overrides", "found"),
    [
        ("seed: 1", ["phase2.region=EU"], "EU"),  # the defaults agree
        ("phase2: {region: NA}\nphase3: {teachers: [{path: a}, {path: phase2/best.keras, region_filter: NA}]}",
         ["phase2.region=[EU, NA]"], ["EU", "NA"]),
        ("seed: 1", ["phase2={region: EU}"], "EU"),
        ("seed: 1", ["phase2.region=EU", "phase3.teachers.1.weight=0.1"], "EU"),
        ("seed: 1", ["phase2.region=EU", "phase3.teachers.1.region_filter=EU_SW"], "EU_SW"),  # as it was asked for
        ("seed: 1", ["phase3.teachers.1.region_filter=null", "phase2.region=EU"], None),
        ("phase2: {region: NA}", ["phase2.region=EU"], "EU_SW"),  # the file has two already
        ("seed: 1", ["phase2=null"], "no such teacher"),
    ],
)  # fmt: skip
def test_the_regional_teachers_filter_follows_its_region(text, overrides, found, tmp_path):
    (tmp_path / "some.yaml").write_text(text)
    teachers = load.from_file(tmp_path / "some.yaml", overrides).phase3.teachers
    filters = [each.region_filter for each in teachers if each.path == "phase2/best.keras"]
    assert filters == ([] if found == "no such teacher" else [found])


@pytest.mark.parametrize(
    ("key", "meant"),
    [("teacher_top3", "teacher_top5"), ("eec", "ece"), ("prec", "precision"), ("megabytes", "bundle_megabytes")],
)
def test_the_nearest_key_is_named(key, meant):
    said = message({"gates": {key: 1}})
    assert said.startswith(
        f"some.yaml: gates.{key}: received an unknown key (did you mean '{meant}'?), expected one of "
    )


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("training.epochs=2", "phase1.training.epochs, phase2.training.epochs?"),
        ("phase1.epochs=2", "phase1.training.epochs?"),
        ("model.alpha=1", "phase1.model.alpha, phase2.model.alpha, phase3.model.alpha?"),
        ("bins=3", "phase5.bins?"),
    ],
)
def test_keys_that_end_so_are_named(tmp_path, override, meant):
    (tmp_path / "some.yaml").write_text("seed: 1")
    with pytest.raises(ConfigError) as caught:
        load.from_file(tmp_path / "some.yaml", [override])
    assert str(caught.value).endswith(f": received an unknown key, expected the whole of it; did you mean {meant}")


def test_the_variable_that_gives_a_wrong_value_is_named(monkeypatch):
    built = "; its value is built from the environment variable IT, which is"
    monkeypatch.setenv("IT", "a/b")
    assert message({"experiment": "${IT}"}).endswith(f"the first a letter or a digit; give another name{built} set")
    assert message({"seed": "${IT:-7}"}).endswith(f"leave the key out for its default, 42{built} set")
    monkeypatch.delenv("IT")
    assert message({"seed": "${IT:-x}"}).endswith(f"its default, 42{built} not set")
    monkeypatch.setenv("IT", "")
    assert "the environment variable IT is empty, expected a value for it; set it" in message({"seed": "${IT}"})


def test_a_field_that_every_photo_has_needs_a_name():
    for field in ("latin_name", "image_url"):
        assert f"some.yaml: source.fields.{field}: received '' (text), expected text, not empty;" in message(
            {"source": {"fields": {field: ""}}}
        )
    assert message({"source": {"fields": {"user_id": ""}}}) is None  # as older projects may have it


def test_a_files_stem_that_is_no_name_is_told(tmp_path):
    file = tmp_path / "my config (1).yaml"
    file.write_text("seed: 1")
    with pytest.raises(
        ConfigError, match="; give another name; this is the file's stem: add a line `experiment: NAME`$"
    ):
        load.from_file(file)
    with pytest.raises(ConfigError, match="a letter or a digit; give another name$"):
        load.from_file(file, ["experiment=a b"])
    assert load.from_file(file, ["experiment=a"]).experiment == "a"


def test_no_key_is_named_where_none_is_near():
    said = message({"gates": {"foo": 1}})
    assert said.startswith("some.yaml: gates.foo: received an unknown key, expected one of url_failure_rate, ")
    assert said.endswith("prediction_seconds; correct it, or remove it")


def test_a_fault_names_the_place_where_its_value_was_given(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("seed: many\nphase0: {split: {train: 0.7}}")
    with pytest.raises(ConfigError) as caught:
        load.from_file(file, ["gates.ece=x", "phase5.bins=1", "phase5.bins=0"])
    number = "expected a number or null, ≥ 0, ≤ 1; correct it, or leave the key out for its default, 0.1"
    assert str(caught.value).splitlines() == [
        f"{file}: seed: received 'many' (text), expected a whole number, ≥ 0, < 2147483648; correct it, or leave the "
        "key out for its default, 42",
        f"{file}: phase0.split: {SPLIT}: received 0.7 + 0.05 + 0.05 + 0.1 = 0.9, expected 1; change the others too",
        "--set phase5.bins: received 0, expected a whole number, ≥ 2, ≤ 1000; correct it, or leave the key out for its "
        "default, 15",
        f"--set gates.ece: received 'x' (text), {number}",
    ]


def test_a_rule_between_two_keys_names_both_where_both_were_given(tmp_path):
    (tmp_path / "some.yaml").write_text("seed: 1")
    with pytest.raises(ConfigError) as caught:
        load.from_file(tmp_path / "some.yaml", ["seed=1", "dataset.short_side=96", "phase1.data.image_size=128"])
    assert str(caught.value) == (
        "--set dataset.short_side, --set phase1.data.image_size: phase1.data.image_size: received 128, expected at "
        "most dataset.short_side, 96, because stored photos would be enlarged; lower it, or raise dataset.short_side"
    )


def test_what_a_flag_stands_for_is_called_by_the_flag(tmp_path):
    (tmp_path / "some.yaml").write_text("seed: 1")
    flags = {"phase6.photos=''": "--photos"}
    with pytest.raises(ConfigError, match=r"^--photos: phase6.photos: received '' .text., expected text or null, not"):
        load.from_file(tmp_path / "some.yaml", ["phase6.photos=''"], flags)


@pytest.mark.parametrize(
    ("key", "allowed", "refused"),
    [
        ("teacher_top1", (0, 1), (-0.01, 1.01)),
        ("ece", (0, 1), (-0.01, 2)),
        ("largest_group", (0, 1), (-1, 1.5)),
        ("regional_gain", (-1, 1), (-1.1, 1.1)),
        ("teacher_over_probe", (-1, 1), (-2, 2)),
        ("browser_correlation", (-1, 1), (-1.1, 1.1)),
        ("val_loss_ratio", (1, 5), (0.99,)),
        ("bundle_megabytes", (0.1, 500), (0, -1)),
        ("student_megabytes", (0.1, 500), (0,)),
        ("prediction_seconds", (0.1, 60), (0,)),
        ("valid_photos_min", (0, 10**9), (-1,)),
        ("valid_photos_max", (1, 10**9), (0,)),
    ],
)
def test_gates_have_the_bounds_of_what_they_measure(key, allowed, refused):
    assert [message({"gates": {key: limit}}) for limit in (*allowed, None)] == [None] * (len(allowed) + 1)
    assert all(message({"gates": {key: limit}}).startswith(f"some.yaml: gates.{key}: received ") for limit in refused)
