"""The figure of one run, while it goes on and at its end."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from common.plots import PALETTE, new_figure, save_figure, style
from common.run import read_metrics


def learning_curve(folder: Path, env: str, summary: dict[str, Any] | None) -> None:
    """learning_curve.png: what one run reached, and the six numbers that tell a weak method from broken code.

    While the run goes on, `summary` is None.
    """
    rows = read_metrics(folder / "metrics.csv")
    step = rows["step"]
    with style():
        figure, axes = new_figure(4, 2, width=2.9, height=2.4)
        known, tested = np.isfinite(rows["episode_return"]), np.isfinite(rows["eval_return"])
        if known.any():
            axes[0].plot(
                step[known], rows["episode_return"][known], color=PALETTE[0], label="latest of every environment"
            )
            axes[1].plot(step[known], rows["episode_length"][known], color=PALETTE[0])
        else:
            missing(axes[1], "not every environment\nhas ended an episode")
        ends, marks = [("eval_return", PALETTE[6], "at the end, 95%")], [("eval_return", "o", PALETTE[1], "evaluation")]
        if "eval_return_test" in rows:  # Procgen: levels of training, and all
            ends.append(("test_return", PALETTE[3], "at the end, all levels"))
            marks.append(("eval_return_test", "s", PALETTE[2], "evaluation, all levels"))
        for name, mark, color, label in marks if tested.any() else []:
            axes[0].plot(step[tested], rows[name][tested], mark, ms=3, color=color, label=label)
        for name, color, label in ends if summary else []:
            assert summary is not None
            middle, low, high = (summary[f"{name}_{part}"] for part in ("mean", "lo95", "hi95"))
            error = [[max(0.0, middle - low)], [max(0.0, high - middle)]]
            axes[0].errorbar(step[-1:], [middle], error, fmt="D", ms=4, color=color, label=label)
        axes[0].set(title=env if summary else f"{env}, so far", ylabel="return of an episode")
        if axes[0].get_legend_handles_labels()[0]:
            axes[0].legend(loc="best")
        axes[1].set(title="length", ylabel="steps per episode")
        panels = [
            ("entropy", "entropy", "nats"),
            ("kl", "step of the policy", "KL(old || new), nats"),
            ("ratio_outside", "ratios outside 1 ± 0.2", "fraction of the batch"),
            ("explained_variance", "value function", "explained variance"),
            ("grad_norm", "policy gradient", "norm before clipping"),
        ]
        for axis, (name, title, label) in zip(axes[2:], panels, strict=False):
            values = rows[name].copy()
            if name == "explained_variance":
                values = np.maximum(values, -1.0)
            axis.plot(step, values, color=PALETTE[2])
            axis.set(title=title, ylabel=label)
            if name == "kl":
                axis.set_yscale("log")
        scale = smoothed_noise(rows["noise_trace"], rows["noise_squared_norm"])
        good = scale > 0
        axes[7].plot(step[good], scale[good], color=PALETTE[3])
        axes[7].set(
            title="gradient noise scale", ylabel="environment streams", yscale="log" if good.any() else "linear"
        )
        if not good.any():
            missing(axes[7], "not measured")
        for axis in axes:
            axis.set_xlabel("environment steps")
            axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
        save_figure(figure, folder / "learning_curve", pdf=summary is not None)


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
