"""Worker processes do not run the main script again, and end with the process that started them."""

import multiprocessing
import pickle
import subprocess
import sys

import pytest

from mnv2zoo.errors import WorkerError
from mnv2zoo.system import processes
from tests.photos import QUICK
from tests.training.runs import environment

GUARDED = 'if __name__ == "__main__":\n    main()\n'


def run(folder, text, *command):
    script = folder / "script.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, *(command or (script,))], env=environment(), capture_output=True, text=True, timeout=300,
        input=text,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "guarded"),
    [
        (GUARDED, True),
        ("import multiprocessing\nif multiprocessing.parent_process() is None:\n    main()\n", True),
        ("def main():\n    pass\nmain() if '__main__' == __name__ else None\n", True),
        ("main()\n", False),
        ("import logging\nlog = logging.getLogger(__name__)\nmain()\n", False),
        ("# if __name__ == '__main__':\nmain()\n", False),
        ("no Python (", True),
    ],
)
def test_a_guard_is_found_in_the_source(source, guarded):
    assert processes._is_guarded(source.encode()) == guarded


def test_this_process_is_no_worker_and_has_no_parent_to_end_with():
    processes.check_is_no_worker()
    processes.end_with_parent()


def script(method, out, photos):
    values = {**QUICK, "workers": 1, "epochs": 1}
    return (
        "import multiprocessing\nimport mnv2zoo\nfrom mnv2zoo.errors import WorkerError\n"
        f"multiprocessing.set_start_method({method!r}, force=True)\n"
        "try:\n"
        f"    mnv2zoo.finetune({str(photos)!r}, 'mnv2zoo_035', {str(out)!r}, **{values!r})\n"
        "except WorkerError as error:\n"
        "    print(error.expected, error.found, error.where, error.fix, sep='|')\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_script_without_a_guard_is_an_error_before_anything_is_written(photos, tmp_path, method):
    out = tmp_path / "run"
    done = run(tmp_path, script(method, out, photos))
    assert done.returncode == 0, done.stderr
    if sys.platform == "linux" and method in ("fork", multiprocessing.get_all_start_methods()[0]):
        assert (out / "model.safetensors").is_file()
        return
    expected, found, where, fix = done.stdout.strip().split("|")
    assert expected == 'a script whose work is under `if __name__ == "__main__":`'
    assert found == "work outside that guard"
    assert where == str(tmp_path / "script.py")
    assert "workers=0" in fix
    assert not out.exists()


@pytest.mark.slow
def test_a_program_from_stdin_cannot_be_imported_by_workers(photos, tmp_path):
    done = run(tmp_path, script("spawn", tmp_path / "run", photos), "-")
    expected, found, _, _ = done.stdout.strip().split("|")
    assert (expected, found) == ("a script in a file", "<stdin>")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_worker_that_runs_the_script_again_says_so_and_writes_nothing(photos, tmp_path):
    # It compares __name__, but not around the training.
    text = script("spawn", tmp_path / "run-", photos) + 'if __name__ == "__main__":\n    pass\n'
    text = text.replace("import mnv2zoo\n", "import mnv2zoo, os\n", 1).replace("run-'", "run-' + str(os.getpid())", 1)
    done = run(tmp_path, text.replace("except WorkerError as error:", "except KeyError as error:"))
    assert done.returncode == 1
    assert "WorkerError: a worker process ran the script again" in done.stderr
    assert len(list(tmp_path.glob("run-*"))) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs a system with forkserver that does not spawn by default")
def test_modules_that_a_program_chose_to_preload_stay(monkeypatch):
    from multiprocessing import forkserver

    server, before = forkserver._forkserver, multiprocessing.get_start_method(allow_none=True)
    monkeypatch.setattr(server, "_preload_modules", ["__main__"])
    processes.preload(["json"])
    assert server._preload_modules == ["json"]
    if multiprocessing.get_all_start_methods()[0] == "forkserver":
        pytest.skip("what is Python's default was not chosen")
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        processes.preload(["csv"])
        assert server._preload_modules == ["json"]
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_the_error_crosses_processes_with_its_fields():
    error = pickle.loads(pickle.dumps(processes._unguarded("a problem", "script.py")))
    assert isinstance(error, WorkerError)
    assert error.where == "script.py"
