"""A decoder-only transformer after Vaswani et al. 2017, "Attention Is All You Need", on integers, plays and scripture.

    python transformers/train.py                                    Shakespeare's plays, 5 minutes on two CPU cores
    python transformers/train.py --task repeat --length 5 --vocab 5

Expect XXX nats per character (YYY bits) on the held-out tenth of every play, where an n-gram reaches ZZZ. The folder that
is printed holds metrics.csv, summary.json, checkpoint.pt, the figures and, for texts, sample.txt; the same command goes
on where it was stopped. `sample.py` continues a prompt, `score.py` measures any text.

Three one-line changes to try:
  --arch vaswani          the paper's decoder, with its own optimiser and schedule
  --tokenizer word        words instead of characters; compare bits per character
  --without shift         no token shift in the feed-forward nets
"""

import os

from common.clock import STARTED

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import math
import statistics
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from anchors import anchors, longest_match
from common.cli import Interrupt, parse, run_main
from common.data import data_root, sha256_of
from common.device import DeviceName, choose_device, compute_dtype, configure_cpu, keep_freed_memory, synchronize
from common.errors import BadInput
from common.run import (
    Run,
    available_cores,
    check_name,
    read_json,
    read_metrics,
    results_folder,
    short_hash,
    source_hash,
    write_json,
    write_text,
)
from corpora import Corpus, load_corpus
from decoder import MODERN, Decoder, Shape, parts_of
from evaluation import (
    bits_per_character,
    checkpoint_state,
    evaluating,
    score_integers,
    token_losses,
    window_losses,
)
from muon import Optimizer, inverse_sqrt, trapezoid
from sample import generate
from tasks import INTEGER_TASKS, IntegerTask, TextTask, mix
from vocabulary import Vocabulary, build

HERE = Path(__file__).resolve().parent
SOURCES = ("decoder.py", "kernels.py", "muon.py", "tasks.py", "corpora.py", "vocabulary.py", "train.py")
NOT_IN_HASH = {"preset", "device", "results_dir", "data_dir", "name", "from_config", "text"}
ROWS = 40  # of metrics.csv, denser at the beginning
CALIBRATION_SECONDS = 3.0
SAVE_SECONDS = 20.0
FINISH_SECONDS = 6.0  # figures, a sample of SAMPLE_TOKENS, the last checkpoint
SAMPLE_TOKENS = 800
CURVE_TOKENS = 16_384  # of the validation text, for the rows of metrics.csv; the summary's number is on all of it

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
    """modern parts to leave out: rotary prenorm qknorm relu2 zeroinit untied softcap shortcut shift muon"""
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
    """after the embedding and every sublayer; default: by task, 0.1 for vaswani"""
    decay: float = 0.0
    """decoupled weight decay of the blocks' matrices"""
    smoothing: float = 0.0
    """label smoothing of the training loss (Vaswani et al. 2017, section 5.4, used 0.1)"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of activations and products; auto: bf16 where the processor is made for it. Evaluation is in fp32"""


PRESETS: dict[str, dict[str, Any]] = {"quick": {"minutes": 0.75}, "default": {}, "full": {"minutes": 15.0}}

