"""Vector environments of every autoreset mode against one chain whose every number is known, and Gymnasium's own."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from common.errors import BadInput
from policy_networks.actor_critic import ActorCritic
from vector_environments.make_streams import check_actions, faster, make_streams, step_seconds
from vector_environments.streams import ObservationEncoder, Step, Streams
from vpg_learner.gae_and_truncation import gae, next_values, rewards_to_go
from vpg_learner.playing import play
from vpg_learner.rollout import Collector
from vpg_learner.running_statistics import EpisodeLog, Moments, ObservationScaler, RewardScaler

# ---------------------------------------------------------------- a chain


class Chain(gymnasium.Env):
    """Observation: (episode, step) of this copy. Reward of step k (from 1) of episode e: 100 e + k.

    Episodes last `lengths[e]` steps, in turn; those of odd number are truncated, the others terminated.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, lengths: tuple[int, ...]):
        self.lengths, self.episode, self.count = lengths, -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.episode, self.count = (0 if seed is not None else self.episode + 1), 0
        return self.observation(), {}

    def observation(self) -> np.ndarray:
        return np.array([self.episode, self.count], dtype=np.float32)

    def step(self, action: Any):
        self.count += 1
        over = self.count >= self.lengths[self.episode % len(self.lengths)]
        cut = self.episode % 2 == 1
        return self.observation(), 100.0 * self.episode + self.count, over and not cut, over and cut, {}


LENGTHS = ((3, 2, 1), (1, 4), (5,))
MODES = list(AutoresetMode)


def chains(mode: AutoresetMode) -> Streams:
    return Streams(SyncVectorEnv([lambda n=n: Chain(n) for n in LENGTHS], autoreset_mode=mode))


class Uniform(ActorCritic):
    """A new policy whose value of the observation (e, k) is 10 e + k, so that bootstraps can be told apart."""

    def __init__(self):
        super().__init__((2,), spaces.Discrete(2), (4,))

    def value(self, obs: torch.Tensor) -> torch.Tensor:
        return 10 * obs[:, 0] + obs[:, 1]


def transitions(mode: AutoresetMode, steps: int) -> list[list[tuple]]:
    """For every chain: (observation, reward, terminated, truncated, value of the true successor) of its transitions."""
    model = Uniform()
    collector = Collector(chains(mode), steps, None, None)
    collector.reset([1, 2, 3])
    rollout = collector.collect(model, torch.Generator().manual_seed(0))
    values = model.value(rollout.obs.flatten(0, 1)).view(steps + 1, 3)
    following = next_values(rollout, model.value, values)
    found: list[list[tuple]] = [[] for _ in LENGTHS]
    for t in range(steps):
        for i in range(3):
            if rollout.valid[t, i]:
                row = (*rollout.obs[t, i].tolist(), float(rollout.rewards[t, i]))
                ends = (bool(rollout.terminated[t, i]), bool(rollout.truncated[t, i]))
                found[i].append((*row, *ends, float(following[t, i])))
    assert rollout.steps == sum(map(len, found))
    return found


def expected(lengths: tuple[int, ...], count: int) -> list[tuple]:
    """The first transitions of a chain."""
    rows, episode = [], 0
    while len(rows) < count:
        n = lengths[episode % len(lengths)]
        for k in range(n):
            last, cut = k == n - 1, episode % 2 == 1
            ends = (last and not cut, last and cut)
            rows.append((float(episode), float(k), 100.0 * episode + k + 1, *ends, 10.0 * episode + k + 1))
        episode += 1
    return rows[:count]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_chains_own_transitions_and_no_reset(mode):
    for lengths, rows in zip(LENGTHS, transitions(mode, 40), strict=True):
        assert len(rows) >= 20
        assert rows == expected(lengths, len(rows))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_no_step_is_lost_where_resets_take_none(mode):
    assert [len(rows) for rows in transitions(mode, 40)] == [40, 40, 40]


