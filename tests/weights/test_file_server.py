"""Weights of a known hash come from any file server, and from nothing that it sends but the right bytes."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest

from mnv2zoo import weights
from mnv2zoo.weights import file_server, store
from mnv2zoo.weights.hub import HubFile
from mnv2zoo.weights.trust import Record
from tests.conftest import ROOT, raw_entry
from tests.file_server import FileServer
from tests.hub_server import hub_env
from tests.weights.conftest import NAME

COMMIT = "1" * 40
PLACE = "team/w/model.safetensors"


@pytest.fixture
def server(hub, overlay, data, tmp_path, monkeypatch):
    """A file server that has pinned weights, which the Hub has not."""
    sha256 = hashlib.sha256(data).hexdigest()
    overlay({NAME: raw_entry(repo_id="team/w", revision=COMMIT, sha256=sha256, size=len(data))})
    with FileServer(tmp_path / "served") as server:
        server.add(PLACE, data)
        monkeypatch.setenv("MNV2ZOO_WEIGHTS_URL", server.url + "/{repo_id}/{filename}")
        yield server


@pytest.fixture(params=["process", "here"])
def client(request):
    """Both ways to fetch: in a process of its own, and in this one, which a client factory of one's own demands."""
    if request.param == "here":
        client = type(huggingface_hub.get_session())
        huggingface_hub.set_client_factory(lambda: client(follow_redirects=True, timeout=10))
        yield request.param
        module = sys.modules[huggingface_hub.get_session.__module__]
        huggingface_hub.set_client_factory(module.default_client_factory)
    else:
        yield request.param


