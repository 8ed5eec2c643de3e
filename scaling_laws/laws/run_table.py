"""The table that all fits begin from: one entry per run, and one per cell, which is all seeds of one (N, D).

N is parameters, D samples, C compute in FLOP. A cell's loss is the geometric mean over its seeds. Logarithms are natural
throughout the room.
"""

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import BadInput
from laws.power_sum import Array

CHANCE_LOSS = math.log(10)  # of guessing among ten digits


@dataclass(frozen=True)
class Runs:
    """One entry per run: N, D, loss in nats, C in FLOP, and the error rate (nan where unknown)."""

    n_params: Array
    n_samples: Array
    loss: Array
    flops: Array
    error: Array


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


@dataclass(frozen=True)
class Cells:
    """One entry per (N, D), and what is known of the noise of its mean.

    `residuals` are the deviations of log losses from their cell's mean, all cells together, each stretched by
    sqrt(S / (S - 1)), S the cell's seeds: without that the noise of 3 seeds would come out 18% too small.
    """

    n_params: Array
    n_samples: Array
    flops: Array
    log_loss: Array
    log_error: Array
    seeds: NDArray[np.int64]
    residuals: Array
    error_residuals: Array

    @property
    def noise(self) -> float:
        """Standard deviation over seeds of the log loss of a run, all cells together (nan with one seed a cell)."""
        return float(np.sqrt(np.mean(self.residuals**2))) if len(self.residuals) else math.nan

    def without(self, mask: NDArray[np.bool_]) -> "Cells":
        """The other cells; what is known of the noise stays."""
        per_cell = ("n_params", "n_samples", "flops", "log_loss", "log_error", "seeds")
        return replace(self, **{name: getattr(self, name)[~mask] for name in per_cell})


def make_cells(runs: Runs, chance_loss: float = math.inf) -> tuple[Cells, int]:
    """Cells in order of (N, D), and how many were left out as near chance.

    The rule was fixed before the sweep: a cell whose geometric mean loss is above half of `chance_loss` (log 10 for
    ten digits, infinite where it is not known) enters no fit, nor does its noise; such nets have not begun to learn,
    and no power law describes them.
    """
    keys = np.stack([runs.n_params, runs.n_samples], 1)
    unique, index = np.unique(keys, axis=0, return_inverse=True)
    index = index.ravel()
    rows = [np.flatnonzero(index == i) for i in range(len(unique))]
    logs = np.log(runs.loss)
    rows = [row for row in rows if logs[row].mean() <= math.log(chance_loss / 2)]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_error = np.log(runs.error)

    def stretched(values: Array) -> Array:
        parts = [
            (values[row] - values[row].mean()) * math.sqrt(len(row) / (len(row) - 1)) for row in rows if len(row) > 1
        ]
        stacked = np.concatenate(parts) if parts else np.empty(0)
        return stacked[np.isfinite(stacked)]

    with np.errstate(invalid="ignore"):
        error_residuals = stretched(log_error)
    cells = Cells(
        np.array([runs.n_params[row[0]] for row in rows]),
        np.array([runs.n_samples[row[0]] for row in rows]),
        np.array([runs.flops[row].mean() for row in rows]),
        np.array([logs[row].mean() for row in rows]),
        np.array([log_error[row].mean() for row in rows]),
        np.array([len(row) for row in rows], dtype=np.int64),
        stretched(logs),
        error_residuals,
    )
    return cells, len(unique) - len(rows)
