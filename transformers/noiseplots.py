"""Figures of the study of the gradient noise scale."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from common.plots import PALETTE, new_figure, save_figure, sequence, style
from critical_batch import power_law
from gradient_noise import Interval
from predictions import DECADE, ArmResult, correlation, predicted_steps

MARKS = "osD^vP*X"


def error(ax: Axes, x: float, interval: Interval, color: object, mark: str, label: str | None = None) -> None:
    """A point with its interval; an arrow where that has no upper end."""
    if not np.isfinite(interval.value) or interval.value <= 0:
        return
    below = interval.value - max(interval.lo95, interval.value * 1e-2)
    high = interval.hi95
    above = high - interval.value if np.isfinite(high) else 2 * interval.value
    ax.errorbar(
        x, interval.value, [[below], [above]], fmt=mark, ms=4.5, color=color, label=label, lolims=not np.isfinite(high)
    )


def plain_ticks(ax: Axes) -> None:
    """Logarithmic axes: labels at powers of ten where there are two at least, so that no two labels meet."""
    for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if axis.get_scale() == "log" and abs(math.log10(limits[1] / limits[0])) > 1.2:
            axis.set_minor_formatter(NullFormatter())


def once(ax: Axes, **where: object) -> None:
    """A legend that names everything one time."""
    handles, labels = ax.get_legend_handles_labels()
    first = dict(zip(reversed(labels), reversed(handles), strict=True))
    names = [label for label in dict.fromkeys(labels)]
    ax.legend([first[label] for label in names], names, **where)  # type: ignore[arg-type]


def overview(arms: Sequence[ArmResult], path: Path) -> None:
    """The trade-off of the base arm, B_simple against B_crit of all, and both against the loss."""
    base = arms[0]
    with style():
        figure, axes = new_figure(3, width=3.9, height=3.5)
        trade_off(axes[0], base)
        scatter(axes[1], arms)
        against_loss(axes[2], base)
        for ax in axes:
            plain_ticks(ax)
        save_figure(figure, path)


def trade_off(ax: Axes, arm: ArmResult) -> None:
    """P1: tokens against steps, one hyperbola a loss; its bend is where both are twice the least."""
    colors = sequence(len(arm.at))
    for one, color in zip(arm.at, colors, strict=True):
        arrived = one.runs.reached
        tokens = one.runs.batch * one.runs.steps
        ax.plot(one.runs.steps[arrived], tokens[arrived], "o", ms=4, color=color, label=f"loss {one.goal:g}")
        if one.fit is None:
            continue
        B = np.geomspace(one.runs.batch.min() / 2, one.runs.batch.max() * 2, 200)
        steps = predicted_steps(one, B)
        ax.plot(steps, B * steps, color=color, lw=1)
        s_min, b_crit = one.fit.s_min.value, one.fit.b_crit.value
        if B[0] <= b_crit <= B[-1]:
            ax.plot(2 * s_min, 2 * s_min * b_crit, "*", ms=9, color=color, mec="black", mew=0.5, label="batch = B_crit")
    ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="tokens", title=f"{arm.name}: steps and tokens to a loss")
    once(ax, loc="upper right", fontsize=7)


def scatter(ax: Axes, arms: Sequence[ArmResult]) -> None:
    """P3: the noise scale against the critical batch size, with the diagonal and half a decade on either side."""
    values = []
    for i, arm in enumerate(arms):
        for one in arm.with_fit():
            assert one.fit is not None
            if one.b_simple is None or not np.isfinite(one.b_simple.value):
                continue
            x = one.fit.b_crit
            error(ax, x.value, one.b_simple, PALETTE[i % 7], MARKS[i % len(MARKS)], arm.name)
            if np.isfinite(x.hi95):
                ax.plot([x.lo95, x.hi95], [one.b_simple.value] * 2, color=PALETTE[i % 7], lw=1.2)
            values += [x.value, one.b_simple.value]
    if values:
        line = np.array([min(values) / 4, max(values) * 4])
        ax.plot(line, line, color="0.3", lw=1, label="equal")
        ax.fill_between(line, line / DECADE, line * DECADE, color="0.9", zorder=0, label="half a decade")
        once(ax, loc="upper left", fontsize=7)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="B_crit from the sweep (tokens)",
        ylabel="B_simple (tokens)",
        title="what the noise scale predicts",
    )


def against_loss(ax: Axes, arm: ArmResult) -> None:
    """P4 and P12: critical batch and noise scales as the loss falls."""
    kinds = (
        ("B_crit, sweep", lambda one: one.fit.b_crit if one.fit else None),
        ("B_simple", lambda one: one.b_simple),
        ("B_noise", lambda one: one.b_noise),
        ("B_crit, branches", lambda one: one.local),
    )
    for i, (label, pick) in enumerate(kinds):
        points = [(one.goal, pick(one)) for one in arm.at]
        points = [(L, b) for L, b in points if b is not None and np.isfinite(b.value) and b.value > 0]
        for L, b in points:
            error(ax, L * (1 + 0.004 * (i - 1.5)), b, PALETTE[i], MARKS[i], label)
        if i < 2 and len(points) > 2:
            losses = np.array([L for L, _ in points])
            a, exponent = power_law(losses, [b.value for _, b in points])
            span = np.linspace(losses.min(), losses.max(), 50)
            ax.plot(span, a * span**exponent, color=PALETTE[i], lw=1, label=f"$\\propto L^{{{exponent:.1f}}}$")
    ax.set(
        yscale="log",
        xlabel="loss (nats per token), falling to the right",
        ylabel="batch (tokens)",
        title=f"{arm.name}: as the loss falls",
    )
    ax.invert_xaxis()
    once(ax, loc="best", fontsize=7)


def prediction_panels(arms: Sequence[ArmResult], sizes: Sequence[ArmResult], path: Path) -> None:
    """P5, P6, P10, and the noise scale of every parameter."""
    with style():
        figure, axes = new_figure(4, width=3.4, height=3.4)
        by_size(axes[0], [arms[0], *sizes])
        rates(axes[1], arms)
        units(axes[2], arms[0])
        parameters(axes[3], arms[0])
        for ax in axes:
            plain_ticks(ax)
        for ax in axes[:3]:
            if ax.get_legend_handles_labels()[1]:
                once(ax, loc="best", fontsize=7)
        save_figure(figure, path)


def by_size(ax: Axes, arms: Sequence[ArmResult]) -> None:
    """P5: B_simple against the loss for nets of several widths."""
    for i, arm in enumerate(arms):
        for one in arm.at:
            if one.b_simple is not None:
                error(ax, one.goal * (1 + 0.004 * (i - 1)), one.b_simple, PALETTE[i], MARKS[i], arm.name)
    ax.set(yscale="log", xlabel="loss (nats per token), falling to the right", ylabel="B_simple (tokens)")
    ax.set_title("P5: sizes")
    ax.invert_xaxis()


def rates(ax: Axes, arms: Sequence[ArmResult]) -> None:
    """P6: the tuned learning rate against the batch, for each arm's last loss that was reached."""
    for i, arm in enumerate(arms):
        for one in [one for one in arm.at if one.inside.any()][-1:]:
            good, mark = one.inside, f"{MARKS[i % len(MARKS)]}-"
            ax.plot(one.runs.batch[good], one.rates[good], mark, ms=4, color=PALETTE[i % 7], label=arm.name)
    ax.set(xscale="log", yscale="log", xlabel="batch (tokens)", ylabel="tuned rate (factor)")
    ax.set_title("P6: learning rates, last loss")


