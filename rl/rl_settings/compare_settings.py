"""The settings of a comparison: compare.py's flags, what they come to, and the arms that are compared."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

from common.device import DeviceName
from common.errors import BadInput
from common.provenance import check_name
from rl_settings.method_names import method_name
from rl_settings.procgen_games import GAMES, PREFIX, is_procgen
from rl_settings.vpg_choices import Algo, Baseline, Encoder
from rl_settings.vpg_settings import Config


@dataclass(frozen=True)
class CompareConfig:
    """The command line; an empty tuple or None stands for the default."""

    suite: Literal["procgen"] | None = None
    """procgen: all 16 games, one seed of vpg, where the flags below do not say otherwise"""
    envs: tuple[str, ...] = ()
    """environments; default: CartPole-v1"""
    algos: tuple[Algo, ...] = ()
    """algorithms; default: both"""
    baselines: tuple[Baseline, ...] = ("gae",)
    """of vpg: each is an arm of its own; ppo takes gae"""
    minibatches: tuple[int, ...] = (1,)
    """of vpg's single pass over a batch: each is an arm of its own"""
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
    algos: tuple[Algo, ...]
    baselines: tuple[Baseline, ...]
    minibatches: tuple[int, ...]
    encoders: tuple[Encoder, ...]
    """none: each environment's recipe"""
    seeds: tuple[int, ...]
    first_seed: int
    device: DeviceName
    instead: dict[str, int]
    """what every run has in place of its recipe's: total_steps, eval_every"""


SUITES: dict[str, dict[str, Any]] = {
    "": {"envs": ("CartPole-v1",), "algos": ("vpg", "ppo"), "seeds": (5,)},
    "procgen": {"envs": tuple(f"{PREFIX}{game}" for game in GAMES), "algos": ("vpg",), "seeds": (1,)},
}


def resolve_comparison(given: CompareConfig) -> CompareSettings:
    """What was given, with the suite's settings where nothing was said; BadInput for what cannot be compared."""
    if given.name is not None:
        check_name(given.name)
    suite = SUITES[given.suite or ""]
    envs, algos, seeds = given.envs or suite["envs"], given.algos or suite["algos"], given.seeds or suite["seeds"]
    instead = {"total_steps": given.total_steps, "eval_every": given.eval_every}
    settings = CompareSettings(
        suite=given.suite or "",
        envs=envs,
        algos=algos,
        baselines=given.baselines,
        minibatches=given.minibatches,
        encoders=given.encoders,
        seeds=seeds,
        first_seed=given.first_seed,
        device=given.device,
        instead={name: value for name, value in instead.items() if value is not None},
    )
    check_comparison(settings, given.workers)
    return settings


def check_comparison(settings: CompareSettings, workers: int) -> None:
    """BadInput for what cannot be compared, as far as it shows without the environments."""
    for name in ("envs", "algos", "baselines", "minibatches", "encoders"):
        values = getattr(settings, name)
        if (not values and name != "encoders") or len(set(values)) < len(values):
            raise BadInput(f"--{name} must name at least one, and none twice")
    if min(settings.minibatches) < 1:
        raise BadInput(f"--minibatches must be positive, not {min(settings.minibatches)}")
    if "vpg" not in settings.algos and (settings.baselines, settings.minibatches) != (("gae",), (1,)):
        raise BadInput("--baselines and --minibatches are vpg's, and --algos does not name it")
    if len(settings.seeds) not in (1, len(settings.envs)):
        raise BadInput(f"--seeds takes one number, or as many as there are environments: {len(settings.envs)}")
    if min(settings.seeds) < 1 or settings.first_seed < 0 or workers < 0:
        raise BadInput("--seeds must be positive, --first-seed and --workers not negative")
    if any(map(is_procgen, settings.envs)) and not all(map(is_procgen, settings.envs)):
        raise BadInput("--envs: Procgen's games have a table of their own; compare them without other environments")


@dataclass(frozen=True)
class Arm:
    """What is compared: an environment with an algorithm, a baseline, of vpg the minibatches of its pass, and a network."""

    env: str
    algo: Algo
    baseline: Baseline
    minibatches: int = 0
    """0: what the environment's recipe has"""
    encoder: Encoder | Literal[""] = ""
    """empty: the recipe's"""

    @property
    def label(self) -> str:
        """The method's name, with its network where that is not the recipe's."""
        return method_name(self.algo, self.minibatches, self.baseline, self.encoder)

    @property
    def key(self) -> str:
        """The same for file names, with the environment."""
        several = [f"m{self.minibatches}"] if self.minibatches > 1 else []
        parts = (self.env, self.algo, self.baseline, *several, *([self.encoder] if self.encoder else []))
        return "-".join("".join(c if c.isalnum() else "_" for c in part) for part in parts)


def arms_of(settings: CompareSettings) -> list[Arm]:
    """Every environment with every algorithm and network; with ppo only GAE, and its own minibatches."""
    vpg: list[tuple[Baseline, int]] = list(itertools.product(settings.baselines, settings.minibatches))
    ppo: list[tuple[Baseline, int]] = [("gae", 0)]
    return [
        Arm(env, algo, baseline, minibatches, encoder)
        for env in settings.envs
        for algo in settings.algos
        for baseline, minibatches in (vpg if algo == "vpg" else ppo)
        for encoder in settings.encoders or ("",)
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
        algo=arm.algo,
        baseline=arm.baseline,
        minibatches=arm.minibatches or None,
        encoder=arm.encoder or None,
        seed=seed,
        total_steps=settings.instead.get("total_steps"),
        eval_every=settings.instead.get("eval_every"),
        results_dir=results_dir,
        device=settings.device,
    )
