"""Environments x algorithms x seeds: learning curves with intervals, and a table beside published returns.

    python rl/compare.py --envs CartPole-v1 Acrobot-v1 --algos vpg ppo --seeds 5
    python rl/compare.py --envs CartPole-v1 --baselines none reward-to-go value gae --seeds 10
    python rl/compare.py --suite procgen             all 16 games, one seed each, beside OpenAI's PPO: hours

Every run is one of vpg.py with its environment's recipe, in a process of its own and in its own folder: the same command
skips what is done. Curves are the interquartile mean over seeds with its 95% bootstrap interval (Agarwal et al. 2021), of
evaluations that training never sees. The folder that is printed holds curves.csv, runs.csv, table.md and the figure, brought
up to date as runs finish.
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import itertools
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from common.cli import figures, parse, run_main, shown
from common.device import DeviceName, choose_device, configure_cpu
from common.errors import BadInput
from common.files import write_csv, write_text
from common.pool import Job, Pool
from common.provenance import available_cores, check_name, results_folder, short_hash, source_hash
from common.run import Run, read_metrics
from envs import make_streams
from policy import Encoder
from procgen_env import GAMES, PREFIX, is_procgen
from procgen_report import procgen_figure, procgen_table, windows
from published import PUBLISHED, THRESHOLDS
from rlplots import comparison_figure
from settings import Baseline, resolve
from settings import Config as RunConfig
from vpg import HERE, SOURCES, run_config

Algo = Literal["vpg", "ppo"]
BOOTSTRAP = 2000
REFRESH = 60.0  # seconds after which a run that ends brings the files up to date: a suite takes hours
NOT_IN_IDENTITY = ("workers", "device", "results_dir", "name")
EVALUATED = ("eval_return", "eval_return_test", "eval_success", "eval_success_test")


@dataclass(frozen=True)
class Config:
    suite: Literal["procgen"] | None = None
    """procgen: all 16 games, one seed of vpg, where the flags below do not say otherwise"""
    envs: tuple[str, ...] = ()
    """environments; default: CartPole-v1"""
    algos: tuple[Algo, ...] = ()
    """algorithms; default: both"""
    baselines: tuple[Baseline, ...] = ("gae",)
    """of vpg: each is an arm of its own; ppo takes gae"""
    minibatches: tuple[int, ...] = (1,)
    """of vpg's single pass over a batch: each is an arm of its own"""
    encoders: tuple[Encoder, ...] = ()
    """networks for images, each an arm of its own; default: each environment's recipe"""
    seeds: tuple[int, ...] = ()
    """runs of each arm: one number, or one for each environment; default: 5"""
    first_seed: int = 0
    """the first of the seeds"""
    total_steps: int | None = None
    """steps of every run; default: each environment's recipe"""
    eval_every: int | None = None
    """steps between evaluations while training, 0: none; default: each environment's recipe"""
    workers: int = 0
    """runs at once; 0: one per core"""
    device: DeviceName = "cpu"
    """where runs train; cuda pays for images, with all runs on one device; auto: the CPU for vectors"""
    results_dir: str | None = None
    """where results go; default: results/ in the repository"""
    name: str | None = None
    """name of the folder; default: made from the settings and the code"""


@dataclass(frozen=True)
class Arm:
    """What is compared: an environment with an algorithm, a baseline, of vpg the minibatches of its pass, and a network.

    None stands for what the environment's recipe has.
    """

    env: str
    algo: Algo
    baseline: Baseline
    minibatches: int | None = None
    encoder: Encoder | None = None

    @property
    def label(self) -> str:
        """`vpg`, `ppo`, `vpg, reward-to-go`, `vpg, 16 minibatches` or `vpg, impala`."""
        parts = [self.algo] if self.baseline == "gae" else [self.algo, self.baseline]
        several = [f"{self.minibatches} minibatches"] if (self.minibatches or 1) > 1 else []
        return ", ".join([*parts, *several, *([self.encoder] if self.encoder else [])])


