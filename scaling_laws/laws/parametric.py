"""Approach 3 of Hoffmann et al. 2022: the law L = E + [(A / N^alpha)^q + (B / D^beta)^q]^(1/q), theirs at q = 1.

A power mean of the two terms, with its optimum in closed form. q < 1 says that what is short of both parameters and data
does worse than the two shortages added.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2

from common.errors import BadInput
from law_forms.form_choice import EXACT, Choice
from law_forms.form_fits import Law, bootstrap_form, fit_form, profile_of_e
from law_forms.forms import FORMS
from law_forms.huber_solver import Array
from law_forms.shared_misses import shared_misses
from laws.run_table import Cells
from laws.seed_noise import DRAWS, cell_noise, interval, misfit_ratio, noise_draws

Number = float | Array
HUBER_DELTA = 1e-3  # in log loss, Hoffmann et al.'s
ONE_BUDGET = 1.05  # computes within this factor are one
CONSTANTS = ("E", "A", "B", "alpha", "beta", "q")  # in the order in which `loss_law` takes them


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


def loss_law(n: Number, d: Number, e: Number, a: Number, b: Number, alpha: Number, beta: Number, q: Number = 1) -> Any:
    """L(N, D) = E + [(A / N^alpha)^q + (B / D^beta)^q]^(1/q); q = 1 is Hoffmann et al. 2022, eq. 2."""
    log_terms = np.log(a) - alpha * np.log(n), np.log(b) - beta * np.log(d)
    return e + np.exp(np.logaddexp(q * log_terms[0], q * log_terms[1]) / q)


def optimum_exponents(alpha: Number, beta: Number, p: float = 1.0) -> tuple[Number, Number]:
    """(a, b) of N_opt ~ C^a and D_opt ~ C^b under C = 6 k N^p D; a p + b = 1. With p = 1: Hoffmann et al., eq. 4.

    q is not in them: where the two terms balance, their ratio is one constant at every compute.
    """
    return beta / (alpha + p * beta), alpha / (alpha + p * beta)


def optimum(flops: Number, law: Mapping[str, Any], macs: MacsLaw) -> tuple[Number, Number]:
    """(N_opt, D_opt) that minimise the loss at C = 6 k N^p D.

    There alpha (A / N^alpha)^q = p beta (B / D^beta)^q, which gives N_opt = G (C / 6k)^(beta / (alpha + p beta)) with
    G = [(alpha / (p beta))^(1/q) A / B]^(1 / (alpha + p beta)), and D_opt = C / (6k N_opt^p). `law` has A, B, alpha, beta
    and, where it is not 1, q, each a number or an array of bootstrap draws.
    """
    total = law["alpha"] + macs.p * law["beta"]
    with np.errstate(invalid="ignore"):  # a draw without an optimum
        ratio = (law["alpha"] / (macs.p * law["beta"])) ** (1 / law.get("q", 1.0)) * law["A"] / law["B"]
        n = ratio ** (1 / total) * (flops / (6 * macs.k)) ** (law["beta"] / total)
    return n, flops / (6 * macs.k * n**macs.p)


def least_loss(flops: Number, law: Mapping[str, Any], macs: MacsLaw) -> Number:
    """The loss at the optimum: E + A / N_opt^alpha (1 + alpha / (p beta))^(1/q), a power of C with E added.

    Its exponent is alpha beta / (alpha + p beta).
    """
    n, _ = optimum(flops, law, macs)
    with np.errstate(invalid="ignore"):
        share = (1 + law["alpha"] / (macs.p * law["beta"])) ** (1 / law.get("q", 1.0))
    return law["E"] + law["A"] * n ** -law["alpha"] * share


@dataclass(frozen=True)
class Parametric:
    """A fit of the parametric law: values and bootstrap draws of E, A, B, alpha, beta, q, a, b, by name."""

    value: dict[str, float]
    draws: dict[str, Array]
    delta: float
    misfit: float  # root mean square of the cells' residuals, with the parameters' degrees of freedom taken off
    misfit_ratio: float  # misfit over what the seeds' noise explains, at least 1
    free_q: bool
    law: Law
    samples: Array  # the draws as rows of the form's parameters

    def loss(self, n: Number, d: Number) -> Any:
        """The predicted loss of N parameters and D samples."""
        return loss_law(n, d, *(self.value[key] for key in CONSTANTS))


def check_table(cells: Cells, parameters: int = 5) -> None:
    """BadInput for fewer cells than can be fitted, fewer than 3 sizes or 3 numbers of samples, or a single compute."""
    if len(cells.log_loss) < parameters + 1:
        raise BadInput(
            f"the law has {parameters} parameters: it needs at least {parameters + 1} cells (N, D), "
            f"and there are {len(cells.log_loss)}"
        )
    for name, values in (("n_params", cells.n_params), ("n_samples", cells.n_samples)):
        if len(np.unique(values)) < 3:
            raise BadInput(f"the law needs at least 3 different {name}, and there are {len(np.unique(values))}")
    if cells.flops.max() < ONE_BUDGET * cells.flops.min():
        raise BadInput("all cells have the same compute: the law needs at least two budgets")


def fit_parametric(
    cells: Cells, delta: float, macs: MacsLaw, draws: int = DRAWS, seed: int = 0, free_q: bool = False
) -> Parametric:
    """Approach 3 of Hoffmann et al. 2022 (eq. 3): sum of Huber_delta over cells of log predicted minus log observed.

    With `free_q` the power mean, else q = 1. The bootstrap fits the fitted law plus the seeds' noise and, as far as the
    law misses the cells by more, misses shared by all cells of a size (`misfit_noise`). BadInput for too small a table
    and for a loss that does not fall with both N and D.
    """
    form = FORMS["power mean" if free_q else "additive"]
    check_table(cells, len(form.parameters))
    sizes = cells.n_params, cells.n_samples
    law = fit_form(form, *sizes, cells.log_loss, delta)
    for name, exponent in (("n_params", law.theta[3]), ("n_samples", law.theta[4])):
        if exponent <= 0:
            raise BadInput(f"the loss does not fall with {name}: there is no optimum at fixed compute")
    residual = cells.log_loss - law.log_loss(*sizes)
    degrees = len(residual) - len(form.parameters)
    misfit = math.sqrt(float(np.sum(residual**2)) / degrees)
    rng = np.random.default_rng(seed)
    noise, *_ = cell_draws(cells, law, residual, draws, rng)
    ratio = misfit_ratio(cells, misfit, degrees)
    samples = bootstrap_form(law, *sizes, noise, delta)
    value = {key: float(column[0]) for key, column in _named(law.theta[None], law.centre, macs).items()}
    return Parametric(value, _named(samples, law.centre, macs), delta, misfit, ratio, free_q, law, samples)


def cell_draws(
    cells: Cells, law: Law, residual: Array, draws: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """What the cells' log losses may differ by from a law's, (draws, K): the seeds' noise and shared misses.

    With it the deviations (draws,) of shared misses, and of a cell's noise, that each draw was made with.

    Where each cell has one run, all that is known of the noise is the distance from the law: Gaussian then, of a variance
    drawn from its posterior.
    """
    jacobian = law.form.law(law.theta[None], law.sizes(cells.n_params, cells.n_samples))[1][0]
    known = cell_noise(cells) if len(cells.residuals) else math.nan
    misses = shared_misses(jacobian, residual, cells.n_params, cells.n_samples, known)
    shared, rows = misses.draws(draws, rng)
    if len(cells.residuals):
        return noise_draws(cells.residuals, cells.seeds, draws, rng) + shared, misses.tau[rows], misses.sigma[rows]
    stretch = np.sqrt(misses.degrees / rng.chisquare(misses.degrees, draws))
    sigma = misses.sigma[rows] * stretch
    noise = shared * stretch[:, None] + sigma[:, None] * rng.standard_normal((draws, len(residual)))
    return noise, misses.tau[rows] * stretch, sigma


def q_in_doubt(choice: Choice, q: Array) -> bool:
    """Whether a law with q = 1 needs the intervals of one with q free, whose draws of q (B,) are given.

    It does where forms were not compared, where those draws leave 1 out, and where q free predicted the held-out cells
    better, if not by enough to be taken.
    """
    errors = {rival.name: rival.error for rival in choice.rivals}
    if not errors or errors["additive"] > max(errors["power mean"], EXACT):
        return True
    low, high = np.percentile(q, [2.5, 97.5])
    return not low - 1e-6 <= 1 <= high + 1e-6


def _named(theta: Array, centre: Array, macs: MacsLaw) -> dict[str, Array]:
    """The law's constants from rows of parameters (B, 5 or 6) about `centre`; no exponents where there is no optimum."""
    e, a, b, alpha, beta = theta.T[:5]
    falls = (alpha > 0) & (beta > 0)
    a_opt, b_opt = (np.where(falls, value, np.nan) for value in optimum_exponents(alpha, beta, macs.p))
    q = np.exp(theta[:, 5]) if theta.shape[1] > 5 else np.ones(len(theta))
    constants = {"E": np.exp(e), "A": np.exp(a + alpha * centre[0]), "B": np.exp(b + beta * centre[1])}
    return {**constants, "alpha": alpha, "beta": beta, "q": q, "a": a_opt, "b": b_opt}


