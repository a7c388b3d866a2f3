"""What is kept of a classifier starts without PyTorch, and only while it is what it was made of."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mnv2zoo
from mnv2zoo.errors import MissingExtraError
from mnv2zoo.inference import session
from mnv2zoo.models import names
from mnv2zoo.runtimes.cache import Cache
from mnv2zoo.runtimes.runners import RUNTIMES, cores
from tests.conftest import ROOT, save_photos

BUNDLED = "mnv2zoo_100_c20"  # weights that come with the package


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", 5)


def entries(folder):
    return sorted(folder.glob("*.engine"))


def without_pytorch(folder):
    """An environment in which importing PyTorch or timm fails."""
    folder.mkdir()
    for name in ("torch", "timm"):
        (folder / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')", encoding="utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def agree(found, wanted):
    assert [row["image"] for row in found] == [row["image"] for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert row["model"] == other["model"]
        assert [p["label"] for p in row["predictions"]] == [p["label"] for p in other["predictions"]]
        scores = [p["score"] for p in other["predictions"]]
        assert [p["score"] for p in row["predictions"]] == pytest.approx(scores, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", RUNTIMES)
@pytest.mark.parametrize("kind", ["name", "folder"])
def test_the_second_process_needs_neither_pytorch_nor_timm(tiny, photos, tmp_path, engine, kind):
    model = BUNDLED if kind == "name" else tiny
    wanted = list(mnv2zoo.predict(photos, model))
    agree(list(mnv2zoo.predict(photos, model, engine=engine, cache=tmp_path / "engines")), wanted)
    command = [sys.executable, "-m", "mnv2zoo", "predict", str(photos), "--model", model, "--engine", engine, "--json"]
    env = without_pytorch(tmp_path / "none")
    done = subprocess.run([*command, "--cache", str(tmp_path / "engines")], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    agree([json.loads(line) for line in done.stdout.splitlines()], wanted)
    alone = subprocess.run(command, env=env, capture_output=True, text=True)
    assert "torch was imported" in alone.stderr + alone.stdout or "timm was imported" in alone.stderr + alone.stdout


@pytest.mark.slow
def test_another_network_or_preprocessing_is_another_entry(tiny, photos, tmp_path):
    folder = Path(shutil.copytree(tiny, tmp_path / "run"))
    cache = tmp_path / "engines"

    def load():
        return session.load(str(folder), "onnxruntime", "fp32", None, Cache(cache))

    first = load()
    assert load().fingerprint == first.fingerprint
    assert len(entries(cache)) == 1
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (folder / "config.json").write_text(json.dumps(config))
    assert load().preprocessing.mean == (0.1, 0.2, 0.3)
    assert len(entries(cache)) == 2


@pytest.mark.slow
def test_what_was_altered_is_made_anew(tiny, tmp_path):
    first = session.load(tiny, "onnxruntime", "fp32", None, Cache(tmp_path))
    (file,) = entries(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    with pytest.warns(UserWarning, match="is rebuilt"):
        assert session.load(tiny, "onnxruntime", "fp32", None, Cache(tmp_path)).fingerprint == first.fingerprint
    assert file.read_bytes() == content


def test_what_takes_pytorch_is_left_to_it(tiny, tmp_path):
    for model, engine in ((tiny, "torch"), ("mnv2zoo_035", "onnxruntime"), ("hf-hub:me/cats", "onnxruntime")):
        assert session.load(model, engine, "fp32", None, Cache(tmp_path)) is None
    assert entries(tmp_path) == []


def test_an_engine_that_is_not_there_is_told(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("mnv2zoo.deploy.checks.missing", list)
    with pytest.raises(MissingExtraError, match="onnxruntime"):
        session.load(tiny, "onnxruntime", "fp32", None, Cache(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_exact_images_and_all_engines_take_a_cache_too(tiny, photos, tmp_path, exact):
    wanted = list(mnv2zoo.predict(photos, tiny, exact=exact))
    for engine in ("torch", "onnxruntime"):
        found = list(mnv2zoo.predict(photos, tiny, engine=engine, exact=exact, cache=tmp_path / "engines"))
        agree(found, wanted)


def test_arrays_are_normalised_as_timm_normalises(photos):
    from PIL import Image
    from timm.data import create_transform

    how = names.describe(BUNDLED).preprocessing
    with Image.open(photos / "00000.jpg") as photo:
        square = photo.convert("RGB").resize(how.input_size[:0:-1])
    theirs = create_transform(how.input_size, mean=how.mean, std=how.std, crop_pct=1.0)
    assert (how.array([square.tobytes()])[0] == theirs(square).numpy()).all()


@pytest.mark.parametrize(("value", "number"), [("3", 3), ("0", None), ("2,1", 2), ("", None)])
def test_threads_are_those_that_pytorch_would_take(monkeypatch, value, number):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert cores() == (number or len(os.sched_getaffinity(0)))