def left_over(tmp_path):
    """Files in the cache other than locks."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.usefixtures("client")
def test_a_file_server_is_enough(server, hub, data):
    path = weights.fetch(NAME)
    assert path.read_bytes() == data
    assert server.requests == [f"/{PLACE}"]
    assert hub.requests == []
    weights.load(NAME)
    assert len(server.requests) == 1, "the second load takes the cached file"


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/{repo_id}/{filename}", "/team/w/model.safetensors"),
        ("/api/{repo_id}/resolve/{revision}/{filename}", f"/api/team/w/resolve/{COMMIT}/model.safetensors"),
        ("/{sha256}", None),
    ],
)
def test_the_address_of_a_file_is_filled_in(server, data, monkeypatch, template, path):
    path = path or f"/{hashlib.sha256(data).hexdigest()}"
    server.add(path[1:], data)
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_URL", server.url + template)
    assert weights.fetch(NAME).read_bytes() == data
    assert server.requests == [path]


def test_characters_of_names_are_percent_encoded():
    file = HubFile("x", "team/w", "a b/ü#1?.safetensors", None)
    url = file_server.address("https://h/{repo_id}/{revision}/{filename}", file, Record(None, "0" * 64, 1))
    assert url == "https://h/team/w/main/a%20b/%C3%BC%231%3F.safetensors"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("https://files.example/weights", "the same URL for every file"),
        ("https://files.example/{repo_id}/{revision}", "the same URL for every file"),
        ("https://files.example/{repo}/{filename}", "the unknown field {repo}"),
        ("https://files.example/{}/{filename}", "the unknown field {}"),
        ("https://files.example/{filename", "expected '}' before end of string"),
        ("ftp://files.example/{filename}", "another kind of URL"),
        ("files.example/{filename}", "another kind of URL"),
        ("file:///srv/{filename}", "another kind of URL"),
        ("https:///{filename}", "another kind of URL"),
        ("https://[{filename}", "Invalid IPv6 URL"),
    ],
)
def test_a_template_that_addresses_no_file_is_an_error(server, hub, monkeypatch, template, found):
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_URL", template)
    with pytest.raises(weights.WeightsError) as raised:
        weights.fetch(NAME)
    assert (raised.value.found, raised.value.where) == (found, "MNV2ZOO_WEIGHTS_URL")
    assert server.requests == hub.requests == []


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (lambda data: data[:-1] + b"\1", "wrong hash"),
        (lambda data: data[:-1], "wrong size"),
        (lambda data: data + b"\0", "wrong size"),
        (lambda data: b"<html>Sign in</html>", "wrong size"),
        (lambda data: b"", "wrong size"),
    ],
    ids=["a byte", "short", "long", "a page", "empty"],
)
def test_other_bytes_are_refused_and_not_kept(server, data, tmp_path, bad, problem):
    server.add(PLACE, bad(data))
    with pytest.raises(weights.IntegrityError) as raised:
        weights.load(NAME)
    assert (raised.value.problem, raised.value.where) == (problem, f"{server.url}/{PLACE}")
    assert left_over(tmp_path) == []
    server.add(PLACE, data)
    assert weights.fetch(NAME).read_bytes() == data


@pytest.mark.usefixtures("client")
def test_a_transfer_that_is_cut_once_is_done_again(server, data):
    cuts = iter([True])
    server.trick = lambda request: next(cuts, False) and request.send_whole(data[:5000], len(data))
    assert weights.fetch(NAME).read_bytes() == data
    assert len(server.requests) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("way", ["cut", "drip", "hang"])
def test_a_server_that_never_sends_the_file_is_left_in_time(server, data, tmp_path, monkeypatch, way):
    tricks = {
        "cut": lambda request: request.send_whole(data[:5000], len(data)),
        "drip": lambda request: request.drip(data),
        "hang": lambda request: bool(time.sleep(30)) or True,
    }
    server.trick = tricks[way]
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", "3")
    with pytest.raises(weights.WeightsUnavailableError, match="MNV2ZOO_DOWNLOAD_TIMEOUT") as raised:
        weights.load(NAME)
    assert raised.value.where == f"{server.url}/{PLACE}"
    server.trick = None
    monkeypatch.delenv("MNV2ZOO_DOWNLOAD_TIMEOUT")
    assert weights.fetch(NAME).read_bytes() == data
    assert len(left_over(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("client")
def test_a_body_without_end_is_bounded(server, tmp_path, monkeypatch):
    def flood(request):
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(bytes(2**20))

    monkeypatch.setattr("mnv2zoo.weights.hub.SPARE_BYTES", 2**20)
    server.trick = flood
    with pytest.raises(weights.WeightsError):
        weights.load(NAME)
    assert left_over(tmp_path) == []


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("status", "fix"), [(403, "S3 also returns 403"), (401, "USER:PASSWORD"), (500, "the server has a problem")]
)
def test_a_refusal_names_the_server_and_what_to_do(server, hub, status, fix):
    server.trick = lambda request: request.send_error(status) or True
    with pytest.raises(weights.WeightsUnavailableError) as raised:
        weights.load(NAME)
    assert raised.value.found.startswith(str(status))
    assert raised.value.where == f"{server.url}/{PLACE}"
    assert fix in raised.value.fix
    assert hub.requests == []


def test_what_the_server_has_not_is_asked_of_the_hub(server, hub, data):
    (server.folder / PLACE).unlink()
    with (
        pytest.warns(UserWarning, match="does not exist \\(404\\), so it is downloaded from the Hub"),
        pytest.raises(weights.WeightsUnavailableError) as raised,
    ):
        weights.load(NAME)
    assert raised.value.found.startswith(f"{server.url}/{PLACE} does not exist (404); on the Hub: ")
    assert "MNV2ZOO_WEIGHTS_URL" in raised.value.fix
    hub.add("team/w", "model.safetensors", data, revision=COMMIT)
    with pytest.warns(UserWarning, match="so it is downloaded from the Hub"):
        assert weights.fetch(NAME).read_bytes() == data


@pytest.mark.parametrize("code", ["EntryNotFound", "RepoNotFound", "RevisionNotFound"])
def test_a_copy_of_the_hub_is_a_file_server_too(server, hub, monkeypatch, data, code):
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_URL", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    hub.add("team/w", "model.safetensors", data, revision=COMMIT)
    assert weights.fetch(NAME).read_bytes() == data
    assert server.requests == []
    weights.fetch(NAME).unlink()
    hub.fail(status=404, times=1, error_code=code)
    with pytest.warns(UserWarning, match="so it is downloaded from the Hub"):
        assert weights.fetch(NAME).read_bytes() == data


@pytest.mark.usefixtures("client")
def test_a_proxy_is_used(server, data, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_URL", "http://files.example/{repo_id}/{filename}")
    server.trick = lambda request: request.send_whole(data)
    huggingface_hub.close_session()  # a client reads the environment when it is made
    assert weights.fetch(NAME).read_bytes() == data
    assert server.requests == [f"http://files.example/{PLACE}"]
    huggingface_hub.close_session()


def test_a_server_that_is_not_there_is_an_error(hub, overlay, data, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    overlay({NAME: raw_entry(repo_id="team/w", sha256=hashlib.sha256(data).hexdigest())})
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_URL", f"http://127.0.0.1:{port}/{{filename}}")
    with pytest.raises(weights.WeightsUnavailableError, match="cannot be reached") as raised:
        weights.load(NAME)
    assert "MNV2ZOO_WEIGHTS_URL" in raised.value.fix


def test_a_file_without_a_commit_or_a_size_lies_under_its_hash(server, overlay, data, tmp_path):
    sha256 = hashlib.sha256(data).hexdigest()
    overlay({NAME: raw_entry(repo_id="team/w", sha256=sha256)})
    path = weights.fetch(NAME)
    assert path == tmp_path / "cache/models--team--w/snapshots" / sha256 / "model.safetensors"
    assert weights.fetch(NAME) == store.local_file(weights.entry(NAME)) == path
    assert len(server.requests) == 1
    (revision,) = next(iter(huggingface_hub.scan_cache_dir(tmp_path / "cache").repos)).revisions
    assert (revision.commit_hash, revision.size_on_disk) == (sha256, len(data))


def test_weights_without_a_hash_are_not_asked_of_the_server(server, hub, overlay, data):
    overlay({NAME: raw_entry(repo_id="team/w")})
    hub.fail(status=404)
    with pytest.raises(weights.UnpinnedWeightsError) as raised:
        weights.load(NAME)
    assert "cannot be downloaded from a plain file server" in raised.value.problem
    assert "mnv2zoo weights pin" in raised.value.fix
    assert server.requests == []


def test_the_hub_may_tell_the_hash_of_what_the_server_has(server, hub, overlay, data):
    overlay({NAME: raw_entry(repo_id="team/w")})
    hub.add("team/w", "model.safetensors", data)
    with pytest.warns(UserWarning, match="trusted on first use"):
        assert weights.fetch(NAME).read_bytes() == data
    assert len(server.requests) == 1
    assert not [request for request in hub.requests if "/cdn/" in request.path]


@pytest.mark.parametrize("bad", ["byte", "link", "directory", "fifo"])
def test_a_bad_copy_in_the_cache_is_replaced(server, data, tmp_path, bad):
    path = weights.fetch(NAME)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"somebody else's")
    path.unlink()
    if bad == "byte":
        path.write_bytes(data[:-1] + b"\1")
    elif bad == "link":
        path.symlink_to(elsewhere)
    elif bad == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    weights.load(NAME)
    assert (path.read_bytes(), path.is_symlink()) == (data, False)
    assert elsewhere.read_bytes() == b"somebody else's"


def test_a_user_and_a_password_go_to_the_server_and_into_no_message(server, data, monkeypatch):
    server.password = "me:s3cret"
    address = f"http://me:s3cret@{server.address}/{{repo_id}}/{{filename}}?sig=s4cret"
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_URL", address)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    server.trick = lambda request: request.send_error(403) or True
    with pytest.raises(weights.WeightsUnavailableError) as raised:
        weights.load(NAME)
    told = f"{raised.value!r} {raised.value} {raised.value.__cause__!r}"
    assert "s3cret" not in told
    assert "s4cret" not in told
    server.trick = None
    assert weights.fetch(NAME).read_bytes() == data
    assert "hf_token" not in str(server.headers)


def test_nothing_is_asked_offline(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(weights.WeightsUnavailableError, match="HF_HUB_OFFLINE"):
        weights.load(NAME)
    assert server.requests == []


def test_the_mirror_folder_comes_first(server, data, tmp_path, monkeypatch):
    copy = tmp_path / "mirror" / PLACE
    copy.parent.mkdir(parents=True)
    copy.write_bytes(data)
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_DIR", str(tmp_path / "mirror"))
    assert weights.fetch(NAME) == copy
    assert server.requests == []


@pytest.mark.slow
def test_two_processes_at_once_fetch_once(server, hub, data, tmp_path):
    overlay = {"schema_version": 1, "weights": {NAME: weights.entry(NAME).to_json()}}
    (tmp_path / "index.json").write_text(json.dumps(overlay))
    server.trick = lambda request: bool(time.sleep(2))  # so that both are there before one is done
    env = hub_env(hub, tmp_path) | {
        "MNV2ZOO_WEIGHTS_INDEX": str(tmp_path / "index.json"),
        "MNV2ZOO_WEIGHTS_URL": server.url + "/{repo_id}/{filename}",
    }
    program = f"from mnv2zoo import weights; weights.fetch({NAME!r}); print(weights.fetch({NAME!r}))"
    both = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (path,) = paths
    assert hashlib.sha256(data).hexdigest() == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert len(server.requests) == 1
