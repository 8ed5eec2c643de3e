"""What McCandlish et al. 2018 and their successors predict, each beside the number that decides it.

Everything is in tokens here: a batch of B sequences of T tokens is B T. `arm_result` turns the cells of a sweep into one
table per arm; the functions p1 … p12 read those tables alone. A prediction holds if the interval of its number lies within
a margin that was set beforehand, fails if it lies outside of it, and is not decided where it does neither: noisy data
prove nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from batch_sweep import PATIENCE
from critical_batch import Hyperbola, Runs, fit_hyperbola, learning_rate_law, lowest, power_law, steps_needed
from gradient_noise import Interval, ratio_of_means, token_correlation
from local_noise import branched_noise, read_squares

Array = NDArray[np.float64]
DRAWS = 400
NAN = Interval(math.nan, math.nan, math.nan)
# The margins within which a prediction holds.
DECADE = math.sqrt(10)  # "the same order of magnitude": half a decade either way
ONE = (0.8, 1.25)  # an exponent of 1
NONE = (-0.2, 0.2)  # an exponent of 0
RATES = {"adamw": (0.4, 1.1), "muon": (0.4, 1.1), "sgd": (0.8, 1.2)}  # alpha: 0.5 to 1 for Adam, 1 for SGD
KAPLAN = -1 / 0.21  # the exponent of B_crit's law (Kaplan et al. 2020)


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


@dataclass(frozen=True)
class Verdict:
    """A prediction for one arm, the number that decides it with its interval, and whether it held."""

    name: str
    arm: str
    claim: str
    passed: bool | None
    """None: too little was measured to say"""
    number: str
    """what `value` is"""
    found: Interval = NAN
    n: int = 0
    """how many losses, batches or lengths it comes from"""

    @property
    def word(self) -> str:
        return {True: "holds", False: "fails", None: "not decided"}[self.passed]

    def row(self) -> dict[str, Any]:
        """Plain values."""
        kept = {name: value for name, value in asdict(self).items() if name != "found"}
        return {**kept, **asdict(self.found), "verdict": self.word}


def judge(found: Interval, margin: tuple[float, float]) -> bool | None:
    """True where the interval lies within the margin, False where it lies outside, None where it does neither."""
    low, high = margin
    if not np.isfinite(found.value) or math.isnan(found.lo95):
        return None
    if found.lo95 > high or found.hi95 < low:
        return False
    return True if low <= found.lo95 and found.hi95 <= high else None


# ---------------------------------------------------------------- from cells to tables


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


# ---------------------------------------------------------------- the predictions


def log_mean(pairs: Sequence[tuple[Interval, Interval]]) -> tuple[Interval, int]:
    """Geometric mean of the ratios a / b of one arm's losses, with a 95% interval, and how many ratios it is of.

    The losses share runs, so that the widths of the single intervals are not divided by their number; the spread of the
    ratios is added with Student's t. An end that one of the intervals does not have, the mean has not either.
    """
    logs, low, high = [], [], []
    for a, b in pairs:
        if not (np.isfinite(a.value) and np.isfinite(b.value) and a.value > 0 and b.value > 0):
            continue
        logs.append(math.log(a.value / b.value))
        low.append(math.log(a.value / a.lo95) + math.log(b.hi95 / b.value) if a.lo95 > 0 else math.inf)
        high.append(math.log(a.hi95 / a.value) + math.log(b.value / b.lo95) if b.lo95 > 0 else math.inf)
    n = len(logs)
    if not n:
        return NAN, 0
    mean = float(np.mean(logs))
    spread = float(stdtrit(n - 1, 0.975)) * float(np.std(logs, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    below, above = (math.hypot(float(np.mean(widths)), spread) for widths in (low, high))
    return Interval(math.exp(mean), math.exp(mean - below), math.exp(mean + above) if above < 700 else math.inf), n


def p1_hyperbola(arm: ArmResult) -> Verdict:
    """S / S_min - 1 is (B_crit / B)^1, at every loss with its own S_min and B_crit (eq. 2.11)."""
    what = "exponent a of S / S_min - 1 = (B_crit / B)^a, mean over the losses; theory 1"
    one = Interval(1.0, 1.0, 1.0)
    found, n = log_mean([(fit.fit.exponent, one) for fit in arm.with_fit() if fit.fit])
    return Verdict("P1", arm.name, "steps and tokens trade along a hyperbola", judge(found, ONE), what, found, n)


def p3_noise_scale(arm: ArmResult) -> Verdict:
    """B_simple, averaged along the run as B_crit is, tells the order of magnitude of B_crit."""
    what = "B_simple / B_crit, mean over the losses"
    found, n = log_mean([(one.averaged, one.fit.b_crit) for one in arm.with_fit() if one.fit])
    passed = judge(found, (1 / DECADE, DECADE))
    return Verdict("P3", arm.name, "B_simple is B_crit within half a decade either way", passed, what, found, n)


def p12_branches(arm: ArmResult) -> Verdict:
    """Branched training, averaged likewise, and the sweep agree on B_crit (Merrill et al. 2025)."""
    what = "branches' critical batch / B_crit, mean over the losses"
    found, n = log_mean([(one.branched, one.fit.b_crit) for one in arm.with_fit() if one.fit])
    passed = judge(found, (1 / DECADE, DECADE))
    claim = "branched training gives B_crit within half a decade either way"
    return Verdict("P12", arm.name, claim, passed, what, found, n)


def slope(x: Sequence[float], values: Sequence[Interval], weighted: bool = False, seed: int = 0) -> Interval:
    """The exponent b of value = a x^b with a 95% bootstrap interval: each value drawn from its own interval, the points anew.

    `weighted`: by the inverse variances of the logarithms, where the points scatter because their intervals are wide, and
    not because the law is not quite one. nan for fewer than three points whose intervals have two ends.
    """
    usable = [(at, v) for at, v in zip(x, values, strict=True) if np.isfinite([v.value, v.hi95]).all() and v.lo95 > 0]
    if len(usable) < 3:
        return NAN
    points = np.array([at for at, _ in usable], float)
    logs = np.log([v.value for _, v in usable])
    sd = np.array([max(math.log(v.hi95 / v.lo95), 1e-6) / 3.92 for _, v in usable])
    weights = 1 / sd**2 if weighted else np.ones_like(sd)
    value = power_law(points, np.exp(logs), weights)[1]
    random = np.random.default_rng(seed)
    found: list[float] = []
    while len(found) < DRAWS:
        rows = random.integers(len(points), size=len(points))
        if len(set(points[rows])) < 2:
            continue
        drawn = np.exp(logs[rows] + sd[rows] * random.normal(size=len(points)))
        found.append(power_law(points[rows], drawn, weights[rows])[1])
    low, high = np.quantile(found, (0.025, 0.975))
    return Interval(value, float(min(low, value)), float(max(high, value)))


def p4_growth(arm: ArmResult) -> list[Verdict]:
    """Both grow as the loss falls; B_crit = B* L^(-1 / alpha_B) (Kaplan et al. 2020, eq. 1.4; alpha_B = 0.21 there)."""
    fits = [(one.goal, one.fit.b_crit) for one in arm.with_fit() if one.fit]
    noise = [(one.loss, one.b_simple) for one in arm.measured]
    verdicts = []
    for name, label, points in (("P4", "B_crit", fits), ("P4b", "B_simple", noise)):
        found = slope([x for x, _ in points], [b for _, b in points])
        passed = judge(found, (-math.inf, 0.0))
        what = f"exponent b of {label} = a L^b; Kaplan et al.: {KAPLAN:.1f}"
        verdicts.append(Verdict(name, arm.name, f"{label} grows as the loss falls", passed, what, found, len(points)))
    return verdicts


def kaplan_law(arm: ArmResult) -> dict[str, float] | None:
    """B* in tokens and alpha_B of B_crit = B* / L^(1 / alpha_B), refitted; None for fewer than three losses."""
    points = [(one.goal, one.fit.b_crit.value) for one in arm.with_fit() if one.fit]
    if len(points) < 3:
        return None
    a, b = power_law(*zip(*points, strict=True))
    return {"b_star": a, "alpha_b": -1 / b}


def p5_size(arms: Sequence[ArmResult]) -> Verdict:
    """At one loss, nets of all sizes have one B_simple: it does not depend on the width beside the loss."""
    what = "exponent of B_simple in the width, at equal loss"
    rows = [
        (math.log(one.loss), math.log(arm.width), math.log(one.b_simple.value))
        for arm in arms
        for one in arm.measured
        if np.isfinite(one.b_simple.value) and one.b_simple.value > 0
    ]
    claim, name = "size enters through the loss alone", arms[0].name
    if len({width for _, width, _ in rows}) < 3 or len(rows) < 6:
        return Verdict("P5", name, claim, None, what, n=len(rows))
    loss, width, noise = np.array(rows).T
    # Least squares of log B on the loss, its square and the width; the losses overlap, but are not the same.
    design = np.stack([np.ones_like(loss), loss, loss**2, width], 1)
    solution, _, _, _ = np.linalg.lstsq(design, noise, rcond=None)
    spare = len(rows) - 4
    variance = ((noise - design @ solution) ** 2).sum() / spare * np.linalg.inv(design.T @ design)[3, 3]
    half = float(stdtrit(spare, 0.975)) * math.sqrt(variance)
    found = Interval(float(solution[3]), float(solution[3]) - half, float(solution[3]) + half)
    return Verdict("P5", name, claim, judge(found, NONE), what, found, len(rows))


def p6_learning_rate(arm: ArmResult) -> Verdict:
    """The tuned rate is eps_max / (1 + B* / B)^alpha, eps_max depending on the loss (section 2, appendix A.2)."""
    low, high = RATES[arm.optimizer]
    claim = f"tuned rates follow eps_max / (1 + B* / B)^alpha with alpha from {low:g} to {high:g}"
    what = "alpha"
    rows = [
        (B, rate, one.goal)
        for one in arm.at
        for B, rate, reached in zip(one.runs.batch, one.rates, one.runs.reached, strict=True)
        if reached
    ]
    if len({B for B, _, _ in rows}) < 4:
        return Verdict("P6", arm.name, claim, None, what, n=len(rows))
    _, alpha = learning_rate_law(*zip(*rows, strict=True))
    return Verdict("P6", arm.name, claim, judge(alpha, (low, high)), what, alpha, len(rows))


def p10_tokens(arm: ArmResult) -> Verdict:
    """The tokens of a sequence give as much information as those of different ones: the unit is the token."""
    claim = "tokens are the unit: one sequence's are as good as those of many"
    what = "e of B_simple in tokens ~ (tokens of each sequence)^e; 0 if tokens are the unit, 1 if sequences are"
    lengths = sorted(arm.positions)
    in_tokens = [arm.positions[m].scaled(m) for m in lengths]
    found = slope(lengths, in_tokens, weighted=True)  # short ones are measured worst
    return Verdict("P10", arm.name, claim, judge(found, NONE), what, found, len(lengths))


def correlation(arm: ArmResult) -> tuple[float, float] | None:
    """B_1 and rho of B(m) = B_1 (1 + (m - 1) rho); None where fewer than three lengths have a value."""
    usable = {m: b.value for m, b in sorted(arm.positions.items()) if np.isfinite(b.value) and b.value > 0}
    return token_correlation(list(usable), list(usable.values())) if len(usable) > 2 else None


def verdicts(base: ArmResult, swept: Sequence[ArmResult], sizes: Sequence[ArmResult]) -> list[Verdict]:
    """Every prediction on every arm that has what it needs; the base first."""
    found: list[Verdict] = []
    for arm in swept:
        found += [p1_hyperbola(arm), p3_noise_scale(arm), *p4_growth(arm), p6_learning_rate(arm), p10_tokens(arm)]
        found.append(p12_branches(arm))
    return [*found, p5_size([base, *sizes])]


def predicted_steps(one: AtLoss, batch: Array) -> Array:
    """S(B) of the fit at one loss."""
    assert one.fit is not None
    return steps_needed(batch, one.fit.s_min.value, one.fit.b_crit.value)
