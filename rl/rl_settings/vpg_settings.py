"""The settings of a training run: vpg.py's flags, what stands for those that were not given, and which make no sense."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

import tyro

from common.device import DeviceName
from common.errors import BadInput
from common.provenance import check_name
from rl_settings.method_names import method_asked
from rl_settings.procgen_games import TRAIN_LEVELS, game_and_mode, is_procgen
from rl_settings.recipes import recipe_for
from rl_settings.vpg_choices import Algo, Baseline, Critic, Encoder, Method

VALUE_LOSS = ("value_weight", "value_clip")  # what an encoder's step needs that policy and values share
VALUE_PASSES = ("value_lr", "value_epochs", "value_minibatch")  # what the value function's own passes need

Flag = tyro.conf.DisallowNone[bool | None]  # --x and --no-x; None takes the recipe's


@dataclass(frozen=True)
class Config:
    """The command line; None stands for what the environment's recipe has."""

    preset: Literal["quick", "default", "full"] = "default"
    """quick: a quarter of the environment's steps, 50,000 at most; default: its recipe; full: twice the steps"""
    device: DeviceName = "auto"
    """where to train; auto: the CPU for vectors, whose nets are too small for an accelerator"""
    seed: int = 0
    """seed of the weights, the environments and the actions"""
    results_dir: str | None = None
    """where results go; default: results/ in the repository"""
    data_dir: str | None = None
    """not used here: environments bring their own"""
    name: str | None = None
    """name of the run folder; default: made from the environment and a hash of what changes the numbers"""
    from_config: str | None = None
    """repeat the run of this config.json; other flags given win over it"""
    redraw: str | None = None
    """draw the figure of this run folder again from its metrics.csv, and do nothing else"""
    env: str = "CartPole-v1"
    """any Gymnasium environment; `module:Id` for one that importing a module of yours registers; `procgen:coinrun`"""
    method: Method | None = None
    """strict (default): one step per batch; one-epoch: one pass, in --minibatches, with PPO's clip; ppo: several passes"""
    algo: Algo | None = None
    """older names of --method: vpg is strict, with several --minibatches one-epoch; ppo is ppo"""
    total_steps: int | None = None
    """environment steps; default: by environment"""
    num_envs: int | None = None
    """environments stepped together; default: by environment"""
    horizon: int | None = None
    """steps of each environment per update; default: by environment"""
    baseline: Baseline = "gae"
    """what multiplies grad log pi: the episode's return, the reward-to-go, that minus the value, or GAE(lambda)"""
    gamma: float | None = None
    """discount"""
    lam: float | None = None
    """GAE's lambda: 0 trusts the value function, 1 the returns"""
    lr: float | None = None
    """Adam's rate for the policy"""
    value_lr: float | None = None
    """Adam's rate for the value function"""
    anneal: Flag = None
    """let the policy's rate fall linearly to 0"""
    entropy: float | None = None
    """weight of the entropy bonus"""
    value_epochs: int | None = None
    """passes of the value function over a batch"""
    value_minibatch: int | None = None
    """steps per minibatch of these passes; 0: the whole batch"""
    max_grad_norm: float | None = None
    """the policy's gradient, with the value function's where they share an encoder, is clipped to this norm; 0: it is not"""
    normalise_observations: Flag = None
    """divide observations by their running standard deviation, after subtracting their mean"""
    normalise_rewards: Flag = None
    """divide rewards by the running standard deviation of the discounted return"""
    reward_gamma: float | None = None
    """discount of that return; default: --gamma, of Procgen's ppo 0.99 whatever --gamma is, as in OpenAI's code"""
    normalise_advantages: bool = True
    """zero mean and unit variance over the batch"""
    hidden: tuple[int, ...] | None = None
    """widths of the hidden layers of both networks, behind the convolutions where observations are images"""
    log_std: float | None = None
    """for Box actions: log of their standard deviation at the start, in units of half the space's range"""
    encoder: Encoder | None = None
    """for images: Procgen's residual net or half its width, also normalised or with Glorot's first weights; Mnih et al.'s"""
    critic: Critic | None = None
    """for images: the value function has an encoder of its own, shares the policy's, or reads it without training it"""
    value_weight: float | None = None
    """what the value function's error counts in the step of an encoder that is not separate"""
    value_clip: float | None = None
    """of such an encoder: a value that has moved this far towards its target within a batch moves no further; 0: it does"""
    bf16: Flag = None
    """for images: convolutions in bfloat16 where the device multiplies it; the default where there are images"""
    levels: int | None = None
    """Procgen: levels to train on; 0: all; default: the paper's 200, in hard mode 500"""
    epochs: int | None = None
    """ppo: passes of the policy over a batch; default: 3 in Procgen, 10 elsewhere"""
    minibatches: int | None = None
    """per pass; several, without --method, mean one-epoch, which in Procgen takes 4 steps of 64 games for each"""
    clip: float | None = None
    """where the policy moves within a batch, its ratio to the old one counts between 1 - clip and 1 + clip"""
    eval_every: int | None = None
    """steps between evaluations while training; 0: none"""
    eval_episodes: int = 20
    """episodes of such an evaluation, one of each environment"""
    final_episodes: int = 100
    """episodes of the two evaluations at the end, sampled and greedy"""
    threads: int | None = None
    """of a CPU; default: for images OMP_NUM_THREADS, else all cores; for vectors one"""


PRESETS: dict[str, dict[str, Any]] = {"quick": {"final_episodes": 20}, "default": {}, "full": {}}
STEPS_FACTOR = {"quick": 0.25, "default": 1.0, "full": 2.0}
QUICK_STEPS = 50_000  # at most


