"""The language-model scripts as they are called, in this process, on a text and integers that take a second."""

import csv
import gc
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import score
import train
from common.cli import parse, run_main
from lm_evaluation import measurements, step_budget
from lm_report import train_figures
from lm_settings.choices import INTEGER_TASKS
from lm_settings.train_settings import PRESETS, Config, Settings, choose_budget, resolve
from optimisation.lm_learner import Learner
from texts import tokenized_text
from texts.tokenized_text import load_text

WORDS = "the quick brown fox jumps over lazy dogs and cats while seven kings sing loud songs of war".split()
TEXT = "\n".join(" ".join(random.Random(line).choices(WORDS, k=6)) for line in range(150)) + "\n"
SIZE = ("--layers", "1", "--heads", "2", "--width", "16", "--batch", "4")
TINY = ("--task", "text", "--text", "t.txt", *SIZE, "--context", "16", "--steps", "40")
INTEGERS = (*SIZE, "--steps", "40", "--length", "8", "--vocab", "32")
RUNS = Path("results/transformers")
CHEAP_ANCHORS = {"ngram_order": 3, "ngram_nats_per_char": 2.0, "xz_nats_per_char": 1.5, "ppmd_nats_per_char": None}
TIMES = {"train_seconds", "total_seconds", "tokens_per_second"}


def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a text, where runs take one thread and a short sample."""
    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("REPLICATIONS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("REPLICATIONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    for script in (train, score):
        monkeypatch.setattr(script, "available_cores", lambda: 1)
        monkeypatch.setattr(script, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(step_budget, "available_cores", lambda: 1)
    monkeypatch.setattr(measurements, "SAMPLE_TOKENS", 60)
    monkeypatch.setattr(measurements, "CURVE_TOKENS", 256)
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw nothing and have cheap anchors: both take most of the time of a tiny one."""
    for name in ("text_figure", "integer_figure", "attention_figure"):
        monkeypatch.setattr(train_figures, name, lambda *_, **__: None)
    monkeypatch.setattr(tokenized_text, "anchors", lambda *_: CHEAP_ANCHORS)


def inline(monkeypatch: Any, *arguments: str, script: Any = train) -> int | str | None:
    """A script's main in this process; runs go to results/."""
    if RUNS.exists():
        gc.collect()  # an earlier run of this process may still hold the lock of its folder
    monkeypatch.setattr(sys, "argv", [f"transformers/{script.__name__}.py", "--results-dir", "results", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_main(script.main)
    return stop.value.code


def one_sentence(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def summary_of(name: str) -> dict[str, Any]:
    return json.loads((RUNS / name / "summary.json").read_text())


def metrics_of(name: str) -> list[dict[str, str]]:
    """The rows of metrics.csv without the column of times."""
    with open(RUNS / name / "metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "minutes"} for row in csv.DictReader(file)]


def minutes_of(name: str) -> list[float]:
    with open(RUNS / name / "metrics.csv", newline="") as file:
        return [float(row["minutes"]) for row in csv.DictReader(file)]


def state_of(name: str) -> dict[str, Any]:
    return torch.load(RUNS / name / "checkpoint.pt", weights_only=True)


def same_weights(one: str, other: str) -> bool:
    a, b = state_of(one)["model"], state_of(other)["model"]
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def settings_of(*arguments: str) -> Settings:
    return resolve(choose_budget(parse(Config, PRESETS, list(arguments)), list(arguments)))


def learner_of(*arguments: str, dtype: torch.dtype = torch.float32) -> Learner:
    settings = settings_of(*arguments)
    text = None if settings.task in INTEGER_TASKS else load_text(settings, torch.device("cpu"))
    return Learner(settings, text, torch.device("cpu"), dtype)
