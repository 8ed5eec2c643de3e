"""A decoder-only transformer after Vaswani et al. 2017, "Attention Is All You Need", on integers, plays and scripture.

    python transformers/train.py                                    Shakespeare's plays, 5 minutes on two CPU cores
    python transformers/train.py --task repeat --length 5 --vocab 5

Expect 1.18 nats per character (1.71 bits) on the held-out tenth of every play, where the best n-gram reaches 1.32. The
folder that is printed holds metrics.csv, summary.json, checkpoint.pt, the figures and, for texts, sample.txt; the same
command goes on where it was stopped. `sample.py` continues a prompt, `score.py` measures any text.

A step is `update` below: batch, loss and rate are in optimisation/lm_learner.py, the net in decoder_model/decoder.py, the
optimiser in optimisation/optimizer.py. plain_decoder.py is the paper's decoder in one slow file.

Three one-line changes to try (nats per character that --preset quick gave, one run each; as it is: 1.27):
  --arch vaswani          2.10: the paper's decoder, with its own optimiser and schedule, learns more slowly.
  --tokenizer word        1.33 (1.92 bits): words have too few examples.
  --without ngrams        1.29: what follows from the last few letters is learnt by net and mixture without tables.
"""

import os

from common.clock import STARTED

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.cli import figures, parse, run_main, shown
from common.data import sha256_of
from common.device import choose_device, compute_dtype, configure_cpu, keep_freed_memory, threads_asked
from common.files import read_record, write_record
from common.keeping import Keeper
from common.live import LiveFigure, attempt
from common.provenance import available_cores, source_hash
from common.run import Run, open_run, read_metrics
from lm_evaluation.checkpoints import checkpoint_state, mixture_state
from lm_evaluation.measurements import curve_point, learnt_mixture
from lm_evaluation.mixture import Mixture
from lm_evaluation.step_budget import Clock, Plan, decide, make_plan
from lm_report.train_report import anchor_words, draw, draw_missing, draw_so_far, headline, measured_on, report
from lm_settings.choices import INTEGER_TASKS
from lm_settings.train_settings import PRESETS, Config, Settings, choose_budget, resolve, unusual
from optimisation.lm_learner import Learner
from texts.tokenized_text import Text, load_text

SAVE_SECONDS = 30.0
HERE = Path(__file__).resolve().parent
# What trains and what measures: with all that they import, and the loop below, they decide what a run comes to.
ROOTS = (HERE / "optimisation" / "lm_learner.py", HERE / "lm_evaluation" / "measurements.py")


def update(learner: Learner, step: int, steps: int) -> Tensor:
    """One step of training, of so many in all: the loss in nats per token, still on the device."""
    learner.seed_dropout(step)
    inputs, targets = learner.batch(step)  # (B, T) each
    if learner.tracker and learner.tracker.due(step):
        loss = learner.tracker.backward(learner.loss, inputs, targets)  # the same gradient, from two halves
    else:
        loss = learner.loss(inputs, targets)
        loss.backward()
    learner.optimizer.step(step, learner.rate(step, steps))
    return loss.detach()


@dataclass(frozen=True)
class Progress:
    """What training came to: steps made, its seconds, whether it diverged; of a text, what predicts from now on."""

    steps: int
    seconds: float
    diverged: bool
    mixture: Mixture | None = None


