"""One update of the policy and of the value function, in the order of `update`, and the losses whose gradients it takes.

M is the number of transitions in the batch; sums over steps are divided by it, so that every step counts the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from policy_networks.actor_critic import IMAGES_AT_ONCE, ActorCritic
from rl_settings.vpg_settings import Settings
from vpg_learner.gae_and_truncation import Batch, make_batch
from vpg_learner.gradients import NoiseScale, chunked_gradient, even_groups, grouped_gradient
from vpg_learner.rollout import Collector

NOISE_GROUPS = 2  # of environments, from whose gradients the noise scale comes
IMAGES_KEPT = 2048  # whose activations may wait for the gradient: 2.6 GB of the full residual net's
IMAGES_TO_COMPARE = 64  # of a batch, for the KL divergence of its update: all of them would cost a third of the update


@dataclass(frozen=True)
class Optimizers:
    """Adam for the policy, and for the value function's own passes.

    Where the two share an encoder, the first one has all, and the second idles.
    """

    policy: torch.optim.Optimizer
    values: torch.optim.Optimizer


def update(
    settings: Settings,
    model: ActorCritic,
    collector: Collector,
    optimizers: Optimizers,
    random: torch.Generator,
    step: int,
) -> tuple[int, dict[str, float]]:
    """Collect, estimate advantages, step the policy, fit the values: how many transitions, and what is worth knowing.

    `step` is how many transitions were made before.
    """
    if settings.anneal:
        for group in optimizers.policy.param_groups:
            group["lr"] = settings.lr * (1 - step / settings.total_steps)
    groups = groups_to_keep(settings, model)
    rollout = collector.collect(model, random, groups)
    while not rollout.steps:  # one step of environments that all reset themselves
        rollout = collector.collect(model, random, groups)
    batch, estimated = make_batch(settings, rollout, model)
    moved, noise = step_policy(settings, model, batch, optimizers.policy, random, rollout.passes)
    if not model.joint:
        fit_values(model, batch, optimizers.values, settings.value_epochs, settings.value_minibatch, random)
    known = {
        **moved,
        **estimated,
        "noise_trace": noise.trace if noise else math.nan,
        "noise_squared_norm": noise.squared_norm if noise else math.nan,
    }
    return len(batch), known


# ---------------------------------------------------------------- losses of the policy


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


# ---------------------------------------------------------------- steps of the policy


def groups_to_keep(settings: Settings, model: ActorCritic) -> int:
    """For how many groups of environments acting keeps its passes for the update; 0 where the update makes its own."""
    kept = model.joint and settings.minibatches == 1 and settings.num_envs * settings.horizon <= IMAGES_KEPT
    return even_groups(settings.num_envs, NOISE_GROUPS) if kept else 0


def step_policy(
    settings: Settings,
    model: ActorCritic,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
    passes: Sequence[tuple[Tensor, Tensor]] = (),
) -> tuple[dict[str, float], NoiseScale | None]:
    """Strictly one step, or the steps of one pass of minibatches, or PPO's epochs of minibatches.

    In a pass of several minibatches the policy moves between them: the clipped ratio accounts for that. `passes`
    are those that chose the actions, where they were kept: a third of what an update costs.
    """
    parameters = model.actor_parameters()
    weights = Weights(settings.entropy, settings.value_weight, settings.value_clip)
    gradient, noise, norms = None, None, []
    if settings.minibatches == 1 or not model.image:  # else it would cost a pass that nothing but the noise scale needs
        gradient, noise = grouped_gradient(vpg_loss, model, batch, weights, settings.num_envs, NOISE_GROUPS, passes)
    for epoch in range(settings.epochs):
        for rows in shuffled(batch, settings.minibatches, random):
            if rows is batch and epoch == 0:
                assert gradient is not None
                step = gradient  # while the policy is the one that acted, the clipped ratio's gradient is VPG's
            else:
                step = chunked_gradient(ppo_loss, model, rows, weights, len(rows), settings.clip)
            norms.append(apply_gradient(parameters, step, optimizer, settings.max_grad_norm))
    return {**how_far(model, batch, random), "grad_norm": float(np.mean(norms))}, noise


@torch.no_grad()
def how_far(model: ActorCritic, batch: Batch, random: torch.Generator) -> dict[str, float]:
    """How far the policy has moved from the one that acted, and that one's entropy."""
    some = batch
    if model.image and len(batch) > IMAGES_TO_COMPARE:
        some = batch.rows(torch.randint(len(batch), (IMAGES_TO_COMPARE,), generator=random).to(batch.obs.device))
    head = model.head(some.obs)
    ratio = (model.policy.log_prob(head, some.actions) - some.old_log_prob).exp()
    return {
        "entropy": float(model.policy.entropy(batch.old_head).mean()),
        "kl": float(model.policy.kl(some.old_head, head).mean()),
        "ratio_outside": float(((ratio - 1).abs() > 0.2).float().mean()),
    }


def shuffled(batch: Batch, parts: int, random: torch.Generator) -> list[Batch]:
    """`parts` minibatches of a batch in a new order; the batch itself where it is one."""
    if parts == 1:
        return [batch]
    order = torch.randperm(len(batch), generator=random).to(batch.obs.device)
    return [batch.rows(index) for index in order.chunk(parts)]


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


# ---------------------------------------------------------------- the value function


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
