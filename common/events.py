"""metrics.csv for TensorBoard: a folder of event files for each run.

    python -m common.events results/transformers/A results/rl/B
    tensorboard --logdir results/tensorboard

Needs `pip install -e '.[tensorboard]' -c constraints.txt`.
"""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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


def write_events(run: Path, folder: Path) -> int:
    """All numbers of `run`'s metrics.csv but its steps as scalars of its steps, below `folder`; how many."""
    from torch.utils.tensorboard import SummaryWriter

    columns = read_metrics(run / "metrics.csv")
    steps = columns.pop("step")
    written = 0
    with SummaryWriter(str(folder)) as writer:
        for name, values in columns.items():
            for step, value in zip(steps, values, strict=True):
                if math.isfinite(value):
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
    for run in runs:
        if not (run / "metrics.csv").is_file():
            raise BadInput(f"{run} has no metrics.csv")
    out = Path(given.out) if given.out else repository_root() / "results" / "tensorboard"
    for run in runs:
        folder = out / run.resolve().parent.name / run.resolve().name
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(f"{folder} is there already: TensorBoard would show both; delete it or choose another --out")
    for run in runs:
        folder = out / run.resolve().parent.name / run.resolve().name
        print(f"{write_events(run, folder):,} numbers: {shown(folder)}")
    print(f"tensorboard --logdir {shown(out)}")
    return 0


if __name__ == "__main__":
    from common.cli import run_main

    run_main(main)
