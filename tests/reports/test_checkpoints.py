"""What people reported about the checkpoints they bring: what is read, what is left out, and what is refused."""

import argparse
import collections
import datetime
import json
import pathlib
import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import timm
import torch
from torch import nn

from mnv2zoo import convert
from mnv2zoo.convert import state_dict
from mnv2zoo.errors import ConversionError, IntegrityError, WeightsUnavailableError
from mnv2zoo.model_dir import from_checkpoint
from mnv2zoo.models import names
from mnv2zoo.tasks import initialization, recipe
from tests.cli import conftest
from tests.conftest import BLOCK, ROOT, random_state_dict
from tests.convert.networks import theirs

run = conftest.run
NAME = "mnv2zoo_035"


@pytest.fixture(scope="module")
def tensors():
    return random_state_dict(NAME, num_classes=3)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def prefixed(tensors, prefix):
    return {f"{prefix}{key}": value for key, value in tensors.items()}


class TestReader:
    def test_what_timms_training_saves_is_read_by_every_command(self, tmp_path, run):
        from timm.utils import CheckpointSaver, ModelEmaV3

        model = timm.create_model(NAME, num_classes=3)
        model.load_state_dict(random_state_dict(NAME, num_classes=3))
        average = ModelEmaV3(model)
        average.module.load_state_dict(random_state_dict(NAME, seed=1, num_classes=3))
        saver = CheckpointSaver(
            *(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)),
            args=argparse.Namespace(model=NAME, output=pathlib.Path("runs"), lr=np.float64(0.1)),
            model_ema=average,
            checkpoint_dir=str(tmp_path),
            recovery_dir=str(tmp_path),
        )
        saver.save_checkpoint(0, np.float64(70.5))
        file = tmp_path / "model_best.pth.tar"
        done = run("weights", "convert", file, "--out", tmp_path / "out")
        assert (done.status, done.err) == (0, "")
        assert "weights: took 314 tensors in state_dict_ema\n" in done.out
        converted = convert.read(tmp_path / "out/model.safetensors").tensors
        assert same(converted, average.module.state_dict())
        values = recipe.make(init=str(file))
        begun = initialization.build(*initialization.find(NAME, values), values, ["a", "b", "c"], [])
        assert torch.equal(begun.model.conv_stem.weight, average.module.conv_stem.weight)

    @pytest.mark.parametrize("module", ["lightning.fabric.utilities.data", "pytorch_lightning.utilities.parsing"])
    def test_what_lightning_saves_is_read(self, tmp_path, tensors, module, monkeypatch):
        # Lightning is not installed: a class of its name is, until the file is written.
        settings = type("AttributeDict", (dict,), {"__module__": module})
        for place in [".".join(module.split(".")[: n + 1]) for n in range(module.count(".") + 1)]:
            monkeypatch.setitem(sys.modules, place, argparse.Namespace(AttributeDict=settings))
        checkpoint = {"state_dict": prefixed(tensors, "model."), "hyper_parameters": settings(lr=0.1), "epoch": 3}
        torch.save(checkpoint | {"callbacks": {"ModelCheckpoint{}": {"dirpath": "/x"}}}, tmp_path / "last.ckpt")
        read = convert.read(tmp_path / "last.ckpt")
        assert read.found.taken == "state_dict"
        assert same(read.tensors, tensors)

    @pytest.mark.parametrize(
        "prefix",
        [
            *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "backbone."),
            *("0.model.", "model.net._orig_mod.module.", "anything.at.all."),
        ],
    )
    def test_wrappers_are_taken_off(self, tmp_path, tensors, prefix):
        torch.save({"model": prefixed(tensors, prefix), "optimizer": {}}, tmp_path / "file.pt")
        read = convert.read(tmp_path / "file.pt")
        assert (read.found.taken, read.found.prefix) == ("model", prefix)
        assert same(read.tensors, tensors)

    def test_two_networks_under_one_name_are_refused(self, tensors):
        with pytest.raises(ConversionError, match="more than one model"):
            convert.identify(tensors | prefixed(tensors, "module."))

    def test_nothing_stays_allowed_and_nothing_is_brought_to_life(self, tmp_path, tensors):
        before = set(map(repr, torch.serialization.get_safe_globals()))
        torch.save({"state_dict": tensors, "args": argparse.Namespace(a=1)}, tmp_path / "file.pt")
        convert.read(tmp_path / "file.pt")
        assert set(map(repr, torch.serialization.get_safe_globals())) == before
        assert not isinstance(state_dict.unwrap({"state_dict": tensors})["bn1.weight"], argparse.Namespace)

    @pytest.mark.parametrize(
        ("held", "name"),
        [
            (datetime.datetime(2024, 1, 1), "datetime.datetime"),
            (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
            (collections.deque([1]), "collections.deque"),
        ],
    )
    def test_another_class_is_refused_by_its_name_without_advice_to_load_unsafely(self, tmp_path, run, held, name):
        torch.save({"state_dict": {}, "x": held}, tmp_path / "file.pt")
        done = run("weights", "convert", tmp_path / "file.pt", "--out", tmp_path / "out")
        assert done.status == 1
        assert f"  found: the class {name}\n" in done.err
        self.sound(done.err)
        with pytest.raises(IntegrityError, match=name):
            timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "file.pt")})

    def sound(self, told):
        import re

        assert re.fullmatch(BLOCK, told)
        assert "\x1b" not in told
        assert not re.search("weights_only|safe_globals|trust|two options|…", told)

    @pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04junk", b"\x80\x02junk", b"\x80\x02cos\nsystem\n."])
    def test_a_damaged_file_is_refused_in_whole_sentences(self, tmp_path, run, content):
        (tmp_path / "file.pt").write_bytes(content)
        done = run("weights", "convert", tmp_path / "file.pt", "--out", tmp_path / "out")
        assert done.status == 1
        self.sound(done.err)

    def test_a_program_of_torchscript_is_refused_as_that(self, tmp_path, run):
        with zipfile.ZipFile(tmp_path / "file.pt", "w") as archive:
            archive.writestr("file/constants.pkl", b"")
        done = run("weights", "convert", tmp_path / "file.pt", "--out", tmp_path / "out")
        assert "TorchScript" in done.err
        self.sound(done.err)


