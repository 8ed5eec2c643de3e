"""The scripts of rl/ as they are called, in this process."""

import sys
from pathlib import Path
from typing import Any

import pytest

import vpg
from common.cli import run_main

RUNS = Path("results/rl")


def inline(monkeypatch: Any, *arguments: str, script: Any = vpg) -> int | str | None:
    """A script's main in this process; runs go to results/."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *arguments, "--results-dir", "results"])
    with pytest.raises(SystemExit) as stop:
        run_main(script.main)
    return stop.value.code
