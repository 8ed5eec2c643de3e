"""A training run's data, model, optimiser and schedule, for every task: what one step is."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anchors import anchors
from common.data import data_root
from common.device import synchronize
from common.errors import BadInput
from corpora import Corpus, load_corpus
from decoder import Decoder, Shape, parts_of
from evaluation import window_losses
from kernels import kernels_for
from muon import Optimizer, inverse_sqrt, trapezoid
from noise_tracking import NoiseTracker
from tasks import IntegerTask, TextTask, mix
from vocabulary import Vocabulary, build

if TYPE_CHECKING:
    from train import Config

# Learning rates by kind of parameter. In the paper's setting, the factor on its eq. 3.
MUON_RATES = {"matrix": 0.02, "embedding": 0.03, "ngrams": 0.01, "head": 0.004, "scalar": 0.03}
ADAM_RATES = {"matrix": 0.003, "embedding": 0.03, "ngrams": 0.01, "head": 0.004, "scalar": 0.03}
PAPER_RATE = 0.12
WARMUP, FLAT = 20, 0.4  # steps of warm-up, and the fraction of the run after which the rate falls to 0
PAPER_WARMUP = 0.04  # of the run: the paper's 4,000 of 100,000 steps
# Shortcuts that would solve `induction` without attention composing over layers, and so are off for integers.
TEXT_ONLY = ("shift", "ngrams")
# Dropout of a text model by the size of its training text: a small one is read many times over.
SMALL_TEXT, SMALL_TEXT_DROPOUT = 2_500_000, 0.1
CALIBRATION_SECONDS = 0.7  # a guess is enough: train.revise decides


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


def load_text(config: "Config", device: torch.device) -> Text:
    """The task's text in the tokens of its own vocabulary; BadInput where it is shorter than the context."""
    needs_root = config.task == "tinyshakespeare" or config.data_dir  # the other texts need no data folder
    root = data_root(config.data_dir) if needs_root else Path()
    corpus = load_corpus(config.task, root, config.text, config.development)
    vocabulary = build(config.tokenizer, corpus.train, config.vocab, cover=corpus.validation)
    dtype = torch.uint8 if vocabulary.size <= 256 else torch.int32
    train, validation = (
        torch.from_numpy(vocabulary.encode(text)).to(dtype) for text in (corpus.train, corpus.validation)
    )
    if len(validation) < 2:
        raise BadInput("the held-out tenth of the text has fewer than 2 tokens: give a longer text")
    if len(train) < 3 * (config.context or 0):
        raise BadInput(
            f"the training text has {len(train):,} tokens: with --context {config.context} at least "
            f"{3 * (config.context or 0):,} are needed"
        )
    return Text(corpus, vocabulary, train.to(device), validation.to(device))


class Training:
    """A model with its optimiser, data and schedule: everything that a step needs."""

    def __init__(self, config: "Config", text: Text | None, device: torch.device, dtype: torch.dtype):
        self.config, self.text, self.device = config, text, device
        seed = config.seed
        if text is None:
            self.task = IntegerTask(config.task, config.length or 0, config.vocab or 0, seed, device)
            context, vocabulary = self.task.context, self.task.vocabulary
        else:
            self.task = TextTask(text.train, config.context or 0, config.batch or 0, seed)
            context, vocabulary = self.task.context, text.vocabulary.size
        # n-grams of whole words hardly ever come twice: with them, --preset quick gave 2.00 nats a character, not 1.89.
        needless = TEXT_ONLY if text is None else ("ngrams",) if config.tokenizer == "word" else ()
        without = (*config.without, *needless)
        size = {name: getattr(config, name) for name in ("layers", "heads", "width")}
        size["dropout"] = config.dropout
        if config.dropout is None and text is not None:
            size["dropout"] = SMALL_TEXT_DROPOUT if len(text.train) < SMALL_TEXT else 0.0
        shape = Shape(vocabulary, context, parts=parts_of(config.arch, without), **size)
        torch.manual_seed(mix(seed, -1))
        self.model = Decoder(shape, dtype, kernels_for(device)).to(device)
        self.paper = config.arch == "vaswani"
        with_muon = not self.paper and "muon" not in config.without
        rates = dict.fromkeys(MUON_RATES, PAPER_RATE) if self.paper else MUON_RATES if with_muon else ADAM_RATES
        self.optimizer = Optimizer(self.model, rates, config.decay, with_muon, dtype)
        self.tracker = NoiseTracker(self.model, config.batch or 0) if config.track_noise else None

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
        if self.model.shape.dropout:  # a resumed run draws what this one would have
            torch.manual_seed(mix(self.config.seed + 1, -2 - step))
        inputs, targets = self.data(step)
        if self.tracker and self.tracker.due(step):
            loss = self.tracker.backward(self.loss, inputs, targets)
        else:
            loss = self.loss(inputs, targets)
            loss.backward()
        self.optimizer.step(step, self.scale(step, steps))
        return loss.detach()

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token."""
        logits = self.model(inputs)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=self.config.smoothing)


def calibrate(config: "Config", text: Text | None, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of a training step and of one prediction in fp32, measured on a model that is thrown away."""
    training = Training(config, text, device, dtype)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 4 or (time.perf_counter() - began < CALIBRATION_SECONDS and len(times) < 400):
        start = time.perf_counter()
        training.step(len(times), 1000)
        synchronize(device)
        times.append(time.perf_counter() - start)
    context = training.model.shape.context
    windows = torch.zeros(max(1, 8192 // context), context + 1, dtype=torch.uint8)
    start = time.perf_counter()
    window_losses(training.model, windows)
    return statistics.mean(times[3:]), (time.perf_counter() - start) / windows[:, 1:].numel()
