"""Reports about weights on machines and in programs without what a usual Linux process has."""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import huggingface_hub
import pytest
from filelock import FileLock

from attacks import zoo
from mnv2zoo import weights
from mnv2zoo.errors import DeployError, WeightsError
from mnv2zoo.system import files
from mnv2zoo.weights import hub as hub_module
from tests.conftest import ROOT, as_bytes, random_state_dict, raw_entry
from tests.hub_server import HubServer, hub_env
from tests.weights.test_trust import in_a_thread

pytestmark = pytest.mark.slow

NAME, FIRST = "mnv2zoo_035.test", "mnv2zoo_035.first"
BUNDLED = "mnv2zoo_100_c20.cifar100_coarse"

# What Windows lacks and this package has a use for, taken away before anything is imported.
WINDOWS = """
import os, signal, sys
for owner, names in ((os, "O_NONBLOCK O_NOFOLLOW geteuid getuid fchmod nice sched_getaffinity fork mkfifo"),
                     (signal, "SIGALRM setitimer SIGKILL")):
    for name in names.split():
        if hasattr(owner, name):
            delattr(owner, name)
for module in ("resource", "fcntl", "pwd", "grp"):
    sys.modules[module] = None
"""
NO_HOME = """
import os, sys
os.environ.pop("HOME", None)
sys.modules["pwd"] = None  # where Python looks next
"""
DROP = """
if hasattr(os, "getuid") and os.getuid() == 0:
    os.setuid(54321)  # root may write anywhere
"""


@pytest.fixture(scope="module")
def data():
    return as_bytes(random_state_dict("mnv2zoo_035"))


