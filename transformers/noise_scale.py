"""How far does the theory of large-batch training hold for small transformers? After McCandlish et al. 2018.

    python transformers/noise_scale.py --preset quick     one net, four batch sizes: B_crit beside B_simple
    python transformers/noise_scale.py                    the King James Bible, all predictions
    python transformers/noise_scale.py --preset full      the star: other texts, sizes and optimisers too; two hours

For every batch size the learning rate is tuned, and the steps to several losses are counted (batch_sweep.py); a hyperbola
through them gives the critical batch size (critical_batch.py). Where a net reaches a loss, its gradient noise is measured,
and branches of it are trained with other batches (local_noise.py). What the theory says about these numbers is tested one
prediction at a time (predictions.py). The folder that is printed holds noise.csv, batch_sweep.csv, fits.json and the
figures; the same command goes on where it was stopped.

Three one-line changes to try:
  --task shakespeare       another text: the same laws, other constants.
  --optimizer sgd          the optimiser that the theory is about.
  --context 16             shorter sequences: watch whether the critical batch stays the same in tokens.
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from batch_sweep import Arm, OptimizerName, tune_cell
from common.cli import parse, run_main, shown
from common.data import data_root
from common.device import configure_cpu
from common.errors import BadInput
from common.pool import Job, Pool
from common.run import Run, available_cores, check_name, results_folder, short_hash, source_hash, write_csv, write_json
from local_noise import Effort, measure_cell
from noiseplots import overview, prediction_panels
from predictions import (
    ArmResult,
    Verdict,
    arm_results,
    p1_hyperbola,
    p3_noise_scale,
    p4_growth,
    p5_size,
    p6_learning_rate,
    p10_tokens,
    p12_branches,
    tuned,
)

HERE = Path(__file__).resolve().parent
SOURCES = (
    "noise_scale",
    "batch_sweep",
    "local_noise",
    "gradient_noise",
    "decoder",
    "kernels",
    "lookback",
    "muon",
    "tasks",
    "corpora",
    "vocabulary",
    "training",
    "evaluation",
)
NOT_IN_HASH = {"preset", "results_dir", "data_dir", "name", "from_config", "workers"}
Task = Literal["kjv", "shakespeare", "tinyshakespeare", "repeat", "ascending"]


@dataclass(frozen=True)
class Config:
    preset: Literal["quick", "default", "full"] = "default"
    """quick: under a minute on two CPU cores; default: ten minutes; full: the reference results, two hours"""
    seed: int = 0
    """the first seed of the weights and of the data's order"""
    results_dir: str | None = None
    """where results go; default: results/ in the repository"""
    data_dir: str | None = None
    """where tinyshakespeare/ is; default: $REPLICATIONS_DATA, else data/ in the repository"""
    name: str | None = None
    """name of the folder; default: made from the settings and the code"""
    from_config: str | None = None
    """repeat what this config.json says; other flags given win over it"""
    task: Task = "kjv"
    """the base: what is learnt"""
    width: int = 64
    """the base: channels, a multiple of 32"""
    optimizer: OptimizerName = "adamw"
    """the base: AdamW, SGD with momentum, or Muon"""
    context: int = 64
    """tokens of a text's sequence"""
    batches: tuple[int, ...] = (2, 8, 32, 128, 512)
    """batch sizes in sequences"""
    goals: tuple[float, ...] = ()
    """losses in nats per token, descending; default: by task"""
    seeds: int = 1
    """runs of every batch size of the base"""
    sizes: tuple[int, ...] = (32, 128)
    """widths whose noise scale is measured beside the base's"""
    star: bool = False
    """change one factor at a time: other tasks and optimisers with every second batch size"""
    max_tokens: float = 4e6
    """that a run may see; what has not reached a loss by then counts as cut off"""
    workers: int = 0
    """cells at once; 0: one per core"""


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"width": 32, "batches": (4, 16, 64, 256), "goals": (2.4, 2.3, 2.2), "sizes": (), "max_tokens": 1e6},
    "default": {},
    "full": {"batches": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), "seeds": 2, "star": True, "max_tokens": 1e7},
}
# Losses that take a hundred steps or more with any batch: of the first few dozen, the warm-up is too large a part.
GOALS: dict[str, tuple[float, ...]] = {
    "kjv": (2.3, 2.1, 2.0, 1.9, 1.8),
    "shakespeare": (2.5, 2.3, 2.2, 2.1, 2.0),
    "tinyshakespeare": (2.5, 2.3, 2.2, 2.1, 2.0),
    "repeat": (3.5, 3.0, 2.7, 2.4),
    "ascending": (2.0, 1.0, 0.5, 0.2),
}
# First guesses of the tuned rates at BASE_BATCH sequences, and how they change with the batch.
START: dict[str, float] = {"adamw": 2.0, "muon": 1.0, "sgd": 0.5}
BASE_BATCH, START_EXPONENT = 32, {"adamw": 0.5, "muon": 0.5, "sgd": 1.0}
EXPECTED = {"adamw": (0.5, 1.0), "muon": (0.5, 1.0), "sgd": (0.9, 1.1)}  # alpha of P6 (appendix A.2)
QUICK_EFFORT = Effort(repeats=8, big=64, parts=8, hessian_repeats=0, branches=())


