"""What is kept of a classifier starts without PyTorch, and only while it is what it was made of."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import mnv2zoo
from mnv2zoo.errors import IntegrityError, MissingExtraError
from mnv2zoo.inference import session
from mnv2zoo.inference.predict import Settings
from mnv2zoo.models import names, pretrained
from mnv2zoo.runtimes.cache import Cache
from mnv2zoo.runtimes.runners import RUNTIMES, cores
from tests.conftest import ROOT, as_bytes, random_state_dict, raw_entry, save_photos

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
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
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


@pytest.fixture
def kept(tmp_path):
    return Cache(tmp_path / "engines", optional=True)


@pytest.mark.parametrize("kind", ["name", "folder"])
def test_without_options_no_process_imports_pytorch_or_timm(tiny, photos, tmp_path, kind):
    model = BUNDLED if kind == "name" else tiny
    wanted = list(mnv2zoo.predict(photos, model, engine="torch", exact=True))
    env = {**without_pytorch(tmp_path / "none"), "MNV2ZOO_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "mnv2zoo", "predict", str(photos), "--model", model, "--json"]
    for _ in range(2):  # without and with what the first one has kept
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        agree([json.loads(line) for line in done.stdout.splitlines()], wanted)
        assert len(entries(tmp_path / "home" / "engines")) == 1


def test_a_written_network_has_the_fingerprint_of_the_one_in_pytorch(tiny, kept):
    for model in (BUNDLED, tiny):
        found = session.choose(model, 1, False, kept)
        assert found.fingerprint == session.fingerprint(pretrained.load(model, "cpu").model)


def test_few_images_are_preprocessed_as_timm_does_and_many_faster(tiny, kept):
    assert session.choose(tiny, session.FEW, False, kept).preprocessing.exact
    assert not session.choose(tiny, session.FEW + 1, False, kept).preprocessing.exact
    assert session.choose(tiny, session.FEW + 1, True, kept).preprocessing.exact


def test_engines_are_timed_once_for_a_long_job(tiny, kept, monkeypatch):
    times = {"onnxruntime": 1.0, "openvino": 2.0}
    monkeypatch.setattr(session, "_milliseconds", lambda sessions: times)
    many = session.TIMED_FROM
    assert session.choose(tiny, many - 1, False, kept).engine == session.RUNS_FASTEST[0]
    assert session.choose(tiny, many, False, kept).engine == "onnxruntime"
    monkeypatch.setattr(session, "_milliseconds", lambda sessions: 1 / 0)
    assert session.choose(tiny, many, False, kept).engine == "onnxruntime"
    assert session.choose(tiny, many - 1, False, kept).engine == "onnxruntime"
    assert session.choose(tiny, session.FEW, False, kept).engine == session.STARTS_FIRST[0]


def test_a_choice_hashes_the_weights_of_a_folder_once(tiny, kept, monkeypatch):
    hashed, fingerprint = [], session.discover.fingerprint
    monkeypatch.setattr(session.discover, "fingerprint", lambda *args: hashed.append(args) or fingerprint(*args))
    monkeypatch.setattr(session, "_milliseconds", lambda sessions: dict.fromkeys(sessions, 1.0))
    assert session.choose(tiny, session.TIMED_FROM, False, kept) is not None
    assert len(hashed) == 1


def test_weights_that_cannot_be_read_are_left_to_pytorch(tiny, kept, monkeypatch):
    def denied(*args):
        raise PermissionError("permission denied")

    monkeypatch.setattr(session.discover, "fingerprint", denied)
    for images in (1, session.TIMED_FROM):
        assert session.choose(tiny, images, False, kept) is None


def test_times_are_of_every_engine(tiny, kept, monkeypatch):
    monkeypatch.setattr(session, "TIMED_ROUNDS", 1)
    times = session._milliseconds({name: session.load(tiny, name, kept=kept) for name in RUNTIMES})
    assert times.keys() == RUNTIMES.keys()
    assert all(time > 0 for time in times.values())


@pytest.fixture
def unwritten(tiny, tmp_path):
    """A network whose graph is not written, because its activation is another than its architecture's."""
    folder = Path(shutil.copytree(tiny, tmp_path / "unwritten"))
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("model_args", {})["act_layer"] = "silu"
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_small_jobs_do_not_wait_for_an_export(unwritten, photos, kept, monkeypatch):
    monkeypatch.setattr("mnv2zoo.deploy.engines.to_onnx", lambda *args: 1 / 0)
    for images in (1, session.FEW, session.EXPORT_FROM - 1):
        assert session.choose(unwritten, images, False, kept) is None
    (count,) = kept.entries()
    assert count.about["kept"] == "count"
    rows = list(mnv2zoo.predict(photos, unwritten))
    assert rows == list(mnv2zoo.predict(photos, unwritten, engine="torch", exact=False))


