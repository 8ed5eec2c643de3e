"""Procgen (Cobbe et al. 2020) as Gymnasium vector environments: 16 games, `procgen:coinrun` and `procgen:coinrun-hard`.

Two backends behind the same ids. The engine of the `procgen` package, reached through `gym3.libenv` without importing the
old gym that the package itself needs; and EnvPool (extra `envpool`), which also has wheels for Apple silicon.

Facts that a learner must know (openai/procgen):
- The engine resets an ended game within the step, and never draws its last frame. So a game that the clock ends cannot be
  bootstrapped, and counts as terminated here, as in OpenAI's own PPO; `infos["timeout"]` tells how often that is.
- Levels are drawn with replacement from the first `levels` seeds, or from all 2^31 - 1 where that is 0.
- EnvPool resets once more in the step after the end: that step is a reset and no transition (NEXT_STEP).
"""

import importlib.util
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from common.errors import BadInput
from common.provenance import available_cores
from rl_settings.procgen_games import MODES, TIME_LIMITS, game_and_mode

Array = NDArray[Any]
ACTIONS = 15  # nine directions, no-op among them, and six keys
STATE_BYTES = 1 << 20  # of one game, at most


def backend() -> str:
    """The package that plays the games here: procgen, else envpool; empty where neither is installed."""
    if importlib.util.find_spec("procgen") and importlib.util.find_spec("gym3"):
        return "procgen"
    return "envpool" if importlib.util.find_spec("envpool") else ""


def make_procgen(env_id: str, n: int, levels: int, render: bool = False) -> VectorEnv:
    """`n` games on the backend that is installed, begun once to see that it works; BadInput where none is or does."""
    game, mode = game_and_mode(env_id)
    try:
        if backend() == "procgen":
            return _begun(ProcgenEngine(game, mode, n, levels, render))
        if backend() == "envpool":
            return _begun(ProcgenEnvpool(game, mode, n, levels))
    except (ImportError, OSError, AssertionError) as error:  # a library that cannot be loaded, Qt for one
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"--env {env_id}: Procgen is installed and cannot be used: {why}") from None
    raise BadInput(
        f"--env {env_id} needs Procgen: on Linux with Python 3.11 or 3.12 it comes with this project; elsewhere "
        "pip install -e '.[envpool]' and Qt 5 (macOS: brew install qt@5)"
    )


def _begun(envs: VectorEnv) -> VectorEnv:
    envs.reset(seed=0)
    return envs


