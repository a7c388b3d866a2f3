"""Weights through timm's front door, from a Hub on loopback."""

import io
import json
import warnings

import pytest
import timm
import torch
from PIL import Image

import mnv2zoo
from mnv2zoo.errors import IntegrityError, UnpinnedWeightsError, WeightsError, WeightsUnavailableError
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.weights import index
from tests.conftest import (
    GOOGLE,
    GOOGLE_SHA256,
    SAMPLES,
    as_bytes,
    needs_google,
    needs_samples,
    random_state_dict,
    raw_entry,
)

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def logits_of(name, state, **kwargs):
    net = timm.create_model(name, **kwargs).eval()
    net.load_state_dict(state)
    return net(IMAGES)


def test_timm_lists_exactly_ours():
    assert set(timm.list_models(module="mnv2zoo")) == set(mnv2zoo.architecture.CONFIGS)
    entries = mnv2zoo.weights.entries()
    assert {name for name in timm.list_models("mnv2zoo*", pretrained=True) if "." in name} == set(entries)
    assert set(mnv2zoo.list_models(pretrained=True)) == set(entries)


@pytest.mark.parametrize("name", ["mnv2zoo_050", "mnv2zoo_140_c20"])
def test_every_way_to_name_weights_gives_them(published, hub, name):
    expected = logits_of(name, published[name])
    for model in (
        timm.create_model(name, pretrained=True),
        timm.create_model(f"{name}.test", pretrained=True),
        timm.create_model(name, pretrained=True, pretrained_cfg="test"),
        timm.create_model(name, pretrained=True, pretrained_cfg=timm.get_pretrained_cfg(f"{name}.test").to_dict()),
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3)}),
    ):
        assert torch.equal(model.eval()(IMAGES), expected)
        assert not any(isinstance(value, torch.Tensor | dict) for value in model.pretrained_cfg.values())
    # One metadata request and one download in all; the cache served the rest.
    assert len(hub.requests) == 2


def test_timms_own_loader_is_never_reached(published, monkeypatch):
    from timm.models import _builder

    def reached(*args, **kwargs):
        raise AssertionError("timm's loader was reached")

    monkeypatch.setattr(_builder, "load_pretrained", reached)
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", reached)
    timm.create_model("mnv2zoo_050", pretrained=True)


def test_an_altered_cache_never_loads_and_is_replaced(published, hub):
    expected = logits_of("mnv2zoo_050", published["mnv2zoo_050"])
    path = mnv2zoo.weights.fetch("mnv2zoo_050")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    hub.clear()
    assert torch.equal(timm.create_model("mnv2zoo_050", pretrained=True).eval()(IMAGES), expected)
    assert any(request.method == "GET" for request in hub.requests)


@pytest.mark.slow
def test_a_hub_that_serves_other_bytes_is_refused(published, hub):
    hub.fail(wrong_bytes=b"x" * 100, match="model.safetensors")
    with pytest.raises(WeightsError) as caught:
        timm.create_model("mnv2zoo_050", pretrained=True)
    assert "model.safetensors" in str(caught.value)
    hub.heal()
    timm.create_model("mnv2zoo_050", pretrained=True)


def test_other_bytes_of_the_right_size_are_refused(published, hub):
    size = len(as_bytes(published["mnv2zoo_050"]))
    hub.fail(wrong_bytes=b"x" * size, match="model.safetensors")
    with pytest.raises(IntegrityError, match="sha256"):
        timm.create_model("mnv2zoo_050", pretrained=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 403}, {"status": 404, "error_code": "RepoNotFound"}, {"cut_after": 1000}]
)
def test_a_failing_hub_is_an_error_that_names_the_mirror(published, hub, fault):
    hub.fail(**fault)
    with pytest.raises(WeightsUnavailableError, match="MNV2ZOO_WEIGHTS_DIR"):
        timm.create_model("mnv2zoo_050", pretrained=True)


def test_features_only_takes_the_weights(published):
    net = timm.create_model("mnv2zoo_050", features_only=True, pretrained=True).eval()
    whole = timm.create_model("mnv2zoo_050").eval()
    whole.load_state_dict(published["mnv2zoo_050"])
    for ours, theirs in zip(net(IMAGES), whole.forward_intermediates(IMAGES)[1], strict=True):
        assert torch.equal(ours, theirs)


def test_a_saved_model_is_no_larger_than_its_weights(published):
    net = timm.create_model("mnv2zoo_050", features_only=True, pretrained=True)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    # The rest is names and classes: about as much as a model without weights.
    assert buffer.tell() < weights + 500_000


