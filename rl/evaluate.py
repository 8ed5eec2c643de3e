"""How good a trained policy is, on episodes that training has never seen.

    python rl/evaluate.py                                   the latest run, 100 episodes sampled and 100 greedy
    python rl/evaluate.py --run results/rl/NAME --record walk.gif

Prints JSON: the mean return of the policy as it is and of its greedy version, each with a 95% bootstrap interval over
episodes. Every environment plays the same number of episodes, so that short ones do not count too much.
"""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws the frames, on machines without a screen too

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from PIL import Image

from common.cli import parse, run_main, shown
from common.device import compute_dtype, configure_cpu
from common.errors import BadInput
from common.files import atomic_save, load_checkpoint
from common.provenance import available_cores, latest_run, results_folder
from policy_networks.actor_critic import ActorCritic
from rl_settings.procgen_games import is_procgen, normalised_return
from rl_settings.seed_purposes import EVALUATE, seeds
from vector_environments.make_streams import make_streams, needs_module, no_time_limit
from vector_environments.streams import Streams
from vpg_learner.playing import AT_ONCE, interval, play
from vpg_learner.running_statistics import ObservationScaler

GIF_WIDTH, GIF_FRAMES, GIF_MILLISECONDS, GIF_BYTES = 240, 150, 60, 1_000_000


@dataclass(frozen=True)
class Config:
    run: str | None = None
    """folder of a run of vpg.py; default: the latest"""
    results_dir: str | None = None
    """where the latest run is looked for; default: results/ in the repository"""
    env: str | None = None
    """the run's environment, where that is a `module:Id`: no module is imported that only a checkpoint names"""
    episodes: int = 100
    """of each kind, sampled and greedy; rounded up to as many of each environment"""
    seed: int = 0
    """of the episodes; none of them is an episode of training or of its evaluations"""
    split: Literal["train", "test"] = "train"
    """Procgen: the levels of training, or all levels"""
    record: str | None = None
    """also write one greedy episode to this GIF"""


@dataclass(frozen=True)
class Trained:
    """A policy and what it needs to act in `env`; Procgen's training levels, 0 elsewhere."""

    env: str
    levels: int
    model: ActorCritic
    scaler: ObservationScaler | None
    step: int


def load_run(folder: Path, named: str | None = None) -> Trained:
    """The policy that vpg.py left in `folder`; BadInput where there is none.

    An environment that stands in a module of its own is imported only where the user has `named` it.
    """
    state = load_checkpoint(folder / "checkpoint.pt")
    try:
        arguments = state["arguments"]
        env, hidden, levels = str(arguments["env"]), tuple(arguments["hidden"]), int(arguments["levels"] or 0)
        image = {"encoder": arguments["encoder"], "critic": arguments["critic"]}
        step, weights, scaling = int(state["step"]), state["model"], state["collector"].get("scaler")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadInput(f"{folder / 'checkpoint.pt'} is not a checkpoint of rl/vpg.py") from None
    if named not in (None, env):
        raise BadInput(f"--env {named}: this run is of {env}")
    if needs_module(env) and named is None:
        raise BadInput(f"this run is of {env}, whose module would be imported: if you trust it, say --env {env}")
    streams = make_streams(env, 1)
    shape, actions = streams.encoder.shape, streams.action_space
    streams.close()
    model = ActorCritic(shape, actions, hidden, **(image if len(shape) == 3 else {}))
    model.bf16 = bool(arguments.get("bf16")) and compute_dtype(torch.device("cpu"))[0] is torch.bfloat16
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise BadInput(f"{folder / 'checkpoint.pt'} does not fit {env} as it is installed here") from None
    scaler = ObservationScaler(shape) if scaling else None
    if scaler:
        scaler.load(scaling)
    return Trained(env, levels, model, scaler, step)


