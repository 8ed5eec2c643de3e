"""How far does the theory of large-batch training hold for small transformers? After McCandlish et al. 2018.

    python transformers/noise_scale.py --preset quick     one net, four batch sizes: B_crit beside B_simple
    python transformers/noise_scale.py                    the King James Bible, all predictions
    python transformers/noise_scale.py --preset full      the star: other texts, sizes and optimisers too

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
from common.cli import figures, parse, run_main, shown
from common.data import data_root
from common.device import DeviceName, choose_device, configure_cpu
from common.errors import BadInput
from common.files import finite, read_json, write_csv, write_json
from common.pool import Job, Pool
from common.provenance import available_cores, check_name, results_folder, short_hash, source_hash
from common.run import Run
from local_noise import Effort, measure_cell
from noise_report import fits, noise_rows, sweep_rows, told
from noiseplots import overview, prediction_panels
from predictions import arm_result, tuned, verdicts

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
NOT_IN_HASH = {"preset", "device", "results_dir", "data_dir", "name", "from_config", "workers"}
Task = Literal["kjv", "shakespeare", "tinyshakespeare", "repeat", "ascending"]


@dataclass(frozen=True)
class Config:
    preset: Literal["quick", "default", "full"] = "default"
    """quick: under a minute on two CPU cores; default: seven minutes; full: all arms, two to three hours"""
    device: DeviceName = "auto"
    """where to train; auto: the CPU, since the nets are tiny"""
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
    batches: tuple[int, ...] = (2, 8, 24, 64, 160)
    """batch sizes in sequences"""
    goals: tuple[float, ...] = ()
    """losses in nats per token, descending; default: the first --depth of the task's own"""
    depth: int = 3
    """how many of a task's own losses to go down"""
    seeds: int = 1
    """runs of every batch size of the base"""
    sizes: tuple[int, ...] = (32, 128)
    """widths whose noise scale is measured beside the base's"""
    effort: Literal["light", "medium", "whole"] = "medium"
    """how much is measured at each loss; light: B_simple alone, on fewer batches"""
    star: bool = False
    """change one factor at a time: other tasks and optimisers with every second batch size"""
    max_tokens: float = 3.6e6
    """that a run may see; what has not reached a loss by then counts as cut off"""
    workers: int = 0
    """cells at once; 0: one per core"""


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "width": 32,
        "batches": (4, 16, 64, 128),
        "goals": (2.5, 2.4, 2.3),
        "sizes": (),
        "effort": "light",
        "max_tokens": 1e6,
    },
    "default": {},
    "full": {
        "batches": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        "depth": 4,
        "seeds": 2,
        "effort": "whole",
        "star": True,
    },
}
# Losses that take 40 to 140 steps with large batches: of fewer, the start of every run is too large a part. `ascending` is
# so easy that it takes as few however low they lie.
GOALS: dict[str, tuple[float, ...]] = {
    "kjv": (2.1, 1.9, 1.75, 1.65),
    "shakespeare": (2.4, 2.2, 2.05, 1.9),
    "tinyshakespeare": (2.4, 2.2, 2.05, 1.9),
    "repeat": (3.5, 3.0, 2.7, 2.4),
    "ascending": (0.03, 0.01, 0.003, 0.001),
}
# Losses above the goals, at which the noise is measured too: as factors on the first goal.
EARLIER = (1.4, 1.25, 1.12)
# First guesses of the tuned rates from BASE_BATCH sequences on; below, they fall with the batch.
START: dict[str, float] = {"adamw": 4.0, "muon": 1.5, "sgd": 0.5}
BASE_BATCH, START_EXPONENT = 32, {"adamw": 0.5, "muon": 0.5, "sgd": 0.7}
EFFORTS = {
    "light": Effort(repeats=8, big=64, parts=8, hessian_repeats=0, branches=(), positions=()),
    "medium": Effort(repeats=8, hessian_repeats=4, branches=(0.5, 1.0, 2.0, 4.0, 8.0)),
    "whole": Effort(),
}


