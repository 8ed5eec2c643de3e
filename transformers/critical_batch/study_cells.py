"""What the study is made of: its arms, and for each the cells that tune a rate per batch size and that measure the noise.

The base stands in the middle of a star whose other arms differ from it in one factor.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.device import configure_cpu
from common.pool import Job
from common.provenance import short_hash
from critical_batch.batch_sweep import Arm, tune_cell
from critical_batch.local_noise import Effort, measure_cell
from lm_settings.noise_settings import GOALS, NoiseSettings

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


def studies(settings: NoiseSettings) -> list[Study]:
    """The base first; then, one factor changed at a time, the sizes, and with --star the other tasks and optimisers."""
    base = Arm(settings.task, settings.width, settings.optimizer, context=settings.context)
    how = EFFORTS[settings.effort]
    found = [Study(base, settings.goals, settings.batches, how, settings.seeds)]
    coarse = settings.batches[1::2] if len(settings.batches) >= 9 else settings.batches
    for width in settings.sizes:
        arm = replace(base, width=width)
        if settings.star:
            found.append(Study(arm, settings.goals, coarse, how))
        else:
            noise_alone = replace(how, hessian_repeats=0, branches=(), positions=())
            found.append(Study(arm, settings.goals, (), noise_alone, swept=False))
    if settings.star:
        for optimizer in ("adamw", "sgd", "muon"):
            if optimizer != settings.optimizer:
                found.append(Study(replace(base, optimizer=optimizer), settings.goals, coarse, how))
        for task in ("kjv", "shakespeare", "repeat", "ascending"):
            if task != settings.task:
                found.append(Study(replace(base, task=task), GOALS[task][: settings.depth], coarse, how))
    return found


def start_rate(optimizer: str, batch: int) -> float:
    """Where the search for a rate begins."""
    return START[optimizer] * min(1.0, batch / BASE_BATCH) ** START_EXPONENT[optimizer]


def tuning_jobs(settings: NoiseSettings, study: Study, root: str, device: str, folder: Path) -> dict[str, Job]:
    """One cell per batch size and seed, the longest first."""
    jobs = {}
    for seed in range(settings.seed, settings.seed + study.seeds):
        for batch in sorted(study.batches, key=lambda b: -abs(math.log(b / BASE_BATCH))):
            key = f"{study.arm.name}-c{study.arm.context}-b{batch}-s{seed}"
            arguments = {
                "arm": asdict(study.arm),
                "batch": batch,
                "start": start_rate(study.arm.optimizer, batch),
                "goals": list(study.goals),
                "most_tokens": settings.max_tokens,
                "seed": seed,
                "root": root,
                "device": device,
                "partial": str(folder / f"{key}.partial"),
            }
            jobs[key] = Job(key, tune_cell, arguments)
    return jobs


def measuring_job(settings: NoiseSettings, study: Study, batch: int, rate: float, root: str, device: str) -> Job:
    """The cell that trains once more, with one batch size at its tuned rate and a new seed, and measures on the way."""
    arguments = {
        "arm": asdict(study.arm),
        "batch": batch,
        "rate": rate,
        "levels": [*(factor * study.goals[0] for factor in EARLIER), *study.goals],
        "goals": list(study.goals),
        "most_tokens": settings.max_tokens,
        "effort": asdict(study.effort),
        "seed": settings.seed + settings.seeds,
        "root": root,
        "device": device,
    }
    key = f"{study.arm.name}-c{study.arm.context}-measured-b{batch}-{short_hash(arguments)}"
    return Job(key, measure_cell, arguments)


def start_worker() -> None:
    """One thread a process."""
    configure_cpu(1)
