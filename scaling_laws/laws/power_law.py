"""Kaplan et al. 2020: power laws of one variable, L(C), L(N) and L(D), with and without a constant."""

import math
from dataclasses import dataclass

import numpy as np

from laws.power_sum import Array, bootstrap_power_sum, fit_power_sum, predict_log


@dataclass(frozen=True)
class PowerLaw:
    """L = E + K x^-g, once with E = 0 (Kaplan's form: `exponent`, `scale`), once with E free where there are 5 points."""

    x: Array
    loss: Array
    low: Array  # 95% interval of each point's loss
    high: Array
    exponent: tuple[float, Array]
    scale: tuple[float, Array]
    free: tuple[Array, Array] | None  # theta (log E, log K, g) and draws

    def pure(self, x: Array) -> Array:
        """The loss at `x` by the form without a constant."""
        return self.scale[0] * x ** -self.exponent[0]

    def with_constant(self, x: Array) -> tuple[Array, Array, Array] | None:
        """The loss at `x` (n,) by the form with a constant, and its 95% interval."""
        if self.free is None:
            return None
        theta, draws = self.free
        low, high = np.percentile(np.exp(predict_log(draws, np.log(x)[:, None])), [2.5, 97.5], axis=0)
        return np.exp(predict_log(theta[None], np.log(x)[:, None])[0]), low, high


def fit_power_law(x: Array, log_loss: Array, noise: Array, delta: float) -> PowerLaw:
    """Fit both forms to points (K,) whose log losses carry `noise` (draws, K).

    Where a form misses the points by more than the noise explains, its bootstrap's noise is that much larger.
    """
    log_x = np.log(x)
    spread = math.sqrt(float(noise.var(0).mean()))

    def inflated(residual: Array, parameters: int) -> Array:
        if len(residual) <= parameters or spread == 0:
            return noise
        return noise * max(1.0, math.sqrt(float(np.sum(residual**2)) / (len(residual) - parameters)) / spread)

    intercept, slope = weighted_line(log_x, log_loss[None], np.ones(len(x)))
    line = intercept + slope * log_x
    intercepts, slopes = weighted_line(log_x, line + inflated(log_loss - line, 2), np.ones(len(x)))
    free = None
    if len(x) >= 5:
        theta = fit_power_sum(log_x[:, None], log_loss, delta)
        residual = log_loss - predict_log(theta[None], log_x[:, None])[0]
        free = theta, bootstrap_power_sum(theta, log_x[:, None], inflated(residual, 3), delta)
    low, high = np.exp(log_loss + np.nanpercentile(noise, [2.5, 97.5], axis=0))
    scale = (float(np.exp(intercept[0])), np.exp(intercepts))
    return PowerLaw(x, np.exp(log_loss), low, high, (-float(slope[0]), -slopes), scale, free)


def weighted_line(x: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """Intercepts and slopes (B,) of weighted least squares: x (K,), y (B, K), weight (K,). A nan in y is left out."""
    w = np.where(np.isfinite(y), weight, 0.0)
    y = np.where(np.isfinite(y), y, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = w / w.sum(1, keepdims=True)
        mean_x, mean_y = (w * x).sum(1), (w * y).sum(1)
        away = x - mean_x[:, None]
        slope = (w * away * (y - mean_y[:, None])).sum(1) / (w * away**2).sum(1)
    slope = np.where((w > 0).sum(1) >= 2, slope, np.nan)
    return mean_y - slope * mean_x, slope
