"""The demo's second shape: documents as plant apps keep them, in the numbers that the specification measured."""

import hashlib
from collections import Counter
from pathlib import Path

import bson
import numpy as np
import pandas as pd
import pymongo
import pytest
from PIL import Image

from keras_pipeline.core.artifacts import Run
from keras_pipeline.core.config.load import from_file
from keras_pipeline.demo import species
from keras_pipeline.experiment import _open_source
from keras_pipeline.ingest import details
from keras_pipeline.phases.runner import execute
from keras_pipeline.phases.steps import steps_between

CONFIG = Path(__file__).parents[1] / "configs/species.yaml"

REPLICA = {"seed": 42, "species": 400, "photos": 4045}
SMALL = {"seed": 3, "species": 8, "photos": 40}


@pytest.fixture(scope="module")
def replica() -> list[dict]:
    return species._plan(**REPLICA)[0]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("species")
    return folder, species.draw(folder, **SMALL)


def _urls(document: dict) -> list[str]:
    return [*(entry["url"] for entry in document["images"]), *document.get("img", [])]


def _names_of_urls(documents: list[dict]) -> dict[str, set[str | None]]:
    names: dict[str, set[str | None]] = {}
    for document in documents:
        for url in _urls(document):
            names.setdefault(url, set()).add(document.get("latinName"))
    return names


def test_counts_are_those_of_the_specification(replica):
    names = _names_of_urls(replica)
    assert len(replica) == 402
    assert sum(len(_urls(document)) for document in replica) == 7965  # 7,964 in the specification
    assert len(names) == 4045
    assert sum(len(each) > 1 for each in names.values()) == 70
    assert sum(len({*_urls(document)}) for document in replica) == 4127


def test_a_quarter_has_one_photo_and_the_rest_a_long_tail(replica):
    listed = {(d["latinName"], url) for d in replica if "latinName" in d for url in _urls(d)}
    photos = Counter(name for name, _ in listed)
    sizes = Counter(photos.values())
    assert (len(photos), sizes[1], sizes[2], max(sizes)) == (400, 100, 60, 62)  # 60 of its own
    assert np.median([n for n in photos.values() if n > 2]) < 15


def test_one_document_has_no_name_and_one_name_has_two_documents(replica):
    names = Counter(document.get("latinName") for document in replica)
    assert names[None] == 1 and sorted(names.values())[-2:] == [1, 2]
    assert len({document["_id"] for document in replica}) == 402
    first, second = (d for d in replica if names[d.get("latinName")] == 2)
    assert len({*_urls(first)} & {*_urls(second)}) == 12


def test_one_species_shares_all_its_photos_with_another(replica):
    photos = {d["latinName"]: {*_urls(d)} for d in replica if "latinName" in d}
    pairs = [(a, b) for a in photos for b in photos if a != b and len(photos[a]) >= 3 and photos[a] < photos[b]]
    assert len(pairs) == 1


def test_the_older_list_repeats_the_structured_one_and_has_some_of_its_own(replica):
    named = [document for document in replica if "latinName" in document]
    assert all({entry["url"] for entry in d["images"]} <= {*d["img"]} for d in named)
    assert all(len(d["img"]) == len({*d["img"]}) for d in named)
    alone = sum(len(d["img"]) - len(d["images"]) for d in named)
    assert alone == 288  # 7 %


def test_licences_have_eleven_spellings_in_the_shares_of_the_specification(replica):
    licences = Counter(entry["license"] for document in replica for entry in document["images"])
    n = licences.total()
    assert set(licences) == set(species._LICENSES)
    shares = {name: licences[name] / n for name in ("CC-BY-NC", "CC-BY", "CC-BY-SA", "CC0")}
    assert shares == pytest.approx({"CC-BY-NC": 0.44, "CC-BY": 0.28, "CC-BY-SA": 0.13, "CC0": 0.05}, abs=0.02)


def test_a_quarter_of_the_species_has_no_countries(replica):
    named = [document for document in replica if "latinName" in document]
    countries = [d.get("distribution", {}).get("countries", []) for d in named]
    assert sum(not each for each in countries) in (104, 105)  # 26 % of 400; the one of two documents counts twice
    assert 30 < sum("distribution" not in d for d in named) < 75  # the others have an empty list
    assert {len(each) for each in countries} == set(range(8))
    assert any(each != sorted(each) for each in countries)


def test_one_url_in_97_is_not_there(drawn, replica):
    folder, documents = drawn
    numbers = {int(url.split("/")[1]) for url in _names_of_urls(replica)}
    assert numbers == set(range(1, 4046)) and sum(n % 97 == 0 for n in numbers) == 41
    assert all((folder / url).exists() for url in _names_of_urls(documents))  # of 40 none


