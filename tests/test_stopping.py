"""Signals in a training loop, and workers that end with their parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from common import stopping
from common.stopping import STOPS, Interrupt, hear, leave_if_asked


@pytest.mark.parametrize("number", STOPS)
def test_the_first_signal_is_noted_and_told_and_the_second_stops(number, capsys, monkeypatch):
    with Interrupt() as stop:
        leave_if_asked()
        os.kill(os.getpid(), number)
        assert stop.asked
        assert capsys.readouterr().err == "stopping: what is done is being saved; once more stops at once\n"
        with pytest.raises(KeyboardInterrupt):
            stop.leave_if_asked()
        leave_if_asked()  # an evaluation that is short is waited for
        monkeypatch.setattr(stopping, "PATIENCE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            leave_if_asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    leave_if_asked()  # outside of a loop there is nothing to leave


@pytest.mark.parametrize("number", STOPS)
def test_outside_a_loop_a_signal_stops_at_once(number):
    hear()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that hang up")
def test_nohup_is_respected():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    hear()
    with Interrupt() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


PARENT = """
import multiprocessing, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import test_stopping

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=test_stopping.sleeper, daemon=True)
    process.start()
    print(process.pid, flush=True)
    time.sleep(60)
"""


def sleeper() -> None:
    from common.stopping import end_with_parent

    end_with_parent()
    print("ready", flush=True)
    while True:
        time.sleep(0.01)


def living(pid: int) -> bool:
    """Whether a process runs (a dead one that nobody has asked for is none)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="processes are looked up in /proc")
def test_a_worker_ends_when_its_parent_is_killed_and_is_deaf_to_ctrl_c(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, script, os.path.dirname(__file__)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert parent.stdout.readline() == "ready\n"
        os.kill(worker, signal.SIGINT)
        time.sleep(0.1)
        assert living(worker)
        parent.kill()
        end = time.monotonic() + 20
        while living(worker):
            assert time.monotonic() < end, "it goes on for nobody"
            time.sleep(0.01)
