"""Seeds that never meet: training, its resumption and every evaluation have their own."""

import numpy as np

# What a run's seed is used for; EVALUATE is evaluate.py's.
WEIGHTS, TRAIN, RESUME, DURING, FINAL, GREEDY, EVALUATE = range(7)


def seeds(seed: int, n: int, *purpose: int) -> list[int]:
    """`n` seeds below 2^31 for one purpose of a run's `seed`, unrelated to those of any other purpose or seed."""
    return [int(s >> 1) for s in np.random.SeedSequence(seed, spawn_key=purpose).generate_state(n)]
