"""Reports about weights: failed downloads, of which the last cause is named."""

import datetime
import hashlib
import http.server
import socket
import ssl
import subprocess
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mnv2zoo import weights
from mnv2zoo.weights import index
from tests.conftest import as_bytes, random_state_dict, raw_entry
from tests.hub_server import HubServer

NAME = "mnv2zoo_035.test"


@pytest.fixture(scope="module")
def data():
    return as_bytes(random_state_dict("mnv2zoo_035"))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def pinned(hub, overlay, data):
    """A Hub with the weights NAME, which an index pins."""
    commit = hub.add("zoo/w", "model.safetensors", data)
    overlay({NAME: raw_entry(repo_id="zoo/w", revision=commit, sha256=sha256(data), size=len(data))})
    return hub


# Failed downloads: the last cause is named, with the fix that belongs to it, and nothing else is printed


@pytest.fixture
def failure(pinned, monkeypatch, capfd):
    """Loads the weights from the Hub at an address, and returns the error, after checking what else was printed."""

    def fail(endpoint=None, seconds=15, **environ):
        monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", "60")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        if endpoint:
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        start = time.monotonic()
        with pytest.raises(weights.WeightsUnavailableError) as error:
            weights.load(NAME)
        assert time.monotonic() - start < seconds
        printed = capfd.readouterr()
        assert printed.err == printed.out == ""
        found = error.value
        assert len(found.found) < 400
        for secret in (TOKEN, "secretword"):
            assert secret not in f"{found!r} {found} {found.expected} {found.where} {found.fix}"
        return found

    return fail


TOKEN = "hf_aTokenThatNobodyMaySee"


def test_a_name_that_cannot_be_resolved_fails_in_seconds_and_is_named(failure):
    error = failure("http://no-such-host.invalid", seconds=20)
    assert "no-such-host.invalid cannot be resolved" in error.found
    assert "HF_ENDPOINT" in error.fix


def test_a_name_that_cannot_be_resolved_ends_a_first_use_in_seconds_too(hub, overlay, monkeypatch, capfd):
    overlay({NAME: raw_entry(repo_id="zoo/w")})
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://no-such-host.invalid")
    start = time.monotonic()
    with pytest.raises(weights.WeightsUnavailableError) as error:
        weights.load(NAME)
    assert time.monotonic() - start < 20
    assert "no-such-host.invalid" in error.value.found
    assert capfd.readouterr().err == ""


def test_a_proxy_that_cannot_be_resolved_is_named_in_place_of_the_hub(failure):
    error = failure(
        "http://hub.invalid", HTTP_PROXY="http://user:secretword@no-such-proxy.invalid:3128", NO_PROXY="", no_proxy=""
    )
    assert "proxy no-such-proxy.invalid" in error.found
    assert "HTTPS_PROXY" in error.fix


@pytest.mark.slow
def test_nobody_listening_is_named_in_seconds(failure):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    error = failure(f"http://user:secretword@127.0.0.1:{port}")
    assert f"127.0.0.1:{port} cannot be reached" in error.found
    assert f"127.0.0.1:{port}" in error.fix


@pytest.fixture
def certificate(tmp_path):
    """A certificate for localhost that nobody but its maker vouches for, and its key."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(private.private_bytes(pem, *plain))
    certificate.write_bytes(made.public_bytes(pem))
    return certificate, key


@pytest.fixture
def secure_hub(certificate, data):
    """A Hub that speaks TLS with that certificate, and its address."""
    with HubServer() as hub:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server = hub._servers[0]
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None  # that clients refuse the certificate
        hub.endpoint = hub.endpoint.replace("http://127.0.0.1", "https://localhost")
        yield hub


def test_a_certificate_of_an_unknown_authority_is_named_and_can_be_given(
    failure, secure_hub, certificate, data, monkeypatch
):
    error = failure(secure_hub.endpoint)
    assert "CERTIFICATE_VERIFY_FAILED" in error.found
    assert "SSL_CERT_FILE" in error.fix
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    commit = index.entry(NAME).revision
    secure_hub.add("zoo/w", "model.safetensors", data, revision=commit)
    assert weights.fetch(NAME).read_bytes() == data


def test_the_wrong_scheme_is_named(failure, hub):
    error = failure(hub.endpoint.replace("http://", "https://"))
    assert "SSL" in error.found
    assert "https://" in error.fix


@pytest.fixture
def proxy():
    """The address of a proxy that wants a password, for HTTPS tunnels and plain HTTP alike."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(407)
            self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_CONNECT = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_is_named(failure, proxy, scheme):
    address = f"http://user:secretword@{proxy}"
    error = failure(f"{scheme}://hub.invalid", HTTPS_PROXY=address, HTTP_PROXY=address, NO_PROXY="", no_proxy="")
    assert "407" in error.found
    assert "USER:PASSWORD" in error.fix


