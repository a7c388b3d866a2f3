"""Where tensors come from, and how they get into a model."""

import json

import pytest
import safetensors.torch
import timm
import torch

from mnv2zoo.errors import ConversionError, IntegrityError
from mnv2zoo.models import pretrained, registry
from tests.conftest import as_bytes, random_state_dict
from tests.models.test_registry import IMAGES, logits_of


@pytest.mark.parametrize("name", ["mnv2zoo_050", "mnv2zoo_140_c20"])
def test_another_number_of_classes_gets_a_new_classifier_and_the_same_features(published, name):
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=True, num_classes=7).eval()
    features = timm.create_model(name, num_classes=0).eval()
    features.load_state_dict({k: v for k, v in published[name].items() if not k.startswith("classifier")})
    assert torch.equal(net.forward_features(IMAGES), features.forward_features(IMAGES))
    weight = net.get_classifier().state_dict()
    # Initialized, not left as it was allocated: within the bounds of its initialization, and not constant.
    tensor = next(iter(weight.values()))
    assert tensor.shape[0] == 7
    assert 0 < tensor.std() < 1
    assert torch.isfinite(net(IMAGES)).all()
    if name.endswith("_c20"):
        assert torch.equal(net.classifier_bn.running_var, torch.ones(7))
        assert net.classifier_bn.num_batches_tracked == 0


@pytest.mark.parametrize("in_chans", [1, 2, 5])
def test_other_input_channels_adapt_the_stem_as_timm_does(published, in_chans):
    from timm.models._manipulate import adapt_input_conv

    net = timm.create_model("mnv2zoo_050", pretrained=True, in_chans=in_chans)
    expected = adapt_input_conv(in_chans, published["mnv2zoo_050"]["conv_stem.weight"])
    assert torch.equal(net.conv_stem.weight, expected)


def test_a_dropped_batch_norm_is_folded_into_the_classifier(published):
    name = "mnv2zoo_140_c20"
    folded = timm.create_model(name, pretrained=True, classifier="conv").eval()
    whole = timm.create_model(name, pretrained=True).eval()
    torch.testing.assert_close(folded(IMAGES).relu(), whole(IMAGES), rtol=1e-4, atol=1e-4)


def test_files_that_the_user_names_load(hub, tmp_path):
    state = random_state_dict("mnv2zoo_035")
    expected = logits_of("mnv2zoo_035", state)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    torch.save({"state_dict": state}, tmp_path / "checkpoint.pth")
    for path in (tmp_path / "model.safetensors", tmp_path / "checkpoint.pth"):
        one = timm.create_model("mnv2zoo_035", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
        other = timm.create_model("mnv2zoo_035", checkpoint_path=str(path))
        assert torch.equal(one.eval()(IMAGES), expected)
        assert torch.equal(other.eval()(IMAGES), expected)
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "mnv2zoo_035", "num_classes": 1000, "pretrained_cfg": {}})
    )
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(IMAGES), expected)


def test_a_checkpoint_with_a_part_missing_is_refused(tmp_path):
    state = random_state_dict("mnv2zoo_035")
    del state["blocks.3.1.bn2.running_mean"]
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(ConversionError, match=r"blocks\.3\.1\.bn2\.running_mean"):
        timm.create_model(
            "mnv2zoo_035", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "checkpoint.pth")}
        )


def test_memory_is_not_taken_for_a_million_classes_that_the_weights_have_not(run_folder, monkeypatch):
    monkeypatch.setattr(registry, "MobileNetV2", lambda *_, **__: pytest.fail("was built"))
    with pytest.raises(ConversionError, match="does not fit mnv2zoo_035 with 1000000 classes"):
        pretrained.load(run_folder({"num_classes": 10**6}, num_classes=10**6), "cpu")


def test_nor_for_weights_without_a_classifier(run_folder, tmp_path, monkeypatch):
    place = run_folder({"num_classes": 10**6}, num_classes=10**6)
    (tmp_path / "model.safetensors").write_bytes(as_bytes(random_state_dict("mnv2zoo_035", num_classes=0)))
    monkeypatch.setattr(registry, "MobileNetV2", lambda *_, **__: pytest.fail("was built"))
    with pytest.raises(ConversionError, match="does not fit mnv2zoo_035 with 1000000 classes"):
        pretrained.load(place, "cpu")


def test_weights_that_cannot_be_read_are_an_integrity_error(run_folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(IntegrityError, match="cannot read the checkpoint"):
        pretrained.load(run_folder(), "cpu")
