"""Fits of log L = log(E + sum_j exp(c_j - g_j x_j)), thousands at once: with one term L = E + K / x^g, x a log size."""

from functools import partial

import numpy as np
from scipy.optimize import nnls

from law_forms.huber_solver import Array, minimise


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


def _value_and_gradient(theta: Array, x: Array) -> tuple[Array, Array]:
    value, share = _log_and_shares(theta, x)
    return value, np.concatenate([share, -share[:, :, 1:] * x[None]], 2)


def _bounds(theta: Array, floor: Array) -> Array:
    theta[:, 0] = np.maximum(theta[:, 0], floor)
    return theta


_fit = partial(minimise, _value_and_gradient, bounds=_bounds)


def fit_power_sum(x: Array, y: Array, delta: float) -> Array:
    """Fit log L = log(E + sum_j exp(c_j - g_j x_j)): x (K, J), y (K,) -> theta (1 + 2J,) = (log E, c, g).

    The search starts from a grid of exponents, each with E and the amplitudes by non-negative least squares on relative
    errors (variable projection).
    """
    centre = x.mean(0)
    centred = x - centre
    starts = _starts(centred, y)
    theta, value = _fit(centred, np.broadcast_to(y, (len(starts), len(y))), starts, delta, iterations=60)
    best = np.argsort(value)[:4]  # polish the best few: a small delta makes the last digits slow
    theta, value = _fit(centred, np.broadcast_to(y, (len(best), len(y))), theta[best], delta, iterations=1000)
    return _shift(theta[int(np.argmin(value))][None], centre)[0]


def bootstrap_power_sum(theta: Array, x: Array, noise: Array, delta: float) -> Array:
    """Fits (draws, 1 + 2J) of the fitted curve plus each row of `noise` (draws, K), each started at the fit."""
    centre = x.mean(0)
    start = _shift(theta[None], -centre)
    data = predict_log(theta[None], x) + noise
    samples, _ = _fit(x - centre, data, np.repeat(start, len(data), 0), delta)
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
