"""The gradient of a loss over a batch, in parts where it is large, and its noise scale from groups of environments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.stats import two_batch
from policy_networks.actor_critic import IMAGES_AT_ONCE, ActorCritic
from vpg_learner.gae_and_truncation import Batch

# loss(model, batch, *more): a sum over the batch's rows.
Loss = Callable[..., Tensor]


def chunked_gradient(loss: Loss, model: ActorCritic, batch: Batch, *more: Any) -> list[Tensor]:
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


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


def grouped_gradient(
    loss: Loss,
    model: ActorCritic,
    batch: Batch,
    weights: Any,
    streams: int,
    groups: int,
    passes: Sequence[tuple[Tensor, Tensor]] = (),
) -> tuple[list[Tensor], NoiseScale | None]:
    """The gradient of `loss(model, batch, weights, M)`, parameter by parameter, and its noise from `groups` of streams.

    The gradient is the sum of the groups' parts, so measuring its noise costs nothing but smaller matrix products. `passes`
    are the groups' forward passes, if the policy has not moved since they were made.
    """
    k = even_groups(streams, groups)
    parts: list[list[Tensor]] = []
    for group in range(k):
        mine = batch.rows((batch.streams * k // streams == group).nonzero().squeeze(-1)) if k > 1 else batch
        if passes:
            total = loss(model, mine, weights, len(batch), passes[group])
            parts.append(list(torch.autograd.grad(total, model.actor_parameters())))
        else:
            parts.append(chunked_gradient(loss, model, mine, weights, len(batch)))
    whole = [torch.stack(pieces).sum(0) for pieces in zip(*parts, strict=True)] if k > 1 else parts[0]
    # A group's own mean gradient is k times its share of the sum.
    noise = noise_scale([k * flat(part) for part in parts], streams) if k > 1 else None
    return whole, noise
