"""What commands print: JSON that every parser takes, tables whose names stay whole, and progress on a terminal only."""

import json

import pytest

from mnv2zoo.cli import output


def test_json_is_indented_and_ends_its_line(capsys):
    output.print_json([{"top1": 71.5}])
    assert capsys.readouterr().out == '[\n  {\n    "top1": 71.5\n  }\n]\n'


def test_json_has_no_numbers_that_parsers_refuse(capsys):
    with pytest.raises(ValueError, match="nan"):
        output.print_json(float("nan"))
    assert capsys.readouterr().out == ""


def test_a_table_aligns_figures_right_and_leaves_markup_alone(capsys):
    output.print_table(["name", " params"], [("[b]a[/b]", "1"), ("long" * 50, "100")])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "params"]
    assert first == f"{'[b]a[/b]':<202}{'1':>6}"
    assert second == f"{'long' * 50:<202}{'100':>6}"


def test_without_a_terminal_lines_go_to_stdout_and_no_bar_is_shown(capsys):
    with output.progress("images", total=2) as (line, advance):
        for image in ("a.jpg", "b.jpg"):
            line(json.dumps({"image": image}))
            advance(1)
    assert capsys.readouterr() == ('{"image": "a.jpg"}\n{"image": "b.jpg"}\n', "")
