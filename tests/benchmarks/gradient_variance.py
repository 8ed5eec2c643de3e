"""How noisy the policy gradient is under each baseline, at the same policies. Run by hand, a minute:

    python tests/benchmarks/gradient_variance.py

vpg.py trains on CartPole-v1; at three stages the policy and the value function are frozen, ROLLOUTS batches are collected,
and every batch gives the gradient of all four estimators (advantages not normalised). Reported: the variance of a batch's
gradient, the trace of its covariance, with a bootstrap interval over batches, and the norm of the mean gradient. Writes
results/reference/rl/baselines/gradient_variance.csv.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "rl"))

from common.device import configure_cpu
from common.files import write_csv
from rl_settings.vpg_settings import Config, resolve
from vpg_learner.gae_and_truncation import make_batch
from vpg_learner.gradients import flat
from vpg_learner.policy_step_and_value_fit import Weights, vpg_loss
from vpg_learner.vpg_trainer import Trainer

OUT = ROOT / "results" / "reference" / "rl" / "baselines" / "gradient_variance.csv"
BASELINES = ("none", "reward-to-go", "value", "gae")
STAGES = (0, 5, 20)  # updates before the policy is frozen
ROLLOUTS, SEED = 200, 1000


def variance(gradients: np.ndarray, draws: int = 1000) -> tuple[float, float, float]:
    """tr(Sigma) from (batches, parameters), and its 95% percentile-bootstrap interval over batches."""
    squares = np.square(gradients - gradients.mean(0)).sum(1) * len(gradients) / (len(gradients) - 1)
    random = np.random.default_rng(0)
    found = squares[random.integers(len(squares), size=(draws, len(squares)))].mean(1)
    low, high = np.quantile(found, (0.025, 0.975))
    return float(squares.mean()), float(low), float(high)


def main() -> None:
    configure_cpu(1)
    config = replace(resolve(Config(env="CartPole-v1", seed=SEED)), normalise_advantages=False)
    rows: list[dict[str, Any]] = []
    for stage in STAGES:
        trainer = Trainer(replace(config, normalise_advantages=True), torch.device("cpu"))
        for _ in range(stage):
            trainer.update()
        gradients: dict[str, list[np.ndarray]] = {name: [] for name in BASELINES}
        for _ in range(ROLLOUTS):
            rollout = trainer.collector.collect(trainer.model, trainer.random)
            for name in BASELINES:
                batch, _ = make_batch(replace(config, baseline=name), rollout, trainer.model)
                loss = vpg_loss(trainer.model, batch, Weights(), len(batch))
                gradients[name].append(flat(torch.autograd.grad(loss, trainer.model.actor_parameters())).numpy())
        length = trainer.collector.log.latest[1]
        for name in BASELINES:
            matrix = np.stack(gradients[name]).astype(np.float64)
            trace, low, high = variance(matrix)
            norm = float(np.sqrt(np.square(matrix.mean(0)).sum()))  # of the mean, the noise of the mean included
            row = {"updates": stage, "episode_length": round(length, 1), "baseline": name, "mean_norm": norm}
            rows.append({**row, "variance": trace, "lo95": low, "hi95": high})
            print(rows[-1], flush=True)
        trainer.close()
    write_csv(OUT, rows)


if __name__ == "__main__":
    main()
