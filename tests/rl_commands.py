"""The scripts of rl/ as they are called, in this process."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vpg
from common.cli import run_main
from training_runs import training_run

RUNS = Path("results/rl")
SMALL = ("--num-envs", "4", "--horizon", "16", "--eval-episodes", "4", "--final-episodes", "4", "--eval-every", "128")
TINY = ("--total-steps", "512", *SMALL)
TIMES = {"train_seconds", "total_seconds", "steps_per_second", "seconds"}


def inline(monkeypatch: Any, *arguments: str, script: Any = vpg) -> int | str | None:
    """A script's main in this process; runs go to results/."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *arguments, "--results-dir", "results"])
    with pytest.raises(SystemExit) as stop:
        run_main(script.main)
    return stop.value.code


def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder, where runs take one thread; figures are drawn by the tests that look at them."""
    monkeypatch.chdir(tmp_path)
    # Two threads wait for each other long where another process is busy.
    monkeypatch.setattr(training_run, "available_cores", lambda: 1)
    monkeypatch.setattr(vpg, "learning_curve", lambda *_: None)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def rows(name: str) -> list[dict[str, str]]:
    """metrics.csv without its times."""
    with open(RUNS / name / "metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def summary(name: str) -> dict[str, Any]:
    return json.loads((RUNS / name / "summary.json").read_text())
