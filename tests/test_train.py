"""train.py and score.py end to end on a small text and small integers: what is written, resume, repetition, bad input."""

import csv
import gc
import json
import math
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lmplots
import lmreport
import lookback
import score
import train
import training
from common.cli import parse, run_main
from common.errors import BadInput
from common.files import save_checkpoint
from common.live import LiveFigure
from decoder import MODERN
from device_guard import no_float64
from evaluation import load_trained, token_losses
from lookback import NGRAM_WIDTH, NGRAMS, table_sizes
from sample import generate
from tasks import IntegerTask, TextTask
from tiny_decoder import random_tokens, tiny_decoder

ROOT = Path(__file__).resolve().parent.parent
WORDS = "the quick brown fox jumps over lazy dogs and cats while seven kings sing loud songs of war".split()
TEXT = "\n".join(" ".join(random.Random(line).choices(WORDS, k=6)) for line in range(150)) + "\n"
SIZE = ("--layers", "1", "--heads", "2", "--width", "16", "--batch", "4")
TINY = ("--task", "text", "--text", "t.txt", *SIZE, "--context", "16", "--steps", "40")
INTEGERS = (*SIZE, "--steps", "40", "--length", "8", "--vocab", "32")
RUNS = Path("results/transformers")
CHEAP_ANCHORS = {"ngram_order": 3, "ngram_nats_per_char": 2.0, "xz_nats_per_char": 1.5, "ppmd_nats_per_char": None}
TIMES = {"train_seconds", "total_seconds", "tokens_per_second"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a text, where runs take one thread and a short sample."""
    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("REPLICATIONS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    for script in (train, score):
        monkeypatch.setattr(script, "available_cores", lambda: 1)
        monkeypatch.setattr(script, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(lmreport, "SAMPLE_TOKENS", 60)
    monkeypatch.setattr(train, "CURVE_TOKENS", 256)
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def plain(place, monkeypatch) -> Path:
    """The same without figures and with cheap anchors, which take most of the time of a tiny run."""
    for name in ("text_figure", "integer_figure", "attention_figure"):
        monkeypatch.setattr(lmplots, name, lambda *_, **__: None)
    monkeypatch.setattr(training, "anchors", lambda *_: CHEAP_ANCHORS)
    return place


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


def config_of(*arguments: str) -> train.Config:
    return train.resolve(train.choose_budget(parse(train.Config, train.PRESETS, list(arguments)), list(arguments)))


# ---------------------------------------------------------------- what it writes

COMMON_KEYS = "status val_loss train_seconds total_seconds steps tokens n_params tokens_per_second".split()
TEXT_KEYS = "val_loss_sliding val_bits_per_char ngram_nats_per_char ngram_order xz_nats_per_char ppmd_nats_per_char"
TEXT_KEYS = f"{TEXT_KEYS} sample_longest_match".split()


@pytest.mark.parametrize(
    ("tokenizer", "arch"), [("char", "modern"), ("word", "modern"), ("bpe", "modern"), ("char", "vaswani")]
)
def test_a_text_run(place, monkeypatch, capsys, tokenizer, arch):
    assert inline(monkeypatch, *TINY, "--tokenizer", tokenizer, "--arch", arch, "--name", "a") == 0
    out = capsys.readouterr().out
    folder, summary = RUNS / "a", summary_of("a")
    assert {*COMMON_KEYS, *TEXT_KEYS} <= summary.keys()
    assert summary["status"] == "ok"
    assert summary["steps"] == 40
    assert summary["tokens"] == 40 * 4 * 16
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / summary["train_seconds"])
    assert summary["total_seconds"] > summary["train_seconds"] > 0

    trained = load_trained(folder / "checkpoint.pt", torch.device("cpu"))
    vocabulary = trained.vocabulary
    assert vocabulary is not None
    V, C = vocabulary.size, 16
    ngrams = 0 if tokenizer == "word" else sum(table_sizes(V)) * NGRAM_WIDTH + C * len(NGRAMS) * NGRAM_WIDTH
    modern = 2 * V * C + 12 * C**2 + 2 + ngrams
    assert summary["n_params"] == (V * C + 12 * C**2 + 9 * C if arch == "vaswani" else modern)
    assert trained.model.shape.context == 16
    parts = set(MODERN) - ({"ngrams"} if tokenizer == "word" else set())
    assert set(trained.model.shape.parts) == (parts if arch == "modern" else set())

    # the losses from the saved model on the last tenth of the file, and their bits per character of the text itself
    validation = TEXT[int(0.9 * len(TEXT)) :]
    ids = torch.from_numpy(vocabulary.encode(validation))
    cold, sliding = token_losses(trained.model, ids, 16)
    assert summary["val_loss"] == pytest.approx(float(cold.mean()), abs=1e-5)
    assert summary["val_loss_sliding"] == pytest.approx(float(sliding.mean()), abs=1e-5)
    predicted = vocabulary.decode(ids[1:])
    assert validation.endswith(predicted)
    assert summary["val_characters"] == len(predicted)
    assert summary["val_tokens"] == len(ids) - 1
    bits = summary["val_loss"] * summary["val_tokens"] / math.log(2) / len(predicted)
    assert summary["val_bits_per_char"] == pytest.approx(bits, rel=1e-5)
    assert f"{summary['val_loss']:.4f} nats per token" in out

    rows = metrics_of("a")
    assert list(rows[0]) == ["step", "tokens", "train_loss", "val_loss"]
    assert [int(row["step"]) for row in rows] == train.Plan(40, 40).rows
    assert all(int(row["tokens"]) == 64 * int(row["step"]) for row in rows)
    minutes = minutes_of("a")
    assert minutes == sorted(minutes)
    assert 0 < 60 * minutes[-1] <= summary["total_seconds"]

    sample = (folder / "sample.txt").read_bytes().decode()
    assert sample.strip() in out
    train_text = TEXT[: int(0.9 * len(TEXT))]
    match = summary["sample_longest_match"]
    pieces = {sample[i : i + match] for i in range(len(sample) - match + 1)}
    longer = {sample[i : i + match + 1] for i in range(len(sample) - match)}
    assert any(piece in train_text for piece in pieces)
    assert not any(piece in train_text for piece in longer)

    for name in ("loss.png", "loss.pdf"):
        assert (folder / name).stat().st_size > 5000
    config = json.loads((folder / "config.json").read_text())
    assert config["arguments"]["tokenizer"] == tokenizer
    assert config["config"]["steps"] == 40
    assert config["config"]["minutes"] is None
    assert str(place) not in json.dumps(config)
    assert not list(Path("results").rglob("*.tmp"))


@pytest.mark.parametrize(
    ("task", "arch", "floor"),
    [("ascending", "modern", 0.0), ("repeat", "vaswani", 7 * math.log(31) / 16), ("induction", "modern", None)],
)
def test_an_integer_run(place, monkeypatch, capsys, task, arch, floor):
    assert inline(monkeypatch, "--task", task, *INTEGERS, "--arch", arch, "--name", "a") == 0
    summary = summary_of("a")
    assert {*COMMON_KEYS, "floor", "second_half_loss", "accuracy"} <= summary.keys()
    expected = IntegerTask(task, 8, 32, 0, torch.device("cpu"))
    assert summary["floor"] == pytest.approx(expected.floors.mean() if floor is None else floor)
    assert summary["tokens"] == 40 * 4 * expected.context
    assert 0 <= summary["accuracy"] <= 1
    assert summary["val_loss"] > summary["floor"] - 0.01
    rows = metrics_of("a")
    assert list(rows[0]) == [
        "step",
        "tokens",
        "train_loss",
        "val_loss",
        "first_half_loss",
        "second_half_loss",
        "accuracy",
    ]
    assert [int(row["step"]) for row in rows] == train.Plan(40, 40).rows
    for name in ("loss.png", "loss.pdf", "attention.png", "attention.pdf"):
        assert (RUNS / "a" / name).stat().st_size > 5000
    assert not (RUNS / "a/sample.txt").exists()
    # attention has to find it out: no part of the net sees an earlier token in another way
    parts = load_trained(RUNS / "a/checkpoint.pt", torch.device("cpu")).model.shape.parts
    assert not {"shift", "ngrams"} & set(parts)
    out = capsys.readouterr().out
    assert f"exact floor {summary['floor']:.4f}" in out
    assert f"accuracy {100 * summary['accuracy']:.2f}%" in out


def test_a_text_without_line_ends_and_one_of_a_single_character(place, monkeypatch):
    for i, text in enumerate(("abc " * 100, "aaaa" * 100)):
        Path("t.txt").write_text(text)
        assert inline(monkeypatch, *TINY, "--steps", "3", "--name", f"run{i}") == 0
        assert (RUNS / f"run{i}/loss.png").exists()
    assert summary_of("run1")["val_loss"] == 0


def test_a_validation_text_shorter_than_the_context(place, monkeypatch):
    Path("t.txt").write_text(TEXT[:400])
    assert inline(monkeypatch, *TINY, "--context", "100", "--steps", "3", "--name", "a") == 0
    assert summary_of("a")["val_tokens"] == 39
    assert (RUNS / "a/loss.png").exists()


def test_the_loss_falls_far_below_chance(plain, monkeypatch):
    assert inline(monkeypatch, *TINY, "--steps", "200", "--name", "a") == 0
    assert summary_of("a")["val_loss"] < 0.6 * math.log(28)
    ascending = ("--task", "ascending", *INTEGERS, "--width", "32", "--batch", "16", "--steps", "150")
    assert inline(monkeypatch, *ascending, "--name", "b") == 0
    assert summary_of("b")["second_half_loss"] < 0.1 * math.log(32)
    assert summary_of("b")["accuracy"] > 0.99


def test_training_loss_of_metrics_is_the_mean_since_the_last_row(plain, monkeypatch):
    losses: list[float] = []
    step = training.Training.step

    def watched(self: Any, *arguments: int) -> torch.Tensor:
        loss = step(self, *arguments)
        losses.append(float(loss))
        return loss

    monkeypatch.setattr(training.Training, "step", watched)
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    before = 0
    for row in metrics_of("a"):
        now = int(row["step"])
        assert float(row["train_loss"]) == pytest.approx(np.mean(losses[before:now]), rel=1e-5)
        before = now
    assert len(losses) == 40


def test_development_leaves_the_validation_text_alone(plain, monkeypatch, capsys):
    kept = TEXT[: int(0.9 * len(TEXT))]
    names = []
    for ending in ("the validation text " * 99, "another one " * 99):
        Path("t.txt").write_text(kept + ending[: len(TEXT) - len(kept)])
        assert inline(monkeypatch, *TINY, "--development") == 0
        names = [path.name for path in RUNS.iterdir()]
    assert len(names) == 1  # the same run: nothing of the last tenth entered
    assert summary_of(names[0])["val_tokens"] == len(kept) - int(0.9 * len(kept)) - 1
    assert "already done" in capsys.readouterr().out


def test_attention_maps_are_the_weights_and_leave_the_model_alone():
    for arch in ("modern", "vaswani"):
        model = tiny_decoder(arch)
        tokens = random_tokens(model, 1)
        before = model(tokens)
        maps = lmplots.attention_maps(model, tokens[0])
        assert [weights.shape for weights in maps] == [(2, 12, 12)] * 2
        for weights in maps:
            np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
            assert (np.triu(weights, 1) == 0).all()
            assert weights[:, -1].std() > 0
        assert torch.equal(model(tokens), before)


# ---------------------------------------------------------------- the recipe


@pytest.mark.parametrize("steps", [1, 2, 7, 40, 1000, 123_456])
def test_rows_are_denser_at_the_beginning_and_include_the_end(steps):
    rows = train.Plan(steps, steps).rows
    assert rows == sorted(set(rows))
    assert rows[0] >= 1
    assert rows[-1] == steps
    assert len(rows) <= train.ROWS
    gaps = np.diff([0, *rows])
    assert gaps[-1] >= gaps[0]


def training_of(*arguments: str, dtype: torch.dtype = torch.float32) -> training.Training:
    config = config_of(*arguments)
    text = None if config.task in train.INTEGER_TASKS else training.load_text(config, torch.device("cpu"))
    return training.Training(config, text, torch.device("cpu"), dtype)


def test_label_smoothing_mixes_in_the_mean_over_all_tokens(place):
    run = training_of(*TINY, "--smoothing", "0.25", "--arch", "vaswani", "--dropout", "0")
    inputs, targets = run.data(0)
    with torch.no_grad():
        log_p = run.model(inputs).log_softmax(-1)
    right = -log_p.gather(-1, targets[..., None]).mean()
    assert float(run.step(0, 40)) == pytest.approx(float(0.75 * right - 0.25 * log_p.mean()), rel=1e-5)


def test_the_schedules_of_both_settings(place):
    modern, paper = training_of(*TINY, "--lr", "0.5"), training_of(*TINY, "--arch", "vaswani", "--lr", "0.5")
    assert modern.scale(100, 1000) == 0.5  # beyond the warm-up, before the decline
    assert 0 < modern.scale(999, 1000) < 0.01
    scales = [paper.scale(step, 1000) for step in range(1000)]
    peak = int(np.argmax(scales))
    assert 0 < peak < 100
    assert scales[peak] == pytest.approx(0.5 * (16 * (peak + 1)) ** -0.5)
    assert scales[4 * peak + 3] == pytest.approx(scales[peak] / 2)


def test_which_optimiser_takes_which_setting(place):
    assert training_of(*TINY).optimizer.muon is not None
    assert training_of(*TINY, "--without", "muon").optimizer.muon is None
    assert training_of(*TINY, "--arch", "vaswani").optimizer.muon is None
    assert training_of(*TINY, "--without", "muon", "rotary").model.shape.parts == tuple(
        part for part in MODERN if part != "rotary"
    )


def test_a_step_follows_from_its_number_alone(place):
    one, other = (training_of(*TINY, "--dropout", "0.3") for _ in range(2))
    torch.rand(7)
    assert float(one.step(3, 40)) == float(other.step(3, 40))
    assert float(training_of(*TINY, "--dropout", "0.3").step(4, 40)) != float(other.step(4, 40))
    assert isinstance(one.task, TextTask)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_decides_weights_and_data(place, seed):
    one, other = training_of(*TINY), training_of(*TINY, "--seed", str(seed))
    assert not torch.equal(one.model.embedding, other.model.embedding)
    assert not torch.equal(one.data(0)[0], other.data(0)[0])


def test_bf16_trains_as_well_as_fp32(plain, monkeypatch):
    losses = {}
    for precision in ("fp32", "bf16"):
        assert inline(monkeypatch, *TINY, "--steps", "80", "--precision", precision, "--name", precision) == 0
        losses[precision] = summary_of(precision)["val_loss"]
    assert abs(losses["fp32"] - losses["bf16"]) < 0.03
    assert losses["fp32"] != losses["bf16"]


@pytest.mark.parametrize("arch", ["modern", "vaswani"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_float64_on_the_device(place, arch, dtype):
    for arguments in (TINY, *(("--task", task, *INTEGERS) for task in train.INTEGER_TASKS)):
        run = training_of(*arguments, "--arch", arch, "--dropout", "0.1", "--smoothing", "0.1", dtype=dtype)
        with no_float64():
            losses = [run.step(step, 40) for step in range(3)]
            columns = train.measure(run, dtype)
            run.model.eval()
            run.model.compute = torch.float32
            prompt = torch.tensor([[1, 2, 3]])
            ids = list(generate(run.model, prompt, 12, temperature=0.8, top_k=5, top_p=0.9))
        assert all(math.isfinite(float(loss)) for loss in losses)
        assert math.isfinite(columns["val_loss"])
        assert len(ids) == 12


# ---------------------------------------------------------------- steps from minutes


def test_a_step_and_an_evaluation_are_timed(place, monkeypatch):
    monkeypatch.setattr(training, "CALIBRATION_SECONDS", 0.05)
    for arguments in (TINY, ("--task", "repeat", *INTEGERS)):
        config = config_of(*arguments)
        text = training.load_text(config, torch.device("cpu")) if config.task == "text" else None
        step, token = training.calibrate(config, text, torch.device("cpu"), torch.float32)
        assert 1e-5 < step < 1
        assert 1e-9 < token < 1e-2


def test_minutes_become_steps_once_and_for_all(plain, monkeypatch, capsys):
    asked = []

    def calibrate(*_: Any) -> tuple[float, float]:
        asked.append(time.perf_counter() - train.STARTED)
        return 0.03, 1e-6

    monkeypatch.setattr(train, "calibrate", calibrate)
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    arguments = (*TINY[:-2], "--minutes", "0.12")
    step = training.Training.step

    def breaking(self: Any, number: int, steps: int) -> torch.Tensor:
        if number == 40:  # after the number of steps has been decided for good, and before any checkpoint
            raise RuntimeError("a power cut")
        return step(self, number, steps)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "step", breaking)
        patch.setattr(sys, "argv", ["transformers/train.py", "--results-dir", "results", *arguments, "--name", "a"])
        with pytest.raises(RuntimeError, match="a power cut"):
            run_main(train.main)
    plan = json.loads((RUNS / "a/plan.json").read_text())
    assert plan["first_steps"] == pytest.approx((60 * plan["deadline_minutes"] - asked[0]) / 0.03, abs=3)
    assert f"about {plan['first_steps']:,} steps" in capsys.readouterr().out
    assert plan["revised_at"] == int(0.3 * plan["first_steps"]) < 40
    assert plan["final"]
    assert plan["steps"] != plan["first_steps"]  # a tiny step takes less than the 0.03 s it was said to take
    # the same command goes on with the same plan
    assert inline(monkeypatch, *arguments, "--name", "a") == 0
    steps = summary_of("a")["steps"]
    assert steps == plan["steps"]
    # and its config.json repeats it elsewhere
    assert inline(monkeypatch, "--from-config", str(RUNS / "a/config.json"), "--name", "b") == 0
    assert summary_of("b")["steps"] == steps
    assert same_weights("a", "b")
    assert len(asked) == 1
    # other settings are measured anew
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    assert inline(monkeypatch, "--from-config", str(RUNS / "a/config.json"), "--seed", "1", "--name", "c") == 0
    assert len(asked) == 2


def test_a_plan_is_revised_from_the_runs_own_speed():
    plan = train.Plan(100, 100, 30, False, 1.0)
    # half a minute is left, at a tenth of a second a step
    assert train.revise(plan, 30, 0.5, 0.1) == train.Plan(330, 100, 30, True, 1.0)
    # with no time left, the learning rate still has to be flat up to here: 30 < 0.4 x steps
    late = train.revise(plan, 30, 1.5, 0.1).steps
    assert 30 < training.FLAT * late < 32
    for steps in (late, 330):
        rows = train.revise(plan, 30, 1.0 - (steps - 30) / 600, 0.1).rows
        assert [row for row in rows if row <= 30] == [row for row in plan.rows if row <= 30]
        assert rows[-1] == pytest.approx(max(steps, late), abs=1)


def test_a_damaged_or_missing_plan_is_one_sentence(plain, monkeypatch, capsys):
    monkeypatch.setattr(train, "calibrate", lambda *_: (0.03, 1e-6))
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    arguments = (*TINY[:-2], "--minutes", "0.12", "--name", "a")
    assert inline(monkeypatch, *arguments) == 0
    (RUNS / "a/summary.json").unlink()
    file = RUNS / "a/plan.json"
    plan = json.loads(file.read_text())
    file.write_text(json.dumps({**plan, "more": 1}))
    assert inline(monkeypatch, *arguments) == 2
    assert "is damaged" in one_sentence(capsys.readouterr().err)
    file.unlink()
    assert inline(monkeypatch, *arguments) == 2
    assert "is gone" in one_sentence(capsys.readouterr().err)


def test_a_budget_too_small_for_one_step(plain, monkeypatch, capsys):
    monkeypatch.setattr(train, "calibrate", lambda *_: (0.01, 1e-6))
    assert inline(monkeypatch, *TINY[:-2], "--minutes", "0.01", "--name", "a") == 2
    assert "--minutes 0.01 is too short" in one_sentence(capsys.readouterr().err)
    assert not (RUNS / "a/summary.json").exists()
    # the name is still free for a larger budget
    monkeypatch.setattr(train, "STARTED", time.perf_counter())
    assert inline(monkeypatch, *TINY[:-2], "--minutes", "0.12", "--name", "a") == 0


def test_presets_and_explicit_flags():
    quick, default, full = (config_of("--preset", name).minutes for name in ("quick", "default", "full"))
    assert quick is not None
    assert default is not None
    assert full is not None
    assert quick <= 1 < default < full
    assert config_of("--preset", "quick", "--minutes", "2").minutes == 2
    config = config_of("--preset", "quick", "--steps", "7")
    assert (config.steps, config.minutes) == (7, None)


def test_minutes_given_win_over_the_steps_of_a_config_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"arguments": {"steps": 40, "minutes": None}}))
    config = config_of("--from-config", str(tmp_path / "config.json"), "--minutes", "2")
    assert (config.steps, config.minutes) == (None, 2)


@pytest.mark.parametrize("task", train.INTEGER_TASKS)
def test_quick_is_not_slower_than_the_default(task):
    quick, default = (config_of("--task", task, "--preset", preset).minutes for preset in ("quick", "default"))
    assert quick is not None
    assert default is not None
    assert quick <= default


# ---------------------------------------------------------------- the same command again


def test_finished_work_is_skipped(plain, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY) == 0
    (folder,) = RUNS.iterdir()
    assert folder.name.startswith("text-")
    assert folder.name.endswith("-s0")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    monkeypatch.setattr(training.Training, "step", None)
    assert inline(monkeypatch, *TINY) == 0
    out = capsys.readouterr().out
    assert "already done: text: validation loss" in out
    assert str(folder) in out
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_changes_the_numbers_changes_the_folder(plain, monkeypatch):
    short = (*TINY, "--steps", "1")
    assert inline(monkeypatch, *short) == 0
    Path("copy.txt").write_text(TEXT)
    assert inline(monkeypatch, *short, "--text", "copy.txt") == 0  # the same text under another name
    assert len(list(RUNS.iterdir())) == 1
    Path("copy.txt").write_text(TEXT.replace("war", "wax"))
    others = [("--text", "copy.txt"), ("--seed", "1"), ("--dropout", "0.1"), ("--lr", "2"), ("--without", "shift")]
    for count, other in enumerate(others, 2):
        assert inline(monkeypatch, *short, *other) == 0
        assert len(list(RUNS.iterdir())) == count


@pytest.mark.parametrize("arguments", [TINY, ("--task", "ascending", *INTEGERS)], ids=["text", "integers"])
def test_the_loss_is_drawn_on_the_way_and_changes_no_number(place, monkeypatch, arguments):
    names = {}
    for name in ("text_figure", "integer_figure"):
        monkeypatch.setattr(lmplots, name, lambda *what: names.setdefault(run, []).append(what[1] is None))
    monkeypatch.setattr(lmplots, "attention_figure", lambda *_: None)
    monkeypatch.setattr(training, "anchors", lambda *_: CHEAP_ANCHORS)
    for run, after in (("a", math.inf), ("b", 0.0)):
        monkeypatch.setattr(train, "LiveFigure", partial(LiveFigure, share=1e9, after=after))
        assert inline(monkeypatch, *arguments, "--name", run) == 0
    rows = len(metrics_of("b"))
    assert names == {
        "a": [False],
        "b": [True] * (rows - 3) + [False],
    }  # not of one row or two, and the last is the end's
    assert metrics_of("a") == metrics_of("b")


def test_another_configuration_under_the_same_name_is_refused(plain, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    before = {path: path.read_bytes() for path in (RUNS / "a").iterdir()}
    assert inline(monkeypatch, *TINY, "--name", "a", "--lr", "0.5") == 2
    assert "holds a run of another configuration: choose another --name" in one_sentence(capsys.readouterr().err)
    assert {path: path.read_bytes() for path in (RUNS / "a").iterdir()} == before


@pytest.mark.parametrize("arguments", [TINY, ("--task", "induction", *INTEGERS)], ids=["text", "induction"])
def test_a_config_file_repeats_the_run_bit_for_bit(plain, monkeypatch, arguments):
    assert inline(monkeypatch, *arguments, "--dropout", "0.1", "--name", "a") == 0
    assert inline(monkeypatch, "--from-config", str(RUNS / "a/config.json"), "--name", "b") == 0
    assert same_weights("a", "b")
    assert metrics_of("a") == metrics_of("b")
    one, other = ({k: v for k, v in summary_of(name).items() if k not in TIMES} for name in "ab")
    assert one == other
    if arguments == TINY:
        assert (RUNS / "a/sample.txt").read_bytes() == (RUNS / "b/sample.txt").read_bytes()


LONG = (*TINY[:-1], "300", "--dropout", "0.1")
CODE = f"""
import sys
sys.path.insert(0, sys.argv.pop(1))
import train
import training
from common.cli import run_main
train.SAVE_SECONDS = float(sys.argv.pop(1))
train.CURVE_TOKENS, train.available_cores, training.anchors = 256, lambda: 1, lambda *_: {CHEAP_ANCHORS}
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


def test_a_killed_and_interrupted_run_goes_on_to_the_same_bits(plain, monkeypatch, capsys):
    monkeypatch.setattr(lookback, "NGRAM_ROWS", 1 << 16)  # what the other process takes
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
    (folder / ".metrics.csv.999999999.tmp").write_text("left by the kill")
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
def test_stopped_again_and_again(plain, monkeypatch, more):
    settings = ("--task", "repeat", *INTEGERS, "--dropout", "0.2", *more)
    asked = iter([5, 6, 20, 39])
    step = training.Training.step
    until = next(asked)

    def interrupted(self: Any, number: int, steps: int) -> torch.Tensor:
        loss = step(self, number, steps)
        if number + 1 == until:
            signal.raise_signal(signal.SIGINT)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "step", interrupted)
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


