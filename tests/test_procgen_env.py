"""Procgen's adapters: the engine's against the raw engine, levels, ends of games, states, EnvPool's statistics."""

import importlib.util
import sys
import types
from typing import Any

import numpy as np
import pytest

from common.errors import BadInput
from procgen_wheel import HERE, engine
from rl_settings.procgen_games import GAMES, MODES, RETURN_RANGES, TIME_LIMITS, game_and_mode, normalised_return
from vector_environments.make_streams import make_streams
from vector_environments.procgen_engine import ProcgenEngine, ProcgenEnvpool, make_procgen
from vector_environments.streams import Streams

NOTHING = 4  # the action


def test_ids_name_a_game_and_a_mode():
    assert game_and_mode("procgen:coinrun") == ("coinrun", "easy")
    assert game_and_mode("procgen:starpilot-hard") == ("starpilot", "hard")
    assert len(GAMES) == 16
    for wrong, word in (("procgen:pong", "games are"), ("procgen:coinrun-extreme", "mode"), ("procgen:", "games are")):
        with pytest.raises(BadInput, match=word):
            make_streams(wrong, 1)


def test_returns_are_normalised_as_in_the_paper():
    assert normalised_return("procgen:coinrun", 7.5) == 0.5
    assert normalised_return("procgen:fruitbot-hard", 27.2) == 1.0
    assert normalised_return("procgen:maze", 4.0) == -0.2
    assert normalised_return("procgen:starpilot", 10.8) == pytest.approx(8.3 / 61.5)
    assert all(low < high for ranges in RETURN_RANGES.values() for low, high in ranges)
    assert all(len(ranges) == len(MODES) for ranges in RETURN_RANGES.values())


def raw_engine(environment: ProcgenEngine, seed: int) -> Any:
    """The same engine with gym3 alone."""
    from gym3.libenv import CEnv

    random = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
    options = {**environment._options, "rand_seed": random, "num_threads": 0}
    return CEnv(environment.num_envs, str(environment._library), options=options)


@engine
@pytest.mark.parametrize("game", ["coinrun", "fruitbot-hard"])
def test_a_step_is_the_raw_engines(game):
    """Observation, reward and end belong to the action just given, also where a game ends; threads change nothing."""
    environment = make_procgen(f"procgen:{game}", 8, 200)
    assert isinstance(environment, ProcgenEngine)
    obs, _ = environment.reset(seed=3)
    raw = raw_engine(environment, 3)
    assert np.array_equal(obs, raw.observe()[1]["rgb"])
    random, ends = np.random.default_rng(0), 0
    for _ in range(400):
        actions = random.integers(15, size=8)
        obs, reward, terminated, truncated, _ = environment.step(actions)
        raw.act({"action": actions.astype(np.int32)})
        raw_reward, raw_obs, raw_first = raw.observe()
        assert np.array_equal(obs, raw_obs["rgb"])
        assert np.array_equal(reward, raw_reward)
        assert np.array_equal(terminated, raw_first)
        assert not truncated.any()
        ends += int(terminated.sum())
    assert ends > 0
    raw.close()
    environment.close()


@engine
def test_a_game_that_its_clock_ends_is_told_apart_from_one_that_is_won():
    """In maze nothing happens to a player that stands still, and the clock stops at 500 steps."""
    streams = make_streams("procgen:maze", 4)
    streams.reset([0])
    actions = np.full(4, NOTHING)
    step = streams.step(actions)
    for t in range(2, 501):
        step = streams.step(actions)
        assert step.terminated.all() == (t == 500)
        assert step.valid.all()
    assert step.timeout is not None
    assert step.success is not None
    assert step.timeout.all()
    assert not step.success.any()
    assert not streams.step(actions).terminated.any()
    streams.close()


@engine
def test_coinrun_gives_ten_points_for_success_and_nothing_else():
    """Running right and jumping now and then wins some levels."""
    streams = make_streams("procgen:coinrun", 32, levels=200)
    streams.reset([1])
    random, won, lost = np.random.default_rng(1), 0, 0
    for _ in range(300):
        step = streams.step(np.where(random.random(32) < 0.5, 7, 8))  # right, right and up
        assert step.success is not None
        assert np.array_equal(step.success, step.reward == 10)
        won, lost = won + int(step.success.sum()), lost + int((step.terminated & ~step.success).sum())
    assert won > 5
    assert lost > 5
    streams.close()


@engine
def test_levels_are_those_that_were_asked_for():
    few, all_levels = (make_procgen("procgen:bigfish", 64, levels) for levels in (5, 0))
    assert isinstance(few, ProcgenEngine)
    assert isinstance(all_levels, ProcgenEngine)
    few.reset(seed=0)
    all_levels.reset(seed=0)
    assert set(few.levels().tolist()) == {0, 1, 2, 3, 4}
    assert (all_levels.levels() > 1000).sum() == 64
    few.close()
    all_levels.close()


