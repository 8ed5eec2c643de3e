"""Tables of runs that follow Hoffmann's law exactly, or with log-normal noise of the seeds."""

import numpy as np

from laws.parametric import CONSTANTS, MacsLaw, loss_law, optimum, optimum_exponents
from laws.run_table import Runs

LAW = {"E": 0.015, "A": 0.1 * 1e4**0.45, "B": 0.1 * 2e4**0.55, "alpha": 0.45, "beta": 0.55}


def exact_loss(n: np.ndarray, d: np.ndarray, law: dict[str, float] = LAW) -> np.ndarray:
    """The loss that `law` gives N parameters and D samples."""
    return np.asarray(loss_law(n, d, *(law.get(key, 1.0) for key in CONSTANTS)))


def runs_of(n: np.ndarray, d: np.ndarray, loss: np.ndarray, flops: np.ndarray) -> Runs:
    """Runs whose error rates are not known."""
    return Runs(n, d, loss, flops, np.full(len(n), np.nan))


def table(
    noise: float = 0.0, seeds: int = 1, seed: int = 0, k: float = 1.0, p: float = 1.0, sides: int = 8, **law
) -> Runs:
    """`sides` x `sides` cells around N = 1e4, D = 2e4, with C = 6 k N^p D."""
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e3, 1e5, sides), np.geomspace(2e3, 3e5, sides)))
    loss = exact_loss(n, d, {**LAW, **law})
    n, d, loss = (np.repeat(column, seeds) for column in (n, d, loss))
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    return runs_of(n, d, loss, 6 * k * n**p * d)


def isoflop_table(noise: float = 0.0, seeds: int = 1, seed: int = 0, p: float = 1.0) -> Runs:
    """7 budgets, each at 9 sizes within a factor 8 of the optimum; from budget to budget the sizes move by one step."""
    step = 8**0.25
    exponent = optimum_exponents(LAW["alpha"], LAW["beta"], p)[0]
    first = optimum(1e9, LAW, MacsLaw(1.0, p))[0]
    rows = []
    for k in range(7):
        c = 1e9 * step ** (k / exponent)
        for n in [float(f"{first * step ** (k + i):.9g}") for i in range(-4, 5)]:
            rows += [(n, c / (6 * n**p), c)] * seeds
    n, d, c = np.array(rows).T
    loss = exact_loss(n, d)
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    return runs_of(n, d, loss, c)
