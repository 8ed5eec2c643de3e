"""Returns and advantages against tables that can be checked by hand, slow references, and chains with known values."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from vpg_learner.gae_and_truncation import (
    discounted_sum,
    episode_returns,
    explained_variance,
    gae,
    normalised,
    rewards_to_go,
)

NO = [0, 0, 0]


def column(values: Sequence[float]) -> Tensor:
    """One environment: (T,) -> (T, 1)."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


def flags(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)[:, None]


# ---------------------------------------------------------------- by hand


def test_reward_to_go_keeps_the_reward_of_the_last_step():
    found = rewards_to_go(column([1, 1, 1]), column([9, 9, 9]), flags([0, 0, 1]), flags(NO), gamma=0.5)
    assert found.flatten().tolist() == [1.75, 1.5, 1.0]


def test_reward_to_go_bootstraps_a_truncated_episode_and_not_a_terminated_one():
    rewards, following = column([1, 2, 4]), column([0, 16, 32])
    cut = rewards_to_go(rewards, following, flags(NO), flags([0, 1, 0]), gamma=0.5)
    # step 1: 2 + 16 / 2 = 10; step 0: 1 + 10 / 2 = 6; step 2, cut by the rollout: 4 + 32 / 2 = 20
    assert cut.flatten().tolist() == [6, 10, 20]
    ended = rewards_to_go(rewards, following, flags([0, 1, 1]), flags(NO), gamma=0.5)
    assert ended.flatten().tolist() == [2, 2, 4]


def test_a_step_that_is_both_terminated_and_truncated_is_terminated():
    found = rewards_to_go(column([1, 2, 4]), column([0, 16, 32]), flags([0, 1, 1]), flags([0, 1, 1]), gamma=0.5)
    assert found.flatten().tolist() == [2, 2, 4]
    found = gae(column([1, 2, 4]), column(NO), column([0, 16, 32]), flags([0, 1, 1]), flags([0, 1, 1]), 0.5, 1.0)
    assert found.flatten().tolist() == [2, 2, 4]


def test_gae_by_hand():
    # delta = 1 + 0.5 * 4 - 2 = 1; 2 + 0.5 * 8 - 4 = 2; 3 + 0 - 8 = -5 (terminated); gamma lambda = 0.25
    found = gae(column([1, 2, 3]), column([2, 4, 8]), column([4, 8, 99]), flags([0, 0, 1]), flags(NO), 0.5, 0.5)
    assert found.flatten().tolist() == [1 + 0.25 * (2 + 0.25 * -5), 2 + 0.25 * -5, -5]


def test_gae_of_a_truncated_step_uses_the_final_observation_and_nothing_of_the_next_episode():
    found = gae(column([1, 2, 3]), column([2, 4, 8]), column([4, 10, 99]), flags([0, 0, 1]), flags([0, 1, 0]), 0.5, 1.0)
    # step 1: 2 + 0.5 * 10 - 4 = 3, no trace beyond it; step 0: 1 + 0.5 * 4 - 2 + 0.5 * 3
    assert found.flatten().tolist() == [2.5, 3.0, -5.0]


def test_the_whole_episodes_return_counts_what_was_before_the_rollout():
    rewards, ended, before = column([1, 2, 4, 8]), flags([0, 1, 0, 0]), torch.tensor([10.0])
    to_go = rewards_to_go(rewards, column([0, 0, 0, 0]), ended, flags([0, 0, 0, 0]), 1.0)
    assert episode_returns(rewards, to_go, ended, before).flatten().tolist() == [13, 13, 12, 12]
    # discounted and cut: 1 + 0.5 (2 + 0.5 * 16) = 6, 10, 4 + 0.5 (8 + 0.5 * 20) = 13, 18, and the past undiscounted
    to_go = rewards_to_go(rewards, column([0, 16, 0, 20]), flags([0, 0, 0, 0]), ended, 0.5)
    assert episode_returns(rewards, to_go, ended, before).flatten().tolist() == [16, 21, 13, 22]


def test_what_follows_a_terminated_step_is_ignored_even_if_it_is_no_number():
    nan = float("nan")
    rewards, following, terminated = column([1, 2]), column([3, nan]), flags([0, 1])
    assert gae(rewards, column([0, 0]), following, terminated, flags([0, 0]), 0.5, 1.0).flatten().tolist() == [3.5, 2]
    assert rewards_to_go(rewards, following, terminated, flags([0, 0]), 0.5).flatten().tolist() == [2, 2]


def test_explained_variance_by_hand():
    target = torch.tensor([0.0, 2.0])
    assert explained_variance(target, target) == 1
    assert explained_variance(torch.tensor([5.0, 5.0]), target) == 0
    assert explained_variance(torch.tensor([2.0, 0.0]), target) == -3
    assert math.isnan(explained_variance(target, torch.tensor([1.0, 1.0])))


# ---------------------------------------------------------------- against slow references


