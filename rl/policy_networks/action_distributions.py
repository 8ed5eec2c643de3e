"""What a policy does with the actor's output: sample actions, their log-probabilities, entropy, KL divergence.

Shapes: B observations, A outputs of the actor (logits, or means). Actions are (B,) integers, (B, k) integers for
MultiDiscrete, (B, k) reals for Box.
"""

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

HALF_LOG_2PI_E = 0.5 * math.log(2 * math.pi * math.e)


class CategoricalPolicy:
    """One or several independent categorical actions: logits side by side in the actor's output."""

    gaussian = False

    def __init__(self, sizes: tuple[int, ...], start: np.ndarray, single: bool):
        self.sizes, self.start, self.single = sizes, start, single
        self.outputs = sum(sizes)
        self.action_shape = () if single else (len(sizes),)
        self.action_dtype = torch.int64

    def split(self, head: Tensor) -> tuple[Tensor, ...]:
        """Log-probabilities (B, n) of each action."""
        return tuple(part.log_softmax(-1) for part in head.split(self.sizes, -1))

    def sample(self, head: Tensor, random: torch.Generator) -> Tensor:
        """Actions drawn from softmax(logits): the greatest of logits + Gumbel noise."""
        noise = torch.empty_like(head).exponential_(generator=random)
        return self.mode(head - noise.log_())

    def mode(self, head: Tensor) -> Tensor:
        """The likeliest actions."""
        chosen = [part.argmax(-1) for part in head.split(self.sizes, -1)]
        return chosen[0] if self.single else torch.stack(chosen, -1)

    def log_prob(self, head: Tensor, actions: Tensor) -> Tensor:
        """log pi(a|s), (B,): the sum over the independent actions."""
        actions = actions.view(len(head), -1)
        logs = [part.gather(-1, actions[:, i : i + 1]).squeeze(-1) for i, part in enumerate(self.split(head))]
        return logs[0] if self.single else torch.stack(logs).sum(0)

    def entropy(self, head: Tensor) -> Tensor:
        """In nats, (B,)."""
        return torch.stack([-(part.exp() * part).sum(-1) for part in self.split(head)]).sum(0)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new) in nats, (B,), exact."""
        pairs = zip(self.split(old), self.split(new), strict=True)
        return torch.stack([(p.exp() * (p - q)).sum(-1) for p, q in pairs]).sum(0)

    def to_env(self, actions: Tensor) -> np.ndarray:
        """What the environment is given."""
        return actions.numpy() + self.start


class GaussianPolicy:
    """A diagonal Gaussian whose standard deviations do not depend on the state.

    The unit is half the range of the action space, its centre 0: the environment gets centre + half * clip(a, -1, 1). All
    samples beyond a bound are one action to it, so their log-probability is that of the whole tail (Fujita & Maeda 2018,
    "Clipped Action Policy Gradient"). The density of the sample itself would give a gradient as unbiased, with more noise,
    and means that drift: a run of Pendulum-v1 in which they lay at nine times the bound learnt nothing.
    """

    gaussian = True

    def __init__(self, low: np.ndarray, high: np.ndarray):
        bounded = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite bounds, whose results are not taken
            self.centre = np.where(bounded, (low + high) / 2, 0.0).astype(np.float32)
            self.half = np.where(bounded, (high - low) / 2, 1.0).astype(np.float32)
        self.bound = torch.from_numpy(np.where(bounded, 1.0, np.inf).astype(np.float32).ravel())
        self.low, self.high, self.shape = low, high, low.shape
        self.outputs = low.size
        self.action_shape = (low.size,)
        self.action_dtype = torch.float32

    def sample(self, head: Tensor, random: torch.Generator) -> Tensor:
        mean, log_std = head.chunk(2, -1)
        return mean + log_std.exp() * torch.empty_like(mean).normal_(generator=random)

    def mode(self, head: Tensor) -> Tensor:
        return head.chunk(2, -1)[0]

    def log_prob(self, head: Tensor, actions: Tensor) -> Tensor:
        """log of the density, or of the tail's probability for samples beyond a bound: (B,), summed over the dimensions."""
        mean, log_std = head.chunk(2, -1)
        bound, scale = self.bound.to(mean.device), (-log_std).exp()
        z = (actions - mean) * scale
        density = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)
        above, below = actions >= bound, actions <= -bound
        beyond = torch.where(above, mean - bound, torch.where(below, -bound - mean, 0.0)) * scale
        return torch.where(above | below, torch.special.log_ndtr(beyond), density).sum(-1)

    def entropy(self, head: Tensor) -> Tensor:
        """Of the Gaussian, in nats, (B,)."""
        return (head.chunk(2, -1)[1] + HALF_LOG_2PI_E).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new) of the Gaussians, in nats, (B,): what the clipped actions differ by is less."""
        (m, s), (n, t) = old.chunk(2, -1), new.chunk(2, -1)  # means and log standard deviations
        return (t - s + 0.5 * ((2 * (s - t)).exp() + ((m - n) * (-t).exp()).square() - 1)).sum(-1)

    def to_env(self, actions: Tensor) -> np.ndarray:
        scaled = actions.numpy().reshape(len(actions), *self.shape) * self.half + self.centre
        return np.clip(scaled, self.low, self.high)


Policy = CategoricalPolicy | GaussianPolicy


def policy_for(space: spaces.Space) -> Policy:
    """The policy of an action space that `make_streams.check_actions` has passed."""
    if isinstance(space, spaces.Discrete):
        return CategoricalPolicy((int(space.n),), np.asarray(space.start), single=True)
    if isinstance(space, spaces.MultiDiscrete):
        start = getattr(space, "start", np.zeros_like(space.nvec))
        return CategoricalPolicy(tuple(int(n) for n in space.nvec), start, single=False)
    assert isinstance(space, spaces.Box)
    return GaussianPolicy(space.low, space.high)
