"""One update: advantages, the policy's step or steps, and what is worth knowing of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from advantages import episode_returns, explained_variance, gae, normalised, rewards_to_go
from gradients import (
    IMAGES_AT_ONCE,
    IMAGES_KEPT,
    Batch,
    NoiseScale,
    Weights,
    apply_gradient,
    chunked_gradient,
    even_groups,
    grouped_gradient,
    ppo_loss,
)
from policy import ActorCritic
from rollout import Rollout
from settings import Config

NOISE_GROUPS = 2  # of environments, from whose gradients the noise scale comes
IMAGES_TO_COMPARE = 64  # of a batch, for the KL divergence of its update: all of them would cost a third of the update


def advantages_and_targets(config: Config, rollout: Rollout, model: ActorCritic) -> tuple[Tensor, Tensor, Tensor]:
    """What multiplies grad log pi, the value function's targets, and its present values: (T, N) each."""
    T, N = rollout.rewards.shape
    with torch.no_grad():
        device = next(model.parameters()).device
        values = rollout.values
        if values is None:
            parts = rollout.obs.flatten(0, 1).split(IMAGES_AT_ONCE if model.image else 16_384)
            values = torch.cat([model.value(part.to(device)) for part in parts]).cpu().view(T + 1, N)
        following = rollout.next_values(lambda obs: model.value(obs.to(device)).cpu(), values)
    ends = (rollout.terminated, rollout.truncated)
    values = values[:-1]
    estimate = gae(rollout.rewards, values, following, *ends, config.gamma, config.lam)  # type: ignore[arg-type]
    if config.baseline == "gae":
        return estimate, estimate + values, values
    to_go = rewards_to_go(rollout.rewards, following, *ends, config.gamma)  # type: ignore[arg-type]
    if config.baseline == "value":
        return to_go - values, to_go, values
    if config.baseline == "reward-to-go":
        return to_go, to_go, values
    return (
        episode_returns(rollout.rewards, to_go, rollout.terminated | rollout.truncated, rollout.starts),
        to_go,
        values,
    )


def make_batch(config: Config, rollout: Rollout, model: ActorCritic) -> tuple[Batch, dict[str, float]]:
    """The valid steps of a rollout in one batch, and what is worth knowing of them."""
    advantages, targets, values = advantages_and_targets(config, rollout, model)
    valid = rollout.valid
    raw = advantages[valid]
    known = {
        "advantage_mean": float(raw.mean()),
        "advantage_std": float(raw.std(correction=0)),
        "explained_variance": explained_variance(values[valid], targets[valid]),
        "value_loss": 0.5 * float((values[valid] - targets[valid]).square().mean()),
    }
    if config.normalise_advantages:
        advantages = normalised(advantages, valid)
    device = next(model.parameters()).device
    obs = rollout.obs[:-1].flatten(0, 1) if valid.all() else rollout.obs[:-1][valid]  # the former copies nothing
    head, actions = rollout.heads[valid], rollout.actions[valid]
    streams = torch.arange(valid.size(1)).expand_as(valid)[valid]
    log_prob = model.policy.log_prob(head, actions)
    flat = (obs, actions, advantages[valid], targets[valid], streams, head, log_prob, values[valid])
    return Batch(*(tensor.to(device) for tensor in flat)), known


def shuffled(batch: Batch, parts: int, random: torch.Generator) -> list[Batch]:
    """`parts` minibatches of a batch in a new order; the batch itself where it is one."""
    if parts == 1:
        return [batch]
    order = torch.randperm(len(batch), generator=random).to(batch.obs.device)
    return [batch.rows(index) for index in order.chunk(parts)]


def groups_to_keep(config: Config, model: ActorCritic) -> int:
    """For how many groups of environments acting keeps its passes for the update; 0 where the update makes its own."""
    streams = config.num_envs or 1
    kept = model.joint and config.minibatches == 1 and streams * (config.horizon or 1) <= IMAGES_KEPT
    return even_groups(streams, NOISE_GROUPS) if kept else 0


def update_policy(
    config: Config,
    model: ActorCritic,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
    passes: Sequence[tuple[Tensor, Tensor]] = (),
) -> tuple[dict[str, float], NoiseScale | None]:
    """VPG's one step, or its steps in one pass of minibatches, or PPO's epochs of minibatches.

    In a pass of several minibatches the policy moves between them, VPG's too: the clipped ratio accounts for that. `passes`
    are those that chose the actions, where they were kept: a third of what an update costs.
    """
    parameters, most = model.actor_parameters(), config.max_grad_norm or 0.0
    weights = Weights(config.entropy or 0.0, config.value_weight or 0.0, config.value_clip or 0.0)
    parts = config.minibatches or 1
    gradient, noise, norms = None, None, []
    if parts == 1 or not model.image:  # else it would cost a pass that nothing but the noise scale needs
        gradient, noise = grouped_gradient(model, batch, weights, config.num_envs or 1, NOISE_GROUPS, passes)
    for epoch in range(config.epochs or 1):
        for rows in shuffled(batch, parts, random):
            if rows is batch and epoch == 0:
                assert gradient is not None
                step = gradient  # while the policy is the one that acted, the clipped ratio's gradient is VPG's
            else:
                step = chunked_gradient(ppo_loss, model, rows, weights, len(rows), config.clip)
            norms.append(apply_gradient(parameters, step, optimizer, most))
    some = batch
    if model.image and len(batch) > IMAGES_TO_COMPARE:
        some = batch.rows(torch.randint(len(batch), (IMAGES_TO_COMPARE,), generator=random).to(batch.obs.device))
    with torch.no_grad():
        head = model.head(some.obs)
        ratio = (model.policy.log_prob(head, some.actions) - some.old_log_prob).exp()
        known = {
            "entropy": float(model.policy.entropy(batch.old_head).mean()),
            "kl": float(model.policy.kl(some.old_head, head).mean()),
            "ratio_outside": float(((ratio - 1).abs() > 0.2).float().mean()),
            "grad_norm": float(np.mean(norms)),
        }
    return known, noise
