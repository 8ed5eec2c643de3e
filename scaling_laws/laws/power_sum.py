"""The one solver behind the laws: fits of log L = log(E + sum_j exp(c_j - g_j x_j)), thousands at once.

With one term it is L = E + K / x^g, with two Hoffmann et al.'s law of N and D; x are log sizes.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[Any]
SMALLEST_E = 1e-8  # in units of the smallest loss: log E stays finite where the data want none


def predict_log(theta: Array, x: Array) -> Array:
    """log(E + sum_j exp(c_j - g_j x_j)): theta (B, 1 + 2J) = (log E, c, g), x (K, J) -> (B, K)."""
    return _log_and_shares(theta, x)[0]


def _log_and_shares(theta: Array, x: Array) -> tuple[Array, Array]:
    """The log of the sum (B, K), and each term's share of it (B, K, 1 + J): its derivatives by log E and c_j."""
    j = x.shape[1]
    terms = np.empty((len(theta), len(x), 1 + j))
    terms[:, :, 0] = theta[:, :1]
    terms[:, :, 1:] = theta[:, None, 1 : 1 + j] - theta[:, None, 1 + j :] * x[None]
    top = terms.max(2, keepdims=True)
    terms -= top
    shares = np.exp(terms, out=terms)
    total = shares.sum(2, keepdims=True)
    shares /= total
    return (np.log(total) + top)[:, :, 0], shares


def huber(residual: Array, delta: float) -> Array:
    """Huber 1964: quadratic up to delta, linear beyond."""
    size = np.abs(residual)
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))


def minimise(x: Array, y: Array, theta: Array, delta: float, iterations: int = 300) -> tuple[Array, Array]:
    """Minimise sum_k Huber_delta(predict_log - y) for many data sets, or from many starts, at once.

    x (K, J) centred log sizes, y (B, K) log losses, theta (B, 1 + 2J) starts -> the minima (B, 1 + 2J) and their
    objectives (B,). Levenberg-Marquardt steps on the quadratic that touches the Huber function from above at the
    present residuals (iteratively reweighted least squares): no accepted step goes up.
    """
    theta = theta.copy()
    floor = y.min(1) + math.log(SMALLEST_E)
    damping = np.full(len(theta), 1e-3)
    active = np.arange(len(theta))
    value = huber(predict_log(theta, x) - y, delta).sum(1)
    quiet = np.zeros(len(theta), dtype=int)
    for _ in range(iterations):
        now, target = theta[active], y[active]
        model, share = _log_and_shares(now, x)
        jacobian = np.concatenate([share, -share[:, :, 1:] * x[None]], 2)
        residual = model - target
        weight = delta / np.maximum(np.abs(residual), delta)
        weighted = jacobian * weight[:, :, None]
        curvature = weighted.transpose(0, 2, 1) @ jacobian
        gradient = np.einsum("bkp,bk->bp", weighted, residual)
        diagonal = np.einsum("bpp->bp", curvature)
        ridge = damping[active, None] * diagonal + 1e-12 * diagonal.max(1, keepdims=True) + 1e-30
        step = np.linalg.solve(curvature + np.eye(theta.shape[1]) * ridge[:, None, :], gradient[:, :, None])[:, :, 0]
        proposal = now - np.clip(step, -2, 2)
        proposal[:, 0] = np.maximum(proposal[:, 0], floor[active])
        new = huber(predict_log(proposal, x) - target, delta).sum(1)
        better = new < value[active]
        gain = (value[active] - new) / np.maximum(value[active], 1e-300)
        quiet[active] = np.where(better & (gain > 1e-9), 0, quiet[active] + 1)
        theta[active[better]] = proposal[better]
        value[active[better]] = new[better]
        damping[active] = np.clip(np.where(better, damping[active] / 5, damping[active] * 5), 1e-12, 1e9)
        active = active[(quiet[active] < 12) & (value[active] > 1e-28)]
        if len(active) == 0:
            break
    return theta, value


def fit_power_sum(x: Array, y: Array, delta: float) -> Array:
    """Fit log L = log(E + sum_j exp(c_j - g_j x_j)): x (K, J), y (K,) -> theta (1 + 2J,) = (log E, c, g).

    The search starts from a grid of exponents, each with E and the amplitudes by non-negative least squares on relative
    errors (variable projection).
    """
    centre = x.mean(0)
    centred = x - centre
    starts = _starts(centred, y)
    theta, value = minimise(centred, np.broadcast_to(y, (len(starts), len(y))), starts, delta, iterations=60)
    best = np.argsort(value)[:4]  # polish the best few: a small delta makes the last digits slow
    theta, value = minimise(centred, np.broadcast_to(y, (len(best), len(y))), theta[best], delta, iterations=1000)
    return _shift(theta[int(np.argmin(value))][None], centre)[0]


def bootstrap_power_sum(theta: Array, x: Array, noise: Array, delta: float) -> Array:
    """Fits (draws, 1 + 2J) of the fitted curve plus each row of `noise` (draws, K), each started at the fit."""
    centre = x.mean(0)
    start = _shift(theta[None], -centre)
    data = predict_log(theta[None], x) + noise
    samples, _ = minimise(x - centre, data, np.repeat(start, len(data), 0), delta)
    return _shift(samples, centre)


def _shift(theta: Array, centre: Array) -> Array:
    """The same curves with x measured from `centre` lower: exp(c - g (x - centre)) = exp(c + g centre - g x)."""
    j = len(centre)
    out = theta.copy()
    out[:, 1 : 1 + j] += theta[:, 1 + j :] * centre
    return out


def _starts(x: Array, y: Array) -> Array:
    j = x.shape[1]
    exponents = np.array(np.meshgrid(*[[0.1, 0.2, 0.35, 0.5, 0.75, 1.1, 1.6]] * j)).reshape(j, -1).T
    loss = np.exp(y)
    starts = []
    for g in exponents:
        design = np.concatenate([np.ones((len(y), 1)), np.exp(-g * x)], 1)
        amounts, _ = nnls(design / loss[:, None], np.ones_like(y))
        starts.append([*np.log(np.maximum(amounts, 1e-3 * loss.min())), *g])
    return np.array(starts)
