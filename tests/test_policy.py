"""Distributions against torch.distributions, actions against the spaces, networks against their promises."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from policy_networks.action_distributions import CategoricalPolicy, GaussianPolicy, policy_for
from policy_networks.actor_critic import ActorCritic
from policy_networks.image_encoders import ImpalaEncoder, NatureEncoder, glorot
from rl_settings.vpg_choices import LOG_STD

SPACES = {
    "discrete": spaces.Discrete(5),
    "discrete from 3": spaces.Discrete(4, start=3),
    "multi": spaces.MultiDiscrete([2, 3, 4]),
    "box": spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 1.0]), dtype=np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (3,), dtype=np.float32),
    "matrix": spaces.Box(-1, 3, (2, 2), dtype=np.float32),
}


def heads(policy: CategoricalPolicy | GaussianPolicy, rows: int, seed: int = 0) -> Tensor:
    """(B, A), or (B, 2 A) for a Gaussian."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, policy.outputs * (2 if policy.gaussian else 1), generator=random)


def reference(policy: CategoricalPolicy | GaussianPolicy, head: Tensor) -> list[torch.distributions.Distribution]:
    """The same distributions by PyTorch."""
    if isinstance(policy, CategoricalPolicy):
        return [Categorical(logits=part) for part in head.split(policy.sizes, -1)]
    mean, log_std = head.chunk(2, -1)
    return [Independent(Normal(mean, log_std.exp()), 1)]


def clipped_log_prob(head: Tensor, actions: Tensor, bound: Tensor) -> Tensor:
    """log of the probability of what the environment gets: a density between the bounds, at them the tail's mass."""
    mean, log_std = head.double().chunk(2, -1)
    normal, x = Normal(mean, log_std.exp()), actions.double()
    log = torch.where(x >= bound, (1 - normal.cdf(bound.double().expand_as(x))).log(), normal.log_prob(x))
    log = torch.where(x <= -bound, normal.cdf(-bound.double().expand_as(x)).log(), log)
    return log.sum(-1).float()