def check(config: Config) -> Config:
    """With the task's goals; BadInput for what cannot be run."""
    if config.name is not None:
        check_name(config.name)
    config = config if config.goals else replace(config, goals=GOALS[config.task])
    if list(config.goals) != sorted(set(config.goals), reverse=True) or min(config.goals) <= 0:
        raise BadInput("--goals must be positive losses, each below the one before")
    if len(set(config.batches)) < 3 or min(config.batches) < 1:
        raise BadInput("--batches must name at least three different sizes, from 1 on")
    for width in (config.width, *config.sizes):
        if width < 32 or width % 32:
            raise BadInput(f"widths must be multiples of 32, not {width}")
    if config.width in config.sizes or len(set(config.sizes)) < len(config.sizes):
        raise BadInput("--sizes must differ from --width and from each other")
    if config.context < 8 or config.seeds < 1 or config.workers < 0 or not config.max_tokens > 0:
        raise BadInput("--context must be 8 at least, --seeds and --max-tokens positive, --workers not negative")
    if not 0 <= config.seed < 1 << 19:
        raise BadInput(f"--seed must be from 0 to {(1 << 19) - 1}, and it is {config.seed}")
    return replace(config, batches=tuple(sorted(set(config.batches))))


@dataclass(frozen=True)
class Study:
    """An arm of the star: what of it is swept and measured."""

    arm: Arm
    goals: tuple[float, ...]
    batches: tuple[int, ...]
    seeds: int = 1
    sweep: bool = True


def studies(config: Config) -> list[Study]:
    """The base first; then, one factor changed at a time, the sizes, and with --star the other tasks and optimisers."""
    base = Arm(config.task, config.width, config.optimizer, context=config.context)
    found = [Study(base, config.goals, config.batches, config.seeds)]
    coarse = config.batches[::2] if len(config.batches) >= 6 else config.batches
    for width in config.sizes:
        found.append(Study(replace(base, width=width), config.goals, coarse, sweep=config.star))
    if config.star:
        for optimizer in ("adamw", "sgd", "muon"):
            if optimizer != config.optimizer:
                found.append(Study(replace(base, optimizer=optimizer), config.goals, coarse))
        for task in ("kjv", "shakespeare", "repeat", "ascending"):
            if task != config.task:
                found.append(Study(replace(base, task=task), GOALS[task], coarse))
    return found


def start_rate(optimizer: str, batch: int) -> float:
    """Where the search for a rate begins."""
    return START[optimizer] * (batch / BASE_BATCH) ** START_EXPONENT[optimizer]


