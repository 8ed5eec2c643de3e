"""plain_reinforce.py, one file to read, against the fast code: from equal weights and equal data both compute the same."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import plain_reinforce as plain
from rl_settings.seed_purposes import TRAIN, seeds
from rl_settings.vpg_settings import Config, resolve
from vpg_learner.gae_and_truncation import gae, make_batch, next_values, rewards_to_go
from vpg_learner.gradients import flat, grouped_gradient
from vpg_learner.policy_step_and_value_fit import Weights, vpg_loss
from vpg_learner.rollout import Rollout
from vpg_learner.vpg_trainer import Trainer

SCRIPT = Path(plain.__file__)
N, T = 4, 48
SHORT_POLE = "ShortPole-v0"  # both ends of an episode happen within a few steps, and there is no vectorised version


@pytest.fixture(autouse=True, scope="module")
def _short_pole():
    gymnasium.register(SHORT_POLE, "gymnasium.envs.classic_control.cartpole:CartPoleEnv", max_episode_steps=14)
    yield
    gymnasium.registry.pop(SHORT_POLE)


@pytest.fixture
def trainer():
    """The fast code at the plain file's settings, its policy no longer nearly uniform."""
    settings = {
        "lr": plain.POLICY_LR,
        "value_lr": plain.VALUE_LR,
        "value_epochs": plain.VALUE_STEPS,
        "value_minibatch": 0,
    }
    scaling = {"normalise_observations": False, "normalise_rewards": False, "max_grad_norm": 0.0, "anneal": False}
    config = Config(
        env=SHORT_POLE,
        num_envs=N,
        horizon=T,
        gamma=plain.GAMMA,
        lam=plain.LAM,
        **settings,
        **scaling,  # type: ignore[arg-type]
    )
    trainer = Trainer(resolve(config), torch.device("cpu"))
    with torch.no_grad():
        trainer.model.actor[-1].weight.mul_(50)  # type: ignore[operator]
    yield trainer
    trainer.close()


def plain_networks(trainer: Trainer) -> tuple[torch.nn.Sequential, torch.nn.Sequential]:
    """Policy and value network with the fast code's weights."""
    policy, value = plain.mlp(4, 2), plain.mlp(4, 1)
    policy.load_state_dict(trainer.model.actor.state_dict())
    value.load_state_dict(trainer.model.critic.state_dict())
    return policy, value


def begun(env_seeds: list[int]) -> tuple[list[gymnasium.Env], Tensor]:
    """Environments and their first observations."""
    envs = [gymnasium.make(SHORT_POLE) for _ in env_seeds]
    return envs, torch.tensor(np.array([env.reset(seed=s)[0] for env, s in zip(envs, env_seeds, strict=True)]))


def collected(policy: torch.nn.Module, batches: int = 1) -> list[tuple[plain.Batch, Tensor]]:
    """Batches in a row with the observations after each; all kinds of ends are in every one of them."""
    envs, obs = begun(list(range(N)))
    random, found = torch.Generator().manual_seed(0), []
    for _ in range(batches):
        batch, obs = plain.collect(envs, obs, policy, random, T)
        assert batch.terminated.any()
        assert batch.truncated.any()
        assert not (batch.terminated | batch.truncated)[-1].all()
        found.append((batch, obs))
    return found


def as_rollout(batch: plain.Batch, obs: Tensor, trainer: Trainer) -> Rollout:
    """The same steps as the fast code keeps them."""
    ended = batch.terminated | batch.truncated
    finals = [(t, which.nonzero().flatten().numpy()) for t, which in enumerate(ended) if which.any()]
    with torch.no_grad():
        heads = trainer.model.head(batch.obs)
    return Rollout(
        obs=torch.cat([batch.obs, obs[None]]),
        actions=batch.actions,
        rewards=batch.rewards,
        terminated=batch.terminated,
        truncated=batch.truncated,
        valid=torch.ones_like(ended),
        starts=torch.zeros(N),
        finals=[(t, which, batch.next_obs[t, torch.from_numpy(which)]) for t, which in finals],
        heads=heads,
        values=None,
        passes=[],
    )


# ---------------------------------------------------------------- by hand


