"""One id for the spellings of a licence, by whole words."""

import pytest

from keras_pipeline.core.config.source import Source
from keras_pipeline.core.licenses import KNOWN, license_id, misspelt

SPELLINGS = {
    "cc0": [
        "CC0", "cc-0", "CC_0", "CC0 1.0", "CC0_1_0", "CC0 1.0 Universal", "Creative Commons Zero", "cc zero",
        "http://creativecommons.org/publicdomain/zero/1.0/", "creativecommons.org/publicdomain/zero/1.0/legalcode",
        "No rights reserved",
    ],
    "public-domain": [
        "Public Domain", "public_domain", "PDM", "pdm 1.0", "No known copyright", "no known copyright restrictions",
        "https://creativecommons.org/publicdomain/mark/1.0/", "Public Domain Mark 1.0",
    ],
    "cc-by": [
        "CC-BY", "cc by", "CC_BY_4_0", " CC BY 4.0 ", "Attribution License", "Creative Commons Attribution 4.0",
        "https://creativecommons.org/licenses/by/4.0/", "//creativecommons.org/licenses/by/3.0/de/",
        "HTTP://CreativeCommons.org/licenses/by/2.0", "CC-BY-3.0-IGO",
        "cc-by-3.0-au", "CC BY 3.0 New Zealand", "https://creativecommons.org/licenses/by/4.0/?ref=chooser", "CCBY",
        "by", "CC BY 3.0 NO",
    ],
    "cc-by-sa": [
        "CC-BY-SA", "CC BY-SA 4.0", "CC BY-SA 3.0 DE", "cc-by-sa-3.0-de", "CCBYSA", "CC BY-SA 2.0 UK",
        "Creative Commons Attribution-Share Alike 4.0 International", "Attribution-ShareAlike 3.0 Germany",
    ],
    "cc-by-nc": [
        "CC-BY-NC", "cc-by-nc", "CC_BY_NC_4_0", "http://creativecommons.org/licenses/by-nc/4.0/legalcode",
        "Creative Commons Attribution-NonCommercial 4.0 International", "CC BY Non-Commercial", "by-nc", "CCBYNC 4.0",
        "CC BY 4.0 NC",
    ],
    "cc-by-nc-sa": ["cc-by-nc-sa", "CC-BY-SA-NC", "Attribution-NonCommercial-ShareAlike License"],
    "cc-by-nc-nd": ["CC-BY-NC-ND", "CC BY-NC-ND 2.0 FR", "by-nc-nd", "Attribution-NonCommercial-NoDerivs License"],
    "cc-by-nd": ["CC BY-ND", "CC BY no derivatives"],
    "all-rights-reserved": [
        "All rights reserved", "©", "(c)", "© Jane Doe 2020", "Copyright", "C Jane, all rights reserved",
    ],
    "unknown": ["", "  ", "unknown", "None", "null", "n/a", "NA", "nan", "-", "?"],
    "4.0": ["4.0"],
    "by-request": ["by request"],
    "cc-by-4.0-with-conditions": ["CC BY 4.0 with conditions"],
    "sand": ["sand"],
    "gfdl": ["GFDL"],
    "cc-by-(not-for-commercial-use)": ["CC BY (not for commercial use)"],
    "cc-by-nd-sa": ["cc by nd sa"],
    "cc": ["CC"],
    "attribution": ["Attribution"],
    "©-a,-some-rights-reserved-(cc-by-nc)": ["(c) A, some rights reserved (CC BY-NC)"],
    "accordion-cc-bypass": ["Accordion CC bypass"],
}  # fmt: skip


@pytest.mark.parametrize("name, text", [(name, text) for name, texts in SPELLINGS.items() for text in texts])
def test_spellings(name, text):
    assert license_id(text) == name
    assert license_id(name) == name


@pytest.mark.parametrize("name", KNOWN)
def test_known_ids_are_their_own_and_not_misspelt(name):
    assert (license_id(name), misspelt(name)) == (name, None)


@pytest.mark.parametrize(
    "name, meant",
    [("cc-by-ncsa", "cc-by-nc-sa"), ("public-domian", "public-domain"), ("unknwon", "unknown"), ("gfdl", None),
     ("ogl", None), ("my own", None)],
)  # fmt: skip
def test_misspelt(name, meant):
    assert misspelt(name) == meant


def test_a_misspelt_licence_is_the_config_s_fault():
    with pytest.raises(ValueError, match="received 'cc-bysa', .* did you mean 'cc-by-sa'"):
        Source(licenses=["cc0", "cc-bysa"])
    with pytest.raises(ValueError, match="at least 1 item"):
        Source(licenses=[])
    assert Source(licenses=["CC BY 4.0", "GFDL", "unknown"]).licenses == ["cc-by", "gfdl", "unknown"]
