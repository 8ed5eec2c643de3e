"""The page's numbers on transformers against the committed runs, and what was asked of these."""

import csv
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from common.run import read_metrics
from lm_settings.choices import MODERN
from pages import page

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results/reference/transformers"
PAGE = page("transformers/README.md")
TINY = [f"tinyshakespeare-s{seed}" for seed in range(3)]


def summary(name: str) -> dict[str, Any]:
    return json.loads((REFERENCE / name / "summary.json").read_text())


def rows(name: str) -> list[dict[str, str]]:
    with open(REFERENCE / name, newline="") as file:
        return list(csv.DictReader(file))


def test_tinyshakespeare_in_three_minutes():
    losses = [summary(name)["val_loss"] for name in TINY]
    assert statistics.mean(losses) <= 1.50
    seconds = [summary(name)["total_seconds"] for name in TINY]
    assert f"{min(seconds):.0f} to {max(seconds):.0f} s" in PAGE
    assert f"mean of 3 seeds | {statistics.mean(losses):.3f} |" in PAGE
    for loss in losses:
        assert f"{loss:.4f}" in PAGE


def test_beside_nanogpt_at_equal_wall_clock():
    table = rows("beside_nanogpt.csv")
    (theirs,) = (row for row in table if row["system"] == "nanoGPT")
    ours = [row for row in table if row["system"] == "ours"]
    assert len(ours) >= 3
    assert all(float(row["seconds"]) <= float(theirs["seconds"]) for row in ours)
    mean = statistics.mean(float(row["val_loss"]) for row in ours)
    assert mean < float(theirs["val_loss"]) - 0.3
    for number in (f"{mean:.3f}", f"{float(theirs['val_loss']):.3f}", f"{float(theirs['own_val_loss']):.3f}"):
        assert number in PAGE
    slowest = max(float(row["seconds_to_nanogpt"]) for row in ours)
    assert f"{slowest:.0f} s" in PAGE
    assert f"{float(theirs['seconds']):.0f} s" in PAGE


@pytest.mark.parametrize(("task", "margin"), [("shakespeare", 0.15), ("kjv", 0.15)])
def test_a_text_is_modelled_far_better_than_by_its_n_gram(task, margin):
    run = summary(task)
    per_char = run["val_bits_per_char"] * math.log(2)
    assert run["val_loss"] == pytest.approx(per_char, rel=1e-6)  # a token is a character here
    assert per_char <= run["ngram_nats_per_char"] - margin
    assert run["total_seconds"] <= 300
    for number in (run["val_loss"], run["val_loss_sliding"], run["ngram_nats_per_char"], run["xz_nats_per_char"]):
        assert f"{number:.3f}" in PAGE
    assert f"{run['ppmd_nats_per_char']:.3f}" in PAGE
    assert len((REFERENCE / task / "sample.txt").read_text()) > 300


def test_other_budgets_are_as_readme_says():
    for minutes in (1, 10, 15):
        run = summary(f"tinyshakespeare-{minutes}")
        assert run["total_seconds"] <= 60 * minutes + 10
        row = f"| {run['total_seconds'] / 60:.1f} | {128 if minutes == 1 else 192} |"
        assert any(line.startswith(row) and f"| {run['val_loss']:.3f} | 1 |" in line for line in PAGE.splitlines())
    assert summary("tinyshakespeare-1")["val_loss"] > summary(TINY[0])["val_loss"]


def test_what_each_part_is_worth():
    """The page's table from the runs: paired differences by seed, Student's t with two degrees of freedom."""
    table = rows("recipe/ablation.csv")
    losses = {(row["variant"], row["seed"]): float(row["loss"]) for row in table}
    variants = list(dict.fromkeys(row["variant"] for row in table))
    assert len(variants) == len(MODERN) + 3  # each part, Muon, modern, vaswani
    for variant in variants:
        mean = statistics.mean(losses[variant, seed] for seed in "012")
        found = [losses[variant, seed] - losses["modern", seed] for seed in "012"]
        half = 4.302653 * statistics.stdev(found) / math.sqrt(3)  # t(0.975; 2)
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| {variant} |") and "| x " in line)
        assert f"| {mean:.3f} |" in line
        assert variant == "modern" or f"| {statistics.mean(found):+.3f} ± {half:.3f} |" in line


def test_the_learning_rate_matters_little_within_a_factor_of_two():
    long = {float(row["lr"]): float(row["loss"]) for row in rows("recipe/learning_rates_1000_steps.csv")}
    assert max(long.values()) - long[1] <= 0.03
    short = {(row["variant"], float(row["lr"])): float(row["loss"]) for row in rows("recipe/learning_rates.csv")}
    assert len(short) == 10
    for loss in (*short.values(), *long.values()):
        assert f"{loss:.3f}" in PAGE


@pytest.mark.parametrize(("name", "seconds"), [("ascending", 30), ("repeat-5", 30), ("repeat-32", 120)])
def test_integers_reach_their_exact_floor(name, seconds):
    run = summary(name)
    assert run["total_seconds"] <= seconds
    assert run["accuracy"] == 1
    assert run["second_half_loss"] < 0.01
    assert run["val_loss"] == pytest.approx(run["floor"], abs=0.02)


def test_induction_needs_two_layers():
    for seed in range(3):
        two, one = (summary(f"induction-{layers}-layers-s{seed}") for layers in (2, 1))
        assert two["second_half_loss"] < 0.1 < 1 < one["second_half_loss"]
        assert two["total_seconds"] <= 300
        assert f"{two['second_half_loss']:.4f}" in PAGE
        assert f"{one['second_half_loss']:.2f}" in PAGE


@pytest.mark.parametrize("name", [*TINY, "shakespeare", "kjv", "ascending", "repeat-5", "repeat-32"])
def test_the_curve_ends_where_the_summary_says(name):
    run, metrics = summary(name), read_metrics(REFERENCE / name / "metrics.csv")
    assert metrics["step"][-1] == run["steps"]
    assert metrics["tokens"][-1] == run["tokens"]
    assert metrics["val_loss"][-1] == pytest.approx(run["val_loss"], abs=0.06)
    assert (metrics["minutes"] * 60 <= run["total_seconds"]).all()
