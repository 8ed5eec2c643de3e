"""From runs to laws: Kaplan et al. 2020's power laws and the three approaches of Hoffmann et al. 2022.

    python scaling_laws/fit.py                       # the latest sweep
    python scaling_laws/fit.py --csv any_table.csv   # columns n_params, n_samples, loss (optional: flops, seed)

A few seconds. Writes fits.json, formulae.md and the figures, and prints the formulae for the optimal model size and
data size at a given compute, each exponent with its 95% interval.

Three one-line changes to try (what they gave on the reference runs):
  --delta 0.03           Huber's delta near the seed noise, 1e-3 being nearly least absolutes: a from 0.33 to 0.33 or 0.34.
  laws.make_cells        chance_loss / 2 -> 0.1, only cells below 0.1 nats: a stays, its interval grows by a fifth.
  laws._window           math.log(4) -> math.log(2.5), narrow parabolas: IsoFLOP's a stays, its interval grows by a third.
"""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import figures, parse, run_main, shown
from common.errors import BadInput
from common.files import write_json, write_text
from common.provenance import check_name, latest_run, results_folder
from lawreport import formulae, reference_flops, to_json
from laws import (
    DRAWS,
    Cells,
    IsoFlop,
    MacsLaw,
    Parametric,
    PowerLaw,
    Runs,
    envelope_exponent,
    fit_isoflop,
    fit_parametric,
    fit_power_law,
    interval,
    isoflop_groups,
    macs_law,
    make_cells,
    noise_draws,
    optimum_line,
)

CHANCE_LOSS = math.log(10)  # ten digits


@dataclass(frozen=True)
class Config:
    runs: str | None = None
    """folder of a sweep; default: the latest one"""
    csv: str | None = None
    """a table of runs with columns n_params, n_samples, loss (or test_loss), optionally flops, seed, test_accuracy"""
    delta: float = 1e-3
    """Huber's delta in log loss (Hoffmann et al.: 1e-3); a fit with delta at the noise is printed beside it"""
    chance_loss: float | None = None
    """loss of guessing, in nats: cells above half of it are left out (a sweep's is log 10; a table's is unknown)"""
    results_dir: str | None = None
    """where results go; default: results/ in the repository"""
    name: str | None = None
    """write into this folder of the results; default: a sweep's own folder, for a table fit-<name of the file>"""


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Table:
    """The runs that enter the fits, and how many did not."""

    runs: Runs
    n_diverged: int
    dataset: str


