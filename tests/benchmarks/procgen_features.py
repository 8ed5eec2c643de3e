"""How much of its last layer a trained Procgen policy still uses: features that never fire, and their effective rank.

    python tests/benchmarks/procgen_features.py results/rl/procgen-*-s0

Each folder is a finished run of vpg.py or compare.py. The 256 features that policy and value function share are computed on
one rollout of the recipe's games and steps, which the trained net plays from where training ended; beside it those of the
same net before training, on a rollout that it plays itself. Writes results/reference/rl/procgen/features.csv: the part of the
features that are 0 on all observations, and the effective rank of the centred features, exp of the entropy of their singular
values as shares of the sum (Roy & Vetterli 2007).
"""

import argparse
from typing import Any

import torch
from procgen_runs import REFERENCE, add_row, untrained
from torch import Tensor

from policy_networks.actor_critic import IMAGES_AT_ONCE
from vpg_learner.vpg_trainer import Trainer


def dead(features: Tensor) -> float:
    """The part of the features (observations, features) >= 0 that are 0 throughout."""
    return float((features.amax(0) <= 0).float().mean())


def effective_rank(features: Tensor) -> float:
    """exp(-sum p log p) of the shares p of the singular values of the centred features: 1 for a line, d for a ball in d."""
    values = torch.linalg.svdvals(features.double() - features.double().mean(0))
    shares = values[values > 0] / values.sum()
    return float((-(shares * shares.log()).sum()).exp())


def features_of(trainer: Trainer) -> Tensor:
    """(games * steps, 256): on one rollout, which the policy plays."""
    obs = trainer.collector.collect(trainer.model, trainer.random).obs[:-1].flatten(0, 1)
    with torch.no_grad():
        return torch.cat([trainer.model.features(trainer.model.trunk, part) for part in obs.split(IMAGES_AT_ONCE)])


def measure(folder: str) -> dict[str, Any]:
    """One run's row."""
    trainer, state = untrained(folder)
    before = features_of(trainer)
    trainer.load(state)
    after = features_of(trainer)
    trainer.close()
    return {
        "game": trainer.settings.env.removeprefix("procgen:"),
        "frames": state["step"],
        "dead_before": dead(before),
        "dead": dead(after),
        "rank_before": effective_rank(before),
        "rank": effective_rank(after),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    for folder in options.folders:
        row = measure(folder)
        print(row, flush=True)
        add_row(REFERENCE / "features.csv", row)


if __name__ == "__main__":
    main()
