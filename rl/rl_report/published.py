"""Returns that others have published, to draw and print beside ours. Facts with their sources, not measured here.

`procgen_ppo.csv` is from openai/train-procgen (`train_procgen/results`): PPO in easy mode, trained on 200 levels, mean and
standard deviation of three runs, on the levels of training and on all; and the return of a random policy on all levels
(first episode of 64 environments each).
"""

import csv
from functools import cache
from pathlib import Path

import numpy as np

from rl_settings.procgen_games import game_and_mode

ANCHORS = Path(__file__).resolve().with_name("procgen_ppo.csv")
# env: {who: (return, steps)}. CleanRL: `ppo.py`, mean of the last episodes, stochastic, 3 seeds (vwxyzjn/cleanrl,
# docs/benchmark/ppo.md). Zoo: Stable-Baselines3's tuned models, one run each, deterministic (DLR-RM/rl-baselines3-zoo,
# benchmark.md); LunarLander there is the older v2. None for an environment that they do not list.
PUBLISHED: dict[str, dict[str, tuple[float, int]]] = {
    "CartPole-v1": {
        "CleanRL PPO": (490.0, 500_000),
        "SB3 zoo A2C": (500.0, 500_000),
        "SB3 zoo PPO": (500.0, 100_000),
    },
    "Acrobot-v1": {
        "CleanRL PPO": (-86.4, 500_000),
        "SB3 zoo A2C": (-83.4, 500_000),
        "SB3 zoo PPO": (-73.5, 1_000_000),
    },
    "MountainCar-v0": {
        "CleanRL PPO": (-200.0, 500_000),
        "SB3 zoo A2C": (-111.0, 1_000_000),
        "SB3 zoo PPO": (-110.0, 1_000_000),
    },
    "MountainCarContinuous-v0": {"SB3 zoo A2C": (91.2, 100_000), "SB3 zoo PPO": (88.3, 20_000)},
    "Pendulum-v1": {"SB3 zoo A2C": (-163.0, 1_000_000), "SB3 zoo PPO": (-172.0, 100_000)},
    "LunarLander-v3": {"SB3 zoo A2C": (155.8, 200_000), "SB3 zoo PPO": (242.0, 1_000_000)},
    "LunarLanderContinuous-v3": {"SB3 zoo A2C": (84.0, 5_000_000), "SB3 zoo PPO": (271.0, 1_000_000)},
    "BipedalWalker-v3": {"SB3 zoo A2C": (300.0, 5_000_000), "SB3 zoo PPO": (213.0, 5_000_000)},
}
# What counts as solved: Gymnasium's registry, else this project's own aim.
THRESHOLDS = {
    "CartPole-v1": 475.0,
    "Acrobot-v1": -100.0,
    "MountainCar-v0": -110.0,
    "MountainCarContinuous-v0": 90.0,
    "Pendulum-v1": -200.0,
    "LunarLander-v3": 200.0,
    "LunarLanderContinuous-v3": 200.0,
    "BipedalWalker-v3": 300.0,
}


@cache
def anchors() -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """(game, split) -> steps and mean returns; split: train, test or random."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with open(ANCHORS, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["game"], row["split"]), []).append((float(row["steps"]), float(row["return_mean"])))
    return {key: (np.array(points)[:, 0], np.array(points)[:, 1]) for key, points in found.items()}


def random_return(env: str) -> float | None:
    """What a random policy reaches; None in hard mode, for which it is not known."""
    game, mode = game_and_mode(env)
    return float(anchors()[game, "random"][1][0]) if mode == "easy" else None


def ppo_points(env: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames and mean returns of PPO as they are published: every point of its curve that is known here. Easy mode."""
    return anchors()[game_and_mode(env)[0], split]


def ppo_return(env: str, split: str, steps: float) -> float | None:
    """PPO's mean return after that many frames, linear between the known points and from a random policy on.

    None in hard mode and beyond the last point.
    """
    game, mode = game_and_mode(env)
    if mode != "easy":
        return None
    at, returns = anchors()[game, split]
    start = anchors()[game, "random"][1]
    if steps > at[-1]:
        return None
    return float(np.interp(steps, np.concatenate([[0.0], at]), np.concatenate([start, returns])))