def tuning_jobs(config: Config, study: Study, root: str) -> dict[str, Job]:
    """One cell per batch size and seed, the longest first."""
    jobs = {}
    for seed in range(config.seed, config.seed + study.seeds):
        for batch in sorted(study.batches, key=lambda b: -abs(math.log(b / BASE_BATCH))):
            key = f"{study.arm.name}-c{study.arm.context}-b{batch}-s{seed}"
            arguments = {
                "arm": asdict(study.arm),
                "batch": batch,
                "start": start_rate(study.arm.optimizer, batch),
                "goals": list(study.goals),
                "most_tokens": config.max_tokens,
                "seed": seed,
                "root": root,
            }
            jobs[key] = Job(key, tune_cell, arguments)
    return jobs


def measuring_job(config: Config, study: Study, batch: int, rate: float, root: str) -> Job:
    """The cell that trains once more, with one batch size at its tuned rate, and measures on the way."""
    lengths = [T for T in (8, 16, 32, 64, 128, 256) if config.context >= T]
    text = study.arm.task not in ("repeat", "ascending")
    arguments = {
        "arm": asdict(study.arm),
        "batch": batch,
        "rate": rate,
        "goals": list(study.goals),
        "most_tokens": config.max_tokens,
        "contexts": lengths if text and config.preset != "quick" else [],
        "effort": asdict(QUICK_EFFORT if config.preset == "quick" else Effort()),
        "seed": config.seed,
        "root": root,
    }
    key = f"{study.arm.name}-c{study.arm.context}-measured-b{batch}-{short_hash(arguments)}"
    return Job(key, measure_cell, arguments)


def measuring_point(cells: list[dict[str, Any]]) -> tuple[int, float]:
    """The batch size nearest to BASE_BATCH whose runs reached the last loss, and its tuned rate there."""
    last = len(cells[0]["trials"][0]["steps"]) - 1
    for goal in range(last, -1, -1):
        runs, rates, _ = tuned(cells, goal)
        if runs.reached.any():
            order = sorted(range(len(cells)), key=lambda i: abs(math.log(cells[i]["batch"] / BASE_BATCH)))
            chosen = next(i for i in order if runs.reached[i])
            return cells[chosen]["batch"], float(rates[chosen])
    raise BadInput("no run reached any of the losses: give higher --goals or more --max-tokens")


def start_worker() -> None:
    """One thread a process."""
    configure_cpu(1)


# ---------------------------------------------------------------- the report


def verdicts(arms: list[ArmResult], sizes: list[ArmResult], optimizers: dict[str, str]) -> list[Verdict]:
    """Every prediction on the arms that have what it needs; `arms[0]` is the base."""
    found = [p1_hyperbola(arms), p3_noise_scale(arms), *p4_growth(arms[0]), p5_size([arms[0], *sizes])]
    for arm in arms:
        if arm is arms[0] or optimizers[arm.name] != optimizers[arms[0].name]:
            found.append(p6_learning_rate(arm, EXPECTED[optimizers[arm.name]]))
    return [*found, p10_tokens(arms[0]), p12_branches(arms)]


