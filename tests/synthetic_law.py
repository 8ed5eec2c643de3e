"""Tables of runs that follow Hoffmann's law exactly, or with log-normal noise of the seeds."""

import numpy as np

from laws import Runs, loss_law

LAW = {"E": 0.015, "A": 0.1 * 1e4**0.45, "B": 0.1 * 2e4**0.55, "alpha": 0.45, "beta": 0.55}


def table(
    noise: float = 0.0, seeds: int = 1, seed: int = 0, k: float = 1.0, p: float = 1.0, sides: int = 8, **law
) -> Runs:
    """`sides` x `sides` cells around N = 1e4, D = 2e4, with C = 6 k N^p D."""
    law = {**LAW, **law}
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e3, 1e5, sides), np.geomspace(2e3, 3e5, sides)))
    loss = np.asarray(loss_law(n, d, law["E"], law["A"], law["B"], law["alpha"], law["beta"]))
    n, d, loss = (np.repeat(column, seeds) for column in (n, d, loss))
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    return Runs(n, d, loss, 6 * k * n**p * d, np.full(len(n), np.nan))


def isoflop_table(noise: float = 0.0, seeds: int = 1, seed: int = 0, p: float = 1.0, **law) -> Runs:
    """7 budgets, each at 9 sizes within a factor 8 of the optimum."""
    from laws import MacsLaw, optimum

    law = {**LAW, **law}
    rows = []
    for c in 1e9 * 2.0 ** np.arange(7):
        best, _ = optimum(c, law, MacsLaw(1.0, p))
        for n in best * np.geomspace(1 / 8, 8, 9):
            rows += [(n, c / (6 * n**p), c)] * seeds
    n, d, c = np.array(rows).T
    loss = np.asarray(loss_law(n, d, law["E"], law["A"], law["B"], law["alpha"], law["beta"]))
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    return Runs(n, d, loss, c, np.full(len(n), np.nan))
