"""All fits of one table of runs: what the report writes and draws."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from law_forms.form_choice import FEWEST_FOR_Q, Choice, compare_forms, q_is_free
from law_forms.form_fits import fit_folds
from laws.envelope import envelope, envelope_exponent
from laws.isoflop import IsoFlop, fit_isoflop, isoflop_groups, through_minima
from laws.parametric import (
    HUBER_DELTA,
    MacsLaw,
    Parametric,
    cell_draws,
    check_table,
    fit_parametric,
    macs_law,
    optimum_exponents,
    profile_interval,
)
from laws.power_law import PowerLaw, fit_power_law
from laws.power_sum import Array
from laws.predictive import Predictive, make_predictive
from laws.run_table import CHANCE_LOSS, Cells, Runs, Table, make_cells, read_table
from laws.seed_noise import DRAWS, cell_noise, interval, noise_draws

MOST_FOLDS = 12  # sizes that are left out one at a time; with more than that, neighbours go together


@dataclass(frozen=True)
class Analysis:
    """Everything that the figures and the paragraph need."""

    table: Table
    cells: Cells
    n_near_chance: int
    noise: Array  # (DRAWS, cells) of log loss
    macs: MacsLaw
    parametric: Parametric
    parametric_at_noise: Parametric  # the same law with Huber's delta at the noise
    other_q: Parametric | None  # the law with q free where `parametric` has q = 1, and the other way round
    e_profile: tuple[float, float]
    choice: Choice
    predictive: Predictive
    a_without_one_size: dict[str, float] | None  # the least and the largest
    lines: list[IsoFlop]
    lines_left_out: list[tuple[float, str]]  # compute, and why
    isoflop: dict[str, Any] | None  # intervals of the exponents a and b, and of N and D at `reference_flops`
    frontier: dict[str, Any] | None  # interval of the exponent a
    frontier_sizes: tuple[Array, Array]  # C and the best N there, of the frontier
    by_compute: PowerLaw | None
    by_params: list[tuple[float, PowerLaw]]  # each at a number of samples
    by_samples: list[tuple[float, PowerLaw]]  # each at a number of parameters
    error_rate: PowerLaw | None

    @property
    def reference_flops(self) -> float:
        """The compute that the formulae are written around."""
        return middle_power_of_ten(self.cells)

    @property
    def example_flops(self) -> float:
        """The largest power of ten that does not exceed the largest run's compute."""
        return 10.0 ** math.floor(math.log10(float(self.cells.flops.max())) + 1e-9)


def analyse(table: Table, delta: float, chance_loss: float = math.inf, seed: int = 0) -> Analysis:
    """All fits of a table; `chance_loss` is what guessing costs, infinite where that is not known."""
    cells, n_near_chance = make_cells(table.runs, chance_loss)
    macs = macs_law(cells.n_params, cells.flops / (6 * cells.n_samples))
    check_table(cells)
    additive = fit_parametric(cells, delta, macs, seed=seed)
    spread = max(cell_noise(cells) if len(cells.residuals) else additive.misfit, 1e-6)
    noise_known = cell_noise(cells) if len(cells.residuals) else math.nan
    choice = compare_forms(cells.n_params, cells.n_samples, cells.flops, cells.log_loss, spread, noise_known)
    free = fit_parametric(cells, delta, macs, seed=seed, free_q=True) if len(cells.log_loss) >= FEWEST_FOR_Q else None
    parametric, other = (free, additive) if free and q_is_free(choice) else (additive, free)
    at_noise = fit_parametric(cells, spread, macs, seed=seed, free_q=parametric.free_q)
    rng = np.random.default_rng(seed)
    residuals = cells.residuals
    if not len(residuals):  # one seed per cell: the law's own residuals stand in for the seeds'
        residuals = rng.normal(0, parametric.misfit, 1000)
    noise = noise_draws(residuals, cells.seeds, DRAWS, rng)
    lines, left_out = isoflop_lines(cells, noise)
    log_c, log_n, _ = (row.ravel() for row in envelope(cells, cells.log_loss[None]))
    enough = len(lines) >= 3
    return Analysis(
        table=table,
        cells=cells,
        n_near_chance=n_near_chance,
        noise=noise,
        macs=macs,
        parametric=parametric,
        parametric_at_noise=at_noise,
        other_q=other,
        e_profile=profile_interval(cells, at_noise),
        choice=choice,
        predictive=make_predictive(cells, choice, spread, seed),
        a_without_one_size=_without_one_size(cells, delta, macs, parametric),
        lines=lines,
        lines_left_out=left_out,
        isoflop=_through_lines(lines, middle_power_of_ten(cells)) if enough else None,
        frontier=_frontier(cells, at_noise, seed),
        frontier_sizes=(np.exp(log_c)[np.isfinite(log_n)], np.exp(log_n)[np.isfinite(log_n)]),
        by_compute=_by_compute(lines, delta) if enough else None,
        by_params=_slices(cells, cells.n_samples, cells.n_params, noise, delta, most=2),
        by_samples=_slices(cells, cells.n_params, cells.n_samples, noise, delta, most=3),
        error_rate=_error_rate(cells, lines, rng) if enough else None,
    )


def _frontier(cells: Cells, fit: Parametric, seed: int) -> dict[str, Any] | None:
    """Approach 1's exponent; what the cells differ from the law by is drawn as for the law's own intervals."""
    sizes = cells.n_params, cells.n_samples
    log_loss = fit.law.log_loss(*sizes)
    noise, *_ = cell_draws(cells, fit.law, cells.log_loss - log_loss, DRAWS, np.random.default_rng(seed))
    found = envelope_exponent(cells, log_loss, noise, fit.value["a"])
    return {"a": found} if found else None


