"""From a rollout to a batch: values of successors, returns and advantages. Arrays are (T, N): T steps of N environments.

Termination and truncation are two things. After a *terminated* step nothing follows: its successor is worth 0. A
*truncated* step was cut off by a clock: its successor, the true final observation, is worth what the value function
says. Both end the trace, so that nothing flows over from the next episode. The rollout's own last step is cut off in the
same way. `next_values` holds the value of every step's true successor; what it holds at terminated steps is ignored.

The factor gamma^t that the gradient of the discounted return has in theory (Sutton & Barto 2018, section 13.3) is
dropped, as in all practical code: every state counts the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from policy_networks.actor_critic import IMAGES_AT_ONCE, ActorCritic
from rl_settings.vpg_settings import Settings
from vpg_learner.rollout import Rollout

VECTORS_AT_ONCE = 16_384  # through the value function


@dataclass(frozen=True)
class Batch:
    """The valid transitions of a rollout, one row each (M, …)."""

    obs: Tensor  # (M, …)
    actions: Tensor  # (M, …)
    advantages: Tensor  # (M,)
    targets: Tensor  # (M,) of the value function
    streams: Tensor  # (M,) which environment a row is from
    old_head: Tensor  # (M, A) the actor's output before the update
    old_log_prob: Tensor  # (M,)
    old_values: Tensor  # (M,) of the value function before the update

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in their order."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def rows(self, index: Tensor) -> "Batch":
        """Some of the rows."""
        return Batch(*(tensor[index] for tensor in self.tensors))

    def __len__(self) -> int:
        return len(self.obs)


def make_batch(settings: Settings, rollout: Rollout, model: ActorCritic) -> tuple[Batch, dict[str, float]]:
    """The valid steps of a rollout in one batch, and what is worth knowing of them."""
    advantages, targets, values = advantages_and_targets(settings, rollout, model)
    valid = rollout.valid
    raw = advantages[valid]
    known = {
        "advantage_mean": float(raw.mean()),
        "advantage_std": float(raw.std(correction=0)),
        "explained_variance": explained_variance(values[valid], targets[valid]),
        "value_loss": 0.5 * float((values[valid] - targets[valid]).square().mean()),
    }
    if settings.normalise_advantages:
        advantages = normalised(advantages, valid)
    device = next(model.parameters()).device
    obs = rollout.obs[:-1].flatten(0, 1) if valid.all() else rollout.obs[:-1][valid]  # the former copies nothing
    head, actions = rollout.heads[valid], rollout.actions[valid]
    streams = torch.arange(valid.size(1)).expand_as(valid)[valid]
    log_prob = model.policy.log_prob(head, actions)
    flat = (obs, actions, advantages[valid], targets[valid], streams, head, log_prob, values[valid])
    return Batch(*(tensor.to(device) for tensor in flat)), known


def advantages_and_targets(settings: Settings, rollout: Rollout, model: ActorCritic) -> tuple[Tensor, Tensor, Tensor]:
    """What multiplies grad log pi, the value function's targets, and its present values: (T, N) each."""
    values, following = values_and_successors(rollout, model)
    rewards, ends, gamma = rollout.rewards, (rollout.terminated, rollout.truncated), settings.gamma
    if settings.baseline == "gae":
        advantages = gae(rewards, values, following, *ends, gamma, settings.lam)
        return advantages, advantages + values, values
    to_go = rewards_to_go(rewards, following, *ends, gamma)
    if settings.baseline == "value":
        return to_go - values, to_go, values
    if settings.baseline == "reward-to-go":
        return to_go, to_go, values
    return episode_returns(rewards, to_go, rollout.terminated | rollout.truncated, rollout.starts), to_go, values


