"""What a plan says on the screen."""

from typing import Any

from law_forms.forms import FORMS


def sized(cell: dict[str, Any]) -> str:
    """`width 16 (21,130 parameters) on 175,980 images`; without a width where the law is of another net."""
    net = (
        f"width {cell['width']} ({cell['n_params']:,} parameters)"
        if cell["width"]
        else f"{cell['n_params']:,} parameters"
    )
    return f"{net} on {cell['n_samples']:,} {'images' if cell['width'] else 'samples'}"


def span(item: dict[str, Any], form: str = ".4f", scale: float = 1.0, unit: str = "") -> str:
    """`0.0374 [0.0331, 0.0423]`; an end that is open is left blank."""
    low, high = (f"{item[key] * scale:{form}}" if item[key] is not None else "…" for key in ("lo95", "hi95"))
    return f"{item['value'] * scale:{form}}{unit} [{low}, {high}]"


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The prediction in lines."""
    law, cell, optimum = plan["law"], plan["cell"], plan["optimum"]
    about = f" on {law['dataset']}" if law["dataset"] else ""
    others = ", ".join(f"{name} {weight:.0%}" for name, weight in law["weights"].items() if name != law["form"])
    lines = [
        f"law: L = {FORMS[law['form']].formula} ({law['form']}), from {law['runs']} runs{about}: {law['fits']}"
        + (f"; other forms that count: {others}" if others else ""),
        f"plan for {cell['flops']:.3g} FLOP: {sized(cell)}",
    ]
    if plan["compute_of_the_loss"]:
        lines.append(
            f"compute that a loss of {plan['amount']:g} takes: {span(plan['compute_of_the_loss'], '.3g')} FLOP"
        )
    seeds = f"mean of {len(plan['seeds'])} seeds" if len(plan["seeds"]) > 1 else "one run"
    lines.append(f"predicted loss {span(plan['loss'])} nats ({seeds}; 95% prediction interval){_beyond(plan['loss'])}")
    if "error_rate" in plan:
        rate = plan["error_rate"]
        lines.append(f"predicted error rate {span(rate, '.2f', 100, '%')}{_beyond(rate, 100, '.2f')}")
    lines.append(
        f"half-width in logs {plan['half_width']:.3f}; of the seeds alone {plan['half_width_of_seeds_alone']:.3f}"
    )
    lines.append(
        f"the best size is known to {_between(optimum['n_params'])} parameters, "
        f"{_between(optimum['n_samples'])} samples (95%)"
    )
    return [*lines, *_flatness(plan), extrapolation_line(plan)]


def _between(item: dict[str, Any]) -> str:
    return f"{item['lo95']:,.0f} to {item['hi95']:,.0f}"


def _beyond(item: dict[str, Any], scale: float = 1.0, form: str = ".4f") -> str:
    if "beyond_these_images" not in item:
        return ""
    low, high = (f"{value * scale:{form}}" for value in item["beyond_these_images"])
    return f"; [{low}, {high}] beyond these test images"


def _flatness(plan: dict[str, Any]) -> list[str]:
    region = plan["region"]
    (low, high), (most, least) = region["n_params"], region["n_samples"]
    upper = "and more" if region["open"] else f"to {high:,.0f}"
    lines = [
        f"within {region['within']:.1%} of the least loss at this compute: {low:,.0f} {upper} parameters "
        f"on {most:,.0f} to {least:,.0f} samples"
    ]
    for key, name in (("twice_too_large", "large"), ("twice_too_small", "small")):
        part = plan[key]
        if part:
            lines.append(
                f"a net twice too {name} costs {part['loss_increase']:.1%} of loss, as training with "
                f"{part['compute']:.2f} of the compute would"
            )
    return lines


def extrapolation_line(plan: dict[str, Any]) -> str:
    """Whether, and how far, the cell lies outside what the law was fitted to."""
    names = {"flops": "compute", "n_params": "size", "n_samples": "number of samples"}
    outside = []
    for key, factor in plan["extrapolation"].items():
        if factor > 1.001:
            outside.append(f"{factor:.2f} times the largest {names[key]}")
        elif factor < 0.999:
            outside.append(f"{factor:.2f} of the smallest {names[key]}")
    if not outside:
        return "inside the range of the law's runs"
    return f"EXTRAPOLATES: {', '.join(outside)} of the law's runs"


def measured_lines(plan: dict[str, Any]) -> list[str]:
    """Predicted against measured."""
    measured = plan["measured"]
    if measured["loss"] is None:
        return ["measured: every run diverged"]
    inside = "inside" if measured["inside"] else "OUTSIDE"
    runs = ", ".join(f"{loss:.4f}" if loss else "diverged" for loss in measured["losses"])
    lines = [
        f"measured loss {measured['loss']:.4f} ({runs}): {inside} the interval, log measured - log predicted "
        f"{measured['log_error']:+.3f}"
    ]
    if measured["error_rate"]:
        lines.append(f"measured error rate {100 * measured['error_rate']:.2f}%")
    return lines
