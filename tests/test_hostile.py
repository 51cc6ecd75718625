"""A few of the inputs of the benchmark fuzz, each kind: a result or an error of ours with a message, nothing else."""

import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.support import hostile
from keras_pipeline.core.config import base, load
from keras_pipeline.ingest import audit, curation
from keras_pipeline.ingest.download import rows


@pytest.fixture(scope="module")
def room():
    room = hostile.Room()
    yield room
    room.close()


NAMES = [name for name, _, _ in hostile.Room.targets(hostile.Room.__new__(hostile.Room))]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_spoilt_inputs_are_taken_or_refused_with_a_message(room, name):
    (target,) = (target for own, _, target in room.targets() if own == name)
    for number in range(60):
        try:
            target(random.Random(f"{name} {number}"))
        except hostile.ALLOWED as error:
            assert type(error) in hostile.ALLOWED and str(error), (name, number, error)


@settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(hostile.documents())
def test_any_document_is_taken_or_counted_as_unusable(document):
    cured = curation.Curation()
    found = audit.audit([document], curation=cured, min_per_species=2)
    assert found["documents"] == 1 and found["usable"] + sum(found["unusable"].values()) == 1
    (row,) = rows([document], cured, "https://photos.example.org/")
    assert row.state in ("waiting", "skipped", "failed") and (row.state == "waiting" or row.reason)


@pytest.mark.parametrize("text", ["a: \x00", "a: \x1b[2J", "a: 2020-13-45", "[" * 1000, "a: &x [*x]", "? [a]\n: b"])
def test_odd_yaml_is_a_config_error_with_the_files_name(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(base.ConfigError, match="c.yaml"):
        load.from_file(tmp_path / "c.yaml")
