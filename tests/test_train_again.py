"""The same command of train.py again: skipped, resumed to the same bits, repeated, refused; runs that diverge."""

import json
import math
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from common.cli import parse, run_main
from common.files import save_checkpoint, this_host
from common.live import LiveFigure
from common.provenance import source_hash, source_hashes
from decoder_model import ngram_tables
from lm_commands import (
    CHEAP_ANCHORS,
    INTEGERS,
    RUNS,
    TEXT,
    TIMES,
    TINY,
    inline,
    metrics_of,
    minutes_of,
    one_sentence,
    same_weights,
    state_of,
    summary_of,
)
from lm_report import train_figures
from lm_settings.train_settings import PRESETS, Config, resolve
from optimisation.lm_learner import Learner
from texts import tokenized_text
from texts.tokenized_text import load_text

ROOT = Path(__file__).resolve().parent.parent

# ---------------------------------------------------------------- the same command again


def test_finished_work_is_skipped(plain_lm_folder, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY) == 0
    (folder,) = RUNS.iterdir()
    assert folder.name.startswith("text-")
    assert folder.name.endswith("-s0")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    monkeypatch.setattr(train, "update", None)
    assert inline(monkeypatch, *TINY) == 0
    out = capsys.readouterr().out
    assert "already done: text: validation loss" in out
    assert str(folder) in out
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_changes_the_numbers_changes_the_folder(plain_lm_folder, monkeypatch):
    short = (*TINY, "--steps", "1")
    assert inline(monkeypatch, *short) == 0
    Path("copy.txt").write_text(TEXT)
    assert inline(monkeypatch, *short, "--text", "copy.txt") == 0  # the same text under another name
    assert len(list(RUNS.iterdir())) == 1
    Path("copy.txt").write_text(TEXT.replace("war", "wax"))
    others = [
        ("--text", "copy.txt"),
        ("--seed", "1"),
        ("--dropout", "0.1"),
        ("--lr-scale", "2"),
        ("--without", "shift"),
    ]
    for count, other in enumerate(others, 2):
        assert inline(monkeypatch, *short, *other) == 0
        assert len(list(RUNS.iterdir())) == count


def test_what_reports_is_no_part_of_a_run_and_the_loop_is(plain_lm_folder, monkeypatch):
    files = {Path(name).stem for name in source_hashes(*train.ROOTS)}
    assert {"decoder", "kernels", "ngram_tables", "muon", "lm_losses", "corpora", "anchors", "noise_tracking"} <= files
    assert not {"train_report", "train_figures", "run", "cli", "keeping"} & files
    assert inline(monkeypatch, *TINY, "--steps", "1", "--name", "a") == 0
    recorded = json.loads((RUNS / "a/config.json").read_text())["config"]
    assert source_hash(train.__file__).startswith(recorded["loop"])


@pytest.mark.parametrize("arguments", [TINY, ("--task", "ascending", *INTEGERS)], ids=["text", "integers"])
def test_the_loss_is_drawn_on_the_way_and_changes_no_number(lm_folder, monkeypatch, arguments):
    names = {}
    for name in ("text_figure", "integer_figure"):
        monkeypatch.setattr(train_figures, name, lambda *what, **_: names.setdefault(run, []).append(what[1] is None))
    monkeypatch.setattr(train_figures, "attention_figure", lambda *_: None)
    monkeypatch.setattr(tokenized_text, "anchors", lambda *_: CHEAP_ANCHORS)
    for run, after in (("a", math.inf), ("b", 0.0)):
        monkeypatch.setattr(train, "LiveFigure", partial(LiveFigure, share=1e9, after=after))
        assert inline(monkeypatch, *arguments, "--name", run) == 0
    rows = len(metrics_of("b"))
    assert names == {
        "a": [False],
        "b": [True] * (rows - 3) + [False],
    }  # not of one row or two, and the last is the end's
    assert metrics_of("a") == metrics_of("b")