def test_next_step_mode_loses_one_step_per_episode():
    # chain 2: five steps and a reset, six in all: 40 steps hold 34 transitions
    assert [len(rows) for rows in transitions(AutoresetMode.NEXT_STEP, 40)][2] == 34


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics_are_raw_and_count_transitions_alone(mode):
    collector = Collector(chains(mode), 5, None, None)
    collector.reset([1, 2, 3])
    for _ in range(3):
        collector.collect(Uniform(), torch.Generator().manual_seed(0))
    ended = collector.log.take()
    lengths = {length for _, length, _ in ended}
    assert lengths == {1, 2, 3, 4, 5}
    for value, length, _ in ended:
        episode = (value - length * (length + 1) / 2) / (100 * length)  # the return is 100 e n + n (n + 1) / 2
        assert episode == int(episode)
    assert collector.log.take() == []


def test_the_latest_episode_of_every_environment_counts_the_same():
    def step(reward: list[float], ended: list[bool], success: list[bool] | None, clock: bool = False) -> Step:
        known = (np.array(success), np.array([clock] * 2)) if success else (None, None)
        no, every = np.zeros(2, bool), np.ones(2, bool)
        return Step(np.zeros((2, 1)), np.array(reward), np.array(ended), no, every, None, *known)

    log = EpisodeLog(2)
    log.step(step([1.0, 2.0], [True, False], [False, False], clock=True))
    assert np.isnan(log.latest).all()
    log.step(step([5.0, 2.0], [True, False], [True, False]))
    log.step(step([7.0, 2.0], [False, True], [False, False]))
    assert log.latest == (5.5, 2.0, 0.5)  # (5 + 6) / 2, (1 + 3) / 2, and the first alone succeeded
    assert log.take() == [(1.0, 1, True), (5.0, 1, False), (6.0, 3, False)]
    log.step(step([1.0, 1.0], [True, True], None))
    assert np.isnan(log.latest[2])


# ---------------------------------------------------------------- values on chains with known answers


class Corridor(gymnasium.Env):
    """Reward 1 at every step. Terminated with probability 0.2 after each, or truncated after 4 steps where `clock`."""

    observation_space = spaces.Box(0, 1, (1,), dtype=np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, clock: bool):
        self.clock, self.count = clock, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.count = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any):
        self.count += 1
        dead = bool(self.np_random.random() < 0.2)
        return np.ones(1, np.float32), 1.0, dead, self.clock and self.count >= 4, {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("clock", [False, True], ids=["terminated", "truncated"])
@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_values_converge_to_the_known_ones(mode, clock, gamma, lam):
    """V = 1 + (1 - p) gamma V, with the clock or without it: truncation hides nothing of what would follow."""
    streams = Streams(SyncVectorEnv([lambda: Corridor(clock)] * 200, autoreset_mode=mode))
    collector = Collector(streams, 40, None, None)
    collector.reset(range(200))
    model, value = ActorCritic((1,), spaces.Discrete(2), (2,)), torch.tensor(0.0)
    random = torch.Generator().manual_seed(0)
    rollouts = [collector.collect(model, random) for _ in range(6)]
    deaths = torch.cat([rollout.terminated[rollout.valid] for rollout in rollouts]).float()
    assert float(deaths.mean()) == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / len(deaths)))
    exact = 1 / (1 - (1 - float(deaths.mean())) * gamma)  # with the chance as it turned out
    for _ in range(60):
        targets = []
        for rollout in rollouts:
            T, N = rollout.rewards.shape
            values = value.expand(T + 1, N)
            following = next_values(rollout, lambda obs, v=value: v.expand(len(obs)), values)
            ends = (rollout.terminated, rollout.truncated)
            if lam == 1.0:
                target = rewards_to_go(rollout.rewards, following, *ends, gamma)
            else:
                target = gae(rollout.rewards, values[:-1], following, *ends, gamma, lam) + values[:-1]
            targets.append(target[rollout.valid])
        value = torch.cat(targets).mean()
    assert float(value) == pytest.approx(exact, rel=1e-3 if lam == 0 else 0.02)


# ---------------------------------------------------------------- Gymnasium's own environments


