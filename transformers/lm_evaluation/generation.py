"""Text from a decoder, one token at a time, with the keys and values of what it has read kept (KV cache)."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from decoder_model.decoder import Cache, Decoder


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
    model: Decoder,
    prompt: Tensor,
    tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    random: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """`tokens` ids (B, 1), one at a time, that continue `prompt` (B, T).

    The model reads at most its context. When that is full, its second half is read again as a new beginning, so that
    positions stay among those it was trained on.
    """
    random = random or torch.Generator(prompt.device).manual_seed(0)
    context = model.shape.context
    read = prompt[:, -context:]
    empty = model.embedding.new_empty(0, dtype=model.compute)
    cache = Cache(model.shape, len(prompt), context, empty)
    logits = model(read, cache)[:, -1]
    for left in range(tokens, 0, -1):
        token = choose(logits, temperature, top_k, top_p, random)
        yield token
        if left == 1:
            return
        if cache.length < context:
            read = torch.cat([read, token], 1)
            logits = model(token, cache)[:, -1]
        else:
            read = torch.cat([read, token], 1)[:, -max(1, context // 2) :]
            cache = Cache(model.shape, len(prompt), context, empty)
            logits = model(read, cache)[:, -1]
