"""Keras' own answers from our network, for every kind of file and every way to wrap the network.

Keras runs in a process of its own, on PyTorch, since a process can choose its backend once.
"""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from mnv2zoo import architecture, convert
from mnv2zoo.convert.layouts import native
from mnv2zoo.errors import ConversionError, MissingExtraError, RunError
from mnv2zoo.model_dir import from_checkpoint
from tests.convert.networks import PAPER, ours, randomized

h5py = pytest.importorskip("h5py")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs Keras, of the extra dev"),
]

SCRIPT = Path(__file__).with_name("keras_models.py")
NAME = "mnv2zoo_035"
KINDS = [".keras", ".h5", ".weights.h5", "-legacy.h5"]
ALPHAS = {0.35: "mnv2zoo_035", 0.5: "mnv2zoo_050", 0.75: "mnv2zoo_075", 1.0: "mnv2zoo_100", 1.4: "mnv2zoo_140"}


@pytest.fixture(scope="module")
def models(made_once) -> Path:
    """The folder that `keras_models.py` fills."""
    return made_once("keras", make_models)


def make_models(folder: Path) -> None:
    state = convert.from_native(ours(NAME, "keras").state_dict(), NAME, "keras")
    np.savez(folder / "native.npz", **{key: value.numpy() for key, value in state.items()})
    env = os.environ | {"KERAS_BACKEND": "torch", "KERAS_HOME": str(folder)}
    done = subprocess.run([sys.executable, SCRIPT, folder], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def network(file: Path, out: Path, **arguments) -> torch.nn.Module:
    """The network of the folder that a file is converted to."""
    from_checkpoint.convert_checkpoint(file, out, **arguments)
    return loaded(out)


def loaded(out: Path) -> torch.nn.Module:
    return timm.create_model(f"local-dir:{out}", pretrained=True).double().eval()


def case(models: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, C, H, W) and Keras' answer to them."""
    with np.load(models / f"{name}.npz") as saved:
        images, answer = (torch.from_numpy(saved[key]).double() for key in ("images", "answer"))
    return images.permute(0, 3, 1, 2), answer


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.1, "a network whose answer is all but constant proves nothing"
    # Keras' batch norms compute in single precision, whatever the model's is.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_our_weights_give_our_answer_in_keras(models):
    images, answer = case(models, "ours")
    assert_same(answer, ours(NAME, "keras")(images))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapped", ["whole", "sequential", "extended"])
@torch.no_grad()
def test_every_kind_of_file_gives_keras_answer(models, tmp_path, kind, wrapped):
    images, answer = case(models, wrapped)
    model = network(models / f"{wrapped}{kind}", tmp_path / "out")
    assert model.num_classes == (10 if wrapped == "whole" else 5)
    assert_same(model(images), answer)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_network_without_top_gives_keras_features(models, tmp_path, kind):
    images, answer = case(models, "backbone")
    model = network(models / f"backbone{kind}", tmp_path / "out")
    assert model.num_classes == 0
    assert_same(model.forward_features(images), answer.permute(0, 3, 1, 2))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_network_as_a_layer_behind_preprocessing_gives_keras_answer(models, tmp_path, kind):
    images, answer = case(models, "functional")
    made = from_checkpoint.convert_checkpoint(models / f"functional{kind}", tmp_path / "out")
    # Where the file tells of the preprocessing it is taken from there; where not, it is what Keras advises.
    assert (made.preprocessing["mean"], made.preprocessing["std"]) == ((0.5,) * 3, (0.5,) * 3)
    has_configuration = kind in (".keras", ".h5")
    assert ("mean" not in made.assumed) == ("input_size" not in made.assumed) == has_configuration
    assert made.preprocessing["input_size"] == ((3, 49, 50) if has_configuration else (3, 224, 224))
    assert_same(loaded(tmp_path / "out")((images / 255 - 0.5) / 0.5), answer)


@pytest.mark.parametrize("file", ["unit.keras", "unit.h5", "colored.keras"])
@torch.no_grad()
def test_images_rescaled_otherwise_are_normalised_likewise(models, tmp_path, file):
    images, answer = case(models, file.partition(".")[0])
    made = from_checkpoint.convert_checkpoint(models / file, tmp_path / "out")
    mean, std = (torch.tensor(made.preprocessing[key]).double().view(3, 1, 1) for key in ("mean", "std"))
    found = loaded(tmp_path / "out")((images / 255 - mean) / std)
    torch.testing.assert_close(found, answer, rtol=1e-4, atol=1e-4)  # config.json rounds to six digits


@pytest.mark.parametrize("alpha", [1.0, 1.4])
@torch.no_grad()
def test_wider_networks_give_keras_answer(models, tmp_path, alpha):
    images, answer = case(models, f"alpha_{alpha}")
    made = from_checkpoint.convert_checkpoint(models / f"alpha_{alpha}.weights.h5", tmp_path / "out")
    assert made.architecture == ALPHAS[alpha]
    assert_same(loaded(tmp_path / "out")(images), answer)


def test_every_alpha_of_the_zoo_rounds_channels_as_keras_does(models):
    for alpha, shapes in json.loads((models / "shapes.json").read_text()).items():
        name = ALPHAS[float(alpha)]
        state = {key: torch.zeros(shape) for key, shape in native.shapes(architecture.get(name)).items()}
        state |= {key: value + 1 for key, value in state.items() if key.endswith("running_var")}
        expected = {key: list(value.shape) for key, value in convert.from_native(state, name, "keras").items()}
        assert shapes == expected
    assert sorted(ALPHAS.values()) == sorted(PAPER)


@torch.no_grad()
def test_even_sides_and_networks_for_any_size(models, tmp_path):
    for name in ("even", "any_size"):
        images, answer = case(models, name)
        assert_same(network(models / f"{name}.keras", tmp_path / name)(images), answer)
    # Keras pads the odd maps of a network for any size as if they were even, which nothing else does.
    images, answer = case(models, "any_size-odd")
    assert not torch.allclose(loaded(tmp_path / "any_size")(images), answer, atol=1e-3)


@torch.no_grad()
def test_the_scores_before_a_softmax_come_out(models, tmp_path):
    images, answer = case(models, "softmax")
    found = network(models / "softmax.keras", tmp_path / "out")(images).softmax(1)
    torch.testing.assert_close(found, answer, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_padding_matters_and_the_variances_carry_epsilon(models, tmp_path):
    images, answer = case(models, "even")
    symmetric = network(models / "even.keras", tmp_path / "out", pad_type="")
    assert not torch.allclose(symmetric(images), answer, atol=1e-3)
    expected = convert.read(models / "even.keras").tensors["bn_Conv1/moving_variance"] + (1e-3 - 1e-5)
    torch.testing.assert_close(symmetric.state_dict()["bn1.running_var"], expected, rtol=0, atol=1e-7)


def test_weights_as_keras_gives_them_in_python_convert(models):
    tensors = convert.read(models / "sequential.keras").tensors
    expected = convert.to_native(tensors, NAME)
    for outer in ("mobilenetv2_0.35_224", "sequential/mobilenetv2_0.35_224"):
        arrays = {f"{outer}/{key}": value.numpy() for key, value in tensors.items()}
        found = convert.to_native(arrays, NAME, layout="keras")
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_there_and_back_changes_nothing_but_the_last_bit():
    before = randomized(timm.create_model(NAME, pad_type="same"), seed=3).state_dict()
    there = convert.from_native(before, NAME, "keras")
    after = convert.to_native(there, NAME)
    assert after.keys() == {key for key in before if not key.endswith(native.COUNTER)}
    for key, value in after.items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=1e-15)


class TestOlderFiles:
    """Files of earlier versions of Keras, made of today's by renaming what has changed."""

    def test_keras_3_used_not_to_tell_the_layers_names(self, models, tmp_path):
        for name in ("whole", "functional", "extended"):
            old = tmp_path / f"{name}.weights.h5"
            shutil.copy(models / f"{name}.weights.h5", old)
            with h5py.File(old, "r+") as file:
                groups = []
                file.visititems(lambda path, item, groups=groups: groups.append(item) if "name" in item.attrs else None)
                assert groups
                for group in groups:
                    del group.attrs["name"]
            self.same(convert.read(old), convert.read(models / f"{name}.weights.h5"))

    def test_keras_2_wrote_names_of_tensorflow(self, models, tmp_path):
        for name in ("whole-legacy", "sequential", "functional"):
            old = tmp_path / f"{name}.h5"
            shutil.copy(models / f"{name}.h5", old)
            with h5py.File(old, "r+") as file:
                arrays = []
                file.visititems(lambda path, item, a=arrays: a.append(path) if isinstance(item, h5py.Dataset) else None)
                for path in arrays:
                    kernel = "depthwise_kernel" if "depthwise/kernel" in path else path.rpartition("/")[2]
                    file.move(path, f"{path.rpartition('/')[0]}/{kernel}:0")
            self.same(convert.read(old), convert.read(models / f"{name}.h5"))

    def test_keras_2_wrote_operations_by_their_function(self, models, tmp_path):
        old = tmp_path / "functional.h5"
        shutil.copy(models / "functional.h5", old)
        operations = {"true_divide": ("math.truediv", 127.5), "subtract": ("math.subtract", 1.0)}
        with h5py.File(old, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            for layer in config["config"]["layers"]:
                if operation := operations.pop(layer["name"], None):
                    layer["class_name"] = "TFOpLambda"
                    layer["config"]["function"] = operation[0]
                    layer["inbound_nodes"] = [["random_flip", 0, 0, {"y": operation[1], "name": None}]]
            file.attrs["model_config"] = json.dumps(config)
        assert not operations
        assert convert.read(old).preprocessing["std"] == (0.5, 0.5, 0.5)

    @staticmethod
    def same(found, expected):
        old, new = (convert.to_native(each.tensors, NAME) for each in (found, expected))
        assert old.keys() == new.keys()
        assert all(torch.equal(value, old[key]) for key, value in new.items())


class TestHeads:
    """Heads other than one dense layer behind global average pooling."""

    @pytest.mark.parametrize("file", ["hidden.keras", "hidden.h5", "hidden.weights.h5"])
    def test_two_dense_layers_are_refused_by_name(self, models, file):
        message = r"(?s)layers that a MobileNetV2 cannot have.*kernel \(1280, 8\).*--backbone"
        with pytest.raises(ConversionError, match=message) as caught:
            convert.to_native(convert.read(models / file).tensors, NAME)
        assert "dense_" in caught.value.found or "dense/" in caught.value.found

    def test_a_dense_layer_behind_no_pooling_is_refused(self, models):
        with pytest.raises(ConversionError, match=r"\(5120, 4\)"):
            convert.to_native(convert.read(models / "flattened.weights.h5").tensors, NAME)

    @pytest.mark.parametrize("file", ["max_pooled.keras", "max_pooled.h5"])
    def test_other_pooling_is_refused_where_the_file_tells_of_it(self, models, file):
        with pytest.raises(ConversionError, match=r"(?s)GlobalMaxPooling2D.*save_weights"):
            convert.read(models / file)

    @pytest.mark.parametrize("file", ["hidden.keras", "hidden.weights.h5", "max_pooled.h5", "flattened.weights.h5"])
    @torch.no_grad()
    def test_the_backbone_alone_comes_out_when_asked_for(self, models, tmp_path, file):
        model = network(models / file, tmp_path / "out", backbone=True)
        assert model.num_classes == 0
        assert model(torch.zeros(1, 3, 64, 64).double()).shape == (1, 1280)

    @pytest.mark.parametrize("kind", ["Resizing", "RandomCrop", "Normalization"])
    def test_what_comes_before_the_network_is_refused_even_so(self, models, tmp_path, kind):
        file = with_layer(models / "unit.keras", tmp_path / "new.keras", {"class_name": kind})
        for backbone in (False, True):
            with pytest.raises(ConversionError, match=f"{kind} 'mine'"):
                convert.read(file, backbone)

    def test_a_lambda_is_refused_and_not_run(self, models, tmp_path):
        marker = tmp_path / "ran"
        code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
        values = {"class_name": "Lambda", "config": {"name": "mine", "function": {"config": {"code": code}}}}
        file = with_layer(models / "functional.keras", tmp_path / "new.keras", values)
        with pytest.raises(ConversionError, match="Lambda 'mine'"):
            convert.read(file)
        assert not marker.exists()

    def test_a_class_of_ones_own_is_refused(self, models, tmp_path):
        def change(config):
            config["class_name"], config["config"] = "MyModel", {"name": "mine"}

        with pytest.raises(ConversionError, match="MyModel 'mine'"):
            convert.read(changed(models / "whole.keras", tmp_path / "new.keras", change))

    def test_two_networks_in_one_model_are_refused(self, models):
        with pytest.raises(ConversionError, match="two tensors have the same name"):
            convert.read(models / "two.weights.h5")


def changed(file: Path, out: Path, change) -> Path:
    """A copy of a `.keras` file with another configuration."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w") as new:
        config = json.loads(old.read("config.json"))
        change(config)
        new.writestr("config.json", json.dumps(config))
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
    return out


def with_layer(file: Path, out: Path, layer: dict) -> Path:
    return changed(file, out, lambda config: config["config"]["layers"].insert(1, {"config": {"name": "mine"}} | layer))


def test_a_width_that_the_zoo_has_not_is_refused_with_those_it_has(models, tmp_path):
    tensors = convert.read(models / "alpha_1.3.weights.h5").tensors
    for call in (lambda: convert.identify(tensors), lambda: convert.to_native(tensors, "mnv2zoo_140")):
        with pytest.raises(ConversionError) as caught:
            call()
        assert "40 channels in the stem and 1664 in the head" in caught.value.fix
        assert "0.35, 0.5, 0.75, 1, 1.1, 1.2, 1.4" in caught.value.fix


def test_an_architecture_of_another_width_is_refused_with_the_right_one(models):
    with pytest.raises(ConversionError, match="The tensors match mnv2zoo_035 in the layout keras"):
        convert.to_native(convert.read(models / "whole.keras").tensors, "mnv2zoo_050")


class TestMalformed:
    """One clear error for whatever is no sound file."""

    @pytest.mark.parametrize("kind", [".keras", ".h5", ".weights.h5"])
    def test_damage_is_one_error(self, models, tmp_path, kind):
        data = (models / f"whole{kind}").read_bytes()
        random = np.random.default_rng(0)
        files = {
            "empty": b"",
            "short": data[:5000],
            "half": data[: len(data) // 2],
            "text": b"not a file of Keras" * 50,
        }
        for number in range(8):
            bad = bytearray(data)
            for place in random.integers(0, 20_000, 40):
                bad[place] = random.integers(256)
            files[f"bad{number}"] = bytes(bad)
        for name, content in files.items():
            file = tmp_path / f"{name}{kind}"
            file.write_bytes(content)
            try:
                convert.to_native(convert.read(file).tensors, NAME)
            except ConversionError:
                continue
            assert name.startswith("bad"), name  # in which the damage may have hit nothing that is read

    def test_the_error_names_the_file(self, tmp_path):
        file = tmp_path / "x.keras"
        file.write_bytes(b"PK")
        with pytest.raises(ConversionError, match=r"expected: a valid \.keras file") as caught:
            convert.read(file)
        assert caught.value.where == file

    def test_other_files_are_refused_by_their_names(self, tmp_path):
        (tmp_path / "saved_model").mkdir()
        (tmp_path / "x.tflite").touch()
        for name, told in (
            ("saved_model", "SavedModel"),
            ("x.tflite", "Name another"),
            ("none.keras", "Check the path"),
        ):
            with pytest.raises(ConversionError, match=told):
                convert.read(tmp_path / name)

    def test_arrays_in_other_files_are_not_followed(self, tmp_path, models):
        secret = tmp_path / "secret.bin"
        secret.write_bytes(bytes(4000))
        linked, external = tmp_path / "linked.h5", tmp_path / "external.h5"
        for file in (linked, external):
            shutil.copy(models / "whole-legacy.h5", file)
        with h5py.File(linked, "r+") as file:
            del file["Conv1/Conv1/kernel"]
            file["Conv1/Conv1/kernel"] = h5py.ExternalLink(str(models / "whole-legacy.h5"), "Conv1/Conv1/kernel")
        with h5py.File(external, "r+") as file:
            del file["Conv1/Conv1/kernel"]
            file.create_dataset("Conv1/Conv1/kernel", (3, 3, 3, 16), "f8", external=[(str(secret), 0, 3456)])
        with pytest.raises(ConversionError, match="expected: Conv1/kernel"):
            convert.to_native(convert.read(linked).tensors, NAME)
        with pytest.raises(ConversionError, match="is in another file"):
            convert.read(external)

    def test_an_array_that_is_larger_than_any_network_is_not_read(self, tmp_path, models):
        file = tmp_path / "large.h5"
        shutil.copy(models / "whole-legacy.h5", file)
        with h5py.File(file, "r+") as opened:
            opened.create_dataset("large/kernel", (2**20, 2**20), "f4", chunks=(1024, 1024), compression="gzip")
        with pytest.raises(ConversionError, match="arrays of more than"):
            convert.read(file)

    def test_a_zip_member_that_is_larger_than_any_network_is_not_read(self, tmp_path, monkeypatch):
        from mnv2zoo.convert import keras_files

        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", bytes(100_000))
        monkeypatch.setattr(keras_files, "MAX_CONFIG_BYTES", 99_999)
        (tmp_path / "x.keras").write_bytes(buffer.getvalue())
        with pytest.raises(ConversionError, match="larger than 99999 bytes"):
            convert.read(tmp_path / "x.keras")

    def test_without_h5py_the_extra_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "h5py", None)
        (tmp_path / "x.h5").touch()
        with pytest.raises(MissingExtraError, match=r"\[keras\]"):
            convert.read(tmp_path / "x.h5")


def test_a_folder_with_something_in_it_stays_as_it_is(models, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(RunError, match="new or empty"):
        from_checkpoint.convert_checkpoint(models / "whole.keras", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
