"""What each habit does to the exponents: every arm beside the same cells trained the usual way."""

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

Rows = Sequence[dict[str, Any]]
Size = tuple[int, int]  # width and number of samples
USUAL = "one tuned, decayed run per cell"
BY_PARAMETERS = "compute taken as 6 N D"
# The rows of the figure, from the usual way to Kaplan et al.'s: the name of the arm in arms.csv, and what is said of it.
HABITS = {
    "one rate": "one learning rate for all widths",
    "long warm-up": "500 steps of warm-up",
    "one batch": "batch 64 for all",
    "constant rate": "constant rate, tested on the way",
    "all at once": "these four at once",
    "dropout": "20% dropout",
}


@dataclass(frozen=True)
class ArmLaw:
    """The two approaches' exponent of N_opt ~ C^a on some rows, with bootstrap draws; None where an approach gives none."""

    cells: Cells
    macs: MacsLaw
    fit: Parametric | None
    isoflop: tuple[float, Array] | None
    why_not: str

    def draws_of(self, key: str) -> tuple[float, Array] | None:
        """Value and draws of a constant of the law."""
        return (self.fit.value[key], self.fit.draws[key]) if self.fit else None


def size_of(row: dict[str, Any]) -> Size:
    """The cell that a row belongs to."""
    return int(row["width"]), int(row["n_samples"])


def kept_sizes(rows: Rows) -> set[Size]:
    """The cells that a law may be fitted to: all their runs ended, and none is near chance (`make_cells`)."""
    losses: dict[Size, list[float]] = {}
    for row in rows:
        losses.setdefault(size_of(row), []).append(float(row["test_loss"]) if row["status"] == "ok" else np.inf)
    return {size for size, own in losses.items() if np.mean(np.log(own)) <= np.log(CHANCE_LOSS / 2)}


def arm_law(rows: Rows, draws: int = DRAWS) -> ArmLaw:
    """Approach 3, with q free, and approach 2 on the rows of one arm."""
    n, d, loss, flops = (
        np.array([float(row[key]) for row in rows]) for key in ("n_params", "n_samples", "test_loss", "flops")
    )
    cells, _ = make_cells(Runs(n, d, loss, flops, np.full(len(rows), np.nan)), CHANCE_LOSS)
    macs = macs_law(cells.n_params, cells.flops / (6 * cells.n_samples))
    noise = noise_draws(cells.residuals, cells.seeds, draws, np.random.default_rng(0))
    lines, _ = isoflop_lines(cells, noise)
    isoflop = None
    if len(lines) >= 3:
        _, exponent, _, exponents = through_minima(lines, 0)
        # Of one seed a cell nothing is known of the noise.
        isoflop = exponent, exponents if len(cells.residuals) else np.full(draws, np.nan)
    try:
        return ArmLaw(cells, macs, fit_parametric(cells, HUBER_DELTA, macs, draws, free_q=True), isoflop, "")
    except BadInput as error:
        return ArmLaw(cells, macs, None, isoflop, str(error))


def usual_rows(rows: Rows, arms: Rows) -> list[dict[str, Any]]:
    """Of a sweep's rows those of the cells and seeds that its `arms` train again."""
    again = {(*size_of(row), int(row["seed"])) for row in arms if row["arm"] in HABITS}
    return [row for row in rows if (*size_of(row), int(row["seed"])) in again]


def compare_arms(usual: Rows, arms: Rows, draws: int = DRAWS) -> list[dict[str, Any]]:
    """For each habit: a by both approaches, b and E, each with its interval, and what it differs by from the usual way.

    An arm is compared with the usual runs of those cells that are near chance in neither. The draws of the two are paired:
    the seeds' noise, for most habits begin with the same weights and see the same images, and by assumption the misses
    that the cells of a width share. Tests on the way of one net count as runs of their own: the intervals of those two arms
    are somewhat too narrow. "compute taken as 6 N D" is a law again with p = 1 in M = k N^p.
    """
    kept = kept_sizes(usual)
    if not kept:
        return []
    whole = arm_law([row for row in usual if size_of(row) in kept], draws)
    found = [_told(USUAL, "", whole, whole, usual, 0), _by_parameters(BY_PARAMETERS, "", whole, whole, usual, 0)]
    for arm, name in HABITS.items():
        rows = [row for row in arms if row["arm"] == arm]
        both = kept_sizes(rows) & kept
        if rows and both:
            law, base = (arm_law([row for row in own if size_of(row) in both], draws) for own in (rows, usual))
            lost = len({size_of(row) for row in rows} - both)
            found.append(_told(name, arm, law, base, rows, lost))
            if arm == "all at once":
                found.append(_by_parameters(f"{name}, {BY_PARAMETERS}", arm, law, base, rows, lost))
    return found


def _told(name: str, arm: str, law: ArmLaw, base: ArmLaw, rows: Rows, lost: int) -> dict[str, Any]:
    on_the_way = any(row.get("schedule") == "constant" for row in rows)
    nets = {(row["width"], row["seed"], None if on_the_way else row["n_samples"]) for row in rows}
    told: dict[str, Any] = {
        "name": name,
        "arm": arm,
        "nets": len(nets),
        "cells": len(law.cells.seeds),
        "left_out": lost,
    }
    for key in ("a", "b", "E", "alpha", "beta", "q"):
        told[key] = _interval(law.draws_of(key))
        told[f"{key}_change"] = _change(law.draws_of(key), base.draws_of(key))
    told["isoflop_a"] = _interval(law.isoflop)
    told["isoflop_a_change"] = _change(law.isoflop, base.isoflop)
    told["log_loss_change"] = float(np.mean(law.cells.log_loss - base.cells.log_loss))
    return {**told, "why_not": law.why_not}


def _by_parameters(name: str, arm: str, law: ArmLaw, base: ArmLaw, rows: Rows, lost: int) -> dict[str, Any]:
    """An arm's law with C = 6 N D in the place of the counted compute."""
    told = _told(name, arm, law, base, rows, lost) | {"nets": 0, "isoflop_a": None, "isoflop_a_change": None}
    for key, place in (("a", 0), ("b", 1)):
        wrong = None
        if law.fit:
            value = optimum_exponents(law.fit.value["alpha"], law.fit.value["beta"])[place]
            many = optimum_exponents(law.fit.draws["alpha"], law.fit.draws["beta"])[place]
            wrong = float(value), np.asarray(many)
        told[key], told[f"{key}_change"] = _interval(wrong), _change(wrong, base.draws_of(key))
    return told


def _interval(found: tuple[float, Array] | None) -> dict[str, Any] | None:
    return interval(found[1], found[0]) if found else None


def _change(found: tuple[float, Array] | None, base: tuple[float, Array] | None) -> dict[str, Any] | None:
    return interval(found[1] - base[1], found[0] - base[0]) if found and base else None
