"""Neural scaling laws on MNIST, after Kaplan et al. 2020 and Hoffmann et al. 2022 (approaches 1, 2 and 3).

    python scaling_laws/sweep.py

trains more than a hundred small conv nets, each on its own number of transformed digits seen once, and ends in formulae
for the optimal model size and data size at a given compute. Two minutes on two CPU cores (`--preset quick`: under
one). Expect N_opt ~ C^0.33 and D_opt ~ C^0.45: since multiply-adds grow like N^1.7, compute is split about evenly, as in
Hoffmann et al. Everything is in the folder that it prints: runs.csv (one row per run), fits.json, formulae.md and the
figures. The same command again skips what is done. `--arms disagreement dropout copies` adds what a habit of training does
to the exponents, 20% dropout, and what a transformed copy is worth.

A run is `train` in nets/net_training.py, called by `train_cell` in nets/cell_jobs.py, which sweeping/sweep_runner.py gives to
the workers; the fits are in laws/. plain_isoflop.py is one line of it in one slow file.

Three one-line changes to try (what --preset quick gave, 58 runs each):
  --dropout 0.2           Hilton's question. Losses 15% higher at every size; the exponents move less than their intervals.
  batch_size              in nets/learning_rate.py, return 64 always: twice the loss below 8,000 samples, and beta grows
                          from 0.6 to 1.05.
  ELASTIC_PIXELS          in nets/digits.py, 0.0: training images more like the test's. Losses 11% lower, 8% above 30,000
                          samples.
"""

import os

from common.clock import STARTED

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

from arms.arm_cells import ArmCell, arm_cells
from arms.arm_runs import arm_jobs, arm_seconds, measure_arm_speeds, train_arms
from common.cli import figures, parse, run_main, shown
from common.data import data_root, load_mnist
from common.device import choose_device, threads_asked
from common.errors import BadInput
from common.files import write_csv
from common.pool import Pool
from common.provenance import available_cores
from common.run import Run, open_run
from nets.cell_jobs import start_worker
from nets.digits import images_per_copy, prepare
from nets.flop_count import training_flops
from nets.learning_rate import RULE, RateRule
from sweeping.cell_store import cell_store
from sweeping.grid import Cell, fit_into, grid, search_plan
from sweeping.rate_search import best_rates, lr_rule
from sweeping.sweep_runner import Sweep
from sweeping.sweep_settings import PRESETS, CommandLine, Settings, resolve

HERE = Path(__file__).resolve().parent
OVERHEAD_SECONDS = 18  # of a sweep on two cores: start-up, copies, the check of the learning rate, fits and figures


def sources(settings: Settings) -> list[Path]:
    """The files that, with what they import, make the numbers."""
    searched = settings.tuning in ("full", "only")
    more = {"sweeping/rate_search.py": searched, "arms/arm_cells.py": bool(settings.arms)}
    return [HERE / "nets/cell_jobs.py", *(HERE / path for path, used in more.items() if used)]


def print_plan(
    sweep: Sweep, cells: list[Cell], arms: list[ArmCell], rule: RateRule, extra_seconds: float, threads: int
) -> None:
    """How many runs, how many of them are done, and how long the rest will take."""
    costs = [(sweep.seconds(cell, sweep.seeds), sweep.test_jobs(cell, rule)) for cell in cells]
    costs += [(arm_seconds(sweep, cell), arm_jobs(sweep, cell)) for cell in arms]
    runs = undone = 0
    seconds = 0.0
    for cost, jobs in costs:
        seeds = [len(job.arguments["seeds"]) for job in jobs]
        left = sum(n for n, job in zip(seeds, jobs, strict=True) if not sweep.is_done(job))
        runs, undone, seconds = runs + sum(seeds), undone + left, seconds + cost * left / sum(seeds) / sweep.workers
    flops = len(sweep.seeds) * sum(training_flops(cell.width, cell.n_samples) for cell in cells)
    flops += sum(cell.flops for cell in arms)
    print(
        f"plan: {runs:,} runs, {runs - undone:,} done, {flops:.2e} FLOP, about "
        f"{(seconds + extra_seconds * bool(undone)) / 60:.1f} min left with {sweep.workers} x {threads} threads\n"
        f"results: {shown(sweep.folder)}"
    )