def column(*values: float) -> Tensor:
    """One environment: (T, 1)."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


def steps(rewards: Tensor, terminated: Tensor, truncated: Tensor) -> plain.Batch:
    """A batch of which only this matters."""
    nothing = torch.zeros_like(rewards)
    return plain.Batch(nothing, nothing, rewards, nothing, terminated.bool(), truncated.bool())


def test_gae_by_hand():
    """gamma = 0.5, lam = 0.5: an episode ends, one is cut off by a clock, one by the batch.

    | t | r | V | V next | end        | delta                | A                    |
    | 0 | 1 | 2 | 4      |            | 1 + 2 - 2 = 1        | 1 + -1 / 4 = 0.75    |
    | 1 | 3 | 4 | 99     | terminated | 3 + 0 - 4 = -1       | -1                   |
    | 2 | 2 | 6 | 8      |            | 2 + 4 - 6 = 0        | 0 + 5 / 4 = 1.25     |
    | 3 | 5 | 8 | 16     | truncated  | 5 + 8 - 8 = 5        | 5                    |
    | 4 | 1 | 2 | 6      |            | 1 + 3 - 2 = 2        | 2 + 4 / 4 = 3        |
    | 5 | 4 | 6 | 12     | the batch  | 4 + 6 - 6 = 4        | 4                    |
    """
    batch = steps(column(1, 3, 2, 5, 1, 4), column(0, 1, 0, 0, 0, 0), column(0, 0, 0, 1, 0, 0))
    values, following = column(2, 4, 6, 8, 2, 6), column(4, 99, 8, 16, 6, 12)
    assert plain.gae(batch, values, following, 0.5, 0.5).flatten().tolist() == [0.75, -1, 1.25, 5, 3, 4]


def test_a_step_that_is_both_terminated_and_truncated_is_terminated():
    batch = steps(column(1), column(1), column(1))
    assert plain.gae(batch, column(2), column(8), 0.5, 0.5).flatten().tolist() == [-1]


def test_losses_by_hand():
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, np.log(3.0)]]])  # (T, N, A): pi = 1/2, 1/2 and 1/4, 3/4
    found = plain.policy_loss(logits, torch.tensor([[0], [1]]), column(2, -1))
    assert float(found) == pytest.approx(-(2 * np.log(1 / 2) - np.log(3 / 4)) / 2)
    assert float(plain.value_loss(column(1, 2), column(4, 2))) == pytest.approx(9 / 4)


# ---------------------------------------------------------------- the same as the fast code


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_advantages_and_returns_are_the_fast_ones(lam):
    random = torch.Generator().manual_seed(round(10 * lam))
    rewards, values, following = (torch.randn(60, 5, generator=random) for _ in range(3))
    terminated, truncated = (torch.rand(60, 5, generator=random) < 0.1 for _ in range(2))
    ended = terminated | truncated
    following[:-1] = torch.where(ended[:-1], following[:-1], values[1:])
    advantages = plain.gae(steps(rewards, terminated, truncated), values, following, 0.97, lam)
    torch.testing.assert_close(advantages, gae(rewards, values, following, terminated, truncated, 0.97, lam))
    if lam == 1:
        to_go = rewards_to_go(rewards, following, terminated, truncated, 0.97)
        torch.testing.assert_close(advantages + values, to_go, rtol=1e-5, atol=1e-5)


def test_the_fast_code_makes_the_same_batch(trainer):
    ((batch, obs),) = collected(plain_networks(trainer)[0])
    advantages, targets = plain.estimate(batch, plain_networks(trainer)[1])
    found, _ = make_batch(trainer.settings, as_rollout(batch, obs, trainer), trainer.model)
    torch.testing.assert_close(plain.normalised(advantages).flatten(), found.advantages, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(targets.flatten(), found.targets)
    assert torch.equal(batch.obs.flatten(0, 1), found.obs)
    assert torch.equal(batch.actions.flatten(), found.actions)


def test_the_policy_gradient_is_the_fast_one(trainer):
    policy, value = plain_networks(trainer)
    ((batch, obs),) = collected(policy)
    advantages = plain.normalised(plain.estimate(batch, value)[0])
    loss = plain.policy_loss(policy(batch.obs), batch.actions, advantages)
    expected = flat(torch.autograd.grad(loss, list(policy.parameters())))
    rows, _ = make_batch(trainer.settings, as_rollout(batch, obs, trainer), trainer.model)
    for groups in (1, 2):  # the fast code adds up the parts of two, for the noise between them
        found, _ = grouped_gradient(vpg_loss, trainer.model, rows, Weights(), N, groups)
        torch.testing.assert_close(flat(found), expected, rtol=1e-4, atol=1e-6)
    assert float(expected.norm()) > 0.01


@pytest.mark.parametrize("updates", [1, 3])
def test_updates_give_the_same_weights(trainer, monkeypatch, updates):
    """The two loops, each with its own optimisers, on the same batches: a step of the policy, then the values' fit."""
    policy, value = plain_networks(trainer)
    before = flat([p.detach().clone() for p in (*policy.parameters(), *value.parameters())])
    batches = collected(policy, updates)
    handed_out = iter(batches)
    monkeypatch.setattr(plain, "collect", lambda *_: next(handed_out))
    plain.train([], torch.empty(0), policy, value, updates, torch.Generator())
    for batch, obs in batches:
        rollout = as_rollout(batch, obs, trainer)
        monkeypatch.setattr(trainer.collector, "collect", lambda *_, rollout=rollout: rollout)
        trainer.update()
    found = flat([p.detach() for p in (*trainer.model.actor.parameters(), *trainer.model.critic.parameters())])
    after = flat([p.detach() for p in (*policy.parameters(), *value.parameters())])
    torch.testing.assert_close(after, found, rtol=0, atol=1e-5)  # a step is 500 times as long
    assert float((after - before).abs().max()) > plain.POLICY_LR


