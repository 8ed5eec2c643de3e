"""The policy gradient of a batch, and what it says about itself: losses, the update, the gradient noise scale.

M is the number of transitions in the batch; sums over steps are divided by it, so that every step counts the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.stats import two_batch
from policy import ActorCritic

IMAGES_AT_ONCE = 256  # through a convolutional net, forwards and backwards
IMAGES_KEPT = 2048  # whose activations may wait for the gradient: 2.6 GB of the full residual net's


@dataclass(frozen=True)
class Batch:
    """The valid transitions of a rollout, one row each (M, …)."""

    obs: Tensor
    actions: Tensor
    advantages: Tensor
    targets: Tensor  # of the value function
    streams: Tensor  # (M,) which environment a row is from
    old_head: Tensor  # the actor's output before the update
    old_log_prob: Tensor
    old_values: Tensor  # of the value function before the update

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in their order."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def rows(self, index: Tensor) -> "Batch":
        """Some of the rows."""
        return Batch(*(tensor[index] for tensor in self.tensors))

    def __len__(self) -> int:
        return len(self.obs)


@dataclass(frozen=True)
class Weights:
    """What the entropy bonus counts, and the value function's error where policy and values share an encoder.

    `value_clip`: how far a value may move within a batch before its error gives no gradient; 0: any way.
    """

    entropy: float = 0.0
    value: float = 0.0
    value_clip: float = 0.0


def vpg_loss(
    model: ActorCritic, batch: Batch, weights: Weights, count: int, known: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """-1/count sum_i log pi(a_i|s_i) A_i, and the terms of `weights`; its gradient is the policy gradient.

    Sutton et al. 1999, theorem 1, with the advantage in place of the action value; Spinning Up, "VPG". `known` are the
    actor's output and the values with their graphs, where the pass that acted has kept them.
    """
    head, value = known or heads(model, batch)
    gain = model.policy.log_prob(head, batch.actions) * batch.advantages
    return total_loss(model, batch, head, value, gain, weights, count)


def ppo_loss(model: ActorCritic, batch: Batch, weights: Weights, count: int, clip: float) -> Tensor:
    """-1/count sum_i min(r_i A_i, clip(r_i, 1 - clip, 1 + clip) A_i), r_i = pi(a_i|s_i) / pi_old(a_i|s_i), and `weights`.

    Schulman et al. 2017, eq. 7. At pi = pi_old its gradient is the policy gradient. With an infinite clip it is eq. 6, whose
    gradient is pi's policy gradient from pi_old's actions, by importance sampling of each step alone.
    """
    head, value = heads(model, batch)
    ratio = (model.policy.log_prob(head, batch.actions) - batch.old_log_prob).exp()
    gain = torch.minimum(ratio * batch.advantages, ratio.clamp(1 - clip, 1 + clip) * batch.advantages)
    return total_loss(model, batch, head, value, gain, weights, count)


def heads(model: ActorCritic, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The actor's output, and the values where one encoder gives both."""
    return model.head_and_value(batch.obs) if model.joint else (model.head(batch.obs), None)


def total_loss(
    model: ActorCritic, batch: Batch, head: Tensor, value: Tensor | None, gain: Tensor, weights: Weights, count: int
) -> Tensor:
    """-1/count sum_i (gain_i + entropy H(pi(.|s_i)) - value/2 (V(s_i) - target_i)^2); the last where one encoder gives V.

    Schulman et al. 2017, eq. 9. With `value_clip` c an error is the larger of this and that of V(s_i) held within c of its
    old value (openai/baselines, ppo2): a value that has moved by c towards its target has no gradient any more.
    """
    if weights.entropy:
        gain = gain + weights.entropy * model.policy.entropy(head)
    if value is not None:
        error = (value - batch.targets).square()
        if weights.value_clip:
            moved = (value - batch.old_values).clamp(-weights.value_clip, weights.value_clip)
            error = torch.maximum(error, (batch.old_values + moved - batch.targets).square())
        gain = gain - 0.5 * weights.value * error
    return -gain.sum() / count


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


@dataclass(frozen=True)
class NoiseScale:
    """|G|^2 and tr(Sigma) of the gradient, unbiased; Sigma is the covariance of one environment stream's gradient.

    Either can come out negative by chance, above all |G|^2. Average them separately before dividing.
    """

    squared_norm: float
    trace: float


