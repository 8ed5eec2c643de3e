"""What is known of observations, rewards and episodes so far: N environments, T steps."""

import math
from typing import Any

import numpy as np
import torch

from vector_environments.streams import Step

OBSERVATION_CLIP = 10.0  # standard deviations
REWARD_CLIP = 10.0


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

    The return R <- gamma R + r restarts at 0 where an episode ends, truncated or not. gamma need not be the algorithm's own:
    OpenAI's PPO for Procgen keeps 0.99 here beside its 0.999.
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