def test_stopped_after_the_last_step_only_the_report_is_left(plain, monkeypatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "report", interrupted)
        assert inline(monkeypatch, *TINY, "--name", "a") == 130
    state = state_of("a")
    weights = state["model"]
    save_checkpoint(RUNS / "a/checkpoint.pt", {**state, "seconds": 100.0, "minutes": 2.0})
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "step", None)
        assert inline(monkeypatch, *TINY, "--name", "a") == 0
    assert summary_of("a")["status"] == "ok"
    assert all(torch.equal(weights[key], value) for key, value in state_of("a")["model"].items())
    # both times are those of all processes together
    assert 100 <= summary_of("a")["train_seconds"] < 120 < summary_of("a")["total_seconds"]


def test_a_crash_leaves_its_traceback_and_no_summary_and_is_tried_again(plain, monkeypatch):
    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sys, "argv", ["transformers/train.py", "--results-dir", "results", *TINY, "--name", "a"])
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "step", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            run_main(train.main)
    assert not (RUNS / "a/summary.json").exists()
    assert "out of memory" in (RUNS / "a/error.txt").read_text()
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    assert not (RUNS / "a/error.txt").exists()


def test_two_processes_do_not_share_a_folder(plain, monkeypatch, capsys):
    config = config_of(*TINY, "--results-dir", "results", "--name", "a")
    text = training.load_text(config, torch.device("cpu"))
    dtype, _ = train.compute_dtype(torch.device("cpu"))
    held = train.open_run(config, config, text, torch.device("cpu"), dtype)
    assert inline(monkeypatch, *TINY, "--name", "a") == 2
    assert "is in use by another process" in one_sentence(capsys.readouterr().err)
    held.close()
    assert inline(monkeypatch, *TINY, "--name", "a") == 0