def arms_of(config: Config) -> list[Arm]:
    """Every environment with every algorithm and network; with ppo only GAE, and its own minibatches."""
    vpg: list[tuple[Baseline, int | None]] = list(itertools.product(config.baselines, config.minibatches))
    ppo: list[tuple[Baseline, int | None]] = [("gae", None)]
    return [
        Arm(env, algo, baseline, minibatches, encoder)
        for env in config.envs
        for algo in config.algos
        for baseline, minibatches in (vpg if algo == "vpg" else ppo)
        for encoder in config.encoders or (None,)
    ]


def settings(config: Config, arm: Arm, seed: int) -> RunConfig:
    """One run of vpg.py."""
    return RunConfig(
        env=arm.env,
        algo=arm.algo,
        baseline=arm.baseline,
        minibatches=arm.minibatches,
        encoder=arm.encoder,
        seed=seed,
        total_steps=config.total_steps,
        eval_every=config.eval_every,
        results_dir=config.results_dir,
        device=config.device,
    )


def one_run(settings: dict[str, Any]) -> dict[str, Any]:
    """In a worker: train and evaluate; the summary, the evaluations on the way, and of Procgen the training by windows."""
    hidden = settings["hidden"]
    given = RunConfig(**{**settings, "hidden": tuple(hidden) if hidden else None})
    summary, folder = run_config(given, quiet=True)
    if not (folder / "metrics.csv").exists():  # diverged in its first update
        return {"summary": summary, "curve": [], "folder": folder.name}
    metrics = read_metrics(folder / "metrics.csv")
    tested = np.flatnonzero(np.isfinite(metrics["eval_return"]))
    names = [name for name in ("step", "seconds", *EVALUATED) if name in metrics]
    curve = [{name: float(metrics[name][i]) for name in names} for i in tested]
    training = {"training": windows(folder / "metrics.csv")} if is_procgen(given.env) else {}
    return {"summary": summary, "curve": curve, **training, "folder": folder.name}


# ---------------------------------------------------------------- statistics


def interquartile_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean of the middle half (Agarwal et al. 2021): the lowest and the highest floor(n / 4) values are left out."""
    n = values.shape[axis]
    cut = n // 4
    return np.sort(values, axis).take(range(cut, n - cut), axis).mean(axis)


def curve_interval(returns: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IQM over seeds and its 95% percentile-bootstrap interval: (seeds, points) -> three (points,)."""
    random = np.random.default_rng(seed)
    draws = returns[random.integers(len(returns), size=(BOOTSTRAP, len(returns)))]  # (draws, seeds, points)
    low, high = np.quantile(interquartile_mean(draws, 1), (0.025, 0.975), axis=0)
    return interquartile_mean(returns), low, high


def solved_at(curve: list[dict[str, float]], threshold: float) -> dict[str, float] | None:
    """The first of two consecutive evaluations above the threshold; None where there is none."""
    for now, then in itertools.pairwise(curve):
        if now["eval_return"] >= threshold and then["eval_return"] >= threshold:
            return now
    return None


