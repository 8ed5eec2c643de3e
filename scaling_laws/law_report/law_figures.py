"""The figures of a fit: each says what was held fixed, what the bars and bands are, and how many runs it rests on."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from common.plots import PALETTE, band, new_figure, save_figure, sequence, style
from law_report.forms_json import draw_forms
from law_report.formulae import law_of
from laws.analysis import Analysis
from laws.isoflop import IsoFlop
from laws.parametric import optimum_curves
from laws.power_law import PowerLaw
from laws.power_sum import Array
from laws.run_table import Cells

BLUE, ORANGE, GREEN, PINK = PALETTE[:4]


def draw_all(result: Analysis, fits: dict[str, Any], folder: Path, title: str) -> None:
    """Write every figure that the runs allow into `folder`, as PNG and PDF."""
    with style():
        save_figure(draw_optimum(result, fits, title), folder / "optimum")
        save_figure(draw_power_laws(result, fits, title), folder / "power_laws")
        save_figure(draw_parametric(result, fits, title), folder / "parametric")
        if forms := draw_forms(result, fits, title):
            save_figure(forms, folder / "forms")


# ---------------------------------------------------------------- helpers


def plain_log_axis(axes: Axes, which: str) -> None:
    """A log axis whose ticks are written as plain numbers where it spans less than three decades."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if low > 0 and math.log10(high / low) < 2.2:
        subs = (1.0, 2.0, 5.0) if math.log10(high / low) > 0.9 else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 10 else f"{v:.3g}"))
        axis.set_minor_formatter(NullFormatter())