@torch.no_grad()
def values_and_successors(rollout: Rollout, model: ActorCritic) -> tuple[Tensor, Tensor]:
    """The value of every step's observation, and of its true successor: (T, N) each."""
    T, N = rollout.rewards.shape
    device = next(model.parameters()).device
    values = rollout.values
    if values is None:
        parts = rollout.obs.flatten(0, 1).split(IMAGES_AT_ONCE if model.image else VECTORS_AT_ONCE)
        values = torch.cat([model.value(part.to(device)) for part in parts]).cpu().view(T + 1, N)
    return values[:-1], next_values(rollout, lambda obs: model.value(obs.to(device)).cpu(), values)


def next_values(rollout: Rollout, value: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """(T, N): the value of every step's true successor, from the values (T + 1, N) of the rollout's observations.

    The truncation bootstrap: where an episode ended, the next row's observation is another episode's first, and what
    counts is the value of the final observation, which the rollout keeps apart.
    """
    following = values[1:].clone()
    for t, which, final in rollout.finals:
        following[t, torch.from_numpy(which)] = value(final)
    return following


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """A_t = sum_l (gamma lam)^l delta_{t+l} within the episode, delta_t = r_t + gamma V(successor) - V(s_t).

    Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation", eq. 16. lam = 1 is
    rewards-to-go minus the value baseline; lam = 0 the one-step advantage.
    """
    delta = rewards + gamma * torch.where(terminated, 0.0, next_values) - values
    return discounted_sum(delta, gamma * lam, terminated | truncated)


def discounted_sum(x: Tensor, discount: float, ended: Tensor, last: Tensor | None = None) -> Tensor:
    """y_t = x_t + discount * y_{t+1}, where y_{t+1} is 0 after a step that `ended`; `last` (N,) is y_T."""
    keep = discount * (~ended).to(x.dtype)
    y = torch.empty_like(x)
    following = torch.zeros_like(x[0]) if last is None else last
    for t in range(len(x) - 1, -1, -1):
        following = torch.addcmul(x[t], keep[t], following, out=y[t])
    return y


def rewards_to_go(rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float) -> Tensor:
    """R_t = r_t + gamma R_{t+1} to the end of the episode, with gamma V(successor) where a clock or the rollout cut it.

    Spinning Up, "Reward-to-Go Policy Gradient", with a discount. GAE's lambda = 1 target.
    """
    cut = truncated & ~terminated
    cut[-1] |= ~terminated[-1]
    x = rewards + gamma * torch.where(cut, next_values, 0.0)
    return discounted_sum(x, gamma, terminated | cut)


def episode_returns(rewards: Tensor, to_go: Tensor, ended: Tensor, starts: Tensor) -> Tensor:
    """The return of the whole episode at each of its steps: `to_go` and what the episode had collected before the step.

    The policy gradient without reward-to-go, REINFORCE in its simplest form (Spinning Up, "Deriving the Simplest Policy
    Gradient"). The past's rewards, undiscounted, cannot depend on the action any more: they add noise and nothing else.
    `starts` (N,) is what the running episodes had collected before the rollout.
    """
    before = torch.empty_like(rewards)
    running = starts.to(rewards.dtype)
    for t in range(len(rewards)):
        before[t] = running
        running = (running + rewards[t]) * ~ended[t]
    return before + to_go


def normalised(advantages: Tensor, valid: Tensor) -> Tensor:
    """(A - mean) / std over the valid steps of the whole batch. A batch whose advantages are all alike gives zeros."""
    chosen = advantages[valid]
    # An inexact mean of equal advantages is no signal: the last term is a few times its rounding error.
    return (advantages - chosen.mean()) / (chosen.std(correction=0) + 1e-8 + 1e-6 * chosen.abs().max())


def explained_variance(predicted: Tensor, target: Tensor) -> float:
    """1 - Var(target - predicted) / Var(target): 1 for a perfect value function, 0 for a constant; nan for no variance."""
    variance = target.var(correction=0)
    if variance == 0:
        return float("nan")
    return float(1 - (target - predicted).var(correction=0) / variance)
