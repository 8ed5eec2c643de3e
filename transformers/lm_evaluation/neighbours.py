"""What followed the places of a text at which a net was in nearly its present state (Khandelwal et al. 2020, kNN-LM).

A net is read over the text that it has learnt, and its last states there are kept, each with the token that came next. What
is to come is then told by the places whose state is most like the present one: a net forgets most of what it read, and
these do not. Only places that end with the same one or two tokens are looked at, which costs little and leaves out what is
hardly ever like.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decoder_model.decoder import Decoder
from lm_evaluation.lm_losses import window_directions
from texts.vocabulary import Vocabulary

Array = NDArray[Any]
SHARPNESS = 64.0  # a place at an angle a counts exp(SHARPNESS (cos a - 1)): 0.3 at 11 degrees, 0.02 at 20
PRIOR = 0.03  # places' worth of the n-gram's prediction among them: what is told where none is near
MOST_PLACES = 1 << 20  # that are kept, evenly from a longer text
FINDERS = 2  # nets whose neighbours are looked for: the second one is worth 0.002 nats
AT_ONCE = 1 << 22  # pairs of places that are compared
# While a text is read, its own place `age` tokens ago counts (FAR / age)^FADING times: what is recent comes back soonest.
FAR, FADING = 100_000.0, 0.8


class Neighbours:
    """Places of texts that a net has read, and what followed them; `matched` last tokens are compared exactly."""

    def __init__(self, vocabulary: int, matched: int, dtype: torch.dtype):
        self.vocabulary, self.matched, self.dtype = vocabulary, matched, dtype
        self.codes = np.empty(0, dtype=np.int64)  # (N,) of the last tokens, in their order
        self.followed = torch.empty(0, dtype=torch.int64)  # (N,)
        self.states = torch.empty(0, 0, dtype=torch.bfloat16)  # (N, C) directions

    def learn(self, net: Decoder, texts: Sequence[Tensor]) -> None:
        """Keep the places of texts (n,) too, read in windows of the net's context that start cold."""
        parts = [self._places(net, ids.cpu().long()) for ids in texts if len(ids) > 1]
        codes, followed, states = (list(values) for values in zip(*parts, strict=True)) if parts else ([], [], [])
        if len(self.codes):
            codes, followed, states = [self.codes, *codes], [self.followed, *followed], [self.states, *states]
        if codes:
            every = np.concatenate(codes)
            order = np.argsort(every, kind="stable")
            self.codes, at = every[order], torch.from_numpy(order)
            self.followed, self.states = torch.cat(followed)[at], torch.cat(states)[at]

    def _places(self, net: Decoder, ids: Tensor) -> tuple[Array, Tensor, Tensor]:
        """Codes (n,), following tokens (n,) and states (n, C) of a text, or of MOST_PLACES of it, unsorted."""
        n, context = len(ids) - 1, net.shape.context
        starts = np.arange(0, n, context)
        if n > MOST_PLACES:
            starts = starts[np.linspace(0, len(starts) - 1, max(1, MOST_PLACES // context)).astype(int)]
        places = torch.from_numpy(starts)[:, None] + torch.arange(context + 1)
        states = window_directions(net, ids[places.clamp(max=n)], self.dtype)
        kept = places[:, :-1] < n  # the last window may reach beyond the text
        at = places[:, :-1][kept]
        return self.codes_of(ids.numpy())[at.numpy()], ids[at + 1], states[kept]

    def codes_of(self, ids: Array) -> Array:
        """(n,) of the last `matched` tokens at each of `ids` (n,), as one number; before the text stands a token V."""
        codes = np.zeros(len(ids), dtype=np.int64)
        for back in range(self.matched):
            earlier = np.concatenate([np.full(back, self.vocabulary), ids.astype(np.int64)])[: len(ids)]
            codes = codes * (self.vocabulary + 1) + earlier
        return codes

    def sums(self, states: Tensor, ids: Array) -> Array:
        """(2, n) of the tokens 1 … n of a text `ids` (n + 1,), predicted in the states (n, C).

        The weights of the neighbours that a token followed, and of all.
        """
        found, following = np.zeros((2, len(ids) - 1)), torch.from_numpy(ids[1:].astype(np.int64))
        for code, places in _alike(self.codes_of(ids[:-1])):
            first, end = np.searchsorted(self.codes, [code, code + 1])
            if first < end:
                kept, followed = self.states[first:end].float(), self.followed[first:end]
                for part in torch.from_numpy(places).split(max(1, AT_ONCE // int(end - first))):
                    weights = _weights(states[part], kept)
                    found[:, part.numpy()] = _told(weights, followed, following[part])
        return found

    def sums_within(self, states: Tensor, ids: Array) -> Array:
        """The same with the earlier places of the text itself for neighbours, which count the more the nearer they are."""
        found, following = np.zeros((2, len(ids) - 1)), torch.from_numpy(ids[1:].astype(np.int64))
        for _, places in _alike(self.codes_of(ids[:-1])):
            all_of_them = torch.from_numpy(places)
            for part in all_of_them.split(max(1, AT_ONCE // len(places))):
                earlier = all_of_them[: torch.searchsorted(all_of_them, part[-1])]
                age = (part[:, None] - earlier).float()
                weights = _weights(states[part], states[earlier].float()) * (FAR / age.clamp(min=1)) ** FADING
                found[:, part.numpy()] = _told(weights * (age > 0), following[earlier], following[part])
        return found

    def following(self, state: Tensor, ids: Array) -> tuple[Array, float]:
        """Of every token (V,) after the text `ids` (n,), in the direction (C,) there: the weight of the neighbours that it
        followed; and of all."""
        code = self.codes_of(ids[-self.matched :])[-1]
        first, end = np.searchsorted(self.codes, [code, code + 1])
        weights = _weights(state[None], self.states[first:end].float())[0].double()
        told = torch.zeros(self.vocabulary, dtype=torch.float64).index_add_(0, self.followed[first:end], weights)
        return told.numpy(), float(weights.sum())


def new_neighbours(nets: int, vocabulary: Vocabulary, dtype: torch.dtype) -> tuple[Neighbours, ...]:
    """One for each of so many nets, but FINDERS at most; the nets' activations have `dtype` over the text to be kept.

    Two characters have to be the same, or one piece of words. Whole words get none: every second one is a space, all of
    which would be compared.
    """
    if vocabulary.kind == "word":
        return ()
    matched = 2 if vocabulary.kind == "char" else 1
    return tuple(Neighbours(vocabulary.size, matched, dtype) for _ in range(min(nets, FINDERS)))


def blended(sums: Array, q: Array) -> Array:
    """k (n,) from the sums (2, n) of neighbours and the n-gram's prediction q (n,), which counts as PRIOR of them."""
    return (sums[0] + PRIOR * q) / (sums[1] + PRIOR)


def _weights(states: Tensor, others: Tensor) -> Tensor:
    """(n, m) of places in the directions (n, C) and (m, C)."""
    return torch.addmm(others.new_full((1,), -SHARPNESS), states.float(), others.T, alpha=SHARPNESS).exp_()


def _told(weights: Tensor, followed: Tensor, following: Tensor) -> Array:
    """(2, n): of weights (n, m) the sums where the neighbour was followed (m,) by what follows here (n,), and all."""
    of_all = weights.sum(1)
    right = weights.masked_fill_(followed != following[:, None], 0.0).sum(1)
    return torch.stack([right, of_all]).double().numpy()


def _alike(codes: Array) -> Iterator[tuple[int, Array]]:
    """Each different code, and the places (m,) in order that have it."""
    order = np.argsort(codes, kind="stable")
    different, first = np.unique(codes[order], return_index=True)
    yield from zip(different.tolist(), np.split(order, first[1:]), strict=True)
