"""The actor and the critic: encoders for vectors and images, and what a policy does with the actor's output.

Shapes: B observations, A outputs of the actor (logits, or means). Actions are (B,) integers, (B, k) integers for
MultiDiscrete, (B, k) reals for Box.
"""

import itertools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from cuda_graphs import Replays

LOG_STD = -0.5  # of Box actions at the start, in units of half the space's range (Spinning Up's value)
HALF_LOG_2PI_E = 0.5 * math.log(2 * math.pi * math.e)


def orthogonal(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    """Orthogonal weights of that gain, no bias."""
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def glorot(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    """Uniform weights of variance 2 / (fan in + fan out) (Glorot & Bengio 2010), whatever the gain for others; no bias."""
    nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


Beginning = Callable[[nn.Conv2d | nn.Linear, float], None]


def mlp(sizes: tuple[int, ...], last_gain: float) -> nn.Sequential:
    """Linear layers with tanh between them, orthogonal with gain sqrt(2), the last one with `last_gain`."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(fan_in, fan_out)
        orthogonal(layer, last_gain if i == len(sizes) - 2 else math.sqrt(2))
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class NatureEncoder(nn.Module):
    """The convolutional net of Mnih et al. 2015: (B, channels, height, width) from 0 to 1 -> (B, 512)."""

    features = 512

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        height, width, channels = shape
        if min(height, width) < 36:
            raise ValueError(f"images of {height} x {width} are too small for the convolutional net: at least 36 x 36")
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
        )
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).numel()
        self.linear = nn.Linear(flat, self.features)
        for layer in (*self.convolutions, self.linear):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                orthogonal(layer, math.sqrt(2))

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.linear(self.convolutions(images).flatten(1)))


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), He et al. 2016."""

    def __init__(self, channels: int, gain: float, begin: Beginning):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        begin(self.first, math.sqrt(2))
        begin(self.second, gain)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class ImpalaEncoder(nn.Module):
    """The residual net of Espeholt et al. 2018 that Procgen's paper uses: (B, channels, height, width) in [0, 1] -> (B, 256).

    Three blocks of a convolution, a max-pool that halves the picture, and two residual units. `norm`, which the papers do not
    have, normalises the features of each picture before the last ReLU (Ba et al. 2016): a drift of all cannot kill them.
    `begin` gives the first weights; with Glorot's, those of OpenAI's code, features begin smaller.
    """

    features = 256

    def __init__(
        self,
        shape: tuple[int, ...],
        widths: tuple[int, ...] = (16, 32, 32),
        norm: bool = False,
        begin: Beginning = orthogonal,
    ):
        super().__init__()
        height, width, channels = shape
        if min(height, width) < 8:
            raise ValueError(f"images of {height} x {width} are too small for the convolutional net: at least 8 x 8")
        layers: list[nn.Module] = []
        gain = 1 / math.sqrt(2 * len(widths))  # so that all residual units together add about the variance of one
        for out in widths:
            convolution = nn.Conv2d(channels, out, 3, padding=1)
            begin(convolution, math.sqrt(2))
            units = [Residual(out, gain, begin) for _ in range(2)]
            layers += [convolution, nn.MaxPool2d(3, 2, padding=1), *units]
            channels, height, width = out, (height + 1) // 2, (width + 1) // 2
        self.blocks = nn.Sequential(*layers)
        self.linear = nn.Linear(channels * height * width, self.features)
        begin(self.linear, math.sqrt(2))
        self.norm = nn.LayerNorm(self.features) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.linear(F.relu(self.blocks(images)).flatten(1))))


Encoder = Literal["impala", "impala-half", "impala-norm", "impala-half-norm", "impala-glorot", "nature"]
Critic = Literal["separate", "shared", "detached"]


def image_encoder(kind: Encoder, shape: tuple[int, ...]) -> NatureEncoder | ImpalaEncoder:
    """A new convolutional net; ValueError for images that are too small for it."""
    if kind == "nature":
        return NatureEncoder(shape)
    widths, begin = (8, 16, 16) if "half" in kind else (16, 32, 32), glorot if kind.endswith("glorot") else orthogonal
    return ImpalaEncoder(shape, widths, kind.endswith("norm"), begin)


