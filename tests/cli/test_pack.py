"""`weights pack`, and its `--push` to a Hub on loopback by the real client."""

import base64
import hashlib
import json
import threading
from http.server import ThreadingHTTPServer

import huggingface_hub
import pytest
import timm
import torch

from mnv2zoo import weights
from tests.hub_server import Request, _Handler
from tests.model_dir.test_packaging import IMAGES, NAME, change, make_run, reference

REPO = "zoo/flowers"
# The client's own, while it uploads without Xet; only tests see it.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
OPTIONS = ("--name", NAME, "--license", "CC-BY-4.0")


class UploadHandler(_Handler):
    """The Hub's protocol for writing, as far as one commit of small files needs it, on top of that for reading.

    `hub` keeps what is committed; `stored` has the bytes of large files by their hash, and `private` the
    private repositories. Writing needs a token.
    """

    stored: dict[str, bytes]
    private: set[str]

    def do_POST(self):
        self.hub.requests.append(Request(self.command, self.path, self.headers))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if fault := self.hub.take_fault(self.path, of_body=False):
            return self._answer({"error": "no"}, fault.status)
        if self.headers.get("Authorization") != "Bearer hf_writes":
            return self._answer({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            return self._preupload([file["path"] for file in json.loads(body)["files"]])
        if self.path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"http://127.0.0.1:{self.server.server_port}/lfs/{item['oid']}"}}
            return self._answer({"objects": objects})
        if self.path.endswith("/commit/main"):
            return self._commit([json.loads(line) for line in body.splitlines()])
        self._answer({}, 404)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(body).hexdigest() == self.path.removeprefix("/lfs/")
        self.stored[self.path.removeprefix("/lfs/")] = body
        self._answer({})

    def _create(self, wanted):
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"http://127.0.0.1:{self.server.server_port}/{repo_id}"}
        if repo_id in self.hub._repos:
            return self._answer(url | {"error": "You already created this model repo"}, 409)
        if wanted.get("visibility") == "private":
            self.private.add(repo_id)
        self.hub.add(repo_id, ".gitattributes", b"*.safetensors filter=lfs", lfs=False)
        self._answer(url)

    def _preupload(self, names):
        _, there = self.hub.commit(self.path.removeprefix("/api/models/").removesuffix("/preupload/main"))
        files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
        for file in files:
            if file["path"].endswith(".safetensors"):
                file["uploadMode"] = "lfs"
            if found := there.get(file["path"]):  # so that the client leaves out what has not changed
                file["oid"] = found.sha256 if found.lfs else found.blob_id
        self._answer({"files": files})

    def _commit(self, lines):
        repo_id = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
        commit = hashlib.sha1(repr(lines).encode()).hexdigest()
        for line in lines:
            match line:
                case {"key": "file", "value": {"path": path, "content": content}}:
                    self.hub.add(repo_id, path, base64.b64decode(content), revision=commit, lfs=False)
                case {"key": "lfsFile", "value": {"path": path, "oid": oid}}:
                    self.hub.add(repo_id, path, self.stored[oid], revision=commit)
        self._answer({"success": True, "commitOid": commit, "commitUrl": f"http://127.0.0.1/{repo_id}/commit/{commit}"})

    def _model_info(self, repo_id, revision):
        commit, _ = self.hub.commit(repo_id, revision)
        self._answer({"id": repo_id, "sha": commit, "private": repo_id in self.private, "siblings": []})

    def _answer(self, document, status=200):
        body = json.dumps(document).encode()
        self.command = "GET"  # the reader's way of sending leaves out other bodies
        self._send(status, {"Content-Type": "application/json"}, body)


@pytest.fixture
def uploads(hub, monkeypatch):
    """The Hub, which can also be written to; gives its handler's class."""
    handler = type("Handler", (UploadHandler,), {"hub": hub, "stored": {}, "private": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(hub, "_repos", {})
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # Xet has a protocol of its own
    monkeypatch.setenv("HF_TOKEN", "hf_writes")
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def flowers(tmp_path):
    return make_run(tmp_path / "run")


def test_pack_prints_the_entry_and_what_to_do_next(run, flowers, tmp_path):
    done = run("weights", "pack", flowers, *OPTIONS, "--out", tmp_path / "package", "--description", "three flowers")
    assert done.status == 0
    assert json.loads(done.out) == json.loads((tmp_path / "package/index_entry.json").read_text())
    fields = json.loads(done.out)[NAME]
    assert (fields["bundled"], fields["description"]) == (f"{NAME}.safetensors", "three flowers")
    assert done.err.startswith(f"wrote {tmp_path / 'package'}\n")
    assert f"as {NAME}.safetensors" in done.err


def test_pack_names_the_repository_that_is_meant(run, flowers, hub):
    done = run("weights", "pack", flowers, *OPTIONS, "--repo-id", REPO)
    fields = json.loads(done.out)[NAME]
    assert (fields["repo_id"], fields["revision"], fields["filename"]) == (REPO, None, "model.safetensors")
    assert f"--push {REPO}" in done.err
    assert hub.requests == []


def test_pack_warns_where_a_name_would_build_another_network(run, tmp_path):
    folder = make_run(tmp_path / "run", pad_type="same")
    done = run("weights", "pack", folder, *OPTIONS)
    assert (done.status, json.loads(done.out)) == (0, {})
    (warning,) = (line for line in done.err.splitlines() if line.startswith("warning: "))
    assert "{'pad_type': 'same'}" in warning


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--push", REPO, "--repo-id", REPO], 2, "--repo-id"),
        (["--private"], 2, "--push"),
        (["--name", "mnv2zoo_036.flowers"], 2, "mnv2zoo_035"),
        (["--name", "mnv2zoo_050.flowers"], 1, "Use the name mnv2zoo_035.flowers"),
        (["--name", "mnv2zoo_035"], 1, "architecture.tag"),
        (["--license", ""], 1, "the name of a license"),
        (["--repo-id", "flowers"], 1, "owner/name"),
        (["--out", "/dev/null"], 1, "/dev/null"),
    ],
)
def test_a_failure_is_one_line(run, flowers, options, status, words):
    done = run("weights", "pack", flowers, *OPTIONS, *options)
    assert (done.status, done.out, len(done.errors)) == (status, "", 1)
    assert words in done.err