def profile_interval(cells: Cells, fit: Parametric, points: int = 61) -> tuple[float, float]:
    """The 95% profile interval of E: where the least Huber sum rises by half of chi2's 95% point, 1.92.

    In units of the noise of a cell's mean, or of the residuals where they are larger. Meant for a fit whose delta is
    the noise, where the sum is close to a log likelihood.
    """
    spread = max(fit.misfit, cell_noise(cells) if len(cells.residuals) else 0.0, 1e-9)
    e = np.linspace(0, float(np.exp(cells.log_loss.min())) * 0.999, points)
    sums = profile_of_e(fit.law, cells.n_params, cells.n_samples, cells.log_loss, fit.delta, e)
    rise = (sums - sums.min()) / spread**2 - chi2.ppf(0.95, 1) / 2
    inside = np.flatnonzero(rise <= 0)
    first, last = int(inside[0]), int(inside[-1])

    def crossing(i: int, j: int) -> float:
        return float(e[i] + (e[j] - e[i]) * rise[i] / (rise[i] - rise[j]))

    low = float(e[0]) if first == 0 else crossing(first - 1, first)
    return low, float(e[-1]) if last == points - 1 else crossing(last, last + 1)


def optimum_at(flops: float, fit: Parametric, macs: MacsLaw) -> dict[str, dict[str, float | None]]:
    """N_opt, D_opt and the predicted loss at a compute, each with its interval."""
    n, d = optimum(flops, fit.value, macs)
    n_draws, d_draws = optimum(flops, fit.draws, macs)
    return {
        "N": interval(np.asarray(n_draws), float(n)),
        "D": interval(np.asarray(d_draws), float(d)),
        "loss": interval(np.asarray(least_loss(flops, fit.draws, macs)), float(least_loss(flops, fit.value, macs))),
    }


def optimum_curves(flops: Array, fit: Parametric, macs: MacsLaw) -> dict[str, tuple[Array, Array, Array]]:
    """N_opt and D_opt at each of some computes (n,), with the two ends of their 95% intervals."""
    draws = {name: values[:, None] for name, values in fit.draws.items()}
    best, many = optimum(flops, fit.value, macs), optimum(flops[None], draws, macs)
    return {
        key: (np.asarray(value), *np.nanpercentile(np.asarray(spread), [2.5, 97.5], axis=0))
        for key, value, spread in zip("ND", best, many, strict=True)
    }
