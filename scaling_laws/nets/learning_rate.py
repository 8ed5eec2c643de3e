"""The recipe of a run: how many images a step takes, the peak learning rate, and its schedule over the run."""

import math
from typing import NamedTuple

LR_MAX = 0.05
WARM_UP = 0.05  # fraction of the run: a fixed number of steps would tax the short runs (Porian et al. 2024)


class RateRule(NamedTuple):
    """lr = lr0 (8 / width)^width (20,000 / n_samples)^samples."""

    lr0: float
    width: float
    samples: float


# From results/reference/scaling_laws/tuning/tuning.csv (fit: `lr_rule` in sweeping/rate_search.py; tests recompute it).
RULE = RateRule(0.00943, 0.621, -0.045)


def batch_size(n_samples: int) -> int:
    """4 … 64, close to 12 sqrt(n_samples / 10,000).

    A short run needs its steps: at 1,719 samples batch 64 has about four times the loss of batch 4, while at 110,000
    samples it loses nothing (results/reference/scaling_laws/tuning/batch.csv). With one batch size for all, the
    exponent of the data would be an exponent of optimisation steps.
    """
    exact = math.log2(12 * math.sqrt(n_samples / 10_000))
    return 2 ** min(6, max(2, round(exact)))


def learning_rate(width: int, n_samples: int, rule: RateRule = RULE) -> float:
    """The peak learning rate of a run, by the rule above or by another."""
    return min(LR_MAX, rule.lr0 * (8 / width) ** rule.width * (20_000 / n_samples) ** rule.samples)


def schedule(fraction: float) -> float:
    """Multiplier of the learning rate at a fraction of the run: linear warm-up, then linear decay to 0 at its end."""
    return min(fraction / WARM_UP, (1 - fraction) / (1 - WARM_UP))
