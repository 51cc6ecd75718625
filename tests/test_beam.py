"""Beam deals out the work: the same photos, splits and soft labels as without it. DirectRunner, on the fault server."""

import json

import pandas as pd
import pytest
from test_phase0 import Project, client, host  # noqa: F401

pytest.importorskip("apache_beam")
from keras_pipeline import __main__ as cli
from keras_pipeline.core import beam
from keras_pipeline.core.errors import SourceError
from keras_pipeline.data import records
from keras_pipeline.phases.phase0_dataset import export_beam

FAULTS = ("moody", "busy", "html", "missing", "half", "reset", "moved", "small", "empty")


@pytest.fixture
def projects(tmp_path, host, client, monkeypatch):  # noqa: F811
    """Two of the same documents, good ones and faulty ones, with nothing else in common."""
    monkeypatch.setattr(export_beam, "PIECE", 25)
    found = []
    for name in ("local", "beam"):
        (tmp_path / name).mkdir()
        project = Project(tmp_path / name, host, client, "same")
        found.append(project)
    found[0].add([f"good-{i}.jpg" for i in range(60)] + [f"{fault}-{i}.jpg" for fault in FAULTS for i in range(2)])
    yield found
    found[0].photos.drop()


def told(project):
    table = pd.read_parquet(project.root / "artifacts/small/phase0/url_ledger.parquet")
    return {row.sample_id: (row.state, row.reason, row.sha256, row.attempts) for row in table.itertuples()}


def records_of(project):
    """{sample_id: record} of the finished shards: the JPEG's bytes too."""
    info = records.load_info(project.dataset / "dataset.json")
    shards = [shard for split in info.splits for shard in info.shards(split)]
    photos = [records.decode(example) for shard in shards for example in records.read_shard(shard)]
    return {photo.sample_id: photo for photo in photos}


def test_the_same_photos_in_the_same_splits(projects, host):  # noqa: F811
    local, beam = projects
    assert local.run("audit", "export", "split") == 0
    asked = dict(host.asked)
    host.asked.clear()
    assert beam.run("audit") == 0
    assert beam.command("export", "--force", "--runner", "beam") == 0
    assert dict(host.asked) == asked  # each URL as often
    pieces = {path.name[7:19] for path in (beam.dataset / "raw").glob("photos-*.tfrecord")}
    assert len(pieces) >= 3
    assert beam.run("split") == 0
    assert told(beam) == told(local)
    assert beam.stored() == local.stored() and len(local.stored()) > 60
    assert records_of(beam) == records_of(local)
    assert not list(beam.root.rglob("outcomes-*")) and not list(beam.root.rglob(".writing-*"))


def test_what_a_killed_run_had_finished_is_not_fetched_again(projects, host, monkeypatch):  # noqa: F811
    _, beam = projects
    fetch, calls = export_beam._fetch, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        fetch(*arguments)

    assert beam.run("audit") == 0
    monkeypatch.setattr(export_beam, "_fetch", killed)
    assert beam.command("export", "--runner", "beam") in (3, 130)
    done = {sample for call in calls[:2] for sample in (document.sample_id for document in call[1])}
    monkeypatch.setattr(export_beam, "_fetch", fetch)
    host.asked.clear()
    unwanted = next(name for name in sorted(done) if name.startswith("good"))
    (beam.root / "exclude.txt").write_text(f"{unwanted}\n")
    # By the local engine: it goes on with what Beam's workers have left, as far as that is still wanted.
    exclude = {"source.exclude": str(beam.root / "exclude.txt")}
    assert beam.run("audit", **exclude) == 0 and beam.command("export", **exclude) == 0
    assert told(beam)[unwanted][0] == "skipped"
    again = {name for name in host.asked if name in done and name.startswith("good")}
    assert len(done) == 50 and not again
    assert len([1 for state, *_ in told(beam).values() if state == "ok"]) > 60


def test_a_url_is_asked_for_once_also_when_its_documents_would_lie_in_several_pieces(projects, host):  # noqa: F811
    local, beam = projects
    names = ("Bellis perennis", "Crocus vernus", "Iris germanica")
    documents = [
        {"_id": f"{i}-{j}", "latin_name": names[j % 3], "image_url": f"{host.url}good-{i}.jpg?x=%2f#{j}"}
        for j in range(4)
        for i in range(40)
    ]
    local.photos.insert_many(documents)
    host.asked.clear()
    assert beam.run("audit") == 0 and beam.command("export", "--force", "--runner", "beam") == 0
    assert {host.asked[f"good-{i}.jpg?x=%2f"] for i in range(40)} == {1}  # as it is written, byte for byte
    found = {name: state for name, (state, *_) in told(beam).items()}
    assert {found[f"{i}-{j}"] for i in range(40) for j in (1, 2)} == {"ok"}
    assert all(sorted((found[f"{i}-0"], found[f"{i}-3"])) == ["ok", "skipped"] for i in range(40))
    host.asked.clear()
    assert local.run("audit", "export") == 0 and told(local) == told(beam)


def test_our_own_servers_queue_is_dealt_out_in_parts(tmp_path):
    from keras_pipeline.ingest.ledger import Document, Ledger

    with Ledger(tmp_path / "l.sqlite") as ledger:
        hosts = ("own:80", "a.org", "b.org")
        ledger.plan((Document(f"{h}{i}", f"{i}.jpg", host=h) for h in hosts for i in range(200)), seed=1)
        queues = export_beam.write_queues(ledger, tmp_path, "own:80")
    sizes = [len(list(export_beam._pieces(export_beam.Path(queue)))[0]) for queue in queues]
    assert sum(sizes) == 600 and sizes.count(200) == 2 and len(queues) > 40


def test_a_worker_that_fails_for_good_is_told(tmp_path):
    with pytest.raises(SourceError, match="Beam: .*division by zero"):
        beam.each(lambda item: {"x": 1 / item}, [0], ["--runner=DirectRunner"], tmp_path)
    (tmp_path / "good").mkdir()
    found = beam.each(lambda item: {"x": item + 1}, [1, 2, 3], [], tmp_path / "good")
    assert sorted(answer["x"] for answer in found) == [2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["phase0", "export", "--beam-args", "--runner=DirectRunner"], "--beam-args goes with --runner beam"),
        (
            ["phase1", "logits", "--runner", "beam", "--beam-args", "--runner=X", "--config=x.yaml"],
            "error: --beam-args: received --config=x.yaml behind it, expected Beam's own options only, as all that "
            "follows goes to Beam; put --beam-args last\n",
        ),
    ],
)
def test_runner_goes_with_what_beam_can_deal_out(tmp_path, capsys, arguments, said):
    config = tmp_path / "x.yaml"
    config.write_text(json.dumps({"root": str(tmp_path)}))
    command, step, *rest = arguments
    assert cli.main([command, step, "--config", str(config), *rest]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runner=NoSuchRunner"], "Unexpected pipeline runner: NoSuchRunner"),
        (["--direct_num_workers=abc"], "argument --direct_num_workers: invalid int value: 'abc'"),
    ],
)
def test_arguments_that_beam_cannot_read_are_an_error_also_where_nothing_is_to_do(tmp_path, arguments, said, capfd):
    with pytest.raises(ValueError, match=rf"^--beam-args: received {arguments[0]}, expected .*{said}"):
        beam.each(dict, [], arguments, tmp_path)
    assert "usage" not in capfd.readouterr().err