def print_tuning(rows: list[dict[str, Any]]) -> None:
    """The best rate of each tuning cell, and whether it lies inside the searched range."""
    for cell in best_rates(rows):
        same = [row for row in rows if (row["width"], row["n_samples"]) == (cell["width"], cell["n_samples"])]
        lrs = sorted({row["lr"] for row in same})
        where = "inside" if cell["interior"] else "AT THE EDGE OF"
        print(
            f"learning rate at width {cell['width']}, {cell['n_samples']:,} samples, on the tuning set "
            f"({len(same)} runs): best {cell['lr']:.4f}, {where} {lrs[0]:.4f} … {lrs[-1]:.4f}"
        )


def end(run: Run, sweep: Sweep, **summary: Any) -> int:
    """Exit code 0 with summary.json if every run succeeded, else 1 with the list of those that did not."""
    if not sweep.failed:
        run.finish(**summary)
        return 0
    print(
        f"{len(sweep.failed)} jobs FAILED; the same command tries them again. Tracebacks: {shown(sweep.store)}/*.error.txt"
    )
    for line in sorted(sweep.failed):
        print(f"  {line}")
    return 1


def report(rows: list[dict[str, Any]], folder: Path, single: bool) -> str:
    """runs.csv, and the laws of a sweep or the loss of a single run; what was found, in a sentence."""
    write_csv(folder / "runs.csv", rows)
    if single:
        row = rows[0]
        size = f"width {row['width']} ({row['n_params']:,} parameters), {row['n_samples']:,} samples, {row['flops']:.2e} FLOP"
        found = (
            f"{size}: test loss {row['test_loss'] or math.nan:.4f} nats, accuracy {row['test_accuracy']:.4f} (n = 1)"
        )
        print(found)
        return found
    # Here, as below, because the workers import this file too and need neither fits nor figures.
    from law_report.law_files import title_of, write_laws
    from laws.analysis import analyse_sweep

    try:
        result = analyse_sweep(folder)
        return write_laws(result, folder, title_of(result.table.dataset))
    except BadInput as error:  # a grid that the user made too small; its runs are there all the same
        print(f"no laws from these runs: {error}")
        return f"{len(rows)} runs, too few for a law"


def arms_of(sweep: Sweep, cells: list[Cell], rule: RateRule) -> list[ArmCell]:
    """The nets of the arms that are asked for."""
    return arm_cells(sweep.settings.arms, cells, rule, sweep.seeds, images_per_copy(sweep.digits))


def run_arms(sweep: Sweep, cells: list[ArmCell], dataset: str) -> None:
    """Train the arms; arms.csv, arms.json and their figures."""
    arms = [{**row, "dataset": dataset} for row in train_arms(sweep, cells)]
    if not sweep.failed:
        from law_report.arm_files import write_arms

        write_csv(sweep.folder / "arms.csv", arms)
        write_arms(sweep.folder)


def preview(folder: Path, n_runs: int, dataset: str, rows: list[dict[str, Any]], budgets: list[float]) -> bool:
    """optimum.png from the `rows` so far of a sweep of `n_runs`: no law and no interval yet.

    `budgets` (FLOP) are those whose cells have all been run. False, and no figure, where fewer than two have a minimum.
    """
    from law_report.law_figures import draw_preview
    from law_report.law_files import title_of
    from laws.analysis import lines_so_far

    cells, lines = lines_so_far(rows, budgets)
    if len(lines) < 2:
        return False
    n_ok = sum(row["status"] == "ok" for row in rows)
    draw_preview(cells, lines, folder, f"{title_of(dataset)}: {n_ok} of {n_runs} runs so far; no intervals yet")
    return True


def draw_again(folder: Path) -> int:
    """The figures of a sweep's folder from its tables."""
    from law_report.arm_files import write_arms
    from law_report.law_files import redraw, title_of
    from laws.analysis import analyse_sweep

    for name in ("runs.csv", "tuning.csv"):
        if not (folder / name).exists():
            raise BadInput(f"--redraw {folder}: there is no {name}, which the figures are drawn from")
    result = analyse_sweep(folder)
    redraw(result, folder, title_of(result.table.dataset))
    if (folder / "arms.csv").exists():
        write_arms(folder)
    print(figures(folder, "optimum.png"))
    return 0


