"""Adam, over all parameters of a net as one vector."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BETAS = (0.9, 0.99)  # runs of a few hundred steps: 0.999 would still remember the first gradients at the end


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1) over all parameters of a net as one vector.

    The parameters and their gradients become views into two flat tensors, so that a step is six operations, however
    many layers there are: `torch.optim.Adam` spends up to a quarter of a small net's step on getting to them.
    """

    def __init__(self, net: torch.nn.Module, betas: tuple[float, float] = BETAS, eps: float = 1e-8):
        parameters = list(net.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        self.betas, self.eps, self.steps = betas, eps, 0
        self.weights = parameters[0].new_zeros(sum(sizes), requires_grad=False)
        self.gradient, self.mean, self.square = (torch.zeros_like(self.weights) for _ in range(3))
        begin = 0
        for parameter, size in zip(parameters, sizes, strict=True):
            place = (parameter.size(), parameter.stride(), begin)  # a view keeps the layer's memory format
            view = self.weights.as_strided(*place)
            view.copy_(parameter.detach())
            parameter.data, parameter.grad = view, self.gradient.as_strided(*place)
            begin += size

    def rates(self, net: torch.nn.Module, lr: Sequence[float]) -> Tensor:
        """A learning rate for each weight, from one for each of the K nets side by side, in `net`'s order."""
        spread = torch.empty_like(self.weights)
        own = torch.tensor(lr, device=spread.device)
        for parameter in net.parameters():  # the members are the outermost index of every layer
            view = spread.as_strided(parameter.size(), parameter.stride(), parameter.storage_offset())
            view.unflatten(0, (len(lr), -1)).copy_(own.view(-1, *[1] * view.dim()))
        return spread

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """One update from the gradients that backward() has added up, which are then zero again.

        `lr` is one number, or one for each weight.
        """
        self.steps += 1
        first, second = self.betas
        self.mean.lerp_(self.gradient, 1 - first)
        self.square.mul_(second).addcmul_(self.gradient, self.gradient, value=1 - second)
        spread = self.square.sqrt().div_(math.sqrt(1 - second**self.steps)).add_(self.eps)
        if isinstance(lr, Tensor):
            self.weights.sub_(self.mean.div(spread).mul_(lr).div_(1 - first**self.steps))
        else:
            self.weights.addcdiv_(self.mean, spread, value=-lr / (1 - first**self.steps))
        self.gradient.zero_()

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs, the weights included."""
        return {"weights": self.weights, "mean": self.mean, "square": self.square, "steps": self.steps}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        for name in ("weights", "mean", "square"):
            getattr(self, name).copy_(state[name])
        self.steps = state["steps"]
