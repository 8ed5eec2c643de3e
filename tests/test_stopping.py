"""Signals in a training loop, and workers that end with their parent."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from common import stopping
from common.stopping import STOPS, Interrupt, hear, leave_if_asked


@pytest.mark.parametrize("number", STOPS)
def test_the_first_signal_is_noted_and_told_and_the_second_stops(number, capsys, monkeypatch):
    with Interrupt() as stop:
        leave_if_asked()
        os.kill(os.getpid(), number)
        assert stop.asked
        assert capsys.readouterr().err == "stopping: this step ends and is saved; once more stops at once\n"
        with pytest.raises(KeyboardInterrupt):
            stop.leave_if_asked()
        leave_if_asked()  # an evaluation that is short is waited for
        monkeypatch.setattr(stopping, "PATIENCE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            leave_if_asked()
        assert "after the last checkpoint, 30 s at most, are made again" in capsys.readouterr().err
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


# ---------------------------------------------------------------- whoever reads what is told may be gone first

LOOP = """
import sys, time
from pathlib import Path
from common.cli import run_main
from common.keeping import Keeper
from common.run import Run

def main() -> int:
    with Run(Path(sys.argv[1]), {"lr": 1}, "cpu") as run:
        with Keeper(run, int(sys.argv[2]), lambda: {"x": 1}) as keep:
            while keep.done < keep.total:
                time.sleep(0.02)
                keep.made(keep.done + 1)
                keep.row("", step=keep.done)
                keep.save()
        run.finish()
    return 0

run_main(main)
"""


@pytest.fixture
def loop(tmp_path):
    """`loop(steps, **popen)` starts a training loop whose run is in tmp_path/run; and wait for its first row."""
    script, started = tmp_path / "loop.py", []
    script.write_text(LOOP)

    def start(steps: int, **how: Any) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, script, tmp_path / "run", str(steps)], **how))
        end = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.csv").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals")
def test_a_terminal_that_is_closed_loses_nothing(loop, tmp_path):
    ours, theirs = os.openpty()
    process = loop(9999, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.close(ours)  # no terminal of its own to control it: the signal comes from here
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 130
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def test_ctrl_c_that_ends_tee_as_well_loses_nothing(loop, tmp_path):
    reader, writer = os.pipe()
    process = loop(9999, stdout=writer, stderr=writer)
    os.close(writer)
    os.close(reader)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("error", ["a reader that has gone", "/dev/full"])
def test_training_goes_on_where_nobody_can_read_how_it_goes(loop, tmp_path, error):
    if error == "/dev/full" and not os.path.exists(error):
        pytest.skip("no device that is always full")
    reader, writer = os.pipe()
    with open(error if error == "/dev/full" else os.devnull, "w") as full:
        process = loop(20, stdout=subprocess.DEVNULL, stderr=full if error == "/dev/full" else writer)
    os.close(writer)
    os.close(reader)
    assert process.wait(30) == 0
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_stop_outside_a_loop_is_130_though_nobody_reads_it():
    code = "from common.cli import run_main\ndef main():\n    raise KeyboardInterrupt\nrun_main(main)"
    reader, writer = os.pipe()
    os.close(reader)
    assert subprocess.run([sys.executable, "-c", code], stderr=writer).returncode == 130
    os.close(writer)
