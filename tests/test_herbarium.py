"""The drawn source: repeatable, faulty in known ways, and neither trivial nor hopeless to learn."""

import hashlib
from collections import Counter
from pathlib import Path

import bson
import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.linear_model import LogisticRegression

from keras_pipeline.demo import flora, herbarium
from keras_pipeline.demo.painter import paint

SPECIES, PHOTOS = 12, 360


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("herbarium")
    return folder, herbarium.draw(folder, seed=1, species=SPECIES, photos=PHOTOS)


@pytest.fixture(scope="module")
def plan() -> list[herbarium._Shot]:
    return herbarium._plan(1, SPECIES, 1100)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, list[dict], list[dict]]:
    """One folder with two drawings of the same plan, and their documents: without and with the regional shift."""
    folder, plan = tmp_path_factory.mktemp("both"), {"seed": 1, "species": 5, "photos": 90}
    return folder, herbarium.draw(folder, **plan), herbarium.draw(folder, **plan, regional_shift=True)


def _shots(kind: str) -> list[herbarium._Shot]:
    return [shot for shot in herbarium._plan(1, SPECIES, PHOTOS) if shot.kind == kind]


def _readable(folder: Path, documents: list[dict]) -> tuple[list[Image.Image], np.ndarray, np.ndarray]:
    """Photos at 96x96, their labels, and which are for testing: about a quarter of all observations."""
    images, labels, test = [], [], []
    for document in documents:
        if not {"latin_name", "image_url"} <= document.keys():
            continue
        try:
            image = ImageOps.exif_transpose(Image.open(folder / document["image_url"])).convert("RGB")
        except OSError:
            continue
        images.append(np.asarray(ImageOps.fit(image, (96, 96), Image.Resampling.BOX)))
        labels.append(document["latin_name"])
        test.append(hashlib.sha256(document["observation_id"].encode()).digest()[0] < 64)
    return np.stack(images), np.unique(labels, return_inverse=True)[1], np.array(test)


def test_same_seed_draws_the_same_bytes(drawn, tmp_path):
    folder, documents = drawn
    shot = herbarium._plan(1, SPECIES, PHOTOS)[17]
    (tmp_path / "photos").mkdir()
    herbarium._store(tmp_path, shot)
    assert (tmp_path / shot.file).read_bytes() == (folder / shot.file).read_bytes()
    assert herbarium.draw(folder, seed=1, species=SPECIES, photos=PHOTOS) == documents


def test_killed_drawing_is_finished(drawn):
    folder, documents = drawn
    path = folder / documents[5]["image_url"]
    whole = path.read_bytes()
    path.unlink()
    path.with_name(path.name + ".part").write_bytes(whole[:100])
    herbarium.draw(folder, seed=1, species=SPECIES, photos=PHOTOS)
    assert path.read_bytes() == whole
    assert not list(folder.rglob("*.part"))


def test_other_seed_shares_no_id(plan):
    assert not {s.key for s in plan} & {s.key for s in herbarium._plan(2, SPECIES, 1100)}


def test_ids_and_observations_are_pinned():
    """They enter the hashes of a run; change `DRAWING` when they change."""
    document = herbarium._document(herbarium._plan(1, SPECIES, 1100)[0])
    assert (str(document["_id"]), document["observation_id"]) == ("2192c041ea50086006e7a0aa", "obs-872152211836")


def test_documents_without_shift_are_pinned(drawn):
    digest = hashlib.sha256(b"".join(bson.encode(document) for document in drawn[1])).hexdigest()
    assert digest == "30f86759a76aae24c0f083aae8cbca50032df3e4a4a3711c0504fb1507e9c990"


def test_photos_without_shift_show_what_their_documents_say(plan):
    assert all((shot.look, shot.scene, shot.album) == (shot.species, shot.region, "photos") for shot in plan)


def test_shifted_documents_differ_in_their_urls_alone(both):
    _, usual, shifted = both
    for document, other in zip(usual, shifted, strict=True):
        url = {"image_url": document["image_url"].replace("photos/", "shifted/")} if "image_url" in document else {}
        assert other == document | url


