"""Whole episodes, for evaluation."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from common.stopping import leave_if_asked
from policy_networks.actor_critic import ActorCritic
from vector_environments.streams import Streams
from vpg_learner.running_statistics import ObservationScaler

AT_ONCE = 20  # environments of an evaluation


@torch.inference_mode()
def play(
    model: ActorCritic,
    streams: Streams,
    scaler: ObservationScaler | None,
    episodes: int,
    env_seeds: Sequence[int],
    greedy: bool = False,
    before_step: Callable[[], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Raw returns and successes, (N, episodes) each, of the first `episodes` episodes of every environment.

    Success is nan where the environment does not tell it. The same number from each: those that end first are the short
    ones, and would count too much. `env_seeds` (N,) seed the environments and the policy's own chance.
    """
    random = torch.Generator().manual_seed(int(np.random.SeedSequence(list(env_seeds)).generate_state(1)[0]))
    device = next(model.parameters()).device
    returns, done = np.zeros((streams.n, episodes)), np.zeros(streams.n, dtype=np.int64)
    successes = np.full((streams.n, episodes), np.nan)
    obs, policy = streams.reset(env_seeds), model.policy
    while (done < episodes).any():
        leave_if_asked()
        if before_step:
            before_step()
        head = model.head(torch.from_numpy(scaler(obs) if scaler else obs).to(device)).cpu()
        step = streams.step(policy.to_env(policy.mode(head) if greedy else policy.sample(head, random)))
        counting = np.flatnonzero(done < episodes)
        returns[counting, done[counting]] += step.reward[counting]
        ended = (step.terminated | step.truncated) & (done < episodes)
        if step.success is not None:
            successes[ended, done[ended]] = step.success[ended]
        done += ended
        obs = step.obs
    return returns, successes


def interval(returns: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean by the percentile bootstrap over episodes; nan for a single one, which says nothing of it."""
    if len(returns) < 2:
        return math.nan, math.nan
    random = np.random.default_rng(seed)
    means = returns[random.integers(len(returns), size=(1000, len(returns)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