@pytest.fixture
def public():
    """A folder that every user may look into."""
    folder = Path(tempfile.mkdtemp(prefix="mnv2zoo-public-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def program(public, data):
    """Runs a program with a Hub that has pinned weights and others, and returns the JSON that it prints last."""
    with HubServer() as hub:
        commit = hub.add("zoo/pinned", "model.safetensors", data)
        hub.add("zoo/first", "model.safetensors", as_bytes(random_state_dict("mnv2zoo_035", seed=1)))
        pin = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        entries = {
            NAME: raw_entry(repo_id="zoo/pinned", revision=commit, **pin),
            FIRST: raw_entry(repo_id="zoo/first"),
        }
        (public / "index.json").write_text(json.dumps({"schema_version": 1, "weights": entries}))

        def run(text, *words, without=(), **environ):
            env = {**hub_env(hub, public), "MNV2ZOO_WEIGHTS_INDEX": str(public / "index.json"), **environ}
            for name in without:
                env.pop(name, None)
            command = [sys.executable, "-c", text, *map(str, words)]
            done = subprocess.run(
                command, cwd=public, env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout.splitlines()[-1])

        run.hub = hub
        yield run


# Without POSIX


@pytest.mark.environment
def test_windows_loads_predicts_optimizes_and_trains(program, public):
    found = program(
        WINDOWS
        + """
import json, pathlib, warnings
warnings.simplefilter("ignore")
import numpy, timm, torch
from PIL import Image
import mnv2zoo

photos = pathlib.Path("photos")
for number in range(24):
    folder = photos / "ab"[number % 2]
    folder.mkdir(parents=True, exist_ok=True)
    pixels = numpy.random.default_rng(number).integers(0, 256, (40, 40, 3), numpy.uint8)
    Image.fromarray(pixels).save(folder / f"{number}.png")
found = {name: len(mnv2zoo.weights.load(name)) for name in sys.argv[1:]}
os.environ["MNV2ZOO_WEIGHTS_DIR"] = str(pathlib.Path("mirror"))
from mnv2zoo.weights import store
store.mirror(sys.argv[1], pathlib.Path("mirror"))
found["mirror"] = mnv2zoo.weights.fetch(sys.argv[1]).parts[0]
model = timm.create_model("mnv2zoo_100_c20", pretrained=True).eval()
x = torch.rand(2, 3, 64, 64)
for turn in ("made", "kept"):
    fast = mnv2zoo.deploy.optimize(model, x[:1], engine="onnxruntime", cache="engines")
    found[turn] = bool((fast(x) - model(x)).abs().max() < 1e-3)
rows = list(mnv2zoo.predict(photos / "a", model="mnv2zoo_100_c20"))
found["rows"] = len(rows)
mnv2zoo.finetune(photos, model="mnv2zoo_100_c20", out="run", epochs=1, train="head", batch_size=4, workers=0)
found["run"] = pathlib.Path("run/model.safetensors").is_file()
print(json.dumps(found))
""",
        NAME,
        FIRST,
        BUNDLED,
    )
    names = {NAME: 314, FIRST: 314, BUNDLED: 327}
    assert found == {**names, "mirror": "mirror", "made": True, "kept": True, "rows": 12, "run": True}


@pytest.mark.parametrize("do", ["describe", "download", "late"])
def test_the_process_that_downloads_works_without_posix(hub, data, tmp_path, do):
    commit = hub.add("zoo/w", "model.safetensors", data)
    if do == "late":
        hub.fail(status=503, retry_after=3600)
    package = Path(hub_module.__file__).parent
    job = {
        "do": "describe" if do == "describe" else "download",
        "repo_id": "zoo/w",
        "filename": "model.safetensors",
        "revision": None,
        "endpoint": hub.endpoint,
        "seconds": 3 if do == "late" else 60,
        "file_bytes": 2**30,
        "memory_bytes": 2**32,
        "force": False,
        "cache_dir": str(tmp_path / "cache"),
        "sys_path": sys.path,
        "version": sys.version,
        "packages": {"mnv2zoo": [str(package.parent)], "mnv2zoo.weights": [str(package)]},
    }
    windows = WINDOWS.replace("fchmod ", "")  # filelock goes by the name of the system
    command = [sys.executable, "-I", "-c", windows + hub_module.PROGRAM]
    start = time.monotonic()
    done = subprocess.run(command, input=json.dumps(job).encode(), capture_output=True, timeout=100)
    answer = json.loads(done.stdout)
    if do == "describe":
        sha256 = hashlib.sha256(data).hexdigest()
        assert answer == {"commit": commit, "etag": sha256, "size": len(data)}
    elif do == "download":
        assert Path(answer.get("path", answer)).read_bytes() == data
    else:
        assert answer == {"late": True}
        assert time.monotonic() - start < 60
    assert b"Traceback" not in done.stderr


@pytest.mark.environment
def test_a_pipe_in_the_place_of_weights_does_not_hang_without_posix(program, public):
    os.mkfifo(public / "pipe")
    folder = public / "mirror/zoo/pinned"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "model.safetensors")
    found = program(
        WINDOWS
        + """
import json
from mnv2zoo import weights
try:
    weights.load(sys.argv[1])
except weights.IntegrityError as error:
    print(json.dumps([error.problem, error.found]))
""",
        NAME,
        MNV2ZOO_WEIGHTS_DIR=str(public / "mirror"),
    )
    assert "not a regular file" in str(found)


# In programs that cannot start this Python once more


@pytest.fixture
def place(monkeypatch):
    with zoo.zoo() as place:
        # The client makes this of its endpoint when it is imported.
        template = f"{place.hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield place


@pytest.fixture(params=["frozen", "no executable", "embedded", "not executable"])
def alone(request, monkeypatch, tmp_path):
    """A program whose executable must not be started; the file that would be there if it was."""
    started = tmp_path / "started"
    if request.param == "frozen":
        app = tmp_path / "python3"  # even where it is called so
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        app = tmp_path / "service"
    app.write_text(f"#!/bin/sh\ntouch {started}\n")
    app.chmod(0o755)
    if request.param == "not executable":
        app = tmp_path / "python3"
    monkeypatch.setattr(sys, "executable", None if request.param == "no executable" else str(app))
    return started


def test_a_program_is_never_started_again_to_download(place, alone):
    assert zoo.right(place.load(zoo.BUNDLED), seed=2)
    assert zoo.right(place.load(zoo.PINNED))
    assert zoo.right(place.load(zoo.UNPINNED), seed=1)
    assert not alone.exists()


@pytest.fixture
def frozen(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)


@pytest.mark.parametrize("trick", ["headers", "body", "nothing"])
def test_a_frozen_program_leaves_a_hub_that_stalls_in_time(place, frozen, monkeypatch, trick):
    def stall(request):
        if trick == "nothing":
            return bool(time.sleep(6)) or True
        if trick == "headers":
            return request.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 100)
        return request.wants_body and request.answer(200, {"Content-Length": 10**6}) and request.drip(bytes(50))

    place.hub.trick = stall
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", "2")
    start = time.monotonic()
    with pytest.raises(weights.WeightsUnavailableError) as error:
        place.load()
    assert time.monotonic() - start < 6
    assert "MNV2ZOO_DOWNLOAD_TIMEOUT" in error.value.fix
    place.hub.trick = None
    monkeypatch.delenv("MNV2ZOO_DOWNLOAD_TIMEOUT")
    assert zoo.right(place.load())


