"""The initial weights of a segmenter, and the part of it that is trained."""

import pytest
import timm
import torch

from mnv2zoo import segmentation
from mnv2zoo.data.layout import Layout
from mnv2zoo.errors import ConversionError, RecipeError
from mnv2zoo.tasks import initialization
from mnv2zoo.tasks.initialization import set_training
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.tasks.segment import Segment, data, model
from tests.conftest import GOOGLE, needs_google
from tests.tasks.segment.scenes import fill
from tests.training.runs import save_run

SMALL = "mnv2zoo_035"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return data.find(fill(tmp_path_factory.mktemp("scenes")), Layout())


@pytest.fixture
def build(scenes):
    def build(name=SMALL, data=scenes, **values):
        recipe = Recipe(**{**Segment.defaults, "init": "random", "input_size": 32, **values})
        return model.build(*initialization.find(name, recipe), recipe, data)

    return build


def save(start, folder):
    """A run folder of a segmenter."""
    folder.mkdir()
    for name, content in model.model_files(start.model, start.preprocessing, start.model.label_names).items():
        (folder / name).write_bytes(content)
    return folder


def backbone_of(start):
    return start.model.backbone.state_dict()


def test_random_weights_depend_on_the_seed_alone(build):
    one, same, other = build(), build(), build(seed=1)
    key = "net.classifier.low_classifier.weight"
    assert torch.equal(one.model.state_dict()[key], same.model.state_dict()[key])
    assert not torch.equal(one.model.state_dict()[key], other.model.state_dict()[key])
    assert one.origin == "random initialization"
    assert one.fingerprint == same.fingerprint
    assert one.model.training


@pytest.mark.parametrize("head", ["lraspp", "smp:Unet"])
def test_a_classifiers_run_gives_its_backbone(build, tmp_path, head):
    run = save_run(tmp_path / "run", seed=3, pad_type="same")
    start = build(init=str(run), head=head)
    known = timm.create_model(f"local-dir:{run}", pretrained=True).state_dict()
    assert all(torch.equal(tensor, known[name]) for name, tensor in backbone_of(start).items())
    assert start.origin == str(run)
    assert start.model.arguments == {"pad_type": "same"}  # as the weights were trained
    assert start.preprocessing["mean"] == (0.5, 0.5, 0.5)
    assert start.fingerprint != build(init="random", head=head).fingerprint


@needs_google
@pytest.mark.parametrize("head", ["deeplabv3", "smp:FPN"])
def test_a_file_of_weights_gives_its_backbone(build, head):
    colors = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    start = build("mnv2zoo_100", init=str(GOOGLE), pad_type="same", head=head, **colors)
    known = timm.create_model(
        "mnv2zoo_100", pretrained=True, pad_type="same", pretrained_cfg_overlay={"file": str(GOOGLE)}, num_classes=0
    ).eval()
    state = known.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone_of(start).items())
    images = torch.rand(1, 3, 64, 64)
    backbone = start.model.eval().backbone
    with torch.inference_mode():
        assert torch.equal(backbone.bn1(backbone.conv_stem(images)), known.bn1(known.conv_stem(images)))
    assert (start.preprocessing["mean"], start.preprocessing["std"]) == ((0.5,) * 3, (0.5,) * 3)


def test_a_segmenters_run_gives_all_of_it_if_head_and_classes_agree(build, scenes, tmp_path):
    first = build(seed=5, pad_type="same")
    run = str(save(first, tmp_path / "run"))
    again = build(init=run, seed=6)
    assert all(torch.equal(tensor, first.model.state_dict()[name]) for name, tensor in again.model.state_dict().items())
    assert again.model.arguments == {"pad_type": "same"}
    for other in (build(init=run, head="smp:Linknet"), build(init=run, data=renamed(scenes))):
        own, known = backbone_of(other), backbone_of(first)
        # A decoder at stride 32 has the last stage, which the other head has too.
        assert all(torch.equal(tensor, known[name]) for name, tensor in own.items())
    key = "net.classifier.low_classifier.weight"
    assert not torch.equal(other.model.state_dict()[key], first.model.state_dict()[key])


def renamed(scenes):
    return type(scenes)(("a", "b", "c"), scenes.splits)


