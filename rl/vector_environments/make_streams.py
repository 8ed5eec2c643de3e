"""Environments from their ids: Gymnasium's, `module:Id` for a user's own, `procgen:coinrun`; vectorised the fastest way."""

import math
import multiprocessing
import signal
import time
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from common.errors import BadInput
from common.provenance import available_cores
from common.stopping import STOPS
from rl_settings.procgen_games import is_procgen
from vector_environments.procgen_engine import make_procgen
from vector_environments.streams import Streams

PROBE_SECONDS = 0.3  # of stepping, to find out whether processes of their own pay for the environments
EPISODE_LIMIT = 10_000  # steps of an evaluation's episode, where the environment has no limit of its own
SLOW_STEP_SECONDS = 300e-6  # per environment; below it the pipes of AsyncVectorEnv cost more than the second core gives


def make_streams(
    env_id: str, n: int, render_mode: str | None = None, levels: int = 0, limited: bool = False
) -> Streams:
    """`n` copies of a Gymnasium environment, also `module:Id`, or of a Procgen game with that many levels (0: all).

    The environment's own vectorised version where it has one; else one after the other in this process, or in processes
    of their own where that was measured to be faster. The numbers do not depend on which. `limited`, for evaluations: an
    environment that has no time limit gets one of EPISODE_LIMIT steps. BadInput for one that is unknown or cannot be made.
    """
    if is_procgen(env_id):
        return Streams(make_procgen(env_id, n, levels, render_mode is not None))
    spec = find_spec(env_id)
    limit = EPISODE_LIMIT if limited and spec.max_episode_steps is None else None
    try:
        if spec.vector_entry_point is not None and render_mode is None and limit is None:
            envs: VectorEnv = gymnasium.make_vec(env_id, num_envs=n, vectorization_mode="vector_entry_point")
            streams = Streams(envs)
        else:
            streams = Streams(sync(env_id, n, render_mode, limit))
        check_actions(streams.action_space)
        # A worker of compare.py may not start processes; the others' cores are busy with its siblings anyway.
        spare = n > 1 and available_cores() > 1 and not multiprocessing.current_process().daemon
        if spare and render_mode is None and not streams.simple and step_seconds(streams) > SLOW_STEP_SECONDS:
            streams = faster(streams, Streams(asynchronous(env_id, n, limit)))
    except gymnasium.error.DependencyNotInstalled as error:
        raise BadInput(f"--env {env_id} needs a package that is not installed: {_line(error)}") from None
    except (gymnasium.error.Error, TypeError, ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"--env {env_id} cannot be made: {_line(error)}") from None
    return streams


def find_spec(env_id: str) -> Any:
    """Gymnasium's registration of an environment; BadInput where there is none."""
    try:
        with warnings.catch_warnings():  # of an id without a version, which is refused below
            warnings.simplefilter("ignore")
            spec = gymnasium.envs.registration._find_spec(env_id)  # pyright: ignore  # the public ones import no module:
    except (gymnasium.error.Error, ImportError, ValueError, TypeError, SyntaxError) as error:
        raise BadInput(f"--env {env_id} is unknown: {_line(error)}") from None
    if spec.id != env_id.rpartition(":")[2]:
        raise BadInput(f"--env {env_id} is unknown: did you mean {spec.id}?")
    if spec.entry_point is None and spec.vector_entry_point is None:
        raise BadInput(f"--env {env_id} has no entry point")
    return spec


# Both reset in a step of their own, though that costs one step an episode: only then is the true final observation safe
# from an environment that hands out one array again and again.


def sync(env_id: str, n: int, render_mode: str | None = None, limit: int | None = None) -> SyncVectorEnv:
    """`n` environments in this process."""
    return SyncVectorEnv([_maker(env_id, render_mode, limit)] * n, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)


def asynchronous(env_id: str, n: int, limit: int | None = None) -> AsyncVectorEnv:
    """`n` environments in processes of their own, which are born deaf to Ctrl-C (this process hears it), not to an end."""
    own = {number: signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN for number in STOPS}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    others = multiprocessing.active_children()
    try:
        return AsyncVectorEnv([_maker(env_id, None, limit)] * n, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
    except (EOFError, OSError) as error:
        for process in multiprocessing.active_children():
            if process not in others:  # those that have begun would end with a traceback each
                process.kill()
        if isinstance(error, EOFError | ConnectionError):
            raise BadInput("an environment's process was killed before it had begun (out of memory?)") from None
        raise  # too many open files, say
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _maker(env_id: str, render_mode: str | None, limit: int | None) -> Any:
    # An environment without pictures need not know the argument.
    options: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    options |= {} if limit is None else {"max_episode_steps": limit}

    def make() -> gymnasium.Env:
        return gymnasium.make(env_id, disable_env_checker=True, **options)

    return make


def needs_module(env_id: str) -> bool:
    """Whether making the environment imports a module that its id names."""
    return ":" in env_id and not is_procgen(env_id)


def no_time_limit(env_id: str) -> str:
    """What to say of an environment whose episodes need not end; "" of any other."""
    if is_procgen(env_id) or find_spec(env_id).max_episode_steps is not None:
        return ""
    return f"{env_id} has no time limit: evaluations cut its episodes after {EPISODE_LIMIT:,} steps"


def step_seconds(streams: Streams) -> float:
    """Seconds per step and environment, with random actions."""
    streams.reset(range(streams.n))
    streams.envs.action_space.seed(0)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < PROBE_SECONDS:
        streams.step(streams.envs.action_space.sample())
        steps += 1
    return (time.perf_counter() - start) / (steps * streams.n)


def faster(a: Streams, b: Streams) -> Streams:
    """The one of the two that steps faster; the other is closed."""
    keep, drop = (b, a) if step_seconds(b) < step_seconds(a) else (a, b)
    drop.close()
    return keep


def _line(error: BaseException) -> str:
    """The first line of what an exception says, without colours."""
    text = str(error) or type(error).__name__
    return text.strip().splitlines()[0].replace("\x1b[31m", "").replace("\x1b[0m", "").rstrip(".")


def check_actions(space: spaces.Space) -> None:
    """BadInput for actions that no policy here can take."""
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.Box):
        raise BadInput(f"actions of type {type(space).__name__} are not supported: Discrete, MultiDiscrete or Box are")
    if isinstance(space, spaces.Box) and (not np.issubdtype(space.dtype, np.floating) or math.prod(space.shape) == 0):
        raise BadInput("actions in a Box must be real numbers, at least one")
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) != 1:
        raise BadInput("MultiDiscrete actions must be one row of numbers")
