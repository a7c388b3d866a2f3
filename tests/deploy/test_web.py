"""A page classifies photos in Chromium as PyTorch does, and asks no other host."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from mnv2zoo import deploy
from mnv2zoo.data import decode, pixels
from mnv2zoo.deploy import web
from mnv2zoo.errors import DeployError
from tests.conftest import SAMPLES, SHARED, needs_samples
from tests.deploy.conftest import network

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path: apt-get install chromium")
BUNDLED = "mnv2zoo_100_c20"
GROCERY = SHARED / "data/grocery/val.tar"


@pytest.fixture(scope="session")
def runtime(made_once):
    """The files of onnxruntime-web: from the folder that you name, or npm's pinned tarball."""
    if folder := os.environ.get("MNV2ZOO_TEST_ONNXRUNTIME_WEB"):
        return Path(folder)

    def fetch(folder):
        try:
            found = web.runtime(None)
        except DeployError as error:
            (folder / "error").write_text(error.summary)
            return
        for name, own in web.FILES.items():
            (folder / Path(name).name).write_bytes(found[own])

    folder = made_once("onnxruntime-web", fetch)
    if (folder / "error").exists():
        pytest.skip(f"cannot fetch onnxruntime-web: {(folder / 'error').read_text()}")
    return folder


@pytest.fixture(scope="session")
def bundle(made_once, runtime):
    made = made_once("web", lambda folder: deploy.export(BUNDLED, folder / "bundle", "web", runtime=runtime))
    return made / "bundle"


