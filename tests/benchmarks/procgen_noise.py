"""How noisy Procgen's gradients are: the simple noise scale of trained policies, that of the value function beside it.

    python tests/benchmarks/procgen_noise.py results/rl/procgen-*-s0

Each folder is a finished run of vpg.py or compare.py. Its policy plays on from where training ended, without learning, for
--batches rollouts of the recipe's games and steps; the mean gradients of groups of games then give tr(Sigma) and |G|^2
(McCandlish et al. 2018, A.1), with the steps of one game in one rollout as the unit, since they depend on each other. Writes
results/reference/rl/procgen/noise.csv: B_simple = tr(Sigma) / |G|^2 in frames, with a 95% interval from the jackknife over
rollouts, for the policy's gradient and for that of the value function.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from procgen_runs import REFERENCE, ROOT, add_row, untrained
from torch import Tensor

from common.pool import Job, Pool
from common.provenance import available_cores
from policy_networks.actor_critic import IMAGES_AT_ONCE, ActorCritic
from training_runs.training_run import start_worker
from vpg_learner.gae_and_truncation import Batch, make_batch
from vpg_learner.gradients import NoiseScale, flat, noise_scale
from vpg_learner.policy_step_and_value_fit import Weights, vpg_loss

GROUPS = 8  # of games in a rollout
PARTS = ("policy", "value")


def both_gradients(model: ActorCritic, rows: Batch) -> tuple[Tensor, Tensor]:
    """The mean gradients of the policy's objective, without the entropy bonus, and of the value function's error."""
    shared = list(model.trunk.parameters())
    parameters = ([*shared, *model.actor.parameters()], [*shared, *model.critic.parameters()])
    totals = [torch.zeros(sum(p.numel() for p in some)) for some in parameters]
    for index in torch.arange(len(rows)).split(IMAGES_AT_ONCE):
        part = rows.rows(index)
        known = model.head_and_value(part.obs)
        without = replace(part, advantages=torch.zeros_like(part.advantages))
        losses = (
            vpg_loss(model, part, Weights(), len(rows), known),
            vpg_loss(model, without, Weights(value=1.0), len(rows), known),
        )
        for total, loss, some in zip(totals, losses, parameters, strict=True):
            gradient = torch.autograd.grad(loss, some, retain_graph=True, materialize_grads=True)
            total += flat(gradient)
    return totals[0], totals[1]


def measure(folder: str, batches: int) -> dict[str, Any]:
    """In a worker: the noise of one run's last policy."""
    trainer, state = untrained(folder)
    trainer.load(state)
    config = trainer.settings
    n = config.num_envs
    found: tuple[list[list[Tensor]], ...] = ([], [])
    for _ in range(batches):
        rollout = trainer.collector.collect(trainer.model, trainer.random)
        batch, _known = make_batch(config, rollout, trainer.model)
        groups = [(batch.streams * GROUPS // n == group).nonzero().squeeze(-1) for group in range(GROUPS)]
        gradients = [both_gradients(trainer.model, batch.rows(index)) for index in groups]
        for part, mine in zip(found, zip(*gradients, strict=True), strict=True):
            part.append(list(mine))
    trainer.close()
    per_unit = config.horizon
    return {
        "game": config.env.removeprefix("procgen:"),
        "frames": trainer.step,
        "batches": batches,
        **{
            f"{name}_{key}": value
            for name, part in zip(PARTS, found, strict=True)
            for key, value in summary(part, n, per_unit).items()
        },
    }


def summary(gradients: Sequence[list[Tensor]], games: int, frames: int) -> dict[str, float | None]:
    """|G|^2, tr(Sigma) of one frame, and B_simple in frames with its interval; None for what noise makes infinite."""

    def scale(rollouts: Sequence[list[Tensor]]) -> NoiseScale:
        return noise_scale([g for rollout in rollouts for g in rollout], games * len(rollouts))

    whole = scale(gradients)
    # In 1 / B, which stays finite where |G|^2 is lost in the noise.
    left_out = [scale([*gradients[:i], *gradients[i + 1 :]]) for i in range(len(gradients))]
    inverse, k = whole.squared_norm / whole.trace, len(gradients)
    values = np.array([one.squared_norm / one.trace for one in left_out])
    error = math.sqrt((k - 1) / k * float(np.square(values - values.mean()).sum()))
    low, high = inverse - 1.96 * error, inverse + 1.96 * error
    return {
        "squared_norm": whole.squared_norm,
        "trace": whole.trace * frames,
        "scale": frames / inverse if inverse > 0 else None,
        "scale_lo95": frames / high if high > 0 else None,
        "scale_hi95": frames / low if low > 0 else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--batches", type=int, default=8)
    options = parser.parse_args()
    jobs = [
        Job(f"{Path(folder).name}-{options.batches}", measure, {"folder": folder, "batches": options.batches})
        for folder in options.folders
    ]
    with Pool(min(available_cores(), len(jobs)), start_worker) as pool:
        for end in pool.map(jobs, ROOT / "results" / "rl" / "procgen-noise"):
            print(end.error or end.result, flush=True)
            if end.result:
                add_row(REFERENCE / "noise.csv", end.result)


if __name__ == "__main__":
    main()
