"""What McCandlish et al. 2018 and their successors predict, each beside the number that decides it.

The functions p1 … p12 read the tables of arm_tables.py alone, in tokens. A prediction holds if the interval of its number
lies within a margin that was set beforehand, fails if it lies outside of it, and is not decided where it does neither: noisy
data prove nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from critical_batch.arm_tables import NAN, ArmResult, Array, AtLoss
from critical_batch.batch_laws import learning_rate_law, power_law, steps_needed
from gradient_noise.noise_estimators import Interval, token_correlation

DRAWS = 400
# The margins within which a prediction holds.
DECADE = math.sqrt(10)  # "the same order of magnitude": half a decade either way
ONE = (0.8, 1.25)  # an exponent of 1
NONE = (-0.2, 0.2)  # an exponent of 0
RATES = {"adamw": (0.4, 1.1), "muon": (0.4, 1.1), "sgd": (0.8, 1.2)}  # alpha: 0.5 to 1 for Adam, 1 for SGD
KAPLAN = -1 / 0.21  # the exponent of B_crit's law (Kaplan et al. 2020)


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