def endless(request, status=200):
    request.answer(status, {"Transfer-Encoding": "chunked"})
    while True:
        request.wfile.write(b"%x\r\n" % 2**20 + bytes(2**20) + b"\r\n")


@pytest.mark.parametrize(
    ("trick", "found"),
    [
        (lambda r: r.wants_metadata and r.answer(302, {"X-Repo-Commit": "a" * 40, "ETag": '"../../x"'}), "etag"),
        (lambda r: r.wants_body and r.answer(200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(2**24))), "gzip"),
        (lambda r: r.wants_body and endless(r), "longer"),
        (lambda r: r.wants_body and endless(r, 404), "404"),
    ],
)
def test_a_frozen_program_refuses_answers_that_no_hub_gives(place, frozen, trick, found):
    place.hub.trick = trick
    before = {*place.folder.parent.iterdir()}
    with pytest.raises(weights.WeightsUnavailableError) as error:
        place.load()
    assert found in error.value.found
    assert {*place.folder.parent.iterdir()} == before
    assert not [*place.cache.rglob("*.incomplete")]


def test_a_frozen_program_names_causes_and_prints_no_repetitions(place, frozen, monkeypatch, capfd):
    constants = huggingface_hub.constants
    template, away = constants.HUGGINGFACE_CO_URL_TEMPLATE, "http://no-such-host.invalid"
    start = time.monotonic()
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template.replace(place.hub.endpoint, away))
    with pytest.raises(weights.WeightsUnavailableError) as error:
        place.load()
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert time.monotonic() - start < 20
    assert "no-such-host.invalid cannot be resolved" in error.value.found
    place.hub.fail(status=429, times=1, retry_after=0, match="/cdn/")
    assert zoo.right(place.load())
    assert capfd.readouterr().err == ""


def test_the_programs_own_requests_stay_as_they_are(place, frozen):
    place.load()
    asked = []
    place.hub.trick = lambda request: (
        asked.append(request.headers["Accept-Encoding"])
        or request.answer(200, {"Content-Encoding": "gzip"}, gzip.compress(b"whole"))
    )
    assert huggingface_hub.get_session().get(place.hub.endpoint).content == b"whole"
    assert "gzip" in asked[0]


@pytest.fixture
def own_factory():
    """Sets a client factory as a program does, and the default again in the end."""
    default = type(huggingface_hub.get_session())

    def use(**options):
        huggingface_hub.set_client_factory(lambda: default(follow_redirects=True, **options))

    yield use
    huggingface_hub.set_client_factory(sys.modules[huggingface_hub.get_session.__module__].default_client_factory)


def test_the_programs_client_factory_is_used(place, own_factory):
    own_factory(headers={"X-Program": "mine"})
    assert zoo.right(place.load())
    assert place.hub.requests
    assert all(request.headers["X-Program"] == "mine" for request in place.hub.requests)
    place.hub.clear()
    own_factory(headers={"X-Program": "another"})
    place.forget()
    assert zoo.right(place.load())
    assert all(request.headers["X-Program"] == "another" for request in place.hub.requests)


def test_the_bounds_hold_with_the_programs_client_factory(place, own_factory):
    own_factory()
    place.hub.trick = lambda r: r.wants_body and endless(r)
    with pytest.raises(weights.WeightsUnavailableError, match="longer"):
        place.load()


# Users without a home folder, and folders that cannot be written


@pytest.mark.environment
def test_a_user_without_a_home_has_bundled_and_pinned_weights(program, public, data):
    (public / "mirror/zoo/pinned").mkdir(parents=True)
    (public / "mirror/zoo/pinned/model.safetensors").write_bytes(data)
    text = (
        NO_HOME
        + """
import json
from mnv2zoo import weights
print(json.dumps([len(weights.load(name)) for name in sys.argv[1:]]))
"""
    )
    without = ("MNV2ZOO_HOME",)
    assert program(text, BUNDLED, NAME, without=without) == [327, 314]  # with HF_HOME
    mirror = str(public / "mirror")
    assert program(text, BUNDLED, NAME, without=(*without, "HF_HOME"), MNV2ZOO_WEIGHTS_DIR=mirror) == [327, 314]