# What a plant of species 0 to 4 looks like; the fifth has no neighbour, for five are drawn.
@pytest.mark.parametrize(("inside", "looks"), [(True, (1, 0, 3, 2, 4)), (False, (0, 1, 2, 3, 4))])
def test_shifted_plants_wear_their_neighbours_look_in_one_region_alone(both, inside, looks):
    usual = [s for s in herbarium._plan(1, 5, 90) if s.kind == "plain" and (s.region.name == "EU_SW") == inside]
    for species, look in enumerate(looks):
        shot = next(s for s in usual if s.species is flora.SPECIES[species])
        stored = np.asarray(Image.open(both[0] / shot.file.replace("photos/", "shifted/")), float)
        differences = {
            (candidate, region.name): np.abs(
                np.asarray(paint(flora.SPECIES[candidate], region, plant=shot.plant, view=shot.view)) - stored
            ).mean()
            for candidate in (species, species ^ 1)
            for region in flora.REGIONS
        }
        (best, least), (_, second) = sorted(differences.items(), key=lambda item: item[1])[:2]
        assert best[0] == look
        assert least < 4 < second


def test_shifted_scenery_tells_nothing_of_the_region(plan):
    shifted = [herbarium._shifted(shot, SPECIES) for shot in plan]
    assert len({(shot.plant, shot.scene.name) for shot in shifted}) == len({shot.plant for shot in shifted})
    for region in flora.REGIONS:
        scenes = Counter(shot.scene.name for shot in shifted if shot.region is region)
        assert len(scenes) == 4
        assert max(scenes.values()) < 0.5 * scenes.total()


def test_shifted_and_usual_drawings_share_a_folder_but_no_file(both):
    folder, usual, shifted = both
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    lost = folder / shifted[5]["image_url"]
    lost.unlink()
    lost.with_name(lost.name + ".part").write_bytes(b"half")
    plan = {"seed": 1, "species": 5, "photos": 90}
    assert herbarium.draw(folder, **plan, regional_shift=True) == shifted
    assert herbarium.draw(folder, **plan) == usual
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")} == files
    assert len([name for name in files if name.startswith("photos/")]) * 2 == len(files)


def test_document_has_all_fields(drawn):
    document = max(drawn[1], key=len)
    assert set(document) == {
        "_id", "latin_name", "image_url", "region", "observation_id", "user_id", "observed_on", "license",
        "attribution", "latitude", "longitude",
    }  # fmt: skip
    assert document["image_url"] == f"photos/{document['_id']}.jpg"
    south, north, west, east = next(r.box for r in flora.REGIONS if r.name == document["region"])
    assert south <= document["latitude"] <= north
    assert west <= document["longitude"] <= east


def test_long_tail_leaves_the_rarest_enough(plan):
    counts = Counter(shot.species.latin_name for shot in plan)
    assert len(plan) == 1100
    assert len(counts) == SPECIES
    assert max(counts.values()) > 3 * min(counts.values())
    observations = {name: {s.observation for s in plan if s.species.latin_name == name} for name in counts}
    assert all(len(found) >= 4 for found in observations.values())
    assert min(Counter(s.species.latin_name for s in herbarium._plan(3, 12, 120) if s.kind == "plain").values()) >= 5


def test_observations_hold_one_to_four_photos_of_one_region(plan):
    groups = Counter(shot.observation for shot in plan)
    assert set(groups.values()) == {1, 2, 3, 4}
    assert len({(shot.observation, shot.region.name) for shot in plan}) == len(groups)
    regions = Counter(shot.region.name for shot in plan)
    assert 0.28 < regions["EU_SW"] / 1100 < 0.44


def test_faults_stay_under_five_percent(plan):
    kinds = Counter(shot.kind for shot in plan)
    assert [kinds[kind] for kind in ("missing", "html", "truncated", "small")] == [6, 6, 5, 5]
    assert kinds["copy"] == 16
    assert kinds["unlabelled"] + kinds["unlinked"] == 6
    assert all(kinds[kind] >= 10 for kind in ("exif", "cmyk", "png"))