class ActorCritic(nn.Module):
    """The policy's network, whose head gives what the policy needs, and the value function's.

    Vectors go through two separate networks. Images go through an encoder, which the two may share:
    - separate  the value function has an encoder of its own, and is fitted in its own passes
    - shared    one encoder, which the gradients of both train in one step
    - detached  one encoder, trained by the policy alone
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        action_space: spaces.Space,
        hidden: tuple[int, ...],
        encoder: Encoder = "nature",
        critic: Critic = "separate",
        log_std: float = LOG_STD,
    ):
        super().__init__()
        self.policy = policy_for(action_space)
        self.image = len(observation_shape) == 3
        self.bf16 = False  # whether convolutions multiply bfloat16; parameters are float32 in any case
        self.joint, self.detached = critic != "separate", critic == "detached"
        trunks = (
            [image_encoder(encoder, observation_shape) for _ in range(1 if self.joint else 2)] if self.image else []
        )
        features = trunks[0].features if trunks else observation_shape[0]
        self.trunk = trunks[0] if trunks else nn.Identity()
        self.value_trunk = self.trunk if self.joint or not trunks else trunks[1]
        if self.image:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.actor = mlp((features, *hidden, self.policy.outputs), 0.01)  # nearly uniform (Andrychowicz et al. 2021)
        self.critic = mlp((features, *hidden, 1), 1.0)
        self.log_std = nn.Parameter(torch.full((self.policy.outputs,), log_std)) if self.policy.gaussian else None
        self.replays = Replays()

    def features(self, trunk: nn.Module, obs: Tensor) -> Tensor:
        """(B, features) float32."""
        if not self.image:
            return obs
        if torch.is_grad_enabled():
            return self._encoded(trunk, obs)
        return self.replays(("features", trunk), lambda images: [self._encoded(trunk, images)], obs)[0]

    def _encoded(self, trunk: nn.Module, obs: Tensor) -> Tensor:
        # (B, height, width, channels) as it lies in memory is channels_last, what convolutions like best.
        images = obs.permute(0, 3, 1, 2)
        if not self.bf16:
            return trunk(images.float() / 255)
        with torch.autocast(obs.device.type, torch.bfloat16):
            return trunk(images.bfloat16() / 255).float()

    def _head(self, features: Tensor) -> Tensor:
        out = self.actor(features)
        return out if self.log_std is None else torch.cat([out, self.log_std.expand_as(out)], -1)

    def head(self, obs: Tensor) -> Tensor:
        """The actor's output (B, A), for a Gaussian with the log standard deviations appended: (B, 2 A)."""
        return self._head(self.features(self.trunk, obs))

    def value(self, obs: Tensor) -> Tensor:
        """(B,)"""
        return self.critic(self.features(self.value_trunk, obs)).squeeze(-1)

    def head_and_value(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """`head` and `value` from one pass of a shared encoder."""
        features = self.features(self.trunk, obs)
        return self._head(features), self.critic(features.detach() if self.detached else features).squeeze(-1)

    def actor_parameters(self) -> list[nn.Parameter]:
        """What the policy gradient moves, and with it the value function where the two share an encoder."""
        log_std = [] if self.log_std is None else [self.log_std]
        joint = list(self.critic.parameters()) if self.joint else []
        return [*self.trunk.parameters(), *self.actor.parameters(), *log_std, *joint]

    def critic_parameters(self) -> list[nn.Parameter]:
        """What passes of the value function's own move; none where it shares an encoder."""
        return [] if self.joint else [*self.value_trunk.parameters(), *self.critic.parameters()]


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
    """The policy of an action space that `envs.check_actions` has passed."""
    if isinstance(space, spaces.Discrete):
        return CategoricalPolicy((int(space.n),), np.asarray(space.start), single=True)
    if isinstance(space, spaces.MultiDiscrete):
        start = getattr(space, "start", np.zeros_like(space.nvec))
        return CategoricalPolicy(tuple(int(n) for n in space.nvec), start, single=False)
    assert isinstance(space, spaces.Box)
    return GaussianPolicy(space.low, space.high)
