"""Weights through timm's front door, from a Hub on loopback."""

import hashlib
import io
import json
import warnings

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import mnv2zoo
from mnv2zoo.errors import ConversionError, IntegrityError, UnpinnedWeightsError, WeightsError, WeightsUnavailableError
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


@pytest.fixture
def published(hub, overlay):
    """Random weights for two networks on the Hub, pinned in an index; gives their state dicts."""
    states, entries = {}, {}
    for name, labels in (("mnv2zoo_050", "imagenet-1k"), ("mnv2zoo_050_c20", None)):
        states[name] = random_state_dict(name)
        data = as_bytes(states[name])
        commit = hub.add(f"zoo/{name}", "model.safetensors", data)
        sha256 = hashlib.sha256(data).hexdigest()
        entries[f"{name}.test"] = raw_entry(
            repo_id=f"zoo/{name}",
            revision=commit,
            sha256=sha256,
            size=len(data),
            labels=labels,
            num_classes=1000 if labels else 20,
        )
    overlay(entries)
    return states


def logits_of(name, state, **kwargs):
    net = timm.create_model(name, **kwargs).eval()
    net.load_state_dict(state)
    return net(IMAGES)


def test_timm_lists_exactly_ours():
    assert set(timm.list_models(module="mnv2zoo")) == set(mnv2zoo.architecture.CONFIGS)
    entries = mnv2zoo.weights.entries()
    assert {name for name in timm.list_models("mnv2zoo*", pretrained=True) if "." in name} == set(entries)
    assert set(mnv2zoo.list_models(pretrained=True)) == set(entries)


@pytest.mark.parametrize("name", ["mnv2zoo_050", "mnv2zoo_050_c20"])
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


@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 403}, {"status": 404, "error_code": "RepoNotFound"}, {"cut_after": 1000}]
)
def test_a_failing_hub_is_an_error_that_names_the_mirror(published, hub, fault):
    hub.fail(**fault)
    with pytest.raises(WeightsUnavailableError, match="MNV2ZOO_WEIGHTS_DIR"):
        timm.create_model("mnv2zoo_050", pretrained=True)


@pytest.mark.parametrize("name", ["mnv2zoo_050", "mnv2zoo_050_c20"])
def test_another_number_of_classes_gets_a_new_classifier_and_the_same_features(published, name):
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=True, num_classes=7).eval()
    features = timm.create_model(name, num_classes=0).eval()
    features.load_state_dict({k: v for k, v in published[name].items() if not k.startswith("classifier")})
    assert torch.equal(net.forward_features(IMAGES), features.forward_features(IMAGES))
    weight = net.get_classifier().state_dict()
    # Initialised, not left as it was allocated: within the bounds of its initialisation, and not constant.
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


def test_a_dropped_batch_norm_is_folded_into_the_classifier(published):
    name = "mnv2zoo_050_c20"
    folded = timm.create_model(name, pretrained=True, classifier="conv").eval()
    whole = timm.create_model(name, pretrained=True).eval()
    torch.testing.assert_close(folded(IMAGES).relu(), whole(IMAGES), rtol=1e-4, atol=1e-4)


def test_a_name_without_weights_says_which_have_some(hub):
    with pytest.raises(WeightsUnavailableError, match=r"mnv2zoo_100\.ra_in1k"):
        timm.create_model("mnv2zoo_035", pretrained=True)


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
