"""Phase 0 on documents of species, with photos in lists: from one config to the split."""

import json

from test_phase0 import SPECIES, client, host, no_graphs_to_free, project  # noqa: F401 (fixtures)

from keras_pipeline.data import records

SETTINGS = {
    "source.photos": ["images", "img"],
    "source.fields.latin_name": "latinName",
    "source.fields.image_url": "url",
    "source.fields.region": "distribution.countries",
    "source.regions": {"EU_SW": ["ES", "FR"], "EU_NORTH": ["DE"]},
    "source.licenses": ["cc0", "cc-by", "unknown"],
    "source.url_replace": {"original-": "good-"},
    "source.min_per_species": 3,
    "source.details": {"common_name": "commonName", "plant_id": "_id"},
}


def documents(base_url, order=1):
    """Three species of 12 photos, one licensed otherwise; the older list repeats the newer one. And a small species."""
    for s, name in enumerate(SPECIES):
        urls = [f"{base_url}original-{100 * s + n}.jpg" for n in range(12)][::order]
        images = [{"url": url, "license": "CC BY 4.0"} for url in urls]
        images[4]["license"] = "CC-BY-NC"
        distribution = [{"countries": ["DE", "FR"]}, {"countries": ["DE"]}, {}][s]
        yield {
            "_id": f"plant {s}", "latinName": name, "commonName": f"Common {s}", "images": images, "img": urls[:5],
            "distribution": distribution,
        }  # fmt: skip
    yield {"_id": "rare", "latinName": "Aus rarus", "img": [f"{base_url}original-{n}.jpg" for n in (900, 901)]}
    yield {"_id": "none", "latinName": "Aus nullus", "images": []}


def test_from_lists_to_the_split(project, host, capsys):  # noqa: F811
    project.photos.insert_many(list(documents(host.url)))
    assert project.run("audit", "export", "split", **SETTINGS) == 0
    audit = project.read("audit.json")
    assert (audit["documents"], audit["photos"], audit["references"], audit["usable"]) == (5, 38, 53, 33)
    assert audit["per_region"] == {"EU_NORTH": 11, "EU_SW": 11, "unknown": 13}
    assert audit["unusable"] == {
        "a document without a photo": 1,
        "licence cc-by-nc is not in source.licenses": 3,
        "under source.min_per_species": 2
    }  # fmt: skip
    assert sorted(host.asked) == sorted(f"good-{100 * s + n}.jpg" for s in range(3) for n in range(12) if n != 4)
    stored = project.stored()
    assert {sample_id.partition("/")[0] for sample_id in stored} == {"plant 0", "plant 1", "plant 2"}
    info = records.load_info(project.dataset / "dataset.json")
    regions = {photo.region: photo.latin_name for photo in photos_of(info)}
    assert regions == {"EU_SW": SPECIES[0], "EU_NORTH": SPECIES[1], "unknown": SPECIES[2]}
    details = json.loads((project.dataset / "details.json").read_text())
    assert details == {name: {"common_name": f"Common {s}", "plant_id": f"plant {s}"} for s, name in enumerate(SPECIES)}
    printed = capsys.readouterr().out
    assert "EU_SW before EU_NORTH 12" in printed and "end with no photo" not in printed
    assert "1 species left out, as they are under source.min_per_species: Aus rarus; see " in printed
    table = project.root / "artifacts/small/phase0/tables/species_without_photo.csv"
    assert table.read_text() == "latin_name,photos,reason\nAus rarus,2,under source.min_per_species\n"
    page = (project.root / "artifacts/small/phase0/audit.html").read_text()
    assert page.count("Counted before source.min_per_species: 35 photos, 2 of which") == 3

    project.photos.delete_many({})
    project.photos.insert_many(list(documents(host.url, order=-1)))  # other photos have the licence that is left out
    host.asked.clear()
    settings = SETTINGS | {"source.details": {}}
    assert project.run("audit", "export", "split", **settings) == 0
    assert sorted(host.asked) == ["good-104.jpg", "good-204.jpg", "good-4.jpg"]
    again = project.stored()
    assert {key: again[key] for key in again if key in stored} == {key: stored[key] for key in again if key in stored}
    assert len(again.keys() & stored.keys()) == 30 and not (project.dataset / "details.json").exists()


def photos_of(info):
    for split in info.splits:
        for shard in info.shards(split):
            yield from map(records.decode, records.read_shard(shard))
