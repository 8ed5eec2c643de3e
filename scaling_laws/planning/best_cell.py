"""The best cell of a budget by a kept law, and all that is predicted of it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import BadInput
from law_forms.huber_solver import Array
from laws.predictive import WeightedForm, weighted_percentiles
from planning.kept_law import IMAGES, IMAGES_AT_1, IMAGES_EXPONENT, KeptLaw

FEWEST_SAMPLES = 4  # the smallest batch
LEAST_FLOPS, MOST_FLOPS, FLOPS_STEPS = 1e-3, 1e6, 160  # of a search for the compute of a loss, in units of the table's


@dataclass(frozen=True)
class Sized:
    """A net and its images: `width` 0 where the law is not of this repository's net."""

    width: int
    n_params: int
    macs: float
    n_samples: int

    @property
    def flops(self) -> float:
        """6 x multiply-adds x images."""
        return 6 * self.macs * self.n_samples


class Budget:
    """Every size that can be trained at one compute, and the chosen form's log loss of each."""

    def __init__(self, law: KeptLaw, flops: float):
        self.law, self.flops = law, flops
        self.widths, self.n, self.macs = law.sizes()
        self.d = flops / (6 * self.macs)
        self.log_loss = law.predictive.law.log_loss(self.n, self.d)
        self.log_loss = np.where(self.d >= FEWEST_SAMPLES, self.log_loss, np.inf)
        self.best = int(np.argmin(self.log_loss))

    def check(self) -> None:
        """BadInput where the least loss is not between the smallest and the largest net."""
        if self.best == 0 or not math.isfinite(self.log_loss[self.best]):
            raise BadInput(
                f"{self.flops:.3g} FLOP are too few: the best size would be below that of the smallest net, "
                f"{self.n[0]:,.0f} parameters"
            )
        if self.best == len(self.n) - 1:
            raise BadInput(f"the law has no optimum at {self.flops:.3g} FLOP: the larger the net the better")

    def cell(self) -> Sized:
        """The size of least loss, and as many images as the compute allows it."""
        i = self.best
        return Sized(int(self.widths[i]), int(self.n[i]), float(self.macs[i]), round(float(self.d[i])))

    def region(self, within: float) -> dict[str, Any]:
        """The smallest and the largest net within a share of the least loss, with the images that each then sees."""
        inside = np.flatnonzero(self.log_loss <= self.log_loss[self.best] + math.log1p(within))
        first, last = int(inside[0]), int(inside[-1])
        ends = {"n_params": self.n, "n_samples": np.round(self.d), "width": self.widths}
        found = {name: [float(values[first]), float(values[last])] for name, values in ends.items()}
        return {"within": within, **found, "open": bool(last == len(self.n) - 1)}

    def elsewhere(self, factor: float) -> dict[str, float] | None:
        """What a net `factor` times the best one's parameters costs at this compute; None where there is no such net.

        `loss_increase` is a share; `compute` the share of the budget with which the best net reaches the same loss.
        """
        at = math.log(self.n[self.best] * factor)
        known = np.isfinite(self.log_loss)
        if not math.log(self.n[known][0]) <= at <= math.log(self.n[known][-1]):
            return None
        log_loss = float(np.interp(at, np.log(self.n[known]), self.log_loss[known]))
        return {
            "loss_increase": math.expm1(log_loss - self.log_loss[self.best]),
            "compute": compute_for(self.law, math.exp(log_loss)) / self.flops,
        }

    def optimum_interval(self) -> dict[str, Any]:
        """The sizes and images that draws of the parameters, of all forms that count, find best: 95% intervals."""
        places, weights = [], []
        for form in self.law.predictive.forms:
            best = np.where(self.d >= FEWEST_SAMPLES, form.law.log_loss(self.n, self.d, form.samples), np.inf).argmin(1)
            places.append(best)
            weights.append(np.full(len(best), form.weight / len(best)))
        rows, weight = np.concatenate(places), np.concatenate(weights)
        found = {}
        for name, values in (("n_params", self.n), ("n_samples", self.d), ("width", self.widths.astype(float))):
            low, high = weighted_percentiles(values[rows], weight)
            found[name] = {"value": float(values[self.best]), "lo95": low, "hi95": high}
        return found


# ---------------------------------------------------------------- the compute of a loss


def compute_grid(law: KeptLaw) -> Array:
    """FLOP from far below to far above the table's."""
    low, high = law.flops
    return np.geomspace(low * LEAST_FLOPS, high * MOST_FLOPS, FLOPS_STEPS)


