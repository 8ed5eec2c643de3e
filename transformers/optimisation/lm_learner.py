"""What a step of training needs: decoder, data, loss, optimiser, learning rate. train.py takes the step (`update`)."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from decoder_model.decoder import Decoder, Shape
from decoder_model.kernels import kernels_for
from gradient_noise.noise_tracking import NoiseTracker
from lm_settings.choices import parts_of
from lm_settings.train_settings import Settings
from optimisation.learning_rates import (
    ADAM_RATES,
    FLAT,
    LINEAR_RATE,
    LINEAR_WARMUP,
    MUON_RATES,
    PAPER_RATE,
    PAPER_WARMUP,
    inverse_sqrt,
    trapezoid,
    warmup_steps,
)
from optimisation.optimizer import Optimizer
from texts.integer_tasks import IntegerTask
from texts.seeds import derived_seed
from texts.text_windows import TextTask
from texts.tokenized_text import Text

# Shortcuts that would solve `induction` without attention composing over layers, and so are off for integers.
TEXT_ONLY = ("shift", "ngrams")
SMALL_TEXT = 2_500_000  # tokens to learn: fewer are read many times over, and get Settings.small_text_dropout


class Learner:
    """Decoders in training on one task, one after the other; `text` is None for integers.

    `model` is the one in training, `finished` are the states of those before it, `best` is the least loss of this one on
    the text that is held back, with the state that had it.
    """

    def __init__(self, settings: Settings, text: Text | None, device: torch.device, dtype: torch.dtype):
        self.settings, self.text, self.device = settings, text, device
        self.task: IntegerTask | TextTask
        if text is None:
            self.task = IntegerTask(settings.task, settings.length, settings.vocab, settings.seed, device)
            vocabulary = self.task.vocabulary
        else:
            self.task = TextTask(text.learnt, settings.context, settings.batch, settings.seed)
            vocabulary = text.vocabulary.size
        # n-grams of whole words hardly ever come twice: with them, --preset quick gave 2.00 nats a character, not 1.89.
        needless = TEXT_ONLY if text is None else ("ngrams",) if settings.tokenizer == "word" else ()
        small = text is not None and len(text.train) < SMALL_TEXT
        self.shape = Shape(
            vocabulary,
            self.task.context,
            settings.layers,
            settings.heads,
            settings.width,
            parts_of(settings.arch, (*settings.without, *needless)),
            settings.small_text_dropout if small else settings.dropout,
        )
        self.dtype, self.paper = dtype, settings.arch == "vaswani"
        self.finished: list[dict[str, Tensor]] = []
        self.begin()

    def begin(self) -> None:
        """A new decoder, with an order of the data of its own."""
        settings, member = self.settings, len(self.finished)
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.seed = derived_seed(settings.seed, -1 - member) if member else settings.seed
        torch.manual_seed(derived_seed(self.seed, -1))
        self.model = self.empty()
        if isinstance(self.task, TextTask):
            self.task = replace(self.task, seed=self.seed)
        with_muon = not self.paper and "muon" not in settings.without
        rates = MUON_RATES if with_muon else ADAM_RATES
        if self.paper:
            rates = dict.fromkeys(MUON_RATES, PAPER_RATE if settings.schedule == "paper" else LINEAR_RATE)
        self.optimizer = Optimizer(self.model, rates, settings.decay, with_muon, self.dtype)
        self.tracker = NoiseTracker(self.model, settings.batch) if settings.track_noise else None

    def next_member(self) -> None:
        """Put the decoder that is trained aside, and begin another."""
        self.finished.append(self.copy())
        self.begin()

    def copy(self) -> dict[str, Tensor]:
        """The state of the decoder in training, as it is now."""
        return {name: p.detach().cpu().clone() for name, p in self.model.state_dict().items()}

    def remember(self, held_loss: float) -> None:
        """Keep the state if none before it was better on the text that is held back."""
        if self.best is None or held_loss < self.best[0]:
            self.best = held_loss, self.copy()

    def take_best(self) -> None:
        """Go back to the best state, at the end of a decoder's training: one that has learnt by heart gets worse."""
        if self.best is not None:
            self.model.load_state_dict(self.best[1])
            self.best = None

    def empty(self) -> Decoder:
        """A decoder of this shape, whatever its weights."""
        return Decoder(self.shape, self.dtype, kernels_for(self.device)).to(self.device)

    def all_members(self) -> tuple[Decoder, ...]:
        """The finished decoders and the present one."""
        others = []
        for state in self.finished:
            others.append(self.empty())
            others[-1].load_state_dict(state)
        return (*others, self.model)

    @property
    def tokens_per_step(self) -> int:
        return self.settings.batch * self.model.shape.context

    def seed_dropout(self, step: int) -> None:
        """Let the dropout of a step follow from its number: a resumed run draws what this one would have."""
        if self.model.shape.dropout:
            torch.manual_seed(derived_seed(self.seed + 1, -2 - step))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of a step."""
        if isinstance(self.task, TextTask):
            return self.task.windows(step)
        sequences = self.task.draw(self.settings.batch, step)
        return sequences.inputs, sequences.targets

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token: -log p(target), smoothed where that is asked for (Vaswani et al. 2017, section 5.4)."""
        logits = self.model(inputs)  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=self.settings.smoothing)

    def rate(self, step: int, steps: int) -> float:
        """The factor on the learning rates in a step, of so many steps in all."""
        if self.paper and self.settings.schedule == "linear":
            return self.settings.lr_scale * trapezoid(step, steps, max(1, round(LINEAR_WARMUP * steps)), LINEAR_WARMUP)
        if self.paper:
            warmup = max(1, round(PAPER_WARMUP * steps))
            return self.settings.lr_scale * inverse_sqrt(step, self.model.shape.width, warmup)
        return self.settings.lr_scale * trapezoid(step, steps, warmup_steps(steps), FLAT)
