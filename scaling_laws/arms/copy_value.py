"""What showing an image again is worth: how many fresh images would have given the loss that U images in k showings give.

All runs of a comparison show D = U k images, in as many steps; the fresh ones show as many different images, each once. With
L = E + B / D^beta for fresh images, a set counts as D_eff of them:

    saturating          D_eff = U [1 + x R (1 - e^(-(k - 1) / R))]   Muennighoff et al. 2023, eq. 5, whose x is 1
    saturating, x = 1   theirs
    power law           D_eff = U k^g
    linear              D_eff = U [1 + x (k - 1)]
    number by number    D_eff = U times one number for each k: no law, for what none of them describes

Fitted together with the fresh curve, on logs, every cell with the weight of its seeds. A law is chosen by held-out k: fitted
up to 8 showings, it predicts 16 and 32.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from law_forms.huber_solver import Array, minimise
from laws.run_table import CHANCE_LOSS, Runs, make_cells
from laws.seed_noise import DRAWS, interval, noise_draws

MOST_FITTED = 8  # showings; more are predicted
SPARE_CELLS = 3  # beyond the parameters, for a fit that means something
FEWEST_FRESH = 4  # cells that a fresh curve needs
LOG_LIMIT = 7.0  # of the logs of x and R: beyond it nothing bends within the showings
# theta's columns (B, 1) and k (1, K) -> log(D_eff / U) and its derivatives, each (B, K)
LogWorth = Callable[[list[Array], Array], tuple[Array, list[Array]]]


@dataclass(frozen=True)
class Worth:
    """A form of D_eff / U: its parameters, their starts, and log(D_eff / U) with derivatives."""

    name: str
    parameters: tuple[str, ...]
    law: LogWorth
    starts: tuple[tuple[float, ...], ...]


def _saturating(theta: list[Array], k: Array) -> tuple[Array, list[Array]]:
    x, r = np.exp(theta[0]), np.exp(theta[1])
    faded = np.exp(-(k - 1) / r)
    worth = 1 + x * r * (1 - faded)
    by_r = x * (r * (1 - faded) - (k - 1) * faded)  # by log R
    return np.log(worth), [x * r * (1 - faded) / worth, by_r / worth]


def _saturating_at_one(theta: list[Array], k: Array) -> tuple[Array, list[Array]]:
    value, by = _saturating([0 * theta[0], theta[0]], k)
    return value, by[1:]


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
        Worth("saturating, x = 1", ("log_R",), _saturating_at_one, ((0.5,), (2.0,), (3.5,))),
        Worth("power law", ("g",), _power, ((0.2,), (0.7,))),
        Worth("linear", ("log_x",), _linear, ((-3.0,), (-1.0,))),
    )
}


def number_by_number(showings: Sequence[float]) -> Worth:
    """The form with a number of its own for each k > 1 of `showings`."""
    places = np.array(sorted({k for k in showings if k > 1}))

    def law(theta: list[Array], k: Array) -> tuple[Array, list[Array]]:
        shown = [(k == place).astype(float) + 0 * theta[0] for place in places]
        value = sum((own * one for own, one in zip(theta, shown, strict=True)), 0 * theta[0] * k)
        return value, shown

    names = tuple(f"log_worth_{place:g}" for place in places)
    return Worth("number by number", names, law, (tuple(0.5 * np.log(places)), (0.3,) * len(places)))


@dataclass(frozen=True)
class CopyCells:
    """One entry per (U, k), all seeds together; k = 1 is the fresh curve. `residuals` are of all of them."""

    unique: Array
    passes: Array
    log_loss: Array
    seeds: Array
    residuals: Array

    def up_to(self, k: float) -> "CopyCells":
        """The cells with at most k showings; what is known of the noise stays."""
        kept = self.passes <= k
        return replace(self, **{name: getattr(self, name)[kept] for name in ("unique", "passes", "log_loss", "seeds")})

    def why_not(self, parameters: int) -> str:
        """Why a fit with so many parameters of worth would mean nothing; "" where it does."""
        again = self.passes > 1
        if (~again).sum() < FEWEST_FRESH:
            return f"fewer than {FEWEST_FRESH} fresh cells away from chance"
        if again.sum() < parameters + 1 or len(self.passes) < 3 + parameters + SPARE_CELLS:
            return "too few cells away from chance"
        return "" if len(self.residuals) else "one seed a cell: nothing is known of the noise"


def copy_cells(rows: Sequence[dict[str, Any]], loss: str = "test_loss") -> CopyCells:
    """The rows of one comparison, its fresh ones included, without cells near chance; `loss` is the column looked at."""
    cells = []
    for k in sorted({int(row["passes"]) for row in rows}):
        own = [row for row in rows if int(row["passes"]) == k and row["status"] == "ok"]
        if own:
            u, values, d = (np.array([float(row[key]) for row in own]) for key in ("n_unique", loss, "n_samples"))
            if np.log(values).min() <= math.log(CHANCE_LOSS / 2):
                made, _ = make_cells(Runs(u, d, values, d, np.full(len(own), np.nan)), CHANCE_LOSS)
                passes = np.full(len(made.seeds), float(k))
                cells.append((made.n_params, passes, made.log_loss, made.seeds, made.residuals))
    return CopyCells(*(np.concatenate(part) for part in zip(*cells, strict=True))) if cells else _NO_CELLS


_NO_CELLS = CopyCells(*(np.empty(0) for _ in range(5)))


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
    theta[:, 3:] = np.clip(theta[:, 3:], -LOG_LIMIT, LOG_LIMIT)
    return theta


def _sizes(cells: CopyCells, centre: float) -> Array:
    return np.stack([np.log(cells.unique) - centre, cells.passes], 1)


def fit_worth(worth: Worth, cells: CopyCells) -> tuple[Array, float]:
    """The least weighted squares of logs: theta, and the centre of log U that it is about."""
    centre = float(np.log(cells.unique).mean())
    low, high = cells.log_loss.min(), cells.log_loss.mean()
    starts = np.array([[low - gap, high, 0.6, *own] for gap in (0.3, 2.0) for own in worth.starts])
    data = np.broadcast_to(cells.log_loss, (len(starts), len(cells.log_loss)))
    weight = np.broadcast_to(cells.seeds, data.shape)
    theta, value = minimise(_law_of(worth), _sizes(cells, centre), data, starts, 10.0, 500, weight, _bounds, 1e-12)
    return theta[int(np.argmin(value))], centre


def predicted(worth: Worth, theta: Array, centre: float, cells: CopyCells) -> Array:
    """log L of these cells by a fit."""
    return _law_of(worth)(theta[None], _sizes(cells, centre))[0][0]


def compare_worths(cells: CopyCells) -> list[dict[str, Any]]:
    """Each law's fit, and how well it predicts more than MOST_FITTED showings from fewer: errors of log loss."""
    few, held = cells.up_to(MOST_FITTED), cells.passes > MOST_FITTED
    found = []
    for worth in FORMS_OF_WORTH.values():
        told: dict[str, Any] = {"form": worth.name, "rms": None, "held_out_rms": None, "held_out_bias": None}
        if not cells.why_not(len(worth.parameters)):
            residual = cells.log_loss - predicted(worth, *fit_worth(worth, cells), cells)
            told["rms"] = math.sqrt(float(np.sum(residual**2)) / (len(residual) - 3 - len(worth.parameters)))
        if held.any() and not few.why_not(len(worth.parameters)):
            error = (predicted(worth, *fit_worth(worth, few), cells) - cells.log_loss)[held]
            told |= {"held_out_rms": float(np.sqrt(np.mean(error**2))), "held_out_bias": float(np.mean(error))}
        found.append(told)
    return found


