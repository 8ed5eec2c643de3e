"""What McCandlish et al. 2018 and their successors predict, each beside the number that decides it.

Everything is in tokens here: a batch of B sequences of T tokens is B T. `arm_results` turns the cells of a sweep into one
table per arm; the functions p1 … p12 read those tables alone.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from critical_batch import Hyperbola, Runs, fit_hyperbola, learning_rate_law, lowest, power_law, steps_needed
from gradient_noise import Interval, ratio_of_means, token_correlation
from local_noise import local_critical_batch, read_squares

Array = NDArray[np.float64]
DRAWS = 400
DECADE = math.sqrt(10)  # "the same order of magnitude": within half a decade on either side
NAN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class AtLoss:
    """One arm at one loss; batches and noise scales in tokens."""

    goal: float
    runs: Runs
    rates: Array
    """the tuned rate of each run"""
    inside: NDArray[np.bool_]
    """whether it lay between two worse ones"""
    fit: Hyperbola | None
    b_simple: Interval | None = None
    b_noise: Interval | None = None
    local: Interval | None = None


@dataclass(frozen=True)
class ArmResult:
    """All losses of one arm, in descending order, and what was measured once."""

    name: str
    context: int
    at: tuple[AtLoss, ...]
    contexts: dict[int, Interval]
    """B_simple in sequences of other lengths, at the last loss"""
    layers: dict[str, Interval]
    """B_simple in tokens of each parameter, at the last loss that was measured"""

    def with_fit(self) -> list[AtLoss]:
        """The losses that enough batches reached."""
        return [one for one in self.at if one.fit is not None]


@dataclass(frozen=True)
class Verdict:
    """A prediction, the number that decides it with its interval, and whether it held."""

    name: str
    claim: str
    passed: bool | None
    """None: too little was measured to say"""
    number: str
    """what `value` is"""
    value: float = math.nan
    lo95: float = math.nan
    hi95: float = math.nan
    n: int = 0
    """how many losses, arms or batches it comes from"""

    @property
    def word(self) -> str:
        return {True: "holds", False: "fails", None: "not decided"}[self.passed]

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.word}


# ---------------------------------------------------------------- from cells to tables


def tuned(cells: Sequence[dict[str, Any]], goal: int) -> tuple[Runs, Array, NDArray[np.bool_]]:
    """The runs to goal number `goal`: of each cell the lowest point of a parabola through log S over log rate."""
    batch, steps, reached, rates, inside = [], [], [], [], []
    for cell in cells:
        trials = cell["trials"]
        log_rate = np.log([trial["rate"] for trial in trials])
        log_steps = np.log([math.inf if trial["steps"][goal] is None else trial["steps"][goal] for trial in trials])
        batch.append(cell["batch"] * cell["context"])
        if np.isfinite(log_steps).any():
            x, y, within = lowest(log_rate, log_steps)
            reached.append(True)
        else:
            x, y, within = math.nan, math.log(max(trial["made"] for trial in trials)), False
            reached.append(False)
        steps.append(math.exp(y))
        rates.append(math.exp(x))
        inside.append(within)
    runs = Runs(np.array(batch, float), np.array(steps), np.array(reached))
    return runs, np.array(rates), np.array(inside)


def arm_results(
    name: str, goals: Sequence[float], cells: Sequence[dict[str, Any]], measured: dict[str, Any] | None
) -> ArmResult:
    """Fits and noise scales of an arm from its tuning cells and its measuring cell (either may be missing)."""
    context = (measured or cells[0])["context"]
    found = {one["goal"]: one for one in measured["goals"]} if measured else {}
    at = []
    for i, goal in enumerate(goals):
        runs, rates, inside = tuned(cells, i)
        fit = fit_hyperbola(runs, draws=DRAWS) if runs.reached.sum() >= 3 else None
        b_simple = b_noise = local = None
        if goal in found:
            here = found[goal]
            b_simple = read_squares(here["squares"]).b_simple().scaled(context)
            if here.get("hessian"):
                curvature, trace = np.array(here["hessian"]).T
                b_noise = ratio_of_means(trace, curvature).scaled(context)
            if here.get("branches"):
                local = local_critical_batch([(size, loss) for size, loss in here["branches"]]).scaled(context)
        at.append(AtLoss(goal, runs, rates, inside, fit, b_simple, b_noise, local))
    contexts: dict[int, Interval] = {}
    layers: dict[str, Interval] = {}
    if measured and measured["goals"]:
        last = measured["goals"][-1]
        contexts = {int(T): read_squares(kept).b_simple() for T, kept in last.get("contexts", {}).items()}
        squares = read_squares(last["squares"])
        layers = {layer: squares.b_simple(layer).scaled(context) for layer in squares.names}
    return ArmResult(name, context, tuple(at), contexts, layers)


# ---------------------------------------------------------------- the predictions


def log_mean(intervals: Sequence[tuple[Interval, Interval]]) -> Interval:
    """Geometric mean of the ratios a / b, with a 95% interval that takes the widths of both and the spread of the ratios.

    A ratio whose numerator has no upper end is left out of the value's spread and makes the interval open.
    """
    logs, variances, open_end = [], [], False
    for a, b in intervals:
        if not (np.isfinite(a.value) and np.isfinite(b.value) and a.value > 0 and b.value > 0):
            continue
        logs.append(math.log(a.value / b.value))
        width = 0.0
        for one in (a, b):
            if np.isfinite(one.hi95) and one.lo95 > 0:
                width += (math.log(one.hi95 / one.lo95) / 3.92) ** 2
            else:
                open_end = True
        variances.append(width)
    if not logs:
        return NAN
    n, mean = len(logs), float(np.mean(logs))
    spread = np.var(logs, ddof=1) / n if n > 1 else 0.0
    error = 1.96 * math.sqrt(max(float(spread), sum(variances) / n**2))
    high = math.inf if open_end else math.exp(mean + error)
    return Interval(math.exp(mean), math.exp(mean - error), high)


def p1_hyperbola(arms: Sequence[ArmResult], seed: int = 0) -> Verdict:
    """(S / S_min - 1) is (B_crit / B)^1: the exponent of all losses together, each with its own S_min and B_crit."""
    fits = [one.fit for arm in arms for one in arm.with_fit() if one.fit and np.isfinite(one.fit.exponent.value)]
    claim = "steps and examples trade along a hyperbola"
    what = "exponent a of S / S_min - 1 = (B_crit / B)^a, geometric mean over the losses; theory 1"
    if len(fits) < 2:
        return Verdict("P1", claim, None, what, n=len(fits))
    one = Interval(1.0, 1.0, 1.0)
    found = log_mean([(fit.exponent, one) for fit in fits])
    return Verdict("P1", claim, 1.0 in found, what, found.value, found.lo95, found.hi95, len(fits))


def p3_noise_scale(arms: Sequence[ArmResult]) -> Verdict:
    """B_simple tells the order of magnitude of B_crit."""
    pairs = [(one.b_simple, one.fit.b_crit) for arm in arms for one in arm.with_fit() if one.b_simple and one.fit]
    claim, what = "B_simple is B_crit within half a decade either way", "B_simple / B_crit, geometric mean"
    found = log_mean(pairs)
    if not pairs or not np.isfinite(found.value):
        return Verdict("P3", claim, None, what)
    ratios = [a.value / b.value for a, b in pairs]
    passed = all(1 / DECADE <= ratio <= DECADE for ratio in ratios)
    return Verdict("P3", claim, passed, what, found.value, found.lo95, found.hi95, len(pairs))


def slope(losses: Sequence[float], intervals: Sequence[Interval], seed: int = 0) -> Interval:
    """The exponent b of B = a L^b, with a 95% bootstrap interval: each B drawn from its own interval, the losses anew."""
    usable = [(L, b) for L, b in zip(losses, intervals, strict=True) if np.isfinite(b.value) and b.value > 0]
    if len(usable) < 3:
        return NAN
    L = np.array([loss for loss, _ in usable])
    logs = np.log([b.value for _, b in usable])
    sd = np.array([math.log(b.hi95 / b.lo95) / 3.92 if b.lo95 > 0 and np.isfinite(b.hi95) else 1.0 for _, b in usable])
    value = power_law(L, np.exp(logs))[1]
    random = np.random.default_rng(seed)
    found = []
    while len(found) < DRAWS:
        rows = random.integers(len(L), size=len(L))
        if len(set(rows)) < 3:
            continue
        found.append(power_law(L[rows], np.exp(logs + sd * random.normal(size=len(L)))[rows])[1])
    low, high = np.quantile(found, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def p4_growth(arm: ArmResult) -> list[Verdict]:
    """Both grow as the loss falls; B_crit = B* L^(-1 / alpha_B) (Kaplan et al. 2020, eq. 1.4; alpha_B = 0.21 there)."""
    verdicts = []
    for name, label, pick in (
        ("P4", "B_crit", lambda one: one.fit.b_crit if one.fit else None),
        ("P4b", "B_simple", lambda one: one.b_simple),
    ):
        points = [(one.goal, b) for one in arm.at if (b := pick(one)) is not None]
        found = slope([L for L, _ in points], [b for _, b in points])
        claim = f"{label} grows as the loss falls"
        what = f"exponent b of {label} = a L^b; Kaplan et al.: -4.8"
        passed = None if math.isnan(found.value) else found.hi95 < 0
        verdicts.append(Verdict(name, claim, passed, what, found.value, found.lo95, found.hi95, len(points)))
    return verdicts


def p5_size(arms: Sequence[ArmResult]) -> Verdict:
    """At one loss, nets of all sizes have one B_simple."""
    claim, what = (
        "size enters through the loss alone",
        "largest / smallest B_simple over sizes, geometric mean over the losses",
    )
    pairs = []
    agree = []
    for goal in sorted({one.goal for arm in arms for one in arm.at}):
        here = [one.b_simple for arm in arms for one in arm.at if one.goal == goal and one.b_simple]
        here = [b for b in here if np.isfinite(b.value)]
        if len(here) < 2:
            continue
        pairs.append((max(here, key=lambda b: b.value), min(here, key=lambda b: b.value)))
        agree.append(max(b.lo95 for b in here) <= min(b.hi95 for b in here))
    if not pairs:
        return Verdict("P5", claim, None, what)
    found = log_mean(pairs)
    return Verdict("P5", claim, all(agree), what, found.value, found.lo95, found.hi95, len(pairs))


def p6_learning_rate(arm: ArmResult, expected: tuple[float, float], seed: int = 0) -> Verdict:
    """The tuned rate is eps_max / (1 + B* / B)^alpha, alpha as `expected`; of all losses together, each at its own level."""
    claim = f"tuned rates of {arm.name} follow the law with alpha from {expected[0]:g} to {expected[1]:g}"
    what = "alpha of eps(B) = eps_max / (1 + B* / B)^alpha"
    rows = [
        (B, rate, one.goal)
        for one in arm.at
        for B, rate, inside in zip(one.runs.batch, one.rates, one.inside, strict=True)
        if inside
    ]
    if len({B for B, _, _ in rows}) < 4:
        return Verdict("P6", claim, None, what, n=len(rows))
    B, rate = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    goals = np.array([r[2] for r in rows])
    level = {goal: np.log(rate[goals == goal]).mean() for goal in set(goals)}
    centred = np.exp(np.log(rate) - np.array([level[goal] for goal in goals]))
    value = learning_rate_law(B, centred)[2]
    random = np.random.default_rng(seed)
    sizes = sorted(set(B))
    draws = []
    while len(draws) < 100:  # whole batch sizes are drawn: the losses of one share their trials
        chosen = random.choice(sizes, len(sizes))
        if len(set(chosen)) < 3:
            continue
        index = np.concatenate([np.flatnonzero(size == B) for size in chosen])
        draws.append(learning_rate_law(B[index], centred[index])[2])
    low, high = (float(q) for q in np.quantile(draws, (0.025, 0.975)))
    passed = low <= expected[1] and high >= expected[0]
    return Verdict("P6", claim, passed, what, value, low, high, len(rows))


def p10_tokens(arm: ArmResult) -> Verdict:
    """The noise scale in tokens does not depend on how the tokens are cut into sequences."""
    claim = "tokens are the unit: B_simple in tokens is the same for short and long sequences"
    what = "e of B_simple in tokens ~ T^e; 0 if tokens are the unit, 1 if sequences are"
    usable = {T: b for T, b in sorted(arm.contexts.items()) if np.isfinite(b.value) and b.value > 0}
    if len(usable) < 3:
        return Verdict("P10", claim, None, what, n=len(usable))
    found = slope(list(usable), [b.scaled(T) for T, b in usable.items()])
    return Verdict("P10", claim, found.lo95 <= 0 <= found.hi95, what, found.value, found.lo95, found.hi95, len(usable))


def correlation(arm: ArmResult) -> tuple[float, float] | None:
    """B_1 and rho of B(T) = B_1 (1 + (T - 1) rho); None where fewer than three lengths have a value."""
    usable = {T: b.value for T, b in sorted(arm.contexts.items()) if np.isfinite(b.value) and b.value > 0}
    return token_correlation(list(usable), list(usable.values())) if len(usable) > 2 else None


def p12_branches(arms: Sequence[ArmResult]) -> Verdict:
    """Branched training (Merrill et al. 2025) and the sweep agree on B_crit."""
    pairs = [(one.local, one.fit.b_crit) for arm in arms for one in arm.with_fit() if one.local and one.fit]
    claim, what = "branched training gives B_crit within half a decade either way", "local / B_crit, geometric mean"
    found = log_mean(pairs)
    if not pairs or not np.isfinite(found.value):
        return Verdict("P12", claim, None, what)
    passed = all(1 / DECADE <= a.value / b.value <= DECADE for a, b in pairs)
    return Verdict("P12", claim, passed, what, found.value, found.lo95, found.hi95, len(pairs))


def predicted_steps(one: AtLoss, batch: Array) -> Array:
    """S(B) of the fit at one loss."""
    assert one.fit is not None
    return steps_needed(batch, one.fit.s_min.value, one.fit.b_crit.value)
