"""The settings of a comparison: compare.py's flags, what they come to, and the arms that are compared."""

import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from common.device import DeviceName
from common.errors import BadInput
from common.provenance import check_name
from rl_settings.method_names import method_name, method_of_older
from rl_settings.procgen_games import GAMES, PREFIX, is_procgen
from rl_settings.recipes import recipe_for
from rl_settings.vpg_choices import Algo, Baseline, Encoder, Method
from rl_settings.vpg_settings import Config

CONTROL = "procgen-control"
CONTROL_GAMES = ("fruitbot", "caveflyer", "starpilot", "leaper")  # of different kinds: dense rewards, mazes, one goal


@dataclass(frozen=True)
class CompareConfig:
    """The command line; an empty tuple or None stands for the default."""

    suite: Literal["procgen", "procgen-control"] | None = None
    """procgen: all games, strict; procgen-control: four, one-epoch, also in 24 steps, ppo with its minibatches and gamma"""
    envs: tuple[str, ...] = ()
    """environments; default: CartPole-v1"""
    methods: tuple[Method, ...] = ()
    """each an arm of its own: one step per batch, one pass in several minibatches, several passes; default: all three"""
    algos: tuple[Algo, ...] = ()
    """older names of --methods: vpg is strict, and with several --minibatches one-epoch; ppo is ppo"""
    baselines: tuple[Baseline, ...] = ("gae",)
    """of strict and one-epoch: each is an arm of its own; ppo takes gae"""
    minibatches: tuple[int, ...] = ()
    """of one-epoch's pass over a batch: each is an arm of its own; default: each environment's recipe"""
    encoders: tuple[Encoder, ...] = ()
    """networks for images, each an arm of its own; default: each environment's recipe"""
    seeds: tuple[int, ...] = ()
    """runs of each arm: one number, or one for each environment; default: 5"""
    first_seed: int = 0
    """the first of the seeds"""
    total_steps: int | None = None
    """steps of every run; default: each environment's recipe"""
    eval_every: int | None = None
    """steps between evaluations while training, 0: none; default: each environment's recipe"""
    workers: int = 0
    """runs at once; 0: one per core"""
    device: DeviceName = "cpu"
    """where runs train; cuda pays for images, with all runs on one device; auto: the CPU for vectors"""
    results_dir: str | None = None
    """where results go; default: results/ in the repository"""
    name: str | None = None
    """name of the folder; default: made from the settings and the code"""
    redraw: str | None = None
    """write the table and the figure of this folder again from its runs.csv and curves.csv, and do nothing else"""


@dataclass(frozen=True)
class CompareSettings:
    """A comparison in full: flags and suite taken together. What each means stands at the flag of its name."""

    suite: str
    envs: tuple[str, ...]
    methods: tuple[Method, ...]
    baselines: tuple[Baseline, ...]
    minibatches: tuple[int, ...]
    """none: each environment's recipe"""
    encoders: tuple[Encoder, ...]
    """none: each environment's recipe"""
    seeds: tuple[int, ...]
    first_seed: int
    device: DeviceName
    instead: dict[str, int]
    """what every run has in place of its recipe's: total_steps, eval_every"""


# `algos` is what the older flags stood for where --algos was not given.
SUITES: dict[str, dict[str, Any]] = {
    "": {"envs": ("CartPole-v1",), "methods": get_args(Method), "algos": ("vpg", "ppo"), "seeds": (5,)},
    "procgen": {"envs": tuple(f"{PREFIX}{g}" for g in GAMES), "methods": ("strict",), "algos": ("vpg",), "seeds": (1,)},
    "procgen-control": {"envs": tuple(f"{PREFIX}{g}" for g in CONTROL_GAMES), "methods": (), "seeds": (1,)},
}


def resolve_comparison(given: CompareConfig) -> CompareSettings:
    """What was given, with the suite's settings where nothing was said; BadInput for what cannot be compared."""
    if given.name is not None:
        check_name(given.name)
    suite = SUITES[given.suite or ""]
    methods, minibatches = methods_asked(given, suite)
    instead = {"total_steps": given.total_steps, "eval_every": given.eval_every}
    settings = CompareSettings(
        suite=given.suite or "",
        envs=given.envs or suite["envs"],
        methods=methods,
        baselines=given.baselines,
        minibatches=minibatches,
        encoders=given.encoders,
        seeds=given.seeds or suite["seeds"],
        first_seed=given.first_seed,
        device=given.device,
        instead={name: value for name, value in instead.items() if value is not None},
    )
    check_comparison(settings, given.workers)
    return settings


def methods_asked(given: CompareConfig, suite: dict[str, Any]) -> tuple[tuple[Method, ...], tuple[int, ...]]:
    """The methods, and the minibatches of one-epoch; BadInput where flags contradict each other."""
    parts = given.minibatches
    if given.suite == CONTROL and (given.methods or given.algos or parts or given.baselines != ("gae",)):
        raise BadInput(f"--suite {CONTROL} names its own methods, baselines and minibatches")
    if given.methods and given.algos:
        raise BadInput("--methods and --algos, its older name, exclude each other")
    if parts and min(parts) < 1:
        raise BadInput(f"--minibatches must be positive, not {min(parts)}")
    if given.methods or not (given.algos or parts):
        methods: tuple[Method, ...] = given.methods or suite["methods"]
        if parts and "one-epoch" not in methods:
            raise BadInput("--minibatches are one-epoch's, and --methods does not name it")
        if 1 in parts:
            raise BadInput("--minibatches 1 contradicts one-epoch: one step per batch is strict")
        return methods, parts
    found: dict[Method, None] = {}
    for algo in given.algos or suite["algos"]:
        found |= dict.fromkeys(method_of_older(algo, one) for one in parts or (1,))
    if parts and not {"strict", "one-epoch"} & set(found):
        raise BadInput("--minibatches are one-epoch's, and --algos does not name it")
    return tuple(found), tuple(one for one in parts if one > 1)


