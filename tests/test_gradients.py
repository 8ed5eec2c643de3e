"""The policy gradient against the analytic one, with its variance under each baseline; PPO; the noise scale."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from policy_networks.action_distributions import CategoricalPolicy
from policy_networks.actor_critic import ActorCritic
from vpg_learner.gae_and_truncation import Batch, episode_returns, gae, rewards_to_go
from vpg_learner.gradients import flat, grouped_gradient, noise_scale
from vpg_learner.policy_step_and_value_fit import Weights, apply_gradient, fit_values, ppo_loss, total_loss, vpg_loss

# ---------------------------------------------------------------- a tabular problem with a known gradient
# Three states in a row, two actions. Action 0 goes on to the next state with reward REWARD[state, 0], action 1 likewise
# with REWARD[state, 1]; after the third step the episode is over. Which state comes next depends on the action, too:
# NEXT[state, action]. Horizon 3, gamma 1, so that the return of a whole episode is exact.

NEXT = np.array([[1, 2], [2, 1], [0, 1]])
REWARD = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 2.0]])
T = 3
LOGITS = torch.tensor([[0.3, -0.2], [0.1, 0.7], [-0.5, 0.4]], dtype=torch.float64)


def expected_return(logits: Tensor) -> Tensor:
    """By dynamic programming, differentiable: the value of state 0 with T steps to go."""
    policy = logits.softmax(-1)
    value = torch.zeros(3, dtype=logits.dtype)
    for _ in range(T):
        value = (policy * (torch.from_numpy(REWARD) + value[torch.from_numpy(NEXT)])).sum(-1)
    return value[0]


def analytic_gradient() -> Tensor:
    """d E[return] / d logits, (6,)."""
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_return(logits), logits)
    return gradient.flatten()


def episodes(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """States, actions and rewards (T, n) of episodes from state 0."""
    random = np.random.default_rng(seed)
    p = LOGITS.softmax(-1)[:, 1].numpy()
    state = np.zeros(n, dtype=np.int64)
    states, actions, rewards = [], [], []
    for _ in range(T):
        action = (random.random(n) < p[state]).astype(np.int64)
        states.append(state)
        actions.append(action)
        rewards.append(REWARD[state, action])
        state = NEXT[state, action]
    return tuple(torch.from_numpy(np.stack(x)) for x in (states, actions, rewards))  # type: ignore[return-value]


def values_at(step: int) -> Tensor:
    """The true value of each state with T - step steps to go, (3,)."""
    policy, value = LOGITS.softmax(-1), torch.zeros(3, dtype=torch.float64)
    for _ in range(T - step):
        value = (policy * (torch.from_numpy(REWARD) + value[torch.from_numpy(NEXT)])).sum(-1)
    return value


def weights(kind: str, states: Tensor, rewards: Tensor) -> Tensor:
    """What multiplies grad log pi, (T, n)."""
    n = states.size(1)
    ended = torch.zeros(T, n, dtype=torch.bool)
    ended[-1] = True
    no = torch.zeros_like(ended)
    nothing = torch.zeros(T, n, dtype=torch.float64)
    values = torch.stack([values_at(t)[states[t]] for t in range(T)])
    following = torch.cat([values[1:], nothing[:1]])
    if kind == "none":
        return episode_returns(rewards, rewards_to_go(rewards, nothing, ended, no, 1.0), ended, torch.zeros(n))
    if kind == "reward-to-go":
        return rewards_to_go(rewards, nothing, ended, no, 1.0)
    if kind == "wrong baseline":  # any function of the state and the time is allowed
        return rewards_to_go(rewards, nothing, ended, no, 1.0) - (3 - 2.0 * states + torch.arange(T)[:, None])
    if kind == "value":
        return rewards_to_go(rewards, nothing, ended, no, 1.0) - values
    return gae(rewards, values, following, ended, no, 1.0, 0.5)  # with the true values unbiased for every lambda


class Table(torch.nn.Module):
    """A policy with one row of logits per state, in the place of ActorCritic."""

    joint = image = False

    def __init__(self):
        super().__init__()
        self.policy = CategoricalPolicy((2,), np.zeros(()), single=True)
        self.logits = torch.nn.Parameter(LOGITS.clone())

    def head(self, obs: Tensor) -> Tensor:
        return self.logits[obs]


def per_episode_gradients(kind: str, n: int, seed: int = 0) -> Tensor:
    """The policy gradient of each episode alone, (n, 6): for a sum over its steps, autograd's and closed form's."""
    states, actions, rewards = episodes(n, seed)
    advantage = weights(kind, states, rewards)
    # d log pi(a|s) / d logits[s] = onehot(a) - pi(s)
    score = torch.nn.functional.one_hot(actions, 2).double() - LOGITS.softmax(-1)[states]  # (T, n, 2)
    gradient = torch.zeros(n, 3, 2, dtype=torch.float64)
    for t in range(T):
        gradient[torch.arange(n), states[t]] += score[t] * advantage[t, :, None]
    return gradient.flatten(1)


KINDS = ("none", "reward-to-go", "wrong baseline", "value", "gae")


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_policy_gradient_is_the_analytic_one(kind):
    n = 20_000
    each = per_episode_gradients(kind, n)
    mean, error = each.mean(0), each.std(0) / math.sqrt(n)
    exact = analytic_gradient()
    assert float(torch.cosine_similarity(mean, exact, 0)) > 0.99
    assert float(((mean - exact) / error).abs().max()) < 4
    # and that is what the loss that is trained on gives for the same episodes
    states, actions, rewards = episodes(n, 0)
    model, advantage = Table(), weights(kind, states, rewards)
    batch = batch_of(states.flatten(), actions.flatten(), advantage.flatten())
    (found,) = torch.autograd.grad(vpg_loss(model, batch, Weights(), n), [model.logits])  # type: ignore[arg-type]
    torch.testing.assert_close(-found.flatten(), mean, rtol=1e-9, atol=1e-12)


def test_each_baseline_has_less_variance_than_the_one_before():
    variance = {kind: float(per_episode_gradients(kind, 20_000).var(0).sum()) for kind in KINDS}
    assert variance["none"] > variance["reward-to-go"] > variance["value"] > variance["gae"]
    assert variance["wrong baseline"] > variance["value"]


def batch_of(obs: Tensor, actions: Tensor, advantages: Tensor, streams: Tensor | None = None) -> Batch:
    """A batch for losses that do not look at the rest."""
    nothing = torch.zeros(len(obs), dtype=advantages.dtype)
    which = torch.zeros(len(obs), dtype=torch.int64) if streams is None else streams
    return Batch(obs, actions, advantages, nothing, which, nothing, nothing, nothing)


# ---------------------------------------------------------------- the losses of networks


def network(space: spaces.Space, rows: int = 60, streams: int = 6) -> tuple[ActorCritic, Batch]:
    """A random policy and a batch sampled from it."""
    torch.manual_seed(0)
    model = ActorCritic((4,), space, (8,))
    with torch.no_grad():
        for p in model.actor.parameters():
            p.add_(0.3 * torch.randn_like(p))
    obs, advantages = torch.randn(rows, 4), torch.randn(rows)
    with torch.no_grad():
        head = model.head(obs)
        actions = model.policy.sample(head, torch.Generator().manual_seed(1))
        log_prob = model.policy.log_prob(head, actions)
    which = torch.arange(rows) % streams
    return model, Batch(obs, actions, advantages, torch.randn(rows), which, head, log_prob, torch.randn(rows))


SPACES = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2,), dtype=np.float32)]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("entropy", [0.0, 0.02])
def test_ppos_first_gradient_is_the_policy_gradient(space, entropy):
    model, batch = network(space)
    parameters = model.actor_parameters()
    vpg = flat(torch.autograd.grad(vpg_loss(model, batch, Weights(entropy), len(batch)), parameters))
    ppo = flat(torch.autograd.grad(ppo_loss(model, batch, Weights(entropy), len(batch), 0.2), parameters))
    torch.testing.assert_close(ppo, vpg, rtol=1e-5, atol=1e-7)


def test_ppos_loss_by_hand():
    model, batch = network(spaces.Discrete(3), rows=4)
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    head = model.head(batch.obs)
    old = model.policy.log_prob(head, batch.actions).detach() - ratio.log()
    rows = replace(batch, advantages=advantages, old_log_prob=old)
    # min(1.5, 1.2) + min(0.5, 0.8) + min(-1.5, -1.2) + min(-0.5, -0.8) = 1.2 + 0.5 - 1.5 - 0.8
    assert float(ppo_loss(model, rows, Weights(), 4, 0.2).detach()) == pytest.approx(
        -(1.2 + 0.5 - 1.5 - 0.8) / 4, rel=1e-5
    )
    # only the second and the third still move: the others are beyond the clip on the side they are pulled to
    alone = Batch(*(getattr(rows, name)[1:3] for name in Batch.__dataclass_fields__))
    whole = flat(torch.autograd.grad(ppo_loss(model, rows, Weights(), 4, 0.2), model.actor_parameters()))
    part = flat(torch.autograd.grad(ppo_loss(model, alone, Weights(), 4, 0.2), model.actor_parameters()))
    torch.testing.assert_close(whole, part, rtol=1e-5, atol=1e-7)


def test_without_a_clip_the_ratio_gives_the_moved_policys_gradient_from_another_policys_actions():
    """Actions of a uniform policy, one of each: what remains is the gradient of sum_a pi(a) A(a), whatever pi is."""
    model, batch = network(spaces.Discrete(3), rows=3)
    state = batch.obs[:1].expand(3, -1)
    advantages = torch.tensor([2.0, -1.0, 0.5])
    old = torch.full((3,), -math.log(3.0))
    rows = replace(batch, obs=state, actions=torch.arange(3), advantages=advantages, old_log_prob=old)
    parameters = model.actor_parameters()
    with torch.no_grad():  # far from uniform, where a clip of 0.2 would stop it
        parameters[-1].copy_(torch.tensor([1.5, 0.0, -1.0]))  # the logits' bias
    found = flat(torch.autograd.grad(ppo_loss(model, rows, Weights(), 3, math.inf), parameters))
    mean = (model.head(state[:1]).softmax(-1) * advantages).sum()
    torch.testing.assert_close(found, flat(torch.autograd.grad(-mean, parameters)), rtol=1e-5, atol=1e-7)
    clipped = flat(torch.autograd.grad(ppo_loss(model, rows, Weights(), 3, 0.2), parameters))
    assert float((clipped - found).norm()) > 0.1 * float(found.norm())


def test_a_clipped_value_moves_no_further_towards_its_target():
    """Old values 0, targets 2, 2, 2 and -2: the second and the last have moved by 0.5 towards them, the third away."""
    model, batch = network(spaces.Discrete(3), rows=4)
    value = torch.tensor([0.1, 0.5, -0.5, -0.5], requires_grad=True)
    rows = replace(batch, targets=torch.tensor([2.0, 2.0, 2.0, -2.0]), old_values=torch.zeros(4))
    for clip, loss, gradient in [
        (0.2, 1.9**2 + 1.8**2 + 2.5**2 + 1.8**2, [-1.9, 0, -2.5, 0]),
        (0.0, 1.9**2 + 1.5**2 + 2.5**2 + 1.5**2, [-1.9, -1.5, -2.5, 1.5]),
    ]:
        nothing = torch.zeros(4)
        found = total_loss(model, rows, batch.old_head, value, nothing, Weights(0.0, 0.5, clip), 4)
        assert float(found) == pytest.approx(0.5 * 0.5 * loss / 4)
        expected = 0.5 * torch.tensor(gradient) / 4
        torch.testing.assert_close(torch.autograd.grad(found, value)[0], expected)


def test_entropy_is_pushed_up():
    model, batch = network(spaces.Discrete(3))
    flatter = Batch(*(getattr(batch, n) * (n != "advantages") for n in Batch.__dataclass_fields__))
    before = float(model.policy.entropy(model.head(batch.obs)).mean().detach())
    optimizer = torch.optim.SGD(model.actor_parameters(), 0.5)
    for _ in range(20):
        gradient = list(
            torch.autograd.grad(vpg_loss(model, flatter, Weights(1.0), len(batch)), model.actor_parameters())
        )
        apply_gradient(model.actor_parameters(), gradient, optimizer, 0.0)
    assert float(model.policy.entropy(model.head(batch.obs)).mean().detach()) > before + 0.01


def test_groups_sum_to_the_whole_gradient():
    model, batch = network(spaces.Discrete(3))
    whole = flat(torch.autograd.grad(vpg_loss(model, batch, Weights(0.01), len(batch)), model.actor_parameters()))
    for groups in (2, 3, 6):
        gradient, noise = grouped_gradient(vpg_loss, model, batch, Weights(0.01), streams=6, groups=groups)
        torch.testing.assert_close(flat(gradient), whole, rtol=1e-4, atol=1e-6)
        assert noise is not None
    for streams in (1, 3):  # groups of unequal size would need other formulas
        gradient, noise = grouped_gradient(vpg_loss, model, batch, Weights(0.01), streams=streams, groups=2)
        assert noise is None
        torch.testing.assert_close(flat(gradient), whole, rtol=1e-6, atol=1e-8)


def test_clipping_bounds_the_norm_and_reports_what_it_was():
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([parameter], 1.0)
    norm = apply_gradient([parameter], [torch.tensor([3.0, 0, 4, 0])], optimizer, 0.5)
    assert norm == pytest.approx(5)
    assert parameter.tolist() == pytest.approx([-0.3, 0, -0.4, 0], rel=1e-4)
    norm = apply_gradient([parameter], [torch.tensor([3.0, 0, 4, 0])], optimizer, 0.0)
    assert norm == pytest.approx(5)
    assert parameter.tolist() == pytest.approx([-3.3, 0, -4.4, 0], rel=1e-4)


def test_values_are_fitted_by_least_squares():
    model, batch = network(spaces.Discrete(3), rows=200)
    targets = 2 * batch.obs[:, 0] - 1
    rows = replace(batch, targets=targets)
    optimizer = torch.optim.Adam(model.critic.parameters(), 1e-2)
    actor = flat([p.detach().clone() for p in model.actor_parameters()])
    fit_values(model, rows, optimizer, 100, 64, torch.Generator().manual_seed(0))
    error = (model.value(batch.obs) - targets).detach()
    assert float(error.square().mean()) < 0.02 * float(targets.var())
    assert torch.equal(flat(model.actor_parameters()).detach(), actor)


@pytest.mark.parametrize(
    ("rows", "minibatch", "steps"), [(60, 256, 1), (60, 0, 1), (60, 30, 2), (60, 25, 2), (60, 20, 3)]
)
def test_every_pass_of_the_value_function_takes_its_minibatches(rows, minibatch, steps):
    model, batch = network(spaces.Discrete(3), rows=rows)
    optimizer, count = torch.optim.SGD(model.critic.parameters(), 1e-3), []
    optimizer.register_step_post_hook(lambda *_: count.append(1))
    fit_values(model, batch, optimizer, 4, minibatch, torch.Generator().manual_seed(0))
    assert len(count) == 4 * steps  # a rest of less than half a minibatch waits


def test_images_are_updated_by_the_fused_optimiser_as_by_the_plain_one():
    """Gradients of convolutions on images come in another memory layout."""
    torch.manual_seed(0)
    first = ActorCritic((36, 36, 3), spaces.Discrete(3), ())
    second = ActorCritic((36, 36, 3), spaces.Discrete(3), ())
    second.load_state_dict(first.state_dict())
    images, actions = torch.randint(256, (6, 36, 36, 3), dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2])
    batch = batch_of(images, actions, torch.randn(6))
    for model, fused in ((first, True), (second, False)):
        optimizer = torch.optim.Adam(model.actor_parameters(), 1e-3, fused=fused)
        for _ in range(3):
            gradient = list(torch.autograd.grad(vpg_loss(model, batch, Weights(0.01), 6), model.actor_parameters()))
            apply_gradient(model.actor_parameters(), gradient, optimizer, 0.0)
    torch.testing.assert_close(flat(first.actor_parameters()), flat(second.actor_parameters()), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- the noise scale


def test_the_noise_scale_is_unbiased():
    """Stream gradients with known mean G and covariance: tr(Sigma) = 5 * 0.7^2, |G|^2 = 0.55."""
    G = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(4000):
        streams = G + 0.7 * torch.randn(16, 5, generator=random, dtype=torch.float64)
        found.append(noise_scale([group.mean(0) for group in streams.chunk(2)], 16))
    for name, truth in (("squared_norm", float(G @ G)), ("trace", 5 * 0.49)):
        values = np.array([getattr(one, name) for one in found])
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))
    with pytest.raises(ValueError, match="two groups"):
        noise_scale([G], 16)
