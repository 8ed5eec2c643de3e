"""Fits of a form to a table: from starts that need no guess, its bootstrap, and its optimum at a fixed compute."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from law_forms.forms import FORMS, Form
from law_forms.huber_solver import Array, minimise

EXPONENTS = (0.2, 0.5, 1.0, 1.6)  # that the search starts from, in every pair


@dataclass(frozen=True)
class Law:
    """A fitted form: `theta` (P,) in sizes centred at `centre` = (log N0, log D0)."""

    form: Form
    theta: Array
    centre: Array

    def sizes(self, n_params: Array, n_samples: Array) -> Array:
        """N and D (K,) as the form's x (K, 3)."""
        return sizes_about(self.centre, n_params, n_samples)

    def log_loss(self, n_params: Array, n_samples: Array, theta: Array | None = None) -> Array:
        """log L at N, D (K,): (K,), or of many parameter rows `theta` (B, P): (B, K)."""
        x = self.sizes(np.atleast_1d(n_params), np.atleast_1d(n_samples))
        return self.form.law(self.theta[None], x)[0][0] if theta is None else self.form.law(theta, x)[0]


def sizes_about(centre: Array, n_params: Array, n_samples: Array) -> Array:
    """(n, d, log D) of each cell, (K, 3): n and d measured from `centre`, as the forms take them."""
    log_n, log_d = np.log(n_params), np.log(n_samples)
    return np.stack([log_n - centre[0], log_d - centre[1], log_d], 1)


def additive_starts(x: Array, y: Array) -> Array:
    """Starts (S, 5) of the additive law: on a grid of exponents, E, A and B by non-negative least squares.

    x (K, 3), y (K,) log losses. Relative errors are what is squared (variable projection).
    """
    loss = np.exp(y)
    starts = []
    for exponents in np.stack(np.meshgrid(EXPONENTS, EXPONENTS), 2).reshape(-1, 2):
        design = np.concatenate([np.ones((len(y), 1)), np.exp(-exponents * x[:, :2])], 1)
        amounts, _ = nnls(design / loss[:, None], np.ones_like(y))
        starts.append([*np.log(np.maximum(amounts, 1e-3 * loss.min())), *exponents])
    return np.array(starts)


def fit_form(form: Form, n_params: Array, n_samples: Array, log_loss: Array, delta: float) -> Law:
    """The least Huber_delta sum over the cells (K,), from every start."""
    centre = np.array([np.log(n_params).mean(), np.log(n_samples).mean()])
    x = sizes_about(centre, n_params, n_samples)
    return Law(form, fit_folds(form, x, log_loss, delta, np.ones((1, len(log_loss))))[0], centre)


def fit_folds(form: Form, x: Array, y: Array, delta: float, kept: Array) -> Array:
    """Fits (F, P) to x (K, 3), y (K,) with some cells left out each time: `kept` (F, K) is 1 for those that count."""
    starts = form.widen(additive_starts(x, y))
    folds, n = np.repeat(np.arange(len(kept)), len(starts)), len(starts)

    def search(theta: Array, rows: Array, iterations: int, tolerance: float) -> tuple[Array, Array]:
        data = np.broadcast_to(y, (len(rows), len(y)))
        return minimise(form.law, x, data, theta, delta, iterations, kept[rows], form.bounds, tolerance)

    theta, value = search(np.tile(starts, (len(kept), 1)), folds, 60, 1e-9)
    best = _lowest(value.reshape(-1, n))[:, :3] + n * np.arange(len(kept))[:, None]
    theta, value = search(theta[best.ravel()], folds[best.ravel()], 1000, 1e-14)  # a small delta is slow
    place = _lowest(value.reshape(best.shape))[:, 0]
    return theta.reshape(len(kept), best.shape[1], -1)[np.arange(len(kept)), place]


def _lowest(value: Array) -> Array:
    """Places of the sums (F, S) in ascending order; of those that are alike the first, whatever their last digits say."""
    return np.argsort(np.round(np.log(np.maximum(value, 1e-300)), 4), axis=1, kind="stable")


def bootstrap_form(law: Law, n_params: Array, n_samples: Array, noise: Array, delta: float) -> Array:
    """Fits (draws, P) of the fitted curve plus each row of `noise` (draws, K), each started at the fit."""
    data = law.log_loss(n_params, n_samples) + noise
    start = np.repeat(law.theta[None], len(noise), 0)
    x = law.sizes(n_params, n_samples)
    return minimise(law.form.law, x, data, start, delta, bounds=law.form.bounds)[0]


def profile_of_e(law: Law, n_params: Array, n_samples: Array, log_loss: Array, delta: float, e: Array) -> Array:
    """The least Huber sum (len(e),) at each fixed irreducible loss of `e`, ascending; the form's first parameter is log E."""
    x, form = law.sizes(n_params, n_samples), law.form
    near = int(np.argmin(np.abs(e - np.exp(law.theta[0]))))
    values = np.empty(len(e))

    def at(fixed: float, start: Array) -> tuple[Array, float]:
        log_e = np.log(max(fixed, 1e-12))

        def rest(theta: Array, sizes: Array) -> tuple[Array, Array]:
            value, by = form.law(np.insert(theta, 0, log_e, axis=1), sizes)
            return value, by[:, :, 1:]

        def bounds(theta: Array, floor: Array) -> Array:
            return form.bounds(np.insert(theta, 0, log_e, axis=1), floor - np.inf)[:, 1:]

        theta, value = minimise(rest, x, log_loss[None], start[None], delta, 400, bounds=bounds)
        return theta[0], float(value[0])

    for places in (range(near, len(e)), range(near - 1, -1, -1)):  # from the fit outwards, each from its neighbour
        start = law.theta[1:]
        for i in places:
            start, values[i] = at(float(e[i]), start)
    return values


# ---------------------------------------------------------------- the optimum


def numerical_optimum(
    log_loss: Callable[[Array], Array], low: float, high: float, points: int = 200
) -> tuple[Array, Array]:
    """Where `log_loss` of log N is least, and how low: log N -> (B, len(log N)) over a grid, refined by a parabola.

    The ends of the range count as no minimum: nan there.
    """
    grid = np.linspace(low, high, points)
    values = log_loss(grid)
    best = values.argmin(1)
    inside = (best > 0) & (best < points - 1)
    middle = np.clip(best, 1, points - 2)
    rows = np.arange(len(values))
    left, mid, right = (values[rows, middle + shift] for shift in (-1, 0, 1))
    bend = left - 2 * mid + right
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(bend > 0, (left - right) / (2 * bend), 0.0)
    place = grid[middle] + shift * (grid[1] - grid[0])
    least = mid - bend * shift**2 / 2
    return np.where(inside, place, np.nan), np.where(inside, least, np.nan)


def additive_form() -> Form:
    """Hoffmann et al.'s law."""
    return FORMS["additive"]
