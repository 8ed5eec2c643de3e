"""train.py's command line, and the settings that it comes to: recipes by task, and what is refused."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from common.device import DeviceName
from common.errors import BadInput
from common.provenance import check_name
from lm_settings.choices import BESIDE, INTEGER_TASKS, MODERN, Arch, Schedule, Task

Tokenizer = Literal["char", "word", "bpe"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Config:
    preset: Literal["quick", "default", "full"] = "default"
    """quick: under a minute on two CPU cores; default: minutes, as many as the task needs; full: 15 minutes"""
    device: DeviceName = "auto"
    """where to train"""
    seed: int = 0
    """seed of the weights, the order of the data and dropout"""
    results_dir: str | None = None
    """where results go; default: results/ in the repository"""
    data_dir: str | None = None
    """where tinyshakespeare/ is; default: $REPLICATIONS_DATA, else data/ in the repository"""
    name: str | None = None
    """name of the run folder; default: made from the task and a hash of what changes the numbers"""
    from_config: str | None = None
    """repeat the run of this config.json; other flags given win over it"""
    redraw: str | None = None
    """draw the figures of this run folder again from its tables, and do nothing else"""
    task: Task = "shakespeare"
    """integers (ascending, repeat, induction), the plays, the Bible (kjv), tinyshakespeare, or a text of your own"""
    text: str | None = None
    """with --task text: a UTF-8 file; its last tenth is the validation text"""
    development: bool = False
    """for choosing settings: train on nine tenths of the training text, measure on the rest, leave the validation text"""
    minutes: float | None = None
    """wall-clock for everything, from start to figures; turned into steps by a short measurement"""
    steps: int | None = None
    """train for this many steps instead"""
    tokenizer: Tokenizer = "char"
    """what a token is"""
    arch: Arch = "modern"
    """modern: every part of MODERN (lm_settings/choices.py) and Muon; vaswani: the paper's decoder, optimiser and schedule"""
    without: tuple[str, ...] = ()
    """modern parts to leave out: rotary prenorm qknorm relu2 zeroinit untied softcap shortcut shift ngrams muon mixture
    neighbours; the integer tasks never have the token shift and the n-grams, which would solve them without attention"""
    schedule: Schedule = "paper"
    """of vaswani's learning rate; linear: up for a tenth of the run, then down to 0, with which minutes come to far more"""
    layers: int | None = None
    """blocks; default: by task"""
    heads: int | None = None
    """attention heads; default: by task"""
    width: int | None = None
    """channels; default: by task"""
    members: int | None = None
    """nets that a text run trains one after the other in its time, their predictions averaged; default: as many as the text
    can use"""
    context: int | None = None
    """tokens a text model sees; default: by task"""
    batch: int | None = None
    """sequences per step; default: by task"""
    length: int | None = None
    """integer tasks: n; default: 32, induction 64"""
    vocab: int | None = None
    """integer tasks: V; default: 64, induction 256. word, bpe: the greatest number of tokens"""
    lr_scale: float = 1.0
    """factor on every learning rate; each kind of parameter has its own (optimisation/learning_rates.py)"""
    lr: float | None = None
    """no flag of this script, which has no single rate: see --lr-scale"""
    dropout: float | None = None
    """after the embedding and every sublayer; default: 0.15 for texts below 2.5 M tokens, else 0"""
    decay: float = 0.0
    """decoupled weight decay of the blocks' matrices"""
    smoothing: float = 0.0
    """label smoothing of the training loss (Vaswani et al. 2017, section 5.4, used 0.1)"""
    track_noise: bool = False
    """measure the gradient noise scale on the way, from the halves of every fourth batch"""
    precision: Precision = "auto"
    """of activations and products; auto: bf16 where the processor is made for it. Evaluation is in fp32"""
    threads: int | None = None
    """of a CPU; default: OMP_NUM_THREADS, else one or all, whichever a short measurement finds faster"""


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"minutes": 0.9, "layers": 2, "heads": 2, "width": 64},  # small, so that the whole text is soon evaluated
    "default": {},
    "full": {"minutes": 15.0},
}

