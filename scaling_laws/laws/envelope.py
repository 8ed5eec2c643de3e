"""Approach 1 of Hoffmann et al. 2022: the best size at every compute, read off the runs themselves."""

import math
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from laws.power_law import weighted_line
from laws.power_sum import Array
from laws.run_table import Cells

ENVELOPE_DRAWS = 400  # bootstrap resamples
FEWEST_POINTS, FEWEST_SIZES = 10, 3  # of a frontier that has an exponent


def envelope(cells: Cells, log_loss: Array, points: int = 300) -> tuple[Array, Array, Array]:
    """The compute-efficient frontier as log C (points,), log N and log loss (B, points), of log losses (B, cells).

    Per size, log loss is interpolated in log C through that size's runs (monotone cubic, no extrapolation); at each C
    the best size is taken. Places where the winner is the smallest or largest size that has been run at that C are
    nan: there a smaller or larger net might have won.
    """
    sizes = np.unique(cells.n_params)
    log_c = np.log(cells.flops)
    grid = np.linspace(log_c.min(), log_c.max(), points)
    least = np.full((len(log_loss), points), np.inf)
    winner = np.zeros(least.shape, dtype=int)
    lowest, highest = np.full(points, len(sizes)), np.full(points, -1)
    for i, size in enumerate(sizes):
        rows = np.flatnonzero(cells.n_params == size)
        rows = rows[np.argsort(log_c[rows])]
        at, first = np.unique(log_c[rows], return_index=True)
        if len(at) < 2:
            continue
        inside = np.flatnonzero((grid >= at[0]) & (grid <= at[-1]))
        lowest[inside], highest[inside] = np.minimum(lowest[inside], i), i
        curves = PchipInterpolator(at, log_loss[:, rows[first]], axis=1)(grid[inside])
        better = curves < least[:, inside]
        least[:, inside] = np.where(better, curves, least[:, inside])
        winner[:, inside] = np.where(better, i, winner[:, inside])
    keep = np.isfinite(least) & (winner > lowest) & (winner < highest)
    return grid, np.where(keep, np.log(sizes)[winner], np.nan), np.where(keep, least, np.nan)


def frontier_exponents(cells: Cells, log_loss: Array) -> Array:
    """Exponent a of each frontier's N_opt ~ C^a, (B,), of log losses (B, cells); nan where there is no frontier."""
    log_c, log_n, _ = envelope(cells, log_loss)
    _, slope = weighted_line(log_c, log_n, np.ones(len(log_c)))
    found = np.isfinite(log_n)
    jumps = (np.diff(np.sort(log_n, axis=1), axis=1) > 0).sum(1)  # nan sorts last and is never larger
    return np.where((found.sum(1) >= FEWEST_POINTS) & (jumps >= FEWEST_SIZES - 1), slope, np.nan)


def envelope_exponent(cells: Cells, law: Array, noise: Array, true: float) -> dict[str, Any] | None:
    """The frontier's exponent a, with an interval that counts the bias of the grid; None where there is no frontier.

    `law` (cells,) are log losses of a law whose exponent is `true`, `noise` (draws, cells) what the cells differ from a
    law by. The frontier of a grid is a staircase, and its slope is not the law's even without noise; so the law's own
    losses, with noise, go through the same grid, and the interval is the exponent minus the errors found there. It is
    widened to hold the exponent itself.
    """
    exponent = float(frontier_exponents(cells, cells.log_loss[None])[0])
    if not math.isfinite(exponent):
        return None
    errors = frontier_exponents(cells, law + noise[:ENVELOPE_DRAWS]) - true
    errors = errors[np.isfinite(errors)]
    if len(errors) < max(20, min(len(noise), ENVELOPE_DRAWS) / 2):
        return {"value": exponent, "lo95": None, "hi95": None, "grid_bias": None}
    low, high = exponent - np.percentile(errors, [97.5, 2.5])
    bias = float(np.median(errors))
    return {"value": exponent, "lo95": min(low, exponent), "hi95": max(high, exponent), "grid_bias": bias}
