"""Do the 95% intervals cover, and are they no wider than they must be? Run by hand, about half an hour on one core:

    python tests/benchmarks/recovery.py

Synthetic tables on the cells of the default sweep, of the law fitted there (a power mean) and of Hoffmann et al.'s, with
the seeds' noise, with misses that the cells of a width share, with one seed, with few cells; rectangular grids for the
envelope; and cells beyond the table for the prediction intervals. Writes results/reference/scaling_laws/coverage.csv:
a row per case and quantity with the number of intervals that cover, and their half-width in units of 1.96 deviations.
Cases that the file has are not made again: delete it to start anew.
"""

import argparse
import csv
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scaling_laws"), str(ROOT / "tests")]

from common.files import write_csv
from law_forms.form_choice import compare_forms
from laws.envelope import envelope_exponent
from laws.parametric import MacsLaw, cell_draws, fit_parametric
from laws.predictive import make_predictive, weighted_percentiles
from laws.run_table import make_cells
from laws.seed_noise import cell_noise
from synthetic_law import LAW, POWER_MEAN, beyond_the_sweep, fitted_intervals, sweep_macs, sweep_table, table

KEPT = ROOT / "results/reference/scaling_laws/coverage.csv"
NOISE = 0.068  # of a run's log loss over seeds, as in the committed runs
CASES: dict[str, dict[str, Any]] = {
    "power mean, 3 seeds": {},
    "power mean, 3 seeds, delta 1e-3": {"delta": 1e-3},
    "power mean, misses half the noise of a cell": {"misses": 0.02},
    "power mean, misses as large as the noise of a cell": {"misses": 0.04},
    "power mean, one seed": {"seeds": 1},
    "power mean, one seed, misses": {"seeds": 1, "misses": 0.04},
    "power mean, few cells (26), 2 seeds": {"seeds": 2, "few": True},
    "q = 1, 3 seeds": {"law": LAW},
    "q = 1, misses as large as the noise of a cell": {"law": LAW, "misses": 0.04},
}


def parametric(name: str, options: dict[str, Any], trials: int) -> list[dict[str, Any]]:
    """Coverage of the parametric law's intervals, as fit.py gives them, over synthetic tables of one case."""
    covered, widths, values = [], [], []
    found: dict[str, Any] = {}
    for trial in range(trials):
        made = {name: value for name, value in options.items() if name != "delta"}
        cells, _ = make_cells(sweep_table(noise=NOISE, seed=10_000 + trial, **made))
        truth, found = fitted_intervals(cells, options.get("law", POWER_MEAN), trial, options.get("delta"))
        covered.append([item["lo95"] <= truth[key] <= item["hi95"] for key, item in found.items()])
        widths.append([(item["hi95"] - item["lo95"]) / 2 for item in found.values()])
        values.append([item["value"] for item in found.values()])
    spread = np.std(values, axis=0, ddof=1)
    return [
        {
            "case": name,
            "quantity": key,
            "trials": trials,
            "covered": int(np.sum(covered, axis=0)[i]),
            "half_width_per_1.96_sd": float(np.mean(widths, axis=0)[i] / (1.96 * spread[i])),
        }
        for i, key in enumerate(found)
    ]


def frontier(name: str, runs: Any, true: float, macs: MacsLaw, free_q: bool, trials: int) -> list[dict[str, Any]]:
    """Coverage of the envelope's interval; `runs(seed=…)` makes a table."""
    hits = 0
    for trial in range(trials):
        cells, _ = make_cells(runs(seed=trial))
        fit = fit_parametric(cells, cell_noise(cells), macs, draws=2, free_q=free_q)
        law = fit.law.log_loss(cells.n_params, cells.n_samples)
        noise, *_ = cell_draws(cells, fit.law, cells.log_loss - law, 400, np.random.default_rng(trial))
        found = envelope_exponent(cells, law, noise, fit.value["a"])
        hits += found is not None and found["lo95"] is not None and found["lo95"] <= true <= found["hi95"]
    return [{"case": name, "quantity": "a of the envelope", "trials": trials, "covered": hits}]


def predictions(name: str, misses: float, trials: int) -> list[dict[str, Any]]:
    """Coverage of prediction intervals for cells of 2 to 8 times the largest compute, the form chosen on each table."""
    hits = cells_seen = 0
    for trial in range(trials):
        runs, beyond = beyond_the_sweep(NOISE, misses, seed=20_000 + trial)
        cells, _ = make_cells(runs)
        noise = cell_noise(cells)
        choice = compare_forms(cells.n_params, cells.n_samples, cells.flops, cells.log_loss, noise, noise)
        predictive = make_predictive(cells, choice, noise)
        for n, d, log_loss in beyond:
            low, high = weighted_percentiles(*predictive.draws(n, d, 3))
            hits += low <= log_loss <= high
            cells_seen += 1
    return [{"case": name, "quantity": "loss of a new cell", "trials": cells_seen, "covered": hits}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    few = max(20, trials // 2)
    macs = sweep_macs()
    true = POWER_MEAN["beta"] / (POWER_MEAN["alpha"] + macs.p * POWER_MEAN["beta"])
    todo: dict[str, Callable[[], list[dict[str, Any]]]] = {
        name: partial(parametric, name, options, trials) for name, options in CASES.items()
    }
    for misses in (0.0, 0.04):
        name, runs = f"the sweep's cells, misses {misses:g}", partial(sweep_table, NOISE, misses=misses)
        todo[name] = partial(frontier, name, runs, true, macs, True, few)
    for sides in (6, 8, 12):
        name, runs = f"rectangular grid {sides} x {sides}", partial(table, 0.03, 3, sides=sides)
        todo[name] = partial(frontier, name, runs, 0.55, MacsLaw(), False, few)
    for misses in (0.0, 0.02, 0.04):
        name = f"cells beyond the sweep, misses {misses:g}"
        todo[name] = partial(predictions, name, misses, max(20, trials // 4))
    rows: list[dict[str, Any]] = []
    if KEPT.exists():
        with open(KEPT, newline="") as file:
            rows = list(csv.DictReader(file))
    for name, make in todo.items():
        if name not in {row["case"] for row in rows}:
            rows += make()
            write_csv(KEPT, rows)
        for row in rows:
            if row["case"] == name:
                share = int(row["covered"]) / int(row["trials"])
                print(f"{name} | {row['quantity']} | {row['covered']} of {row['trials']} = {share:.1%}", flush=True)


if __name__ == "__main__":
    main()