def check(config: Config) -> Config:
    """With the task's goals; BadInput for what cannot be run."""
    if config.name is not None:
        check_name(config.name)
    if not 1 <= config.depth <= 4:
        raise BadInput(f"--depth must be from 1 to 4, not {config.depth}")
    config = config if config.goals else replace(config, goals=GOALS[config.task][: config.depth])
    positive = all(math.isfinite(goal) and goal > 0 for goal in config.goals)
    if not positive or list(config.goals) != sorted(set(config.goals), reverse=True):
        raise BadInput("--goals must be positive losses, each below the one before")
    if len(set(config.batches)) < 3 or min(config.batches) < 1:
        raise BadInput("--batches must name at least three different sizes, from 1 on")
    for width in (config.width, *config.sizes):
        if width < 32 or width % 32:
            raise BadInput(f"widths must be multiples of 32, not {width}")
    if config.width in config.sizes or len(set(config.sizes)) < len(config.sizes):
        raise BadInput("--sizes must differ from --width and from each other")
    if not 8 <= config.context <= 1024:
        raise BadInput(f"--context must be from 8 to 1024, not {config.context}")
    if config.seeds < 1 or config.workers < 0 or not 0 < config.max_tokens < math.inf:
        raise BadInput("--seeds and --max-tokens must be positive and finite, --workers not negative")
    if not 0 <= config.seed < 1 << 19:
        raise BadInput(f"--seed must be from 0 to {(1 << 19) - 1}, and it is {config.seed}")
    return replace(config, batches=tuple(sorted(set(config.batches))))


@dataclass(frozen=True)
class Study:
    """An arm of the star: what of it is swept and measured."""

    arm: Arm
    goals: tuple[float, ...]
    batches: tuple[int, ...]
    effort: Effort
    seeds: int = 1
    swept: bool = True
    """whether B_crit comes out of it; else its noise is measured with the base's batch and rate"""


def studies(config: Config) -> list[Study]:
    """The base first; then, one factor changed at a time, the sizes, and with --star the other tasks and optimisers."""
    base = Arm(config.task, config.width, config.optimizer, context=config.context)
    how = EFFORTS[config.effort]
    found = [Study(base, config.goals, config.batches, how, config.seeds)]
    coarse = config.batches[1::2] if len(config.batches) >= 9 else config.batches
    for width in config.sizes:
        arm = replace(base, width=width)
        if config.star:
            found.append(Study(arm, config.goals, coarse, how))
        else:
            noise_alone = replace(how, hessian_repeats=0, branches=(), positions=())
            found.append(Study(arm, config.goals, (), noise_alone, swept=False))
    if config.star:
        for optimizer in ("adamw", "sgd", "muon"):
            if optimizer != config.optimizer:
                found.append(Study(replace(base, optimizer=optimizer), config.goals, coarse, how))
        for task in ("kjv", "shakespeare", "repeat", "ascending"):
            if task != config.task:
                found.append(Study(replace(base, task=task), GOALS[task][: config.depth], coarse, how))
    return found


def start_rate(optimizer: str, batch: int) -> float:
    """Where the search for a rate begins."""
    return START[optimizer] * min(1.0, batch / BASE_BATCH) ** START_EXPONENT[optimizer]


def tuning_jobs(config: Config, study: Study, root: str, device: str, folder: Path) -> dict[str, Job]:
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
                "device": device,
                "partial": str(folder / f"{key}.partial"),
            }
            jobs[key] = Job(key, tune_cell, arguments)
    return jobs


def measuring_job(config: Config, study: Study, batch: int, rate: float, root: str, device: str) -> Job:
    """The cell that trains once more, with one batch size at its tuned rate and a new seed, and measures on the way."""
    arguments = {
        "arm": asdict(study.arm),
        "batch": batch,
        "rate": rate,
        "levels": [*(factor * study.goals[0] for factor in EARLIER), *study.goals],
        "goals": list(study.goals),
        "most_tokens": config.max_tokens,
        "effort": asdict(study.effort),
        "seed": config.seed + config.seeds,
        "root": root,
        "device": device,
    }
    key = f"{study.arm.name}-c{study.arm.context}-measured-b{batch}-{short_hash(arguments)}"
    return Job(key, measure_cell, arguments)


def measuring_point(cells: list[dict[str, Any]]) -> tuple[int, float] | None:
    """The batch size nearest to BASE_BATCH with an inner optimum at the last loss that has one, and its tuned rate.

    None where no loss has one.
    """
    for goal in range(len(cells[0]["trials"][0]["steps"]) - 1, -1, -1):
        for cell in sorted(cells, key=lambda cell: abs(math.log(cell["batch"] / BASE_BATCH))):
            runs, rates = tuned([cell], goal)
            if runs.reached.any():
                return cell["batch"], float(rates[0])
    return None


