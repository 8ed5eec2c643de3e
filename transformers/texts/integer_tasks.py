"""Integer sequences whose exact loss is known: ascending, repeat and induction.

Every batch follows from (seed, step) alone, so that a resumed run sees what an uninterrupted one would have seen.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from texts.seeds import derived_seed

EVALUATION = 1 << 40  # the first number of evaluation data; training steps are numbered from 0


@dataclass(frozen=True)
class Sequences:
    """Whole sequences (B, T + 1); `known` (B, T) marks the copied targets, which the tokens before them determine."""

    tokens: Tensor
    known: Tensor

    @property
    def inputs(self) -> Tensor:
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Tensor:
        return self.tokens[:, 1:]


@dataclass(frozen=True)
class IntegerTask:
    """`kind` with n = `length` integers below V = `vocabulary`, drawn anew on the device for every step.

    ascending: n consecutive integers from a random start. repeat: n random integers from 1 … V - 1, the separator 0, and
    the same n again. induction: a block of distinct integers of random length (n/8 … n/2) repeated until there are n of
    them, with no separator: neither the position nor the last token alone tells what comes next.
    """

    kind: str
    length: int
    vocabulary: int
    seed: int
    device: torch.device

    @property
    def context(self) -> int:
        """Predicted positions per sequence."""
        return 2 * self.length if self.kind == "repeat" else self.length - 1

    @property
    def periods(self) -> tuple[int, int]:
        """The shortest and the longest block of `induction`."""
        return max(2, self.length // 8), max(2, self.length // 2)

    def draw(self, count: int, number: int) -> Sequences:
        """`count` sequences, decided by the seed and `number`."""
        n, V, device = self.length, self.vocabulary, self.device
        random = torch.Generator(device).manual_seed(derived_seed(self.seed, number))
        if self.kind == "ascending":
            start = torch.randint(V - n + 1, (count, 1), generator=random, device=device)
            tokens = start + torch.arange(n, device=device)
            return Sequences(tokens, torch.ones_like(tokens[:, 1:], dtype=torch.bool))
        if self.kind == "repeat":
            block = torch.randint(1, V, (count, n), generator=random, device=device)
            tokens = torch.cat([block, torch.zeros_like(block[:, :1]), block], 1)
            return Sequences(tokens, (torch.arange(1, 2 * n + 1, device=device) > n).expand(count, -1))
        shortest, longest = self.periods
        period = torch.randint(shortest, longest + 1, (count, 1), generator=random, device=device)
        block = torch.rand(count, V, generator=random, device=device).argsort(1)[:, :longest]  # distinct
        place = torch.arange(n, device=device)
        return Sequences(block.gather(1, place % period), place[1:] > period)

    @cached_property
    def floors(self) -> np.ndarray:
        """(T,) the least possible expected loss of each target, in nats: its entropy given the tokens before it."""
        n, V = self.length, self.vocabulary
        if self.kind == "ascending":
            return np.zeros(n - 1)
        if self.kind == "repeat":
            return np.where(np.arange(1, 2 * n + 1) < n, math.log(V - 1), 0.0)
        shortest, longest = self.periods
        floors = np.zeros(n - 1)
        for t in range(1, min(n, longest + 1)):
            # All t tokens so far differ, so the period p is at least t. With probability 1 / (periods left) it is t
            # and the first token returns; else one of the V - t others follows. For p < t the target is known.
            alive = min(1.0, (longest + 1 - t) / (longest + 1 - shortest))  # P(p >= t)
            ends = 1.0 / (longest + 1 - t) if t >= shortest else 0.0
            entropy = (1 - ends) * math.log(V - t) - sum(p * math.log(p) for p in (ends, 1 - ends) if p > 0)
            floors[t - 1] = alive * entropy
        return floors

    @property
    def second_half(self) -> str:
        """What `second_half_loss` is measured on, in words."""
        return {
            "ascending": "second half",
            "repeat": "second half (the copy)",
            "induction": "second occurrences",
        }[self.kind]

    def scored(self, sequences: Sequences) -> Tensor:
        """(B, T) the targets that `second_half_loss` and `accuracy` are measured on; the floor of each of them is 0."""
        if self.kind == "ascending":
            half = torch.arange(self.context, device=self.device) >= self.context // 2
            return half.expand_as(sequences.known)
        return sequences.known