@pytest.mark.environment
def test_a_user_without_a_home_is_told_what_to_set(program, public):
    text = (
        NO_HOME
        + """
import json
from mnv2zoo import weights
told = []
for name in sys.argv[1:]:
    try:
        weights.load(name)
    except weights.WeightsError as error:
        told.append(error.fix)
print(json.dumps(told))
"""
    )
    first, pinned = program(text, FIRST, NAME, without=("MNV2ZOO_HOME", "HF_HOME"))
    assert "MNV2ZOO_HOME" in first
    assert "HF_HOME" in pinned
    assert not [*public.glob("~*")]
    (mirror,) = program(text, NAME, MNV2ZOO_WEIGHTS_DIR="~/mirror")
    assert "absolute path" in mirror


@pytest.mark.environment
def test_a_read_only_cache_serves_what_it_has_and_names_itself_otherwise(program, public):
    text = """
import json, os, sys
from mnv2zoo import weights
weights.load(sys.argv[1])
weights.load(sys.argv[2])
"""
    cache = public / "hf_home/hub"
    program(text + "print(1)", BUNDLED, NAME)
    for folder, _, names in os.walk(public / "hf_home"):
        for name in names:
            (Path(folder) / name).chmod(0o444)
        Path(folder).chmod(0o555)
    again = """
import encodings.idna, json, os, sys
import huggingface_hub.file_download
from mnv2zoo import weights
weights.load(sys.argv[1])
"""
    user = """
found = [len(weights.load(sys.argv[2]))]
try:
    weights.load(sys.argv[3])
except weights.WeightsError as error:
    found += [type(error).__name__, error.found, error.fix]
print(json.dumps(found))
"""
    found = program(again + DROP + user, BUNDLED, NAME, FIRST)
    for folder, _, _ in os.walk(public / "hf_home"):
        Path(folder).chmod(0o755)
    assert found[:2] == [314, "WeightsUnavailableError"]
    assert "Permission denied" in found[2]
    assert str(cache) in found[3]


@pytest.mark.parametrize("home", ["file", "file/below"])
def test_a_home_that_is_a_file_is_an_error_that_names_it(hub, overlay, data, tmp_path, monkeypatch, home):
    hub.add("zoo/w", "model.safetensors", data)
    overlay({NAME: raw_entry(repo_id="zoo/w")})
    (tmp_path / "file").touch()
    monkeypatch.setenv("MNV2ZOO_HOME", str(tmp_path / home))
    with pytest.raises(WeightsError) as error:
        weights.load(NAME)
    assert "MNV2ZOO_HOME" in error.value.fix
    assert str(tmp_path / home) in str(error.value.where)


def test_offline_what_the_cache_has_is_used(program):
    text = """
import json, os, sys
from mnv2zoo import weights
from mnv2zoo.weights.hub import Hub, HubFile
from mnv2zoo.weights import store
file = HubFile.of_hub_id("zoo/first")
path = Hub().download(file, None)
print(json.dumps([len(weights.load(name)) for name in sys.argv[1:]] + [path.is_file()]))
"""
    assert program(text, NAME, FIRST) == [314, 314, True]
    program.hub.clear()
    assert program(text, NAME, FIRST, HF_HUB_OFFLINE="1") == [314, 314, True]
    assert program.hub.requests == []


# Locks and short reads


def test_a_lock_on_an_engines_cache_has_a_limit_too(tmp_path, monkeypatch):
    from mnv2zoo.runtimes import cache

    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.5)
    engines = cache.Cache(tmp_path)
    engines.fetch({"a": "b"}, lambda: {"part": b"1"}, lambda parts: parts)
    (file,) = tmp_path.glob("*.engine")
    file.unlink()
    with FileLock(file.with_suffix(".lock")):
        error = in_a_thread(lambda: engines.fetch({"a": "b"}, lambda: {"part": b"1"}, lambda parts: parts))
    assert isinstance(error, DeployError)
    assert error.where == file.with_suffix(".lock")


class Piecemeal(io.RawIOBase):
    """An unbuffered file that gives a few bytes at a time, as those of network file systems may."""

    def __init__(self, content, most):
        self.rest, self.most = content, most

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(len(buffer), self.most, len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


@pytest.mark.parametrize("most", [1, 7, 1000, 10**6])
def test_a_file_that_comes_in_pieces_is_read_whole(most):
    content = os.urandom(5000)
    assert files.read_all(Piecemeal(content, most), 5000) == content


@pytest.mark.parametrize(("size", "when"), [(5001, "before"), (4999, "after"), (0, "after")])
def test_a_file_that_changes_while_it_is_read_is_refused(size, when):
    with pytest.raises(OSError, match=f"{when} {size} bytes"):
        files.read_all(Piecemeal(bytes(5000), 1000), size)