def read_table(path: Path) -> Table:
    """A CSV of runs. Rows whose `status` is diverged are left out and counted; BadInput for anything unusable."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = list(reader.fieldnames or [])
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise BadInput(f"{path} is not a CSV file") from None
    loss_column = "loss" if "loss" in columns else "test_loss"
    missing = [name for name in ("n_params", "n_samples", loss_column) if name not in columns]
    if missing:
        wanted = ["loss" if name == "test_loss" else name for name in missing]
        raise BadInput(f"{path} lacks the column {' and '.join(wanted)}; it has {', '.join(columns) or 'none'}")
    kept = [(i, row) for i, row in enumerate(rows, start=2) if row.get("status") != "diverged"]
    if not kept:
        raise BadInput(f"{path} has no runs to fit")

    def numbers(name: str, least: float = math.ulp(0.0), most: float = math.inf) -> np.ndarray:
        values = []
        for line, row in kept:
            try:
                value = float(row[name])
            except (TypeError, ValueError):
                raise BadInput(f"{path}, line {line}: {name} is {row[name]!r}, not a number") from None
            if not (math.isfinite(value) and least <= value <= most):
                wanted = "positive and finite" if math.isinf(most) else f"from {least:g} to {most:g}"
                raise BadInput(f"{path}, line {line}: {name} is {row[name]}; it must be {wanted}")
            values.append(value)
        return np.array(values)

    n, d, loss = numbers("n_params"), numbers("n_samples"), numbers(loss_column)
    flops = numbers("flops") if "flops" in columns else 6 * n * d
    error = np.full(len(kept), math.nan)
    if "test_accuracy" in columns:
        error = 1 - numbers("test_accuracy", 0.0, 1.0)
    dataset = rows[0].get("dataset") or ""
    return Table(Runs(n, d, loss, flops, error), len(rows) - len(kept), dataset)


# ---------------------------------------------------------------- all fits of one table


@dataclass(frozen=True)
class Analysis:
    """Everything that the figures and the paragraph need."""

    table: Table
    cells: Cells
    n_near_chance: int
    macs: MacsLaw
    parametric: Parametric
    matched: Parametric
    lines: list[IsoFlop]
    dropped: list[tuple[float, str]]
    isoflop: dict[str, Any] | None
    frontier: dict[str, Any] | None
    by_compute: PowerLaw | None
    by_params: list[tuple[float, PowerLaw]]
    by_samples: list[tuple[float, PowerLaw]]
    error_rate: PowerLaw | None
    noise: np.ndarray


def analyse(table: Table, delta: float, chance_loss: float | None, seed: int = 0) -> Analysis:
    """All fits of a table; `chance_loss` is what guessing costs, None where that is not known."""
    cells, n_near_chance = make_cells(table.runs, chance_loss)
    macs = macs_law(cells.n_params, cells.flops / (6 * cells.n_samples))
    parametric = fit_parametric(cells, delta, macs, seed=seed)
    spread = parametric.misfit
    if len(cells.residuals):
        spread = cells.noise * math.sqrt(float(np.mean(1 / cells.seeds)))
    matched = fit_parametric(cells, max(spread, 1e-6), macs, seed=seed)
    rng = np.random.default_rng(seed)
    residuals = cells.residuals
    if not len(residuals):  # one seed per cell: the law's own residuals stand in for the seeds'
        residuals = rng.normal(0, parametric.misfit, 1000)
    noise = noise_draws(residuals, cells.seeds, DRAWS, rng)

    lines, dropped = [], []
    for group in isoflop_groups(cells):
        line = fit_isoflop(cells, group, noise)
        if isinstance(line, IsoFlop):
            lines.append(line)
        else:
            dropped.append((float(np.exp(np.log(cells.flops[group]).mean())), line))
    isoflop = by_compute = error_rate = None
    if len(lines) >= 3:
        isoflop = {}
        for key, column in (("a", 0), ("b", 1)):
            log_scale, exponent, scales, exponents = optimum_line(lines, column)
            log_c = math.log(reference_flops(cells))
            isoflop[key] = interval(exponents, exponent)
            isoflop["ND"[column]] = interval(np.exp(scales + exponents * log_c), math.exp(log_scale + exponent * log_c))
        flops = np.array([line.flops for line in lines])
        loss = np.array([line.log_loss for line in lines])
        scatter = np.stack([line.draws[:, 2] - np.nanmedian(line.draws[:, 2]) for line in lines], 1)
        scatter = scatter[np.isfinite(scatter).all(1)]
        by_compute = fit_power_law(flops, loss, scatter, delta) if len(scatter) >= 100 else None
        error_rate = _error_rate(cells, lines, rng)
    frontier = None
    exponent, draws = envelope_exponent(cells, noise)
    if math.isfinite(exponent):
        frontier = {"a": interval(draws, exponent)}

    def slices(fixed: np.ndarray, running: np.ndarray, smallest: int, most: int) -> list[tuple[float, PowerLaw]]:
        values, counts = np.unique(fixed, return_counts=True)
        by_count = [i for i in np.argsort(-counts, kind="stable") if counts[i] >= smallest]
        found = []
        for value in sorted(values[by_count[:most]]):
            rows = np.flatnonzero(fixed == value)
            rows = rows[np.argsort(running[rows])]
            found.append((float(value), fit_power_law(running[rows], cells.log_loss[rows], noise[:, rows], delta)))
        return found

    by_params = slices(cells.n_samples, cells.n_params, 4, 2)
    by_samples = slices(cells.n_params, cells.n_samples, 4, 3)
    return Analysis(
        table,
        cells,
        n_near_chance,
        macs,
        parametric,
        matched,
        lines,
        dropped,
        isoflop,
        frontier,
        by_compute,
        by_params,
        by_samples,
        error_rate,
        noise,
    )


def _error_rate(cells: Cells, lines: list[IsoFlop], rng: np.random.Generator) -> PowerLaw | None:
    """Error rate against compute, at each budget that of the cell with the least loss."""
    best = np.array([line.rows[np.argmin(cells.log_loss[line.rows])] for line in lines])
    best = best[np.isfinite(cells.log_error[best])]
    if len(best) < 3 or not len(cells.error_residuals):
        return None
    noise = noise_draws(cells.error_residuals, cells.seeds[best], DRAWS, rng)
    return fit_power_law(cells.flops[best], cells.log_error[best], noise, 1e-3)


# ---------------------------------------------------------------- a sweep that still runs


def preview(rows: list[dict[str, Any]], budgets: list[float], n_runs: int, folder: Path, dataset: str) -> bool:
    """optimum.png in `folder` from the `rows` so far of a sweep of `n_runs`: no law and no interval yet.

    `budgets` (FLOP) are those whose cells have all been run. False, and no figure, where fewer than two have a minimum.
    """
    from lawplots import draw_preview

    ok = [row for row in rows if row["status"] == "ok"]
    n, d, loss, flops = (np.array([row[key] for row in ok]) for key in ("n_params", "n_samples", "test_loss", "flops"))
    cells, _ = make_cells(Runs(n, d, loss, flops, np.full(len(ok), math.nan)), CHANCE_LOSS)
    exact = np.zeros((1, len(cells.log_loss)))
    lines = []
    for group in isoflop_groups(cells):
        flops = float(np.exp(np.log(cells.flops[group]).mean()))
        if any(abs(math.log(flops / budget)) < 0.02 for budget in budgets):
            line = fit_isoflop(cells, group, exact)
            lines += [line] if isinstance(line, IsoFlop) else []
    if len(lines) < 2:
        return False
    draw_preview(cells, lines, folder, f"{title_of(dataset)}: {len(ok)} of {n_runs} runs so far; no intervals yet")
    return True


# ---------------------------------------------------------------- the script


def write_analysis(result: Analysis, folder: Path, title: str) -> None:
    """fits.json, formulae.md and the figures into `folder`; the formulae onto the screen."""
    from lawplots import draw_all

    fits = to_json(result)
    write_json(folder / "fits.json", fits)
    text = formulae(fits)
    write_text(folder / "formulae.md", "# Formulae\n\n" + text)
    draw_all(result, fits, folder, title)
    print("\n" + text.replace("**", ""))


def analyse_sweep(folder: Path) -> None:
    """Fit a sweep's runs.csv and write the results beside it."""
    table = read_table(folder / "runs.csv")
    write_analysis(analyse(table, Config.delta, CHANCE_LOSS), folder, title_of(table.dataset))


