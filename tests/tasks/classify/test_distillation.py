"""A teacher sees what its weights want to see, and answers in the student's terms."""

import pytest
import timm
import torch
import torch.nn.functional as F

from mnv2zoo.errors import RecipeError, UnknownModelError
from mnv2zoo.model_dir import files
from mnv2zoo.tasks import recipe
from mnv2zoo.tasks.classify.distillation import Teacher
from tests.photos import QUICK

CLASSES = ("blue", "green", "red")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
PREPROCESSING = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}


@pytest.fixture
def run(tmp_path):
    """Makes a folder of a random network with statistics of its own, and gives both."""

    def make(labels=CLASSES, side=64):
        torch.manual_seed(5)
        model = timm.create_model("mnv2zoo_035", num_classes=len(labels)).train()
        with torch.no_grad():
            for _ in range(20):
                model(torch.randn(8, 3, side, side))
        data = {"input_size": (3, side, side), "mean": MEAN, "std": STD, "interpolation": "bilinear", "crop_pct": 1.0}
        for name, content in files.model_files(model, data, labels).items():
            (tmp_path / name).write_bytes(content)
        return tmp_path, model.eval()

    return make


def normalized(photos, mean, std):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (photos - mean) / std


@pytest.mark.parametrize("side", [64, 128, 32])
def test_it_sees_images_of_its_size_in_its_normalization(run, side):
    folder, model = run(side=64)
    # Of one color each, so that there is one way to resize them.
    colors, outputs = torch.rand(4, 3, 1, 1), torch.randn(4, 3)
    with torch.no_grad():
        answers = model(normalized(colors.expand(4, 3, 64, 64), MEAN, STD)).log_softmax(dim=1)
        wanted = F.kl_div(outputs.log_softmax(dim=1), answers, reduction="batchmean", log_target=True)

    teacher = Teacher(str(folder), CLASSES, recipe.make(temperature=1.0), PREPROCESSING)
    seen = normalized(colors.expand(4, 3, side, side), **PREPROCESSING)
    torch.testing.assert_close(teacher(seen, outputs), wanted, rtol=1e-4, atol=1e-5)


def test_who_gives_its_answers_has_no_loss_whatever_the_temperature(run):
    folder, model = run()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        outputs = model(images)
    same = {"mean": MEAN, "std": STD}
    for temperature in (0.5, 1.0, 8.0):
        teacher = Teacher(str(folder), CLASSES, recipe.make(temperature=temperature), same)
        assert teacher(images, outputs).abs() < 1e-5
        assert teacher(images, outputs.roll(1, dims=1)) > 1e-4


def test_its_classes_may_be_in_another_order(run):
    folder, model = run(("red", "blue", "green"))
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        outputs = model(images)[:, [1, 2, 0]]
    teacher = Teacher(str(folder), CLASSES, recipe.make(), {"mean": MEAN, "std": STD})
    assert teacher(images, outputs).abs() < 1e-5


def test_its_weights_stay_and_only_the_student_gets_gradients(run):
    folder, _ = run()
    teacher = Teacher(str(folder), CLASSES, recipe.make(), PREPROCESSING)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    outputs = torch.randn(4, 3, requires_grad=True)
    teacher(torch.randn(4, 3, 64, 64), outputs).backward()
    assert outputs.grad.abs().sum() > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_other_classes_are_an_error(run):
    folder, _ = run(("blue", "green", "yellow"))
    with pytest.raises(RecipeError, match="the classes of the teacher differ") as caught:
        Teacher(str(folder), CLASSES, recipe.make(), PREPROCESSING)
    assert "'red' is in only one of the two" in caught.value.summary
    with pytest.raises(UnknownModelError):
        Teacher("nobody", CLASSES, recipe.make(), PREPROCESSING)


def test_cached_features_leave_it_nothing_to_see():
    with pytest.raises(RecipeError, match="no teacher with cached features"):
        recipe.make(teacher="run", train="head")
    assert recipe.make(**{**QUICK, "teacher": "run", "train": "head", "cache_features": False}).teacher == "run"


def test_it_sees_images_of_another_shape_in_that_shape(run):
    folder, model = run(side=64)
    photos, outputs = torch.rand(2, 3, 128, 256), torch.randn(2, 3)
    half = F.interpolate(photos, (64, 128), mode="bilinear", antialias=True)
    with torch.no_grad():
        answers = model(normalized(half, MEAN, STD)).log_softmax(dim=1)
        wanted = F.kl_div(outputs.log_softmax(dim=1), answers, reduction="batchmean", log_target=True)
    teacher = Teacher(str(folder), CLASSES, recipe.make(temperature=1.0), PREPROCESSING)
    found = teacher(normalized(photos, **PREPROCESSING), outputs)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
