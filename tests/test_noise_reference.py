"""The committed sweep of noise_scale.py's whole star: it is complete, and README's table follows from it."""

import csv
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from predictions import ArmResult, Verdict, at_loss, p1_hyperbola, p4_growth, p6_learning_rate, tuned

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "results/reference/transformers/noise_scale"
BASE = "kjv-64-adamw"


def cells_of(rows: list[dict[str, str]], goals: list[float]) -> list[dict[str, Any]]:
    """The tuning cells of an arm as the script has them, from batch_sweep.csv."""
    cells: dict[tuple[str, int], dict[float, dict[str, Any]]] = {}
    for row in rows:
        trials = cells.setdefault((row["seed"], int(row["batch"])), {})
        trial = trials.setdefault(float(row["rate"]), {"steps": [None] * len(goals), "made": int(row["steps_made"])})
        trial["steps"][goals.index(float(row["goal"]))] = float(row["steps"]) if row["steps"] else None
    context = int(rows[0]["tokens_per_step"]) // int(rows[0]["batch"])
    return [
        {
            **{"batch": batch, "context": context},
            "trials": [{"rate": rate, **trial} for rate, trial in sorted(trials.items())],
        }
        for (_, batch), trials in cells.items()
    ]


@pytest.fixture(scope="module")
def arms() -> dict[str, ArmResult]:
    by_arm: dict[str, list[dict[str, str]]] = defaultdict(list)
    with open(FOLDER / "batch_sweep.csv", newline="") as file:
        for row in csv.DictReader(file):
            by_arm[row["arm"]].append(row)
    found = {}
    for name, rows in by_arm.items():
        goals = sorted({float(row["goal"]) for row in rows}, reverse=True)
        cells = cells_of(rows, goals)
        at = tuple(at_loss(goal, *tuned(cells, i), (), math.nan) for i, goal in enumerate(goals))
        _, width, optimizer = name.split("-")
        found[name] = ArmResult(name, optimizer, int(width), cells[0]["context"], at, (), math.nan, {}, {})
    return found


def test_the_star_is_complete(arms):
    assert set(arms) == {
        BASE,
        *(f"kjv-{width}-adamw" for width in (32, 128)),
        *(f"kjv-64-{optimizer}" for optimizer in ("sgd", "muon")),
        *(f"{task}-64-adamw" for task in ("shakespeare", "repeat", "ascending")),
    }
    for name, arm in arms.items():
        tried = 20 if name == BASE else 5
        assert len(arm.at) == 4
        # A cell whose best rate is at an end of those that were tried is left out.
        assert all(one.fit is not None and tried - 1 <= one.runs.reached.sum() <= tried for one in arm.at)


def judged(verdict: Verdict) -> str:
    """A cell of README's table: the number, and the verdict where there is one."""
    found = verdict.found
    number = f"{found.value:.2g} [{found.lo95:.2g}, {found.hi95:.2g}]".replace("inf", "∞")
    return f"{number}, {verdict.word}"


def row(arm: ArmResult) -> str:
    """A row of README's table."""
    ends = (arm.at[0], arm.at[-1])
    critical = " | ".join(
        f"{one.fit.b_crit.value:,.0f} [{one.fit.b_crit.lo95:,.0f}, {one.fit.b_crit.hi95:,.0f}] at {one.goal:g}"
        for one in ends
        if one.fit
    )
    verdicts = (p1_hyperbola(arm), p4_growth(arm)[0], p6_learning_rate(arm))
    return f"| {arm.name} | {critical} | " + " | ".join(map(judged, verdicts)) + " |"


def test_readmes_table_is_what_the_sweep_gives(arms):
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (?:kjv|shakespeare|repeat|ascending)-\d+-\w+ \|.*$", text, re.MULTILINE)
    assert rows == [row(arm) for arm in arms.values()]


def test_on_the_base_three_predictions_hold(arms):
    """With twenty tuned runs a loss; five a loss, as the other arms have, often leave it open."""
    base = arms[BASE]
    assert p1_hyperbola(base).passed
    assert p4_growth(base)[0].passed
    assert p6_learning_rate(base).passed
