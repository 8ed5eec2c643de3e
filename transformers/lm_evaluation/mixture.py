"""What a text run predicts with: its nets' mean probability, an n-gram's, and that of the nets' nearest neighbours.

    p(t) = w_d0 mean_i p_i(t) + w_d1 q(t) + w_d2 k(t)

where q is the n-gram of texts/word_ngram.py, k what followed the places of the training text that are most like the present
one (neighbours.py), d how many of the place's contexts the n-gram knows, and w_d (the trust) is learnt on a slice of the
training text that none has seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decoder_model.decoder import Decoder
from lm_evaluation.lm_losses import Reading, directions, read_text
from lm_evaluation.neighbours import Neighbours, blended
from texts.word_ngram import WordNGram

Array = NDArray[Any]
# w before anything is learnt, of nets and n-gram, and of these and neighbours; and how many tokens' worth that is.
TRUST, FIRM = {2: (0.7, 0.3), 3: (0.45, 0.1, 0.45)}, 200
EM_STEPS = 30


@dataclass(frozen=True)
class Mixture:
    """Decoders of one vocabulary and context, in turn trained; `ngram` is None for them alone.

    `neighbours` are those of the first nets, one each, or none.
    """

    nets: tuple[Decoder, ...]
    ngram: WordNGram | None = None
    neighbours: tuple[Neighbours, ...] = ()
    trust: Array = field(default_factory=lambda: np.ones((1, 1)))  # (depth + 1, predictors)

    @property
    def context(self) -> int:
        """Tokens that the nets see."""
        return self.nets[0].shape.context

    def learn_places(self, texts: Sequence[Tensor]) -> None:
        """Make the places of texts (n,) neighbours, each in the states of its net."""
        for net, one in zip(self.nets, self.neighbours, strict=False):
            one.learn(net, texts)

    def losses(self, ids: Tensor) -> tuple[Array, Array]:
        """Nats of tokens 1 … n - 1 of the text `ids` (n,): (n - 1,) with the nets' windows cold, and sliding.

        What these windows are says `read_text`. The n-gram reads the text in one stream.
        """
        return self.mixed(ids, *self.read(ids))

    def read(self, ids: Tensor) -> tuple[list[Reading], list[Reading]]:
        """What each net makes of a text (n,) in windows that start cold, and in sliding ones."""
        readings = [read_text(net, ids, self.context) for net in self.nets]
        return [cold for cold, _ in readings], [sliding for _, sliding in readings]

    def mixed(self, ids: Tensor, cold: Sequence[Reading], sliding: Sequence[Reading]) -> tuple[Array, Array]:
        """The same from the nets' readings of the text."""
        if self.ngram is None:
            return net_losses(cold), net_losses(sliding)
        text = ids.cpu().numpy()
        q, known = self.ngram.probabilities(text)
        w = self.trust[known].T
        both = [-np.log((w * self.predictors(text, readings, q)).sum(0)) for readings in (cold, sliding)]
        return both[0].astype(np.float32), both[1].astype(np.float32)

    def predictors(self, text: Array, readings: Sequence[Reading], q: Array) -> Array:
        """p (predictors, n - 1) of the tokens 1 … n - 1 of a text (n,): of the nets, of the n-gram, q, and of neighbours."""
        found = [np.exp(-net_losses(readings).astype(np.float64)), q]
        if self.neighbours:
            near = zip(self.neighbours, readings, strict=False)
            found.append(np.mean([blended(one.sums(reading.states, text), q) for one, reading in near], 0))
        return np.array(found)

    def log_probabilities(self, states: list[Tensor], read: Tensor) -> Tensor:
        """log p (B, V) of the next tokens, from the nets' states (B, C) there and the tokens (B, n) read so far.

        Of one net alone its logits, which are the same up to a constant.
        """
        logits = [net.logits(state) for net, state in zip(self.nets, states, strict=True)]
        if len(logits) == 1 and self.ngram is None:
            return logits[0]
        p = torch.stack([one.cpu().double().softmax(-1) for one in logits]).mean(0)  # MPS has no fp64
        if self.ngram is not None:
            for row, ids in enumerate(read.cpu().numpy()):
                p[row] = torch.from_numpy(self.following(p[row].numpy(), [state[row] for state in states], ids))
        return p.log().float().to(logits[0].device)

    def following(self, of_nets: Array, states: list[Tensor], ids: Array) -> Array:
        """p (V,) of the tokens after a text (n,), from the nets' p and their states (C,) there."""
        assert self.ngram is not None
        q, known = self.ngram.following(ids)
        found = [of_nets, q]
        if self.neighbours:
            told = [one.following(directions(state), ids) for one, state in zip(self.neighbours, states, strict=False)]
            found.append(np.mean([blended(np.array([one, np.full_like(one, of_all)]), q) for one, of_all in told], 0))
        return self.trust[known] @ np.array(found)


def net_losses(readings: Sequence[Reading]) -> Array:
    """Nats (n,) of the mean probability of nets, from what each made of a text."""
    if len(readings) == 1:
        return readings[0].losses
    return -np.log(np.mean([np.exp(-one.losses.astype(np.float64)) for one in readings], 0)).astype(np.float32)


def learn_trust(p: Array, known: Array, depth: int) -> Array:
    """The weights w_d (depth + 1, predictors) that make the tokens (n,) of a text most probable, firm where these are few.

    `p` (predictors, n) is what each gave the tokens, `known` (n,) is d. Expectation maximisation for the weights of a
    mixture; w_d is drawn to the weights of all tokens as by FIRM tokens, and those to TRUST likewise.
    """
    before = np.array(TRUST[len(p)])
    overall, trust = before, np.tile(before, (depth + 1, 1))
    tokens = np.bincount(known, minlength=depth + 1)[:, None]
    for _ in range(EM_STEPS):
        share = trust[known].T * p  # (predictors, n), then the probability that each gave the token
        share /= share.sum(0)
        overall = (FIRM * before + share.sum(1)) / (FIRM + p.shape[1])
        by_depth = np.stack([np.bincount(known, one, minlength=depth + 1) for one in share], 1)
        trust = (FIRM * overall + by_depth) / (FIRM + tokens)
    return trust
