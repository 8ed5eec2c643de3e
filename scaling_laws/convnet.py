"""The net of the study: two convolutions, a pool, a linear head. One number, the width, sets its size.

    image (1, 28, 28) -> conv 3x3, stride 2 (w, 14, 14) -> ReLU -> conv 3x3 (2w, 14, 14) -> max-pool 2 (2w, 7, 7)
    -> ReLU -> linear (10)

Why this one: of seven nets tried at equal multiply-adds, each with its learning rate searched up to 0.05, it had the
lowest loss at the budgets of the default sweep (README, "Choice of the net"). Nets that pool over all positions keep
the ratio of multiply-adds M to parameters N constant, but learn slower. Here M = k N^p with p near 1.7, fitted from
the widths of the sweep (`laws.macs_law`), and the optimum's formula takes p into account.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10


class ConvNet(nn.Module):
    """`width` channels in the first convolution, twice as many in the second; no normalisation layer."""

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width * 7 * 7, CLASSES)
        self.dropout = dropout
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def init_weights(self, generator: torch.Generator) -> None:
        """He et al. 2015, eq. 10: standard deviation sqrt(2 / fan_in), for the head sqrt(1 / fan_in); biases 0."""
        for layer, gain in ((self.conv1, 2.0), (self.conv2, 2.0), (self.head, 1.0)):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=math.sqrt(gain / fan_in), generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))  # (B, 1, 28, 28) -> (B, w, 14, 14)
        # ReLU after the pool gives the same numbers as before it, for a quarter of the work.
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # (B, 2w, 7, 7)
        x = F.dropout(x.flatten(1), self.dropout, self.training)  # (B, 98w)
        return self.head(x)  # (B, 10)


def n_params(width: int) -> int:
    """Weights and biases: (9 + 1) w + (9w + 1) 2w + (98w + 1) 10."""
    return 10 * width + (9 * width + 1) * 2 * width + (98 * width + 1) * CLASSES


def macs_per_image(width: int) -> int:
    """Multiply-adds of one forward pass: per convolution 9 x channels in x channels out x positions, plus the head's.

    Biases, ReLU and pooling are left out, as `torch.utils.flop_counter` does (it counts two per multiply-add).
    """
    return 9 * width * 14 * 14 + 9 * width * 2 * width * 14 * 14 + 98 * width * CLASSES


def training_flops(width: int, n_samples: int) -> int:
    """6 x multiply-adds x samples: two operations per multiply-add; the backward pass costs twice the forward one.

    Kaplan et al. 2020, section 2.1, with the multiply-adds of the convolutions in the place of the parameters.
    """
    return 6 * macs_per_image(width) * n_samples
