"""Do the 95% intervals cover, and are they no wider than they must be? Run by hand, about 5 minutes on one core:

    python tests/benchmarks/recovery.py

200 synthetic tables: L = E + A / N^alpha + B / D^beta on 8 x 8 cells, 3% log-normal noise, 3 seeds a cell.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scaling_laws"), str(ROOT / "tests")]

from laws.parametric import MacsLaw, fit_parametric
from laws.run_table import make_cells
from laws.seed_noise import interval
from synthetic_law import LAW, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    truth = {**LAW, "a": 0.55, "b": 0.45}
    for delta, name in ((1e-3, "Huber delta 1e-3"), (0.03 / np.sqrt(3), "Huber delta at the noise")):
        values, covered, widths = [], [], []
        started = time.perf_counter()
        for trial in range(trials):
            cells, _ = make_cells(table(noise=0.03, seeds=3, seed=10_000 + trial))
            fit = fit_parametric(cells, float(delta), MacsLaw(), seed=trial)
            intervals = [interval(fit.draws[key], fit.value[key]) for key in truth]
            values.append([fit.value[key] for key in truth])
            covered.append([i["lo95"] <= t <= i["hi95"] for i, t in zip(intervals, truth.values(), strict=True)])
            widths.append([(i["hi95"] - i["lo95"]) / 2 for i in intervals])
        spread = np.std(values, axis=0, ddof=1)
        print(f"\n{name}: {trials} trials, {(time.perf_counter() - started) / trials:.2f} s each")
        print("| quantity | truth | mean | true SD | coverage of 95% | half-width / (1.96 SD) |")
        print("| --- | --- | --- | --- | --- | --- |")
        for i, (key, true) in enumerate(truth.items()):
            mean, cover = np.mean(values, axis=0)[i], np.mean(covered, axis=0)[i]
            ratio = np.mean(widths, axis=0)[i] / (1.96 * spread[i])
            print(f"| {key} | {true:.4g} | {mean:.4g} | {spread[i]:.2g} | {cover:.1%} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
