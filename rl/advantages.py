"""Returns and advantages on a rollout of N environments for T steps. All arrays are (T, N).

Termination and truncation are two things. After a *terminated* step nothing follows: its successor is worth 0. A
*truncated* step was cut off by a clock: its successor, the true final observation, is worth what the value function
says. Both end the trace, so that nothing flows over from the next episode. The rollout's own last step is cut off in the
same way. `next_values` holds the value of every step's true successor; what it holds at terminated steps is ignored.

The factor gamma^t that the gradient of the discounted return has in theory (Sutton & Barto 2018, section 13.3) is
dropped, as in all practical code: every state counts the same.
"""

import torch
from torch import Tensor


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
