"""Procgen: what PPO's passes cost. Training at one thread, as a worker of compare.py has it, by turns. Run by hand, quietly:

    python tests/benchmarks/procgen_passes.py impala-half
    python tests/benchmarks/procgen_passes.py impala

A turn is one update of each: the single pass in 16 and in 64 minibatches, and PPO, with their recipes' games and steps. Adds
one row per turn to results/reference/rl/procgen/passes.csv, and prints medians of the turns' ratios.
"""

import argparse
import statistics
from typing import Any, get_args

from procgen_runs import REFERENCE, read_rows, replaced

from common.device import choose_device, configure_cpu, keep_freed_memory
from common.files import write_csv
from rl_settings.vpg_choices import Encoder
from rl_settings.vpg_settings import Config, resolve
from vpg_learner.vpg_trainer import Trainer

OUT = REFERENCE / "passes.csv"
METHODS: dict[str, dict[str, Any]] = {
    "one pass in 16": {"method": "one-epoch", "minibatches": 16},
    "one pass in 64": {"method": "one-epoch", "minibatches": 64},
    "ppo": {"method": "ppo"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", choices=get_args(Encoder))
    parser.add_argument("--game", default="coinrun")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    configure_cpu(1)
    keep_freed_memory()
    device, _ = choose_device("cpu", tiny=False)
    trainers = {}
    for name, settings in METHODS.items():
        config = Config(env=f"procgen:{options.game}", encoder=options.encoder, **settings)
        trainers[name] = Trainer(resolve(config), device)
    turns: list[dict[str, Any]] = []
    for i in range(options.turns):
        rates = {name: round(trainer.update()["steps_per_second"]) for name, trainer in trainers.items()}
        turns.append({"encoder": options.encoder, "turn": i, **rates})
        print(turns[-1], flush=True)
    write_csv(OUT, replaced(read_rows(OUT), turns, ("encoder",)))
    for trainer in trainers.values():
        trainer.close()
    for name in (name for name in METHODS if name != "ppo"):
        ratio = statistics.median(turn[name] / turn["ppo"] for turn in turns)
        print(f"{name}: {ratio:.2f} times PPO's frames per second")


if __name__ == "__main__":
    main()
