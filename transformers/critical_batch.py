"""How many steps a batch size needs: the trade-off of McCandlish et al. 2018 fitted to tuned runs, and the laws around it.

Batches are in sequences or in tokens, whatever the caller counts; B_crit comes out in the same unit. S steps of batch B see
E = B S examples. To reach one loss, (S / S_min - 1) (E / E_min - 1) = 1 (eq. 2.11) and B_crit = E_min / S_min (eq. 2.12),
which is the same as S = S_min (1 + B_crit / B).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from gradient_noise import Interval

Array = NDArray[np.float64]
DRAWS = 400  # of a bootstrap
WIDEST = 12.0  # powers of e: how far S_min and B_crit may lie from what the runs span


def steps_needed(batch: ArrayLike, s_min: float, b_crit: float, exponent: float = 1.0) -> Array:
    """S = S_min (1 + (B_crit / B)^exponent); the theory's exponent is 1 (eq. 2.11)."""
    return s_min * (1 + (b_crit / np.asarray(batch, float)) ** exponent)


@dataclass(frozen=True)
class Runs:
    """Tuned runs to one loss: `steps` (n,) of `batch` (n,) that each needed, or made without having `reached` the loss."""

    batch: Array
    steps: Array
    reached: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.batch)


@dataclass(frozen=True)
class Hyperbola:
    """The fit to one loss. `exponent` is of a fit in which it is free, `misfit` the rms of log S around the hyperbola."""

    s_min: Interval
    b_crit: Interval
    exponent: Interval
    misfit: float


def fit_steps(runs: Runs, free: bool = False) -> tuple[float, float, float]:
    """S_min, B_crit and the exponent (1, or `free`) that minimise the squared errors of log S (appendix A.3).

    A run that was cut off is an error only as far as the fit says that it should have got there. ValueError where fewer
    runs reached the loss than there are unknowns.
    """
    if runs.reached.sum() < 2 + free:
        raise ValueError(f"{runs.reached.sum()} runs reached the loss: too few for {2 + free} unknowns")
    log_steps = np.log(runs.steps)
    first = runs.batch[runs.reached].argmin()
    s0, b0 = np.log(runs.steps[runs.reached].min()), np.log(runs.batch[runs.reached][first])
    b0 += max(np.log(runs.steps[runs.reached][first]) - s0, 0.1)

    def errors(x: Array) -> Array:
        exponent = np.exp(x[2]) if free else 1.0
        error = log_steps - np.log(steps_needed(runs.batch, np.exp(x[0]), np.exp(x[1]), exponent))
        return np.where(runs.reached, error, np.maximum(error, 0.0))

    start = [s0, b0, 0.0][: 2 + free]
    bounds = (np.array(start) - WIDEST, np.array(start) + WIDEST)
    if free:
        bounds[0][2], bounds[1][2] = np.log(0.1), np.log(10.0)
    found = np.exp(least_squares(errors, start, bounds=bounds).x)
    return float(found[0]), float(found[1]), float(found[2]) if free else 1.0


def fit_hyperbola(runs: Runs, seed: int = 0, draws: int = DRAWS) -> Hyperbola:
    """S_min and B_crit with 95% intervals from a bootstrap of the residuals, which need no second seed.

    Each draw adds to the fitted log S of every run that arrived the residual of a random one, blown up by
    sqrt(n / (n - 2)) for the two numbers that were fitted; what was cut off stays cut off. ValueError as in `fit_steps`.
    """
    s_min, b_crit, _ = fit_steps(runs)
    enough = runs.reached.sum() > 3
    exponent = fit_steps(runs, free=True)[2] if enough else np.nan
    model = np.log(steps_needed(runs.batch, s_min, b_crit))
    residuals = (np.log(runs.steps) - model)[runs.reached]
    n, random = len(residuals), np.random.default_rng(seed)
    blown = (residuals - residuals.mean()) * np.sqrt(n / max(n - 2, 1))
    found = []
    for _ in range(draws):
        steps = np.where(runs.reached, np.exp(model + random.choice(blown, len(runs))), runs.steps)
        drawn = Runs(runs.batch, steps, runs.reached)
        found.append((*fit_steps(drawn)[:2], fit_steps(drawn, free=True)[2] if enough else np.nan))
    low, high = np.quantile(np.array(found), (0.025, 0.975), axis=0)
    values = (s_min, b_crit, exponent)
    first, second, third = (Interval(float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True))
    return Hyperbola(first, second, third, float(np.sqrt((residuals**2).mean())))


def lowest(x: ArrayLike, y: ArrayLike) -> tuple[float, float, bool]:
    """The minimum of the parabola through the least point and its two neighbours; whether it lies inside.

    `x` must ascend. At an edge: the point itself, and False. A neighbour that is infinite counts as just as bad as the other.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    i = int(np.argmin(y))
    if i in (0, len(x) - 1):
        return float(x[i]), float(y[i]), False
    left, right = y[i - 1] - y[i], y[i + 1] - y[i]
    if not np.isfinite(left) or not np.isfinite(right):
        return float(x[i]), float(y[i]), True
    a, b = x[i] - x[i - 1], x[i + 1] - x[i]
    curvature = (left / a + right / b) / (a + b)
    if curvature <= 0:  # three equal points
        return float(x[i]), float(y[i]), True
    slope = right / b - curvature * b
    return float(x[i] - slope / (2 * curvature)), float(y[i] - slope**2 / (4 * curvature)), True


def power_law(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """a and b of y = a x^b by least squares of the logarithms. Kaplan et al. 2020, eq. 1.4: B_crit = B* L^(-1 / alpha_B)."""
    log_x, log_y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    w = np.ones_like(log_x) if weights is None else np.asarray(weights, float)
    b, log_a = np.polyfit(log_x, log_y, 1, w=np.sqrt(w))
    return float(np.exp(log_a)), float(b)


def learning_rate_law(batch: ArrayLike, rates: ArrayLike) -> tuple[float, float, float]:
    """eps_max, B* and alpha of the tuned rate eps(B) = eps_max / (1 + B* / B)^alpha, by least squares of log eps.

    McCandlish et al. 2018, eq. 2.7 with alpha = 1, for SGD; appendix A.2 expects 0.5 to 1 for Adam. Where the batches stay
    on one side of B*, only eps_max / B*^alpha and alpha, or only eps_max, are well determined.
    """
    B, log_rate = np.asarray(batch, float), np.log(np.asarray(rates, float))
    best: tuple[float, Array] | None = None
    for start in np.log(B.min()) + np.linspace(-1, 1, 3) * np.ptp(np.log(B)):
        for alpha in (0.3, 0.6, 1.0):

            def errors(x: Array) -> Array:
                return x[0] - np.exp(x[2]) * np.log1p(np.exp(x[1]) / B) - log_rate

            guess = [log_rate.max(), start, np.log(alpha)]
            bounds = (
                [log_rate.min() - 2, np.log(B.min()) - 5, np.log(0.01)],
                [log_rate.max() + 10, np.log(B.max()) + 7, np.log(3.0)],
            )
            found = least_squares(errors, np.clip(guess, *bounds), bounds=bounds)
            if best is None or found.cost < best[0]:
                best = (float(found.cost), found.x)
    assert best is not None
    eps, b, a = np.exp(best[1])
    return float(eps), float(b), float(a)
