"""The cells of a sweep as one table per arm: what was tuned, the fit to every loss, and the noise scales measured there.

Everything is in tokens here: a batch of B sequences of T tokens is B T.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critical_batch.batch_laws import Hyperbola, Runs, branched_noise, fit_hyperbola, lowest
from critical_batch.batch_sweep import PATIENCE
from critical_batch.local_noise import read_squares
from gradient_noise.noise_estimators import Interval, ratio_of_means

Array = NDArray[np.float64]
NAN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class AtLoss:
    """One arm at one loss of the sweep; batches and noise scales in tokens."""

    goal: float
    runs: Runs
    rates: Array
    """the tuned rate of each run"""
    fit: Hyperbola | None
    averaged: Interval = NAN
    """B_simple averaged along a run down to this loss, as B_crit is"""
    branched: Interval = NAN
    """the noise scale that explains the progress of branches, averaged likewise"""


@dataclass(frozen=True)
class Measured:
    """A net when it had just reached a level: the loss that it had then, and its noise scales in tokens."""

    level: float
    loss: float
    step: int
    b_simple: Interval
    b_noise: Interval
    branched: Interval


@dataclass(frozen=True)
class ArmResult:
    """Everything about one arm, in the order of falling losses."""

    name: str
    optimizer: str
    width: int
    context: int
    at: tuple[AtLoss, ...]
    measured: tuple[Measured, ...]
    batch: float
    """tokens of a step of the run that was measured; nan where none was"""
    positions: dict[int, Interval]
    """B_simple in sequences with a loss on so many tokens of each, at the last goal"""
    layers: dict[str, Interval]
    """B_simple in tokens of each parameter, at the last level that was reached"""

    def with_fit(self) -> list[AtLoss]:
        """The losses that enough batches reached."""
        return [one for one in self.at if one.fit is not None]


def tuned(cells: Sequence[dict[str, Any]], goal: int) -> tuple[Runs, Array]:
    """The runs to goal number `goal` and their rates: each cell's lowest point of a parabola through log S over log rate.

    A trial that did not get there within PATIENCE times the best one's steps counts as that much slower. Cells whose best
    rate is at an end of those that were tried say nothing, and are left out.
    """
    rows = []
    for cell in cells:
        trials = cell["trials"]
        log_rate = np.log([trial["rate"] for trial in trials])
        steps = np.array([math.inf if trial["steps"][goal] is None else trial["steps"][goal] for trial in trials])
        batch = cell["batch"] * cell["context"]
        if not np.isfinite(steps).any():
            rows.append((batch, max(trial["made"] for trial in trials), False, math.nan))
            continue
        x, y, inside = lowest(log_rate, np.log(np.minimum(steps, PATIENCE * steps.min())))
        if inside:
            rows.append((batch, math.exp(y), True, math.exp(x)))
    batch, steps, reached, rates = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Runs(np.array(batch, float), np.array(steps, float), np.array(reached, bool)), np.array(rates, float)


def trajectory_average(steps: Sequence[float], values: Sequence[Interval], batch: float) -> Interval:
    """What B_crit at the end of a run is, if `values` are the critical batch along it: (appendix D.1) E_min / S_min.

    At a fixed batch B a step is worth w = 1 / (1 + B_noise / B) of the least number of steps, so that S_min is the sum of w
    over the steps and E_min that of B_noise w = B (1 - w): an infinite B_noise, of steps that are worth nothing, is a number
    like any other. Between measurements w is straight in log(step), before the first one it is the first. The ends of the
    interval are those of all values at once.
    """
    usable = [(s, v) for s, v in zip(steps, values, strict=True) if v.value > 0]
    if not usable:
        return NAN
    at = np.log([max(s, 1.0) for s, _ in usable])
    grid = np.linspace(0, at[-1], 400)
    width = np.gradient(np.exp(grid))

    def average(numbers: list[float]) -> float:
        worth = float((np.interp(grid, at, [1 / (1 + max(n, 0.0) / batch) for n in numbers]) * width).sum())
        return batch * (float(width.sum()) - worth) / worth if worth else math.inf

    return Interval(*(average([getattr(v, part) for _, v in usable]) for part in ("value", "lo95", "hi95")))


def noise_at(kept: dict[str, Any], context: int) -> Measured:
    """One level of a measuring cell."""
    b_noise = branched = NAN
    if kept.get("hessian"):
        curvature, trace = np.array(kept["hessian"]).T
        b_noise = ratio_of_means(trace, curvature).scaled(context)
    if kept.get("branches"):
        branched = branched_noise(kept["branches"], kept["loss"]).scaled(context)
    b_simple = read_squares(kept["squares"]).b_simple().scaled(context)
    return Measured(kept["level"], kept["loss"], kept["step"], b_simple, b_noise, branched)


def arm_result(
    arm: dict[str, Any], goals: Sequence[float], cells: Sequence[dict[str, Any]], measured: dict[str, Any] | None
) -> ArmResult:
    """Fits and noise scales of an arm from its tuning cells and its measuring cell (either may be missing)."""
    context = (measured or cells[0])["context"]
    kept = measured["levels"] if measured else []
    positions: dict[int, Interval] = {}
    layers: dict[str, Interval] = {}
    if kept:
        positions = {int(m): read_squares(one).b_simple() for m, one in kept[-1].get("positions", {}).items()}
        squares = read_squares(kept[-1]["squares"])
        layers = {layer: squares.b_simple(layer).scaled(context) for layer in squares.names}
    found = tuple(noise_at(one, context) for one in kept)
    batch = measured["batch"] * context if measured else math.nan
    at = tuple(at_loss(goal, *tuned(cells, i), found, batch) for i, goal in enumerate(goals))
    name = f"{arm['task']}-{arm['width']}-{arm['optimizer']}"
    return ArmResult(name, arm["optimizer"], arm["width"], context, at, found, batch, positions, layers)


def at_loss(goal: float, runs: Runs, rates: Array, found: Sequence[Measured], batch: float) -> AtLoss:
    """The fit at one loss, and what was measured down to it with `batch` tokens."""
    fit = fit_hyperbola(runs) if len(set(runs.batch[runs.reached])) >= 3 else None
    so_far = [one for one in found if one.level >= goal]
    averaged = branched = NAN
    if so_far and so_far[-1].level == goal:
        steps = [one.step for one in so_far]
        averaged = trajectory_average(steps, [one.b_simple for one in so_far], batch)
        branched = trajectory_average(steps, [one.branched for one in so_far], batch)
    return AtLoss(goal, runs, rates, fit, averaged, branched)


def measuring_point(cells: Sequence[dict[str, Any]], nearest_to: int) -> tuple[int, float] | None:
    """The batch size nearest to `nearest_to` with an inner optimum at the last loss that has one, and its tuned rate.

    None where no loss has one.
    """
    for goal in range(len(cells[0]["trials"][0]["steps"]) - 1, -1, -1):
        for cell in sorted(cells, key=lambda cell: abs(math.log(cell["batch"] / nearest_to))):
            runs, rates = tuned([cell], goal)
            if runs.reached.any():
                return cell["batch"], float(rates[0])
    return None