def worth_of_copies(cells: CopyCells, worth: Worth, draws: int = DRAWS) -> dict[str, Any]:
    """A form's numbers with 95% intervals, from the seeds' noise or the misfit where that is larger.

    `first_copy`: fresh images that the second showing of an image is worth; `at`: D_eff / U at each number of showings;
    `most`: that of endless ones, None where no saturation is seen up to the largest number. Only `why_not` where the
    cells do not determine them.
    """
    told: dict[str, Any] = {"form": worth.name, "cells": len(cells.passes), "runs": int(cells.seeds.sum())}
    if why_not := cells.why_not(len(worth.parameters)):
        return {**told, "why_not": why_not}
    theta, centre = fit_worth(worth, cells)
    fitted = predicted(worth, theta, centre, cells)
    residual = cells.log_loss - fitted
    noise = noise_draws(cells.residuals, cells.seeds, draws, np.random.default_rng(0))
    expected = float(np.mean(noise.std(0)))
    misfit = math.sqrt(float(np.sum(residual**2)) / (len(residual) - len(theta)))
    noise *= max(1.0, misfit / max(expected, 1e-12))
    data = fitted + noise
    weight = np.broadcast_to(cells.seeds, data.shape)
    starts = np.repeat(theta[None], draws, 0)
    many, _ = minimise(_law_of(worth), _sizes(cells, centre), data, starts, 10.0, 300, weight, _bounds)
    own, spread = [np.array([[value]]) for value in theta[3:]], [column[:, None] for column in many.T[3:]]

    def at(k: float) -> dict[str, Any]:
        points = np.array([[k]])
        return interval(np.exp(worth.law(spread, points)[0][:, 0]), float(np.exp(worth.law(own, points)[0][0, 0])))

    told |= {"misfit": misfit, "noise": expected, "theta": theta.tolist(), "centre": centre}
    told["at"] = {f"{k:g}": at(k) for k in sorted(set(cells.passes.tolist())) if k > 1}
    second = told["at"].get("2")
    told["first_copy"] = (
        {key: None if value is None else value - 1 for key, value in second.items()} if second else None
    )
    told["E"] = interval(np.exp(many[:, 0]), float(np.exp(theta[0])))
    told["beta"] = interval(many[:, 2], float(theta[2]))
    told["mean_residual_by_unique"] = {
        f"{u:g}": float(residual[(cells.unique == u) & (cells.passes > 1)].mean())
        for u in np.unique(cells.unique[cells.passes > 1])
    }
    if worth.name == "saturating":
        told |= _saturation(theta, many)
    return told


def _saturation(theta: Array, many: Array) -> dict[str, Any]:
    """x, R and `most`; where R reaches its limit in a draw of fifty, that it has no upper end, and no `most`."""
    x, r = np.exp(many[:, 3]), np.exp(many[:, 4])
    found = {"x": interval(x, float(np.exp(theta[3]))), "R": interval(r, float(np.exp(theta[4])))}
    if np.percentile(many[:, 4], 97.5) > LOG_LIMIT - 0.1:
        return {**found, "R": {**found["R"], "hi95": None}, "most": None}
    return {**found, "most": interval(1 + x * r, float(1 + np.exp(theta[3] + theta[4])))}


def fresh_images_for(loss: Array, told: dict[str, Any]) -> Array:
    """D of fresh images that has this loss, by the fitted fresh curve; nan at and below its E."""
    e, b, beta = told["theta"][:3]
    with np.errstate(invalid="ignore"):
        return np.exp((b - np.log(loss - math.exp(e))) / beta + told["centre"])
