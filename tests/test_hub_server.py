"""The loopback Hub, proved against the real client in processes of its own."""

import hashlib
import http.client
import json
import random
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from tests.hub_server import HubServer, hub_env

REPO = "someone/mobilenet"
WEIGHTS = random.Random(0).randbytes(100_000)
CONFIG = b'{"architecture": "mnv2zoo_100"}'
DOWNLOAD = """
import huggingface_hub, json, sys
print(json.dumps(huggingface_hub.hf_hub_download(*sys.argv[1:3], revision=(sys.argv[3:] or [None])[0])))
"""
ERROR = """
import huggingface_hub, json, sys
try:
    huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(*sys.argv[1:3], revision=sys.argv[3]))
except Exception as error:
    response = getattr(error, "response", None)
    print(json.dumps([[kind.__name__ for kind in type(error).__mro__], response.status_code]))
"""


@pytest.fixture
def hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture
def client(hub, tmp_path):
    """Runs a program with the real client and returns the JSON it prints."""

    def run(program, *args, **env):
        environment = {**hub_env(hub, tmp_path), **env}
        done = subprocess.run(
            [sys.executable, "-c", program, *args], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def asked(hub):
    return [(method, path) for method, path, _ in hub.requests]


@pytest.mark.parametrize("xet", [{}, {"HF_HUB_DISABLE_XET": "1"}], ids=["xet allowed", "xet disabled"])
def test_an_lfs_file_comes_through_the_redirect_with_its_bytes(hub, client, tmp_path, xet):
    commit = hub.add(REPO, "model.safetensors", WEIGHTS)
    path = client(DOWNLOAD, REPO, "model.safetensors", **xet)
    assert path == str(tmp_path / f"hf_home/hub/models--someone--mobilenet/snapshots/{commit}/model.safetensors")
    assert Path(path).read_bytes() == WEIGHTS
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert asked(hub) == [
        ("HEAD", f"/{REPO}/resolve/main/model.safetensors"),
        ("GET", f"/cdn/{REPO}/{sha256}/model.safetensors"),
    ]


def test_a_small_file_is_served_by_the_hub_itself_under_its_git_blob_hash(hub, client):
    hub.add(REPO, "nested/config.json", CONFIG, lfs=False)
    path = client(DOWNLOAD, REPO, "nested/config.json")
    assert Path(path).read_bytes() == CONFIG
    assert [method for method, _ in asked(hub)] == ["HEAD", "GET"]
    assert not any("/cdn/" in path for _, path in asked(hub))


def test_a_cached_commit_needs_no_request_and_a_cached_branch_one(hub, client):
    commit = hub.add(REPO, "model.safetensors", WEIGHTS)
    first = client(DOWNLOAD, REPO, "model.safetensors", commit)
    hub.clear()
    assert client(DOWNLOAD, REPO, "model.safetensors", commit) == first
    assert asked(hub) == []
    assert client(DOWNLOAD, REPO, "model.safetensors") == first
    assert asked(hub) == [("HEAD", f"/{REPO}/resolve/main/model.safetensors")]


def test_main_is_the_last_commit_and_earlier_ones_stay(hub, client):
    old = hub.add(REPO, "model.safetensors", b"old")
    new = hub.add(REPO, "model.safetensors", b"new")
    assert old != new
    assert [len(commit) for commit in (old, new)] == [40, 40]
    for revision, content in ((old, b"old"), ("main", b"new"), (new, b"new")):
        assert Path(client(DOWNLOAD, REPO, "model.safetensors", revision)).read_bytes() == content


def test_commits_are_the_same_each_time():
    with HubServer() as one, HubServer() as other:
        assert one.add(REPO, "a", b"1") == other.add(REPO, "a", b"1")
        assert one.add(REPO, "b", b"2", revision="b" * 40) == "b" * 40


def test_metadata_names_commit_hash_size_and_location(hub, client):
    commit = hub.add(REPO, "model.safetensors", WEIGHTS)
    program = """
import huggingface_hub, json, sys
found = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(*sys.argv[1:]))
print(json.dumps([found.commit_hash, found.etag, found.size, found.location, found.xet_file_data]))
"""
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    location = f"{hub.cdn}/cdn/{REPO}/{sha256}/model.safetensors"
    assert client(program, REPO, "model.safetensors") == [commit, sha256, len(WEIGHTS), location, None]


def test_model_info_lists_the_files_of_a_commit(hub, client):
    commit = hub.add(REPO, "config.json", CONFIG, lfs=False)
    hub.add(REPO, "model.safetensors", WEIGHTS, revision=commit)
    program = """
import huggingface_hub, json, sys
info = huggingface_hub.HfApi().model_info(sys.argv[1], revision=sys.argv[2] or None, files_metadata=True)
files = {file.rfilename: [file.size, file.lfs and file.lfs.sha256] for file in info.siblings}
plain = [file.size for file in huggingface_hub.HfApi().model_info(sys.argv[1]).siblings]
print(json.dumps([info.id, info.sha, files, plain]))
"""
    files = {
        "config.json": [len(CONFIG), None],
        "model.safetensors": [len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()],
    }
    for revision in ("", "main", commit):
        assert client(program, REPO, revision) == [REPO, commit, files, [None, None]]


def test_the_cache_finds_a_file_and_remembers_that_one_is_missing(hub, client):
    hub.add(REPO, "config.json", CONFIG, lfs=False)
    path = client(DOWNLOAD, REPO, "config.json")
    program = """
import huggingface_hub, json, sys
try:
    huggingface_hub.hf_hub_download(sys.argv[1], "absent.bin")
except huggingface_hub.errors.EntryNotFoundError:
    found = [huggingface_hub.try_to_load_from_cache(sys.argv[1], name) for name in ("config.json", "absent.bin")]
    print(json.dumps([found[0], found[1] is huggingface_hub.file_download._CACHED_NO_EXIST]))
"""
    assert client(program, REPO) == [path, True]


@pytest.mark.parametrize(
    ("repo", "filename", "revision", "error", "status"),
    [
        ("no/such", "model.safetensors", "main", "RepositoryNotFoundError", 404),
        (REPO, "model.safetensors", "0" * 40, "RevisionNotFoundError", 404),
        (REPO, "absent.bin", "main", "EntryNotFoundError", 404),
    ],
)
def test_what_is_missing_has_its_own_error(hub, client, repo, filename, revision, error, status):
    hub.add(REPO, "model.safetensors", WEIGHTS)
    kinds, found = client(ERROR, repo, filename, revision)
    assert error in kinds
    assert found == status


@pytest.mark.parametrize(
    ("status", "error_code", "error"),
    [
        (401, "GatedRepo", "GatedRepoError"),
        (403, None, "HfHubHTTPError"),
        (429, None, "HfHubHTTPError"),
        (500, None, "HfHubHTTPError"),
        (503, None, "HfHubHTTPError"),
    ],
)
def test_a_status_can_be_forced(hub, client, status, error_code, error):
    hub.add(REPO, "model.safetensors", WEIGHTS)
    hub.fail(status, error_code=error_code)
    kinds, found = client(ERROR, REPO, "model.safetensors", "main")
    assert kinds[0] == error
    assert found == status


def test_a_fault_is_spent_after_its_times_and_elsewhere_has_no_effect(hub, client):
    hub.add(REPO, "model.safetensors", WEIGHTS)
    hub.fail(503, match="/other/")
    hub.fail(429, times=1, match="/cdn/")  # the client tries again after a 429
    client(DOWNLOAD, REPO, "model.safetensors")
    assert [method for method, _ in asked(hub)] == ["HEAD", "GET", "GET"]


@pytest.mark.skipif(
    int(huggingface_hub.__version__.split(".")[0]) < 2, reason="clients before 2.0 begin a cut download anew"
)
def test_a_cut_download_is_resumed_with_a_range(hub, client):
    chunk = 10 * 1024 * 1024  # the client keeps whole chunks of this size
    data = random.Random(1).randbytes(chunk + 5000)
    hub.add(REPO, "model.safetensors", data)
    hub.fail(cut_after=chunk + 1000, times=1)
    path = client(DOWNLOAD, REPO, "model.safetensors")
    assert Path(path).read_bytes() == data
    assert [request.headers.get("range") for request in hub.requests] == [None, None, f"bytes={chunk}-"]


def test_wrong_bytes_come_under_the_right_headers_until_healed(hub, client, tmp_path):
    hub.add(REPO, "model.safetensors", WEIGHTS)
    wrong = WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])
    hub.fail(wrong_bytes=wrong)
    assert Path(client(DOWNLOAD, REPO, "model.safetensors")).read_bytes() == wrong
    hub.heal()
    elsewhere = str(tmp_path / "elsewhere")
    assert Path(client(DOWNLOAD, REPO, "model.safetensors", HF_HOME=elsewhere)).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, b""),
    ],
)
def test_ranges(hub, wanted, status, content):
    hub.add(REPO, "digits", b"0123456789", lfs=False)
    connection = http.client.HTTPConnection(hub.endpoint.removeprefix("http://"))
    connection.request("GET", f"/{REPO}/resolve/main/digits", headers={"Range": wanted})
    response = connection.getresponse()
    assert (response.status, response.read()) == (status, content)
    connection.close()


def test_the_environment_of_a_client_is_free_of_the_callers_settings(hub, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "MNV2ZOO_WEIGHTS_DIR", "https_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "1")
    env = hub_env(hub, tmp_path)
    assert not {"HF_TOKEN", "HF_HUB_OFFLINE", "MNV2ZOO_WEIGHTS_DIR", "https_proxy", "HTTP_PROXY"} & env.keys()
    assert env["HF_ENDPOINT"] == hub.endpoint


def test_a_hub_answers_only_while_it_serves():
    hub = HubServer()
    address = "127.0.0.1", int(hub.endpoint.rpartition(":")[2])

    def refused():
        with socket.socket() as client:
            return client.connect_ex(address) != 0

    assert refused()
    with hub:
        assert not refused()
    assert refused()
