"""Tables of runs that follow a known law exactly, or with log-normal noise of the seeds and misses shared by a width."""

import csv
import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from law_forms.form_choice import compare_forms, q_is_free
from laws.parametric import (
    CONSTANTS,
    MacsLaw,
    fit_parametric,
    least_loss,
    loss_law,
    macs_law,
    optimum,
    optimum_exponents,
    q_in_doubt,
)
from laws.run_table import Cells, Runs
from laws.seed_noise import cell_noise, interval, stretched
from nets.flop_count import macs_per_image, n_params

RUNS = Path(__file__).resolve().parents[1] / "results/reference/scaling_laws/default/runs.csv"
# Fitted to the committed runs, Huber's delta at the noise.
POWER_MEAN = {"E": 0.0289, "A": 1705.0, "B": 132.9, "alpha": 1.359, "beta": 0.910, "q": 0.532}
LAW = {"E": 0.015, "A": 0.1 * 1e4**0.45, "B": 0.1 * 2e4**0.55, "alpha": 0.45, "beta": 0.55}


def exact_loss(n: np.ndarray, d: np.ndarray, law: Mapping[str, float] = LAW) -> np.ndarray:
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


# ---------------------------------------------------------------- the cells of the committed sweep


@lru_cache(maxsize=1)
def _sweep_sizes() -> np.ndarray:
    """N, D and C of the cells of the committed runs, (3, K): lines, then rows, then columns."""
    with open(RUNS, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "0"]
    arms = [[row for row in rows if row["arm"] == arm] for arm in ("isoflop", "row", "column")]
    arms[1].sort(key=lambda row: (int(row["width"]), -int(row["n_samples"])))
    return np.array([[float(row[key]) for key in ("n_params", "n_samples", "flops")] for row in chain(*arms)]).T


def sweep_macs() -> MacsLaw:
    """M = k N^p over the widths of the committed sweep."""
    n, d, c = _sweep_sizes()
    return macs_law(n, c / (6 * d))


def shared(n: np.ndarray, d: np.ndarray, misses: float, rng: np.random.Generator) -> np.ndarray:
    """Misses of log loss that the cells of a size share: a constant and a slope in log D, deviation `misses` in all."""
    size = np.unique(n, return_inverse=True)[1].ravel()
    constant, slope = misses / math.sqrt(2) * rng.standard_normal((2, size.max() + 1))
    _, sweep_d, _ = _sweep_sizes()
    return constant[size] + slope[size] * (np.log(d) - np.log(sweep_d).mean()) / np.log(sweep_d).std()


def sweep_table(
    noise: float,
    seed: int,
    seeds: int = 3,
    misses: float = 0.0,
    few: bool = False,
    law: Mapping[str, float] = POWER_MEAN,
) -> Runs:
    """Runs of the committed sweep's cells under a law; `few`: its 26 cells of least compute and size."""
    n, d, c = _sweep_sizes()
    rng = np.random.default_rng(seed)
    log_loss = np.log(exact_loss(n, d, law)) + shared(n, d, misses, rng)
    if few:
        keep = np.argsort(np.log(c) + np.log(n), kind="stable")[:26]
        n, d, c, log_loss = n[keep], d[keep], c[keep], log_loss[keep]
    return _seeds_of(n, d, c, log_loss, seeds, noise, rng)


def table_on(sizes: np.ndarray, seeds: np.ndarray, noise: float, misses: float, seed: int) -> Runs:
    """Runs of the cells `sizes` (3, K), N, D and C, with `seeds` (K,) each, under the power mean."""
    n, d, c = sizes
    rng = np.random.default_rng(seed)
    log_loss = np.log(exact_loss(n, d, POWER_MEAN)) + shared(n, d, misses, rng)
    return _seeds_of(n, d, c, log_loss, seeds, noise, rng)


def _seeds_of(
    n: np.ndarray,
    d: np.ndarray,
    c: np.ndarray,
    log_loss: np.ndarray,
    seeds: int | np.ndarray,
    noise: float,
    rng: np.random.Generator,
) -> Runs:
    n, d, c, log_loss = (np.repeat(column, seeds) for column in (n, d, c, log_loss))
    return runs_of(n, d, np.exp(log_loss + noise * rng.standard_normal(len(n))), c)


def beyond_the_sweep(noise: float, misses: float, seed: int) -> tuple[Runs, list[tuple[float, float, float]]]:
    """A table of the sweep's cells, and (N, D, log mean loss of 3 seeds) of cells of 2 to 8 times its largest compute."""
    n, d, c = _sweep_sizes()
    new = [(float(n_params(w)), f / (6 * macs_per_image(w))) for w, f in ((11, 5e11), (16, 1e12), (23, 2e12))]
    all_n, all_d = np.append(n, [size for size, _ in new]), np.append(d, [samples for _, samples in new])
    rng = np.random.default_rng(seed)
    log_loss = np.log(exact_loss(all_n, all_d, POWER_MEAN)) + shared(all_n, all_d, misses, rng)
    runs = log_loss[:, None] + noise * rng.standard_normal((len(all_n), 3))
    k = len(n)
    columns = (np.repeat(column, 3) for column in (n, d, c))
    all_n, all_d, all_c = columns
    beyond = [(size, samples, float(runs[k + i].mean())) for i, (size, samples) in enumerate(new)]
    return runs_of(all_n, all_d, np.exp(runs[:k].ravel()), all_c), beyond


def fitted_intervals(
    cells: Cells,
    law: Mapping[str, float],
    seed: int,
    delta: float | None = None,
    computes: tuple[float, ...] = (1e12,),
) -> tuple[dict[str, float], dict[str, Any]]:
    """True values, and the intervals of a fit as fits.json has them; Huber's `delta` is the noise unless given.

    `L at 1e12` is the least loss at that compute, one of `computes` (FLOP).
    """
    macs = sweep_macs()
    noise = cell_noise(cells) if len(cells.residuals) else 0.06
    known = noise if len(cells.residuals) else math.nan
    choice = compare_forms(cells.n_params, cells.n_samples, cells.flops, cells.log_loss, noise, known)
    head, free = (
        fit_parametric(cells, delta or noise, macs, draws=200, seed=seed, free_q=q) for q in (q_is_free(choice), True)
    )
    chosen = free if not head.free_q and q_in_doubt(choice, free.draws["q"]) else head
    a, b = optimum_exponents(law["alpha"], law["beta"], macs.p)
    truth = {**{key: law[key] for key in CONSTANTS[:5]}, "a": float(a), "b": float(b)}
    draws, value = dict(chosen.draws), dict(head.value)
    for flops in computes:
        name = f"L at {flops:.0e}".replace("e+", "e")
        truth[name] = float(least_loss(flops, law, macs))
        draws[name] = np.asarray(least_loss(flops, chosen.draws, macs))
        value[name] = float(least_loss(flops, head.value, macs))
    found = {key: stretched(interval(np.asarray(draws[key]), 0.0), float(value[key])) for key in truth}
    return truth, found
