"""What noise_scale.py writes and says: the rows of its tables, fits.json, and a verdict in words."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from critical_batch.arm_tables import ArmResult
from critical_batch.batch_sweep import Arm
from critical_batch.predictions import correlation, kaplan_law


def sweep_rows(arm: Arm, goals: Sequence[float], cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """batch_sweep.csv: one row per run and loss."""
    rows = []
    for cell in cells:
        for trial in cell["trials"]:
            for goal, steps in zip(goals, trial["steps"], strict=True):
                rows.append(
                    {
                        "arm": arm.name,
                        "seed": cell["seed"],
                        "batch": cell["batch"],
                        "tokens_per_step": cell["batch"] * cell["context"],
                        "rate": trial["rate"],
                        "goal": goal,
                        "steps": "" if steps is None else round(steps, 2),
                        "steps_made": trial["made"],
                        "seconds": round(trial["seconds"], 2),
                    }
                )
    return rows


def noise_rows(arm: ArmResult) -> list[dict[str, Any]]:
    """noise.csv: one row per arm and loss at which the noise was measured, in tokens."""
    rows = []
    for one in arm.measured:
        row: dict[str, Any] = {"arm": arm.name, "tokens_per_step": arm.batch}
        row |= {"level": one.level, "loss": one.loss, "step": one.step}
        for name in ("b_simple", "b_noise", "branched"):
            for part, value in asdict(getattr(one, name)).items():
                row[f"{name}_{part}"] = value
        rows.append(row)
    return rows


def fits(arm: ArmResult) -> dict[str, Any]:
    """fits.json: what the sweep of one arm came to, in tokens."""
    goals = []
    for one in arm.at:
        row: dict[str, Any] = {"goal": one.goal, "runs": int(one.runs.reached.sum())}
        row |= {name: asdict(getattr(one, name)) for name in ("averaged", "branched")}
        if one.fit:
            row |= {name: asdict(getattr(one.fit, name)) for name in ("s_min", "b_crit", "exponent")}
            row["misfit"] = one.fit.misfit
        pairs = zip(one.runs.batch, one.runs.steps, one.rates, one.runs.reached, strict=True)
        row["tuned"] = [dict(zip(("batch", "steps", "rate", "reached"), map(float, p), strict=True)) for p in pairs]
        goals.append(row)
    found = correlation(arm)
    return {
        "arm": arm.name,
        "goals": goals,
        "kaplan": kaplan_law(arm),
        "positions": {str(m): asdict(b) for m, b in arm.positions.items()},
        "correlation": {"b_1": found[0], "rho": found[1]} if found else None,
        "layers": {name: asdict(b) for name, b in arm.layers.items()},
    }


def told(verdict: dict[str, Any]) -> str:
    """A verdict in two lines."""
    low, high = (math.inf if end is None else end for end in (verdict["lo95"], verdict["hi95"]))
    number = "no number" if verdict["value"] is None else f"{verdict['value']:.3g} [{low:.3g}, {high:.3g}]"
    return (
        f"{verdict['name']} {verdict['verdict']} ({verdict['arm']}): {verdict['claim']}\n"
        f"    {verdict['number']}: {number}, n = {verdict['n']}"
    )
