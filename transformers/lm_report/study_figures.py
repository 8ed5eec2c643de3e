"""Figures of the study of the gradient noise scale."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from common.plots import PALETTE, new_figure, save_figure, sequence, style
from critical_batch.arm_tables import ArmResult
from critical_batch.batch_laws import power_law
from critical_batch.predictions import DECADE, correlation, predicted_steps
from gradient_noise.noise_estimators import Interval

MARKS = "osD^vP*X"


def error(ax: Axes, x: float, interval: Interval, color: object, mark: str, label: str | None = None) -> None:
    """A point with its interval; an arrow where that has no upper end, alone at the lower one where there is no point."""
    if interval.value == math.inf and 0 < interval.lo95 < math.inf:
        ax.plot(x, interval.lo95, "^", ms=4, color=color)
    if not np.isfinite(interval.value) or interval.value <= 0:
        return
    value = interval.value
    open_end = not np.isfinite(interval.hi95)
    below = max(0.0, value - max(interval.lo95, value * 1e-2))
    above = 2 * value if open_end else max(0.0, interval.hi95 - value)
    ax.errorbar(x, value, [[below], [above]], fmt=mark, ms=4.5, color=color, label=label)
    if open_end:
        ax.plot(x, 3 * value, "^", ms=4, color=color)


def plain_ticks(ax: Axes) -> None:
    """Logarithmic axes: labels at powers of ten where there are two at least, else at their double and fivefold too."""
    for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if axis.get_scale() != "log":
            continue
        low, high = sorted(map(math.log10, limits))
        axis.set_minor_formatter(NullFormatter())
        if math.floor(high) - math.ceil(low) < 1:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def once(ax: Axes, **where: object) -> None:
    """A legend that names everything one time."""
    handles, labels = ax.get_legend_handles_labels()
    first = dict(zip(reversed(labels), reversed(handles), strict=True))
    ax.legend([first[label] for label in dict.fromkeys(labels)], list(dict.fromkeys(labels)), **where)  # type: ignore[arg-type]


def legends(empty: Axes, panels: dict[str, Axes]) -> None:
    """The legends of other panels, one below the other in an empty one."""
    empty.set_axis_off()
    top = 1.0
    for title, ax in panels.items():
        handles, labels = ax.get_legend_handles_labels()
        first = dict(zip(reversed(labels), reversed(handles), strict=True))
        names = list(dict.fromkeys(labels))
        look = {"fontsize": 8, "title_fontsize": 8, "alignment": "left", "borderpad": 0.0, "ncols": 2}
        place = {"loc": "upper left", "bbox_to_anchor": (0.0, top)}
        empty.add_artist(empty.legend([first[name] for name in names], names, title=title, **place, **look))
        top -= 0.12 + 0.062 * -(-len(names) // 2)


def overview(arms: Sequence[ArmResult], path: Path) -> None:
    """The trade-off of the base arm, B_simple against B_crit of all, and both against the loss."""
    base = arms[0]
    with style():
        figure, axes = new_figure(2, 2, width=3.7, height=3.5)
        trade_off(axes[0], base)
        scatter(axes[1], arms)
        against_loss(axes[2], base)
        for ax in axes[:3]:
            plain_ticks(ax)
        legends(axes[3], {"P1": axes[0], "P3": axes[1], "P4": axes[2]})
        figure.suptitle("bars: 95% intervals (an arrow: no upper end)", fontsize=10)
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
    ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="tokens", title=f"P1: {arm.name}, to a loss")


def scatter(ax: Axes, arms: Sequence[ArmResult]) -> None:
    """P3: the noise scale against the critical batch size, with the diagonal and half a decade on either side."""
    values = []
    for i, arm in enumerate(arms):
        for one in arm.with_fit():
            assert one.fit is not None
            x = one.fit.b_crit
            if not np.isfinite(one.averaged.value):
                continue
            color = PALETTE[i % 7]
            error(ax, x.value, one.averaged, color, MARKS[i % len(MARKS)], arm.name)
            right = x.hi95 if np.isfinite(x.hi95) else 3 * x.value
            ax.plot([max(x.lo95, x.value / 100), right], [one.averaged.value] * 2, color=color, lw=1.2)
            values += [x.value, one.averaged.value]
    if values:
        line = np.array([min(values) / 4, max(values) * 4])
        ax.plot(line, line, color="0.3", lw=1, label="equal")
        ax.fill_between(line, line / DECADE, line * DECADE, color="0.9", zorder=0, label="half a decade")
    else:
        nothing(ax, "no loss with both")
    ax.set(xscale="log", yscale="log", xlabel="B_crit from the sweep (tokens)")
    ax.set(ylabel="B_simple, mean of a run (tokens)", title="P3: what the noise predicts")


def against_loss(ax: Axes, arm: ArmResult) -> None:
    """P4: critical batch and noise scales as the loss falls."""
    swept = [(one.goal, one.fit.b_crit) for one in arm.at if one.fit is not None]
    kinds = [("B_crit, sweep (average)", swept)]
    for label, name in (("B_simple", "b_simple"), ("B_noise", "b_noise"), ("branches", "branched")):
        kinds.append((label, [(one.loss, getattr(one, name)) for one in arm.measured]))
    for i, (label, found) in enumerate(kinds):
        for L, b in found:
            error(ax, L * (1 + 0.003 * (i - 1.5)), b, PALETTE[i], MARKS[i], label)
        points = [(L, b) for L, b in found if np.isfinite(b.value) and b.value > 0]
        if i < 2 and len(points) > 2:
            losses = np.array([L for L, _ in points])
            a, exponent = power_law(losses, [b.value for _, b in points])
            span = np.linspace(losses.min(), losses.max(), 50)
            ax.plot(span, a * span**exponent, color=PALETTE[i], lw=1, label=f"$\\propto L^{{{exponent:.1f}}}$")
    ax.set(yscale="log", xlabel="loss (nats per token), falling to the right", ylabel="batch (tokens)")
    ax.set_title(f"P4: {arm.name} as the loss falls")
    ax.invert_xaxis()


def nothing(ax: Axes, why: str) -> None:
    """Says why a panel is empty."""
    ax.text(0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes, color="0.4")


def prediction_panels(arms: Sequence[ArmResult], sizes: Sequence[ArmResult], path: Path) -> None:
    """P5, P6, P10, and the noise scale of every parameter."""
    with style():
        figure, axes = new_figure(2, 2, width=3.7, height=3.7)
        by_size(axes[0], [arms[0], *sizes])
        rates(axes[1], arms)
        units(axes[2], arms[0])
        parameters(axes[3], arms[0])
        for ax in axes:
            plain_ticks(ax)
        for ax in (axes[0], axes[2]):
            if ax.get_legend_handles_labels()[1]:
                once(ax, loc="best", fontsize=7)
        figure.suptitle("bars: 95% intervals (an arrow: no upper end)", fontsize=10)
        save_figure(figure, path)


def by_size(ax: Axes, arms: Sequence[ArmResult]) -> None:
    """P5: B_simple against the loss for nets of several widths."""
    for i, arm in enumerate(arms):
        for one in arm.measured:
            error(ax, one.loss, one.b_simple, PALETTE[i % 7], MARKS[i % len(MARKS)], arm.name)
    ax.set(yscale="log", xlabel="loss (nats per token), falling to the right", ylabel="B_simple (tokens)")
    ax.set_title("P5: sizes")
    ax.invert_xaxis()


def rates(ax: Axes, arms: Sequence[ArmResult]) -> None:
    """P6: the tuned learning rate against the batch, for each arm's last loss that enough batches reached."""
    for i, arm in enumerate(arms):
        for one in [one for one in arm.at if one.runs.reached.sum() > 1][-1:]:
            order = np.argsort(one.runs.batch)
            order = order[one.runs.reached[order]]
            mark = f"{MARKS[i % len(MARKS)]}-"
            label = f"{arm.name}, {one.goal:g}"
            ax.plot(one.runs.batch[order], one.rates[order], mark, ms=4, color=PALETTE[i % 7], label=label)
    ax.set(xscale="log", yscale="log", xlabel="batch (tokens)", ylabel="tuned rate (factor)")
    ax.set_title("P6: learning rates")
    if ax.get_legend_handles_labels()[1]:
        low, high = ax.get_ylim()
        ax.set_ylim(low * (low / high) ** 0.7, high)  # room for the legend
        once(ax, loc="lower right", fontsize=7, title="arm, loss", title_fontsize=7)


