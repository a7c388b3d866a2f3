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
