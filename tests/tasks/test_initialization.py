"""Where a training starts, and what of the network it changes."""

import pytest
import safetensors.torch
import timm
import torch
from timm.data import create_transform
from timm.models import adapt_input_conv

import mnv2zoo
from mnv2zoo.data import decode
from mnv2zoo.data.datasets import Sample
from mnv2zoo.errors import ConversionError, RecipeError, UnknownModelError, WeightsUnavailableError
from mnv2zoo.model_dir import files
from mnv2zoo.tasks import initialization, recipe
from tests.conftest import GOOGLE, SAMPLES, as_bytes, needs_google, needs_samples, random_state_dict

CLASSES = ("blue", "green", "red")
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def build(name, classes=CLASSES, samples=(), **values):
    values = recipe.make(**values)
    return initialization.build(*initialization.find(name, values), values, classes, samples)


def test_random_weights_come_from_the_seed():
    one, same, other = (build("mnv2zoo_035", init="random", seed=seed).model for seed in (3, 3, 4))
    assert torch.equal(one.conv_head.weight, same.conv_head.weight)
    assert not torch.equal(one.conv_head.weight, other.conv_head.weight)
    assert one.num_classes == 3


def test_without_weights_pretrained_is_an_error():
    with pytest.raises(WeightsUnavailableError, match="no pretrained weights are known for mnv2zoo_140_c20"):
        build("mnv2zoo_140_c20")


@pytest.mark.parametrize("layout", ["timm", "torchvision", "seed"])
def test_a_checkpoint_file_in_any_layout_is_a_start(tmp_path, layout):
    name = "mnv2zoo_100_c20" if layout == "seed" else "mnv2zoo_100"
    state = random_state_dict(name)
    foreign = state if layout == "timm" else mnv2zoo.convert.from_native(state, name, layout)
    torch.save({"state_dict": foreign}, tmp_path / "checkpoint.pth")
    (tmp_path / "checkpoint.safetensors").write_bytes(as_bytes(foreign))
    for suffix in ("pth", "safetensors"):
        model = build(name, init=str(tmp_path / f"checkpoint.{suffix}")).model
        for key, tensor in model.state_dict().items():
            assert key.startswith("classifier") or torch.equal(tensor, state[key]), key


def test_a_checkpoint_of_something_else_is_an_error(tmp_path):
    safetensors.torch.save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError):
        build("mnv2zoo_100", init=str(tmp_path / "other.safetensors"))
    with pytest.raises(UnknownModelError, match=r"(?s)unknown initial weights.*'nowhere.pth'"):
        build("mnv2zoo_100", init="nowhere.pth")


def test_weights_of_another_architecture_are_an_error(tmp_path):
    with pytest.raises(RecipeError, match=r"(?s)belong to another architecture.*mnv2zoo_140"):
        build("mnv2zoo_100", init="mnv2zoo_140")


def test_the_images_may_be_given_other_sizes_and_colors():
    given = build("mnv2zoo_035", init="random", input_size=96, test_input_size=128, mean=(0.1, 0.2, 0.3), crop_pct=1.0)
    assert given.preprocessing["input_size"] == (3, 96, 96)
    assert given.test_preprocessing["input_size"] == (3, 128, 128)
    assert given.test_preprocessing["mean"] == (0.1, 0.2, 0.3)
    assert given.test_preprocessing["crop_pct"] == 1.0


@pytest.mark.parametrize(
    ("train", "trained"),
    [
        ("all", 158),
        ("C1", 158),
        ("Bottleneck_2", 158 - 3 - 6),
        ("Bottleneck_17", 9 + 3 + 2),
        ("C2", 3 + 2),
        ("head", 2),
    ],
)
def test_what_comes_before_the_trained_part_is_frozen(train, trained):
    model = build("mnv2zoo_035", init="random").model
    frozen = initialization.freeze(model, train)
    assert sum(p.requires_grad for p in model.parameters()) == trained

    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    initialization.set_training(model, frozen)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(IMAGES).square().sum().backward()
    optimizer.step()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in changed if "running" not in name and "tracked" not in name} == names
    norms = {name.rpartition(".")[0] for name in names}
    assert {name for name in changed if "running" in name} <= {
        f"{n}.running_{kind}" for n in norms for kind in ("mean", "var")
    }


