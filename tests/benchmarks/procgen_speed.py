"""Procgen: the adapter beside the raw engine, and training beside what its network allows. Run by hand, quietly:

    python tests/benchmarks/procgen_speed.py

1. Frames per second of the engine called directly and through `Streams`, with the same random actions.
2. The ceiling of training: the forward passes to act and the forward and backward passes to learn, or of one minibatch the
   backward passes alone; environment, sampling, advantages, losses and optimiser cost nothing.
3. vpg.py's own updates with the recipe.
All are measured in short turns, round after round, on all cores, since a machine's speed changes by more in a minute than
what is compared here differs; medians of the rounds, and of the ratios within them. Writes
results/reference/rl/procgen/speed.csv.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "rl"))

from common.device import choose_device, configure_cpu, keep_freed_memory
from common.files import write_csv
from common.provenance import available_cores
from policy_networks.actor_critic import IMAGES_AT_ONCE
from rl_settings.vpg_settings import Config, resolve
from vector_environments.make_streams import make_streams
from vector_environments.procgen_engine import ACTIONS, ProcgenEngine
from vector_environments.streams import Streams
from vpg_learner.policy_step_and_value_fit import groups_to_keep
from vpg_learner.vpg_trainer import Trainer

OUT = ROOT / "results" / "reference" / "rl" / "procgen" / "speed.csv"


def per_second(work: Callable[[], int], seconds: float) -> float:
    """Frames per second of `work`, which returns how many it did."""
    work()
    frames, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        frames += work()
    return frames / (time.perf_counter() - start)


def raw_engine(streams: Streams, actions: np.ndarray) -> Callable[[], int]:
    """The engine that `streams` holds, without the adapter."""
    assert isinstance(streams.envs, ProcgenEngine)
    engine: Any = streams.envs._engine

    def work() -> int:
        for row in actions:
            engine.act({"action": row})
            engine.observe()
        return actions.size

    return work


def adapter(streams: Streams, actions: np.ndarray) -> Callable[[], int]:
    """The same through the adapter."""

    def work() -> int:
        for row in actions:
            streams.step(row)
        return actions.size

    return work


def passes(trainer: Trainer) -> Callable[[], int]:
    """The network's own passes, those to act and those to learn, on as many images at once as in training."""
    model, config = trainer.model, trainer.settings
    n, m = config.num_envs, IMAGES_AT_ONCE
    groups, parameters = groups_to_keep(config, model), model.actor_parameters()
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (m, 64, 64, 3), generator=random, dtype=torch.uint8).to(trainer.device)

    def kept() -> int:
        """Acting keeps what learning needs: a forward and a backward pass a frame."""
        steps = [[model.head_and_value(part) for part in images[:n].chunk(groups)] for _ in range(config.horizon)]
        for group in zip(*steps, strict=True):
            torch.autograd.grad(sum((head.sum() + value.sum() for head, value in group), torch.zeros(())), parameters)
        return n * len(steps)

    def twice() -> int:
        """A forward pass to act, and a forward and a backward pass to learn."""
        with torch.no_grad():
            for part in images.split(n):
                model.head_and_value(part)
        head, value = model.head_and_value(images)
        torch.autograd.grad(head.sum() + value.sum(), parameters)
        return m

    return kept if groups else twice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="coinrun")
    parser.add_argument("--minibatches", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of a turn at the engine; others take up to eight times that"
    )
    options = parser.parse_args()
    configure_cpu(available_cores())
    keep_freed_memory()
    device, _ = choose_device("auto", tiny=False)
    config = resolve(Config(env=f"procgen:{options.game}", minibatches=options.minibatches))
    n = config.num_envs
    streams = make_streams(config.env, n, levels=config.levels)
    streams.reset([0])
    actions = np.random.default_rng(0).integers(ACTIONS, size=(16, n)).astype(np.int32)
    trainer = Trainer(config, device)
    network = passes(trainer)

    def train() -> int:
        before = trainer.step
        trainer.update()
        return trainer.step - before

    rows: list[dict[str, Any]] = []
    seconds = options.seconds
    for i in range(options.rounds):
        found = {
            "raw engine": per_second(raw_engine(streams, actions), seconds),
            "adapter": per_second(adapter(streams, actions), seconds),
            "network": per_second(network, 4 * seconds),
            "training": per_second(train, 8 * seconds),
        }
        rows += [{"round": i, "what": what, "frames_per_second": round(rate)} for what, rate in found.items()]
        print({what: round(rate) for what, rate in found.items()}, flush=True)
    streams.close()
    trainer.close()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    write_csv(OUT, rows)
    raw, ours, limit, reached = (
        np.array([row["frames_per_second"] for row in rows if row["what"] == what])
        for what in ("raw engine", "adapter", "network", "training")
    )
    median = statistics.median
    print(
        f"\n{config.env}, {n} games, {config.encoder}, {device}: adapter {median(ours):,.0f} of the engine's "
        f"{median(raw):,.0f} frames/s ({median(ours / raw):.0%}); training {median(reached):,.0f} of the network's "
        f"{median(limit):,.0f} ({median(reached / limit):.0%})"
    )


if __name__ == "__main__":
    main()