def test_what_is_no_run_is_one_line(run, tmp_path):
    done = run("weights", "pack", tmp_path / "nowhere", *OPTIONS)
    assert (done.status, len(done.errors)) == (1, 1)
    assert "mnv2zoo finetune" in done.err


def test_push_uploads_one_commit_that_the_entry_pins(run, flowers, uploads, hub, overlay):
    done = run("weights", "pack", flowers, *OPTIONS, "--push", REPO)
    assert done.status == 0, done.err
    entry = json.loads(done.out)
    assert entry == json.loads((flowers / "package/index_entry.json").read_text())
    commit, files = hub.commit(REPO)
    assert entry[NAME]["revision"] == commit
    assert set(files) == {".gitattributes", "model.safetensors", "config.json", "README.md"}
    assert files["model.safetensors"].sha256 == entry[NAME]["sha256"]
    assert f"hf-hub:{REPO}" in done.err

    overlay(entry)
    for name in (f"hf-hub:{REPO}@{commit}", NAME):
        model = timm.create_model(name, pretrained=True).eval()
        torch.testing.assert_close(model(IMAGES), reference(flowers), rtol=0, atol=0)
    assert weights.entry(NAME).pinned


def test_push_takes_a_repository_that_is_there(run, flowers, uploads, hub):
    first = json.loads(run("weights", "pack", flowers, *OPTIONS, "--push", REPO).out)[NAME]
    change(flowers / "results.json", lambda document: document["test"].update(top1=50.0))
    second = json.loads(run("weights", "pack", flowers, *OPTIONS, "--push", REPO).out)[NAME]
    assert (second["sha256"], second["metrics"]["top1"]) == (first["sha256"], 50.0)
    assert second["revision"] == hub.commit(REPO)[0] != first["revision"]
    assert json.loads(run("weights", "pack", flowers, *OPTIONS, "--push", REPO).out)[NAME] == second


def test_push_makes_a_private_repository(run, flowers, uploads, hub):
    assert run("weights", "pack", flowers, *OPTIONS, "--push", REPO, "--private").status == 0
    assert uploads.private == {REPO}


def test_push_puts_nothing_private_into_a_public_repository(run, flowers, uploads, hub):
    commit = hub.add(REPO, "README.md", b"public", lfs=False)
    done = run("weights", "pack", flowers, *OPTIONS, "--push", REPO, "--private")
    assert (done.status, done.out, len(done.errors)) == (1, "", 1)
    assert "public" in done.err
    assert hub.commit(REPO)[0] == commit


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/repos/create", 403),
        ("/api/validate-yaml", 500),
        ("/preupload/", 404),
        ("/objects/batch", 400),
        ("/commit/", 409),
    ],
)
def test_a_client_that_fails_is_one_line_and_leaves_the_package(run, flowers, uploads, hub, path, status):
    hub.fail(status=status, match=path)
    done = run("weights", "pack", flowers, *OPTIONS, "--push", REPO)
    assert (done.status, done.out, len(done.errors)) == (1, "", 1)
    assert f"cannot push {NAME}" in done.err
    assert str(flowers / "package") in done.err
    assert json.loads((flowers / "package/index_entry.json").read_text())[NAME]["revision"] is None
    hub.heal()
    assert run("weights", "pack", flowers, *OPTIONS, "--push", REPO).status == 0


def test_push_without_a_token_tells_how_to_get_one(run, flowers, uploads, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    done = run("weights", "pack", flowers, *OPTIONS, "--push", REPO)
    assert (done.status, len(done.errors)) == (1, 1)
    assert "hf auth login" in done.err
    with pytest.raises(Exception, match="RepoNotFound"):
        hub.commit(REPO)


def test_push_without_a_network_is_one_line(run, flowers, uploads, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    done = run("weights", "pack", flowers, *OPTIONS, "--push", REPO)
    assert (done.status, len(done.errors)) == (1, 1)
    assert "HF_ENDPOINT" in done.err
