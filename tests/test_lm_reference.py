"""The page's numbers on transformers against the committed runs, and what was asked of these."""

import csv
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from common.files import read_record
from common.run import read_metrics
from lm_settings.choices import MODERN
from lm_settings.train_settings import Config, resolve
from pages import one_line, page
from texts import tokenized_text
from texts.anchors import has_ppmd
from texts.tokenized_text import load_text

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results/reference/transformers"
PAGE = page("transformers/README.md")
TINY = [f"tinyshakespeare-s{seed}" for seed in range(3)]
TEXTS = {"shakespeare": ["shakespeare"], "kjv": ["kjv"], "tinyshakespeare": TINY}


def summary(name: str) -> dict[str, Any]:
    return json.loads((REFERENCE / name / "summary.json").read_text())


def anchor(text: str, model: str) -> dict[str, str]:
    (row,) = (row for row in rows("anchors/anchors.csv") if row["text"] == text and row["model"] == model)
    return row


def rows(name: str) -> list[dict[str, str]]:
    with open(REFERENCE / name, newline="") as file:
        return list(csv.DictReader(file))


def adaptive(name: str) -> dict[str, Any]:
    return json.loads((REFERENCE / name / "adaptive.json").read_text())


def test_tinyshakespeare_in_three_minutes():
    losses, later = [summary(name)["val_loss"] for name in TINY], [adaptive(name)["loss_adaptive"] for name in TINY]
    assert statistics.mean(losses) <= 1.43
    assert max(later) < float(anchor("tinyshakespeare", "PPMd")["nats_per_char"])
    seconds = [summary(name)["total_seconds"] for name in TINY]
    assert max(seconds) <= 200
    assert f"{min(seconds):.0f} to {max(seconds):.0f} s" in PAGE
    assert f"mean of 3 seeds | {statistics.mean(summary(name)['val_loss_nets'] for name in TINY):.3f} |" in PAGE
    assert (
        f"{', '.join(f'{loss:.4f}' for loss in losses)}; adaptive {', '.join(f'{x:.3f}' for x in later)}"
        in one_line(PAGE)
    )


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


@pytest.mark.parametrize("task", TEXTS)
def test_a_text_is_modelled_better_than_by_its_n_gram(task):
    """The page's first table, and the rows of ours in the second."""
    runs = [summary(name) for name in TEXTS[task]]
    for run in runs:
        assert run["val_loss"] == pytest.approx(
            run["val_bits_per_char"] * math.log(2), rel=1e-6
        )  # a token is a character
    nets, cold, sliding = (
        statistics.mean(run[key] for run in runs) for key in ("val_loss_nets", "val_loss", "val_loss_sliding")
    )
    later = statistics.mean(adaptive(name)["loss_adaptive"] for name in TEXTS[task])
    ngram, ppmd = (float(anchor(task, model)["nats_per_char"]) for model in ("modified Kneser-Ney", "PPMd"))
    assert f"| {' | '.join(f'{x:.3f}' for x in (nets, cold, sliding, ngram, later, ppmd))} |" in PAGE
    assert sliding < cold < nets
    assert cold < ngram - 0.08
    assert later < ppmd
    assert f"{ngram - cold:.3f}" in one_line(PAGE).split("below their n-gram")[0][-120:]
    for run in runs:
        assert f"{run['n_params'] / 1e6:.2f} M" in PAGE
        assert f"{run['mixed_counts'] / 1e6:.1f} M counts" in PAGE
    half = statistics.mean(run["val_nats_per_char_second_half"] for run in runs)
    assert f"| {cold:.3f} | {half:.3f} |" in PAGE
    assert all(len((REFERENCE / name / "sample.txt").read_text()) > 300 for name in TEXTS[task])
    assert all(run["total_seconds"] <= 300 for run in runs)


@pytest.mark.parametrize("task", TEXTS)
def test_what_the_anchors_cost_and_reach(task):
    """The page's second table, from anchors.csv, and that from the records that train.py reads."""
    record = read_record(REFERENCE / "anchors" / f"{task}.json")
    for model, name, key in (("modified Kneser-Ney", "n-gram", "ngram"), ("PPMd", "PPMd", "ppmd")):
        row = anchor(task, model)
        assert row["source"] == "computed here"
        assert int(row["order"]) == record[f"{key}_order"]
        assert row["at_edge"] == str(record[f"{key}_order_at_edge"]) == "False", (
            "the page says that none is at the edge"
        )
        by_order = record[f"{key}_development_by_order"]
        orders = [int(order) for order in by_order] if key == "ppmd" else range(1, len(by_order) + 1)
        losses = by_order.values() if key == "ppmd" else by_order
        assert min(zip(losses, orders, strict=True))[1] == int(row["order"]), "chosen on the development slice"
        for column in ("nats_per_char", "nats_per_char_second_half"):
            assert float(row[column]) == pytest.approx(record[f"{key}_{column}"], rel=1e-12)
        (line,) = (
            line
            for line in PAGE.splitlines()
            if f"| {name}, order {row['order']} |" in line and f"| {float(row['nats_per_char']):.3f} |" in line
        )
        assert f"{float(row['cpu_seconds']):.1f} s, one core" in line
        assert line.endswith(f"| {float(row['nats_per_char_second_half']):.3f} |")
        assert key == "ppmd" or f"| {int(row['parameters']) / 1e6:.2f} M counts, fp64 |" in line