@pytest.mark.parametrize("name", ["mnv2zoo_035", "mnv2zoo_050_c20"])
def test_statistics_are_kept_while_all_else_learns(name):
    model = build(name, init="random").model
    model.load_state_dict(random_state_dict(name, num_classes=model.num_classes))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    initialization.set_training(model, initialization.norms(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(6, 3, 64, 64)).norm(dim=1)[0].backward()  # one image's, or its batch norm would undo it
    optimizer.step()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert {key for key in changed if "running" in key} == {key for key in before if "classifier_bn.running" in key}
    assert changed >= {"conv_head.weight", "bn2.weight", "classifier.weight"}


def test_random_weights_have_no_statistics_to_keep():
    with pytest.raises(RecipeError, match=r"(?s)random weights.*keep_statistics"):
        recipe.Recipe(init="random", keep_statistics=True)


def test_no_such_part_names_the_nearest():
    with pytest.raises(RecipeError, match=r"(?s)Bottleneck_17.*'Bottleneck_18'"):
        initialization.freeze(build("mnv2zoo_035", init="random").model, "Bottleneck_18")


def test_the_last_activation_is_skipped_in_training_alone():
    model = build("mnv2zoo_050_c20", init="random").model
    keys = set(model.state_dict())
    torch.nn.init.constant_(model.classifier_bn.bias, -1)
    model.eval()
    evaluated = model(IMAGES)
    initialization.skip_last_activation_in_training(model)
    assert set(model.state_dict()) == keys
    assert torch.equal(model(IMAGES), evaluated)
    assert evaluated.min() == 0
    model.train()
    assert model(IMAGES).min() < 0


@needs_google
@needs_samples
def test_the_20_class_network_starts_from_the_papers_weights():
    state = safetensors.torch.load_file(GOOGLE)
    model = timm.create_model("mnv2zoo_100_c20", pad_type="same")
    transform = create_transform((3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3)
    photos = torch.stack([transform(decode.read(file)) for file in sorted(SAMPLES.iterdir())[:24]])
    initialization.c20_from_paper(model, state, photos)
    paper = timm.create_model("mnv2zoo_100", pad_type="same", act_layer="relu")
    paper.load_state_dict(state)

    # But for the cut at 6 the two are the same function through the first stage; the strides differ later.
    def first_stage(net, x):
        return net.blocks[0](net.bn1(net.conv_stem(x)))

    with torch.inference_mode():
        ours, theirs = first_stage(model.eval(), photos), first_stage(paper.eval(), photos)
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-5

    # In training mode the identity holds too, on images like those that were measured.
    block = model.blocks[0][0]
    with torch.inference_mode():
        reached = model.bn1(model.conv_stem(photos))
        block.bn1.train()
        passed = block.bn1(block.conv_pw(reached))
    assert (passed - reached).abs().max() / reached.abs().max() < 1e-3


CFG = {"input_size": (3, 224, 224), "mean": (0.1, 0.2, 0.6), "std": (0.4, 0.5, 0.9), "interpolation": "bicubic"}


@pytest.mark.parametrize(
    ("weights", "resize", "crop_pct", "expected"),
    [
        ("center", None, None, ("center", 0.875)),
        ("center", "crop", None, ("center", 0.875)),
        ("center", "squash", None, ("squash", 1.0)),
        ("center", "letterbox", None, ("border", 1.0)),
        ("center", "letterbox", 0.9, ("border", 0.9)),
        ("border", None, None, ("border", 0.875)),
        ("border", "letterbox", None, ("border", 0.875)),
        ("border", "crop", None, ("center", 0.875)),
    ],
)
def test_a_new_way_of_fitting_shows_the_whole_image(weights, resize, crop_pct, expected):
    cfg = {**CFG, "crop_pct": 0.875, "crop_mode": weights}
    values = recipe.make(resize=resize, crop_pct=crop_pct)
    for test in (True, False):
        found = initialization._preprocessing(cfg, values, 3, test)
        assert (found["crop_mode"], found["crop_pct"]) == expected


def test_sizes_and_channels_are_those_of_the_recipe():
    cfg = {**CFG, "crop_pct": 0.875, "crop_mode": "center"}
    values = recipe.make(input_size="160x320", test_input_size=256)
    assert initialization._preprocessing(cfg, values, 3, False)["input_size"] == (3, 160, 320)
    assert initialization._preprocessing(cfg, values, 3, True)["input_size"] == (3, 256, 256)
    gray, four = (initialization._preprocessing(cfg, values, channels, False) for channels in (1, 4))
    assert gray["mean"] == pytest.approx((0.3,))
    assert gray["std"] == pytest.approx((0.6,))
    assert (four["input_size"], four["mean"]) == ((4, 160, 320), (0.1, 0.2, 0.6, 0.1))
    own = initialization._preprocessing(cfg, recipe.make(mean=[0.5], std=[1, 2, 3, 4]), 4, False)
    assert (own["mean"], own["std"]) == ((0.5,) * 4, (1, 2, 3, 4))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_stem_is_adapted_as_timm_adapts_it(channels):
    start = build("mnv2zoo_100_c20.cifar100_coarse", in_chans=channels)
    stem = mnv2zoo.weights.load("mnv2zoo_100_c20")["conv_stem.weight"]
    assert torch.equal(start.model.conv_stem.weight, adapt_input_conv(channels, stem))
    assert start.preprocessing["input_size"][0] == len(start.preprocessing["mean"]) == channels


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"in_chans": 4, "mean": (0.5, 0.5, 0.5)}, "mean"),
        ({"in_chans": 1, "std": (0.5, 0.5)}, "std"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"in_chans": 4, "auto_augment": "rand-m7"}, "auto_augment"),
        ({"in_chans": 1, "augment_on": "device"}, "augment_on"),
        ({"in_chans": 4, "augment_on": "device"}, "augment_on"),
        ({"in_chans": 4, "teacher": "mnv2zoo_100_c20"}, "teacher"),
    ],
    ids=str,
)
def test_values_that_do_not_suit_the_channels_are_refused(values, where):
    with pytest.raises(RecipeError) as error:
        initialization.find("mnv2zoo_035", recipe.make(init="random", **values))
    assert error.value.where == where


def test_tasks_for_rgb_refuse_other_networks(tmp_path):
    model = timm.create_model("mnv2zoo_035", num_classes=3, in_chans=1)
    for name, content in files.model_files(model, {"input_size": (1, 32, 32)}, CLASSES).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError) as error:
        initialization.find(str(tmp_path), recipe.make(), rgb_only=True)
    assert error.value.where == "model"
    assert "1 input channels" in error.value.found


def test_arrays_are_not_augmented_by_policies_for_photos(tmp_path):
    sample = Sample("ant/0.npy", 0, tmp_path / "0.npy", channels=1)
    with pytest.raises(RecipeError) as error:
        build("mnv2zoo_035", samples=[sample], init="random", in_chans=1, auto_augment="rand-m7")
    assert (error.value.where, error.value.found) == ("auto_augment", "ant/0.npy")
