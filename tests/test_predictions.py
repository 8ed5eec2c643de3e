"""The predictions of large-batch theory on cells whose answers are known."""

import json
import math

import numpy as np
import pytest

from critical_batch.arm_tables import arm_result, trajectory_average, tuned
from critical_batch.batch_laws import steps_needed
from critical_batch.local_noise import read_squares
from critical_batch.predictions import (
    judge,
    kaplan_law,
    log_mean,
    p1_hyperbola,
    p3_noise_scale,
    p4_growth,
    p5_size,
    p6_learning_rate,
    p10_tokens,
    p12_branches,
    slope,
)
from gradient_noise.noise_estimators import Interval

CONTEXT = 10
BATCHES = 4 ** np.arange(6)
ARM = {"task": "kjv", "width": 64, "optimizer": "adamw"}


def cells_of(b_crit: list[float], exponent: float = 1.0, alpha: float = 0.5, noise: float = 0.01) -> list[dict]:
    """Tuning cells that follow the theory but for `noise`: S_min = 100, rates around eps = (1 + 400 / B)^-alpha."""
    random = np.random.default_rng(0)
    cells = []
    for batch in BATCHES:
        centre = (1 + 400 / (batch * CONTEXT)) ** -alpha
        luck = np.exp(noise * random.normal(size=len(b_crit)))
        trials = []
        for k in (-1, 0, 1):
            factor = 1.2 if k else 1.0
            steps = [factor * float(steps_needed(batch * CONTEXT, 100, b, exponent)) for b in b_crit * luck]
            trials.append({"rate": centre * 2.0**k, "steps": steps, "made": 1000})
        cells.append({"batch": int(batch), "context": CONTEXT, "trials": trials})
    return cells


def squares_of(sequences: float) -> dict:
    """Squares whose B_simple is about so many sequences, with little spread."""
    wobble = 1 + 0.02 * np.array([-1.5, -0.5, 0.5, 1.5])  # the mean is 1
    small, big = (1 + sequences * wobble / size for size in (4, 32))
    return {
        **{"names": ["all"], "small": 4, "big": 32},
        **{"small_squares": small[:, None].tolist(), "big_squares": big[:, None].tolist()},
    }


def measured_of(losses: list[float], b_simple: list[float], positions: dict[str, float] | None = None) -> dict:
    """A measuring cell with such noise scales, in tokens; its branches say 32 sequences."""
    found = [
        {
            **{"level": loss, "loss": loss - 0.01, "step": 50 * (i + 1), "squares": squares_of(b / CONTEXT)},
            "branches": [(B, [loss - 0.01 - 0.1 / (1 + B / 32) + x for x in (-1e-4, 1e-4)]) for B in 2 ** np.arange(9)],
        }
        for i, (loss, b) in enumerate(zip(losses, b_simple, strict=True))
    ]
    found[-1]["positions"] = {m: squares_of(b) for m, b in (positions or {}).items()}
    return {"context": CONTEXT, "batch": 16, "levels": found}


LOSSES = [2.6, 2.4, 2.2, 2.0]
CRITICAL = [1000 * (loss / 2) ** -5.0 for loss in LOSSES]


def test_a_world_that_follows_the_theory_passes():
    arm = arm_result(ARM, LOSSES, cells_of(CRITICAL), measured_of(LOSSES, [1.5 * b for b in CRITICAL]))
    for one, b in zip(arm.at, CRITICAL, strict=True):
        assert one.fit is not None
        assert one.fit.b_crit.value == pytest.approx(b, rel=0.1)
        assert b in one.fit.b_crit
        assert one.runs.reached.all()
    for one, b in zip(arm.measured, CRITICAL, strict=True):
        assert one.b_simple.value == pytest.approx(1.5 * b, rel=1e-3)
        assert one.loss == pytest.approx(one.level - 0.01)
    first = p1_hyperbola(arm)
    assert first.passed
    assert first.found.value == pytest.approx(1, rel=0.05)
    third = p3_noise_scale(arm)
    assert third.passed
    assert 0.7 < third.found.value < 1.5  # the average lies behind
    for verdict in p4_growth(arm):
        assert verdict.passed
        assert verdict.found.value == pytest.approx(-5, rel=0.15)
    law = kaplan_law(arm)
    assert law is not None
    assert law["alpha_b"] == pytest.approx(0.2, rel=0.15)
    sixth = p6_learning_rate(arm)
    assert sixth.passed
    assert sixth.found.value == pytest.approx(0.5, abs=0.05)


