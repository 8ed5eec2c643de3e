"""The recipe of a run: images per step, peak learning rate and its schedule; and how a run of an arm differs from it."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

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


def schedule(fraction: float, warm_up: float = WARM_UP, decays: bool = True) -> float:
    """Multiplier of the learning rate at a fraction of the run: linear warm-up, then linear decay to 0 at its end.

    `warm_up` is the warm-up's share of the run; one that is longer than the run is cut where it ends. Without `decays` the
    rate stays where the warm-up ends.
    """
    rise = fraction / warm_up
    return min(rise, (1 - fraction) / (1 - min(warm_up, 1 - WARM_UP))) if decays else min(rise, 1.0)


@dataclass(frozen=True)
class Variant:
    """What an arm changes; the defaults are the sweep's, which shows each transformed image once and decays its rate to 0."""

    constant_rate: bool = False
    """the rate stays at its peak after the warm-up"""
    warm_up_steps: int = 0
    """length of the warm-up; 0: a fixed share of the run"""
    tested_after: tuple[int, ...] = ()
    """numbers of samples after which the net is tested too, on its way to the last one"""
    shown: Literal["once", "raw", "copies"] = "once"
    """once: transformed images, each once; raw: images as they are; copies: fixed transformed copies of a few images"""
    passes: int = 1
    """raw, copies: how often each image is shown, as it is or as another copy; the images are n_samples / passes"""
    strength: float = 1.0
    """copies: multiplies every transformation's range"""
    tested_transformed: bool = False
    """tested on transformed test images too, the same for all runs"""


USUAL = Variant()
