"""Procgen: the adapter beside the raw engine, and training beside what its network allows. Run by hand, quietly:

    python tests/benchmarks/procgen_speed.py

1. Frames per second of the engine called directly and through `envs.Streams`, with the same random actions.
2. The ceiling of training: a frame costs its network a forward pass to act, in batches of --num-envs, and a forward and a
   backward pass to learn, in the parts that vpg.py uses; environment, sampling, advantages and optimiser cost nothing.
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

import vpg
from common.device import choose_device, configure_cpu, keep_freed_memory
from common.run import available_cores, write_csv
from envs import Streams, make_streams
from gradients import IMAGES_AT_ONCE, Batch, Weights, chunked_gradient, vpg_loss
from procgen_env import ACTIONS, ProcgenEngine

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


def passes(trainer: vpg.Trainer) -> tuple[Callable[[], int], Callable[[], int]]:
    """The network's own passes: acting, and learning."""
    model, config = trainer.model, trainer.config
    n, m = config.num_envs or 1, IMAGES_AT_ONCE
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (m, 64, 64, 3), generator=random, dtype=torch.uint8).to(trainer.device)
    actions = torch.randint(ACTIONS, (m,), generator=random).to(trainer.device)
    numbers = torch.randn(2, m, generator=random).to(trainer.device)
    with torch.no_grad():
        head = model.head(images)
        log_prob = model.policy.log_prob(head, actions)
    batch = Batch(images, actions, numbers[0], numbers[1], torch.zeros_like(actions), head, log_prob)
    weights = Weights(config.entropy or 0.0, config.value_weight or 0.0)

    @torch.no_grad()
    def act() -> int:
        model.head_and_value(images[:n]) if model.joint else model.head(images[:n])
        return n

    def learn() -> int:
        chunked_gradient(vpg_loss, model, batch, weights, m)
        return m

    return act, learn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="coinrun")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of a turn at the engine; others take up to eight times that"
    )
    options = parser.parse_args()
    configure_cpu(available_cores())
    keep_freed_memory()
    device, _ = choose_device("auto", tiny=False)
    config = vpg.resolve(vpg.Config(env=f"procgen:{options.game}"))
    n = config.num_envs or 1
    streams = make_streams(config.env, n, levels=config.levels or 0)
    streams.reset([0])
    actions = np.random.default_rng(0).integers(ACTIONS, size=(16, n)).astype(np.int32)
    trainer = vpg.Trainer(config, device)
    act, learn = passes(trainer)

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
            "acting passes": per_second(act, seconds),
            "learning passes": per_second(learn, 2 * seconds),
            "training": per_second(train, 8 * seconds),
        }
        rows += [{"round": i, "what": what, "frames_per_second": round(rate)} for what, rate in found.items()]
        print({what: round(rate) for what, rate in found.items()}, flush=True)
    streams.close()
    trainer.close()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    write_csv(OUT, rows)
    raw, ours, acting, learning, reached = (
        np.array([row["frames_per_second"] for row in rows if row["what"] == what]) for what in found
    )
    limit = 1 / (1 / acting + 1 / learning)
    median = statistics.median
    print(
        f"\n{config.env}, {n} games, {config.encoder}, {device}: adapter {median(ours):,.0f} of the engine's "
        f"{median(raw):,.0f} frames/s ({median(ours / raw):.0%}); training {median(reached):,.0f} of the network's "
        f"{median(limit):,.0f} ({median(reached / limit):.0%})"
    )


if __name__ == "__main__":
    main()