# What a task gets where nothing is said; chosen on the development slices (transformers/README.md).
TEXT_RECIPE = {"minutes": 4.5, "layers": 4, "heads": 2, "width": 128, "context": 256, "batch": 8}
# A small text is soon read, and a run of so many minutes reads any: both leave time for more width.
WIDER, LONG_MINUTES = {"heads": 3, "width": 192}, 8.0
INTEGER_RECIPE = {"layers": 2, "heads": 2, "width": 128, "batch": 32, "dropout": 0.0}
RECIPES: dict[str, dict[str, Any]] = {
    "ascending": {**INTEGER_RECIPE, "minutes": 0.4, "width": 64, "length": 32, "vocab": 64},
    "repeat": {**INTEGER_RECIPE, "minutes": 0.9, "width": 64, "length": 32, "vocab": 64},
    "induction": {**INTEGER_RECIPE, "minutes": 1.5, "length": 64, "vocab": 256},
    **dict.fromkeys(("shakespeare", "kjv"), TEXT_RECIPE),
    **dict.fromkeys(("tinyshakespeare", "text"), TEXT_RECIPE | WIDER),
}
SMALL_TEXT_DROPOUT = 0.15  # a small text is read many times over
# Steps that a minute came to on two cores, in the committed runs of these recipes.
USUAL_STEPS = {
    "ascending": 2400,
    "repeat": 3400,
    "induction": 1540,
    **dict.fromkeys(("shakespeare", "kjv"), 590),
    **dict.fromkeys(("tinyshakespeare", "text"), 540),
}


@dataclass(frozen=True)
class Settings:
    """A run as it is to be made: the command line with the recipe of its task, and nothing left open."""

    preset: str
    seed: int
    data_dir: str
    """empty: $REPLICATIONS_DATA, else data/ in the repository"""
    from_config: str
    """empty: none"""
    task: Task
    text: str
    """the file of --task text; else empty"""
    development: bool
    minutes: float
    """0 where `steps` is given"""
    steps: int
    """0: as many as fit into `minutes`"""
    tokenizer: Tokenizer
    arch: Arch
    without: tuple[str, ...]
    schedule: Schedule
    """of --arch vaswani; modern has its own"""
    layers: int
    heads: int
    width: int
    members: int
    """0: decided by the text's length and the time"""
    context: int
    """0 for integers, of which `length` decides it"""
    batch: int
    length: int
    """n of an integer task; 0 for texts"""
    vocab: int
    """V of an integer task, or the greatest number of words or byte pairs; 0: as many tokens as the tokenizer likes"""
    lr_scale: float
    dropout: float
    small_text_dropout: float
    """instead of `dropout`, where the training text is small (optimisation/lm_learner.py, SMALL_TEXT)"""
    decay: float
    smoothing: float
    track_noise: bool
    precision: Precision
    threads: int
    """0: not asked for on the command line"""


# Where neither the command line nor the recipe says anything.
ABSENT = {
    **dict.fromkeys(("data_dir", "from_config", "text"), ""),
    **dict.fromkeys(("steps", "members", "context", "length", "vocab", "threads"), 0),
    "minutes": 0.0,
}


def choose_budget(config: Config, arguments: list[str]) -> Config:
    """Of `--minutes` and `--steps`, what was typed wins over what a preset or `--from-config` says; not both."""
    typed = [name for name in ("minutes", "steps") if any(a.split("=")[0] == f"--{name}" for a in arguments)]
    if len(typed) == 2:
        raise BadInput("--steps and --minutes exclude each other")
    if typed == ["minutes"]:
        return replace(config, steps=None)
    return config if config.steps is None else replace(config, minutes=None)


def resolve(config: Config) -> Settings:
    """The settings of a run; BadInput for one that cannot be made."""
    check_belongs(config)
    values = with_recipe(config)
    check_numbers(values)
    if config.task in INTEGER_TASKS:
        check_integers(config.task, values["length"], values["vocab"])
    values.setdefault("small_text_dropout", values.get("dropout", SMALL_TEXT_DROPOUT))
    values.setdefault("dropout", 0.0)
    return Settings(**{field.name: {**ABSENT, **values}[field.name] for field in fields(Settings)})


