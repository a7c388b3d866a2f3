"""Calls that only some systems have."""

import contextlib
import ctypes
import sys
import threading
from pathlib import Path

import pytest

from mnv2zoo.system import posix


def stack():
    """The address, flags and size of this thread's alternate signal stack."""
    found = posix._SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.memory, found.flags, found.size


def set_stack(memory):
    new = posix._SignalStack(ctypes.addressof(memory), 0, len(memory))
    assert ctypes.CDLL(None).sigaltstack(ctypes.byref(new), None) == 0


def in_a_thread(check):
    """Runs a check where no signal stack was set, and fails as it does."""
    failures = []

    def run():
        try:
            check()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the structure differs elsewhere")


@needs_linux
@pytest.mark.parametrize("own", [True, False])
def test_a_threads_signal_stack_is_restored_whatever_the_code_within_does(own):
    mine, theirs = (ctypes.create_string_buffer(1 << 17) for _ in range(2))

    def check():
        if own:
            set_stack(mine)
        before = stack()
        with contextlib.suppress(KeyboardInterrupt), posix.preserved_signal_stack():
            set_stack(theirs)
            assert stack() != before
            raise KeyboardInterrupt
        assert stack() == before
        ctypes.CDLL(None).sigaltstack(ctypes.byref(posix._SignalStack(None, posix._SS_DISABLE, 0)), None)

    in_a_thread(check)


@needs_linux
def test_without_a_usable_stack_of_its_own_a_thread_gets_none(monkeypatch):
    theirs = ctypes.create_string_buffer(1 << 17)
    real = ctypes.CDLL(None).sigaltstack

    class Libc:
        calls = 0

        def sigaltstack(self, new, old):
            Libc.calls += 1
            return -1 if Libc.calls == 2 else real(new, old)  # the kernel refuses the former stack

    def check():
        monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
        with posix.preserved_signal_stack():
            set_now = posix._SignalStack(ctypes.addressof(theirs), 0, len(theirs))
            assert real(ctypes.byref(set_now), None) == 0
        monkeypatch.undo()
        assert stack()[1] == posix._SS_DISABLE

    in_a_thread(check)


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("called"))
    with posix.preserved_signal_stack():
        pass


@pytest.mark.parametrize(
    ("program", "found"),
    [("/usr/bin/python3.11", True), ("python.exe", True), ("/opt/app/blender", False), ("", False)],
)
def test_only_an_interpreter_starts_another(monkeypatch, program, found):
    monkeypatch.setattr(sys, "executable", program)
    assert posix.interpreter() == (program if found else None)


def test_a_frozen_program_is_not_an_interpreter(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert posix.interpreter() is None


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc/cpuinfo")
def test_what_linux_reports_about_the_first_core():
    assert posix.cpu_info("processor") == "0"
    assert f": {posix.cpu_info('model name')}\n" in Path("/proc/cpuinfo").read_text()
    assert posix.cpu_info("model") != posix.cpu_info("model name")
    assert posix.cpu_info("absent") == ""
