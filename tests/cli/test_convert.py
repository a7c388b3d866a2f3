"""`weights convert`."""

import json

import torch

from mnv2zoo.models import names
from tests.conftest import ROOT
from tests.convert.networks import theirs

PHOTO = ROOT / "examples/coffee.jpg"


def test_a_backbone_trains_and_does_not_classify(tmp_path, run):
    torch.save(theirs("torchvision", "mnv2zoo_035").state_dict(), tmp_path / "file.pth")
    done = run("weights", "convert", tmp_path / "file.pth", "--backbone", "--out", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    assert "classes: none, a backbone" in done.out
    refused = run("predict", PHOTO, "--model", tmp_path / "out")
    assert (refused.status, len(refused.errors)) == (1, 1)
    assert "no classifier" in refused.err
    model = names.describe(str(tmp_path / "out")).build(num_classes=3)
    assert model.classifier.weight.shape == (3, 1280)


def test_the_command_predicts_with_what_it_converted(tmp_path, run):
    torch.save(theirs("transformers", "mnv2zoo_035", num_classes=3).double().state_dict(), tmp_path / "file.bin")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    asked = ["weights", "convert", tmp_path / "file.bin", "--out", tmp_path / "out", "--labels", tmp_path / "names.txt"]
    done = run(*asked, "--input-size", 64, "--mean", 0.4, 0.5, 0.6, "--json")
    assert (done.status, done.err) == (0, "")
    told = json.loads(done.out)
    assert told["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert told["preprocessing"]["input_size"] == [3, 64, 64]
    assert told["assumed"] == ["std", "interpolation", "crop_pct"]
    row = json.loads(run("predict", PHOTO, "--model", tmp_path / "out", "--json").out)
    assert sorted(each["label"] for each in row["predictions"]) == ["ant", "bee", "cat"]
    again = run(*asked)
    assert (again.status, len(again.errors)) == (1, 1)
    assert f"the folder {tmp_path / 'out'} is not empty\n  expected: a new or empty folder\n" in again.err


def test_the_command_refuses_in_one_block(tmp_path, run):
    torch.save(theirs("torchvision", "mnv2zoo_035", num_classes=3).state_dict(), tmp_path / "file.pth")
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    (tmp_path / "broken.pt").write_bytes(b"\x80\x02junk")
    for arguments, status, told in (
        (["file.pth", "--model", "mnv2zoo_050"], 1, "The tensors match mnv2zoo_035 in the layout torchvision"),
        (["file.pth", "--model", "mnv2zoo_05"], 2, "mnv2zoo_050"),
        (["file.pth", "--labels", tmp_path / "names.txt"], 1, "expected: 3 names\n  found: 2"),
        (["broken.pt"], 1, "not a valid PyTorch checkpoint"),
        (["none.h5"], 1, "Check the path"),
    ):
        first, *others = arguments
        done = run("weights", "convert", tmp_path / first, *others, "--out", tmp_path / "out")
        assert (done.status, len(done.errors)) == (status, 1), done.err
        assert told in done.err
        assert not (tmp_path / "out").exists()


def test_the_command_reports_what_it_took_and_what_it_left_out(tmp_path, run):
    tensors = theirs("openmmlab", "mnv2zoo_035", num_classes=3).state_dict()
    held = {**{f"model.{key}": value for key, value in tensors.items()}, "loss.weight": torch.ones(3)}
    torch.save({"state_dict": held, "epoch": 3}, tmp_path / "last.ckpt")
    done = run("weights", "convert", tmp_path / "last.ckpt", "--out", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    assert "mnv2zoo_035 from the layout openmmlab, padded symmetrically\n" in done.out
    assert "weights: took 314 tensors in state_dict with prefix 'model.', left out loss.weight\n" in done.out
    told = json.loads(run("weights", "convert", tmp_path / "last.ckpt", "--out", tmp_path / "other", "--json").out)
    assert (told["taken"], told["prefix"], told["left_out"]) == ("state_dict", "model.", ["loss.weight"])


def test_a_head_outside_the_network_is_refused_and_the_backbone_converts(tmp_path, run):
    tensors = theirs("timm", "mnv2zoo_035", num_classes=3).state_dict()
    held = {f"backbone.{key}": value for key, value in tensors.items() if not key.startswith("classifier")}
    torch.save({**held, "head.weight": torch.ones(3, 1280), "head.bias": torch.ones(3)}, tmp_path / "file.pt")
    done = run("weights", "convert", tmp_path / "file.pt", "--out", tmp_path / "out")
    assert (done.status, len(done.errors)) == (1, 1)
    assert "found: head.weight\n" in done.err
    assert not (tmp_path / "out").exists()
    done = run("weights", "convert", tmp_path / "file.pt", "--backbone", "--out", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    assert "with prefix 'backbone.', left out head.weight, head.bias\n" in done.out
