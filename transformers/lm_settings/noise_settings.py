"""noise_scale.py's command line, and the settings that it comes to."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from common.device import DeviceName
from common.errors import BadInput
from common.provenance import check_name
from lm_settings.choices import OptimizerName

NoiseTask = Literal["kjv", "shakespeare", "tinyshakespeare", "repeat", "ascending"]
EffortName = Literal["light", "medium", "whole"]


@dataclass(frozen=True)
class Config:
    preset: Literal["quick", "default", "full"] = "default"
    """quick: under a minute on two CPU cores; default: seven minutes; full: all arms, two to three hours"""
    device: DeviceName = "auto"
    """where to train; auto: the CPU, since the nets are tiny"""
    seed: int = 0
    """the first seed of the weights and of the data's order"""
    results_dir: str | None = None
    """where results go; default: results/ in the repository"""
    data_dir: str | None = None
    """where tinyshakespeare/ is; default: $REPLICATIONS_DATA, else data/ in the repository"""
    name: str | None = None
    """name of the folder; default: made from the settings and the code"""
    from_config: str | None = None
    """repeat what this config.json says; other flags given win over it"""
    redraw: str | None = None
    """draw the figures of this folder again from its fits.json and noise.csv, and do nothing else"""
    task: NoiseTask = "kjv"
    """the base: what is learnt"""
    width: int = 64
    """the base: channels, a multiple of 32"""
    optimizer: OptimizerName = "adamw"
    """the base: AdamW, SGD with momentum, or Muon"""
    context: int = 64
    """tokens of a text's sequence"""
    batches: tuple[int, ...] = (2, 8, 24, 64, 160)
    """batch sizes in sequences"""
    goals: tuple[float, ...] = ()
    """losses in nats per token, descending; default: the first --depth of the task's own"""
    depth: int = 3
    """how many of a task's own losses to go down"""
    seeds: int = 1
    """runs of every batch size of the base"""
    sizes: tuple[int, ...] = (32, 128)
    """widths whose noise scale is measured beside the base's"""
    effort: EffortName = "medium"
    """how much is measured at each loss; light: B_simple alone, on fewer batches"""
    star: bool = False
    """change one factor at a time: other tasks and optimisers with every second batch size"""
    max_tokens: float = 3.6e6
    """that a run may see; what has not reached a loss by then counts as cut off"""
    workers: int = 0
    """cells at once; 0: one per core"""


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "width": 32,
        "batches": (4, 16, 64, 128),
        "goals": (2.5, 2.4, 2.3),
        "sizes": (),
        "effort": "light",
        "max_tokens": 1e6,
    },
    "default": {},
    "full": {
        "batches": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        "depth": 4,
        "seeds": 2,
        "effort": "whole",
        "star": True,
    },
}
# Losses that take 40 to 140 steps with large batches: of fewer, the start of every run is too large a part. `ascending` is
# so easy that it takes as few however low they lie.
GOALS: dict[str, tuple[float, ...]] = {
    "kjv": (2.1, 1.9, 1.75, 1.65),
    "shakespeare": (2.4, 2.2, 2.05, 1.9),
    "tinyshakespeare": (2.4, 2.2, 2.05, 1.9),
    "repeat": (3.5, 3.0, 2.7, 2.4),
    "ascending": (0.03, 0.01, 0.003, 0.001),
}


@dataclass(frozen=True)
class NoiseSettings:
    """A study as it is to be made: the command line with the task's losses, and nothing left open."""

    seed: int
    data_dir: str
    """empty: $REPLICATIONS_DATA, else data/ in the repository"""
    task: NoiseTask
    width: int
    optimizer: OptimizerName
    context: int
    batches: tuple[int, ...]
    """ascending"""
    goals: tuple[float, ...]
    """descending"""
    depth: int
    seeds: int
    sizes: tuple[int, ...]
    effort: EffortName
    star: bool
    max_tokens: float
    workers: int
    """0: one per core"""


def resolve_noise(config: Config) -> NoiseSettings:
    """The settings of a study; BadInput for one that cannot be made."""
    if config.name is not None:
        check_name(config.name)
    if not 1 <= config.depth <= 4:
        raise BadInput(f"--depth must be from 1 to 4, not {config.depth}")
    goals = config.goals or GOALS[config.task][: config.depth]
    positive = all(math.isfinite(goal) and goal > 0 for goal in goals)
    if not positive or list(goals) != sorted(set(goals), reverse=True):
        raise BadInput("--goals must be positive losses, each below the one before")
    if len(set(config.batches)) < 3 or min(config.batches) < 1:
        raise BadInput("--batches must name at least three different sizes, from 1 on")
    for width in (config.width, *config.sizes):
        if width < 32 or width % 32:
            raise BadInput(f"widths must be multiples of 32, not {width}")
    if config.width in config.sizes or len(set(config.sizes)) < len(config.sizes):
        raise BadInput("--sizes must differ from --width and from each other")
    if not 8 <= config.context <= 1024:
        raise BadInput(f"--context must be from 8 to 1024, not {config.context}")
    if config.seeds < 1 or config.workers < 0 or not 0 < config.max_tokens < math.inf:
        raise BadInput("--seeds and --max-tokens must be positive and finite, --workers not negative")
    if not 0 <= config.seed < 1 << 19:
        raise BadInput(f"--seed must be from 0 to {(1 << 19) - 1}, and it is {config.seed}")
    batches = tuple(sorted(set(config.batches)))
    changed = {"goals": goals, "batches": batches, "data_dir": config.data_dir or ""}
    return NoiseSettings(**{field.name: {**vars(config), **changed}[field.name] for field in fields(NoiseSettings)})
