"""The one solver behind the laws: Huber fits of log loss with analytic gradients, thousands of data sets at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# theta (B, P), x (K, J) -> log loss (B, K) and its derivatives (B, K, P)
ValueAndGradient = Callable[[Array, Array], tuple[Array, Array]]
# What keeps parameters where they mean something: theta (B, P), floor of log E (B,) -> theta (B, P)
Bounds = Callable[[Array, Array], Array]
SMALLEST_E = 1e-8  # in units of the smallest loss: log E stays finite where the data want none
LARGEST_BLOCK = 500_000  # numbers in one array of derivatives: what the caches hold


def huber(residual: Array, delta: float) -> Array:
    """Huber 1964: quadratic up to delta, linear beyond."""
    size = np.abs(residual)
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))


def minimise(
    law: ValueAndGradient,
    x: Array,
    y: Array,
    theta: Array,
    delta: float,
    iterations: int = 300,
    weight: Array | None = None,
    bounds: Bounds | None = None,
    tolerance: float = 1e-9,
) -> tuple[Array, Array]:
    """Minimise sum_k weight_k Huber_delta(law - y) for many data sets, or from many starts, at once.

    x (K, J) centred log sizes, y (B, K) log losses, theta (B, P) starts, weight (B, K) (0 leaves a point out; default
    1) -> the minima (B, P) and their objectives (B,). Levenberg-Marquardt steps on the quadratic that touches the Huber
    function from above at the present residuals (iteratively reweighted least squares): no accepted step goes up. A fit
    ends after a dozen steps that lower its objective by less than a share of `tolerance`.
    """
    rows = max(1, LARGEST_BLOCK // (len(x) * theta.shape[1]))
    weight = np.ones((1, len(x))) if weight is None else weight
    weight = np.broadcast_to(weight, y.shape)
    parts = [
        _minimise_block(
            law, x, y[i : i + rows], theta[i : i + rows], delta, iterations, weight[i : i + rows], bounds, tolerance
        )
        for i in range(0, len(theta), rows)
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _minimise_block(
    law: ValueAndGradient,
    x: Array,
    y: Array,
    theta: Array,
    delta: float,
    iterations: int,
    weight: Array,
    bounds: Bounds | None,
    tolerance: float,
) -> tuple[Array, Array]:
    theta = theta.copy()
    floor = y.min(1) + np.log(SMALLEST_E)
    damping = np.full(len(theta), 1e-3)
    quiet = np.zeros(len(theta), dtype=int)
    active = np.arange(len(theta))
    model, jacobian = law(theta, x)
    value = (weight * huber(model - y, delta)).sum(1)
    identity = np.eye(theta.shape[1])
    for _ in range(iterations):
        residual = model - y[active]
        pull = weight[active] * (delta / np.maximum(np.abs(residual), delta))
        weighted = jacobian * pull[:, :, None]
        curvature = weighted.transpose(0, 2, 1) @ jacobian
        gradient = (residual[:, None, :] @ weighted)[:, 0]
        diagonal = np.einsum("bpp->bp", curvature)
        ridge = damping[active, None] * diagonal + 1e-12 * diagonal.max(1, keepdims=True) + 1e-30
        step = np.linalg.solve(curvature + identity * ridge[:, None, :], gradient[:, :, None])[:, :, 0]
        proposal = theta[active] - np.clip(step, -2, 2)
        if bounds is not None:
            proposal = bounds(proposal, floor[active])
        new_model, new_jacobian = law(proposal, x)
        new = (weight[active] * huber(new_model - y[active], delta)).sum(1)
        better = new < value[active]
        gain = (value[active] - new) / np.maximum(value[active], 1e-300)
        quiet[active] = np.where(better & (gain > tolerance), 0, quiet[active] + 1)
        theta[active[better]] = proposal[better]
        value[active[better]] = new[better]
        damping[active] = np.clip(np.where(better, damping[active] / 5, damping[active] * 5), 1e-12, 1e9)
        model = np.where(better[:, None], new_model, model)
        jacobian = np.where(better[:, None, None], new_jacobian, jacobian)
        going = (quiet[active] < 12) & (value[active] > 1e-28)
        if not going.any():
            break
        if not going.all():
            active, model, jacobian = active[going], model[going], jacobian[going]
    return theta, value
