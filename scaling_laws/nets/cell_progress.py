"""How far one training run has come, kept in a file where it takes long."""

import time
from pathlib import Path

import torch
from torch import Tensor

from common.errors import BadInput
from common.files import load_checkpoint, save_checkpoint
from nets.flat_adam import Adam

CHECKPOINT_SECONDS = 30.0


class CellProgress:
    """The next `step` of a run of K nets, the seconds it has trained, and `late`, (K,), the sum of its late losses.

    `tested` are the tests on the way so far, each (loss and accuracy, K).

    Saved every CHECKPOINT_SECONDS in the file `path`, with the optimizer, its weights and the random numbers of
    dropout: a run that finds its file goes on from there to the same numbers. Nothing is kept where `path` is None.
    """

    def __init__(self, path: Path | None, optimizer: Adam, members: int):
        self.path, self.optimizer = path, optimizer
        self.step, self._before = 0, 0.0
        self.late = torch.zeros(members, device=optimizer.weights.device)
        self.tested: list[Tensor] = []
        if path is not None and path.exists():
            self._resume(path)
        self._started = self._saved = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Spent on training, before a stop too."""
        return self._before + time.perf_counter() - self._started

    def save(self, step: int) -> None:
        """Keep the state before `step` where that is due."""
        if self.path is None or time.perf_counter() - self._saved <= CHECKPOINT_SECONDS:
            return
        self._saved = time.perf_counter()
        state = {"step": step, "seconds": self.seconds, "late": self.late.cpu(), "rng": torch.get_rng_state()}
        state["tested"] = list(self.tested)
        save_checkpoint(self.path, {**state, "adam": self.optimizer.state()})

    def _resume(self, path: Path) -> None:
        try:
            state = load_checkpoint(path)
        except BadInput:  # damaged since it was written: the run starts again
            path.unlink()
            return
        self.optimizer.load(state["adam"])
        torch.set_rng_state(state["rng"])
        self.step, self._before = state["step"], state["seconds"]
        self.late = state["late"].to(self.late.device)
        self.tested = list(state["tested"])