def check_comparison(settings: CompareSettings, workers: int) -> None:
    """BadInput for what cannot be compared, as far as it shows without the environments."""
    for name in ("envs", "methods", "baselines", "minibatches", "encoders"):
        values = getattr(settings, name)
        if (not values and name in ("envs", "baselines")) or len(set(values)) < len(values):
            raise BadInput(f"--{name} must name at least one, and none twice")
    if settings.methods == ("ppo",) and settings.baselines != ("gae",):
        raise BadInput("--baselines are of strict and one-epoch, and neither is compared")
    if len(settings.seeds) not in (1, len(settings.envs)):
        raise BadInput(f"--seeds takes one number, or as many as there are environments: {len(settings.envs)}")
    if min(settings.seeds) < 1 or settings.first_seed < 0 or workers < 0:
        raise BadInput("--seeds must be positive, --first-seed and --workers not negative")
    if any(map(is_procgen, settings.envs)) and not all(map(is_procgen, settings.envs)):
        raise BadInput("--envs: Procgen's games have a table of their own; compare them without other environments")
    if settings.suite == CONTROL and not is_procgen(settings.envs[0]):
        raise BadInput(f"--suite {CONTROL} is of Procgen's games, and --envs names others")


@dataclass(frozen=True)
class Arm:
    """What is compared: an environment with a method, a baseline, minibatches and a network. 0, empty: the recipe's."""

    env: str
    method: Method
    baseline: Baseline = "gae"
    minibatches: int = 0
    encoder: Encoder | Literal[""] = ""
    gamma: float = 0.0
    horizon: int = 0

    @property
    def label(self) -> str:
        """The method's name, with what is not the recipe's."""
        return method_name(self.method, self.minibatches, self.baseline, self.encoder, self.gamma, self.horizon)

    @property
    def key(self) -> str:
        """The same for file names, with the environment."""
        more = {"m": self.minibatches if self.minibatches > 1 else 0, "g": self.gamma, "h": self.horizon}
        several = [f"{letter}{value}" for letter, value in more.items() if value]
        parts = (self.env, self.method, self.baseline, *several, *([self.encoder] if self.encoder else []))
        return "-".join("".join(c if c.isalnum() else "_" for c in part) for part in parts)


def arms_of(settings: CompareSettings) -> list[Arm]:
    """Every environment with every method, its baselines and minibatches, and network; with ppo only GAE."""
    arms = []
    for env in settings.envs:
        for method in settings.methods:
            parts = (
                {"strict": (1,), "ppo": (0,)}.get(method)
                or settings.minibatches
                or (recipe_for(env, method)["minibatches"],)
            )
            baselines: tuple[Baseline, ...] = ("gae",) if method == "ppo" else settings.baselines
            arms += [Arm(env, method, baseline, one) for baseline, one in itertools.product(baselines, parts)]
        if settings.suite == CONTROL:
            arms += control_arms(env)
    return [replace(arm, encoder=encoder) for arm in arms for encoder in settings.encoders or ("",)]


def control_arms(env: str) -> list[Arm]:
    """What tells the number of passes from what else differs between one-epoch and OpenAI's PPO in Procgen.

    One pass in 64 steps of 256 frames; one pass over the same 64 x 256 frames in as many steps as PPO's three passes take
    together; and PPO with one-epoch's discount and its steps of 256 frames.
    """
    single, ppo = recipe_for(env, "one-epoch"), recipe_for(env, "ppo")
    steps = ppo["epochs"] * ppo["minibatches"]
    return [
        Arm(env, "one-epoch", minibatches=single["minibatches"]),
        Arm(env, "one-epoch", minibatches=steps, horizon=single["horizon"]),
        Arm(env, "ppo", minibatches=single["minibatches"], gamma=single["gamma"]),
    ]


def planned_runs(settings: CompareSettings) -> dict[str, tuple[Arm, int]]:
    """Every arm with each of its seeds, by a key for file names, first seeds first."""
    seeds = settings.seeds * (len(settings.envs) // len(settings.seeds))
    seeds_of = dict(zip(settings.envs, seeds, strict=True))
    planned = {}
    for i in range(max(settings.seeds)):
        seed = settings.first_seed + i
        for arm in (arm for arm in arms_of(settings) if i < seeds_of[arm.env]):
            planned[f"{arm.key}-s{seed}"] = (arm, seed)
    return planned


def config_of(settings: CompareSettings, arm: Arm, seed: int, results_dir: str | None = None) -> Config:
    """One run as vpg.py would be asked for it."""
    return Config(
        env=arm.env,
        method=arm.method,
        baseline=arm.baseline,
        minibatches=arm.minibatches if arm.minibatches > 1 else None,
        encoder=arm.encoder or None,
        gamma=arm.gamma or None,
        horizon=arm.horizon or None,
        seed=seed,
        total_steps=settings.instead.get("total_steps"),
        eval_every=settings.instead.get("eval_every"),
        results_dir=results_dir,
        device=settings.device,
    )