def test_a_world_that_does_not_follow_it_fails():
    arm = arm_result(ARM, LOSSES, cells_of(CRITICAL, 0.5, 0.1), measured_of(LOSSES, [30 * b for b in CRITICAL]))
    assert p1_hyperbola(arm).passed is False
    assert p1_hyperbola(arm).found.value == pytest.approx(0.5, rel=0.1)
    assert p3_noise_scale(arm).passed is False
    assert p6_learning_rate(arm).passed is False
    shrinking = arm_result(ARM, LOSSES, cells_of(CRITICAL[::-1]), measured_of(LOSSES, CRITICAL[::-1]))
    assert [verdict.passed for verdict in p4_growth(shrinking)] == [False, False]


def test_where_the_data_are_noisy_or_few_nothing_is_decided():
    few = arm_result(ARM, LOSSES, cells_of(CRITICAL)[:2], None)
    verdicts = [p1_hyperbola(few), p3_noise_scale(few), *p4_growth(few), p5_size([few]), p6_learning_rate(few)]
    assert {verdict.word for verdict in (*verdicts, p10_tokens(few), p12_branches(few))} == {"not decided"}
    noisy = arm_result(ARM, LOSSES, cells_of(CRITICAL, noise=0.7), measured_of(LOSSES, CRITICAL))
    assert p1_hyperbola(noisy).passed is None


def test_sizes_are_compared_at_equal_loss():
    def of(width: int, power: float):
        noise = [b * (width / 64) ** power * (1 + 0.01 * (-1) ** i) for i, b in enumerate(CRITICAL)]
        return arm_result({**ARM, "width": width}, LOSSES, [], measured_of(LOSSES, noise))

    assert p5_size([of(width, 0.0) for width in (32, 64, 128)]).passed
    depends = p5_size([of(width, 0.5) for width in (32, 64, 128)])
    assert depends.passed is False
    assert depends.found.value == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("power", "passed"), [(0.0, True), (1.0, False)])
def test_the_unit_is_found(power, passed):
    positions = {str(m): 1000 * float(m) ** (power - 1) for m in (1, 2, 5, 10)}  # in sequences
    arm = arm_result(ARM, LOSSES, cells_of(CRITICAL), measured_of(LOSSES, CRITICAL, positions))
    found = p10_tokens(arm)
    assert found.found.value == pytest.approx(power, abs=0.02)
    assert found.passed is passed


def test_branches_are_held_against_the_sweep():
    arm = arm_result(ARM, LOSSES, cells_of([320.0] * 4), measured_of(LOSSES, [320.0] * 4))
    found = p12_branches(arm)
    assert arm.measured[0].branched.value == pytest.approx(320, rel=0.05)
    assert found.found.value == pytest.approx(1, rel=0.1)
    assert found.passed


def test_a_rate_at_the_end_of_those_tried_says_nothing():
    cell = {"batch": 4, "context": 10, "trials": [{"rate": r, "steps": [s], "made": 99} for r, s in ((1, 9), (2, 8))]}
    assert len(tuned([cell], 0)[0]) == 0
    cell["trials"].append({"rate": 4, "steps": [None], "made": 20})
    runs, rates = tuned([cell], 0)
    assert runs.reached.all()
    assert runs.steps[0] <= 8
    assert 1 < rates[0] < 4
    never = {**cell, "trials": [{"rate": 1, "steps": [None], "made": 77}]}
    runs, _ = tuned([never], 0)
    assert (runs.steps[0], bool(runs.reached[0])) == (77, False)


