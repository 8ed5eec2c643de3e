"""RowAdam touches the rows that were read, and comes to what Adam without momentum comes to on the whole table."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from decoder_model.kernels import FAST, PLAIN
from optimisation.row_adam import BETA2, EPSILON, RowAdam

ROWS, WIDTH = 7, 3


def table() -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, ROWS * WIDTH).view(ROWS, WIDTH).clone())


def backward(look_up, p: nn.Parameter, read: Tensor, seed: int) -> None:
    """A gradient on the rows that are read, and on one that is read twice the sum of two."""
    weights = torch.randn(len(read), WIDTH, generator=torch.Generator().manual_seed(seed))
    p.grad = None
    (look_up(read, p) * weights).sum().backward()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=9), min_size=1, max_size=12))
def test_it_is_adam_without_momentum_whatever_is_read(read):
    sparse, dense, mixed, reference = table(), table(), table(), table()
    ours = [RowAdam(p) for p in (sparse, dense, mixed)]
    adam = torch.optim.Adam([reference], lr=0.0, betas=(0.0, BETA2), eps=EPSILON, foreach=False)
    for step, rows in enumerate(map(torch.tensor, read)):
        lr = 0.1 / (1 + step)
        backward(FAST.look_up, sparse, rows, step)
        backward(PLAIN.look_up, dense, rows, step)
        backward((FAST, PLAIN)[step % 2].look_up, mixed, rows, step)
        backward(PLAIN.look_up, reference, rows, step)
        assert sparse.grad is not None
        torch.testing.assert_close(sparse.grad.to_dense(), reference.grad)
        for one in ours:
            one.step(lr)
        adam.param_groups[0]["lr"] = lr
        adam.step()
    for p in (sparse, dense, mixed):
        torch.testing.assert_close(p, reference, rtol=1e-4, atol=1e-6)


def test_by_hand():
    """g = 2 in steps 1 and 3: v is 0.03 x 4, then 0.97^2 of that and as much again; the other rows stay."""
    p = nn.Parameter(torch.ones(2, 1))
    adam = RowAdam(p)
    for step in (1, 2, 3):
        p.grad = None
        FAST.look_up(torch.tensor([step % 2]), p).mul(2.0).sum().backward()
        adam.step(0.5)
    first = 0.5 * 2 / (0.12 / 0.03) ** 0.5
    third = 0.5 * 2 / ((0.97**2 * 0.12 + 0.12) / (1 - 0.97**3)) ** 0.5
    second = 0.5 * 2 / (0.12 / (1 - 0.97**2)) ** 0.5
    assert p.flatten().tolist() == pytest.approx([1 - second, 1 - first - third], rel=1e-5)
    assert adam.updated.tolist() == [2, 3]


def test_a_row_read_once_moves_as_far_as_adam_carries_it_in_the_end():
    """What BETA2 is chosen for: 5.8 rates, Adam's with (0.9, 0.95)."""
    ours, theirs = (nn.Parameter(torch.zeros(1, 1)) for _ in range(2))
    row, adam = RowAdam(ours), torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-10)
    for step in range(1000):
        ours.grad = theirs.grad = torch.full((1, 1), float(step == 700))
        row.step(0.01)
        adam.step()
    assert float(ours.detach()) == pytest.approx(-0.01 * 0.03**-0.5, rel=1e-3)
    assert float(theirs.detach()) == pytest.approx(float(ours.detach()), rel=0.02)
