"""Muon (Jordan et al. 2024), the optimiser of the hidden matrices.

It replaces the momentum of each matrix by the nearest orthogonal one, so that every direction of the matrix learns at the
same speed. `torch.optim.Muon` treats one matrix at a time; here all matrices of one shape are a batch, which makes the step
1.7 times as fast on two CPU cores (tests/benchmarks/decoder_speed.py).
"""

from typing import Any

import torch
from torch import Tensor, nn

# Five odd polynomials a x + b x^3 + c x^5 whose composition takes every singular value in [0.003, 1] close to 1: the
# coefficients of Amsel et al. 2025 (Polar Express) with their safety factor.
POLAR_EXPRESS = (
    (8.1566, -22.4833, 15.8788),
    (4.0429, -2.8089, 0.5000),
    (3.8917, -2.7725, 0.5061),
    (3.2858, -2.3681, 0.4645),
    (2.3465, -1.7098, 0.4232),
)


def orthogonalize(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrices of `x` (N, rows, columns), rows <= columns, with their singular values moved close to 1.

    A composition of matrix polynomials instead of a singular value decomposition; the products run in `dtype`.
    """
    x = x.to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-7)  # the Frobenius norm bounds every singular value
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.float()


class Muon:
    """M <- mu M + (1 - mu) G; W <- W (1 - lr decay) - lr sqrt(max(1, rows / columns)) orthogonalize(mu M + (1 - mu) G).

    A parameter of shape (3 C, C), the fused queries, keys and values, counts as three matrices one above the other.
    """

    def __init__(self, parameters: list[nn.Parameter], dtype: torch.dtype = torch.float32):
        self.dtype = dtype
        # Matrices of one shape, laid on their long side, share a batch.
        self.batches: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in parameters:
            self.batches.setdefault((p.size(1), p.size(1)) if _fused(p) else (min(p.shape), max(p.shape)), []).append(p)
        self.moments = {shape: torch.zeros_like(_stack(batch, shape)) for shape, batch in self.batches.items()}

    @torch.no_grad()
    def step(self, lr: float, momentum: float, decay: float) -> None:
        """One update from the gradients in `.grad`."""
        for shape, batch in self.batches.items():
            g = _stack([_grad(p) for p in batch], shape)
            moment = self.moments[shape].lerp_(g, 1 - momentum)
            update = orthogonalize(g.lerp_(moment, momentum), self.dtype)  # Nesterov
            done = 0
            for p in batch:
                n = p.numel() // (shape[0] * shape[1])
                mine, done = update[done : done + n], done + n
                tall = not _fused(p) and p.size(0) > p.size(1)
                mine = mine[0].T if tall else mine.reshape(p.shape)
                p.mul_(1 - lr * decay).add_(mine, alpha=-lr * ((p.size(0) / p.size(1)) ** 0.5 if tall else 1.0))


def _fused(p: Tensor) -> bool:
    return p.size(0) == 3 * p.size(1)


def _stack(tensors: list[Any], shape: tuple[int, int]) -> Tensor:
    """(rows, columns) matrices as one (N, *shape), the tall ones transposed."""
    return torch.cat([t.reshape(-1, *shape) if _fused(t) or t.shape == shape else t.T[None] for t in tensors])


def _grad(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad
