"""Worker processes start in every way that Python has, and none is left behind."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from mnv2zoo.training import loaders
from tests.photos import QUICK
from tests.training.runs import MODEL, environment, words

SCRIPT = """
import multiprocessing, sys
import mnv2zoo

def main():
    mnv2zoo.finetune({data!r}, {model!r}, {out!r}, **{values!r})

if __name__ == "__main__":
    multiprocessing.set_start_method({method!r})
    main()
"""
METHODS = multiprocessing.get_all_start_methods()
CPU = torch.device("cpu")


def save_script(folder, data, method, **values):
    script = folder / "script.py"
    values = {**QUICK, "workers": 2, **values}
    script.write_text(SCRIPT.format(data=str(data), model=MODEL, out=str(folder / "run"), values=values, method=method))
    return script


@contextlib.contextmanager
def started(*command):
    """Starts a process. Whatever happens, it and the processes that it started are killed."""
    with subprocess.Popen(
        [sys.executable, *map(str, command)], env=environment(), stdout=subprocess.DEVNULL
    ) as training:
        try:
            yield training
        finally:
            left = psutil.Process(training.pid).children(recursive=True) if training.poll() is None else []
            for process in (training, *left):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    process.kill()


def wait_for(condition, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def has_ended(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # whoever took it over has not noticed yet
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_leaves_no_process_behind(photos, tmp_path, method, number):
    script = save_script(tmp_path, photos, method, epochs=1000)
    with started(script) as training:
        assert wait_for(lambda: (tmp_path / "run/metrics.jsonl").is_file() or training.poll() is not None)
        children = psutil.Process(training.pid).children(recursive=True)
        assert len(children) >= 2
        training.send_signal(number)
        assert training.wait() == -number
        try:
            assert wait_for(lambda: all(map(has_ended, children)), 60), [child.cmdline() for child in children]
        finally:
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork")
def test_workers_of_a_cpu_training_fork_and_those_of_a_gpu_do_not():
    assert loaders.start_method(CPU) == "fork"
    assert loaders.start_method(torch.device("cuda")) == "forkserver"


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_the_program_chose_is_used(method):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        own = "fork" if sys.platform == "linux" and method == METHODS[0] else method
        assert loaders.start_method(CPU) == own
        assert loaders.start_method(torch.device("cuda")) == ("forkserver" if own == "fork" else method)
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_a_loader_without_workers_has_no_start_method():
    dataset = torch.utils.data.TensorDataset(torch.arange(3))
    loader = loaders.eval_loader(dataset, 2, None, 0, CPU, repeated=True)
    assert loader.multiprocessing_context is None
    assert [batch[0].tolist() for batch in loader] == [[0, 1], [2]]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "nice"), reason="needs a system whose processes have priorities")
def test_processes_that_read_ahead_give_way_to_the_one_that_trains(photos, tmp_path):
    command = [sys.executable, "-m", "mnv2zoo", *words(photos, tmp_path / "run", workers=2, epochs=1000)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as training:
        try:
            found, deadline = {}, time.monotonic() + 120
            while sorted(found.values()) != [19, 19] and training.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
                children = psutil.Process(training.pid).children()
                found = {child.pid: child.nice() for child in children}
            own = psutil.Process(training.pid).nice()
        finally:
            training.kill()
    assert sorted(found.values()) == [19, 19]
    assert own == psutil.Process().nice()
