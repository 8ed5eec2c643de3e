"""How many threads a run takes: those asked for, else the faster number, and the same again when it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from common import device
from common.device import faster_threads, threads_asked
from common.errors import BadInput
from lm_commands import INTEGERS, RUNS, SIZE, inline, metrics_of, same_weights
from lm_evaluation import step_budget

ROOT = Path(train.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("flag", "variable", "asked"),
    [
        (3, "2", (3, "as asked")),
        (None, "2", (2, "OMP_NUM_THREADS")),
        (None, "4,2", (4, "OMP_NUM_THREADS")),
        (None, "", None),
        (None, "x", None),
        (None, "0", None),
    ],
)
def test_a_flag_wins_over_the_variable(monkeypatch, flag, variable, asked):
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert threads_asked(flag) == asked


@pytest.mark.parametrize("flag", [0, -1, 5000])
def test_impossible_numbers_are_refused(flag):
    with pytest.raises(BadInput, match="--threads must be between 1 and 1024"):
        threads_asked(flag)


@pytest.mark.parametrize(("slow_with", "best"), [(1, 4), (4, 1)])
def test_the_faster_number_is_taken_and_set(monkeypatch, slow_with, best):
    """A second thread on a core that another process holds waits for its turn at every operation."""
    clock = [0.0]
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock[0])

    def step() -> None:
        clock[0] += 0.25 if torch.get_num_threads() == slow_with else 0.025

    assert faster_threads(step, 4) == (
        best,
        "250 ms a step with 1, 25 ms a step with 4" if slow_with == 1 else "25 ms a step with 1, 250 ms a step with 4",
    )
    assert torch.get_num_threads() == best


def test_one_core_needs_no_measurement():
    assert faster_threads(lambda: 1 / 0, 1) == (1, "one core")


def test_the_count_is_kept_and_used_again_but_is_no_part_of_the_name(plain_lm_folder, monkeypatch, capsys):
    counts = iter([2, 1])
    seen = []

    def measured(step: object, many: int) -> tuple[int, str]:
        threads = next(counts)
        device.configure_cpu(threads)
        return threads, "measured"

    monkeypatch.setattr(step_budget, "faster_threads", measured)
    update = train.update

    def watched(learner, number, steps):
        seen.append(torch.get_num_threads())
        if number == 3 and len(seen) == 4:
            raise KeyboardInterrupt
        return update(learner, number, steps)

    monkeypatch.setattr(train, "update", watched)
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    arguments = ("--task", "repeat", *SIZE, "--length", "8", "--vocab", "32", "--steps", "6")
    assert inline(monkeypatch, *arguments) == 130
    (folder,) = RUNS.glob("repeat-*")
    assert json.loads((folder / "plan.json").read_text())["threads"] == 2
    assert inline(monkeypatch, *arguments) == 0  # goes on with two threads, though one would now be faster
    assert set(seen) == {2}
    assert len(list(RUNS.glob("repeat-*"))) == 1
    assert "threads: 2 (measured)" in capsys.readouterr().out


def test_asked_for_it_is_a_part_of_the_name_and_repeats(plain_lm_folder, monkeypatch):
    arguments = ("--task", "repeat", *INTEGERS)
    assert inline(monkeypatch, *arguments, "--name", "a") == 0
    assert inline(monkeypatch, *arguments, "--threads", "1", "--name", "b") == 0
    configs = [json.loads((RUNS / name / "config.json").read_text())["config"] for name in "ab"]
    assert [config["threads"] for config in configs] == [0, 1]
    assert same_weights("a", "b")  # the first had one core to choose from
    assert (metrics_of("a")[-1]["val_loss"]) == metrics_of("b")[-1]["val_loss"]


@pytest.mark.parametrize("script", ["rl/vpg.py", "scaling_laws/fit.py"])
def test_a_notebooks_backend_does_no_harm(script):
    """`!python …` in a notebook inherits a backend that this environment may not have."""
    environment = {
        **os.environ,
        "MPLBACKEND": "module://matplotlib_inline.backend_that_is_not_there",
        "PYTHONPATH": str(ROOT),
    }
    code = f"import sys; sys.argv = ['{script}']; sys.path.insert(0, '{ROOT / script.split('/')[0]}'); "
    code += f"import {Path(script).stem}, common.plots; common.plots.new_figure(1)"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
