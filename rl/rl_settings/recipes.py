"""What an environment gets where nothing is said: listed ones were tuned with seeds from 1,000 on, never reported.

But for Procgen's rate: that twice as much is worse was seen on eight games with the seed that is reported.
"""

from typing import Any

from rl_settings.procgen_games import is_procgen
from rl_settings.vpg_choices import LOG_STD, Method

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
    "log_std": LOG_STD,
    "encoder": "nature",
    "critic": "separate",
    "value_weight": 0.5,
    "value_clip": 0.0,
    "bf16": True,
    "epochs": 1,
    "minibatches": 1,
    "clip": 0.2,
    "eval_every": 50_000,
}
PPO: dict[str, Any] = {"lr": 3e-4, "epochs": 10, "minibatches": 8}
ONE_EPOCH: dict[str, dict[str, Any]] = {"CartPole-v1": {"lr": 1e-3}}

RECIPES: dict[str, dict[str, Any]] = {
    # With gamma 0.99, lambda 0.97 and no entropy bonus 475 points came sooner, but 2 of 50 tuning seeds ended at 200.
    "CartPole-v1": {
        "total_steps": 65_536,
        "num_envs": 64,
        "horizon": 32,
        "gamma": 0.995,
        "lam": 0.99,
        "lr": 1e-2,
        "entropy": 0.01,
        "value_lr": 3e-3,
        "value_epochs": 4,
        "value_minibatch": 128,
        "eval_every": 8192,
    },
    "Acrobot-v1": {"total_steps": 300_000, "horizon": 64, "lr": 1e-2, "eval_every": 10_000},
    "MountainCar-v0": {"total_steps": 1_000_000, "horizon": 64, "lr": 5e-3, "eval_every": 25_000},
    # A wide beginning: without a first visit to the goal, the best that is learnt is to stand still.
    "MountainCarContinuous-v0": {
        "total_steps": 300_000,
        "horizon": 64,
        "lr": 5e-3,
        "log_std": 0.5,
        "eval_every": 10_000,
    },
    "Pendulum-v1": {"total_steps": 1_000_000, "horizon": 64, "gamma": 0.9, "lr": 5e-3, "eval_every": 25_000},
    "LunarLander-v3": {"total_steps": 1_500_000, "num_envs": 32, "horizon": 64, "gamma": 0.995, "lr": 2e-3},
    "LunarLanderContinuous-v3": {
        "total_steps": 1_500_000,
        "num_envs": 32,
        "horizon": 64,
        "gamma": 0.995,
        "lr": 3e-3,
        "log_std": -1.0,
    },
    "BipedalWalker-v3": {"total_steps": 3_000_000, "num_envs": 32, "horizon": 64, "eval_every": 200_000},
}

# Procgen, all games alike: a step of the policy every 256 frames. Discount, lambda, entropy and clipping are the paper's
# (Cobbe et al. 2020, appendix D).
PROCGEN: dict[str, Any] = {
    "total_steps": 1_000_000,
    "num_envs": 32,
    "horizon": 8,
    "gamma": 0.999,
    "lr": 5e-4,
    "anneal": False,
    "entropy": 0.01,
    "normalise_observations": False,
    "hidden": (),
    "encoder": "impala-half",
    "critic": "shared",
    "eval_every": 100_000,
}
# Where the single pass is in several minibatches: as many games as PPO's, and steps of 256 frames whatever the batch: with
# 16 minibatches 64 steps of each game, with 64 PPO's 256. With the paper's discount of 0.999 the policy learnt to wait in
# ninja and others (rl/procgen.md).
PASS_ENVS, STEP_FRAMES, PASS_GAMMA, PASS_MINIBATCHES = 64, 256, 0.99, 64
# OpenAI's PPO (openai/train-procgen). Not in the paper but in its code: the values' clip, with one range for both, and the
# scaling of rewards, whose discount (openai/baselines, VecNormalize) stays at 0.99 whatever the algorithm's is.
PROCGEN_PPO: dict[str, Any] = {
    "num_envs": 64,
    "horizon": 256,
    "epochs": 3,
    "minibatches": 8,
    "value_clip": 0.2,
    "reward_gamma": 0.99,
}


def recipe_for(env: str, method: Method, minibatches: int | None = None) -> dict[str, Any]:
    """The settings of an environment for one of the methods. ppo's policy takes many more steps, and so smaller ones.

    `minibatches`: of one-epoch's pass, where they were asked for. Outside Procgen and CartPole it has strict's settings.
    Rewards are scaled with the discount of the algorithm where a recipe has no `reward_gamma`.
    """
    own = {**DEFAULT, **(PROCGEN if is_procgen(env) else RECIPES.get(env, {}))}
    if method == "strict":
        return own
    if method == "ppo":
        return {**own, **(PROCGEN_PPO if is_procgen(env) else PPO)}
    if not is_procgen(env):
        return {**own, **ONE_EPOCH.get(env, {}), "minibatches": minibatches or PPO["minibatches"]}
    parts = minibatches or PASS_MINIBATCHES
    batch = {"num_envs": PASS_ENVS, "horizon": STEP_FRAMES * parts // PASS_ENVS, "minibatches": parts}
    return {**own, **batch, "gamma": PASS_GAMMA}
