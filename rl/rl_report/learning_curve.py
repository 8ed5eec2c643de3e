"""The figure of one run, while it goes on and at its end."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from common.plots import PALETTE, new_figure, save_figure, style
from common.run import read_metrics


def learning_curve(folder: Path, env: str, summary: dict[str, Any] | None) -> None:
    """learning_curve.png: what one run reached, and the numbers that tell a weak method from broken code.

    While the run goes on, `summary` is None.
    """
    rows = read_metrics(folder / "metrics.csv")
    step = rows["step"]
    with style():
        figure, axes = new_figure(2, 4, width=3.6, height=2.2)
        returns(axes[0], rows, summary)
        axes[0].set(title=f"{env}: return of an episode" if summary else f"{env}, so far: return of an episode")
        if axes[0].get_legend_handles_labels()[0]:
            figure.legend(loc="outside upper center", ncols=2)
        known = np.isfinite(rows["episode_length"])
        if known.any():
            axes[1].plot(step[known], rows["episode_length"][known], color=PALETTE[0])
        else:
            missing(axes[1], "not every environment\nhas ended an episode")
        axes[1].set(title="length, steps per episode")
        panels = [
            ("entropy", "entropy of the policy, nats"),
            ("kl", "step of the policy, KL(old || new), nats"),
            ("ratio_outside", "ratios outside 1 ± 0.2, share of the batch"),
            ("explained_variance", ""),
            ("grad_norm", "policy gradient, norm before clipping"),
        ]
        for axis, (name, title) in zip(axes[2:], panels, strict=False):
            if name == "explained_variance":
                explained_variance(axis, step, rows[name])
                continue
            axis.plot(step, rows[name], color=PALETTE[2])
            axis.set(title=title, yscale="log" if name == "kl" else "linear")
        scale = smoothed_noise(rows["noise_trace"], rows["noise_squared_norm"])
        good = scale > 0
        axes[7].plot(step[good], scale[good], color=PALETTE[3])
        axes[7].set(title="gradient noise scale, environment streams", yscale="log" if good.any() else "linear")
        if not good.any():
            missing(axes[7], "not measured")
        for axis in axes:
            axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
        for axis in axes[-2:]:
            axis.set_xlabel("environment steps")
        save_figure(figure, folder / "learning_curve", pdf=summary is not None)


def returns(axis: Axes, rows: dict[str, np.ndarray], summary: dict[str, Any] | None) -> None:
    """Returns of training as a line, of evaluations as marks, and those at the end with their intervals."""
    step = rows["step"]
    known, tested = np.isfinite(rows["episode_return"]), np.isfinite(rows["eval_return"])
    if known.any():
        axis.plot(step[known], rows["episode_return"][known], color=PALETTE[0], label="training, latest episodes")
    ends, marks = (
        [("eval_return", PALETTE[6], "at the end, with its 95% interval")],
        [("eval_return", "o", PALETTE[1], "evaluation")],
    )
    if "eval_return_test" in rows:  # Procgen: levels of training, and all
        ends.append(("test_return", PALETTE[3], "at the end, all levels"))
        marks.append(("eval_return_test", "s", PALETTE[2], "evaluation, all levels"))
    for name, mark, color, label in marks if tested.any() else []:
        axis.plot(step[tested], rows[name][tested], mark, ms=3, color=color, label=label)
    for name, color, label in ends if summary else []:
        assert summary is not None
        middle, low, high = (summary[f"{name}_{part}"] for part in ("mean", "lo95", "hi95"))
        error = None if low is None or high is None else [[max(0.0, middle - low)], [max(0.0, high - middle)]]
        axis.errorbar(step[-1:], [middle], error, fmt="D", ms=4, color=color, label=label)


def explained_variance(axis: Axes, step: np.ndarray, values: np.ndarray) -> None:
    """From -1 to 1; what lies below is left out and counted: it means little where all returns are about the same."""
    below = np.isfinite(values) & (values < -1)
    axis.plot(step, np.where(below, np.nan, values), color=PALETTE[2])
    left_out = f"\n({below.mean():.0%} of the updates are below -1: returns hardly differ)" if below.any() else ""
    axis.set(title=f"value function, explained variance{left_out}", ylim=(-1.05, 1.05))


def missing(axis: Axes, why: str) -> None:
    """Say in an empty panel why it is empty."""
    axis.text(0.5, 0.5, why, ha="center", va="center", transform=axis.transAxes)


def smoothed_noise(trace: np.ndarray, squared_norm: np.ndarray, memory: float = 20.0) -> np.ndarray:
    """tr(Sigma) / |G|^2 of two running means, numerator and denominator apart; nan where the latter is not positive."""
    keep, result = 1 - 1 / memory, np.full(len(trace), np.nan)
    top = bottom = weight = 0.0
    for i, (a, b) in enumerate(zip(trace, squared_norm, strict=True)):
        if np.isfinite(a + b):
            top, bottom, weight = keep * top + a, keep * bottom + b, keep * weight + 1
        if weight and bottom > 0:
            result[i] = top / bottom
    return result