# What a task gets where nothing is said.
TEXT_RECIPE: dict[str, Any] = {
    "minutes": 4.5, "layers": 4, "heads": 2, "width": 128, "context": 256, "batch": 8, "dropout": 0.0, "length": 0
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "ascending": {**TEXT_RECIPE, "minutes": 0.4, "layers": 2, "width": 64, "batch": 32, "length": 32, "vocab": 64},
    "repeat": {**TEXT_RECIPE, "minutes": 0.9, "layers": 2, "width": 64, "batch": 32, "length": 32, "vocab": 64},
    "induction": {**TEXT_RECIPE, "minutes": 4.0, "layers": 2, "width": 128, "batch": 32, "length": 64, "vocab": 256},
    **dict.fromkeys(("shakespeare", "kjv", "tinyshakespeare", "text"), TEXT_RECIPE),
}
# Learning rates by kind of parameter. In the paper's setting, the factor on its eq. 3.
MUON_RATES = {"matrix": 0.02, "embedding": 0.03, "head": 0.004, "scalar": 0.03}
ADAM_RATES = {"matrix": 0.003, "embedding": 0.03, "head": 0.004, "scalar": 0.03}
PAPER_RATE = 1.0
WARMUP, FLAT = 20, 0.4  # steps of warm-up, and the fraction of the run after which the rate falls to 0
PAPER_WARMUP = 0.04  # of the run: the paper's 4,000 of 100,000 steps
# Shortcuts that would solve `induction` without attention composing over layers, and so are off for integers.
TEXT_ONLY = ("shift",)


# ---------------------------------------------------------------- what is asked for