@pytest.mark.parametrize("kind", SPACES)
def test_log_prob_entropy_and_kl_are_pytorchs(kind):
    policy = policy_for(SPACES[kind])
    head, other = heads(policy, 50), heads(policy, 50, seed=1)
    actions = policy.sample(head, torch.Generator().manual_seed(2))
    ours, theirs = reference(policy, head), reference(policy, other)
    if isinstance(policy, CategoricalPolicy):
        columns = actions.view(50, -1).unbind(-1)
        log_prob = torch.stack([one.log_prob(a) for one, a in zip(ours, columns, strict=True)]).sum(0)
    else:
        log_prob = clipped_log_prob(head, actions, policy.bound)
    entropy = torch.stack([one.entropy() for one in ours]).sum(0)
    kl = torch.stack([kl_divergence(p, q) for p, q in zip(ours, theirs, strict=True)]).sum(0)
    assert policy.log_prob(head, actions).shape == (50,)
    torch.testing.assert_close(policy.log_prob(head, actions), log_prob, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(policy.entropy(head), entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(policy.kl(head, other), kl, rtol=1e-4, atol=1e-4)
    assert float(policy.kl(head, head).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", SPACES)
def test_what_the_environment_gets_is_in_its_space(kind):
    space = SPACES[kind]
    policy = policy_for(space)
    head = 3 * heads(policy, 64)
    for actions in (policy.sample(head, torch.Generator().manual_seed(0)), policy.mode(head)):
        given = policy.to_env(actions)
        assert len(given) == 64
        assert all(space.contains(np.asarray(row, dtype=space.dtype)) for row in given)


def test_categorical_samples_have_the_probabilities_of_softmax():
    policy = CategoricalPolicy((3, 2), np.zeros(2), single=False)
    head = torch.tensor([0.5, -1.0, 1.0, 0.0, 2.0]).expand(40_000, 5)
    actions = policy.sample(head, torch.Generator().manual_seed(0))
    for i, part in enumerate(head[0].split((3, 2))):
        p = part.softmax(-1)
        counts = torch.bincount(actions[:, i], minlength=len(p)) / 40_000
        assert float(((counts - p).abs() / (p * (1 - p) / 40_000).sqrt()).max()) < 4  # standard errors
    # and the two are independent
    both = ((actions[:, 0] == 2) & (actions[:, 1] == 1)).float().mean()
    p = float(head[0, :3].softmax(-1)[2] * head[0, 3:].softmax(-1)[1])
    assert float(both) == pytest.approx(p, abs=4 * math.sqrt(p / 40_000))


def test_gaussian_samples_have_their_mean_and_spread_and_are_clipped_for_the_environment_only():
    space = spaces.Box(np.array([-2.0, 10.0]), np.array([2.0, 20.0]), dtype=np.float32)
    policy = policy_for(space)
    head = torch.tensor([0.5, -0.25, math.log(0.5), math.log(2.0)]).expand(40_000, 4)
    actions = policy.sample(head, torch.Generator().manual_seed(0))
    assert actions.mean(0).tolist() == pytest.approx([0.5, -0.25], abs=0.04)
    assert actions.std(0).tolist() == pytest.approx([0.5, 2.0], rel=0.02)
    given = policy.to_env(actions)
    inside = (actions.abs() < 1).all(-1).numpy()
    np.testing.assert_allclose(given[inside], actions.numpy()[inside] * [2, 5] + [0, 15], rtol=1e-5)
    assert given.min(0).tolist() == [-2, 10]
    assert given.max(0).tolist() == [2, 20]


def test_the_gradient_of_clipped_actions_is_the_analytic_one_with_less_noise():
    """d/dmean and d/dlog_std of E r(clip(a, -1, 1)), r(x) = (x - 0.3)^3, by quadrature and from 200,000 samples."""
    policy = policy_for(spaces.Box(-1, 1, (1,), dtype=np.float64))
    at = torch.tensor([1.2, math.log(0.6)], requires_grad=True)

    def reward(x: Tensor) -> Tensor:
        return (x.clamp(-1, 1) - 0.3) ** 3

    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    mass = Normal(at[0].double(), at[1].double().exp()).log_prob(grid).exp() * (grid[1] - grid[0])
    truth = torch.autograd.grad((mass * reward(grid)).sum(), at)[0]
    n = 200_000
    head = at.detach().expand(n, 2).clone().requires_grad_()
    actions = policy.sample(head, torch.Generator().manual_seed(0)).detach()
    density = Normal(head[:, 0], head[:, 1].exp()).log_prob(actions[:, 0])
    noise = []
    for log_prob in (policy.log_prob(head, actions), density):
        each = torch.autograd.grad((log_prob * reward(actions[:, 0])).sum(), head)[0]
        assert bool(((each.mean(0) - truth).abs() < 4 * each.std(0) / math.sqrt(n)).all())
        noise.append(each.var(0))
    assert bool((noise[0] < 0.8 * noise[1]).all())


def test_log_prob_has_gradients_far_beyond_the_bound_and_where_there_is_none():
    for space in (spaces.Box(-1, 1, (1,), dtype=np.float32), SPACES["unbounded"]):
        policy = policy_for(space)
        k = policy.outputs
        head = torch.tensor([20.0] * k + [-3.0] * k)[None].requires_grad_()
        for action in (25.0, -25.0, 0.0):
            log_prob = policy.log_prob(head, torch.full((1, k), action))
            (gradient,) = torch.autograd.grad(log_prob.sum(), head)
            assert bool(log_prob.isfinite().all())
            assert bool(gradient.isfinite().all())


def test_samples_depend_on_their_generator_alone():
    for space in SPACES.values():
        policy = policy_for(space)
        head = heads(policy, 20)
        first, again = (policy.sample(head, torch.Generator().manual_seed(7)) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, policy.sample(head, torch.Generator().manual_seed(8)))


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("kind", SPACES)
def test_a_new_policy_is_nearly_uniform_and_its_networks_are_separate(kind):
    torch.manual_seed(0)
    model = ActorCritic((6,), SPACES[kind], (16, 16))
    obs = torch.randn(30, 6)
    head = model.head(obs)
    if isinstance(model.policy, CategoricalPolicy):
        uniform = sum(math.log(n) for n in model.policy.sizes)
        assert model.policy.entropy(head).tolist() == pytest.approx([uniform] * 30, abs=1e-3)
    else:
        assert float(head.chunk(2, -1)[0].abs().max()) < 0.1
        assert (head.chunk(2, -1)[1] == LOG_STD).all()
    assert model.value(obs).shape == (30,)
    names = {id(p) for p in model.actor_parameters()}
    assert not names & {id(p) for p in model.critic.parameters()}
    assert len(names) + len(list(model.critic.parameters())) == len(list(model.parameters()))


def test_images_go_through_convolutions():
    torch.manual_seed(0)
    model = ActorCritic((64, 64, 3), spaces.Discrete(15), ())
    images = torch.randint(256, (5, 64, 64, 3), dtype=torch.uint8)
    assert model.head(images).shape == (5, 15)
    assert model.value(images).shape == (5,)
    # 64 -> 15 -> 6 -> 4 pixels: three convolutions and a hidden layer (Mnih et al. 2015)
    sizes = 8 * 8 * 3 * 32 + 32 + 4 * 4 * 32 * 64 + 64 + 3 * 3 * 64 * 64 + 64 + 4 * 4 * 64 * 512 + 512
    assert sum(p.numel() for p in NatureEncoder((64, 64, 3)).parameters()) == sizes
    with pytest.raises(ValueError, match="too small"):
        NatureEncoder((20, 64, 3))


def test_weights_begin_orthogonal_or_as_glorots_with_the_same_layers():
    torch.manual_seed(0)
    plain, small = ImpalaEncoder((64, 64, 3)), ImpalaEncoder((64, 64, 3), begin=glorot)
    assert [p.shape for p in plain.parameters()] == [p.shape for p in small.parameters()]
    for net in (plain, small):
        for layer in (m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)):
            weight, taps = layer.weight, layer.weight[0, 0].numel()  # of a kernel
            fan_out, fan_in = len(weight) * taps, weight[0].numel()
            if net is small:
                assert float(weight.std()) == pytest.approx(math.sqrt(2 / (fan_in + fan_out)), rel=0.06)
                assert float(weight.abs().max()) <= math.sqrt(6 / (fan_in + fan_out))
            else:
                rows = weight.flatten(1)
                gram = rows @ rows.T if len(rows) <= rows.size(1) else rows.T @ rows
                assert torch.allclose(gram, gram[0, 0] * torch.eye(len(gram)), atol=1e-5)
            assert layer.bias is not None
            assert not layer.bias.any()
