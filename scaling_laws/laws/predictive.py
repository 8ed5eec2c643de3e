"""What the loss of a cell that nobody has trained will be: a distribution, not a curve.

Four things make it wide: the seeds of the new runs, what the fit does not know of its parameters, how far the law misses
nets of a size, and which form is right. A fifth, the choice of the test images, is kept apart: the runs of a table share
their images, so a new run on the same images is predicted without it.
"""

import math
from dataclasses import dataclass

import numpy as np

from law_forms.form_choice import Choice
from law_forms.form_fits import Law, bootstrap_form, fit_form
from law_forms.forms import FORMS
from law_forms.huber_solver import Array
from laws.parametric import cell_draws
from laws.run_table import Cells

KEPT_DRAWS = 200
REPEATS = 50  # random errors added to each draw of the parameters


@dataclass(frozen=True)
class WeightedForm:
    """One form's fit, its weight, bootstrap rows of its parameters (draws, P), and of each the deviation of shared misses."""

    law: Law
    weight: float
    samples: Array
    tau: Array


@dataclass(frozen=True)
class ErrorLine:
    """Error rates from losses: log error = intercept + slope log loss, give or take `scatter`."""

    intercept: float
    slope: float
    scatter: float


@dataclass(frozen=True)
class Predictive:
    """The forms that count, the chosen one first; `noise` is the deviation of one run's log loss over seeds."""

    forms: list[WeightedForm]
    noise: float
    errors: ErrorLine | None

    @property
    def law(self) -> Law:
        """The chosen form's fit: what a prediction's value comes from."""
        return self.forms[0].law

    def loss(self, n_params: Array, n_samples: Array) -> Array:
        """The loss (K,) at N, D (K,) by the chosen form."""
        return np.exp(self.law.log_loss(n_params, n_samples))

    def draws(self, n_params: float, n_samples: float, seeds: int, seed: int = 0) -> tuple[Array, Array]:
        """Log losses of the mean of `seeds` new runs, and how much each draw weighs."""
        rng = np.random.default_rng(seed)
        values, weights = [], []
        for form in self.forms:
            curve = form.law.log_loss(np.array([n_params]), np.array([n_samples]), form.samples)
            shape = (len(form.samples), REPEATS)
            own = form.tau[:, None] * rng.standard_normal(shape)
            own += self.noise / math.sqrt(seeds) * rng.standard_normal(shape)
            values.append((curve + own).ravel())
            weights.append(np.full(curve.size * REPEATS, form.weight / (curve.size * REPEATS)))
        return np.concatenate(values), np.concatenate(weights)


def weighted_percentiles(values: Array, weights: Array, points: tuple[float, ...] = (2.5, 97.5)) -> list[float]:
    """Percentiles of values (n,) that weigh differently."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    places = np.searchsorted(reached / reached[-1], np.array(points) / 100)
    return [float(values[order[min(place, len(order) - 1)]]) for place in places]


def make_predictive(cells: Cells, choice: Choice, delta: float, seed: int = 0) -> Predictive:
    """Fits of the forms that count, with Huber's `delta` (the noise of a cell's mean)."""
    weights = choice.weights(len(np.unique(cells.n_params)))
    names = sorted(weights, key=lambda name: (name != choice.name, -weights[name]))
    sizes = cells.n_params, cells.n_samples
    forms, sigmas = [], []
    for name in names:
        law = fit_form(FORMS[name], *sizes, cells.log_loss, delta)
        residual = cells.log_loss - law.log_loss(*sizes)
        noise, tau, sigma = cell_draws(cells, law, residual, KEPT_DRAWS, np.random.default_rng(seed))
        forms.append(WeightedForm(law, weights[name], bootstrap_form(law, *sizes, noise, delta), tau))
        sigmas.append(sigma)
    one_run = cells.noise if len(cells.residuals) else float(np.sqrt(np.mean(sigmas[0] ** 2)))
    return Predictive(forms, one_run, _error_line(cells))


def _error_line(cells: Cells) -> ErrorLine | None:
    known = np.isfinite(cells.log_error)
    if known.sum() < 6:
        return None
    x, y = cells.log_loss[known], cells.log_error[known]
    slope, intercept = np.polyfit(x, y, 1)
    scatter = math.sqrt(float(np.sum((y - intercept - slope * x) ** 2)) / (known.sum() - 2))
    return ErrorLine(float(intercept), float(slope), scatter)
