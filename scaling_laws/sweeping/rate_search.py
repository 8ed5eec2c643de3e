"""The learning rate of every width: a search on the tuning set, and the rule that the sweep takes from it.

No test image plays a part here. The rule's form, a power of the width, is Hilton's prior (the rate shrinks like the
initialisation, 1 / sqrt(fan_in), that is width^-0.5); the search measures its exponents.
"""

import math
from typing import Any

import numpy as np

from common.errors import BadInput
from nets.learning_rate import RateRule, learning_rate

FACTOR = 2.0  # between neighbouring rates of a search
CHECK_WIDTH, CHECK_SAMPLES, CHECK_SEEDS = 6, 20_000, 2
SEARCH_WIDTHS, SEARCH_SAMPLES, SEARCH_SEEDS = (2, 4, 8, 16), (4_000, 16_000, 64_000), 3


def check_points(lr: float) -> list[float]:
    """Five rates, a factor 2 apart, around the rule's: its optimum should not lie at their edge."""
    return [lr * FACTOR**k for k in (-2, -1, 0, 1, 2)]


def search_points(highest: float = 0.05, n: int = 6) -> list[float]:
    """The rates of a full search, down from 0.05."""
    return [highest / FACTOR**k for k in range(n)][::-1]


def planned_rates(full: bool, first_seed: int, largest: int) -> tuple[list[tuple[int, int, float]], list[int]]:
    """Width, samples and rate of every run of the full search, or of the check at one width; and the seeds of each.

    The check is at 20,000 samples, or at the `largest` number of the grid if that is less. The seeds are far from the
    sweep's, which begin at `first_seed`: the rate is not chosen on the runs that it is then used for.
    """
    if full:
        cells, n_seeds = [(width, n_samples) for width in SEARCH_WIDTHS for n_samples in SEARCH_SAMPLES], SEARCH_SEEDS
        points = [(width, n_samples, lr) for width, n_samples in cells for lr in search_points()]
    else:
        n_samples, n_seeds = min(CHECK_SAMPLES, largest), CHECK_SEEDS
        points = [(CHECK_WIDTH, n_samples, lr) for lr in check_points(learning_rate(CHECK_WIDTH, n_samples))]
    return points, [first_seed + 1000 + s for s in range(n_seeds)]


def best_rate(lrs: np.ndarray, losses: np.ndarray) -> tuple[float, bool]:
    """The rate of least loss, and whether it lies inside the searched range.

    `lrs` (n,) ascending, `losses` (n,) the geometric means over seeds, inf where a run diverged. The vertex of the
    parabola through the best point and its neighbours in log lr, log loss; at an edge the best point itself.
    """
    best = int(np.argmin(losses))
    if best in (0, len(lrs) - 1):
        return float(lrs[best]), False
    if not np.all(np.isfinite(losses[best - 1 : best + 2])):
        return float(lrs[best]), True
    x, y = np.log(lrs[best - 1 : best + 2]), np.log(losses[best - 1 : best + 2])
    curvature, slope, _ = np.polyfit(x - x[1], y, 2)
    return float(np.exp(x[1] - slope / (2 * curvature))) if curvature > 0 else float(lrs[best]), True


def best_rates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One dict per (width, n_samples) of the tuning rows: `lr`, the best, `interior`, and the `loss` of each rate."""
    found = []
    for width, n_samples in sorted({(row["width"], row["n_samples"]) for row in rows}):
        cell = [row for row in rows if (row["width"], row["n_samples"]) == (width, n_samples)]
        lrs = np.array(sorted({row["lr"] for row in cell}))
        losses = [[row["tune_loss"] for row in cell if row["lr"] == lr] for lr in lrs]
        means = np.array([math.exp(np.mean(np.log(loss))) if all(loss) else math.inf for loss in losses])
        lr, interior = best_rate(lrs, means)
        found.append({"width": width, "n_samples": n_samples, "lr": lr, "interior": interior, "loss": means.tolist()})
    return found


def lr_rule(rows: list[dict[str, Any]]) -> RateRule:
    """The rule through the best rates that lie inside the searched range: least squares in logs."""
    inside = [cell for cell in best_rates(rows) if cell["interior"]]
    if len(inside) < 3:
        raise BadInput(f"the learning-rate search found {len(inside)} optima inside its range; the rule needs 3")
    y = np.log([cell["lr"] for cell in inside])
    x = np.array([[1.0, math.log(8 / cell["width"]), math.log(20_000 / cell["n_samples"])] for cell in inside])
    (log_lr0, width, samples), *_ = np.linalg.lstsq(x, y, rcond=None)
    return RateRule(float(np.exp(log_lr0)), float(width), float(samples))
