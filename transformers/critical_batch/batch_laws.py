"""How many steps a batch size needs: the trade-off of McCandlish et al. 2018 fitted to tuned runs, and the laws around it.

Batches are in sequences or in tokens, whatever the caller counts; B_crit comes out in the same unit. S steps of batch B see
E = B S examples. To reach one loss, (S / S_min - 1) (E / E_min - 1) = 1 (eq. 2.11) and B_crit = E_min / S_min (eq. 2.12),
which is the same as S = S_min (1 + B_crit / B).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.special import stdtrit

from gradient_noise.noise_estimators import Interval

Array = NDArray[np.float64]
STEP_ERROR = 0.01  # relative: how well the steps to a loss are known at best
SPAN = 7.0  # powers of e beyond the batches at which B_crit is looked for
WIDEST = 12.0  # powers of e: how far S_min and B_crit may lie from what the runs span
DRAWS = 1000  # of the branches' luck, from which their interval comes


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


def levels(runs: Runs, log_shape: Array) -> tuple[Array, Array]:
    """The best log S_min and its sum of squared errors, for many curves log(1 + …) = `log_shape` (…, n) at once."""
    y = np.log(runs.steps) - log_shape
    counted = np.broadcast_to(runs.reached, y.shape)
    level = (y * counted).sum(-1) / counted.sum(-1)
    if runs.reached.all():
        return level, ((y - level[..., None]) ** 2).sum(-1)
    for _ in range(20):  # a run that was cut off counts while it lies above the curve, which moves the curve
        counted = runs.reached | (y > level[..., None])
        level = (y * counted).sum(-1) / counted.sum(-1)
    counted = runs.reached | (y > level[..., None])
    return level, ((y - level[..., None]) ** 2 * counted).sum(-1)


def fit_hyperbola(runs: Runs) -> Hyperbola:
    """S_min, B_crit and the free exponent with 95% profile intervals: ValueError as in `fit_steps`.

    An interval holds the values at which the least sum of squares of log S is not worse than an F-test allows. A bootstrap
    of three to ten points is too narrow, or has no width at all, and cannot say that B_crit has no upper end, as where S
    is proportional to 1 / B throughout. The fits are no better than STEP_ERROR, to which steps are known.
    """
    s_min, b_crit, _ = fit_steps(runs)
    n = int(runs.reached.sum())
    log_b = np.linspace(np.log(runs.batch.min()) - SPAN, np.log(runs.batch.max()) + SPAN, 800)
    gap = log_b[:, None] - np.log(runs.batch)  # (800, n)
    level, squares = levels(runs, np.log1p(np.exp(gap)))
    least = float(squares.min())
    allowed = least + allowance(least, n, 2)
    inside = squares <= allowed
    b_interval = Interval(b_crit, *ends(log_b, inside))
    width = np.sqrt(np.maximum(allowed - squares, 0) / n)
    s_interval = Interval(
        s_min, float(np.exp((level - width)[inside].min())), float(np.exp((level + width)[inside].max()))
    )
    exponent = Interval(math.nan, math.nan, math.nan)
    if len(set(runs.batch[runs.reached])) > 3:
        log_a = np.linspace(np.log(0.1), np.log(10.0), 61)
        free = levels(runs, np.log1p(np.exp(np.exp(log_a)[:, None, None] * gap[::4])))[1].min(1)  # over B_crit
        value = fit_steps(runs, free=True)[2]
        exponent = Interval(value, *ends(log_a, free <= free.min() + allowance(float(free.min()), n, 3)))
    return Hyperbola(s_interval, b_interval, exponent, math.sqrt(least / n))


def allowance(least: float, n: int, unknowns: int) -> float:
    """How far the sum of squares may exceed `least` in a 95% interval of one unknown; infinite without a spare run."""
    spare = n - unknowns
    if spare < 1:
        return math.inf
    return max(least, n * STEP_ERROR**2) / spare * float(stdtrit(spare, 0.975)) ** 2


def ends(grid: Array, inside: NDArray[np.bool_]) -> tuple[float, float]:
    """exp of the first and last point of `grid` that is inside; 0 and infinity where that is the grid's own end."""
    which = np.flatnonzero(inside)
    low = 0.0 if which[0] == 0 else float(np.exp(grid[which[0] - 1]))
    high = math.inf if which[-1] == len(grid) - 1 else float(np.exp(grid[which[-1] + 1]))
    return low, high


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
    """a and b of y = a x^b by least squares of the logarithms, whose squared errors may have `weights`.

    Kaplan et al. 2020, eq. 1.4: B_crit = B* L^(-1 / alpha_B).
    """
    root = None if weights is None else np.sqrt(np.asarray(weights, float))
    b, log_a = np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1, w=root)
    return float(np.exp(log_a)), float(b)