def test_texts_of_a_user_are_below_their_n_gram_and_ppmd():
    table = rows("own_texts.csv")
    assert len({row["git_commit"] for row in table}) == 1
    for row in table:
        static, ngram, later, ppmd = (float(row[name]) for name in ("static", "ngram", "adaptive", "ppmd"))
        assert static < ngram
        assert later < ppmd
        numbers = " | ".join(f"{x:.3f}" for x in (static, ngram, later, ppmd))
        assert f"| {row['members']} | {numbers} |" in PAGE


def test_figures_that_are_given_are_called_so():
    given = [row for row in rows("anchors/anchors.csv") if row["model"].startswith("paq8px")]
    assert {row["text"] for row in given} == {"tinyshakespeare", "kjv"}
    for row in given:
        assert row["kind"] == "adaptive"
        assert "not computed here" in row["source"]
        assert f"| {float(row['nats_per_char']):.3f} |" in PAGE
    assert "is a figure that is given: measured elsewhere on the same split, not computed here" in one_line(PAGE)


@pytest.mark.parametrize("task", TEXTS)
def test_the_committed_anchors_are_of_this_code_and_these_texts(task, monkeypatch):
    """Else train.py would compute them again, and the page show others: `python tests/benchmarks/text_anchors.py`."""
    root = Path(os.environ.get("REPLICATIONS_DATA", ""))
    if task == "tinyshakespeare" and not (root / "tinyshakespeare" / "input.txt").is_file():
        pytest.skip("$REPLICATIONS_DATA has no tinyshakespeare/input.txt")
    text = load_text(resolve(Config(task=task)), torch.device("cpu"))
    record = read_record(REFERENCE / "anchors" / f"{task}.json")
    assert record.pop("key") == text.anchors_key()
    monkeypatch.setattr(tokenized_text, "anchors", None)
    assert text.known_anchors() == record
    if task == "tinyshakespeare":
        monkeypatch.undo()
        found = text.anchors()
        assert found["ngram_by_order"][6] == pytest.approx(1.517, abs=0.0006)  # as another's code counted it
        names = [name for name in found if name.startswith("ngram") or has_ppmd()]
        assert {name: found[name] for name in names} == {name: approximately(record[name]) for name in names}


def approximately(value: Any) -> Any:
    """Another NumPy may add up in another order."""
    return pytest.approx(value, rel=1e-9) if isinstance(value, float | list | dict) else value


def test_tinyshakespeare_in_fifteen_minutes():
    run, later = summary("tinyshakespeare-15-s0"), adaptive("tinyshakespeare-15-s0")
    assert run["total_seconds"] <= 900
    assert run["val_loss"] <= 1.38
    numbers = (run["val_loss_nets"], run["val_loss"], run["val_loss_sliding"])
    (line,) = (
        line for line in PAGE.splitlines() if line.startswith("| `--task tinyshakespeare --minutes 15`, 1 seed |")
    )
    assert f"| {' | '.join(f'{x:.3f}' for x in numbers)} |" in line
    assert f"| {later['loss_adaptive']:.3f} |" in line
    assert f"{later['seconds']:.0f} s more" in PAGE


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
        named = (f"| {variant} |", f"| {variant} (")
        line = next(line for line in PAGE.splitlines() if line.startswith(named) and "| x " in line)
        assert f"| {mean:.3f} |" in line
        assert variant == "modern" or f"| {statistics.mean(found):+.3f} ± {half:.3f} |" in line


def test_the_papers_decoder_with_a_schedule_that_ends():
    names = ("vaswani-paper-s0", "vaswani-linear-s0", "modern-no-tables-s0")
    paper, linear, modern = (summary(name) for name in names)
    for run in (paper, linear, modern):
        assert run["total_seconds"] <= 275
        assert f"{run['val_loss']:.3f} ({run['steps']:,} steps)" in one_line(PAGE)
    assert linear["val_loss"] - modern["val_loss"] <= 0.15
    assert f", {linear['val_loss'] - modern['val_loss']:.3f} below." in one_line(PAGE)
    tried = {float(row["lr"]): float(row["loss"]) for row in rows("recipe/linear_schedule.csv")}
    assert min(tried, key=lambda lr: tried[lr]) == 1  # inside the range
    assert f"({', '.join(f'{tried[lr]:.3f}' for lr in sorted(tried))})" in one_line(PAGE)


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
    """The last net's: several have a lower loss together."""
    run, metrics = summary(name), read_metrics(REFERENCE / name / "metrics.csv")
    assert metrics["step"][-1] == run["steps"]
    assert metrics["tokens"][-1] == run["tokens"]
    assert metrics["val_loss"][-1] == pytest.approx(run.get("val_loss_nets", run["val_loss"]), abs=0.06)
    assert (metrics["minutes"] * 60 <= run["total_seconds"]).all()