def test_cartpole_is_gymnasiums_vectorised_one_and_its_episodes_are_right():
    streams = make_streams("CartPole-v1", 8)
    assert type(streams.envs).__name__ == "CartPoleVectorEnv"
    collector = Collector(streams, 300, None, None)
    collector.reset([5] * 8)
    model = ActorCritic((4,), streams.action_space, (8,))
    rollout = collector.collect(model, torch.Generator().manual_seed(0))
    ended = collector.log.take()
    assert len(ended) > 20
    assert all(value == length for value, length, _ in ended)  # one point a step
    assert 15 < np.mean([length for _, length, _ in ended]) < 30  # a random policy keeps the pole up for 22 steps
    done = rollout.terminated | rollout.truncated
    assert (~rollout.valid[1:] == done[:-1]).all()
    streams.close()


def test_a_policy_that_survives_is_truncated_at_500():
    streams = make_streams("CartPole-v1", 4)
    streams.reset([3])
    obs, count, ended = streams.reset([3]), 0, np.zeros(4, bool)
    while not ended.any() and count < 600:  # a hand-made controller
        step = streams.step((obs @ np.array([0.1, 0.5, 3.0, 1.0]) > 0).astype(np.int64))
        obs, count, ended = step.obs, count + 1, step.terminated | step.truncated
        if count == 500:
            assert step.truncated.all()
            assert not step.terminated.any()
    assert count == 500


@pytest.mark.parametrize("env", ["Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0", "CartPole-v1"])
def test_environments_go_on_from_their_saved_state(env):
    streams, again = make_streams(env, 3), make_streams(env, 3)
    streams.reset([1, 2, 3])
    streams.envs.action_space.seed(0)
    for _ in range(230):  # beyond the end of an episode in some of them
        streams.step(streams.envs.action_space.sample())
    state = streams.state()
    assert state is not None
    again.reset([7, 8, 9])
    again.load(state)
    for _ in range(300):
        action = streams.envs.action_space.sample()
        ours, theirs = streams.step(action), again.step(action)
        for name in ("obs", "reward", "terminated", "truncated", "valid"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    streams.close()
    again.close()


def test_environments_with_a_hidden_state_say_so():
    streams = make_streams("LunarLander-v3", 2)
    streams.reset([1, 2])
    assert streams.state() is None
    streams.close()


def test_reset_seeds_every_environment_by_its_own():
    streams = make_streams("Acrobot-v1", 3)
    first = streams.reset([1, 2, 3])
    assert len({tuple(row) for row in first.tolist()}) == 3
    swapped = streams.reset([3, 2, 1])
    assert np.array_equal(first[::-1], swapped)
    streams.close()


def test_separate_processes_give_the_same_numbers():
    from vector_environments.make_streams import asynchronous, sync

    here, there = Streams(sync("Pendulum-v1", 2)), Streams(asynchronous("Pendulum-v1", 2))
    assert np.array_equal(here.reset([4, 5]), there.reset([4, 5]))
    here.envs.action_space.seed(0)
    for _ in range(250):  # an episode is 200 steps
        action = here.envs.action_space.sample()
        a, b = here.step(action), there.step(action)
        assert np.array_equal(a.obs, b.obs)
        assert np.array_equal(a.truncated, b.truncated)
        assert (a.finals is None) == (b.finals is None)
        if a.finals and b.finals:
            assert np.array_equal(a.finals[1], b.finals[1])
    assert step_seconds(here) > 0
    assert faster(here, there) in (here, there)


# ---------------------------------------------------------------- observations and actions


def test_observations_are_flat_one_hot_or_images():
    flat = ObservationEncoder(spaces.Box(-1, 1, (2, 3)))
    assert flat(np.ones((4, 2, 3))).shape == (4, 6)
    one_hot = ObservationEncoder(spaces.Discrete(3, start=5))
    assert one_hot(np.array([5, 7])).tolist() == [[1, 0, 0], [0, 0, 1]]
    image = ObservationEncoder(spaces.Box(0, 255, (64, 64, 3), dtype=np.uint8))
    assert image.image
    assert image(np.full((2, 64, 64, 3), 7, np.uint8)).dtype == np.uint8
    assert ObservationEncoder(spaces.MultiBinary(4))(np.ones((2, 4), np.int8)).tolist() == [[1] * 4] * 2
    for space in (spaces.Dict({}), spaces.Text(3), spaces.Box(-1, 1, (0,))):
        with pytest.raises(BadInput):
            ObservationEncoder(space)


def test_an_encoded_batch_is_a_copy():
    raw = np.zeros((2, 3), np.float32)
    encoded = ObservationEncoder(spaces.Box(-1, 1, (3,)))(raw)
    raw += 1
    assert (encoded == 0).all()


def test_unsupported_actions_are_refused():
    for space in (spaces.MultiBinary(3), spaces.Box(0, 3, (2,), dtype=np.int64), spaces.Tuple(())):
        with pytest.raises(BadInput):
            check_actions(space)


@pytest.mark.parametrize("env", ["NoSuchEnv-v0", "CartPole-v99", "no_such_module_here:Env-v0", "", "a b"])
def test_unknown_environments_are_one_sentence(env):
    with pytest.raises(BadInput, match="--env") as error:
        make_streams(env, 1)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- running statistics


def test_moments_are_those_of_all_rows():
    random = np.random.default_rng(0)
    parts = [random.normal(3, 2, (n, 4)) for n in (1, 7, 0, 30)]
    moments = Moments((4,))
    assert (moments.std == 1).all()
    for part in parts:
        moments.update(part)
    rows = np.concatenate(parts)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, rows.std(0), rtol=1e-6)