def learning_rate_law(batch: ArrayLike, rates: ArrayLike, groups: ArrayLike) -> tuple[float, Interval]:
    """B* and alpha of tuned rates eps(B) = eps_max / (1 + B* / B)^alpha, with an eps_max for each of the `groups` of runs.

    McCandlish et al. 2018, section 2, with alpha = 1, for SGD; appendix A.2 expects 0.5 to 1 for Adam. The interval of alpha
    is a 95% profile interval over B*, in which all runs of one batch size count as one. Where the batches stay on one
    side of B*, alpha is hardly determined, and the interval says so.
    """
    B, log_rate, which = np.asarray(batch, float), np.log(np.asarray(rates, float)), np.asarray(groups)
    log_b = np.linspace(np.log(B.min()) - 4, np.log(B.max()) + 4, 161)
    alpha = np.linspace(0, 3, 301)
    shape = -alpha[:, None, None] * np.log1p(np.exp(log_b[:, None] - np.log(B)))  # (alpha, B*, n)
    squares = np.zeros(shape.shape[:2])
    for group in np.unique(which):
        error = log_rate[which == group] - shape[..., which == group]
        squares += ((error - error.mean(-1, keepdims=True)) ** 2).sum(-1)
    best = squares.min(1)
    i, j = np.unravel_index(squares.argmin(), squares.shape)
    share = len(set(B)) / len(B)  # runs of one batch size share their trials
    inside = np.flatnonzero(share * best <= share * best.min() + allowance(share * float(best.min()), len(set(B)), 3))
    low, high = alpha[inside[0]], alpha[inside[-1]]
    at_end = inside[-1] == len(alpha) - 1
    return float(np.exp(log_b[j])), Interval(float(alpha[i]), float(low), math.inf if at_end else float(high))


# ---------------------------------------------------------------- branched training


def half_progress(sizes: Array, gains: Array) -> float:
    """The batch at which half of the most is gained, above the one that gained most: straight in log B between branches.

    Where the smallest gained most, it too had lost something by its size, B / B_noise, which is allowed for. Infinite where
    all larger batches gain more than half; nan where none gains anything.
    """
    best = int(gains.argmax())
    half = gains[best] / 2
    if half <= 0:
        return math.nan
    for i in range(best + 1, len(sizes)):
        if gains[i] <= half:
            share = (gains[i - 1] - half) / (gains[i - 1] - gains[i])
            found = float(np.exp(np.log(sizes[i - 1]) + share * np.log(sizes[i] / sizes[i - 1])))
            # 1 + found / B_noise = 2 (1 + smallest / B_noise)
            return max(found - 2 * sizes[0], sizes[0] / 2) if best == 0 else found
    return math.inf


def branched_noise(branches: list[tuple[int, list[float]]], start: float, seed: int = 0) -> Interval:
    """The batch at which branches from the loss `start` make half the progress of the best of them, with a 95% interval.

    The best step of a batch B gains 1 / (1 + B / B_noise) of what the best step along the true gradient would (McCandlish
    et al. 2018, section 2), and so half of it at B_noise. The interval is of redrawn losses: their scatter between orders of
    the data is pooled over the batches, leaving out those that lost what had been learnt. Infinite where the largest batch
    makes more than half the progress too. nan for fewer than three branches, two orders, or no progress.
    """
    sizes = np.array([size for size, _ in sorted(branches)], float)
    losses = np.array([found for _, found in sorted(branches)], float)
    if len(sizes) < 3 or losses.shape[1] < 2:
        return Interval(math.nan, math.nan, math.nan)
    gains = start - losses.mean(1)
    steady = losses[gains > 0]
    value = half_progress(sizes, gains)
    if math.isnan(value):
        return Interval(value, math.nan, math.nan)
    deviation = math.sqrt(float(steady.var(1, ddof=1).mean()) / losses.shape[1])
    random = np.random.default_rng(seed)
    drawn = gains + deviation * random.standard_t(len(steady) * (losses.shape[1] - 1), size=(DRAWS, len(gains)))
    found = np.array([half_progress(sizes, row) for row in drawn])
    low, high = np.quantile(np.where(np.isnan(found), math.inf, found), (0.025, 0.975), method="nearest")
    return Interval(value, float(low), float(high))
