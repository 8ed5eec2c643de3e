"""The net of the study: two convolutions, a pool, a linear head. One number, the width, sets its size.

    image (1, 28, 28) -> conv 3x3, stride 2 (w, 14, 14) -> ReLU -> conv 3x3 (2w, 14, 14) -> max-pool 2 (2w, 7, 7)
    -> ReLU -> linear (10)

Why this one: among the nets tried at equal training compute, each with its learning rate searched up to 0.05, it had
the lowest loss (results/reference/scaling_laws/tuning/net.csv). A net that averages over all positions keeps the ratio
of multiply-adds M to parameters N constant, but learns more slowly. Here M = k N^p with p near 1.7, fitted from the
widths of the sweep (`macs_law` in laws/parametric.py), and the formula of the optimum takes p into account.

One `ConvNet` holds `members` independent nets of that width, side by side as groups of its convolutions: a single tiny
net is bound by the overhead of each step, three together cost little more than one.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10


class ConvNet(nn.Module):
    """K = `members` nets of `width` w that share nothing: (B, K, 28, 28) images -> (K, B, 10) logits."""

    def __init__(self, width: int, members: int = 1, dropout: float = 0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(members, members * width, 3, stride=2, padding=1, groups=members)
        self.conv2 = nn.Conv2d(members * width, members * 2 * width, 3, padding=1, groups=members)
        self.head_weight = nn.Parameter(torch.empty(members, CLASSES, 2 * width * 7 * 7))
        self.head_bias = nn.Parameter(torch.zeros(members, 1, CLASSES))
        self.members, self.dropout = members, dropout

    @torch.no_grad()
    def init_weights(self, generators: Sequence[torch.Generator]) -> None:
        """One generator per member. He et al. 2015, eq. 10: normal of variance 2 / fan_in, head 1 / fan_in; biases 0."""
        for k, generator in enumerate(generators):
            for layer in (self.conv1, self.conv2):
                own = layer.weight.unflatten(0, (self.members, -1))[k]  # (channels out, channels in, 3, 3)
                own.copy_(torch.randn(own.shape, generator=generator) * math.sqrt(2 / own[0].numel()))
            own = self.head_weight[k]
            own.copy_(torch.randn(own.shape, generator=generator) * math.sqrt(1 / own[0].numel()))
        for bias in (self.conv1.bias, self.conv2.bias, self.head_bias):
            assert bias is not None
            bias.zero_()

    def place(self, device: torch.device) -> "ConvNet":
        """Move to a device, on the CPU in the memory format that its convolutions are fastest in."""
        fastest = torch.channels_last if device.type == "cpu" else torch.contiguous_format
        return self.to(device, memory_format=fastest)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Member k sees channel k of the images, and gives row k of the logits."""
        x = F.relu(self.conv1(x))  # (B, K, 28, 28) -> (B, Kw, 14, 14)
        # ReLU after the pool gives the same numbers as before it, for a quarter of the work.
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # (B, 2Kw, 7, 7)
        x = x.reshape(len(x), self.members, -1).transpose(0, 1)  # (K, B, 98w)
        x = F.dropout(x, self.dropout, self.training)
        return torch.baddbmm(self.head_bias, x, self.head_weight.transpose(1, 2))  # (K, B, 10)