def test_observations_are_scaled_alike_within_a_rollout():
    scaler = ObservationScaler((2,))
    collector = Collector(chains(AutoresetMode.SAME_STEP), 6, scaler, None)
    collector.reset([1, 2, 3])
    first = collector.collect(Uniform(), torch.Generator().manual_seed(0))
    assert first.obs[0].tolist() == [[0, 0]] * 3  # not scaled yet
    seen = first.obs[:-1].reshape(-1, 2).numpy()
    second = collector.collect(Uniform(), torch.Generator().manual_seed(0))
    raw = first.obs[-1].numpy()  # the second rollout begins where the first ended
    np.testing.assert_allclose(second.obs[0].numpy(), (raw - seen.mean(0)) / seen.std(0), rtol=1e-4, atol=1e-4)


def test_rewards_are_divided_by_the_spread_of_the_discounted_return():
    scaler = RewardScaler(1, gamma=0.5)
    rewards = np.array([[1.0], [2.0], [4.0], [9.0]], np.float32)
    ended = np.array([[False], [False], [True], [False]])
    valid = np.array([[True], [True], [True], [False]])
    # returns 1, 2.5, 5.25 (by hand); the last step is a reset
    found = scaler(rewards, ended, valid)
    np.testing.assert_allclose(found, np.clip(rewards / np.std([1, 2.5, 5.25]), -10, 10), rtol=1e-5)
    assert scaler.running.tolist() == [0.0]


# ---------------------------------------------------------------- evaluation


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_plays_the_same_number_of_episodes_everywhere(mode):
    returns, successes = play(Uniform(), chains(mode), None, 3, [1, 2, 3])
    # the first three episodes of each chain: 100 e n + n (n + 1) / 2
    lengths = [[n[e % len(n)] for e in range(3)] for n in LENGTHS]
    assert returns.tolist() == [[100 * e * n + n * (n + 1) / 2 for e, n in enumerate(row)] for row in lengths]
    assert np.isnan(successes).all()


def test_evaluation_is_the_same_for_the_same_seeds():
    streams = make_streams("CartPole-v1", 4)
    torch.manual_seed(0)
    model = ActorCritic((4,), streams.action_space, (8,))
    first, again = (play(model, streams, None, 2, [1, 2, 3, 4])[0] for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, play(model, streams, None, 2, [9, 2, 3, 4])[0])
    greedy, _ = play(model, streams, None, 2, [1, 2, 3, 4], greedy=True)
    assert not np.array_equal(first, greedy)
    streams.close()
