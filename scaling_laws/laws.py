"""The laws, as pure functions of a table of runs: fits, optima in closed form, and bootstrap intervals.

Every fit is in log loss. Noise is that of the seeds, pooled over all cells; a cell is one (N, D), N parameters and
D samples, and its loss the geometric mean over its seeds. Logarithms are natural throughout.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.stats import f as f_distribution

from common.errors import BadInput
from powersum import Array, bootstrap_power_sum, fit_power_sum, predict_log

Number = float | Array
DRAWS = 1000  # bootstrap resamples
ENVELOPE_DRAWS = 200  # of approach 1, which is slow
WEBB = np.sqrt([0.5, 1.0, 1.5])[[0, 1, 2, 0, 1, 2]] * [1, 1, 1, -1, -1, -1]  # mean 0, variance 1


# ---------------------------------------------------------------- runs and cells


@dataclass(frozen=True)
class Runs:
    """One entry per run: N, D, loss in nats, C in FLOP, and the error rate (nan where unknown)."""

    n_params: Array
    n_samples: Array
    loss: Array
    flops: Array
    error: Array


@dataclass(frozen=True)
class Cells:
    """One entry per (N, D), and what is known of the noise of its mean.

    `residuals` are the deviations of log losses from their cell's mean, all cells together, each stretched by
    sqrt(S / (S - 1)), S the cell's seeds: without that the noise of 3 seeds would come out 18% too small.
    """

    n_params: Array
    n_samples: Array
    flops: Array
    log_loss: Array
    log_error: Array
    seeds: NDArray[np.int64]
    residuals: Array
    error_residuals: Array

    @property
    def noise(self) -> float:
        """Standard deviation over seeds of the log loss of a run, pooled over cells (nan with one seed per cell)."""
        return float(np.sqrt(np.mean(self.residuals**2))) if len(self.residuals) else math.nan

    def without(self, mask: NDArray[np.bool_]) -> "Cells":
        """The other cells; what is known of the noise stays."""
        per_cell = ("n_params", "n_samples", "flops", "log_loss", "log_error", "seeds")
        return replace(self, **{name: getattr(self, name)[~mask] for name in per_cell})


def make_cells(runs: Runs, chance_loss: float | None = None) -> tuple[Cells, int]:
    """Cells in order of (N, D), and how many were left out as near chance.

    The rule was fixed before the sweep: a cell whose geometric mean loss is above half of `chance_loss` (log 10 for
    ten digits) enters no fit, nor does its noise; such nets have not begun to learn, and no power law describes them.
    """
    keys = np.stack([runs.n_params, runs.n_samples], 1)
    unique, index = np.unique(keys, axis=0, return_inverse=True)
    index = index.ravel()
    rows = [np.flatnonzero(index == i) for i in range(len(unique))]
    logs = np.log(runs.loss)
    if chance_loss is not None:
        rows = [row for row in rows if logs[row].mean() <= math.log(chance_loss / 2)]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_error = np.log(runs.error)

    def stretched(values: Array) -> Array:
        parts = [
            (values[row] - values[row].mean()) * math.sqrt(len(row) / (len(row) - 1)) for row in rows if len(row) > 1
        ]
        stacked = np.concatenate(parts) if parts else np.empty(0)
        return stacked[np.isfinite(stacked)]

    with np.errstate(invalid="ignore"):
        error_residuals = stretched(log_error)
    cells = Cells(
        np.array([runs.n_params[row[0]] for row in rows]),
        np.array([runs.n_samples[row[0]] for row in rows]),
        np.array([runs.flops[row].mean() for row in rows]),
        np.array([logs[row].mean() for row in rows]),
        np.array([log_error[row].mean() for row in rows]),
        np.array([len(row) for row in rows], dtype=np.int64),
        stretched(logs),
        error_residuals,
    )
    return cells, len(unique) - len(rows)


def noise_draws(residuals: Array, seeds: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Array:
    """Noise of the cell means, (draws, cells): the mean of S residuals drawn with replacement from the pool."""
    noise = np.zeros((draws, len(seeds)))
    if len(residuals) == 0:
        return noise
    for s in sorted(set(seeds.tolist())):
        cells = np.flatnonzero(seeds == s)
        noise[:, cells] = rng.choice(residuals, (draws, len(cells), s)).mean(2)
    return noise


# ---------------------------------------------------------------- Hoffmann et al.: L = E + A / N^alpha + B / D^beta


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


# ---------------------------------------------------------------- IsoFLOP lines (approach 2) and the frontier (approach 1)


@dataclass(frozen=True)
class IsoFlop:
    """One budget: its cells in order of N, and the parabola's vertex with its bootstrap draws."""

    flops: float
    rows: NDArray[np.int64]  # indices into the cells
    window: NDArray[np.int64]  # those that the parabola is fitted to
    coefficients: Array  # of log loss in log N, highest power first
    log_n: float
    log_d: float
    log_loss: float
    draws: Array  # (draws, 3): log N, log D, log loss at the vertex


