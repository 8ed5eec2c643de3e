"""Small decoders trained to a list of losses with one batch size, at a learning rate tuned for it: the cells of the sweep.

What McCandlish et al. 2018, appendix A.3, ask for: per batch size and loss, the fewest steps over learning rates. Rates are
constant after a short warm-up, so that no schedule knows how long the run will be; there is no dropout and no decay, and
texts are read for about one epoch at most, so that every batch is a fresh sample of one distribution. The loss is that of
fixed windows of it. Adam's beta2 keeps its half-life in tokens: with one fixed beta2, small batches would look worse than
they are (Marek et al. 2025).
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.files import finite, read_record, write_record
from decoder_model.decoder import Decoder, Shape
from decoder_model.kernels import FAST, Kernels
from gradient_noise.noise_estimators import Batch, loss_of
from lm_evaluation.lm_losses import window_losses
from lm_settings.choices import INTEGER_TASKS, OptimizerName, parts_of
from optimisation.learning_rates import ADAM_RATES, MUON_RATES
from optimisation.optimizer import MOMENTUM_WARMUP, Optimizer
from texts.corpora import load_corpus
from texts.integer_tasks import EVALUATION, IntegerTask
from texts.seeds import derived_seed
from texts.text_windows import TextTask
from texts.vocabulary import build

# The plain pre-norm transformer with rotary positions: no n-gram tables, token shift or shortcut, which other small
# transformers have not either.
WITHOUT = ("ngrams", "shift", "shortcut")
LENGTHS = {"ascending": 32, "repeat": 32}  # n; texts have `Arm.context`
VOCABULARIES = {"ascending": 64, "repeat": 64}
BETA1, BETA2, BETA2_BATCH = 0.9, 0.99, 16  # Adam: beta2 at batches of so many sequences
LEAST_BETA2 = 0.9  # below beta1^2, rows with rare gradients would take unbounded steps
MOMENTUM = 0.9  # of SGD
WARMUP = 10  # steps
HELD_WINDOWS = 128  # that the loss is measured on
FIRST_TOKENS, GROWTH = 2_048, 1.06  # the first measurement of a loss, and the factor from each to the next
PATIENCE = 1.6  # times the steps of the best rate so far, after which another rate has lost
FURTHEST = 7  # powers of two from the first guess that a rate may lie
DIVERGED = 1.5  # times the loss of the untrained net


@dataclass(frozen=True)
class Arm:
    """What is trained. The star of the study changes one of these at a time."""

    task: str = "kjv"
    width: int = 64
    optimizer: OptimizerName = "adamw"
    layers: int = 2
    context: int = 64
    """tokens of a text's sequence; integer tasks have their own"""

    @property
    def name(self) -> str:
        return f"{self.task}-{self.width}-{self.optimizer}"