def units(ax: Axes, arm: ArmResult) -> None:
    """P10: B_simple in tokens and in sequences against how many tokens of each sequence have a loss."""
    lengths = sorted(arm.positions)
    for m in lengths:
        error(ax, m, arm.positions[m].scaled(m), PALETTE[0], "o", "in tokens")
        error(ax, m, arm.positions[m], PALETTE[1], "s", "in sequences")
    found = correlation(arm)
    if found:
        m = np.geomspace(min(lengths), max(lengths), 50)
        ax.plot(m, found[0] * (1 + (m - 1) * found[1]), color=PALETTE[0], lw=1, label=f"correlation {found[1]:.3f}")
    if not lengths:
        nothing(ax, "not measured")
    ax.set(xscale="log", yscale="log", xlabel="tokens with a loss, of each sequence", ylabel="B_simple")
    ax.set_title("P10: the unit")


def parameters(ax: Axes, arm: ArmResult) -> None:
    """B_simple of every parameter by itself."""
    layers = [(name, b) for name, b in arm.layers.items() if np.isfinite(b.value) and b.value > 0]
    for i, (_, b) in enumerate(layers):
        error(ax, i, b, PALETTE[2], "o")
    names = [name.replace("blocks.", "") for name, _ in layers]
    ax.set_xticks(range(len(layers)), names, rotation=90, fontsize=6)
    ax.set(yscale="log", ylabel="B_simple (tokens)", title=f"parameters, loss {last_measured(arm):.2f}")


def last_measured(arm: ArmResult) -> float:
    """The lowest loss at which the noise was measured; nan where it was at none."""
    return min((one.loss for one in arm.measured), default=math.nan)