@engine
def test_games_go_on_from_their_states_to_the_bit():
    first = make_streams("procgen:starpilot", 6, levels=200)
    first.reset([2])
    random = np.random.default_rng(0)
    for _ in range(120):
        first.step(random.integers(15, size=6))
    saved = first.state()
    assert saved is not None
    second = make_streams("procgen:starpilot", 6, levels=200)
    second.reset([77])
    second.load(saved)
    ended = 0
    for _ in range(200):
        actions = random.integers(15, size=6)
        a, b = first.step(actions), second.step(actions)
        for name in ("obs", "reward", "terminated", "valid", "success", "timeout"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
        ended += int(a.terminated.sum())
    assert ended > 0
    first.close()
    second.close()


@pytest.mark.skipif(not HERE or importlib.util.find_spec("envpool") is None, reason="needs both the engine and EnvPool")
@pytest.mark.parametrize("game", ["coinrun", "fruitbot", "bigfish"])
def test_envpool_has_the_engines_returns_lengths_and_successes(game):
    """Random actions, the first two games of 128 environments: means within four standard errors of each other."""
    found = []
    for kind in (ProcgenEngine, ProcgenEnvpool):
        streams = Streams(kind(game, "easy", 128, 200))
        streams.reset([5])
        random, rows = np.random.default_rng(5), [[] for _ in range(128)]
        total, length = np.zeros(128), np.zeros(128)
        while min(len(row) for row in rows) < 2:
            step = streams.step(random.integers(15, size=128))
            assert step.success is not None
            total += step.reward
            length += step.valid
            for i in np.flatnonzero(step.terminated):
                rows[i].append((total[i], length[i], step.success[i]))
                total[i] = length[i] = 0
        streams.close()
        found.append(np.array([row[:2] for row in rows], dtype=float).reshape(-1, 3))
    a, b = found
    error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b)) + 1e-9
    assert (np.abs(a.mean(0) - b.mean(0)) < 4 * error).all()


class FakePool:
    """EnvPool's way with one game of two environments: games last 3 and 4 steps, and the step after the end only resets."""

    def __init__(self, **options: Any):
        self.options, self.t, self.lasts = options, np.zeros(2, dtype=int), np.array([3, 4])
        self.over = np.zeros(2, dtype=bool)

    def observe(self) -> np.ndarray:
        return np.broadcast_to(self.t[:, None, None, None], (2, 64, 64, 3)).astype(np.uint8)

    def reset(self) -> tuple[np.ndarray, dict]:
        self.t[:], self.over[:] = 0, False
        return self.observe(), {}

    def step(self, actions: np.ndarray) -> tuple:
        assert actions.dtype == np.int32
        self.t = np.where(self.over, 0, self.t + 1)
        reward = np.where(self.over, 0.0, 1.0).astype(np.float32)
        ended = ~self.over & (self.t == self.lasts)
        self.over = ended
        clock = ended & np.array([False, True])  # the second game's clock, the first is won
        return self.observe(), reward, ended & ~clock, clock, {"prev_level_complete": (ended & ~clock).astype(np.int32)}

    def close(self) -> None:
        pass


def test_envpools_second_reset_is_no_transition(monkeypatch):
    made: list[FakePool] = []

    def make(name: str, **options: Any) -> FakePool:
        assert name == "MazeEasy-v0"
        made.append(FakePool(**options))
        return made[-1]

    monkeypatch.setitem(sys.modules, "envpool", types.SimpleNamespace(make=make))
    monkeypatch.setattr(
        "vector_environments.procgen_engine.importlib.util.find_spec", lambda name: name == "envpool" or None
    )
    monkeypatch.setitem(TIME_LIMITS, "maze", 4)
    streams = make_streams("procgen:maze", 2, levels=7)
    streams.reset([0])
    assert made[-1].options["num_levels"] == 7
    assert made[-1].options["channel_first"] is False
    valid, ended, success, timeout = [], [], [], []
    for _ in range(9):
        step = streams.step(np.zeros(2, dtype=np.int64))
        assert step.success is not None
        assert step.timeout is not None
        assert (step.reward == step.valid).all()
        assert not step.truncated.any()
        for rows, value in (
            (valid, step.valid),
            (ended, step.terminated),
            (success, step.success),
            (timeout, step.timeout),
        ):
            rows.append(value.tolist())
    assert [row[0] for row in valid] == [True, True, True, False] * 2 + [True]
    assert [row[1] for row in valid] == [True] * 4 + [False] + [True] * 4
    assert [row[0] for row in ended] == [row[0] for row in success] == [False, False, True, False] * 2 + [False]
    assert [row[1] for row in ended] == [row[1] for row in timeout] == [False] * 3 + [True] + [False] * 4 + [True]
    assert not any(row[0] for row in timeout)
    streams.close()


def test_an_envpool_without_its_libraries_is_one_sentence(monkeypatch):
    def make(*_: Any, **__: Any) -> None:
        raise ImportError("Qt 5 is missing\nand more")

    monkeypatch.setitem(sys.modules, "envpool", types.SimpleNamespace(make=make))
    monkeypatch.setattr(
        "vector_environments.procgen_engine.importlib.util.find_spec", lambda name: name == "envpool" or None
    )
    with pytest.raises(BadInput, match=r"cannot be used: Qt 5 is missing$"):
        make_streams("procgen:maze", 2)
