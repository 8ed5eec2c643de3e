"""What a text run predicts with: the mean of its nets' probabilities, mixed with an n-gram's.

    p(t) = (1 - w_d) mean_i p_i(t) + w_d q(t)

where q is the n-gram of texts/word_ngram.py, d how many of the place's contexts it knows, and w_d (the trust) is learnt on
a slice of the training text that neither has seen.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decoder_model.decoder import Decoder
from lm_evaluation.lm_losses import token_losses
from texts.word_ngram import WordNGram

Array = NDArray[Any]
TRUST, FIRM = 0.3, 200  # w before anything is learnt, and how many tokens' worth that is
EM_STEPS = 30


@dataclass(frozen=True)
class Mixture:
    """Decoders of one vocabulary and context, in turn trained; `ngram` is None for them alone."""

    nets: tuple[Decoder, ...]
    ngram: WordNGram | None = None
    trust: Array = field(default_factory=lambda: np.zeros(1))  # (depth + 1,)

    @property
    def context(self) -> int:
        """Tokens that the nets see."""
        return self.nets[0].shape.context

    def losses(self, ids: Tensor) -> tuple[Array, Array]:
        """Nats of tokens 1 … n - 1 of the text `ids` (n,): (n - 1,) with the nets' windows cold, and sliding.

        What these windows are says `token_losses`. The n-gram reads the text in one stream.
        """
        return self.mixed(ids, *self.net_losses(ids))

    def mixed(self, ids: Tensor, cold: Array, sliding: Array) -> tuple[Array, Array]:
        """The same from those of the nets."""
        if self.ngram is None:
            return cold, sliding
        q, depth = self.ngram.probabilities(ids.cpu().numpy())
        w = self.trust[depth]
        both = [-np.log((1 - w) * np.exp(-losses.astype(np.float64)) + w * q) for losses in (cold, sliding)]
        return both[0].astype(np.float32), both[1].astype(np.float32)

    def net_losses(self, ids: Tensor) -> tuple[Array, Array]:
        """The same of the nets alone."""
        found = [token_losses(net, ids, self.context) for net in self.nets]
        if len(found) == 1:
            return found[0]
        both = [-np.log(np.mean([np.exp(-pair[i].astype(np.float64)) for pair in found], 0)) for i in (0, 1)]
        return both[0].astype(np.float32), both[1].astype(np.float32)

    def log_probabilities(self, logits: list[Tensor], read: Tensor) -> Tensor:
        """log p (B, V) of the next tokens, from the nets' logits (B, V) there and the tokens (B, n) read so far.

        Of one net alone its logits, which are the same up to a constant.
        """
        if len(logits) == 1 and self.ngram is None:
            return logits[0]
        p = torch.stack([one.cpu().double().softmax(-1) for one in logits]).mean(0)  # MPS has no fp64
        if self.ngram is not None:
            for row, ids in enumerate(read.cpu().numpy()):
                q, depth = self.ngram.following(ids)
                p[row] = (1 - self.trust[depth]) * p[row] + self.trust[depth] * torch.from_numpy(q)
        return p.log().float().to(logits[0].device)


def learn_trust(nets: Array, ngram: Array, known: Array, depth: int) -> Array:
    """The weights w_d (depth + 1,) that make the tokens (n,) of a text most probable, but firm where these are few.

    `nets` and `ngram` (n,) are what the two gave each token, `known` (n,) is d. Expectation maximisation for the weights of
    a mixture; w_d is drawn to the weight of all tokens as by FIRM tokens, and that to TRUST likewise.
    """
    overall, trust = TRUST, np.full(depth + 1, TRUST)
    tokens = np.bincount(known, minlength=depth + 1)
    for _ in range(EM_STEPS):
        w = trust[known]
        share = w * ngram / ((1 - w) * nets + w * ngram)  # that the n-gram gave the token
        overall = (FIRM * TRUST + share.sum()) / (FIRM + len(share))
        trust = (FIRM * overall + np.bincount(known, share, minlength=depth + 1)) / (FIRM + tokens)
    return trust
