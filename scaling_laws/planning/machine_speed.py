"""How much training fits into some minutes on this machine: the speed of a few widths, measured, and the rest between."""

import math
from collections.abc import Callable

import numpy as np

from common.errors import BadInput
from law_forms.huber_solver import Array
from planning.best_cell import FEWEST_SAMPLES, Sized
from planning.kept_law import KeptLaw

CALIBRATED = (2, 4, 8, 16, 32)
LARGEST_WIDTH = 64  # speeds are not carried further than twice the widest measured
TEST_COST = 10_000 / 3  # the test images, each as a third of a training step


def best_in_minutes(law: KeptLaw, minutes: float, seeds: int, workers: int, speed: Callable[[int], float]) -> Sized:
    """The cell of least predicted loss whose runs, `seeds` of them over `workers` processes, take `minutes`.

    `speed(width)` measures a worker's training images per second of one net beside the others; between the calibrated
    widths its logarithm is interpolated.
    """
    widths, n, macs = law.sizes()
    usable = widths <= LARGEST_WIDTH
    widths, n, macs = widths[usable], n[usable], macs[usable]
    measured: Array = np.log([speed(width) for width in CALIBRATED])
    at = np.log(np.array(CALIBRATED, dtype=float))
    per_second = np.exp(np.interp(np.log(widths), at, measured))
    beyond = widths > CALIBRATED[-1]  # there the multiply-adds decide
    per_second[beyond] *= macs[widths == CALIBRATED[-1]][0] / macs[beyond]
    rounds = max(1, math.ceil(seeds / workers))
    samples = np.floor(60 * minutes * per_second / rounds - TEST_COST)
    log_loss = np.where(samples >= FEWEST_SAMPLES, law.predictive.law.log_loss(n, np.maximum(samples, 1)), np.inf)
    best = int(np.argmin(log_loss))
    if not math.isfinite(log_loss[best]):
        raise BadInput(f"--minutes {minutes:g} is too short: not even the smallest net is tested by then")
    if best == 0:
        raise BadInput(f"--minutes {minutes:g} is too short: the best size would be below that of the smallest net")
    return Sized(int(widths[best]), int(n[best]), float(macs[best]), int(samples[best]))