def headroom(axes: Axes, share: float) -> None:
    """Room for a legend at the top of a log axis: `share` of the present span."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** share)


def bars(axes: Axes, x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray, **style: Any) -> None:
    """Points with their intervals as error bars."""
    errors = np.maximum(np.stack([y - low, high - y]), 0)
    axes.errorbar(x, y, errors, fmt="o", markersize=4, elinewidth=1, capsize=2, **style)


def exponent_text(item: dict[str, float | None]) -> str:
    """`0.33 [0.29, 0.38]`."""
    value, low, high = (f"{item[key]:.2f}" if item[key] is not None else "?" for key in ("value", "lo95", "hi95"))
    return f"{value} [{low}, {high}]"


def finish(figure: Figure, title: str, result: Analysis, note: str = "") -> Figure:
    """The title over all panels."""
    n, cells = len(result.table.runs.loss), len(result.cells.log_loss)
    told = [f"{title}: {n} runs in {cells} cells", "bars and bands: 95% intervals"]
    figure.suptitle("\n".join(["; ".join(told[:2]), *([note] if note else [])]), fontsize=10)
    return figure


# ---------------------------------------------------------------- the headline: IsoFLOP lines and the optimum


def draw_optimum(result: Analysis, fits: dict[str, Any], title: str) -> Figure:
    """The headline: IsoFLOP lines, and the optimal parameters and samples by each approach."""
    figure, axes = new_figure(2, 2, width=3.7, height=3.1)
    _isoflop_panel(axes[0], result.cells, result.lines, result.noise)
    _move_legend(axes[0], axes[3])
    flops = np.geomspace(result.cells.flops.min(), result.cells.flops.max(), 60)
    curves = optimum_curves(flops, result.parametric, result.macs)
    for column, (panel, symbol, exponent) in enumerate(((axes[1], "N", "a"), (axes[2], "D", "b"))):
        best, low, high = curves[symbol]
        panel.plot(flops, best, color=BLUE, label=f"parametric law: {exponent} = {exponent_text(fits[exponent])}")
        band(panel, flops, low, high, BLUE)
        if result.isoflop:
            c = np.array([line.flops for line in result.lines])
            points = np.exp([(line.log_n, line.log_d)[column] for line in result.lines])
            low, high = np.nanpercentile(np.exp([line.draws[:, column] for line in result.lines]), [2.5, 97.5], axis=1)
            bars(panel, c, points, low, high, color=ORANGE)
            slope = fits["isoflop"][exponent]
            line = fits["isoflop"][symbol]["value"] * (flops / fits["optimum"]["flops"]) ** slope["value"]
            panel.plot(flops, line, "--", color=ORANGE, label=f"IsoFLOP: {exponent} = {exponent_text(slope)}")
        if result.frontier and symbol == "N":
            label = f"envelope: a = {exponent_text(fits['frontier']['a'])}"
            panel.plot(*result.frontier_sizes, ".", ms=3, color=GREEN, label=label)
        _finish_optimum_panel(panel, symbol)
    return finish(figure, title, result)


def _finish_optimum_panel(panel: Axes, symbol: str) -> None:
    unit = {"N": "parameters", "D": "training samples"}[symbol]
    panel.set(xscale="log", yscale="log", xlabel="compute C, FLOP", ylabel=f"optimal {symbol}, {unit}")
    panel.set_title(f"Optimal {unit}")
    panel.legend(loc="upper left")
    headroom(panel, 0.35)
    plain_log_axis(panel, "y")


def draw_preview(cells: Cells, lines: list[IsoFlop], folder: Path, title: str) -> None:
    """optimum.png of a sweep that still runs: the lines that are complete, and their minima, without intervals."""
    with style():
        figure, axes = new_figure(2, 2, width=3.7, height=3.1)
        _isoflop_panel(axes[0], cells, lines)
        _move_legend(axes[0], axes[3])
        in_lines = np.isin(np.arange(len(cells.log_loss)), np.concatenate([line.rows for line in lines]))
        axes[0].plot(cells.n_params[~in_lines], np.exp(cells.log_loss[~in_lines]), ".", ms=3, color="0.7", zorder=0)
        flops = np.array([line.flops for line in lines])
        logs_of = (("N", "a", [line.log_n for line in lines]), ("D", "b", [line.log_d for line in lines]))
        for panel, (symbol, exponent, logs) in zip(axes[1:3], logs_of, strict=True):
            slope, intercept = np.polyfit(np.log(flops), logs, 1)
            panel.plot(flops, np.exp(logs), "o", color=ORANGE)
            label = f"IsoFLOP so far: {exponent} = {slope:.2f}"
            panel.plot(flops, np.exp(intercept) * flops**slope, "--", color=ORANGE, label=label)
            _finish_optimum_panel(panel, symbol)
            # A power of ten at least, to be labelled.
            panel.set_xlim(flops.min() / 2, max(2 * flops.max(), 20 * flops.min()))
            panel.xaxis.set_minor_formatter(NullFormatter())
        figure.suptitle(title, fontsize=10)
        save_figure(figure, folder / "optimum", pdf=False)


def _isoflop_panel(axes: Axes, cells: Cells, lines: list[IsoFlop], noise: Array | None = None) -> None:
    """The lines with their parabolas; `noise` (draws, cells) of log loss gives the bars."""
    if not lines:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no IsoFLOP budget with a\nminimum inside its sizes", ha="center", va="center")
        return
    for line, color in zip(lines, sequence(len(lines)), strict=True):
        n, loss = cells.n_params[line.rows], np.exp(cells.log_loss[line.rows])
        spread = np.zeros((2, 1)) if noise is None else np.percentile(noise[:, line.rows], [2.5, 97.5], axis=0)
        bars(axes, n, loss, *(loss * np.exp(spread)), color=color)
        x = np.linspace(np.log(n[line.window[0]]), np.log(n[line.window[-1]]), 50)
        axes.plot(np.exp(x), np.exp(np.polyval(line.coefficients, x)), color=color, label=f"{line.flops / 1e9:,.0f}")
        axes.plot(math.exp(line.log_n), math.exp(line.log_loss), "*", ms=9, color="black", zorder=4)
    axes.set(xscale="log", yscale="log", xlabel="parameters N", ylabel="test loss, nats")
    axes.set_title("IsoFLOP lines (star: minimum)")
    plain_log_axis(axes, "x")
    plain_log_axis(axes, "y")


def _move_legend(axes: Axes, empty: Axes) -> None:
    """The legend of the IsoFLOP panel into a panel of its own."""
    empty.set_axis_off()
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        told = "IsoFLOP lines: compute C, GFLOP"
        empty.legend(handles, labels, title=told, loc="center", fontsize=9, title_fontsize=9, ncols=2)


# ---------------------------------------------------------------- Kaplan's panels


def draw_power_laws(result: Analysis, fits: dict[str, Any], title: str) -> Figure:
    """Kaplan et al.'s figure 1: loss against compute, parameters and samples; and the error rate."""
    figure, axes = new_figure(2, 2, width=3.7, height=3.4)
    _compute_panel(axes[0], result, fits)
    heading = "Loss against {}, {} fixed".format
    _slices_panel(axes[1], result.by_params, fits["loss_vs_params"], "D = {:,.0f}")
    axes[1].set(xlabel="parameters N", title=heading("parameters", "samples"))
    _slices_panel(axes[2], result.by_samples, fits["loss_vs_samples"], "N = {:,.0f}")
    axes[2].set(xlabel="training samples D", title=heading("samples", "parameters"))
    for panel in axes[:3]:
        panel.set(xscale="log", yscale="log", ylabel="test loss, nats")
    plain_log_axis(axes[1], "x")
    _error_rate_panel(axes[3], result, fits)
    for panel in axes:
        plain_log_axis(panel, "y")
    return finish(figure, title, result, "solid: E + K x^-g, with the g of the legend; dotted: K x^-g alone")


