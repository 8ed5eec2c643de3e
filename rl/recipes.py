"""What an environment gets where nothing is said: listed ones were tuned with seeds from 1,000 on, never reported."""

from typing import Any

# For any environment that is not listed.
DEFAULT: dict[str, Any] = {
    "total_steps": 500_000,
    "num_envs": 16,
    "horizon": 128,
    "gamma": 0.99,
    "lam": 0.95,
    "lr": 1e-3,
    "value_lr": 1e-3,
    "anneal": True,
    "entropy": 0.0,
    "value_epochs": 10,
    "value_minibatch": 256,
    "max_grad_norm": 0.5,
    "normalise_observations": True,
    "normalise_rewards": True,
    "hidden": (64, 64),
    "eval_every": 50_000,
}
PPO: dict[str, Any] = {"lr": 3e-4}

RECIPES: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "total_steps": 131_072,
        "num_envs": 32,
        "horizon": 32,
        "lam": 0.98,
        "lr": 1e-2,
        "value_lr": 3e-3,
        "value_epochs": 4,
        "normalise_observations": False,
        "normalise_rewards": False,
        "eval_every": 8192,
    },
}


def recipe_for(env: str, algo: str) -> dict[str, Any]:
    """The settings of an environment for vpg, or for ppo, whose policy takes many more steps and so smaller ones."""
    recipe = {**DEFAULT, **RECIPES.get(env, {})}
    if algo == "ppo":
        recipe |= PPO
    return recipe