def title_of(dataset: str) -> str:
    """What the figures call a data set."""
    return {"mnist": "MNIST", "mnist5k": "mnist5k (5,000 digits, a demonstration)"}.get(dataset, dataset or "runs")


def main() -> int:
    """Read the runs, fit them, write what they say."""
    config = parse(Config, {}, description=__doc__ or "")
    if config.runs and config.csv:
        raise BadInput("--runs and --csv exclude each other")
    if not (math.isfinite(config.delta) and config.delta > 0):
        raise BadInput(f"--delta must be positive, not {config.delta}")
    if config.chance_loss is not None and not config.chance_loss > 0:
        raise BadInput(f"--chance-loss must be positive, not {config.chance_loss}")
    project = results_folder(config.results_dir, "scaling_laws")
    if config.csv:
        source = Path(config.csv)
        table, chance, title = read_table(source), config.chance_loss, source.stem
    else:
        folder = Path(config.runs) if config.runs else latest_run(project, "runs.csv", "tuning.csv")
        source = folder / "runs.csv"
        if not source.exists():
            raise BadInput(f"{folder} has no runs.csv: name the folder of a finished sweep")
        table, chance = read_table(source), config.chance_loss or CHANCE_LOSS
        title = title_of(table.dataset)
    if config.csv or config.name:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("-.") or "table"  # a file may be called anything
        folder = project / check_name(config.name or f"fit-{stem}")
    else:
        folder = source.parent
    write_analysis(analyse(table, config.delta, chance), folder, title)
    print(f"written: {shown(folder)}\n{figures(folder, 'optimum.png')}")
    return 0


if __name__ == "__main__":
    run_main(main)