def main() -> int:
    """The device, the digits, the folder and the workers of a sweep, which then runs."""
    given = parse(CommandLine, PRESETS, description=__doc__ or "")
    if given.redraw:
        return draw_again(Path(given.redraw))
    settings = resolve(given)
    cells = grid(settings)
    device, reason = choose_device(given.device, tiny=max(cell.width for cell in cells) <= 32)
    print(f"device: {device} ({reason})")
    mnist = load_mnist(data_root(given.data_dir), given.dataset)
    if mnist.notice:
        print(f"NOTE: {mnist.notice}")
    digits = prepare(mnist)
    task = "single" if settings.single else given.preset
    more: dict[str, Any] = {"dataset": mnist.name, "data": digits.name, "presets": PRESETS}
    workers = given.workers or (available_cores() if device.type == "cpu" else 1)
    asked = threads_asked(given.threads)
    threads = asked[0] if asked else max(1, available_cores() // workers)
    if given.threads:  # sums over another number of threads are not the same to the bit
        more["threads"] = threads
    with (
        open_run("scaling_laws", task, settings, given, device.type, sources(settings), exclusive=False, **more) as run,
        Pool(workers, start_worker, (threads,)) as pool,
    ):
        store = cell_store(given.results_dir, digits, device.type, more.get("threads"))
        sweep = Sweep(settings, pool, workers, run.folder, store, digits, str(device))
        return run_sweep(run, sweep, cells, mnist.name, threads)


def run_sweep(run: Run, sweep: Sweep, cells: list[Cell], dataset: str, threads: int) -> int:
    """Plan, copies, learning rate, runs, laws; the exit code."""
    settings = sweep.settings
    search = search_plan(settings, max(cell.n_samples for cell in cells))
    cells = [] if settings.tuning == "only" else cells
    searched = [(cell, search.seeds) for cell, _ in search.points]
    sweep.measure_speeds([(cell, sweep.seeds) for cell in cells] + searched)
    other = 0 if settings.single else OVERHEAD_SECONDS
    other += sum(sweep.seconds(cell, seeds) for cell, seeds in searched) / sweep.workers
    measure_arm_speeds(sweep, arms_of(sweep, cells, RULE))

    def beside(kept: list[Cell]) -> float:
        return other + sum(arm_seconds(sweep, cell) for cell in arms_of(sweep, kept, RULE)) / sweep.workers

    cells = fit_into(cells, settings.minutes, lambda cell: sweep.seconds(cell, sweep.seeds) / sweep.workers, beside)
    print_plan(sweep, cells, arms_of(sweep, cells, RULE), RULE, other, threads)
    sweep.make_copies(max(cell.n_samples for cell in cells + [cell for cell, _ in searched]))
    rule = RULE
    if search.points:
        tuning = sweep.tune(search)
        write_csv(run.folder / "tuning.csv", tuning)
        print_tuning(tuning)
        if settings.tuning != "check" and not sweep.failed:
            rule = lr_rule(tuning)
            print(f"rule: lr = {rule.lr0:.5f} (8 / width)^{rule.width:.3f} (20,000 / n_samples)^{rule.samples:.3f}")
            rest = 0 if settings.single else OVERHEAD_SECONDS
            print_plan(sweep, cells, arms_of(sweep, cells, rule), rule, rest, threads)
        if settings.tuning == "only" or (settings.tuning == "full" and sweep.failed):
            return end(run, sweep, lr_rule=rule)
    draw = partial(preview, run.folder, len(cells) * len(sweep.seeds), dataset)
    rows = [{**row, "dataset": dataset} for row in sweep.train(cells, rule, draw)]
    found = report(rows, run.folder, single=bool(settings.single)) if rows else "no run"
    if settings.arms and rows and not sweep.failed:
        run_arms(sweep, arms_of(sweep, cells, rule), dataset)
    print(f"{len(rows)} runs, {time.perf_counter() - STARTED:.0f} s in all; {shown(run.folder)}")
    if pictures := figures(run.folder, "optimum.png"):
        print(pictures)
    return end(run, sweep, headline=found, runs=len(rows), diverged=sum(row["status"] != "ok" for row in rows))


if __name__ == "__main__":
    run_main(main)
