"""How far does the theory of large-batch training hold for small transformers? After McCandlish et al. 2018.

    python transformers/noise_scale.py --preset quick     one net, four batch sizes: B_crit beside B_simple
    python transformers/noise_scale.py                    the King James Bible, all predictions
    python transformers/noise_scale.py --preset full      the star: other texts, sizes and optimisers too

For every batch size the learning rate is tuned, and the steps to several losses are counted (batch_sweep.py, in the room
critical_batch/ like all that follows); a hyperbola through them gives the critical batch size (batch_laws.py). Where a net
reaches a loss, its gradient noise is measured, and branches of it are trained with other batches (local_noise.py). What the
theory says about these numbers is tested one prediction at a time (predictions.py). The folder that is printed holds
noise.csv, batch_sweep.csv, fits.json and the figures; the same command goes on where it was stopped.

Three one-line changes to try:
  --task shakespeare       another text: the same laws, other constants.
  --optimizer sgd          the optimiser that the theory is about.
  --context 16             shorter sequences: watch whether the critical batch stays the same in tokens.
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common.cli import figures, parse, run_main, shown
from common.data import data_root
from common.device import choose_device
from common.errors import BadInput
from common.files import finite, write_csv, write_json
from common.live import attempt
from common.pool import Job, Pool
from common.progress import progress_bar, tell
from common.provenance import available_cores
from common.run import Run, open_run
from critical_batch.arm_tables import ArmResult, arm_result, measuring_point
from critical_batch.predictions import verdicts
from critical_batch.study_cells import BASE_BATCH, Study, measuring_job, start_worker, studies, tuning_jobs
from lm_report.kept_study import read_study
from lm_report.study_figures import overview, prediction_panels
from lm_report.study_tables import fits, noise_rows, sweep_rows, told
from lm_settings.noise_settings import PRESETS, Config, NoiseSettings, resolve_noise

# What trains and measures: with all that it imports, it decides what the cells hold. The predictions only read them.
ROOTS = (Path(__file__).resolve().parent / "critical_batch" / "study_cells.py",)
Cell = dict[str, Any]


class Cells:
    """The results of jobs, from the disk where they are there; else worker processes make them, which start when needed."""

    def __init__(self, folder: Path, workers: int, bar: tqdm):
        self.folder, self.workers, self.bar = folder, workers, bar
        self._pools = ExitStack()
        self._pool: Pool | None = None

    def __enter__(self) -> "Cells":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pools.__exit__(*exception)

    def results(self, jobs: list[Job]) -> dict[str, Cell]:
        """By key; jobs that failed are told and missing."""
        missing = [job for job in jobs if not (self.folder / f"{job.key}.json").exists()]
        if missing and self._pool is None:
            self._pool = self._pools.enter_context(Pool(self.workers, start_worker))
        found = {}
        for end in (self._pool or Pool(0, start_worker)).map(jobs, self.folder):
            self.bar.update()
            if end.result is None:
                tell(f"failed: {end.job.key}: {end.error}")
            else:
                found[end.job.key] = {**end.result, "seed": end.job.arguments["seed"]}
        return found


def make_cells(
    cells: Cells, settings: NoiseSettings, tuning: dict[Study, dict[str, Job]], root: str, device: str
) -> tuple[dict[Study, list[Cell]], dict[Study, Cell], bool]:
    """Tune every batch size of every arm, then train once more with the tuned rate and measure on the way.

    The tuning cells and the measuring cell of each arm (the latter missing where no run reached a loss), and whether all
    cells have been made.
    """
    base = next(iter(tuning))
    found = cells.results([job for jobs in tuning.values() for job in jobs.values()])
    whole = len(found) == sum(map(len, tuning.values()))
    swept = {study: [found[key] for key in jobs if key in found] for study, jobs in tuning.items()}
    tuned_for = {study: swept[study if study.swept else base] for study in tuning}
    points = {study: measuring_point(tried, BASE_BATCH) if tried else None for study, tried in tuned_for.items()}
    if points[base] is None and whole:
        raise BadInput("no run reached any of the losses: give higher --goals or more --max-tokens")
    measuring = {
        study: measuring_job(settings, study, *point, root, device) for study, point in points.items() if point
    }
    made = cells.results(list(measuring.values()))
    measured = {study: made[job.key] for study, job in measuring.items() if job.key in made}
    return swept, measured, whole and len(measured) == len(measuring)


def report(
    run: Run, settings: NoiseSettings, swept: dict[Study, list[Cell]], measured: dict[Study, Cell]
) -> list[dict[str, Any]]:
    """Fit, judge, write the tables and draw the figures; the verdicts as rows."""
    arms, sizes, rows = [], [], []
    for study, tried in swept.items():
        if study not in measured:
            print(f"{study.arm.name}: no run reached any of its losses")
            continue
        arm = arm_result(asdict(study.arm), study.goals, tried, measured[study])
        arms += [arm] if study.swept else []
        sizes += [arm] if study.arm.width != settings.width else []
        rows += sweep_rows(study.arm, study.goals, tried)
    judged = [verdict.row() for verdict in verdicts(arms[0], arms, sizes)]
    write_csv(run.folder / "batch_sweep.csv", rows)
    every = {arm.name: arm for arm in (*arms, *sizes)}.values()
    write_csv(run.folder / "noise.csv", [row for arm in every for row in noise_rows(arm)])
    write_json(run.folder / "fits.json", finite({"predictions": judged, "arms": [fits(arm) for arm in arms]}))
    attempt(lambda: draw(arms, sizes, run.folder), "noise_scale.png")
    return judged


def draw(arms: list[ArmResult], sizes: list[ArmResult], folder: Path) -> None:
    """Both figures."""
    overview(arms, folder / "noise_scale")
    prediction_panels(arms, sizes, folder / "predictions")


def headline(settings: NoiseSettings, judged: list[dict[str, Any]]) -> str:
    """One sentence: whether the noise told the critical batch, and how many predictions held."""
    words = [row["verdict"] for row in judged]
    p3 = next((row for row in finite(judged) if row["name"] == "P3"), None)
    ratio = f"B_simple / B_crit {p3['value']:.2f}; " if p3 and p3["value"] is not None else ""
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("holds", "fails", "not decided"))
    return f"{settings.task}, width {settings.width}, {settings.optimizer}: {ratio}predictions: {counts}"


def main() -> int:
    """Sweep, measure, fit, judge, draw; what is not sweeping or measuring is done again by every command."""
    given = parse(Config, PRESETS, description=__doc__ or "")
    if given.redraw:
        draw(*read_study(Path(given.redraw)), Path(given.redraw))
        print(figures(Path(given.redraw), "noise_scale.png"))
        return 0
    settings = resolve_noise(given)
    device, reason = choose_device(given.device, tiny=True)
    root = str(data_root(settings.data_dir)) if settings.task == "tinyshakespeare" or settings.data_dir else ""
    task = f"noise-{settings.task}"
    more: dict[str, Any] = {"torch": torch.__version__, "presets": PRESETS}
    with open_run("transformers", task, settings, given, device.type, ROOTS, exclusive=False, **more) as run:
        print(f"device: {device} ({reason})")
        folder = run.folder / "cells"
        tuning = {study: tuning_jobs(settings, study, root, device.type, folder) for study in studies(settings)}
        count = sum(map(len, tuning.values())) + len(tuning)
        workers = settings.workers or available_cores()
        if run.summary:
            print("already done")
        else:
            done = len(list(folder.glob("*.json"))) if folder.exists() else 0
            print(f"plan: {count} cells on {workers} cores, {done} done; results: {shown(run.folder)}")
        with progress_bar(total=count, unit="cell") as bar, Cells(folder, min(workers, count), bar) as cells:
            swept, measured, whole = make_cells(cells, settings, tuning, root, device.type)
        if not whole:
            return 1
        judged = report(run, settings, swept, measured)
        run.finish(
            headline=headline(settings, judged),
            cells=count,
            predictions={f"{row['name']} {row['arm']}": row["verdict"] for row in judged},
        )
        for row in finite(judged):
            print(told(row))
        print(f"results: {shown(run.folder)}\n{figures(run.folder, 'noise_scale.png')}")
    return 0


if __name__ == "__main__":
    run_main(main)
