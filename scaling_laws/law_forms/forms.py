"""The shapes that are compared: each gives log L and its derivatives at (log N, log D), for many parameters at once.

Sizes enter as n = log N - log N0 and d = log D - log D0, with (N0, D0) the geometric means of the table: the parameters
then depend on each other less. `theta` (B, P) holds one row per fit, `x` (K, 3) the sizes as (n, d, log D); a form returns
log L (B, K) and its derivatives (B, K, P).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from law_forms.huber_solver import Array, ValueAndGradient

Q_LIMITS = (0.05, 20.0)  # of the power mean: beyond them it is the product, or the larger, of its two terms


@dataclass(frozen=True)
class Form:
    """A shape of the law: its parameters by name, in the order of `theta`."""

    name: str
    formula: str
    parameters: tuple[str, ...]
    law: ValueAndGradient
    widen: Callable[[Array], Array]
    """starts (S, P) from those of the additive law (S, 5) = (log E, log A, log B, alpha, beta), all centred"""

    def bounds(self, theta: Array, floor: Array) -> Array:
        """`theta` with log E not below `floor` (B,), and q within Q_LIMITS."""
        if "log_E" in self.parameters:
            theta[:, 0] = np.maximum(theta[:, 0], floor)
        if "log_q" in self.parameters:
            column = self.parameters.index("log_q")
            theta[:, column] = np.clip(theta[:, column], *np.log(Q_LIMITS))
        return theta


def _log_sum(terms: list[Array]) -> tuple[Array, list[Array]]:
    """The log of the sum of exponentials of `terms`, each (B, K), and each one's share of that sum."""
    top: Array = np.maximum.reduce(terms)
    amounts = [np.exp(term - top) for term in terms]
    total = sum(amounts[1:], amounts[0])
    return np.log(total) + top, [amount / total for amount in amounts]


def _sizes(theta: Array, x: Array) -> tuple[list[Array], Array, Array]:
    """The columns of theta as (B, 1), and n and d as (1, K)."""
    return [column[:, None] for column in theta.T], x[None, :, 0], x[None, :, 1]


def additive(theta: Array, x: Array) -> tuple[Array, Array]:
    """Hoffmann et al. 2022, eq. 2: L = E + A N^-alpha + B D^-beta."""
    (e, a, b, alpha, beta), n, d = _sizes(theta, x)
    value, (s0, s1, s2) = _log_sum([e + 0 * n, a - alpha * n, b - beta * d])
    return value, np.stack([s0, s1, s2, -s1 * n, -s2 * d], 2)


def _mixed(u: Array, v: Array, q: Array) -> tuple[Array, Array, Array, Array]:
    """log [(e^u)^q + (e^v)^q]^(1/q), the shares of u and v in it, and its derivative by log q."""
    total, (share_u, share_v) = _log_sum([q * u, q * v])
    return total / q, share_u, share_v, share_u * u + share_v * v - total / q


def power_mean(theta: Array, x: Array) -> tuple[Array, Array]:
    """L = E + [(A N^-alpha)^q + (B D^-beta)^q]^(1/q); q = 1 is the additive law."""
    (e, a, b, alpha, beta, log_q), n, d = _sizes(theta, x)
    mixed, u, v, by_q = _mixed(a - alpha * n, b - beta * d, np.exp(log_q))
    value, (s0, s) = _log_sum([e + 0 * n, mixed])
    return value, np.stack([s0, s * u, s * v, -s * u * n, -s * v * d, s * by_q], 2)


def kaplan(theta: Array, x: Array) -> tuple[Array, Array]:
    """Kaplan et al. 2020, eq. 1.5: L = [(Nc / N)^(alpha / beta) + Dc / D]^beta: a power mean with q = 1 / beta, E = 0."""
    (a, b, alpha, beta), n, d = _sizes(theta, x)
    value, u, v, by_q = _mixed(a - alpha * n, b - beta * d, 1 / beta)
    return value, np.stack([u, v, -u * n, -v * d - by_q / beta], 2)


def kaplan_with_e(theta: Array, x: Array) -> tuple[Array, Array]:
    """Kaplan et al.'s eq. 1.5 plus an irreducible loss E."""
    log_mixed, by = kaplan(theta[:, 1:], x)
    value, (s0, s) = _log_sum([theta[:, :1] + 0 * log_mixed, log_mixed])
    return value, np.concatenate([s0[:, :, None], s[:, :, None] * by], 2)


def interaction(theta: Array, x: Array) -> tuple[Array, Array]:
    """L = E + A N^-alpha + B D^-beta + G N^-alpha D^-beta: nets that are small do worse still with little data."""
    (e, a, b, alpha, beta, g), n, d = _sizes(theta, x)
    value, (s0, s1, s2, s3) = _log_sum([e + 0 * n, a - alpha * n, b - beta * d, g - alpha * n - beta * d])
    return value, np.stack([s0, s1, s2, -n * (s1 + s3), -d * (s2 + s3), s3], 2)


