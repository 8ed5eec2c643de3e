"""Acting: rollouts for training, whole episodes for evaluation, and the statistics that go with them.

Shapes: N environments, T steps; a rollout's tensors are (T, N, …) and live on the CPU.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import BadInput
from envs import Step, Streams
from policy import ActorCritic

OBSERVATION_CLIP = 10.0  # standard deviations
REWARD_CLIP = 10.0
AT_ONCE = 20  # environments of an evaluation


class Moments:
    """Running mean and variance of rows, updated batch by batch (Chan, Golub & LeVeque 1983, eq. 2.1)."""

    def __init__(self, shape: tuple[int, ...]):
        self.count, self.mean, self.squares = 0.0, np.zeros(shape), np.zeros(shape)

    def update(self, rows: np.ndarray) -> None:
        """Take in a batch (B, …) of rows."""
        n = len(rows)
        if n == 0:
            return
        mean = rows.mean(0, dtype=np.float64)
        delta, total = mean - self.mean, self.count + n
        self.squares += ((rows - mean) ** 2).sum(0, dtype=np.float64) + delta**2 * (self.count * n / total)
        self.mean = self.mean + delta * (n / total)
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """The standard deviation; 1 before anything was seen."""
        return np.sqrt(self.squares / self.count + 1e-8) if self.count else np.ones_like(self.mean)

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "mean": torch.as_tensor(self.mean), "squares": torch.as_tensor(self.squares)}

    def load(self, state: dict[str, Any]) -> None:
        self.count, self.mean, self.squares = state["count"], state["mean"].numpy(), state["squares"].numpy()


class ObservationScaler:
    """(obs - mean) / std with running moments, clipped; they change between rollouts only, never within one."""

    def __init__(self, shape: tuple[int, ...]):
        self.moments = Moments(shape)
        self._refresh()

    def _refresh(self) -> None:
        self._mean, self._scale = self.moments.mean.astype(np.float32), (1 / self.moments.std).astype(np.float32)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        return np.clip((obs - self._mean) * self._scale, -OBSERVATION_CLIP, OBSERVATION_CLIP)

    def update(self, rows: np.ndarray) -> None:
        self.moments.update(rows)
        self._refresh()

    def state(self) -> dict[str, Any]:
        return self.moments.state()

    def load(self, state: dict[str, Any]) -> None:
        self.moments.load(state)
        self._refresh()


class RewardScaler:
    """Rewards divided by the running standard deviation of the discounted return, their mean left alone.

    The return R <- gamma R + r restarts at 0 where an episode ends, truncated or not. gamma is the algorithm's own.
    """

    def __init__(self, n: int, gamma: float):
        self.gamma, self.running, self.moments = gamma, np.zeros(n), Moments(())

    def __call__(self, rewards: np.ndarray, ended: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """The scaled rewards of a rollout (T, N), by statistics that include it."""
        returns = np.empty(rewards.shape)
        for t in range(len(rewards)):
            self.running = np.where(valid[t], self.gamma * self.running + rewards[t], 0.0)
            returns[t] = self.running
            self.running = np.where(ended[t], 0.0, self.running)
        self.moments.update(returns[valid])
        return np.clip(rewards / float(self.moments.std), -REWARD_CLIP, REWARD_CLIP).astype(np.float32)

    def state(self) -> dict[str, Any]:
        return {"running": torch.as_tensor(self.running), "moments": self.moments.state()}

    def load(self, state: dict[str, Any]) -> None:
        self.running = state["running"].numpy()
        self.moments.load(state["moments"])


class EpisodeLog:
    """Raw returns and lengths of the episodes, of every environment alike, and success where the environment tells it.

    A mean over "the last 100 episodes" favours short ones, above all in the beginning, when no long one can have ended
    yet. `latest` is therefore the mean over the environments of each one's latest episode, and is not known (nan) until
    every environment has ended one.
    """

    def __init__(self, n: int):
        self.running, self.lengths = np.zeros(n), np.zeros(n, dtype=np.int64)
        self.last = np.full((3, n), np.nan)  # return, length and success of each environment's latest episode
        self.ended: list[tuple[float, int, bool]] = []  # since `take`: return, length, whether the clock ended it

    def step(self, step: Step) -> None:
        """One step of all environments."""
        self.running += step.reward
        self.lengths += step.valid
        for i in np.flatnonzero(step.terminated | step.truncated):
            success = math.nan if step.success is None else step.success[i]
            self.last[:, i] = self.running[i], self.lengths[i], success
            clock = step.truncated[i] if step.timeout is None else step.timeout[i]
            self.ended.append((float(self.running[i]), int(self.lengths[i]), bool(clock)))
            self.running[i], self.lengths[i] = 0.0, 0

    @property
    def latest(self) -> tuple[float, float, float]:
        """Mean return, length and success of every environment's latest episode."""
        return float(self.last[0].mean()), float(self.last[1].mean()), float(self.last[2].mean())

    def take(self) -> list[tuple[float, int, bool]]:
        """Of all episodes that ended since the last call: return, length, whether a clock ended it."""
        ended, self.ended = self.ended, []
        return ended

    def state(self) -> dict[str, Any]:
        return {name: torch.as_tensor(getattr(self, name)) for name in ("running", "lengths", "last")}

    def load(self, state: dict[str, Any]) -> None:
        for name in ("running", "lengths", "last"):
            setattr(self, name, state[name].numpy())


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

    def next_values(self, value: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """(T, N): the value of every step's true successor, from the values (T + 1, N) of `obs`."""
        following = values[1:].clone()
        for t, which, final in self.finals:
            following[t, torch.from_numpy(which)] = value(final)
        return following


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
        raw_finals: list[tuple[int, np.ndarray, np.ndarray]] = []
        starts = self.log.running.copy()
        scale = self.scaler or (lambda x: x)
        obs[0] = self.obs
        device = next(model.parameters()).device
        for t in range(T):
            seen = torch.from_numpy(scale(obs[t])).to(device)
            if values is None:
                head = model.head(seen)
            elif groups:
                with torch.enable_grad():
                    passes.append([model.head_and_value(part) for part in seen.chunk(groups)])
                head, values[t] = (torch.cat(parts).detach() for parts in zip(*passes[t], strict=True))
            else:
                head, values[t] = model.head_and_value(seen)
            heads.append(head.cpu())
            actions[t] = policy.sample(heads[t], random)
            step = streams.step(policy.to_env(actions[t]))
            obs[t + 1], rewards[t], valid[t] = step.obs, step.reward, step.valid
            terminated[t], truncated[t] = step.terminated, step.truncated
            if step.finals is not None:
                raw_finals.append((t, *step.finals))
            self.log.step(step)
        self.obs = obs[T]
        if not np.isfinite(rewards).all():
            raise BadInput("the environment gave a reward that is not a finite number")
        if obs.dtype == np.float32 and not np.isfinite(obs).all():
            raise BadInput("the environment gave an observation that is not a finite number")
        if not all(np.isfinite(final).all() for _, _, final in raw_finals):
            raise BadInput("the environment gave an observation that is not a finite number")
        ended, scaled = terminated | truncated, rewards
        if self.reward_scaler:
            scaled = self.reward_scaler(rewards, ended, valid)
            starts = starts / float(self.reward_scaler.moments.std)
        rollout = Rollout(
            torch.from_numpy(scale(obs)),
            actions,
            torch.from_numpy(scaled),
            torch.from_numpy(terminated),
            torch.from_numpy(truncated),
            torch.from_numpy(valid),
            torch.from_numpy(starts.astype(np.float32)),
            [(t, which, torch.from_numpy(scale(final))) for t, which, final in raw_finals],
            torch.stack(heads),
            values,
            joined(passes, torch.from_numpy(valid)),
        )
        if values is not None:
            values[T] = model.value(rollout.obs[T].to(device))
        if self.scaler:  # after the whole rollout was scaled alike
            self.scaler.update(obs[:-1][valid])
        return rollout

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


@torch.enable_grad()
def joined(passes: list[list[tuple[Tensor, Tensor]]], valid: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each group's heads (M, A) and values (M,) of its valid steps, from those of T steps and k groups."""
    found = []
    groups = list(zip(*passes, strict=True))
    for steps, here in zip(groups, valid.chunk(len(groups) or 1, 1), strict=False):
        head, value = (torch.stack(parts)[here.to(parts[0].device)] for parts in zip(*steps, strict=True))
        found.append((head, value))
    return found


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


def seeds(seed: int, n: int, *purpose: int) -> list[int]:
    """`n` seeds below 2^31 for one purpose of a run's `seed`, unrelated to those of any other purpose or seed."""
    return [int(s >> 1) for s in np.random.SeedSequence(seed, spawn_key=purpose).generate_state(n)]


def interval(returns: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% interval of the mean by the percentile bootstrap over episodes."""
    random = np.random.default_rng(seed)
    means = returns[random.integers(len(returns), size=(1000, len(returns)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
