"""What a transformed copy is worth: how many fresh images would have given the loss that U images in k copies give.

All runs of a comparison show D = U k images; the fresh ones show as many different ones, each once. With
L = E + B / D^beta for fresh images, a set of copies counts as D_eff of them:

    saturating   D_eff = U [1 + x R (1 - e^(-(k - 1) / R))]   Muennighoff et al. 2023, eq. 5, whose x is 1
    power law    D_eff = U k^g
    linear       D_eff = U [1 + x (k - 1)]

Fitted together with the fresh curve, on logs, every cell with the weight of its seeds. The form is chosen by held-out k:
fitted up to 8 copies, it predicts 16 and 32.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from law_forms.huber_solver import Array, minimise
from laws.run_table import CHANCE_LOSS, Runs, make_cells
from laws.seed_noise import DRAWS, interval, noise_draws

MOST_FITTED = 8  # copies; those above are predicted
SMALLEST_RIVAL = 3  # cells that a prediction is judged by, at least


@dataclass(frozen=True)
class Worth:
    """A form of D_eff / U: its parameters, and log(D_eff / U) with derivatives, at log k's and rows of parameters."""

    name: str
    parameters: tuple[str, ...]
    law: Callable[[list[Array], Array], tuple[Array, list[Array]]]
    starts: tuple[tuple[float, ...], ...]


def _saturating(theta: list[Array], k: Array) -> tuple[Array, list[Array]]:
    x, r = np.exp(theta[0]), np.exp(theta[1])
    faded = np.exp(-(k - 1) / r)
    worth = 1 + x * r * (1 - faded)
    by_r = x * (r * (1 - faded) - (k - 1) * faded)  # by log R
    return np.log(worth), [x * r * (1 - faded) / worth, by_r / worth]


def _power(theta: list[Array], k: Array) -> tuple[Array, list[Array]]:
    return theta[0] * np.log(k), [np.log(k) + 0 * theta[0]]


def _linear(theta: list[Array], k: Array) -> tuple[Array, list[Array]]:
    x = np.exp(theta[0])
    worth = 1 + x * (k - 1)
    return np.log(worth), [x * (k - 1) / worth]


FORMS_OF_WORTH = {
    form.name: form
    for form in (
        Worth("saturating", ("log_x", "log_R"), _saturating, ((-0.5, 0.5), (-0.5, 2.0), (-1.5, 1.5), (-1.5, 3.5))),
        Worth("power law", ("g",), _power, ((0.2,), (0.7,))),
        Worth("linear", ("log_x",), _linear, ((-3.0,), (-1.0,))),
    )
}


@dataclass(frozen=True)
class CopyCells:
    """One entry per (U, k), all seeds together; k = 1 is the fresh curve. `residuals` are of all of them."""

    unique: Array
    passes: Array
    log_loss: Array
    seeds: Array
    residuals: Array


def copy_cells(rows: Sequence[dict[str, Any]], loss: str = "test_loss") -> CopyCells:
    """The rows of one comparison, its fresh ones included; `loss` is the column that is looked at."""
    cells = []
    for k in sorted({int(row["passes"]) for row in rows}):
        own = [row for row in rows if int(row["passes"]) == k and row["status"] == "ok"]
        u, values, d = (np.array([float(row[key]) for row in own]) for key in ("n_unique", loss, "n_samples"))
        made, _ = make_cells(Runs(u, d, values, d, np.full(len(own), np.nan)), CHANCE_LOSS)
        cells.append((made.n_params, np.full(len(made.seeds), float(k)), made.log_loss, made.seeds, made.residuals))
    return CopyCells(*(np.concatenate(part) for part in zip(*cells, strict=True)))


def _law_of(worth: Worth) -> Callable[[Array, Array], tuple[Array, Array]]:
    """log L and its derivatives: theta (B, 3 + P) = (log E, log B, beta, worth's), x (K, 2) = (log U about its mean, k)."""

    def law(theta: Array, x: Array) -> tuple[Array, Array]:
        e, b, beta, *own = (column[:, None] for column in theta.T)
        log_worth, by_own = worth.law(own, x[None, :, 1])
        log_d = x[None, :, 0] + log_worth
        terms = e + 0 * log_d, b - beta * log_d
        value = np.logaddexp(*terms)
        share_e, share_d = (np.exp(term - value) for term in terms)
        return value, np.stack([share_e, share_d, -share_d * log_d, *(-share_d * beta * by for by in by_own)], 2)

    return law


def _bounds(theta: Array, floor: Array) -> Array:
    theta[:, 0] = np.maximum(theta[:, 0], floor)
    theta[:, 3:] = np.clip(theta[:, 3:], -7.0, 7.0)
    return theta