def train(run: Run, learner: Learner, plan: Plan, clock: Clock, dtype: torch.dtype, figure: LiveFigure) -> Progress:
    """All steps that are not yet done. For each: draw a batch, take its loss, differentiate, step (all that is `update`);
    once, decide for good how many steps there is time for; where a row is due, measure and log; now and then, save.

    A loss that is not finite, or at the end no better than guessing, is a divergence.
    """
    done, total = 0, torch.zeros((), device=learner.device)  # the sum of the losses since the last row
    if state := run.resume(("model", "finished", "best", "optimizer", "seconds", "minutes", "total")):
        done, total = go_on_from(state, learner, clock)
    else:
        clock.training_begins()
    since = max((row for row in plan.rows if row <= done), default=0)

    def state_now() -> dict[str, Any] | None:
        """What a checkpoint holds; nothing where the loss is not finite, so that the last good one stays."""
        return (
            {**kept_state(learner, clock), "total": total, "plan": asdict(plan)}
            if math.isfinite(float(total))
            else None
        )

    with Keeper(run, plan.steps, state_now, done, SAVE_SECONDS, figure) as keep:
        while keep.done < keep.total:
            member, step = divmod(keep.done, plan.steps_each)
            if member > len(learner.finished):
                learner.next_member()
            total = total + update(learner, step, plan.steps_each)
            keep.made(keep.done + 1)
            if not plan.final and keep.done == plan.revised_at:
                plan = decide(plan, run, learner, clock, keep.done)
                keep.total = plan.steps
            if keep.done in plan.rows:
                loss = float(total) / (keep.done - since)
                columns = curve_point(learner, dtype)
                member_ends = keep.done % plan.steps_each == 0
                if diverged(run, learner, loss, columns["val_loss"], member_ends and len(plan.rows) > 1):
                    return Progress(keep.done, clock.seconds, True)
                total, since = torch.zeros_like(total), keep.done
                row = {"tokens": keep.done * learner.tokens_per_step, "minutes": clock.minutes, "train_loss": loss}
                noise = learner.tracker.take() if learner.tracker else {}
                told = f"train {loss:.3f}, validation {columns['val_loss']:.3f}"
                keep.row(told, step=keep.done, **row, **columns, **noise)
                if "held_loss" in columns:
                    learner.remember(columns["held_loss"])
                if member_ends:
                    learner.take_best()
            keep.save()
        seconds, mixture = clock.seconds, learnt_mixture(learner)
        if mixture and mixture.ngram:
            run.save(keep.done, {**(state_now() or {}), **mixture_state(learner, mixture)})
        return Progress(keep.done, seconds, False, mixture)


def kept_state(learner: Learner, clock: Clock) -> dict[str, Any]:
    """Of a checkpoint, all but the losses since the last row."""
    vocabulary = learner.text.vocabulary if learner.text else None
    noise = {"noise": learner.tracker.state()} if learner.tracker else {}
    return {
        **checkpoint_state(learner.model, vocabulary, learner.settings.task, learner.finished),
        **{"seconds": clock.seconds, "minutes": clock.minutes, "optimizer": learner.optimizer.state_dict()},
        "best": list(learner.best) if learner.best else None,
        **noise,
    }


