"""A region of a config, one or several; regions that are a property of the species."""

import numpy as np
import pytest

from keras_pipeline.core.config.load import ConfigError, from_dict
from keras_pipeline.core.region_names import are_of_species, photos_of, pooled, title_of
from keras_pipeline.training.ensemble import member_weights


@pytest.mark.parametrize(
    "given, held, title",
    [("EU_SW", "EU_SW", "EU_SW"), (["EU_SW"], "EU_SW", "EU_SW"), (["ES", "PT"], ["ES", "PT"], "ES + PT")],
)
def test_a_list_of_one_is_that_region(given, held, title):
    teachers = [{"path": "phase1/best.keras", "weight": 1.0}, {"path": "a", "weight": 1.0, "region_filter": given}]
    config = from_dict({"experiment": "x", "phase2": {"region": given}, "phase3": {"teachers": teachers}})
    assert config.regional.region == held and config.phase3.teachers[1].region_filter == held
    assert title_of(config.regional.region) == title


@pytest.mark.parametrize("given", ["", [], ["ES", ""], ["ES", "ES"]])
def test_what_names_no_region_is_refused(given):
    with pytest.raises(ConfigError, match=r"phase2.region: received .*, expected a region, or a list of different"):
        from_dict({"experiment": "x", "phase2": {"region": given}})


def test_photos_of_several_regions_are_counted_together():
    per_region = {"ES": 7, "PT": 2, "DE": 5}
    assert [photos_of(per_region, region) for region in ("ES", "FR", ["ES", "PT", "FR"])] == [7, 0, 9]


def test_metrics_of_several_regions_are_weighted_by_photos():
    per_region = {"ES": {"n": 30, "species": 4, "top1": 0.5}, "PT": {"n": 10, "species": 6, "top1": 0.9}}
    assert pooled(per_region, ["ES", "PT"]) == {"n": 40, "species": 6, "top1": pytest.approx(0.6)}
    assert pooled(per_region, "PT") == {"n": 10, "species": 6, "top1": 0.9} and pooled(per_region, "FR") is None


def test_a_teacher_answers_for_each_of_its_regions():
    regions = np.array(["ES", "PT", "DE"])
    assert member_weights([(1.0, None), (3.0, ["ES", "PT"])], regions).tolist() == [[0.25, 0.75], [0.25, 0.75], [1, 0]]


def test_nineteen_of_twenty_species_in_one_region_make_it_theirs():
    assert are_of_species([(5, 5)] * 19 + [(5, 6)])
    assert not are_of_species([(5, 5)] * 18 + [(5, 6)])
    assert not are_of_species([(1, 1)] * 100)  # one photo is always in one region