def test_the_average_along_a_run_is_that_of_the_theory():
    exact = [Interval(100.0, 100.0, 100.0)] * 3
    assert trajectory_average([10, 20, 40], exact, 50).value == pytest.approx(100)
    # Noise that grows like the steps: E_min / S_min by quadrature, B = 100.
    steps = np.arange(1, 1001)
    worth = 1 / (1 + steps / 100)
    values = [Interval(float(s), float(s), float(s)) for s in steps]
    found = trajectory_average(steps.tolist(), values, 100)
    assert found.value == pytest.approx((steps * worth).sum() / worth.sum(), rel=0.02)
    assert math.isnan(trajectory_average([10], [Interval(math.nan, math.nan, math.nan)], 50).value)


def test_steps_that_are_worth_nothing_count_in_the_average():
    open_end, closed = Interval(100.0, 50.0, math.inf), Interval(100.0, 100.0, 100.0)
    assert trajectory_average([10], [open_end], 50).hi95 == math.inf
    # Worth 0 for the first ten steps and 1/3 in the end: far below infinity, above 100.
    found = trajectory_average([10, 1000], [open_end, closed], 50)
    assert found.value == pytest.approx(100)
    steps = np.arange(1, 1001)
    worth = np.interp(np.log(steps), np.log([10, 1000]), [0, 1 / 3])
    assert found.hi95 == pytest.approx(50 * (1 - worth).sum() / worth.sum(), rel=0.02)
    endless = Interval(math.inf, 50.0, math.inf)  # a value that lies beyond what was tried is none to leave out
    assert trajectory_average([10, 1000], [endless, closed], 50).value == pytest.approx(found.hi95)


def test_a_mean_of_ratios_knows_the_widths_and_the_spread():
    one = Interval(1.0, 1.0, 1.0)
    assert log_mean([(Interval(2.0, 2.0, 2.0), one)] * 2) == (Interval(2.0, 2.0, 2.0), 2)
    found, n = log_mean([(Interval(2.0, 1.0, 4.0), one)])
    assert (found.value, found.lo95, found.hi95, n) == pytest.approx((2.0, 1.0, 4.0, 1))
    shared, _ = log_mean([(Interval(2.0, 1.0, 4.0), one)] * 5)
    assert (shared.lo95, shared.hi95) == pytest.approx((1.0, 4.0))  # five losses of one run are no five runs
    assert log_mean([(Interval(2.0, 1.0, math.inf), one)])[0].hi95 == math.inf
    assert log_mean([(one, Interval(2.0, 1.0, math.inf))])[0].lo95 == 0
    assert math.isnan(log_mean([])[0].value)


def test_a_weighted_slope_does_not_follow_a_point_that_is_hardly_known():
    exact = [Interval(v, v / 1.01, v * 1.01) for v in (100.0, 200.0, 400.0, 800.0, 1600.0)]  # 1
    unknown = Interval(1000.0, 100.0, 10_000.0)
    x = [1.0, 2.0, 4.0, 8.0, 16.0, 0.5]
    plain, weighted = slope(x, [*exact, unknown]), slope(x, [*exact, unknown], weighted=True)
    assert weighted.value == pytest.approx(1, abs=0.01)
    assert 1 in weighted
    assert plain.value < 0.5
    assert weighted.hi95 - weighted.lo95 < 0.1 * (plain.hi95 - plain.lo95)


def test_only_an_interval_within_the_margin_proves_a_prediction():
    assert judge(Interval(1.0, 0.9, 1.1), (0.8, 1.25)) is True
    assert judge(Interval(1.0, 0.1, 9.0), (0.8, 1.25)) is None
    assert judge(Interval(2.0, 1.5, 9.0), (0.8, 1.25)) is False
    assert judge(Interval(math.nan, math.nan, math.nan), (0.8, 1.25)) is None


def test_squares_survive_json():
    kept = json.loads(json.dumps(squares_of(100.0)))
    assert read_squares(kept).b_simple().value == pytest.approx(100.0)
