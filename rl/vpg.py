"""Vanilla policy gradient: REINFORCE with a value baseline and GAE, as in Spinning Up, on any Gymnasium environment.

    python rl/vpg.py --env CartPole-v1              475 of 500 points after 42,000 steps, 1.7 s (median of 10 seeds)
    python rl/vpg.py --env LunarLander-v3 --algo ppo

Each update collects --horizon steps of --num-envs environments, estimates advantages (Schulman et al. 2016), takes ONE
gradient step on the policy (Sutton et al. 1999), and fits the value function. `--algo ppo` is the same loop with several
epochs in minibatches and the clipped ratio (Schulman et al. 2017): with one epoch and one minibatch it is VPG exactly.
`--minibatches 16` is what lies between the two: one pass over the batch, in several steps.
The folder that is printed holds metrics.csv, summary.json, checkpoint.pt and learning_curve.png. The same command goes on
where it was stopped; at a constant rate, one with more --total-steps goes on where a shorter run has ended. The flags are in
settings.py, what each environment gets by default in recipes.py; `evaluate.py` plays a trained policy, `compare.py` runs
seeds and algorithms side by side.

Three one-line changes to try (return on CartPole-v1 after 131,072 steps, mean of 10 seeds; as it is: 494):
  --algo ppo                  500: eighty steps per batch, kept close to the old policy; 2.6 times as slow.
  --baseline reward-to-go     496: without a value baseline the gradient is some 20 times as noisy while it learns.
  --baseline none             327: and here several hundred times.
"""

import os

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

import contextlib
import math
import time
import traceback
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common.cli import Interrupt, figures, parse, run_main, shown
from common.device import choose_device, compute_dtype, configure_cpu, keep_freed_memory
from common.errors import BadInput
from common.live import LiveFigure
from common.provenance import available_cores, results_folder, short_hash, source_hash
from common.run import Run
from envs import Streams, make_streams
from gradients import fit_values
from longer import begin_with_shorter
from policy import ActorCritic
from procgen_env import backend, is_procgen, normalised_return
from rollout import AT_ONCE, Collector, ObservationScaler, RewardScaler, interval, play, seeds
from settings import PRESETS, Config, check_meaning, resolve
from updates import groups_to_keep, make_batch, update_policy

HERE = Path(__file__).resolve().parent
SOURCES = (
    "vpg",
    "advantages",
    "cuda_graphs",
    "envs",
    "gradients",
    "policy",
    "procgen_env",
    "recipes",
    "rollout",
    "settings",
    "updates",
)
NOT_IN_HASH = {"preset", "device", "results_dir", "data_dir", "name", "from_config"}
SAVE_SECONDS = 10.0
# Purposes of `seeds`, so that training, its resumption and every evaluation have their own; 6 is evaluate.py's.
WEIGHTS, TRAIN, RESUME, DURING, FINAL, GREEDY = range(6)


def new_networks(config: Config, streams: Streams) -> ActorCritic:
    """Networks for these environments; BadInput for images that are too small for theirs."""
    encoder = streams.encoder
    kind: dict[str, Any] = {"encoder": config.encoder, "critic": config.critic} if encoder.image else {}
    try:
        return ActorCritic(
            encoder.shape, streams.action_space, config.hidden or (), log_std=config.log_std or 0.0, **kind
        )
    except ValueError as error:
        raise BadInput(f"--env {config.env}: {error}") from None