def test_a_name_without_weights_says_which_have_some(hub):
    with pytest.raises(WeightsUnavailableError, match=r"mnv2zoo_100\.ra_in1k"):
        timm.create_model("mnv2zoo_140_c20", pretrained=True)


def test_hub_repositories_of_our_architectures_load_safetensors_on_first_use(hub, monkeypatch):
    state = random_state_dict("mnv2zoo_035")
    config = {"architecture": "mnv2zoo_035", "num_classes": 1000, "pretrained_cfg": {"num_classes": 1000}}
    hub.add("someone/mine", "config.json", json.dumps(config).encode(), lfs=False)
    hub.add("someone/mine", "model.safetensors", as_bytes(state))
    with pytest.warns(UserWarning, match="trusted on first use"):
        net = timm.create_model("hf-hub:someone/mine", pretrained=True)
    assert torch.equal(net.eval()(IMAGES), logits_of("mnv2zoo_035", state))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        timm.create_model("hf-hub:someone/mine", pretrained=True)
    # Whatever is committed later, the first use holds.
    hub.add("someone/mine", "model.safetensors", as_bytes(random_state_dict("mnv2zoo_035", seed=9)))
    again = timm.create_model("hf-hub:someone/mine", pretrained=True)
    assert torch.equal(again.eval()(IMAGES), logits_of("mnv2zoo_035", state))
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", "1")
    with pytest.raises(UnpinnedWeightsError):
        timm.create_model("hf-hub:someone/mine", pretrained=True)


def test_what_was_saved_under_timms_name_is_verified_and_everything_else_of_timm_stays_timms(hub, monkeypatch):
    state = random_state_dict("mnv2zoo_035")
    config = {"architecture": "mobilenetv2_035", "num_classes": 1000, "pretrained_cfg": {"notes": ["mnv2zoo"]}}
    hub.add("someone/mine", "config.json", json.dumps(config).encode(), lfs=False)
    hub.add("someone/mine", "model.safetensors", as_bytes(state))
    with pytest.warns(UserWarning, match="trusted on first use"):
        net = timm.create_model("hf-hub:someone/mine", pretrained=True)
    assert isinstance(net, MobileNetV2)
    assert torch.equal(net.eval()(IMAGES), logits_of("mnv2zoo_035", state))
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", "1")
    with pytest.raises(UnpinnedWeightsError):
        timm.create_model("hf-hub:someone/mine", pretrained=True)

    theirs = timm.create_model("mobilenetv2_035", num_classes=3, aa_layer="avg")
    assert type(theirs).__module__ == "timm.models.efficientnet"
    assert "mobilenetv2_035" in timm.list_models(module="efficientnet")
    hub.add("someone/theirs", "config.json", json.dumps(config | {"pretrained_cfg": {}}).encode(), lfs=False)
    hub.add("someone/theirs", "model.safetensors", as_bytes(state))
    theirs = timm.create_model("hf-hub:someone/theirs", pretrained=True)
    assert type(theirs).__module__ == "timm.models.efficientnet"


def test_a_bad_further_index_is_an_error_at_the_first_use(tmp_path, monkeypatch):
    path = tmp_path / "index.json"
    path.write_text("{}")
    monkeypatch.setattr(index, "INDEX", index.Index(index.shipped_path(), path))
    for use in (
        lambda: timm.create_model("mnv2zoo_100"),
        mnv2zoo.list_models,
        lambda: mnv2zoo.model_info("mnv2zoo_100"),
    ):
        with pytest.raises(mnv2zoo.weights.WeightsIndexError, match=r"index\.json"):
            use()


@pytest.mark.slow
@needs_google
@needs_samples
def test_real_weights_classify_real_photos_as_timm_does(hub, overlay):
    data = GOOGLE.read_bytes()
    commit = hub.add("zoo/google", "model.safetensors", data)
    overlay(
        {
            "mnv2zoo_100.google": raw_entry(
                repo_id="zoo/google",
                revision=commit,
                sha256=GOOGLE_SHA256,
                size=len(data),
                mean=[0.5] * 3,
                std=[0.5] * 3,
                metrics=None,
            )
        }
    )
    ours = timm.create_model("mnv2zoo_100", pretrained=True).eval()
    theirs = timm.create_model("mobilenetv2_100", checkpoint_path=str(GOOGLE)).eval()
    preprocess = mnv2zoo.transforms("mnv2zoo_100")
    photos = sorted(SAMPLES.glob("*.jpg"))
    batch = torch.stack([preprocess(Image.open(photo).convert("RGB")) for photo in photos])
    with torch.no_grad():
        found, expected = ours(batch), theirs(batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    right = found.argmax(1) == torch.tensor([int(photo.name[:3]) for photo in photos])
    assert len(photos) == 100
    assert right.sum() >= 75