class Strict(http.server.SimpleHTTPRequestHandler):
    """A static host that forbids guessing types, as many do."""

    extensions_map = {  # noqa: RUF012
        ".html": "text/html",
        ".js": "text/javascript",
        ".css": "text/css",
        ".json": "application/json",
        ".txt": "text/plain",
        "": "application/octet-stream",  # of model.onnx and ort.wasm too
    }

    def end_headers(self):
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """Serves a folder on loopback, and gives its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Strict, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra: pip install -e '.[dev]'")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


def opened_in(browser, address):
    """The page in Chromium, and what its console, its scripts and its requests complain of."""
    complaints = []
    page = browser.new_page(viewport={"width": 800, "height": 900})
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    own = (address, "blob:", "data:")
    page.on("request", lambda r: None if r.url.startswith(own) else complaints.append(r.url))
    page.goto(address)
    page.get_by_text("Ready.").wait_for(timeout=120_000)
    return page, complaints


@pytest.fixture(scope="module")
def opened(browser, bundle):
    with served(bundle) as address:
        yield opened_in(browser, address)


@pytest.fixture
def page(opened):
    """The page. The test fails if it complains of anything or asks another host."""
    page, complaints = opened
    yield page
    assert complaints == []


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    if not SAMPLES.is_dir() or not GROCERY.is_file():
        pytest.skip("the photos are not here")
    folder = tmp_path_factory.mktemp("photos")
    for file in sorted(SAMPLES.glob("*.jpg"))[::10]:
        shutil.copy(file, folder)
    with tarfile.open(GROCERY) as tar:
        members = [member for member in tar.getmembers() if member.name.endswith(".jpg")][::60]
        tar.extractall(folder, members, filter="data")
    first = Image.open(min(folder.glob("*.jpg")))
    exif = Image.Exif()
    exif[0x0112] = 6
    first.save(folder / "upright.jpg", quality=95, exif=exif)
    clear = first.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "clear.png")
    return sorted([*folder.rglob("*.jpg"), *folder.glob("*.png")])


def scores_of(page, file):
    """The scores that the page computes for a file, in the order of the classes."""
    data = base64.b64encode(file.read_bytes()).decode()
    rows = page.evaluate(
        """async ([data, type]) => {
          const { load } = await import("./classify.js");
          window.loaded ??= load();
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          return (await (await window.loaded).classify(new File([bytes], "photo", { type }))).map(
            (row) => [row.class, row.score]);
        }""",
        [data, "image/png" if file.suffix == ".png" else "image/jpeg"],
    )
    return np.array([score for _, score in sorted(rows)])


@pytest.mark.slow
@needs_chromium
@needs_samples
def test_scores_of_the_page_are_pytorchs(page, photos, bundle):
    model = timm.create_model(BUNDLED, pretrained=True).eval()
    config = json.loads((bundle / "preprocess.json").read_text(encoding="utf-8"))
    assert len(photos) >= 12
    for file in photos:
        image = torch.from_numpy(pixels.network_input(decode.read(file), config))
        with torch.inference_mode():
            wanted = (model(image[None])[0] / config["temperature"]).softmax(0).numpy()
        found = scores_of(page, file)
        assert found.argmax() == wanted.argmax(), file
        np.testing.assert_allclose(found, wanted, atol=1e-2, err_msg=str(file))


@pytest.mark.slow
@needs_chromium
@needs_samples
def test_int8_computes_in_the_browser_what_it_computes_in_python(browser, runtime, photos, tmp_path):
    import onnxruntime

    options = {"precision": "int8", "calibration": SAMPLES, "runtime": runtime}
    bundle = deploy.export(BUNDLED, tmp_path / "bundle", "web", **options)
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"))
    config = json.loads((bundle / "preprocess.json").read_text(encoding="utf-8"))
    with served(bundle) as address:
        page, complaints = opened_in(browser, address)
        for file in photos[:4]:
            image = pixels.network_input(decode.read(file), config)
            (wanted,) = session.run(None, {"images": image[None]})
            wanted = torch.from_numpy(wanted[0] / config["temperature"]).softmax(0).numpy()
            np.testing.assert_allclose(scores_of(page, file), wanted, atol=2e-2, err_msg=str(file))
    assert complaints == []


CONFIGS = [
    {"input_size": [3, 64, 64], "crop_pct": 1.0, "interpolation": "bicubic"},
    {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bilinear"},
    {"input_size": [3, 96, 96], "crop_pct": 0.9, "interpolation": "lanczos"},
    {"input_size": [3, 96, 96], "crop_pct": 0.9, "interpolation": "nearest"},
    {"input_size": [3, 96, 96], "crop_pct": 1.2, "interpolation": "hamming"},
    {"input_size": [3, 300, 300], "crop_pct": 0.5, "interpolation": "box"},
]


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("size", [(33, 70), (640, 427), (50, 50), (64, 91)])
def test_the_page_prepares_the_pixels_that_pillow_prepares(page, size):
    rgb = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    for config in CONFIGS:
        config = config | {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        found = page.evaluate(
            """async ([data, width, height, config]) => {
              const { prepare } = await import("./preprocess.js");
              const rgb = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
              const bytes = new Uint8Array(prepare(rgb, width, height, config).buffer);
              let text = "";
              for (const byte of bytes) text += String.fromCharCode(byte);
              return btoa(text);
            }""",
            [base64.b64encode(rgb.tobytes()).decode(), *size, config],
        )
        wanted = pixels.network_input(Image.fromarray(rgb), config)
        array = np.frombuffer(base64.b64decode(found), np.float32).reshape(wanted.shape)
        np.testing.assert_allclose(array, wanted, atol=1e-6, err_msg=str(config))


@pytest.mark.slow
@needs_chromium
@needs_samples
def test_a_chosen_photo_shows_its_classes(page, photos, bundle, tmp_path):
    file = next(file for file in photos if file.suffix == ".jpg")
    page.set_input_files("#file", str(file))
    page.locator("#results tbody tr").nth(4).wait_for()
    labels = (bundle / "labels.txt").read_text(encoding="utf-8").splitlines()
    scores = scores_of(page, file)
    rows = [row.split("\t")[:2] for row in page.locator("#results tbody").inner_text().splitlines()]
    best = np.argsort(-scores)[:5]
    assert [label for label, _ in rows] == [labels[place] for place in best]
    assert [float(score) for _, score in rows] == pytest.approx(scores[best], abs=1e-4)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    page.set_input_files("#file", str(bad))
    page.get_by_text("This browser cannot read that file as an image.").wait_for()
    assert page.locator("#results").is_hidden()


@pytest.mark.slow
@needs_chromium
@needs_samples
def test_a_dropped_photo_shows_its_classes(page, photos, bundle):
    file = [file for file in photos if file.suffix == ".jpg"][1]
    page.evaluate(
        """(data) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "dropped.jpg", { type: "image/jpeg" }));
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        base64.b64encode(file.read_bytes()).decode(),
    )
    page.get_by_text("dropped.jpg: ").wait_for()
    labels = (bundle / "labels.txt").read_text(encoding="utf-8").splitlines()
    shown = page.locator("#results tbody th").first.inner_text()
    assert shown == labels[scores_of(page, file).argmax()]


