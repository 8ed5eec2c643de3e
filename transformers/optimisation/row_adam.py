"""Adam for a table of which a step reads a few rows."""

from typing import Any

import torch
from torch import Tensor, nn

# A row that is read once moves by (1 - BETA2)^-0.5 = 5.8 times the rate: as far as Adam's (0.9, 0.95) carry it in the end.
BETA2, EPSILON = 0.97, 1e-10


class RowAdam:
    """v <- beta2 v + (1 - beta2) g^2; p <- p - lr g / (sqrt(v / (1 - beta2^t)) + eps): Adam with beta1 = 0.

    Kingma & Ba 2015, algorithm 1. Without momentum a row whose gradient is zero stays where it is, and its v only falls by
    beta2 a step, which is made up for when it is next read: so a step need not touch the other rows, exactly. `p` is
    (rows, width); a sparse gradient names the rows that were read, a dense one counts as all of them.
    """

    def __init__(self, p: nn.Parameter):
        self.p, self.steps = p, 0
        self.squares = torch.zeros_like(p)  # v, of each row as it was after the step in `updated`
        self.updated = torch.zeros(len(p), dtype=torch.int32, device=p.device)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update from the gradient in `.grad`."""
        g = self.p.grad
        assert g is not None
        self.steps += 1
        rows: Tensor | slice = slice(None)
        if g.is_sparse:
            g = g.coalesce()
            rows, g = g.indices()[0], g.values()
        decay = torch.pow(BETA2, (self.steps - self.updated[rows]).float())[:, None]
        v = self.squares[rows].mul_(decay).addcmul_(g, g, value=1 - BETA2)
        self.squares[rows], self.updated[rows] = v, self.steps
        self.p[rows] -= lr * g / ((v / (1 - BETA2**self.steps)).sqrt_() + EPSILON)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""
        return {"squares": self.squares, "updated": self.updated, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The state that `state_dict` gave for a table of the same shape."""
        self.squares.copy_(state["squares"])
        self.updated.copy_(state["updated"])
        self.steps = state["steps"]