class Problem:
    """An arm's data and net."""

    def __init__(self, arm: Arm, root: Path, device: torch.device, dtype: torch.dtype):
        self.arm, self.device, self.dtype = arm, device, dtype
        self.text: Tensor | None = None
        if arm.task in INTEGER_TASKS:
            self.context = self._integers(0).context
            self.vocabulary = VOCABULARIES[arm.task]
            self.held = self._integers(0).draw(HELD_WINDOWS, EVALUATION).tokens
        else:
            corpus = load_corpus(arm.task, root)
            vocabulary = build("char", corpus.train)
            self.text = torch.from_numpy(vocabulary.encode(corpus.train)).to(torch.uint8).to(device)
            self.context, self.vocabulary = arm.context, vocabulary.size
            inputs, targets = self._windows(HELD_WINDOWS, -1)(0)
            self.held = torch.cat([inputs, targets[:, -1:]], 1)

    def _integers(self, seed: int) -> IntegerTask:
        return IntegerTask(self.arm.task, LENGTHS[self.arm.task], VOCABULARIES[self.arm.task], seed, self.device)

    def _windows(self, batch: int, seed: int, context: int | None = None) -> Callable[[int], Batch]:
        assert self.text is not None
        return TextTask(self.text, context or self.context, batch, derived_seed(seed, 17)).windows

    def batches(self, size: int, seed: int, context: int | None = None) -> Callable[[int], Batch]:
        """The batch (inputs, targets) of each step: `size` sequences, never the same twice within an epoch."""
        if self.text is not None:
            return self._windows(size, seed, context)
        task = self._integers(seed)

        def draw(step: int) -> Batch:
            sequences = task.draw(size, step)
            return sequences.inputs, sequences.targets

        return draw

    def model(self, seed: int, kernels: Kernels = FAST) -> Decoder:
        """An untrained net."""
        torch.manual_seed(derived_seed(seed, -1))
        heads = max(1, self.arm.width // 32)
        shape = Shape(
            self.vocabulary, self.context, self.arm.layers, heads, self.arm.width, parts_of("modern", WITHOUT)
        )
        return Decoder(shape, self.dtype, kernels).to(self.device)

    def loss(self, model: Decoder) -> float:
        """Nats per token on the held windows."""
        return float(window_losses(model, self.held, self.dtype).mean())


def beta2(batch: int) -> float:
    """Adam's beta2 for a batch of so many sequences: the half-life in tokens of BETA2 at BETA2_BATCH, but for LEAST_BETA2."""
    return max(LEAST_BETA2, BETA2 ** (batch / BETA2_BATCH))


class Stepper:
    """One optimiser behind one call: its rates are the tuned `rate` times those of each kind of parameter."""

    def __init__(self, model: nn.Module, name: OptimizerName, batch: int, dtype: torch.dtype):
        self.model = model
        self.optimizer: Optimizer | torch.optim.SGD
        if name == "sgd":
            self.optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=MOMENTUM)
        else:
            muon = name == "muon"
            self.optimizer = Optimizer(model, MUON_RATES if muon else ADAM_RATES, 0.0, muon, dtype)
        self._set_betas(batch)

    def _set_betas(self, batch: int) -> None:
        if isinstance(self.optimizer, Optimizer):
            for group in self.optimizer.adam.param_groups:
                group["betas"] = (BETA1, beta2(batch))

    def step(self, step: int, rate: float) -> None:
        """Update number `step`, from 0, with the gradients that lie in `.grad`, which are cleared."""
        rate *= min(1.0, (step + 1) / WARMUP)
        if isinstance(self.optimizer, Optimizer):
            self.optimizer.step(step + MOMENTUM_WARMUP, rate)  # Muon's momentum too is constant
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """To go on from, also with another batch size."""
        return self.optimizer.state_dict()

    def load(self, state: dict[str, Any], batch: int) -> None:
        """Go on from `state`, with the beta2 of `batch`."""
        self.optimizer.load_state_dict(state)
        self._set_betas(batch)


