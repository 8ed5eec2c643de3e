"""The forms of the law: gradients, their nesting, recovery, the optimum, and the choice by what was held out."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from law_forms.form_choice import LEAST_CELLS, Choice, HeldOut, Rival, best_of, compare_forms, q_is_free
from law_forms.form_fits import Law, bootstrap_form, fit_folds, fit_form, sizes_about
from law_forms.forms import FORMS, kaplan, power_mean
from law_forms.huber_solver import huber
from law_forms.shared_misses import shared_misses
from laws.parametric import MacsLaw, fit_parametric, least_loss, loss_law, optimum, profile_interval
from laws.predictive import make_predictive, weighted_percentiles
from laws.run_table import Cells, make_cells
from laws.seed_noise import cell_noise
from synthetic_law import LAW, POWER_MEAN, beyond_the_sweep, fitted_intervals, sweep_table, table

THETA: dict[str, list[float]] = {
    "additive": [-3.5, -4.0, -3.8, 0.9, 0.7],
    "power mean": [-3.5, -4.7, -4.2, 1.3, 0.9, math.log(0.5)],
    "Kaplan 1.5": [-3.0, -3.1, 0.6, 0.7],
    "Kaplan 1.5 with E": [-4.0, -3.0, -3.1, 0.6, 0.7],
    "interaction": [-3.5, -4.0, -3.8, 0.9, 0.7, -5.0],
    "data term with N": [-3.5, -4.0, -3.8, 0.9, 0.7, 0.2],
    "exponent varies with log N": [-3.5, -4.0, -3.8, 0.9, 0.7, 0.03],
    "after Farseer": [-3.5, -4.0, -3.8, 0.9, 0.7, 0.3, 0.1],
    "log-quadratic": [-2.6, -0.4, -0.3, 0.1, -0.03, 0.06],
}


def cells_of(**options: Any) -> Cells:
    return make_cells(sweep_table(**{"noise": 0.068, "seed": 0, **options}))[0]


def choose(cells: Cells) -> Choice:
    noise = cell_noise(cells)
    return compare_forms(cells.n_params, cells.n_samples, cells.flops, cells.log_loss, noise, noise)


# ---------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("name", FORMS)
def test_gradient_is_the_numerical_one(name):
    form, rng = FORMS[name], np.random.default_rng(0)
    x = sizes_about(np.array([8.5, 10.0]), np.exp(rng.normal(8.5, 0.8, 9)), np.exp(rng.normal(10, 1.2, 9)))
    theta = np.array(THETA[name])
    assert len(theta) == len(form.parameters)
    _, gradient = form.law(theta[None], x)
    for i in range(len(theta)):
        step = np.zeros(len(theta))
        step[i] = 1e-6
        up, down = form.law(theta[None] + step, x)[0], form.law(theta[None] - step, x)[0]
        assert gradient[0, :, i] == pytest.approx((up - down)[0] / 2e-6, abs=2e-6), form.parameters[i]


def test_the_formulae_at_a_point():
    """Each form, written out as its `formula` says, in centred sizes n = 0.7, d = -0.4, log D = 9.6."""
    n, d, log_d = 0.7, -0.4, 9.6
    x = np.array([[n, d, log_d]])
    e, a, b = (math.exp(value) for value in (-3.5, -4.0, -3.8))
    expected = {
        "additive": e + a * math.exp(-0.9 * n) + b * math.exp(-0.7 * d),
        "power mean": e + ((math.exp(-4.7 - 1.3 * n)) ** 0.5 + math.exp(-4.2 - 0.9 * d) ** 0.5) ** 2,
        "Kaplan 1.5": (math.exp(-3.0 - 0.6 * n) ** (1 / 0.7) + math.exp(-3.1 - 0.7 * d) ** (1 / 0.7)) ** 0.7,
        "interaction": e + a * math.exp(-0.9 * n) + b * math.exp(-0.7 * d) + math.exp(-5.0 - 0.9 * n - 0.7 * d),
        "data term with N": e + a * math.exp(-0.9 * n) + b * math.exp(-0.2 * n - 0.7 * d),
        "exponent varies with log N": e + a * math.exp(-0.9 * n) + b * math.exp(-0.7 * d - 0.03 * n * log_d),
        "after Farseer": e + a * math.exp(-0.9 * n) + b * math.exp(-0.3 * n - 0.7 * math.exp(0.1 * n) * d),
        "log-quadratic": math.exp(-2.6 - 0.4 * n - 0.3 * d + 0.1 * n * n - 0.03 * n * d + 0.06 * d * d),
    }
    expected["Kaplan 1.5 with E"] = math.exp(-4.0) + expected["Kaplan 1.5"]
    assert expected.keys() == FORMS.keys()
    for name, value in expected.items():
        found = FORMS[name].law(np.array(THETA[name])[None], x)[0][0, 0]
        assert math.exp(found) == pytest.approx(value), name


def test_kaplans_law_is_a_power_mean_without_e():
    x = np.array([[0.3, -1.0, 9.0], [-1.0, 0.8, 10.8]])
    theta = np.array([[-3.0, -3.1, 0.6, 0.7]])
    same = np.array([[-40.0, -3.0, -3.1, 0.6, 0.7, math.log(1 / 0.7)]])
    assert kaplan(theta, x)[0] == pytest.approx(power_mean(same, x)[0])


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_recovered_from_its_own_cells(name):
    cells = cells_of(noise=0.0)
    centre = np.array([np.log(cells.n_params).mean(), np.log(cells.n_samples).mean()])
    truth = Law(FORMS[name], np.array(THETA[name]), centre)
    log_loss = truth.log_loss(cells.n_params, cells.n_samples)
    fit = fit_form(FORMS[name], cells.n_params, cells.n_samples, log_loss, 0.03)
    assert fit.log_loss(cells.n_params, cells.n_samples) == pytest.approx(log_loss, abs=2e-4)


def test_folds_are_fits_to_the_rest():
    cells = cells_of()
    form = FORMS["power mean"]
    x = sizes_about(np.array([8.4, 10.0]), cells.n_params, cells.n_samples)
    kept = np.stack([cells.n_params != size for size in np.unique(cells.n_params)[:2]]).astype(float)
    folds = fit_folds(form, x, cells.log_loss, 0.04, kept)
    for row, theta in zip(kept > 0, folds, strict=True):
        alone = fit_form(form, cells.n_params[row], cells.n_samples[row], cells.log_loss[row], 0.04)
        sums = [
            huber(values[row] - cells.log_loss[row], 0.04).sum()
            for values in (form.law(theta[None], x)[0][0], alone.log_loss(cells.n_params, cells.n_samples))
        ]
        assert sums[0] == pytest.approx(sums[1], rel=1e-5)


# ---------------------------------------------------------------- the optimum of the power mean


@pytest.mark.parametrize("q", [0.3, 0.53, 1.0, 3.0])
@pytest.mark.parametrize("p", [1.0, 1.68])
def test_closed_form_of_the_power_mean_is_the_numerical_minimum(q, p):
    law, macs = {**POWER_MEAN, "q": q}, MacsLaw(0.055, p)

    def log_loss(log_n: float) -> float:
        n = math.exp(log_n)
        return math.log(
            loss_law(n, 1e11 / (6 * macs.k * n**p), *(law[k] for k in ("E", "A", "B", "alpha", "beta", "q")))
        )

    n, d = optimum(1e11, law, macs)
    found = minimize_scalar(log_loss, bracket=(math.log(n) - 1, math.log(n) + 0.7), tol=1e-12)
    assert math.log(n) == pytest.approx(found.x, abs=1e-4)
    assert 6 * macs.k * n**p * d == pytest.approx(1e11, rel=1e-9)
    assert float(least_loss(1e11, law, macs)) == pytest.approx(math.exp(log_loss(math.log(float(n)))), rel=1e-9)
    exponent = law["alpha"] * law["beta"] / (law["alpha"] + p * law["beta"])
    excess = [float(least_loss(c, law, macs)) - law["E"] for c in (1e11, 2e11)]
    assert math.log2(excess[0] / excess[1]) == pytest.approx(exponent)


# ---------------------------------------------------------------- the choice


def test_q_is_free_where_the_truth_has_it_and_not_where_it_is_one():
    free = [q_is_free(choose(cells_of(seed=seed))) for seed in range(4)]
    fixed = [q_is_free(choose(cells_of(seed=seed, law=LAW))) for seed in range(4)]
    assert sum(free) >= 3
    assert sum(fixed) <= 1


def test_without_noise_the_simplest_true_form_is_chosen():
    assert choose(make_cells(sweep_table(noise=1e-5, seed=0, law=LAW))[0]).name == "additive"
    assert choose(make_cells(sweep_table(noise=1e-5, seed=0))[0]).name == "power mean"


def test_too_few_cells_are_not_compared():
    choice = choose(cells_of(few=True))
    assert choice.name == "additive"
    assert choice.rivals == []
    assert f"26 cells are too few to compare forms ({LEAST_CELLS} are needed)" in choice.reason
    assert choice.weights(5) == {"additive": 0.5, "power mean": 0.5}


def test_large_budgets_are_predicted_from_small_ones_only():
    """Other losses at the large budgets change no prediction of them."""
    cells = cells_of()
    found = {}
    for factor in (1.0, 2.0):
        log_loss = np.where(cells.flops > cells.flops.max() / 8.2, cells.log_loss + math.log(factor), cells.log_loss)
        choice = compare_forms(cells.n_params, cells.n_samples, cells.flops, log_loss, 0.04, 0.04)
        rival = next(rival for rival in choice.rivals if rival.name == "power mean")
        part = next(part for part in rival.held_out if part.name == "C <= C_max / 8")
        assert part.trained_on + len(part.rows) == len(cells.log_loss)
        found[factor] = part.errors + log_loss[part.rows]
    assert found[1.0] == pytest.approx(found[2.0], abs=1e-5)


def rival(name: str, parameters: int, error: float) -> Rival:
    return Rival(name, parameters, 0.0, 1.0, 0.0, [HeldOut("x", 40, np.arange(2), np.array([error, -error]))])


def test_the_rule_by_hand():
    rivals = [rival("additive", 5, 0.059), rival("power mean", 6, 0.050), rival("after Farseer", 7, 0.047)]
    assert best_of(rivals) == "power mean"  # within a tenth of the least, with fewer parameters
    assert not q_is_free(Choice("power mean", "", rivals, 63))  # 0.059 is less than a fifth above 0.050
    assert q_is_free(Choice("power mean", "", [rival("additive", 5, 0.061), *rivals[1:]], 63))
    weights = Choice("power mean", "", rivals, 63).weights(8)
    assert sum(weights.values()) == pytest.approx(1)
    raw = [1.0, math.exp(-4 * ((0.059 / 0.047) ** 2 - 1))]
    assert weights["power mean"] == pytest.approx(weights["after Farseer"])  # the chosen one counts as the best
    assert weights["additive"] / weights["power mean"] == pytest.approx(raw[1])


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    "options", [{}, {"misses": 0.04}, {"seeds": 1}, {"seeds": 2, "few": True}], ids=["noise", "misses", "1 seed", "few"]
)
def test_coverage_under_the_power_mean(options):
    """Eight of the 200 tables of tests/benchmarks/recovery.py, the choice of q included."""
    hits = []
    for seed in range(8):
        cells = cells_of(seed=10_000 + seed, **options)
        truth, found = fitted_intervals(cells, POWER_MEAN, seed)
        hits.append([item["lo95"] <= truth[key] <= item["hi95"] for key, item in found.items()])
    assert np.mean(hits) >= 0.85


def test_new_cells_fall_into_their_prediction_intervals():
    hits = []
    for seed in range(8):
        runs, beyond = beyond_the_sweep(0.068, 0.02, seed)
        cells, _ = make_cells(runs)
        predictive = make_predictive(cells, choose(cells), cell_noise(cells))
        for n, d, log_loss in beyond:
            low, high = weighted_percentiles(*predictive.draws(n, d, 3))
            hits.append(low <= log_loss <= high)
    assert sum(hits) >= 21  # of 24


def test_shared_misses_are_found_and_told_from_noise():
    found = {}
    for misses in (0.0, 0.1):
        means = []
        for seed in range(6):
            cells = cells_of(seed=seed, misses=misses)
            law = fit_form(FORMS["power mean"], cells.n_params, cells.n_samples, cells.log_loss, 0.04)
            residual = cells.log_loss - law.log_loss(cells.n_params, cells.n_samples)
            jacobian = law.form.law(law.theta[None], law.sizes(cells.n_params, cells.n_samples))[1][0]
            part = shared_misses(jacobian, residual, cells.n_params, cells.n_samples, cell_noise(cells))
            means.append(part.tau @ part.weight)
        found[misses] = np.mean(means)
    assert found[0.0] < 0.02
    assert 0.06 < found[0.1] < 0.16


def test_restricted_likelihood_is_the_dense_one():
    """Woodbury's shortcut against plain matrices, up to a constant, where the noise is known."""
    rng = np.random.default_rng(0)
    n, d = np.repeat([1e3, 2e3, 4e3, 8e3], 5), np.tile(np.geomspace(1e3, 1e5, 5), 4)
    jacobian, residual = rng.normal(size=(20, 3)), rng.normal(0, 0.05, 20)
    part = shared_misses(jacobian, residual, n, d, 0.04)
    logs = []
    for tau in part.tau:
        v = 0.04**2 * np.eye(20) + tau**2 * part.design @ part.design.T
        inverse = np.linalg.inv(v)
        inside = jacobian.T @ inverse @ jacobian
        left = residual @ inverse @ residual
        left -= residual @ inverse @ jacobian @ np.linalg.solve(inside, jacobian.T @ inverse @ residual)
        log_det = np.linalg.slogdet(v)[1] + np.linalg.slogdet(inside)[1]
        logs.append(-(log_det + left) / 2 - math.log1p((tau / 0.04) ** 2))
    dense = np.exp(np.array(logs) - max(logs))
    assert part.weight == pytest.approx(dense / dense.sum(), abs=1e-6)