def test_a_policy_that_leaves_nothing_to_chance_meets_the_same_transitions(trainer):
    """From the same seeds. The fast code's environments reset themselves in a step of their own, which is not valid."""
    with torch.no_grad():
        trainer.model.actor[-1].weight.mul_(1e5)  # type: ignore[operator]
        trainer.model.actor[-1].bias.copy_(torch.tensor([12_500.0, 0.0]))  # to the left, so that some poles fall
    policy, value = plain_networks(trainer)
    rollout = trainer.collector.collect(trainer.model, torch.Generator())
    following = next_values(rollout, trainer.model.value, trainer.model.value(rollout.obs))
    envs, obs = begun(seeds(trainer.settings.seed, N, TRAIN))
    batch, _ = plain.collect(envs, obs, policy, torch.Generator(), T)
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    for i, valid in enumerate(rollout.valid.T):
        count = int(valid.sum())
        for name in ("actions", "rewards", "terminated", "truncated"):
            assert torch.equal(getattr(rollout, name)[valid, i], getattr(batch, name)[:count, i]), name
        assert torch.equal(rollout.obs[:-1][valid, i], batch.obs[:count, i])
        torch.testing.assert_close(following[valid, i], value(batch.next_obs[:count, i]).squeeze(-1))


# ---------------------------------------------------------------- one file, by itself


def test_it_is_one_short_file_that_needs_nothing_of_this_repository():
    source = SCRIPT.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {"torch", "numpy", "gymnasium"} | sys.stdlib_module_names


def test_it_learns_and_ends_with_its_line(tmp_path):
    """`-I` leaves the script's own folder off the path."""
    command = [sys.executable, "-I", str(SCRIPT), "--steps", "20000"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    first, last = run.stdout.splitlines()
    assert re.fullmatch(r"step +20,480 +return +\d+\.\d +values off by +\d+\.\d\d", first)
    line = re.fullmatch(
        r"CartPole-v1: return (\d+\.\d) \+- \d+\.\d \(20 episodes, standard error\) after 20,480 steps", last
    )
    assert line, last
    assert float(line[1]) > 60  # 22 at the start
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--env", "Nope-v1"), "error: --env Nope-v1 cannot be made: "),
        (("--env", "nowhere:Nope-v1"), "error: --env nowhere:Nope-v1 cannot be made: "),
        (("--env", "Pendulum-v1"), "error: --env Pendulum-v1 is for vpg.py"),
        (("--env", "FrozenLake-v1"), "error: --env FrozenLake-v1 is for vpg.py"),
        (("--steps", "0"), "error: --steps must be positive"),
        (("--seed", "-1"), "error: --steps must be positive, and --seed must not be negative"),
    ],
    ids=lambda a: "-".join(a).replace("--", "") if isinstance(a, tuple) else "",
)
def test_bad_arguments_are_one_sentence(monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *arguments])
    with pytest.raises(SystemExit) as stop:
        plain.main()
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(sentence)
    assert len(err.splitlines()) == 1
