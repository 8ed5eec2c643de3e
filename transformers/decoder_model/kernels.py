"""The decoder's inner operations: dropout and token shift, and the others twice, as formulas and with written-out gradients.

PyTorch's own attention is slow on CPUs in bf16 (22% fewer tokens per second in training, two AVX-512 cores), so both
versions multiply matrices instead. The gradients written out save memory, and 8% of the time in bf16, 16% in fp32
(tests/benchmarks/decoder_speed.py). They cannot be differentiated again: for Hessian-vector products and `torch.func`, use
`PLAIN`.
"""

# pyright: reportIncompatibleMethodOverride=false, reportPrivateImportUsage=false
# (autograd functions name their arguments; the gradient of softmax has no public name)

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

EPSILON = 1e-6  # keeps RMSNorm finite at 0
SHIFT = (8, 4)  # sixteenths of the channels that come from the token before, and from two tokens before


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout` with p rounded to a 256th: one random byte per element takes a quarter of the time on a CPU.

    PyTorch draws a float for each, on one core, which was 18% of a training step.
    """
    least = round(256 * p)
    if not training or x.device.type != "cpu" or not 0 < least < 256:
        return F.dropout(x, p, training)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(1 << 63), None)  # all 64 bits of each
    kept = (words.view(torch.uint8)[: x.numel()] >= least).view(x.shape)
    return x * kept.to(x.dtype).mul_(256 / (256 - least))


def token_shift(padded: Tensor) -> Tensor:
    """(B, lags + T, C) -> (B, T, C): the first channels from earlier tokens, SHIFT[i] sixteenths from i + 1 before."""
    lags, first = len(SHIFT), 0
    parts = []
    for lag, share in enumerate(SHIFT, 1):
        last = first + share * padded.size(2) // 16
        parts.append(padded[:, lags - lag : padded.size(1) - lag, first:last])
        first = last
    return torch.cat([*parts, padded[:, lags:, first:]], 2)


def plain_rms_norm(x: Tensor) -> Tensor:
    """x / rms(x) over the last axis, without a gain (Zhang & Sennrich 2019, eq. 4). Any shape."""
    return x / (x.square().mean(-1, keepdim=True).sqrt() + EPSILON)


def plain_relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, Primer)."""
    return F.relu(x).square()


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, eq. 34): x (B, T, H, D), cos and sin (T, 1, D/2).

    Channel i is paired with channel i + D/2; each pair turns by its own angle per position.
    """
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D) + mask) v (Vaswani et al. 2017, eq. 1): q, k, v (N, T, D), mask (T, T) of 0 and -inf."""
    return torch.softmax(q @ k.transpose(1, 2) * q.size(-1) ** -0.5 + mask, -1) @ v


def refuse_second_derivatives() -> None:
    """RuntimeError inside a backward pass that is to be differentiated again: what is saved is not enough for it.

    PyTorch's `once_differentiable` would stay silent where a gradient is asked for certain inputs only.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("the fast kernels have no second derivatives: use Decoder(…, kernels=PLAIN)")


def sparse_look_up(entries: Tensor, table: Tensor) -> Tensor:
    """`F.embedding(entries, table)`, whose gradient holds only the rows that were read, with their numbers.

    The tables are 6.4 M numbers, of which a step reads 0.26 M at most.
    """
    return F.embedding(entries, table, sparse=True)


class RMSNorm(Function):
    """dL/dx = (g - y mean(g y)) / rms(x) for y = x / rms(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).mul_(x.size(-1) ** -0.5).add_(EPSILON).reciprocal_()
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        refuse_second_derivatives()
        y, inverse = ctx.saved_tensors
        return torch.addcmul(g, y, (g * y).mean(-1, keepdim=True), value=-1).mul_(inverse)


class ReluSquared(Function):
    """dL/dx = 2 g max(x, 0): one tensor kept instead of two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = x.relu()
        ctx.save_for_backward(r)
        return r * r

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        refuse_second_derivatives()
        (r,) = ctx.saved_tensors
        return (g * r).mul_(2)


class Rotate(Function):
    """A rotation; its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivatives()
        cos, sin = ctx.saved_tensors
        return _turn(g, cos, sin, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    (a, b), (c, d) = x.chunk(2, -1), y.chunk(2, -1)
    torch.mul(a, cos, out=c).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=d).addcmul_(a, sin, value=sign)
    return y


class Attention(Function):
    """Batched matrix multiplies with the weights kept for the gradient: memory grows like T^2, which is small here."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        weights = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=q.size(-1) ** -0.5).softmax(-1)
        ctx.save_for_backward(q, k, v, weights)
        return torch.bmm(weights, v)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        refuse_second_derivatives()
        q, k, v, weights = ctx.saved_tensors
        # softmax: ds = w (dw - sum(dw w))
        scores = torch._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), weights, -1, weights.dtype)
        scores.mul_(q.size(-1) ** -0.5)
        return torch.bmm(scores, k), torch.bmm(scores.transpose(1, 2), q), torch.bmm(weights.transpose(1, 2), g), None


@dataclass(frozen=True)
class Kernels:
    """One implementation of the five operations."""

    rms_norm: Callable[[Tensor], Tensor]
    relu_squared: Callable[[Tensor], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    attention: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    look_up: Callable[[Tensor, Tensor], Tensor]


PLAIN = Kernels(plain_rms_norm, plain_relu_squared, plain_rotate, plain_attention, F.embedding)
FAST = Kernels(RMSNorm.apply, ReluSquared.apply, Rotate.apply, Attention.apply, sparse_look_up)


def kernels_for(device: torch.device) -> Kernels:
    """FAST on the CPU, which it was made for and measured on; elsewhere PyTorch's own gradients."""
    return FAST if device.type == "cpu" else PLAIN
