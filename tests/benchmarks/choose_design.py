"""Which cells give the narrowest intervals for their seconds? Run by hand, before any training, about 20 minutes:

    python tests/benchmarks/choose_design.py

Each design's cost on this machine's cores comes from measured training speeds, what it would find from simulation: the
power mean fitted to the committed runs is the truth, a run's log loss has the seeds' noise found there, and the cells of
a width share misses. First the information matrix (`expected`), then fits of simulated tables (`simulated`), as sweep.py
makes them. Writes results/reference/scaling_laws/tuning/design.csv: a row per design and quantity, with the mean width of
its interval as a ratio to the first design's, and how much widths vary from table to table.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scaling_laws"), str(ROOT / "tests")]

from common.files import write_csv
from common.pool import Pool
from common.provenance import available_cores
from law_forms.forms import FORMS
from laws.parametric import CONSTANTS, HUBER_DELTA, least_loss, optimum_exponents
from laws.run_table import make_cells
from nets.cell_jobs import start_worker
from nets.flop_count import n_params, training_flops
from sweeping.grid import Cell, grid
from sweeping.sweep_runner import Sweep
from sweeping.sweep_settings import CommandLine, resolve
from synthetic_law import POWER_MEAN, fitted_intervals, sweep_macs, table_on

KEPT = ROOT / "results/reference/scaling_laws/tuning/design.csv"
NOISE, MISSES = 0.068, 0.016  # deviations of log loss: a run's over its seeds, and those that a width's cells share
COMPUTES = (1e11, 1e12)
TARGETS = ("a", "E", "L at 1e11", "L at 1e12")
DOUBLING = tuple(4e9 * 2**k for k in range(7))


@dataclass(frozen=True)
class Design:
    """Flags of sweep.py, and where not every cell has the same number of seeds, that of each budget."""

    flags: dict[str, Any]
    by_budget: dict[float, int] = field(default_factory=dict)

    def cells(self) -> list[tuple[Cell, int]]:
        """The cells, each with its number of seeds."""
        settings = resolve(CommandLine(**self.flags))
        return [(cell, self.by_budget.get(cell.budget, len(settings.seeds))) for cell in grid(settings)]


BEFORE = {
    "budgets": DOUBLING,
    "max_samples": 300_000,
    "min_samples": 2_500,
    "row_widths": (3, 6, 11),
    "row_halvings": (0, 1, 2, 3, 4),
    "column_widths": (2, 3, 4, 6, 8, 11, 16, 23),
    "column_halvings": (1,),
    "seeds": 3,
}
LEAN = {
    **BEFORE,
    "budgets": tuple(2e9 * 2**k for k in range(7)),
    "min_samples": 2_000,
    "max_samples": 220_000,
    "row_widths": (2,),
    "row_halvings": (1, 2, 3, 4),
    "column_widths": (6, 8, 11, 16),
    "column_halvings": (-1, 1),
}
FIVE = {**LEAN, "budgets": tuple(3e9 * 2.5**k for k in range(5))}
DESIGNS = {
    "committed: 4e9 to 2.56e11, 3 seeds": Design(BEFORE),
    "committed cells, 2 seeds": Design({**BEFORE, "seeds": 2}),
    "committed cells, 6 seeds at the smallest budgets, 2 at the largest": Design(
        BEFORE, dict(zip(DOUBLING, (6, 6, 4, 3, 3, 2, 2), strict=True))
    ),
    "committed cells without the largest budget": Design({**BEFORE, "budgets": DOUBLING[:-1]}),
    "4e9 to 2.56e11, column of 55,000": Design(
        {**LEAN, "budgets": DOUBLING, "column_widths": BEFORE["column_widths"][:-1], "column_halvings": (0,)}
    ),
    "2e9 to 1.28e11, columns of 27,500 and 110,000": Design(LEAN),
    "2e9 to 1.28e11, columns of 55,000 and 110,000": Design({**LEAN, "column_halvings": (-1, 0)}),
    "2e9 to 1.28e11, columns of 27,500 and 110,000, 2 seeds": Design({**LEAN, "seeds": 2}),
    "3e9 to 1.17e11 by 2.5, columns of 27,500 and 110,000": Design(FIVE),
    "3e9 to 1.17e11 by 2.5, columns of 55,000 and 110,000": Design({**FIVE, "column_halvings": (-1, 0)}),
    "3e9 to 1.17e11 by 2.5, up to 150,000 samples, columns of 27,500 and 110,000": Design(
        {**FIVE, "max_samples": 150_000}
    ),
    "3e9 to 1.17e11 by 2.5, up to 150,000 samples, column of 55,000, 4 seeds": Design(
        {**FIVE, "max_samples": 150_000, "seeds": 4, "column_halvings": (0,)}
    ),
}


def sizes_of(cells: list[tuple[Cell, int]]) -> tuple[np.ndarray, np.ndarray]:
    """N, D and C (3, K) of the cells, and their seeds (K,)."""
    columns = [(n_params(c.width), c.n_samples, training_flops(c.width, c.n_samples)) for c, _ in cells]
    return np.array(columns, dtype=float).T, np.array([seeds for _, seeds in cells])


def training_seconds(designs: dict[str, Design], folder: Path) -> dict[str, float]:
    """Wall-clock of each design's training and testing, all cores busy, from speeds measured now or kept in `folder`."""
    workers = available_cores()
    with Pool(workers, start_worker, (1,)) as pool:
        sweep = Sweep(resolve(CommandLine()), pool, workers, folder, folder, folder, "cpu")
        made = {name: design.cells() for name, design in designs.items()}
        sweep.measure_speeds([(cell, list(range(n))) for cells in made.values() for cell, n in cells])
        return {
            name: sum(sweep.seconds(cell, list(range(n))) for cell, n in cells) / workers
            for name, cells in made.items()
        }


