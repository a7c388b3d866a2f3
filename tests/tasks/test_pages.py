"""Pages that every task can write: tables, names and durations."""

from dataclasses import dataclass

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from mnv2zoo.tasks import Scores, pages

HISTORY = [
    {"epoch": 1, "train_loss": 0.5, "val_loss": 0.6, "val_mae": 0.2, "lr": 0.01, "seconds": 61.0},
    {"epoch": 2, "train_loss": 0.25, "val_loss": None, "lr": 0.005, "seconds": float("nan")},
]


@dataclass(frozen=True)
class Errors(Scores):
    loss: float
    mae: float


def test_a_table_aligns_numbers_to_the_right():
    assert pages.table(["name", " value"], [["a", 1]]) == "| name | value |\n| --- | ---: |\n| a | 1 |"


@pytest.mark.parametrize("name", ["*a*", "a|b", "`a`", "<b>", "[a](b)", "a_b_c", "#1 & $2"])
def test_an_escaped_name_is_shown_as_it_is(name):
    (_, inline, _) = MarkdownIt().parse(pages.escape(name))
    assert "".join(child.content for child in inline.children) == name


def test_a_name_is_one_line_that_any_file_can_hold():
    assert pages.one_line("two\r\n lines\udcff") == "two lines?"


def test_values_and_durations_leave_out_what_is_not_there():
    assert pages.values(HISTORY, "val_loss") == [(1, 0.6)]
    assert pages.duration(HISTORY) == "Epochs: 2. Training time (h:mm:ss): 0:01:01."


def test_a_report_has_its_metrics_and_a_panel_for_each(tmp_path):
    pages.write_report(tmp_path / "report", HISTORY, Errors(3, 0.25, 0.125), "a *title*")
    page = (tmp_path / "report/README.md").read_text()
    assert page.startswith("# a \\*title\\*\n")
    for row in ("| images | 3 |", "| loss | 0.25 |", "| mae | 0.125 |"):
        assert row in page
    with Image.open(tmp_path / "report/curves.png") as picture:
        assert picture.size == (3 * 4 * pages.DPI, round(3.2 * pages.DPI))  # loss, error and learning rate


def test_a_model_card_has_the_scores_of_each_split():
    run = {"data": "/data/tulips", "recipe": {"lr": 0.1, "seed": None}}
    card = pages.model_card("own:Task", "net", "mnv2zoo_035", "scratch", run, {"val": Errors(3, 0.25, 0.125)})
    assert "| val | 3 | 0.25 | 0.125 |" in card
    assert "`mnv2zoo_035`, trained with mnv2zoo on `tulips` for the task `own:Task`. Initial weights: scratch." in card
    assert "`lr`" in card
    assert "`seed`" not in card
