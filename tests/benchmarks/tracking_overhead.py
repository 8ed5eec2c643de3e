"""What `train.py --track-noise` costs: a training step of the default model with and without it. Run by hand, quietly:

    python tests/benchmarks/tracking_overhead.py

Two trainings of the King James Bible take turns, block by block; a block is as many steps as tracking takes from one
measurement to the next. Reported: the median over blocks of each, and the median of the paired ratios with its quartiles.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "transformers"))

import train
from common.device import compute_dtype, configure_cpu, keep_freed_memory
from common.provenance import available_cores
from gradient_noise.noise_tracking import EVERY
from lm_settings.train_settings import Config, resolve
from optimisation.lm_learner import Learner
from texts.tokenized_text import load_text

BLOCKS, STEPS = 40, 1000


def main() -> None:
    configure_cpu(available_cores())
    keep_freed_memory()
    device = torch.device("cpu")
    dtype, why = compute_dtype(device)
    learners = []
    for tracked in (False, True):
        settings = resolve(Config(task="kjv", steps=STEPS, track_noise=tracked))
        learners.append(Learner(settings, load_text(settings, device), device, dtype))
    seconds = np.empty((BLOCKS, 2))
    for block in range(-2, BLOCKS):  # the first two warm up
        for i, learner in enumerate(learners):
            start = time.perf_counter()
            for step in range(EVERY):
                train.update(learner, (block + 2) * EVERY + step, STEPS)
            seconds[block, i] = time.perf_counter() - start
    plain, tracked = 1e3 * np.median(seconds, 0) / EVERY
    low, middle, high = np.quantile(seconds[:, 1] / seconds[:, 0], (0.25, 0.5, 0.75))
    print(
        f"{available_cores()} cores, {str(dtype)[6:]} ({why}): a step takes {plain:.1f} ms, with tracking {tracked:.1f} ms; "
        f"ratio {middle:.3f} (quartiles {low:.3f}, {high:.3f}; {BLOCKS} blocks of {EVERY} steps)"
    )


if __name__ == "__main__":
    main()
