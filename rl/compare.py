"""Environments x methods x seeds: learning curves with intervals, and a table beside published returns.

    python rl/compare.py --envs CartPole-v1 Acrobot-v1 --methods strict one-epoch ppo --seeds 5
    python rl/compare.py --envs CartPole-v1 --methods strict --baselines none reward-to-go value gae --seeds 10
    python rl/compare.py --suite procgen --methods one-epoch        all 16 games, one seed each, beside OpenAI's PPO: hours
    python rl/compare.py --suite procgen-control                    one pass and three with the same discount and minibatches

Every run is one of vpg.py with its environment's recipe, in a process of its own and in its own folder: the same command
skips what is done. Curves are the interquartile mean over seeds with its 95% bootstrap interval (Agarwal et al. 2021), of
evaluations that training never sees. The folder that is printed holds curves.csv, runs.csv, table.md and the figure, brought
up to date as runs finish.
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import time
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import figures, parse, run_main, shown
from common.device import choose_device
from common.errors import BadInput
from common.pool import Job, Pool
from common.progress import progress_bar
from common.provenance import available_cores
from common.run import open_run, read_metrics
from rl_report.comparison_report import Results, report
from rl_report.kept_results import read_results
from rl_report.learning_curve import learning_curve
from rl_report.procgen_report import windows
from rl_settings.compare_settings import (
    CompareConfig,
    CompareSettings,
    arms_of,
    config_of,
    planned_runs,
    resolve_comparison,
)
from rl_settings.procgen_games import is_procgen
from rl_settings.vpg_settings import Config, resolve
from training_runs.training_run import LOOP, ROOTS, start_worker, train_or_find
from vector_environments.make_streams import make_streams

REFRESH = 60.0  # seconds after which a run that ends brings the files up to date: a suite takes hours
EVALUATED = ("eval_return", "eval_return_test", "eval_success", "eval_success_test")


def check_environments(settings: CompareSettings) -> None:
    """BadInput for what cannot be run; every environment is made once."""
    choose_device(settings.device)
    for arm in arms_of(settings):
        resolve(config_of(settings, arm, settings.first_seed))
    for env in settings.envs:
        streams = make_streams(env, 1)
        streams.close()
        if settings.encoders and not streams.encoder.image:
            raise BadInput(f"--encoders are for images, and {env} shows none")


def one_run(given: Config) -> dict[str, Any]:
    """In a worker: train and evaluate; the summary, the evaluations on the way, and of Procgen the training by windows."""
    summary, folder = train_or_find(given, learning_curve, quiet=True)
    if not (folder / "metrics.csv").exists():  # diverged in its first update
        return {"summary": summary, "curve": [], "folder": folder.name}
    metrics = read_metrics(folder / "metrics.csv")
    tested = np.flatnonzero(np.isfinite(metrics["eval_return"]))
    names = [name for name in ("step", "seconds", *EVALUATED) if name in metrics]
    curve = [{name: float(metrics[name][i]) for name in names} for i in tested]
    training = {"training": windows(folder / "metrics.csv")} if is_procgen(given.env) else {}
    return {"summary": summary, "curve": curve, **training, "folder": folder.name}


def headline(settings: CompareSettings, results: Results) -> str:
    """One sentence: what was compared."""
    methods = ", ".join(dict.fromkeys(arm.label for arm in results))
    games = settings.envs[0] if len(settings.envs) == 1 else f"{len(settings.envs)} environments"
    return f"{games}: {methods}; {sum(map(len, results.values()))} runs"


def main() -> int:
    """Run what is missing, then the statistics, the table and the figure."""
    given = parse(CompareConfig, {}, description=__doc__ or "")
    if given.redraw:
        print(f"{report(Path(given.redraw), read_results(Path(given.redraw)), figures_only=True)}")
        print(figures(Path(given.redraw), "learning_curves.png"))
        return 0
    settings = resolve_comparison(given)
    check_environments(settings)
    more = {"exclusive": False, "loop": LOOP, **settings.instead}
    with open_run("rl", "compare", settings, given, settings.device, ROOTS, leave_out=["instead"], **more) as run:
        planned = planned_runs(settings)
        workers = given.workers or available_cores()
        print(f"plan: {len(planned)} runs on {workers} cores; results: {shown(run.folder)}")
        jobs = [
            Job(key, one_run, {"given": config_of(settings, *what, given.results_dir)}) for key, what in planned.items()
        ]
        results: Results = {arm: [] for arm in arms_of(settings)}
        failed: list[str] = []
        reported = time.monotonic()
        with Pool(min(workers, len(jobs)), start_worker) as pool, progress_bar(total=len(jobs), unit="run") as bar:
            for end in pool.map(jobs, run.folder / "runs"):
                bar.update()
                arm, seed = planned[end.job.key]
                if end.result is None:
                    failed.append(f"{end.job.key}: {end.error}")
                    continue
                results[arm].append({**end.result, "seed": seed})
                if time.monotonic() - reported > REFRESH:
                    report(run.folder, results)
                    reported = time.monotonic()
        if any(results.values()):
            print(f"\n{report(run.folder, results)}")
        if anew := [run["folder"] for runs in results.values() for run in runs if run["summary"].get("begun_anew")]:
            print(
                f"NOTE: after a stop these began new episodes, and are not what they had been without: {', '.join(anew)}"
            )
        for line in failed:
            print(f"failed: {line}")
        if failed:
            return 1
        run.finish(runs=len(planned), headline=headline(settings, results))
        print(f"results: {shown(run.folder)}\n{figures(run.folder, 'learning_curves.png')}")
        return 0


if __name__ == "__main__":
    run_main(main)