def units(ax: Axes, arm: ArmResult) -> None:
    """P10: B_simple in tokens and in sequences against the sequences' length."""
    lengths = sorted(arm.contexts)
    for T in lengths:
        error(ax, T, arm.contexts[T].scaled(T), PALETTE[0], "o", "in tokens")
        error(ax, T, arm.contexts[T], PALETTE[1], "s", "in sequences")
    found = correlation(arm)
    if found:
        T = np.geomspace(min(lengths), max(lengths), 50)
        ax.plot(T, found[0] * (1 + (T - 1) * found[1]), color=PALETTE[0], lw=1, label=f"correlation {found[1]:.3f}")
    ax.set(xscale="log", yscale="log", xlabel="tokens in a sequence", ylabel="B_simple", title="P10: the unit")


def parameters(ax: Axes, arm: ArmResult) -> None:
    """B_simple of every parameter by itself."""
    layers = [(name, b) for name, b in arm.layers.items() if np.isfinite(b.value) and b.value > 0]
    for i, (_, b) in enumerate(layers):
        error(ax, i, b, PALETTE[2], "o")
    names = [name.replace("blocks.", "") for name, _ in layers]
    ax.set_xticks(range(len(layers)), names, rotation=90, fontsize=6)
    ax.set(yscale="log", ylabel="B_simple (tokens)", title=f"parameters, loss {last_measured(arm):g}")


def last_measured(arm: ArmResult) -> float:
    """The lowest loss at which the noise was measured; nan where it was at none."""
    return min((one.goal for one in arm.at if one.b_simple is not None), default=math.nan)