def test_a_missing_photo_is_not_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(species, "MISSING_EVERY", 5)
    species.draw(tmp_path, **SMALL)
    assert [n for n in range(1, 41) if not (tmp_path / f"photos/{n}/original.jpg").exists()] == list(range(5, 41, 5))


def test_medium_is_the_same_picture_smaller(drawn):
    original, medium = (Image.open(drawn[0] / f"photos/1/{size}.jpg") for size in ("original", "medium"))
    assert (min(original.size), min(medium.size)) == (320, 240)
    difference = np.asarray(original.resize(medium.size), float) - np.asarray(medium, float)
    assert np.abs(difference).mean() < 4


def test_documents_are_pinned(drawn):
    """They enter the hashes of a run; change `DRAWING` when they change."""
    digest = hashlib.sha256(b"".join(bson.encode(document) for document in drawn[1])).hexdigest()
    assert digest == "0e61bc3c8654e737c7ae6b47960b001d4770747b6f6a490e0fefbd8f0593c126"


def test_killed_drawing_is_finished(drawn):
    folder, documents = drawn
    lost = folder / "photos/7/medium.jpg"
    whole = lost.read_bytes()
    lost.unlink()
    lost.with_name("medium.jpg.part").write_bytes(whole[:100])
    assert species.draw(folder, **SMALL) == documents
    assert lost.read_bytes() == whole and not list(folder.rglob("*.part"))


def test_species_of_one_genus_look_alike_but_not_the_same():
    kinds = species._kinds(42, 400)
    assert len({kind.latin_name for kind in kinds}) == 400 and len({kind.genus for kind in kinds}) == 20
    for genus in {kind.genus for kind in kinds}:
        looks = [kind.look for kind in kinds if kind.genus == genus]
        assert len({look.habit for look in looks}) == 1 and len(set(looks)) == 20


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"species": 401}, "source.demo.species: received 401 with shape: species, expected 5 to 400"),
        ({"species": 40, "photos": 50}, "source.demo.photos: received 50 .* expected 95 to 1463"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path, numbers, message):
    with pytest.raises(ValueError, match=message):
        species.draw(tmp_path, **REPLICA | numbers)


@pytest.mark.parametrize("other", [{"regional_shift": True}, {"images": "photos", "labels": "labels.csv"}])
def test_keys_of_the_photo_shape_are_refused(make_config, other):
    with pytest.raises(ValueError, match=r"expected it with shape: photos alone"):
        make_config(source={"demo": {"shape": "species", **other}})


@pytest.mark.parametrize("name", ["latin_name", "probability", "genus"])
def test_a_detail_can_t_take_the_place_of_an_answer(make_config, name):
    with pytest.raises(ValueError, match=f"received the name '{name}', which answers have already"):
        make_config(source={"details": {name: "commonName"}})


def test_the_example_config_reads_it(tmp_path):
    """configs/species.yaml on fewer documents, up to the download."""
    sets = [f"root={tmp_path}", "source.demo.species=8", "source.demo.photos=60"]
    run = Run(from_file(CONFIG, sets), _open_source)
    execute(run, steps_between("phase0 audit", "phase0 export"))
    ledger = pd.read_parquet(run.path("url_ledger"))
    stored = ledger[ledger.state == "ok"]
    assert stored.url.str.endswith("/original.jpg").all() and stored.bytes.max() < 20_000  # of the medium sizes
    assert not ledger.sample_id.duplicated().any()
    assert set(stored.region) <= {"EU_SW", "EU_NORTH", "AMERICAS_NORTH", "unknown"} and stored.region.nunique() > 1
    assert set(ledger.reason[ledger.reason.str.startswith("under")]) == {"under source.min_per_species"}
    known = details.read(run.path("url_ledger"))
    assert {*stored.latin_name} <= {*known} and all(each["plant_id"] for each in known.values())


def test_the_embedded_server_holds_it(make_config, tmp_path):
    demo = {"shape": "species", "species": SMALL["species"], "photos": SMALL["photos"]}
    config = make_config(root=str(tmp_path), seed=SMALL["seed"], source={"demo": demo})
    with _open_source(config) as (uri, base_url), pymongo.MongoClient(uri) as client:
        found = list(client[config.source.database][config.source.collection].find())
    assert len(found) == 10 and base_url.startswith("http://127.0.0.1:")
    assert found == species._plan(**SMALL)[0]
    assert (Run(config, None).embedded_photos / "photos/40/medium.jpg").exists()
