"""N copies of an environment, stepped as one batch, with terminations, truncations and resets kept apart.

Gymnasium's vector environments end an episode in one of three ways (their `autoreset_mode`), and each hides a trap:

- NEXT_STEP  the step that ends an episode returns the true final observation; the *next* step ignores its action, resets,
             and returns reward 0. That step is no transition: `Step.valid` is False for it, and it counts nowhere.
- SAME_STEP  the step that ends an episode returns the first observation of the next one; the true final observation is in
             `infos["final_obs"]`.
- DISABLED   nothing is reset until it is asked for.

`Streams` makes all three look alike: `Step.obs` is what to act on next, `Step.finals` the true final observations where
`obs` is not them.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from numpy.typing import NDArray

from common.errors import BadInput
from vector_environments.procgen_engine import ProcgenEngine, ProcgenEnvpool

Array = NDArray[Any]


@dataclass(frozen=True)
class Step:
    """What came of one action per environment. All arrays have N rows; the rewards are raw."""

    obs: Array
    reward: Array
    terminated: Array
    truncated: Array
    valid: Array
    """False where the environment only reset itself"""
    finals: tuple[Array, Array] | None = None
    """indices and true final observations of the episodes that ended, where `obs` is already the next one's first"""
    success: Array | None = None
    """where an episode ended: whether its task was done; None where the environment does not tell"""
    timeout: Array | None = None
    """where an episode ended: whether a clock ended it though `terminated` says otherwise; None: as `truncated` says"""


