"""The running of a sweep: its jobs on the worker processes, in the order in which figures come early."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.errors import BadInput
from common.live import LiveFigure
from common.pool import Job, Pool
from common.progress import progress_bar
from nets.cell_jobs import measure_speed, seeds_together, train_cell
from nets.digits import copy_file, images_per_copy, is_whole, make_copy
from nets.learning_rate import RateRule, learning_rate
from sweeping.grid import Cell, RateSearch
from sweeping.sweep_settings import Settings


class Sweep:
    """The worker processes, the folder and the constants that every job of a sweep shares."""

    def __init__(self, settings: Settings, pool: Pool, workers: int, folder: Path, digits: Path, device: str):
        self.settings, self.pool, self.workers, self.device = settings, pool, workers, device
        self.folder, self.cells, self.digits = folder, folder / "cells", digits
        self.seeds = list(settings.seeds)
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
                "dropout": self.settings.dropout,
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
        self.measure_speeds_of({(cell.width, cell.batch, self.members(cell, seeds)) for cell, seeds in cells})

    def measure_speeds_of(self, needed: set[tuple[int, int, int]]) -> None:
        """The same for nets given as (width, batch, members)."""
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
        layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        total = sum(cost[job.key] for job in jobs)
        with progress_bar(total=total, desc=label, bar_format=layout, smoothing=0.05) as bar:
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

    def tune(self, search: RateSearch) -> list[dict[str, Any]]:
        """Rows of the learning-rate search or check: all on the tuning set, none on the test set."""
        jobs, cost = [], {}
        for cell, lr in search.points:
            added = self.jobs(cell, lr, search.seeds, "tune")
            jobs += added
            cost |= dict.fromkeys((job.key for job in added), self.seconds(cell, search.seeds) / len(added))
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
            added = self.jobs(cell, learning_rate(cell.width, cell.n_samples, rule), self.seeds)
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

        figure = LiveFigure(self.folder / "optimum.png", draw_so_far, share=0.05, after=0.0)
        stored = {path.stem for path in self.cells.glob("*.json")}  # they come first, and at once
        for job, new in self.run(jobs, cost, "sweep"):
            left[budget_of[job.key]] -= 1
            rows += new
            if job.key not in stored and any(left.values()):
                figure.update()
        budgets = {(cell.width, cell.n_samples): cell.budget for cell in cells}

        def place(row: dict[str, Any]) -> tuple:
            return budgets[row["width"], row["n_samples"]], row["arm"], row["width"], row["n_samples"], row["seed"]

        return sorted(rows, key=place)