@pytest.mark.parametrize(
    ("fault", "found", "fix"),
    [
        ({"status": 401}, "401", "HF_TOKEN"),
        ({"status": 401, "error_code": "RepoNotFound"}, "RepoNotFound", "private"),
        ({"status": 403, "error_code": "GatedRepo"}, "GatedRepo", "conditions"),
        ({"status": 403}, "403", "access to zoo/w"),
        ({"status": 404, "error_code": "RepoNotFound"}, "RepoNotFound", "name zoo/w"),
        ({"status": 404, "error_code": "RevisionNotFound"}, "RevisionNotFound", "revision"),
        ({"status": 404, "error_code": "EntryNotFound"}, "EntryNotFound", "file name"),
        ({"status": 404, "match": "/cdn/"}, "404", "file name"),
    ],
)
def test_what_the_hub_refuses_is_named(failure, hub, fault, found, fix):
    hub.fail(**fault)
    error = failure()
    assert found in error.found
    assert fix in error.fix


def test_a_repository_that_is_not_there_is_named(hub, overlay):
    overlay({NAME: raw_entry(repo_id="zoo/absent", revision="0" * 40, sha256="0" * 64, size=1)})
    with pytest.raises(weights.WeightsUnavailableError) as error:
        weights.load(NAME)
    assert "404" in error.value.found
    assert "zoo/absent" in error.value.fix


@pytest.mark.slow
def test_a_hub_that_is_asked_too_often_says_so(failure, hub, monkeypatch):
    hub.fail(status=429, retry_after=0)
    error = failure(seconds=40)
    assert "429" in error.found
    assert "HF_TOKEN" in error.fix


def test_a_hub_that_does_not_answer_in_time_says_so(pinned, hub, monkeypatch, capfd):
    hub.fail(status=503, retry_after=3600)
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", "2")
    with pytest.raises(weights.WeightsUnavailableError) as error:
        weights.load(NAME)
    assert "MNV2ZOO_DOWNLOAD_TIMEOUT" in error.value.fix
    assert capfd.readouterr().err == ""


def test_a_home_of_the_hub_that_is_a_file_is_one_clear_error(failure, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file/hub"))
    error = failure(HF_HOME=str(tmp_path / "file"), HF_TOKEN="")
    assert "NotADirectoryError" in error.found
    assert f"{tmp_path}/file/hub" in error.fix
    assert "HF_HOME" in error.fix


def test_a_token_that_cannot_be_read_does_not_hide_the_failure(failure, hub, tmp_path):
    (tmp_path / "token").mkdir()
    error = failure(HF_TOKEN_PATH=str(tmp_path / "token"), HF_TOKEN="")
    assert "IsADirectoryError" in error.found


def test_a_token_that_no_header_can_hold_is_not_shown(failure):
    error = failure(HF_TOKEN="secretword\x7f\u00e9")
    assert "unavailable" not in error.problem
    assert error.found


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("this user cannot mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.environment
def test_a_full_disk_is_named(failure, small_disk, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(small_disk / "hub"))
    error = failure()
    assert "No space left" in error.found
    assert str(small_disk) in error.fix
    assert not [*small_disk.rglob("*.incomplete")]
