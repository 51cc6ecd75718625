"""A collection of one document a species whose references repeat each other, as plant apps keep them."""

import random


def documents(*, species, urls, references, two_names, base, seed=1):
    """Documents with `images` (objects) and `img` (texts): so many species, different URLs and references to them.

    `two_names` of the URLs stand in the document of a second species too. The URLs are `base/0.jpg`, `base/1.jpg`, …
    """
    draw = random.Random(seed)
    found = [{"_id": number, "latinName": f"Genus{number % 20} epithet{number}"} for number in range(species)]
    for document in found:
        document |= {"images": [], "img": []}
    for number in range(urls):
        owner = number % species if number < species else draw.randrange(species)
        found[owner]["images"].append({"url": f"{base}/{number}.jpg", "license": "CC-BY"})
        if number < two_names:
            found[(owner + 1) % species]["images"].append({"url": f"{base}/{number}.jpg", "license": "CC-BY"})
    listed = [(document, entry["url"]) for document in found for entry in document["images"]]
    for document, url in draw.sample(listed, references - len(listed)):
        document["img"].append(url)
    return found