@pytest.mark.slow
def test_jobs_that_are_long_together_export_and_later_jobs_use_what_it_kept(unwritten, kept, monkeypatch):
    assert session.choose(unwritten, session.EXPORT_FROM - 100, False, kept) is None
    assert session.choose(unwritten, session.FEW, False, kept) is None
    assert session.choose(unwritten, 100, False, kept) is not None
    monkeypatch.setattr("mnv2zoo.deploy.engines.to_onnx", lambda *args: 1 / 0)
    assert session.choose(unwritten, 1, False, kept) is not None


@pytest.mark.slow
def test_a_long_job_exports_and_later_jobs_use_what_it_kept(unwritten, kept, monkeypatch):
    assert session.choose(unwritten, session.EXPORT_FROM, False, kept) is not None
    monkeypatch.setattr("mnv2zoo.deploy.engines.to_onnx", lambda *args: 1 / 0)
    for images in (1, session.EXPORT_FROM):
        assert session.choose(unwritten, images, False, kept) is not None


def test_a_runtime_that_fails_is_replaced_with_a_notice(tiny, photos, monkeypatch):
    def broken(*args):
        raise RuntimeError("no such instruction")

    wanted = list(mnv2zoo.predict(photos, tiny))
    monkeypatch.setattr(session, "RUNTIMES", RUNTIMES | {session.STARTS_FIRST[0]: broken})
    with pytest.warns(UserWarning, match=f"engine {session.STARTS_FIRST[0]} is not used: .*no such instruction"):
        agree(list(mnv2zoo.predict(photos, tiny)), wanted)
    monkeypatch.setattr(session, "RUNTIMES", dict.fromkeys(RUNTIMES, broken))
    with pytest.warns(UserWarning, match=f"engine {session.STARTS_FIRST[1]} is not used"):
        agree(list(mnv2zoo.predict(photos, tiny)), wanted)


def test_auto_times_engines_for_any_number_of_images(tiny, photos, tmp_path, monkeypatch):
    timed = []

    def times(sessions):
        timed.append(sorted(sessions))
        return {name: number for number, name in enumerate(reversed(session.STARTS_FIRST))}

    monkeypatch.setattr(session, "_milliseconds", times)
    monkeypatch.setenv("MNV2ZOO_HOME", str(tmp_path / "home"))
    task = Settings(tiny).find_task()
    for _ in range(2):
        assert session.start(task, tiny, "auto", images=1).engine == session.STARTS_FIRST[1]
    assert timed == [sorted(RUNTIMES)]


def test_an_engine_that_computes_something_else_is_not_used(tiny, kept, monkeypatch):
    honest = session._written_parts
    other = {"expected": bytes(4 * 2 * 3)}
    monkeypatch.setattr(session, "_written_parts", lambda *args: honest(*args) | other)
    with pytest.warns(UserWarning, match="differ from the model's"), pytest.warns(RuntimeWarning):
        assert session.choose(tiny, 1, False, kept) is None
    assert entries(kept.folder) == []


def test_weights_with_a_wrong_hash_are_neither_used_nor_kept(photos, kept, overlay, tmp_path, monkeypatch):
    data = as_bytes(random_state_dict("mnv2zoo_035"))
    sha256 = hashlib.sha256(data).hexdigest()
    overlay({"mnv2zoo_035.pinned": raw_entry(sha256=sha256, size=len(data))})
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", "1")
    file = tmp_path / f"{sha256}.safetensors"
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for images in (1, session.EXPORT_FROM):
        with pytest.raises(IntegrityError) as error:
            session.choose("mnv2zoo_035.pinned", images, False, kept)
        assert str(error.value.where) == str(file)
    assert entries(kept.folder) == []
    file.write_bytes(data)
    assert session.choose("mnv2zoo_035.pinned", 1, False, kept).name == "mnv2zoo_035.pinned"


def test_a_home_that_cannot_be_written_is_done_without(tiny, photos, tmp_path, monkeypatch):
    wanted = list(mnv2zoo.predict(photos, tiny))
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MNV2ZOO_HOME", str(tmp_path / "file" / "home"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert list(mnv2zoo.predict(photos, tiny)) == wanted
        assert list(mnv2zoo.predict(photos, tiny, engine="openvino"))


def test_an_altered_entry_at_home_is_rebuilt_with_a_notice(tiny, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("MNV2ZOO_HOME", str(tmp_path / "home"))
    wanted = list(mnv2zoo.predict(photos, tiny))
    (file,) = entries(tmp_path / "home/engines")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is rebuilt"):
        assert list(mnv2zoo.predict(photos, tiny)) == wanted
