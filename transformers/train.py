"""A decoder-only transformer after Vaswani et al. 2017, "Attention Is All You Need", on integers, plays and scripture.

    python transformers/train.py                                    Shakespeare's plays, 5 minutes on two CPU cores
    python transformers/train.py --task repeat --length 5 --vocab 5

Expect 1.23 nats per character (1.77 bits) on the held-out tenth of every play, where an n-gram reaches 1.40. The folder that
is printed holds metrics.csv, summary.json, checkpoint.pt, the figures and, for texts, sample.txt; the same command goes
on where it was stopped. `sample.py` continues a prompt, `score.py` measures any text.

Three one-line changes to try (nats per character that --preset quick gave, one run each; as it is: 1.35):
  --arch vaswani          2.21: the paper's decoder, with its own optimiser and schedule, learns more slowly.
  --tokenizer word        1.89 (2.72 bits): words have too few examples; byte pairs, --tokenizer bpe, 1.40.
  --without ngrams        1.48: what follows from the last few letters has to be learnt by the net.
"""

import os

from common.clock import STARTED

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import math
import shutil
import sys
import time
import traceback
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from common.cli import Interrupt, figures, parse, run_main, shown
from common.data import sha256_of
from common.device import DeviceName, choose_device, compute_dtype, configure_cpu, keep_freed_memory, synchronize
from common.errors import BadInput
from common.files import read_json, write_json
from common.live import LiveFigure
from common.provenance import available_cores, check_name, results_folder, short_hash, source_hash
from common.run import Run, read_metrics
from decoder import MODERN
from evaluation import SEQUENCES, checkpoint_state, score_integers, window_losses
from lmreport import anchor_words, draw_so_far, headline, report
from tasks import INTEGER_TASKS, IntegerTask
from training import FLAT, Text, Training, calibrate, load_text

HERE = Path(__file__).resolve().parent
SOURCES = (
    "decoder",
    "kernels",
    "lookback",
    "muon",
    "tasks",
    "corpora",
    "vocabulary",
    "training",
    "noise_tracking",
    "gradient_noise",
    "evaluation",
    "anchors",
)
NOT_IN_HASH = {"preset", "device", "results_dir", "data_dir", "name", "from_config", "text"}
ROWS = 24  # of metrics.csv, denser at the beginning
SAVE_SECONDS = 30.0
QUICK_SECONDS = 10.0  # of training that the quick preset gets at least, on a slow machine too
REVISE = 0.3  # of the planned steps, after which their number is decided for good; less than training.FLAT
FINISH_SECONDS = 5.0  # figures, a sample of SAMPLE_TOKENS, the last checkpoint
CURVE_TOKENS = 16_384  # of the validation text, for the rows of metrics.csv; the summary's number is on all of it
ROW_SEQUENCES = 256  # of an integer task, for the same; the summary's number is on evaluation.SEQUENCES of them

Task = Literal["ascending", "repeat", "induction", "shakespeare", "tinyshakespeare", "kjv", "text"]


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
    tokenizer: Literal["char", "word", "bpe"] = "char"
    """what a token is"""
    arch: Literal["modern", "vaswani"] = "modern"
    """modern: every part of decoder.MODERN and Muon; vaswani: the paper's decoder, optimiser and schedule"""
    without: tuple[str, ...] = ()
    """modern parts to leave out: rotary prenorm qknorm relu2 zeroinit untied softcap shortcut shift ngrams muon;
    the integer tasks never have the token shift and the n-grams, which would solve them without attention"""
    layers: int | None = None
    """blocks; default: by task"""
    heads: int | None = None
    """attention heads; default: by task"""
    width: int | None = None
    """channels; default: by task"""
    context: int | None = None
    """tokens a text model sees; default: by task"""
    batch: int | None = None
    """sequences per step; default: by task"""
    length: int | None = None
    """integer tasks: n; default: 32, induction 64"""
    vocab: int | None = None
    """integer tasks: V; default: 64, induction 256. word, bpe: the greatest number of tokens"""
    lr: float = 1.0
    """factor on every learning rate"""
    dropout: float | None = None
    """after the embedding and every sublayer; default: 0.1 for texts below 2.5 M tokens, else 0"""
    decay: float = 0.0
    """decoupled weight decay of the blocks' matrices"""
    smoothing: float = 0.0
    """label smoothing of the training loss (Vaswani et al. 2017, section 5.4, used 0.1)"""
    track_noise: bool = False
    """measure the gradient noise scale on the way, from the halves of every fourth batch"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of activations and products; auto: bf16 where the processor is made for it. Evaluation is in fp32"""


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"minutes": 0.9, "layers": 2, "heads": 2, "width": 64},  # small, so that the whole text is soon evaluated
    "default": {},
    "full": {"minutes": 15.0},
}

