"""What a text model is trained on: windows of the text, each epoch in another order.

Every batch follows from (seed, step) alone, so that a resumed run sees what an uninterrupted one would have seen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from texts.seeds import derived_seed


@dataclass(frozen=True)
class TextTask:
    """Windows of `context` tokens of a training text (N,), on the device: once per epoch each, in random order.

    Each epoch cuts the text, taken as a ring, at another random place, and leaves out what does not fill a window there.
    So every token is learnt equally often; the price is one window an epoch in which the beginning follows the end.
    """

    tokens: Tensor
    context: int
    batch: int
    seed: int

    def windows(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of a step."""
        per_epoch = len(self.tokens) // self.context
        numbers = range(step * self.batch, (step + 1) * self.batch)
        starts = torch.stack([self.order(number // per_epoch)[number % per_epoch] for number in numbers])
        span = torch.arange(self.context + 1, device=self.tokens.device)
        places = (starts.to(self.tokens.device)[:, None] + span) % len(self.tokens)
        window = self.tokens[places].long()
        return window[:, :-1], window[:, 1:]

    @cached_property
    def order(self) -> Callable[[int], Tensor]:
        """The starts of the windows of an epoch, in the order of training; the last two epochs are kept."""
        kept: dict[int, Tensor] = {}

        def starts(epoch: int) -> Tensor:
            if epoch not in kept:
                if len(kept) > 1:
                    del kept[min(kept)]
                random = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
                phase = torch.randint(len(self.tokens), (1,), generator=random)
                kept[epoch] = phase + self.context * torch.randperm(len(self.tokens) // self.context, generator=random)
            return kept[epoch]

        return starts
