"""Figures of one run: loss against tokens, minutes and position, beside what there is to beat; attention maps."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from common.plots import PALETTE, new_figure, save_figure, style
from decoder_model.decoder import Decoder
from lm_evaluation.lm_losses import SEQUENCES, evaluating
from texts.integer_tasks import IntegerTask

Metrics = dict[str, np.ndarray]
NAMES = {
    "shakespeare": "Shakespeare's plays",
    "kjv": "King James Bible",
    "tinyshakespeare": "tinyshakespeare",
    "text": "the text",
}


def text_figure(
    metrics: Metrics,
    by_position: np.ndarray | None,
    numbers: dict[str, Any],
    task: str,
    path: Path,
    what: str = "validation",
) -> None:
    """Loss of a text run against tokens and minutes, with the anchors as lines, and against the place in the window.

    While the run goes on, `by_position` is None and `numbers` has the anchors, val_tokens and val_characters only.
    """
    per_token = numbers["val_characters"] / numbers["val_tokens"]  # anchors are per character, the curves per token
    final, latest = numbers.get("val_loss"), metrics["val_loss"][-1]
    anchors = anchor_lines(numbers)
    unit = "nats per character" if abs(per_token - 1) < 1e-9 else "nats per token"
    panels = 3 if by_position is not None else 2
    with style():
        figure, axes = new_figure(2, -(-panels // 2), width=3.7, height=3.1)
        for ax, key, label in (
            (axes[0], "tokens", "training tokens"),
            (axes[1], "minutes", "minutes since the command began"),
        ):
            for rows in rows_of_nets(metrics, numbers):
                told = ("training, since the last point", f"{what}, a part of it") if rows.start == 0 else (None, None)
                ax.plot(metrics[key][rows], metrics["train_loss"][rows], color="0.65", label=told[0])
                ax.plot(metrics[key][rows], metrics["val_loss"][rows], color=PALETTE[0], marker=".", label=told[1])
            for loss, told, star in final_points(numbers, what):
                ax.plot(metrics[key][-1], loss, "*", ms=11, color=PALETTE[0], label=told, **star)
            for name, nats, color, line in anchors:
                ax.axhline(nats * per_token, color=color, ls=line, label=name)
            top = max(0.1, 1.6 * (final or latest), 1.15 * max(nats for _, nats, *_ in anchors) * per_token)
            low = min(
                metrics["train_loss"].min(), metrics["val_loss"].min(), *(nats * per_token for _, nats, *_ in anchors)
            )
            ax.set(xlabel=label, ylabel=f"loss ({unit})", ylim=(0.94 * low, top))
        axes[0].set_xscale("log")
        reached = f"{latest:.3f} so far" if final is None else f"{final:.3f} {unit}"
        axes[0].set_title(f"{NAMES[task]}: {reached}")
        axes[1].set_title("the same, by the clock")
        if by_position is not None:
            _against_position(axes[2], by_position, anchors, per_token, what, unit)
        tell(figure, axes, axes[1])
        save_figure(figure, path, pdf=final is not None)


def rows_of_nets(metrics: Metrics, numbers: dict[str, Any]) -> list[slice]:
    """The rows of each of a finished run's nets; while it goes on, all rows are one net's."""
    if "steps" not in numbers:
        return [slice(0, len(metrics["step"]))]
    members = numbers.get("members", 1)
    ends = np.searchsorted(
        metrics["step"], [numbers["steps"] / members * i for i in range(1, members + 1)], side="right"
    )
    return [slice(int(start), int(end)) for start, end in pairwise([0, *ends])]


def final_points(numbers: dict[str, Any], what: str) -> list[tuple[float, str, dict[str, Any]]]:
    """The losses on the whole text, each with its name and how its star is filled; none while the run goes on."""
    if "val_loss" not in numbers:
        return []
    members, nets = numbers.get("members", 1), numbers.get("val_loss_nets", numbers["val_loss"])
    of_nets = f"{what}, whole text" if members == 1 else f"{what}, whole text, {members} nets"
    if nets == numbers["val_loss"]:
        return [(nets, of_nets, {})]
    return [
        (nets, of_nets, {"mfc": "white"}),
        (numbers["val_loss"], "the same with what is mixed in", {}),
    ]


def anchor_lines(numbers: dict[str, Any]) -> list[tuple[str, float, str, str]]:
    """Name, nats per character, colour and line style of what there is to beat; the n-gram first."""
    smoothing = numbers.get("ngram_smoothing", "Witten-Bell")  # which runs had before they said
    lines = [
        (f"{numbers['ngram_order']}-gram ({smoothing})", "ngram_nats_per_char", PALETTE[1], "--"),
        ("PPMd (goes on learning)", "ppmd_nats_per_char", PALETTE[3], "-."),
        ("xz (goes on learning)", "xz_nats_per_char", PALETTE[2], ":"),
    ]
    return [(name, numbers[key], color, line) for name, key, color, line in lines if numbers[key] is not None]


def tell(figure: Figure, axes: np.ndarray, named: Axes) -> None:
    """The legend of the panel `named`: in the place of a fourth panel, else below both."""
    handles, labels = named.get_legend_handles_labels()
    if len(axes) == 4:
        axes[3].set_axis_off()
        axes[3].legend(handles, labels, loc="center", fontsize=9)
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=3)


def _against_position(
    ax: Axes, by_position: np.ndarray, anchors: list[tuple], per_token: float, what: str, unit: str
) -> None:
    place = np.arange(1, len(by_position) + 1)
    # Bins that grow by a factor of sqrt(2): each point is the mean over its places.
    edges = np.unique(np.minimum(2 ** np.arange(0, np.log2(len(place)) + 2, 0.5), len(place) + 1).astype(int))
    middle = [place[a - 1 : b - 1].mean() for a, b in pairwise(edges)]
    mean = [by_position[a - 1 : b - 1].mean() for a, b in pairwise(edges)]
    ax.plot(middle, mean, marker=".", color=PALETTE[0], label=f"model, cold windows ({what})")
    _, nats, color, line = anchors[0]
    ax.axhline(nats * per_token, color=color, ls=line)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    ax.set(
        xlabel="tokens before it in the window", ylabel=f"loss ({unit})", title="what context is worth, cold windows"
    )


def integer_figure(
    metrics: Metrics, by_position: np.ndarray | None, task: IntegerTask, path: Path, ended: bool = False
) -> None:
    """Loss against tokens with the exact floor, its two halves over time, and the loss of each position.

    While the run goes on, `by_position` is None, as it is of an `ended` run that has not kept it.
    """
    panels = 3 if by_position is not None else 2
    with style():
        figure, axes = new_figure(2, -(-panels // 2), width=3.7, height=3.1)
        axes[0].plot(metrics["tokens"], metrics["train_loss"], color="0.65", label="training")
        axes[0].plot(metrics["tokens"], metrics["val_loss"], color=PALETTE[0], marker=".", label="fresh sequences")
        axes[0].axhline(task.floors.mean(), color="black", ls="--", label=f"exact floor {task.floors.mean():.3f}")
        axes[0].set(xlabel="training tokens", ylabel="loss (nats per token)", xscale="log")
        axes[0].set_title(f"{task.kind}, n = {task.length}, V = {task.vocabulary}")
        smallest = 1e-5
        for key, label, color in (
            ("first_half_loss", "first half of the positions", PALETTE[1]),
            ("second_half_loss", task.second_half, PALETTE[2]),
        ):
            axes[1].plot(metrics["minutes"], np.maximum(metrics[key], smallest), color=color, label=label)
        axes[1].set(xlabel="minutes since the command began", ylabel="loss (nats per token)", yscale="log")
        axes[1].set_title(f"{task.second_half}: accuracy {100 * metrics['accuracy'][-1]:.2f}%")
        if by_position is not None:
            _integers_by_position(axes[2], by_position, task)
        handles, labels = (
            first + second for first, second in zip(*(ax.get_legend_handles_labels() for ax in axes[:2]), strict=True)
        )
        legend: dict[str, Any] = {"handles": handles, "labels": labels}
        if len(axes) == 4:
            axes[3].set_axis_off()
            axes[3].legend(**legend, loc="center", fontsize=9)
        else:
            figure.legend(**legend, loc="outside lower center", ncols=3)
        save_figure(figure, path, pdf=ended)


def _integers_by_position(ax: Axes, by_position: np.ndarray, task: IntegerTask) -> None:
    place = np.arange(1, len(by_position) + 1)
    ax.plot(place, by_position, color=PALETTE[0], marker=".", ls="")
    ax.step(place, task.floors, where="mid", color="black", lw=1.0)
    ax.set(xlabel="position of the predicted token", ylabel="loss (nats per token)")
    ax.set_title(f"by position, {SEQUENCES:,} fresh sequences (line: floor)")
    top = max(0.1, by_position.max(), task.floors.max())  # a loss of 1e-8 is to look like 0
    ax.set_ylim(-0.05 * top, 1.1 * top)


def noise_figure(metrics: Metrics, context: int, path: Path) -> None:
    """B_simple against the tokens, and what it is the ratio of; a row whose |G|^2 came out negative has none."""
    trace, squared_norm = context * metrics["noise_trace"], metrics["noise_squared_norm"]
    with style():
        figure, axes = new_figure(2, width=3.7)
        good = (trace > 0) & (squared_norm > 0)
        axes[0].plot(metrics["tokens"][good], trace[good] / squared_norm[good], ".-", color=PALETTE[0])
        axes[0].set(ylabel="B_simple (tokens)", title=f"gradient noise scale, {good.sum()} of {len(good)} rows")
        for values, label, color in ((trace, "tr Σ of a token", PALETTE[1]), (squared_norm, "|G|²", PALETTE[2])):
            axes[1].plot(metrics["tokens"], np.where(values > 0, values, np.nan), ".-", color=color, label=label)
        axes[1].set(ylabel="squared norm of a gradient", title="noise and signal")
        axes[1].legend()
        for ax in axes:
            ax.set(xlabel="training tokens", xscale="log", yscale="log")
        save_figure(figure, path)


def attention_maps(model: Decoder, tokens: Tensor) -> list[np.ndarray]:
    """The attention weights of each layer for one sequence (T,): arrays (H, T, T), row = the token that looks."""
    maps: list[np.ndarray] = []
    kernels = model.kernels

    def recorded(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        weights = torch.softmax(q @ k.transpose(1, 2) * q.size(-1) ** -0.5 + mask, -1)
        maps.append(weights.cpu().numpy())
        return weights @ v

    model.kernels = replace(kernels, attention=recorded)
    try:
        with evaluating(model):
            model(tokens[None])
    finally:
        model.kernels = kernels
    return maps


def attention_figure(maps: list[np.ndarray], tokens: list[int], task: IntegerTask, path: Path) -> None:
    """Where each head of each layer looks in one sequence: `maps` of each layer (heads, T, T), a row per looking token."""
    with style():
        layers, heads = len(maps), len(maps[0])
        side = min(3.2, 6.6 / heads)
        figure, axes = new_figure(heads, layers, width=side, height=side)
        image = None
        for layer, weights in enumerate(maps):
            for head, weight in enumerate(weights):
                ax = axes[layer * heads + head]
                image = ax.imshow(weight, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
                ax.set(title=f"layer {layer + 1}, head {head + 1}")
                ax.grid(False)
                if len(tokens) <= 24:
                    ax.set_xticks(range(len(tokens)), tokens, fontsize=7)
                    ax.set_yticks(range(len(tokens)), tokens, fontsize=7)
        for ax in axes[-heads:]:
            ax.set_xlabel("looked at")
        for ax in axes[::heads]:
            ax.set_ylabel("looking")
        assert image is not None
        figure.colorbar(image, ax=list(axes), label="attention weight", shrink=0.7)
        figure.suptitle(
            f"{task.kind}, n = {task.length}, V = {task.vocabulary}: attention in one fresh sequence", fontsize=10
        )
        save_figure(figure, path)
