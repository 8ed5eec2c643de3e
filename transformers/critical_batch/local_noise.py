"""What is measured on a net at the moment when it reaches a loss: its noise scales, and the batch that it bears from there.

The second half is branched training, after Merrill et al. 2025: copies of the net and its optimiser go on for the same
number of tokens with larger and smaller batches, the rate in step with them. It measures a critical batch size that assumes
nothing about gradients. Merrill et al. ask for the largest batch that loses no more than a tolerance; to compare with the
theory, in which a batch of B_noise makes half the progress per token of a small one, half the progress is asked for here.
"""

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from critical_batch.batch_sweep import WARMUP, Arm, Problem, Stepper, train_to
from decoder_model.decoder import Decoder
from decoder_model.kernels import PLAIN
from gradient_noise.noise_estimators import IGNORED, Batch, Squares, hessian_moments, loss_of, measure
from texts.seeds import derived_seed

MEASURED = 1 << 20  # the seeds of what is measured on; training has those below
WINDOW = 0.25  # of the tokens seen so far: how long branches are trained
LEAST_STEPS = 4  # of a branch: fewer measure how its optimiser starts
DIVERGED_LOSS = 100.0  # nats, of a branch whose loss is no number
LAST = (0.8, 0.9, 1.0)  # of a branch: where its loss is measured; the mean counts


@dataclass(frozen=True)
class Effort:
    """How much is measured at each loss."""

    repeats: int = 12
    """independent batches, from which the intervals come"""
    big: int = 128
    """sequences in each"""
    parts: int = 16
    """parts of each: the small batches"""
    hessian_repeats: int = 6
    hessian_sequences: int = 64
    """in 16 parts, and as many again for the Hessian"""
    branches: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    """batches of the branches, as factors on that of the run"""
    branch_seeds: int = 2
    """orders of the data that each branch is trained with"""
    positions: tuple[int, ...] = (4, 8, 16, 32, 64)
    """predicted tokens of each sequence for which B_simple is measured too, at the last loss"""


def branch_losses(
    problem: Problem,
    model: Decoder,
    state: dict[str, Any],
    batch: int,
    rate: float,
    step: int,
    how: Effort,
    seed: int,
) -> list[tuple[int, list[float]]]:
    """(batch, losses) after WINDOW more tokens with each batch `factor` x `batch`, from a net that `step` steps have trained.

    One loss for each order of the data. The rate grows with the square root of the factor, for SGD with the factor itself
    (Merrill et al. 2025, section 3).
    """
    found = []
    tokens = WINDOW * step * batch * problem.context
    for factor in how.branches:
        size = round(factor * batch)
        steps = round(tokens / (size * problem.context)) if size else 0
        if steps < LEAST_STEPS:
            continue
        scaled = rate * (factor if problem.arm.optimizer == "sgd" else math.sqrt(factor))
        found.append((size, []))
        for order in range(how.branch_seeds):
            branch = copy.deepcopy(model)
            stepper = Stepper(branch, problem.arm.optimizer, size, problem.dtype)
            stepper.load(copy.deepcopy(state), size)
            data = problem.batches(size, MEASURED + 8 + how.branch_seeds * seed + order)
            checks = [max(1, round(share * steps)) for share in LAST]
            losses = []
            for i in range(steps):
                loss_of(branch, data(i)).backward()
                stepper.step(WARMUP + i, scaled)
                losses += [problem.loss(branch)] * checks.count(i + 1)
            mean = float(np.mean(losses))
            found[-1][1].append(mean if math.isfinite(mean) else DIVERGED_LOSS)
    return found


def plain_copy(model: Decoder) -> Decoder:
    """The same net with kernels that can be differentiated twice, in float32."""
    twin = copy.deepcopy(model)
    twin.kernels, twin.compute = PLAIN, torch.float32
    return twin.eval()


def only_some(batch: Batch, positions: int, random: torch.Generator) -> Batch:
    """The batch with a loss on `positions` randomly chosen tokens of each sequence alone, all of which keep their context."""
    inputs, targets = batch
    order = torch.rand(targets.shape, generator=random).argsort(1).to(targets.device)
    return inputs, torch.where(order < positions, targets, IGNORED)


def measure_cell(
    arm: dict[str, Any],
    batch: int,
    rate: float,
    levels: list[float],
    goals: list[float],
    most_tokens: float,
    effort: dict[str, Any],
    seed: int,
    root: str,
    device: str,
) -> dict[str, Any]:
    """A job of common/pool.py: train with one batch and rate, and measure whenever a level is reached.

    `levels` are losses, descending, the `goals` among them; the others only show how the noise came to be what it is.
    """
    problem = Problem(Arm(**arm), Path(root), torch.device(device), torch.float32)
    how = Effort(**{**effort, **{name: tuple(effort[name]) for name in ("branches", "positions")}})
    found: list[dict[str, Any]] = []
    began = time.perf_counter()

    def squares(model: Decoder, positions: int | None = None) -> dict[str, Any]:
        draw = problem.batches(how.big, MEASURED + 4 * seed)
        random = torch.Generator().manual_seed(derived_seed(seed, positions or 0))
        batches = (draw(i) if positions is None else only_some(draw(i), positions, random) for i in range(how.repeats))
        return stored(measure(model, batches, how.parts))

    def at_level(number: int, model: Decoder, stepper: Stepper, step: int) -> None:
        here: dict[str, Any] = {"level": levels[number], "step": step, "loss": problem.loss(model)}
        here["squares"] = squares(model)
        if how.hessian_repeats and levels[number] in goals:
            twin = plain_copy(model)
            draw = problem.batches(2 * how.hessian_sequences, MEASURED + 4 * seed + 1)
            here["hessian"] = []
            for i in range(how.hessian_repeats):
                (a, b), n = draw(i), how.hessian_sequences
                here["hessian"].append(hessian_moments(twin, (a[:n], b[:n]), 16, (a[n:], b[n:])))
        if how.branches:
            here["branches"] = branch_losses(problem, model, stepper.state(), batch, rate, step, how, seed)
        if levels[number] == goals[-1]:
            usable = [m for m in how.positions if m <= problem.context]
            here["positions"] = {str(m): squares(model, m) for m in usable}
        found.append(here)
        model.zero_grad()

    limits = [most_tokens / (batch * problem.context)] * len(levels)
    trial = train_to(problem, batch, rate, levels, limits, seed, at_goal=at_level)
    return {
        "batch": batch,
        "rate": rate,
        "context": problem.context,
        "levels": found,
        "curve": [point for point in trial.curve if math.isfinite(point[1])],
        "seconds": time.perf_counter() - began,
    }


def stored(squares: Squares) -> dict[str, Any]:
    """As plain values, for JSON."""
    return {
        "names": list(squares.names),
        "small_squares": squares.small_squares.tolist(),
        "big_squares": squares.big_squares.tolist(),
        "small": squares.small,
        "big": squares.big,
    }


def read_squares(kept: dict[str, Any]) -> Squares:
    """What `stored` made."""
    arrays: dict[str, NDArray[Any]] = {name: np.array(kept[name]) for name in ("small_squares", "big_squares")}
    return Squares(tuple(kept["names"]), **arrays, small=kept["small"], big=kept["big"])
