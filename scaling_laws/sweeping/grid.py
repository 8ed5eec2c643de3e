"""The plan of a sweep: the cells of its grid, those that fit into the time, and those of the learning-rate search."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import BadInput
from nets.flop_count import macs_per_image, training_flops
from nets.learning_rate import batch_size
from sweeping.rate_search import planned_rates
from sweeping.sweep_settings import Settings


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


def grid(settings: Settings) -> list[Cell]:
    """The cells of the sweep; one that two arms share is trained once. BadInput where there is none.

    isoflop: every budget C at the widths for which D = C / (6 M) lies within the limits. row: L(D) at some widths.
    column: L(N) at some D. single: one net in place of all these.
    """
    cells = [Cell("single", width, n_samples) for width, n_samples in settings.single]
    for budget in settings.budgets:
        for width in settings.widths:
            n_samples = round(budget / (6 * macs_per_image(width)))
            if settings.min_samples <= n_samples <= settings.max_samples:
                cells.append(Cell("isoflop", width, n_samples, budget))
    cells += [Cell("row", width, round(55_000 / 2**j)) for width in settings.row_widths for j in settings.row_halvings]
    cells += [
        Cell("column", width, round(55_000 / 2**j))
        for width in settings.column_widths
        for j in settings.column_halvings
    ]
    first: dict[tuple[int, int], Cell] = {}
    for cell in cells:
        first.setdefault((cell.width, cell.n_samples), cell)
    if not first:
        raise BadInput("no cell of the grid lies within --min-samples and --max-samples")
    return list(first.values())


def fit_into(
    cells: list[Cell], minutes: float, seconds: Callable[[Cell], float], other: Callable[[list[Cell]], float]
) -> list[Cell]:
    """Leave out the cells of most compute until the expected wall-clock fits `minutes`; BadInput if none does.

    First rows and columns above the largest IsoFLOP budget, then that budget with those above the next, and so on.
    `seconds` is the wall-clock that a cell adds, `other` that of all else beside these cells.
    """
    limits = sorted({cell.budget for cell in cells if math.isfinite(cell.budget)})
    while sum(map(seconds, cells)) + other(cells) > 60 * minutes:
        if not limits:
            raise BadInput(f"--minutes {minutes:g} is too short for the smallest budget and what is done beside it")
        most = 1.01 * limits.pop()  # a line's numbers of samples are whole
        cells = [cell for cell in cells if training_flops(cell.width, cell.n_samples) <= most]
    return cells


@dataclass(frozen=True)
class RateSearch:
    """Cells and rates that the learning rate is searched or checked at, each with all of `seeds`."""

    points: list[tuple[Cell, float]]
    seeds: list[int]


def search_plan(settings: Settings, largest: int) -> RateSearch:
    """The full search, or the check at one width: `planned_rates`."""
    if settings.tuning == "none":
        return RateSearch([], [])
    points, seeds = planned_rates(settings.tuning != "check", settings.seed, largest)
    return RateSearch([(Cell("tune", width, n_samples), lr) for width, n_samples, lr in points], seeds)
