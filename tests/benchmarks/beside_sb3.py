"""CartPole-v1 beside Stable-Baselines3: steps per second, and seconds of training to 475 points. Run by hand:

    pip install -e '.[dev]' && python tests/benchmarks/beside_sb3.py

Each system trains in this process on one thread, one after the other, seeds in turn: our three methods with their recipes
for CartPole, SB3's A2C and PPO with the settings of its zoo (8 environments). Every 8,192 steps 20 episodes of the stochastic
policy are played, whose time does not count; SB3 ends when it has solved the task, ours at the end of its recipe. Beside
them: how fast the environments step with no learner. Writes results/reference/rl/classic/beside_sb3.csv.
"""

import argparse
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "rl"))

from common.device import configure_cpu
from common.files import write_csv
from rl_settings.method_names import method_name
from rl_settings.seed_purposes import DURING
from rl_settings.vpg_choices import Method
from rl_settings.vpg_settings import Config, resolve
from vector_environments.make_streams import make_streams
from vpg_learner.vpg_trainer import Trainer

OUT = ROOT / "results" / "reference" / "rl" / "classic" / "beside_sb3.csv"
EVERY, EPISODES, THRESHOLD = 8192, 20, 475.0
# rl-baselines3-zoo, hyperparams/{a2c,ppo}.yml, CartPole-v1; `lin_x` there is x times the remaining part of the run.
ZOO: dict[str, dict[str, Any]] = {
    "A2C": {"steps": 500_000},
    "PPO": {
        "steps": 100_000,
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": lambda left: 0.001 * left,
        "clip_range": lambda left: 0.2 * left,
    },
}


def solved(curve: list[tuple[int, float, float]]) -> tuple[float | None, float | None]:
    """Steps and seconds at the first of two consecutive evaluations of at least THRESHOLD."""
    for (steps, seconds, value), (_, _, then) in itertools.pairwise(curve):
        if min(value, then) >= THRESHOLD:
            return steps, seconds
    return None, None


def ours(method: Method, seed: int) -> dict[str, Any]:
    """vpg.py's training loop."""
    config = resolve(Config(env="CartPole-v1", method=method, seed=seed))
    trainer = Trainer(config, torch.device("cpu"))
    curve: list[tuple[int, float, float]] = []
    while trainer.step < config.total_steps:
        trainer.update()
        if trainer.step >= EVERY * (len(curve) + 1):
            value = float(trainer.evaluate(EPISODES, False, DURING, trainer.updates)[0].mean())
            curve.append((trainer.step, trainer.seconds, value))
    trainer.close()
    return row(f"ours, {method_name(method, config.minibatches)}", seed, trainer.step, trainer.seconds, curve)


def sb3(name: str, seed: int) -> dict[str, Any]:
    """Stable-Baselines3 with its zoo's settings."""
    import stable_baselines3  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.env_util import make_vec_env  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.evaluation import evaluate_policy  # pyright: ignore[reportMissingImports]

    curve: list[tuple[int, float, float]] = []
    evaluation = make_vec_env("CartPole-v1", n_envs=EPISODES, seed=10_000 + seed)

    class Evaluate(BaseCallback):
        """Notes steps, seconds of training and the mean return."""

        start = paused = 0.0
        go_on = True

        def _on_step(self) -> bool:
            if self.num_timesteps >= EVERY * (len(curve) + 1):
                now = time.perf_counter()
                mean, _ = evaluate_policy(self.model, evaluation, EPISODES, deterministic=False)
                curve.append((self.num_timesteps, now - self.start - self.paused, float(np.mean(mean))))
                self.go_on = solved(curve) == (None, None)  # what comes after would only take time
                self.paused += time.perf_counter() - now
            return self.go_on

    settings = {key: value for key, value in ZOO[name].items() if key != "steps"}
    environments = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
    model = getattr(stable_baselines3, name)("MlpPolicy", environments, seed=seed, device="cpu", **settings)
    callback = Evaluate()
    callback.start = time.perf_counter()
    model.learn(ZOO[name]["steps"], callback=callback)
    seconds = time.perf_counter() - callback.start - callback.paused
    return row(f"SB3 {stable_baselines3.__version__}, {name}", seed, model.num_timesteps, seconds, curve)


def row(system: str, seed: int, steps: int, seconds: float, curve: list[tuple[int, float, float]]) -> dict[str, Any]:
    """One line of the table."""
    at, after = solved(curve)
    best = {
        "last_return": round(curve[-1][2], 1),
        "solved_steps": at or "",
        "solved_seconds": round(after, 3) if after else "",
    }
    rate = {"steps": steps, "seconds": round(seconds, 3), "steps_per_second": round(steps / seconds)}
    return {"system": system, "seed": seed, **rate, **best}


def stepping(n: int, seconds: float = 2.0) -> float:
    """Steps per second of the environments with no learner: a fixed random sequence of actions, resets not counted."""
    streams = make_streams("CartPole-v1", n)
    streams.reset([0] * n)
    actions, envs = np.random.default_rng(0).integers(2, size=(64, n)), streams.envs
    start, count, resets = time.perf_counter(), 0, 0
    while time.perf_counter() - start < seconds:
        for action in actions:
            ended = envs.step(action)[2]
            resets += int(ended.sum())  # each takes a step of its own
        count += len(actions) * n
    elapsed = time.perf_counter() - start
    streams.close()
    return (count - resets) / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if importlib.util.find_spec("stable_baselines3") is None:
        parser.error("Stable-Baselines3 is not installed: pip install -e '.[dev]'")
    configure_cpu(1)
    systems: list[Callable[[int], dict[str, Any]]] = [
        *(partial(ours, method) for method in get_args(Method)),
        lambda seed: sb3("A2C", seed),
        lambda seed: sb3("PPO", seed),
    ]
    rows = []
    for seed in range(options.seeds):
        for system in systems:
            rows.append(system(seed))
            print(rows[-1], flush=True)
    n = resolve(Config(env="CartPole-v1")).num_envs
    limit = stepping(n)
    alone = {"system": f"{n} environments alone", "seed": "", "steps": "", "seconds": "", "last_return": ""}
    write_csv(OUT, [*rows, {**alone, "solved_steps": "", "solved_seconds": "", "steps_per_second": round(limit)}])
    print(f"\nthe environments alone, {n} at once: {limit:,.0f} steps/s")
    for name in dict.fromkeys(r["system"] for r in rows):
        mine = [r for r in rows if r["system"] == name]
        rate = statistics.median(r["steps_per_second"] for r in mine)
        found = [r for r in mine if r["solved_seconds"] != ""]
        when = f"475 after {statistics.median(r['solved_seconds'] for r in found):.1f} s" if found else "never at 475"
        print(
            f"{name}: {rate:,.0f} steps/s ({rate / limit:.0%} of stepping alone); {when} ({len(found)} of {len(mine)} seeds)"
        )


if __name__ == "__main__":
    main()
