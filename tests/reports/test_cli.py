"""What people reported about the command line, its errors and the files they bring."""

import inspect
import os
import pickle
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from mnv2zoo.cli import app, errors, weights
from mnv2zoo.errors import IntegrityError, ZooError, one_line
from mnv2zoo.tasks.recipe import CHOICES, Recipe
from tests.cli import conftest
from tests.conftest import BLOCK, ROOT

run = conftest.run
HOSTILE = "\x1b[31mred\x1b[0m\r\n\x1b]0;title\x07two \x9b2Jthree\u202efour\x00\x08\u2028five"


class TestErrors:
    def test_an_error_is_one_block_of_short_lines(self, capsys):
        error = IntegrityError(
            "wrong\nhash", expected="a" * 1000, found="word " * 300, where="/x/" + "y" * 2000, fix="Do it.\nNow. " * 90
        )
        errors.report(error, debug=False)
        told = capsys.readouterr().err
        assert re.fullmatch(BLOCK, told)
        assert [line.partition(":")[0] for line in told.splitlines()] == [
            *("error", "  expected", "  found", "  where", "  fix")
        ]
        assert told.startswith("error: wrong hash\n")
        assert all(len(line) < 420 and line.endswith("…") for line in told.splitlines()[1:])
        assert " word word…\n" in told

    def test_debug_shows_all_of_it(self, capsys):
        try:
            raise IntegrityError("wrong hash", found="a" * 1000)
        except IntegrityError as error:
            errors.report(error, debug=True)
        assert "a" * 1000 in capsys.readouterr().err

    @pytest.mark.parametrize("field", ["problem", "expected", "found", "where", "fix"])
    def test_text_from_a_file_cannot_forge_lines_or_move_the_cursor(self, capsys, field):
        error = ZooError(**{"problem": "no good", field: HOSTILE})
        assert "red two threefour five" in str(error)
        assert str(error).isprintable() or "\n" in str(error)
        assert len(str(error).splitlines()) == (1 if field == "problem" else 2)
        errors.report(error, debug=False)
        assert re.fullmatch(BLOCK, capsys.readouterr().err)

    @pytest.mark.parametrize("error", [OSError(2, "No\nsuch", "a\x1b[2Jb"), KeyError("a\nb"), ValueError("x\ny" * 500)])
    def test_errors_of_others_take_the_same_form(self, capsys, error):
        assert errors.report(error, debug=False) == 1
        assert re.fullmatch(BLOCK, capsys.readouterr().err)

    def test_the_python_exception_has_a_line_for_each_fact(self):
        error = ZooError("the hash is wrong", expected="abc", found="def", where="model.safetensors", fix="Fetch it.")
        lines = [
            "the hash is wrong",
            "  expected: abc",
            "  found: def",
            "  where: model.safetensors",
            "  fix: Fetch it.",
        ]
        assert str(error).splitlines() == lines
        assert str(pickle.loads(pickle.dumps(error))).splitlines() == lines
        assert error.summary == "the hash is wrong (expected: abc; found: def; where: model.safetensors)"
        assert str(ZooError("alone")) == ZooError("alone").summary == "alone"

    def test_an_error_within_an_error_stays_on_its_line(self):
        inner = ZooError("inner", found="x", fix="Do this.")
        assert str(ZooError("outer", found=inner)) == "outer\n  found: inner (found: x)"

    def test_names_of_files_keep_their_spaces(self):
        assert one_line("a  b.jpg") == "a  b.jpg"


