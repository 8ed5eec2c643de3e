"""Approach 3 of Hoffmann et al. 2022: the law L = E + A / N^alpha + B / D^beta, and the optimum it has in closed form."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import f as f_distribution

from common.errors import BadInput
from laws.power_sum import Array, bootstrap_power_sum, fit_power_sum, predict_log
from laws.run_table import Cells
from laws.seed_noise import DRAWS, interval, noise_draws

Number = float | Array
HUBER_DELTA = 1e-3  # in log loss, Hoffmann et al.'s
CONSTANTS = ("E", "A", "B", "alpha", "beta")  # in the order in which `loss_law` takes them
WEBB = np.sqrt([0.5, 1.0, 1.5])[[0, 1, 2, 0, 1, 2]] * [1, 1, 1, -1, -1, -1]  # mean 0, variance 1


@dataclass(frozen=True)
class MacsLaw:
    """Multiply-adds of a forward pass as a power of the parameters, M = k N^p; `error` is the largest |log M| missed."""

    k: float = 1.0
    p: float = 1.0
    error: float = 0.0


def macs_law(n_params: Array, macs: Array) -> MacsLaw:
    """Least squares in logs over the distinct sizes; k = p = 1, Hoffmann's C = 6 N D, where M = N."""
    sizes, first = np.unique(n_params, return_index=True)
    if np.allclose(macs, n_params, rtol=1e-9):
        return MacsLaw()
    x, y = np.log(sizes), np.log(macs[first])
    p, log_k = np.polyfit(x, y, 1) if len(sizes) > 1 else (1.0, float(y[0] - x[0]))
    return MacsLaw(math.exp(log_k), float(p), float(np.abs(y - log_k - p * x).max()))


def loss_law(n: Number, d: Number, e: Number, a: Number, b: Number, alpha: Number, beta: Number) -> Number:
    """Hoffmann et al. 2022, eq. 2: L(N, D) = E + A / N^alpha + B / D^beta."""
    return e + a / n**alpha + b / d**beta


def optimum_exponents(alpha: Number, beta: Number, p: float = 1.0) -> tuple[Number, Number]:
    """(a, b) of N_opt ~ C^a and D_opt ~ C^b under C = 6 k N^p D; a p + b = 1. With p = 1: Hoffmann et al., eq. 4."""
    return beta / (alpha + p * beta), alpha / (alpha + p * beta)


def optimum(flops: Number, law: Mapping[str, Any], macs: MacsLaw) -> tuple[Number, Number]:
    """(N_opt, D_opt) that minimise A / N^alpha + B / D^beta at C = 6 k N^p D: setting the derivative to 0 gives

    N_opt = (alpha A / (p beta B))^(1 / (alpha + p beta)) (C / 6k)^(beta / (alpha + p beta)), D_opt = C / (6k N_opt^p).
    `law` has A, B, alpha and beta, each a number or an array of bootstrap draws.
    """
    total = law["alpha"] + macs.p * law["beta"]
    ratio = law["alpha"] * law["A"] / (macs.p * law["beta"] * law["B"])
    n = ratio ** (1 / total) * (flops / (6 * macs.k)) ** (law["beta"] / total)
    return n, flops / (6 * macs.k * n**macs.p)


@dataclass(frozen=True)
class Parametric:
    """A fit of the parametric law: values and bootstrap draws of E, A, B, alpha, beta, a, b, by name."""

    value: dict[str, float]
    draws: dict[str, Array]
    delta: float
    misfit: float  # root mean square of the cells' residuals, with 5 degrees of freedom taken off
    misfit_ratio: float  # misfit over what the seeds' noise explains; 1 where that is all (F test at 5%)

    def loss(self, n: Number, d: Number) -> Number:
        """The predicted loss of N parameters and D samples."""
        return loss_law(n, d, *(self.value[key] for key in CONSTANTS))


