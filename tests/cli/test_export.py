"""`export` writes a bundle and prints its place."""

import re
from typing import get_args, get_type_hints

from mnv2zoo import deploy
from mnv2zoo.cli.export import Format


def test_the_command_has_every_format_of_the_function():
    assert {format.value for format in Format} == set(get_args(get_type_hints(deploy.export)["format"]))


def test_it_exports_as_told_and_prints_the_folder(run, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(deploy, "export", lambda *args, **named: asked.append((args, named)) or tmp_path)
    options = ("--precision", "int8", "--calibration", tmp_path, "--data", tmp_path, "--opset", 17, "--layout", "nhwc")
    done = run("export", "mnv2zoo_035", "--format", "openvino", "--out", tmp_path / "bundle", *options)
    assert (done.status, done.out, done.err) == (0, f"{tmp_path}\n", "")
    ((args, named),) = asked
    assert args == ("mnv2zoo_035", tmp_path / "bundle", "openvino")
    assert {name: named[name] for name in ("precision", "calibration", "data", "opset", "layout")} == {
        "precision": "int8",
        "calibration": tmp_path,
        "data": tmp_path,
        "opset": 17,
        "layout": "nhwc",
    }


def test_it_needs_a_folder_and_a_known_format(run, tmp_path):
    missing, unknown = run("export", "mnv2zoo_035"), run("export", "mnv2zoo_035", "--out", tmp_path, "--format", "onxx")
    assert (missing.status, unknown.status) == (2, 2)
    assert "'--out'" in missing.err
    assert re.search(r"'onxx' is not one of .*'onnx'", unknown.err)