def resolve(config: Config) -> Config:
    """The configuration with the task's recipe filled in; BadInput for one that cannot be run."""
    if config.name is not None:
        check_name(config.name)
    if config.steps is not None and config.minutes is not None and config.preset == "default":
        raise BadInput("--steps and --minutes exclude each other")
    unknown = [part for part in config.without if part not in (*MODERN, "muon")]
    if unknown:
        raise BadInput(f"--without {unknown[0]} is unknown: choose from {' '.join((*MODERN, 'muon'))}")
    if config.without and config.arch == "vaswani":
        raise BadInput("--without takes parts of --arch modern away, and vaswani has none of them")
    integers = config.task in INTEGER_TASKS
    if integers and config.tokenizer != "char":
        raise BadInput(f"--tokenizer is for texts, and --task {config.task} is integers")
    recipe = dict(RECIPES[config.task])
    if config.steps is not None:
        recipe["minutes"] = None
        config = replace(config, minutes=None)
    if config.arch == "vaswani" and not integers:
        recipe["dropout"] = 0.1
    missing = {name: value for name, value in recipe.items() if getattr(config, name) is None}
    config = replace(config, **missing)
    positive = ("minutes", "steps", "layers", "heads", "width", "context", "batch", "vocab", "lr")
    for name in positive:
        value = getattr(config, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise BadInput(f"--{name} must be positive, not {value}")
    if config.seed < 0:
        raise BadInput(f"--seed must not be negative, and it is {config.seed}")
    if config.width % (2 * config.heads) or config.width % 16:  # type: ignore[operator]
        raise BadInput(f"--width {config.width} must be a multiple of 16 and of twice --heads {config.heads}")
    for name in ("dropout", "smoothing"):
        if not 0 <= getattr(config, name) < 1:
            raise BadInput(f"--{name} must be at least 0 and below 1, not {getattr(config, name)}")
    if config.decay < 0:
        raise BadInput(f"--decay must not be negative, and it is {config.decay}")
    if integers:
        check_integers(config.task, config.length or 0, config.vocab or 0)
    return config


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


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Text:
    """A corpus in tokens: `train` (N,) and `validation` (n,) on the device, in the smallest integers that hold them."""

    corpus: Corpus
    vocabulary: Vocabulary
    train: Tensor
    validation: Tensor

    @property
    def characters(self) -> int:
        """Characters in the predicted tokens 1 … n - 1 of the validation text."""
        return int(self.vocabulary.characters[self.validation[1:].cpu().numpy()].sum())

    def anchors(self) -> dict[str, Any]:
        """What the n-gram and the compressors reach on the same tokens."""
        ids = (self.train.cpu().numpy(), self.validation.cpu().numpy())
        corpus = self.corpus
        return anchors(corpus.train, corpus.validation, *ids, self.vocabulary.size, self.characters)


def load_text(config: Config, device: torch.device) -> Text:
    """The task's text in the tokens of its own vocabulary; BadInput where it is shorter than the context."""
    corpus = load_corpus(config.task, data_root(config.data_dir), config.text, config.development)
    vocabulary = build(config.tokenizer, corpus.train, config.vocab, cover=corpus.validation)
    dtype = torch.uint8 if vocabulary.size <= 256 else torch.int32
    train, validation = (
        torch.from_numpy(vocabulary.encode(text)).to(dtype) for text in (corpus.train, corpus.validation)
    )
    if len(train) < 3 * (config.context or 0) or len(validation) < 2:
        raise BadInput(
            f"the training text has {len(train):,} tokens: with --context {config.context} at least "
            f"{3 * (config.context or 0):,} are needed"
        )
    return Text(corpus, vocabulary, train.to(device), validation.to(device))


# ---------------------------------------------------------------- training


class Training:
    """A model with its optimiser, data and schedule: everything that a step needs."""

    def __init__(self, config: Config, text: Text | None, device: torch.device, dtype: torch.dtype):
        self.config, self.text, self.device = config, text, device
        seed = config.seed
        if text is None:
            self.task = IntegerTask(config.task, config.length or 0, config.vocab or 0, seed, device)
            context, vocabulary = self.task.context, self.task.vocabulary
        else:
            self.task = TextTask(text.train, config.context or 0, config.batch or 0, seed)
            context, vocabulary = self.task.context, text.vocabulary.size
        without = (*config.without, *(TEXT_ONLY if text is None else ()))
        size = {name: getattr(config, name) for name in ("layers", "heads", "width", "dropout")}
        shape = Shape(vocabulary, context, parts=parts_of(config.arch, without), **size)
        torch.manual_seed(mix(seed, -1))
        self.model = Decoder(shape, dtype).to(device)
        self.paper = config.arch == "vaswani"
        with_muon = not self.paper and "muon" not in config.without
        rates = dict.fromkeys(MUON_RATES, PAPER_RATE) if self.paper else MUON_RATES if with_muon else ADAM_RATES
        self.optimizer = Optimizer(self.model, rates, config.decay, with_muon, dtype)

    @property
    def tokens_per_step(self) -> int:
        return (self.config.batch or 0) * self.model.shape.context

    def data(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of a step."""
        if isinstance(self.task, TextTask):
            return self.task.windows(step)
        sequences = self.task.draw(self.config.batch or 0, step)
        return sequences.inputs, sequences.targets

    def scale(self, step: int, steps: int) -> float:
        """The factor on the learning rates."""
        if self.paper:
            warmup = max(1, round(PAPER_WARMUP * steps))
            return self.config.lr * inverse_sqrt(step, self.model.shape.width, warmup)
        return self.config.lr * trapezoid(step, steps, WARMUP, FLAT)

    def step(self, step: int, steps: int) -> Tensor:
        """One update; the loss in nats per token, still on the device."""
        torch.manual_seed(mix(self.config.seed, step))  # dropout: a resumed run draws what this one would have
        inputs, targets = self.data(step)
        logits = self.model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=self.config.smoothing)
        loss.backward()
        self.optimizer.step(step, self.scale(step, steps))
        return loss.detach()


def calibrate(config: Config, text: Text | None, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of a training step, and of an evaluation in fp32 per token, measured on a model that is thrown away."""
    training = Training(config, text, device, dtype)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 4 or (time.perf_counter() - began < CALIBRATION_SECONDS and len(times) < 400):
        start = time.perf_counter()
        training.step(len(times), 1000)
        synchronize(device)
        times.append(time.perf_counter() - start)
    n = 8192
    ids = torch.zeros(n + 1, dtype=torch.uint8, device=device)
    start = time.perf_counter()
    token_losses(training.model, ids, training.model.shape.context)
    return statistics.mean(times[3:]), (time.perf_counter() - start) / n


def plan_steps(config: Config, run: Run, training: Training, text: Text | None, dtype: torch.dtype) -> int:
    """The number of steps: given, or as many as fit into `--minutes`; stored in plan.json, so that a rerun is exact.

    `--from-config` takes the plan beside that config.json, if it is for the same numbers.
    """
    if config.steps is not None:
        return config.steps
    file = run.folder / "plan.json"
    given = Path(config.from_config).parent / "plan.json" if config.from_config else file
    for known in (file, given):
        if known.exists():
            plan = read_json(known)
            if isinstance(plan, dict) and plan.get("config") == run.config and plan.get("steps", 0) > 0:
                write_json(file, plan)
                return plan["steps"]
    step_seconds, token_seconds = calibrate(config, text, training.device, dtype)
    evaluated = 3 * len(text.validation) if text else 2 * 1024 * training.model.shape.context
    curve = ROWS * min(CURVE_TOKENS, evaluated) / 2 if text else ROWS * 256 * training.model.shape.context
    other = (evaluated + curve) * token_seconds + FINISH_SECONDS
    left = 60 * (config.minutes or 0) - (time.perf_counter() - STARTED) - other
    steps = int(left / step_seconds)
    if steps < 1:
        raise BadInput(f"--minutes {config.minutes:g} is too short: start-up and evaluation alone take that long")
    write_json(file, {"steps": steps, "step_seconds": step_seconds, "other_seconds": other, "config": run.config})
    return steps


def row_steps(steps: int) -> list[int]:
    """The steps after which a row is written: ROWS of them or fewer, denser at the beginning, the last one included."""
    return sorted({max(1, round(steps * (i / ROWS) ** 1.5)) for i in range(1, ROWS + 1)})


def measure(training: Training, dtype: torch.dtype) -> dict[str, float]:
    """The validation columns of a row of metrics.csv."""
    if isinstance(training.task, IntegerTask):
        score = score_integers(training.model, training.task, 256)
        half = len(score.by_position) // 2
        return {
            "val_loss": score.loss,
            "first_half_loss": float(score.by_position[:half].mean()),
            "second_half_loss": score.second_half_loss,
            "accuracy": score.accuracy,
        }
    assert training.text is not None
    ids, context = training.text.validation.cpu(), training.model.shape.context
    starts = np.linspace(0, max(0, len(ids) - 1 - context), max(1, CURVE_TOKENS // context)).astype(int)
    windows = ids[(torch.from_numpy(starts)[:, None] + torch.arange(context + 1)).clamp(max=len(ids) - 1)]
    # Evenly spaced windows, in the training's dtype: a curve to look at, not the number that is reported.
    return {"val_loss": float(window_losses(training.model, windows, dtype).mean())}


def train(run: Run, training: Training, steps: int, dtype: torch.dtype) -> tuple[bool, float]:
    """All steps that are not yet done; False for a loss that is no longer finite, and the seconds of training."""
    state = run.resume()
    done, spent, total = 0, 0.0, torch.zeros((), device=training.device)
    if state:
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])
        done, spent, total = state["step"], state["seconds"], state["total"].to(training.device)
        print(f"going on at step {done:,}")
    rows = row_steps(steps)
    since = max((row for row in rows if row <= done), default=0)
    unit = training.tokens_per_step
    began, saved = time.perf_counter(), time.perf_counter()

    def save(step: int) -> None:
        vocabulary = training.text.vocabulary if training.text else None
        state = checkpoint_state(training.model, vocabulary, training.config.task)
        seconds = spent + time.perf_counter() - began
        run.save(step, {**state, "optimizer": training.optimizer.state_dict(), "seconds": seconds, "total": total})

    with Interrupt() as stop, tqdm(total=steps, initial=done, unit="step", smoothing=0.05) as bar:
        for step in range(done, steps):
            total = total + training.step(step, steps)
            bar.update()
            finished = step + 1
            if finished in rows:
                loss = float(total) / (finished - since)
                if not math.isfinite(loss):
                    return False, spent + time.perf_counter() - began
                columns = measure(training, dtype)
                run.log(
                    step=finished,
                    tokens=finished * unit,
                    minutes=(spent + time.perf_counter() - began) / 60,
                    train_loss=loss,
                    **columns,
                )
                bar.set_postfix_str(f"train {loss:.3f}, validation {columns['val_loss']:.3f}", refresh=False)
                total, since = torch.zeros_like(total), finished
            if stop.asked or time.perf_counter() - saved > SAVE_SECONDS or finished == steps:
                save(finished)
                saved = time.perf_counter()
                stop.leave_if_asked()
    return True, spent + time.perf_counter() - began


# ---------------------------------------------------------------- what the user reads


def text_summary(training: Training, text: Text, found: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray, str]:
    """The numbers of a text run, the cold losses by position in the window (T,), and a sample."""
    context = training.model.shape.context
    cold = token_losses(training.model, text.validation, context)
    sliding = token_losses(training.model, text.validation, context, max(1, context // 2))
    whole = cold[: len(cold) // context * context]
    by_position = whole.reshape(-1, context).mean(0) if len(whole) else cold
    prompt = text.vocabulary.encode("\n") if "\n" in text.corpus.train else text.train[:1].cpu().numpy()
    random = torch.Generator().manual_seed(training.config.seed)
    model = training.model.cpu()
    with evaluating(model):
        ids = [
            int(i) for i in generate(model, torch.from_numpy(prompt).long()[None], SAMPLE_TOKENS, 0.8, random=random)
        ]
    sample = text.vocabulary.decode(ids)
    match, recited = longest_match(sample, text.corpus.train)
    numbers = {
        "val_loss": float(cold.mean()),
        "val_loss_sliding": float(sliding.mean()),
        "val_bits_per_char": bits_per_character(float(cold.sum()), text.characters),
        "val_bits_per_char_sliding": bits_per_character(float(sliding.sum()), text.characters),
        "val_tokens": len(cold),
        "val_characters": text.characters,
        "sample_longest_match": match,
        "sample_longest_match_text": recited,
        **found,
    }
    return numbers, by_position, sample


def integer_summary(training: Training, task: IntegerTask) -> tuple[dict[str, Any], np.ndarray]:
    """The numbers of an integer run beside its exact floor, and the losses by position (T,)."""
    score = score_integers(training.model, task)
    numbers = {
        "val_loss": score.loss,
        "floor": float(task.floors.mean()),
        "second_half_loss": score.second_half_loss,
        "accuracy": score.accuracy,
    }
    return numbers, score.by_position


def headline(config: Config, summary: dict[str, Any]) -> str:
    """One sentence: what was reached, beside what there is to compare it with."""
    if summary["status"] != "ok":
        return f"{config.task}: the loss is no longer finite (diverged); try a smaller --lr than {config.lr:g}"
    if config.task in INTEGER_TASKS:
        return (
            f"{config.task}: loss {summary['val_loss']:.4f} nats per token (exact floor {summary['floor']:.4f}), "
            f"second half {summary['second_half_loss']:.4f}, accuracy {100 * summary['accuracy']:.2f}% (n = 1 run)"
        )
    per_char = math.log(2) * summary["val_bits_per_char"]
    where = "development" if config.development else "validation"
    ppmd = summary["ppmd_nats_per_char"]
    return (
        f"{config.task}: {where} loss {summary['val_loss']:.4f} nats per token, {per_char:.4f} per character "
        f"({summary['val_bits_per_char']:.3f} bits; n = 1 run). Per character: {summary['ngram_order']}-gram "
        f"{summary['ngram_nats_per_char']:.3f}, xz {summary['xz_nats_per_char']:.3f}"
        + (f", PPMd {ppmd:.3f}" if ppmd is not None else "")
    )


def report(run: Run, training: Training, text: Text | None, found: dict[str, Any]) -> dict[str, Any]:
    """Final evaluation, sample and figures; the summary's numbers."""
    import lmplots  # here: what ends earlier needs no figures

    metrics = read_metrics(run.folder / "metrics.csv")
    if text is None:
        assert isinstance(training.task, IntegerTask)
        numbers, by_position = integer_summary(training, training.task)
        lmplots.integer_figure(metrics, by_position, training.task, run.folder / "loss")
        lmplots.attention_figure(training.model, training.task, run.folder / "attention")
    else:
        numbers, by_position, sample = text_summary(training, text, found)
        write_text(run.folder / "sample.txt", sample)
        lmplots.text_figure(metrics, by_position, numbers, training.config.task, run.folder / "loss")
        print(f"\n{sample.strip()}\n")
        print(
            f"longest verbatim match of this sample with the training text: {numbers['sample_longest_match']} "
            f"characters, {numbers['sample_longest_match_text']!r}"
        )
    return numbers


def open_run(config: Config, text: Text | None, device: torch.device, dtype: torch.dtype) -> Run:
    """The run folder, whose name and config.json depend on all that changes the numbers: settings, data, code."""
    kept = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in NOT_IN_HASH}
    data = sha256_of(f"{text.corpus.train}\0{text.corpus.validation}".encode())[:16] if text else ""
    sources = source_hash(*(HERE / name for name in SOURCES))[:16]
    identity = {**kept, "data": data, "device": device.type, "dtype": str(dtype), "sources": sources}
    name = config.name or f"{config.task}-{short_hash(identity)}-s{config.seed}"
    return Run(results_folder(config.results_dir, "transformers") / name, identity, str(device), asdict(config))


def shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def main() -> int:
    """Data, anchors, plan, training, evaluation, figures."""
    config = resolve(parse(Config, PRESETS, description=__doc__ or ""))
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
    run = open_run(config, text, device, dtype)
    if run.summary:
        print(f"already done: {headline(config, run.summary)}\nresults: {shown(run.folder)}")
        return 0
    found: dict[str, Any] = {}
    if text:
        found = kept_anchors(run, text)
        ppmd = found["ppmd_nats_per_char"]
        print(
            f"{config.task}: {len(text.train):,} training and {len(text.validation):,} "
            f"{'development' if config.development else 'validation'} tokens, vocabulary {text.vocabulary.size:,}. "
            f"To beat, in nats per character: {found['ngram_order']}-gram {found['ngram_nats_per_char']:.3f}, "
            f"xz {found['xz_nats_per_char']:.3f}" + (f", PPMd {ppmd:.3f}" if ppmd is not None else "")
        )
    training = Training(config, text, device, dtype)
    steps = plan_steps(config, run, training, text, dtype)
    n_params = sum(p.numel() for p in training.model.parameters())
    tokens = steps * training.tokens_per_step
    epochs = f", {tokens / len(text.train):.1f} epochs" if text else ""
    print(f"plan: {n_params:,} parameters, {steps:,} steps, {tokens:,} tokens{epochs}\nresults: {shown(run.folder)}")
    ok, seconds = train(run, training, steps, dtype)
    numbers = report(run, training, text, found) if ok else {}
    summary = {
        "status": "ok" if ok else "diverged",
        **numbers,
        "train_seconds": seconds,
        "total_seconds": time.perf_counter() - STARTED,
        "steps": steps,
        "tokens": tokens,
        "n_params": n_params,
        "tokens_per_second": tokens / seconds,
    }
    run.finish(**summary)
    print(f"{headline(config, summary)}\n{summary['total_seconds']:.0f} s in all; {shown(run.folder)}")
    return 0 if ok else 1


def kept_anchors(run: Run, text: Text) -> dict[str, Any]:
    """The anchors, kept in the run folder so that a resumed run need not compute them again."""
    file = run.folder / "anchors.json"
    if not file.exists():
        write_json(file, text.anchors())
    return read_json(file)


if __name__ == "__main__":
    run_main(main)
