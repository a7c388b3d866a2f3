"""The process that asks the Hub: what it refuses, what it tries again, and what it keeps to itself."""

import gzip
import threading
import time

import pytest

from attacks import bad_hub, bounds, zoo
from mnv2zoo import weights
from mnv2zoo.weights import hub, hub_process


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


@pytest.fixture(params=["process", "here"])
def client(request):
    """Both places where a download runs."""
    with bounds.client(request.param):
        yield request.param


@pytest.mark.usefixtures("client")
def test_a_wait_that_outlasts_the_time_limit_is_not_waited_for(place):
    place.hub.fail(status=429, times=1, retry_after=10**6, match="/cdn/")
    assert zoo.right(place.load())


@pytest.mark.slow
@pytest.mark.parametrize("trick", ["headers", "body", "nothing"])
def test_no_thread_is_left_when_the_time_is_up(place, monkeypatch, trick):
    tricks = {
        "headers": lambda request: request.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000),
        "body": lambda request: request.wants_body and bad_hub._slow(request, zoo.data()),
        "nothing": lambda request: bool(time.sleep(60)) or True,
    }
    place.hub.trick = tricks[trick]
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", "2")
    with bounds.client("here"):
        with pytest.raises(weights.WeightsUnavailableError, match="MNV2ZOO_DOWNLOAD_TIMEOUT"):
            place.load()
        for _ in range(100):
            left = [thread for thread in threading.enumerate() if thread.name == hub_process.THREAD]
            if not left:
                break
            time.sleep(0.1)
        assert not left


@pytest.mark.usefixtures("client")
def test_a_body_longer_than_the_file_may_be_is_refused(place, monkeypatch):
    monkeypatch.setattr(hub, "SPARE_BYTES", 2**16)
    whole = zoo.data() + bytes(2**20)
    headers = {"Content-Length": len(whole)}
    place.hub.trick = lambda request: request.wants_body and request.answer(200, headers, whole)
    with pytest.raises(weights.WeightsError):
        place.load()
    kept = [path.stat().st_size for path in place.cache.rglob("*") if path.is_file()]
    assert max(kept, default=0) < len(zoo.data()) + 2**16