class Streams:
    """A vector environment with one way of stepping, whatever its autoreset mode. `close()` it in the end."""

    def __init__(self, envs: VectorEnv):
        self.envs = envs
        self.n = envs.num_envs
        self.observation_space: spaces.Space = envs.single_observation_space
        self.action_space: spaces.Space = envs.single_action_space
        self.encoder = ObservationEncoder(self.observation_space)
        self.mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._resetting = np.zeros(self.n, dtype=bool)

    def reset(self, seeds: Sequence[int]) -> Array:
        """The first observations of new episodes; environment i is seeded with `seeds[i]`."""
        one_each = isinstance(self.envs, SyncVectorEnv | AsyncVectorEnv)  # others have one generator for all
        seed: Any = list(seeds) if one_each else int(seeds[0])
        with self._told_if_one_dies():
            obs, _ = self.envs.reset(seed=seed)
        self._resetting[:] = False
        return self.encoder(obs)

    @contextmanager
    def _told_if_one_dies(self) -> Iterator[None]:
        """BadInput where the process of an environment is found dead."""
        try:
            yield
        except (EOFError, ConnectionError):
            if not isinstance(self.envs, AsyncVectorEnv):
                raise
            died = _how_one_died(self.envs)
            self.close()  # left alone, the others would end with a traceback each as soon as nobody listens to them
            raise BadInput(f"an environment's process {died}; what is saved stays") from None

    def step(self, actions: Array) -> Step:
        """One action per environment."""
        with self._told_if_one_dies():
            obs, reward, terminated, truncated, infos = self.envs.step(actions)
        obs = self.encoder(obs)
        valid, finals = np.ones(self.n, dtype=bool), None
        ended = terminated | truncated
        if self.mode == AutoresetMode.NEXT_STEP:
            valid = ~self._resetting
            self._resetting = ended
        elif ended.any() and (self.mode == AutoresetMode.DISABLED or "final_obs" in infos):
            which = np.flatnonzero(ended)
            if self.mode == AutoresetMode.SAME_STEP:
                final = self.encoder(np.stack([infos["final_obs"][i] for i in which]))
            else:
                final = obs[which].copy()
                obs = self.encoder(self.envs.reset(options={"reset_mask": ended})[0])
            finals = (which, final)
        elif truncated.any():
            raise BadInput("the environment truncates an episode and does not give its final observation")
        # Other environments may say all kinds of things under these names.
        known = (infos["success"], infos["timeout"]) if isinstance(self.envs, ProcgenEngine | ProcgenEnvpool) else ()
        return Step(obs, np.asarray(reward, dtype=np.float32), terminated, truncated, valid, finals, *known)

    @property
    def simple(self) -> bool:
        """Whether `state` can save the environments."""
        if isinstance(self.envs, SyncVectorEnv):
            return all(_classic(env) for env in self.envs.envs)
        return isinstance(self.envs, CartPoleVectorEnv | ProcgenEngine)

    def state(self) -> dict[str, Any] | None:
        """The environments in the middle of their episodes, as tensors and plain values; None where that is not simple.

        Simple are Gymnasium's classic-control environments, whose physics is a few numbers in `state`, and Procgen's
        engine, which gives the bytes of every game.
        """
        if not self.simple:
            return None
        if isinstance(self.envs, ProcgenEngine):
            return {"envs": [_tensor(state) for state in self.envs.states()], "elapsed": _tensor(self.envs.elapsed)}
        if isinstance(self.envs, CartPoleVectorEnv):
            arrays = {name: _tensor(getattr(self.envs, name)) for name in ("state", "steps", "prev_done")}
            return {"resetting": _tensor(self._resetting), "envs": [{**arrays, "random": _random_state(self.envs)}]}
        assert isinstance(self.envs, SyncVectorEnv)
        states = [
            {
                "state": _tensor(np.asarray(env.unwrapped.state)),  # pyright: ignore[reportAttributeAccessIssue]
                "elapsed": _clock(env)._elapsed_steps,
                "random": _random_state(env.unwrapped),
            }
            for env in self.envs.envs
        ]
        return {"resetting": _tensor(self._resetting), "envs": states}

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state()` was called."""
        if isinstance(self.envs, ProcgenEngine):
            self.envs.load_states([saved.numpy() for saved in state["envs"]])
            self.envs.elapsed = state["elapsed"].numpy()
            return
        self._resetting = state["resetting"].numpy()
        if isinstance(self.envs, CartPoleVectorEnv):
            (saved,) = state["envs"]
            for name in ("state", "steps", "prev_done"):
                setattr(self.envs, name, saved[name].numpy())
            self.envs.np_random.bit_generator.state = json.loads(saved["random"])
            return
        assert isinstance(self.envs, SyncVectorEnv)
        for env, saved in zip(self.envs.envs, state["envs"], strict=True):
            env.unwrapped.state = saved["state"].numpy()  # pyright: ignore[reportAttributeAccessIssue]
            _clock(env)._elapsed_steps = saved["elapsed"]
            env.unwrapped.np_random.bit_generator.state = json.loads(saved["random"])
        self.envs._autoreset_envs = self._resetting.copy()

    def close(self) -> None:
        """End the environments and their processes."""
        if isinstance(self.envs, AsyncVectorEnv) and not all(process.is_alive() for process in self.envs.processes):
            for process in self.envs.processes:  # Gymnasium would wait for the dead one's answer
                process.kill()
                process.join()
            self.envs.closed = True
        self.envs.close()


def _how_one_died(envs: AsyncVectorEnv) -> str:
    """`was killed by signal 9 (out of memory?)`."""
    for process in envs.processes:
        process.join(0.1)
        if process.exitcode is not None:
            return f"was killed by signal {-process.exitcode} (out of memory?)" if process.exitcode < 0 else "has ended"
    return "does not answer any more"


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array))  # a copy


def _random_state(env: Any) -> str:
    return json.dumps(env.np_random.bit_generator.state)


def _classic(env: gymnasium.Env) -> bool:
    """One of Gymnasium's classic-control environments with one clock and no other wrapper that remembers anything."""
    clocks = 0
    while isinstance(env, gymnasium.Wrapper):
        if type(env) not in (TimeLimit, OrderEnforcing):
            return False
        clocks += type(env) is TimeLimit
        env = env.env
    return clocks == 1 and type(env).__module__.startswith("gymnasium.envs.classic_control.")


def _clock(env: gymnasium.Env) -> Any:
    """The outermost wrapper that counts the steps of an episode; None where there is none."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            return env
        env = env.env
    return None


class ObservationEncoder:
    """Observations as the networks take them: (N, features) float32 or, for images, (N, height, width, channels) uint8."""

    def __init__(self, space: spaces.Space):
        if isinstance(space, spaces.Discrete):
            self.shape, self.image, self.kind = (int(space.n),), False, "one-hot"
            self._start = int(space.start)
        elif isinstance(space, spaces.MultiBinary | spaces.MultiDiscrete):
            self.shape, self.image, self.kind = (int(np.prod(space.shape)),), False, "flat"
        elif isinstance(space, spaces.Box):
            self.image = space.dtype == np.uint8 and len(space.shape) == 3
            self.kind = "image" if self.image else "flat"
            self.shape = tuple(space.shape) if self.image else (math.prod(space.shape),)
        else:
            raise BadInput(
                f"observations of type {type(space).__name__} are not supported: Box, Discrete or Multi* are"
            )
        if self.shape == (0,):
            raise BadInput("the observations of this environment are empty")
        self.dtype = np.dtype(np.uint8 if self.image else np.float32)

    def __call__(self, obs: Array) -> Array:
        """A batch of raw observations, encoded. Images may be the environment's own memory, until its next step."""
        if self.kind == "one-hot":
            encoded = np.zeros((len(obs), *self.shape), dtype=np.float32)
            encoded[np.arange(len(obs)), np.asarray(obs) - self._start] = 1
            return encoded
        if self.image:
            return np.asarray(obs)
        return np.array(obs, dtype=self.dtype).reshape(len(obs), *self.shape)