def go_on_from(state: dict[str, Any], learner: Learner, clock: Clock) -> tuple[int, Tensor]:
    """Put everything where a checkpoint left it: the steps done, and the sum of the losses since the last row."""
    for finished in state["finished"]:
        learner.finished.append(finished)
    learner.begin()
    learner.model.load_state_dict(state["model"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.best = (state["best"][0], state["best"][1]) if state["best"] else None
    if learner.tracker:
        learner.tracker.load(state["noise"])
    clock.training_begins(state["seconds"], state["minutes"])
    print(f"going on at step {state['step']:,}")
    return state["step"], state["total"].to(learner.device)


def diverged(run: Run, learner: Learner, loss: float, val_loss: float, at_end: bool) -> bool:
    """Whether a loss is not finite, or `at_end` worse than the first one and than guessing, log V: nothing was learnt."""
    if not math.isfinite(loss + val_loss):
        return True
    if not at_end:
        return False
    first = float(read_metrics(run.folder / "metrics.csv")["train_loss"][0])
    return loss > max(first, math.log(learner.model.shape.vocabulary)) + 0.05


def open_folder(settings: Settings, given: Config, text: Text | None, device: torch.device, dtype: torch.dtype) -> Run:
    """The run folder, whose name and config.json depend on all that changes the numbers: settings, data, code.

    The code is what trains and what measures, and the loop in this file, but not the report that this file imports.
    """
    return open_run(
        "transformers",
        settings.task,
        settings,
        given,
        device.type,
        ROOTS,
        leave_out=["text"],  # wherever it stands: its content counts
        presets=PRESETS,
        data=sha256_of(f"{text.corpus.train}\0{text.corpus.validation}".encode())[:16] if text else "",
        dtype=str(dtype),
        loop=source_hash(__file__)[:12],
    )


def main() -> int:
    """Data, anchors, plan, training, evaluation, figures."""
    given = choose_budget(parse(Config, PRESETS, description=__doc__ or ""), sys.argv[1:])
    if given.redraw:
        draw(Path(given.redraw))
        print(figures(Path(given.redraw), "loss.png"))
        return 0
    settings = resolve(given)
    clock = Clock(STARTED)
    device, reason = choose_device(given.device)
    configure_cpu((threads_asked(given.threads) or (available_cores(),))[0])  # until the plan says better
    keep_freed_memory()
    dtype, why = compute_dtype(device)
    if settings.precision != "auto":
        dtype, why = (torch.float32 if settings.precision == "fp32" else torch.bfloat16), "as asked"
    print(f"device: {device} ({reason}), activations in {str(dtype)[6:]} ({why})")
    text = None if settings.task in INTEGER_TASKS else load_text(settings, device)
    for notice in [unusual(settings), *(text.notices if text else ())]:
        if notice:
            print(f"NOTE: {notice}")
    with open_folder(settings, given, text, device, dtype) as run:
        if run.summary:
            print(f"already done: {headline(settings, run.summary)}\nresults: {shown(run.folder)}")
            if run.summary["status"] == "ok":
                draw_missing(run.folder)
            if pictures := figures(run.folder, "loss.png"):
                print(pictures)
            return 0 if run.summary["status"] == "ok" else 1
        return carry_out(run, settings, text, device, dtype, clock)


def carry_out(
    run: Run, settings: Settings, text: Text | None, device: torch.device, dtype: torch.dtype, clock: Clock
) -> int:
    """A run that is not done yet; its exit code."""
    to_beat = kept_anchors(run, settings, text) if text else {}
    learner = Learner(settings, text, device, dtype)
    plan = make_plan(learner, run, clock, update)
    n_params = plan.members * sum(p.numel() for p in learner.model.parameters())
    tokens = plan.steps * learner.tokens_per_step
    epochs = f", {tokens / len(text.learnt):.1f} epochs" if text else ""
    about = "" if plan.final else "about "
    nets = f"{plan.members} nets with " if plan.members > 1 else ""
    print(f"plan: {nets}{n_params:,} parameters, {about}{plan.steps:,} steps, {tokens:,} tokens{epochs}")
    print(f"results: {shown(run.folder)}")
    figure = LiveFigure(run.folder / "loss.png", lambda: draw_so_far(run, learner, to_beat))
    progress = train(run, learner, plan, clock, dtype, figure)
    numbers = {} if progress.diverged else report(run, learner, to_beat, progress.mixture)
    done = progress.steps * learner.tokens_per_step
    summary = {
        "status": "diverged" if progress.diverged else "ok",
        **numbers,
        "train_seconds": progress.seconds,
        "total_seconds": 60 * clock.minutes,
        "steps": progress.steps,
        "tokens": done,
        "n_params": n_params,
        "tokens_per_second": done / progress.seconds,
    }
    run.finish(**summary, headline=headline(settings, summary))
    if not progress.diverged:
        attempt(lambda: draw(run.folder), "loss.png")
    print(f"{headline(settings, summary)}\n{summary['total_seconds']:.0f} s in all; {shown(run.folder)}")
    if pictures := figures(run.folder, "loss.png"):
        print(pictures)
    return 1 if progress.diverged else 0


def kept_anchors(run: Run, settings: Settings, text: Text) -> dict[str, Any]:
    """What there is to beat, told, and kept in the run folder and in the cache so that it is computed once for a text."""
    file = run.folder / "anchors.json"
    if not file.exists():
        write_record(file, text.known_anchors())
    to_beat = read_record(file)
    print(
        f"{settings.task}: {len(text.train):,} training and {len(text.validation):,} {measured_on(settings)} tokens, "
        f"vocabulary {text.vocabulary.size:,}. To beat, in nats per character: {anchor_words(to_beat)}"
    )
    return to_beat


if __name__ == "__main__":
    run_main(main)