def _size_colors(result: Analysis) -> dict[float, Any]:
    sizes = np.unique(result.table.runs.n_params)
    return dict(zip(sizes, sequence(len(sizes)), strict=True))


def size_labels(sizes: np.ndarray) -> dict[float, str | None]:
    """A legend's names of sizes: of at most a dozen, evenly chosen, where a table from elsewhere has hundreds."""
    named = {float(sizes[i]) for i in np.linspace(0, len(sizes) - 1, min(12, len(sizes))).round().astype(int)}
    return {float(size): f"{size:,.0f}" if float(size) in named else None for size in sizes}


def _compute_panel(axes: Axes, result: Analysis, fits: dict[str, Any]) -> None:
    runs = result.table.runs
    colors = _size_colors(result)
    labels = size_labels(np.array(list(colors)))
    for size, color in colors.items():
        rows = runs.n_params == size
        axes.plot(runs.flops[rows], runs.loss[rows], ".", ms=3, color=color, label=labels[float(size)])
    if result.by_compute:
        label = law_label("frontier", result.by_compute, fits["loss_vs_compute"])
        _law(axes, result.by_compute, "black", label, points=False)
    axes.set(xscale="log", yscale="log", xlabel="compute C, FLOP", title="Loss against compute (dots: runs)")
    tight: dict[str, Any] = {"columnspacing": 0.8, "handletextpad": 0.2, "borderaxespad": 0.1}
    axes.legend(title="parameters N", fontsize=7, title_fontsize=7, ncols=3, loc="upper right", **tight)
    headroom(axes, 0.6)


def _slices_panel(axes: Axes, laws: list[tuple[float, PowerLaw]], items: list[dict[str, Any]], label: str) -> None:
    """Laws of the loss at some fixed values; `items` is their part of fits.json."""
    for (at, law), item, color in zip(laws, items, (BLUE, ORANGE, GREEN), strict=False):
        _law(axes, law, color, law_label(label.format(at), law, item))
    if laws:
        axes.legend(fontsize=7, loc="upper center")
        headroom(axes, 0.35)


