"""What each habit does to the exponents: the sweep's analysis on every arm, beside the same cells trained the usual way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import BadInput
from laws.analysis import isoflop_lines
from laws.isoflop import through_minima
from laws.parametric import HUBER_DELTA, MacsLaw, Parametric, fit_parametric, macs_law, optimum_exponents
from laws.power_sum import Array
from laws.run_table import CHANCE_LOSS, Cells, Runs, make_cells
from laws.seed_noise import DRAWS, interval, noise_draws

USUAL = "one tuned, decayed run per cell"
BY_PARAMETERS = "compute taken as 6 N D"
# The rows of the figure, from the usual way to Kaplan et al.'s: the name of the arm in arms.csv, and what is said of it.
HABITS = {
    "": USUAL,
    "one rate": "one learning rate for all widths",
    "long warm-up": "500 steps of warm-up",
    "one batch": "batch 64 for all",
    "constant rate": "constant rate, tested on the way",
    "all at once": "these four at once",
    "dropout": "20% dropout",
}


@dataclass(frozen=True)
class ArmLaw:
    """The two approaches' exponent of N_opt ~ C^a on one arm, with bootstrap draws; None where an approach gives none."""

    cells: Cells
    macs: MacsLaw
    fit: Parametric | None
    isoflop: tuple[float, Array] | None
    why_not: str

    def draws_of(self, key: str) -> tuple[float, Array] | None:
        """Value and draws of a constant of the law."""
        return (self.fit.value[key], self.fit.draws[key]) if self.fit else None


def arm_law(rows: Sequence[dict[str, Any]], draws: int = DRAWS) -> ArmLaw:
    """The sweep's own analysis of one arm's rows: approach 3 with q free, and approach 2."""
    ok = [row for row in rows if row["status"] == "ok"]
    n, d, loss, flops = (
        np.array([float(row[key]) for row in ok]) for key in ("n_params", "n_samples", "test_loss", "flops")
    )
    cells, _ = make_cells(Runs(n, d, loss, flops, np.full(len(ok), np.nan)), CHANCE_LOSS)
    macs = macs_law(cells.n_params, cells.flops / (6 * cells.n_samples))
    noise = noise_draws(cells.residuals, cells.seeds, draws, np.random.default_rng(0))
    lines, _ = isoflop_lines(cells, noise)
    isoflop = None
    if len(lines) >= 3:
        _, exponent, _, exponents = through_minima(lines, 0)
        isoflop = exponent, exponents
    try:
        return ArmLaw(cells, macs, fit_parametric(cells, HUBER_DELTA, macs, draws, free_q=True), isoflop, "")
    except BadInput as error:
        return ArmLaw(cells, macs, None, isoflop, str(error))


def compare_arms(
    usual: Sequence[dict[str, Any]], arms: Sequence[dict[str, Any]], draws: int = DRAWS
) -> list[dict[str, Any]]:
    """For each habit: a by both approaches, b and E, each with its interval, and what it differs by from the usual way.

    The draws of two arms with the same cells and seeds are paired: the same runs' noise and the same widths' misses enter
    both, for the nets begin with the same weights and see the same images. "compute taken as 6 N D" is the usual runs' law
    again with p = 1 in M = k N^p.
    """
    base = arm_law(usual, draws)
    found = [_told(USUAL, "", base, base)]
    for arm in HABITS:
        rows = [row for row in arms if row["arm"] == arm]
        if rows:
            law = arm_law(rows, draws)
            found.append(_told(HABITS[arm], arm, law, base))
            if arm == "all at once":
                found.append(_by_parameters(f"{HABITS[arm]}, {BY_PARAMETERS}", arm, law, base))
    return [*found[:1], _by_parameters(BY_PARAMETERS, "", base, base), *found[1:]]


def _told(name: str, arm: str, law: ArmLaw, base: ArmLaw) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name, "arm": arm, "runs": int(law.cells.seeds.sum()), "cells": len(law.cells.seeds)}
    for key in ("a", "b", "E", "alpha", "beta", "q"):
        told[key] = _interval(law.draws_of(key))
        told[f"{key}_change"] = _change(law.draws_of(key), base.draws_of(key))
    told["isoflop_a"] = _interval(law.isoflop)
    told["isoflop_a_change"] = _change(law.isoflop, base.isoflop)
    told["why_not"] = law.why_not
    same = len(law.cells.log_loss) == len(base.cells.log_loss) and np.array_equal(law.cells.flops, base.cells.flops)
    told["log_loss_change"] = float(np.mean(law.cells.log_loss - base.cells.log_loss)) if same else None
    return told


def _by_parameters(name: str, arm: str, law: ArmLaw, base: ArmLaw) -> dict[str, Any]:
    """An arm's law with C = 6 N D in the place of the counted compute."""
    told = _told(name, arm, law, base)
    told |= {"isoflop_a": None, "isoflop_a_change": None}
    for key, place in (("a", 0), ("b", 1)):
        wrong = None
        if law.fit:
            value = optimum_exponents(law.fit.value["alpha"], law.fit.value["beta"])[place]
            draws = optimum_exponents(law.fit.draws["alpha"], law.fit.draws["beta"])[place]
            wrong = float(value), np.asarray(draws)
        told[key], told[f"{key}_change"] = _interval(wrong), _change(wrong, base.draws_of(key))
    return told


def _interval(found: tuple[float, Array] | None) -> dict[str, Any] | None:
    return interval(found[1], found[0]) if found else None


def _change(found: tuple[float, Array] | None, base: tuple[float, Array] | None) -> dict[str, Any] | None:
    return interval(found[1] - base[1], found[0] - base[0]) if found and base else None