def data_term(theta: Array, x: Array) -> tuple[Array, Array]:
    """L = E + A N^-alpha + B N^-gamma D^-beta: the cost of little data depends on the size."""
    (e, a, b, alpha, beta, gamma), n, d = _sizes(theta, x)
    value, (s0, s1, s2) = _log_sum([e + 0 * n, a - alpha * n, b - gamma * n - beta * d])
    return value, np.stack([s0, s1, s2, -s1 * n, -s2 * d, -s2 * n], 2)


def varying_exponent(theta: Array, x: Array) -> tuple[Array, Array]:
    """L = E + A N^-alpha + B D^-(beta + gamma n): the exponent of the data varies with log N, B is the loss at D = 1."""
    (e, a, b, alpha, beta, gamma), n, d = _sizes(theta, x)
    log_d = x[None, :, 2]
    value, (s0, s1, s2) = _log_sum([e + 0 * n, a - alpha * n, b - beta * d - gamma * n * log_d])
    return value, np.stack([s0, s1, s2, -s1 * n, -s2 * d, -s2 * n * log_d], 2)


def farseer(theta: Array, x: Array) -> tuple[Array, Array]:
    """After Farseer (arXiv 2506.10972): L = E + A N^-alpha + B N^-gamma D^-(beta N^kappa).

    Farseer's own three exponents of exponents need a thousand runs; here the two that carry its point.
    """
    (e, a, b, alpha, beta, gamma, kappa), n, d = _sizes(theta, x)
    exponent = beta * np.exp(np.clip(kappa * n, -20, 20))
    value, (s0, s1, s2) = _log_sum([e + 0 * n, a - alpha * n, b - gamma * n - exponent * d])
    by_beta = -s2 * d * np.exp(np.clip(kappa * n, -20, 20))
    return value, np.stack([s0, s1, s2, -s1 * n, by_beta, -s2 * n, -s2 * d * exponent * n], 2)


def log_quadratic(theta: Array, x: Array) -> tuple[Array, Array]:
    """log L is a quadratic in log N and log D: no law, a measure of what any smooth surface would do."""
    n, d = x[:, 0], x[:, 1]
    basis = np.stack([np.ones(len(x)), n, d, n * n, n * d, d * d], 1)
    return theta @ basis.T, np.broadcast_to(basis, (len(theta), *basis.shape))


def _also(*values: float) -> Callable[[Array], Array]:
    """Starts with one more parameter, at each of `values`."""
    return lambda starts: np.concatenate([np.insert(starts, starts.shape[1], value, axis=1) for value in values])


def _quadratic_start(starts: Array) -> Array:
    e, a, b, alpha, beta = starts[:1].T
    return np.stack([np.logaddexp(np.logaddexp(e, a), b), -alpha / 2, -beta / 2, 0 * e, 0 * e, 0 * e], 1)


_SUM = ("log_E", "log_A", "log_B", "alpha", "beta")
FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("additive", "E + A/N^α + B/D^β", _SUM, additive, lambda s: s),
        Form(
            "power mean",
            "E + [(A/N^α)^q + (B/D^β)^q]^(1/q)",
            (*_SUM, "log_q"),
            power_mean,
            _also(*np.log([0.4, 0.7, 1.0, 2.0])),
        ),
        Form("Kaplan 1.5", "[(A/N^α)^(1/β) + (B/D^β)^(1/β)]^β", _SUM[1:], kaplan, lambda s: s[:, 1:]),
        Form("Kaplan 1.5 with E", "E + [(A/N^α)^(1/β) + (B/D^β)^(1/β)]^β", _SUM, kaplan_with_e, lambda s: s),
        Form(
            "interaction",
            "E + A/N^α + B/D^β + G/(N^α D^β)",
            (*_SUM, "log_G"),
            interaction,
            lambda s: np.concatenate([np.concatenate([s, s[:, 2:3] + shift], 1) for shift in (-3.0, 0.0)]),
        ),
        Form("data term with N", "E + A/N^α + B/(N^γ D^β)", (*_SUM, "gamma"), data_term, _also(0.0, 0.3)),
        Form(
            "exponent varies with log N",
            "E + A/N^α + B/D^(β + γ log N)",
            (*_SUM, "gamma"),
            varying_exponent,
            _also(0.0, 0.1),
        ),
        Form(
            "after Farseer",
            "E + A/N^α + B/(N^γ D^(β N^κ))",
            (*_SUM, "gamma", "kappa"),
            farseer,
            lambda s: _also(0.0, 0.15)(_also(0.0, 0.3)(s)),
        ),
        Form(
            "log-quadratic",
            "exp(quadratic in log N, log D)",
            ("c", "c_n", "c_d", "c_nn", "c_nd", "c_dd"),
            log_quadratic,
            _quadratic_start,
        ),
    )
}
