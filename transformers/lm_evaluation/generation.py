"""Text from a decoder, one token at a time, with the keys and values of what it has read kept (KV cache)."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from decoder_model.decoder import Cache, Decoder
from lm_evaluation.mixture import Mixture
from texts.word_ngram import REACH


def choose(logits: Tensor, temperature: float, top_k: int, top_p: float, random: torch.Generator) -> Tensor:
    """One token id per row of logits (B, V): (B, 1).

    The order is temperature, the k likeliest, then of these the smallest set with probability `top_p` (Holtzman et al.
    2020); the token that crosses `top_p` belongs to the set.
    """
    if temperature < 1e-6:  # the same, and no division by what fp32 takes for 0
        return logits.argmax(-1, keepdim=True)
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if 0 < top_k < logits.size(-1):
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(before >= top_p, 0.0))
    return torch.multinomial(probabilities, 1, generator=random)


@torch.no_grad()
def generate(
    model: Decoder | Mixture,
    prompt: Tensor,
    tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    random: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """`tokens` ids (B, 1), one at a time, that continue `prompt` (B, T).

    The nets read at most their context. When that is full, its second half is read again as a new beginning, so that
    positions stay among those they were trained on. An n-gram sees all that was read.
    """
    mixture = Mixture((model,)) if isinstance(model, Decoder) else model
    random = random or torch.Generator(prompt.device).manual_seed(0)
    context, read = mixture.context, prompt
    readers = [Reader(net, prompt[:, -context:]) for net in mixture.nets]
    for left in range(tokens, 0, -1):
        logits = mixture.log_probabilities([reader.state for reader in readers], read)
        token = choose(logits, temperature, top_k, top_p, random)
        yield token
        if left == 1:
            return
        read = torch.cat([read, token], 1)[:, -max(context, REACH) :]
        for reader in readers:
            reader.read(token, read)


class Reader:
    """A decoder that reads on, with the keys and values of what it has read."""

    def __init__(self, net: Decoder, prompt: Tensor):
        self.net = net
        self.begin(prompt)

    def begin(self, ids: Tensor) -> None:
        """Read `ids` (B, T) as the beginning of a text."""
        context, empty = self.net.shape.context, self.net.embedding.new_empty(0, dtype=self.net.compute)
        self.cache = Cache(self.net.shape, len(ids), context, empty)
        self.state = self.net.states(ids, self.cache)[:, -1]  # (B, C)

    def read(self, token: Tensor, all_read: Tensor) -> None:
        """Read one more token (B, 1), the last of `all_read` (B, n)."""
        context = self.net.shape.context
        if self.cache.length < context:
            self.state = self.net.states(token, self.cache)[:, -1]
        else:
            self.begin(all_read[:, -max(1, context // 2) :])