def isoflop_groups(cells: Cells, tolerance: float = 0.02, smallest: int = 5) -> list[NDArray[np.int64]]:
    """Cells of equal compute, to within `tolerance`, at least `smallest` sizes each, in order of compute and of N."""
    order = np.argsort(cells.flops)
    splits = np.flatnonzero(np.diff(np.log(cells.flops[order])) > tolerance) + 1
    groups = []
    for group in np.split(order, splits):
        group = group[np.argsort(cells.n_params[group])]
        if len(np.unique(cells.n_params[group])) >= smallest:
            groups.append(group)
    return groups


def fit_isoflop(cells: Cells, rows: NDArray[np.int64], noise: Array) -> IsoFlop | str:
    """The parabola through one budget's cells, or why there is none (in a few words).

    Approach 2 of Hoffmann et al. 2022. The window is a factor 4 of N to either side of the best cell: wider ones bend
    the vertex (Czech 2026). The best cell must not be the smallest or the largest, nor the vertex outside the window.
    The bootstrap starts from a cubic through all cells of the budget, adds `noise` (draws, all cells), and does the
    whole of this again, the choice of the window included; a draw that fails a rule is nan.
    """
    x, y = np.log(cells.n_params[rows]), cells.log_loss[rows]
    flops = float(np.exp(np.log(cells.flops[rows]).mean()))
    best = int(np.argmin(y))
    window = _window(x, best)
    if best in (0, len(rows) - 1):
        return "the best size is at the edge"
    if len(window) < 4:
        return "fewer than 4 sizes within a factor 4 of the best"
    vertices, coefficients = parabola_vertices(x[window], y[None, window])
    if not np.isfinite(vertices[0, 0]):
        return "its parabola has no minimum within the sizes"
    log_m = np.log(cells.flops[rows] / 6 / cells.n_samples[rows])  # multiply-adds, exact at the cells

    def with_samples(vertex: Array) -> Array:
        log_d = math.log(flops / 6) - np.interp(vertex[:, 0], x, log_m)
        return np.stack([vertex[:, 0], log_d, vertex[:, 1]], 1)

    smooth = np.polyval(np.polyfit(x - x.mean(), y, 3), x - x.mean()) if len(rows) > 4 else y
    data = smooth + noise[:, rows]
    draws = np.full((len(data), 2), np.nan)
    for again in range(1, len(rows) - 1):
        chosen = np.flatnonzero(data.argmin(1) == again)
        near = _window(x, again)
        if len(chosen) and len(near) >= 4:
            draws[chosen] = parabola_vertices(x[near], data[chosen][:, near])[0]
    log_n, log_d, log_loss = with_samples(vertices)[0]
    return IsoFlop(flops, rows, window, coefficients[0], log_n, log_d, log_loss, with_samples(draws))


def _window(x: Array, best: int) -> NDArray[np.int64]:
    return np.flatnonzero(np.abs(x - x[best]) <= math.log(4) + 1e-9)


def parabola_vertices(x: Array, y: Array) -> tuple[Array, Array]:
    """Vertices (B, 2) of the least-squares parabolas through x (K,), y (B, K), and their coefficients (B, 3).

    A vertex is nan where the parabola opens downwards or its minimum is outside x.
    """
    centre = x.mean()
    c = np.linalg.lstsq(np.vander(x - centre, 3), y.T, rcond=None)[0].T  # (B, 3), highest power first
    with np.errstate(divide="ignore", invalid="ignore"):
        place = -c[:, 1] / (2 * c[:, 0])
    inside = (c[:, 0] > 0) & (place > x.min() - centre) & (place < x.max() - centre)
    place = np.where(inside, place, np.nan)
    height = c[:, 0] * place**2 + c[:, 1] * place + c[:, 2]
    shifted = np.stack([c[:, 0], c[:, 1] - 2 * c[:, 0] * centre, c[:, 2] - c[:, 1] * centre + c[:, 0] * centre**2], 1)
    return np.stack([place + centre, height], 1), shifted