# What a task gets where nothing is said; chosen on the development slices (README, "How the settings were chosen").
TEXT_RECIPE = {"minutes": 4.5, "layers": 4, "heads": 2, "width": 128, "context": 256, "batch": 8}
INTEGER_RECIPE = {"layers": 2, "heads": 2, "width": 128, "batch": 32, "dropout": 0.0}
RECIPES: dict[str, dict[str, Any]] = {
    "ascending": {**INTEGER_RECIPE, "minutes": 0.4, "width": 64, "length": 32, "vocab": 64},
    "repeat": {**INTEGER_RECIPE, "minutes": 0.9, "width": 64, "length": 32, "vocab": 64},
    "induction": {**INTEGER_RECIPE, "minutes": 1.5, "length": 64, "vocab": 256},
    **dict.fromkeys(("shakespeare", "kjv", "tinyshakespeare", "text"), TEXT_RECIPE),
}
LONG_MINUTES, LONG_RECIPE = 8.0, {"heads": 3, "width": 192}  # a text run of so many minutes has time for more width


# ---------------------------------------------------------------- what is asked for


def resolve(config: Config) -> Config:
    """The configuration with the task's recipe filled in; BadInput for one that cannot be run."""
    if config.name is not None:
        check_name(config.name)
    unknown = [part for part in config.without if part not in (*MODERN, "muon")]
    if unknown:
        raise BadInput(f"--without {unknown[0]} is unknown: choose from {' '.join((*MODERN, 'muon'))}")
    if config.without and config.arch == "vaswani":
        raise BadInput("--without takes parts of --arch modern away, and vaswani has none of them")
    integers = config.task in INTEGER_TASKS
    check_belongs(config, integers)
    recipe = dict(RECIPES[config.task])
    quick = PRESETS["quick"]["minutes"]
    if config.preset == "quick" and config.minutes == quick:
        config = replace(config, minutes=min(quick, recipe["minutes"]))
    if config.steps is not None:
        recipe["minutes"] = None
        config = replace(config, minutes=None)
    if not integers and (config.minutes or 0) >= LONG_MINUTES and config.width is None and config.heads is None:
        recipe |= LONG_RECIPE
    missing = {name: value for name, value in recipe.items() if getattr(config, name) is None}
    config = replace(config, **missing)
    positive = ("minutes", "steps", "layers", "heads", "width", "context", "batch", "vocab", "lr")
    for name in positive:
        value = getattr(config, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise BadInput(f"--{name} must be positive, not {value}")
    if not 0 <= config.seed < 1 << 63:
        raise BadInput(f"--seed must not be negative or above 2^63 - 1, and it is {config.seed}")
    if config.width % (2 * config.heads) or config.width % 16:  # type: ignore[operator]
        raise BadInput(f"--width {config.width} must be a multiple of 16 and of twice --heads {config.heads}")
    for name in ("dropout", "smoothing"):
        if not 0 <= (getattr(config, name) or 0) < 1:
            raise BadInput(f"--{name} must be at least 0 and below 1, not {getattr(config, name)}")
    if not (config.decay >= 0 and math.isfinite(config.decay)):
        raise BadInput(f"--decay must not be negative or infinite, and it is {config.decay}")
    if config.track_noise and (config.batch or 0) % 2:
        raise BadInput(f"--track-noise halves the batch, and --batch {config.batch} is odd")
    if integers:
        check_integers(config.task, config.length or 0, config.vocab or 0)
    return config


def check_belongs(config: Config, integers: bool) -> None:
    """BadInput for a setting that the task would ignore."""
    if config.text is not None and config.task != "text":
        raise BadInput(f"--text goes with --task text, not with --task {config.task}")
    if integers and config.tokenizer != "char":
        raise BadInput(f"--tokenizer is for texts, and --task {config.task} is integers")
    if integers:
        given = {"context": config.context, "development": config.development or None}
    else:
        given = {"length": config.length, "vocab": config.vocab if config.tokenizer == "char" else None}
    for name, value in given.items():
        if value is not None:
            why = "is integers" if integers else f"is a text in tokens of kind {config.tokenizer}"
            raise BadInput(f"--{name} means nothing here: --task {config.task} {why}")


def choose_budget(config: Config, arguments: list[str]) -> Config:
    """Of `--minutes` and `--steps`, what was typed wins over what a preset or `--from-config` says; not both."""
    typed = [name for name in ("minutes", "steps") if any(a.split("=")[0] == f"--{name}" for a in arguments)]
    if len(typed) == 2:
        raise BadInput("--steps and --minutes exclude each other")
    if typed == ["minutes"]:
        return replace(config, steps=None)
    return config if config.steps is None else replace(config, minutes=None)


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


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Plan:
    """`steps` in all. For `--minutes` it is decided twice: a first guess, and after `revised_at` steps for good."""

    steps: int
    first_steps: int
    revised_at: int | None = None
    final: bool = True
    deadline_minutes: float = math.inf
    """when training is to end, in minutes since the command began"""

    @property
    def rows(self) -> list[int]:
        """The steps after which a row of metrics.csv is written, ROWS of them or so, denser at the beginning."""
        first, last = (
            {max(1, round(n * (i / ROWS) ** 1.5)) for i in range(1, ROWS + 1)} for n in (self.first_steps, self.steps)
        )
        cut = self.revised_at or 0
        return sorted({row for row in first if row <= cut} | {row for row in last if row > cut})


def make_plan(config: Config, run: Run, training: Training, text: Text | None, dtype: torch.dtype) -> Plan:
    """The number of steps: given, or as many as fit into `--minutes`; kept in plan.json, so that a rerun is exact.

    `--from-config` takes the plan beside that config.json, if it is for the same numbers.
    """
    if config.steps is not None:
        return Plan(config.steps, config.steps)
    file = run.folder / "plan.json"
    given = Path(config.from_config).parent / "plan.json" if config.from_config else file
    for known in (file, given):
        if known.exists():
            kept = read_json(known)
            if isinstance(kept, dict) and kept.pop("config", None) == run.config:
                if set(kept) != {field.name for field in fields(Plan)}:
                    raise BadInput(f"{known} is damaged: give the run another --name")
                plan = Plan(**kept)
                keep_plan(run, plan)
                return plan
    if (run.folder / "checkpoint.pt").exists():
        raise BadInput(f"{file} is gone, without which the run in {run.folder} cannot go on: choose another --name")
    step_seconds, token_seconds = calibrate(config, text, training.device, dtype)
    # Predictions: the last evaluation, and the rows of metrics.csv (for a text in the training's faster dtype).
    context = training.model.shape.context
    last = 2 * len(text.validation) if text else SEQUENCES * context
    rows = ROWS * (min(CURVE_TOKENS, last) / 2 if text else ROW_SEQUENCES * context)
    deadline = (config.minutes or 0) - (last * token_seconds + FINISH_SECONDS) / 60
    left = 60 * deadline - (time.perf_counter() - STARTED) - rows * token_seconds
    if config.preset == "quick":
        left = max(left, QUICK_SECONDS)
    steps = int(left / step_seconds)
    if steps < 1:
        run.close()
        shutil.rmtree(run.folder)  # nothing is in it yet, and another budget may want its name
        raise BadInput(f"--minutes {config.minutes:g} is too short: start-up and evaluation alone take that long")
    # While the learning rate is flat, the number of steps has had no influence yet and can still be corrected. The
    # paper's schedule is never flat: there the first guess stays.
    revised_at = None if training.paper else int(REVISE * steps) or None
    plan = Plan(steps, steps, revised_at, final=revised_at is None, deadline_minutes=deadline)
    keep_plan(run, plan)
    return plan


def keep_plan(run: Run, plan: Plan) -> None:
    """Write plan.json."""
    write_json(run.folder / "plan.json", {**asdict(plan), "config": run.config})


def revise(plan: Plan, done: int, minutes: float, step_seconds: float) -> Plan:
    """The plan again, from the speed of the steps `done` in so many `minutes` since the command began.

    The flat part of the schedule must not have ended, so the run never gets much shorter than it is.
    """
    left = int(60 * (plan.deadline_minutes - minutes) / step_seconds)
    return replace(plan, steps=max(done + left, math.ceil(done / FLAT) + 1), final=True)


def measure(training: Training, dtype: torch.dtype) -> dict[str, float]:
    """The validation columns of a row of metrics.csv."""
    if isinstance(training.task, IntegerTask):
        score = score_integers(training.model, training.task, ROW_SEQUENCES)
        half = len(score.by_position) // 2
        return {
            "val_loss": score.loss,
            "first_half_loss": float(score.by_position[:half].mean()),
            "second_half_loss": score.second_half_loss,
            "accuracy": score.accuracy,
        }
    assert training.text is not None
    ids = training.text.validation.cpu()
    context = min(training.model.shape.context, len(ids) - 1)
    starts = np.unique(np.linspace(0, len(ids) - 1 - context, max(1, CURVE_TOKENS // context)).astype(int))
    windows = ids[torch.from_numpy(starts)[:, None] + torch.arange(context + 1)]
    # Evenly spaced windows, in the training's dtype: a curve to look at, not the number that is reported.
    return {"val_loss": float(window_losses(training.model, windows, dtype).mean())}


@dataclass(frozen=True)
class Progress:
    """What training came to: steps made, its seconds, the minutes of earlier processes, and whether it diverged."""

    steps: int
    seconds: float
    minutes_before: float
    diverged: bool


def train(run: Run, training: Training, plan: Plan, dtype: torch.dtype, figure: LiveFigure) -> Progress:
    """All steps that are not yet done. A loss that is not finite, or worse than guessing at the end, is a divergence."""
    state = run.resume()
    done, spent, before, total = 0, 0.0, 0.0, torch.zeros((), device=training.device)
    if state:
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])
        if training.tracker:
            training.tracker.load(state["noise"])
        done, spent, before = state["step"], state["seconds"], state["minutes"]
        total = state["total"].to(training.device)
        print(f"going on at step {done:,}")
    rows, steps = plan.rows, plan.steps
    since = max((row for row in rows if row <= done), default=0)
    unit = training.tokens_per_step
    began = saved = time.perf_counter()

    def save(step: int) -> None:
        vocabulary = training.text.vocabulary if training.text else None
        state = checkpoint_state(training.model, vocabulary, training.config.task)
        now = time.perf_counter()
        clock = {"seconds": spent + now - began, "minutes": before + (now - STARTED) / 60}
        more = {"noise": training.tracker.state()} if training.tracker else {}
        run.save(step, {**state, **clock, **more, "optimizer": training.optimizer.state_dict(), "total": total})

    with Interrupt() as stop, tqdm(total=steps, initial=done, unit="step", smoothing=0.05) as bar:
        while done < steps:
            total = total + training.step(done, steps)
            done += 1
            bar.update()
            if not plan.final and done == plan.revised_at:
                synchronize(training.device)
                now = time.perf_counter()
                pace = (spent + now - began) / done  # of a step with its share of the rows
                plan = revise(plan, done, before + (now - STARTED) / 60, pace)
                keep_plan(run, plan)
                rows, steps = plan.rows, plan.steps
                bar.total = steps
            if done in rows:
                loss = float(total) / (done - since)
                columns = measure(training, dtype)
                worse = done == steps and len(rows) > 1 and loss > worst_start(run, training) + 0.05
                if worse or not math.isfinite(loss + columns["val_loss"]):
                    return Progress(done, spent + time.perf_counter() - began, before, True)
                run.log(
                    step=done,
                    tokens=done * unit,
                    minutes=before + (time.perf_counter() - STARTED) / 60,
                    train_loss=loss,
                    **columns,
                    **(training.tracker.take() if training.tracker else {}),
                )
                bar.set_postfix_str(f"train {loss:.3f}, validation {columns['val_loss']:.3f}", refresh=False)
                total, since = torch.zeros_like(total), done
                if done < steps:
                    figure.update()
            if stop.asked or time.perf_counter() - saved > SAVE_SECONDS or done == steps:
                if math.isfinite(float(total)):  # else the last good checkpoint stays
                    save(done)
                saved = time.perf_counter()
                stop.leave_if_asked()
    return Progress(steps, spent + time.perf_counter() - began, before, False)


def worst_start(run: Run, training: Training) -> float:
    """The greater of the first training loss and that of guessing, log V: above it, nothing has been learnt."""
    first = read_metrics(run.folder / "metrics.csv")["train_loss"][0]
    return max(float(first), math.log(training.model.shape.vocabulary))


def open_run(config: Config, given: Config, text: Text | None, device: torch.device, dtype: torch.dtype) -> Run:
    """The run folder, whose name and config.json depend on all that changes the numbers: settings, data, code."""
    kept = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in NOT_IN_HASH}
    data = sha256_of(f"{text.corpus.train}\0{text.corpus.validation}".encode())[:16] if text else ""
    sources = source_hash(*(HERE / f"{name}.py" for name in SOURCES))[:16]
    identity = {**kept, "data": data, "device": device.type, "dtype": str(dtype), "sources": sources}
    name = config.name or f"{config.task}-{short_hash(identity)}-s{config.seed}"
    return Run(results_folder(config.results_dir, "transformers") / name, identity, str(device), asdict(given))


def main() -> int:
    """Data, anchors, plan, training, evaluation, figures."""
    given = choose_budget(parse(Config, PRESETS, description=__doc__ or ""), sys.argv[1:])
    config = resolve(given)
    device, reason = choose_device(config.device)
    configure_cpu(available_cores())
    keep_freed_memory()
    dtype, why = compute_dtype(device)
    if config.precision != "auto":
        dtype, why = (torch.float32 if config.precision == "fp32" else torch.bfloat16), "as asked"
    print(f"device: {device} ({reason}), activations in {str(dtype)[6:]} ({why})")
    text = None if config.task in INTEGER_TASKS else load_text(config, device)
    if text and text.corpus.notice:
        print(f"NOTE: {text.corpus.notice}")
    run = open_run(config, given, text, device, dtype)
    if run.summary:
        print(f"already done: {headline(config, run.summary)}\nresults: {shown(run.folder)}")
        print(figures(run.folder, "loss.png"))
        return 0 if run.summary["status"] == "ok" else 1
    to_beat: dict[str, Any] = {}
    if text:
        to_beat = kept_anchors(run, text)
        print(
            f"{config.task}: {len(text.train):,} training and {len(text.validation):,} "
            f"{'development' if config.development else 'validation'} tokens, vocabulary {text.vocabulary.size:,}. "
            f"To beat, in nats per character: {anchor_words(to_beat)}"
        )
    training = Training(config, text, device, dtype)
    plan = make_plan(config, run, training, text, dtype)
    n_params = sum(p.numel() for p in training.model.parameters())
    tokens = plan.steps * training.tokens_per_step
    epochs = f", {tokens / len(text.train):.1f} epochs" if text else ""
    about = "" if plan.final else "about "
    print(f"plan: {n_params:,} parameters, {about}{plan.steps:,} steps, {tokens:,} tokens{epochs}")
    print(f"results: {shown(run.folder)}")
    try:
        figure = LiveFigure(run.folder / "loss.png", lambda: draw_so_far(run, training, text, to_beat))
        progress = train(run, training, plan, dtype, figure)
        numbers = {} if progress.diverged else report(run, training, text, to_beat)
    except Exception:
        run.fail(traceback.format_exc())
        raise
    done = progress.steps * training.tokens_per_step
    summary = {
        "status": "diverged" if progress.diverged else "ok",
        **numbers,
        "train_seconds": progress.seconds,
        "total_seconds": 60 * progress.minutes_before + time.perf_counter() - STARTED,
        "steps": progress.steps,
        "tokens": done,
        "n_params": n_params,
        "tokens_per_second": done / progress.seconds,
    }
    run.finish(**summary)
    print(f"{headline(config, summary)}\n{summary['total_seconds']:.0f} s in all; {shown(run.folder)}")
    if pictures := figures(run.folder, "loss.png"):
        print(pictures)
    return 1 if progress.diverged else 0


def kept_anchors(run: Run, text: Text) -> dict[str, Any]:
    """The anchors, kept in the run folder so that a resumed run need not compute them again."""
    file = run.folder / "anchors.json"
    if not file.exists():
        write_json(file, text.anchors())
    return read_json(file)


if __name__ == "__main__":
    run_main(main)
