"""`finetune` hands its options, and a recipe's file, to the function."""

import pytest

from mnv2zoo import training


@pytest.fixture
def asked(monkeypatch):
    """The keyword arguments of the training that a command asks for; nothing is trained."""
    calls = []

    def finetune(data, model, out, *, resume, log, **recipe):
        calls.append({"data": data, "model": model, "out": str(out), "resume": resume, **recipe})
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "finetune", finetune)
    return calls


def test_what_is_not_given_is_left_to_the_function(run, asked):
    run("finetune", "photos")
    assert asked == [{"data": "photos", "model": None, "out": "run", "resume": False, "task": None, "device": None}]


def test_options_win_over_the_recipes_file(run, asked, tmp_path):
    (tmp_path / "recipe.toml").write_text('epochs = 3\ntrain = "head"\nkeep_statistics = true\n')
    run("finetune", "photos", "--recipe", tmp_path / "recipe.toml", "--epochs", "5", "--no-keep-statistics", "--resume")
    assert asked[0].items() >= {"epochs": 5, "train": "head", "keep_statistics": False, "resume": True}.items()


def test_help_shows_the_defaults_of_the_recipe(run):
    shown = " ".join(run("finetune", "--help").out.split())
    assert "[default: 30]" in shown
    assert "--keep-statistics" in shown


def test_sizes_channels_and_fitting_are_handed_on(run, asked):
    run("finetune", "photos", "--input-size", "160x320", "--test-input-size", "224", "--resize", "letterbox")
    run("finetune", "photos", "--in-chans", "4", "--mean", "0.5", "0.4", "0.3")
    assert asked[0].items() >= {"input_size": "160x320", "test_input_size": "224", "resize": "letterbox"}.items()
    assert asked[1].items() >= {"in_chans": 4, "mean": (0.5, 0.4, 0.3)}.items()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--input-size", "160x"), ("--input-size", "20"), ("--resize", "stretch"), ("--in-chans", "9")],
)
def test_a_bad_value_is_one_error_and_makes_no_folder(run, tmp_path, option, value):
    done = run("finetune", tmp_path, "--out", tmp_path / "run", option, value)
    assert done.status != 0
    assert value in done.err
    assert not (tmp_path / "run").exists()