def evaluate(trained: Trained, episodes: int, seed: int, greedy: bool, levels: int) -> dict[str, Any]:
    """Mean return, its interval, how many episodes that was, and for Procgen what else its figures need."""
    n = min(AT_ONCE, episodes)
    streams = make_streams(trained.env, n, levels=levels, limited=True)
    own = seeds(seed, n, EVALUATE, int(greedy))
    returns, successes = (
        x.ravel() for x in play(trained.model, streams, trained.scaler, -(-episodes // n), own, greedy)
    )
    streams.close()
    low, high = interval(returns)
    found = {"mean": float(returns.mean()), "lo95": low, "hi95": high, "episodes": len(returns)}
    if is_procgen(trained.env):
        found |= {"normalised": normalised_return(trained.env, found["mean"]), "success": float(successes.mean())}
    return found


def record(trained: Trained, seed: int, levels: int, path: Path) -> float:
    """Write one greedy episode to a GIF and give its return. Long ones are thinned out to GIF_FRAMES frames."""
    streams: Streams = make_streams(trained.env, 1, render_mode="rgb_array", levels=levels, limited=True)
    frames: list[Image.Image] = []
    seen, every = 0, 1

    def keep() -> None:
        nonlocal seen, every
        if seen % every == 0:
            try:
                (frame,) = streams.envs.render()  # type: ignore[misc]
            except (NotImplementedError, TypeError, gymnasium.error.Error):
                raise BadInput(f"--record: {trained.env} gives no pictures") from None
            picture = Image.fromarray(np.asarray(frame))
            small = picture.resize((GIF_WIDTH, round(GIF_WIDTH * picture.height / picture.width)))
            frames.append(small.quantize(32, dither=Image.Dither.NONE))
            if len(frames) > GIF_FRAMES:
                del frames[1::2]
                every *= 2
        seen += 1

    returns, _ = play(trained.model, streams, trained.scaler, 1, seeds(seed, 1, EVALUATE, 1), True, keep)
    streams.close()
    options = {"save_all": True, "duration": GIF_MILLISECONDS, "loop": 0, "optimize": True}
    while True:  # pictures full of detail need more bytes: fewer of them
        file = io.BytesIO()
        frames[0].save(file, "GIF", append_images=frames[1:], **options)
        if file.tell() <= GIF_BYTES or len(frames) == 1:
            break
        del frames[1::2]
    atomic_save(path, lambda target: target.write(file.getvalue()))
    return float(returns[0, 0])


def main() -> int:
    """Load, play, print."""
    config = parse(Config, {}, description=__doc__ or "")
    if config.episodes < 1:
        raise BadInput(f"--episodes must be at least 1, not {config.episodes}")
    if not 0 <= config.seed < 1 << 63:
        raise BadInput(f"--seed must not be negative or above 2^63 - 1, and it is {config.seed}")
    if config.record is not None and not config.record.lower().endswith(".gif"):
        raise BadInput(f"--record {config.record}: only .gif can be written")
    configure_cpu(1)
    torch.manual_seed(0)
    folder = Path(config.run) if config.run else latest_run(results_folder(config.results_dir, "rl"), "checkpoint.pt")
    trained = load_run(folder, config.env)
    if trained.model.image:
        configure_cpu(available_cores())
    if config.split == "test" and not is_procgen(trained.env):
        raise BadInput(f"--split test is for Procgen, whose levels are numbered, and this run is of {trained.env}")
    levels = 0 if config.split == "test" else trained.levels
    print(f"{shown(folder)}: {trained.env}, {trained.step:,} steps", file=sys.stderr)
    if told := no_time_limit(trained.env):
        print(f"NOTE: {told}", file=sys.stderr)
    result = {
        "env": trained.env,
        "step": trained.step,
        **({"split": config.split} if is_procgen(trained.env) else {}),
        "sampled": evaluate(trained, config.episodes, config.seed, False, levels),
        "greedy": evaluate(trained, config.episodes, config.seed, True, levels),
    }
    if config.record:
        result["recorded_return"] = record(trained, config.seed, levels, Path(config.record))
    print(json.dumps(result, indent=1))
    if config.record:
        print(f"open {shown(Path(config.record))}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_main(main)
