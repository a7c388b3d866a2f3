"""The service of `examples/serve`: what it answers, what it refuses, how it stops, and its load test."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from mnv2zoo.data import decode
from mnv2zoo.inference.predict import Predictor, Settings

SERVE = Path(__file__).resolve().parents[1] / "examples/serve"
COFFEE = SERVE.parent / "coffee.jpg"
pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def service():
    """Starts a service that takes two requests at once and 300,000 bytes in one."""
    port = free_port()
    words = ["--port", port, "--requests", 2, "--max-bytes", 300_000]
    process = subprocess.Popen([sys.executable, str(SERVE / "server.py"), *map(str, words)], start_new_session=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for _ in range(1200):
            assert process.poll() is None
            try:
                if client.get("/healthz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        try:
            yield client, process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_answers_refusals_and_the_stop(service, tmp_path):
    client, process = service
    photo = COFFEE.read_bytes()

    def post(content=photo, kind="image/jpeg"):
        return client.post("/predict", content=content, headers={"Content-Type": kind})

    # Like the service, the predictor preprocesses for many images; `mnv2zoo.predict` would do so as timm does for one.
    predictor = Predictor(Settings("mnv2zoo_100_c20", engine="openvino"))
    how = predictor.session.preprocessing
    (wanted,) = predictor(["body"], [how.prepare(decode.read(COFFEE, at_least=how.at_least))])
    for kind in ("image/jpeg", "application/x-www-form-urlencoded"):
        answer = post(kind=kind)
        assert (answer.status_code, answer.json()) == (200, {**wanted, "image": "body"})

    answer = post(b"no image")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("cannot read the image\n")
    Image.new("1", (5001, 5000)).save(tmp_path / "large.png")
    answer = post((tmp_path / "large.png").read_bytes())
    assert answer.status_code == 422
    assert "exceeds limit of 25000000 pixels" in answer.json()["error"]
    assert post(photo + bytes(300_000)).status_code == 413

    with ThreadPoolExecutor(24) as pool:
        answers = [*pool.map(lambda _: post(), range(96))]
    busy = [answer for answer in answers if answer.status_code == 503]
    assert len(busy) < 96
    assert all(answer.headers["Retry-After"] == "1" for answer in busy)
    assert all(answer.json() == {**wanted, "image": "body"} for answer in answers if answer not in busy)
    assert busy

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post) for _ in range(2)]
        time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert [one.result().status_code for one in waiting] == [200, 200]
    assert process.wait(60) == 0


def test_nothing_is_lost_at_twice_the_capacity(tmp_path):
    results = tmp_path / "service.json"
    (tmp_path / "photos").mkdir()
    for number, turn in enumerate((0, 90, 180)):
        with Image.open(COFFEE) as image:
            image.rotate(turn, expand=True).save(tmp_path / "photos" / f"{number}.jpg")
    words = [tmp_path / "photos", "--seconds", 2, "--requests", 16, "--port", free_port(), "--results", results]
    subprocess.run([sys.executable, str(SERVE / "load.py"), *map(str, words)], check=True, timeout=300)
    found = json.loads(results.read_text())
    overload = found["overload"]
    assert overload["sent"] == pytest.approx(2 * found["images_per_second"] * 2, abs=1)
    assert set(overload["answers"]) <= {"200", "503"}
    assert sum(overload["answers"].values()) == overload["sent"]
    assert overload["answers"]["200"] >= 16
    assert found["stop"]["answers"] == {"200": 16}
    assert found["stop"]["exit_status"] == 0
