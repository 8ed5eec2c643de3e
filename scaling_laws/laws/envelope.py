"""Approach 1 of Hoffmann et al. 2022: the best size at every compute, read off the runs themselves."""

import math

import numpy as np
from scipy.interpolate import PchipInterpolator

from laws.power_sum import Array
from laws.run_table import Cells

ENVELOPE_DRAWS = 200  # bootstrap resamples, which are slow here


def envelope(cells: Cells, log_loss: Array, points: int = 300) -> tuple[Array, Array, Array]:
    """The compute-efficient frontier as log C, log N, log loss (n,) arrays.

    Per size, log loss is interpolated in log C through that size's runs (monotone cubic, no extrapolation); at each C
    the best size is taken. Places where the winner is the smallest or largest size that has been run at that C are
    left out: there a smaller or larger net might have won.
    """
    sizes = np.unique(cells.n_params)
    log_c = np.log(cells.flops)
    grid = np.linspace(log_c.min(), log_c.max(), points)
    curves = np.full((len(sizes), points), np.inf)
    for i, size in enumerate(sizes):
        rows = np.flatnonzero(cells.n_params == size)
        rows = rows[np.argsort(log_c[rows])]
        at, first = np.unique(log_c[rows], return_index=True)
        if len(at) < 2:
            continue
        inside = (grid >= at[0]) & (grid <= at[-1])
        curves[i, inside] = PchipInterpolator(at, log_loss[rows][first])(grid[inside])
    winner = curves.argmin(0)
    available = np.isfinite(curves)
    lowest = available.argmax(0)
    highest = len(sizes) - 1 - available[::-1].argmax(0)
    keep = available.any(0) & (winner > lowest) & (winner < highest)
    return grid[keep], np.log(sizes[winner[keep]]), curves.min(0)[keep]


def envelope_exponent(cells: Cells, noise: Array, draws: int = ENVELOPE_DRAWS) -> tuple[float, Array]:
    """Exponent a of the frontier's N_opt ~ C^a and its bootstrap draws (nan where a draw has no frontier)."""

    def exponent(log_loss: Array) -> float:
        log_c, log_n, _ = envelope(cells, log_loss)
        if len(log_c) < 10 or len(np.unique(log_n)) < 3:
            return math.nan
        return float(np.polyfit(log_c, log_n, 1)[0])

    return exponent(cells.log_loss), np.array([exponent(cells.log_loss + row) for row in noise[:draws]])
