"""The committed run of noise_scale.py's full preset: it is complete; its verdicts and the page's tables follow from CSVs."""

import csv
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from critical_batch.arm_tables import ArmResult, Measured, at_loss, tuned
from critical_batch.predictions import Verdict, verdicts
from gradient_noise.noise_estimators import Interval
from pages import page

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "results/reference/transformers/noise_scale"
BASE = "kjv-64-adamw"
SIZES = ["kjv-32-adamw", "kjv-128-adamw"]
OTHERS = ["kjv-64-sgd", "kjv-64-muon", "shakespeare-64-adamw", "repeat-64-adamw", "ascending-64-adamw"]


def rows_by_arm(name: str) -> dict[str, list[dict[str, str]]]:
    found = defaultdict(list)
    with open(FOLDER / name, newline="") as file:
        for row in csv.DictReader(file):
            found[row["arm"]].append(row)
    return found


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


def measured_of(rows: list[dict[str, str]]) -> tuple[Measured, ...]:
    """What was measured on the way, from noise.csv."""

    def interval(row: dict[str, str], name: str) -> Interval:
        return Interval(*(float(row[f"{name}_{part}"] or "nan") for part in ("value", "lo95", "hi95")))

    return tuple(
        Measured(
            float(row["level"]),
            float(row["loss"]),
            int(row["step"]),
            *(interval(row, name) for name in ("b_simple", "b_noise", "branched")),
        )
        for row in rows
    )


@pytest.fixture(scope="module")
def fits() -> dict[str, Any]:
    return json.loads((FOLDER / "fits.json").read_text())


@pytest.fixture(scope="module")
def arms(fits) -> dict[str, ArmResult]:
    """All that the verdicts need, from the two tables; the noise of parts of a sequence is in fits.json alone."""
    sweep, noise = rows_by_arm("batch_sweep.csv"), rows_by_arm("noise.csv")
    kept = {arm["arm"]: arm["positions"] for arm in fits["arms"]}
    found = {}
    for name, rows in sweep.items():
        goals = sorted({float(row["goal"]) for row in rows}, reverse=True)
        cells, measured = cells_of(rows, goals), measured_of(noise[name])
        batch = float(noise[name][0]["tokens_per_step"])
        at = tuple(at_loss(goal, *tuned(cells, i), measured, batch) for i, goal in enumerate(goals))
        positions = {
            int(m): Interval(b["value"], b["lo95"], math.inf if b["hi95"] is None else b["hi95"])
            for m, b in kept[name].items()
        }
        _, width, optimizer = name.split("-")
        found[name] = ArmResult(name, optimizer, int(width), cells[0]["context"], at, measured, batch, positions, {})
    return found


@pytest.fixture(scope="module")
def judged(arms) -> dict[tuple[str, str], Verdict]:
    """By prediction and arm."""
    all_of_them = verdicts(arms[BASE], list(arms.values()), [arms[name] for name in SIZES])
    return {(verdict.name, verdict.arm): verdict for verdict in all_of_them}


def test_the_star_is_complete(arms):
    assert set(arms) == {BASE, *SIZES, *OTHERS}
    for name, arm in arms.items():
        tried = 20 if name == BASE else 5
        assert len(arm.at) == 4
        # A cell whose best rate is at an end of those that were tried is left out.
        assert all(one.fit is not None and tried - 1 <= one.runs.reached.sum() <= tried for one in arm.at)
        assert [one.level for one in arm.measured][-1] == arm.at[-1].goal


def test_the_verdicts_follow_from_the_tables(fits, judged):
    assert len(judged) == len(fits["predictions"]) > 40
    for kept in fits["predictions"]:
        mine = judged[kept["name"], kept["arm"]].row()
        assert mine["n"] == kept["n"]
        assert mine["verdict"] == kept["verdict"], (mine, kept)
        for part in ("value", "lo95", "hi95"):
            if kept[part] is not None:  # steps are written with two decimals
                assert mine[part] == pytest.approx(kept[part], rel=0.02, abs=0.02), (mine, kept)


def number(found: Interval) -> str:
    """With its interval, as the page has it."""
    if math.isnan(found.value):
        return "no number"
    return f"{found.value:.2g} [{found.lo95:.2g}, {found.hi95:.2g}]".replace("inf", "∞")


def rows_of(arm: ArmResult, judged: dict[tuple[str, str], Verdict]) -> tuple[str, str]:
    """An arm's rows in the page's two tables."""
    cells = {
        name: f"{number(judged[name, arm.name].found)}, {judged[name, arm.name].word}"
        for name in ("P1", "P3", "P4", "P4b", "P6", "P12")
    }
    critical = " | ".join(
        f"{one.fit.b_crit.value:,.0f} [{one.fit.b_crit.lo95:,.0f}, {one.fit.b_crit.hi95:,.0f}] at {one.goal:g}"
        for one in (arm.at[0], arm.at[-1])
        if one.fit
    )
    return (
        f"| {arm.name} | {cells['P3']} | {cells['P12']} | {cells['P4b']} |",
        f"| {arm.name} | {critical} | {cells['P1']} | {cells['P4']} | {cells['P6']} |",
    )


def test_readmes_tables_are_what_the_run_gives(arms, judged):
    text = page("transformers/noise_scale.md")
    rows = re.findall(r"^\| (?:kjv|shakespeare|repeat|ascending)-\d+-\w+ \|.*$", text, re.MULTILINE)
    noise, critical = zip(*(rows_of(arm, judged) for arm in arms.values()), strict=True)
    assert rows == [*noise, *critical]
    for name in ("P5", "P10"):  # of the base alone, in the text
        assert f"{name}: {number(judged[name, BASE].found)}, {judged[name, BASE].word}" in text


def test_on_the_base_three_predictions_hold(judged):
    """With twenty tuned runs a loss; five a loss, as the other arms have, often leave it open."""
    assert all(judged[name, BASE].passed for name in ("P1", "P4", "P6"))