class _Procgen(VectorEnv):
    """What both backends share: the spaces, and what `infos` says of the games that ended."""

    def __init__(self, game: str, n: int, mode: AutoresetMode):
        self.metadata = {"autoreset_mode": mode, "render_modes": ["rgb_array"]}
        self.num_envs, self.limit = n, TIME_LIMITS.get(game, 1000)
        self.single_observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.single_action_space = spaces.Discrete(ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        self.elapsed = np.zeros(n, dtype=np.int64)

    def _infos(self, ended: Array, complete: Array, steps: Array | int = 1) -> dict[str, Array]:
        """Where a game ended: whether its level was completed, and whether its clock ended it."""
        self.elapsed += steps
        success = ended & (complete != 0)
        timeout = ended & ~success & (self.elapsed >= self.limit)
        self.elapsed[ended] = 0
        return {"success": success, "timeout": timeout}


class ProcgenEngine(_Procgen):
    """The engine itself. Observations are its own memory: the next step overwrites them."""

    def __init__(self, game: str, mode: str, n: int, levels: int, render: bool = False):
        super().__init__(game, n, AutoresetMode.SAME_STEP)
        spec = importlib.util.find_spec("procgen")
        assert spec is not None
        assert spec.submodule_search_locations
        data = Path(spec.submodule_search_locations[0]) / "data"
        self._library = data / "prebuilt"
        # The engine hands games to threads of its own and the caller waits; a worker of compare.py has one core.
        threads = 0 if multiprocessing.current_process().daemon else min(available_cores(), 4)
        self._options = {
            "env_name": game,
            "num_levels": levels,
            "start_level": 0,
            "num_actions": ACTIONS,
            "use_sequential_levels": False,
            "debug_mode": 0,
            "num_threads": threads if n > 1 else 0,
            "render_human": render,
            "resource_root": f"{data / 'assets'}/",
            "center_agent": True,
            "use_generated_assets": False,
            "use_monochrome_assets": False,
            "restrict_themes": False,
            "use_backgrounds": True,
            "paint_vel_info": False,
            "distribution_mode": MODES.index(mode),
        }
        self._engine: Any = None
        self._render = render

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """New games. The engine takes its seed when it is made, so it is made anew."""
        from gym3.libenv import CEnv  # here: only who plays Procgen needs it

        self.close_extras()
        random = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
        self._engine = CEnv(
            self.num_envs,
            str(self._library),
            c_func_defs=[
                "int get_state(libenv_env *, int, char *, int);",
                "void set_state(libenv_env *, int, char *, int);",
            ],
            options={**self._options, "rand_seed": random},
            reuse_arrays=True,
        )
        self.elapsed[:] = 0
        _, obs, _ = self._engine.observe()
        return obs["rgb"], {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One action for every game; all ends are terminations."""
        self._engine.act({"action": np.ascontiguousarray(actions, dtype=np.int32)})
        reward, obs, first = self._engine.observe()
        infos = self._infos(first, self._engine._info["prev_level_complete"])
        # All but the pictures are copied: they are small, and callers keep them.
        return obs["rgb"], reward.copy(), first.copy(), np.zeros_like(first), infos

    def levels(self) -> Array:
        """(n,) seeds of the levels that are being played."""
        return self._engine._info["level_seed"].copy()

    def states(self) -> list[Array]:
        """Every game in the middle of its level, as bytes."""
        buffer = self._engine._ffi.new(f"char[{STATE_BYTES}]")
        found = []
        for i in range(self.num_envs):
            size = self._engine.call_c_func("get_state", i, buffer, STATE_BYTES)
            found.append(np.frombuffer(self._engine._ffi.buffer(buffer, size), np.uint8).copy())
        return found

    def load_states(self, states: list[Array]) -> None:
        """Go on where `states` was called."""
        for i, state in enumerate(states):
            self._engine.call_c_func("set_state", i, state.tobytes(), len(state))

    def render(self) -> tuple[Array, ...] | None:  # type: ignore[override]
        """A picture of every game, 512 x 512 pixels."""
        return tuple(self._engine._info["rgb"].copy()) if self._render else None

    def close_extras(self, **kwargs: Any) -> None:
        """Free the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class ProcgenEnvpool(_Procgen):
    """EnvPool's copy of the engine. Its ends are terminations too."""

    def __init__(self, game: str, mode: str, n: int, levels: int):
        super().__init__(game, n, AutoresetMode.NEXT_STEP)
        self._id = f"{game.capitalize()}{mode.capitalize()}-v0"
        self._levels = levels
        self._pool: Any = None
        self._obs = np.zeros(self.observation_space.shape or (), np.uint8)
        self._resetting = np.zeros(n, dtype=bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """New games; EnvPool too takes its seed when it is made."""
        import envpool  # pyright: ignore[reportMissingImports]

        self.close_extras()
        random = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
        threads = 1 if multiprocessing.current_process().daemon else min(available_cores(), self.num_envs)
        self._pool = envpool.make(
            self._id,
            env_type="gymnasium",
            num_envs=self.num_envs,
            seed=random,
            num_threads=threads,
            num_levels=self._levels,
            start_level=0,
            channel_first=False,
        )
        self.elapsed[:], self._resetting[:] = 0, False
        self._obs, _ = self._pool.reset()
        return self._obs, {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One action for every game; a game that ended only resets itself."""
        self._obs, reward, terminated, truncated, infos = self._pool.step(np.ascontiguousarray(actions, dtype=np.int32))
        ended = terminated | truncated
        known = self._infos(ended, infos["prev_level_complete"], (~self._resetting).astype(np.int64))
        self._resetting = ended
        return self._obs, reward, ended, np.zeros_like(ended), known

    def render(self) -> tuple[Array, ...]:  # type: ignore[override]
        """What the policy sees, 64 x 64 pixels."""
        return tuple(self._obs)

    def close_extras(self, **kwargs: Any) -> None:
        """Free EnvPool's threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
