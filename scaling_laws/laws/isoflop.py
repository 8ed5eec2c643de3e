"""Approach 2 of Hoffmann et al. 2022: at each compute a parabola through the sizes, and a power law through the minima."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laws.power_law import weighted_line
from laws.power_sum import Array
from laws.run_table import Cells


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


def through_minima(lines: list[IsoFlop], column: int) -> tuple[float, float, Array, Array]:
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
