"""The inner operations of the decoder, fast and plain: values, gradients, memory layouts, fewer bits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from decoder_model.kernels import FAST, PLAIN, Kernels
from tiny_decoder import causal_mask, naive_attention, random_tokens, tiny_decoder, uniform

OPERATIONS = ("rms_norm", "relu_squared", "rotate", "attention")


def operands(name: str, layout: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Differentiable operands and constants of an operation, laid out in memory in one of three ways.

    `strided`: views into larger or transposed tensors, as the decoder passes them. `cached`: fewer queries than keys.
    """
    B, T, H, D = 2, 5, 3, 8
    S = 9 if layout == "cached" else T
    if name == "attention":
        shapes = [(B * H, T, D), (B * H, S, D), (B * H, S, D)]
        constants = [causal_mask(T, S, dtype)]
    else:
        shapes = [(B, T, H, D)]
        angle = uniform(T, 1, D // 2, seed=9)
        constants = [angle.cos().to(dtype), angle.sin().to(dtype)] if name == "rotate" else []
    made = []
    for seed, shape in enumerate(shapes):
        if layout == "strided":
            wide = uniform(shape[-2] + 2, *shape[:-2], shape[-1], seed=seed, dtype=dtype).movedim(0, -2)
            x = wide[..., 1:-1, :]
            assert not x.is_contiguous()
        else:
            x = uniform(*shape, seed=seed, dtype=dtype)
        made.append(x.requires_grad_())
    return made, constants


def value_and_gradients(kernels: Kernels, name: str, xs: list[Tensor], constants: list[Tensor]) -> list[Tensor]:
    y = getattr(kernels, name)(*xs, *constants)
    weight = uniform(*y.shape, seed=77, dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad(y, xs, weight)]


@pytest.mark.parametrize("layout", ["contiguous", "strided", "cached"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_fast_and_plain_operations_agree(name, layout):
    xs, constants = operands(name, layout, torch.float32)
    for fast, plain in zip(*(value_and_gradients(k, name, xs, constants) for k in (FAST, PLAIN)), strict=True):
        assert fast.shape == plain.shape
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["contiguous", "strided", "cached"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_fast_operations_in_bf16_are_the_plain_ones_in_fp32_rounded(name, layout):
    xs, constants = operands(name, layout, torch.bfloat16)
    exact = value_and_gradients(
        PLAIN, name, [x.detach().float().requires_grad_() for x in xs], [c.float() for c in constants]
    )
    for fast, plain in zip(value_and_gradients(FAST, name, xs, constants), exact, strict=True):
        assert fast.dtype == torch.bfloat16
        assert float((fast - plain).norm() / plain.norm()) < 0.01


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_gradient_that_is_one_number_spread_out_is_taken_too(name):
    # .sum().backward() hands down a tensor without memory of its own, which must not be written to
    xs, constants = operands(name, "contiguous", torch.float32)
    found = [torch.autograd.grad(getattr(k, name)(*xs, *constants).sum(), xs) for k in (FAST, PLAIN)]
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_the_limits_of_differences(name, kernels):
    for layout in ("contiguous", "strided", "cached"):
        xs, constants = operands(name, layout, torch.float64)
        assert torch.autograd.gradcheck(lambda *x, c=constants: getattr(kernels, name)(*x, *c), xs)


@pytest.mark.parametrize("name", OPERATIONS)
def test_plain_operations_have_second_derivatives_and_fast_ones_refuse(name):
    xs, constants = operands(name, "contiguous", torch.float64)
    assert torch.autograd.gradgradcheck(lambda *x: getattr(PLAIN, name)(*x, *constants), xs)
    for differentiate in (lambda total: torch.autograd.grad(total, xs), lambda total: total.backward()):
        y = getattr(FAST, name)(*xs, *constants).square().sum()
        with pytest.raises(RuntimeError):
            differentiate(torch.stack([g.sum() for g in torch.autograd.grad(y, xs, create_graph=True)]).sum())


@pytest.mark.parametrize("arch", ["modern", "vaswani"])
def test_a_second_derivative_of_the_fast_decoder_is_refused_and_not_wrong(arch):
    # Here part of the graph does reach the parameters a second time, so a gradient that is cut off would go unnoticed.
    model = tiny_decoder(arch)
    tokens = random_tokens(model, 2)
    ps = list(model.parameters())

    def hessian_times_gradient() -> tuple[Tensor, ...]:
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
        first = torch.autograd.grad(loss, ps, create_graph=True)
        return torch.autograd.grad(torch.stack([0.5 * g.square().sum() for g in first]).sum(), ps)

    with pytest.raises(RuntimeError):
        hessian_times_gradient()
    model.kernels = PLAIN
    assert all(g.isfinite().all() for g in hessian_times_gradient())


def test_rms_norm_by_hand_and_at_zero():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)  # rms of the first: 5 / sqrt(2)
    for kernels in (FAST, PLAIN):
        y = kernels.rms_norm(x)
        torch.testing.assert_close(y, torch.tensor([[3.0, 4.0], [0.0, 0.0]]) * math.sqrt(2) / 5)
    (gradient,) = torch.autograd.grad(FAST.rms_norm(x).sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kernels", [FAST, PLAIN], ids=["fast", "plain"])
@pytest.mark.parametrize("layout", ["contiguous", "cached"])
def test_attention_is_the_papers_formula(layout, kernels):
    xs, constants = operands("attention", layout, torch.float32)
    torch.testing.assert_close(kernels.attention(*xs, *constants), naive_attention(*xs, *constants))
