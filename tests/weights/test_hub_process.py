"""The process that asks the Hub: what it refuses, what it tries again, and what it keeps to itself."""

import gzip

import pytest

from attacks import zoo
from mnv2zoo import weights


@pytest.fixture
def place():
    with zoo.zoo() as place:
        yield place


@pytest.mark.parametrize("etag", ["../../../../outside", "/tmp/outside", "..", "a/b"])
def test_a_header_that_would_lead_out_of_the_cache_is_refused(place, etag):
    headers = {
        "Location": f"{place.hub.cdn}/cdn/zoo/pinned/x",
        "X-Repo-Commit": place.commit,
        "X-Linked-ETag": f'"{etag}"',
        "X-Linked-Size": len(zoo.data()),
    }
    before = {*place.folder.parent.iterdir()}
    place.hub.trick = lambda request: request.wants_metadata and request.answer(302, headers)
    with pytest.raises(weights.WeightsUnavailableError, match="x-linked-etag"):
        place.load()
    assert {*place.folder.parent.iterdir()} == before


def test_a_body_that_would_be_unpacked_is_refused(place):
    bomb = gzip.compress(bytes(2**24))
    place.hub.trick = lambda request: request.wants_body and request.answer(200, {"Content-Encoding": "gzip"}, bomb)
    with pytest.raises(weights.WeightsUnavailableError, match="gzip"):
        place.load()
    assert not [*place.cache.rglob("*.incomplete")]


@pytest.mark.parametrize("match", ["/cdn/", "/resolve/"])
@pytest.mark.parametrize("name", [zoo.PINNED, zoo.UNPINNED])
def test_a_moment_of_illness_is_survived(place, match, name):
    place.hub.fail(status=500, times=1, match=match)
    assert zoo.right(place.load(name), seed=int(name == zoo.UNPINNED))


def test_what_the_hub_has_not_is_asked_for_once(place):
    place.hub.fail(status=404, match="/cdn/")
    with pytest.raises(weights.WeightsUnavailableError, match="404"):
        place.load()
    assert place.hub.downloads() == 1