def test_faulty_files_are_what_they_claim(drawn):
    folder, documents = drawn
    path = {kind: folder / _shots(kind)[0].file for kind in ("missing", "html", "truncated", "small", "png", "cmyk")}
    assert not path["missing"].exists()
    assert path["html"].read_bytes().startswith(b"<!DOCTYPE html>")
    assert max(Image.open(path["small"]).size) < 100
    assert (Image.open(path["png"]).format, Image.open(path["cmyk"]).mode) == ("PNG", "CMYK")
    with pytest.raises(OSError, match="truncated"):
        Image.open(path["truncated"]).load()
    assert sum("latin_name" not in d for d in documents) == 1
    assert sum("image_url" not in d for d in documents) == 1


def test_exif_rotated_photos_stand_upright_once_turned(drawn):
    for shot in _shots("exif"):
        stored = Image.open(drawn[0] / shot.file)
        upright = paint(shot.species, shot.region, plant=shot.plant, view=shot.view)
        assert stored.getexif()[0x0112] in (3, 6, 8)
        difference = np.asarray(ImageOps.exif_transpose(stored), float) - np.asarray(upright, float)
        assert np.abs(difference).mean() < 4


def test_reuploads_look_alike_but_have_other_bytes_and_observations(drawn):
    plain = {(s.plant, s.view): s for kind in ("plain", "exif", "cmyk", "png") for s in _shots(kind)}
    for copy in _shots("copy"):
        original = plain[copy.plant, copy.view]
        assert copy.observation != original.observation
        thumbnails = [
            np.asarray(ImageOps.exif_transpose(Image.open(drawn[0] / s.file)).convert("L").resize((16, 16)), float)
            for s in (copy, original)
        ]
        assert np.abs(thumbnails[0] - thumbnails[1]).mean() < 8


def test_colour_histograms_do_not_tell_the_species(drawn):
    images, labels, test = _readable(*drawn)
    bins = (images // 64).astype(int) @ [16, 4, 1]
    histograms = np.stack([np.bincount(b.ravel(), minlength=64) for b in bins]) / bins[0].size
    means = np.stack([histograms[~test & (labels == c)].mean(0) for c in range(SPECIES)])
    nearest = ((histograms[test, None] - means) ** 2).sum(-1).argmin(1)
    assert np.mean(nearest == labels[test]) < 0.35


def test_which_colours_meet_tells_some_species_but_not_all(drawn):
    """A linear probe of neighbouring pixels; what a network learns, `make demo` shows and its gates judge."""
    images, labels, test = _readable(*drawn)
    codes = (images // 86).astype(int) @ [9, 3, 1]  # 27 colours
    pairs = [
        np.bincount(np.concatenate([(c[:, :-4] * 27 + c[:, 4:]).ravel(), (c[:-4] * 27 + c[4:]).ravel()]), minlength=729)
        for c in codes
    ]
    features = np.sqrt(np.array(pairs) / np.sum(pairs[0]))
    probe = LogisticRegression(C=30, max_iter=2000).fit(features[~test], labels[~test])
    assert 0.4 < probe.score(features[test], labels[test]) < 0.7  # of 12 species, from 260 photos


def test_regions_look_different():
    """The mean colour of one plant's photos differs more between regions than between photos."""
    means = np.array(
        [
            [np.asarray(paint(flora.SPECIES[0], region, plant=5, view=v)).mean((0, 1)) for v in range(4)]
            for region in flora.REGIONS
        ]
    )
    assert means.mean(1).std(0).mean() > 1.5 * means.std(1).mean()


@pytest.mark.parametrize(
    ("species", "photos", "message"), [(1, 100, "2 to 20"), (21, 900, "2 to 20"), (12, 119, "at least 10 a")]
)
def test_impossible_numbers_are_refused(tmp_path, species, photos, message):
    with pytest.raises(ValueError, match=message):
        herbarium.draw(tmp_path, seed=1, species=species, photos=photos)
