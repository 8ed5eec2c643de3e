"""Replays: on CUDA the same numbers as the function itself, for new inputs, new parameters and every shape."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from policy_networks import cuda_graphs
from policy_networks.actor_critic import ActorCritic
from policy_networks.cuda_graphs import MOST, OFTEN, Replays
from vpg_learner.gae_and_truncation import Batch
from vpg_learner.gradients import chunked_gradient
from vpg_learner.policy_step_and_value_fit import Weights, ppo_loss

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
SHAPE = (64, 64, 3)


def net(device: str) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(SHAPE, spaces.Discrete(15), (), encoder="impala", critic="shared").to(device)


def images(n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), dtype=np.uint8))


def batch(model: ActorCritic, n: int, seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head = torch.randn(n, 15, generator=random)
        actions = model.policy.sample(head, random)
        values = torch.randn(3, n, generator=random)
        streams = torch.zeros(n, dtype=torch.int64)
        old = model.policy.log_prob(head, actions)
        whole = Batch(images(n, seed), actions, values[0], values[1], streams, head, old, values[2])
    return Batch(*(tensor.to(next(model.parameters()).device) for tensor in whole.tensors))


def test_without_cuda_a_function_is_called_each_time():
    calls = []

    def double(x: torch.Tensor) -> list[torch.Tensor]:
        calls.append(x)
        return [2 * x]

    replays, x = Replays(), torch.arange(3.0)
    assert all(replays("double", double, x)[0].tolist() == [0.0, 2.0, 4.0] for _ in range(3))
    assert len(calls) == 3


class OnCuda(torch.Tensor):
    """A tensor that says it is on CUDA."""

    is_cuda = property(lambda self: True)  # type: ignore[assignment]


class Stub:
    """What stands for a graph: a replay calls the function again."""

    def __init__(self, function, given: list[torch.Tensor]):
        self.function, self.given = function, given
        self.found = [x.clone() for x in function(*given)]

    def replay(self) -> None:
        for mine, new in zip(self.found, self.function(*self.given), strict=True):
            mine.copy_(new)


def test_shapes_that_come_often_are_captured_and_only_so_many(monkeypatch):
    made: list[Stub] = []

    def capture(function, tensors):
        made.append(Stub(function, [x.clone() for x in tensors]))
        return made[-1], made[-1].given, made[-1].found

    monkeypatch.setattr(cuda_graphs, "_capture", capture)
    replays = Replays()
    for n in range(1, MOST + 4):
        for k in range(OFTEN + 2):
            x = torch.full((n,), float(k)).as_subclass(OnCuda)
            assert replays("double", lambda x: [2 * x], x)[0].tolist() == [2.0 * k] * n
            assert len(made) == min(n if k + 1 >= OFTEN else n - 1, MOST)
    kept = replays("double", lambda x: [2 * x], torch.ones(1).as_subclass(OnCuda))[0]
    replays("double", lambda x: [2 * x], torch.zeros(1).as_subclass(OnCuda))
    assert kept.tolist() == [2.0]  # the next replay does not write over it


@cuda
def test_replays_read_new_arguments_and_what_was_changed_in_place():
    weight, replays = torch.ones(4, device="cuda"), Replays()

    def product(x: torch.Tensor) -> list[torch.Tensor]:
        return [weight * x]

    for n, k in [(3, 1.0), (3, 2.0), (2, 3.0), (3, 4.0), (3, 5.0), (3, 6.0)]:
        x = torch.full((n, 4), k, device="cuda")
        weight.fill_(10 * k)
        with torch.inference_mode(n == 2):
            assert torch.equal(replays("product", product, x)[0], torch.full_like(x, 10 * k * k))
    assert len(replays._captured) == 1  # of the shape that came often


@cuda
def test_results_are_not_overwritten_by_the_next_replay():
    replays, one = Replays(), torch.ones(4, device="cuda")
    found = [replays("same", lambda x: [x + 0], k * one)[0] for k in range(OFTEN + 2)]
    assert [x.tolist() for x in found] == [[float(k)] * 4 for k in range(OFTEN + 2)]


@cuda
@pytest.mark.parametrize("bf16", [False, True])
def test_features_and_gradients_are_those_of_the_cpu(bf16: bool, monkeypatch):
    # By default a convolution's float32 inputs are cut to TF32's ten bits there: 0.54% of the third gradient on an H200,
    # and as much where the CPU rounds them likewise.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    slow, fast = net("cpu"), net("cuda")
    fast.bf16 = bf16
    close = 0.03 if bf16 else 2e-3
    for seed in range(3):
        with torch.no_grad():
            for p, q in zip(slow.parameters(), fast.parameters(), strict=True):
                p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
                q.copy_(p)
            expected = slow.head_and_value(images(64, seed))
            got = [fast.head_and_value(images(64, seed).cuda()) for _ in range(OFTEN)][-1]
        for mine, theirs in zip(got, expected, strict=True):
            assert float((mine.cpu() - theirs).norm() / theirs.norm()) < close
        n = (256, 512, 100)[seed]
        weights = Weights(0.01, 0.5)
        expected = chunked_gradient(ppo_loss, slow, batch(slow, n, seed), weights, n, 0.2)
        rows = batch(fast, n, seed)
        got = [chunked_gradient(ppo_loss, fast, rows, weights, n, 0.2) for _ in range(OFTEN)][-1]
        difference = sum(float((g.cpu() - e).square().sum()) for g, e in zip(got, expected, strict=True))
        assert (difference / sum(float(e.square().sum()) for e in expected)) ** 0.5 < 2 * close
