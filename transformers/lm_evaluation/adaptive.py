"""The loss of a mixture that goes on learning: every piece of a text is scored before it is learnt from.

So does a compressor that adapts, and only with those are these numbers to be compared. Each net takes one step of its
optimiser after each piece (dynamic evaluation: Krause et al. 2018), the n-gram counts what it has read, the places that were
read become neighbours (Grave et al. 2017), and the trust moves with every token.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from decoder_model.decoder import Decoder
from lm_evaluation.lm_losses import read_text
from lm_evaluation.mixture import Mixture
from lm_evaluation.neighbours import blended
from optimisation.learning_rates import MUON_RATES
from optimisation.optimizer import Optimizer
from texts.word_ngram import REACH

Array = NDArray[Any]
RATE = 0.2  # of the learning rates of training, for the steps that are made while reading
COUNTED, COUNTINGS = 32, 8000  # repetition is often near: in Python's library every token at once would gain 0.004 more
TRUST_RATE = 0.02  # of a token's gradient on the logits of the trust


def adaptive_losses(mixture: Mixture, ids: Tensor, dtype: torch.dtype) -> Iterator[Array]:
    """Nats of tokens 1 … n - 1 of the text `ids` (n,), in pieces of half a context, the last one shorter.

    Each token of a piece is predicted from at least half a context before it (fewer where the text begins) by nets that
    have learnt all earlier pieces and nothing of this one; the n-gram counts in smaller pieces, each likewise after it is
    scored. Neighbours are found in the states of the nets as they were, among the places of the training text and those
    before the token. The nets are changed; their activations have `dtype`.
    """
    ids = ids.cpu().long()
    n, stride = len(ids) - 1, max(1, mixture.context // 2)
    near = neighbour_sums(mixture, ids, dtype)  # before the nets change
    readers = [AdaptiveNet(net, dtype) for net in mixture.nets]
    trust = np.log(mixture.trust.clip(1e-4)).tolist()
    for start in range(0, n, stride):
        end = min(start + stride, n)
        first = max(0, start - (mixture.context - stride))
        window = ids[first : end + 1]
        p = np.mean([reader.read(window, start - first) for reader in readers], 0)  # of tokens start + 1 … end
        if mixture.ngram is not None:
            step = smallest_piece(n, stride)
            for at in range(start, end, step):
                back, till = max(0, at - REACH), min(at + step, end)
                text = ids[back : till + 1].numpy()
                q, known = (found[at - back :] for found in mixture.ngram.probabilities(text))
                predictors = [p[at - start : till - start], q]
                if near:
                    predictors.append(np.mean([blended(sums[:, at:till], q) for sums in near], 0))
                p[at - start : till - start] = mixed(np.array(predictors), known, trust)
                mixture.ngram.learn(text, at - back)
        yield -np.log(p)


def smallest_piece(n: int, stride: int) -> int:
    """After how many tokens the n-gram counts, of n: COUNTED at least, so that it counts COUNTINGS times at most."""
    step = COUNTED
    while step < min(stride, n / COUNTINGS):
        step *= 2
    return min(step, stride)


def neighbour_sums(mixture: Mixture, ids: Tensor, dtype: torch.dtype) -> list[Array]:
    """Of each net with neighbours, the sums (2, n - 1) of those that a token of the text `ids` (n,) has before it."""
    text, found = ids.numpy(), []
    for net, near in zip(mixture.nets, mixture.neighbours, strict=False):
        _, sliding = read_text(net, ids, mixture.context, dtype)
        found.append(near.sums(sliding.states, text) + near.sums_within(sliding.states, text))
    return found


def mixed(p: Array, known: Array, trust: list[list[float]]) -> Array:
    """(n,) the mixture of p (predictors, n) token after token, with the logits of w_d; `trust` moves along.

    The step is TRUST_RATE times the gradient of log(sum_j w_j p_j) by the logit of w_j: w_j p_j / sum - w_j.
    """
    found = np.empty(p.shape[1])
    for i, (one, d) in enumerate(zip(p.T.tolist(), known.tolist(), strict=True)):
        logits = trust[d]
        powers = [math.exp(logit) for logit in logits]
        whole = sum(powers)
        w = [power / whole for power in powers]
        found[i] = both = sum(a * b for a, b in zip(w, one, strict=True))
        trust[d] = [x + TRUST_RATE * (a * b / both - a) for x, a, b in zip(logits, w, one, strict=True)]
    return found


class AdaptiveNet:
    """A decoder that takes a step after each piece it has read."""

    def __init__(self, net: Decoder, dtype: torch.dtype):
        self.net, self.steps = net.eval(), 0  # no dropout: each piece is seen once
        self.net.compute = dtype
        self.optimizer = Optimizer(net, MUON_RATES, 0.0, True, dtype)

    def read(self, window: Tensor, known: int) -> Array:
        """p of the window's tokens from known + 1 on, each after those before it; then one step on their loss."""
        device = self.net.embedding.device
        inputs, targets = window[None, :-1].to(device), window[1 + known :].to(device)
        logits = self.net(inputs)[0, known:]
        losses = F.cross_entropy(logits, targets, reduction="none")
        losses.mean().backward()
        self.optimizer.step(self.steps, RATE)
        self.steps += 1
        return np.exp(-losses.detach().cpu().double().numpy())