def linear(features=1280):
    return nn.Linear(features, 5)


def deep():
    return nn.Sequential(nn.Linear(1280, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 5))


class TestHeads:
    @pytest.mark.parametrize("layout", ["torchvision", "timm", "transformers"])
    @pytest.mark.parametrize("head", [linear, deep, nn.Identity, lambda: nn.Sequential(nn.Dropout(), linear())])
    def test_the_backbone_is_had_without_any_head(self, tmp_path, layout, head):
        model = theirs(layout, NAME)
        expected = convert.to_native(model.state_dict(), NAME, layout)
        model.classifier = head()
        for name in ("head", "aux", "projection"):
            setattr(model, name, linear())
        torch.save(model.state_dict(), tmp_path / "file.pth")
        made = from_checkpoint.convert_checkpoint(tmp_path / "file.pth", tmp_path / "out", backbone=True)
        assert (made.architecture, made.layout, made.arguments["num_classes"]) == (NAME, layout, 0)
        found = convert.read(tmp_path / "out/model.safetensors").tensors
        assert found.keys() == {key for key in expected if not key.startswith("classifier")}
        assert all(torch.equal(found[key], expected[key].to(found[key].dtype)) for key in found)

    @pytest.mark.parametrize(
        "head", [linear, lambda: nn.Sequential(linear()), lambda: nn.Sequential(nn.Dropout(), linear())]
    )
    @pytest.mark.parametrize("layout", ["torchvision", "timm", "transformers"])
    def test_a_plain_linear_head_converts_whole(self, tmp_path, layout, head):
        model = theirs(layout, NAME)
        model.classifier = head()
        torch.save(model.state_dict(), tmp_path / "file.pth")
        made = from_checkpoint.convert_checkpoint(tmp_path / "file.pth", tmp_path / "out")
        assert made.arguments["num_classes"] == 5
        found = convert.read(tmp_path / "out/model.safetensors").tensors
        (own,) = (module for module in model.classifier.modules() if isinstance(module, nn.Linear))
        assert torch.equal(found["classifier.weight"], own.weight)
        assert torch.equal(found["classifier.bias"], own.bias)

    def test_another_head_is_an_error_that_names_the_option(self, tmp_path, run):
        model = theirs("torchvision", NAME)
        model.classifier = deep()
        torch.save(model.state_dict(), tmp_path / "file.pth")
        done = run("weights", "convert", tmp_path / "file.pth", "--out", tmp_path / "out")
        assert done.status == 1
        assert "--backbone" in done.err

    def test_a_deeper_network_is_not_cut_to_fit(self):
        tensors = theirs("timm", NAME).state_dict()
        tensors |= {key.replace("blocks.6.", "blocks.7."): value for key, value in tensors.items()}
        with pytest.raises(ConversionError) as caught:
            convert.without_head(tensors)
        assert "blocks.7.0" in caught.value.found