def middle_power_of_ten(cells: Cells) -> float:
    """The power of ten nearest to the middle of the runs' compute, in logs."""
    return 10.0 ** round(float(np.log10(cells.flops).mean()))


def isoflop_lines(cells: Cells, noise: Array) -> tuple[list[IsoFlop], list[tuple[float, str]]]:
    lines, left_out = [], []
    for group in isoflop_groups(cells):
        line = fit_isoflop(cells, group, noise)
        if isinstance(line, IsoFlop):
            lines.append(line)
        else:
            left_out.append((float(np.exp(np.log(cells.flops[group]).mean())), line))
    return lines, left_out


def _through_lines(lines: list[IsoFlop], flops: float) -> dict[str, Any]:
    """Exponents of N_opt and D_opt through the minima, and both at a compute."""
    found = {}
    for key, column in (("a", 0), ("b", 1)):
        log_scale, exponent, scales, exponents = through_minima(lines, column)
        log_c = math.log(flops)
        found[key] = interval(exponents, exponent)
        found["ND"[column]] = interval(np.exp(scales + exponents * log_c), math.exp(log_scale + exponent * log_c))
    return found


def _by_compute(lines: list[IsoFlop], delta: float) -> PowerLaw | None:
    """L(C) through the lines' least losses."""
    flops = np.array([line.flops for line in lines])
    loss = np.array([line.log_loss for line in lines])
    scatter = np.stack([line.draws[:, 2] - np.nanmedian(line.draws[:, 2]) for line in lines], 1)
    scatter = scatter[np.isfinite(scatter).all(1)]
    return fit_power_law(flops, loss, scatter, delta) if len(scatter) >= 100 else None


def _slices(
    cells: Cells, fixed: Array, running: Array, noise: Array, delta: float, most: int, smallest: int = 4
) -> list[tuple[float, PowerLaw]]:
    """Loss against `running` at the `most` values of `fixed` that have most cells, and at least `smallest` of them."""
    values, counts = np.unique(fixed, return_counts=True)
    by_count = [i for i in np.argsort(-counts, kind="stable") if counts[i] >= smallest]
    found = []
    for value in sorted(values[by_count[:most]]):
        rows = np.flatnonzero(fixed == value)
        rows = rows[np.argsort(running[rows])]
        found.append((float(value), fit_power_law(running[rows], cells.log_loss[rows], noise[:, rows], delta)))
    return found


def _error_rate(cells: Cells, lines: list[IsoFlop], rng: np.random.Generator) -> PowerLaw | None:
    """Error rate against compute, at each budget that of the cell with the least loss."""
    best = np.array([line.rows[np.argmin(cells.log_loss[line.rows])] for line in lines])
    best = best[np.isfinite(cells.log_error[best])]
    if len(best) < 3 or not len(cells.error_residuals):
        return None
    noise = noise_draws(cells.error_residuals, cells.seeds[best], DRAWS, rng)
    return fit_power_law(cells.flops[best], cells.log_error[best], noise, 1e-3)


def _without_one_size(cells: Cells, delta: float, macs: MacsLaw, fit: Parametric) -> dict[str, float] | None:
    """The least and largest exponent a when one size at a time is left out: how much hangs on a single width."""
    sizes = np.unique(cells.n_params)
    groups = np.array_split(sizes, min(MOST_FOLDS, len(sizes)))
    kept = np.array([~np.isin(cells.n_params, group) for group in groups])
    enough = len(fit.law.theta) + 1
    if len(groups) < 4 or kept.sum(1).min() < enough or any(len(np.unique(cells.n_samples[row])) < 3 for row in kept):
        return None
    x = fit.law.sizes(cells.n_params, cells.n_samples)
    theta = fit_folds(fit.law.form, x, cells.log_loss, delta, kept.astype(float))
    if not np.all(theta[:, 3:5] > 0):
        return None
    found = np.asarray(optimum_exponents(theta[:, 3], theta[:, 4], macs.p)[0])
    return {"least": float(found.min()), "largest": float(found.max())}


# ---------------------------------------------------------------- a sweep


def analyse_sweep(folder: Path) -> Analysis:
    """All fits of a sweep's runs.csv, as `fit.py` makes them where no flag is given."""
    return analyse(read_table(folder / "runs.csv"), HUBER_DELTA, CHANCE_LOSS)


def lines_so_far(rows: list[dict[str, Any]], budgets: list[float]) -> tuple[Cells, list[IsoFlop]]:
    """The cells of the `rows` so far, and those lines of the `budgets` (FLOP) that have a minimum, without intervals."""
    ok = [row for row in rows if row["status"] == "ok"]
    n, d, loss, flops = (np.array([row[key] for row in ok]) for key in ("n_params", "n_samples", "test_loss", "flops"))
    cells, _ = make_cells(Runs(n, d, loss, flops, np.full(len(ok), math.nan)), CHANCE_LOSS)
    exact = np.zeros((1, len(cells.log_loss)))
    lines = []
    for group in isoflop_groups(cells):
        compute = float(np.exp(np.log(cells.flops[group]).mean()))
        if any(abs(math.log(compute / budget)) < 0.02 for budget in budgets):
            line = fit_isoflop(cells, group, exact)
            lines += [line] if isinstance(line, IsoFlop) else []
    return cells, lines