def noise_scale(group_gradients: list[Tensor], streams: int) -> NoiseScale:
    """From the gradients of k groups of streams / k environments each (McCandlish et al. 2018, A.1, A.2).

    B_small = streams / k, B_big = streams, both in streams: the steps of one stream depend on each other, so that taking
    steps as the unit would understate the noise. B_simple = trace / squared_norm is the batch, in streams, beyond which
    more data makes the gradient's direction little better.
    """
    k = len(group_gradients)
    if k < 2:
        raise ValueError("two groups are needed at least")
    small, big = streams / k, float(streams)
    mean = torch.stack(group_gradients).mean(0)
    small_square = sum(float(g @ g) for g in group_gradients) / k
    big_square = float(mean @ mean)
    squared_norm, trace = two_batch(small_square, big_square, small, big)
    return NoiseScale(float(squared_norm), float(trace))


def even_groups(streams: int, groups: int) -> int:
    """`groups` where as many streams go into each, else 1."""
    return groups if streams % groups == 0 else 1


def grouped_gradient(
    model: ActorCritic,
    batch: Batch,
    weights: Weights,
    streams: int,
    groups: int,
    passes: Sequence[tuple[Tensor, Tensor]] = (),
) -> tuple[list[Tensor], NoiseScale | None]:
    """The gradient of the whole batch's `vpg_loss`, parameter by parameter, and its noise scale from `groups` of streams.

    The gradient is the sum of the groups' parts, so measuring its noise costs nothing but smaller matrix products. `passes`
    are the groups' forward passes, if the policy has not moved since they were made.
    """
    k = even_groups(streams, groups)
    parts: list[list[Tensor]] = []
    for group in range(k):
        mine = batch.rows((batch.streams * k // streams == group).nonzero().squeeze(-1)) if k > 1 else batch
        if passes:
            loss = vpg_loss(model, mine, weights, len(batch), passes[group])
            parts.append(list(torch.autograd.grad(loss, model.actor_parameters())))
        else:
            parts.append(chunked_gradient(vpg_loss, model, mine, weights, len(batch)))
    total = [torch.stack(pieces).sum(0) for pieces in zip(*parts, strict=True)] if k > 1 else parts[0]
    # A group's own mean gradient is k times its share of the sum.
    noise = noise_scale([k * flat(part) for part in parts], streams) if k > 1 else None
    return total, noise


def chunked_gradient(loss: Callable[..., Tensor], model: ActorCritic, batch: Batch, *more: Any) -> list[Tensor]:
    """The gradient of `loss(model, rows, *more)`, a sum over rows; of images in parts whose activations stay in the cache."""
    parameters = model.actor_parameters()

    def gradient(*rows: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(model, Batch(*rows), *more), parameters)

    if not model.image:
        return list(gradient(*batch.tensors))
    key = ("gradient", loss, *more)
    if len(batch) <= IMAGES_AT_ONCE:
        return list(model.replays(key, gradient, *batch.tensors))
    total = [torch.zeros_like(p) for p in parameters]
    for index in torch.arange(len(batch), device=batch.obs.device).split(IMAGES_AT_ONCE):
        part = model.replays(key, gradient, *batch.rows(index).tensors)
        for whole, piece in zip(total, part, strict=True):
            whole += piece
    return total


def apply_gradient(
    parameters: list[nn.Parameter], gradient: list[Tensor], optimizer: torch.optim.Optimizer, most: float
) -> float:
    """One optimiser step; the gradient's norm before it was clipped to `most` (0: not clipped)."""
    for p, g in zip(parameters, gradient, strict=True):
        # Convolutions may give a gradient in another layout, and the fused optimiser reads memory as it lies.
        p.grad = g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, most or float("inf")))
    optimizer.step()
    optimizer.zero_grad()
    return norm


def fit_values(
    model: ActorCritic,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    minibatch: int,
    random: torch.Generator,
) -> None:
    """Regress the critic on the targets by least squares: `epochs` passes in shuffled minibatches (0: whole batches)."""
    size = min(minibatch or len(batch), len(batch))
    at_once = IMAGES_AT_ONCE if model.image else size
    for _ in range(epochs):
        order = torch.randperm(len(batch), generator=random).to(batch.obs.device) if size < len(batch) else None
        for i in range(0, len(batch) - size // 2, size):  # a rest of less than half a minibatch waits for the next pass
            rows = slice(None) if order is None else order[i : i + size]
            obs, targets = batch.obs[rows], batch.targets[rows]
            optimizer.zero_grad()
            for x, y in zip(obs.split(at_once), targets.split(at_once), strict=True):
                (0.5 * (model.value(x) - y).square().sum() / len(obs)).backward()
            optimizer.step()
    optimizer.zero_grad()