def with_recipe(config: Config) -> dict[str, Any]:
    """What the command line says, and what the task's recipe says where that is silent; the rest is missing."""
    given = {name: value for name, value in vars(config).items() if value is not None}
    recipe = dict(RECIPES[config.task])
    quick = PRESETS["quick"]["minutes"]
    if config.preset == "quick" and config.minutes == quick:
        given["minutes"] = min(quick, recipe["minutes"])
    if config.steps is not None:
        given.pop("minutes", None)
        del recipe["minutes"]
    long = config.task not in INTEGER_TASKS and given.get("minutes", 0) >= LONG_MINUTES
    if long and config.width is None and config.heads is None:
        recipe |= WIDER
    return {**recipe, **given}


def check_belongs(config: Config) -> None:
    """BadInput for a name that does not exist, and for a setting that the task or the architecture would ignore."""
    if config.name is not None:
        check_name(config.name)
    if config.lr not in (None, 1.0):  # 1.0: what older config.json files call the factor
        raise BadInput(
            f"--lr {config.lr:g}: there is no single learning rate here, each kind of parameter has its own; "
            "--lr-scale 0.5 halves them all"
        )
    unknown = [part for part in config.without if part not in (*MODERN, *BESIDE)]
    if unknown:
        raise BadInput(f"--without {unknown[0]} is unknown: choose from {' '.join((*MODERN, *BESIDE))}")
    if config.without and config.arch == "vaswani":
        raise BadInput("--without takes parts of --arch modern away, and vaswani has none of them")
    if config.schedule != "paper" and config.arch == "modern":
        raise BadInput(f"--schedule {config.schedule} goes with --arch vaswani; modern has a schedule of its own")
    if config.text is not None and config.task != "text":
        raise BadInput(f"--text goes with --task text, not with --task {config.task}")
    integers = config.task in INTEGER_TASKS
    if integers and config.tokenizer != "char":
        raise BadInput(f"--tokenizer is for texts, and --task {config.task} is integers")
    if integers:
        given = {"context": config.context, "development": config.development or None, "members": config.members}
    else:
        given = {"length": config.length, "vocab": config.vocab if config.tokenizer == "char" else None}
    for name, value in given.items():
        if value is not None:
            why = "is integers" if integers else f"is a text in tokens of kind {config.tokenizer}"
            raise BadInput(f"--{name} means nothing here: --task {config.task} {why}")


def check_numbers(values: dict[str, Any]) -> None:
    """BadInput for a number out of its range."""
    for name in ("minutes", "steps", "layers", "heads", "width", "members", "context", "batch", "vocab", "lr_scale"):
        value = values.get(name, 1)
        if not (value > 0 and math.isfinite(value)):
            raise BadInput(f"--{name.replace('_', '-')} must be positive, not {value}")
    if not 0 <= values["seed"] < 1 << 63:
        raise BadInput(f"--seed must not be negative or above 2^63 - 1, and it is {values['seed']}")
    width, heads = values["width"], values["heads"]
    if width % (2 * heads) or width % 16:
        raise BadInput(f"--width {width} must be a multiple of 16 and of twice --heads {heads}")
    for name in ("dropout", "smoothing"):
        if not 0 <= values.get(name, 0) < 1:
            raise BadInput(f"--{name} must be at least 0 and below 1, not {values[name]}")
    if not (values["decay"] >= 0 and math.isfinite(values["decay"])):
        raise BadInput(f"--decay must not be negative or infinite, and it is {values['decay']}")
    if values["track_noise"] and values["batch"] % 2:
        raise BadInput(f"--track-noise halves the batch, and --batch {values['batch']} is odd")


def unusual(settings: Settings) -> str:
    """A sentence on a learning rate that is far from any that has trained well; else empty."""
    if 0.05 <= settings.lr_scale <= 20:
        return ""
    return f"--lr-scale {settings.lr_scale:g} is a factor on all rates, of which 0.25 to 4 have been useful"


def check_integers(task: str, n: int, V: int) -> None:
    """BadInput for a length and a vocabulary with which the task makes no sense."""
    if n < {"ascending": 3, "repeat": 1, "induction": 8}[task]:
        raise BadInput(f"--length {n} is too short for --task {task}")
    if task == "ascending" and n > V:
        raise BadInput(f"--vocab {V} is too small: --length {n} ascending integers need as many")
    if task == "repeat" and V <= 1:
        raise BadInput(f"--vocab {V} is too small: beside the separator 0 at least one integer is needed")
    if task == "induction" and 4 * n > V:
        raise BadInput(f"--vocab {V} is too small for induction: at least 4 x --length, {4 * n}, are needed")