def weighted_line(x: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """Intercepts and slopes (B,) of weighted least squares: x (K,), y (B, K), weight (K,). A nan in y is left out."""
    w = np.where(np.isfinite(y), weight, 0.0)
    y = np.where(np.isfinite(y), y, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = w / w.sum(1, keepdims=True)
        mean_x, mean_y = (w * x).sum(1), (w * y).sum(1)
        away = x - mean_x[:, None]
        slope = (w * away * (y - mean_y[:, None])).sum(1) / (w * away**2).sum(1)
    slope = np.where((w > 0).sum(1) >= 2, slope, np.nan)
    return mean_y - slope * mean_x, slope


def optimum_line(lines: list[IsoFlop], column: int) -> tuple[float, float, Array, Array]:
    """Log intercept and exponent of N_opt (column 0) or D_opt (1) against C through the vertices, and their draws.

    Each vertex weighs as the inverse of its bootstrap variance, floored at a tenth of the median against flukes.
    """
    log_c = np.log([line.flops for line in lines])
    points = np.array([[(line.log_n, line.log_d)[column] for line in lines]])
    draws = np.stack([line.draws[:, column] for line in lines], 1)
    variance = np.array(
        [np.nanvar(draws[:, i]) if np.isfinite(draws[:, i]).any() else np.inf for i in range(len(lines))]
    )
    floor = max(float(np.median(variance)) / 10, 1e-12)
    weight = 1 / np.maximum(variance, floor)
    intercept, slope = weighted_line(log_c, points, weight)
    intercepts, slopes = weighted_line(log_c, draws, weight)
    return float(intercept[0]), float(slope[0]), intercepts, slopes


def envelope(cells: Cells, log_loss: Array, points: int = 300) -> tuple[Array, Array, Array]:
    """Approach 1: the compute-efficient frontier as log C, log N, log loss (n,) arrays.

    Per size, log loss is interpolated in log C through that size's runs (monotone cubic, no extrapolation); at each C
    the best size is taken. Places where the winner is the smallest or largest size that has been run at that C are
    left out: there a smaller or larger net might have won.
    """
    sizes = np.unique(cells.n_params)
    log_c = np.log(cells.flops)
    grid = np.linspace(log_c.min(), log_c.max(), points)
    curves = np.full((len(sizes), points), np.inf)
    for i, size in enumerate(sizes):
        rows = np.flatnonzero(cells.n_params == size)
        rows = rows[np.argsort(log_c[rows])]
        at, first = np.unique(log_c[rows], return_index=True)
        if len(at) < 2:
            continue
        inside = (grid >= at[0]) & (grid <= at[-1])
        curves[i, inside] = PchipInterpolator(at, log_loss[rows][first])(grid[inside])
    winner = curves.argmin(0)
    available = np.isfinite(curves)
    lowest = available.argmax(0)
    highest = len(sizes) - 1 - available[::-1].argmax(0)
    keep = available.any(0) & (winner > lowest) & (winner < highest)
    return grid[keep], np.log(sizes[winner[keep]]), curves.min(0)[keep]


def envelope_exponent(cells: Cells, noise: Array, draws: int = ENVELOPE_DRAWS) -> tuple[float, Array]:
    """Exponent a of the frontier's N_opt ~ C^a and its bootstrap draws (nan where a draw has no frontier)."""

    def exponent(log_loss: Array) -> float:
        log_c, log_n, _ = envelope(cells, log_loss)
        if len(log_c) < 10 or len(np.unique(log_n)) < 3:
            return math.nan
        return float(np.polyfit(log_c, log_n, 1)[0])

    return exponent(cells.log_loss), np.array([exponent(cells.log_loss + row) for row in noise[:draws]])


# ---------------------------------------------------------------- one-dimensional power laws


@dataclass(frozen=True)
class PowerLaw:
    """L = E + K x^-g, once with E = 0 (Kaplan's form: `exponent`, `scale`), once with E free where there are 5 points."""

    x: Array
    loss: Array
    low: Array  # 95% interval of each point's loss
    high: Array
    exponent: tuple[float, Array]
    scale: tuple[float, Array]
    free: tuple[Array, Array] | None  # theta (log E, log K, g) and draws


def fit_power_law(x: Array, log_loss: Array, noise: Array, delta: float) -> PowerLaw:
    """Fit both forms to points (K,) whose log losses carry `noise` (draws, K).

    Where a form misses the points by more than the noise explains, its bootstrap's noise is that much larger.
    """
    log_x = np.log(x)
    spread = math.sqrt(float(noise.var(0).mean()))

    def inflated(residual: Array, parameters: int) -> Array:
        if len(residual) <= parameters or spread == 0:
            return noise
        return noise * max(1.0, math.sqrt(float(np.sum(residual**2)) / (len(residual) - parameters)) / spread)

    intercept, slope = weighted_line(log_x, log_loss[None], np.ones(len(x)))
    line = intercept + slope * log_x
    intercepts, slopes = weighted_line(log_x, line + inflated(log_loss - line, 2), np.ones(len(x)))
    free = None
    if len(x) >= 5:
        theta = fit_power_sum(log_x[:, None], log_loss, delta)
        residual = log_loss - predict_log(theta[None], log_x[:, None])[0]
        free = theta, bootstrap_power_sum(theta, log_x[:, None], inflated(residual, 3), delta)
    low, high = np.exp(log_loss + np.nanpercentile(noise, [2.5, 97.5], axis=0))
    scale = (float(np.exp(intercept[0])), np.exp(intercepts))
    return PowerLaw(x, np.exp(log_loss), low, high, (-float(slope[0]), -slopes), scale, free)


def interval(draws: Array, value: float) -> dict[str, Any]:
    """`value` with the 2.5% and 97.5% points of its finite bootstrap draws; None where there are too few of them."""
    finite = draws[np.isfinite(draws)]
    if len(finite) < max(20, len(draws) / 2):
        return {"value": value, "lo95": None, "hi95": None}
    low, high = np.percentile(finite, [2.5, 97.5])
    return {"value": value, "lo95": float(low), "hi95": float(high)}
