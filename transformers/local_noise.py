"""What is measured on a net at the moment when it reaches a loss: its noise scales, and the batch that it bears from there.

The second half is the branched training of Merrill et al. 2025: copies of the net and its optimiser go on for some tokens
with larger and smaller batches, the rate in step with them. The largest batch that ends no worse than the best one, but for
a tolerance, is a measurement of the critical batch size that assumes nothing about gradients.
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

from batch_sweep import Arm, Problem, Stepper, train_to
from decoder import Decoder
from gradient_noise import Interval, Squares, hessian_moments, loss_of, measure
from kernels import PLAIN

MEASURED = 1 << 20  # the seeds of what is measured on; training has those below
TOLERANCE = 0.01  # nats, Merrill et al. 2025
WINDOW = 0.5  # of the tokens seen so far: how long branches are trained
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
    branches: tuple[float, ...] = (0.25, 1.0, 4.0, 16.0, 64.0)
    """batches of the branches, as factors on that of the run"""


def branch_losses(
    problem: Problem,
    model: Decoder,
    state: dict[str, Any],
    batch: int,
    rate: float,
    step: int,
    factors: tuple[float, ...],
    seed: int,
) -> list[tuple[int, float]]:
    """(batch, loss) after WINDOW more tokens with each batch `factor` x `batch`, from a net that `step` steps have trained.

    The rate grows with the square root of the factor, for SGD with the factor itself (Merrill et al. 2025, section 3).
    """
    found = []
    tokens = WINDOW * step * batch * problem.context
    for factor in factors:
        size = round(factor * batch)
        steps = round(tokens / (size * problem.context))
        if size < 1 or steps < 5:  # a branch of a few steps measures its optimiser's start
            continue
        branch = copy.deepcopy(model)
        stepper = Stepper(branch, problem.arm.optimizer, size, problem.dtype)
        stepper.load(copy.deepcopy(state), size)
        scaled = rate * (factor if problem.arm.optimizer == "sgd" else math.sqrt(factor))
        data = problem.batches(size, MEASURED + 1 + seed)
        checks = [max(1, round(share * steps)) for share in LAST]
        losses = []
        for i in range(steps):
            loss_of(branch, data(i)).backward()
            stepper.step(step + i, scaled)
            losses += [problem.loss(branch)] * checks.count(i + 1)
        found.append((size, float(np.nan_to_num(np.mean(losses), nan=DIVERGED_LOSS, posinf=DIVERGED_LOSS))))
    return found


def local_critical_batch(branches: list[tuple[int, float]], tolerance: float = TOLERANCE) -> Interval:
    """The largest batch whose branch ends within `tolerance` of the best branch's loss, straight in log(batch) between two.

    The interval is the bracket: the last batch within it and the first outside. It has no upper end where none was outside.
    """
    sizes = np.array([size for size, _ in branches], float)
    losses = np.array([loss for _, loss in branches])
    order = np.argsort(sizes)
    sizes, losses = sizes[order], losses[order]
    losses = np.where(np.isfinite(losses), losses, np.inf)
    best = int(np.argmin(losses))
    outside = [i for i in range(best + 1, len(sizes)) if losses[i] > losses[best] + tolerance]
    if not outside:
        return Interval(float(sizes[-1]), float(sizes[-1]), math.inf)
    i = outside[0]
    share = (losses[best] + tolerance - losses[i - 1]) / (losses[i] - losses[i - 1])
    value = sizes[i - 1] * (sizes[i] / sizes[i - 1]) ** share
    return Interval(float(value), float(sizes[i - 1]), float(sizes[i]))


def plain_copy(model: Decoder) -> Decoder:
    """The same net with kernels that can be differentiated twice, in float32."""
    twin = copy.deepcopy(model)
    twin.kernels, twin.compute = PLAIN, torch.float32
    return twin.eval()


def measure_cell(
    arm: dict[str, Any],
    batch: int,
    rate: float,
    goals: list[float],
    most_tokens: float,
    contexts: list[int],
    effort: dict[str, Any],
    seed: int,
    root: str,
) -> dict[str, Any]:
    """A job of common/pool.py: train with one batch and rate, and measure at every goal that is reached.

    `contexts`: lengths at which B_simple is measured too, at the last goal, for texts.
    """
    problem = Problem(Arm(**arm), Path(root), torch.device("cpu"), torch.float32)
    how = Effort(**{**effort, "branches": tuple(effort["branches"])})
    found: list[dict[str, Any]] = []
    began = time.perf_counter()

    def squares(model: Decoder, context: int | None = None) -> dict[str, Any]:
        draw = problem.batches(how.big, MEASURED + seed, context)
        return stored(measure(model, (draw(i) for i in range(how.repeats)), how.parts))

    def at_goal(number: int, model: Decoder, stepper: Stepper, step: int) -> None:
        here: dict[str, Any] = {"goal": goals[number], "step": step, "loss": problem.loss(model)}
        here["squares"] = squares(model)
        if how.hessian_repeats:
            twin = plain_copy(model)
            draw = problem.batches(2 * how.hessian_sequences, MEASURED + 2 + seed)
            here["hessian"] = []
            for i in range(how.hessian_repeats):
                (a, b), n = draw(i), how.hessian_sequences
                here["hessian"].append(hessian_moments(twin, (a[:n], b[:n]), 16, (a[n:], b[n:])))
        if how.branches:
            here["branches"] = branch_losses(problem, model, stepper.state(), batch, rate, step, how.branches, seed)
        if number == len(goals) - 1:
            here["contexts"] = {str(context): squares(model, context) for context in contexts}
        found.append(here)
        model.zero_grad()

    trial = train_to(problem, batch, rate, goals, [most_tokens / (batch * problem.context)] * len(goals), seed, at_goal)
    return {
        "batch": batch,
        "rate": rate,
        "context": problem.context,
        "goals": found,
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
