"""`predict`: a row an image, whatever else is among the files."""

import io
import json
import os
import re
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import mnv2zoo
from mnv2zoo.cli import output
from mnv2zoo.data import decode
from mnv2zoo.inference import session
from tests.cli.conftest import process
from tests.conftest import GOOGLE, GOOGLE_SHA256, SAMPLES, needs_google, needs_samples, raw_entry


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Five images, two of them in a folder below, and the current folder to be theirs."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "c.webp", "more/d.jpg", "more/e.bmp"):
        height, width = random.integers(40, 90, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name)
    monkeypatch.chdir(tmp_path)
    return [f"photos/{name}" for name in ("a.jpg", "b.png", "c.webp", "more/d.jpg", "more/e.bmp")]


def rows(done):
    return [json.loads(line) for line in done.out.splitlines()]


def predict(run, *args):
    return run("predict", *args, "--model", "mnv2zoo_035", "--device", "cpu")


@pytest.mark.parametrize(("flags", "tolerance"), [(["--exact"], 2e-6), ([], 2e-3)], ids=["exact", "fast"])
def test_a_row_tells_the_most_probable_classes(run, zoo, photos, flags, tolerance):
    done = predict(run, "photos", "--json", "--topk", 3, "--batch-size", 2, *flags)
    assert (done.status, done.err) == (0, "")
    model = timm.create_model("mnv2zoo_035.pinned", pretrained=True).eval()
    transform = mnv2zoo.transforms("mnv2zoo_035.pinned")
    labels = mnv2zoo.weights.entry("mnv2zoo_035.pinned").label_names
    found = rows(done)
    assert [row["image"] for row in found] == photos
    for row in found:
        assert list(row) == ["image", "model", "predictions"]
        assert row["model"] == "mnv2zoo_035.pinned"
        with torch.inference_mode():
            scores = model(transform(decode.read(row["image"]))[None]).softmax(1)[0]
        best, found_classes = scores.topk(3).values.tolist(), [p["class"] for p in row["predictions"]]
        # Random weights tell classes apart by next to nothing, so that which is third may hang on a rounding.
        assert [p["score"] for p in row["predictions"]] == pytest.approx(best, abs=tolerance)
        assert scores[found_classes].tolist() == pytest.approx(best, abs=2 * tolerance)
        assert [p["label"] for p in row["predictions"]] == [labels[index] for index in found_classes]


