"""B_simple along a training run, from the two halves of some of its batches: `train.py --track-noise`.

A tracked step makes its backward pass in two halves, whose sum is the gradient that it would have had anyway. The squared
norms of a half and of the whole give |G|^2 and tr(Sigma) (McCandlish et al. 2018, eqs. A.1, A.2); single steps are far too
noisy, so both are averaged over the steps between two rows of metrics.csv, and only then divided.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.stats import two_batch
from gradient_noise.noise_estimators import Interval, ratio_of_means

EVERY = 4  # steps; so it takes 4% of the time (tests/benchmarks/tracking_overhead.py)
LAST = 0.5  # of the rows: those that the run's own noise scale comes from


class NoiseTracker:
    """The squared norms of tracked steps since the last row; the unit is a sequence."""

    def __init__(self, model: nn.Module, batch: int):
        if batch % 2:
            raise ValueError(f"halves of a batch need an even number of sequences, not {batch}")
        self.parameters, self.batch = list(model.parameters()), batch
        self.squares: list[Tensor] = []  # (2,) each: of a half, the mean of both, and of the whole

    def due(self, step: int) -> bool:
        """Whether this step, from 0, is tracked."""
        return step % EVERY == 0

    def backward(self, loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """`loss(inputs, targets).backward()` in two halves; `loss` is a mean over the sequences. The loss, detached."""
        middle, total = self.batch // 2, torch.zeros((), device=inputs.device)
        kept: list[Tensor] = []
        for half in (slice(middle), slice(middle, None)):
            part = 0.5 * loss(inputs[half], targets[half])
            part.backward()
            total = total + part.detach()
            if not kept:
                kept = [_gradient(p).clone() for p in self.parameters]
        whole = [_gradient(p) for p in self.parameters]
        first = _square(kept)
        second = _square([g - k for g, k in zip(whole, kept, strict=True)])
        # Each half was weighted by a half: its own mean gradient is twice as large.
        self.squares.append(torch.stack([2 * (first + second), _square(whole)]))
        return total

    def take(self) -> dict[str, float]:
        """The columns of a row of metrics.csv; nan where no step was tracked since the last one."""
        if not self.squares:
            return {"noise_squared_norm": math.nan, "noise_trace": math.nan}
        small, big = torch.stack(self.squares).mean(0).tolist()
        self.squares = []
        squared_norm, trace = two_batch(small, big, self.batch / 2, self.batch)
        return {"noise_squared_norm": float(squared_norm), "noise_trace": float(trace)}

    def state(self) -> list[list[float]]:
        """Plain values, for the checkpoint."""
        return [pair.tolist() for pair in self.squares]

    def load(self, state: list[list[float]]) -> None:
        """Go on where `state()` was called."""
        self.squares = [torch.tensor(pair, device=self.parameters[0].device) for pair in state]


def _gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


def _square(tensors: list[Tensor]) -> Tensor:
    """Of all numbers in them; in a sparse one a row may stand several times, which are to be added first."""
    return torch.stack([(t.coalesce().values() if t.is_sparse else t).square().sum() for t in tensors]).sum()


def noise_of(metrics: dict[str, np.ndarray], context: int) -> Interval:
    """B_simple in tokens over the last half of a run's rows; nan where fewer than two of them have a measurement."""
    trace, squared_norm = metrics["noise_trace"], metrics["noise_squared_norm"]
    rows = np.flatnonzero(np.isfinite(trace))
    rows = rows[rows >= (1 - LAST) * len(trace)]
    if len(rows) < 2:
        return Interval(math.nan, math.nan, math.nan)
    return ratio_of_means(trace[rows], squared_norm[rows]).scaled(context)


def noise_summary(metrics: dict[str, np.ndarray], context: int) -> dict[str, Any]:
    """The summary's numbers; None where there is none, or no end."""
    found = noise_of(metrics, context)
    numbers = {"noise_scale_tokens": found.value, "noise_scale_lo95": found.lo95, "noise_scale_hi95": found.hi95}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