def _error_rate_panel(axes: Axes, result: Analysis, fits: dict[str, Any]) -> None:
    if result.error_rate:
        _law(
            axes, result.error_rate, PINK, law_label("best of each C", result.error_rate, fits["error_rate_vs_compute"])
        )
        axes.legend(fontsize=7, loc="upper right")
    runs, colors = result.table.runs, _size_colors(result)
    shown = np.isfinite(runs.error) & (runs.error > 0)
    axes.scatter(runs.flops[shown], runs.error[shown], s=3, c=[colors[n] for n in runs.n_params[shown]], zorder=1)
    axes.set(xlabel="compute C, FLOP", ylabel="test error rate", title="Error rate against compute")
    if shown.any():
        axes.set(xscale="log", yscale="log")


def law_label(name: str, law: PowerLaw, item: dict[str, Any]) -> str:
    """Which line has which exponent: `frontier: g = 1.20 [0.9, 1.5], dotted 0.38 [0.36, 0.40]`."""
    pure = exponent_text(item["exponent"])
    if law.free is None:
        return f"{name}: g = {pure}"
    theta, draws = law.free
    low, high = np.percentile(draws[:, -1], [2.5, 97.5])
    free = exponent_text({"value": float(theta[-1]), "lo95": float(low), "hi95": float(high)})
    return f"{name}: g = {free}\n(dotted: {pure})"


def _law(axes: Axes, law: PowerLaw, color: Any, label: str, points: bool = True) -> None:
    if points:
        bars(axes, law.x, law.loss, law.low, law.high, color=color)
    x = np.geomspace(law.x.min(), law.x.max(), 60)
    free = law.with_constant(x)
    if free is None:
        axes.plot(x, law.pure(x), color=color, label=label)
        return
    value, low, high = free
    band(axes, x, low, high, color)
    axes.plot(x, value, color=color, label=label)
    axes.plot(x, law.pure(x), ":", color=color, lw=1)


# ---------------------------------------------------------------- the parametric law


def draw_parametric(result: Analysis, fits: dict[str, Any], title: str) -> Figure:
    """The parametric law over the cells, and its residuals."""
    figure, axes = new_figure(2, width=3.7, height=3.7)
    cells, law = result.cells, result.parametric
    sizes = np.unique(cells.n_params)
    colors, labels = sequence(len(sizes)), size_labels(sizes)
    for size, color in zip(sizes, colors, strict=True):
        rows = np.flatnonzero(cells.n_params == size)
        loss = np.exp(cells.log_loss[rows])
        spread = np.percentile(result.noise[:, rows], [2.5, 97.5], axis=0)
        bars(axes[0], cells.n_samples[rows], loss, *(loss * np.exp(spread)), color=color)
        d = np.geomspace(cells.n_samples[rows].min(), cells.n_samples[rows].max(), 50)
        axes[0].plot(d, np.asarray(law.loss(size, d)), color=color, label=labels[float(size)])
        residual = cells.log_loss[rows] - np.log(np.asarray(law.loss(size, cells.n_samples[rows])))
        axes[1].errorbar(cells.n_samples[rows], residual, np.abs(spread), fmt="o", ms=4, elinewidth=1, color=color)
    axes[0].set(xscale="log", yscale="log", xlabel="training samples D", ylabel="test loss, nats")
    axes[0].set_title(f"Lines: L = {law_of(fits)}", loc="left")
    axes[0].legend(title="parameters N", fontsize=7, title_fontsize=7, ncols=3)
    headroom(axes[0], 0.2)
    plain_log_axis(axes[0], "y")
    axes[1].axhline(0, color="black", lw=0.8)
    axes[1].set(xscale="log", xlabel="training samples D", ylabel="log observed − log predicted")
    axes[1].set_title(f"Residuals, root mean square {100 * fits['misfit']:.1f}%", loc="left")
    return finish(figure, title, result)