def sweep_rows(config: Config, study: Study, cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """batch_sweep.csv: one row per run and loss."""
    rows = []
    for cell in cells:
        for trial in cell["trials"]:
            for goal, steps in zip(study.goals, trial["steps"], strict=True):
                rows.append(
                    {
                        "arm": study.arm.name,
                        "seed": cell["seed"],
                        "batch": cell["batch"],
                        "tokens_per_step": cell["batch"] * cell["context"],
                        "rate": trial["rate"],
                        "goal": goal,
                        "steps": "" if steps is None else round(steps, 2),
                        "steps_made": trial["made"],
                        "seconds": round(trial["seconds"], 2),
                    }
                )
    return rows


def noise_rows(arm: ArmResult) -> list[dict[str, Any]]:
    """noise.csv: one row per arm and loss, batches in tokens."""
    rows = []
    for one in arm.at:
        row: dict[str, Any] = {"arm": arm.name, "goal": one.goal}
        fit = one.fit
        for name, interval in (
            ("b_crit", fit.b_crit if fit else None),
            ("s_min", fit.s_min if fit else None),
            ("exponent", fit.exponent if fit else None),
            ("b_simple", one.b_simple),
            ("b_noise", one.b_noise),
            ("b_local", one.local),
        ):
            for part in ("value", "lo95", "hi95"):
                row[f"{name}_{part}"] = "" if interval is None else getattr(interval, part)
        rows.append({**row, "misfit": fit.misfit if fit else "", "runs": int(one.runs.reached.sum())})
    return rows


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """With None for what JSON does not have: infinity, of an interval without an end, and nan."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def main() -> int:
    """Sweep, measure, fit, judge, draw."""
    given = parse(Config, PRESETS, description=__doc__ or "")
    config = check(given)
    root = str(data_root(config.data_dir)) if config.task == "tinyshakespeare" or config.data_dir else ""
    kept = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in NOT_IN_HASH}
    identity = {**kept, "torch": torch.__version__, "sources": source_hash(*(HERE / f"{n}.py" for n in SOURCES))[:16]}
    name = config.name or f"noise-{config.task}-{short_hash(identity)}-s{config.seed}"
    run = Run(
        results_folder(config.results_dir, "transformers") / name, identity, "cpu", asdict(given), exclusive=False
    )
    star = studies(config)
    workers = config.workers or available_cores()
    jobs = {study: tuning_jobs(config, study, root) for study in star if study.sweep}
    count = sum(map(len, jobs.values())) + len(star)
    print(f"device: cpu (the nets are too small for an accelerator to pay)\nplan: {count} cells on {workers} cores")
    print(f"results: {shown(run.folder)}")
    cells: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    with Pool(min(workers, count), start_worker) as pool, tqdm(total=count, unit="cell") as bar:

        def collect(todo: list[Job]) -> None:
            for end in pool.map(todo, run.folder / "cells"):
                bar.update()
                if end.result is None:
                    failed.append(f"{end.job.key}: {end.error}")
                else:
                    cells[end.job.key] = {**end.result, "seed": end.job.arguments["seed"]}

        collect([job for study in star if study.sweep for job in jobs[study].values()])
        swept = {study: [cells[key] for key in jobs[study] if key in cells] for study in jobs}
        measuring = {}
        if not failed:
            base = measuring_point(swept[star[0]])
            for study in star:
                batch, rate = measuring_point(swept[study]) if study.sweep else base
                measuring[study] = measuring_job(config, study, batch, rate, root)
            collect(list(measuring.values()))
    for line in failed:
        print(f"failed: {line}")
    if failed:
        return 1
    arms, sizes, rows, noise = [], [], [], []
    for study in star:
        found = arm_results(study.arm.name, study.goals, swept.get(study, []), cells[measuring[study].key])
        if study.sweep:
            arms.append(found)
            rows += sweep_rows(config, study, swept[study])
        if study.arm.width != config.width:
            sizes.append(found)
        noise += noise_rows(found)
    judged = verdicts(arms, sizes, {study.arm.name: study.arm.optimizer for study in star})
    write_csv(run.folder / "batch_sweep.csv", rows)
    write_csv(run.folder / "noise.csv", noise)
    found_rows = [finite(verdict.row()) for verdict in judged]
    write_json(run.folder / "fits.json", {"predictions": found_rows, "noise": [finite(row) for row in noise]})
    overview(arms, run.folder / "noise_scale")
    prediction_panels(arms, sizes, run.folder / "predictions")
    for verdict in judged:
        interval = f"{verdict.value:.3g} [{verdict.lo95:.3g}, {verdict.hi95:.3g}], n = {verdict.n}"
        print(f"{verdict.name} {verdict.word}: {verdict.claim}\n   {verdict.number}: {interval}")
    run.finish(cells=len(cells), predictions={verdict.name: verdict.word for verdict in judged})
    print(f"results: {shown(run.folder)}")
    return 0


if __name__ == "__main__":
    run_main(main)