@pytest.mark.slow
def test_what_a_page_holds(bundle):
    files = {file.name for file in bundle.iterdir()}
    own = {file.name for file in web.PAGE.iterdir()}
    written = {"model.onnx", "preprocess.json", "labels.txt", "manifest.json", "README.md"}
    assert files == own | written | {"ort.js", "ort.wasm", "LICENSE.onnxruntime-web.txt"}
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["files"]) == own | {"ort.js", "ort.wasm", "model.onnx"}
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == sha256
    policy = (bundle / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'" in policy
    assert "http://" not in policy
    assert "https://" not in policy


def problem(*arguments, **named):
    with pytest.raises(DeployError) as error:
        deploy.export(*arguments, **named)
    return error.value


def test_a_runtime_that_is_not_there_is_an_error_before_anything_is_written(tmp_path):
    model = network("mnv2zoo_050_c20", num_classes=3)
    absent = problem(model, tmp_path / "bundle", "web", runtime=tmp_path / "absent")
    assert (absent.where, absent.found) == (tmp_path / "absent", "no such folder")
    empty = problem(model, tmp_path / "bundle", "web", runtime=tmp_path)
    assert (empty.where, empty.found) == (tmp_path, "a folder without this file")
    other = problem(model, tmp_path / "bundle", "onnx", runtime=tmp_path)
    assert (other.where, other.expected) == ("runtime", "runtime only with the format web")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def host(tmp_path):
    with served(tmp_path) as address:
        yield address


def test_another_tarball_than_the_pinned_one_is_refused(host, tmp_path):
    (tmp_path / "runtime.tgz").write_bytes(b"another")
    with pytest.raises(DeployError) as error:
        web.fetch(f"{host}runtime.tgz")
    assert error.value.expected == f"SHA-512 {web.SHA512}"
    assert error.value.found == "SHA-512 " + base64.b64encode(hashlib.sha512(b"another").digest()).decode()
    with pytest.raises(DeployError) as error:
        web.fetch(f"{host}absent.tgz")
    assert (error.value.problem, error.value.where) == (
        f"onnxruntime-web {web.VERSION} cannot be downloaded",
        f"{host}absent.tgz",
    )


def test_offline_nothing_is_fetched(host, monkeypatch):
    monkeypatch.setattr(web.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DeployError) as error:
        web.fetch(host)
    assert error.value.found == "HF_HUB_OFFLINE is set"


def test_an_image_that_the_page_cannot_prepare_is_refused():
    known = {"input_size": (3, 64, 64), "interpolation": "bicubic"}
    web.check(known)
    for other in ({"input_size": (1, 64, 64)}, {"interpolation": "quadratic"}, {"crop_mode": "corner"}):
        with pytest.raises(DeployError) as error:
            web.check(known | other)
        assert (error.value.where, error.value.fix) == ("preprocessing", "Choose the format onnx.")
