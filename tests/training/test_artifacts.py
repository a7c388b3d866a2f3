"""The documents of a run tell all that was used."""

import json

from tests.training.runs import (
    MODEL,
    rows,
)


def test_the_folder_tells_all_that_was_used(trained):
    photos, run, result = trained
    document = json.loads((run / "recipe.json").read_text())
    assert document["model"] == MODEL
    assert document["data"] == str(photos)
    assert document["recipe"]["lr"] == 0.01
    assert document["recipe"]["crop_pct"] == 0.875
    assert None not in (document["recipe"][key] for key in ("mean", "std", "interpolation", "input_size"))
    split = json.loads((run / "split.json").read_text())
    assert {name: len(names) for name, names in split.items()} == {"train": 42, "val": 6, "test": 12, "images": 60}
    assert set(split["images"]) == {*split["train"], *split["val"], *split["test"]}
    assert rows(run) == result.history
    card = (run / "README.md").read_text()
    assert f"| test | 12 | {result.scores['test'].top1:.2f} |" in card
    assert (run / "labels.txt").read_text() == "blue\ngreen\nred\n"
    assert {"README.md", "curves.png", "confusion.png"} <= {f.name for f in (run / "report" / "test").iterdir()}
