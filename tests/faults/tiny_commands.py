"""The scripts with settings of a second or two, the places where they run, and what can be damaged of theirs."""

import os
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from faults.warm_start import Server, Started
from synthetic_mnist import write_mnist

ROOT = Path(__file__).resolve().parents[2]
WORDS = "the quick brown fox jumps over lazy dogs and cats while seven kings sing loud songs of war".split()
DECODER = "--layers 1 --heads 2 --width 16 --batch 4"
SLOW_CARTPOLE = """
import time
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

class Slow(CartPoleEnv):
    def step(self, action):
        time.sleep(0.002)
        return super().step(action)

gymnasium.register("Slow-v0", entry_point=Slow, max_episode_steps=20)
"""


@dataclass(frozen=True)
class Script:
    """A command, `name` of its folder included, whose `other` flags ask for other numbers under that name."""

    key: str
    file: str
    flags: str
    other: str = "--seed 1"
    workers: bool = False
    workers_write: bool = True
    """whether they write files, by which the moment of a signal is chosen"""
    cores: int = 1
    code: str = ""
    """a file into which code is put, that loading must not run"""
    unfinished: tuple[str, ...] = ()
    """files of a run that was stopped, each damaged in turn, from the working folder: * is any name"""
    finished: tuple[str, ...] = ()
    """files of a run that has ended"""
    asks_plan: bool = False
    """the number of steps is measured: numbers are compared with those of a rerun by its plan"""
    only: tuple[str, ...] = ()
    """the faults that are tried; default: all that there are for it"""
    save_seconds: float = 0.05
    """between checkpoints"""

    @property
    def project(self) -> str:
        return self.file.split("/")[0]

    def folder(self, name: str = "a") -> str:
        """Of its run, from the working folder."""
        return f"results/{self.project}/{name}"

    def command(self, name: str = "a", more: str = "") -> list[str]:
        """To be run in a working folder of `make_place`."""
        words = f"--results-dir results --name {name} {self.flags} {more}".split()
        return [sys.executable, str(ROOT / self.file), *words]


SERVER = Server()
RUN = "results/transformers/a/"
CELLS = "results/scaling_laws/cells/*/"
SCRIPTS = {
    script.key: script
    for script in (
        Script(
            "sweep",
            "scaling_laws/sweep.py",
            "--budgets 6e7 --widths 1 2 3 --seeds 2 --min-samples 40 --row-widths 2 --row-halvings 7"
            " --column-widths 1 2 3 --column-halvings 7 --workers 2",
            workers=True,
            cores=2,
            code=CELLS + "*.pt",
            unfinished=(
                *("results/scaling_laws/a/config.json", "results/scaling_laws/a/speed/*.json"),
                *(CELLS + "*.json", CELLS + "*.pt", "cache/*/copy_*.npy", "cache/*/[pt][!y]*_images.npy"),
                *("cache/*/[pt][!y]*_labels.npy", "cache/*/made/*.json", "cache/*/*.crc32"),
            ),
            finished=("results/scaling_laws/a/summary.json", "results/scaling_laws/a/runs.csv", CELLS + "*.json"),
        ),
        Script(
            "train",
            "transformers/train.py",
            f"--task text --text t.txt {DECODER} --context 16 --steps 400 --dropout 0.1",
            code=RUN + "checkpoint.pt",
            unfinished=tuple(RUN + name for name in ("config.json", "metrics.csv", "checkpoint.pt", "anchors.json")),
            finished=tuple(RUN + name for name in ("summary.json", "metrics.csv", "checkpoint.pt")),
        ),
        Script(
            "minutes",
            "transformers/train.py",
            f"--task repeat --length 8 --vocab 32 {DECODER} --preset quick --minutes 0.1",
            code=RUN + "plan.json",
            unfinished=tuple(RUN + name for name in ("plan.json", "metrics.csv", "checkpoint.pt")),
            asks_plan=True,
            only=("SIGKILL of the parent",),
        ),
        Script(
            "noise",
            "transformers/noise_scale.py",
            "--task ascending --preset quick --batches 4 16 64 --goals 2.5 1.5 --max-tokens 3e4 --workers 2",
            workers=True,
            cores=2,
            code=RUN + "cells/*.partial",
            unfinished=tuple(RUN + name for name in ("config.json", "cells/*.json", "cells/*.partial")),
            finished=tuple(RUN + name for name in ("summary.json", "fits.json", "cells/*.json")),
        ),
        Script(
            "vpg",
            "rl/vpg.py",
            "--total-steps 6144 --num-envs 4 --horizon 16 --eval-episodes 4 --final-episodes 4 --eval-every 512",
            code="results/rl/a/checkpoint.pt",
            unfinished=tuple(f"results/rl/a/{name}" for name in ("config.json", "metrics.csv", "checkpoint.pt")),
            finished=tuple(f"results/rl/a/{name}" for name in ("summary.json", "metrics.csv", "checkpoint.pt")),
        ),
        Script(  # its environments are in processes of their own; they cannot be saved, so neither is the run
            "processes",
            "rl/vpg.py",
            "--env slow_cartpole:Slow-v0 --no-anneal --total-steps 1024 --num-envs 2 --horizon 16 --eval-episodes 2"
            " --final-episodes 2",
            workers=True,
            workers_write=False,
            cores=2,
            only=("SIGKILL of the parent", "SIGKILL of a worker"),
            save_seconds=1e9,
        ),
        Script(
            "compare",
            "rl/compare.py",
            "--algos vpg --seeds 3 --total-steps 3072 --workers 2",
            other="--first-seed 1",
            workers=True,
            cores=2,
            code="results/rl/C*/checkpoint.pt",
            unfinished=(
                *("results/rl/a/config.json", "results/rl/a/runs/*.json", "results/rl/C*/summary.json"),
                *("results/rl/C*/checkpoint.pt", "results/rl/C*/metrics.csv", "results/rl/C*/config.json"),
            ),
            finished=tuple(f"results/rl/a/{name}" for name in ("summary.json", "runs.csv", "runs/*.json")),
        ),
    )
}


def make_place(place: Path) -> Path:
    """A working folder with a text and with digits."""
    place.mkdir(parents=True)
    lines = (" ".join(random.Random(line).choices(WORDS, k=6)) for line in range(150))
    (place / "t.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_mnist(place / "data")
    (place / "slow_cartpole.py").write_text(SLOW_CARTPOLE, encoding="utf-8")
    return place


def copy_place(place: Path, to: Path) -> Path:
    """The same folder again, with times as they were."""
    shutil.copytree(place, to, symlinks=True)
    return to


def environment(script: Script, place: Path, fault: str = "") -> dict[str, str]:
    """Of a command: its data and its cache are in its working folder, whose name no file need remember."""
    preload = str(Path(__file__).resolve().parent / "preload")
    paths = [preload, str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"REPLICATIONS_DATA": "data", "REPLICATIONS_CACHE": "cache", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    own |= {"PYTHONPATH": os.pathsep.join(paths)}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    settings = {"FAULT_CORES": str(script.cores), "FAULT_SAVE_SECONDS": str(script.save_seconds), "FAULT": fault}
    return {**kept, **own, **settings}


def start(script: Script, place: Path, log: Path, fault: str = "", name: str = "a", more: str = "") -> Started:
    """The command as the leader of a group of its own; what it says goes to `log`.out and `log`.err."""
    command = script.command(name, more)
    return SERVER.start(command, place, environment(script, place, fault), f"{log}.out", f"{log}.err")
