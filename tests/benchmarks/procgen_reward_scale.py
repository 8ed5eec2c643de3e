"""Procgen: how large rewards are once they are scaled, by the discount of the scaling. Run by hand, three minutes:

    python tests/benchmarks/procgen_reward_scale.py

A random policy plays every game, 64 of it for STEPS steps each, on the 200 levels of training. The rewards are divided by the
standard deviation of their discounted return; reported is that deviation at 0.999, where vpg.py's one-epoch had its discount
and its scaling, and at 0.99, where OpenAI's PPO has its scaling beside a discount of 0.999. Writes reward_scale.csv in
results/reference/rl/procgen/, one row per game.
"""

from typing import Any

import numpy as np
from procgen_runs import REFERENCE

from common.files import write_csv
from rl_settings.procgen_games import GAMES, PREFIX, TRAIN_LEVELS
from rl_settings.seed_purposes import TRAIN, seeds
from vector_environments.make_streams import make_streams
from vpg_learner.running_statistics import RewardScaler

N, STEPS = 64, 2000
COLUMNS = {"deviation_at_0.999": 0.999, "deviation_at_0.99": 0.99}
OUT = REFERENCE / "reward_scale.csv"


def deviations(game: str) -> dict[str, Any]:
    """The deviation of the discounted return at each discount of COLUMNS, of one random play, and how many episodes ended."""
    streams = make_streams(PREFIX + game, N, levels=TRAIN_LEVELS["easy"])
    streams.reset(seeds(1000, N, TRAIN))
    random = np.random.default_rng(1000)
    rewards, ended, valid = (np.empty((STEPS, N), kind) for kind in (np.float32, bool, bool))
    for t in range(STEPS):
        step = streams.step(random.integers(15, size=N))
        rewards[t], ended[t], valid[t] = step.reward, step.terminated | step.truncated, step.valid
    streams.close()
    found: dict[str, Any] = {"game": game, "frames": int(valid.sum()), "episodes": int(ended.sum())}
    for column, gamma in COLUMNS.items():
        scaler = RewardScaler(N, gamma)
        scaler(rewards, ended, valid)
        found[column] = float(f"{float(scaler.moments.std):.4g}")
    return found


def main() -> None:
    rows = []
    for game in GAMES:
        rows.append(deviations(game))
        print(rows[-1], flush=True)
    write_csv(OUT, rows)


if __name__ == "__main__":
    main()
