"""A signed URL without its signature; whatever is not signed stays as it is."""

import pytest

from keras_pipeline.ingest.signing import unsigned

S3 = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F1&X-Amz-Date=20260101T000000Z&X-Amz-Expires=60"
BASE = "https://photos.example.org/a%20b.jpg"


@pytest.mark.parametrize(
    "query",
    [
        f"{S3}&X-Amz-SignedHeaders=host&X-Amz-Signature=0a",
        "AWSAccessKeyId=A&Expires=1&Signature=q%2Fx%3D",
        "X-Goog-Algorithm=G&X-Goog-Credential=c&X-Goog-Date=d&X-Goog-Expires=1&X-Goog-SignedHeaders=h&X-Goog-Signature=s",
        "GoogleAccessId=g&Expires=1&Signature=s",
        "sv=2024-11-04&st=1&se=2&sr=b&sp=r&sig=s%3D",
        "Expires=1&Signature=s&Key-Pair-Id=K",
        "Policy=p&Signature=s&Key-Pair-Id=K",
    ],
)
def test_what_only_signs_is_left_out(query):
    assert unsigned(f"{BASE}?{query}") == BASE
    assert unsigned(f"{BASE}?size=large&{query}&v=2#top") == f"{BASE}?size=large&v=2#top"


@pytest.mark.parametrize(
    "url",
    [
        BASE,
        f"{BASE}?",
        f"{BASE}?Signature=q%2Fx%3D",  # of no scheme: it may choose the photo
        f"{BASE}?sig=1&w=500",
        f"{BASE}?Expires=1&v=2",
        f"{BASE}?sv=2&id=7",
        "a.jpg?b=%zz",
        "http://[half?Key-Pair-Id=1&Signature=2",
    ],
)
def test_any_other_query_stays(url):
    assert unsigned(url) == url
