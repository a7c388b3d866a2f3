"""A recipe holds every choice, and refuses what is none."""

import json
import re

import pytest

from mnv2zoo.errors import RecipeError, UnknownArgumentError
from mnv2zoo.tasks import recipe
from mnv2zoo.tasks.recipe import Recipe


def test_an_unknown_value_is_an_error_that_names_the_nearest():
    with pytest.raises(UnknownArgumentError, match=r"(?s)batch_size.*'batchsize'"):
        recipe.make(batchsize=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "a number from 1 to .* found: 0; where: epochs"),
        ({"epochs": 1.5}, r"int; found: 1\.5; where: epochs"),
        ({"epochs": True}, "int; found: True"),
        ({"epochs": "10"}, "int; found: '10'"),
        ({"lr": float("nan")}, "float or null; found: nan"),
        ({"mean": (0.5,) * 9}, "where: mean"),
        ({"std": (0.5, 0.5, 0.0)}, "numbers greater than 0"),
        ({"precision": "fp8"}, "fp32 or bf16 or fp16; found: 'fp8'"),
        ({"batch_size": 1}, "from 2"),
        ({"batch_size": 7, "mixup": 0.2}, "an even number"),
        ({"skip_bad_images": 1}, "bool; found: 1"),
    ],
)
def test_a_value_that_cannot_be_is_an_error(values, message):
    with pytest.raises(RecipeError) as caught:
        recipe.make(**values)
    assert re.search(message, caught.value.summary)


def test_numbers_may_be_written_without_a_point():
    assert recipe.make(lr=1, warmup_epochs=2).lr == 1


def test_every_value_has_a_meaning_and_a_kind():
    for field in Recipe.__dataclass_fields__.values():
        assert len(field.metadata["meaning"]) > 10, field.name
        assert field.metadata["meaning"][0].isupper(), field.name  # help shows it as it stands
        assert not field.metadata["meaning"].endswith("."), field.name  # help adds the period


def test_a_recipe_is_read_back_from_json_and_toml(tmp_path):
    made = recipe.make(lr=0.01, mean=(0.5, 0.5, 0.5), std=(0.5, 0.4, 0.5), train="Bottleneck_12")
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": made.to_json(), "versions": {}}))
    assert recipe.make(**recipe.read(tmp_path / "recipe.json")) == made
    (tmp_path / "recipe.toml").write_text(
        '# ours\nlr = 0.01\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.4, 0.5]\ntrain = "Bottleneck_12"\n'
    )
    assert recipe.make(**recipe.read(tmp_path / "recipe.toml")) == made


@pytest.mark.parametrize("text", ["epochs = ", "[[[", "\xff"])
def test_a_file_that_is_no_recipe_is_an_error(tmp_path, text):
    (tmp_path / "recipe.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RecipeError, match="a TOML or JSON file"):
        recipe.read(tmp_path / "recipe.toml")
    with pytest.raises(RecipeError, match="the recipe file cannot be read"):
        recipe.read(tmp_path / "none.json")


def test_an_interrupted_run_goes_on_by_its_own_recipe():
    recorded = Recipe(epochs=7, lr=0.5).to_json()
    assert recipe.resumed(recorded, {}) == Recipe(epochs=7, lr=0.5)
    assert recipe.resumed(recorded, {"epochs": 7}) == Recipe(epochs=7, lr=0.5)
    assert recipe.resumed(recorded, {"workers": 0}) == Recipe(epochs=7, lr=0.5, workers=0)
    with pytest.raises(RecipeError) as error:
        recipe.resumed(recorded, {"epochs": 8})
    assert (error.value.expected, error.value.found, error.value.where) == ("7", "8", "epochs")
    assert "--out" in error.value.fix
    with pytest.raises(UnknownArgumentError):
        recipe.resumed(recorded, {"epoch": 8})
    # An earlier version lacks fields, which have their defaults; a later one has others.
    assert recipe.resumed({"epochs": 7}, {}) == Recipe(epochs=7)
    with pytest.raises(RecipeError, match="another version"):
        recipe.resumed(recorded | {"sharpness": 3}, {})


@pytest.mark.parametrize(
    ("given", "size"),
    [(224, 224), ("224", 224), ("160x320", (160, 320)), ([160, 320], (160, 320)), ("64x64", 64), ([64, 64], 64)],
    ids=str,
)
def test_a_size_is_a_side_or_height_and_width(given, size):
    assert recipe.make(input_size=given).input_size == size
    assert recipe.make(test_input_size=given).test_input_size == size
    # As a run records it, and as a user repeats it.
    recorded = json.loads(json.dumps(recipe.make(input_size=given).to_json()))
    assert recipe.resumed(recorded, {"input_size": given}).input_size == size


@pytest.mark.parametrize("size", ["160", "160x160", "320x160", [320, 160], 320])
def test_another_size_contradicts_the_run(size):
    with pytest.raises(RecipeError) as error:
        recipe.resumed(recipe.make(input_size="160x320").to_json(), {"input_size": size})
    assert error.value.where == "input_size"


@pytest.mark.parametrize(
    "size",
    ["160X320", "160x", "x", "1e2", "160x320x3", "16x320", 31, (160, 5000), (160,), (160, 320.0), True, 1.5],
    ids=str,
)
def test_what_is_no_size_is_an_error(size):
    for name in ("input_size", "test_input_size"):
        with pytest.raises(RecipeError) as error:
            recipe.make(**{name: size})
        assert "160x320" in error.value.expected
        assert (error.value.found, error.value.where) == (repr(size), name)


@pytest.mark.parametrize(
    "values", [{"in_chans": 0}, {"in_chans": 9}, {"resize": "border"}, {"resize": "stretch"}], ids=str
)
def test_a_fitting_that_is_none_is_an_error(values):
    with pytest.raises(RecipeError) as error:
        recipe.make(**values)
    assert error.value.where in values
