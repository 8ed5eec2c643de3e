"""metrics.csv for TensorBoard: a folder of event files for each run.

    python -m common.events results/transformers/A results/rl/B
    tensorboard --logdir results/tensorboard

Needs `pip install -e '.[tensorboard]' -c constraints.txt`.
"""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from common.errors import BadInput
from common.provenance import repository_root
from common.run import read_metrics


@dataclass(frozen=True)
class CommandLine:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """run folders"""
    out: str | None = None
    """where the event files go, a folder for each run; default: results/tensorboard"""


def read_steps(run: Path) -> dict[str, np.ndarray]:
    """The columns of a run's metrics.csv; BadInput where there is none, or none with a finite step in every row."""
    if not (run / "metrics.csv").is_file():
        raise BadInput(f"{run} has no metrics.csv")
    columns = read_metrics(run / "metrics.csv")
    if columns and not ("step" in columns and np.isfinite(columns["step"]).all()):
        raise BadInput(f"{run / 'metrics.csv'} has no column step of numbers, by which TensorBoard orders all others")
    return columns


def write_events(columns: Mapping[str, np.ndarray], folder: Path) -> int:
    """All numbers of a metrics.csv but its steps as scalars of its steps, below `folder`; how many."""
    from torch.utils.tensorboard import SummaryWriter

    written = 0
    with SummaryWriter(str(folder)) as writer:
        for name, values in columns.items():
            for step, value in zip(columns["step"], values, strict=True):
                if name != "step" and math.isfinite(value):
                    writer.add_scalar(name, value, int(step))
                    written += 1
    return written


def main() -> int:
    """Check the runs, then write."""
    from common.cli import parse, shown

    given = parse(CommandLine, {}, description=__doc__ or "")
    if importlib.util.find_spec("tensorboard") is None:
        raise BadInput("TensorBoard is not installed: pip install -e '.[tensorboard]' -c constraints.txt")
    runs = [Path(name) for name in given.runs]
    if not runs:
        raise BadInput("name the folders of the runs")
    tables = [read_steps(run) for run in runs]
    out = Path(given.out) if given.out else repository_root() / "results" / "tensorboard"
    folders = [out / run.resolve().parent.name / run.resolve().name for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise BadInput(f"two of these runs would be written to {folder}: give each its own --out")
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(f"{folder} is there already: TensorBoard would show both; delete it or choose another --out")
    for columns, folder in zip(tables, folders, strict=True):
        print(f"{write_events(columns, folder):,} numbers: {shown(folder)}")
    print(f"tensorboard --logdir {shown(out)}")
    return 0


if __name__ == "__main__":
    from common.cli import run_main

    run_main(main)