@dataclass(frozen=True)
class Settings:
    """A training run in full: flags, preset and recipe taken together. What each means stands at the flag of its name."""

    env: str
    method: Method
    seed: int
    total_steps: int
    num_envs: int
    horizon: int
    baseline: Baseline
    gamma: float
    lam: float
    lr: float
    value_lr: float
    anneal: bool
    entropy: float
    value_epochs: int
    value_minibatch: int
    max_grad_norm: float
    normalise_observations: bool
    normalise_rewards: bool
    reward_gamma: float
    normalise_advantages: bool
    hidden: tuple[int, ...]
    log_std: float
    encoder: Encoder
    critic: Critic
    value_weight: float
    value_clip: float
    bf16: bool
    levels: int
    epochs: int
    minibatches: int
    clip: float
    eval_every: int
    eval_episodes: int
    final_episodes: int


def resolve(given: Config) -> Settings:
    """What was given, with the preset and the environment's recipe filled in; BadInput for what cannot be run."""
    if given.name is not None:
        check_name(given.name)
    method = method_asked(given.method, given.algo, given.minibatches, given.epochs)
    recipe = recipe_for(given.env, "ppo" if given.algo == "ppo" else method, given.minibatches)
    recipe["total_steps"] = round(STEPS_FACTOR[given.preset] * recipe["total_steps"])
    if given.preset == "quick":
        recipe["total_steps"] = max(min(recipe["total_steps"], QUICK_STEPS), recipe["num_envs"] * recipe["horizon"])
    flags = {field.name: getattr(given, field.name) for field in fields(Settings)}
    values = {**recipe, **{name: value for name, value in flags.items() if value is not None}}
    values |= {"levels": levels_of(given), "method": method}
    values.setdefault("reward_gamma", values["gamma"])
    if method == "strict":  # in one step there is no ratio to clip, and no value that has moved
        values |= {"clip": 0.0, "value_clip": 0.0}
    settings = Settings(**values)
    check(settings)
    return settings


def levels_of(given: Config) -> int:
    """Procgen's levels to train on, 0 for all; 0 too for other environments, which have none."""
    if not is_procgen(given.env):
        if given.levels is not None:
            raise BadInput(f"--levels is for Procgen, and --env is {given.env}")
        return 0
    if given.levels is None:
        return TRAIN_LEVELS[game_and_mode(given.env)[1]]
    if not 0 <= given.levels < 1 << 31:
        raise BadInput(f"--levels must be between 0 and 2^31 - 1, not {given.levels}")
    return given.levels


def check(settings: Settings) -> None:
    """BadInput for numbers out of their range."""
    positive = ("total_steps", "num_envs", "horizon", "lr", "value_lr", "epochs", "minibatches", "eval_episodes")
    for name in (*positive, "final_episodes"):
        if not 0 < getattr(settings, name) < math.inf:
            raise BadInput(f"--{name.replace('_', '-')} must be positive, not {getattr(settings, name)}")
    passes = ("value_epochs", "value_minibatch", "value_weight", "value_clip")
    for name in ("entropy", "max_grad_norm", "eval_every", *passes):
        if not 0 <= getattr(settings, name) < math.inf:
            raise BadInput(f"--{name.replace('_', '-')} must not be negative, and it is {getattr(settings, name)}")
    for name in ("gamma", "lam", "reward_gamma"):
        if not 0 <= getattr(settings, name) <= 1:
            raise BadInput(f"--{name.replace('_', '-')} must be between 0 and 1, not {getattr(settings, name)}")
    if not -10 <= settings.log_std <= 2:
        raise BadInput(f"--log-std must be between -10 and 2, not {settings.log_std}")
    if settings.method != "strict" and not 0 < settings.clip < 1:
        raise BadInput(f"--clip must be between 0 and 1, not {settings.clip}")
    if any(width < 1 for width in settings.hidden):
        raise BadInput("--hidden must be positive widths")
    if not 0 <= settings.seed < 1 << 63:
        raise BadInput(f"--seed must not be negative or above 2^63 - 1, and it is {settings.seed}")
    batch = settings.num_envs * settings.horizon
    if settings.total_steps < batch:
        raise BadInput(f"--total-steps {settings.total_steps} is less than one batch of {batch} steps")
    if settings.minibatches > batch:
        raise BadInput(f"--minibatches {settings.minibatches} is more than the {batch} steps of a batch")


def check_meaning(settings: Settings, given: Config, image: bool, gaussian: bool) -> None:
    """BadInput for a flag that changes nothing here: its user believes that it does."""
    joint = image and settings.critic != "separate"
    nothing = {
        "this environment's observations are no images": () if image else ("encoder", "critic", "bf16", *VALUE_LOSS),
        "images are not normalised": ("normalise_observations",) if image and given.normalise_observations else (),
        f"--critic {settings.critic} learns with the policy": VALUE_PASSES if joint else (),
        "only --critic shared and detached have it": VALUE_LOSS if image and not joint else (),
        "the actions are discrete": () if gaussian else ("log_std",),
        "rewards are not scaled": () if settings.normalise_rewards else ("reward_gamma",),
        "strict moves nothing within a batch": ("clip", "value_clip") if settings.method == "strict" else (),
    }
    for why, names in nothing.items():
        for name in names:
            if getattr(given, name) is not None:
                raise BadInput(f"--{name.replace('_', '-')} changes nothing: {why}")