# ---------------------------------------------------------------- divergence


@pytest.mark.parametrize("arch", ["modern", "vaswani"])
def test_a_rate_that_is_far_too_high_is_told_as_such(plain, monkeypatch, capsys, arch):
    arguments = (*TINY, "--arch", arch, "--lr", "1e6", "--name", "a")
    assert inline(monkeypatch, *arguments) == 1
    assert summary_of("a")["status"] == "diverged"
    assert "diverged" in capsys.readouterr().out


def test_a_run_that_diverged_has_not_gone_well_the_second_time_either(plain, monkeypatch, capsys):
    arguments = (*TINY, "--arch", "vaswani", "--lr", "1e6", "--name", "a")
    assert inline(monkeypatch, *arguments) == 1
    capsys.readouterr()
    assert inline(monkeypatch, *arguments) == 1
    assert "diverged" in capsys.readouterr().out


def test_a_diverged_run_counts_the_steps_that_were_made(plain, monkeypatch):
    step, made = training.Training.step, []

    def breaking(self: Any, number: int, steps: int) -> torch.Tensor:
        made.append(number)
        return step(self, number, steps) * (math.nan if number == 10 else 1.0)

    monkeypatch.setattr(training.Training, "step", breaking)
    assert inline(monkeypatch, *TINY, "--steps", "400", "--name", "a") == 1
    summary = summary_of("a")
    assert summary["status"] == "diverged"
    assert 11 <= len(made) < 40  # noticed at the next row
    assert summary["steps"] == len(made)
    assert summary["tokens"] == 64 * len(made)
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / summary["train_seconds"])


