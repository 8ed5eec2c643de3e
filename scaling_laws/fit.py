"""From runs to laws: Kaplan et al. 2020's power laws and the three approaches of Hoffmann et al. 2022.

    python scaling_laws/fit.py                       # the latest sweep
    python scaling_laws/fit.py --csv any_table.csv   # columns n_params, n_samples, loss (optional: flops, seed)

A few seconds. Writes fits.json, formulae.md and the figures, and prints the formulae for the optimal model size and
data size at a given compute, each exponent with its 95% interval.

Three one-line changes to try (what they gave on the reference runs):
  --delta 0.03           Huber's delta near the seed noise, 1e-3 being nearly least absolutes: a from 0.31 to 0.32.
  make_cells             in laws/run_table.py, chance_loss / 2 -> 0.1, only cells below 0.1 nats: a stays, its interval
                         grows by half.
  _window                in laws/isoflop.py, math.log(4) -> math.log(2.5), narrow parabolas: IsoFLOP's a stays, its
                         interval grows by a third.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from common.cli import figures, parse, run_main, shown
from common.errors import BadInput
from common.provenance import check_name, latest_run, results_folder
from law_report.law_files import title_of, write_laws
from laws.analysis import analyse
from laws.parametric import HUBER_DELTA
from laws.run_table import CHANCE_LOSS, read_table


@dataclass(frozen=True)
class CommandLine:
    runs: str | None = None
    """folder of a sweep; default: the latest one"""
    csv: str | None = None
    """a table of runs with columns n_params, n_samples, loss (or test_loss), optionally flops, seed, test_accuracy"""
    delta: float = HUBER_DELTA
    """Huber's delta in log loss (Hoffmann et al.: 1e-3); a fit with delta at the noise is printed beside it"""
    chance_loss: float | None = None
    """loss of guessing, in nats: cells above half of it are left out (a sweep's is log 10; a table's is unknown)"""
    results_dir: str | None = None
    """where results go; default: results/ in the repository"""
    name: str | None = None
    """write into this folder of the results; default: a sweep's own folder, for a table fit-<name of the file>"""


@dataclass(frozen=True)
class Settings:
    """What is fitted, and where the results go."""

    table: Path
    title: str
    """of the figures; empty: the data set's"""
    folder: Path
    delta: float
    chance_loss: float
    """infinite where it is not known"""


def resolve(given: CommandLine) -> Settings:
    """The settings that the command line asks for; BadInput for what cannot be fitted."""
    if given.runs and given.csv:
        raise BadInput("--runs and --csv exclude each other")
    if not (math.isfinite(given.delta) and given.delta > 0):
        raise BadInput(f"--delta must be positive, not {given.delta}")
    if given.chance_loss is not None and not given.chance_loss > 0:
        raise BadInput(f"--chance-loss must be positive, not {given.chance_loss}")
    project = results_folder(given.results_dir, "scaling_laws")
    if given.csv:
        table, title, chance_loss = Path(given.csv), Path(given.csv).stem, given.chance_loss or math.inf
    else:
        sweep = Path(given.runs) if given.runs else latest_run(project, "runs.csv", "tuning.csv")
        table, title, chance_loss = sweep / "runs.csv", "", given.chance_loss or CHANCE_LOSS
        if not table.exists():
            raise BadInput(f"{sweep} has no runs.csv: name the folder of a finished sweep")
    folder = table.parent
    if given.csv or given.name:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", table.stem).strip("-.") or "table"  # a file may be called anything
        folder = project / check_name(given.name or f"fit-{stem}")
    return Settings(table, title, folder, given.delta, chance_loss)


def main() -> int:
    """Read the runs, fit them, write what they say."""
    settings = resolve(parse(CommandLine, {}, description=__doc__ or ""))
    table = read_table(settings.table)
    result = analyse(table, settings.delta, settings.chance_loss)
    write_laws(result, settings.folder, settings.title or title_of(table.dataset))
    print(f"written: {shown(settings.folder)}\n{figures(settings.folder, 'optimum.png')}")
    return 0


if __name__ == "__main__":
    run_main(main)
