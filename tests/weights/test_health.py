"""What the checks say of the Hub, the folders and the index: on a real server, real folders and a real signature."""

import json
import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import huggingface_hub
import pytest

from mnv2zoo.weights import health, index, signature
from tests.conftest import raw_entry
from tests.file_server import FileServer
from tests.hub_server import HubServer
from tests.weights.test_signature import write_keys

constants = huggingface_hub.constants


def found():
    return {finding.check: finding for finding in health.findings()}


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_aTokenThatMustNotBeSeen")


def test_all_is_well_here(hub, token):
    checks = found()
    assert {one.status for one in checks.values()} == {"ok"}
    assert checks["Hub"].found == f"{hub.endpoint} answers"
    assert checks["token"].found == "valid"
    assert "hf_aTokenThatMustNotBeSeen" not in str(checks)
    assert checks["bundled weights"].found == "2 verified"
    assert [request.path for request in hub.requests] == ["/api/whoami-v2"]


def test_no_token_is_all_right(hub):
    assert health.huggingface_hub.get_token() is None
    checks = {finding.check: finding for finding in health.hub()}
    assert {one.status for one in checks.values()} == {"ok"}
    assert checks["token"].found.startswith("none")


@pytest.mark.parametrize("status", [401, 403])
def test_an_invalid_token_is_broken(hub, token, status):
    hub.fail(status=status, match="whoami")
    checks = {finding.check: finding for finding in health.hub()}
    assert checks["Hub"].status == "ok"
    assert (checks["token"].status, checks["token"].found) == ("broken", f"not valid: the Hub returned {status}")
    assert "HF_TOKEN" in checks["token"].fix


def test_a_hub_that_does_not_know_users_cannot_check_the_token(hub, token):
    hub.fail(status=404, match="whoami")
    checks = {finding.check: finding for finding in health.hub()}
    assert (checks["Hub"].status, checks["token"].status) == ("ok", "note")


def test_a_hub_with_trouble_is_broken(hub):
    hub.fail(status=503, match="whoami")
    (finding,) = health.hub()
    assert finding.status == "broken"
    assert "503" in finding.found


def test_a_hub_that_is_not_there_is_broken(hub, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    (finding,) = health.hub()
    assert finding.status == "broken"
    assert f"127.0.0.1:{port} cannot be reached" in finding.found
    assert "firewall" in finding.fix


def test_a_certificate_that_nobody_knows_is_broken(hub, tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    command += f" -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HubServer() as impostor:
        for server in impostor._servers:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        monkeypatch.setattr(constants, "ENDPOINT", impostor.endpoint.replace("http://127.0.0.1", "https://localhost"))
        (finding,) = health.hub()
        assert finding.status == "broken"
        assert "SSL_CERT_FILE" in finding.fix
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert next(iter(health.hub())).status == "ok"
        assert health.certificates().found == f"SSL_CERT_FILE={certificate}"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "no.pem"))
    assert health.certificates().status == "broken"


def test_nothing_is_asked_offline(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with FileServer(tmp_path / "served") as server:
        monkeypatch.setenv("MNV2ZOO_WEIGHTS_URL", server.url + "/{filename}")
        checks = found()
        assert {name for name, one in checks.items() if one.status == "note"} == {"Hub", "file server"}
        assert server.requests == hub.requests == []


@pytest.mark.parametrize(
    ("proxies", "expected"),
    [
        ({}, "none"),
        ({"http_proxy": "http://me:s3cret@proxy.example:3128"}, "http://***@proxy.example:3128"),
        (
            {"http_proxy": "http://proxy.example:3128", "no_proxy": "127.0.0.1"},
            "none for 127.0.0.1, because of NO_PROXY",
        ),
    ],
)
def test_the_proxy_is_named_without_its_password(hub, monkeypatch, proxies, expected):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    assert health.proxy().found == expected


def test_a_cache_that_cannot_be_written_is_broken():
    # Linux lets nobody write there, not even root.
    (finding,) = health.folder("cache", Path("/sys/kernel/cache"), "HF_HOME")
    assert finding.status == "broken"
    assert finding.found.startswith("cannot write to /sys/kernel: ")
    assert "HF_HOME" in finding.fix


def test_a_cache_in_the_place_of_a_file_is_broken(tmp_path):
    (tmp_path / "file").touch()
    (finding,) = health.folder("cache", tmp_path / "file", "HF_HOME")
    assert finding.status == "broken"


def test_a_check_of_a_folder_leaves_nothing_behind(tmp_path):
    assert [one.status for one in health.folder("cache", tmp_path / "a/b", "HF_HOME")] == ["ok", "ok"]
    assert [*tmp_path.iterdir()] == []


def test_a_disk_with_too_little_space_is_broken(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    writable, space = health.folder("cache", tmp_path, "HF_HOME", needed=free * 2)
    assert (writable.status, space.status) == ("ok", "broken")
    assert "MB free" in space.found


def test_a_homeless_cache_is_broken():
    (finding,) = health.folder("cache", Path("~nobody/x"), "HF_HOME")
    assert "no home folder" in finding.found


def test_an_index_is_checked_with_its_signature(tmp_path, monkeypatch):
    keys = write_keys(tmp_path / "keys")
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"schema_version": 1, "weights": {"mnv2zoo_100.a": raw_entry()}}))
    assert health.index_file(path).found.endswith("1 entries, 0 pinned; signatures are not checked")
    monkeypatch.setenv("MNV2ZOO_INDEX_PUBKEY", str(keys / "key.pub"))
    assert health.index_file(path).status == "broken"
    index.sign(path, keys / "key.pem", lambda: "")
    assert health.index_file(path).status == "ok"
    path.write_text(path.read_text().replace("zoo/weights", "zoo/w3ights"))
    finding = health.index_file(path)
    assert finding.status == "broken"
    assert "signature does not match" in finding.found
    assert signature.path_of(path).exists()


def test_settings_that_make_no_sense_are_broken(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", "soon")
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_DIR", str(tmp_path / "no"))
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_URL", "https://files.example/")
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home/first_use.json").write_text("{")
    checks = found()
    broken = {name for name, one in checks.items() if one.status == "broken"}
    assert broken == {"time limit", "mirror", "file server", "record of first use"}
    assert all(checks[name].fix for name in broken)


def test_a_file_server_is_asked_for_the_first_pinned_weights(hub, monkeypatch, tmp_path):
    with FileServer(tmp_path / "served") as server:
        template = server.url + "/{repo_id}/{filename}"
        missing = health.plain_server(template)
        assert (missing.status, "404" in missing.found) == ("note", True)
        server.add("timm/mobilenetv2_100.ra_in1k/model.safetensors", b"anything")
        assert health.plain_server(template).found == "has mnv2zoo_100.ra_in1k"
        server.password = "me:s3cret"
        refused = health.plain_server(template)
        assert (refused.status, "401" in refused.found) == ("broken", True)
        assert health.plain_server(template.replace("http://", "http://me:s3cret@")).status == "ok"