def start_worker() -> None:
    """One thread a process."""
    configure_cpu(1)


def collected(pool: Pool, jobs: list[Job], folder: Path, bar: tqdm) -> dict[str, dict[str, Any]]:
    """The results of the jobs by key; those that failed are said and missing."""
    found = {}
    for end in pool.map(jobs, folder):
        bar.update()
        if end.result is None:
            tqdm.write(f"failed: {end.job.key}: {end.error}")
        else:
            found[end.job.key] = {**end.result, "seed": end.job.arguments["seed"]}
    return found


def main() -> int:
    """Sweep, measure, fit, judge, draw."""
    given = parse(Config, PRESETS, description=__doc__ or "")
    config = check(given)
    device, reason = choose_device(config.device, tiny=True)
    root = str(data_root(config.data_dir)) if config.task == "tinyshakespeare" or config.data_dir else ""
    kept = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in NOT_IN_HASH}
    sources = source_hash(*(HERE / f"{name}.py" for name in SOURCES))[:16]
    identity = {**kept, "device": device.type, "torch": torch.__version__, "sources": sources}
    name = config.name or f"noise-{config.task}-{short_hash(identity)}-s{config.seed}"
    run = Run(
        results_folder(config.results_dir, "transformers") / name, identity, str(device), asdict(given), exclusive=False
    )
    print(f"device: {device} ({reason})")
    if run.summary:
        print("already done")
        return ended(run, read_json(run.folder / "fits.json")["predictions"])
    star = studies(config)
    workers = config.workers or available_cores()
    cells = run.folder / "cells"
    jobs = {study: tuning_jobs(config, study, root, device.type, cells) for study in star}
    count = sum(map(len, jobs.values())) + len(star)
    done = len(list(cells.glob("*.json"))) if cells.exists() else 0
    print(f"plan: {count} cells on {workers} cores, {done} done; results: {shown(run.folder)}")
    with Pool(min(workers, count), start_worker) as pool, tqdm(total=count, unit="cell") as bar:
        found = collected(pool, [job for study in star for job in jobs[study].values()], cells, bar)
        swept = {study: [found[key] for key in jobs[study] if key in found] for study in star}
        tuned_for = {study: swept[study if study.swept else star[0]] for study in star}
        points = {study: measuring_point(tried) if tried else None for study, tried in tuned_for.items()}
        if points[star[0]] is None and len(found) == sum(map(len, jobs.values())):
            raise BadInput("no run reached any of the losses: give higher --goals or more --max-tokens")
        measuring = {
            study: measuring_job(config, study, *point, root, device.type) for study, point in points.items() if point
        }
        measured = collected(pool, list(measuring.values()), cells, bar)
    if len(found) + len(measured) < sum(map(len, jobs.values())) + len(measuring):
        return 1
    arms, sizes, rows = [], [], []
    for study in star:
        if study not in measuring:
            print(f"{study.arm.name}: no run reached any of its losses")
            continue
        job = measuring[study]
        arm = arm_result(asdict(study.arm), study.goals, swept[study], measured[job.key])
        arms += [arm] if study.swept else []
        sizes += [arm] if study.arm.width != config.width else []
        rows += sweep_rows(study.arm, study.goals, swept[study])
    judged = [verdict.row() for verdict in verdicts(arms[0], arms, sizes)]
    write_csv(run.folder / "batch_sweep.csv", rows)
    every = {arm.name: arm for arm in (*arms, *sizes)}.values()
    write_csv(run.folder / "noise.csv", [row for arm in every for row in noise_rows(arm)])
    write_json(run.folder / "fits.json", finite({"predictions": judged, "arms": [fits(arm) for arm in arms]}))
    overview(arms, run.folder / "noise_scale")
    prediction_panels(arms, sizes, run.folder / "predictions")
    run.finish(cells=count, predictions={f"{row['name']} {row['arm']}": row["verdict"] for row in judged})
    return ended(run, finite(judged))


def ended(run: Run, judged: list[dict[str, Any]]) -> int:
    """Says what became of every prediction, and where it is written down."""
    for row in judged:
        print(told(row))
    print(f"results: {shown(run.folder)}\n{figures(run.folder, 'noise_scale.png')}")
    return 0


if __name__ == "__main__":
    run_main(main)
