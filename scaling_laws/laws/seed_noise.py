"""The noise of the seeds, taken over all cells together, and the bootstrap intervals that it gives."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as f_distribution

from laws.power_sum import Array
from laws.run_table import Cells

DRAWS = 1000  # bootstrap resamples


def noise_draws(residuals: Array, seeds: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Array:
    """Noise of the cell means, (draws, cells): the mean of S residuals of all cells, drawn with replacement."""
    noise = np.zeros((draws, len(seeds)))
    if len(residuals) == 0:
        return noise
    for s in sorted(set(seeds.tolist())):
        cells = np.flatnonzero(seeds == s)
        noise[:, cells] = rng.choice(residuals, (draws, len(cells), s)).mean(2)
    return noise


def cell_noise(cells: Cells) -> float:
    """Standard deviation of a cell's mean log loss over draws of its seeds, all cells together."""
    return cells.noise * math.sqrt(float(np.mean(1 / cells.seeds)))


def misfit_ratio(cells: Cells, misfit: float, degrees: int) -> float:
    """A law's misfit over the noise of the cells' means, or 1 where an F test at 5% sees no difference."""
    expected = cell_noise(cells) if len(cells.residuals) else 0.0
    ratio = misfit / max(expected, 1e-12)
    most = f_distribution.ppf(0.95, degrees, max(1, int(np.sum(cells.seeds - 1))))
    return ratio if expected > 0 and ratio**2 > most else 1.0


def interval(draws: Array, value: float) -> dict[str, Any]:
    """`value` with the 2.5% and 97.5% points of its finite bootstrap draws; None where there are too few of them."""
    finite = draws[np.isfinite(draws)]
    if len(finite) < max(20, len(draws) / 2):
        return {"value": value, "lo95": None, "hi95": None}
    low, high = np.percentile(finite, [2.5, 97.5])
    return {"value": value, "lo95": float(low), "hi95": float(high)}


def stretched(item: dict[str, Any], value: float) -> dict[str, Any]:
    """An interval around another `value`, stretched to hold it."""
    if item["lo95"] is None:
        return {**item, "value": value}
    return {"value": value, "lo95": min(item["lo95"], value), "hi95": max(item["hi95"], value)}