def fit_worth(worth: Worth, cells: CopyCells, kept: Array | None = None) -> tuple[Array, float, Array]:
    """The least weighted squares of logs over the cells with `kept`: theta, the centre of log U, and the residuals of all."""
    centre = float(np.log(cells.unique).mean())
    x = np.stack([np.log(cells.unique) - centre, cells.passes], 1)
    weight = cells.seeds * (1.0 if kept is None else kept)
    low, high = cells.log_loss.min(), cells.log_loss.mean()
    starts = np.array([[low - gap, high, 0.6, *own] for gap in (0.3, 2.0) for own in worth.starts])
    data = np.broadcast_to(cells.log_loss, (len(starts), len(cells.log_loss)))
    wide = np.broadcast_to(weight, data.shape)
    theta, value = minimise(_law_of(worth), x, data, starts, 10.0, 500, wide, _bounds, 1e-12)
    best = theta[int(np.argmin(value))]
    return best, centre, cells.log_loss - _law_of(worth)(best[None], x)[0][0]


def compare_worths(cells: CopyCells) -> list[dict[str, Any]]:
    """Each form's fit, and how well it predicts more than MOST_FITTED copies from fewer: errors of log loss."""
    fitted = cells.passes <= MOST_FITTED
    found = []
    for worth in FORMS_OF_WORTH.values():
        theta, _, residual = fit_worth(worth, cells)
        held = fit_worth(worth, cells, fitted.astype(float))[2][~fitted] if (~fitted).sum() >= SMALLEST_RIVAL else None
        degrees = max(1, len(residual) - len(theta))
        told = {
            "form": worth.name,
            "rms": float(np.sqrt(np.sum(residual**2) / degrees)),
            "held_out_rms": None if held is None else float(np.sqrt(np.mean(held**2))),
            "held_out_bias": None if held is None else float(-np.mean(held)),
        }
        found.append(told)
    return found


def worth_of_copies(cells: CopyCells, form: str, draws: int = DRAWS) -> dict[str, Any]:
    """The form's numbers with 95% intervals, from the seeds' noise or the misfit where that is larger.

    `first_copy`: fresh images that the second version of an image is worth; `most`: D_eff / U of endless copies;
    `at`: D_eff / U at each number of copies.
    """
    worth = FORMS_OF_WORTH[form]
    theta, centre, residual = fit_worth(worth, cells)
    degrees = max(1, len(residual) - len(theta))
    noise = noise_draws(cells.residuals, cells.seeds, draws, np.random.default_rng(0))
    expected = float(np.mean(noise.std(0)))
    misfit = math.sqrt(float(np.sum(residual**2)) / degrees)
    noise *= max(1.0, misfit / max(expected, 1e-12))
    x = np.stack([np.log(cells.unique) - centre, cells.passes], 1)
    law = _law_of(worth)
    data = law(theta[None], x)[0] + noise
    weight = np.broadcast_to(cells.seeds, data.shape)
    many, _ = minimise(law, x, data, np.repeat(theta[None], draws, 0), 10.0, 300, weight, _bounds)
    told: dict[str, Any] = {"form": form, "cells": len(residual), "runs": int(cells.seeds.sum()), "misfit": misfit}
    told["noise"] = expected

    def at(k: float) -> dict[str, Any]:
        points = np.array([[k]])
        spread = worth.law([column[:, None] for column in many.T[3:]], points)[0][:, 0]
        one = worth.law([np.array([[value]]) for value in theta[3:]], points)[0][0, 0]
        return interval(np.exp(spread), float(np.exp(one)))

    told["first_copy"] = {key: value - 1 if value is not None else None for key, value in at(2.0).items()}
    told["at"] = {f"{k:g}": at(k) for k in sorted(set(cells.passes.tolist())) if k > 1}
    if form == "saturating":
        x_draws, r_draws = np.exp(many[:, 3]), np.exp(many[:, 4])
        told["x"] = interval(x_draws, float(np.exp(theta[3])))
        told["R"] = interval(r_draws, float(np.exp(theta[4])))
        told["most"] = interval(1 + x_draws * r_draws, float(1 + np.exp(theta[3] + theta[4])))
    if form == "power law":
        told["g"] = interval(many[:, 3], float(theta[3]))
    told["E"] = interval(np.exp(many[:, 0]), float(np.exp(theta[0])))
    told["beta"] = interval(many[:, 2], float(theta[2]))
    told["theta"], told["centre"] = [float(value) for value in theta], centre
    return told


def fresh_images_for(loss: Array, told: dict[str, Any]) -> Array:
    """D of fresh images that has this loss, by the fitted fresh curve; nan at and below its E."""
    e, b, beta = told["theta"][:3]
    with np.errstate(invalid="ignore"):
        return np.exp((b - np.log(loss - math.exp(e))) / beta + told["centre"])