class Trainer:
    """Everything that a run consists of, and that its checkpoint holds."""

    def __init__(self, config: Config, device: torch.device):
        self.config, self.device = config, device
        self.streams = make_streams(config.env, config.num_envs or 1, levels=config.levels or 0)
        encoder = self.streams.encoder
        weights, actions = seeds(config.seed, 2, WEIGHTS)
        torch.manual_seed(weights)
        self.model = new_networks(config, self.streams).to(device)
        self.model.bf16 = bool(config.bf16) and compute_dtype(device)[0] is torch.bfloat16
        adam: dict[str, Any] = {"eps": 1e-5, "fused": device.type in ("cpu", "cuda")}
        self.optimizer = torch.optim.Adam(self.model.actor_parameters(), config.lr or 0.0, **adam)
        # Where policy and values share an encoder, the first optimiser has all, and this one idles.
        own = self.model.critic_parameters() or [torch.nn.Parameter(torch.zeros(0, device=device))]
        self.value_optimizer = torch.optim.Adam(own, config.value_lr or 0.0, **adam)
        scaler = ObservationScaler(encoder.shape) if config.normalise_observations and not encoder.image else None
        rewards = RewardScaler(self.streams.n, config.gamma or 0.0) if config.normalise_rewards else None
        self.collector = Collector(self.streams, config.horizon or 1, scaler, rewards)
        self.random = torch.Generator().manual_seed(actions)
        self.step = self.updates = 0
        self.seconds = 0.0
        self._eval_streams: dict[tuple[int, int], Streams] = {}  # by number and levels
        self.collector.reset(seeds(config.seed, self.streams.n, TRAIN))

    def update(self) -> dict[str, float]:
        """One rollout, one update; what metrics.csv says of it."""
        start = time.perf_counter()
        config = self.config
        if config.anneal:
            for group in self.optimizer.param_groups:
                group["lr"] = (config.lr or 0.0) * (1 - self.step / (config.total_steps or 1))
        keep = groups_to_keep(config, self.model)
        rollout = self.collector.collect(self.model, self.random, keep)
        while not rollout.steps:  # one step of environments that all reset themselves
            rollout = self.collector.collect(self.model, self.random, keep)
        batch, known = make_batch(config, rollout, self.model)
        more, noise = update_policy(config, self.model, batch, self.optimizer, self.random, rollout.passes)
        if not self.model.joint:
            epochs, size = config.value_epochs or 0, config.value_minibatch or 0
            fit_values(self.model, batch, self.value_optimizer, epochs, size, self.random)
        self.step += len(batch)
        self.updates += 1
        elapsed = time.perf_counter() - start
        self.seconds += elapsed
        ended = self.collector.log.take()
        latest = self.collector.log.latest
        return {
            "step": self.step,
            "seconds": self.seconds,
            "episodes": len(ended),
            "episode_return": latest[0],
            "episode_length": latest[1],
            "ended_return": float(np.mean([one[0] for one in ended])) if ended else math.nan,
            "timeouts": float(np.mean([one[2] for one in ended])) if ended else math.nan,
            **({"success": latest[2]} if is_procgen(config.env) else {}),
            **more,
            **known,
            "noise_trace": noise.trace if noise else math.nan,
            "noise_squared_norm": noise.squared_norm if noise else math.nan,
            "steps_per_second": len(batch) / elapsed,
        }

    def evaluate(
        self, episodes: int, greedy: bool, *purpose: int, test_levels: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Raw returns and successes of `episodes` episodes or a few more, as many of each environment, on own seeds.

        `test_levels`: of Procgen, all levels instead of those of training.
        """
        n, levels = min(AT_ONCE, episodes), 0 if test_levels else self.config.levels or 0
        if (n, levels) not in self._eval_streams:
            self._eval_streams[n, levels] = make_streams(self.config.env, n, levels=levels)
        streams, own = self._eval_streams[n, levels], seeds(self.config.seed, n, *purpose)
        returns, successes = play(self.model, streams, self.collector.scaler, -(-episodes // n), own, greedy)
        return returns.ravel(), successes.ravel()

    def close(self) -> None:
        """End the environments."""
        self.streams.close()
        for streams in self._eval_streams.values():
            streams.close()

    def state(self) -> dict[str, Any]:
        """The checkpoint: tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "value_optimizer": self.value_optimizer.state_dict(),
            "collector": self.collector.state(),
            "random": self.random.get_state(),
            "environments": self.streams.state(),
            "obs": torch.from_numpy(self.collector.obs),
            "updates": self.updates,
            "seconds": self.seconds,
        }

    def load(self, state: dict[str, Any]) -> bool:
        """Go on from a checkpoint. False where the environments cannot, and new episodes begin."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.value_optimizer.load_state_dict(state["value_optimizer"])
        self.collector.load(state["collector"])
        self.random.set_state(state["random"])
        self.step, self.updates, self.seconds = state["step"], state["updates"], state["seconds"]
        if state["environments"] is not None and self.streams.simple:
            self.streams.load(state["environments"])
            self.collector.obs = state["obs"].numpy()
            return True
        self.collector.reset(seeds(self.config.seed, self.streams.n, RESUME, self.updates))
        return False


def next_evaluation(config: Config, step: int) -> float:
    """The next multiple of --eval-every; never where that is 0."""
    return config.eval_every * (step // config.eval_every + 1) if config.eval_every else math.inf


def train(run: Run, trainer: Trainer, quiet: bool = False) -> bool:
    """All updates that are not yet made; True if it diverged (a policy or a value that is no finite number)."""
    config = trainer.config
    state = run.resume()
    if state:
        exact = trainer.load(state)
        if not quiet:
            print(f"going on at step {trainer.step:,}" + ("" if exact else ", with new episodes"))
    next_eval = next_evaluation(config, trainer.step)
    saved = time.perf_counter()
    total = config.total_steps or 0
    split = is_procgen(config.env)  # levels of training and of test
    show = {"unit": "step", "unit_scale": True, "disable": quiet}
    stop = Interrupt()
    figure = LiveFigure(run.folder / "learning_curve.png", lambda: draw_so_far(run, config.env))
    # A worker of compare.py is deaf to Ctrl-C: its parent hears it and ends it.
    with contextlib.nullcontext() if quiet else stop, tqdm(total=total, initial=trainer.step, **show) as bar:
        while trainer.step < total:
            before = trainer.step
            row = trainer.update()
            bar.update(trainer.step - before)
            numbers = all(math.isfinite(row[name]) for name in ("entropy", "kl", "grad_norm", "value_loss"))
            if not (numbers and all(bool(p.isfinite().all()) for p in trainer.model.parameters())):
                return True
            row["eval_return"] = math.nan
            if split:
                row |= dict.fromkeys(("eval_success", "eval_return_test", "eval_success_test"), math.nan)
            if trainer.step >= next_eval:
                purpose = (DURING, trainer.updates)
                returns, successes = trainer.evaluate(config.eval_episodes, False, *purpose)
                row["eval_return"] = float(returns.mean())
                if split:
                    row["eval_success"] = float(successes.mean())
                    returns, successes = trainer.evaluate(config.eval_episodes, False, *purpose, test_levels=True)
                    row |= {"eval_return_test": float(returns.mean()), "eval_success_test": float(successes.mean())}
                next_eval = next_evaluation(config, trainer.step)
            run.log(**row)
            shown_return = row["eval_return"] if math.isfinite(row["eval_return"]) else row["episode_return"]
            bar.set_postfix_str(f"return {shown_return:.1f}", refresh=False)
            if not quiet and trainer.step < total:
                figure.update()
            if stop.asked or time.perf_counter() - saved > SAVE_SECONDS or trainer.step >= total:
                run.save(trainer.step, {**trainer.state(), "arguments": asdict(config)})
                saved = time.perf_counter()
                stop.leave_if_asked()
    return False


def draw_so_far(run: Run, env: str) -> bool:
    """learning_curve.png of a run that still goes on."""
    import rlplots  # here, as below: what ends earlier needs no figures

    rlplots.learning_curve(run.folder, env, None)
    return True


def final_numbers(trainer: Trainer) -> dict[str, Any]:
    """The evaluations at the end: the policy as it is, and greedy; in Procgen also on levels that were not trained on."""
    episodes, env = trainer.config.final_episodes, trainer.config.env
    (sampled, success), (greedy, _) = trainer.evaluate(episodes, False, FINAL), trainer.evaluate(episodes, True, GREEDY)
    low, high = interval(sampled)
    found = {
        "eval_return_mean": float(sampled.mean()),
        "eval_return_lo95": low,
        "eval_return_hi95": high,
        "eval_return_greedy_mean": float(greedy.mean()),
        "eval_episodes": len(sampled),
    }
    if not is_procgen(env):
        return found
    test, test_success = trainer.evaluate(episodes, False, FINAL, test_levels=True)
    low, high = interval(test)
    return found | {
        "eval_success": float(success.mean()),
        "eval_return_normalised": normalised_return(env, float(sampled.mean())),
        "test_return_mean": float(test.mean()),
        "test_return_lo95": low,
        "test_return_hi95": high,
        "test_success": float(test_success.mean()),
        "test_return_normalised": normalised_return(env, float(test.mean())),
    }


def headline(config: Config, summary: dict[str, Any]) -> str:
    """One sentence: what was reached."""
    if summary["status"] != "ok":
        return f"{config.env}: diverged after {summary['steps']:,} steps; try --lr below {config.lr:g}"
    return (
        f"{config.env}, {config.algo}: return {summary['eval_return_mean']:.1f} "
        f"[{summary['eval_return_lo95']:.1f}, {summary['eval_return_hi95']:.1f}] over {summary['eval_episodes']} episodes, "
        f"greedy {summary['eval_return_greedy_mean']:.1f}, after {summary['steps']:,} steps (n = 1 run)"
    )


def open_run(config: Config, given: Config, device: torch.device, image: bool) -> Run:
    """The run folder, whose name and config.json depend on all that changes the numbers."""
    kept = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in NOT_IN_HASH}
    sources = source_hash(*(HERE / f"{name}.py" for name in SOURCES))[:16]
    identity = {**kept, "device": device.type, "sources": sources}
    if image:  # sums over another number of threads, or in another precision, are not the same to the bit
        identity |= {"threads": torch.get_num_threads(), "dtype": str(compute_dtype(device)[0])}
    if is_procgen(config.env):  # the two draw other levels from one seed
        identity["backend"] = backend()
    slug = "".join(c if c.isalnum() or c in "._-" else "-" for c in config.env)
    name = config.name or f"{slug}-{short_hash(identity)}-s{config.seed}"
    return Run(results_folder(config.results_dir, "rl") / name, identity, str(device), asdict(given))


def run_config(given: Config, quiet: bool = False) -> tuple[dict[str, Any], Path]:
    """Train and evaluate what was asked for, or find it done: the summary and the run folder."""
    say = (lambda *_: None) if quiet else print
    config = resolve(given)
    started = time.perf_counter()
    probe = make_streams(config.env, 1)  # what cannot be trained is found before there is a folder
    model = new_networks(config, probe)
    restorable = probe.simple
    probe.close()
    image = model.image
    check_meaning(config, given, image, model.policy.gaussian)
    # Small nets leave the other cores to the environments; a worker of compare.py leaves them to its siblings.
    configure_cpu(available_cores() if image and not quiet else 1)
    if image:
        keep_freed_memory()
    device, reason = choose_device(config.device, tiny=not image)
    say(f"device: {device} ({reason})")
    run = open_run(config, given, device, image)
    if run.summary:
        say("already done")
        return run.summary, run.folder
    # At a constant rate no step depends on how many there will be.
    shorter = begin_with_shorter(run, "total_steps") if restorable and not config.anneal else 0
    trainer = Trainer(config, device)
    n_params = sum(p.numel() for p in trainer.model.parameters())
    total, batch = config.total_steps or 0, (config.num_envs or 1) * (config.horizon or 1)
    say(
        f"plan: {config.algo} on {config.env}, {total:,} steps in {-(-total // batch):,} updates of {batch:,} "
        f"({config.num_envs} environments x {config.horizon}), {n_params:,} parameters"
    )
    say(f"results: {shown(run.folder)}")
    if shorter:
        say(f"a run of {shorter:,} steps with these settings is there and is the beginning of this one")
    try:
        diverged = train(run, trainer, quiet)
        numbers = {} if diverged else final_numbers(trainer)
    except BadInput:
        raise
    except Exception:
        run.fail(traceback.format_exc())
        raise
    finally:
        trainer.close()
    summary = {
        "status": "diverged" if diverged else "ok",
        **numbers,
        "steps": trainer.step,
        "updates": trainer.updates,
        "train_seconds": trainer.seconds,
        "total_seconds": time.perf_counter() - started,
        "steps_per_second": trainer.step / trainer.seconds,
        "n_params": n_params,
    }
    if not diverged:
        import rlplots

        rlplots.learning_curve(run.folder, config.env, summary)
    run.finish(**summary)
    run.close()
    return summary, run.folder


def main() -> int:
    """Environments, training, evaluation, figure."""
    given = parse(Config, PRESETS, description=__doc__ or "")
    summary, folder = run_config(given)
    print(f"{headline(resolve(given), summary)}\n{summary['train_seconds']:.1f} s of training; {shown(folder)}")
    if pictures := figures(folder, "learning_curve.png"):
        print(pictures)
    return 0 if summary["status"] == "ok" else 1


if __name__ == "__main__":
    run_main(main)
