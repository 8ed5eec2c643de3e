"""The fits of the trade-off between steps and examples against exact curves and a problem with a known answer."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critical_batch.batch_laws import (
    Runs,
    branched_noise,
    fit_hyperbola,
    fit_steps,
    learning_rate_law,
    lowest,
    power_law,
    steps_needed,
)

BATCHES = 4.0 ** np.arange(6)


def all_reached(batch: np.ndarray, steps: np.ndarray) -> Runs:
    return Runs(batch, steps, np.ones(len(batch), bool))


@given(st.floats(1, 1e5), st.floats(0.3, 3e3))
@settings(max_examples=50, deadline=None)
def test_the_two_forms_of_the_trade_off_are_one(s_min, b_crit):
    steps = steps_needed(BATCHES, s_min, b_crit)
    e_min = s_min * b_crit  # eq. 2.12
    np.testing.assert_allclose((steps / s_min - 1) * (BATCHES * steps / e_min - 1), 1, rtol=1e-9)


@given(st.floats(1, 1e5), st.floats(2, 500))
@settings(max_examples=50, deadline=None)
def test_an_exact_hyperbola_is_found(s_min, b_crit):
    found = fit_steps(all_reached(BATCHES, steps_needed(BATCHES, s_min, b_crit)))
    assert found == pytest.approx((s_min, b_crit, 1.0), rel=1e-4)


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.4])
def test_another_exponent_is_found(exponent):
    steps = steps_needed(BATCHES, 100, 30, exponent)
    assert fit_steps(all_reached(BATCHES, steps), free=True) == pytest.approx((100, 30, exponent), rel=1e-3)


def test_a_run_that_was_cut_off_only_says_that_it_needs_more():
    steps = steps_needed(BATCHES, 100, 30)
    reached = np.array([False, True, True, True, True, True])
    cut = np.where(reached, steps, 500)  # of 3,100
    assert fit_steps(Runs(BATCHES, cut, reached)) == pytest.approx((100, 30, 1), rel=1e-4)
    assert fit_steps(Runs(BATCHES, cut, np.ones(6, bool)))[1] < 20  # taken for an arrival it would mislead
    late = np.where(reached, steps, 10_000)  # more than the others allow: an error
    assert fit_steps(Runs(BATCHES, late, reached))[1] > 40


def test_too_few_runs_are_refused():
    with pytest.raises(ValueError, match="1 runs reached"):
        fit_steps(Runs(BATCHES, np.ones(6), np.arange(6) == 0))


SLOW = 0.01  # of the best rate, so that even the largest batch takes many steps, as the theory of small steps has it


def sgd_on_a_noisy_quadratic(batch: float, goal: float, trace: float, seed: int, dimension: int = 400) -> float:
    """Steps of SGD on L = |x|^2 / 2 from 1 to `goal`, with noise N(0, trace / dimension) per example and coordinate."""
    random = np.random.default_rng(seed)
    x = np.full(dimension, np.sqrt(2 / dimension))
    steps, before, now = 0, 1.0, 1.0
    while now > goal:
        rate = SLOW / (1 + trace / (x @ x) / batch)  # McCandlish et al. 2018, section 2
        x = x - rate * (x + random.normal(size=dimension) * np.sqrt(trace / dimension / batch))
        steps, before, now = steps + 1, now, x @ x / 2
    return steps - np.log(goal / now) / np.log(before / now)


def test_b_crit_of_a_noisy_quadratic_is_the_analytic_one():
    """At k times the best rate, dL / L = -(2 k - k^2) / (1 + B_noise / B) a step, and B_noise = tr / (2 L). Integrated from
    L = 1 to L_1 (appendix D.1): S = S_min (1 + B_crit / B) with S_min = log(1 / L_1) / (2 k - k^2) and B_crit =
    tr / 2 (1 / L_1 - 1) / log(1 / L_1).
    """
    goal, trace = 0.25, 4000.0
    s_min = np.log(1 / goal) / (2 * SLOW - SLOW**2)
    b_crit = trace / 2 * (1 / goal - 1) / np.log(1 / goal)
    batches = np.repeat(b_crit * 4.0 ** np.arange(-2, 3), 3)
    steps = [sgd_on_a_noisy_quadratic(B, goal, trace, seed) for seed, B in enumerate(batches)]
    found = fit_hyperbola(all_reached(batches, np.array(steps)))
    assert b_crit in found.b_crit
    assert found.b_crit.hi95 < 1.3 * found.b_crit.lo95
    assert found.s_min.value == pytest.approx(s_min, rel=0.05)
    assert 1.0 in found.exponent


@pytest.mark.parametrize("n", [4, 6])
def test_the_intervals_cover_the_truth(n):
    random = np.random.default_rng(0)
    covered = np.zeros(3)
    for _ in range(200):
        steps = steps_needed(BATCHES[:n], 100, 30) * np.exp(0.05 * random.normal(size=n))
        found = fit_hyperbola(all_reached(BATCHES[:n], steps))
        covered += [30 in found.b_crit, 100 in found.s_min, 1 in found.exponent]
    assert (covered >= 180).all()  # 190 expected
    assert (covered[:2] <= 199).all()


def test_where_nothing_bends_the_interval_has_no_end():
    serial = fit_hyperbola(all_reached(BATCHES, 5000 / BATCHES))  # every batch uses its examples equally well
    assert serial.b_crit.hi95 == np.inf
    assert serial.s_min.lo95 < 0.1
    parallel = fit_hyperbola(all_reached(BATCHES, np.full(6, 100.0)))  # no batch saves a step
    assert parallel.b_crit.lo95 == 0
    assert 100 in parallel.s_min


def test_a_cut_off_run_widens_nothing_but_one_side():
    steps = steps_needed(BATCHES, 100, 30) * np.array([1, 1.02, 0.99, 1.01, 0.98, 1])
    cut = Runs(BATCHES, np.where(BATCHES == 1, 2500.0, steps), BATCHES != 1)
    found = fit_hyperbola(cut)
    assert 30 in found.b_crit
    assert found.b_crit.value == pytest.approx(30, rel=0.15)


def test_the_lowest_point_of_a_parabola():
    x = np.array([-1.0, 0.0, 2.0, 3.0])
    assert lowest(x, 5 + 2 * (x - 0.7) ** 2) == pytest.approx((0.7, 5.0, True))
    assert lowest(x, x) == (-1.0, -1.0, False)
    assert lowest([0, 1, 2], [3.0, 1.0, np.inf]) == (1.0, 1.0, True)
    assert lowest([0, 1, 2], [1.0, 1.0, 1.0])[2] is False


def test_laws_are_found():
    L = np.array([2.6, 2.4, 2.2, 2.0])
    assert power_law(L, 2e5 * L**-4.8) == pytest.approx((2e5, -4.8))


def test_the_weights_of_a_power_law_are_those_of_repeated_points():
    L, y = np.array([1.0, 2.0, 4.0, 8.0]), np.array([3.0, 5.0, 14.0, 20.0])
    repeated = power_law(np.repeat(L, [1, 2, 3, 1]), np.repeat(y, [1, 2, 3, 1]))
    assert power_law(L, y, [1, 2, 3, 1]) == pytest.approx(repeated)


def test_the_learning_rate_law_is_found_across_losses_that_not_all_batches_reached():
    for truth in (0.5, 1.0):
        batch = np.concatenate([BATCHES, BATCHES[:4]])
        groups = np.repeat([2.0, 1.8], [6, 4])
        rates = np.where(groups == 2.0, 0.3, 0.1) / (1 + 20 / batch) ** truth
        b_star, alpha = learning_rate_law(batch, rates, groups)
        assert b_star == pytest.approx(20, rel=0.1)
        assert alpha.value == pytest.approx(truth, abs=0.03)
        assert truth in alpha
        assert alpha.hi95 - alpha.lo95 < 0.3
    one_sided = learning_rate_law(BATCHES[:4], 0.1 * (1 + 0.2 * np.array([1, -1, 1, -1])), np.zeros(4))[1]
    assert one_sided.hi95 == np.inf


# ---------------------------------------------------------------- branched training


@given(st.floats(8, 300))
@settings(deadline=None)
def test_the_progress_of_branches_gives_the_noise_scale(noise):
    branches = [(int(B), [2.4 - 0.3 / (1 + B / noise) + luck for luck in (-1e-4, 1e-4)]) for B in 2 ** np.arange(2, 12)]
    found = branched_noise(branches, 2.4)
    assert found.value == pytest.approx(noise, rel=0.1)  # straight lines between batches a factor of two apart
    assert found.lo95 <= found.value <= found.hi95 < 1.3 * noise
    assert branched_noise(branches[::-1], 2.4) == found


def test_branches_on_a_plateau_are_held_against_the_best_of_them():
    losses = [1.9, 1.88, 1.9, 1.95, 2.1]  # gains 0.1, 0.12, 0.1, 0.05, and what was learnt is lost
    found = branched_noise([(2**k, [x, x]) for k, x in enumerate(losses, 3)], 2.0)
    assert found.value == pytest.approx(32 * 2 ** (0.04 / 0.05))
    assert found.lo95 == found.hi95 == found.value  # the orders do not differ


def test_the_interval_of_branches_covers_what_they_were_drawn_from():
    random, sizes, inside = np.random.default_rng(0), 2 ** np.arange(2, 10), 0
    for draw in range(200):
        means = 2.4 - 0.3 / (1 + sizes / 60)
        branches = [(int(B), list(m + 0.01 * random.normal(size=2))) for B, m in zip(sizes, means, strict=True)]
        inside += 60 in branched_noise(branches, 2.4, draw)
    assert 0.88 <= inside / 200 <= 0.995


def test_branches_that_all_make_progress_give_a_lower_end_alone():
    found = branched_noise([(1, [2.0, 2.0]), (4, [2.04, 2.06]), (16, [2.18, 2.2])], 2.4)
    assert found.value == found.hi95 == math.inf
    assert 8 < found.lo95 < 16  # where half the progress of the best, 0.2, may be made


def test_branches_that_say_nothing_give_no_number():
    assert branched_noise([(1, [2.0, 2.0]), (4, [2.0, 2.1]), (16, [2.0, 2.0])], 2.4).value == math.inf
    for losses in ([], [[2.0, 2.0], [2.1, 2.0]], [[2.5, 2.5], [2.6, 2.5], [2.7, 2.6]], [[2.0], [2.1], [2.4]]):
        assert math.isnan(branched_noise([(4**k, found) for k, found in enumerate(losses)], 2.4).value)
