"""How far a law misses the cells of one size together, as a variance component, and draws of such misses.

A law that is not exact misses nets of one size alike, more or less so as their data grows. So the residuals of cell k of
size g are taken as u_g + v_g z_k + noise: z is log D, centred and scaled to variance 1; u and v have one standard
deviation tau / sqrt(2). What is known of tau is kept as a distribution, since a table has few sizes: its restricted
likelihood (Patterson and Thompson 1971) on a grid, under a prior that is flat in tau.
"""

import math
from dataclasses import dataclass

import numpy as np

from law_forms.huber_solver import Array

MOST_GROUPS = 12  # with more sizes, neighbours share their misses
GRID = 40


@dataclass(frozen=True)
class SharedMisses:
    """`design` (K, 2G) from the G sizes' u and v to the cells; weights (GRID,) of each tau and noise deviation sigma."""

    design: Array
    tau: Array
    sigma: Array
    weight: Array
    degrees: float

    def draws(self, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Misses (n, K) of the cells, and the place (n,) in the grid that each draw came from."""
        rows = rng.choice(len(self.tau), n, p=self.weight)
        u = rng.standard_normal((n, self.design.shape[1])) * self.tau[rows, None]
        return u @ self.design.T, rows


def shared_misses(jacobian: Array, residual: Array, n_params: Array, n_samples: Array, noise: float) -> SharedMisses:
    """From a fit's derivatives (K, P) and residuals (K,); `noise` is the seeds' deviation of a cell, nan if not known."""
    sizes = np.unique(n_params)
    groups = np.array_split(sizes, min(MOST_GROUPS, len(sizes)))
    z = np.log(n_samples)
    z = (z - z.mean()) / max(float(z.std()), 1e-12)
    inside = np.array([np.isin(n_params, group) for group in groups], dtype=float).T  # (K, G)
    design = np.concatenate([inside, inside * z[:, None]], 1) / math.sqrt(2)
    degrees = len(residual) - jacobian.shape[1]
    scale = max(math.sqrt(float(residual @ residual) / degrees), 1e-12)
    known = math.isfinite(noise) and noise > 0
    grid = np.linspace(0, 3, GRID)  # tau in units of the residuals, or of the noise where it is not known
    sigma, log_weight = np.empty(GRID), np.empty(GRID)
    for i, step in enumerate(grid):
        ratio = (step * scale / noise if known else step) ** 2  # tau^2 / sigma^2
        log_prior = -math.log1p(ratio)
        log_dets, square = _restricted(jacobian, residual, design, ratio)
        if known:
            sigma[i] = noise
            log_weight[i] = log_prior - (log_dets + square / noise**2) / 2
        else:  # sigma^2 integrated out under its scale-free prior
            sigma[i] = math.sqrt(max(square, 1e-300) / degrees)
            log_weight[i] = log_prior - (log_dets + degrees * math.log(max(square, 1e-300))) / 2
    weight = np.exp(log_weight - log_weight.max())
    tau = grid * (scale if known else sigma)
    return SharedMisses(design, tau, sigma, weight / weight.sum(), degrees)


def _restricted(x: Array, residual: Array, design: Array, ratio: float) -> tuple[float, float]:
    """log det V + log det X'V^-1 X, and r' P r, of V = I + ratio Z Z'."""
    inner = np.eye(design.shape[1]) / max(ratio, 1e-12) + design.T @ design

    def solve(columns: Array) -> Array:  # V^-1 columns, by Woodbury's identity
        return columns - design @ np.linalg.solve(inner, design.T @ columns)

    weighted = solve(x)
    information = x.T @ weighted + 1e-12 * np.eye(x.shape[1])
    left = weighted.T @ residual
    square = float(residual @ solve(residual) - left @ np.linalg.solve(information, left))
    log_det = np.linalg.slogdet(np.eye(design.shape[1]) + ratio * design.T @ design)[1]
    return float(log_det + np.linalg.slogdet(information)[1]), square
