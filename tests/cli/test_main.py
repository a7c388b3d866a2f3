"""What all commands have in common: help, exit status, and how failures are told."""

import os
import subprocess
import sys
import warnings

import pytest

from mnv2zoo.models import zoo
from tests.cli.conftest import process
from tests.conftest import ROOT

COMMANDS = [
    *(["list"], ["info"], ["predict"], ["weights"]),
    *(["weights", name] for name in ("fetch", "verify", "pin", "path", "forget", "convert")),
]


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_help_has_an_example(run, command):
    done = run(*command, "--help")
    assert (done.status, done.err) == (0, "")
    assert f"  mnv2zoo {' '.join(command)}" in done.out.partition("Example")[2]


def test_help_imports_nothing_heavy():
    script = f"""
import sys
import _mnv2zoo_entry
_mnv2zoo_entry.is_command_line = True  # as its `main` says
from mnv2zoo.cli import main
for command in {[[], *COMMANDS]}:
    try:
        main([*command, "--help"])
    except SystemExit as exited:
        assert exited.code == 0, command
heavy = {{"torch", "timm", "numpy", "PIL", "huggingface_hub", "rich"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["lost"], "No such command 'lost'"),
        (["weights"], "Missing command\n  fix: See `mnv2zoo weights --help`."),
        (["info"], "Missing argument 'NAME|RUN'\n  fix: See `mnv2zoo info --help`."),
        (["list", "--lost"], "No such option: --lost\n  fix: See `mnv2zoo list --help`."),
        (["info", "mnv2zoo_10"], "mnv2zoo_100"),
        (["info", "mnv2zoo_100.lost"], "unknown weights"),
        (["info", "runs/lost"], "If you meant a folder"),
        (["predict", "x.jpg", "--topk", "0"], "'--topk'"),
        (["weights", "fetch"], "Pass one or more names, or --all"),
        (["weights", "fetch", "mnv2zoo_100", "--all"], "Pass one or more names, or --all"),
        (["weights", "path", "lost"], "unknown architecture"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_block_and_status_2(run, args, told):
    done = run(*args)
    assert (done.status, done.out, len(done.errors)) == (2, "", 1)
    assert told in done.err


def test_no_arguments_ask_for_help(run):
    assert run() == run("--help")


def test_an_interrupt_is_status_130(run, monkeypatch):
    def interrupt(pretrained):
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "list_models", interrupt)
    assert run("list").status == 130


def test_warnings_are_one_line_without_their_place_in_the_source(run, monkeypatch):
    def warn(pretrained):
        warnings.warn("mind\nthis", stacklevel=1)
        return []

    monkeypatch.setattr(zoo, "list_models", warn)
    done = run("list", "--json")
    assert (done.status, done.out, done.err) == (0, "[]\n", "warning: mind this\n")


def test_a_reader_that_has_seen_enough_is_no_failure_to_tell_of():
    with subprocess.Popen(
        [sys.executable, "-m", "mnv2zoo", "list", "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 1


def test_a_bad_index_file_is_one_block(tmp_path):
    (tmp_path / "index.json").write_text("{")
    done = process("list", env={"MNV2ZOO_WEIGHTS_INDEX": str(tmp_path / "index.json")})
    assert (done.status, done.out, len(done.errors)) == (1, "", 1)
    assert "index.json" in done.err


@pytest.mark.slow
def test_a_module_that_is_told_our_name_has_the_models(tmp_path):
    # `python -m trainer --plugin mnv2zoo` is not our command line, though our name is among its words.
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/__init__.py").write_text("import mnv2zoo, timm\nprint(timm.is_model('mnv2zoo_100'))\n")
    (tmp_path / "trainer/__main__.py").write_text("")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "trainer", "--plugin", "mnv2zoo"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=120, env=env).stdout == "True\n"