ODD = {
    "a scalar stem": lambda t: t | {"conv_stem.weight": torch.tensor(1.0)},
    "a scalar head": lambda t: t | {"conv_head.weight": torch.tensor(1.0)},
    "a scalar classifier": lambda t: t | {"classifier.weight": torch.tensor(1.0)},
    "a scalar bias": lambda t: t | {"classifier.bias": torch.tensor(1.0)},
    "no classes": lambda t: t | {"classifier.weight": torch.zeros(0, 1280), "classifier.bias": torch.zeros(0)},
    "no colors": lambda t: t | {"conv_stem.weight": t["conv_stem.weight"][:, :0]},
    "no channels": lambda t: {key: value[:0] if value.ndim else value for key, value in t.items()},
    "scalars alone": lambda t: dict.fromkeys(t, torch.tensor(0.0)),
    "integers": lambda t: {key: value.to(torch.int8) for key, value in t.items()},
    "complex numbers": lambda t: {key: value.to(torch.complex64) for key, value in t.items()},
    "a sparse tensor": lambda t: t | {"conv_stem.weight": t["conv_stem.weight"].to_sparse()},
    "a tensor without values": lambda t: t | {"conv_stem.weight": t["conv_stem.weight"].to("meta")},
    "one number for a trillion": lambda t: t | {"conv_stem.weight": torch.zeros(1).expand(2**40)},
    "masks": lambda t: t | {"conv_stem.weight_orig": t["conv_stem.weight"], "conv_stem.weight_mask": torch.ones(1)},
    "numbers for names": lambda t: dict(enumerate(t.values())),
    "text": lambda t: t | {"conv_stem.weight": "none"},
    "nothing": lambda t: {},
    "a list": lambda t: list(t.values()),
    "None": lambda t: None,
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_checkpoint_is_one_clear_error(tmp_path, tensors, what):
    torch.save(ODD[what](tensors), tmp_path / "file.pt")
    for backbone in (False, True) if "class" not in what and "bias" not in what else (False,):
        with pytest.raises(ConversionError) as caught:
            from_checkpoint.convert_checkpoint(tmp_path / "file.pt", tmp_path / "out", backbone=backbone)
        assert caught.value.fix
        assert not (tmp_path / "out").exists()
    with pytest.raises(ConversionError):
        convert.to_native(ODD[what](tensors), NAME)


def test_the_error_names_the_network_that_comes_nearest(tensors):
    with pytest.raises(ConversionError) as caught:
        convert.identify(tensors | {"blocks.3.1.bn2.weight": torch.ones(7)})
    assert caught.value.problem.endswith(" does not match mnv2zoo_035")
    assert (caught.value.where, caught.value.found) == ("blocks.3.1.bn2.weight", (7,))


def test_weights_of_one_channel_take_an_input_size(tmp_path, run):
    model = timm.create_model(NAME, num_classes=3, in_chans=1)
    torch.save(model.state_dict(), tmp_path / "file.pt")
    done = run("weights", "convert", tmp_path / "file.pt", "--out", tmp_path / "out", "--input-size", 96)
    assert (done.status, done.err) == (0, "")
    cfg = json.loads((tmp_path / "out/config.json").read_text())["pretrained_cfg"]
    assert cfg["input_size"] == [1, 96, 96]
    assert (cfg["mean"], cfg["std"]) == ([0.449], [0.226])  # the averages of ImageNet's
    words = ("--out", tmp_path / "other", "--mean", 0.1, 0.2, 0.3)
    refused = run("weights", "convert", tmp_path / "file.pt", *words)
    assert (refused.status, len(refused.errors)) == (1, 1)
    assert "mean" in refused.err


def test_names_of_classes_in_another_encoding_are_one_error(tmp_path, tensors, run):
    torch.save(tensors, tmp_path / "file.pt")
    (tmp_path / "names.txt").write_bytes("Äpfel\nb\nc\n".encode("latin-1"))
    done = run("weights", "convert", tmp_path / "file.pt", "--labels", tmp_path / "names.txt", "--out", tmp_path / "o")
    assert (done.status, len(done.errors)) == (1, 1)
    assert "UTF-8" in done.err


def claim(file, shape, **options):
    """A Keras file of some kilobytes whose one array claims a shape."""
    with h5py.File(file, "w") as opened:
        opened.attrs["layer_names"] = [b"Conv1"]
        opened.create_dataset(
            "Conv1/Conv1/kernel:0", shape, "f4", chunks=tuple(min(4, side) for side in shape), **options
        )
    assert file.stat().st_size < 10_000
    return file


class TestSizes:
    """What a file claims is compared with what it holds before memory is taken for it."""

    PROGRAM = (
        "import resource, sys\nimport h5py, torch\nfrom mnv2zoo import convert\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)\n"
        "for file in sys.argv[1:]:\n    try:\n        convert.read(file)\n        print('read')\n"
        "    except convert.ConversionError as error:\n        print(error.found)\n"
    )

    def found(self, *files):
        """What is said of each file, in a process that has 300 MB for them."""
        done = subprocess.run(
            [sys.executable, "-c", self.PROGRAM, *files], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    @pytest.mark.slow
    def test_arrays_that_a_file_does_not_hold_are_refused(self, tmp_path):
        shapes = [
            (2**45,),  # 128 TiB
            (2**32, 2**32),  # 2**64 numbers, which an int64 counts as none
            (2**31, 2**31, 2**2, 1),
            (2**28, 1),  # 1 GiB
            (2**27,),  # less than is read of any file, and more than this one holds
        ]
        cases = [(shape, compression) for shape in shapes for compression in (None, "gzip")]
        files = [claim(tmp_path / f"{n}.h5", shape, compression=how) for n, (shape, how) in enumerate(cases)]
        told = self.found(*files)
        assert len(told) == len(cases)
        assert all("but the file contains fewer" in line or "arrays of more than" in line for line in told), told

    @pytest.mark.slow
    def test_what_unpacks_to_more_than_is_read_is_refused(self, tmp_path):
        with (
            zipfile.ZipFile(tmp_path / "file.pt", "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("file/data/0", "w", force_zip64=True) as record,
        ):
            for _ in range(1025):
                record.write(bytes(2**20))
        with zipfile.ZipFile(tmp_path / "file.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", b" " * 2**25)
            archive.writestr("model.weights.h5", b"")
        (tmp_path / "file.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
        torch_, keras, header = self.found(*(tmp_path / f"file.{kind}" for kind in ("pt", "keras", "safetensors")))
        assert "records of 1074790400 bytes" in torch_
        assert "config.json is larger than" in keras
        assert "header too large" in header

    def test_compressed_arrays_are_read(self, tmp_path):
        kernel = np.zeros((3, 3, 3, 16), "f4")
        with h5py.File(tmp_path / "file.h5", "w") as opened:
            opened.attrs["layer_names"] = [b"Conv1"]
            opened.create_dataset("Conv1/Conv1/kernel:0", data=kernel, compression="gzip", compression_opts=9)
        assert np.array_equal(convert.read(tmp_path / "file.h5").tensors["Conv1/kernel"], kernel)

    def test_images_are_not_enlarged_beyond_bounds_by_a_configuration(self, tmp_path, tiny):
        config = json.loads((pathlib.Path(tiny) / "config.json").read_text())
        config["pretrained_cfg"] |= {"input_size": [3, 4096, 4096], "crop_pct": 0.01}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(WeightsUnavailableError, match="409600 pixels"):
            names.describe(str(tmp_path))