def test_the_file_has_the_rows_of_the_screen(run, zoo, photos, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("older")
    done = predict(run, "photos", "--json", "--output", file)
    assert file.read_text() == done.out
    plain = predict(run, "photos", "--output", file)
    assert file.read_text() == done.out
    assert [line for line in plain.out.splitlines() if line[0] != " "] == photos
    first = rows(done)[0]["predictions"][0]
    assert f"  {first['score']:.4f}  {first['class']:>4}  {first['label']}" in plain.out


def test_files_folders_and_globs_give_each_image_once(run, zoo, photos):
    done = predict(run, "photos/b.png", "photos/**/*.jpg", "photos/more/../b.png", "photos", "--json")
    assert [row["image"] for row in rows(done)] == [photos[i] for i in (1, 0, 3, 2, 4)]


def test_what_cannot_be_read_is_told_of_and_the_rest_goes_on(run, zoo, photos, tmp_path):
    (tmp_path / "photos/b.png").write_text("no image")
    (tmp_path / "photos/more/d.jpg").write_bytes(b"")
    done = predict(run, "lost.jpg", "photos", "*.gif", "--json", "--batch-size", 2, "--output", "rows.jsonl")
    assert done.status == 1
    named = re.findall("where: (.*)", done.err)
    assert named == ["lost.jpg", "*.gif", "photos/b.png", "photos/more/d.jpg"]
    assert [row["image"] for row in rows(done)] == [photos[i] for i in (0, 2, 4)]
    assert (tmp_path / "rows.jsonl").read_text() == done.out


def test_a_batch_without_any_sound_image_is_no_end(run, zoo, photos, tmp_path):
    for name in photos[:2]:
        (tmp_path / name).write_text("no image")
    done = predict(run, "photos", "--json", "--batch-size", 2)
    assert (done.status, len(done.errors)) == (1, 2)
    assert [row["image"] for row in rows(done)] == photos[2:]


def test_without_images_no_network_is_loaded(run, zoo, hub, photos, tmp_path):
    done = predict(run, "lost.jpg", "--output", "rows.jsonl")
    assert (done.status, done.out, len(done.errors)) == (1, "", 1)
    assert hub.requests == []
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_file_is_whole_or_not_there(run, zoo, photos, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(session, "start", fail)
    assert predict(run, "photos", "--output", "rows.jsonl").status == 130
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("place", ["/dev/null", "photos", "lost/rows.jsonl"])
def test_a_file_that_cannot_be_written_is_told_of_before_anything_is_done(run, zoo, hub, photos, place):
    done = predict(run, "photos", "--output", place)
    assert (done.status, done.out, len(done.errors)) == (1, "", 1)
    assert hub.requests == []


def test_of_a_link_the_file_behind_it_is_written(run, zoo, photos, tmp_path):
    (tmp_path / "link.jsonl").symlink_to("rows.jsonl")
    done = predict(run, "photos/a.jpg", "--json", "--output", "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "rows.jsonl").read_text() == done.out


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        ("mnv2zoo_75", 2, "mnv2zoo_075"),
        ("mnv2zoo_035.lost", 2, "mnv2zoo_035.pinned"),
        ("mnv2zoo_075", 1, "mnv2zoo_075"),
    ],
)
def test_a_name_without_weights_is_one_line(run, zoo, photos, name, status, told):
    done = run("predict", "photos", "--model", name)
    assert (done.status, done.out, len(done.errors)) == (status, "", 1)
    assert told in done.err


def test_a_device_that_cannot_be_used_is_bad_usage(run, zoo, photos):
    for device in ("toaster", "cuda:99"):
        done = run("predict", "photos", "--model", "mnv2zoo_035", "--device", device)
        assert (done.status, done.out, len(done.errors)) == (2, "", 1)
        assert device in done.err


def save_run(folder, architecture, **fields):
    """What timm writes for a trained network: config.json and model.safetensors."""
    model = timm.create_model(architecture, num_classes=3)
    model.pretrained_cfg |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    timm.models.save_for_hf(model, folder, model_config=fields, safe_serialization=True)


def test_a_folder_with_a_trained_network_is_a_model(run, hub, photos, tmp_path):
    save_run(tmp_path / "runs/cats#1", "mnv2zoo_050", label_names=["cat", "dog", "other"])
    done = run("predict", "photos", "--model", "runs/cats#1", "--json")
    assert (done.status, done.err) == (0, "")
    for row in rows(done):
        assert row["model"] == "runs/cats#1"
        assert {p["label"] for p in row["predictions"]} == {"cat", "dog", "other"}
        assert sum(p["score"] for p in row["predictions"]) == pytest.approx(1, abs=1e-5)
        assert all(p["label"] == ["cat", "dog", "other"][p["class"]] for p in row["predictions"])
    assert [r["predictions"] for r in rows(run("predict", "photos", "--model", "local-dir:runs/cats#1", "--json"))] == [
        row["predictions"] for row in rows(done)
    ]
    assert hub.requests == []


def test_a_network_on_the_hub_is_verified(run, hub, photos, tmp_path, monkeypatch):
    save_run(tmp_path / "saved", "mnv2zoo_050")
    hub.add("me/cats", "config.json", (tmp_path / "saved/config.json").read_bytes(), lfs=False)
    hub.add("me/cats", "model.safetensors", (tmp_path / "saved/model.safetensors").read_bytes())
    done = run("predict", "photos", "--model", "hf-hub:me/cats", "--json")
    assert done.status == 0
    assert done.err.startswith("warning: hf-hub:me/cats: ") or "trusted on first use" in done.err
    assert {p["label"] for p in rows(done)[0]["predictions"]} == {"0", "1", "2"}
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", "1")
    done = run("predict", "photos", "--model", "hf-hub:me/cats", "--json")
    assert (done.status, done.out, len(done.errors)) == (1, "", 1)


@pytest.mark.parametrize(("config", "status"), [(None, 1), ("{", 1), ("[]", 1), ('{"architecture": "resnet18"}', 2)])
def test_a_folder_that_is_no_model_of_the_zoo_is_one_line(run, photos, tmp_path, config, status):
    (tmp_path / "run").mkdir()
    if config is not None:
        (tmp_path / "run/config.json").write_text(config)
    done = run("predict", "photos", "--model", "run")
    assert (done.status, done.out, len(done.errors)) == (status, "", 1)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_bar_is_for_terminals_and_leaves_stdout_alone(capsys, monkeypatch):
    with output.progress("reading", 2) as (show, advance):
        show("row")
        advance(2)
    assert capsys.readouterr() == ("row\n", "")

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with output.progress("reading", 2) as (show, advance):
        show("row")
        advance(2)
    assert capsys.readouterr().out == "row\n"
    assert "reading" in terminal.getvalue()


def test_on_one_terminal_rows_stay_whole_above_the_bar(monkeypatch):
    row = json.dumps({"image": "[red]a[/red]", "label": "x" * 300})
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, terminal := Terminal())
    with output.progress("reading", 1) as (show, advance):
        show(row)
        advance(1)
    assert row in terminal.getvalue()


@pytest.mark.slow
@needs_google
@needs_samples
def test_real_weights_know_real_photos(tmp_path):
    mirror, index, odd = tmp_path / "mirror", tmp_path / "index.json", tmp_path / os.fsdecode(b"caf\xe9.jpg")
    mirror.mkdir()
    (mirror / f"{GOOGLE_SHA256}.safetensors").symlink_to(GOOGLE)
    google = raw_entry(
        repo_id="test/google", sha256=GOOGLE_SHA256, size=GOOGLE.stat().st_size, mean=[0.5] * 3, std=[0.5] * 3
    )
    index.write_text(json.dumps({"schema_version": 1, "weights": {"mnv2zoo_100.google": google}}))
    shark = next(SAMPLES.glob("003_*.jpg"))
    odd.symlink_to(shark)
    env = {"MNV2ZOO_WEIGHTS_INDEX": str(index), "MNV2ZOO_WEIGHTS_DIR": str(mirror), "PYTHONIOENCODING": "utf-8"}

    done = process("predict", shark, odd, "--output", tmp_path / "rows.jsonl", env=env)
    assert (done.status, done.err) == (0, "")
    assert [line for line in done.out.splitlines() if line[0] != " "] == [str(shark), str(odd)]
    by_name, by_odd_name = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (by_name["image"], by_odd_name["image"]) == (str(shark), str(odd))
    assert by_name["model"] == "mnv2zoo_100.google"
    assert by_name["predictions"] == by_odd_name["predictions"]
    assert by_name["predictions"][0]["label"].startswith("tiger shark")
    assert by_name["predictions"][0]["score"] > 0.9
