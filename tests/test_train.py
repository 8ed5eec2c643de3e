"""train.py end to end on a small text and small integers: what is written, and the step it takes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
from decoder_model.ngram_tables import NGRAMS, TABLE_WIDTH, table_sizes
from device_guard import no_float64
from lm_commands import (
    INTEGERS,
    RUNS,
    TEXT,
    TINY,
    inline,
    learner_of,
    metrics_of,
    minutes_of,
    settings_of,
    summary_of,
)
from lm_evaluation.checkpoints import load_trained
from lm_evaluation.generation import generate
from lm_evaluation.lm_losses import token_losses
from lm_evaluation.measurements import curve_point
from lm_evaluation.step_budget import ROWS, Plan
from lm_report import train_figures
from lm_settings.choices import INTEGER_TASKS, MODERN
from optimisation.learning_rates import LINEAR_RATE
from texts.integer_tasks import IntegerTask
from texts.text_windows import TextTask
from tiny_decoder import random_tokens, tiny_decoder

# ---------------------------------------------------------------- what it writes

COMMON_KEYS = "status val_loss train_seconds total_seconds steps tokens n_params tokens_per_second".split()
TEXT_KEYS = "val_loss_sliding val_bits_per_char ngram_nats_per_char ngram_order xz_nats_per_char ppmd_nats_per_char"
TEXT_KEYS = f"{TEXT_KEYS} sample_longest_match".split()


@pytest.mark.parametrize(
    ("tokenizer", "arch"), [("char", "modern"), ("word", "modern"), ("bpe", "modern"), ("char", "vaswani")]
)
def test_a_text_run(lm_folder, monkeypatch, capsys, tokenizer, arch):
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
    ngrams = 0 if tokenizer == "word" else sum(table_sizes(V)) * TABLE_WIDTH + C * len(NGRAMS) * TABLE_WIDTH
    modern = 2 * V * C + 12 * C**2 + 2 + ngrams
    assert summary["n_params"] == (V * C + 12 * C**2 + 9 * C if arch == "vaswani" else modern)
    assert trained.model.shape.context == 16
    parts = set(MODERN) - ({"ngrams"} if tokenizer == "word" else set())
    assert set(trained.model.shape.parts) == (parts if arch == "modern" else set())

    # the losses from the saved model on the last tenth of the file, and their bits per character of the text itself
    validation = TEXT[int(0.9 * len(TEXT)) :]
    ids = torch.from_numpy(vocabulary.encode(validation))
    nets_cold, _ = token_losses(trained.model, ids, 16)
    assert summary["val_loss_nets"] == pytest.approx(float(nets_cold.mean()), abs=1e-5)
    assert (summary["mixed_counts"] is None) == (arch == "vaswani")
    cold, sliding = trained.mixture.losses(ids)
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
    held = [] if arch == "vaswani" else ["held_loss"]
    assert list(rows[0]) == ["step", "tokens", "train_loss", "val_loss", *held]
    assert [int(row["step"]) for row in rows] == Plan(40, 40).rows
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
    assert config["config"]["minutes"] == 0
    assert str(lm_folder) not in json.dumps(config)
    assert not list(Path("results").rglob("*.tmp"))


@pytest.mark.parametrize(
    ("task", "arch", "floor"),
    [("ascending", "modern", 0.0), ("repeat", "vaswani", 7 * math.log(31) / 16), ("induction", "modern", None)],
)
def test_an_integer_run(lm_folder, monkeypatch, capsys, task, arch, floor):
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
    assert [int(row["step"]) for row in rows] == Plan(40, 40).rows
    for name in ("loss.png", "loss.pdf", "attention.png", "attention.pdf"):
        assert (RUNS / "a" / name).stat().st_size > 5000
    assert not (RUNS / "a/sample.txt").exists()
    # attention has to find it out: no part of the net sees an earlier token in another way
    parts = load_trained(RUNS / "a/checkpoint.pt", torch.device("cpu")).model.shape.parts
    assert not {"shift", "ngrams"} & set(parts)
    out = capsys.readouterr().out
    assert f"exact floor {summary['floor']:.4f}" in out
    assert f"accuracy {100 * summary['accuracy']:.2f}%" in out


def test_a_text_without_line_ends_and_one_of_a_single_character(lm_folder, monkeypatch):
    for i, text in enumerate(("abc " * 100, "aaaa" * 100)):
        Path("t.txt").write_text(text)
        assert inline(monkeypatch, *TINY, "--steps", "3", "--name", f"run{i}") == 0
        assert (RUNS / f"run{i}/loss.png").exists()
    assert summary_of("run1")["val_loss"] == pytest.approx(0, abs=1e-12)


def test_a_validation_text_shorter_than_the_context(lm_folder, monkeypatch):
    Path("t.txt").write_text(TEXT[:400])
    assert inline(monkeypatch, *TINY, "--context", "100", "--steps", "3", "--name", "a") == 0
    assert summary_of("a")["val_tokens"] == 39
    assert (RUNS / "a/loss.png").exists()


def test_the_loss_falls_far_below_chance(plain_lm_folder, monkeypatch):
    assert inline(monkeypatch, *TINY, "--steps", "200", "--name", "a") == 0
    assert summary_of("a")["val_loss"] < 0.6 * math.log(28)
    ascending = ("--task", "ascending", *INTEGERS, "--width", "32", "--batch", "16", "--steps", "150")
    assert inline(monkeypatch, *ascending, "--name", "b") == 0
    assert summary_of("b")["second_half_loss"] < 0.1 * math.log(32)
    assert summary_of("b")["accuracy"] > 0.99


def test_what_a_reader_should_know_is_told(plain_lm_folder, monkeypatch, capsys):
    assert inline(monkeypatch, *TINY, "--steps", "3", "--name", "a") == 0
    assert "NOTE" not in capsys.readouterr().out
    Path("t.txt").write_text(f"{TEXT[:-9]}ÄÖÜ\n", encoding="utf-8")
    assert inline(monkeypatch, *TINY, "--steps", "3", "--name", "b", "--lr-scale", "3e-4") == 0
    out = capsys.readouterr().out
    assert "NOTE: 3 characters of the held-out text are not in the training text: 'Ä' 'Ö' 'Ü'" in out
    assert "NOTE: --lr-scale 0.0003 is a factor on all rates" in out


def test_training_loss_of_metrics_is_the_mean_since_the_last_row(plain_lm_folder, monkeypatch):
    losses: list[float] = []
    update = train.update

    def watched(*arguments: Any) -> torch.Tensor:
        loss = update(*arguments)
        losses.append(float(loss))
        return loss

    monkeypatch.setattr(train, "update", watched)
    assert inline(monkeypatch, *TINY, "--name", "a") == 0
    before = 0
    for row in metrics_of("a"):
        now = int(row["step"])
        assert float(row["train_loss"]) == pytest.approx(np.mean(losses[before:now]), rel=1e-5)
        before = now
    assert len(losses) == 40


def test_development_leaves_the_validation_text_alone(plain_lm_folder, monkeypatch, capsys):
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
        maps = train_figures.attention_maps(model, tokens[0])
        assert [weights.shape for weights in maps] == [(2, 12, 12)] * 2
        for weights in maps:
            np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
            assert (np.triu(weights, 1) == 0).all()
            assert weights[:, -1].std() > 0
        assert torch.equal(model(tokens), before)


# ---------------------------------------------------------------- the recipe


@pytest.mark.parametrize("steps", [1, 2, 7, 40, 1000, 123_456])
def test_rows_are_denser_at_the_beginning_and_include_the_end(steps):
    rows = Plan(steps, steps).rows
    assert rows == sorted(set(rows))
    assert rows[0] >= 1
    assert rows[-1] == steps
    assert len(rows) <= ROWS
    gaps = np.diff([0, *rows])
    assert gaps[-1] >= gaps[0]


@pytest.mark.parametrize("task", [*INTEGER_TASKS, "kjv", "text"])
@pytest.mark.parametrize("arguments", [(), ("--steps", "9"), ("--preset", "full", "--arch", "vaswani")])
def test_settings_leave_nothing_open(task, arguments):
    settings = settings_of("--task", task, *(("--text", "t.txt") if task == "text" else ()), *arguments)
    assert None not in vars(settings).values()
    assert (settings.steps > 0) == (settings.minutes == 0)


def test_label_smoothing_mixes_in_the_mean_over_all_tokens(lm_folder):
    learner = learner_of(*TINY, "--smoothing", "0.25", "--arch", "vaswani", "--dropout", "0")
    inputs, targets = learner.batch(0)
    with torch.no_grad():
        log_p = learner.model(inputs).log_softmax(-1)
    right = -log_p.gather(-1, targets[..., None]).mean()
    assert float(train.update(learner, 0, 40)) == pytest.approx(float(0.75 * right - 0.25 * log_p.mean()), rel=1e-5)


def test_the_schedules_of_both_settings(lm_folder):
    modern, paper = learner_of(*TINY, "--lr-scale", "0.5"), learner_of(*TINY, "--arch", "vaswani", "--lr-scale", "0.5")
    assert modern.rate(100, 1000) == 0.5  # beyond the warm-up, before the decline
    assert 0 < modern.rate(999, 1000) < 0.01
    rates = [paper.rate(step, 1000) for step in range(1000)]
    peak = int(np.argmax(rates))
    assert 0 < peak < 100
    assert rates[peak] == pytest.approx(0.5 * (16 * (peak + 1)) ** -0.5)
    assert rates[4 * peak + 3] == pytest.approx(rates[peak] / 2)


def test_the_linear_schedule_of_the_papers_decoder(lm_folder):
    """Up to the peak for a tenth of the run, then down to 0: the corners by hand."""
    learner = learner_of(*TINY, "--arch", "vaswani", "--schedule", "linear", "--lr-scale", "0.5")
    rates = [LINEAR_RATE * learner.rate(step, 1000) for step in (0, 49, 99, 100, 550, 999)]
    peak = 0.5 * LINEAR_RATE
    assert rates == pytest.approx([peak / 100, peak / 2, peak, peak, peak / 2, peak / 900])
    assert set(learner.optimizer.rates.values()) == {LINEAR_RATE}


def test_which_optimiser_takes_which_setting(lm_folder):
    assert learner_of(*TINY).optimizer.muon is not None
    assert learner_of(*TINY, "--without", "muon").optimizer.muon is None
    assert learner_of(*TINY, "--arch", "vaswani").optimizer.muon is None
    assert learner_of(*TINY, "--without", "muon", "rotary").model.shape.parts == tuple(
        part for part in MODERN if part != "rotary"
    )


def test_a_step_follows_from_its_number_alone(lm_folder):
    one, other = (learner_of(*TINY, "--dropout", "0.3") for _ in range(2))
    torch.rand(7)
    assert float(train.update(one, 3, 40)) == float(train.update(other, 3, 40))
    assert float(train.update(learner_of(*TINY, "--dropout", "0.3"), 4, 40)) != float(train.update(other, 4, 40))
    assert isinstance(one.task, TextTask)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_decides_weights_and_data(lm_folder, seed):
    one, other = learner_of(*TINY), learner_of(*TINY, "--seed", str(seed))
    assert not torch.equal(one.model.embedding, other.model.embedding)
    assert not torch.equal(one.batch(0)[0], other.batch(0)[0])


def test_bf16_trains_as_well_as_fp32(plain_lm_folder, monkeypatch):
    losses = {}
    for precision in ("fp32", "bf16"):
        assert inline(monkeypatch, *TINY, "--steps", "80", "--precision", precision, "--name", precision) == 0
        losses[precision] = summary_of(precision)["val_loss"]
    assert abs(losses["fp32"] - losses["bf16"]) < 0.03
    assert losses["fp32"] != losses["bf16"]


@pytest.mark.parametrize("arch", ["modern", "vaswani"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_float64_on_the_device(lm_folder, arch, dtype):
    for arguments in (TINY, *(("--task", task, *INTEGERS) for task in INTEGER_TASKS)):
        learner = learner_of(*arguments, "--arch", arch, "--dropout", "0.1", "--smoothing", "0.1", dtype=dtype)
        with no_float64():
            losses = [train.update(learner, step, 40) for step in range(3)]
            columns = curve_point(learner, dtype)
            learner.model.eval()
            learner.model.compute = torch.float32
            prompt = torch.tensor([[1, 2, 3]])
            ids = list(generate(learner.model, prompt, 12, temperature=0.8, top_k=5, top_p=0.9))
        assert all(math.isfinite(float(loss)) for loss in losses)
        assert math.isfinite(columns["val_loss"])
        assert len(ids) == 12