class TestEntry:
    """Only the real command line does without the registration of the models."""

    LOOK = "import timm, mnv2zoo\nprint(timm.is_model('mnv2zoo_100'), hasattr(mnv2zoo, 'weights'))\n"

    def python(self, *words, cwd, **environment):
        env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["mnv2zoo", "mnv2zoo.py", "mnv2zoo.exe", "-m"])
    def test_a_script_with_our_name_has_the_models(self, tmp_path, name):
        (tmp_path / name).write_text(self.LOOK)
        # A script's own folder comes first in the path: without -P, mnv2zoo.py would import itself.
        assert self.python("-P", tmp_path / name, cwd=tmp_path) == "True True\n"

    @pytest.mark.slow
    def test_a_folder_with_our_name_and_words_like_ours_have_the_models(self, tmp_path):
        (tmp_path / "bin/mnv2zoo").mkdir(parents=True)
        (tmp_path / "bin/mnv2zoo/__main__.py").write_text(self.LOOK)
        assert self.python("bin/mnv2zoo", "-m", "mnv2zoo", cwd=tmp_path) == "True True\n"
        assert self.python("-c", self.LOOK, "-m", "mnv2zoo", cwd=tmp_path) == "True True\n"

    @pytest.mark.slow
    def test_the_mark_is_not_handed_on_to_other_processes(self, tmp_path):
        (tmp_path / "command.py").write_text(
            "import multiprocessing, sys\nimport _mnv2zoo_entry\n"
            "def look():\n    import timm, mnv2zoo\n    return timm.is_model('mnv2zoo_100')\n"
            "if __name__ == '__main__':\n    _mnv2zoo_entry.is_command_line = True\n    import mnv2zoo\n"
            "    assert not hasattr(mnv2zoo, 'models')\n"
            "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        print(pool.apply(look))\n"
        )
        assert self.python("command.py", cwd=tmp_path) == "True\n"

    @pytest.mark.parametrize("start", [["-m", "mnv2zoo"], ["-c", "import _mnv2zoo_entry; _mnv2zoo_entry.main()"]])
    @pytest.mark.parametrize(
        "words",
        [
            *(["--help"], ["--version"], ["list"], ["list", "--pretrained", "--json"], ["info", "mnv2zoo_100"]),
            *(["weights", word, "mnv2zoo_100_c20"] for word in ("path", "verify", "fetch")),
            ["finetune", "--help"],
        ],
        ids=" ".join,
    )
    def test_a_command_that_needs_no_pytorch_does_not_wait_for_it(self, tmp_path, start, words):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *start, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "mnv2zoo.cli" in imported
        assert not imported & {"torch", "timm", "torchvision"}

    @pytest.mark.environment
    @pytest.mark.parametrize("words", [["--help"], ["list"], ["weights", "path", "mnv2zoo_100_c20"]], ids=" ".join)
    def test_a_command_that_needs_no_network_works_without_home_and_cache(self, tmp_path, words):
        (tmp_path / "hf").mkdir(mode=0o500)
        env = {name: value for name, value in os.environ.items() if name not in ("HOME", "MNV2ZOO_HOME")}
        env |= {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "mnv2zoo", *words], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_the_installed_command_is_the_entry(self):
        command = Path(sys.executable).with_name("mnv2zoo")
        if not command.is_file():
            pytest.skip("the package is not installed in this environment")
        assert "_mnv2zoo_entry" in command.read_text()


def closed_sets(kind):
    """The words that a type of values lists: of `Literal` and of enumerations, wherever within it."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {member.value for member in kind}
    if get_origin(kind) is Literal:
        return set(get_args(kind))
    return {word for part in get_args(kind) if not isinstance(part, str) for word in closed_sets(part)}


def callbacks():
    named = {(c.name or c.callback.__name__,): c.callback for c in app.registered_commands}
    return named | {("weights", c.name or c.callback.__name__): c.callback for c in weights.app.registered_commands}


def options(text):
    """The help of each option by its name, on one line."""
    entries = re.split(r"\n  (?=--)", text.partition("\nOptions:\n")[2].partition("\n\n")[0])
    return {re.match(r"\W*([\w-]+)", entry)[1].replace("-", "_"): " ".join(entry.split()) for entry in entries}


class TestHelp:
    """Values are shown as they have to be typed."""

    @pytest.mark.parametrize("words", callbacks(), ids=" ".join)
    def test_every_value_of_a_closed_set_is_shown_as_it_is_typed(self, run, words):
        shown = options(run(*words, "--help").out)
        for name, parameter in inspect.signature(callbacks()[words], eval_str=True).parameters.items():
            literals = closed_sets(parameter.annotation) | set(CHOICES.get(name, ()) if words == ("finetune",) else ())
            for literal in literals:
                assert re.search(rf"[<|'](?:{literal}|{literal!r})[>|']", shown[name]), (name, literal)

    def test_no_value_is_capitalized_and_those_quoted_are_taken(self, run):
        shown = options(run("finetune", "--help").out)
        assert shown.keys() >= Recipe.__dataclass_fields__.keys()
        for name, field in Recipe.__dataclass_fields__.items():
            for literal in re.findall("`(.+?)`", field.metadata["meaning"]):
                assert f"'{literal}'" in shown[name], name
        for name, choices in CHOICES.items():
            assert set(re.findall(r"'([\w-]+)'", shown[name])) <= set(choices), name
        assert not re.search(r"\b(Timm|Ce|Fp32|Bf16)\b", str(shown))
