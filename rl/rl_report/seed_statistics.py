"""Statistics over seeds and over games, with bootstrap intervals."""

import itertools

import numpy as np

BOOTSTRAP = 2000


def interquartile_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean of the middle half (Agarwal et al. 2021): the lowest and the highest floor(n / 4) values are left out."""
    n = values.shape[axis]
    cut = n // 4
    return np.sort(values, axis).take(range(cut, n - cut), axis).mean(axis)


def curve_interval(returns: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IQM over seeds and its 95% percentile-bootstrap interval: (seeds, points) -> three (points,)."""
    random = np.random.default_rng(seed)
    draws = returns[random.integers(len(returns), size=(BOOTSTRAP, len(returns)))]  # (draws, seeds, points)
    low, high = np.quantile(interquartile_mean(draws, 1), (0.025, 0.975), axis=0)
    return interquartile_mean(returns), low, high


def solved_at(curve: list[dict[str, float]], threshold: float) -> dict[str, float] | None:
    """The first of two consecutive evaluations above the threshold; None where there is none."""
    for now, then in itertools.pairwise(curve):
        if now["eval_return"] >= threshold and then["eval_return"] >= threshold:
            return now
    return None


def mean_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean and its 95% percentile-bootstrap interval over games."""
    random = np.random.default_rng(seed)
    means = values[random.integers(len(values), size=(BOOTSTRAP, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)
