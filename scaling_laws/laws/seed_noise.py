"""The noise of the seeds, taken over all cells together, and the bootstrap intervals that it gives."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from laws.power_sum import Array

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


def interval(draws: Array, value: float) -> dict[str, Any]:
    """`value` with the 2.5% and 97.5% points of its finite bootstrap draws; None where there are too few of them."""
    finite = draws[np.isfinite(draws)]
    if len(finite) < max(20, len(draws) / 2):
        return {"value": value, "lo95": None, "hi95": None}
    low, high = np.percentile(finite, [2.5, 97.5])
    return {"value": value, "lo95": float(low), "hi95": float(high)}
