"""The running of a sweep: its jobs on the worker processes, in the order in which figures come early."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from common.errors import BadInput
from common.live import LiveFigure
from common.pool import Job, Pool
from common.progress import progress_bar
from common.provenance import short_hash
from nets.cell_jobs import measure_speed, seeds_together, train_cell
from nets.digits import copy_file, images_per_copy, is_whole, make_copy
from nets.learning_rate import RateRule, learning_rate
from sweeping.cell_store import drop_damaged
from sweeping.grid import Cell, RateSearch
from sweeping.sweep_settings import Settings

SEEDS_OF_A_JOB = 3
SPEED_SECONDS = 0.1  # of each measurement of a training speed


class SizedCell(Protocol):
    """What of a cell of the grid, or of an arm, enters its job."""

    @property
    def arm(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def n_samples(self) -> int: ...
    @property
    def batch(self) -> int: ...


class Sweep:
    """The worker processes, the folder and the constants that every job of a sweep shares.

    `store` holds a file for each finished job, of this sweep and of any other with the same code, data and device: a
    cell that two of them have is trained once. A file's name tells all else that its numbers depend on.
    """

    def __init__(
        self, settings: Settings, pool: Pool, workers: int, folder: Path, store: Path, digits: Path, device: str
    ):
        self.settings, self.pool, self.workers, self.device = settings, pool, workers, device
        self.folder, self.store, self.digits = folder, store, digits
        self.seeds = list(settings.seeds)
        self.speed: dict[tuple[int, int, int], float] = {}
        self.failed: list[str] = []

    def jobs(self, cell: Cell, lr: float, seeds: list[int], split: str = "test") -> list[Job]:
        """A cell's seeds in jobs that each train some of them side by side.

        On a CPU SEEDS_OF_A_JOB at most, so that a sweep with more seeds finds those that one with fewer has trained.
        """
        together = seeds_together(cell.width, cell.batch, self.device)
        most = (SEEDS_OF_A_JOB if self.device == "cpu" else len(seeds)) if together else 1
        groups = [seeds[i : i + most] for i in range(0, len(seeds), most)]
        return [self.job(cell, group, lr, split, self.settings.dropout) for group in groups]

    def job(
        self, cell: SizedCell, seeds: Sequence[int], lr: float | list[float], split: str, dropout: float, **more: Any
    ) -> Job:
        """The training of `seeds` side by side, with one rate or one for each, named by all that its numbers hang on.

        `more` are further arguments of `train_cell` that change them.
        """
        recipe = {
            "width": cell.width,
            "n_samples": cell.n_samples,
            "seeds": list(seeds),
            "lr": lr,
            "batch": cell.batch,
            "dropout": dropout,
            "split": split,
            **more,
        }
        named = "_".join(map(str, dict.fromkeys(seeds)))
        key = f"{split}-w{cell.width}-n{cell.n_samples}-s{named}-{short_hash(recipe)}"
        places = {"folder": str(self.digits), "device": self.device, "checkpoint": str(self.store / f"{key}.pt")}
        return Job(key, train_cell, {**recipe, **places, "arm": cell.arm})

    def test_jobs(self, cell: Cell, rule: RateRule) -> list[Job]:
        """The jobs of a cell of the grid, all its seeds, tested on the test set."""
        return self.jobs(cell, learning_rate(cell.width, cell.n_samples, rule), self.seeds)

    def is_done(self, job: Job) -> bool:
        """Whether the store has the job's result."""
        return (self.store / f"{job.key}.json").exists()

    def members(self, cell: Cell, seeds: list[int]) -> int:
        """How many nets of the cell train side by side, at most."""
        return max(len(job.arguments["seeds"]) for job in self.jobs(cell, 0.0, seeds))

    def measure_speeds(self, cells: list[tuple[Cell, list[int]]]) -> None:
        """Images per second by (width, batch, members), measured once per folder; the plan's estimates rest on it."""
        self.measure_speeds_of({(cell.width, cell.batch, self.members(cell, seeds)) for cell, seeds in cells})

    def measure_speeds_of(self, needed: set[tuple[int, int, int]]) -> None:
        """The same for nets given as (width, batch, members)."""
        names, rest = ("width", "batch", "members"), {"device": self.device, "seconds": SPEED_SECONDS}
        jobs = [
            Job(f"w{w}-b{b}-m{m}", measure_speed, {**dict(zip(names, (w, b, m), strict=True)), **rest})
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
        """Make the transformed copies that the largest run needs and that are missing or damaged."""
        made = self.digits / "made"
        jobs = []
        for k in range(-(-n_samples // images_per_copy(self.digits))):
            if not is_whole(copy_file(self.digits, k)):
                if copy_file(self.digits, k).exists():
                    print(f"NOTE: {copy_file(self.digits, k)} is damaged, and made again")
                (made / f"copy_{k:03d}.json").unlink(missing_ok=True)
                jobs.append(Job(f"copy_{k:03d}", make_copy, {"folder": str(self.digits), "k": k}))
        with progress_bar(desc="copies", total=len(jobs), disable=not jobs, unit="copy") as bar:
            for end in self.pool.map(jobs, made):
                bar.update()
                if end.error:
                    raise BadInput(f"the transformed copies could not be made: {end.error}")

    def run(self, jobs: list[Job], cost: dict[str, float], label: str) -> Iterator[tuple[Job, list[dict[str, Any]]]]:
        """Run the jobs in their order; each as it ends, with its rows (none where it failed).

        `cost` is the expected seconds of each by key.
        """
        drop_damaged(self.store, [job.key for job in jobs])
        layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        total = sum(cost[job.key] for job in jobs)
        with progress_bar(total=total, desc=label, bar_format=layout, smoothing=0.05) as bar:
            for end in self.pool.map(jobs, self.store):
                bar.update(min(cost[end.job.key], bar.total - bar.n))
                if end.result is None:
                    self.failed.append(f"{end.job.key}: {end.error}")
                    yield end.job, []
                    continue
                (self.store / f"{end.job.key}.pt").unlink(missing_ok=True)
                # another sweep may have had the cell in another of its arms
                rows = [{**row, "arm": end.job.arguments["arm"]} for row in end.result["rows"]]
                row = rows[-1]
                loss = row.get("test_loss") or row.get("tune_loss")
                told = f"loss {loss:.4f}" if loss else "diverged"
                bar.set_postfix_str(f"width {row['width']}, {row['n_samples']:,} samples, {told}", refresh=False)
                yield end.job, rows

    def tune(self, search: RateSearch) -> list[dict[str, Any]]:
        """Rows of the learning-rate search or check: all on the tuning set, none on the test set.

        On an accelerator, where a step costs its launches, all seeds and rates of a cell train side by side.
        """
        jobs, cost = [], {}
        rates: dict[Cell, list[float]] = {}
        for cell, lr in search.points:
            rates.setdefault(cell, []).append(lr)
        for cell, lrs in rates.items():
            if self.device == "cpu":
                added = [job for lr in lrs for job in self.jobs(cell, lr, search.seeds, "tune")]
            else:
                pairs = [(lr, seed) for lr in lrs for seed in search.seeds]
                rates_of, seeds = [lr for lr, _ in pairs], [seed for _, seed in pairs]
                added = [self.job(cell, seeds, rates_of, "tune", self.settings.dropout)]
            jobs += added
            seconds = len(lrs) * self.seconds(cell, search.seeds) / len(added)
            cost |= dict.fromkeys((job.key for job in added), seconds)
        jobs.sort(key=lambda job: -cost[job.key])  # the longest first: the workers end together
        rows = [row for _, new in self.run(jobs, cost, "learning rate") for row in new]
        return sorted(rows, key=lambda row: (row["width"], row["n_samples"], row["seed"], row["lr"]))

    def train(
        self,
        cells: list[Cell],
        rule: RateRule,
        draw: Callable[[list[dict[str, Any]], list[float]], bool],
    ) -> list[dict[str, Any]]:
        """Train all cells, the smallest budget first; their rows, IsoFLOP lines first, in order of compute.

        `draw(rows, budgets)` draws the rows so far and the lines of the budgets (FLOP) whose cells have all been run.
        """
        jobs, cost, budget_of = [], {}, {}
        for cell in cells:
            added = self.test_jobs(cell, rule)
            jobs += added
            for job in added:
                cost[job.key], budget_of[job.key] = self.seconds(cell, self.seeds) / len(added), cell.budget
        # Within a budget the longest first; the short runs of rows and columns, whose budget is infinite, fill the end.
        jobs.sort(key=lambda job: (budget_of[job.key], -cost[job.key]))
        left = Counter(budget_of.values())
        rows: list[dict[str, Any]] = []

        def draw_so_far() -> bool:
            ended = [budget for budget, jobs_left in left.items() if not jobs_left and math.isfinite(budget)]
            return len(ended) >= 2 and draw(rows, ended)

        figure = LiveFigure(self.folder / "optimum.png", draw_so_far, share=0.03, after=0.0)
        stored = {job.key for job in jobs if self.is_done(job)}  # they come first, and at once
        for job, new in self.run(jobs, cost, "sweep"):
            left[budget_of[job.key]] -= 1
            rows += new
            if job.key not in stored and any(left.values()):
                figure.update()
        budgets = {(cell.width, cell.n_samples): cell.budget for cell in cells}

        def place(row: dict[str, Any]) -> tuple:
            return budgets[row["width"], row["n_samples"]], row["arm"], row["width"], row["n_samples"], row["seed"]

        return sorted(rows, key=place)
