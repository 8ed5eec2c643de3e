"""fits.json: every number of an analysis, each with its interval."""

import math
from typing import Any

import numpy as np

from common.files import finite
from law_report.forms_json import forms_json
from law_report.kept_json import keep_law
from laws.analysis import Analysis
from laws.envelope import ENVELOPE_DRAWS
from laws.parametric import Parametric, optimum_at, q_in_doubt
from laws.power_law import PowerLaw
from laws.seed_noise import DRAWS, cell_noise, interval, stretched

DIGITS = 7
KEYS = ("E", "A", "B", "alpha", "beta", "a", "b")


def parametric_json(fit: Parametric) -> dict[str, Any]:
    """The parametric law's part of fits.json."""
    keys = (*KEYS, "q") if fit.free_q else KEYS
    named = {key: interval(fit.draws[key], fit.value[key]) for key in keys}
    # M_opt = C / (6 D_opt), so its exponent is 1 - b: the one to compare with Hoffmann's a, whose compute is 6 N D.
    named["a_macs"] = interval(1 - fit.draws["b"], 1 - fit.value["b"])
    return {**named, "delta": fit.delta, "misfit": fit.misfit, "misfit_ratio": fit.misfit_ratio}


def _widened(result: Analysis) -> dict[str, Any]:
    """The law at the top. Where it has q = 1 but that is in doubt, its intervals are those with q free.

    Each is stretched to hold its value.
    """
    named, free = parametric_json(result.parametric), result.other_q
    if result.parametric.free_q or free is None or not q_in_doubt(result.choice, free.draws["q"]):
        return named
    other = parametric_json(free)
    return named | {key: stretched(other[key], named[key]["value"]) for key in (*KEYS, "a_macs")}


def power_law_json(law: PowerLaw, **at: float) -> dict[str, Any]:
    """A one-dimensional law's part of fits.json; `at` says what was held fixed."""
    value: dict[str, Any] = {
        **at,
        "points": len(law.x),
        "exponent": interval(law.exponent[1], law.exponent[0]),
        "scale": interval(law.scale[1], law.scale[0]),
    }
    if law.free:
        theta, draws = law.free
        names = ("E", "scale", "exponent")
        values = (np.exp(theta[0]), np.exp(theta[1]), theta[2])
        samples = (np.exp(draws[:, 0]), np.exp(draws[:, 1]), draws[:, 2])
        value["with_constant"] = {n: interval(s, float(v)) for n, v, s in zip(names, values, samples, strict=True)}
    return value


def to_json(result: Analysis) -> dict[str, Any]:
    """fits.json: the parametric law at the top, the other approaches beside it.

    To DIGITS digits: the last ones hang on where in memory the processor's matrix routines find their numbers. None for a
    constant beyond every number, as B = L D^beta is where noise makes beta a hundred.
    """
    return finite(rounded(_all_parts(result)))


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """With every float to so many significant digits."""
    if isinstance(value, dict):
        return {name: rounded(part, digits) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part, digits) for part in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _all_parts(result: Analysis) -> dict[str, Any]:
    cells, runs = result.cells, result.table.runs
    reference, example = result.reference_flops, result.example_flops
    isoflop = None
    if result.isoflop:
        lines = [
            {
                "flops": line.flops,
                "N_opt": interval(np.exp(line.draws[:, 0]), math.exp(line.log_n)),
                "D_opt": interval(np.exp(line.draws[:, 1]), math.exp(line.log_d)),
                "loss": interval(np.exp(line.draws[:, 2]), math.exp(line.log_loss)),
                "sizes": len(line.rows),
            }
            for line in result.lines
        ]
        left_out = [{"flops": flops, "reason": reason} for flops, reason in result.lines_left_out]
        isoflop = {**result.isoflop, "lines": lines, "left_out": left_out}
    both = [fit for fit in (result.parametric, result.other_q) if fit]
    low, high = result.e_profile
    return {
        **_widened(result),
        "E_profile": {"value": result.parametric_at_noise.value["E"], "lo95": low, "hi95": high},
        **{"q_free" if fit.free_q else "q_1": parametric_json(fit) for fit in both},
        "forms": forms_json(result),
        "optimum": {"flops": reference, **optimum_at(reference, result.parametric, result.macs)},
        "example": {"flops": example, **optimum_at(example, result.parametric, result.macs)},
        "a_without_one_size": result.a_without_one_size,
        "noise_matched": parametric_json(result.parametric_at_noise),
        "isoflop": isoflop,
        "frontier": result.frontier,
        "loss_vs_compute": power_law_json(result.by_compute) if result.by_compute else None,
        "loss_vs_params": [power_law_json(law, n_samples=at) for at, law in result.by_params],
        "loss_vs_samples": [power_law_json(law, n_params=at) for at, law in result.by_samples],
        "error_rate_vs_compute": power_law_json(result.error_rate) if result.error_rate else None,
        "macs": {"k": result.macs.k, "p": result.macs.p, "largest_log_error": result.macs.error},
        "prediction": keep_law(result),
        "data": {
            "dataset": result.table.dataset,
            "runs": len(runs.loss),
            "cells": len(cells.log_loss),
            "diverged_left_out": result.table.n_diverged,
            "near_chance_left_out": result.n_near_chance,
            "noise": cells.noise if len(cells.residuals) else None,
            "noise_of_a_cell": cell_noise(cells) if len(cells.residuals) else None,
            "bootstrap_draws": DRAWS,
            "envelope_bootstrap_draws": ENVELOPE_DRAWS,
        },
    }
