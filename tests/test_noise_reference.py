"""The committed full run of noise_scale.py: its verdicts follow from its tables, and README says them."""

import csv
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from gradient_noise import Interval
from predictions import ArmResult, Measured, at_loss, tuned, verdicts

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "results/reference/transformers/noise_scale"
BASE = "kjv-64-adamw"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no reference run is committed")


def rows_by_arm(name: str) -> dict[str, list[dict[str, str]]]:
    found = defaultdict(list)
    with open(FOLDER / name, newline="") as file:
        for row in csv.DictReader(file):
            found[row["arm"]].append(row)
    return found


def cells_of(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The tuning cells of an arm as the script has them, from batch_sweep.csv."""
    goals = sorted({float(row["goal"]) for row in rows}, reverse=True)
    cells: dict[tuple[str, int], dict[float, dict[str, Any]]] = {}
    contexts = {}
    for row in rows:
        batch = int(row["batch"])
        contexts[batch] = int(row["tokens_per_step"]) // batch
        trials = cells.setdefault((row["seed"], batch), {})
        trial = trials.setdefault(float(row["rate"]), {"steps": [None] * len(goals), "made": int(row["steps_made"])})
        trial["steps"][goals.index(float(row["goal"]))] = float(row["steps"]) if row["steps"] else None
    return [
        {
            **{"batch": batch, "context": contexts[batch]},
            "trials": [{"rate": rate, **trial} for rate, trial in sorted(trials.items())],
        }
        for (_, batch), trials in cells.items()
    ]


def measured_of(rows: list[dict[str, str]]) -> list[Measured]:
    """What was measured on the way, from noise.csv."""

    def interval(row: dict[str, str], name: str) -> Interval:
        return Interval(*(float(row[f"{name}_{part}"]) for part in ("value", "lo95", "hi95")))

    return [
        Measured(
            float(row["level"]),
            float(row["loss"]),
            int(row["step"]),
            *(interval(row, name) for name in ("b_simple", "b_noise", "branched")),
        )
        for row in rows
    ]


@pytest.fixture(scope="module")
def fits() -> dict[str, Any]:
    return json.loads((FOLDER / "fits.json").read_text())


@pytest.fixture(scope="module")
def arms(fits) -> list[ArmResult]:
    """Everything that the verdicts need, from the two tables; the noise of parts of a sequence from fits.json."""
    sweep, noise = rows_by_arm("batch_sweep.csv"), rows_by_arm("noise.csv")
    found = []
    for kept in fits["arms"]:
        name = kept["arm"]
        cells, measured = cells_of(sweep[name]), measured_of(noise[name])
        batch = float(noise[name][0]["tokens_per_step"])
        goals = sorted({float(row["goal"]) for row in sweep[name]}, reverse=True)
        at = tuple(at_loss(goal, *tuned(cells, i), measured, batch) for i, goal in enumerate(goals))
        positions = {
            int(m): Interval(b["value"], b["lo95"], math.inf if b["hi95"] is None else b["hi95"])
            for m, b in kept["positions"].items()
        }
        _, width, optimizer = name.split("-")
        context = cells[0]["context"]
        found.append(ArmResult(name, optimizer, int(width), context, at, tuple(measured), batch, positions, {}))
    return found


def test_the_verdicts_follow_from_the_tables(fits, arms):
    assert arms[0].name == BASE
    sizes = [arm for arm in arms if arm.name.startswith("kjv-") and arm.name.endswith("-adamw") and arm.width != 64]
    assert len(sizes) == 2
    again = [verdict.row() for verdict in verdicts(arms[0], arms, sizes)]
    assert len(again) == len(fits["predictions"]) > 40
    for mine, kept in zip(again, fits["predictions"], strict=True):
        assert (mine["name"], mine["arm"], mine["n"]) == (kept["name"], kept["arm"], kept["n"])
        assert mine["verdict"] == kept["verdict"], (mine, kept)
        for part in ("value", "lo95", "hi95"):
            if kept[part] is not None:  # steps are written with two decimals
                assert mine[part] == pytest.approx(kept[part], rel=0.02, abs=0.02), (mine, kept)


def test_the_star_is_complete(arms):
    assert {arm.name for arm in arms} == {
        BASE,
        *(f"kjv-{width}-adamw" for width in (32, 128)),
        *(f"kjv-64-{optimizer}" for optimizer in ("sgd", "muon")),
        *(f"{task}-64-adamw" for task in ("shakespeare", "repeat", "ascending")),
    }
    assert all(sum(one.fit is not None for one in arm.at) >= 1 for arm in arms)


def test_readme_says_what_the_run_found(fits):
    """The table of verdicts in README has a row per prediction and arm that it names, with these numbers."""
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (P\d+b?) [^|]*\| ([\w-]+) \| (holds|fails|not decided) \| ([^|]+) \|$", text, re.MULTILINE)
    kept = {(row["name"], row["arm"]): row for row in fits["predictions"]}
    assert {name for name, *_ in rows} >= {"P1", "P3", "P4", "P5", "P6", "P10", "P12"}
    for name, arm, verdict, number in rows:
        found = kept[name, arm]
        assert found["verdict"] == verdict
        value, low, high = (math.inf if found[part] is None else found[part] for part in ("value", "lo95", "hi95"))
        assert number == f"{value:.2g} [{low:.2g}, {high:.2g}]".replace("inf", "∞")
