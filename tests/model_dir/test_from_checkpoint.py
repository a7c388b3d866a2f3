"""Files of every library become folders that timm and the command line take."""

import pytest
import safetensors.torch
import timm
import torch

from mnv2zoo import convert
from mnv2zoo.data import decode
from mnv2zoo.errors import ConversionError
from mnv2zoo.model_dir import from_checkpoint
from mnv2zoo.models import names, pretrained
from mnv2zoo.tasks import initialization, recipe
from tests.conftest import GOOGLE, SAMPLES, needs_google, needs_samples, random_state_dict
from tests.convert.networks import logits, theirs


@pytest.mark.parametrize(
    ("layout", "name", "suffix"),
    [
        ("timm", "mnv2zoo_035", ".safetensors"),
        ("torchvision", "mnv2zoo_050", ".pth"),
        ("transformers", "mnv2zoo_035", ".bin"),
        ("seed", "mnv2zoo_050_c20", ".pt"),
    ],
)
def test_a_file_of_any_library_gives_its_answer(layout, name, suffix, tmp_path):
    source, file = theirs(layout, name, num_classes=7), tmp_path / f"file{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(source.state_dict(), file)
    else:
        torch.save({"state_dict": source.state_dict(), "epoch": 3}, file)
    made = from_checkpoint.convert_checkpoint(
        file, tmp_path / "out", label_names=[f"class {number}" for number in range(7)]
    )
    assert (made.architecture, made.layout) == (name, layout)
    found = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).double().eval()
    torch.testing.assert_close(logits(found), logits(source), rtol=1e-4, atol=1e-4)
    described = names.describe(str(tmp_path / "out"))
    assert described.label_names[6] == "class 6"
    assert described.arguments["pad_type"] == ("same" if layout == "transformers" else "symmetric")
    half = layout == "transformers"
    assert described.cfg["mean"] == ([0.5] * 3 if half else [0.485, 0.456, 0.406])
    assert described.cfg["interpolation"] == ("bilinear" if layout in ("torchvision", "transformers") else "bicubic")


def test_a_classifier_of_another_form_is_kept(tmp_path):
    source = timm.create_model("mnv2zoo_035", classifier="conv", num_classes=3).double().eval()
    torch.save(source.state_dict(), tmp_path / "file.pt")
    from_checkpoint.convert_checkpoint(tmp_path / "file.pt", tmp_path / "out")
    found = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).double().eval()
    assert found.classifier.weight.ndim == 4
    torch.testing.assert_close(logits(found), logits(source), rtol=1e-4, atol=1e-4)


def test_training_starts_from_the_folder(tmp_path):
    torch.save(theirs("transformers", "mnv2zoo_035", num_classes=3).state_dict(), tmp_path / "file.bin")
    from_checkpoint.convert_checkpoint(tmp_path / "file.bin", tmp_path / "out", label_names=["ant", "bee", "cat"])
    values = recipe.make(init=str(tmp_path / "out"))
    built = initialization.build(*initialization.find("mnv2zoo_035", values), values, ["ant", "bee", "cat"], [])
    expected = convert.read(tmp_path / "out/model.safetensors").tensors
    assert all(torch.equal(value, expected[key]) for key, value in built.model.state_dict().items())
    assert type(built.model.conv_stem).__name__ == "Conv2dSame"
    assert list(built.preprocessing["mean"]) == [0.5, 0.5, 0.5]


def test_weights_are_identified():
    for layout, name in (("seed", "mnv2zoo_140_c20"), ("torchvision", "mnv2zoo_110d"), ("timm", "mnv2zoo_120d")):
        assert convert.identify(theirs(layout, name).state_dict()) == (name, layout)
    with pytest.raises(ConversionError, match="closest layout is torchvision"):
        convert.identify({"features.0.0.weight": torch.ones(1)})


@needs_google
@needs_samples
def test_real_weights_need_their_padding_and_normalization(tmp_path):
    photos = sorted(SAMPLES.glob("*.jpg"))[:20]
    right = {}
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    for padding in ("same", ""):
        from_checkpoint.convert_checkpoint(GOOGLE, tmp_path / f"pad{padding}", pad_type=padding, preprocessing=half)
        net = pretrained.load(str(tmp_path / f"pad{padding}"), "cpu")
        found = [int(net.model(image[None]).argmax()) for _, image in decode.read_all(photos, net.transform)]
        right[padding] = sum(c == int(photo.name[:3]) for c, photo in zip(found, photos, strict=True))
    assert right["same"] >= 15
    assert right["same"] >= right[""]


@pytest.mark.parametrize(
    ("given", "mean"),
    [
        ({}, (0.485, 0.456, 0.406, 0.485)),  # in turn, as timm repeats the stem
        ({"mean": (0.3, 0.3, 0.3)}, (0.3, 0.3, 0.3, 0.3)),
        ({"mean": (0.1, 0.2, 0.3, 0.4)}, (0.1, 0.2, 0.3, 0.4)),
    ],
    ids=str,
)
def test_statistics_are_for_the_channels_of_the_weights(tmp_path, given, mean):
    tensors = random_state_dict("mnv2zoo_035", num_classes=2, in_chans=4)
    safetensors.torch.save_file(tensors, tmp_path / "file.safetensors")
    made = from_checkpoint.convert_checkpoint(tmp_path / "file.safetensors", tmp_path / "out", preprocessing=given)
    assert made.preprocessing["mean"] == pytest.approx(mean)


def test_given_statistics_for_other_channels_are_refused(tmp_path):
    tensors = random_state_dict("mnv2zoo_035", num_classes=2, in_chans=4)
    safetensors.torch.save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(ConversionError) as failure:
        from_checkpoint.convert_checkpoint(
            tmp_path / "file.safetensors", tmp_path / "out", preprocessing={"std": (0.1, 0.2, 0.3)}
        )
    assert (failure.value.where, failure.value.found) == ("std", (0.1, 0.2, 0.3))
    assert not (tmp_path / "out").exists()