def test_profile_interval_of_e_covers_and_stops_at_zero():
    hits = 0
    for seed in range(12):
        cells = cells_of(seed=seed)
        low, high = profile_interval(cells, fit_parametric(cells, cell_noise(cells), MacsLaw(), draws=2, free_q=True))
        hits += low <= POWER_MEAN["E"] <= high
    assert hits >= 10
    cells = make_cells(table(noise=0.05, seeds=3, E=0.0))[0]
    assert profile_interval(cells, fit_parametric(cells, 0.03, MacsLaw(), draws=2))[0] == 0


def test_percentiles_with_weights():
    values, weights = np.array([3.0, 1.0, 2.0, 10.0]), np.array([1.0, 1.0, 1.0, 97.0])
    assert weighted_percentiles(values, weights, (2.5, 50.0)) == [3.0, 10.0]


def test_bootstrap_of_a_form_starts_at_its_fit():
    cells = cells_of()
    law = fit_form(FORMS["power mean"], cells.n_params, cells.n_samples, cells.log_loss, 0.04)
    draws = bootstrap_form(law, cells.n_params, cells.n_samples, np.zeros((3, len(cells.log_loss))), 0.04)
    assert draws == pytest.approx(np.repeat(law.theta[None], 3, 0), abs=1e-6)