def test_another_configuration_under_the_same_name_is_refused(plain_lm_folder, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    before = {path: path.read_bytes() for path in (RUNS / "a").iterdir()}
    assert inline(monkeypatch, *TINY, "--name", "a", "--lr-scale", "0.5") == 2
    assert "holds a run of another configuration (lr_scale was 1.0, is 0.5): choose another --name" in one_sentence(
        capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in (RUNS / "a").iterdir()} == before


@pytest.mark.parametrize("arguments", [TINY, ("--task", "induction", *INTEGERS)], ids=["text", "induction"])
def test_a_config_file_repeats_the_run_bit_for_bit(plain_lm_folder, monkeypatch, arguments):
    assert inline(monkeypatch, *arguments, "--dropout", "0.1", "--name", "a") == 0
    assert inline(monkeypatch, "--from-config", str(RUNS / "a/config.json"), "--name", "b") == 0
    assert same_weights("a", "b")
    assert metrics_of("a") == metrics_of("b")
    one, other = ({k: v for k, v in summary_of(name).items() if k not in TIMES} for name in "ab")
    assert one == other
    if arguments == TINY:
        assert (RUNS / "a/sample.txt").read_bytes() == (RUNS / "b/sample.txt").read_bytes()


LONG = (*TINY[:-1], "300", "--dropout", "0.1", "--threads", "1")  # sums over two are not the same to the bit
CODE = f"""
import sys
sys.path.insert(0, sys.argv.pop(1))
import train
from common.cli import run_main
from lm_evaluation import measurements
from texts import tokenized_text
train.SAVE_SECONDS = float(sys.argv.pop(1))
train.available_cores, measurements.CURVE_TOKENS = lambda: 1, 256
tokenized_text.anchors = lambda *_: {CHEAP_ANCHORS}
sys.argv[0] = "transformers/train.py"
run_main(train.main)
"""


def start(save_seconds: float, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", CODE, str(ROOT / "transformers"), str(save_seconds), "--results-dir", "results"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *arguments], **pipes)


def rows_in(folder: Path) -> int:
    file = folder / "metrics.csv"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_killed_and_interrupted_run_goes_on_to_the_same_bits(plain_lm_folder, monkeypatch, capsys):
    monkeypatch.setattr(ngram_tables, "TABLE_ENTRIES", 1 << 16)  # what the other process takes
    folder = RUNS / "stopped"
    for stop, save_seconds in ((signal.SIGKILL, 0.0), (signal.SIGINT, 1e9)):
        before = rows_in(folder)
        process = start(save_seconds, *LONG, "--name", "stopped")
        while rows_in(folder) < before + 3 or not (save_seconds or (folder / "checkpoint.pt").exists()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        process.send_signal(stop)
        _, err = process.communicate(timeout=60)
        assert not (folder / "summary.json").exists()
        assert 0 < state_of("stopped")["step"] < 300
        assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in err
    line = err.strip().splitlines()[-1].partition("To go on: ")[2]
    command = ["python", "transformers/train.py", "--results-dir", "results", *LONG, "--name", "stopped"]
    assert shlex.split(line) == command
    (folder / f".metrics.csv.{this_host()}.999999999.tmp").write_text("left by the kill")
    done = state_of("stopped")["step"]
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    assert inline(monkeypatch, *LONG, "--name", "stopped") == 0
    assert f"going on at step {done:,}" in capsys.readouterr().out
    assert inline(monkeypatch, *LONG, "--name", "whole") == 0
    assert same_weights("whole", "stopped")
    assert metrics_of("whole") == metrics_of("stopped")
    assert minutes_of("stopped") == sorted(minutes_of("stopped"))
    one, other = ({k: v for k, v in summary_of(name).items() if k not in TIMES} for name in ("whole", "stopped"))
    assert one == other
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("more", [(), ("--track-noise",)])
def test_stopped_again_and_again(plain_lm_folder, monkeypatch, more):
    settings = ("--task", "repeat", *INTEGERS, "--dropout", "0.2", *more)
    asked = iter([5, 6, 20, 39])
    update = train.update
    until = next(asked)

    def interrupted(learner: Learner, number: int, steps: int) -> torch.Tensor:
        loss = update(learner, number, steps)
        if number + 1 == until:
            signal.raise_signal(signal.SIGINT)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(train, "update", interrupted)
        for then in (*asked, None):
            assert inline(monkeypatch, *settings, "--name", "a") == 130
            assert state_of("a")["step"] == until
            until = then
    handler = signal.getsignal(signal.SIGINT)
    assert inline(monkeypatch, *settings, "--name", "a") == 0
    assert signal.getsignal(signal.SIGINT) == handler
    assert inline(monkeypatch, *settings, "--name", "b") == 0
    assert same_weights("a", "b")
    assert metrics_of("a") == metrics_of("b")
    assert metrics_of("a") == metrics_of("b")


def test_stopped_after_the_last_step_only_the_report_is_left(plain_lm_folder, monkeypatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "report", interrupted)
        assert inline(monkeypatch, *TINY, "--name", "a") == 130
    state = state_of("a")
    weights = state["model"]
    save_checkpoint(RUNS / "a/checkpoint.pt", {**state, "seconds": 100.0, "minutes": 2.0})
    with monkeypatch.context() as patch:
        patch.setattr(train, "update", None)
        assert inline(monkeypatch, *TINY, "--name", "a") == 0
    assert summary_of("a")["status"] == "ok"
    assert all(torch.equal(weights[key], value) for key, value in state_of("a")["model"].items())
    # both times are those of all processes together
    assert 100 <= summary_of("a")["train_seconds"] < 120 < summary_of("a")["total_seconds"]


def test_a_crash_leaves_its_traceback_and_no_summary_and_is_tried_again(plain_lm_folder, monkeypatch):
    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("a power cut")

    monkeypatch.setattr(sys, "argv", ["transformers/train.py", "--results-dir", "results", *TINY, "--name", "a"])
    with monkeypatch.context() as patch:
        patch.setattr(train, "update", broken)
        with pytest.raises(RuntimeError, match="a power cut"):
            run_main(train.main)
    assert not (RUNS / "a/summary.json").exists()
    assert "a power cut" in (RUNS / "a/error.txt").read_text()
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    assert not (RUNS / "a/error.txt").exists()


def test_two_processes_do_not_share_a_folder(plain_lm_folder, monkeypatch, capsys):
    given = parse(Config, PRESETS, [*TINY, "--results-dir", "results", "--name", "a"])
    settings, device = resolve(given), torch.device("cpu")
    dtype, _ = train.compute_dtype(device)
    held = train.open_folder(settings, given, load_text(settings, device), device, dtype)
    assert inline(monkeypatch, *TINY, "--name", "a") == 2
    assert "is in use by another process" in one_sentence(capsys.readouterr().err)
    held.close()
    assert inline(monkeypatch, *TINY, "--name", "a") == 0


# ---------------------------------------------------------------- divergence


@pytest.mark.parametrize("arch", ["modern", "vaswani"])
def test_a_rate_that_is_far_too_high_is_told_as_such(plain_lm_folder, monkeypatch, capsys, arch):
    arguments = (*TINY, "--arch", arch, "--lr-scale", "1e6", "--name", "a")
    assert inline(monkeypatch, *arguments) == 1
    assert summary_of("a")["status"] == "diverged"
    assert "diverged" in capsys.readouterr().out


def test_a_run_that_diverged_has_not_gone_well_the_second_time_either(plain_lm_folder, monkeypatch, capsys):
    arguments = (*TINY, "--arch", "vaswani", "--lr-scale", "1e6", "--name", "a")
    assert inline(monkeypatch, *arguments) == 1
    capsys.readouterr()
    assert inline(monkeypatch, *arguments) == 1
    assert "diverged" in capsys.readouterr().out


def test_a_diverged_run_counts_the_steps_that_were_made(plain_lm_folder, monkeypatch):
    update, made = train.update, []

    def breaking(learner: Learner, number: int, steps: int) -> torch.Tensor:
        made.append(number)
        return update(learner, number, steps) * (math.nan if number == 10 else 1.0)

    monkeypatch.setattr(train, "update", breaking)
    assert inline(monkeypatch, *TINY, "--steps", "400", "--name", "a") == 1
    summary = summary_of("a")
    assert summary["status"] == "diverged"
    assert 11 <= len(made) < 40  # noticed at the next row
    assert summary["steps"] == len(made)
    assert summary["tokens"] == 64 * len(made)
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / summary["train_seconds"])


def test_weights_that_break_in_the_last_step_are_a_divergence(plain_lm_folder, monkeypatch):
    update = train.update

    def breaking(learner: Learner, number: int, steps: int) -> torch.Tensor:
        loss = update(learner, number, steps)
        if number + 1 == steps:
            with torch.no_grad():
                learner.model.embedding.fill_(math.nan)
        return loss

    monkeypatch.setattr(train, "update", breaking)
    assert inline(monkeypatch, *TINY, "--name", "a") == 1
    assert summary_of("a")["status"] == "diverged"
