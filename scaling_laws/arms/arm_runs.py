"""The running of the arms by a sweep's workers; their rows are those of arms.csv."""

from typing import Any

from arms.arm_cells import ArmCell
from common.pool import Job
from nets.cell_jobs import seeds_together, train_cell
from sweeping.sweep_runner import Sweep


def arm_jobs(sweep: Sweep, cell: ArmCell) -> list[Job]:
    """One job for all seeds of a cell where they train side by side, else one per seed."""
    together = seeds_together(cell.width, cell.batch, sweep.device)
    jobs = []
    for group in [cell.seeds] if together else [(seed,) for seed in cell.seeds]:
        key = f"{cell.arm.replace(' ', '_')}-w{cell.width}-n{cell.n_samples}-s{'_'.join(map(str, group))}"
        key += f"-k{cell.variant.passes}-x{cell.variant.strength:g}"
        arguments = {
            "folder": str(sweep.digits),
            "arm": cell.arm,
            "width": cell.width,
            "n_samples": cell.n_samples,
            "seeds": list(group),
            "lr": cell.lr,
            "batch": cell.batch,
            "dropout": cell.dropout,
            "split": "test",
            "device": sweep.device,
            "checkpoint": str(sweep.cells / f"{key}.pt"),
            "variant": cell.variant,
        }
        jobs.append(Job(key, train_cell, arguments))
    return jobs


def measure_arm_speeds(sweep: Sweep, cells: list[ArmCell]) -> None:
    """The images per second of every net of the arms, where the sweep has not measured it."""
    sweep.measure_speeds_of({(cell.width, cell.batch, _members(sweep, cell)) for cell in cells})


def _members(sweep: Sweep, cell: ArmCell) -> int:
    return len(cell.seeds) if seeds_together(cell.width, cell.batch, sweep.device) else 1


def arm_seconds(sweep: Sweep, cell: ArmCell) -> float:
    """Expected seconds of a worker for a cell: training, and 10,000 images for each test at a third of the cost."""
    members = _members(sweep, cell)
    tests = 1 + len(cell.variant.tested_after) + cell.variant.tested_transformed
    images = cell.n_samples + tests * 10_000 / 3
    return len(cell.seeds) * (images / sweep.speed[cell.width, cell.batch, members] + 0.02)


def train_arms(sweep: Sweep, cells: list[ArmCell]) -> list[dict[str, Any]]:
    """Train all cells, the longest first; their rows, with what they differ in beside the sweep's columns."""
    jobs, cost, cell_of = [], {}, {}
    for cell in cells:
        added = arm_jobs(sweep, cell)
        jobs += added
        for job in added:
            cost[job.key], cell_of[job.key] = arm_seconds(sweep, cell) / len(added), cell
    jobs.sort(key=lambda job: -cost[job.key])
    rows = []
    for job, new in sweep.run(jobs, cost, "arms"):
        variant = cell_of[job.key].variant
        told = {
            "schedule": "constant" if variant.constant_rate else "decay",
            "warm_up_steps": variant.warm_up_steps or "",
            "passes": variant.passes,
            "strength": variant.strength if variant.shown == "copies" else "",
        }
        rows += [{**row, **told} for row in new]
    order = {arm: i for i, arm in enumerate(dict.fromkeys(cell.arm for cell in cells))}
    places = ("width", "strength", "n_samples", "n_unique", "seed")
    return sorted(rows, key=lambda row: (order[row["arm"]], *(row[name] or 0.0 for name in places)))
