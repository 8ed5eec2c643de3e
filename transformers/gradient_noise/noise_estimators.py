"""How noisy the gradient of a batch is: the noise scales of McCandlish et al. 2018, unbiased and with intervals.

G is the gradient of the expected loss, Sigma the covariance of one example's gradient; an example is a sequence, unless it
is said to be a token. B_simple = tr(Sigma) / |G|^2 (eq. 2.9) is the batch beyond which more examples make the direction of
the gradient little better; B_noise = tr(H Sigma) / (G^T H G) (eq. 2.8) is the one beyond which they make a step of SGD
little better, H being the Hessian. Numerator and denominator are always averaged apart from each other and never clipped:
single estimates of |G|^2 are often negative, and only the ratio of two means is worth anything.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from common.stats import two_batch

Array = NDArray[np.float64]
Batch = tuple[Tensor, Tensor]  # inputs and targets, (B, T) each
IGNORED = -100  # as a target: this token's loss does not count
EXAMPLES_AT_ONCE = 16  # whose gradients are held in memory together


@dataclass(frozen=True)
class Interval:
    """A number with its 95% interval, which may have no end."""

    value: float
    lo95: float
    hi95: float

    def __contains__(self, number: float) -> bool:
        return self.lo95 <= number <= self.hi95

    def scaled(self, factor: float) -> "Interval":
        """In another unit; the factor is positive."""
        return Interval(factor * self.value, factor * self.lo95, factor * self.hi95)


# ---------------------------------------------------------------- formulas


def ratio_of_means(numerators: ArrayLike, denominators: ArrayLike) -> Interval:
    """mean / mean of n independent pairs, with Fieller's 95% interval (Fieller 1954), for a ratio that is not negative.

    The ratios r that a t-test of mean(numerator - r denominator) = 0 does not reject: it keeps its coverage where the
    denominator is not clearly different from zero, and then has no upper end. The value is infinite where the
    denominator's mean is not positive. ValueError for fewer than two pairs.
    """
    a, b = np.asarray(numerators, float), np.asarray(denominators, float)
    n = len(a)
    if n < 2:
        raise ValueError("an interval needs two measurements at least")
    mean_a, mean_b = a.mean(), b.mean()
    (var_a, cov), (_, var_b) = np.cov(a, b) / n
    value = mean_a / mean_b if mean_b > 0 else np.inf
    t2 = stdtrit(n - 1, 0.975) ** 2
    # p r^2 - 2 q r + c <= 0
    p, q, c = mean_b**2 - t2 * var_b, mean_a * mean_b - t2 * cov, mean_a**2 - t2 * var_a
    root = np.sqrt(max(q * q - p * c, 0.0))
    if p > 0:
        low, high = (q - root) / p, (q + root) / p
    elif q * q - p * c <= 0:  # every ratio passes
        low, high = 0.0, np.inf
    else:  # outside the two roots; below the lower one they are negative, unless the numerator is not clear either
        low, high = (0.0 if c <= 0 else (q - root) / p), np.inf
    if mean_b <= 0 and p > 0:  # clearly negative: a ratio of a positive number to it is none
        low, high = np.inf, np.inf
    return Interval(float(value), float(max(low, 0.0)), float(high))


def per_example_moments(gradients: Tensor) -> tuple[float, float]:
    """|G|^2 and tr(Sigma), unbiased, from the gradients (N, P) of N examples: the slow exact reference."""
    n = len(gradients)
    mean = gradients.mean(0)
    trace = float((gradients - mean).square().sum()) / (n - 1)
    return float(mean @ mean) - trace / n, trace


def token_correlation(contexts: ArrayLike, sequences: ArrayLike) -> tuple[float, float]:
    """B_1 and rho of B(T) = B_1 (1 + (T - 1) rho), from noise scales in sequences of T tokens each.

    B(T) = T x `sequences` is the noise scale in tokens: independent of T, with rho = 0, if the gradients of a sequence's
    tokens are uncorrelated, and rho is what two of them have in common. Least squares in log space.
    """
    T = np.asarray(contexts, float)
    logs = np.log(T * np.asarray(sequences, float))

    def error(rho: float) -> tuple[float, float]:
        shape = np.log1p((T - 1) * rho)
        level = (logs - shape).mean()
        return float(((logs - shape - level) ** 2).sum()), float(level)

    # Over rho from just above -1 / (max T - 1), where the least noise scale would be zero, to 1.
    lowest = -1 / (T.max() - 1)
    grid = np.concatenate([lowest * (1 - np.geomspace(1e-3, 1, 400)), np.geomspace(1e-6, 1, 2000)])
    rho = min(grid, key=lambda r: error(r)[0])
    return float(np.exp(error(rho)[1])), float(rho)


# ---------------------------------------------------------------- measurements


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Mean nats per token that is not IGNORED."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def gradient(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Of the mean loss, parameter by parameter."""
    return list(torch.autograd.grad(loss_of(model, batch), list(model.parameters())))


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """One vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


def parts_of_batch(batch: Batch, parts: int) -> Iterator[Batch]:
    """`parts` batches of equal size."""
    inputs, targets = batch
    if len(inputs) % parts:
        raise ValueError(f"{len(inputs)} examples do not make {parts} equal parts")
    size = len(inputs) // parts
    yield from zip(inputs.split(size), targets.split(size), strict=True)


@dataclass(frozen=True)
class Squares:
    """Squared gradient norms of n batches by parameter: of all `big` examples, and the mean over parts of `small`."""

    names: tuple[str, ...]
    small_squares: Array  # (n, parameters)
    big_squares: Array  # (n, parameters)
    small: int
    big: int

    def moments(self, name: str | None = None) -> tuple[Array, Array]:
        """|G|^2 and tr(Sigma) of each batch (n,), of one parameter or of all together."""
        chosen = slice(None) if name is None else [self.names.index(name)]
        small, big = (squares[:, chosen].sum(1) for squares in (self.small_squares, self.big_squares))
        return two_batch(small, big, self.small, self.big)

    def b_simple(self, name: str | None = None) -> Interval:
        """tr(Sigma) / |G|^2 in examples (eq. 2.9), of one parameter or of all together."""
        squared_norm, trace = self.moments(name)
        return ratio_of_means(trace, squared_norm)


def measure(model: nn.Module, batches: Iterable[Batch], parts: int) -> Squares:
    """The gradients of every batch and of its `parts` parts. It costs what training on the batches would."""
    names = tuple(name for name, _ in model.named_parameters())
    small, big, size = [], [], 0
    for batch in batches:
        size = len(batch[0])
        total, squares = None, torch.zeros(len(names))
        for part in parts_of_batch(batch, parts):
            g = gradient(model, part)
            squares += torch.stack([x.square().sum() for x in g]).cpu() / parts
            total = g if total is None else [t.add_(x) for t, x in zip(total, g, strict=True)]
        assert total is not None
        small.append(squares.double().numpy())
        big.append(torch.stack([x.square().sum() for x in total]).cpu().double().numpy() / parts**2)
    return Squares(names, np.stack(small), np.stack(big), size // parts, size)


def per_example_gradients(model: nn.Module, batch: Batch) -> Tensor:
    """(B, P): the gradient of each example's mean loss. The model's kernels must be PLAIN, its dropout off."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (inputs[None],))[0], targets)

    each: Callable[..., dict[str, Tensor]] = vmap(
        grad(loss), in_dims=(None, 0, 0), chunk_size=EXAMPLES_AT_ONCE, randomness="error"
    )
    found = each(parameters, *batch)
    return torch.cat([found[name].flatten(1) for name in parameters], 1)


def hessian_moments(model: nn.Module, batch: Batch, parts: int, curvature: Batch) -> tuple[float, float]:
    """G^T H G and tr(H Sigma), unbiased, with H from the batch `curvature` and the gradients of `parts` parts of `batch`.

    With g_k the parts' gradients over b examples each, g their mean and K their number: tr(H Sigma) = b / (K - 1)
    sum_k (g_k - g)^T H (g_k - g), and G^T H G = g^T H g - tr(H Sigma) / (b K). `curvature` must hold other examples than
    `batch`, and the model's kernels must be PLAIN, which have second derivatives.
    """
    parameters = list(model.parameters())
    each = torch.stack([flat(gradient(model, part)) for part in parts_of_batch(batch, parts)])
    mean = each.mean(0)
    first = flat(torch.autograd.grad(loss_of(model, curvature), parameters, create_graph=True))

    def form(v: Tensor) -> float:
        """v^T H v"""
        return float(flat(torch.autograd.grad(first, parameters, v, retain_graph=True)) @ v)

    b = len(batch[0]) // parts
    trace = b / (parts - 1) * sum(form(g - mean) for g in each)
    return form(mean) - trace / (b * parts), trace
