"""One training run: the loop of updates and evaluations, in a folder where it can be stopped and goes on.

    while steps are left:
        update                   collect, estimate advantages, step the policy, fit the values
        evaluate                 every --eval-every steps
        keep                     a row of metrics.csv; now and then a checkpoint

The run folder's name depends on the settings and on the code that trains and measures, not on that which reports.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common.cli import shown
from common.device import choose_device, compute_dtype, configure_cpu, keep_freed_memory, threads_asked
from common.keeping import Keeper
from common.live import LiveFigure, attempt
from common.provenance import available_cores, source_hash
from common.run import Run, open_run
from policy_networks.actor_critic import ActorCritic
from rl_settings.method_names import method_name
from rl_settings.procgen_games import is_procgen
from rl_settings.vpg_settings import PRESETS, Config, Settings, check_meaning, resolve
from training_runs.evaluations import crossed, final_numbers, on_the_way
from training_runs.shorter_run import begin_with_shorter
from vector_environments.make_streams import make_streams, no_time_limit
from vector_environments.procgen_engine import backend
from vpg_learner.vpg_trainer import Trainer, new_networks

SAVE_SECONDS = 10.0
FIGURE = "learning_curve.png"
RL = Path(__file__).resolve().parents[1]
# What trains and what measures: with all that they import, and the loop below, they decide what a run comes to.
ROOTS = (RL / "vpg_learner" / "vpg_trainer.py", RL / "training_runs" / "evaluations.py")
LOOP = source_hash(__file__)[:12]
# draw(folder, env, summary) writes learning_curve.png; the summary is None while the run goes on.
Draw = Callable[[Path, str, dict[str, Any] | None], None]


class Elapsed:
    """Seconds since the command began, over all its starts."""

    def __init__(self) -> None:
        self._began, self.earlier = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self._began


def train(run: Run, trainer: Trainer, figure: LiveFigure, elapsed: Elapsed, quiet: bool = False) -> bool:
    """All updates that are not yet made; True if it diverged (a policy or a value that is no finite number)."""
    settings = trainer.settings
    if state := run.resume(
        ("model", "optimizer", "value_optimizer", "collector", "random", "environments", "begun_anew")
    ):
        exact = trainer.load(state)
        elapsed.earlier = state.get("total_seconds", 0.0)
        if not quiet:
            print(f"going on at step {trainer.step:,}" + ("" if exact else ", with new episodes"))

    def state_now() -> dict[str, Any]:
        return {**trainer.state(), "arguments": asdict(settings), "total_seconds": elapsed.seconds}

    options: dict[str, Any] = {"figure": figure, "quiet": quiet, "unit_scale": True}
    with Keeper(run, settings.total_steps, state_now, trainer.step, SAVE_SECONDS, **options) as keep:
        while keep.done < keep.total:
            row = trainer.update()  # collect, estimate advantages, step the policy, fit the values
            if diverged(trainer, row):
                return True
            row |= on_the_way(trainer, crossed(keep.done, trainer.step, settings.eval_every))
            keep.made(trainer.step)
            shown_return = row["eval_return"] if math.isfinite(row["eval_return"]) else row["episode_return"]
            keep.row(f"return {shown_return:.1f}", **row)
            keep.save()
    return False


def diverged(trainer: Trainer, row: dict[str, float]) -> bool:
    """Whether what was learnt is no number."""
    numbers = all(math.isfinite(row[name]) for name in ("entropy", "kl", "grad_norm", "value_loss"))
    return not (numbers and all(bool(p.isfinite().all()) for p in trainer.model.parameters()))


def train_or_find(given: Config, draw: Draw, quiet: bool = False) -> tuple[dict[str, Any], Path]:
    """Train and evaluate what was asked for, or find it done: the summary and the run folder."""
    say = (lambda *_: None) if quiet else print
    settings, elapsed = resolve(given), Elapsed()
    model, restorable = probe(settings)
    check_meaning(settings, given, model.image, model.policy.gaussian)
    # Small nets leave the other cores to the environments; a worker of compare.py leaves them to its siblings.
    asked = threads_asked(given.threads) if model.image or given.threads is not None else None
    configure_cpu(asked[0] if asked else available_cores() if model.image and not quiet else 1)
    if model.image:
        keep_freed_memory()
    device, reason = choose_device(given.device, tiny=not model.image)
    say(f"device: {device} ({reason})")
    if told := no_time_limit(settings.env):
        say(f"NOTE: {told}")
    with open_folder(settings, given, device, model.image, wait=quiet) as run:
        if run.summary:
            say("already done")
            if not (run.folder / FIGURE).exists() and (run.folder / "metrics.csv").exists():
                say(f"{FIGURE} is missing and drawn again")
                attempt(lambda: draw(run.folder, settings.env, run.summary), FIGURE)
            return run.summary, run.folder
        # At a constant rate no step depends on how many there will be.
        shorter = begin_with_shorter(run, "total_steps") if restorable and not settings.anneal else 0
        trainer = Trainer(settings, device)
        n_params = sum(p.numel() for p in trainer.model.parameters())
        say(f"{plan(settings)}, {n_params:,} parameters\nresults: {shown(run.folder)}")
        if shorter:
            say(f"a run of {shorter:,} steps with these settings is there and is the beginning of this one")

        def draw_so_far() -> bool:
            draw(run.folder, settings.env, None)
            return True

        try:
            failed = train(run, trainer, LiveFigure(run.folder / FIGURE, draw_so_far), elapsed, quiet)
            numbers = {} if failed else final_numbers(trainer)
        finally:
            trainer.close()
        summary: dict[str, Any] = {
            "status": "diverged" if failed else "ok",
            **numbers,
            "steps": trainer.step,
            "updates": trainer.updates,
            "train_seconds": trainer.seconds,
            "total_seconds": elapsed.seconds,
            "steps_per_second": trainer.step / trainer.seconds,
            "n_params": n_params,
            **({"begun_anew": trainer.begun_anew} if trainer.begun_anew else {}),
        }
        summary["headline"] = headline(settings, summary)
        run.finish(**summary)
        if not failed:
            attempt(lambda: draw(run.folder, settings.env, summary), FIGURE)
        return summary, run.folder


def headline(settings: Settings, summary: dict[str, Any]) -> str:
    """One sentence: what was reached."""
    what = f"{settings.env}, {method_name(settings.method, settings.minibatches, settings.baseline)}"
    if summary["status"] != "ok":
        return f"{what}: diverged after {summary['steps']:,} steps; try --lr below {settings.lr:g}"
    low, high = summary["eval_return_lo95"], summary["eval_return_hi95"]
    interval = "" if low is None else f" [{return_words(low)}, {return_words(high)}]"
    episodes = summary["eval_episodes"]
    return (
        f"{what}: return {return_words(summary['eval_return_mean'])}{interval} over {episodes} "
        f"{'episodes' if episodes > 1 else 'episode'}, greedy {return_words(summary['eval_return_greedy_mean'])}, "
        f"after {summary['steps']:,} steps (n = 1 run)"
    )


def return_words(value: float) -> str:
    """A return with one decimal, or where that would say nothing with three digits: 0.0000082 is not 0.0."""
    return f"{value:.1f}" if value == 0 or abs(value) >= 10 else f"{value:.3g}"


def probe(settings: Settings) -> tuple[ActorCritic, bool]:
    """Networks for the environment, and whether it can be saved: what cannot be trained is found before there is a folder."""
    streams = make_streams(settings.env, 1)
    model = new_networks(settings, streams)
    restorable = streams.simple
    streams.close()
    return model, restorable


def plan(settings: Settings) -> str:
    """The run in one line."""
    total, batch = settings.total_steps, settings.num_envs * settings.horizon
    method = method_name(settings.method, settings.minibatches, settings.baseline)
    return (
        f"plan: {method} on {settings.env}, {total:,} steps in {-(-total // batch):,} updates of {batch:,} "
        f"({settings.num_envs} environments x {settings.horizon})"
    )


def open_folder(settings: Settings, given: Config, device: torch.device, image: bool, wait: bool = False) -> Run:
    """The run folder, whose name and config.json depend on all that changes the numbers.

    With `wait`, a folder in which another command trains the same run is waited for: then that is done.
    """
    more: dict[str, Any] = {"loop": LOOP}
    if image or given.threads:  # sums over another number of threads are not the same to the bit
        more["threads"] = torch.get_num_threads()
    if image:  # nor are those in another precision
        more |= {"dtype": str(compute_dtype(device)[0])}
    if is_procgen(settings.env):  # the two draw other levels from one seed
        more["backend"] = backend()
    return open_run("rl", settings.env, settings, given, device.type, ROOTS, presets=PRESETS, wait=wait, **more)


def start_worker() -> None:
    """A process that trains one run after the other, quietly: one thread."""
    configure_cpu(1)
    # tqdm's own lock is one between processes, and Python warns of it when a worker is ended without giving it back.
    tqdm.set_lock(threading.RLock())
