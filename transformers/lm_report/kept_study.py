"""A study of the noise scale as its folder keeps it, so that its figures can be drawn again from there."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BadInput
from common.files import read_json
from critical_batch.arm_tables import NAN, ArmResult, AtLoss, Measured
from critical_batch.batch_laws import Hyperbola, Runs
from gradient_noise.noise_estimators import Interval


def read_study(folder: Path) -> tuple[list[ArmResult], list[ArmResult]]:
    """All swept arms, and those of another width than the first one's; from fits.json and noise.csv.

    BadInput where one of them is missing or damaged.
    """
    for name in ("fits.json", "noise.csv"):
        if not (folder / name).exists():
            raise BadInput(f"{folder} has no {name}, which the figures are drawn from")
    try:
        with open(folder / "noise.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        swept = {kept["arm"]: kept for kept in read_json(folder / "fits.json")["arms"]}
        names = dict.fromkeys([*swept, *(row["arm"] for row in rows)])
        every = {name: arm_of(name, swept.get(name), [row for row in rows if row["arm"] == name]) for name in names}
    except (KeyError, ValueError, TypeError) as error:
        raise BadInput(f"the tables of {folder} do not fit together: {error}") from None
    arms = [every[name] for name in swept]
    if not arms:
        raise BadInput(f"{folder / 'fits.json'} has no arms")
    return arms, [arm for arm in every.values() if arm.width != arms[0].width]


def arm_of(name: str, kept: dict[str, Any] | None, rows: list[dict[str, str]]) -> ArmResult:
    """One arm from its part of fits.json, if it was swept, and its rows of noise.csv."""
    _, width, optimizer = name.rsplit("-", 2)
    kept = kept or {"goals": [], "positions": {}, "layers": {}}
    measured = tuple(
        Measured(
            float(row["level"]),
            float(row["loss"]),
            int(row["step"]),
            *(
                Interval(*(float(row[f"{kind}_{part}"]) for part in ("value", "lo95", "hi95")))
                for kind in ("b_simple", "b_noise", "branched")
            ),
        )
        for row in rows
    )
    return ArmResult(
        name=name,
        optimizer=optimizer,
        width=int(width),
        context=0,  # everything is in tokens already
        at=tuple(at_loss_of(goal) for goal in kept["goals"]),
        measured=measured,
        batch=float(rows[0]["tokens_per_step"]) if rows else math.nan,
        positions={int(m): interval_of(b) for m, b in kept["positions"].items()},
        layers={layer: interval_of(b) for layer, b in kept["layers"].items()},
    )


def at_loss_of(goal: dict[str, Any]) -> AtLoss:
    """One loss of an arm."""
    batch, steps, rates, reached = (
        np.array([one[name] for one in goal["tuned"]], float) for name in ("batch", "steps", "rate", "reached")
    )
    fit = None
    if "s_min" in goal:
        fit = Hyperbola(*(interval_of(goal[name]) for name in ("s_min", "b_crit", "exponent")), misfit=goal["misfit"])
    runs = Runs(batch, steps, reached.astype(bool))
    return AtLoss(goal["goal"], runs, rates, fit, interval_of(goal["averaged"]), interval_of(goal["branched"]))


def interval_of(kept: dict[str, float | None]) -> Interval:
    """JSON has neither infinity nor nan: an end that is missing beside a value is infinite; with none there is nothing."""
    value, low, high = (kept[part] for part in ("value", "lo95", "hi95"))
    if value is None and low is None:
        return NAN
    return Interval(
        math.inf if value is None else value, math.nan if low is None else low, math.inf if high is None else high
    )