def least_log_losses(law: KeptLaw, form: WeightedForm, theta: Array, flops: Array) -> Array:
    """The least log loss over all sizes, (B, C), by rows of a form's parameters (B, P) at each compute (C,)."""
    _, n, macs = law.sizes()
    step = max(1, len(n) // 256)
    n, macs = n[::step], macs[::step]
    found = np.empty((len(theta), len(flops)))
    for i, compute in enumerate(flops):
        d = compute / (6 * macs)
        some = d >= FEWEST_SAMPLES
        if not some.any():
            found[:, i] = np.inf
            continue
        found[:, i] = form.law.log_loss(n[some], d[some], theta).min(1)
    return found


def compute_for(law: KeptLaw, loss: float) -> float:
    """The least compute whose best net reaches `loss`; BadInput where none does."""
    flops = compute_grid(law)
    form = law.predictive.forms[0]
    return float(np.exp(_crossing(least_log_losses(law, form, form.law.theta[None], flops)[0], flops, loss)))


def _crossing(log_loss: Array, flops: Array, loss: float) -> float:
    """Log compute at which a falling curve reaches `loss`, by interpolation."""
    below = np.flatnonzero(log_loss <= math.log(loss))
    if not len(below):
        floor = math.exp(log_loss[np.isfinite(log_loss)].min())
        raise BadInput(f"a loss of {loss:g} is out of reach: by this law no compute goes below {floor:.4f}")
    i = int(below[0])
    if i == 0 or not math.isfinite(log_loss[i - 1]):
        raise BadInput(f"a loss of {loss:g} needs no training worth a plan: the smallest net reaches it at once")
    share = (log_loss[i - 1] - math.log(loss)) / (log_loss[i - 1] - log_loss[i])
    return math.log(flops[i - 1]) + share * math.log(flops[i] / flops[i - 1])


def compute_interval(law: KeptLaw, loss: float) -> dict[str, Any]:
    """The compute that `loss` takes, with the 95% interval of the draws of all forms that count; None where it is open."""
    flops = compute_grid(law)
    places, weights = [], []
    for form in law.predictive.forms:
        for row in least_log_losses(law, form, form.samples, flops):
            try:
                places.append(_crossing(row, flops, loss))
            except BadInput:
                places.append(math.inf)
            weights.append(form.weight / len(form.samples))
    low, high = (math.exp(value) for value in weighted_percentiles(np.array(places), np.array(weights)))
    return {"value": compute_for(law, loss), "lo95": low, "hi95": high if math.isfinite(high) else None}


# ---------------------------------------------------------------- what is predicted of a cell


def predicted(law: KeptLaw, cell: Sized, seeds: int) -> dict[str, Any]:
    """Loss and error rate of the mean of `seeds` runs of a cell, each with its 95% prediction interval.

    The mean is geometric. The intervals hold for the table's own test images; with `beyond_these_images` for all images
    like them, where the draw of the images is known to matter.
    """
    draws, weights = law.predictive.draws(cell.n_params, cell.n_samples, seeds)
    log_loss = float(law.predictive.law.log_loss(np.array([cell.n_params]), np.array([cell.n_samples]))[0])
    rng = np.random.default_rng(1)
    images = IMAGES_AT_1 * math.exp(-IMAGES_EXPONENT * log_loss) if law.our_net and law.dataset == "mnist" else None

    def span(value: float, values: Array, more: float | None) -> dict[str, Any]:
        low, high = weighted_percentiles(values, weights)
        found: dict[str, Any] = {"value": math.exp(value), "lo95": math.exp(low), "hi95": math.exp(high)}
        if more:
            low, high = weighted_percentiles(values + more * rng.standard_normal(len(values)), weights)
            found["beyond_these_images"] = [math.exp(low), math.exp(high)]
        return found

    found: dict[str, Any] = {"loss": span(log_loss, draws, images)}
    low, high = (math.log(found["loss"][end]) for end in ("lo95", "hi95"))
    found["half_width"] = (high - low) / 2
    found["half_width_of_seeds_alone"] = 1.96 * law.predictive.noise / math.sqrt(seeds)
    if errors := law.predictive.errors:
        value = errors.intercept + errors.slope * log_loss
        values = errors.intercept + errors.slope * draws + errors.scatter * rng.standard_normal(len(draws))
        rate = min(math.exp(value), 1.0)
        binomial = math.sqrt((1 - rate) / (rate * IMAGES)) if images else None
        found["error_rate"] = span(value, values, binomial)
    return found


def extrapolation(law: KeptLaw, cell: Sized) -> dict[str, float]:
    """By what factor the cell lies outside the table's compute, sizes and samples: above 1 beyond, below 1 short of them."""
    found = {}
    for name, value in (("flops", cell.flops), ("n_params", cell.n_params), ("n_samples", cell.n_samples)):
        low, high = getattr(law, name)
        found[name] = value / high if value > high else value / low if value < low else 1.0
    return {name: float(factor) for name, factor in found.items()}