def test_weights_that_do_not_fit_are_refused(build, tmp_path):
    run = str(save(build(head="smp:PSPNet"), tmp_path / "run"))
    with pytest.raises(ConversionError) as error:
        build(init=run)
    assert "that the head 'lraspp' needs" in error.value.problem
    with pytest.raises(ConversionError) as error:
        build("mnv2zoo_050", init=run)
    assert (error.value.expected, error.value.found) == ("mnv2zoo_050", SMALL)
    with pytest.raises(RecipeError):
        build("mnv2zoo_050", init=str(save_run(tmp_path / "classifier")))


def test_the_size_is_that_of_the_images_the_recipe_or_the_run(build, tmp_path):
    assert build().preprocessing["input_size"] == (3, 32, 40)
    start = build(input_size=64, test_input_size=96)
    assert start.preprocessing["input_size"] == (3, 64, 88)
    assert start.test_preprocessing["input_size"] == (3, 96, 128)
    by_images = build(input_size=None)  # 48 x 36 pixels
    assert by_images.preprocessing["input_size"] == (3, 32, 40)
    run = str(save(start, tmp_path / "run"))
    assert build(init=run, input_size=None).preprocessing["input_size"] == (3, 64, 88)
    assert start.preprocessing["interpolation"] == "bilinear"
    with pytest.raises(RecipeError) as error:
        build(start_input_size=32)
    assert error.value.where == "start_input_size"


def trained_parts(start, **values):
    """The first names of the trained parameters of the backbone, and whether the head is trained."""
    frozen = model.freeze(start.model, Recipe(**values))
    names = [name for name, p in start.model.backbone.named_parameters() if p.requires_grad]
    head = {id(p) for p in start.model.parameters()} - {id(p) for p in start.model.backbone.parameters()}
    assert all(p.requires_grad for p in start.model.parameters() if id(p) in head)
    return names, frozen


def test_a_part_is_trained(build):
    assert trained_parts(build())[1] == []
    names, frozen = trained_parts(build(), train="head")
    assert names == []
    start = build(head="smp:Unet")
    names, frozen = trained_parts(start, train="Bottleneck_4")
    assert names[0] == "blocks.2.0.conv_pw.weight"
    assert not [name for name in names if name.startswith(("conv_stem", "blocks.0", "blocks.1"))]
    set_training(start.model, frozen)
    assert not start.model.backbone.blocks[1].training or not start.model.backbone.blocks[1][0].training
    assert start.model.backbone.blocks[2][0].training
    with pytest.raises(RecipeError) as error:
        trained_parts(start, train="Bottleneck_44")
    assert error.value.where == "train"


def test_statistics_of_the_backbone_can_be_kept(build):
    start = build(head="deeplabv3")
    frozen = model.freeze(start.model, Recipe(keep_statistics=True, init="pretrained"))
    set_training(start.model, frozen)
    was = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    start.model(torch.rand(2, 3, 32, 40))
    changed = {name for name, tensor in start.model.state_dict().items() if not torch.equal(tensor, was[name])}
    assert changed
    assert not [name for name in changed if name.startswith("net.backbone")]


def test_the_backbone_is_a_part_of_the_whole(build):
    for head in ("lraspp", "smp:Unet"):
        start = build(head=head)
        own = {id(p) for p in Segment().backbone(start.model).parameters()}
        assert 0 < len(own) < len(list(start.model.parameters()))
        assert own < {id(p) for p in start.model.parameters()}


def test_the_files_describe_the_head(build, tmp_path):
    start = build(head="deeplabv3", output_stride=8, pad_type="same")
    folder = save(start, tmp_path / "run")
    loaded = segmentation.load(folder, "cpu")
    assert loaded.head == {"name": "deeplabv3", "output_stride": 8}
    assert loaded.arguments == {"pad_type": "same"}
    images = torch.rand(1, 3, 32, 40)
    with torch.inference_mode():
        assert torch.equal(loaded(images), start.model.eval()(images))


def test_both_sides_may_be_given(build):
    start = build(input_size="64x40", test_input_size=48)
    assert start.preprocessing["input_size"] == (3, 64, 40)
    assert start.test_preprocessing["input_size"] == (3, 48, 64)


def test_one_number_is_the_mean_of_all_colors(build):
    start = build(mean=[0.5], std=[0.25])
    assert (start.preprocessing["mean"], start.preprocessing["std"]) == ((0.5,) * 3, (0.25,) * 3)