@dataclass
class Trial:
    """One run at one rate: when it reached each goal, and how its loss fell."""

    rate: float
    steps: list[float]
    """per goal: the step, of full rate, at which the loss was reached; infinite where it was not"""
    made: int = 0
    """steps in all"""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(step, loss); the last loss is infinite where it has left all bounds"""
    seconds: float = 0.0


def next_check(step: int, tokens_per_step: int) -> int:
    """The step after which the loss is measured next: the first after FIRST_TOKENS, the others GROWTH apart."""
    return max(math.ceil(FIRST_TOKENS / tokens_per_step), step + 1, math.ceil(step * GROWTH))


def full_steps(step: float) -> float:
    """`step` steps counted by their rates: those of the warm-up by their fractions of the full one.

    Else the warm-up, which is as long for every batch, would pass for steps that no batch can save.
    """
    return step - (WARMUP - 1) / 2 if step >= WARMUP else step * (step + 1) / (2 * WARMUP)


def crossing(curve: list[tuple[int, float]], goal: float) -> float:
    """The step, of full rate, at which the loss fell to `goal`, straight between two measurements; infinite before that.

    The loss counts as reached when two measurements in a row are at or below it: one alone may be luck. The first of
    `curve` is the untrained net's.
    """
    for i in range(1, len(curve) - 1):
        (step, loss), (_, after) = curve[i], curve[i + 1]
        if loss <= goal and after <= goal:
            earlier, above = curve[i - 1]
            share = (above - goal) / (above - loss) if above > goal else 0.0
            return full_steps(earlier + share * (step - earlier))
    return math.inf


def loss_at(curve: list[tuple[int, float]], step: float) -> float:
    """The loss of a run at `step`, straight between measurements; its last one beyond them."""
    steps, losses = zip(*curve, strict=True)
    return float(np.interp(step, steps, losses))


def train_to(
    problem: Problem,
    batch: int,
    rate: float,
    goals: list[float],
    limits: list[float],
    seed: int = 0,
    leader: list[tuple[int, float]] | None = None,
    at_goal: Callable[[int, Decoder, Stepper, int], None] | None = None,
) -> Trial:
    """Train until every goal is reached, or its limit of steps passed, or the loss has left all bounds.

    `goals` must descend. `leader` is the curve of a better run: this one ends when it is PATIENCE times behind.
    `at_goal(goal's number, model, stepper, step)` is called when a goal counts as reached, of several at once for the
    last alone: they would be measured on one net.
    """
    model = problem.model(seed)
    stepper = Stepper(model, problem.arm.optimizer, batch, problem.dtype)
    data = problem.batches(batch, seed)
    untrained = problem.loss(model)
    trial = Trial(rate, [math.inf] * len(goals), curve=[(0, untrained)])
    check = next_check(0, batch * problem.context)
    told, began = 0, time.perf_counter()
    while True:
        loss_of(model, data(trial.made)).backward()
        stepper.step(trial.made, rate)
        trial.made += 1
        if trial.made < check:
            continue
        check = next_check(trial.made, batch * problem.context)
        loss = problem.loss(model)
        if not loss < DIVERGED * untrained:  # nan too
            trial.curve.append((trial.made, math.inf))
            break
        trial.curve.append((trial.made, loss))
        trial.steps = [crossing(trial.curve, goal) for goal in goals]
        reached = sum(steps < math.inf for steps in trial.steps)
        if at_goal and reached > told:
            told = reached
            at_goal(told - 1, model, stepper, trial.made)
        if all(trial.made > limits[i] for i in range(reached, len(goals))):
            break
        behind = leader is not None and trial.made > 2 * WARMUP and loss > loss_at(leader, trial.made / PATIENCE)
        if behind:
            break
    trial.seconds = time.perf_counter() - began
    return trial


def tune(
    problem: Problem,
    batch: int,
    start: float,
    goals: list[float],
    most_tokens: float,
    seed: int = 0,
    partial: Path | None = None,
) -> list[Trial]:
    """Trials at rates `start` x 2^k, as many as it takes for the best of every goal to lie between two worse ones.

    A goal that no rate reaches within `most_tokens` stays open. In the order of their rates. `partial` is a file that keeps
    each trial as soon as it ends: a cell of the largest batches takes minutes, and goes on from there.
    """
    trials = read_trials(partial) if partial else {}
    budget = most_tokens / (batch * problem.context)

    def best(goal: int) -> int | None:
        reached = {k: trial.steps[goal] for k, trial in trials.items() if trial.steps[goal] < math.inf}
        return min(reached, key=lambda k: reached[k]) if reached else None

    def nearest() -> int:
        """Where nothing is reached yet: the run that came nearest; the lowest rate, if all have diverged."""
        return min(trials, key=lambda k: (trials[k].curve[-1][1], k), default=0)

    def wanted() -> list[int]:
        middles = [k for k in map(best, range(len(goals))) if k is not None] or [nearest()]
        near = dict.fromkeys(k + side for k in middles for side in (0, 1, -1))
        return [k for k in near if k not in trials and abs(k) <= FURTHEST]

    while missing := wanted():
        leaders = [best(goal) for goal in range(len(goals))]
        limits = [
            budget if k is None else min(budget, PATIENCE * trials[k].steps[goal] + WARMUP)
            for goal, k in enumerate(leaders)
        ]
        # For goals that nothing has reached, the run that got furthest sets the pace.
        pace = trials[nearest()].curve if trials and None in leaders else None
        usable = pace if pace and math.isfinite(pace[-1][1]) else None
        trials[missing[0]] = train_to(problem, batch, start * 2.0 ** missing[0], goals, limits, seed, usable)
        if partial:
            write_record(partial, {str(k): finite(asdict(trial)) for k, trial in trials.items()})
    return [trials[k] for k in sorted(trials)]


def read_trials(path: Path) -> dict[int, Trial]:
    """What `tune` has kept in a file, by power of two; nothing where there is none, BadInput where it is damaged."""

    def number(value: float | None) -> float:
        return math.inf if value is None else value

    found = {}
    for k, row in (read_record(path) if path.exists() else {}).items():
        steps, curve = row.pop("steps"), row.pop("curve")
        found[int(k)] = Trial(**row, steps=[*map(number, steps)], curve=[(step, number(loss)) for step, loss in curve])
    return found


def tune_cell(
    arm: dict[str, Any],
    batch: int,
    start: float,
    goals: list[float],
    most_tokens: float,
    seed: int,
    root: str,
    device: str,
    partial: str,
) -> dict[str, Any]:
    """`tune` as a job of common/pool.py: plain values in, plain values out, None for infinite steps and losses."""
    problem = Problem(Arm(**arm), Path(root), torch.device(device), torch.float32)
    trials = tune(problem, batch, start, goals, most_tokens, seed, Path(partial))
    seconds = sum(trial.seconds for trial in trials)
    Path(partial).unlink(missing_ok=True)
    rows = [finite(asdict(trial)) for trial in trials]
    return {"batch": batch, "context": problem.context, "trials": rows, "seconds": seconds}