def fit_parametric(cells: Cells, delta: float, macs: MacsLaw, draws: int = DRAWS, seed: int = 0) -> Parametric:
    """Approach 3 of Hoffmann et al. 2022 (eq. 3): sum of Huber_delta over cells of log predicted minus log observed.

    The bootstrap fits the fitted law plus the seeds' noise. Where the law misses the cells by more than that, the rest
    of the residuals is added as misses shared by all cells of a size: each size's own, times a random factor (wild
    cluster bootstrap with the six-point weights of Webb 2014). BadInput for fewer than 6 cells, fewer than 3 sizes or
    numbers of samples, or a loss that does not fall with both.
    """
    if len(cells.log_loss) < 6:
        raise BadInput(
            f"the law has 5 parameters: it needs at least 6 cells (N, D), and there are {len(cells.log_loss)}"
        )
    for name, values in (("n_params", cells.n_params), ("n_samples", cells.n_samples)):
        if len(np.unique(values)) < 3:
            raise BadInput(f"the law needs at least 3 different {name}, and there are {len(np.unique(values))}")
    x = np.log(np.stack([cells.n_params, cells.n_samples], 1))
    theta = fit_power_sum(x, cells.log_loss, delta)
    for name, exponent in (("n_params", theta[3]), ("n_samples", theta[4])):
        if exponent <= 0:
            raise BadInput(f"the loss does not fall with {name}: there is no optimum at fixed compute")
    residual = cells.log_loss - predict_log(theta[None], x)[0]
    misfit = math.sqrt(float(np.sum(residual**2)) / (len(residual) - 5))
    rng = np.random.default_rng(seed)
    ratio = 1.0
    if len(cells.residuals):
        noise = noise_draws(cells.residuals, cells.seeds, draws, rng)
        ratio = misfit_ratio(cells, misfit, 5)
        if ratio > 1:
            left = residual * math.sqrt((1 - 1 / ratio**2) * len(residual) / (len(residual) - 5))
            size = np.unique(cells.n_params, return_inverse=True)[1].ravel()
            noise += left * rng.choice(WEBB, (draws, size.max() + 1))[:, size]
    else:  # one seed per cell: all that is known of the noise is the distance from the law
        noise = rng.choice(residual * math.sqrt(len(residual) / (len(residual) - 5)), (draws, len(residual)))
    samples = bootstrap_power_sum(theta, x, noise, delta)
    value = {key: float(column[0]) for key, column in _named(theta[None], macs).items()}
    return Parametric(value, _named(samples, macs), delta, misfit, ratio)


def misfit_ratio(cells: Cells, misfit: float, parameters: int) -> float:
    """Misfit over the noise of the cells' means, or 1 where an F test at 5% sees no difference."""
    expected = cells.noise * math.sqrt(float(np.mean(1 / cells.seeds)))
    degrees = (len(cells.log_loss) - parameters, max(1, int(np.sum(cells.seeds - 1))))
    ratio = misfit / max(expected, 1e-12)
    return ratio if expected > 0 and ratio**2 > f_distribution.ppf(0.95, *degrees) else 1.0


def _named(theta: Array, macs: MacsLaw) -> dict[str, Array]:
    e, a, b, alpha, beta = theta.T
    falls = (alpha > 0) & (beta > 0)  # a draw without an optimum has no exponents
    a_opt, b_opt = (np.where(falls, value, np.nan) for value in optimum_exponents(alpha, beta, macs.p))
    return {"E": np.exp(e), "A": np.exp(a), "B": np.exp(b), "alpha": alpha, "beta": beta, "a": a_opt, "b": b_opt}


def optimum_at(flops: float, fit: Parametric, macs: MacsLaw) -> dict[str, dict[str, float | None]]:
    """N_opt, D_opt and the predicted loss at a compute, each with its interval."""
    n, d = optimum(flops, fit.value, macs)
    n_draws, d_draws = optimum(flops, fit.draws, macs)
    loss_draws = loss_law(n_draws, d_draws, *(fit.draws[key] for key in CONSTANTS))
    return {
        "N": interval(np.asarray(n_draws), float(n)),
        "D": interval(np.asarray(d_draws), float(d)),
        "loss": interval(np.asarray(loss_draws), float(fit.loss(n, d))),
    }


def optimum_curves(flops: Array, fit: Parametric, macs: MacsLaw) -> dict[str, tuple[Array, Array, Array]]:
    """N_opt and D_opt at each of some computes (n,), with the two ends of their 95% intervals."""
    draws = {name: values[:, None] for name, values in fit.draws.items()}
    best, many = optimum(flops, fit.value, macs), optimum(flops[None], draws, macs)
    return {
        key: (np.asarray(value), *np.percentile(np.asarray(spread), [2.5, 97.5], axis=0))
        for key, value, spread in zip("ND", best, many, strict=True)
    }
