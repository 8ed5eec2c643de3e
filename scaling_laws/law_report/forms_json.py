"""The part of fits.json that compares the forms of the law, and the paragraph and the figure that tell of it."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

from common.files import finite
from common.plots import PALETTE, new_figure
from law_forms.form_choice import HeldOut, Rival
from law_forms.forms import FORMS
from laws.analysis import Analysis


def forms_json(result: Analysis) -> dict[str, Any]:
    """Every form's fit, what it predicted of cells that it had not seen, and its weight in predictions."""
    weights = result.choice.weights(len(np.unique(result.cells.n_params)))
    table = [_rival_json(rival, weights.get(rival.name, 0.0)) for rival in result.choice.rivals]
    return {"chosen": result.choice.name, "reason": result.choice.reason, "table": table}


def _rival_json(rival: Rival, weight: float) -> dict[str, Any]:
    row = {
        "form": rival.name,
        "formula": FORMS[rival.name].formula,
        "parameters": rival.parameters,
        "rms": round(rival.rms, 6),
        "chi2_per_degree": rival.chi2,
        "bic": rival.bic,
        "held_out_error": round(rival.error, 6),
        "weight": round(weight, 6),
        "held_out": [_held_out_json(part) for part in rival.held_out],
    }
    return finite(row)


def _held_out_json(part: HeldOut) -> dict[str, Any]:
    return {
        "name": part.name,
        "trained_on": part.trained_on,
        "cells": len(part.errors),
        "rms": round(part.rms, 6),
        "bias": round(float(part.errors.mean()), 6),  # of errors that nearly cancel
    }


def forms_text(fits: dict[str, Any]) -> list[str]:
    """The table of forms as Markdown lines, or why there is none."""
    forms = fits["forms"]
    if not forms["table"]:
        return [f"Forms of the law: {forms['reason']}."]
    ways = [part["name"] for part in forms["table"][0]["held_out"]]
    lines = [
        f"Predictions use this form: {forms['chosen']}. All forms, each with the root mean square (bias) of log predicted "
        f"minus log observed on cells held out (seed noise of a cell's mean: {_three(fits['data']['noise_of_a_cell'])}):",
        "",
        f"| form | parameters | {' | '.join(ways)} | held-out error | fit: rms | chi2 / dof | BIC |",
        f"| --- | --- |{' --- |' * len(ways)} --- | --- | --- | --- |",
    ]
    for row in forms["table"]:
        name = f"**{row['form']}**" if row["form"] == forms["chosen"] else row["form"]
        cells = [f"{part['rms']:.3f} ({part['bias']:+.3f})" for part in row["held_out"]]
        fit = [f"{row['rms']:.3f}", *("?" if row[key] is None else f"{row[key]:{form}}" for key, form in FIT_COLUMNS)]
        numbers = [str(row["parameters"]), *cells, _three(row["held_out_error"]), *fit]
        lines.append(f"| {name}: {row['formula']} | {' | '.join(numbers)} |")
    return lines


FIT_COLUMNS = (("chi2_per_degree", ".2f"), ("bic", ".0f"))


def _three(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def draw_forms(result: Analysis, fits: dict[str, Any], title: str) -> Figure | None:
    """Held-out errors of every form, and the largest budgets as the chosen form and q = 1 predict them from smaller ones."""
    rivals = result.choice.rivals
    ordered = [part.name for part in rivals[0].held_out if part.name.startswith("C <=")] if rivals else []
    if not ordered:
        return None
    figure, axes = new_figure(2, width=4.6, height=3.4)
    _errors_panel(axes[0], rivals, result.choice.name, fits["data"]["noise_of_a_cell"])
    _extrapolation_panel(axes[1], result, ordered[-1])
    figure.suptitle(f"{title}: what each form predicts of cells that it has not seen", fontsize=10)
    return figure


def _errors_panel(axes: Axes, rivals: list[Rival], chosen: str, noise: float | None) -> None:
    order = sorted(rivals, key=lambda rival: -rival.error)
    for i, rival in enumerate(order):
        axes.plot([part.rms for part in rival.held_out], [i] * len(rival.held_out), ".", color="0.6")
        axes.plot(rival.error, i, "o", color=PALETTE[1] if rival.name == chosen else PALETTE[0])
    if noise:
        axes.axvline(noise, color="black", lw=0.8, ls=":", label="seed noise of a cell's mean")
        axes.legend(loc="upper right")  # where the errors are least
    axes.set_yticks(range(len(order)), [rival.name for rival in order])
    axes.set(xlim=(0, None), xlabel="error of log loss, root mean square")
    axes.set_title("Held-out error (dots: each way of holding out)", loc="left")


def _extrapolation_panel(axes: Axes, result: Analysis, way: str) -> None:
    cells = result.cells
    for name, color in (("additive", PALETTE[0]), (result.choice.name, PALETTE[1])):
        rival = next(rival for rival in result.choice.rivals if rival.name == name)
        part = next(part for part in rival.held_out if part.name == way)
        told = f"{name}: {part.rms:.3f} ({part.errors.mean():+.3f})"
        axes.plot(cells.flops[part.rows], part.errors, "o", ms=4, color=color, label=told)
    axes.axhline(0, color="black", lw=0.8)
    if np.isfinite(cells.noise) and len(cells.residuals):
        spread = 1.96 * cells.noise / np.sqrt(cells.seeds.mean())
        axes.axhspan(-spread, spread, color="0.9", zorder=0, label="95% of the seeds' noise")
    axes.set(xscale="log", xlabel="compute C, FLOP", ylabel="log predicted − log observed")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(10, 10)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"Predicted from {way.replace('<=', '≤')}: rms (bias)", loc="left")
    axes.legend(fontsize=7)