def test_weights_that_break_in_the_last_step_are_a_divergence(plain, monkeypatch):
    step = training.Training.step

    def breaking(self: Any, number: int, steps: int) -> torch.Tensor:
        loss = step(self, number, steps)
        if number + 1 == steps:
            with torch.no_grad():
                self.model.embedding.fill_(math.nan)
        return loss

    monkeypatch.setattr(training.Training, "step", breaking)
    assert inline(monkeypatch, *TINY, "--name", "a") == 1
    assert summary_of("a")["status"] == "diverged"


# ---------------------------------------------------------------- score.py


def scored(monkeypatch: Any, capsys: Any, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert inline(monkeypatch, *arguments, script=score) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("tokenizer", ["char", "word", "bpe"])
def test_score_reproduces_the_summary(plain, monkeypatch, capsys, tokenizer):
    assert inline(monkeypatch, *TINY, "--steps", "9", "--tokenizer", tokenizer) == 0
    (folder,) = RUNS.iterdir()
    summary = summary_of(folder.name)
    found = scored(monkeypatch, capsys)  # the latest run and its own validation text
    assert found["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
    assert found["loss_sliding"] == pytest.approx(summary["val_loss_sliding"], abs=1e-5)
    assert found["bits_per_char"] == pytest.approx(summary["val_bits_per_char"], abs=1e-5)
    assert found["characters"] == summary["val_characters"]
    Path("v.txt").write_text(TEXT[int(0.9 * len(TEXT)) :], encoding="utf-8")
    again = scored(monkeypatch, capsys, "--checkpoint", str(folder / "checkpoint.pt"), "--text", "v.txt")
    assert again == found
    # away from its folder a checkpoint scores a text still, but knows no text of its own
    (folder / "checkpoint.pt").rename("model.pt")
    assert scored(monkeypatch, capsys, "--checkpoint", "model.pt", "--text", "v.txt")["loss"] == found["loss"]
    assert inline(monkeypatch, "--checkpoint", "model.pt", script=score) == 2
    assert "give --text FILE" in one_sentence(capsys.readouterr().err)


def test_score_of_a_development_run_is_on_its_own_slice(plain, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY, "--development", "--name", "a") == 0
    assert scored(monkeypatch, capsys)["loss"] == pytest.approx(summary_of("a")["val_loss"], abs=1e-5)


def test_what_cannot_be_scored_is_one_sentence(plain, monkeypatch, capsys):
    assert inline(monkeypatch, script=score) == 2
    assert "no run with a checkpoint.pt" in one_sentence(capsys.readouterr().err)
    assert inline(monkeypatch, "--task", "repeat", *INTEGERS, "--steps", "1", "--name", "integers") == 0
    assert inline(monkeypatch, *TINY, "--steps", "1", "--name", "a") == 0
    Path("binary").write_bytes(b"\xff\xfe\x80")
    Path("empty").write_text("")
    Path("runes").write_text("the ᚱ")
    Path("letter").write_text("t")
    for arguments, sentence in (
        (("--text", "absent"), "cannot read absent"),
        (("--text", "binary"), "binary is not UTF-8"),
        (("--text", "empty"), "empty is empty"),
        (("--text", "."), "cannot read ."),
        (("--text", "runes"), "characters that the training text has not: 'ᚱ'"),
        (("--text", "letter"), "at least 2 are needed"),
        (("--checkpoint", "absent.pt", "--text", "t.txt"), "absent.pt does not exist"),
        (("--checkpoint", "t.txt", "--text", "t.txt"), "t.txt is damaged or is not a checkpoint"),
        (("--checkpoint", str(RUNS / "integers/checkpoint.pt")), "was trained on integers (repeat)"),
        (("--device", "tpu"), "--device"),
    ):
        capsys.readouterr()
        assert inline(monkeypatch, *arguments, script=score) == 2
        out, err = capsys.readouterr()
        assert sentence in one_sentence(err)
        assert out == ""
    # A character of the validation text alone makes a vocabulary with single bytes, by which runes can be coded.
    Path("t.txt").write_text(TEXT + "voilà\n")
    assert inline(monkeypatch, *TINY, "--steps", "1", "--name", "b") == 0
    assert scored(monkeypatch, capsys, "--text", "runes")["characters"] == 4


# ---------------------------------------------------------------- bad input

BAD = [
    (("--task", "tolstoy"), "--task"),
    (("--task", "text"), "--task text needs a file"),
    (("--task", "text", "--text", "absent.txt"), "cannot read absent.txt"),
    (("--task", "text", "--text", "data"), "cannot read data"),
    (("--task", "text", "--text", "empty.txt"), "empty.txt is empty"),
    (("--task", "text", "--text", "blank.txt"), "nothing but white space"),
    (("--task", "text", "--text", "latin.txt"), "latin.txt is not UTF-8"),
    (("--task", "text", "--text", "zero.txt"), "zero bytes"),
    (("--task", "text", "--text", "short.txt"), "short.txt is too short"),
    ((*TINY, "--context", "9999"), "with --context 9999 at least 29,997 are needed"),
    (("--task", "shakespeare", "--text", "t.txt"), "--text goes with --task text"),
    (("--task", "repeat", "--text", "t.txt", *INTEGERS, "--steps", "1"), "--text goes with --task text"),
    ((*TINY, "--tokenizer", "syllable"), "--tokenizer"),
    ((*TINY, "--tokenizer", "bpe", "--vocab", "100"), "100"),
    ((*TINY, "--tokenizer", "word", "--vocab", "5"), "vocabulary of 5 cannot hold"),
    (("--task", "repeat", "--tokenizer", "bpe"), "--tokenizer is for texts"),
    ((*TINY, "--arch", "lstm"), "--arch"),
    ((*TINY, "--without", "attention"), "--without attention is unknown"),
    ((*TINY, "--arch", "vaswani", "--without", "shift"), "--without takes parts of --arch modern away"),
    ((*TINY, "--minutes", "1"), "--steps and --minutes exclude each other"),
    ((*TINY[:-2], "--minutes", "0"), "--minutes must be positive"),
    ((*TINY[:-2], "--minutes", "nan"), "--minutes must be positive"),
    ((*TINY[:-2], "--minutes", "inf"), "--minutes must be positive"),
    ((*TINY, "--steps", "0"), "--steps must be positive"),
    ((*TINY, "--steps", "-4"), "--steps must be positive"),
    ((*TINY, "--layers", "0"), "--layers must be positive"),
    ((*TINY, "--heads", "0"), "--heads must be positive"),
    ((*TINY, "--width", "-16"), "--width must be positive"),
    ((*TINY, "--width", "24"), "--width 24 must be a multiple of 16"),
    ((*TINY, "--width", "48", "--heads", "5"), "twice --heads 5"),
    ((*TINY, "--context", "0"), "--context must be positive"),
    ((*TINY, "--batch", "0"), "--batch must be positive"),
    ((*TINY, "--lr", "0"), "--lr must be positive"),
    ((*TINY, "--lr", "nan"), "--lr must be positive"),
    ((*TINY, "--dropout", "1"), "--dropout must be at least 0 and below 1"),
    ((*TINY, "--dropout", "nan"), "--dropout must be at least 0 and below 1"),
    ((*TINY, "--batch", "5", "--track-noise"), "--track-noise halves the batch, and --batch 5 is odd"),
    ((*TINY, "--smoothing", "-0.1"), "--smoothing must be at least 0 and below 1"),
    ((*TINY, "--decay", "-1"), "--decay must not be negative"),
    ((*TINY, "--decay", "nan"), "--decay"),
    ((*TINY, "--decay", "inf"), "--decay"),
    ((*TINY, "--seed", "-1"), "--seed must not be negative"),
    ((*TINY, "--seed", str(2**64)), "--seed"),
    ((*TINY, "--device", "mps"), "no MPS device"),
    ((*TINY, "--precision", "fp8"), "--precision"),
    ((*TINY, "--name", "../escape"), "--name"),
    ((*TINY, "--data-dir", "nowhere"), "nowhere (--data-dir) does not exist"),
    (("--from-config", "absent.json"), "absent.json: No such file"),
    (("--from-config", "t.txt"), "t.txt is not the config.json of a run"),
    (("--task", "ascending", "--length", "2"), "--length 2 is too short"),
    (("--task", "ascending", "--length", "20", "--vocab", "19"), "--vocab 19 is too small"),
    (("--task", "repeat", "--length", "0"), "--length 0 is too short"),
    (("--task", "repeat", "--vocab", "1"), "--vocab 1 is too small"),
    (("--task", "induction", "--length", "7"), "--length 7 is too short"),
    (("--task", "induction", "--length", "64", "--vocab", "255"), "--vocab 255 is too small for induction"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=lambda value: " ".join(value[-4:]) if value else "")
def test_bad_arguments_get_one_sentence_and_leave_nothing(place, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    Path("empty.txt").write_text("")
    Path("blank.txt").write_text(" \n" * 200)
    Path("latin.txt").write_bytes("où ".encode("latin-1") * 100)
    Path("zero.txt").write_bytes(b"abc\0" * 100)
    Path("short.txt").write_text("to be\n")
    assert inline(monkeypatch, *arguments) == 2
    assert sentence in one_sentence(capsys.readouterr().err)
    assert not Path("results").exists()


def test_tinyshakespeare_without_file_and_network(place, monkeypatch, capsys):
    def no_network(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    assert inline(monkeypatch, "--task", "tinyshakespeare", "--steps", "1") == 2
    told = one_sentence(capsys.readouterr().err)
    assert "tinyshakespeare is missing: cannot download" in told
    assert "--task shakespeare, which needs no network" in told
    assert not Path("results").exists()
    assert not list(Path("data").iterdir())


def test_results_folder_that_cannot_be_written(plain, monkeypatch, capsys):
    Path("results").write_text("a file, not a folder")
    assert inline(monkeypatch, *TINY) == 2
    assert "cannot write" in one_sentence(capsys.readouterr().err)
    assert Path("results").read_text() == "a file, not a folder"


def test_a_damaged_checkpoint_of_an_unfinished_run_is_one_sentence(plain, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    (RUNS / "a/summary.json").unlink()
    for damage in (b"not a checkpoint", (RUNS / "a/checkpoint.pt").read_bytes()[:500]):
        (RUNS / "a/checkpoint.pt").write_bytes(damage)
        assert inline(monkeypatch, *TINY, "--name", "a") == 2
        assert "checkpoint.pt is damaged" in one_sentence(capsys.readouterr().err)


def test_a_bad_configuration_is_refused_before_anything_is_imported_or_read():
    with pytest.raises(BadInput, match="exclude each other"):
        config_of("--steps", "3", "--minutes", "2")


def test_the_scripts_start_from_a_foreign_folder(tmp_path):
    command = [sys.executable, ROOT / "transformers/train.py", "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    for flag in ("--task", "--text", "--minutes", "--steps", "--tokenizer", "--arch", "--preset", "--from-config"):
        assert flag in run.stdout
    assert not list(tmp_path.iterdir())