@st.composite
def rollouts(draw):
    """Rewards, values, next values, terminated, truncated of a rollout (T, N), and gamma and lambda."""
    shape = (draw(st.integers(1, 7)), draw(st.integers(1, 3)))
    numbers = hnp.arrays(np.float64, shape, elements=st.floats(-4, 4, width=16))
    bits = hnp.arrays(np.bool_, shape)
    arrays = [draw(numbers) for _ in range(3)] + [draw(bits) for _ in range(2)]
    return [torch.from_numpy(array) for array in arrays], draw(st.floats(0, 1)), draw(st.floats(0, 1))


def slow_gae(arrays: list[Tensor], gamma: float, lam: float, t: int, i: int) -> float:
    """The defining sum, term by term."""
    rewards, values, following, terminated, truncated = arrays
    total, factor = 0.0, 1.0
    for s in range(t, len(rewards)):
        after = 0.0 if terminated[s, i] else float(following[s, i])
        total += factor * (float(rewards[s, i]) + gamma * after - float(values[s, i]))
        if terminated[s, i] or truncated[s, i]:
            break
        factor *= gamma * lam
    return total


def slow_reward_to_go(rewards, following, terminated, truncated, gamma, t, i) -> float:
    total, factor = 0.0, 1.0
    for s in range(t, len(rewards)):
        total += factor * float(rewards[s, i])
        if terminated[s, i]:
            break
        if truncated[s, i] or s == len(rewards) - 1:
            total += factor * gamma * float(following[s, i])
            break
        factor *= gamma
    return total


@settings(deadline=None)
@given(rollouts())
def test_gae_is_its_defining_sum(rollout):
    arrays, gamma, lam = rollout
    rewards, values, following, terminated, truncated = arrays
    found = gae(rewards, values, following, terminated, truncated, gamma, lam)
    for t, i in np.ndindex(*found.shape):
        assert float(found[t, i]) == pytest.approx(slow_gae(arrays, gamma, lam, t, i), abs=1e-9)


@settings(deadline=None)
@given(rollouts())
def test_reward_to_go_is_its_defining_sum_and_gaes_lambda_one(rollout):
    (rewards, values, following, terminated, truncated), gamma, _ = rollout
    before = truncated.clone()
    found = rewards_to_go(rewards, following, terminated, truncated, gamma)
    assert torch.equal(truncated, before)  # the rollout's own end is not written into the caller's flags
    for t, i in np.ndindex(*found.shape):
        slow = slow_reward_to_go(rewards, following, terminated, truncated, gamma, t, i)
        assert float(found[t, i]) == pytest.approx(slow, abs=1e-9)
    # Within an episode the successor is the next observation: then lambda = 1 telescopes.
    following[:-1] = torch.where((terminated | truncated)[:-1], following[:-1], values[1:])
    found = rewards_to_go(rewards, following, terminated, truncated, gamma)
    same = gae(rewards, values, following, terminated, truncated, gamma, 1.0) + values
    torch.testing.assert_close(found, same, rtol=0, atol=1e-9)


@settings(deadline=None)
@given(rollouts())
def test_later_rewards_of_another_episode_change_nothing(rollout):
    (rewards, values, following, terminated, truncated), gamma, lam = rollout
    ended = terminated | truncated
    found = gae(rewards, values, following, terminated, truncated, gamma, lam)
    for t, i in np.argwhere(ended.numpy()):
        other = rewards.clone()
        other[t + 1 :, i] += 7
        changed = gae(other, values, following, terminated, truncated, gamma, lam)
        assert torch.equal(changed[: t + 1, i], found[: t + 1, i])


def test_the_sum_of_an_endless_constant_is_geometric():
    found = discounted_sum(torch.ones(200, 1, dtype=torch.float64), 0.9, torch.zeros(200, 1, dtype=torch.bool))
    assert float(found[0]) == pytest.approx((1 - 0.9**200) / 0.1, rel=1e-12)
    last = torch.tensor([10.0], dtype=torch.float64)
    found = discounted_sum(torch.ones(5, 1, dtype=torch.float64), 0.9, torch.zeros(5, 1, dtype=torch.bool), last)
    torch.testing.assert_close(found, torch.full((5, 1), 10.0, dtype=torch.float64))  # 1 / (1 - 0.9), its fixed point


# ---------------------------------------------------------------- normalisation


def test_normalisation_leaves_out_what_is_not_valid_and_survives_equal_advantages():
    advantages = torch.tensor([[1.0, 100.0], [3.0, 5.0]])
    valid = torch.tensor([[True, False], [True, True]])
    chosen = normalised(advantages, valid)[valid]
    assert float(chosen.mean()) == pytest.approx(0, abs=1e-6)
    assert float(chosen.std(correction=0)) == pytest.approx(1, abs=1e-5)
    for value in (7.0, 0.1, -1e4):
        found = normalised(torch.full((33, 7), value), torch.ones(33, 7, dtype=torch.bool))
        assert float(found.abs().max()) < 0.2
