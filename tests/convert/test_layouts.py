"""A conversion is right when the other library's own network gives the same logits."""

import logging

import pytest
import safetensors.torch
import timm
import torch

from mnv2zoo import architecture
from mnv2zoo.convert import LAYOUTS, from_native, identify, to_native
from mnv2zoo.convert.layouts import native
from mnv2zoo.errors import ConversionError
from tests.conftest import SHARED
from tests.convert.networks import CASES, DEEPER, PAPER, SUPPORTED, assert_same, logits, ours, theirs


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_their_weights_give_their_logits_in_our_network(layout, name):
    source, target = theirs(layout, name, num_classes=1000 if name in PAPER + DEEPER else 20), ours(name, layout)
    target.load_state_dict(to_native(source.state_dict(), name), strict=True)
    assert_same(logits(target), logits(source))


@pytest.mark.parametrize(("layout", "name"), [("d-li14", "mnv2zoo_035"), ("tonylins", "mnv2zoo_100")])
def test_state_dicts_of_the_original_repositories_give_the_recorded_logits(layout, name):
    file = SHARED / f"data/layouts/{layout}.safetensors"
    if not file.is_file():
        pytest.skip(f"the recorded outputs are not at {file}")
    recorded = safetensors.torch.load_file(file)
    tensors = {key.removeprefix("state_dict."): value for key, value in recorded.items() if key.startswith("state")}
    assert identify(tensors) == (name, layout)
    target = timm.create_model(name, num_classes=10).eval()
    target.load_state_dict(to_native(tensors, name), strict=True)
    with torch.no_grad():
        found = target(recorded["input"])
    torch.testing.assert_close(found, recorded["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_our_weights_give_our_logits_in_their_network(layout, name):
    source, target = ours(name, layout), theirs(layout, name)
    target.load_state_dict(from_native(source.state_dict(), name, layout), strict=True)
    assert_same(logits(target), logits(source))


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_a_round_trip_changes_nothing(layout, name):
    before = theirs(layout, name).state_dict()
    after = from_native(to_native(before, name), name, layout)
    assert after.keys() == before.keys()
    for key, value in before.items():
        # Adding and taking away the difference of two epsilons may cost the last bit.
        tolerance = 1e-15 if layout == "transformers" and key.endswith("running_var") else 0
        torch.testing.assert_close(after[key], value, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [name for names in (PAPER, DEEPER) for name in names])
def test_native_names_and_shapes_are_timms_own(name):
    tensors = ours(name).state_dict()
    expected = native.shapes(architecture.get(name))
    assert {key: tuple(value.shape) for key, value in tensors.items()} == expected
    assert list(tensors) == list(expected)


def test_the_tutorials_state_dict_has_327_entries():
    tensors = theirs("seed", "mnv2zoo_100_c20").state_dict()
    assert len(tensors) == len(to_native(tensors, "mnv2zoo_100_c20")) == 327


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_a_layout_is_recognised_and_may_be_named(layout, name):
    tensors = theirs(layout, name).state_dict()
    recognized, named = to_native(tensors, name), to_native(tensors, name, layout)
    assert recognized.keys() == named.keys()
    assert all(torch.equal(value, named[key]) for key, value in recognized.items())


def test_every_other_pair_of_layout_and_network_is_refused():
    for layout, possible in LAYOUTS.items():
        supported = [name for name, config in architecture.CONFIGS.items() if not possible.lacks(config)]
        # timm's is the native layout, so the 20-class models have it, although timm lacks these models.
        expected = list(architecture.CONFIGS) if layout == "timm" else {"keras": PAPER, **SUPPORTED}[layout]
        assert sorted(supported) == sorted(expected)


@pytest.mark.parametrize("layout", SUPPORTED)
def test_a_fine_tuned_network_keeps_its_number_of_classes(layout):
    name = SUPPORTED[layout][0]
    source = theirs(layout, name, num_classes=7)
    target = ours(name, layout, num_classes=7)
    target.load_state_dict(to_native(source.state_dict(), f"{name}.mine"), strict=True)
    assert_same(logits(target), logits(source))
    source.load_state_dict(from_native(target.state_dict(), name, layout), strict=True)


def test_a_network_for_other_images_keeps_its_input_channels():
    tensors = ours("mnv2zoo_035", in_chans=1).state_dict()
    there = from_native(tensors, "mnv2zoo_035", "torchvision")
    assert to_native(there, "mnv2zoo_035").keys() == tensors.keys()


@pytest.mark.parametrize("name", ["mnv2zoo_035", "mnv2zoo_050_c20"])
@pytest.mark.parametrize("form", architecture.CLASSIFIERS)
def test_a_network_keeps_the_form_of_its_classifier(name, form):
    tensors = timm.create_model(name, classifier=form).state_dict()
    assert to_native(tensors, name).keys() == tensors.keys()
    if not form.startswith("conv_bn"):
        with pytest.raises(ConversionError):
            from_native(tensors, name, "seed")
    if name == "mnv2zoo_035" and form != "linear":
        with pytest.raises(ConversionError, match=f"a classifier of the form {form.removesuffix('_act')}"):
            from_native(tensors, name, "torchvision")


def test_a_backbone_without_classifier_converts():
    source = ours("mnv2zoo_050", num_classes=0)
    there = from_native(source.state_dict(), "mnv2zoo_050", "torchvision")
    assert not [key for key in there if key.startswith("classifier")]
    assert to_native(there, "mnv2zoo_050").keys() == source.state_dict().keys()


def test_a_bare_transformers_backbone_converts():
    full = theirs("transformers", "mnv2zoo_050")
    bare = to_native(full.mobilenet_v2.state_dict(), "mnv2zoo_050")
    expected = to_native(full.state_dict(), "mnv2zoo_050")
    assert expected.keys() - bare.keys() == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(value, expected[key]) for key, value in bare.items())


def test_old_checkpoints_without_batch_counters_convert_and_load():
    source, target = theirs("torchvision", "mnv2zoo_035"), ours("mnv2zoo_035")
    tensors = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    target.load_state_dict(to_native(tensors, "mnv2zoo_035"), strict=True)
    assert_same(logits(target), logits(source))


class TestTransformers:
    """Settings that the keys do not show: padding, epsilon and the background class."""

    name = "mnv2zoo_035"

    @pytest.mark.parametrize("size", [(64, 64), (49, 50), (33, 35)])
    def test_same_padding_is_needed_for_their_logits(self, size):
        source, same, symmetric = theirs("transformers", self.name), ours(self.name, "transformers"), ours(self.name)
        for target in (same, symmetric):
            target.load_state_dict(to_native(source.state_dict(), self.name))
        assert_same(logits(same, size), logits(source, size))
        if size[0] % 2 == 0:
            assert not torch.allclose(logits(symmetric, size), logits(source, size), atol=1e-3)

    def test_tf_padding_off_is_needed_for_ours(self):
        source, target = ours(self.name), theirs("transformers", self.name, tf_padding=False)
        target.load_state_dict(from_native(source.state_dict(), self.name, "transformers"))
        assert_same(logits(target), logits(source))

    def test_the_conversion_says_so(self, caplog):
        tensors = theirs("transformers", self.name).state_dict()
        with caplog.at_level(logging.INFO, "mnv2zoo"):
            to_native(tensors, self.name)
        assert "pad_type='same'" in caplog.text

    def test_the_background_class_is_dropped(self):
        source, target = theirs("transformers", self.name, num_classes=1001), ours(self.name, "transformers")
        converted = to_native(source.state_dict(), self.name)
        target.load_state_dict(converted, strict=True)
        assert_same(logits(target), logits(source)[:, 1:])
        kept = converted["classifier.weight"]
        assert kept.untyped_storage().nbytes() == kept.nbytes, "a file of it would hold the dropped row"

    def test_no_background_class_is_made_up(self):
        there = from_native(ours(self.name).state_dict(), self.name, "transformers")
        assert len(there["classifier.bias"]) == 1000

    def test_other_layouts_keep_1001_classes(self):
        tensors = theirs("torchvision", self.name, num_classes=1001).state_dict()
        assert len(to_native(tensors, self.name)["classifier.bias"]) == 1001

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_a_variance_of_zero_survives_the_round_trip(self, dtype):
        tensors = theirs("transformers", self.name).to(dtype).state_dict()
        variance = tensors["mobilenet_v2.conv_stem.first_conv.normalization.running_var"].zero_()
        converted = to_native(tensors, self.name)
        assert converted["bn1.running_var"].dtype == dtype
        assert converted["bn1.running_var"].min() > 9e-4
        back = from_native(converted, self.name, "transformers")
        assert torch.equal(back["mobilenet_v2.conv_stem.first_conv.normalization.running_var"], variance)

    def test_a_variance_below_their_epsilon_is_refused(self):
        tensors = ours(self.name).state_dict()
        tensors["blocks.1.0.bn2.running_var"][3] = 5e-4
        tensors["blocks.2.1.bn3.running_var"][5] = 4e-4
        with pytest.raises(ConversionError) as caught:
            from_native(tensors, self.name, "transformers")
        assert caught.value.where == "blocks.2.1.bn3.running_var"
        assert caught.value.found == "0.0004"
        assert caught.value.expected == "a variance of at least 0.00099"
        assert "torchvision" in caught.value.fix
