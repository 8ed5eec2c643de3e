"""Acting for training: T steps of N environments with actions sampled from the policy.

A rollout's tensors are (T, N, …) and live on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import BadInput
from policy_networks.actor_critic import ActorCritic
from vector_environments.streams import Streams
from vpg_learner.running_statistics import EpisodeLog, ObservationScaler, RewardScaler


@dataclass
class Rollout:
    """T steps of N environments. `obs` has one row more: the observations after the last step."""

    obs: Tensor  # (T + 1, N, …), as the networks take them
    actions: Tensor  # (T, N, …)
    rewards: Tensor  # (T, N), scaled where that is asked for
    terminated: Tensor  # (T, N) bool
    truncated: Tensor  # (T, N) bool
    valid: Tensor  # (T, N) bool; False where the environment only reset itself
    starts: Tensor  # (N,) what the running episodes had collected before, scaled likewise
    finals: list[tuple[int, np.ndarray, Tensor]]  # (t, indices, true final observations)
    heads: Tensor  # (T, N, A) the actor's output for every observation but the last
    values: Tensor | None  # (T + 1, N) of `obs`, where the policy's encoder gives them on the way
    # Heads and values of each group's steps, with their graphs, where they are kept.
    passes: list[tuple[Tensor, Tensor]]

    @property
    def steps(self) -> int:
        """Transitions in it."""
        return int(self.valid.sum())


class Collector:
    """Steps `streams` with a policy and keeps what training needs, rollout after rollout."""

    def __init__(self, streams: Streams, horizon: int, scaler: ObservationScaler | None, rewards: RewardScaler | None):
        self.streams, self.horizon, self.scaler, self.reward_scaler = streams, horizon, scaler, rewards
        self.log = EpisodeLog(streams.n)
        self.obs = np.zeros((streams.n, *streams.encoder.shape), streams.encoder.dtype)  # raw, to act on next

    def reset(self, env_seeds: Sequence[int]) -> None:
        """Begin new episodes."""
        self.obs = self.streams.reset(env_seeds)
        self.log.running[:], self.log.lengths[:] = 0.0, 0
        if self.reward_scaler:
            self.reward_scaler.running[:] = 0.0

    @torch.no_grad()
    def collect(self, model: ActorCritic, random: torch.Generator, groups: int = 0) -> Rollout:
        """`horizon` steps of every environment, with actions sampled from the policy.

        With `groups`, of a policy whose encoder gives the values too, the passes that choose the actions keep their graphs,
        one for each group of environments: a gradient at the policy that acted needs no other.
        """
        T, N, streams, policy = self.horizon, self.streams.n, self.streams, model.policy
        obs = np.empty((T + 1, *self.obs.shape), self.obs.dtype)
        actions = torch.empty(T, N, *policy.action_shape, dtype=policy.action_dtype)
        heads: list[Tensor] = []
        values = torch.empty(T + 1, N) if model.joint else None
        passes: list[list[tuple[Tensor, Tensor]]] = []
        rewards = np.empty((T, N), np.float32)
        terminated, truncated, valid = (np.empty((T, N), bool) for _ in range(3))
        finals: list[tuple[int, np.ndarray, np.ndarray]] = []
        starts = self.log.running.copy()
        scale = self.scaler or (lambda x: x)
        obs[0] = self.obs
        device = next(model.parameters()).device
        for t in range(T):
            head, value, kept = acting_pass(model, torch.from_numpy(scale(obs[t])).to(device), groups)
            if values is not None and value is not None:
                values[t] = value
            if kept:
                passes.append(kept)
            heads.append(head.cpu())
            actions[t] = policy.sample(heads[t], random)
            step = streams.step(policy.to_env(actions[t]))
            obs[t + 1], rewards[t], valid[t] = step.obs, step.reward, step.valid
            terminated[t], truncated[t] = step.terminated, step.truncated
            if step.finals is not None:
                finals.append((t, *step.finals))
            self.log.step(step)
        self.obs = obs[T]
        check_finite(rewards, obs, finals)
        scaled, starts = self._scaled_rewards(rewards, terminated | truncated, valid, starts)
        seen = torch.from_numpy(scale(obs))
        if values is not None:
            values[T] = model.value(seen[T].to(device))
        rollout = Rollout(
            obs=seen,
            actions=actions,
            rewards=torch.from_numpy(scaled),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(valid),
            starts=torch.from_numpy(starts.astype(np.float32)),
            finals=[(t, which, torch.from_numpy(scale(final))) for t, which, final in finals],
            heads=torch.stack(heads),
            values=values,
            passes=joined(passes, torch.from_numpy(valid)),
        )
        if self.scaler:  # after the whole rollout was scaled alike
            self.scaler.update(obs[:-1][valid])
        return rollout

    def _scaled_rewards(
        self, rewards: np.ndarray, ended: np.ndarray, valid: np.ndarray, starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rewards (T, N), and what the running episodes had collected before (N,), as they are or divided alike."""
        if not self.reward_scaler:
            return rewards, starts
        scaled = self.reward_scaler(rewards, ended, valid)
        return scaled, starts / float(self.reward_scaler.moments.std)

    def state(self) -> dict[str, Any]:
        """Everything but the environments themselves and the policy."""
        parts = {"scaler": self.scaler, "rewards": self.reward_scaler, "log": self.log}
        return {name: part.state() for name, part in parts.items() if part is not None}

    def load(self, state: dict[str, Any]) -> None:
        self.log.load(state["log"])
        if self.scaler:
            self.scaler.load(state["scaler"])
        if self.reward_scaler:
            self.reward_scaler.load(state["rewards"])


def acting_pass(
    model: ActorCritic, obs: Tensor, groups: int
) -> tuple[Tensor, Tensor | None, list[tuple[Tensor, Tensor]]]:
    """The actor's output, the values where its encoder gives them, and with `groups` the passes of each, with graphs."""
    if not model.joint:
        return model.head(obs), None, []
    if not groups:
        return *model.head_and_value(obs), []
    with torch.enable_grad():
        parts = [model.head_and_value(part) for part in obs.chunk(groups)]
    head, value = (torch.cat(each).detach() for each in zip(*parts, strict=True))
    return head, value, parts


def check_finite(rewards: np.ndarray, obs: np.ndarray, finals: list[tuple[int, np.ndarray, np.ndarray]]) -> None:
    """BadInput where an environment gave something that is no number."""
    if not np.isfinite(rewards).all():
        raise BadInput("the environment gave a reward that is not a finite number")
    floats = [obs] if obs.dtype == np.float32 else []
    if not all(np.isfinite(each).all() for each in (*floats, *(final for _, _, final in finals))):
        raise BadInput("the environment gave an observation that is not a finite number")


@torch.enable_grad()
def joined(passes: list[list[tuple[Tensor, Tensor]]], valid: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each group's heads (M, A) and values (M,) of its valid steps, from those of T steps and k groups."""
    found = []
    groups = list(zip(*passes, strict=True))
    for steps, here in zip(groups, valid.chunk(len(groups) or 1, 1), strict=False):
        head, value = (torch.stack(parts)[here.to(parts[0].device)] for parts in zip(*steps, strict=True))
        found.append((head, value))
    return found