# ---------------------------------------------------------------- the information matrix


def found(theta: np.ndarray) -> np.ndarray:
    """a, log E and the log of the least losses (4,) of parameters of the power mean, uncentred."""
    law: dict[str, float] = dict(zip(CONSTANTS, [*np.exp(theta[:3]), *theta[3:5], np.exp(theta[5])], strict=True))
    macs = sweep_macs()
    losses = [float(np.log(least_loss(flops, law, macs))) for flops in COMPUTES]
    return np.array([float(optimum_exponents(law["alpha"], law["beta"], macs.p)[0]), theta[0], *losses])


def expected_widths(cells: list[tuple[Cell, int]]) -> np.ndarray:
    """Half-widths (4,) of the targets' 95% intervals, from the covariance of a least-absolute-deviations fit.

    Huber's delta is far below the noise, so that is what the fit is: with Gaussian errors of covariance V and a Jacobian
    J, and f_k the density of error k at 0, (J'FJ)^-1 J' S J (J'FJ)^-1 / 4, S the covariance of the errors' signs.
    """
    (n, d, _), seeds = sizes_of(cells)
    theta = np.array([*np.log([POWER_MEAN[key] for key in "EAB"]), POWER_MEAN["alpha"], POWER_MEAN["beta"]])
    theta = np.append(theta, np.log(POWER_MEAN["q"]))
    jacobian = FORMS["power mean"].law(theta[None], np.stack([np.log(n), np.log(d), np.log(d)], 1))[1][0]
    z = (np.log(d) - np.log(d).mean()) / np.log(d).std()
    errors = np.diag(NOISE**2 / seeds) + MISSES**2 / 2 * (n[:, None] == n) * (1 + np.outer(z, z))
    deviation = np.sqrt(np.diag(errors))
    signs = 2 / np.pi * np.arcsin(np.clip(errors / np.outer(deviation, deviation), -1, 1))
    bread = np.linalg.inv(jacobian.T @ (jacobian / (deviation * np.sqrt(2 * np.pi))[:, None]))
    covariance = bread @ jacobian.T @ signs @ jacobian @ bread / 4
    steps = 1e-5 * np.eye(6)
    slopes = np.array([(found(theta + step) - found(theta - step)) / 2e-5 for step in steps])  # (6, 4)
    return 1.96 * np.sqrt(np.diag(slopes.T @ covariance @ slopes))


# ---------------------------------------------------------------- simulated tables


def simulated_widths(cells: list[tuple[Cell, int]], trials: int) -> np.ndarray:
    """Half-widths (trials, 4) of the intervals that sweep.py's fits give of simulated tables."""
    sizes, seeds = sizes_of(cells)
    widths = []
    for trial in range(trials):
        table, _ = make_cells(table_on(sizes, seeds, NOISE, MISSES, 30_000 + trial))
        _, intervals = fitted_intervals(table, POWER_MEAN, trial, HUBER_DELTA, COMPUTES)
        widths.append([(intervals[key]["hi95"] - intervals[key]["lo95"]) / 2 for key in TARGETS])
    return np.array(widths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--speeds", type=Path, help="a folder that keeps the measured speeds; default: measured anew")
    given = parser.parse_args()
    trials = given.trials
    with TemporaryDirectory() as empty:
        seconds = training_seconds(DESIGNS, given.speeds or Path(empty))
    rows: list[dict[str, Any]] = []
    first: dict[str, np.ndarray] = {}
    for name, design in DESIGNS.items():
        cells = design.cells()
        about = {
            "design": name,
            "cells": len(cells),
            "runs": sum(n for _, n in cells),
            "seconds": round(seconds[name], 1),
            "tables": trials,
        }
        simulated = simulated_widths(cells, trials)
        ratios = {}
        for kind, widths in (("expected", expected_widths(cells)), ("simulated", simulated.mean(0))):
            ratios[kind] = widths / first.setdefault(kind, widths)
        ratios["varies"] = simulated.std(0, ddof=1) / simulated.mean(0)
        for i, quantity in enumerate(TARGETS):
            rows.append({**about, "quantity": quantity, **{kind: round(float(r[i]), 3) for kind, r in ratios.items()}})
        print(*about.values(), *(np.round(r, 2) for r in ratios.values()), sep=" | ", flush=True)
        write_csv(KEPT, rows)


if __name__ == "__main__":
    main()