def table(results: dict[Arm, list[dict[str, Any]]]) -> str:
    """Markdown: what every arm reached, and what others have published."""
    lines = [
        "| environment | method | return, mean of seeds (each) | greedy | steps | solved: seeds, median steps, seconds "
        "| steps/s | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for env in dict.fromkeys(arm.env for arm in results):
        for arm in (arm for arm in results if arm.env == env):
            runs = [run for run in results[arm] if run["summary"]["status"] == "ok"]
            if not runs:
                lines.append(f"| {env} | {arm.label} | all runs diverged | | | | | |")
                continue
            summaries = [run["summary"] for run in runs]
            returns = [s["eval_return_mean"] for s in summaries]
            greedy = float(np.mean([s["eval_return_greedy_mean"] for s in summaries]))
            solved = [solved_at(run["curve"], THRESHOLDS[env]) for run in results[arm]] if env in THRESHOLDS else []
            found = [s for s in solved if s]
            when = f"{len(found)} of {len(solved)}" if solved else ""
            if found:
                when += (
                    f", {np.median([s['step'] for s in found]):,.0f}, {np.median([s['seconds'] for s in found]):.1f}"
                )
            each = ", ".join(f"{value:.1f}" for value in returns)
            if len(runs) < len(results[arm]):
                each += f"; {len(results[arm]) - len(runs)} diverged"
            rate = np.median([s["steps_per_second"] for s in summaries])
            seconds = np.median([s["train_seconds"] for s in summaries])
            lines.append(
                f"| {env} | {arm.label} | {np.mean(returns):.1f} ({each}) | {greedy:.1f} | {summaries[0]['steps']:,} "
                f"| {when} | {rate:,.0f} | {seconds:.1f} |"
            )
        for who, (value, steps) in PUBLISHED.get(env, {}).items():
            lines.append(f"| {env} | {who} (published) | {value:.1f} | | {steps:,} | | | |")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- the command


def start_worker() -> None:
    """One thread a process."""
    configure_cpu(1)
    # tqdm's own lock is one between processes, and Python warns of it when a worker is ended without giving it back.
    tqdm.set_lock(threading.RLock())


SUITES: dict[str | None, dict[str, Any]] = {
    None: {"envs": ("CartPole-v1",), "algos": ("vpg", "ppo"), "seeds": (5,)},
    "procgen": {"envs": tuple(f"{PREFIX}{game}" for game in GAMES), "algos": ("vpg",), "seeds": (1,)},
}


def filled(config: Config) -> Config:
    """With the suite's settings where nothing was said."""
    suite = SUITES[config.suite]
    return replace(config, **{name: value for name, value in suite.items() if not getattr(config, name)})


def check(config: Config) -> None:
    """BadInput for what cannot be compared; every environment is made once."""
    if config.name is not None:
        check_name(config.name)
    for name in ("envs", "algos", "baselines", "minibatches", "encoders"):
        values = getattr(config, name)
        if (not values and name != "encoders") or len(set(values)) < len(values):
            raise BadInput(f"--{name} must name at least one, and none twice")
    if "vpg" not in config.algos and (config.baselines, config.minibatches) != (("gae",), (1,)):
        raise BadInput("--baselines and --minibatches are vpg's, and --algos does not name it")
    if len(config.seeds) not in (1, len(config.envs)):
        raise BadInput(f"--seeds takes one number, or as many as there are environments: {len(config.envs)}")
    if min(config.seeds) < 1 or config.first_seed < 0 or config.workers < 0:
        raise BadInput("--seeds must be positive, --first-seed and --workers not negative")
    choose_device(config.device)
    for arm in arms_of(config):
        resolve(settings(config, arm, config.first_seed))
    for env in config.envs:
        streams = make_streams(env, 1)
        streams.close()
        if config.encoders and not streams.encoder.image:
            raise BadInput(f"--encoders are for images, and {env} shows none")
    if any(map(is_procgen, config.envs)) and not all(map(is_procgen, config.envs)):
        raise BadInput("--envs: Procgen's games have a table of their own; compare them without other environments")


def main() -> int:
    """Run what is missing, then the statistics, the table and the figure."""
    config = filled(parse(Config, {}, description=__doc__ or ""))
    check(config)
    workers = config.workers or available_cores()
    kept = {name: value for name, value in asdict(config).items() if name not in NOT_IN_IDENTITY}
    identity = {**kept, "sources": source_hash(*(HERE / f"{name}.py" for name in SOURCES))[:16]}
    folder = results_folder(config.results_dir, "rl") / (config.name or f"compare-{short_hash(identity)}")
    run = Run(folder, identity, config.device, asdict(config), exclusive=False)
    jobs: dict[str, tuple[Arm, int]] = {}
    runs_of = dict(zip(config.envs, config.seeds * (len(config.envs) // len(config.seeds)), strict=True))
    for i in range(max(config.seeds)):
        seed = config.first_seed + i
        for arm in (arm for arm in arms_of(config) if i < runs_of[arm.env]):
            several = [f"m{arm.minibatches}"] if (arm.minibatches or 1) > 1 else []
            parts = (arm.env, arm.algo, arm.baseline, *several, *([arm.encoder] if arm.encoder else []))
            key = "-".join("".join(c if c.isalnum() else "_" for c in part) for part in parts)
            jobs[f"{key}-s{seed}"] = (arm, seed)
    print(f"plan: {len(jobs)} runs on {workers} cores; results: {shown(run.folder)}")
    todo = [Job(key, one_run, {"settings": asdict(settings(config, *what))}) for key, what in jobs.items()]
    results: dict[Arm, list[dict[str, Any]]] = {arm: [] for arm in arms_of(config)}
    failed: list[str] = []
    reported = time.monotonic()
    with Pool(min(workers, len(todo)), start_worker) as pool, tqdm(total=len(todo), unit="run") as bar:
        for end in pool.map(todo, run.folder / "runs"):
            bar.update()
            arm, seed = jobs[end.job.key]
            if end.result is None:
                failed.append(f"{end.job.key}: {end.error}")
                continue
            results[arm].append({**end.result, "seed": seed})
            if time.monotonic() - reported > REFRESH:
                report(run, results)
                reported = time.monotonic()
    if any(results.values()):
        print(f"\n{report(run, results)}")
    for line in failed:
        print(f"failed: {line}")
    if failed:
        return 1
    run.finish(runs=len(jobs))
    print(f"results: {shown(run.folder)}\n{figures(run.folder, 'learning_curves.png')}")
    return 0


def report(run: Run, results: dict[Arm, list[dict[str, Any]]]) -> str:
    """curves.csv, runs.csv, of Procgen training.csv, table.md and the figure, of the runs so far; the table."""
    results = {arm: sorted(runs, key=lambda one: one["seed"]) for arm, runs in results.items() if runs}
    curves, rows, training = [], [], []
    for arm, runs in results.items():
        for one in runs:
            what = {
                **asdict(arm),
                "minibatches": arm.minibatches or "",
                "encoder": arm.encoder or "",
                "seed": one["seed"],
            }
            curves += [{**what, **point} for point in one["curve"]]
            training += [{**what, **row} for row in one.get("training", ())]
            rows.append({**what, **one["summary"]})
    write_csv(run.folder / "curves.csv", curves)
    write_csv(run.folder / "runs.csv", rows)
    if training:
        write_csv(run.folder / "training.csv", training)
    procgen = is_procgen(rows[0]["env"])
    found = procgen_table(results) if procgen else table(results)
    write_text(run.folder / "table.md", found)
    if procgen:
        procgen_figure(results, run.folder / "learning_curves")
    else:
        comparison_figure(panels(results), run.folder / "learning_curves")
    return found


def panels(results: dict[Arm, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What the figure draws, by environment and label: steps, every seed's returns, IQM, interval."""
    drawn: dict[str, dict[str, Any]] = {}
    for arm, runs in results.items():
        curves = [one["curve"] for one in runs if one["summary"]["status"] == "ok" and one["curve"]]
        if not curves:
            continue
        points = min(len(curve) for curve in curves)
        returns = np.array([[point["eval_return"] for point in curve[:points]] for curve in curves])
        steps = np.mean([[point["step"] for point in curve[:points]] for curve in curves], 0)
        drawn.setdefault(arm.env, {})[arm.label] = (steps, returns, *curve_interval(returns))
    return drawn


if __name__ == "__main__":
    run_main(main)
